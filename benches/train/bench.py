"""Our trainer beside Hugging Face transformers and PEFT, in turns, on one machine; writes results.json.

    python bench.py MODEL PATH_OF_TRAIN_SPEED [ROUNDS [STEPS]]

`python` is one with the peer installed. Each round measures both sides one after the other, so that
what else runs on the machine meets both alike; the median round counts.
"""

import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
CASES = [
    # name, rows, tokens, extra, floor of the speed, ceiling of the memory
    ("4x256", 4, 256, [], 1.3, 0.35),
    ("1x1024", 1, 1024, [], 1.3, 0.35),
    ("4x256_checkpointing", 4, 256, ["checkpointing"], 1.0, 0.2),
]


def measure(command, case, model, steps):
    _, rows, tokens, extra, *_ = case
    arguments = [*command, model, str(rows), str(tokens), str(steps), *extra]
    environment = dict(os.environ, RAYON_NUM_THREADS="2", OMP_NUM_THREADS="2")
    run = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    return json.loads(run.stdout.strip().splitlines()[-1])


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    wide = "AVX-512" if any("avx512f" in line for line in lines) else "without AVX-512"
    memory = pathlib.Path("/proc/meminfo").read_text().split()[1]
    load = os.getloadavg()[1]
    return (f"{os.cpu_count()} virtual cores ({name}, {wide}), {int(memory) / 1e6:.0f} GB, no GPU, "
            f"load average at the end {load:.1f}")


def main():
    model, ours = sys.argv[1], sys.argv[2]
    rounds, steps = (int(x) for x in (sys.argv[3:5] + ["3", "4"])[:2]) if len(sys.argv) > 4 else (
        int(sys.argv[3]) if len(sys.argv) > 3 else 3, 4)
    results = []
    for case in CASES:
        name, rows, tokens, extra, floor, ceiling = case
        pairs = []
        for _ in range(rounds):
            pairs.append((measure([ours], case, model, steps),
                          measure([sys.executable, str(HERE / "hf_bench.py")], case, model, steps)))
            print(name, *pairs[-1], flush=True)
        for key, unit, bound, higher in [
            ("tokens_per_second", "tokens/s", floor, True),
            ("tokens_per_cpu_second", "tokens/CPU-s", None, True),
            ("peak_memory_bytes", "bytes", ceiling, False),
        ]:
            value, peer = (statistics.median(pair[side][key] for pair in pairs) for side in (0, 1))
            results.append({
                "name": f"train_{name}_{key}",
                "unit": unit,
                "value": value,
                "peer": "transformers + PEFT, f32",
                "peer_value": peer,
                "ratio": round(value / peer, 3),
                # Of the ratio: at least this where higher is better, at most this where not.
                "floor": bound,
                "higher_is_better": higher,
                "command": " ".join(["train_speed MODEL", str(rows), str(tokens), str(steps), *extra]),
                "machine": machine(),
                "date": datetime.date.today().isoformat(),
            })
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
