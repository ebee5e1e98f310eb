//! What an arm really scores when a judge that errs graded it, given some human labels.

use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{mean, variance},
    distribution::{beta_quantile, t_critical},
    interval::{hall_ends, is_binary},
};

/// Human labels that a correction of right and wrong answers takes to keep its promise: with 50, the
/// intervals of a judge that seldom errs held the truth in up to 97 % of simulated runs, and the
/// inverted confusion matrix of a poor judge was biased by more than half a point (reports/validity).
pub const LEAST_LABELS: usize = 100;

/// The same where there are more grades than two: with 50 labels, few grades but the best and a judge that
/// seldom errs, the interval held the truth in only 90 % of simulated runs, and with 100 in up to 96.4 %.
pub const LEAST_GRADED_LABELS: usize = 200;

/// The labels that a correction takes of grades like these: [`LEAST_LABELS`] where all are 0 or 1, else
/// [`LEAST_GRADED_LABELS`]. The functions here compute with fewer; a report does not print it.
pub fn least_labels(human: &[f64], judge: &[f64]) -> usize {
    if is_binary(human) && is_binary(judge) { LEAST_LABELS } else { LEAST_GRADED_LABELS }
}

/// A judge's mean score, corrected by human labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Corrected {
    /// The corrected mean.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end of its interval.
    pub high: f64,
    /// Confidence level of the interval.
    pub level: f64,
    /// The judge's own mean, uncorrected.
    pub judge_mean: f64,
    /// Human labels used.
    pub labelled: usize,
    /// Samples that the judge graded, the labelled ones included.
    pub judged: usize,
    /// How much of the judge was used: 0 is human labels alone, 1 the judge corrected by them. Only
    /// in prediction-powered inference.
    pub judge_weight: Option<f64>,
}

/// Prediction-powered inference of a mean (Angelopoulos et al. 2023, Science 382:669) with the judge
/// weighed so that the variance is least (Angelopoulos, Duchi and Zrnic 2023, "PPI++").
///
/// `human` and `judge_labelled` grade the same samples, a random subset; `judge_unlabelled` are the
/// judge's grades of all other samples.
///
/// Where all grades are 0 or 1, that is the estimate of double sampling (Tenenbein 1970, JASA
/// 65:1350; Fisch et al. 2024, "Stratified prediction-powered inference"): people's share of right
/// answers among those that the judge passes and among those that it fails, weighed by how many it
/// passes and fails. It has no bias, and its interval joins Jeffreys intervals of the three shares
/// (MOVER: Zou and Donner 2008, Statistics in Medicine 27:1693), because a good judge errs too seldom
/// for Student's t.
///
/// For other grades, a weight fitted on the labels that it is used on biases the estimate, and few errors
/// of a good judge are skewed. So the estimate and its standard error are the jackknife's over the
/// labels (Tukey's pseudo-values: Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans,
/// chapters 2 and 3), and the interval is Student's t with two degrees of freedom less than there are
/// labels, after Hall's transformation (1992) for the skewness of both samples. Labels on which the
/// judge happens to make no error would leave no spread: as Jeffreys' prior adds half an error to a
/// proportion, half a label with an error is added to the variance (our own device, measured in
/// reports/validity).
///
/// Three labels and two unlabelled samples are the least it takes; `None` below that, with slices of
/// different lengths or a grade that is not finite.
pub fn ppi_mean(
    human: &[f64],
    judge_labelled: &[f64],
    judge_unlabelled: &[f64],
    level: f64,
) -> Option<Corrected> {
    let finite = human.iter().chain(judge_labelled).chain(judge_unlabelled).all(|x| x.is_finite());
    let [n, rest] = [human.len() as f64, judge_unlabelled.len() as f64];
    if human.len() != judge_labelled.len() || n < 3.0 || rest < 2.0 || !finite {
        return None;
    }
    let all: Vec<f64> = judge_labelled.iter().chain(judge_unlabelled).copied().collect();
    if is_binary(human)
        && is_binary(&all)
        && let Some(corrected) = double_sampling(human, judge_labelled, &all, level)
    {
        return Some(corrected);
    }
    let (human_mean, judge_mean) = (mean(human), mean(judge_labelled));
    let rest_mean = mean(judge_unlabelled);
    let spread = variance(&all);
    // The judge's weight against the smaller sample's noise.
    let weight_of = |products: f64, labels: f64| {
        let slope = products / (labels - 1.0) / spread / (1.0 + n / rest);
        if spread > 0.0 { slope.clamp(0.0, 1.0) } else { 0.0 }
    };
    let product = |(h, j): (&f64, &f64)| (h - human_mean) * (j - judge_mean);
    let products: f64 = human.iter().zip(judge_labelled).map(product).sum();
    let weight = weight_of(products, n);
    let plain = human_mean - weight * (judge_mean - rest_mean);
    let without = |(h, j): (&f64, &f64)| {
        let weight = weight_of(products - product((h, j)) * n / (n - 1.0), n - 1.0);
        let [human, judge] = [(human_mean, h), (judge_mean, j)]
            .map(|(mean, left_out)| (n * mean - left_out) / (n - 1.0));
        human - weight * (judge - rest_mean)
    };
    let pseudo: Vec<f64> = human
        .iter()
        .zip(judge_labelled)
        .map(|pair| n * plain - (n - 1.0) * without(pair))
        .collect();
    let corrected = mean(&pseudo);
    let among_labels =
        variance(&pseudo) / n + 0.5 * error_of_a_label(human, judge_labelled) / (n * n);
    let among_rest = weight * weight * variance(judge_unlabelled) / rest;
    let standard_error = (among_labels + among_rest).sqrt();
    // Third cumulants of independent means add up, as variances do.
    let third = |values: &[f64]| {
        let centre = mean(values);
        values.iter().map(|x| (x - centre).powi(3)).sum::<f64>() / (values.len() as f64).powi(3)
    };
    let cumulant = third(&pseudo) + weight.powi(3) * third(judge_unlabelled);
    let skewness =
        if standard_error > 0.0 { cumulant / standard_error.powi(3) * n.sqrt() } else { 0.0 };
    // The weight was fitted on the same labels: one more degree of freedom is spent.
    let t = t_critical(level, n - 2.0);
    let (low, high) = hall_ends(corrected, standard_error * n.sqrt(), skewness, n, t);
    Some(Corrected {
        mean: corrected,
        standard_error,
        low,
        high,
        level,
        judge_mean: mean(&all),
        labelled: human.len(),
        judged: all.len(),
        judge_weight: Some(weight),
    })
}

