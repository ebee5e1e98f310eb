//! Runs that stop as soon as they know enough: the condition, and a decision that stays valid
//! although it was looked at after every round.

use std::collections::BTreeMap;

use bench_core::plan;
use bench_core::record::Record;
use bench_core::spec::{Experiment, StopWhen};
use bench_stats::{
    ArmScores, Comparison, ConfidenceSequence, Estimate, Family, Method, Options, StopRule, Verdict,
};

use crate::evaluation::Metric;

/// Confidence sequences of all arms and pairs, each at a level at which all hold together.
pub(crate) struct Look {
    names: Vec<String>,
    alpha: f64,
    means: Vec<ConfidenceSequence>,
    pairs: Vec<(usize, usize, ConfidenceSequence)>,
}

impl Look {
    /// `order` gives positions of samples in the order in which they were asked. Samples without a
    /// score are passed over, and those without two of them in a pair.
    pub(crate) fn new(arms: &[ArmScores], order: &[usize], alpha: f64) -> Self {
        let score = |arm: usize, sample: usize| arms[arm].scores[sample];
        let means = (0..arms.len()).map(|arm| {
            let level = 1.0 - alpha / arms.len().max(1) as f64;
            let mut sequence = ConfidenceSequence::new(0.0, 1.0, level);
            order.iter().filter_map(|&at| score(arm, at)).for_each(|x| sequence.push(x));
            sequence
        });
        let means = means.collect();
        let n_pairs = arms.len() * arms.len().saturating_sub(1) / 2;
        let mut pairs = Vec::with_capacity(n_pairs);
        for a in 0..arms.len() {
            for b in a + 1..arms.len() {
                let mut sequence = ConfidenceSequence::of_difference(1.0 - alpha / n_pairs as f64);
                for &at in order {
                    if let (Some(a), Some(b)) = (score(a, at), score(b, at)) {
                        sequence.push(a - b);
                    }
                }
                pairs.push((a, b, sequence));
            }
        }
        Self { names: arms.iter().map(|arm| arm.arm.clone()).collect(), alpha, means, pairs }
    }

    /// Which condition is met, if one is.
    pub(crate) fn met(&self, when: &StopWhen, margin: Option<f64>) -> Option<String> {
        if let Some(half) = when.half_width
            && !self.means.is_empty()
            && self.means.iter().all(|mean| mean.n > 0 && mean.stops(StopRule::HalfWidth(half)))
        {
            return Some(format!("every arm's mean is known to within {half}"));
        }
        if !when.decided || self.pairs.is_empty() {
            return None;
        }
        let beats = |arm: usize| {
            self.pairs.iter().all(|(a, b, sequence)| {
                (*a != arm || sequence.low > 0.0) && (*b != arm || sequence.high < 0.0)
            })
        };
        if let Some(winner) = (0..self.names.len()).find(|&arm| beats(arm)) {
            return Some(format!("{} is surely better than every other arm", self.names[winner]));
        }
        let rule = StopRule::Difference { margin };
        self.pairs.iter().all(|(.., sequence)| sequence.stops(rule)).then(|| {
            "every pair of arms is surely different or equivalent within the margin".to_owned()
        })
    }

    /// Puts the sequences' intervals, p-values and verdicts in place of those that hold for a number
    /// of samples fixed beforehand.
    pub(crate) fn apply(&self, metric: &mut Metric, baseline: Option<usize>, margin: Option<f64>) {
        for (estimate, sequence) in metric.estimates.iter_mut().zip(&self.means) {
            if let Some(estimate) = estimate {
                *estimate = Estimate {
                    low: sequence.low,
                    high: sequence.high,
                    method: Method::ConfidenceSequence,
                    ..estimate.clone()
                };
            }
        }
        for ((a, b, comparison), (_, _, sequence)) in metric.pairs.iter_mut().zip(&self.pairs) {
            if let Some(comparison) = comparison {
                self.settle(comparison, sequence, margin);
                if baseline == Some(*b) {
                    metric.against_baseline[*a] = Some(comparison.clone());
                } else if baseline == Some(*a) {
                    metric.against_baseline[*b] = Some(comparison.swapped());
                }
            }
        }
    }

    /// The same for arms of which some have several training seeds. No look makes the seeds more
    /// than they are, so that the spread between them is added to the sequences': squares of
    /// half-widths add up, as they do without looks.
    pub(crate) fn apply_to(&self, family: &mut Family, options: &Options) {
        for (mean, sequence) in family.means.iter_mut().zip(&self.means) {
            if let Some(estimate) = &mut mean.estimate {
                let crossed = Some(()).filter(|()| estimate.method == Method::CrossedModel);
                estimate.low = crossed.map_or(sequence.low, |()| estimate.low.min(sequence.low));
                estimate.high =
                    crossed.map_or(sequence.high, |()| estimate.high.max(sequence.high));
                estimate.method = Method::ConfidenceSequence;
            }
        }
        for (pair, (.., sequence)) in family.pairs.iter_mut().zip(&self.pairs) {
            if let Some(comparison) = &mut pair.comparison {
                self.settle(comparison, sequence, options.margin);
            }
        }
    }

