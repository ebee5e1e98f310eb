//! `budgets.csv` and `tuning.csv`: what prompts are made of, and how one was chosen.

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

/// The tuned prompts of one set.
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
                    ]);
                }
            }
        }
    }
    table
}