/// The mean square of the judge's errors where it errs, one more counted: that of a judge that knows
/// nothing, whose grades are anybody's.
fn error_of_a_label(human: &[f64], judge: &[f64]) -> f64 {
    let ignorant = variance(human) + variance(judge) + (mean(human) - mean(judge)).powi(2);
    let errors = human.iter().zip(judge).map(|(h, j)| h - j).filter(|error| error.abs() > 1e-9);
    let (count, squares) =
        errors.fold((0.0, 0.0), |(count, squares), error| (count + 1.0, squares + error * error));
    (squares + ignorant) / (count + 1.0)
}

/// `None` where nobody labelled any of the answers that the judge passed, or that it failed.
fn double_sampling(human: &[f64], judge: &[f64], all: &[f64], level: f64) -> Option<Corrected> {
    let count = |h: bool, j: bool| {
        let is = |(x, y): &(&f64, &f64)| (**x > 0.5) == h && (**y > 0.5) == j;
        human.iter().zip(judge).filter(is).count()
    };
    let among = |j: bool| Share::of(count(true, j), count(true, j) + count(false, j));
    let (passed, failed) = (among(true)?, among(false)?);
    let passes = Share::of(all.iter().filter(|&&x| x > 0.5).count(), all.len())?;
    let (a, b, q) = (passed.value, failed.value, passes.value);
    let mean = q * a + (1.0 - q) * b;
    let [passed, failed, passes] = [&passed, &failed, &passes].map(|share| share.ends(level));
    // What each share adds when it is as low, or as high, as its interval allows.
    let reach = |upwards: bool| {
        let gap = |(low, high): (f64, f64), up: bool| if up { high } else { low };
        let judge = gap(passes, upwards == (a >= b)) - q;
        let terms = [
            q * (gap(passed, upwards) - a),
            (1.0 - q) * (gap(failed, upwards) - b),
            (a - b) * judge,
        ];
        terms.iter().map(|x| x * x).sum::<f64>().sqrt()
    };
    let spread = |share: f64, n: f64| share * (1.0 - share) / n;
    let n = |j: bool| (count(true, j) + count(false, j)) as f64;
    let variance = q * q * spread(a, n(true))
        + (1.0 - q) * (1.0 - q) * spread(b, n(false))
        + (a - b) * (a - b) * spread(q, all.len() as f64);
    Some(Corrected {
        mean,
        standard_error: variance.sqrt(),
        low: (mean - reach(false)).max(0.0),
        high: (mean + reach(true)).min(1.0),
        level,
        judge_mean: q,
        labelled: human.len(),
        judged: all.len(),
        judge_weight: Some(a - b),
    })
}

