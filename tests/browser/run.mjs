// What a person does with a report and with `bench view`, in a real Chromium.
//
//   node run.mjs REPORT_HTML SITE INJECTIONS_JSON SCREENS
//
// REPORT_HTML is a report's page; SITE is where `bench view` serves the reports `x` and
// `injections`, the second answered with the texts of INJECTIONS_JSON; pictures go to SCREENS.
// Ends with 1 and says what failed when something did.
import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { accessibility, open, page as newPage } from "./chromium.mjs";

const [reportFile, site, injectionsFile, screens] = process.argv.slice(2);
const report = pathToFileURL(reportFile).href;
const browser = await open();
await mkdir(screens, { recursive: true });
// A page that is not there is an error to the browser.
const MISSING = /Failed to load resource.* 404/;
let failed = 0;

const check = async (name, act, options, expected = /^$/) => {
  const { page, errors } = await newPage(browser, options);
  const started = Date.now();
  try {
    await act(page);
    assert.deepEqual(errors.filter((error) => !expected.test(error)), [], "the browser reports errors");
    console.log(`ok ${name} (${Date.now() - started} ms)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}: ${error.message}`);
    await page.screenshot({ path: `${screens}/failed-${failed}.png` }).catch(() => {});
  }
  await page.context().close();
};
const visit = async (page, address) => {
  await page.goto(address);
  await page.waitForSelector("#trials.is-ready");
};
const count = async (page) => Number((await page.textContent("#count")).split(" ")[0].replaceAll(",", ""));
const cells = (page, table, column) => table.locator(`tbody tr td:nth-child(${column})`).allTextContents();

