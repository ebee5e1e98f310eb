//! Answers that are labels: precision, recall and F1 of each label, and macro-F1.
//!
//! F1 of a label is `2 TP / (2 TP + FP + FN)` (van Rijsbergen 1979, *Information Retrieval*, chapter
//! 7). Macro-F1 is the mean of F1 over the labels that are gold in the samples, each label counting
//! the same however rare it is; a label that is never answered has F1 = 0. That is scikit-learn's
//! `f1_score(average="macro", labels=<the gold labels>)`.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{acceleration, bca, expanded_critical},
    interval::{Clusters, Options},
};

/// The right label of a sample and what was answered, as positions in a list of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The right one.
    pub gold: usize,
    /// The answers, one per repeat; `None` is an answer that is no label. Together they count as one
    /// sample; none is no sample.
    pub predicted: Vec<Option<usize>>,
}

/// How well one label is told from the others. Samples count 1 each, their repeats equal parts of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelScore {
    /// Samples of which it is the gold label.
    pub support: usize,
    /// Samples for which it was answered.
    pub predicted: f64,
    /// Share of the answers with this label that are right; `None` where it was never answered.
    pub precision: Option<f64>,
    /// Share of its samples that are answered right; `None` where it is nobody's gold label.
    pub recall: Option<f64>,
    /// F1; `None` where it is neither gold nor answered.
    pub f1: Option<f64>,
}

/// Macro-F1 with its interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MacroF1 {
    /// Samples.
    pub n: usize,
    /// Labels that are gold in them, over which F1 is averaged.
    pub labels: usize,
    /// The mean of their F1, 0 to 1.
    pub value: f64,
    /// Ends of the bias-corrected and accelerated bootstrap interval over samples, or over clusters
    /// where samples share them; `None` with fewer than two of these.
    pub interval: Option<(f64, f64)>,
}

/// What of a label is counted: right answers, gold and answered samples together, gold samples.
type Counts = [f64; 3];

/// What one sample, or cluster, adds to the counts of labels; a label at most once.
type Unit = Vec<(usize, Counts)>;

/// The scores of `labels` labels, in their order.
///
/// # Panics
/// Where a sample names a label beyond these.
pub fn label_scores(samples: &[Labelled], labels: usize) -> Vec<LabelScore> {
    let mut counts = vec![[0.0; 3]; labels];
    for unit in samples.iter().filter_map(unit) {
        add(&mut counts, &unit, 1.0);
    }
    let share = |part: f64, of: f64| (of > 0.0).then(|| part / of);
    counts
        .into_iter()
        .map(|[right, both, gold]| LabelScore {
            support: gold.round() as usize,
            predicted: both - gold,
            precision: share(right, both - gold),
            recall: share(right, gold),
            f1: share(2.0 * right, both),
        })
        .collect()
}

/// Macro-F1 of the samples. `clusters` has a label for each of them, those without answers included.
/// In a resample, the mean is over the labels that are gold there. `None` without samples or with
/// clusters of other samples.
pub fn macro_f1(samples: &[Labelled], clusters: &Clusters, options: &Options) -> Option<MacroF1> {
    let ids = clusters.members();
    if ids.is_some_and(|ids| ids.len() != samples.len()) {
        return None;
    }
    let kept = samples.iter().enumerate().filter_map(|(at, sample)| Some((at, unit(sample)?)));
    let (places, units): (Vec<usize>, Vec<Unit>) = kept.unzip();
    let n = units.len();
    let mut units = match ids {
        None => units,
        Some(ids) => joined(places.into_iter().map(|at| ids[at]).zip(units)),
    };
    // A canonical order: the result does not depend on that of samples.
    units.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let labels = units.iter().flatten().map(|(label, _)| label + 1).max()?;
    let mut total = vec![[0.0; 3]; labels];
    for unit in &units {
        add(&mut total, unit, 1.0);
    }
    let value = mean_f1(&total)?;
    Some(MacroF1 {
        n,
        labels: total.iter().filter(|counts| counts[2] > 0.0).count(),
        value,
        interval: (units.len() > 1).then(|| interval(&units, &total, value, options)).flatten(),
    })
}

