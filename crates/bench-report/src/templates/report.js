"use strict";
(() => {
  // Everything from data files and models is set as text, never as markup.
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children.flat().filter((child) => child !== null && child !== ""));
    return element;
  };
  const byId = (id) => document.getElementById(id);
  // What `bench view` adds to the page: controls that grade answers.
  const hooks = globalThis.benchHooks ?? {};

  // Sortable tables: a click sorts upwards, the next downwards, the third restores the order. What
  // has no figure stays last.
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = (cell.dataset.sort ?? cell.textContent).trim();
    if (text === "" || text === "–") return null;
    const number = Number(text);
    return Number.isFinite(number) ? number : text;
  };
  const order = (a, b, sign) => {
    if (a === null || b === null) return Number(a === null) - Number(b === null);
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return sign * a.localeCompare(b, undefined, { numeric: true });
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const original = [...table.tBodies[0].rows];
    heads.forEach((head, column) => {
      const button = make("button", { type: "button", textContent: head.textContent });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" }[head.ariaSort ?? "none"];
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (next !== "none") head.setAttribute("aria-sort", next);
        const sign = next === "descending" ? -1 : 1;
        const rows = original.map((row) => [value(row, column), row]);
        if (next !== "none") rows.sort((a, b) => order(a[0], b[0], sign));
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  }

  // On paper nothing can be unfolded.
  const folded = () => document.querySelectorAll("main details:not([open])");
  addEventListener("beforeprint", () => folded().forEach((box) => {
    if (!box.closest("#trials")) { box.open = true; box.dataset.printed = ""; }
  }));
  addEventListener("afterprint", () => document.querySelectorAll("[data-printed]").forEach((box) => {
    box.open = false;
    delete box.dataset.printed;
  }));

  // Trials. The layout of the data is documented where it is written, in browser.rs.
  const unpack = async (element) => {
    if (element.type === "application/json") return JSON.parse(element.textContent);
    const text = atob(element.textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return JSON.parse(await new Response(stream).text());
  };

  if (!byId("data")) return;
  const RIGHT = 0.5, PAGE = 50, MOST_WORDS = 4000;
  const KINDS = ["failed", "none", "wrong", "right"];
  const WORDS = { failed: "failed", none: "no score", wrong: "wrong", right: "right" };
  const filters = Object.fromEntries(["set", "metric", "arm", "outcome", "against", "slice", "order", "text"].map((name) => [name, byId(`f-${name}`)]));
  const option = (text, value) => make("option", { textContent: text, value });
  const figure = (number) => String(Math.round(number * 1000) / 1000);
  const grouped = (number) => number.toLocaleString("en");
  let data, set, matches = [], shown = 0;

  // Positions of each sample's trials, and per metric whether each trial was right.
  const prepare = (set) => {
    const n = set.samples.id?.length ?? 0, trials = set.trials.sample ?? [];
    set.count = n;
    set.from = new Uint32Array(n + 1);
    for (const sample of trials) set.from[sample + 1]++;
    for (let at = 0; at < n; at++) set.from[at + 1] += set.from[at];
    set.arms = [...new Set(set.trials.arm ?? [])].sort((a, b) => a - b);
    set.kinds = set.metrics.map((_, metric) => {
      const kinds = new Uint8Array(trials.length);
      const scores = set.trials.scores[metric];
      for (let at = 0; at < kinds.length; at++) {
        kinds[at] = set.trials.error[at] !== null ? 0 : scores[at] === null ? 1 : scores[at] < RIGHT ? 2 : 3;
      }
      return kinds;
    });
    if (set.kinds.length === 0) set.kinds = [new Uint8Array(trials.length)];
  };
  const trialsOf = (sample) => {
    const all = [];
    for (let at = set.from[sample]; at < set.from[sample + 1]; at++) all.push(at);
    return all;
  };
  const searchable = (sample) => {
    set.texts ??= [];
    return set.texts[sample] ??= [
      set.samples.id[sample], set.samples.input[sample], ...set.samples.references[sample],
      ...trialsOf(sample).map((at) => set.trials.answer[at] ?? set.trials.error[at]),
    ].join("\n").toLowerCase();
  };

  const choice = () => {
    const [field, value] = filters.slice.value.split(" ").map(Number);
    return {
      metric: Number(filters.metric.value) || 0,
      arm: filters.arm.value === "" ? -1 : Number(filters.arm.value),
      kind: filters.outcome.value === "" ? -1 : KINDS.indexOf(filters.outcome.value),
      against: filters.against.value === "" ? -2 : filters.against.value === "any" ? -1 : Number(filters.against.value),
      slice: filters.slice.value === "" ? null : [set.samples.slices[field][2], value],
      text: filters.text.value.trim().toLowerCase(),
    };
  };

  // A sample is wanted when one of its trials is: of the arm, with the outcome, and unlike the
  // outcome of the arm that it shall disagree with.
  const isWanted = (sample, wanted, kinds) => {
    if (wanted.slice && wanted.slice[0][sample] !== wanted.slice[1]) return false;
    const { arm, repeat } = set.trials, from = set.from[sample], to = set.from[sample + 1];
    let found = false;
    for (let at = from; at < to && !found; at++) {
      if ((wanted.arm >= 0 && arm[at] !== wanted.arm) || (wanted.kind >= 0 && kinds[at] !== wanted.kind)) continue;
      found = wanted.against === -2;
      for (let other = from; other < to && !found; other++) {
        found = kinds[other] !== kinds[at] && arm[other] !== arm[at] && repeat[other] === repeat[at] &&
          (wanted.against === -1 || arm[other] === wanted.against);
      }
    }
    return found && (wanted.text === "" || searchable(sample).includes(wanted.text));
  };

  const sum = (sample, column) => {
    let total = 0;
    for (let at = set.from[sample]; at < set.from[sample + 1]; at++) total += column[at] ?? 0;
    return total;
  };
  // What samples are ordered by, the highest first.
  const weights = {
    disputed: (kinds) => (sample) => {
      const n = set.from[sample + 1] - set.from[sample];
      let right = 0;
      for (let at = set.from[sample]; at < set.from[sample + 1]; at++) right += Number(kinds[at] === 3);
      return Math.min(right, n - right) / n;
    },
    worst: (_, scores) => (sample) => -sum(sample, scores),
    best: (_, scores) => (sample) => sum(sample, scores),
    longest: () => (sample) => sum(sample, set.trials.tokens_out),
    slowest: () => (sample) => sum(sample, set.trials.latency_ms),
  };

  const filter = () => {
    const wanted = choice();
    const kinds = set.kinds[wanted.metric];
    matches = [];
    for (let sample = 0; sample < set.count; sample++) {
      if (isWanted(sample, wanted, kinds)) matches.push(sample);
    }
    const weigh = weights[filters.order.value]?.(kinds, set.trials.scores?.[wanted.metric] ?? []);
    if (weigh) {
      const weight = new Map(matches.map((sample) => [sample, weigh(sample)]));
      matches.sort((a, b) => weight.get(b) - weight.get(a) || a - b);
    }
    tell(kinds);
    byId("samples").replaceChildren();
    shown = 0;
    more();
    remember();
  };

  const tell = (kinds) => {
    const right = new Map(set.arms.map((arm) => [arm, [0, 0]]));
    for (const sample of matches) {
      for (let at = set.from[sample]; at < set.from[sample + 1]; at++) {
        const counts = right.get(set.trials.arm[at]);
        counts[0] += Number(kinds[at] === 3);
        counts[1] += Number(kinds[at] > 1);
      }
    }
    byId("count").textContent = `${grouped(matches.length)} of ${grouped(set.count)} samples` +
      (set.left_out ? `; ${grouped(set.left_out)} more are in tables/trials.parquet` : "");
    byId("right").replaceChildren(...(matches.length === 0 ? [] : [...right].map(([arm, [hits, of]]) =>
      make("li", { textContent: `${data.arms[arm][0]}: ${grouped(hits)} of ${grouped(of)} right` }))));
  };

  const more = () => {
    const metric = Number(filters.metric.value) || 0;
    byId("samples").append(...matches.slice(shown, shown + PAGE).map((sample) => row(sample, metric)));
    shown = Math.min(shown + PAGE, matches.length);
    const left = matches.length - shown;
    byId("more").hidden = left === 0;
    byId("more").textContent = `Show ${grouped(Math.min(left, PAGE))} more of ${grouped(left)}`;
  };

  const arranged = (sample) => hooks.arrange?.(trialsOf(sample)) ?? trialsOf(sample);
  const label = (at) => hooks.rename?.(at, trialsOf(set.trials.sample[at])) ?? data.arms[set.trials.arm[at]][0] + (set.trials.repeat[at] > 0 ? ` #${set.trials.repeat[at] + 1}` : "");
  const chip = (at, metric, name) => {
    const kind = KINDS[set.kinds[metric][at]];
    const score = set.trials.scores[metric]?.[at] ?? null;
    const text = kind === "right" || kind === "wrong" ? figure(score) : WORDS[kind];
    const mark = { right: "✓ ", wrong: "✗ " }[kind] ?? "";
    return make("span", { className: `chip ${kind}`, title: WORDS[kind], textContent: `${name}${mark}${text}` });
  };

  const row = (sample, metric) => {
    const button = make("button", { type: "button", className: "open", ariaExpanded: "false" },
      make("span", { className: "id", textContent: set.samples.id[sample] }),
      make("span", { className: "ask", dir: "auto", textContent: set.samples.input[sample].slice(0, 200) }),
      make("span", { className: "chips" }, trialsOf(sample).map((at) => chip(at, metric, `${label(at)} `))));
    const item = make("li", {}, button);
    item.dataset.sample = sample;
    button.addEventListener("click", () => toggle(item, button.ariaExpanded !== "true"));
    return item;
  };
  const toggle = (item, open) => {
    const button = item.firstChild;
    if (open === (button.ariaExpanded === "true")) return;
    button.ariaExpanded = String(open);
    item.classList.toggle("is-open", open);
    if (open) item.append(detail(Number(item.dataset.sample)));
    else item.lastChild.remove();
    remember();
  };

  // Long texts scroll, so the keyboard must reach them.
  const block = (text, name) => make("pre", { dir: "auto", tabIndex: 0, role: "group", ariaLabel: name, textContent: text });
  const fold = (title, ...children) => make("details", {}, make("summary", { textContent: title }), ...children);
  const entry = (name, text) => text === null || text === "" ? [] : [make("dt", { textContent: name }), make("dd", { dir: "auto", textContent: text })];
  const turnText = (at) => data.turns[at][1].map((line) => data.lines[line]).join("\n");

  // A judge is asked about some answers only.
  const isUnasked = (at, metric) => set.trials.scores[metric][at] === null && set.trials.unscored[metric][at] === undefined;

  const card = (sample, at, gold) => {
    const { trials } = set;
    const isFailed = trials.error[at] !== null;
    const milliseconds = [["first token", "first_ms"], ["generation", "latency_ms"], ["retrieval", "retrieval_ms"]]
      .filter(([, key]) => trials[key][at] !== null && (key !== "retrieval_ms" || trials[key][at] > 0))
      .map(([name, key]) => `${name} ${figure(trials[key][at])} ms`).join(", ");
    const scores = set.metrics.map((name, metric) => {
      const score = trials.scores[metric][at];
      const why = trials.unscored[metric][at];
      return `${name} ${score === null ? `no score${why ? ` (${why})` : ""}` : figure(score)}`;
    }).join(", ");
    const passages = trials.passages[at].map(([document, used, score]) => make("li", { className: used ? "" : "left-out" },
      make("span", { className: "name", textContent: data.documents[document] }),
      score === null ? null : make("span", { className: "note", textContent: ` ${figure(score)}` }),
      gold.has(document) ? make("strong", { className: "gold", textContent: " ★ gold" }) : null,
      used ? null : make("span", { className: "note", textContent: " left out of the prompt" })));
    const found = new Set(trials.passages[at].map(([document]) => document).filter((document) => gold.has(document))).size;
    const turns = trials.prompt[at].map((turn) => turn < 0
      ? make("p", { className: "note", textContent: "This turn is in tables/trials.parquet." })
      : [make("h4", { textContent: data.turns[turn][0] }), block(turnText(turn), data.turns[turn][0])]);
    const grade = isFailed ? null : hooks.card?.(trialOf(sample, at)) ?? null;
    return make("article", { className: "arm" },
      make("h3", {}, make("span", { className: "name", textContent: label(at) }), " ",
        make("span", { className: "chips" }, set.metrics.map((name, metric) => isFailed || (metric > 0 && isUnasked(at, metric)) ? null
          : chip(at, metric, set.metrics.length > 1 ? `${name} ` : "")))),
      isFailed ? make("p", { className: "failed", dir: "auto", textContent: trials.error[at] }) : block(trials.answer[at], `answer of ${label(at)}`),
      grade,
      make("dl", { className: "facts" },
        entry("judge", trials.reason[at]),
        entry("scores", set.metrics.some((_, metric) => trials.unscored[metric][at]) ? scores : ""),
        isFailed ? [] : entry("tokens", `${grouped(trials.tokens_in[at])} in, ${grouped(trials.tokens_out[at])} out (${data.finishes[trials.finish[at]]})`),
        entry("time", milliseconds),
        entry("cost", trials.cost[at] === null ? "" : `${trials.cost[at]} USD`)),
      passages.length ? fold(`${passages.length} passage${passages.length === 1 ? "" : "s"}${gold.size ? `, ${found} of ${gold.size} gold` : ""}`, make("ol", { className: "passages" }, passages)) : null,
      turns.length ? fold("Prompt", turns.flat()) : null);
  };
  const trialOf = (sample, at) => ({
    set: set.name, sample: set.samples.id[sample], shown: label(at), arm: data.arms[set.trials.arm[at]][1],
    train_seed: data.arms[set.trials.arm[at]][2], repeat: set.trials.repeat[at],
  });

  const detail = (sample) => {
    const gold = new Set(set.samples.gold[sample]);
    const slices = set.samples.slices.filter(([, , of]) => of[sample] >= 0).map(([field, values, of]) => `${field} = ${values[of[sample]]}`);
    return make("div", { className: "detail" },
      block(set.samples.input[sample], "question"),
      make("dl", { className: "facts" },
        entry("right", set.samples.references[sample].join(" | ")),
        entry("gold", [...gold].map((at) => data.documents[at]).join(", ")),
        entry("slices", slices.join(", "))),
      make("div", { className: "arms" }, arranged(sample).map((at) => card(sample, at, gold))),
      difference(sample));
  };

  // Two answers, or an answer and what would be right, word by word.
  const difference = (sample) => {
    const answered = arranged(sample).filter((at) => set.trials.answer[at] !== null);
    const right = set.samples.references[sample][0];
    const texts = answered.map((at) => [label(at), set.trials.answer[at], at]);
    if (right !== undefined) texts.push(["the right answer", right, null]);
    if (answered.length === 0 || texts.length < 2) return null;
    const choices = ["from", "to"].map((ariaLabel) => make("select", { ariaLabel }, texts.map(([name], at) => option(name, at))));
    const kinds = set.kinds[Number(filters.metric.value) || 0];
    const unlike = answered.findIndex((at) => kinds[at] !== kinds[answered[0]]);
    choices[1].value = String(unlike > 0 ? unlike : 1);
    const out = make("pre", { dir: "auto", tabIndex: 0, role: "group", ariaLabel: "difference" });
    const note = make("p", { className: "note", role: "status" });
    const grade = make("div", {});
    const draw = () => {
      const [first, second] = choices.map((select) => texts[Number(select.value)]);
      const { parts, removed, added, isCut } = words(first[1], second[1]);
      out.replaceChildren(...parts);
      note.textContent = (removed + added === 0 ? "The same words." : `${removed} words removed, ${added} added.`) +
        (isCut ? ` Only the first ${grouped(MOST_WORDS)} words are compared.` : "");
      const pair = first[2] !== null && second[2] !== null && first[2] !== second[2]
        ? hooks.pair?.(trialOf(sample, first[2]), trialOf(sample, second[2])) : null;
      grade.replaceChildren(...(pair ? [pair] : []));
    };
    choices.forEach((select) => select.addEventListener("change", draw));
    const box = fold("Difference of two answers", make("p", {}, choices[0], " to ", choices[1]), out, note, grade);
    box.className = "difference";
    box.addEventListener("toggle", draw, { once: true });
    return box;
  };
  const segmenter = globalThis.Intl?.Segmenter ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;
  const split = (text) => segmenter ? Array.from(segmenter.segment(text), (part) => part.segment) : text.split(/(\s+)/).filter((word) => word !== "");
  const isWord = (text) => text.trim() !== "";
  // The longest common subsequence of words, between what both begin and end with.
  const words = (before, after) => {
    const all = [before, after].map(split);
    const isCut = all.some((list) => list.length > MOST_WORDS);
    const [a, b] = all.map((list) => list.slice(0, MOST_WORDS));
    let head = 0, tail = 0;
    while (head < a.length && head < b.length && a[head] === b[head]) head++;
    while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
    const rows = a.length - head - tail, width = b.length - head - tail + 1;
    const longest = new Uint16Array((rows + 1) * width);
    for (let i = rows - 1; i >= 0; i--) {
      for (let j = width - 2; j >= 0; j--) {
        longest[i * width + j] = a[head + i] === b[head + j] ? longest[(i + 1) * width + j + 1] + 1
          : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
      }
    }
    const parts = [];
    const put = (kind, text) => {
      if (parts.at(-1)?.kind === kind) parts.at(-1).text += text;
      else parts.push({ kind, text });
    };
    a.slice(0, head).forEach((word) => put("", word));
    let i = 0, j = 0, removed = 0, added = 0;
    while (i < rows || j < width - 1) {
      if (i < rows && j < width - 1 && a[head + i] === b[head + j]) { put("", a[head + i++]); j++; }
      else if (j >= width - 1 || (i < rows && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) { removed += Number(isWord(a[head + i])); put("del", a[head + i++]); }
      else { added += Number(isWord(b[head + j])); put("ins", b[head + j++]); }
    }
    a.slice(a.length - tail).forEach((word) => put("", word));
    return { parts: parts.map(({ kind, text }) => kind ? make(kind, { textContent: text }) : text), removed, added, isCut };
  };

  // The address keeps what is shown, so that it can be sent to somebody.
  const names = () => ({
    set: set.name, metric: set.metrics[filters.metric.value], arm: data.arms[filters.arm.value]?.[0], outcome: filters.outcome.value,
    against: data.arms[filters.against.value]?.[0] ?? filters.against.value, slice: filters.slice.selectedOptions[0]?.textContent,
    order: filters.order.value, text: filters.text.value, open: set.samples.id?.[byId("samples").querySelector(".is-open")?.dataset.sample],
  });
  let isRemembering = false;
  const remember = () => {
    if (!isRemembering) return;
    const plain = { set: data.sets[0].name, metric: data.sets[0].metrics[0], slice: "any" };
    const kept = Object.entries(names()).filter(([key, text]) => text && text !== plain[key]);
    const hash = kept.length ? `#trials?${new URLSearchParams(kept)}` : "#trials";
    if (hash !== location.hash && (kept.length || location.hash.startsWith("#trials?"))) history.replaceState(null, "", hash);
  };
  const recall = () => {
    isRemembering = false;
    const asked = new URLSearchParams(location.hash.startsWith("#trials?") ? location.hash.slice(8) : "");
    const pick = (select, text) => {
      const found = [...select.options].find((option) => option.textContent === text || (text && option.value === text));
      select.value = found ? found.value : select.options[0]?.value ?? "";
    };
    pick(filters.set, asked.get("set"));
    chooseSet();
    for (const name of ["metric", "arm", "outcome", "against", "slice", "order"]) pick(filters[name], asked.get(name));
    filters.text.value = asked.get("text") ?? "";
    filter();
    const open = asked.get("open");
    const at = open === null ? -1 : matches.findIndex((sample) => set.samples.id[sample] === open);
    if (at >= 0) {
      while (shown <= at) more();
      toggle(byId("samples").children[at], true);
    }
    if (asked.size > 0) byId("trials").scrollIntoView();
    isRemembering = true;
  };

  const chooseSet = () => {
    set = data.sets[Number(filters.set.value) || 0];
    const arms = set.arms.map((at) => option(data.arms[at][0], at));
    filters.arm.replaceChildren(option("any", ""), ...arms);
    filters.against.replaceChildren(option("–", ""), option("any other arm", "any"), ...arms.map((arm) => arm.cloneNode(true)));
    filters.metric.replaceChildren(...set.metrics.map((name, at) => option(name, at)));
    const slices = (set.samples.slices ?? []).flatMap(([field, values], at) => values.map((value, of) => option(`${field} = ${value}`, `${at} ${of}`)));
    filters.slice.replaceChildren(option("any", ""), ...slices);
    filters.slice.parentElement.hidden = slices.length === 0;
  };

  // In the list: up and down move, Home and End jump, Escape closes.
  const keys = (event) => {
    if (event.key === "Escape") {
      const item = event.target.closest("#samples > li.is-open");
      if (item) { toggle(item, false); item.firstChild.focus(); }
      return;
    }
    if (!event.target.matches(".open") || event.ctrlKey || event.altKey || event.metaKey) return;
    const item = event.target.parentElement;
    let next;
    switch (event.key) {
      case "ArrowDown": case "j":
        if (!item.nextElementSibling && !byId("more").hidden) more();
        next = item.nextElementSibling;
        break;
      case "ArrowUp": case "k": next = item.previousElementSibling; break;
      case "Home": next = item.parentElement.firstElementChild; break;
      case "End": next = item.parentElement.lastElementChild; break;
      default: return;
    }
    event.preventDefault();
    next?.firstChild.focus();
  };

  const start = async () => {
    try {
      data = await unpack(byId("data"));
    } catch (error) {
      byId("count").textContent = `This browser cannot read the trials (${error}); they are in tables/trials.parquet.`;
      return;
    }
    byId("data").remove();
    if (data.sets.length === 0) return;
    data.sets.forEach(prepare);
    filters.set.append(...data.sets.map((set, at) => option(set.name, at)));
    filters.set.addEventListener("change", () => { chooseSet(); filter(); });
    for (const name of ["metric", "arm", "outcome", "against", "slice", "order"]) filters[name].addEventListener("change", filter);
    filters.text.addEventListener("input", filter);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filters").addEventListener("reset", () => setTimeout(() => { chooseSet(); filter(); }));
    byId("more").addEventListener("click", () => {
      const first = shown;
      more();
      byId("samples").children[first]?.firstChild.focus();
    });
    byId("samples").addEventListener("keydown", keys);
    addEventListener("hashchange", () => { if (location.hash.startsWith("#trials?")) recall(); });
    await hooks.ready?.();
    hooks.redraw = recall;
    recall();
    byId("trials").classList.add("is-ready");
    // What the first search needs is made while nothing else happens.
    (globalThis.requestIdleCallback ?? setTimeout)(() => { for (let sample = 0; sample < set.count; sample++) searchable(sample); });
  };
  // Paint first; a page that nobody looks at paints nothing, and must not wait for ever.
  let isStarted = false;
  const once = () => {
    if (!isStarted) start();
    isStarted = true;
  };
  requestAnimationFrame(() => setTimeout(once));
  setTimeout(once, document.hidden ? 0 : 1000);
})();
