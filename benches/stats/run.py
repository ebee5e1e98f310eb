"""Writes results.json: every floor that the statistics must keep, with the figure measured.

    pip install numpy scipy && python benches/stats/run.py [--validity] [--no-speed]

Run it from the root of the repository. Speed is measured anew, ours and SciPy's; `--validity` also
runs the proof again (about five minutes), otherwise its committed figures are read; with `--no-speed`
the speeds are kept as they were, for a machine that is busy. CARGO names another
cargo, MACHINE describes the machine.
"""
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CARGO = os.environ.get("CARGO", "cargo")
MACHINE = os.environ.get("MACHINE", "2 cores, no GPU, Linux")
PROOF = ROOT / "reports/validity"
results = []


def add(name, unit, value, floor, higher_is_better, command, peer=None, peer_value=None):
    results.append({
        "name": name, "unit": unit, "value": value, "peer": peer, "peer_value": peer_value, "floor": floor,
        "higher_is_better": higher_is_better, "command": command, "machine": MACHINE,
        "date": datetime.date.today().isoformat(),
    })


def run(arguments):
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def table(name):
    return next(rows for title, rows in proof.items() if title.startswith(name))


def column(rows, *names):
    return [row[name] for row in rows for name in names if row.get(name) is not None]


def measure_speed():
    speed = ROOT / "target" / "speed.json"
    speed.parent.mkdir(exist_ok=True)
    run([CARGO, "run", "--release", "-p", "bench-stats", "--example", "speed", str(speed)])
    scipy = run([sys.executable, "benches/stats/scipy_speed.py"])
    seconds = sum(float(row.split("|")[-2]) for row in scipy.splitlines() if row.startswith("| boot") or row.startswith("| perm"))
    for row in json.loads(speed.read_text()):
        plain = row["case"] == "all scored"
        add(
            f"8 arms x 10,000 samples x 5 scorers, 10,000 draws, {row['case']}", "seconds", round(row["seconds"], 2), 10, False,
            "cargo run --release -p bench-stats --example speed",
            "SciPy: bootstrap and permutation_test, one call of each kind times the calls" if plain else None,
            round(seconds) if plain else None,
        )


validity = "cargo run --release -p bench-stats --example validity reports/validity/validity.json > reports/validity/validity.md"
if "--validity" in sys.argv:
    start = time.monotonic()
    page = run([CARGO, "run", "--release", "-p", "bench-stats", "--example", "validity", str(PROOF / "validity.json")])
    (PROOF / "validity.md").write_text(page)
    add("the whole proof", "minutes", round((time.monotonic() - start) / 60, 2), 10, False, validity)
else:
    old = ROOT / "benches/stats/results.json"
    kept = json.loads(old.read_text()) if old.exists() else []
    results += [row for row in kept if row["name"] == "the whole proof"]
proof = json.loads((PROOF / "validity.json").read_text())

coverage = table("Coverage of 95 % intervals")
sizes = ["n = 50", "n = 200", "n = 1,000"]
add("lowest coverage of a 95 % interval, 50 samples or more", "share", min(column(coverage, *sizes)), 0.94, True, validity)
add("highest coverage of a 95 % interval, 50 samples or more", "share", max(column(coverage, *sizes)), 0.96, False, validity)
equal = table("False differences")
add("false winners among 6 equal arms", "share", max(column(equal, "a winner named")), 0.05, False, validity)
add("false differences among 6 equal arms", "share", max(column(equal, "some pair called different")), 0.05, False, validity)
ratios = column(table("Predicted against simulated"), "ratio")
add("largest error of a predicted sample size", "share", round(max(abs(1 - r) for r in ratios), 4), 0.10, False, validity)
add("size of the equivalence test", "share", max(column(table("Size of the equivalence"), "called equivalent")), 0.05, False, validity)
still = [row for row in table("Sequential rule") if row["true difference"] == 0]
add("error of the sequential rule, peeking at every sample", "share", max(column(still, "stopped with a difference")), 0.05, False, validity)
judge = table("Judge scores")
add("largest bias of a corrected judge score (PPI)", "points", round(max(map(abs, column(judge, "bias of PPI, points"))), 4), 0.5, False, validity)
add("lowest coverage of a corrected judge score (PPI)", "share", min(column(judge, "coverage of PPI")), 0.94, True, validity)
add("highest coverage of a corrected judge score (PPI)", "share", max(column(judge, "coverage of PPI")), 0.96, False, validity)
add("largest bias of a corrected judge score (Rogan-Gladen)", "points", round(max(map(abs, column(judge, "bias of Rogan-Gladen, points"))), 4), 0.5, False, validity)

for name, package, target in [
    ("statistics equal to SciPy's and statsmodels', tests", "bench-stats", "scipy"),
    ("text scores equal to sacreBLEU's and rouge-score's, tests", "bench-run", "score"),
]:
    arguments = [CARGO, "test", "-p", package, "--test", target]
    if target == "score":
        arguments.append("text_scores")
    passed, failed = map(int, re.search(r"(\d+) passed; (\d+) failed", run(arguments)).groups())
    add(name, "passed", passed, passed + failed, True, " ".join(["cargo", *arguments[1:]]))

if "--no-speed" in sys.argv:
    old = ROOT / "benches/stats/results.json"
    kept = json.loads(old.read_text()) if old.exists() else []
    results += [row for row in kept if row["name"].startswith("8 arms")]
else:
    measure_speed()

(ROOT / "benches/stats/results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
for row in results:
    kept = row["value"] >= row["floor"] if row["higher_is_better"] else row["value"] <= row["floor"]
    print("kept  " if kept else "MISSED", row["name"], row["value"], "floor", row["floor"])
