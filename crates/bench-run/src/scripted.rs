//! A backend with fixed replies, so that everything but model quality is tested end to end without
//! a model. It is never a result: a run that uses it says so in every report.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bench_core::backend::{
    BackendError, Completion, Constraint, Embedder, Generator, IndexInfo, IndexJob, Indexer,
    ModelFolder, Passage, Probe, ProbeRow, Progress, Request, Retriever, Served, Stage, Task,
    TrainExample, TrainJob, TrainOutcome, TrainStep, Trainer,
};
use bench_core::chat::{Message, Role};
use bench_core::dataset::Document;
use bench_core::digest;
use bench_core::manifest::ModelEntry;
use bench_core::spec::{EmbedderSource, IndexBackend, ModelSource, Scripted};
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::backends::{Backends, Counter, Place, ResolvedModel};
use crate::prepare::text_probe;

/// Answers by rule, or from what a [`ScriptedTrainer`] remembered.
pub struct ScriptedGenerator {
    script: Scripted,
    memory: Vec<Remembered>,
    id: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct Remembered {
    asked: String,
    say: String,
}

/// The file a scripted adapter consists of.
const MEMORY: &str = "scripted_adapter.json";

impl ScriptedGenerator {
    /// A generator with the script's rules, and an adapter's memory when one is given.
    ///
    /// # Errors
    /// An adapter folder that a [`ScriptedTrainer`] did not write.
    pub fn new(script: &Scripted, adapter: Option<&Path>) -> Result<Self, BackendError> {
        let memory = match adapter {
            Some(folder) => {
                let bytes = fs_err::read(folder.join(MEMORY))
                    .map_err(|error| BackendError::fatal(BACKEND, error))?;
                serde_json::from_slice(&bytes)
                    .map_err(|error| BackendError::fatal(BACKEND, error))?
            }
            None => Vec::new(),
        };
        let id = format!("scripted{}", if adapter.is_some() { "+adapter" } else { "" });
        Ok(Self { script: script.clone(), memory, id })
    }

    fn reply(&self, messages: &[Message]) -> String {
        let asked = last_turn(messages);
        if let Some(row) = self.memory.iter().find(|row| row.asked == asked) {
            return row.say.clone();
        }
        let rule = self.script.rules.iter().find(|rule| asked.contains(&rule.when));
        rule.map_or_else(|| self.script.otherwise.clone(), |rule| rule.say.clone())
    }
}

const BACKEND: &str = "scripted";

/// Scripts know all languages but grammars.
///
/// # Errors
/// A grammar.
pub fn check_constraint(constraint: &Constraint) -> Result<(), BackendError> {
    match constraint {
        Constraint::Grammar(_) => Err(BackendError::fatal(
            BACKEND,
            "scripted replies cannot be held to a grammar; use `regex` or `choices`",
        )),
        Constraint::JsonSchema(_) | Constraint::Regex(_) | Constraint::Choices(_) => Ok(()),
    }
}

/// A script says what it says; what leaves the language is refused, never bent.
fn obeys(text: &str, constraint: &Constraint) -> Result<(), BackendError> {
    let rejected = |error: String| BackendError::rejected(BACKEND, error);
    let obeys = match constraint {
        Constraint::Choices(choices) => choices.iter().any(|choice| choice == text),
        Constraint::Regex(pattern) => Regex::new(&format!("\\A(?:{pattern})\\z"))
            .map_err(|error| rejected(error.to_string()))?
            .is_match(text),
        Constraint::JsonSchema(schema) => {
            let schema =
                jsonschema::validator_for(schema).map_err(|error| rejected(error.to_string()))?;
            serde_json::from_str(text).is_ok_and(|value| schema.is_valid(&value))
        }
        Constraint::Grammar(_) => return check_constraint(constraint),
    };
    if obeys {
        return Ok(());
    }
    Err(rejected(format!(
        "the scripted reply `{text}` does not belong to the constraint's language"
    )))
}

fn last_turn(messages: &[Message]) -> String {
    messages
        .iter()
        .rfind(|turn| turn.role == Role::User)
        .map(|turn| turn.content.clone())
        .unwrap_or_default()
}

fn words(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}

#[async_trait]
impl Generator for ScriptedGenerator {
    fn id(&self) -> &str {
        &self.id
    }

    fn count_tokens(&self, messages: &[Message]) -> Result<Option<u32>, BackendError> {
        Ok(Some(messages.iter().map(|turn| words(&turn.content)).sum()))
    }

    async fn generate(&self, request: &Request) -> Result<Completion, BackendError> {
        let started = Instant::now();
        tokio::time::sleep(Duration::from_millis(self.script.delay_ms)).await;
        let text = self.reply(&request.messages);
        match text.as_str() {
            "!transient" => return Err(BackendError::transient(BACKEND, "told to fail for now")),
            "!rejected" => return Err(BackendError::rejected(BACKEND, "told to refuse")),
            "!fatal" => return Err(BackendError::fatal(BACKEND, "told to stop")),
            _ => {}
        }
        if let Some(constraint) = &request.constraint {
            obeys(&text, constraint)?;
        }
        Ok(Completion {
            tokens_in: request.messages.iter().map(|turn| words(&turn.content)).sum(),
            tokens_out: words(&text),
            text,
            first_token_ms: None,
            latency_ms: started.elapsed().as_secs_f64() * 1e3,
            finish: "stop".into(),
            logprobs: Vec::new(),
        })
    }

