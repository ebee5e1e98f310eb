#!/usr/bin/env python3
"""Times the quickstart and the commands that must answer at once, and writes results.json.

    python3 benches/quickstart/run.py target/release/bench

The models must be in the cache (`bench models pull`); the run and report folders are made anew.
"""

import datetime
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time

BENCH = sys.argv[1] if len(sys.argv) > 1 else "target/release/bench"
EXPERIMENT = "experiments/quickstart.yaml"
HERE = os.path.dirname(os.path.abspath(__file__))


def timed(*arguments):
    started = time.monotonic()
    done = subprocess.run([BENCH, *arguments], stdout=subprocess.DEVNULL)
    assert done.returncode == 0, (arguments, done.returncode)
    return time.monotonic() - started


def processor():
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}, {platform.system()}"


def main():
    for folder in ("runs/quickstart",):
        shutil.rmtree(folder, ignore_errors=True)
    rows = []

    def row(name, unit, value, floor, arguments):
        rows.append(
            {
                "name": name,
                "unit": unit,
                "value": round(value, 3),
                "peer": None,
                "peer_value": None,
                "floor": floor,
                "higher_is_better": False,
                "command": "bench " + " ".join(arguments),
                "machine": processor(),
                "date": datetime.date.today().isoformat(),
            }
        )
        print(rows[-1]["name"], rows[-1]["value"], unit)

    run = ("run", EXPERIMENT)
    row("whole quickstart", "minutes", timed(*run) / 60, 15, run)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    row("peak memory of the quickstart", "GiB", peak, 6, run)
    row("repeated quickstart", "seconds", timed(*run), 5, run)
    for command in (("check", EXPERIMENT), ("plan", EXPERIMENT), ("report", "reports/quickstart")):
        row(command[0], "seconds", timed(*command), 2, command)
    # What other commands measured stays.
    results = os.path.join(HERE, "results.json")
    with open(results) as file:
        measured = {row["name"] for row in rows}
        rows += [row for row in json.load(file) if row["name"] not in measured]
    with open(results, "w") as out:
        json.dump(rows, out, indent=1)
        out.write("\n")


main()
