"""Time and memory of each rung of the ladder, from the output matrix alone to all weights.

    python3 benches/train/ladder.py TRAIN_LADDER MODEL [ROWS TOKENS STEPS [METHOD...]]

TRAIN_LADDER is the built example `train_ladder`, MODEL a model folder (`make_model.py` makes
SmolLM2-135M's shape). Writes `train_ladder_*` entries into results.json beside this file and prints
the table of README.md. With methods named, only those are measured and the others keep their figures.
"""

import datetime
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} virtual cores ({names[0]}), no GPU, load average at the end {os.getloadavg()[0]:.1f}"


def main():
    program, model, *rest = sys.argv[1:]
    numbers, chosen = (rest[:3] or ["4", "256", "3"]), rest[3:]
    environment = dict(os.environ, RAYON_NUM_THREADS="2")
    process = subprocess.Popen([program, "--json", model, *numbers, *chosen], text=True, env=environment,
                               stdout=subprocess.PIPE)
    path = HERE / "results.json"
    print("| method | trained | seconds per step | tokens per second | peak memory, MiB | estimate, MiB |")
    print("|---|--:|--:|--:|--:|--:|", flush=True)
    for line in process.stdout:
        row = json.loads(line)
        print(f"| {row['method']} | {100 * row['trained_share']:.2f} % | {row['seconds_per_step']:.2f} "
              f"| {row['tokens_per_second']:.0f} | {row['peak_memory_bytes'] / 2**20:.0f} "
              f"| {row['estimated_memory_bytes'] / 2**20:.0f} |", flush=True)
        # Written row by row: a run takes a while, and what is there stays when it is stopped.
        results = {item["name"]: item for item in json.loads(path.read_text())}
        name = "train_ladder_" + "_".join("".join(c if c.isalnum() else " " for c in row["method"]).split())
        for key, unit in [("seconds_per_step", "s"), ("peak_memory_bytes", "bytes")]:
            results[f"{name}_{key}"] = {
                "name": f"{name}_{key}", "unit": unit, "value": round(row[key], 3), "peer": None,
                "peer_value": None, "floor": None, "higher_is_better": False,
                "command": " ".join(["train_ladder", pathlib.Path(model).name, *numbers]),
                "machine": machine(), "date": datetime.date.today().isoformat(),
                "trained_share": round(row["trained_share"], 6),
                "estimated_memory_bytes": row["estimated_memory_bytes"],
                "tokens_per_second": round(row["tokens_per_second"], 1)}
        path.write_text(json.dumps(list(results.values()), indent=2) + "\n")
    sys.exit(process.wait())


if __name__ == "__main__":
    main()
