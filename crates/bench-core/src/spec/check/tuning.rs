//! The conditions on choosing settings on dev samples.

use super::Sense;
use crate::spec::{Arm, Finetune, Prompt, Rag, Scorer, Strategy, Tune};

impl Sense<'_> {
    /// The budget that all tuned arms share.
    pub(super) fn effort(&mut self) {
        let Some(effort) = &self.experiment.tune else { return };
        if effort.budget == 0 {
            let help = "give token passes, for example 500000";
            self.add(&["tune", "budget"], "a budget of 0 tries nothing", "here", help);
        }
        if effort.rungs == 0 {
            let help = "give at least 1; 3 is usual";
            self.add(&["tune", "rungs"], "`rungs` is 0", "here", help);
        }
        let own = self.experiment.arms.iter().enumerate().find(|(_, arm)| {
            matches!(&arm.strategy, Strategy::Prompt(Prompt { tune: Some(tune), .. })
                if (tune.budget, tune.rungs) != (Tune::default().budget, Tune::default().rungs))
        });
        if let Some((index, arm)) = own {
            let path = ["arms", &index.to_string(), "strategy", "prompt", "tune"];
            let message = format!("arm `{}` has a budget of its own beside `tune`", arm.name);
            let help = "leave one out: with the experiment's `tune` all arms have the same budget";
            self.add(&path, message, "the second", help);
        }
        if !self.experiment.arms.iter().any(|arm| tunes(&arm.strategy)) {
            let help = "give an arm `candidates` or a `sweep`, or leave `tune` out";
            self.add(&["tune"], "no arm has anything to choose", "here", help);
        }
    }

    pub(super) fn finetune_sweep(&mut self, i: &str, arm: &Arm, finetune: &Finetune) {
        let Some(sweep) = &finetune.sweep else { return };
        let path = ["arms", i, "strategy", "finetune", "sweep"];
        for (key, other) in [
            ("train_sizes", !finetune.train_sizes.is_empty()),
            ("mix", finetune.mix.is_some()),
            ("limit", finetune.limit.is_some() && !sweep.train_size.is_empty()),
        ] {
            if other {
                let message = format!("`sweep` does not go with `{key}`");
                self.add(&path, message, "here", "keep one of them");
            }
        }
        let not = |value: &f64, low: f64| value.is_nan() || *value < low;
        for (key, wrong) in [
            (
                "learning_rate",
                sweep.learning_rate.iter().any(|value| not(value, f64::MIN_POSITIVE)),
            ),
            ("lora_alpha", sweep.lora_alpha.iter().any(|value| not(value, f64::MIN_POSITIVE))),
            ("lora_dropout", sweep.lora_dropout.iter().any(|value| !(0.0..1.0).contains(value))),
            ("weight_decay", sweep.weight_decay.iter().any(|value| not(value, 0.0))),
            ("lora_r", sweep.lora_r.contains(&0)),
            ("num_epochs", sweep.num_epochs.contains(&0)),
            ("train_size", sweep.train_size.contains(&0)),
            ("micro_batch_size", sweep.micro_batch_size.contains(&0)),
        ] {
            if wrong {
                let at = ["arms", i, "strategy", "finetune", "sweep", key];
                let message = format!("`{key}` of the sweep has a value that cannot train");
                let help = "give numbers above 0; dropout and decay may be 0";
                self.add(&at, message, "here", help);
            }
        }
        let n = sweep.trials(finetune, 0).len();
        self.swept(i, arm, &path, n);
    }

    pub(super) fn rag_sweep(&mut self, i: &str, arm: &Arm, rag: &Rag) {
        let Some(sweep) = &rag.sweep else { return };
        let path = ["arms", i, "strategy", "rag", "sweep"];
        if sweep.top_k.contains(&0) {
            self.add(&path, "`top_k` of the sweep is 0", "retrieves nothing", "give at least 1");
        }
        if !sweep.chunk.is_empty() && (rag.chunk_size, rag.chunk_overlap) != (200, 0) {
            let message = "`chunk` of the sweep and `chunk_size` both say how documents are cut";
            self.add(&path, message, "here", "keep one of them");
        }
        let n = sweep.trials(rag, 0).len();
        self.swept(i, arm, &path, n);
    }

    /// What every sweep needs.
    fn swept(&mut self, i: &str, arm: &Arm, path: &[&str], trials: usize) {
        if trials < 2 {
            let help = "give at least two values, for example `learning_rate: [2.0e-4, 1.0e-3]`";
            self.add(path, "there is nothing to choose", "fewer than two trials", help);
        }
        let metric = match &self.experiment.tune {
            None => {
                let help = "for example `tune: { budget: 500000 }`, in token passes: every tuned arm may spend as much";
                self.add(path, "a sweep needs the experiment's `tune`", "no budget", help);
                None
            }
            Some(effort) => effort.metric.clone(),
        };
        for set in self.sets_of(arm) {
            if set.dev.is_none() && set.adapters_of.is_none() {
                let message = format!(
                    "arm `{}` chooses its settings on dev samples, and set `{}` has none",
                    arm.name, set.name
                );
                let help = "give the set `dev: …jsonl`, samples that are not those of `path`";
                self.add(&["arms", i], message, "here", help);
            }
            let names: Vec<&str> = set.scorers.iter().map(Scorer::name).collect();
            if let Some(metric) = &metric {
                self.known(&["tune", "metric"], "scorer", metric, &names);
            }
            let decides = metric.as_deref().or(names.first().copied());
            if decides == Some("judge") {
                let message = format!(
                    "arm `{}` would choose its settings by the judge's verdicts on set `{}`",
                    arm.name, set.name
                );
                let help = "give `tune: { metric: … }` another scorer of the set";
                self.add(path, message, "a judge is not asked on dev", help);
            }
        }
    }
}

/// Whether an arm chooses anything on dev samples.
fn tunes(strategy: &Strategy) -> bool {
    match strategy {
        Strategy::Prompt(prompt) => prompt.is_tuned(),
        Strategy::Rag(rag) => rag.sweep.is_some(),
        Strategy::Finetune(finetune) => finetune.sweep.is_some(),
        Strategy::Features(_) | Strategy::Compose(_) => false,
    }
}
