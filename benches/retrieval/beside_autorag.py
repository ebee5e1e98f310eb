"""Runs the corpora of experiments/retrieval/sweep.yaml through AutoRAG and measures what it retrieves as we do.

    python -m venv v && v/bin/pip install AutoRAG==0.3.27 onnxruntime tokenizers
    v/bin/python beside_autorag.py <data> <folder with model.onnx and tokenizer.json> [--sets squad …] [--limit 500]
                            [--embeddings <file of bench's cache>]

AutoRAG chooses among its lexical, semantic and hybrid retrieval nodes on the dev questions (its own
optimiser, its own metrics), and what it chose is asked the test questions once. The embedder is the one
that bench uses: AutoRAG gets it through its OpenAI client from a server in this process, so that nothing is
fetched from a model hub. Writes autorag.json: per set what was chosen, and hit@1, hit@5, recall@10, mrr@10
and ndcg@10 of every test question.
"""

import argparse
import hashlib
import http.server
import json
import math
import pathlib
import struct
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
DIMENSION, WINDOW = 384, 256


class Embedder:
    """MiniLM by ONNX Runtime; vectors that bench computed already are taken from its cache."""

    def __init__(self, folder, cache):
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options)
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.tokenizer.enable_truncation(WINDOW)
        self.tokenizer.enable_padding()
        self.known = {}
        self.lock = threading.Lock()
        if cache:
            # A header of 80 bytes, then records: key, tokens, vector, checksum.
            size = 32 + 4 + DIMENSION * 4 + 4
            data = pathlib.Path(cache).read_bytes()[80:]
            for at in range(0, len(data) - size + 1, size):
                vector = struct.unpack_from(f"<{DIMENSION}f", data, at + 36)
                self.known[data[at:at + 32]] = vector

    def embed(self, texts):
        import numpy as np

        key = lambda purpose, text: hashlib.sha256(f"{purpose}\0{text}".encode()).hexdigest()[:32].encode()
        keys = [[key(purpose, text) for purpose in ("passage", "query")] for text in texts]
        find = lambda pair: next((self.known[k] for k in pair if k in self.known), None)
        with self.lock:
            missing = [i for i, pair in enumerate(keys) if find(pair) is None]
            missing.sort(key=lambda i: len(texts[i]))
            for start in range(0, len(missing), 16):
                batch = missing[start:start + 16]
                encoded = self.tokenizer.encode_batch([texts[i] for i in batch])
                ids = np.array([e.ids for e in encoded])
                mask = np.array([e.attention_mask for e in encoded])
                hidden = self.session.run(None, {"input_ids": ids, "attention_mask": mask,
                                                 "token_type_ids": np.zeros_like(ids)})[0]
                means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
                for i, mean in zip(batch, means):
                    self.known[keys[i][0]] = (mean / np.linalg.norm(mean)).tolist()
            return [find(pair) for pair in keys]


