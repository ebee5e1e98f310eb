"""Writes results.json: every floor that the statistics must keep, with the figure measured.

    pip install numpy scipy && python benches/stats/run.py [--validity] [--no-speed]

Run it from the root of the repository. Speed is measured anew, ours (criterion) and SciPy's; `--validity`
also runs the proof again, otherwise its committed figures are read; with `--no-speed` the speeds are kept
as they were, for a machine that is busy. CARGO names another cargo, MACHINE describes the machine.
"""
import datetime
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CARGO = os.environ.get("CARGO", "cargo")
MACHINE = os.environ.get("MACHINE", "2 cores, no GPU, Linux")
PROOF = ROOT / "reports/validity"
results = []


def add(name, unit, value, floor, higher_is_better, command, peer=None, peer_value=None, error=0.0):
    """`error`: the Monte-Carlo standard error of a simulated value."""
    results.append({
        "name": name, "unit": unit, "value": value, "peer": peer, "peer_value": peer_value, "floor": floor,
        "higher_is_better": higher_is_better, "command": command, "machine": MACHINE,
        "date": datetime.date.today().isoformat(), **({"standard_error": error} if error else {}),
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
    home = ROOT / "target" / "criterion-stats"
    shutil.rmtree(home, ignore_errors=True)
    os.environ["CRITERION_HOME"] = str(home)
    run([CARGO, "bench", "-p", "bench-stats", "--bench", "speed"])
    scipy = run([sys.executable, "benches/stats/scipy_speed.py"])
    seconds = sum(float(row.split("|")[-2]) for row in scipy.splitlines() if row.startswith("| boot") or row.startswith("| perm"))
    for found in sorted(home.glob("*/*/new/benchmark.json")):
        case = json.loads(found.read_text())["value_str"]
        mean = json.loads(found.with_name("estimates.json").read_text())["mean"]
        plain = case == "all scored"
        add(
            f"8 arms x 10,000 samples x 5 scorers, 10,000 draws, {case}", "seconds",
            round(mean["point_estimate"] / 1e9, 2), 10, False, "cargo bench -p bench-stats --bench speed",
            "SciPy: bootstrap and permutation_test, one call of each kind times the calls" if plain else None,
            round(seconds) if plain else None, error=round(mean["standard_error"] / 1e9, 3),
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


def share_error(share, runs):
    """The Monte-Carlo standard error of a share."""
    return round((share * (1 - share) / runs) ** 0.5, 4)


def covered(name, values):
    """`values`: coverages, each with the runs it was simulated with."""
    (low, of_low), (high, of_high) = min(values), max(values)
    add(f"lowest coverage of {name}", "share", low, 0.94, True, validity, error=share_error(low, of_low))
    add(f"highest coverage of {name}", "share", high, 0.96, False, validity, error=share_error(high, of_high))


def shares(rows, name, runs):
    return [(share, runs) for share in column(rows, name)]


coverage = table("Coverage of 95 % intervals")
sizes = ["n = 50", "n = 200", "n = 1,000"]
half = [row for row in coverage if row["scores and interval"].startswith("Bernoulli, p = 0.5")]
covered("a 95 % interval, 50 samples or more", [
    (share, 20_000) for share in column([row for row in coverage if row not in half], *sizes)])
side = [row for row in table("Intervals of a proportion") if row["interval"].startswith("Wilson") and row["n"] >= 50]
fifty = next(row for row in side if row["n"] == 50)
add(f"lowest coverage of a proportion of one half, 50 samples or more (at 50 only {fifty['possible below']:.3f} and "
    f"{fifty['possible above']:.3f} are possible)", "share", round(min(column(half, *sizes)), 4), 0.94, True, validity)
near = column(side, "mean, 0.45 to 0.55")
add("lowest mean coverage of proportions from 0.45 to 0.55, 50 samples or more (exact)", "share", round(min(near), 4), 0.94, True, validity)
add("highest mean coverage of proportions from 0.45 to 0.55, 50 samples or more (exact)", "share", round(max(near), 4), 0.96, False, validity)
equal = table("False differences")
worst = max(column(equal, "a winner named"))
add("false winners among 6 equal arms", "share", worst, 0.05, False, validity, error=share_error(worst, 2000))
worst = max(column(equal, "some pair called different"))
add("false differences among 6 equal arms", "share", worst, 0.05, False, validity, error=share_error(worst, 2000))
ratios = column(table("Predicted against simulated"), "ratio")
add("largest error of a predicted sample size", "share", round(max(abs(1 - r) for r in ratios), 4), 0.10, False, validity)
sizes_at_margin = table("Size of the equivalence")
exact = [row for row in sizes_at_margin if row["standard error"] == 0]
add("size of the equivalence test, right or wrong (exact)", "share", round(max(column(exact, "called equivalent")), 4), 0.05, False, validity)
worst = max((row for row in sizes_at_margin if row not in exact), key=lambda row: row["called equivalent"])
add("size of the equivalence test, normal scores (0.05 in theory, simulated)", "share", worst["called equivalent"], 0.05, False,
    validity, error=round(worst["standard error"], 4))
still = [row for row in table("Sequential rule") if row["true difference"] == 0]
worst = max(column(still, "stopped with a difference"))
add("error of the sequential rule, peeking at every sample", "share", worst, 0.05, False, validity, error=share_error(worst, 2000))
judge = table("Judge scores")
graded = table("Graded judge scores")
most = lambda rows, name: round(max(map(abs, column(rows, name))), 4)
RUNS, GRADED_RUNS = 40_000, 20_000

# Reports correct by as many labels, and more; the rest is what they refuse.
LEAST, LEAST_GRADED = 100, 200
for words, few in [("enough labels", False), ("so few labels that it is refused", True)]:
    rows = [row for row in judge if (row["human labels of 1,000"] < LEAST) == few]
    grades = [row for row in graded if (row["human labels of 1,000"] < LEAST_GRADED) == few]
    before = len(results)
    add(f"largest bias of a corrected judge score (PPI), {words}", "points", most(rows + grades, "bias of PPI, points"), 0.5, False, validity)
    covered(f"a corrected judge score (PPI), right or wrong, {words}", shares(rows, "coverage of PPI", RUNS))
    covered(f"a corrected judge score (PPI), five grades, {words}", shares(grades, "coverage of PPI", GRADED_RUNS))
    for truth in (0.6, 0.85):
        plain = [row for row in rows if row["truth"] == truth]
        name = f"a corrected judge score (Rogan-Gladen, where given), {words}, {100 * truth:.0f} % right"
        add(f"largest bias of {name}", "points", most(plain, "bias of Rogan-Gladen, points"), 0.5, False, validity)
        # It was given in so many of the runs.
        covered(name, [(row["coverage of Rogan-Gladen"], RUNS * row["Rogan-Gladen given"]) for row in plain
                       if row["coverage of Rogan-Gladen"] is not None])
    for row in results[before:] if few else []:
        row["floor"] = None

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
    if row["floor"] is None:
        print("told  ", row["name"], row["value"])
        continue
    # A simulated share is only known to within its error.
    slack = 2 * row.get("standard_error", 0)
    kept = row["value"] >= row["floor"] - slack if row["higher_is_better"] else row["value"] <= row["floor"] + slack
    print("kept  " if kept else "MISSED", row["name"], row["value"], "floor", row["floor"])