/// A proportion.
struct Share {
    part: f64,
    whole: f64,
    value: f64,
}

impl Share {
    /// `None` of nothing.
    fn of(part: usize, whole: usize) -> Option<Share> {
        let (part, whole) = (part as f64, whole as f64);
        (whole > 0.0).then_some(Share { part, whole, value: part / whole })
    }

    /// Jeffreys' interval: equal tails of the posterior under a prior of Beta(1/2, 1/2) (Brown, Cai
    /// and DasGupta 2001, Statistical Science 16:101).
    fn ends(&self, level: f64) -> (f64, f64) {
        let (hits, misses) = (self.part, self.whole - self.part);
        let at = |p: f64| beta_quantile(p, hits + 0.5, misses + 0.5);
        let tail = (1.0 - level) / 2.0;
        let low = if hits > 0.0 { at(tail).min(self.value) } else { 0.0 };
        let high = if misses > 0.0 { at(1.0 - tail).max(self.value) } else { 1.0 };
        (low, high)
    }
}

/// How a judge's verdicts compare with people's, on samples apart from those being scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Right, and the judge says so.
    pub true_positive: usize,
    /// Right, and the judge says wrong.
    pub false_negative: usize,
    /// Wrong, and the judge says so.
    pub true_negative: usize,
    /// Wrong, and the judge says right.
    pub false_positive: usize,
}

impl Confusion {
    /// Whether the matrix can correct anything, whatever the judge passes.
    ///
    /// # Errors
    /// A rate of the judge is unknown, or it may do no better than chance.
    pub fn informs(&self, level: f64) -> Result<(), NoCorrection> {
        self.rates(level).map(drop)
    }

    /// Samples in the matrix.
    pub fn labelled(&self) -> usize {
        self.true_positive + self.false_negative + self.true_negative + self.false_positive
    }

    /// Sensitivity and specificity.
    fn rates(&self, level: f64) -> Result<(Share, Share), NoCorrection> {
        let sensitivity = Share::of(self.true_positive, self.true_positive + self.false_negative);
        let specificity = Share::of(self.true_negative, self.true_negative + self.false_positive);
        let (Some(sensitivity), Some(specificity)) = (sensitivity, specificity) else {
            return Err(NoCorrection::OneSided);
        };
        let (se, sp) = (sensitivity.value, specificity.value);
        let (ends_se, ends_sp) = (sensitivity.ends(level), specificity.ends(level));
        let informedness = se + sp - 1.0;
        let low = informedness - (se - ends_se.0).hypot(sp - ends_sp.0);
        let high = informedness + (ends_se.1 - se).hypot(ends_sp.1 - sp);
        if low <= 0.0 {
            return Err(NoCorrection::Uninformative { informedness, low, high });
        }
        Ok((sensitivity, specificity))
    }
}

/// A confusion matrix that corrects nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoCorrection {
    /// Nothing was judged, or more passed than were judged.
    #[error("nothing was judged")]
    NothingJudged,
    /// A rate of the judge is unknown.
    #[error("its confusion matrix has no right or no wrong answers")]
    OneSided,
    /// The judge may do no better than chance.
    #[error(
        "sensitivity + specificity - 1 is {informedness:.2} ({low:.2} to {high:.2}), not clearly above 0: its verdicts may hold no information"
    )]
    Uninformative {
        /// Youden's index of the judge: 1 is perfect, 0 is chance.
        informedness: f64,
        /// Lower end of its interval.
        low: f64,
        /// Upper end of its interval.
        high: f64,
    },
    /// Fewer labels than a correction takes.
    #[error("{labelled} labels are too few: {least} are the least")]
    TooFewLabels {
        /// Labels that there are.
        labelled: usize,
        /// Labels that it takes.
        least: usize,
    },
    /// No share of right answers explains what the judge passes.
    #[error(
        "it passed {passed:.2} of the answers, but {wrong:.2} of wrong and {right:.2} of right ones in its confusion matrix: that was measured on other answers than these"
    )]
    Contradicted {
        /// Share of the answers that the judge passed.
        passed: f64,
        /// Share that it passes of wrong answers, by the matrix.
        wrong: f64,
        /// Share that it passes of right answers, by the matrix.
        right: f64,
    },
}