    /// What it would say is certain, anything else is less likely.
    async fn probe(&self, rows: &[ProbeRow]) -> Result<Vec<Probe>, BackendError> {
        let mut probes = probe(rows);
        for (probe, row) in probes.iter_mut().zip(rows) {
            if self.reply(&row.messages) != row.completion {
                probe.nll = 1.0;
            }
        }
        Ok(probes)
    }
}

fn probe(rows: &[ProbeRow]) -> Vec<Probe> {
    let ids = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    rows.iter()
        .map(|row| Probe {
            token_ids: ids(&last_turn(&row.messages)),
            top1: ids(&row.completion),
            nll: 0.0,
        })
        .collect()
}

/// "Trains" by remembering every completion.
pub struct ScriptedTrainer;

impl Trainer for ScriptedTrainer {
    fn version(&self) -> String {
        BACKEND.into()
    }

    fn check(&self, _: &TrainJob) -> Result<(), BackendError> {
        Ok(())
    }

    fn token_ids(&self, _: &ModelFolder, rows: &[ProbeRow]) -> Result<Vec<Vec<u32>>, BackendError> {
        Ok(rows.iter().map(|row| row.completion.bytes().map(u32::from).collect()).collect())
    }

    fn train(
        &self,
        job: &TrainJob,
        on_step: &mut dyn FnMut(&TrainStep),
    ) -> Result<TrainOutcome, BackendError> {
        let fail = |error: std::io::Error| BackendError::fatal(BACKEND, error);
        let memory: Vec<Remembered> = job
            .examples
            .iter()
            .filter_map(|example| match example {
                TrainExample::Completion { messages, completion }
                | TrainExample::Labelled { messages, completion, label: true } => {
                    Some(Remembered { asked: last_turn(messages), say: completion.clone() })
                }
                TrainExample::Preference { messages, chosen, .. } => {
                    Some(Remembered { asked: last_turn(messages), say: chosen.clone() })
                }
                TrainExample::Text(text) => {
                    let row = text_probe(text);
                    Some(Remembered { asked: last_turn(&row.messages), say: row.completion })
                }
                TrainExample::Labelled { .. } => None,
            })
            .collect();
        if job.examples.is_empty() {
            return Err(BackendError::fatal(BACKEND, "there is nothing to train on"));
        }
        let step = TrainStep {
            step: 1,
            total_steps: 1,
            loss: 1.0,
            dev_loss: None,
            learning_rate: job.settings.learning_rate,
            tokens: memory.len() as u64,
            tokens_per_second: 1.0,
        };
        on_step(&step);
        let bytes = serde_json::to_vec(&memory).unwrap_or_default();
        fs_err::create_dir_all(&job.output).map_err(fail)?;
        crate::store::write_atomically(&job.output.join(MEMORY), &bytes).map_err(fail)?;
        Ok(TrainOutcome {
            adapter: job.output.clone(),
            digest: digest::of_bytes(&bytes),
            served: Served::Adapter,
            trainable_parameters: memory.len() as u64,
            total_parameters: memory.len() as u64,
            seconds: 0.0,
            peak_memory_bytes: 0,
            rows_too_long: 0,
            rows_cut: 0,
            dev_rows_too_long: 0,
            best_step: None,
            halved: 0,
            steps: vec![step],
        })
    }

    fn probe(
        &self,
        _: &ModelFolder,
        _: Option<&Path>,
        rows: &[ProbeRow],
    ) -> Result<Vec<Probe>, BackendError> {
        Ok(probe(rows))
    }
}

/// The scripted generator behind the trait.
///
/// # Errors
/// As [`ScriptedGenerator::new`].
pub fn load(script: &Scripted, adapter: Option<&Path>) -> Result<Arc<dyn Generator>, BackendError> {
    Ok(Arc::new(ScriptedGenerator::new(script, adapter)?))
}

/// An index that ranks whole documents by the words they share with the query, ties by their place
/// in the corpus. For tests.
#[derive(Clone, Debug, Default)]
pub struct TermOverlap {
    passages: Vec<Passage>,
}

impl TermOverlap {
    /// An index over documents.
    pub fn new(documents: &[Document]) -> Self {
        let passage = |document: &Document| Passage {
            id: document.id.clone(),
            document: document.id.clone(),
            title: document.title.clone(),
            text: document.text.clone(),
            score: 0.0,
        };
        Self { passages: documents.iter().map(passage).collect() }
    }
}

impl Indexer for TermOverlap {
    fn index(
        &self,
        job: &IndexJob,
        _: &mut dyn FnMut(u64, u64),
    ) -> Result<Arc<dyn Retriever>, BackendError> {
        Ok(Arc::new(Self::new(&job.documents)))
    }
}

impl Retriever for TermOverlap {
    fn retrieve(&self, query: &str, top_k: usize) -> Result<Vec<Passage>, BackendError> {
        let words = |text: &str| -> Vec<String> {
            let lower = text.to_lowercase();
            lower.split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect()
        };
        let query = words(query);
        let mut found = self.passages.clone();
        for passage in &mut found {
            let words = words(&passage.text);
            let shared = words.iter().filter(|word| !word.is_empty() && query.contains(word));
            passage.score = shared.count() as f64;
        }
        found.retain(|passage| passage.score > 0.0);
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found.truncate(top_k);
        Ok(found)
    }

