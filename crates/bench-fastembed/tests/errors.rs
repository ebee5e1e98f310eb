//! What a user reads when a file is not there or not what it should be. Needs no model.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use bench_fastembed::{OnnxEmbedder, Options};

/// Writes the files that have contents and opens an embedder from them.
fn error(onnx: Option<&str>, tokenizer: Option<&str>, runtime: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: Option<&str>| {
        let path = folder.path().join(name);
        if let Some(content) = content {
            fs_err::write(&path, content).unwrap();
        }
        path
    };
    let [onnx, tokenizer, runtime] =
        [("model.onnx", onnx), ("t.json", tokenizer), ("r.so", runtime)]
            .map(|(name, content)| file(name, content));
    let opened = OnnxEmbedder::open(&onnx, &tokenizer, &runtime, &Options::default(), None);
    opened.err().unwrap().chain()
}

#[test]
fn a_missing_file_is_named() {
    assert!(error(None, Some("{}"), Some("")).contains("model.onnx"));
    assert!(error(Some(""), None, Some("")).contains("t.json"));
    let text = error(Some(""), Some("{}"), None);
    assert!(text.contains("ONNX Runtime is missing") && text.contains("r.so"), "{text}");
    assert!(text.contains("`bench models pull` gets it"), "{text}");
}

#[test]
fn a_runtime_that_is_no_library_is_an_error_and_no_panic() {
    let text = error(Some(""), Some("{}"), Some("not a library"));
    assert!(text.contains("cannot load ONNX Runtime (1.24 or newer is needed)"), "{text}");
}

#[test]
fn a_file_of_another_digest_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let [onnx, tokenizer] = ["model.onnx", "tokenizer.json"].map(|name| folder.path().join(name));
    fs_err::write(&onnx, "half a model").unwrap();
    fs_err::write(&tokenizer, "{}").unwrap();
    let options = Options::default();
    let promised = options.id("aa", "bb");
    let nowhere = Path::new("/nowhere/libonnxruntime.so");
    let opened = OnnxEmbedder::open(&onnx, &tokenizer, nowhere, &options, Some(&promised));
    let text = opened.err().unwrap().chain();
    assert!(text.contains("is not the file it should be; remove both and pull"), "{text}");
}

#[test]
fn the_id_depends_on_files_and_options() {
    let id = Options::default().id("aa", "bb");
    assert_eq!(id, Options::default().id("aa", "bb"));
    assert_ne!(id, Options::default().id("aa", "bc"));
    let prefixed = Options { query_prefix: "query: ".into(), ..Options::default() };
    assert_ne!(id, prefixed.id("aa", "bb"));
}
