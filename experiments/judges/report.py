"""Measures the judges of the catalogue on labelled sets, and writes their table: reports/judges/README.md.

    BENCH_DATA=data python experiments/judges/report.py [--limit N] [--table-only]

Run it from the root of the repository. BENCH_DATA is the folder of the labelled sets, as seen from
experiments/judges; BENCH names another `bench`. Each measurement goes on where it was stopped, so the script
may be ended and started again. Smallest prompts come first.
"""
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).parent
REPORTS = ROOT / "reports/judges"
BENCH = os.environ.get("BENCH", "bench")
SETS = {
    "injections": "wrong answers that ask for the best grade",
    "short_answers": "short answers, right or wrong (Min et al. 2021)",
    "short_answers_again": "the same, sampled and asked three times",
    "pandalm": "pairs of answers to an instruction (Wang et al. 2024)",
    "llmbar": "pairs of which one only looks better (Zeng et al. 2024)",
    "ragchecker": "pairs of retrieval-augmented answers (Ru et al. 2024)",
    "mtrag": "faithfulness to passages, 1 to 4 (Katsis et al. 2025)",
}
COLUMNS = [
    ("agreement", "agrees with people"),
    ("people_agreement", "people agree"),
    ("kappa", "kappa"),
    ("alpha", "alpha"),
    ("self_consistency", "agrees with itself"),
    ("order_consistency", "survives the other order"),
    ("prefers_longer", "prefers the longer"),
    ("failures", "unreadable"),
    ("seconds_per_1000", "s per 1,000"),
    ("cost_per_1000_usd", "USD per 1,000"),
]
TEXT = """# Judges, measured on what people judged

What the local models of the catalogue are worth as judges. They are small (135 million and half a billion parameters), and a small judge is
easily no better than chance or than giving everything one grade: compare *agrees with people* with the share of the commonest label, and kappa with 0.
Nothing here says how a large judge does; measure yours with `bench judge calibrate`.

The samples are few, because a processor reads a judge's long prompt slowly: look at the intervals (95 %). Times are those of the machine that
the cards name, while it also did other work. No prices are declared, so that no column tells money: a model on this machine costs its time.

Made by [report.py](../../experiments/judges/report.py) from the `card.json` of each folder; `card.md` there says in words what each judge is worth.
"""


def measure(limit):
    for name in SETS:
        command = [BENCH, "judge", "calibrate", str(HERE / f"{name}.yaml")]
        done = subprocess.run(command + (["--limit", str(limit)] if limit else []), cwd=ROOT)
        if done.returncode not in (0, 130):
            sys.exit(f"{name}: exit code {done.returncode}")


def cell(figures, name):
    figure = figures.get(name)
    if figure is None:
        return "–"
    digits = 0 if name == "seconds_per_1000" else 2
    text = f"{figure['value']:.{digits}f}"
    if figure["low"] is not None:
        text += f" ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"
    return text


def commonest(folder, judge):
    """The share of the commonest label among the samples that the judge decided on."""
    works = json.loads((folder / "judgements.json").read_text())["judges"]
    items = next(work for work in works if work["judge"] == judge)["items"]
    labels = [item["label"] for item in items if any(value is not None for value in item["judge"])]
    return f"{max(map(labels.count, set(labels))) / len(labels):.2f}" if labels else "–"


def table():
    text = TEXT
    for name, words in SETS.items():
        folder = REPORTS / name
        if not (folder / "card.json").exists():
            continue
        card = json.loads((folder / "card.json").read_text())
        shown = [column for column in COLUMNS if any(column[0] in judge["figures"] for judge in card["judges"])]
        text += f"\n## [{name}]({name}/card.md): {words}\n\n"
        text += "| judge | n | commonest label | " + " | ".join(words for _, words in shown) + " |\n"
        text += "|---|---:|---:|" + "---:|" * len(shown) + "\n"
        for judge in card["judges"]:
            agreement = judge["figures"].get("agreement") or {}
            cells = [cell(judge["figures"], column) for column, _ in shown]
            text += f"| {judge['judge']} | {agreement.get('n', 0)} | {commonest(folder, judge['judge'])} | {' | '.join(cells)} |\n"
    REPORTS.mkdir(parents=True, exist_ok=True)
    (REPORTS / "README.md").write_text(text)


if "--table-only" not in sys.argv:
    measure(int(sys.argv[sys.argv.index("--limit") + 1]) if "--limit" in sys.argv else None)
table()
