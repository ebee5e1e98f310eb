"""LoRA training on a GPU: ours beside transformers + PEFT, and Unsloth where it is installed.

    python benches/train/cuda.py TRAIN_SPEED GENERATE_SPEED [STEPS]

TRAIN_SPEED and GENERATE_SPEED are the examples of bench-candle and bench-mistralrs, built with
`scripts/build-cuda build --release --features cuda`; the second one writes answers of the same shape through
mistral.rs with paged attention. `python` is one with torch for CUDA, transformers and peft. The shape is that of
Llama 3.2 1B with random weights in bf16, rank 16 on all seven projections; all sides learn the same rows.
Memory is the most that `nvidia-smi` shows while a side runs. Writes results/cuda.json with the loss of every
step, and the figures into results.json.
"""

import datetime
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).parent
SHAPE = "llama-3.2-1b"
CASES = {"4x1024": (4, 1024, []), "4x1024_checkpointing": (4, 1024, ["checkpointing"])}


def smi(query):
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "--id=0"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def measure(command):
    """What a side prints, with the most memory that the GPU used meanwhile beyond what it used before."""
    before, most, done = int(smi("memory.used")), [0], threading.Event()

    def watch():
        while not done.is_set():
            most[0] = max(most[0], int(smi("memory.used")))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    finally:
        done.set()
        watcher.join()
    found = json.loads(run.stdout.strip().splitlines()[-1])
    return found | {"gpu_memory_bytes": (most[0] - before) * 2**20}


def main():
    ours, serving, steps = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "20"
    shapes = pathlib.Path(os.environ.get("BENCH_SHAPES", HERE / "shapes"))
    if not (shapes / SHAPE / "tokenizer_config.json").exists():
        subprocess.run([sys.executable, str(HERE / "make_model.py"), SHAPE, str(shapes / SHAPE)], check=True)
    peers = {"transformers + PEFT, bf16": [sys.executable, str(HERE / "hf_bench.py")]}
    if importlib.util.find_spec("unsloth"):
        peers["Unsloth, bf16"] = [sys.executable, str(HERE / "hf_bench.py"), "unsloth"]
    machine = f"{smi('name')}, driver {smi('driver_version')}, {os.cpu_count()} cores"
    results = {item["name"]: item for item in json.loads((HERE / "results.json").read_text())}
    results.pop("train_cuda_1b_tokens_per_second", None)
    report = {"machine": machine, "date": datetime.date.today().isoformat(), "shape": SHAPE, "cases": {}}
    for name, (rows, tokens, extra) in CASES.items():
        arguments = [str(shapes / SHAPE), str(rows), str(tokens), steps, *extra]
        found = {"ours, bf16": measure([ours, *arguments])}
        for peer, (program, script, *words) in peers.items():
            found[peer] = measure([program, script, *arguments, "cuda", *words])
        report["cases"][name] = found
        for side, figures in found.items():
            print(name, side, {key: value for key, value in figures.items() if key != "losses"}, flush=True)
        mine, peer = found["ours, bf16"], found["transformers + PEFT, bf16"]
        for key, unit, higher in [("tokens_per_second", "tokens/s", True), ("gpu_memory_bytes", "bytes", False)]:
            entry = f"train_cuda_1b_{name}_{key}"
            results[entry] = {
                "name": entry, "unit": unit, "value": mine[key], "peer": "transformers + PEFT, bf16",
                "peer_value": peer[key], "floor": None, "higher_is_better": higher,
                "command": " ".join(["train_speed", SHAPE, *arguments[1:]]), "machine": machine,
                "date": report["date"], "ratio": round(mine[key] / peer[key], 3)}
    said = subprocess.run([serving, str(shapes / SHAPE)], check=True, stdout=subprocess.PIPE, text=True).stdout
    print(said, flush=True)
    report["generation"] = said.splitlines()
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "cuda.json").write_text(json.dumps(report, indent=2) + "\n")
    (HERE / "results.json").write_text(json.dumps(list(results.values()), indent=2) + "\n")


if __name__ == "__main__":
    main()
