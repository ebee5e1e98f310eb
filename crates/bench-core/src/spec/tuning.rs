//! Choosing settings on dev samples: what is tried, and what it may cost.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Chunking, Finetune, Order, Rag, Retrieval};
use crate::digest;

/// What every arm that chooses its settings on dev samples may spend on choosing, on each of its
/// eval sets: the same for prompts, retrieval settings and fine-tuning, so that no arm wins by having
/// been tried harder.
///
/// It is counted in token passes: a token of a prompt or an answer goes through the model once, a
/// token that is trained on counts as three (the backward pass is twice the work of the forward pass,
/// Kaplan et al. 2020). Unlike seconds, token passes are the same on every machine and after an
/// interruption.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Token passes per arm and set, at most.
    pub budget: u64,
    /// Rounds of successive halving, at most; the budget is shared evenly by them.
    #[serde(default = "rungs")]
    pub rungs: u32,
    /// The scorer that decides; the set's first when absent.
    #[serde(default)]
    pub metric: Option<String>,
}

fn rungs() -> u32 {
    3
}

impl Effort {
    /// Token passes of a token that is trained on.
    pub const PASSES_PER_TRAINED_TOKEN: u64 = 3;
}

/// Settings of fine-tuning to try: every combination of the lists, on dev samples, by successive
/// halving. All trials of a round learn the same share of their rows; the better ones go on with
/// more. Needs the experiment's `tune`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneSweep {
    /// Peak learning rates.
    pub learning_rate: Vec<f64>,
    /// Ranks; `lora_alpha` stays as it is unless it is swept too.
    pub lora_r: Vec<u32>,
    /// Scales.
    pub lora_alpha: Vec<f64>,
    /// Dropouts on the adapter's input.
    pub lora_dropout: Vec<f64>,
    /// Passes over the rows.
    pub num_epochs: Vec<u32>,
    /// Numbers of training rows.
    pub train_size: Vec<u32>,
    /// Rows per forward pass.
    pub micro_batch_size: Vec<u32>,
    /// Weight decays.
    pub weight_decay: Vec<f64>,
    /// Try only this many of the combinations, drawn with `run.seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trials: Option<u32>,
}

impl FinetuneSweep {
    /// The settings to try, in the order of the lists.
    pub fn trials(&self, base: &Finetune, seed: u64) -> Vec<SettingsTrial<Finetune>> {
        let mut all = Grid::new(Finetune { sweep: None, ..base.clone() });
        all.spread("learning_rate", &self.learning_rate, |one, value| one.learning_rate = *value);
        all.spread("lora_r", &self.lora_r, |one, value| one.lora_r = *value);
        all.spread("lora_alpha", &self.lora_alpha, |one, value| one.lora_alpha = *value);
        all.spread("lora_dropout", &self.lora_dropout, |one, value| one.lora_dropout = *value);
        all.spread("num_epochs", &self.num_epochs, |one, value| one.num_epochs = *value);
        all.spread("train_size", &self.train_size, |one, value| one.limit = Some(*value));
        all.spread("micro_batch_size", &self.micro_batch_size, |one, value| {
            one.micro_batch_size = *value;
        });
        all.spread("weight_decay", &self.weight_decay, |one, value| one.weight_decay = *value);
        all.drawn(self.trials, seed)
    }
}

/// Settings of retrieval to try: every combination of the lists, by the answers to dev samples and
/// successive halving. Needs the experiment's `tune`. `bench retrieve sweep` compares far more
/// settings without generating anything, where samples name their gold documents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RagSweep {
    /// How passages are found.
    pub retriever: Vec<Retrieval>,
    /// How documents are cut.
    pub chunk: Vec<Chunking>,
    /// Passages in the prompt.
    pub top_k: Vec<u32>,
    /// Order of the passages in the prompt.
    pub order: Vec<Order>,
    /// Try only this many of the combinations, drawn with `run.seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trials: Option<u32>,
}

impl RagSweep {
    /// The settings to try, in the order of the lists.
    pub fn trials(&self, base: &Rag, seed: u64) -> Vec<SettingsTrial<Rag>> {
        let mut all = Grid::new(Rag { sweep: None, ..base.clone() });
        all.spread("retriever", &self.retriever, |one, value| one.retriever = value.clone());
        all.spread("chunk", &self.chunk, |one, value| one.chunk = Some(*value));
        all.spread("top_k", &self.top_k, |one, value| one.top_k = *value);
        all.spread("order", &self.order, |one, value| one.order = *value);
        all.drawn(self.trials, seed)
    }
}

