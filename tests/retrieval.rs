//! What a user does with documents: indexes built, looked at and asked, and settings swept.

use crate::{Ran, Scratch};

/// The scratch experiment with a folder of documents instead of a file of rows.
fn with_folder() -> Scratch {
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.path().join("docs/deep")).unwrap();
    for i in 0..12 {
        scratch.write(
            &format!("docs/deep/d{i}.md"),
            &format!("---\nland: {i}\n---\n# Town {i}\n\nThrough town {i} the river runs to land {i} and gate {i}.\n"),
        );
    }
    let gold = String::from_utf8(scratch.read("eval.jsonl")).unwrap();
    let gold = (0..12)
        .rev()
        .fold(gold, |text, i| text.replace(&format!("[\"d{i}\"]"), &format!("[\"deep/d{i}.md\"]")));
    scratch.write("eval.jsonl", &gold);
    scratch.edit("corpus: corpus.jsonl", "corpus: docs/");
    scratch
}

#[track_caller]
fn ok(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    ran
}

#[test]
fn a_folder_is_a_corpus_and_what_holds_no_text_is_skipped_by_name() {
    let scratch = with_folder();
    std::fs::write(scratch.path().join("docs/broken.pdf"), b"%PDF-1.7 noise").unwrap();
    std::fs::write(scratch.path().join("docs/image.png"), b"\x89PNG\0\0").unwrap();
    let ran = ok(scratch.bench(&["check", "x.yaml"]));
    assert!(ran.err.contains("2 files of the corpus were skipped"), "{}", ran.err);
    assert!(ran.err.contains("docs/broken.pdf (a damaged PDF"), "{}", ran.err);
    assert!(ran.err.contains("docs/image.png (binary, not text)"), "{}", ran.err);
    let ran = ok(scratch.bench(&["run", "x.yaml"]));
    assert!(ran.out.contains("0 failed"), "{}", ran.out);
}

#[test]
fn a_gold_id_that_no_file_has_is_an_error_before_the_run() {
    let scratch = with_folder();
    std::fs::remove_file(scratch.path().join("docs/deep/d7.md")).unwrap();
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("names gold document `deep/d7.md`"), "{}", ran.err);
}

#[test]
fn an_index_is_built_shown_asked_and_follows_its_documents() {
    let scratch = with_folder();
    let which = ["x.yaml", "--set", "facts", "--arm", "rag"];
    let index = |command: &str, more: &[&str]| {
        ok(scratch.bench(&[&["index", command], &which[..], more].concat()))
    };
    assert!(index("info", &[]).out.contains("not built; `bench index build` builds it"));
    let built = index("build", &[]).out;
    assert!(built.contains("12 documents, 12 chunks, 256 numbers per vector"), "{built}");
    assert!(built.contains("12 documents new"), "{built}");
    assert!(index("build", &[]).out.contains("was there"));
    assert!(index("info", &[]).out.contains("12 chunks, 256 numbers per vector"));

    let found = index("query", &["which river runs through town 7?", "--top-k", "2"]).out;
    assert!(found.starts_with(" 1. ") && found.contains("deep/d7.md#0  Town 7"), "{found}");
    assert!(found.contains("    Through town 7 the river runs"), "{found}");
    assert!(!found.contains(" 3. "), "{found}");

    scratch.write("docs/deep/d7.md", "# Town 7\n\nIt moved to the hills.\n");
    std::fs::write(scratch.path().join("docs/new.txt"), "A lighthouse stands on the cape.")
        .unwrap();
    assert!(index("info", &[]).out.contains("from another corpus, cut or embedder"));
    assert!(index("build", &[]).out.contains("2 documents new"));
    let found = index("query", &["lighthouse on the cape", "--top-k", "1"]).out;
    assert!(found.contains("new.txt#0"), "{found}");
}

