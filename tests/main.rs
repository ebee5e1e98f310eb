//! What a user sees: the `bench` binary, run in a scratch directory with the scripted backend, and in
//! `ladder` with a toy model. No network.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod architecture;
mod bad_input;
mod browser;
mod crash;
mod endpoint;
mod features;
mod judge;
mod ladder;
mod learning;
mod quick;
mod report;
mod retrieval;
mod view;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A scratch directory with an experiment in it.
pub(crate) struct Scratch(tempfile::TempDir);

/// Two eval sets, five arms, a judge; the scripted model knows some answers.
pub(crate) const EXPERIMENT: &str = "version: 1
models:
  m:
    scripted:
      otherwise: I do not know
      rules: [{ when: 'the river runs', say: Ashlode }, { when: 'capital', say: Brindal }]
  j: { scripted: { otherwise: '{\"reason\": \"same fact\", \"grade\": 1}' } }
judge: { model: j, rubric: 'Grade 1: right. Grade 0: wrong.', grades: [0, 1], sample: 4, on: [facts] }
embedder: hashing
eval_sets:
  - { name: facts, path: eval.jsonl, corpus: corpus.jsonl, train: train.jsonl, scorers: [contains, token_f1], slices: [kind] }
  - { name: forms, path: forms.jsonl, train: train.jsonl, scorers: [exact_match] }
arms:
  - { name: zero_shot, model: m, strategy: prompt }
  - { name: few_shot, model: m, strategy: { prompt: { num_fewshot: 2 } } }
  - { name: rag, model: m, strategy: { rag: { top_k: 1 } } }
  - { name: lora, model: m, strategy: { finetune: { seeds: [0] } } }
  - { name: lora_rag, model: m, strategy: { compose: [lora, rag] } }
compare: { baseline: zero_shot }
";

impl Scratch {
    pub(crate) fn new() -> Self {
        let scratch = Self(tempfile::tempdir().unwrap());
        let lines = |n: usize, line: &dyn Fn(usize) -> String| {
            (0..n).map(|i| line(i) + "\n").collect::<String>()
        };
        scratch.write("x.yaml", EXPERIMENT);
        scratch.write(
            "eval.jsonl",
            &lines(12, &|i| {
                let (input, reference) = match i % 3 {
                    0 => (format!("Name the river of town {i}."), "Ashlode"),
                    1 => (format!("What is the capital of land {i}?"), "Brindal"),
                    _ => (format!("Who guards gate {i}?"), "Miriel"),
                };
                let kind = i % 2;
                format!("{{\"id\":\"f{i}\",\"input\":\"{input}\",\"reference\":\"{reference}\",\"context_ids\":[\"d{i}\"],\"meta\":{{\"kind\":\"k{kind}\"}}}}")
            }),
        );
        scratch.write(
            "corpus.jsonl",
            &lines(12, &|i| format!("{{\"id\":\"d{i}\",\"title\":\"Town {i}\",\"text\":\"Through town {i} the river runs to land {i} and gate {i}.\"}}")),
        );
        scratch.write(
            "train.jsonl",
            &lines(6, &|i| format!("{{\"input\":\"say {i}\",\"reference\":\"said {i}\"}}")),
        );
        scratch.write(
            "forms.jsonl",
            &lines(6, &|i| {
                format!("{{\"id\":\"g{i}\",\"input\":\"form {i}\",\"reference\":\"said {i}\"}}")
            }),
        );
        scratch
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path().join("x.yaml")).unwrap();
        assert!(text.contains(from), "{from}");
        self.write("x.yaml", &text.replacen(from, to, 1));
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env("BENCH_CACHE", self.path().join("cache"))
            .env("NO_COLOR", "1")
            .env_remove("RUST_BACKTRACE");
        command
    }

    #[track_caller]
    pub(crate) fn bench(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }

    /// Every file of a report, by relative path.
    pub(crate) fn files(&self, folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, files);
                } else {
                    files.push(path);
                }
            }
        }
        let mut files = Vec::new();
        walk(&self.path().join(folder), &mut files);
        files.sort();
        files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
