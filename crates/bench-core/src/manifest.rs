//! What a run was made of, so that its numbers can be traced and made again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::backend::{IndexInfo, TrainOutcome};
use crate::spec::{Effort, Experiment, ProposeFrom};

/// The `manifest.json` of a report. With the records it is all that a report is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this file's layout.
    pub format: u32,
    /// Version of the program that ran the trials.
    pub program: String,
    /// The experiment as it was understood.
    pub experiment: Experiment,
    /// Digest of the experiment, its texts and its data: equal digests mean the same plan.
    pub plan_digest: String,
    /// Digest of each data and text file, by the path as written.
    pub files: BTreeMap<String, String>,
    /// The models that answered or judged, by their name in the experiment.
    pub models: BTreeMap<String, ModelEntry>,
    /// Version of the figures of each scorer, see [`crate::spec::Scorer::version`]; 1 where absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scorers: BTreeMap<String, u32>,
    /// Training runs, in the order they ran.
    pub training: Vec<TrainingEntry>,
    /// Indexes, in the order they were made.
    pub indexes: Vec<IndexEntry>,
    /// Fairness checks between trainer and server.
    pub parity: Vec<ParityEntry>,
    /// Models that were not served in f32, compared with f32 before they answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<ProofEntry>,
    /// What judging took, per judge and in the order of the experiment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judging: Vec<JudgingEntry>,
    /// Sets that were decided before all their samples were asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped: Vec<StopEntry>,
    /// Where it ran.
    pub machine: Machine,
    /// Seconds per stage, by stage name, all attempts of the run added up.
    pub seconds: BTreeMap<String, f64>,
    /// The largest resident memory of the process, in bytes; 0 when unknown.
    pub peak_memory_bytes: u64,
    /// Things a reader must know, for example that a scripted backend answered.
    pub warnings: Vec<String>,
    /// Prompts that were chosen among several on dev samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tuning: Vec<TuningEntry>,
}

/// How the prompt, or other settings, of one arm on one set were chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuningEntry {
    /// The arm.
    pub arm: String,
    /// The eval set whose dev samples decided.
    pub set: String,
    /// The scorer that decided.
    pub metric: String,
    /// Dev samples there are.
    pub dev_samples: u64,
    /// Everything that was tried, in the order in which it was given and written.
    pub candidates: Vec<PromptCandidate>,
    /// Position of the one that was chosen.
    pub chosen: u64,
    /// Written prompts that were no prompt, or one that was there already.
    pub unusable: u64,
    /// Calls that tuning took.
    pub calls: u64,
    /// Prompt tokens of these.
    pub tokens_in: u64,
    /// Tokens they generated.
    pub tokens_out: u64,
    /// What was chosen.
    #[serde(default)]
    pub kind: TuningKind,
    /// Tokens that trials were trained on, all epochs.
    #[serde(default)]
    pub tokens_trained: u64,
    /// What choosing was allowed to cost, in token passes; absent where answers were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
}

impl TuningEntry {
    /// Token passes that choosing took, see [`Effort`].
    pub fn passes(&self) -> u64 {
        self.tokens_in + self.tokens_out + Effort::PASSES_PER_TRAINED_TOKEN * self.tokens_trained
    }
}

/// What was chosen on dev samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TuningKind {
    /// A prompt.
    #[default]
    Prompt,
    /// Settings of retrieval.
    Retrieval,
    /// Settings of fine-tuning.
    Finetune,
}

impl TuningKind {
    /// The strategy's name in an experiment.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Retrieval => "rag",
            Self::Finetune => "finetune",
        }
    }
}

/// One prompt, or one choice of settings, that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptCandidate {
    /// Who wrote it.
    pub origin: Origin,
    /// The system turn.
    pub system: Option<String>,
    /// The user turn.
    pub user: String,
    /// Its score on the dev samples of each rung that it entered.
    pub rungs: Vec<RungScore>,
    /// The settings that make it up, for a reader; empty for a prompt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub settings: String,
}

/// Who wrote a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The experiment.
    Given,
    /// A model, from training rows.
    Induction,
    /// A model, from the first prompt's instruction.
    Paraphrase,
    /// A model, from what the first prompt got wrong.
    Failures,
}

impl From<ProposeFrom> for Origin {
    fn from(from: ProposeFrom) -> Self {
        match from {
            ProposeFrom::Induction => Self::Induction,
            ProposeFrom::Paraphrase => Self::Paraphrase,
            ProposeFrom::Failures => Self::Failures,
        }
    }
}

/// A candidate's result in one rung.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RungScore {
    /// Dev samples it had answered.
    pub samples: u64,
    /// Its mean score on those that were scored; `None` where none was.
    pub value: Option<f64>,
    /// Rows it was trained on, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

