//! Two arms on the same samples: the difference, its interval, a test, and a word for the outcome.
//!
//! Unpaired tests are not offered: arms that answered the same samples are compared on them.

use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{Units, acceleration, bca, expanded_critical, mean, variance},
    distribution::{binomial_cdf, critical, normal_cdf, t_cdf, t_critical},
    interval::{ClusterRobust, Clusters, Method, Options, is_binary, is_constant, range},
    power::{Spread, samples_for_difference, samples_for_equivalence},
    recipes::Crossed,
};

/// Nonzero differences up to which every sign pattern is tried.
const EXACT_UNITS: usize = 20;

/// The test behind a p-value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Exact McNemar: the binomial test of the samples that only one arm got right (McNemar 1947).
    McNemarExact,
    /// Sign flips of the paired differences, every pattern.
    PermutationExact,
    /// Sign flips at random, `(b + 1) / (m + 1)` (Phipson and Smyth 2010).
    PermutationMonteCarlo,
    /// Samples crossed with training seeds, see [`crate::recipes::analyse_recipes`].
    CrossedModel,
}

/// The outcome of a comparison, said of the first arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The first arm scores higher, after Holm's correction.
    Better,
    /// The first arm scores lower, after Holm's correction.
    Worse,
    /// The difference is inside the margin, after Holm's correction.
    Equivalent,
    /// Neither can be said.
    Undecided,
}

impl Verdict {
    /// The word that reports print.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::Equivalent => "equivalent",
            Verdict::Undecided => "undecided",
        }
    }

    fn swapped(self) -> Verdict {
        match self {
            Verdict::Better => Verdict::Worse,
            Verdict::Worse => Verdict::Better,
            Verdict::Equivalent | Verdict::Undecided => self,
        }
    }
}

/// Arm `a` against arm `b` on the samples that both were scored on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Samples scored in both arms.
    pub n: usize,
    /// Clusters they fall into, where samples share one.
    pub clusters: Option<usize>,
    /// Mean of `a` on these samples.
    pub mean_a: f64,
    /// Mean of `b` on these samples.
    pub mean_b: f64,
    /// `mean_a - mean_b`.
    pub difference: f64,
    /// Standard error of the difference, cluster-robust where there are clusters.
    pub standard_error: f64,
    /// Lower end of the difference's interval, not corrected for other comparisons.
    pub low: f64,
    /// Upper end of the difference's interval.
    pub high: f64,
    /// Confidence level of the interval.
    pub level: f64,
    /// How the interval was made.
    pub method: Method,
    /// The test behind `p_value`.
    pub test: Test,
    /// Two-sided p-value of no difference.
    pub p_value: f64,
    /// `p_value` after Holm's correction over the family; equal to it for a family of one.
    pub p_holm: f64,
    /// p-value of two one-sided tests against the margin, where one is declared.
    pub equivalence_p: Option<f64>,
    /// `equivalence_p` after Holm's correction over the family.
    pub equivalence_p_holm: Option<f64>,
    /// Samples where only `a` is right, for scores of 0 and 1.
    pub a_only: Option<usize>,
    /// Samples where only `b` is right, for scores of 0 and 1.
    pub b_only: Option<usize>,
    /// The outcome, said of `a`.
    pub verdict: Verdict,
    /// Further samples after which an undecided comparison would be decided with the wanted power if
    /// the difference and spread stay as seen: by a difference or, with a margin, by equivalence.
    /// `None` when decided, or when ten million samples would not do.
    pub more_needed: Option<usize>,
    /// The variances behind it, where an arm has several training seeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crossed: Option<Crossed>,
}

impl Comparison {
    /// The same comparison said of the other arm.
    #[must_use]
    pub fn swapped(&self) -> Comparison {
        Comparison {
            mean_a: self.mean_b,
            mean_b: self.mean_a,
            difference: -self.difference,
            low: -self.high,
            high: -self.low,
            a_only: self.b_only,
            b_only: self.a_only,
            verdict: self.verdict.swapped(),
            crossed: self.crossed.map(|crossed| crossed.swapped()),
            ..self.clone()
        }
    }

