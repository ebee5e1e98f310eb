//! all-MiniLM-L6-v2 through the real runtime. `BENCH_TEST_MINILM` names a folder with `model.onnx`,
//! `tokenizer.json` and `libonnxruntime.so*`; without it each test says that it was skipped.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use bench_core::backend::{BackendError, Embedder, Purpose};
use bench_fastembed::{OnnxEmbedder, Options};

struct Files {
    onnx: PathBuf,
    tokenizer: PathBuf,
    runtime: PathBuf,
}

impl Files {
    fn open(&self, options: &Options) -> Result<OnnxEmbedder, BackendError> {
        OnnxEmbedder::open(&self.onnx, &self.tokenizer, &self.runtime, options, None)
    }
}

fn files(test: &str) -> Option<Files> {
    let Some(folder) = std::env::var_os("BENCH_TEST_MINILM") else {
        // Past the harness, which shows nothing of a test that passes.
        let _ = writeln!(
            std::io::stderr(),
            "skipped {test}: BENCH_TEST_MINILM names no folder with the model"
        );
        return None;
    };
    let folder = PathBuf::from(folder);
    let entries = fs_err::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut runtimes = entries.filter(|path| path.to_string_lossy().contains("libonnxruntime.so"));
    Some(Files {
        onnx: folder.join("model.onnx"),
        tokenizer: folder.join("tokenizer.json"),
        runtime: runtimes.next().expect("the folder holds libonnxruntime.so*"),
    })
}

fn minilm(test: &str) -> Option<&'static OnnxEmbedder> {
    static MINILM: OnceLock<OnnxEmbedder> = OnceLock::new();
    let files = files(test)?;
    Some(MINILM.get_or_init(|| files.open(&Options::default()).unwrap()))
}

fn embed(model: &OnnxEmbedder, texts: &[&str]) -> Vec<Vec<f32>> {
    let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
    model.embed(Purpose::Passage, &texts).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn vectors_equal_those_of_onnxruntime_in_python() {
    let Some(model) = minilm("vectors_equal_those_of_onnxruntime_in_python") else { return };
    // Mean of the masked token vectors from onnxruntime 1.31.1, scaled to unit length.
    let expect = [0.00366, 0.0323, 0.02234, -0.04553, 0.03252, -0.01229, -0.04964, -0.05395];
    let found = &embed(model, &["The harbour master of Velm keeps the tide tables."])[0];
    assert_eq!(found.len(), 384);
    assert_eq!((model.dimension(), model.window()), (384, 254));
    assert!((cosine(found, found) - 1.0).abs() < 1e-5);
    for (found, expect) in found.iter().zip(expect) {
        assert!((found - expect).abs() < 1e-3, "{found} is not {expect}");
    }
}

#[test]
fn a_vector_does_not_depend_on_its_neighbours_and_the_order_is_kept() {
    let name = "a_vector_does_not_depend_on_its_neighbours_and_the_order_is_kept";
    let Some(model) = minilm(name) else { return };
    let texts: Vec<String> =
        (0..40).map(|n| "tide tables of Velm ".repeat(1 + n * 7 % 40)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for (text, together) in texts.iter().zip(embed(model, &texts)) {
        let alone = &embed(model, &[text])[0];
        assert!(cosine(alone, &together) > 0.9999, "{text}");
    }
}

#[test]
fn a_question_is_nearest_to_its_answer() {
    let Some(model) = minilm("a_question_is_nearest_to_its_answer") else { return };
    let vectors = embed(
        model,
        &[
            "Who looks after the ships' landing place?",
            "The harbour master is Ona Brill.",
            "Wheat is ground in the mill.",
            "Trams cross the bridge every hour.",
        ],
    );
    let scores: Vec<f32> = vectors[1..].iter().map(|v| cosine(&vectors[0], v)).collect();
    assert!(scores[0] > scores[1] + 0.1 && scores[0] > scores[2] + 0.1, "{scores:?}");
}

#[test]
fn tokens_are_counted_without_special_ones_and_without_a_limit() {
    let name = "tokens_are_counted_without_special_ones_and_without_a_limit";
    let Some(model) = minilm(name) else { return };
    assert_eq!(model.count_tokens("Who keeps the tide tables?"), 6);
    assert_eq!(model.count_tokens(&"tide ".repeat(1000)), 1000);
    // The last of 254 tokens is read, the 255th is not.
    let vectors = ["a", "tide"].map(|last| {
        let text = format!("{}{last}", "sea ".repeat(253));
        embed(model, &[&text, &format!("{text} {last}")])
    });
    assert!(cosine(&vectors[0][0], &vectors[1][0]) < 0.9999);
    assert!(cosine(&vectors[0][0], &vectors[0][1]) > 0.999_99);
}

#[test]
fn a_prefix_belongs_to_its_purpose_and_to_the_window() {
    let name = "a_prefix_belongs_to_its_purpose_and_to_the_window";
    let Some(files) = files(name) else { return };
    let options = Options { query_prefix: "query: ".into(), ..Options::default() };
    let model = files.open(&options).unwrap();
    let text = ["tide tables".to_owned()];
    let query = &model.embed(Purpose::Query, &text).unwrap()[0];
    let prefixed = &embed(&model, &["query: tide tables"])[0];
    assert!(
        cosine(query, prefixed) > 0.9999 && cosine(query, &embed(&model, &[&text[0]])[0]) < 0.99
    );
    assert_eq!(model.window(), 252);
}

#[test]
fn a_damaged_file_is_named() {
    let Some(files) = files("a_damaged_file_is_named") else { return };
    let folder = tempfile::tempdir().unwrap();
    let whole = fs_err::read(&files.onnx).unwrap();
    let half = folder.path().join("half.onnx");
    fs_err::write(&half, &whole[..whole.len() / 2]).unwrap();
    let garbage = folder.path().join("garbage.json");
    fs_err::write(&garbage, "{\"model\": 3}").unwrap();
    for (onnx, tokenizer, name) in
        [(&half, &files.tokenizer, "half.onnx"), (&files.onnx, &garbage, "garbage.json")]
    {
        let opened = OnnxEmbedder::open(onnx, tokenizer, &files.runtime, &Options::default(), None);
        let text = opened.err().unwrap().chain();
        assert!(text.contains(name) && text.contains("pull the model again"), "{text}");
    }
}