impl Manifest {
    /// The layout this program writes.
    pub const FORMAT: u32 = 1;
}

/// One model of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelEntry {
    /// What the backend calls it.
    pub id: String,
    /// SHA-256 of weights, tokenizer, template and configuration, and of the numeric type where that is
    /// not f32; for an endpoint, of its address and model name.
    pub digest: String,
    /// Which backend served it.
    pub backend: String,
    /// Numeric type of the weights, for example `f32`.
    pub dtype: String,
}

impl ModelEntry {
    /// Whether both are the same base weights as far as can be told: equal digests, or the same
    /// name whoever serves it and wherever it comes from (`owner/Small-1B` and `small-1b`).
    pub fn same_weights(&self, other: &Self) -> bool {
        let scripted = [self, other].iter().any(|entry| entry.backend == "scripted");
        let name = |entry: &Self| {
            let name = entry.id.rsplit('/').next().unwrap_or_default();
            let name = name.split('@').next().unwrap_or_default().to_lowercase();
            name.strip_suffix(".gguf").unwrap_or(&name).to_owned()
        };
        self.digest == other.digest || (!scripted && name(self) == name(other))
    }
}

/// One training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingEntry {
    /// Arms that use the adapter; `reward NAME` for a reward model.
    pub arms: Vec<String>,
    /// The eval set whose training data it learnt.
    pub set: String,
    /// The training seed.
    pub seed: u64,
    /// Rows learnt from.
    pub rows: u64,
    /// What came out.
    pub outcome: TrainOutcome,
    /// Bytes of what is served: the adapter, or the whole model; 0 where nobody has looked.
    #[serde(default)]
    pub adapter_bytes: u64,
    /// Joules that the machine's processors took meanwhile, whatever else ran on them; absent where
    /// the machine does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_joules: Option<f64>,
    /// How the classifier of a `features` arm was fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier: Option<ClassifierEntry>,
}

impl TrainingEntry {
    /// What a reader must know of a training that was not all that was declared, or came to nothing.
    pub fn notes(&self) -> Vec<String> {
        let outcome = &self.outcome;
        let mut notes = Vec::new();
        if outcome.halved > 0 {
            let times = match outcome.halved {
                1 => "once".to_owned(),
                n => format!("{n} times"),
            };
            notes.push(format!(
                "in training, the loss or a gradient was not a number {times}; each time the last good parameters were taken again and the learning rate halved, so this is not the training that was declared; lower `learning_rate`"
            ));
        }
        if let Some((first, last)) = self.unlearnt() {
            notes.push(format!(
                "training did not lower the loss: it was {first:.3} in the first step and {last:.3} in the last quarter; a `learning_rate` that is too high does this, and so does one that is far too low"
            ));
        }
        for (rows, what) in [
            (
                outcome.rows_too_long,
                "training rows are longer than `sequence_len` and were left out",
            ),
            (outcome.rows_cut, "training rows are longer than `sequence_len` and were cut there"),
            (
                outcome.dev_rows_too_long,
                "validation rows are longer than `sequence_len` and were left out",
            ),
        ] {
            if rows > 0 {
                notes.push(format!("{rows} {what}"));
            }
        }
        let (arms, seed) = (self.arms.join(", "), self.seed);
        let said = |note| format!("set `{}`, {arms} (seed {seed}): {note}", self.set);
        notes.into_iter().map(said).collect()
    }

    /// The loss of the first step, which nothing was learnt before, and the mean of the last quarter, where
    /// that is not lower. `None` of fewer than eight steps, as single batches differ.
    fn unlearnt(&self) -> Option<(f64, f64)> {
        let steps = &self.outcome.steps;
        if steps.len() < 8 {
            return None;
        }
        let (first, last) = (steps[0].loss, &steps[steps.len() - steps.len() / 4..]);
        let last = last.iter().map(|step| step.loss).sum::<f64>() / last.len() as f64;
        (last >= first).then_some((first, last))
    }
}

/// How a classifier over embeddings was fitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifierEntry {
    /// The embedding model.
    pub embedder: String,
    /// Labels that it can answer.
    pub labels: u64,
    /// The inverse strength of the penalty that was chosen.
    #[serde(rename = "C")]
    pub c: f64,
    /// Dev samples that decided.
    pub dev_samples: u64,
    /// Every strength that was tried; empty where there was no choice.
    pub tried: Vec<TriedPenalty>,
}

/// What one strength of the penalty came to on dev samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TriedPenalty {
    /// The inverse strength.
    #[serde(rename = "C")]
    pub c: f64,
    /// Share of dev samples that got their reference.
    pub accuracy: f64,
    /// Mean negative log-likelihood, in nats, of the references that are labels; `None` where none
    /// is.
    pub loss: Option<f64>,
}