    fn settle(
        &self,
        comparison: &mut Comparison,
        sequence: &ConfidenceSequence,
        margin: Option<f64>,
    ) {
        let (low, high, p_value) = match &comparison.crossed {
            None => (sequence.low, sequence.high, sequence.p_value()),
            Some(crossed) => {
                let level = 1.0 - self.alpha / self.pairs.len() as f64;
                let of_training = crossed.of_training(level).sqrt();
                let difference = comparison.difference;
                (
                    difference - (difference - sequence.low).max(0.0).hypot(of_training),
                    difference + (sequence.high - difference).max(0.0).hypot(of_training),
                    sequence.p_value().max(comparison.p_value),
                )
            }
        };
        comparison.low = low;
        comparison.high = high;
        comparison.p_value = p_value;
        comparison.p_holm = (p_value * self.pairs.len() as f64).min(1.0);
        let inside = |margin: f64| low > -margin && high < margin;
        comparison.verdict = if low > 0.0 {
            Verdict::Better
        } else if high < 0.0 {
            Verdict::Worse
        } else if margin.is_some_and(inside) {
            Verdict::Equivalent
        } else {
            Verdict::Undecided
        };
        if comparison.verdict != Verdict::Undecided {
            comparison.more_needed = None;
        }
    }
}

/// Why a set is to be asked no further, from the records so far; `None` while it is to be. The
/// condition is that of `run.stop`.
pub fn settled(experiment: &Experiment, set: &str, records: &[Record]) -> Option<String> {
    let when = experiment.run.stop.as_ref()?;
    let metric = experiment.eval_sets.iter().find(|other| other.name == set)?.scorers.first()?;
    let metric = metric.name();
    let mut ids: Vec<&str> =
        records.iter().filter(|r| r.trial.set == set).map(|r| r.trial.sample.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    // By arm, in the experiment's order, and training seed.
    let place = |name: &str| experiment.arms.iter().position(|arm| arm.name == name);
    let mut sums: BTreeMap<(usize, u64), Vec<(f64, u32)>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.trial.set == set) {
        let column = sums
            .entry((place(&record.trial.arm)?, record.trial.train_seed))
            .or_insert_with(|| vec![(0.0, 0); ids.len()]);
        let value = record.answer().and_then(|_| record.verdicts.get(metric)?.value());
        if let (Some(value), Ok(at)) = (value, ids.binary_search(&record.trial.sample.as_str())) {
            column[at] = (column[at].0 + value, column[at].1 + 1);
        }
    }
    let arms: Vec<ArmScores> = sums
        .into_iter()
        .map(|((arm, _), column)| ArmScores {
            arm: experiment.arms[arm].name.clone(),
            scores: column
                .into_iter()
                .map(|(sum, n)| (n > 0).then(|| sum / f64::from(n)))
                .collect(),
        })
        .collect();
    let order = plan::asking_order(&ids, experiment.run.seed);
    let margin = Some(experiment.compare.margin).filter(|margin| *margin > 0.0);
    Look::new(&arms, &order, experiment.compare.alpha).met(when, margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arms that are right on these shares of the samples, evenly spread.
    fn arms(n: usize, shares: &[(&str, usize)]) -> Vec<ArmScores> {
        let score = |at: usize, of_ten: usize| Some(f64::from(u8::from((at * 7) % 10 < of_ten)));
        shares
            .iter()
            .map(|&(arm, of_ten)| ArmScores {
                arm: arm.into(),
                scores: (0..n).map(|at| score(at, of_ten)).collect(),
            })
            .collect()
    }

    fn met(n: usize, shares: &[(&str, usize)], when: &StopWhen) -> Option<String> {
        let order: Vec<usize> = (0..n).collect();
        Look::new(&arms(n, shares), &order, 0.05).met(when, Some(0.05))
    }

    #[test]
    fn a_clear_winner_is_enough_and_a_small_lead_is_not() {
        let when = StopWhen { decided: true, ..StopWhen::default() };
        let found = met(200, &[("base", 2), ("rag", 8), ("few", 3)], &when);
        assert_eq!(found.as_deref(), Some("rag is surely better than every other arm"));
        assert_eq!(met(20, &[("base", 5), ("rag", 6)], &when), None);
        assert_eq!(met(200, &[("alone", 8)], &when), None);
    }

    #[test]
    fn equal_arms_are_enough_once_they_are_surely_within_the_margin() {
        let when = StopWhen { decided: true, ..StopWhen::default() };
        assert_eq!(met(30, &[("a", 5), ("b", 5)], &when), None);
        assert!(met(2000, &[("a", 5), ("b", 5)], &when).is_some_and(|why| why.contains("margin")));
    }

    #[test]
    fn every_mean_must_be_known_closely_enough() {
        let when = StopWhen { half_width: Some(0.1), ..StopWhen::default() };
        assert_eq!(met(50, &[("a", 5), ("b", 9)], &when), None);
        let found = met(800, &[("a", 5), ("b", 9)], &when);
        assert_eq!(found.as_deref(), Some("every arm's mean is known to within 0.1"));
        assert_eq!(met(0, &[("a", 5)], &when), None);
    }
}
