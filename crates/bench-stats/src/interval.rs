//! A mean with its standard error and interval.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{Units, acceleration, bca, expanded_critical, mean, variance},
    distribution::{binomial_cdf, critical, t_critical},
};

/// What every analysis is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Confidence level of intervals, strictly between 0 and 1: 0.95.
    pub level: f64,
    /// Error rate of tests over the whole family of comparisons, 0.05.
    pub alpha: f64,
    /// The largest difference that does not matter, in the units of the score. Without it nothing
    /// can be called equivalent.
    pub margin: Option<f64>,
    /// Power that advice on sample sizes aims for, 0.8.
    pub power: f64,
    /// Bootstrap draws and random sign flips, 10,000.
    pub draws: usize,
    /// Seed of all resampling.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { level: 0.95, alpha: 0.05, margin: None, power: 0.8, draws: 10_000, seed: 0 }
    }
}

/// How an interval was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Wilson's score interval of a proportion (Wilson 1927).
    Wilson,
    /// Wilson's interval at the effective sample size that clustering leaves, with Student's t
    /// (Korn and Graubard 1998; Dean and Pagano 2015).
    WilsonClustered,
    /// Bias-corrected and accelerated bootstrap (Efron 1987), expanded for small samples.
    Bca,
    /// Student's t after the cubic transformation that takes the skewness off (Hall 1992, Journal of
    /// the Royal Statistical Society B 54:221): for quantities without bound, such as money.
    Hall,
    /// Student's t on a cluster-robust (CR1) standard error, clusters minus one degrees of freedom.
    ClusterRobust,
    /// Tango's score interval of a paired difference of proportions (Tango 1998). Where samples share
    /// clusters and no cluster differs from the others: with each cluster counted once and Student's
    /// t, the effective sample size of Korn and Graubard (1998) as in `wilson_clustered`.
    Tango,
    /// Samples and training seeds vary (Graybill and Wang 1980), see [`crate::recipes`].
    CrossedModel,
    /// A confidence sequence: it holds at every look (Waudby-Smith and Ramdas 2023).
    ConfidenceSequence,
    /// All values are equal: the interval has no width, because the sample shows no spread.
    Constant,
}

/// A mean with its uncertainty, in the units of the score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Values in the mean.
    pub n: usize,
    /// Clusters they fall into, where samples share one.
    pub clusters: Option<usize>,
    /// The mean.
    pub mean: f64,
    /// Its standard error, cluster-robust where there are clusters.
    pub standard_error: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Confidence level of the interval.
    pub level: f64,
    /// How the interval was made.
    pub method: Method,
}

/// Which samples belong together (document, template, author).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clusters(Option<Vec<u32>>);

impl Clusters {
    /// Every sample stands for itself.
    pub fn none() -> Clusters {
        Clusters(None)
    }

    /// One label per sample, in the order of the scores. Labels that are all different are no clusters.
    pub fn from_labels<L: Ord>(labels: impl IntoIterator<Item = L>) -> Clusters {
        let mut ids = BTreeMap::new();
        let members: Vec<u32> = labels
            .into_iter()
            .map(|label| {
                let next = ids.len() as u32;
                *ids.entry(label).or_insert(next)
            })
            .collect();
        Clusters((ids.len() < members.len()).then_some(members))
    }

    /// Samples that have a label; `None` without clusters.
    pub(crate) fn len(&self) -> Option<usize> {
        self.0.as_ref().map(Vec::len)
    }

    /// The cluster of each sample, by number; `None` without clusters.
    pub(crate) fn members(&self) -> Option<&[u32]> {
        self.0.as_deref()
    }

    /// The clusters of the samples at `kept`.
    pub(crate) fn select(&self, kept: &[usize]) -> Clusters {
        self.0
            .as_ref()
            .map_or_else(Clusters::none, |ids| Clusters::from_labels(kept.iter().map(|&i| ids[i])))
    }

    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Sums a row of columns per sample into a row per unit; without clusters the rows themselves.
    pub(crate) fn sum_rows(&self, rows: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        let Some(ids) = &self.0 else { return rows };
        let mut sums: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for (id, row) in ids.iter().zip(rows) {
            match sums.get_mut(id) {
                Some(sum) => sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x),
                None => drop(sums.insert(*id, row)),
            }
        }
        sums.into_values().collect()
    }
}

/// Wilson's score interval of a proportion. `None` without trials, or with fewer than successes.
pub fn wilson(successes: usize, n: usize, level: f64) -> Option<Estimate> {
    if n == 0 || successes > n {
        return None;
    }
    let mean = successes as f64 / n as f64;
    let (low, high) = wilson_ends(mean, n as f64, critical(level));
    Some(Estimate {
        n,
        clusters: None,
        mean,
        standard_error: (mean * (1.0 - mean) / n as f64).sqrt(),
        low,
        high,
        level,
        method: Method::Wilson,
    })
}