/// The share of right answers behind a judge's share of `passed` in `n` (Rogan and Gladen 1978,
/// American Journal of Epidemiology 107:71).
///
/// The estimate may lie beyond 0 or 1 by chance, and is not clamped: that would take it down by two
/// points where most answers are right and the judge is poor (reports/validity). Its interval is kept
/// within 0 and 1. It holds every share that the three proportions allow (the judge's share of passes, its
/// sensitivity and its specificity): Fieller's argument, with the interval of their linear combination
/// by MOVER (Zou and Donner 2008) from Jeffreys intervals, so that it needs no symmetry and pays for
/// the uncertainty of the matrix.
///
/// # Errors
/// The estimate divides by sensitivity + specificity - 1. Where the interval of that reaches 0 it
/// has no mean, and is refused; also where the interval holds no share from 0 to 1.
pub fn rogan_gladen(
    passed: usize,
    n: usize,
    confusion: Confusion,
    level: f64,
) -> Result<Corrected, NoCorrection> {
    let share = Share::of(passed, n).filter(|share| share.value <= 1.0);
    let share = share.ok_or(NoCorrection::NothingJudged)?;
    let (sensitivity, specificity) = confusion.rates(level)?;
    let (p, se, sp) = (share.value, sensitivity.value, specificity.value);
    let [ends_p, ends_se, ends_sp] =
        [&share, &sensitivity, &specificity].map(|share| share.ends(level));
    let informedness = se + sp - 1.0;
    let mean = (p + sp - 1.0) / informedness;
    // What would pass beyond p if the share were `truth`: 0 at the estimate, falling in `truth`.
    let excess = |truth: f64| p + (1.0 - truth) * sp - truth * se + truth - 1.0;
    let norm = |terms: [f64; 3]| terms.iter().map(|x| x * x).sum::<f64>().sqrt();
    let lower = |truth: f64| {
        let terms = [p - ends_p.0, (1.0 - truth) * (sp - ends_sp.0), truth * (ends_se.1 - se)];
        excess(truth) - norm(terms)
    };
    let upper = |truth: f64| {
        let terms = [ends_p.1 - p, (1.0 - truth) * (ends_sp.1 - sp), truth * (se - ends_se.0)];
        excess(truth) + norm(terms)
    };
    if lower(1.0) > 0.0 || upper(0.0) < 0.0 {
        return Err(NoCorrection::Contradicted { passed: p, wrong: 1.0 - sp, right: se });
    }
    let spread = |share: &Share| {
        let smoothed = (share.part + 0.5) / (share.whole + 1.0);
        smoothed * (1.0 - smoothed) / share.whole
    };
    let variance = spread(&share)
        + mean * mean * spread(&sensitivity)
        + (1.0 - mean) * (1.0 - mean) * spread(&specificity);
    let inside = mean.clamp(0.0, 1.0);
    Ok(Corrected {
        mean,
        standard_error: variance.sqrt() / informedness,
        low: if lower(0.0) > 0.0 { crossing(lower, 0.0, inside) } else { 0.0 },
        high: if upper(1.0) < 0.0 { crossing(upper, inside, 1.0) } else { 1.0 },
        level,
        judge_mean: p,
        labelled: confusion.labelled(),
        judged: n,
        judge_weight: None,
    })
}