    /// Two-sided p-value of the hypothesis that the true difference is `null`, from Tango's score
    /// statistic with continuity correction for scores of 0 and 1 and from Student's t otherwise.
    pub fn p_value_against(&self, null: f64) -> f64 {
        let [below, above] = self.one_sided(null);
        (2.0 * below.min(above)).min(1.0)
    }

    /// `P(statistic as low)` and `P(statistic as high)` if the true difference were `null`.
    fn one_sided(&self, null: f64) -> [f64; 2] {
        if let Some(crossed) = self.crossed.filter(|_| self.standard_error > 0.0) {
            let tail = crossed.p_value(self.difference - null) / 2.0;
            return if self.difference < null { [tail, 1.0 - tail] } else { [1.0 - tail, tail] };
        }
        if let (None, Some(b), Some(c)) = (self.clusters, self.a_only, self.b_only) {
            // Half a sample is taken off, as exact McNemar loses half a step: without it the size of
            // the test exceeds its level where few samples differ.
            let z = |half| tango_shifted(b, c, self.n, null, half);
            return [normal_cdf(z(0.5)), normal_cdf(-z(-0.5))];
        }
        if self.standard_error > 0.0 {
            let degrees = self.clusters.unwrap_or(self.n) as f64 - 1.0;
            let t = (self.difference - null) / self.standard_error;
            return [t_cdf(t, degrees), t_cdf(-t, degrees)];
        }
        // No spread was seen. If scores lie in a range of 1 and the true mean differed by g from what
        // every sample shows, a share g of samples would have to differ: none of n did.
        let gap = (self.difference - null).abs().min(1.0);
        let unseen = (1.0 - gap).powi(self.clusters.unwrap_or(self.n) as i32);
        if self.difference < null { [unseen, 1.0] } else { [1.0, unseen] }
    }

    /// Fills in what depends on the family: corrected p-values, the word, advice on samples.
    fn conclude(
        &mut self,
        p_holm: f64,
        equivalence_p_holm: Option<f64>,
        family: usize,
        options: &Options,
    ) {
        self.p_holm = p_holm;
        self.equivalence_p_holm = equivalence_p_holm;
        self.verdict = if p_holm < options.alpha && self.difference != 0.0 {
            if self.difference > 0.0 { Verdict::Better } else { Verdict::Worse }
        } else if equivalence_p_holm.is_some_and(|p| p < options.alpha) {
            Verdict::Equivalent
        } else {
            Verdict::Undecided
        };
        self.more_needed = (self.verdict == Verdict::Undecided)
            .then(|| self.samples_to_decide(family, options))
            .flatten();
    }

    fn samples_to_decide(&self, family: usize, options: &Options) -> Option<usize> {
        let by_difference = self.samples_to_differ(self.difference, family, options);
        let by_equivalence = options.margin.and_then(|margin| {
            let margin = self.margin_beyond_training(margin, family, options)?;
            samples_for_equivalence(self.difference, self.spread(), margin, family, options)
        });
        let needed = [by_difference, by_equivalence].into_iter().flatten().min()?;
        Some(needed.saturating_sub(self.n).max(1))
    }

    /// Samples in all that would find a true difference of `net`, training seeds staying as they are;
    /// `None` where they leave too much open for any number of samples.
    pub(crate) fn samples_to_differ(
        &self,
        net: f64,
        family: usize,
        options: &Options,
    ) -> Option<usize> {
        let level = 1.0 - options.alpha / family.max(1) as f64;
        let left = match &self.crossed {
            Some(crossed) => beyond(net.abs(), crossed.of_training(level))?,
            None => net,
        };
        samples_for_difference(left, self.spread(), family, options)
    }