fn interval(units: &[Unit], total: &[Counts], value: f64, options: &Options) -> Option<(f64, f64)> {
    let n = units.len();
    // Equal samples are drawn one by one and counted together: of labels there are few kinds.
    let kinds: Vec<&[Unit]> = units.chunk_by(|one, next| one == next).collect();
    let kind_of: Vec<u32> =
        (0..).zip(&kinds).flat_map(|(kind, like)| like.iter().map(move |_| kind)).collect();
    let base = ChaCha8Rng::seed_from_u64(options.seed);
    let fresh = || (vec![0_u32; n], vec![0_u32; kinds.len()], vec![[0.0; 3]; total.len()]);
    let replicates: Vec<Option<f64>> = (0..options.draws)
        .into_par_iter()
        .with_min_len(64)
        .map_init(fresh, |(random, drawn, counts), draw| {
            let mut rng = base.clone();
            rng.set_stream(draw as u64);
            rng.fill(&mut random[..]);
            drawn.fill(0);
            for &word in &*random {
                drawn[kind_of[((u64::from(word) * n as u64) >> 32) as usize] as usize] += 1;
            }
            counts.fill([0.0; 3]);
            for (like, &times) in kinds.iter().zip(&*drawn).filter(|(_, times)| **times > 0) {
                add(counts, &like[0], f64::from(times));
            }
            mean_f1(counts)
        })
        .collect();
    let replicates: Vec<f64> = replicates.into_iter().flatten().collect();
    let jackknife: Vec<f64> = kinds
        .iter()
        .filter_map(|like| Some(std::iter::repeat_n(-without(total, &like[0])?, like.len())))
        .flatten()
        .collect();
    bca(&replicates, value, acceleration(&jackknife), expanded_critical(n, options.level))
}

/// What a sample adds; `None` without answers.
fn unit(sample: &Labelled) -> Option<Unit> {
    let part = 1.0 / sample.predicted.len() as f64;
    let mut unit: Unit = vec![(sample.gold, [0.0, 1.0, 1.0])];
    for label in sample.predicted.iter().flatten() {
        let right = if *label == sample.gold { part } else { 0.0 };
        merge(&mut unit, *label, [right, part, 0.0]);
    }
    unit.sort_by_key(|(label, _)| *label);
    (!sample.predicted.is_empty()).then_some(unit)
}

fn merge(unit: &mut Unit, label: usize, more: Counts) {
    match unit.iter_mut().find(|(known, _)| *known == label) {
        Some((_, counts)) => counts.iter_mut().zip(more).for_each(|(sum, x)| *sum += x),
        None => unit.push((label, more)),
    }
}

/// A unit per cluster.
fn joined(units: impl Iterator<Item = (u32, Unit)>) -> Vec<Unit> {
    let mut clusters = std::collections::BTreeMap::<u32, Unit>::new();
    for (id, unit) in units {
        let cluster = clusters.entry(id).or_default();
        for (label, counts) in unit {
            merge(cluster, label, counts);
        }
    }
    let sorted = |mut unit: Unit| {
        unit.sort_by_key(|(label, _)| *label);
        unit
    };
    clusters.into_values().map(sorted).collect()
}

fn add(counts: &mut [Counts], unit: &Unit, times: f64) {
    for (label, more) in unit {
        counts[*label].iter_mut().zip(more).for_each(|(sum, x)| *sum += times * x);
    }
}

fn f1([right, both, gold]: Counts) -> Option<f64> {
    (gold > 0.0).then(|| 2.0 * right / both)
}