/// One index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// Arms that search it.
    pub arms: Vec<String>,
    /// The eval set whose corpus it holds.
    pub set: String,
    /// The embedding model, or `none`.
    pub embedder: String,
    /// What it holds.
    pub info: IndexInfo,
}

/// One fairness check: do trainer and server agree about the adapter?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParityEntry {
    /// The eval set whose adapter was checked.
    pub set: String,
    /// The training seed.
    pub seed: u64,
    /// How far trainer and server agree.
    #[serde(flatten)]
    pub agreement: Agreement,
    /// Tokens that this program's own decoder and the server of the other arms both wrote, greedily
    /// and alike, on the base model; where the own decoder serves what was trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_tokens: Option<u64>,
}

/// How far two programs that run the same model agree on known answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Rows compared.
    pub rows: u64,
    /// Tokens whose likeliest token was compared.
    pub tokens: u64,
    /// Tokens on which both agree.
    pub top1_agree: u64,
    /// Largest difference of a row's mean negative log-likelihood, in nats.
    pub max_nll_difference: f64,
}

/// A model that is not served in f32, beside itself in f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProofEntry {
    /// What the backend calls the model.
    pub model: String,
    /// Numeric type of the weights as served.
    pub dtype: String,
    /// How far both agree about what the served model wrote.
    #[serde(flatten)]
    pub agreement: Agreement,
}

/// What one judge took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgingEntry {
    /// The judge's name in the experiment.
    pub judge: String,
    /// Judgements asked for; a pairwise one is two questions.
    pub judgements: u64,
    /// Milliseconds of generation, added up.
    pub latency_ms: f64,
    /// Prompt tokens.
    pub tokens_in: u64,
    /// Generated tokens.
    pub tokens_out: u64,
}

/// A set that was asked no further.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StopEntry {
    /// The eval set.
    pub set: String,
    /// Samples asked.
    pub asked: u64,
    /// Samples it has.
    pub samples: u64,
    /// The condition that was met.
    pub because: String,
}

/// Where a run ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Operating system and architecture.
    pub platform: String,
    /// The processor's name.
    pub processor: String,
    /// Logical cores.
    pub cores: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The accelerator's name, or `none`.
    pub accelerator: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(id: &str, digest: &str) -> ModelEntry {
        ModelEntry { id: id.into(), digest: digest.into(), ..ModelEntry::default() }
    }

    #[test]
    fn a_training_whose_steps_were_undone_says_so() {
        let outcome = |halved: u32, losses: &[f64]| -> TrainOutcome {
            let steps: Vec<_> = losses
                .iter()
                .map(|loss| {
                    serde_json::json!({
                        "step": 1, "total_steps": 8, "loss": loss, "dev_loss": null,
                        "learning_rate": 1e-3, "tokens": 1, "tokens_per_second": 1.0,
                    })
                })
                .collect();
            serde_json::from_value(serde_json::json!({
                "adapter": "runs/x", "digest": "d", "trainable_parameters": 1,
                "total_parameters": 2, "seconds": 1.0, "peak_memory_bytes": 0,
                "rows_too_long": 0, "rows_cut": 2, "halved": halved, "steps": steps,
            }))
            .unwrap()
        };
        let entry = |halved, losses: &[f64]| TrainingEntry {
            arms: vec!["lora".into()],
            set: "facts".into(),
            seed: 1,
            rows: 4,
            outcome: outcome(halved, losses),
            classifier: None,
            adapter_bytes: 0,
            energy_joules: None,
        };
        let cut = "set `facts`, lora (seed 1): 2 training rows are longer than `sequence_len` and were cut there";
        assert_eq!(entry(0, &[]).notes(), [cut]);
        let said = &entry(3, &[]).notes()[0];
        assert!(said.starts_with("set `facts`, lora (seed 1): in training"), "{said}");
        assert!(said.contains("not a number 3 times"), "{said}");
        let falls = [3.0, 9.0, 9.0, 9.0, 4.0, 3.5, 2.5, 2.9];
        assert_eq!(entry(0, &falls).notes(), [cut]);
        let climbs = [3.0, 9.0, 9.0, 9.0, 4.0, 3.5, 2.9, 3.3];
        let said = &entry(0, &climbs).notes()[0];
        assert!(said.contains("it was 3.000 in the first step and 3.100 in the last"), "{said}");
        // Single batches differ.
        assert_eq!(entry(0, &climbs[1..]).notes(), [cut]);
    }

    #[test]
    fn the_same_weights_are_known_under_other_names() {
        let small = model("small-1b", "d");
        assert!(small.same_weights(&model("renamed", "d")));
        assert!(small.same_weights(&model("owner/Small-1B@main", "e")));
        assert!(small.same_weights(&model("Small-1B.gguf", "f")));
        assert!(!small.same_weights(&model("small-2b", "e")));
    }
}