fn wilson_ends(p: f64, n: f64, z: f64) -> (f64, f64) {
    let squared = z * z / n;
    let centre = (p + squared / 2.0) / (1.0 + squared);
    let half = z / (1.0 + squared) * (p * (1.0 - p) / n + squared / (4.0 * n)).sqrt();
    // Rounding must not put the end a hair inside a proportion of 0 or 1.
    ((centre - half).clamp(0.0, p), (centre + half).clamp(p, 1.0))
}

/// The ends of a distribution-free interval of a quantile, from order statistics: exact binomial
/// (Conover 1999, Practical Nonparametric Statistics, section 3.2). `sorted` rises and `share` is 0
/// to 1, for example 0.95. An end is `None` where too few values lie on its side to vouch for one.
pub fn quantile_interval(sorted: &[f64], share: f64, level: f64) -> [Option<f64>; 2] {
    let n = sorted.len();
    let tail = (1.0 - level) / 2.0;
    // P(at most `count` of the values lie below the quantile).
    let at_most = |count: usize| binomial_cdf(count as i64, n as i64, share);
    let ranks: Vec<usize> = (0..=n).collect();
    // The largest rank r with P(fewer than r values below) <= tail.
    let low = ranks.partition_point(|&r| r == 0 || at_most(r - 1) <= tail);
    // The smallest rank s with P(fewer than s values below) >= 1 - tail.
    let high = ranks.partition_point(|&s| s == 0 || at_most(s - 1) < 1.0 - tail);
    let value = |rank: usize| (1..=n).contains(&rank).then(|| sorted[rank - 1]);
    [value(low - 1), value(high)]
}

/// The mean of scores: Wilson when all are 0 or 1, bootstrap otherwise, cluster-robust where samples
/// share a cluster. Values beyond 1 are no scores but quantities (tokens, money), whose long tails
/// the bootstrap of few samples does not see: Hall's transformation. `None` without a score, with a score that is not finite, with labels that do not
/// match the scores, or where a spread cannot be had: a single score that is neither 0 nor 1, or a
/// single cluster.
pub fn estimate(values: &[f64], clusters: &Clusters, options: &Options) -> Option<Estimate> {
    estimate_with(values, clusters, options, || {
        let n = values.len() as f64;
        Units::from_column(values)
            .resample(options.draws, options.seed)
            .rows()
            .map(|row| row[0] / n)
            .collect()
    })
}

/// As [`estimate`], with the replicates of the mean from elsewhere, asked for only when needed.
pub(crate) fn estimate_with(
    values: &[f64],
    clusters: &Clusters,
    options: &Options,
    replicates: impl FnOnce() -> Vec<f64>,
) -> Option<Estimate> {
    let n = values.len();
    if n == 0
        || values.iter().any(|x| !x.is_finite())
        || clusters.len().is_some_and(|labels| labels != n)
    {
        return None;
    }
    let level = options.level;
    let binary = is_binary(values);
    if clusters.is_some() {
        return clustered(values, clusters, binary, level);
    }
    if binary {
        return wilson(values.iter().filter(|&&x| x > 0.5).count(), n, level);
    }
    if n < 2 {
        return None;
    }
    let mean = mean(values);
    let base = Estimate {
        n,
        clusters: None,
        mean,
        standard_error: 0.0,
        low: mean,
        high: mean,
        level,
        method: Method::Constant,
    };
    if is_constant(values) {
        return Some(base);
    }
    let standard_error = (variance(values) / n as f64).sqrt();
    if values.iter().any(|x| x.abs() > 1.0) {
        let (low, high) = hall(values, level);
        return Some(Estimate { standard_error, low, high, method: Method::Hall, ..base });
    }
    let (low, high) = bca(&replicates(), mean, acceleration(values), expanded_critical(n, level))?;
    Some(Estimate { standard_error, low, high, method: Method::Bca, ..base })
}

fn hall(values: &[f64], level: f64) -> (f64, f64) {
    let (n, mean, variance) = (values.len() as f64, mean(values), variance(values));
    let third = values.iter().map(|x| (x - mean).powi(3)).sum::<f64>() / n;
    let skewness = third / (variance * (n - 1.0) / n).powf(1.5);
    hall_ends(mean, variance.sqrt(), skewness, n, t_critical(level, n - 1.0))
}