await check("a table is sorted by a click, the other way by a second, and as before by a third", async (page) => {
  await visit(page, report);
  const table = page.locator("#set-1 table.sortable").first();
  const head = table.locator("thead th").nth(1);
  const before = await cells(page, table, 2);
  const sorted = before.toSorted((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  for (const [state, expect] of [["ascending", sorted], ["descending", sorted.toReversed()], [null, before]]) {
    await head.locator("button").click();
    assert.equal(await head.getAttribute("aria-sort"), state);
    assert.deepEqual(await cells(page, table, 2), expect);
  }
});

await check("trials are filtered by arm, outcome, disagreement, slice and text", async (page) => {
  await visit(page, report);
  const all = await count(page);
  assert.ok(all >= 12, `${all} samples`);
  await page.selectOption("#f-outcome", "wrong");
  await page.selectOption("#f-arm", { label: "zero_shot" });
  const wrong = await count(page);
  assert.ok(wrong > 0 && wrong < all, `${wrong} of ${all} are wrong`);
  await page.selectOption("#f-against", { label: "rag" });
  const against = await count(page);
  assert.ok(against <= wrong);
  await page.selectOption("#f-against", "");
  await page.selectOption("#f-slice", { index: 1 });
  const sliced = await count(page);
  assert.ok(sliced > 0 && sliced < wrong, `${sliced} in the slice`);
  await page.fill("#f-text", "no such text anywhere");
  assert.equal(await count(page), 0);
  await page.click("#filters button[type=reset]");
  await page.waitForFunction((all) => document.getElementById("count").textContent.startsWith(`${all} of`), all);
});

await check("the keyboard moves in the list, opens and closes", async (page) => {
  await visit(page, report);
  await page.locator("#samples .open").first().focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  const second = page.locator("#samples > li").nth(1);
  assert.equal(await second.locator(".open").getAttribute("aria-expanded"), "true");
  assert.ok(await second.locator("article").count() >= 2, "answers side by side");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Escape");
  assert.equal(await second.locator(".open").getAttribute("aria-expanded"), "false");
  assert.equal(await page.evaluate(() => document.activeElement.className), "open");
  await page.keyboard.press("End");
  assert.ok(await page.evaluate(() => document.activeElement.parentElement.nextElementSibling === null));
});

await check("two answers are compared word by word", async (page) => {
  await visit(page, report);
  await page.locator("#samples .open").first().click();
  const box = page.locator(".difference").first();
  await box.locator("summary").click();
  await box.locator("select").nth(1).selectOption({ label: "the right answer" });
  assert.ok(await box.locator("del").count() > 0 && await box.locator("ins").count() > 0);
  const [removed, added] = [await box.locator("pre").evaluate((pre) => [...pre.childNodes].filter((n) => n.nodeName !== "INS").map((n) => n.textContent).join("")),
    await box.locator("pre").evaluate((pre) => [...pre.childNodes].filter((n) => n.nodeName !== "DEL").map((n) => n.textContent).join(""))];
  assert.equal(removed, await page.locator("article pre").first().textContent());
  assert.equal(added, (await page.locator(".detail > dl dd").first().textContent()).split(" | ")[0]);
});

await check("the address keeps what is shown", async (page) => {
  await visit(page, report);
  await page.selectOption("#f-outcome", "wrong");
  await page.selectOption("#f-order", "disputed");
  await page.locator("#samples .open").nth(1).click();
  const shown = [await count(page), await page.locator(".is-open .id").textContent()];
  const address = page.url();
  await page.goto("about:blank");
  await visit(page, address);
  assert.deepEqual([await count(page), await page.locator(".is-open .id").textContent()], shown);
});

for (const colorScheme of ["light", "dark"]) {
  for (const width of [1200, 600]) {
    await check(`the report is accessible, ${colorScheme}, ${width} px`, async (page) => {
      await visit(page, report);
      await page.screenshot({ path: `${screens}/report-${colorScheme}-${width}.png`, fullPage: true });
      await page.locator("#samples .open").first().click();
      await page.locator(".difference summary").first().click();
      await page.evaluate(() => document.querySelectorAll("details").forEach((box) => { box.open = true; }));
      assert.deepEqual(await accessibility(page), []);
      await page.locator("#trials").screenshot({ path: `${screens}/trials-${colorScheme}-${width}.png` });
      const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(tooWide <= 0, `the page is ${tooWide} px wider than the window`);
    }, { colorScheme, viewport: { width, height: 900 } });
    await check(`the pages of bench view are accessible, ${colorScheme}, ${width} px`, async (page) => {
      for (const [name, path] of [["index", "/"], ["compare", "/compare?a=x&b=injections"], ["changes", "/compare?a=x&b=x"], ["live", "/runs/x/live"], ["failure", "/nowhere"]]) {
        await page.goto(site + path).catch(() => {});
        if (name === "index" || name === "live") await page.waitForSelector("#runs li");
        await page.screenshot({ path: `${screens}/view-${name}-${colorScheme}-${width}.png` });
        assert.deepEqual(await accessibility(page), [], name);
      }
      await visit(page, `${site}/runs/x/`);
      await page.locator("#samples .open").first().click();
      await page.locator(".difference summary").first().click();
      assert.deepEqual(await accessibility(page), [], "run");
      await page.locator("#trials").screenshot({ path: `${screens}/view-run-${colorScheme}-${width}.png` });
    }, { colorScheme, viewport: { width, height: 900 } }, MISSING);
  }
}

await check("on paper, tables are unfolded and opened trials are there", async (page) => {
  await visit(page, report);
  await page.locator("#samples .open").first().click();
  await page.emulateMedia({ media: "print" });
  await page.evaluate(() => dispatchEvent(new Event("beforeprint")));
  assert.equal(await page.locator("main section:not(#trials) details:not([open])").count(), 0);
  assert.equal(await page.locator("#samples > li:visible").count(), 1);
  assert.equal(await page.locator("#filters").isVisible(), false);
  await page.evaluate(() => dispatchEvent(new Event("afterprint")));
  assert.ok(await page.locator("main details:not([open])").count() > 0);
  await page.pdf({ path: `${screens}/report.pdf`, format: "A4" });
});

await check("the index leads to the report, and a run is told of", async (page) => {
  await page.goto(`${site}/`);
  await page.waitForSelector("#runs li.done");
  assert.match(await page.textContent("#runs"), /x is done/);
  await page.click("tbody a >> text=x");
  await page.waitForSelector("#trials.is-ready");
  assert.equal(new URL(page.url()).pathname, "/runs/x/");
});

await check("answers are graded, and the grades are there again", async (page) => {
  await visit(page, `${site}/runs/x/`);
  await page.fill("#grading input[type=text]", "Ann");
  await page.locator("#grading input[type=text]").blur();
  await page.locator("#samples .open").first().click();
  const kept = () => page.waitForResponse((response) => response.url().endsWith("/labels") && response.status() === 200);
  const press = async (button) => { const answer = kept(); await button.click(); await answer; };
  const first = page.locator("article").first();
  await press(first.getByRole("button", { name: "good" }));
  await press(first.getByRole("button", { name: "4 of 5" }));
  await press(first.getByRole("button", { name: "2 of 5" }));
  const second = page.locator("article").nth(1);
  await press(second.getByRole("button", { name: "bad" }));
  await press(second.getByRole("button", { name: "bad" }));
  await page.locator(".difference summary").first().click();
  await press(page.locator(".difference").getByRole("button", { name: "neither" }));
  await page.reload();
  await page.waitForSelector("#trials.is-ready");
  assert.match(await page.textContent("#grading"), /3 of your labels, 3 in all/);
  const pressed = await page.locator("article [aria-pressed=true]").evaluateAll((all) => all.map((button) => button.ariaLabel));
  assert.deepEqual(pressed, ["good", "2 of 5"]);
  await page.screenshot({ path: `${screens}/graded.png` });
});

await check("whoever grades blind sees no arm and no score", async (page) => {
  await visit(page, `${site}/runs/x/`);
  await page.check("#grading input[type=checkbox]");
  await page.waitForSelector("#trials.is-ready");
  await page.locator("#samples .open").first().click();
  const names = await page.locator("article h3 .name").allTextContents();
  assert.deepEqual(names, names.map((_, at) => `answer ${String.fromCharCode(65 + at)}`));
  assert.equal(await page.locator("#samples .chip:visible").count(), 0);
  const text = await page.locator("#samples").innerText();
  assert.ok(!/zero_shot|few_shot|lora/.test(text), text);
});

await check("every injection is text", async (page) => {
  const injections = JSON.parse(await readFile(injectionsFile, "utf8"));
  const acts = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;
  for (const address of [`${site}/runs/injections/`, pathToFileURL(reportFile.replace(/x(.)report.html$/, "injections$1report.html")).href]) {
    await visit(page, address);
    const rows = page.locator("#samples > li");
    assert.equal(await rows.count(), injections.length);
    for (let at = 0; at < injections.length; at++) {
      const row = rows.nth(at);
      const id = await row.locator(".id").textContent();
      const expect = injections[Number(id.slice(1))].replace(acts, "\ufffd");
      await row.locator(".open").click();
      assert.equal(await row.locator("article pre").first().textContent(), expect);
      await row.locator(".open").click();
    }
    assert.equal(await page.locator("img, iframe, form:not(#filters), base, meta[http-equiv=refresh]").count(), 0);
    assert.equal(await page.locator("body").isVisible(), true);
  }
  for (const path of ["/", "/compare?a=x&b=injections", "/runs/injections/live", "/%3Cscript%3Ealert(1)%3C/script%3E"]) {
    await page.goto(site + path).catch(() => {});
    assert.equal(await page.locator("img, iframe, base").count(), 0, path);
  }
}, {}, MISSING);

await browser.close();
console.log(failed === 0 ? "all passed" : `${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