#[test]
fn questions_are_read_line_by_line() {
    use std::io::Write as _;
    let scratch = with_folder();
    let mut command = scratch.command(&["index", "query", "x.yaml", "--set", "facts"]);
    let piped = std::process::Stdio::piped;
    let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"town 3\n\ntown 5\n").unwrap();
    let ran = ok(Ran::from(child.wait_with_output().unwrap()));
    assert!(ran.out.contains("d3.md#0") && ran.out.contains("d5.md#0"), "{}", ran.out);
}

#[test]
fn a_sweep_chooses_on_dev_and_compares_once() {
    let scratch = with_folder();
    let dev = String::from_utf8(scratch.read("eval.jsonl")).unwrap();
    scratch.write("dev.jsonl", &dev.replace("\"id\":\"f", "\"id\":\"v"));
    scratch.edit("path: eval.jsonl,", "path: eval.jsonl, dev: dev.jsonl,");
    scratch.edit(
        "compare:",
        "sweep: { chunk: [{ by: document }, { size: 8, overlap: 2 }], top_k: [1, 5], metric: hit@1, rerank: [{ model: overlap }] }\ncompare:",
    );
    let ran = ok(scratch.bench(&["retrieve", "sweep", "x.yaml"]));
    assert!(ran.out.contains("Chosen on 12 dev questions by hit@1"), "{}", ran.out);
    let csv = String::from_utf8(scratch.read("reports/x/sweep.csv")).unwrap();
    // 4 retrievers x 2 cuts x with and without reranker x (5 measures + 2 of passages x 2 top_k)
    assert_eq!(csv.lines().count(), 1 + 4 * 2 * 2 * (5 + 2 * 2), "{csv}");
    assert!(csv.contains(",passage_recall@5,"), "{csv}");
    let best = String::from_utf8(scratch.read("reports/x/best.yaml")).unwrap();
    assert!(best.contains("- name: rag_facts") && best.contains("top_k: "), "{best}");
    let experiment = String::from_utf8(scratch.read("x.yaml")).unwrap();
    let pasted = format!("arms:\n  {}\n", best.trim().replace('\n', "\n  "));
    scratch.write("pasted.yaml", &experiment.replace("arms:\n", &pasted));
    ok(scratch.bench(&["check", "pasted.yaml"]));
    let again = ok(scratch.bench(&["retrieve", "sweep", "x.yaml"]));
    assert_eq!(again.out, ran.out);
    let without = Scratch::new().bench(&["retrieve", "sweep", "x.yaml"]);
    assert_eq!(without.code, Some(3));
    assert!(without.err.contains("needs a `corpus`"), "{}", without.err);
}

#[test]
fn an_embedder_of_the_hub_is_its_onnx_file_and_its_tokenizer() {
    let scratch = Scratch::new();
    // What the hub's client does, without the hub.
    let client = "import os\ndef snapshot_download(repository, revision, local_dir, allow_patterns):\n    os.makedirs(local_dir + '/onnx', exist_ok=True)\n    wanted = f'{repository} {revision} {\" \".join(allow_patterns)}'\n    for name in ['onnx/model.onnx', 'tokenizer.json']:\n        open(f'{local_dir}/{name}', 'w').write(wanted)\n";
    std::fs::create_dir_all(scratch.path().join("python/huggingface_hub")).unwrap();
    scratch.write("python/huggingface_hub/__init__.py", client);
    scratch.edit("embedder: hashing", "embedder: { onnx: { hub: owner/name@v2, pooling: cls } }");
    let mut command = scratch.command(&["index", "build", "x.yaml"]);
    command.env("PYTHONPATH", scratch.path().join("python"));
    // No runtime, so that nothing is downloaded: the files are there before it is looked for.
    command.env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so");
    let ran = Ran::from(command.output().unwrap());
    assert_eq!(ran.code, Some(3), "{ran:#?}");
    let onnx = "cache/hub-onnx/owner--name--v2/onnx/model.onnx";
    let asked = String::from_utf8(scratch.read(onnx)).unwrap();
    assert_eq!(asked, "owner/name v2 onnx/model.onnx model.onnx tokenizer.json");
    assert!(ran.err.contains("ONNX Runtime is missing"), "{}", ran.err);
}