def serve(embedder):
    """OpenAI's embeddings protocol on loopback; gives the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
            vectors = embedder.embed(texts)
            if asked.get("encoding_format") == "base64":
                import base64

                vectors = [base64.b64encode(struct.pack(f"<{DIMENSION}f", *vector)).decode() for vector in vectors]
            data = [{"object": "embedding", "index": i, "embedding": list(v) if not isinstance(v, str) else v}
                    for i, v in enumerate(vectors)]
            body = json.dumps({"object": "list", "data": data, "model": "minilm",
                               "usage": {"prompt_tokens": 0, "total_tokens": 0}}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def config(port, lexical, hybrid):
    """An AutoRAG experiment: the usual retrieval nodes, with the modules given."""
    metrics = ["retrieval_ndcg", "retrieval_mrr", "retrieval_recall"]
    node = lambda kind, top_k, modules: {"node_type": kind, "strategy": {"metrics": metrics}, "top_k": top_k, "modules": modules}
    return {
        "vectordb": [{
            "name": "minilm", "db_type": "chroma", "client_type": "persistent", "collection_name": "minilm",
            "path": "${PROJECT_DIR}/resources/chroma",
            "embedding_model": [{"type": "openai", "model_name": "minilm", "api_key": "none",
                                 "api_base": f"http://127.0.0.1:{port}/v1"}],
        }],
        "node_lines": [{
            "node_line_name": "retrieve",
            "nodes": [
                node("lexical_retrieval", 50, lexical),
                node("semantic_retrieval", 50, [{"module_type": "vectordb", "vectordb": "minilm"}]),
                node("hybrid_retrieval", 10, hybrid),
            ],
        }],
    }


def trial(project, rows, corpus, settings):
    """One AutoRAG trial in a folder; gives what it retrieved, and the modules of each node with their parameters."""
    import pandas
    import yaml
    from autorag.evaluator import Evaluator

    project.mkdir(parents=True)
    pandas.DataFrame({
        "qid": [row["id"] for row in rows],
        "query": [row["input"] for row in rows],
        "retrieval_gt": [[row["context_ids"]] for row in rows],
        "generation_gt": [[row["reference"]] for row in rows],
    }).to_parquet(project / "qa.parquet")
    pandas.DataFrame({
        "doc_id": [row["id"] for row in corpus],
        "contents": [f"{row['title']}: {row['text']}" if row.get("title") else row["text"] for row in corpus],
        "metadata": [{"last_modified_datetime": "2026-11-21"} for _ in corpus],
    }).to_parquet(project / "corpus.parquet")
    (project / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    Evaluator(str(project / "qa.parquet"), str(project / "corpus.parquet"), project_dir=str(project / "run")).start_trial(
        str(project / "config.yaml"), skip_validation=True)
    folder = project / "run" / "0" / "retrieve"
    chosen = {}
    for kind in ("lexical_retrieval", "hybrid_retrieval"):
        summary = pandas.read_csv(folder / kind / "summary.csv")
        best = summary[summary["is_best"]].iloc[0]
        chosen[kind] = {"module_type": best["module_name"], **eval(best["module_params"], {})}
        chosen[kind].pop("top_k", None)
    best = next((folder / "hybrid_retrieval").glob("best_*.parquet"))
    return pandas.read_parquet(best)["retrieved_ids"].tolist(), chosen


def figures(found, gold):
    """Measures of one ranking of documents with binary relevance."""
    ranks = [rank for rank, document in enumerate(found[:10], 1) if document in gold]
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(gold), 10) + 1))
    return {
        "hit@1": float(1 in ranks), "hit@5": float(any(rank <= 5 for rank in ranks)),
        "recall@10": len(ranks) / len(gold), "mrr@10": 1 / ranks[0] if ranks else 0.0,
        "ndcg@10": sum(1 / math.log2(rank + 1) for rank in ranks) / ideal,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("model")
    parser.add_argument("--sets", nargs="+", default=["squad", "nq_open", "pubmedqa", "medquad"])
    parser.add_argument("--limit", type=int, default=500, help="dev questions")
    parser.add_argument("--embeddings", help="a file of bench's cache of embeddings")
    arguments = parser.parse_args()
    port = serve(Embedder(arguments.model, arguments.embeddings))
    rows = lambda *path: [json.loads(line) for line in pathlib.Path(arguments.data, *path).read_text().split("\n") if line]
    out = HERE / "autorag.json"
    results = json.loads(out.read_text()) if out.exists() else {}
    for name in arguments.sets:
        corpus, test = rows(name, "corpus.jsonl"), rows(name, "test.jsonl")
        dev = [row for row in rows(name, "train.jsonl") if row.get("context_ids")][:arguments.limit]
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            lexical = [{"module_type": "bm25", "bm25_tokenizer": ["porter_stemmer", "space"]}]
            hybrid = [{"module_type": "hybrid_rrf", "weight_range": "(4, 80)"},
                      {"module_type": "hybrid_cc", "normalize_method": ["mm", "tmm"], "weight_range": "(0.0, 1.0)",
                       "test_weight_size": 21}]
            _, chosen = trial(folder / "dev", dev, corpus, config(port, lexical, hybrid))
            fixed = dict(chosen["hybrid_retrieval"])
            if "weight" in fixed:
                # A list would be alternatives to AutoRAG; it reads a pair from text.
                weight = fixed.pop("weight")
                fixed |= {"weight_range": f"({weight}, {weight})", "test_weight_size": 1}
            found, _ = trial(folder / "test", test, corpus, config(port, [chosen["lexical_retrieval"]], [fixed]))
        each = [figures(list(ids), row["context_ids"]) for ids, row in zip(found, test, strict=True)]
        means = {key: sum(one[key] for one in each) / len(each) for key in each[0]}
        results[name] = {"n_dev": len(dev), "n_test": len(test), "chosen": chosen, "means": means,
                         "questions": {row["id"]: one for row, one in zip(test, each, strict=True)}}
        out.write_text(json.dumps(results, indent=1) + "\n")
        print(name, json.dumps(chosen), json.dumps(means))


if __name__ == "__main__":
    main()
