"use strict";
(() => {
  // Grading: thumbs, 1 to 5, and which of two answers is better. Every click is a line of labels.jsonl.
  const api = document.querySelector("meta[name=bench-view]")?.content;
  const bar = document.getElementById("grading");
  if (!api || !bar) return;
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children.flat());
    return element;
  };
  const NAME = "bench-grader", BLIND = "bench-blind";
  const kept = (key) => { try { return localStorage.getItem(key) ?? ""; } catch { return ""; } };
  const keep = (key, text) => { try { localStorage.setItem(key, text); } catch { /* a private window */ } };
  const labels = new Map();
  const name = make("input", { type: "text", value: kept(NAME), maxLength: 80, autocomplete: "username" });
  const blind = make("input", { type: "checkbox", checked: kept(BLIND) === "yes" });
  const said = make("span", { role: "status", className: "note" });
  const grader = () => name.value.trim();

  const key = ({ set, sample, arm, train_seed, repeat, kind, against, against_seed, grader }) =>
    JSON.stringify([set, sample, arm, String(train_seed ?? 0), repeat ?? 0, kind, against ?? null, String(against_seed ?? 0), grader ?? ""]);
  const tell = (text) => {
    const own = [...labels.values()].filter((label) => label.grader === grader()).length;
    said.textContent = text ?? `${own} of your labels, ${labels.size} in all`;
  };

  const send = async (label) => {
    const body = { ...label, grader: grader() };
    const response = await fetch(`${api}/labels`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
    if (!response.ok) {
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      throw new Error(page.querySelector("main")?.textContent.trim() || response.statusText);
    }
    if (label.value === null) labels.delete(key(body));
    else labels.set(key(body), { ...body });
  };

  // Buttons of which at most one is pressed; a second click takes the label back.
  const choice = (title, label, values) => {
    const buttons = values.map(([value, text, meaning]) => {
      const button = make("button", { type: "button", textContent: text, title: meaning, ariaLabel: meaning });
      button.addEventListener("click", async () => {
        const isBack = button.ariaPressed === "true";
        try {
          await send({ ...label, value: isBack ? null : value });
          draw();
          tell();
        } catch (error) {
          tell(`The label was not kept: ${error.message}`);
        }
      });
      return button;
    });
    const draw = () => {
      const own = labels.get(key({ ...label, grader: grader() }))?.value;
      values.forEach(([value], at) => { buttons[at].ariaPressed = String(own === value); });
    };
    draw();
    return make("span", { role: "group", ariaLabel: title }, buttons);
  };

  const about = ({ set, sample, arm, train_seed, repeat }) => ({ set, sample, arm, train_seed, repeat });
  const card = (trial) => make("div", { className: "grade" },
    choice(`thumbs for ${trial.shown}`, { ...about(trial), kind: "thumbs" }, [[1, "good", "good"], [0, "bad", "bad"]]),
    choice(`rating of ${trial.shown}`, { ...about(trial), kind: "rating" },
      [1, 2, 3, 4, 5].map((value) => [value, String(value), `${value} of 5`])));

  // A pair is kept in one order, so that it has one label whichever way it is shown.
  const pair = (one, other) => {
    const isTurned = `${one.arm} ${one.train_seed}` > `${other.arm} ${other.train_seed}`;
    const [first, second] = isTurned ? [other, one] : [one, other];
    if (first.arm === second.arm && first.train_seed === second.train_seed) return null;
    const label = { ...about(first), kind: "pairwise", against: second.arm, against_seed: second.train_seed };
    const values = [[1, `${first.shown} is better`], [0.5, "neither"], [0, `${second.shown} is better`]].map(([value, text]) => [value, text, text]);
    return make("div", { className: "grade" }, choice("which is better", label, isTurned ? values.reverse() : values));
  };

  // Blind: no names, no scores, and an order that says nothing.
  const hash = (text) => {
    let sum = 2166136261;
    for (let at = 0; at < text.length; at++) sum = Math.imul(sum ^ text.charCodeAt(at), 16777619);
    return sum >>> 0;
  };
  const arrange = (trials) => blind.checked ? [...trials].sort((a, b) => hash(`${a} of ${trials[0]}`) - hash(`${b} of ${trials[0]}`)) : trials;
  const rename = (trial, trials) => blind.checked ? `answer ${String.fromCharCode(65 + arrange(trials).indexOf(trial))}` : null;

  const hooks = globalThis.benchHooks = {
    card, pair, arrange, rename, redraw: () => {},
    ready: async () => {
      try {
        const response = await fetch(`${api}/labels`);
        if (!response.ok) throw new Error(response.statusText);
        for (const label of await response.json()) labels.set(key(label), label);
        tell();
      } catch (error) {
        tell(`The labels cannot be read: ${error.message}`);
      }
    },
  };
  const change = () => {
    keep(NAME, name.value);
    keep(BLIND, blind.checked ? "yes" : "no");
    document.body.classList.toggle("is-blind", blind.checked);
    tell();
    hooks.redraw();
  };
  name.addEventListener("change", change);
  blind.addEventListener("change", change);
  document.body.classList.toggle("is-blind", blind.checked);
  bar.append(make("strong", { textContent: "Grading" }), make("label", {}, "Your name ", name),
    make("label", {}, blind, " blind: hide arms, scores and judge"), said);
})();
