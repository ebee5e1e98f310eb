//! What an experiment names outside its own files: entries of the catalogue, model folders, keys in
//! the environment. Looked at before anything is spent, and nothing is loaded.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use bench_core::spec::{
    Arm, EmbedderSource, Experiment, IndexBackend, Judge, ModelSource, Problem, Rag,
    RerankerSource, Source, Strategy, did_you_mean,
};

use crate::catalog::{CATALOG, Kind};

/// What a command needs of an experiment.
#[derive(Clone, Copy)]
pub(crate) enum Needs<'a> {
    /// The models, keys and folders of these arms; of all where none is named.
    Arms(&'a [String]),
    /// What retrieval needs; no model answers.
    Retrieval,
}

/// Everything that is not where the experiment says, with its place and what to do.
pub(crate) fn problems(experiment: &Experiment, source: &Source, needs: Needs<'_>) -> Vec<Problem> {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|key| !key.is_empty());
    let mut look = Look { source, is_set: &is_set, problems: Vec::new() };
    let chosen = |arm: &&Arm| match needs {
        Needs::Arms([]) | Needs::Retrieval => true,
        Needs::Arms(names) => names.contains(&arm.name),
    };
    let arms: Vec<&Arm> = experiment.arms.iter().filter(chosen).collect();
    if let Needs::Arms(_) = needs {
        let used = used(experiment, &arms);
        for (name, model) in &experiment.models {
            look.model(name, model, used.contains(name.as_str()));
        }
    }
    match &experiment.embedder {
        EmbedderSource::Catalog(name) => {
            look.catalogued(&["embedder", "catalog"], name, Kind::Embedder, "embedder");
        }
        EmbedderSource::Path(path) => look.onnx(&["embedder", "path"], path, "embedder"),
        EmbedderSource::Onnx(onnx) => {
            if let Some(path) = &onnx.path {
                look.onnx(&["embedder", "onnx", "path"], path, "embedder");
            }
        }
        EmbedderSource::Endpoint(endpoint) => {
            let place = ["embedder", "endpoint", "api_key_env"];
            look.key(&place, endpoint.api_key_env.as_deref());
        }
        EmbedderSource::Hashing => {}
    }
    let composed = |arm: &Arm| {
        let part = |other: &&Arm| matches!(&other.strategy, Strategy::Compose(parts) if parts.contains(&arm.name));
        arms.iter().any(part)
    };
    for (index, arm) in experiment.arms.iter().enumerate() {
        if let Strategy::Rag(rag) = &arm.strategy
            && (arms.iter().any(|chosen| chosen.name == arm.name) || composed(arm))
        {
            look.retrieval(&["arms", &index.to_string(), "strategy", "rag"], rag);
        }
    }
    if let (Needs::Retrieval, Some(sweep)) = (needs, &experiment.sweep) {
        for (index, rerank) in sweep.rerank.iter().enumerate() {
            if let RerankerSource::Path(path) = &rerank.model {
                let place = ["sweep", "rerank", &index.to_string(), "model", "path"];
                look.onnx(&place, path, "reranker");
            }
        }
    }
    look.problems
}

/// The names of the models that these arms, and the judge, ask.
fn used<'a>(experiment: &'a Experiment, arms: &[&'a Arm]) -> BTreeSet<&'a str> {
    let mut used: BTreeSet<&str> = arms.iter().map(|arm| arm.answers_with()).collect();
    used.extend(experiment.judge.iter().flat_map(Judge::names));
    used.extend(experiment.rewards.values().map(|reward| reward.model.as_str()));
    for arm in &experiment.arms {
        match &arm.strategy {
            Strategy::Rag(rag) => {
                used.extend(rag.query_model.as_deref());
                used.extend(rag.rerank.as_ref().and_then(|rerank| rerank.chat_model()));
            }
            Strategy::Prompt(prompt) => {
                used.extend(prompt.propose.as_ref().and_then(|one| one.model.as_deref()));
            }
            Strategy::Finetune(_) | Strategy::Features(_) | Strategy::Compose(_) => {}
        }
    }
    used
}

struct Look<'a> {
    source: &'a Source,
    is_set: &'a dyn Fn(&str) -> bool,
    problems: Vec<Problem>,
}

