// Measures report.html and the pages of `bench view` in Chromium; run.py runs it and puts its rows
// into results.json.
//
//   node benches/report/browser.mjs <the bench program> <file for the rows>
//
// Makes two reports through the program itself, with scripted models: 5,000 and 20,000 trials of
// eight arms, whose answers, questions and passages are words drawn at random. The third page is that
// of the committed quickstart.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { createServer } from "node:http";
import { launch } from "chrome-launcher";
import lighthouse from "lighthouse";
import { chromium } from "playwright-core";

const bench = resolve(process.argv[2] ?? "target/release/bench");
const out = resolve(process.argv[3] ?? "browser.json");
const quickstart = resolve(dirname(fileURLToPath(import.meta.url)), "../../reports/quickstart");
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const ARMS = 8, ROUNDS = 5;
const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];

// A linear congruential generator: the same words everywhere.
let state = 1n;
const random = (n) => {
  state = (state * 6364136223846793005n + 1442695040888963407n) & ((1n << 64n) - 1n);
  return Number(state >> 33n) % n;
};
const words = (n) => Array.from({ length: n }, () => random(5000).toString(36) + "aeiou"[random(5)]).join(" ");

const make = (folder, trials) => {
  const samples = trials / ARMS;
  const rules = Array.from({ length: 200 }, (_, at) => `        - { when: "case ${at} ", say: "${words(40)}" }`);
  const rows = [], passages = [], train = [];
  for (let at = 0; at < samples; at++) {
    const asked = `case ${at % 200} ${words(14)}`;
    rows.push(JSON.stringify({ id: `s${at}`, input: asked, reference: words(3), context_ids: [`d${at}`], meta: { kind: `k${at % 4}` } }));
    passages.push(JSON.stringify({ id: `d${at}`, title: words(3), text: `${asked} ${words(60)}` }));
  }
  for (let at = 0; at < 20; at++) train.push(JSON.stringify({ input: words(10), reference: words(3) }));
  writeFileSync(join(folder, "e.jsonl"), rows.join("\n"));
  writeFileSync(join(folder, "c.jsonl"), passages.join("\n"));
  writeFileSync(join(folder, "t.jsonl"), train.join("\n"));
  writeFileSync(join(folder, "x.yaml"), `version: 1
name: trials_${trials}
models:
  m:
    scripted:
      otherwise: ${words(30)}
      rules:
${rules.join("\n")}
embedder: hashing
eval_sets: [{ name: facts, path: e.jsonl, corpus: c.jsonl, train: t.jsonl, scorers: [contains, token_f1], slices: [kind] }]
arms:
  - { name: zero_shot, model: m, strategy: prompt }
${[1, 2, 3].map((n) => `  - { name: few_shot_${n}, model: m, strategy: { prompt: { num_fewshot: ${n} } } }`).join("\n")}
${[1, 2, 3, 4].map((n) => `  - { name: rag_${n}, model: m, strategy: { rag: { top_k: ${n}, retriever: bm25 } } }`).join("\n")}
compare: { baseline: zero_shot }
`);
  const run = () => execFileSync(bench, ["run", "x.yaml", "-j", "64"], { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
  run();
  return join(folder, "reports", `trials_${trials}`, "report.html");
};

const visit = async (browser, file) => {
  const page = await browser.newPage();
  page.setDefaultTimeout(120_000);
  await page.goto(pathToFileURL(file).href);
  await page.waitForSelector("#trials.is-ready");
  const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
  const ready = await page.evaluate(() => performance.now());
  // Each filter, from the event to the laid-out list.
  const filters = await page.evaluate(() => {
    const time = (id, value) => {
      const field = document.getElementById(id);
      const started = performance.now();
      field.value = value;
      field.dispatchEvent(new Event(id === "f-text" ? "input" : "change"));
      document.body.getBoundingClientRect();
      return performance.now() - started;
    };
    const steps = [["f-text", "a b"], ["f-text", ""], ["f-arm", "1"], ["f-outcome", "wrong"], ["f-against", "any"],
      ["f-slice", "0 1"], ["f-slice", ""], ["f-order", "disputed"], ["f-outcome", ""], ["f-against", ""], ["f-metric", "1"], ["f-text", "case 7"]];
    return steps.map(([id, value]) => time(id, value));
  });
  await page.close();
  return { paint, ready, filter: Math.max(...filters) };
};

const audited = async (address) => {
  const chrome = await launch({ chromePath: executablePath, chromeFlags: FLAGS });
  const { lhr } = await lighthouse(address, { port: chrome.port, onlyCategories: ["accessibility"], logLevel: "error" });
  chrome.kill();
  if (lhr.runtimeError) throw new Error(`${address}: ${lhr.runtimeError.message}`);
  for (const audit of Object.values(lhr.audits)) if (audit.score === 0) console.log(`lighthouse, ${address}: ${audit.title}`);
  return lhr.categories.accessibility.score * 100;
};

const accessibility = async (file) => {
  // Lighthouse wants http.
  const server = createServer((_, response) => response.setHeader("content-type", "text/html").end(readFileSync(file))).listen(0, "127.0.0.1");
  await once(server, "listening");
  const score = await audited(`http://127.0.0.1:${server.address().port}/`);
  server.close();
  return score;
};

// The index of `bench view`, and a run on it: the lower of both scores.
const viewed = async (reports) => {
  const child = spawn(bench, ["view", reports, "--listen", "127.0.0.1:0"], { stdio: ["ignore", "pipe", "inherit"] });
  try {
    const site = await new Promise((found, failed) => {
      let said = "";
      child.stdout.on("data", (part) => {
        said += part;
        const address = said.match(/http:\/\/[^/\s]+/);
        if (address) found(address[0]);
      });
      child.on("exit", () => failed(new Error(`bench view ended: ${said}`)));
    });
    const scores = [];
    for (const path of ["/", `/runs/${basename(quickstart)}/`]) scores.push(await audited(site + path));
    return Math.min(...scores);
  } finally {
    child.kill();
  }
};

const folder = mkdtempSync(join(tmpdir(), "bench-report-"));
const rows = [];
const put = (name, unit, value, floor, higher = false) => {
  rows.push({
    name, unit, value: Number(value.toPrecision(4)), peer: null, peer_value: null, floor, higher_is_better: higher,
    command: "python3 benches/report/run.py",
    machine: `${cpus().length} virtual cores (${cpus()[0].model.trim()}), no GPU, load average ${loadavg()[0].toFixed(1)}`,
    date: new Date().toISOString().slice(0, 10),
  });
  console.log(`${name}: ${value} ${unit} (floor ${floor})`);
};
try {
  const small = make(folder, 5000), large = make(folder, 20_000);
  const browser = await chromium.launch({ executablePath, args: FLAGS });
  await visit(browser, small);
  for (const [file, name] of [[small, "5,000 trials"], [large, "20,000 trials"]]) {
    const rounds = [];
    for (let round = 0; round < ROUNDS; round++) rounds.push(await visit(browser, file));
    const of = (key) => median(rounds.map((round) => round[key]));
    put(`report.html of ${name}: first contentful paint`, "ms", of("paint"), 1000);
    put(`report.html of ${name}: trials can be filtered`, "ms", of("ready"), null);
    put(`report.html of ${name}: the slowest filter`, "ms", of("filter"), 100);
    put(`report.html of ${name}: size`, "bytes", statSync(file).size, file === small ? 2_000_000 : null);
  }
  await browser.close();
  for (const [name, file] of [["of 5,000 trials", small], ["of the quickstart", join(quickstart, "report.html")]]) {
    put(`report.html ${name}: Lighthouse accessibility`, "of 100", await accessibility(file), 95, true);
  }
  put("bench view, index and report: Lighthouse accessibility", "of 100", await viewed(dirname(quickstart)), 95, true);
  writeFileSync(out, `${JSON.stringify(rows, null, 1)}\n`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
