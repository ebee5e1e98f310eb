"use strict";
(() => {
  // Runs that go on, as the server tells of them. What models wrote is set as text, never as markup.
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children.flat().filter((child) => child !== null && child !== ""));
    return element;
  };
  const list = document.getElementById("runs");
  if (!list) return;
  const only = list.dataset.run;
  const connection = document.getElementById("connection");
  const STAGES = { pull: "getting", import: "importing", index: "indexing", train: "training", check: "checking", generate: "answering", judge: "judging" };
  const grouped = (number) => number.toLocaleString("en");
  const count = (number, one, many = `${one}s`) => `${grouped(number)} ${number === 1 ? one : many}`;
  const left = (seconds) => {
    if (seconds === null) return "";
    if (seconds < 100) return `, ${seconds} s left`;
    if (seconds < 6000) return `, ${Math.round(seconds / 60)} min left`;
    return `, ${(seconds / 3600).toFixed(1)} h left`;
  };
  const address = (name) => `/runs/${encodeURIComponent(name)}/`;

  const card = (run) => {
    const doing = run.doing.map((work) => [
      make("p", { textContent: `${STAGES[work.stage] ?? work.stage} ${work.what}: ${grouped(work.done)}${work.total ? ` of ${grouped(work.total)}` : ""}${work.note ? `, ${work.note}` : ""}${left(work.seconds_left)}` }),
      make("progress", work.total ? { max: work.total, value: work.done, ariaLabel: `${STAGES[work.stage] ?? work.stage} ${work.what}` } : { ariaLabel: `${STAGES[work.stage] ?? work.stage} ${work.what}` }),
    ]).flat();
    const links = only
      ? (run.report ? [make("a", { href: address(run.name), textContent: "The report" })] : [])
      : [make("a", { href: `${address(run.name)}live`, textContent: "Watch" }), " ", run.report ? make("a", { href: address(run.name), textContent: "Report" }) : ""];
    const state = { running: "goes on", done: "is done", stopped: "has stopped; bench run goes on with it" }[run.state];
    return make("li", { className: run.state },
      make("p", {}, make("strong", { textContent: run.name }), ` ${state}. `, links),
      doing,
      make("p", { className: "note", textContent: `${count(run.answered, "answer")}${run.failed ? `, ${grouped(run.failed)} failed` : ""}, ${count(run.tokens_out, "token")} generated${run.judged ? `, ${count(run.judged, "judgement")}` : ""}` }));
  };
  const number = (text) => make("td", { className: "number", textContent: text });
  const stage = (work) => make("tr", {},
    make("td", { textContent: STAGES[work.stage] ?? work.stage }), make("td", { textContent: work.what }),
    number(`${grouped(work.done)}${work.total ? ` of ${grouped(work.total)}` : ""}`), number(grouped(work.until - work.began)),
    make("td", { textContent: work.note }));

  const show = (runs) => {
    const isGoingOn = runs.filter((run) => run.state === "running").length;
    const section = document.getElementById("live");
    if (section) section.hidden = runs.length === 0;
    list.replaceChildren(...runs.map(card));
    document.title = isGoingOn && only ? `${Math.round(100 * (runs[0].doing.at(-1)?.done ?? 0) / (runs[0].doing.at(-1)?.total || 1))} % ${only}` : document.title.replace(/^\d+ % /, "");
    if (!only || runs.length === 0) return;
    document.getElementById("stages").replaceChildren(...[...runs[0].done, ...runs[0].doing].map(stage));
    document.getElementById("latest").replaceChildren(...runs[0].latest.map((answer) => make("li", {},
      make("pre", { dir: "auto", tabIndex: 0, role: "group", ariaLabel: "answer", className: answer.is_failure ? "failed" : "", textContent: answer.text === "" ? "(empty)" : answer.text }))));
  };

  const events = new EventSource(`/api/events${only ? `?run=${encodeURIComponent(only)}` : ""}`);
  events.addEventListener("runs", (event) => { connection.textContent = ""; show(JSON.parse(event.data)); });
  events.addEventListener("error", () => { connection.textContent = "The connection to bench view is lost; trying again."; });
  addEventListener("pagehide", () => events.close());
})();