    /// What the training seeds leave of an equivalence margin.
    fn margin_beyond_training(&self, margin: f64, family: usize, options: &Options) -> Option<f64> {
        let Some(crossed) = &self.crossed else { return Some(margin) };
        let level = 1.0 - 2.0 * options.alpha / family.max(1) as f64;
        let difference = self.difference.abs();
        Some(difference + beyond(margin - difference, crossed.of_training(level))?)
    }

    /// The spread of the paired differences that this comparison saw.
    pub fn spread(&self) -> Spread {
        if let (None, Some(a), Some(b)) = (self.clusters, self.a_only, self.b_only) {
            return Spread::Discordance((a + b) as f64 / self.n as f64);
        }
        let of_samples = match &self.crossed {
            Some(crossed) => crossed.samples.variance.sqrt(),
            None => self.standard_error,
        };
        Spread::StandardDeviation(of_samples * (self.n as f64).sqrt())
    }
}

/// What is left of a distance where squares of half-widths add up; `None` if nothing.
fn beyond(distance: f64, taken: f64) -> Option<f64> {
    let left = distance * distance - taken;
    (distance > 0.0 && left > 0.0).then(|| left.sqrt())
}

/// Compares two arms on aligned scores of the same samples; a family of one.
///
/// `None` when there is nothing to test: fewer than two samples (or clusters), slices or labels of
/// different lengths, or a score that is not finite.
pub fn compare(a: &[f64], b: &[f64], clusters: &Clusters, options: &Options) -> Option<Comparison> {
    // In a canonical direction, so that swapping the arms negates the result and changes nothing else.
    let [up, down] = [(a, b), (b, a)].map(|(a, b)| {
        let mut d: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b + 0.0).collect();
        d.sort_unstable_by(f64::total_cmp);
        d
    });
    if up.iter().map(|x| x.to_bits()).lt(down.iter().map(|x| x.to_bits())) {
        return compare(b, a, clusters, options).map(|comparison| comparison.swapped());
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let resampled = || {
        let n = differences.len() as f64;
        Units::from_column(&differences)
            .resample(options.draws, options.seed)
            .rows()
            .map(|r| r[0] / n)
            .collect()
    };
    let flipped = || {
        let units = clusters.sum_rows(differences.iter().map(|&d| vec![d]).collect());
        Units::new(units).flip_signs(options.draws, options.seed).rows().map(|row| row[0]).collect()
    };
    let mut comparison = assess(a, b, clusters, options, resampled, flipped)?;
    conclude(std::slice::from_mut(&mut comparison), options);
    Some(comparison)
}

/// Corrects the comparisons of one family and gives each its word.
pub(crate) fn conclude(family: &mut [Comparison], options: &Options) {
    let p_holm = holm(&family.iter().map(|c| c.p_value).collect::<Vec<_>>());
    let equivalence: Option<Vec<f64>> = family.iter().map(|c| c.equivalence_p).collect();
    let equivalence = equivalence.map(|p| holm(&p));
    let size = family.len();
    for (i, comparison) in family.iter_mut().enumerate() {
        comparison.conclude(p_holm[i], equivalence.as_ref().map(|p| p[i]), size, options);
    }
}

