"""Measures our retrieval beside other libraries, on the same vectors, model, runtime and texts.

    pip install numpy==2.4.6 usearch==2.26.6 hnswlib==0.8.0 onnxruntime==1.31.1 fastembed==0.9.1
    cargo build --release -p bench-retrieval -p bench-fastembed --examples
    python run.py <folder with model.onnx, tokenizer.json, libonnxruntime.so*> [--only index|graph|embed|edge]
    cargo build --release -p bench-qdrant --features edge --example edge_speed      (for --only edge)

Every figure is the median of interleaved rounds: each round measures every side once, in a process
of its own, so that a machine that slows down slows all of them. Writes results.json.
"""

import argparse
import csv
import datetime
import glob
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
N, DIMENSION, QUERIES, TEXTS = 100_000, 384, 300, 256


def index_peer(library, folder):
    """One library on the vectors in `folder`; prints JSON as our example does."""
    import numpy as np

    started = time.perf_counter()
    vectors = np.fromfile(f"{folder}/vectors.f32", np.float32).reshape(-1, DIMENSION)
    queries = np.fromfile(f"{folder}/queries.f32", np.float32).reshape(-1, DIMENSION)
    loaded = time.perf_counter() - started
    path = f"{folder}/{library}.index"
    started = time.perf_counter()
    if library == "numpy":
        np.save(path + ".npy", vectors)
        build = time.perf_counter() - started
        started = time.perf_counter()
        index = np.load(path + ".npy")

        def search(query):
            scores = index @ query
            top = np.argpartition(-scores, 10)[:10]
            return top[np.argsort(-scores[top])]

    elif library == "usearch":
        from usearch.index import Index

        index = Index(ndim=DIMENSION, metric="cos", dtype="f32")
        index.add(np.arange(len(vectors)), vectors)
        index.save(path)
        build = time.perf_counter() - started
        started = time.perf_counter()
        index = Index.restore(path, view=True)
        search = lambda query: index.search(query, 10).keys
    elif library == "hnswlib":
        import hnswlib

        index = hnswlib.Index("cosine", DIMENSION)
        index.init_index(len(vectors), ef_construction=200, M=16)
        index.add_items(vectors)
        index.save_index(path)
        build = time.perf_counter() - started
        started = time.perf_counter()
        index = hnswlib.Index("cosine", DIMENSION)
        index.load_index(path)
        index.set_ef(64)
        search = lambda query: index.knn_query(query, 10)[0][0]
    opened = time.perf_counter() - started
    del vectors
    found, seconds = [], []
    for query in queries:
        started = time.perf_counter()
        hits = search(query)
        seconds.append(time.perf_counter() - started)
        found.append([int(hit) for hit in hits])
    seconds.sort()
    print(json.dumps({"build_s": build, "open_s": opened, "p50_ms": seconds[len(seconds) // 2] * 1e3,
                      "p99_ms": seconds[round((len(seconds) - 1) * 0.99)] * 1e3, "found": found, "load_s": loaded}))


def embed_peer(library, model, texts):
    """Python on the same model; prints JSON as our example does. Batches of 16, two threads."""
    import numpy as np

    texts = json.loads(pathlib.Path(texts).read_text())
    cores = os.cpu_count()
    started = time.perf_counter()
    if library == "fastembed":
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        TextEmbedding.add_custom_model(
            "local/minilm", pooling=PoolingType.MEAN, normalization=True, sources=ModelSource(hf="local/minilm"),
            dim=384, model_file="model.onnx")
        folder = pathlib.Path(tempfile.mkdtemp())
        for name in ("model.onnx", "tokenizer.json"):
            (folder / name).symlink_to(pathlib.Path(model, name).resolve())
        (folder / "config.json").write_text('{"pad_token_id": 0}')
        (folder / "special_tokens_map.json").write_text('{"pad_token": "[PAD]"}')
        (folder / "tokenizer_config.json").write_text('{"model_max_length": 256, "pad_token": "[PAD]"}')
        embedder = TextEmbedding("local/minilm", specific_model_path=str(folder), threads=cores)
        embed = lambda: list(embedder.embed(texts, batch_size=16))
    else:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores
        session = onnxruntime.InferenceSession(f"{model}/model.onnx", options)
        tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
        tokenizer.enable_truncation(256)
        tokenizer.enable_padding()

        def embed():
            vectors = [None] * len(texts)
            order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
            for start in range(0, len(order), 16):
                batch = order[start:start + 16]
                encoded = tokenizer.encode_batch([texts[i] for i in batch])
                ids = np.array([e.ids for e in encoded])
                mask = np.array([e.attention_mask for e in encoded])
                hidden = session.run(None, {"input_ids": ids, "attention_mask": mask,
                                            "token_type_ids": np.zeros_like(ids)})[0]
                means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
                for i, mean in zip(batch, means):
                    vectors[i] = mean / np.linalg.norm(mean)
            return vectors
    opened = time.perf_counter() - started
    started = time.perf_counter()
    vectors = embed()
    print(json.dumps({"open_s": opened, "embed_s": time.perf_counter() - started, "n": len(vectors),
                      "first": [float(x) for x in vectors[0]]}))


def measure(command):
    """Runs a command; its JSON with wall, CPU seconds and peak memory of the process."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        if status != 0:
            sys.exit(f"{command} failed")
        output.seek(0)
        found = json.loads(output.read())
    return found | {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}


def make_data(folder):
    """Vectors, queries and texts."""
    import numpy as np

    generator = np.random.default_rng(7)
    centres = generator.normal(size=(500, DIMENSION))
    # Clustered, as embeddings are: uniform noise would be unfair to the graph indexes.
    near = lambda n: centres[generator.integers(0, 500, n)] + generator.normal(size=(n, DIMENSION)) * 0.7
    for name, n in (("vectors", N), ("queries", QUERIES)):
        vectors = near(n)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors.astype(np.float32).tofile(f"{folder}/{name}.f32")
    words = "tide harbour bridge lantern winter amber orchard slate river market bell salt the of and in".split()
    texts = [" ".join(generator.choice(words, generator.integers(40, 220))) + "." for _ in range(TEXTS)]
    pathlib.Path(folder, "texts.json").write_text(json.dumps(texts))


def bandwidth():
    """Bytes a second that all cores together read from memory: numpy's sum over 1 GB, a part each."""
    import concurrent.futures

    import numpy as np

    parts = np.array_split(np.ones(1 << 27, np.float64), os.cpu_count())
    size = sum(part.nbytes for part in parts)
    with concurrent.futures.ThreadPoolExecutor(len(parts)) as threads:
        # numpy sums without the interpreter's lock.
        return max(size / timed(lambda: list(threads.map(np.sum, parts))) for _ in range(9))


def quality():
    """Rows of what `bench retrieve sweep` and `beside_autorag.py` found on the public sets."""
    report = HERE.parents[1] / "reports" / "retrieval" / "comparison.csv"
    with open(report, newline="") as file:
        found = [row for row in csv.DictReader(file) if row["measure"] in ("hit@1", "hit@5", "ndcg@10")]
    beside = json.loads((HERE / "autorag.json").read_text())
    last = ["git", "log", "-1", "--format=%cs", "--", str(report)]
    date = subprocess.run(last, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    rows = []
    for row in found:
        ours, plain = float(row["chosen"]), float(row["baseline"])
        common = {"name": f"quality, {row['set']}, {row['n']} test questions: {row['measure']}", "unit": "share", "value": ours}
        rest = {"higher_is_better": True, "machine": "any: the figures do not depend on it", "date": date}
        rows.append({**common, "peer": "plain BM25", "peer_value": plain, "floor": plain,
                     "command": "bench retrieve sweep experiments/retrieval/sweep.yaml", **rest})
        rows.append({**common, "peer": "AutoRAG 0.3.27", "peer_value": round(beside[row["set"]]["means"][row["measure"]], 6), "floor": None,
                     "command": "python benches/retrieval/beside_autorag.py <data> <model folder>", **rest})
    return rows


def timed(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--target", default=os.environ.get("CARGO_TARGET_DIR", str(HERE.parents[1] / "target")))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["index", "graph", "embed", "edge"], help="keep the other rows of results.json")
    arguments = parser.parse_args()
    examples = pathlib.Path(arguments.target, "release", "examples")
    runtime = glob.glob(f"{arguments.model}/libonnxruntime.so*")[0]
    me = [sys.executable, str(HERE / "run.py")]
    rounds = {}

    graphs = ("usearch", "hnswlib")
    # The graph libraries are measured beside ours and beside numpy, which knows what is right.
    parts = {"index": ("index", "serve"), "graph": ("index", "serve"), "embed": ("embed",), "edge": ("index numpy", "edge"),
             None: ("index", "serve", "embed")}

    def add(name, command):
        if name in parts[arguments.only] or name.split()[0] in parts[arguments.only]:
            rounds.setdefault(name, []).append(measure(command))

    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: a child's peak memory counts from its parent's size.
        subprocess.run([*me, "make-data", folder], check=True)
        for _ in range(arguments.rounds):
            add("index ours", [str(examples / "index_speed"), f"{folder}/vectors.f32", f"{folder}/queries.f32",
                               str(DIMENSION), f"{folder}/ours"])
            add("serve ours", [str(examples / "index_speed"), "-", f"{folder}/queries.f32", str(DIMENSION),
                               f"{folder}/ours"])
            add("index numpy", [*me, "peer-index", "numpy", folder])
            add("embed ours", [str(examples / "embed_speed"), arguments.model, runtime, f"{folder}/texts.json"])
            for library in ("fastembed", "onnxruntime"):
                add(f"embed {library}", [*me, "peer-embed", library, arguments.model, f"{folder}/texts.json"])
        for library in graphs if arguments.only in (None, "graph") else ():  # their builds take minutes: once
            add(f"index {library}", [*me, "peer-index", library, folder])
        if arguments.only == "edge":  # its build takes minutes: once
            add("edge ours", [str(examples / "edge_speed"), f"{folder}/vectors.f32", f"{folder}/queries.f32",
                              str(DIMENSION), f"{folder}/edge"])

    middle = lambda name, field: statistics.median(found[field] for found in rounds[name])
    recall = lambda name: statistics.mean(
        len(set(a) & set(b)) / 10
        for a, b in zip(rounds[name][0]["found"], rounds["index numpy"][0]["found"], strict=True))
    cosine = lambda a, b: sum(x * y for x, y in zip(a["first"], b["first"], strict=True))
    machine = " ".join(next(line for line in open("/proc/cpuinfo") if "model name" in line).split(":")[1].split())
    load = os.getloadavg()[1]
    common = {
        "command": "python benches/retrieval/run.py <model folder>" + (f" --only {arguments.only}" if arguments.only else ""),
        "machine": f"{os.cpu_count()} virtual cores ({machine}), no GPU, load average {load:.1f}",
        "date": datetime.date.today().isoformat(),
    }
    rows = []

    def row(name, unit, value, peer, peer_value, floor, higher_is_better=False):
        number = lambda x: None if x is None else float(f"{x:.4g}")
        rows.append({"name": name, "unit": unit, "value": number(value), "peer": peer, "peer_value": number(peer_value),
                     "floor": floor, "higher_is_better": higher_is_better, **common})

    if arguments.only == "edge":
        for field, name, unit, floor in (("build_s", "build and write", "s", None), ("open_s", "open", "s", None),
                                         ("p50_ms", "search with text, median", "ms", None),
                                         ("p99_ms", "search with text, p99", "ms", 5)):
            row(f"edge index, 100,000 x 384: {name}", unit, middle("edge ours", field), "numpy, exact",
                middle("index numpy", field), floor)
        row("edge index, 100,000 x 384: recall@10", "share", recall("edge ours"), "numpy, exact", 1.0, 0.98, True)
    if arguments.only in (None, "index", "graph"):
        beside = {"index": ("numpy",), "graph": graphs, None: ("numpy", *graphs)}[arguments.only]
        for library in beside:
            peer = f"index {library}"
            share = "" if library == "numpy" else f" at recall@10 {recall(peer):.3f}"
            for field, name, unit, floor in (("build_s", "build and write", "s", 10), ("open_s", "open", "s", 0.2),
                                             ("p50_ms", "search, median", "ms", None), ("p99_ms", "search, p99", "ms", 30)):
                ours = "index ours" if field == "build_s" else "serve ours"
                row(f"exact index, 100,000 x 384: {name}", unit, middle(ours, field), library + share,
                    middle(peer, field), floor)
    if arguments.only in (None, "index"):
        row("exact index, 100,000 x 384: recall@10", "share", recall("serve ours"), "numpy", 1.0, 1.0, True)
        read = bandwidth()
        limit = N * DIMENSION * 4 / read * 1e3
        row("exact index: median search over the time to read the vectors from memory", "ratio",
            middle("serve ours", "p50_ms") / limit, f"{read / 1e9:.1f} GB/s, all cores", 1.0, None)
        row("exact index, 100,000 x 384: peak memory while serving", "MB", middle("serve ours", "peak_mb"), "the vectors alone",
            N * DIMENSION * 4 / 1e6, 1.2 * N * DIMENSION * 4 / 1e6)
    if arguments.only in (None, "embed"):
        ours = rounds["embed ours"]
        for library in ("fastembed", "onnxruntime"):
            peer = f"embed {library}"
            floor = lambda value: value if library == "fastembed" else None
            assert cosine(ours[0], rounds[peer][0]) > 0.999, "the same text must have the same vector"
            row("embedding, MiniLM int8, 256 texts: throughput", "texts/s", TEXTS / middle("embed ours", "embed_s"),
                f"Python {library}", TEXTS / middle(peer, "embed_s"), floor(TEXTS / middle(peer, "embed_s")), True)
            row("embedding, MiniLM int8, 256 texts: texts per CPU second", "texts/s", TEXTS / middle("embed ours", "cpu_s"),
                f"Python {library}", TEXTS / middle(peer, "cpu_s"), None, True)
            row("embedding, MiniLM int8, 256 texts: peak memory", "MB", middle("embed ours", "peak_mb"),
                f"Python {library}", middle(peer, "peak_mb"), floor(0.5 * middle(peer, "peak_mb")))
    rows += quality()
    graph = lambda r: r["peer"].split()[0] in graphs
    name = lambda r: r["name"].split()[0]
    part = lambda r: {"embedding,": "embed", "edge": "edge", "quality,": "quality"}.get(name(r), "graph" if graph(r) else "index")
    measured = {part(r) for r in rows}
    kept = json.loads((HERE / "results.json").read_text()) if (HERE / "results.json").exists() else []
    rows += [r for r in kept if part(r) not in measured]
    order = ["index", "graph", "edge", "embed", "quality"]
    rows.sort(key=lambda r: order.index(part(r)))
    (HERE / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    for r in rows:
        print(f"{r['name']}: {r['value']} {r['unit']} | {r['peer']}: {r['peer_value']} | floor {r['floor']}")


if __name__ == "__main__":
    match sys.argv[1:2]:
        case ["make-data"]:
            make_data(*sys.argv[2:])
        case ["peer-index"]:
            index_peer(*sys.argv[2:])
        case ["peer-embed"]:
            embed_peer(*sys.argv[2:])
        case _:
            main()