/// Settings to try.
#[derive(Clone, Debug, PartialEq)]
pub struct SettingsTrial<S> {
    /// What is different from other trials, for a reader: `learning_rate 0.0005, lora_r 8`.
    pub label: String,
    /// All settings.
    pub settings: S,
}

/// Combinations in the making.
struct Grid<S>(Vec<SettingsTrial<S>>);

impl<S: Clone> Grid<S> {
    fn new(base: S) -> Self {
        Self(vec![SettingsTrial { label: String::new(), settings: base }])
    }

    fn spread<V: Serialize>(&mut self, key: &str, values: &[V], set: impl Fn(&mut S, &V)) {
        if values.is_empty() {
            return;
        }
        let mut spread = Vec::with_capacity(self.0.len() * values.len());
        for trial in &self.0 {
            for value in values {
                let mut one = trial.clone();
                set(&mut one.settings, value);
                let shown = serde_json::to_string(value).unwrap_or_default().replace('"', "");
                let between = if one.label.is_empty() { "" } else { ", " };
                one.label = format!("{}{between}{key} {shown}", one.label);
                spread.push(one);
            }
        }
        self.0 = spread;
    }

    /// At most so many, each with a chance that its label and the seed alone decide.
    fn drawn(self, most: Option<u32>, seed: u64) -> Vec<SettingsTrial<S>> {
        let Some(most) = most.map(|most| most as usize).filter(|most| *most < self.0.len()) else {
            return self.0;
        };
        let place = |label: &str| digest::of_bytes(format!("sweep/{seed}/{label}").as_bytes());
        let mut order: Vec<(String, usize)> =
            self.0.iter().enumerate().map(|(at, trial)| (place(&trial.label), at)).collect();
        order.sort_unstable();
        order.truncate(most);
        let mut kept: Vec<usize> = order.into_iter().map(|(_, at)| at).collect();
        kept.sort_unstable();
        kept.into_iter().map(|at| self.0[at].clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_a_trial_with_a_label() {
        let sweep = FinetuneSweep {
            learning_rate: vec![1e-4, 5e-4],
            lora_r: vec![4, 8, 16],
            train_size: vec![100],
            ..FinetuneSweep::default()
        };
        let base = Finetune { sweep: Some(Box::new(sweep.clone())), ..Finetune::default() };
        let trials = sweep.trials(&base, 0);
        assert_eq!(trials.len(), 6);
        assert_eq!(trials[5].label, "learning_rate 0.0005, lora_r 16, train_size 100");
        let settings = &trials[5].settings;
        assert_eq!((settings.lora_r, settings.limit), (16, Some(100)));
        assert!(settings.sweep.is_none());
    }

    #[test]
    fn a_draw_keeps_the_order_and_follows_the_seed() {
        let sweep = |trials| FinetuneSweep {
            num_epochs: (1..=40).collect(),
            trials: Some(trials),
            ..FinetuneSweep::default()
        };
        let labels = |trials, seed| -> Vec<String> {
            let found = sweep(trials).trials(&Finetune::default(), seed);
            found.into_iter().map(|trial| trial.label).collect()
        };
        assert_eq!(labels(5, 0).len(), 5);
        assert_eq!(labels(5, 0), labels(5, 0));
        assert_ne!(labels(5, 0), labels(5, 1));
        // More trials are those of fewer and others.
        assert!(labels(5, 0).iter().all(|label| labels(9, 0).contains(label)));
        assert_eq!(labels(99, 0).len(), 40);
    }

    #[test]
    fn retrieval_settings_are_spread_too() {
        let sweep = RagSweep {
            retriever: vec![Retrieval::Dense {}, Retrieval::default()],
            top_k: vec![1, 5],
            ..RagSweep::default()
        };
        let trials = sweep.trials(&Rag::default(), 0);
        assert_eq!(trials[3].label, "retriever {hybrid:{dense_weight:0.5}}, top_k 5");
        assert_eq!(trials[3].settings.top_k, 5);
    }
}