/// One comparison before correction. `resampled` gives bootstrap replicates of the mean difference,
/// `flipped` the sums of differences under random signs of the units; each is asked only if needed.
pub(crate) fn assess(
    a: &[f64],
    b: &[f64],
    clusters: &Clusters,
    options: &Options,
    resampled: impl FnOnce() -> Vec<f64>,
    flipped: impl FnOnce() -> Vec<f64>,
) -> Option<Comparison> {
    let n = a.len();
    let finite = a.iter().chain(b).all(|x| x.is_finite());
    if n < 2 || b.len() != n || !finite || clusters.len().is_some_and(|labels| labels != n) {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let difference = mean(&differences);
    let only = |x: &[f64], y: &[f64]| x.iter().zip(y).filter(|(x, y)| x > y).count();
    let counts = (is_binary(a) && is_binary(b)).then(|| (only(a, b), only(b, a)));
    let robust =
        if clusters.is_some() { Some(ClusterRobust::new(&differences, clusters)?) } else { None };

    let standard_error = match &robust {
        Some(robust) => robust.standard_error,
        None if is_constant(&differences) => 0.0,
        None => (variance(&differences) / n as f64).sqrt(),
    };
    let level = options.level;
    let (low, high, method) = match (&robust, counts) {
        (Some(robust), Some((b, c))) if standard_error < 1e-12 => {
            // No cluster differs from the others, which does not make the difference certain: Tango's
            // interval, in which equal differences count each cluster once, as the interval of a mean
            // of equal clustered scores does (see `clustered` of intervals).
            let [b, c, n] = if is_constant(&differences) {
                [b.min(1), c.min(1), 1].map(|share| share * robust.clusters)
            } else {
                [b, c, n]
            };
            let (low, high) = tango_interval(b, c, n, t_critical(level, robust.degrees));
            (low, high, Method::Tango)
        }
        (Some(_), None) if is_constant(&differences) => (difference, difference, Method::Constant),
        (Some(robust), _) => {
            let half = t_critical(level, robust.degrees) * standard_error;
            (difference - half, difference + half, Method::ClusterRobust)
        }
        (None, Some((b, c))) => {
            let (low, high) = tango_interval(b, c, n, critical(level));
            (low, high, Method::Tango)
        }
        (None, None) if standard_error > 0.0 => {
            let z = expanded_critical(n, level);
            let (low, high) = bca(&resampled(), difference, acceleration(&differences), z)?;
            (low, high, Method::Bca)
        }
        (None, None) => (difference, difference, Method::Constant),
    };
    let (p_value, test) = match (&robust, counts) {
        (None, Some((b, c))) => (mcnemar_exact(b, c), Test::McNemarExact),
        _ => permutation(&differences, clusters, flipped),
    };
    let mut comparison = Comparison {
        n,
        clusters: robust.map(|robust| robust.clusters),
        mean_a: mean(a),
        mean_b: mean(b),
        difference,
        standard_error,
        low,
        high,
        level,
        method,
        test,
        p_value,
        p_holm: p_value,
        equivalence_p: None,
        equivalence_p_holm: None,
        a_only: counts.map(|(b, _)| b),
        b_only: counts.map(|(_, c)| c),
        verdict: Verdict::Undecided,
        more_needed: None,
        crossed: None,
    };
    let (lowest, highest) = range(a);
    let (lowest_b, highest_b) = range(b);
    let scale = (highest.max(highest_b) - lowest.min(lowest_b)).max(1.0);
    comparison.equivalence_p = options.margin.map(|margin| {
        if comparison.standard_error > 0.0 || counts.is_some() {
            tost(&comparison, margin)
        } else {
            // The bound for values without spread wants scores in a range of 1.
            tost(
                &Comparison { difference: difference / scale, ..comparison.clone() },
                margin / scale,
            )
        }
    });
    Some(comparison)
}

/// Two one-sided tests (Schuirmann 1987): the p-value of "the true difference is at least `margin`
/// away from zero"; small means equivalent.
///
/// The tests are Tango's score test with continuity correction for scores of 0 and 1, Student's t
/// otherwise (cluster-robust where there are clusters). When no sample differs at all, the p-value is the chance to see none
/// of the differing samples that a true difference of the margin would need.
pub fn tost(comparison: &Comparison, margin: f64) -> f64 {
    let [_, above_low] = comparison.one_sided(-margin);
    let [below_high, _] = comparison.one_sided(margin);
    above_low.max(below_high)
}

/// The exact two-sided McNemar test: the binomial test at one half of `a_only` against `b_only`.
pub fn mcnemar_exact(a_only: usize, b_only: usize) -> f64 {
    let discordant = (a_only + b_only) as i64;
    (2.0 * binomial_cdf(a_only.min(b_only) as i64, discordant, 0.5)).min(1.0)
}

/// Holm's step-down correction (Holm 1979): p-values that control the family-wise error rate, in the
/// order given.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let m = p_values.len();
    let mut order: Vec<usize> = (0..m).collect();
    order.sort_by(|&i, &j| p_values[i].total_cmp(&p_values[j]));
    let mut corrected = vec![0.0; m];
    let mut largest = 0.0_f64;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max((p_values[i] * (m - rank) as f64).min(1.0));
        corrected[i] = largest;
    }
    corrected
}