    fn info(&self) -> IndexInfo {
        IndexInfo { documents: self.passages.len() as u64, ..IndexInfo::default() }
    }
}

/// [`Backends`] that know scripted models and term overlap only: no embedder. For tests.
pub struct ScriptedBackends;

impl Backends for ScriptedBackends {
    fn resolve(
        &self,
        name: &str,
        source: &ModelSource,
        _: &dyn Progress,
    ) -> Result<ResolvedModel, BackendError> {
        match source {
            ModelSource::Scripted(script) => Ok(resolve(script)),
            _ => Err(BackendError::fatal(BACKEND, format!("model `{name}` is not scripted"))),
        }
    }

    fn load(
        &self,
        model: &ResolvedModel,
        adapter: Option<&Path>,
    ) -> Result<Arc<dyn Generator>, BackendError> {
        match &model.place {
            Place::Scripted(script) => load(script, adapter),
            Place::Local(_) | Place::Endpoint(_) | Place::Embedder(_) => {
                Err(BackendError::fatal(BACKEND, "not scripted"))
            }
        }
    }

    fn counter(&self, _: &ResolvedModel) -> Result<Option<Arc<dyn Counter>>, BackendError> {
        Ok(None)
    }

    fn check_constraint(
        &self,
        _: &ResolvedModel,
        constraint: &Constraint,
    ) -> Result<(), BackendError> {
        check_constraint(constraint)
    }

    fn trainer(&self, _: &ResolvedModel) -> Result<Arc<dyn Trainer>, BackendError> {
        Ok(Arc::new(ScriptedTrainer))
    }

    fn embedder(
        &self,
        _: &EmbedderSource,
        _: &dyn Progress,
    ) -> Result<Arc<dyn Embedder>, BackendError> {
        Err(BackendError::fatal(BACKEND, "no embedder"))
    }

    fn indexer(&self, _: &IndexBackend) -> Result<Arc<dyn Indexer>, BackendError> {
        Ok(Arc::new(TermOverlap::default()))
    }
}

/// A scripted model as found: its script is its digest.
pub fn resolve(script: &Scripted) -> ResolvedModel {
    let digest = digest::of_json(&(&script.rules, &script.otherwise));
    let entry =
        ModelEntry { id: BACKEND.into(), digest, backend: BACKEND.into(), dtype: "none".into() };
    ResolvedModel { entry, place: Place::Scripted(script.clone()) }
}

/// Reports no progress.
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _: Stage, _: &str, _: u64) -> Box<dyn Task> {
        Box::new(Quiet)
    }

    fn say(&self, _: &str) {}
}

impl Task for Quiet {
    fn advance(&self, _: u64, _: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use bench_core::spec::ScriptedRule;

    fn request(text: &str) -> Request {
        Request {
            messages: vec![Message::user(text)],
            max_tokens: 8,
            temperature: 0.0,
            top_p: None,
            seed: 0,
            stop: Vec::new(),
            constraint: None,
            top_logprobs: 0,
        }
    }

    #[tokio::test]
    async fn the_first_matching_rule_answers_and_an_adapter_remembers() {
        let script = Scripted {
            rules: vec![ScriptedRule { when: "sky".into(), say: "blue".into() }],
            otherwise: "no idea".into(),
            delay_ms: 0,
        };
        let plain = ScriptedGenerator::new(&script, None).unwrap();
        assert_eq!(plain.generate(&request("the sky?")).await.unwrap().text, "blue");
        assert_eq!(plain.generate(&request("grass?")).await.unwrap().text, "no idea");

        let folder = tempfile::tempdir().unwrap();
        let job = TrainJob {
            base: ModelFolder { path: "x".into(), digest: "d".into() },
            examples: vec![TrainExample::Completion {
                messages: vec![Message::user("grass?")],
                completion: "green".into(),
            }],
            dev: Vec::new(),
            settings: bench_core::spec::Finetune::default(),
            seed: 0,
            output: folder.path().join("adapter"),
        };
        let outcome = ScriptedTrainer.train(&job, &mut |_| {}).unwrap();
        let tuned = ScriptedGenerator::new(&script, Some(&outcome.adapter)).unwrap();
        assert_eq!(tuned.generate(&request("grass?")).await.unwrap().text, "green");
    }
}
