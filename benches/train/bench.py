"""Our trainer beside Hugging Face transformers and PEFT, in turns, on one machine; writes results.json.

    python bench.py TRAIN_SPEED [ROUNDS [STEPS [CASE...]]]

`python` is one with the peer installed, TRAIN_SPEED the built example. The two model shapes are made
with random weights under `shapes/` beside this file unless BENCH_SHAPES names another folder. Each
round measures both sides one after the other, so that what else runs on the machine meets both
alike; the median round counts. With cases named, only those are measured and the others keep their
figures.
"""

import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
SHAPES = pathlib.Path(os.environ.get("BENCH_SHAPES", HERE / "shapes"))
SMOL, QWEN = "smollm2-135m", "qwen2.5-0.5b"
GIB = 2**30
CASES = {
    # name: shape, rows, tokens, extra, least share of the peer's speed, most share of its memory
    "4x256": (SMOL, 4, 256, [], 1.3, 0.35),
    "1x1024": (SMOL, 1, 1024, [], 1.3, 0.35),
    "4x256_checkpointing": (SMOL, 4, 256, ["checkpointing"], 1.0, 0.2),
    "1x1024_checkpointing": (SMOL, 1, 1024, ["checkpointing"], 1.0, 0.2),
}
# Ours alone, against a fixed amount of memory.
ALONE = {
    "qwen2.5-0.5b_1x512": (QWEN, 1, 512, ["checkpointing"], 6 * GIB),
    "qwen2.5-0.5b_1x512_qlora": (QWEN, 1, 512, ["checkpointing", "qlora"], 2.5 * GIB),
}
# Floors that this script does not measure, so that none is forgotten; README.md says why.
ELSEWHERE = [
    # `viggo.py` measures these, and `ladder.py` adds `ladder_*`.
    ("viggo_2_epochs_time", "s", 45 * 60, False),
    ("viggo_exact_match", "share", None, True),
    ("viggo_attribute_f1", "share", None, True),
    ("cuda_1b_tokens_per_second", "tokens/s", None, True),
]


def measure(command, shape, rows, tokens, steps, extra):
    arguments = [*command, str(SHAPES / shape), str(rows), str(tokens), str(steps), *extra]
    environment = dict(os.environ, RAYON_NUM_THREADS="2", OMP_NUM_THREADS="2")
    run = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    return json.loads(run.stdout.strip().splitlines()[-1])


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    wide = "AVX-512" if any("avx512f" in line for line in lines) else "without AVX-512"
    memory = pathlib.Path("/proc/meminfo").read_text().split()[1]
    load = os.getloadavg()[0]
    return (f"{os.cpu_count()} virtual cores ({name}, {wide}), {int(memory) / 1e6:.0f} GB, no GPU, "
            f"load average at the end {load:.1f}")


def entry(name, unit, value, floor, higher, command, **more):
    return {"name": f"train_{name}", "unit": unit, "value": value, "peer": None, "peer_value": None,
            "floor": floor, "higher_is_better": higher, "command": command, "machine": machine(),
            "date": datetime.date.today().isoformat(), **more}


def beside_peer(name, ours, rounds, steps):
    shape, rows, tokens, extra, least, most = CASES[name]
    pairs = []
    for _ in range(rounds):
        pairs.append((measure([ours], shape, rows, tokens, steps, extra),
                      measure([sys.executable, str(HERE / "hf_bench.py")], shape, rows, tokens, steps, extra)))
        print(name, *pairs[-1], flush=True)
    for key, unit, bound, higher in [
        ("tokens_per_second", "tokens/s", least, True),
        ("tokens_per_cpu_second", "tokens/CPU-s", None, True),
        ("peak_memory_bytes", "bytes", most, False),
    ]:
        value, peer = (statistics.median(pair[side][key] for pair in pairs) for side in (0, 1))
        command = " ".join(["train_speed", shape, str(rows), str(tokens), str(steps), *extra])
        yield entry(f"{name}_{key}", unit, value, bound and round(bound * peer, 1), higher, command,
                    peer="transformers + PEFT, f32", peer_value=peer, ratio=round(value / peer, 3),
                    floor_ratio=bound)


def alone(name, ours, rounds, steps):
    shape, rows, tokens, extra, most = ALONE[name]
    found = [measure([ours], shape, rows, tokens, steps, extra) for _ in range(rounds)]
    print(name, *found, flush=True)
    value = statistics.median(run["peak_memory_bytes"] for run in found)
    command = " ".join(["train_speed", shape, str(rows), str(tokens), str(steps), *extra])
    yield entry(f"{name}_peak_memory_bytes", "bytes", value, most, False, command)


def main():
    ours, rest = sys.argv[1], sys.argv[2:]
    rounds, steps = int(rest[0]) if rest else 3, int(rest[1]) if len(rest) > 1 else 4
    chosen = rest[2:] or [*CASES, *ALONE]
    for shape in {(CASES | ALONE)[name][0] for name in chosen}:
        if not (SHAPES / shape / "tokenizer_config.json").exists():
            subprocess.run([sys.executable, str(HERE / "make_model.py"), shape, str(SHAPES / shape)],
                           check=True)
    path = HERE / "results.json"
    results = {item["name"]: item for item in json.loads(path.read_text())} if path.exists() else {}
    for name, (_, _, _, _, most) in ALONE.items():
        item = entry(f"{name}_peak_memory_bytes", "bytes", None, most, False, None)
        results.setdefault(item["name"], item)
    for name, unit, floor, higher in ELSEWHERE:
        item = entry(name, unit, None, floor, higher, None)
        results.setdefault(item["name"], item)
    for name in chosen:
        one = beside_peer if name in CASES else alone
        for item in one(name, ours, rounds, steps):
            results[item["name"]] = item
        path.write_text(json.dumps(list(results.values()), indent=2) + "\n")


if __name__ == "__main__":
    main()