/// The interval of a mean of `n` values of this standard deviation and skewness, whose studentized
/// error `x` is taken to Student's t by `x + g x^2 / 3 + g^2 x^3 / 27 + g / 6n`, `g` the skewness; the
/// cubic has an inverse in closed form.
pub(crate) fn hall_ends(mean: f64, deviation: f64, skewness: f64, n: f64, t: f64) -> (f64, f64) {
    let t = t / n.sqrt();
    let error = |x: f64| {
        if skewness.abs() < 1e-6 {
            return x;
        }
        3.0 / skewness * ((1.0 + skewness * (x - skewness / (6.0 * n))).cbrt() - 1.0)
    };
    (mean - deviation * error(t), mean - deviation * error(-t))
}

fn clustered(values: &[f64], clusters: &Clusters, binary: bool, level: f64) -> Option<Estimate> {
    let robust = ClusterRobust::new(values, clusters)?;
    let (n, mean) = (values.len(), mean(values));
    let t = t_critical(level, robust.degrees);
    let base = Estimate {
        n,
        clusters: Some(robust.clusters),
        mean,
        standard_error: robust.standard_error,
        low: mean - t * robust.standard_error,
        high: mean + t * robust.standard_error,
        level,
        method: Method::ClusterRobust,
    };
    if binary {
        let (spread, variance) = (mean * (1.0 - mean), robust.standard_error.powi(2));
        // It may exceed n, when clusters differ less than chance would have it. Without spread nothing
        // is known of the clustering, and each cluster counts once.
        let effective = match (spread > 0.0, variance > 0.0) {
            (true, true) => spread / variance,
            (true, false) => n as f64,
            (false, _) => robust.clusters as f64,
        };
        let (low, high) = wilson_ends(mean, effective, t);
        return Some(Estimate { low, high, method: Method::WilsonClustered, ..base });
    }
    if is_constant(values) {
        return Some(Estimate { method: Method::Constant, ..base });
    }
    let (least, most) = range(values);
    if least >= 0.0 && most <= 1.0 && (base.low < 0.0 || base.high > 1.0) {
        // Shares cannot lie outside of 0 to 1, and so neither can their mean.
        let effective = mean * (1.0 - mean) / robust.standard_error.powi(2);
        let (low, high) = wilson_ends(mean, effective, t);
        return Some(Estimate { low, high, method: Method::WilsonClustered, ..base });
    }
    Some(base)
}

/// The standard error of a mean whose values share clusters: CR1, that is
/// `G / (G - 1) * sum over clusters of (sum of residuals)^2 / n^2` (Liang and Zeger 1986).
pub(crate) struct ClusterRobust {
    pub(crate) clusters: usize,
    pub(crate) standard_error: f64,
    pub(crate) degrees: f64,
}

impl ClusterRobust {
    /// `None` with fewer than two clusters.
    pub(crate) fn new(values: &[f64], clusters: &Clusters) -> Option<ClusterRobust> {
        let mean = mean(values);
        let residuals = clusters.sum_rows(values.iter().map(|x| vec![x - mean]).collect());
        let g = residuals.len() as f64;
        let squares: f64 = residuals.iter().map(|row| row[0] * row[0]).sum();
        let standard_error = (g / (g - 1.0) * squares).sqrt() / values.len() as f64;
        (g > 1.0).then_some(ClusterRobust {
            clusters: residuals.len(),
            standard_error,
            degrees: g - 1.0,
        })
    }
}

#[expect(clippy::float_cmp, reason = "a right answer scores exactly 1, a wrong one exactly 0")]
pub(crate) fn is_binary(values: &[f64]) -> bool {
    values.iter().all(|&x| x == 0.0 || x == 1.0)
}

pub(crate) fn is_constant(values: &[f64]) -> bool {
    let (low, high) = range(values);
    high - low <= 1e-12 * low.abs().max(high.abs())
}

pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_a_long_tail_have_an_interval_that_leans_into_it() {
        let costs: Vec<f64> = (1..=50).map(|i| -2.0 * (f64::from(i) / 51.0).ln()).collect();
        let found = estimate(&costs, &Clusters::none(), &Options::default()).unwrap();
        assert_eq!(found.method, Method::Hall);
        let (below, above) = (found.mean - found.low, found.high - found.mean);
        let half = t_critical(0.95, 49.0) * found.standard_error;
        assert!(below < half && half < above, "{below} {half} {above}");
        // Without skewness it is Student's.
        let even: Vec<f64> = (-20..=20).map(f64::from).collect();
        let found = estimate(&even, &Clusters::none(), &Options::default()).unwrap();
        let half = t_critical(0.95, 40.0) * found.standard_error;
        assert!((found.high - half).abs() < 1e-9 && (found.low + half).abs() < 1e-9);
    }
}
