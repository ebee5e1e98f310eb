//! A cross-encoder through the real runtime, on a tiny model that a script made. `BENCH_TEST_MINILM`
//! names a folder that holds `libonnxruntime.so*`; without it the test says that it was skipped.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use bench_core::backend::Reranker;
use bench_fastembed::OnnxReranker;
use serde::Deserialize;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cross_encoder")
}

fn runtime(test: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("BENCH_TEST_MINILM") else {
        // Past the harness, which shows nothing of a test that passes.
        let _ = writeln!(
            std::io::stderr(),
            "skipped {test}: BENCH_TEST_MINILM names no folder with ONNX Runtime"
        );
        return None;
    };
    let entries = fs_err::read_dir(PathBuf::from(folder)).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    paths.find(|path| path.to_string_lossy().contains("libonnxruntime.so"))
}

#[test]
fn scores_equal_those_of_onnxruntime_in_python() {
    #[derive(Deserialize)]
    struct Expected {
        query: String,
        passages: Vec<String>,
        scores: Vec<f64>,
    }
    let name = "scores_equal_those_of_onnxruntime_in_python";
    let Some(runtime) = runtime(name) else { return };
    let text = fs_err::read_to_string(fixture().join("expected.json")).unwrap();
    let expected: Expected = serde_json::from_str(&text).unwrap();
    let model = OnnxReranker::open(&fixture(), &runtime).unwrap();
    let found = model.score(&expected.query, &expected.passages).unwrap();
    assert_eq!(found.len(), expected.scores.len());
    for (found, expect) in found.iter().zip(&expected.scores) {
        assert!((found - expect).abs() < 1e-4, "{found} is not {expect}");
    }
    // More passages than a batch, of many lengths, come back in their own order.
    let many: Vec<String> =
        (0..40).map(|n| expected.passages[n % 4].repeat(1 + n * 7 % 5)).collect();
    let together = model.score(&expected.query, &many).unwrap();
    for (text, score) in many.iter().zip(together) {
        let alone = model.score(&expected.query, std::slice::from_ref(text)).unwrap()[0];
        assert!((alone - score).abs() < 1e-4, "{text}");
    }
    assert!(model.score(&expected.query, &[]).unwrap().is_empty());
}

#[test]
fn what_is_missing_or_no_cross_encoder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = Path::new("/nowhere/libonnxruntime.so");
    let error = |runtime: &Path| OnnxReranker::open(folder.path(), runtime).err().unwrap().chain();
    assert!(error(nowhere).contains("model.onnx"));
    fs_err::write(folder.path().join("model.onnx"), "no model").unwrap();
    assert!(error(nowhere).contains("tokenizer.json"));
    fs_err::copy(fixture().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let text = error(nowhere);
    // The runtime that another test has loaded serves this one too.
    assert!(text.contains("ONNX Runtime is missing") || text.contains("cannot rerank"), "{text}");
    let name = "what_is_missing_or_no_cross_encoder_is_named";
    let Some(runtime) = runtime(name) else { return };
    let text = error(&runtime);
    assert!(text.contains("cannot rerank with") && text.contains("model.onnx"), "{text}");
}
