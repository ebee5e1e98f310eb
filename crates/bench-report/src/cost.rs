//! After how many answers training pays for itself.

use bench_stats::{Options, compare};

use crate::evaluation::{Contender, SetResult};

/// A trained contender against one whose answers cost more or less.
pub(crate) struct BreakEven {
    pub(crate) trained: usize,
    pub(crate) other: usize,
    /// US dollars.
    pub(crate) training_cost: f64,
    /// US dollars saved per answer, with the ends of its interval.
    pub(crate) saving: [f64; 3],
}

impl BreakEven {
    /// Answers after which the training is paid for, at the saving as measured, at its upper and at
    /// its lower end; `None` is never.
    pub(crate) fn answers(&self) -> [Option<f64>; 3] {
        let [saving, low, high] = self.saving;
        [saving, high, low]
            .map(|saving| (saving > 0.0).then(|| (self.training_cost / saving).ceil()))
    }
}

/// Every trained contender with a priced training against every untrained one, on the samples that
/// both answered.
pub(crate) fn break_even(set: &SetResult<'_>, options: &Options) -> Vec<BreakEven> {
    let mut found = Vec::new();
    for (at, contender) in set.contenders.iter().enumerate() {
        let Some(training_cost) = contender.training_cost else { continue };
        for (other, rival) in set.contenders.iter().enumerate() {
            if rival.training.is_some() {
                continue;
            }
            let pairs: Vec<(f64, f64)> = set
                .samples
                .iter()
                .filter_map(|id| Some((cost(rival, id)?, cost(contender, id)?)))
                .collect();
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            // Costs of samples in one cluster are as good as independent: lengths decide them.
            if let Some(c) = compare(&a, &b, &bench_stats::Clusters::none(), options) {
                let saving = [c.difference, c.low, c.high];
                found.push(BreakEven { trained: at, other, training_cost, saving });
            }
        }
    }
    found
}

fn cost(contender: &Contender<'_>, sample: &str) -> Option<f64> {
    contender.first(sample)?.answer()?.cost_usd
}