impl Look<'_> {
    fn add(&mut self, path: &[&str], message: String, help: impl Into<String>) {
        self.problems.push(self.source.problem(path, message, "named here", help));
    }

    fn model(&mut self, name: &str, model: &ModelSource, is_used: bool) {
        match model {
            ModelSource::Catalog(id) => {
                self.catalogued(&["models", name, "catalog"], id, Kind::Model, "chat model");
            }
            ModelSource::Path(path) if is_used && !path.contains("${") => {
                if let Some((message, help)) = unusable(Path::new(path)) {
                    let message = format!("model `{name}`: {message}");
                    self.add(&["models", name, "path"], message, help);
                }
            }
            ModelSource::Endpoint(endpoint) if is_used => {
                let place = ["models", name, "endpoint", "api_key_env"];
                self.key(&place, endpoint.api_key_env.as_deref());
            }
            ModelSource::Path(_)
            | ModelSource::Endpoint(_)
            | ModelSource::Hub(_)
            | ModelSource::Scripted(_) => {}
        }
    }

    /// The catalogue must have the name, for this use.
    fn catalogued(&mut self, path: &[&str], name: &str, kind: Kind, what: &str) {
        let known: Vec<&str> =
            CATALOG.iter().filter(|entry| entry.kind == kind).map(|entry| entry.name).collect();
        if !known.contains(&name) && !name.contains("${") {
            let message = format!("the catalogue has no {what} `{name}`");
            self.add(path, message, did_you_mean(name, &known));
        }
    }

    fn key(&mut self, path: &[&str], variable: Option<&str>) {
        if let Some(variable) = variable.filter(|name| !name.contains("${"))
            && !(self.is_set)(variable)
        {
            let message = format!("the environment variable `{variable}` is not set");
            self.add(
                path,
                message,
                format!("export {variable}=…, the key; or leave `api_key_env` out"),
            );
        }
    }

    fn retrieval(&mut self, path: &[&str], rag: &Rag) {
        if let IndexBackend::Qdrant { api_key_env, .. } = &rag.index {
            let place = [path, &["index", "qdrant", "api_key_env"]].concat();
            self.key(&place, api_key_env.as_deref());
        }
        if let IndexBackend::Edge { .. } = &rag.index
            && cfg!(not(feature = "edge"))
        {
            let help = "build it with `cargo build --release --features edge`, or use `exact`";
            let message = "this program was built without the index `edge`".to_owned();
            self.add(&[path, &["index", "edge"]].concat(), message, help);
        }
        if let Some(rerank) = &rag.rerank
            && let RerankerSource::Path(folder) = &rerank.model
        {
            let place = [path, &["rerank", "model", "path"]].concat();
            self.onnx(&place, folder, "reranker");
        }
    }

    /// The folder of a model in ONNX format.
    fn onnx(&mut self, path: &[&str], folder: &str, what: &str) {
        if folder.contains("${") {
            return;
        }
        let missing = |name: &&str| !Path::new(folder).join(name).is_file();
        let missing: Vec<&str> =
            ["model.onnx", "tokenizer.json"].into_iter().filter(missing).collect();
        let message = if !Path::new(folder).exists() {
            format!("the {what}: there is nothing at `{folder}`")
        } else if !missing.is_empty() {
            format!("the {what}: the folder `{folder}` has no `{}`", missing.join("` and no `"))
        } else {
            return;
        };
        let help =
            "give a folder with `model.onnx` and `tokenizer.json`, from the working directory";
        self.add(path, message, help);
    }
}

