"use strict";
(() => {
  // Everything from data files and models is set as text, never as markup.
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children.filter((child) => child !== null && child !== ""));
    return element;
  };
  const byId = (id) => document.getElementById(id);

  // Sortable tables.
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent;
    const number = Number(text);
    return text.trim() !== "" && Number.isFinite(number) ? number : text;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = make("button", { type: "button", textContent: head.textContent });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.ariaSort !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => (up ? 1 : -1) * compare(value(a, column), value(b, column)));
        table.tBodies[0].append(...rows);
      });
    });
  }

  // Trials. The layout of the data is documented where it is written, in browser.rs.
  const data = JSON.parse(byId("data").textContent);
  const RIGHT = 0.5, PAGE = 60;
  const [ARM, REPEAT, ANSWER, ERROR, SCORES, REASON, FINISH, IN, OUT, TIME, PASSAGES, TURNS] = Array(12).keys();
  const filters = { set: byId("f-set"), arm: byId("f-arm"), metric: byId("f-metric"), outcome: byId("f-outcome"), text: byId("f-text") };
  const option = (text, value) => make("option", { textContent: text, value });
  const current = () => data.sets[Number(filters.set.value) || 0] ?? { metrics: [], samples: [] };
  let shown = 0, matches = [];

  const score = (trial, metric) => trial[SCORES][metric];
  const outcome = (trial, metric) => {
    if (trial[ERROR] !== null) return "failed";
    const figure = score(trial, metric);
    if (figure === null) return "none";
    return figure >= RIGHT ? "right" : "wrong";
  };
  const searchable = (sample) => {
    sample.text ??= [sample[0], sample[1], ...sample[2], ...sample[4].map((trial) => trial[ANSWER] ?? trial[ERROR])].join("\n").toLowerCase();
    return sample.text;
  };

  const isWanted = (sample, metric, arm, wanted, text) => {
    const trials = arm === "" ? sample[4] : sample[4].filter((trial) => trial[ARM] === Number(arm));
    if (trials.length === 0 || (text && !searchable(sample).includes(text))) return false;
    if (wanted === "") return true;
    if (wanted === "differ") return new Set(sample[4].map((trial) => outcome(trial, metric))).size > 1;
    return trials.some((trial) => outcome(trial, metric) === wanted);
  };

  const filter = () => {
    const metric = Number(filters.metric.value) || 0;
    const text = filters.text.value.trim().toLowerCase();
    matches = current().samples.filter((sample) => isWanted(sample, metric, filters.arm.value, filters.outcome.value, text));
    byId("count").textContent = `${matches.length} of ${current().samples.length} samples`;
    byId("samples").replaceChildren();
    shown = 0;
    more();
  };

  const more = () => {
    const metric = Number(filters.metric.value) || 0;
    byId("samples").append(...matches.slice(shown, shown + PAGE).map((sample) => row(sample, metric)));
    shown = Math.min(shown + PAGE, matches.length);
    byId("more").hidden = shown >= matches.length;
  };

  const label = (trial) => data.arms[trial[ARM]] + (trial[REPEAT] > 0 ? ` #${trial[REPEAT] + 1}` : "");

  const row = (sample, metric) => {
    const chips = sample[4].map((trial) => {
      const kind = outcome(trial, metric);
      const figure = score(trial, metric);
      const text = kind === "failed" ? "failed" : figure === null ? "no score" : String(figure);
      return make("span", { className: `chip ${kind}`, textContent: `${label(trial)} ${text}` });
    });
    const button = make("button", { type: "button", className: "open", ariaExpanded: "false" },
      make("span", { className: "id", textContent: sample[0] }),
      make("span", { className: "ask", dir: "auto", textContent: sample[1].slice(0, 200) }), ...chips);
    const item = make("li", {}, button);
    button.addEventListener("click", () => {
      const open = item.childElementCount > 1;
      button.setAttribute("aria-expanded", String(!open));
      if (open) item.lastChild.remove();
      else item.append(detail(sample));
    });
    return item;
  };

  const block = (text) => make("pre", { dir: "auto", textContent: text });
  const fold = (title, ...children) => make("details", {}, make("summary", { textContent: title }), ...children);

  const detail = (sample) => {
    const gold = new Set(sample[3]);
    const cards = sample[4].map((trial) => {
      const figures = current().metrics.map((name, at) => `${name} ${score(trial, at) ?? "–"}`).join(", ");
      const took = trial[ERROR] === null ? `${trial[IN]} + ${trial[OUT]} tokens, ${trial[TIME]} ms, ${trial[FINISH]}` : "";
      const passages = trial[PASSAGES].map(([at, used]) => make("li", {
        className: `${gold.has(at) ? "gold" : ""} ${used ? "" : "left-out"}`,
        textContent: data.documents[at] + (gold.has(at) ? " (gold)" : "") + (used ? "" : " (left out of the prompt)"),
      }));
      const turns = trial[TURNS].map((at) => block(at < 0 ? "(this turn is in tables/trials.parquet)" : `${data.turns[at][0]}: ${data.turns[at][1]}`));
      return make("div", { className: "arm" },
        make("h4", { textContent: label(trial) }),
        make("p", { className: "note", textContent: `${figures}. ${took}` }),
        trial[ERROR] === null ? block(trial[ANSWER]) : make("p", { className: "failed", textContent: trial[ERROR] }),
        trial[REASON] === null ? null : make("p", { dir: "auto", textContent: `Judge: ${trial[REASON]}` }),
        passages.length ? fold(`${passages.length} passages`, make("ol", {}, ...passages)) : null,
        turns.length ? fold("Prompt", ...turns) : null);
    });
    return make("div", {},
      block(sample[1]),
      make("p", {}, make("strong", { textContent: "Right: " }), make("span", { dir: "auto", textContent: sample[2].join(" | ") })),
      sample[3].length ? make("p", { className: "note", textContent: `Gold: ${sample[3].map((at) => data.documents[at]).join(", ")}` }) : null,
      make("div", { className: "arms" }, ...cards),
      difference(sample));
  };

  // Two answers, word by word.
  const difference = (sample) => {
    const answered = sample[4].filter((trial) => trial[ANSWER] !== null);
    if (answered.length < 2) return "";
    const choices = [0, 1].map((start) => {
      const select = make("select", { ariaLabel: start ? "second answer" : "first answer" }, ...answered.map((trial, at) => option(label(trial), at)));
      select.value = String(start);
      return select;
    });
    const out = make("pre", { dir: "auto" });
    const draw = () => out.replaceChildren(...words(...choices.map((select) => answered[Number(select.value)][ANSWER])));
    choices.forEach((select) => select.addEventListener("change", draw));
    const box = fold("Difference of two answers", make("p", {}, choices[0], " to ", choices[1]), out);
    box.addEventListener("toggle", draw, { once: true });
    return box;
  };
  const words = (before, after) => {
    const LIMIT = 600;
    const [a, b] = [before, after].map((text) => text.split(/(\s+)/).filter((word) => word !== "").slice(0, LIMIT));
    const longest = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        longest[i][j] = a[i] === b[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
      }
    }
    const out = [];
    let i = 0, j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) { out.push(a[i]); i++; j++; }
      else if (j >= b.length || (i < a.length && longest[i + 1][j] >= longest[i][j + 1])) out.push(make("del", { textContent: a[i++] }));
      else out.push(make("ins", { textContent: b[j++] }));
    }
    return out;
  };

  const chooseSet = () => {
    const used = new Set(current().samples.flatMap((sample) => sample[4].map((trial) => trial[ARM])));
    filters.arm.replaceChildren(option("any", ""), ...data.arms.map((name, at) => [name, at]).filter(([, at]) => used.has(at)).map(([name, at]) => option(name, at)));
    filters.metric.replaceChildren(...current().metrics.map((name, at) => option(name, at)));
    filter();
  };
  filters.set.append(...data.sets.map((set, at) => option(set.name, at)));
  filters.set.addEventListener("change", chooseSet);
  for (const name of ["arm", "metric", "outcome"]) filters[name].addEventListener("change", filter);
  filters.text.addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", more);
  chooseSet();
})();
