//! `budgets.csv`, `tuning.csv` and `effort.csv`: what prompts are made of, how settings were chosen,
//! and what that took.

use bench_core::manifest::{Origin, TuningEntry};
use bench_core::record::TokenBudget;

use crate::evaluation::{Evaluation, SetResult};
use crate::table::Kind::{Count, Number, Text};
use crate::table::{Table, row};

/// The parts of a prompt, in the order of [`budgets`].
pub(crate) const PARTS: [&str; 5] = ["instructions", "examples", "context", "question", "answer"];

fn parts(budget: &TokenBudget) -> [u32; 5] {
    let TokenBudget { instructions, examples, context, question, answer } = *budget;
    [instructions, examples, context, question, answer]
}

/// Mean tokens per part of every contender whose tokens could be counted.
pub(crate) fn budgets<'a>(set: &'a SetResult<'_>) -> Vec<(&'a str, [f64; 5])> {
    let mean = |contender: &'a crate::evaluation::Contender<'_>| {
        let counted: Vec<[u32; 5]> = contender
            .trials
            .iter()
            .filter_map(|record| record.budget.as_ref().map(parts))
            .collect();
        let n = counted.len();
        let mean = |part: usize| {
            counted.iter().map(|parts| f64::from(parts[part])).sum::<f64>() / n as f64
        };
        (n > 0).then(|| (contender.name.as_str(), std::array::from_fn(mean)))
    };
    set.contenders.iter().filter_map(mean).collect()
}

/// What was chosen on dev samples of one set.
pub(crate) fn entries<'a>(
    evaluation: &'a Evaluation<'_>,
    set: &'a SetResult<'_>,
) -> impl Iterator<Item = &'a TuningEntry> {
    evaluation.manifest.tuning.iter().filter(|entry| entry.set == set.set.name)
}

/// Who wrote a prompt, in a word.
pub(crate) fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Given => "given",
        Origin::Induction => "induction",
        Origin::Paraphrase => "paraphrase",
        Origin::Failures => "failures",
    }
}

pub(super) fn budget_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[("set", Text), ("arm", Text), ("part", Text), ("tokens", Number)]);
    for set in &evaluation.sets {
        for (arm, means) in budgets(set) {
            for (part, mean) in PARTS.iter().zip(means) {
                table.push(row![set.set.name.as_str(), arm, *part, mean]);
            }
        }
    }
    table
}

pub(super) fn tuning_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("metric", Text),
        ("candidate", Count),
        ("origin", Text),
        ("chosen", Count),
        ("rung", Count),
        ("samples", Count),
        ("value", Number),
        ("system", Text),
        ("user", Text),
        ("kind", Text),
        ("settings", Text),
        ("rows", Count),
    ]);
    for set in &evaluation.sets {
        for entry in entries(evaluation, set) {
            for (place, candidate) in entry.candidates.iter().enumerate() {
                for (rung, score) in candidate.rungs.iter().enumerate() {
                    table.push(row![
                        entry.set.as_str(),
                        entry.arm.as_str(),
                        entry.metric.as_str(),
                        place,
                        origin(candidate.origin),
                        u64::from(place as u64 == entry.chosen),
                        rung + 1,
                        score.samples,
                        score.value,
                        candidate.system.as_deref(),
                        candidate.user.as_str(),
                        entry.kind.name(),
                        candidate.settings.as_str(),
                        score.rows,
                    ]);
                }
            }
        }
    }
    table
}

/// What choosing settings took for one arm on one set.
pub(crate) struct Effort<'a> {
    pub(crate) arm: &'a str,
    /// What was chosen, in words: `prompt`, `rag`, `finetune`.
    pub(crate) kinds: Vec<&'static str>,
    pub(crate) trials: usize,
    pub(crate) calls: u64,
    pub(crate) tokens_in: u64,
    pub(crate) tokens_out: u64,
    pub(crate) tokens_trained: u64,
    pub(crate) passes: u64,
    /// Declared for all of it; `None` where answers were counted instead, or nothing was chosen.
    pub(crate) budget: Option<u64>,
}

impl Effort<'_> {
    /// What two arms must have in common to have had the same chance: the budget they were given,
    /// or else what was spent.
    fn class(&self) -> (Option<u64>, u64) {
        (self.budget, if self.budget.is_some() { 0 } else { self.passes })
    }

    /// Whether both had the same chance.
    pub(crate) fn equals(&self, other: &Effort<'_>) -> bool {
        self.class() == other.class()
    }
}

/// The effort of every arm that has trials on the set; empty where none was tuned.
pub(crate) fn efforts<'a>(
    evaluation: &'a Evaluation<'_>,
    set: &'a SetResult<'_>,
) -> Vec<Effort<'a>> {
    if entries(evaluation, set).next().is_none() {
        return Vec::new();
    }
    let mut efforts: Vec<Effort<'a>> = Vec::new();
    for contender in &set.contenders {
        let arm = evaluation.plans[contender.arm].name.as_str();
        if efforts.iter().any(|known| known.arm == arm) {
            continue;
        }
        let of_arm: Vec<&TuningEntry> =
            entries(evaluation, set).filter(|entry| entry.arm == arm).collect();
        let sum = |of: fn(&TuningEntry) -> u64| of_arm.iter().map(|entry| of(entry)).sum::<u64>();
        efforts.push(Effort {
            arm,
            kinds: of_arm.iter().map(|entry| entry.kind.name()).collect(),
            trials: of_arm.iter().map(|entry| entry.candidates.len()).sum(),
            calls: sum(|entry| entry.calls),
            tokens_in: sum(|entry| entry.tokens_in),
            tokens_out: sum(|entry| entry.tokens_out),
            tokens_trained: sum(|entry| entry.tokens_trained),
            passes: sum(TuningEntry::passes),
            budget: of_arm
                .iter()
                .map(|entry| entry.budget)
                .sum::<Option<u64>>()
                .filter(|_| !of_arm.is_empty()),
        });
    }
    efforts
}

pub(super) fn effort_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("chosen", Text),
        ("trials", Count),
        ("calls", Count),
        ("tokens_in", Count),
        ("tokens_out", Count),
        ("tokens_trained", Count),
        ("passes", Count),
        ("budget", Count),
    ]);
    for set in &evaluation.sets {
        for effort in efforts(evaluation, set) {
            table.push(row![
                set.set.name.as_str(),
                effort.arm,
                effort.kinds.join(" "),
                effort.trials,
                effort.calls,
                effort.tokens_in,
                effort.tokens_out,
                effort.tokens_trained,
                effort.passes,
                effort.budget,
            ]);
        }
    }
    table
}