fn mean_f1(counts: &[Counts]) -> Option<f64> {
    let (sum, n) = summed(counts.iter().copied());
    (n > 0).then(|| sum / n as f64)
}

fn summed(counts: impl Iterator<Item = Counts>) -> (f64, usize) {
    counts.filter_map(f1).fold((0.0, 0), |(sum, n), x| (sum + x, n + 1))
}

/// Macro-F1 of all units but one.
fn without(total: &[Counts], unit: &Unit) -> Option<f64> {
    let mut left = total.to_vec();
    for (label, less) in unit {
        left[*label].iter_mut().zip(less).for_each(|(sum, x)| *sum -= x);
    }
    mean_f1(&left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(pairs: &[(usize, Option<usize>)]) -> Vec<Labelled> {
        pairs.iter().map(|&(gold, said)| Labelled { gold, predicted: vec![said] }).collect()
    }

    fn found(samples: &[Labelled], clusters: &Clusters) -> MacroF1 {
        macro_f1(samples, clusters, &Options { draws: 2000, ..Options::default() }).unwrap()
    }

    #[test]
    fn the_figures_are_those_worked_by_hand() {
        // Label 0: one of two right, one false alarm; label 1: never answered; label 2: nobody's gold.
        let samples = samples(&[(0, Some(0)), (0, None), (1, Some(0)), (1, Some(2))]);
        let scores = label_scores(&samples, 3);
        assert_eq!((scores[0].precision, scores[0].recall), (Some(0.5), Some(0.5)));
        assert_eq!((scores[1].precision, scores[1].f1), (None, Some(0.0)));
        assert_eq!((scores[2].recall, scores[2].f1, scores[2].support), (None, Some(0.0), 0));
        let all = found(&samples, &Clusters::none());
        assert_eq!((all.n, all.labels), (4, 2));
        assert!((all.value - 0.25).abs() < 1e-12, "{all:?}");
        let (low, high) = all.interval.unwrap();
        assert!(low <= all.value && all.value <= high && low >= 0.0 && high <= 1.0);
    }

    #[test]
    fn repeats_share_a_sample_and_answers_are_not_needed() {
        let twice = vec![
            Labelled { gold: 0, predicted: vec![Some(0), Some(1)] },
            Labelled { gold: 1, predicted: vec![Some(1), Some(1)] },
            Labelled { gold: 1, predicted: vec![] },
        ];
        let all = found(&twice, &Clusters::none());
        // Label 0: 2 * 0.5 / (0.5 + 1); label 1: 2 * 1 / (1.5 + 1).
        assert_eq!(all.n, 2);
        assert!((all.value - f64::midpoint(2.0 / 3.0, 0.8)).abs() < 1e-12, "{all:?}");
        assert_eq!(macro_f1(&twice[2..], &Clusters::none(), &Options::default()), None);
        assert_eq!(found(&twice[..1], &Clusters::none()).interval, None);
    }

    #[test]
    fn the_order_of_samples_does_not_count_and_clusters_widen_the_interval() {
        let pairs: Vec<(usize, Option<usize>)> =
            (0..120).map(|at| (at % 4, (at % 12 < 9).then_some(at % 4))).collect();
        let mut samples = samples(&pairs);
        let alone = found(&samples, &Clusters::none());
        samples.reverse();
        assert_eq!(found(&samples, &Clusters::none()), alone);
        samples.reverse();
        // Twelve clusters of ten equal fates each.
        let clusters = Clusters::from_labels((0..120).map(|at| at % 12));
        let together = found(&samples, &clusters);
        let wide = |one: &MacroF1| one.interval.map(|(low, high)| high - low).unwrap();
        assert!(wide(&together) > 1.5 * wide(&alone), "{together:?} {alone:?}");
        assert!((together.value - alone.value).abs() < 1e-12);
        let other = Clusters::from_labels([1, 1, 2]);
        assert_eq!(macro_f1(&samples, &other, &Options::default()), None);
    }
}