/// The paired permutation test: how often the sum of differences with random signs is as far from
/// zero as the one seen. Samples of a cluster change sign together.
fn permutation(
    differences: &[f64],
    clusters: &Clusters,
    flipped: impl FnOnce() -> Vec<f64>,
) -> (f64, Test) {
    let mut units: Vec<f64> = clusters
        .sum_rows(differences.iter().map(|&d| vec![d]).collect())
        .into_iter()
        .map(|row| row[0])
        .collect();
    let scale: f64 = units.iter().map(|x| x.abs()).sum();
    let slack = 1e-9 * scale;
    let bound = units.iter().sum::<f64>().abs() - slack;
    units.retain(|x| x.abs() > 1e-12 * scale);
    if units.len() <= EXACT_UNITS {
        return (exact_share(&units, bound), Test::PermutationExact);
    }
    let sums = flipped();
    let extreme = sums.iter().filter(|sum| sum.abs() >= bound).count();
    ((extreme + 1) as f64 / (sums.len() + 1) as f64, Test::PermutationMonteCarlo)
}

/// The share of all sign patterns whose sum is at least `bound` away from zero. The first sign is
/// held, because negating all changes nothing; a Gray code then flips one sign at a time.
fn exact_share(units: &[f64], bound: f64) -> f64 {
    let patterns = 1_u64 << units.len().saturating_sub(1);
    let mut signs: Vec<f64> = units.to_vec();
    let mut sum: f64 = units.iter().sum();
    let mut extreme = u64::from(sum.abs() >= bound);
    for step in 1..patterns {
        let flip = step.trailing_zeros() as usize + 1;
        sum -= 2.0 * signs[flip];
        signs[flip] = -signs[flip];
        extreme += u64::from(sum.abs() >= bound);
    }
    extreme as f64 / patterns as f64
}

/// Tango's score statistic of a paired difference of proportions (Tango 1998, Statistics in Medicine
/// 17:891-908) against `null`; approximately standard normal.
fn tango_statistic(a_only: usize, b_only: usize, n: usize, null: f64) -> f64 {
    tango_shifted(a_only, b_only, n, null, 0.0)
}

/// As [`tango_statistic`], with `shift` samples added to those that speak for the first arm.
fn tango_shifted(a_only: usize, b_only: usize, n: usize, null: f64, shift: f64) -> f64 {
    let [b, c, n] = [a_only, b_only, n].map(|x| x as f64);
    let middle = -b - c + (2.0 * n - b + c) * null;
    let constant = -c * null * (1.0 - null);
    let nuisance = ((middle * middle - 8.0 * n * constant).max(0.0).sqrt() - middle) / (4.0 * n);
    let variance = n * (2.0 * nuisance + null * (1.0 - null));
    let gap = b - c - n * null + shift;
    if gap.abs() < 1e-12 * n { 0.0 } else { gap / variance.max(0.0).sqrt() }
}

/// The differences that Tango's statistic does not reject at `z`.
fn tango_interval(a_only: usize, b_only: usize, n: usize, z: f64) -> (f64, f64) {
    let centre = (a_only as f64 - b_only as f64) / n as f64;
    // The statistic falls as the null rises, from above z to below -z.
    let solve = |target: f64, mut low: f64, mut high: f64| {
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if tango_statistic(a_only, b_only, n, middle) > target {
                low = middle;
            } else {
                high = middle;
            }
        }
        f64::midpoint(low, high)
    };
    (solve(z, -1.0, centre), solve(-z, centre, 1.0))
}
