#!/usr/bin/env python3
"""Measures `bench report` and its pages, and writes results.json beside this file.

    (cd benches/report && npm ci --ignore-scripts)
    cargo build --release -p bench -p bench-report --bins --examples
    python3 benches/report/run.py target/release/bench target/release/examples/large_run

The runs are made up by the example; the folders are made in a temporary directory. What a browser
shows is measured by browser.mjs, with the Chromium at CHROMIUM or /usr/bin/chromium.
"""

import datetime
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time

BENCH = sys.argv[1] if len(sys.argv) > 1 else "target/release/bench"
LARGE_RUN = sys.argv[2] if len(sys.argv) > 2 else "target/release/examples/large_run"
HERE = os.path.dirname(os.path.abspath(__file__))
QUICKSTART = "reports/quickstart"


def timed(*arguments):
    """Seconds and peak resident GiB of one command."""
    started = time.monotonic()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, (arguments, status)
    return time.monotonic() - started, usage.ru_maxrss / 2**20


def digest(folder):
    whole = hashlib.sha256()
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            whole.update(name.encode())
            with open(os.path.join(root, name), "rb") as file:
                whole.update(file.read())
    return whole.hexdigest()


def is_kept(row):
    """Whether a figure keeps its floor."""
    if row["higher_is_better"]:
        return row["value"] >= row["floor"]
    return row["value"] <= row["floor"]


def processor():
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    load = os.getloadavg()[0]
    return f"{len(names)} cores of {names[0]}, {platform.system()}, load average {load:.1f}"


def main():
    rows = []

    def row(name, unit, value, floor, command, is_higher_better=False):
        rows.append(
            {
                "name": name,
                "unit": unit,
                "value": round(value, 3),
                "peer": None,
                "peer_value": None,
                "floor": floor,
                "higher_is_better": is_higher_better,
                "command": command,
                "machine": processor(),
                "date": datetime.date.today().isoformat(),
            }
        )
        print(name, rows[-1]["value"], unit, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        quick = os.path.join(folder, "quickstart")
        shutil.copytree(QUICKSTART, quick)
        seconds, _ = timed(BENCH, "report", quick)
        row("report of the quickstart", "s", seconds, 2, f"bench report {QUICKSTART}")
        before = digest(quick)
        timed(BENCH, "report", quick)
        same = float(digest(quick) == before)
        row("second report is equal, byte for byte", "share", same, 1, f"bench report {QUICKSTART}", True)
        for trials, floor in ((5_000, 2.0), (20_000, None)):
            large = os.path.join(folder, str(trials))
            timed(LARGE_RUN, large, str(trials))
            seconds, _ = timed(BENCH, "report", large)
            size = os.path.getsize(os.path.join(large, "report.html")) / 1e6
            row(f"report.html of {trials:,} trials", "MB", size, floor, f"large_run x {trials} && bench report x")
        large = os.path.join(folder, "large")
        trials = int(os.environ.get("TRIALS", "1000000"))
        timed(LARGE_RUN, large, str(trials))
        size = os.path.getsize(os.path.join(large, "tables/trials.parquet")) / 1e6
        print(f"trials.parquet of {trials:,} trials: {size:.0f} MB")
        seconds, memory = timed(BENCH, "report", large)
        command = f"large_run x {trials} && bench report x"
        row(f"report over {trials:,} trials", "s", seconds, 60, command)
        row(f"peak memory of the report over {trials:,} trials", "GiB", memory, 4, command)
        html = os.path.getsize(os.path.join(large, "report.html")) / 1e6
        row(f"report.html of {trials:,} trials", "MB", html, None, command)
        shutil.rmtree(large)
        pages = os.path.join(folder, "browser.json")
        subprocess.run(["node", os.path.join(HERE, "browser.mjs"), BENCH, pages], check=True)
        with open(pages) as file:
            rows.extend(json.load(file))
    missed = [r["name"] for r in rows if r["floor"] is not None and not is_kept(r)]
    print("floors that are missed:", ", ".join(missed) or "none")
    with open(os.path.join(HERE, "results.json"), "w") as file:
        json.dump(rows, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