/// What keeps a path from being a model, and what to do.
fn unusable(path: &Path) -> Option<(String, &'static str)> {
    let shown = path.display();
    if !path.exists() {
        let help = "give a Hugging Face folder or a GGUF file, from the working directory";
        return Some((format!("there is nothing at `{shown}`"), help));
    }
    if path.is_dir() {
        let help = "give a folder that holds the model as it was published: `config.json`, weights and tokenizer";
        let config = path.join("config.json");
        if !config.exists() {
            return Some((format!("the folder `{shown}` has no `config.json`"), help));
        }
        let read = fs_err::read_to_string(&config).map_err(|error| error.to_string());
        let parsed = read.and_then(|text| {
            serde_json::from_str::<serde_json::Value>(&text)
                .map_err(|error| format!("`{}` is not JSON: {error}", config.display()))
        });
        return parsed.err().map(|message| (message, help));
    }
    let mut magic = [0; 4];
    let read = fs_err::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    if read.is_err() || &magic != b"GGUF" {
        let help = "give a whole GGUF file that can be read, or a Hugging Face folder";
        return Some((format!("`{shown}` is no GGUF file"), help));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn found(text: &str, needs: Needs<'_>) -> Vec<String> {
        let (experiment, source, wrong) =
            bench_core::spec::parse_on("x.yaml", "x", text, &|_| None).unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let line = |problem: &Problem| text[..problem.span.offset()].matches('\n').count() + 1;
        problems(&experiment, &source, needs)
            .iter()
            .map(|problem| {
                let help = problem.help.clone().unwrap_or_default();
                format!("{}: {problem} [{help}]", line(problem))
            })
            .collect()
    }

    const EXPERIMENT: &str = "version: 1
models:
  a: { catalog: smolm2-135m-instruct }
  b: { path: no-such-folder/model.gguf }
  c: { endpoint: { base_url: 'http://x/v1', model: m, api_key_env: BENCH_TEST_NOT_SET } }
eval_sets: [{ name: s, path: e.jsonl, corpus: c.jsonl, scorers: [exact_match] }]
embedder: { path: no-such-embedder }
arms:
  - { name: a, model: a, strategy: prompt }
  - { name: b, model: b, strategy: prompt }
  - { name: c, model: c, strategy: { rag: { rerank: { model: { path: no-such-reranker } }, index: { qdrant: { url: 'http://x', api_key_env: BENCH_TEST_NOT_SET } } } } }
";

    #[test]
    fn everything_that_is_not_there_is_named_with_its_line() {
        let all = found(EXPERIMENT, Needs::Arms(&[]));
        let expect = [
            "3: the catalogue has no chat model `smolm2-135m-instruct` [did you mean `smollm2-135m-instruct`?]",
            "4: model `b`: there is nothing at `no-such-folder/model.gguf`",
            "5: the environment variable `BENCH_TEST_NOT_SET` is not set [export BENCH_TEST_NOT_SET=…",
            "7: the embedder: there is nothing at `no-such-embedder`",
            "11: the environment variable `BENCH_TEST_NOT_SET` is not set",
            "11: the reranker: there is nothing at `no-such-reranker`",
        ];
        assert_eq!(all.len(), expect.len(), "{all:#?}");
        for (problem, expect) in all.iter().zip(expect) {
            assert!(problem.starts_with(expect), "{problem} is not {expect}");
        }
    }

    #[test]
    fn only_what_a_command_needs_is_looked_at() {
        let one = ["b".to_owned()];
        let some = found(EXPERIMENT, Needs::Arms(&one));
        assert!(!some.iter().any(|problem| problem.contains("BENCH_TEST_NOT_SET")), "{some:#?}");
        assert!(some.iter().any(|problem| problem.starts_with("4: ")), "{some:#?}");
        let retrieval = found(EXPERIMENT, Needs::Retrieval);
        assert_eq!(retrieval.len(), 3, "{retrieval:#?}");
    }

    #[test]
    fn the_embedded_index_is_there_only_where_it_was_built_in() {
        let edge = "version: 1
models: { a: { scripted: { otherwise: x } } }
eval_sets: [{ name: s, path: s.jsonl, corpus: c.jsonl, scorers: [contains] }]
arms: [{ name: r, model: a, strategy: { rag: { index: { edge: {} } } } }]
";
        let problems = found(edge, Needs::Arms(&[]));
        let missing = "4: this program was built without the index `edge`";
        assert_eq!(problems.len(), usize::from(cfg!(not(feature = "edge"))), "{problems:#?}");
        assert!(problems.iter().all(|problem| problem.starts_with(missing)), "{problems:#?}");
    }

    #[test]
    fn a_folder_must_hold_a_model() {
        let folder = tempfile::tempdir().unwrap();
        assert!(unusable(folder.path()).unwrap().0.contains("has no `config.json`"));
        let config = folder.path().join("config.json");
        fs_err::write(&config, "{").unwrap();
        assert!(unusable(folder.path()).unwrap().0.contains("is not JSON"));
        assert!(unusable(&config).unwrap().0.contains("is no GGUF file"));
        fs_err::write(&config, "{}").unwrap();
        assert!(unusable(folder.path()).is_none());
    }
}