/// Where a function that is positive at `low` and negative at `high` crosses 0.
fn crossing(of: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if of(middle) > 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_that_is_always_too_kind_is_corrected_by_as_much() {
        let human: Vec<f64> = (0..40).map(|i| f64::from(i % 5) / 10.0).collect();
        let kind: Vec<f64> = human.iter().map(|x| x + 0.3).collect();
        let rest: Vec<f64> = (0..400).map(|i| f64::from(i % 5) / 10.0 + 0.3).collect();
        let corrected = ppi_mean(&human, &kind, &rest, 0.95).unwrap();
        assert!((corrected.mean - 0.2).abs() < 1e-9 && (corrected.judge_mean - 0.5).abs() < 1e-9);
        assert!(corrected.judge_weight.unwrap() > 0.85);
    }

    #[test]
    fn a_judge_that_knows_nothing_leaves_the_human_labels() {
        let human: Vec<f64> = (0..40).map(|i| f64::from(i % 2)).collect();
        let noise: Vec<f64> = (0..40).map(|i| f64::from((i / 2) % 2)).collect();
        let corrected = ppi_mean(&human, &noise, &noise, 0.95).unwrap();
        assert!((corrected.mean - 0.5).abs() < 1e-9 && corrected.judge_weight.unwrap() < 1e-9);
    }

    #[test]
    fn a_known_confusion_is_inverted() {
        // 60 % right, sensitivity 0.9, specificity 0.8: 0.6 * 0.9 + 0.4 * 0.2 = 0.62 pass.
        let confusion = Confusion {
            true_positive: 900,
            false_negative: 100,
            true_negative: 800,
            false_positive: 200,
        };
        let corrected = rogan_gladen(620, 1000, confusion, 0.95).unwrap();
        assert!((corrected.mean - 0.6).abs() < 1e-9);
        assert!(corrected.low < 0.6 && corrected.high > 0.6);
    }

    #[test]
    fn a_correction_of_grades_is_the_jackknife_of_its_labels() {
        let human = [0.25, 0.5, 0.75, 1.0];
        let judge = [0.5, 0.5, 0.75, 0.75];
        let rest = [0.75, 0.5, 0.75, 1.0];
        let found = ppi_mean(&human, &judge, &rest, 0.95).unwrap();
        let all: Vec<f64> = judge.iter().chain(&rest).copied().collect();
        let spread = variance(&all);
        let estimate = |kept: &[usize]| {
            let take = |of: &[f64]| kept.iter().map(|&i| of[i]).collect::<Vec<f64>>();
            let (h, j) = (take(&human), take(&judge));
            let products = h.iter().zip(&j).map(|(x, y)| (x - mean(&h)) * (y - mean(&j)));
            let slope = products.sum::<f64>() / (kept.len() as f64 - 1.0) / spread / 2.0;
            mean(&h) - slope.clamp(0.0, 1.0) * (mean(&j) - mean(&rest))
        };
        let without = [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]].map(|kept| estimate(&kept));
        let expect = 4.0 * estimate(&[0, 1, 2, 3]) - 3.0 * mean(&without);
        assert!((found.mean - expect).abs() < 1e-12, "{found:?} {expect}");
        // Jackknife variance, half a label of error (0.25 twice, and an ignorant judge), and the rest.
        let ignorant = variance(&human) + variance(&judge);
        let error = (2.0 * 0.0625 + ignorant) / 3.0;
        let weight = found.judge_weight.unwrap();
        let square = 9.0 / 4.0 * variance(&without)
            + 0.5 * error / 16.0
            + weight * weight * variance(&rest) / 4.0;
        assert!((found.standard_error - square.sqrt()).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn a_judge_without_a_seen_error_is_not_taken_for_perfect() {
        let grades: Vec<f64> = (0..50).map(|i| f64::from(i % 5) / 4.0).collect();
        let rest: Vec<f64> = (0..1_000_000).map(|i| f64::from(i % 5) / 4.0).collect();
        let found = ppi_mean(&grades, &grades, &rest, 0.95).unwrap();
        assert!((found.mean - 0.5).abs() < 1e-3);
        assert!(found.high - found.low > 0.02, "{found:?}");
    }

    #[test]
    fn right_or_wrong_is_corrected_within_what_the_judge_passes_and_fails() {
        // Of 40 labelled, the judge passes 20, of which 18 are right, and fails 20, of which 4 are.
        // Of all 400 it passes 240: 0.6 * 0.9 + 0.4 * 0.2 = 0.62.
        let at = |i: i32| {
            (f64::from(u8::from(i < 18 || (20..24).contains(&i))), f64::from(u8::from(i < 20)))
        };
        let (human, judge): (Vec<f64>, Vec<f64>) = (0..40).map(at).unzip();
        let rest: Vec<f64> = (0..360).map(|i| f64::from(u8::from(i < 220))).collect();
        let corrected = ppi_mean(&human, &judge, &rest, 0.95).unwrap();
        assert!((corrected.mean - 0.62).abs() < 1e-9, "{corrected:?}");
        assert!((corrected.judge_weight.unwrap() - 0.7).abs() < 1e-9);
        // 0.36 * 0.09 / 20 + 0.16 * 0.16 / 20 + 0.49 * 0.24 / 400.
        assert!((corrected.standard_error - 0.003_194_f64.sqrt()).abs() < 1e-9);
        let half = 1.96 * corrected.standard_error;
        assert!((corrected.mean - corrected.low - half).abs() < 0.02, "{corrected:?}");
        assert!((corrected.high - corrected.mean - half).abs() < 0.02, "{corrected:?}");
    }

    #[test]
    fn the_interval_of_a_proportion_is_jeffreys() {
        // SciPy: beta.ppf([0.025, 0.975], 7.5, 3.5).
        let (low, high) = Share::of(7, 10).unwrap().ends(0.95);
        assert!(
            (low - 0.394_181_68).abs() < 1e-6 && (high - 0.907_305_41).abs() < 1e-6,
            "{low} {high}"
        );
        assert!(Share::of(0, 10).unwrap().ends(0.95).0.abs() < 1e-12);
        assert!((Share::of(10, 10).unwrap().ends(0.95).1 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn an_estimate_beyond_one_is_kept_and_its_interval_is_not() {
        let confusion = Confusion {
            true_positive: 90,
            false_negative: 10,
            true_negative: 80,
            false_positive: 20,
        };
        // 92 of 100 pass: (0.92 + 0.8 - 1) / 0.7.
        let found = rogan_gladen(92, 100, confusion, 0.95).unwrap();
        assert!((found.mean - 0.72 / 0.7).abs() < 1e-12, "{found:?}");
        assert!(found.low < 1.0 && (found.high - 1.0).abs() < 1e-12, "{found:?}");
        // 15 of 100 pass, fewer than of wrong answers.
        let found = rogan_gladen(15, 100, confusion, 0.95).unwrap();
        assert!(found.mean < 0.0 && found.low.abs() < 1e-12 && found.high > 0.0, "{found:?}");
    }

    #[test]
    fn a_matrix_of_other_answers_is_refused() {
        let confusion = Confusion {
            true_positive: 80,
            false_negative: 20,
            true_negative: 80,
            false_positive: 20,
        };
        let refused = rogan_gladen(990, 1000, confusion, 0.95).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "it passed 0.99 of the answers, but 0.20 of wrong and 0.80 of right ones in its confusion matrix: that was measured on other answers than these"
        );
        assert!(matches!(
            rogan_gladen(10, 1000, confusion, 0.95),
            Err(NoCorrection::Contradicted { .. })
        ));
        // The matrix alone is not to blame.
        assert_eq!(confusion.informs(0.95), Ok(()));
    }

    #[test]
    fn a_judge_not_clearly_better_than_chance_corrects_nothing() {
        let confusion = |right: usize, wrong: usize| Confusion {
            true_positive: right,
            false_negative: 10 - right,
            true_negative: wrong,
            false_positive: 10 - wrong,
        };
        let refused = rogan_gladen(50, 100, confusion(6, 6), 0.95).unwrap_err();
        assert!(
            refused.to_string().starts_with("sensitivity + specificity - 1 is 0.20 (-0."),
            "{refused}"
        );
        assert!(rogan_gladen(50, 100, confusion(9, 9), 0.95).is_ok());
        let nobody_wrong = Confusion { true_negative: 0, false_positive: 0, ..confusion(9, 9) };
        assert_eq!(rogan_gladen(50, 100, nobody_wrong, 0.95), Err(NoCorrection::OneSided));
        assert_eq!(rogan_gladen(0, 0, confusion(9, 9), 0.95), Err(NoCorrection::NothingJudged));
        assert_eq!(ppi_mean(&[1.0], &[1.0], &[1.0, 0.0], 0.95), None);
    }

    #[test]
    fn a_perfect_known_judge_leaves_the_interval_of_a_proportion() {
        let confusion = Confusion {
            true_positive: 1_000_000,
            true_negative: 1_000_000,
            ..Confusion { true_positive: 0, false_negative: 0, true_negative: 0, false_positive: 0 }
        };
        let corrected = rogan_gladen(70, 100, confusion, 0.95).unwrap();
        let (low, high) = Share::of(70, 100).unwrap().ends(0.95);
        assert!((corrected.low - low).abs() < 1e-4 && (corrected.high - high).abs() < 1e-4);
    }
}
