//! What an arm really scores when a judge that errs graded it, given some human labels.

use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{mean, variance},
    distribution::{beta_quantile, t_critical},
    interval::is_binary,
};

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
/// for Student's t. Other grades have Student's t with two degrees of freedom less than there are labels.
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
    let products =
        human.iter().zip(judge_labelled).map(|(h, j)| (h - human_mean) * (j - judge_mean));
    let covariance = products.sum::<f64>() / (n - 1.0);
    let spread = variance(&all);
    // The judge's weight against the smaller sample's noise.
    let weight =
        if spread > 0.0 { (covariance / spread / (1.0 + n / rest)).clamp(0.0, 1.0) } else { 0.0 };
    let residuals: Vec<f64> =
        human.iter().zip(judge_labelled).map(|(h, j)| h - weight * j).collect();
    let corrected = mean(&residuals) + weight * mean(judge_unlabelled);
    // The weight was fitted on the same labels: one more degree of freedom is spent.
    let inflated = variance(&residuals) * (n - 1.0) / (n - 2.0);
    let standard_error =
        (inflated / n + weight * weight * variance(judge_unlabelled) / rest).sqrt();
    let half = t_critical(level, n - 2.0) * standard_error;
    Some(Corrected {
        mean: corrected,
        standard_error,
        low: corrected - half,
        high: corrected + half,
        level,
        judge_mean: mean(&all),
        labelled: human.len(),
        judged: all.len(),
        judge_weight: Some(weight),
    })
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
}

/// The share of right answers behind a judge's share of `passed` in `n` (Rogan and Gladen 1978,
/// American Journal of Epidemiology 107:71), clamped to 0 and 1.
///
/// The interval holds every share that the three proportions allow (the judge's share of passes, its
/// sensitivity and its specificity): Fieller's argument, with the interval of their linear combination
/// by MOVER (Zou and Donner 2008) from Jeffreys intervals, so that it needs no symmetry and pays for
/// the uncertainty of the matrix.
///
/// # Errors
/// The estimate divides by sensitivity + specificity - 1. Where the interval of that reaches 0 it
/// has no mean, and is refused.
pub fn rogan_gladen(
    passed: usize,
    n: usize,
    confusion: Confusion,
    level: f64,
) -> Result<Corrected, NoCorrection> {
    let Confusion { true_positive, false_negative, true_negative, false_positive } = confusion;
    let share = Share::of(passed, n).filter(|share| share.value <= 1.0);
    let share = share.ok_or(NoCorrection::NothingJudged)?;
    let sensitivity = Share::of(true_positive, true_positive + false_negative);
    let specificity = Share::of(true_negative, true_negative + false_positive);
    let (Some(sensitivity), Some(specificity)) = (sensitivity, specificity) else {
        return Err(NoCorrection::OneSided);
    };
    let (p, se, sp) = (share.value, sensitivity.value, specificity.value);
    let [ends_p, ends_se, ends_sp] =
        [&share, &sensitivity, &specificity].map(|share| share.ends(level));
    let informedness = se + sp - 1.0;
    let low = informedness - (se - ends_se.0).hypot(sp - ends_sp.0);
    let high = informedness + (ends_se.1 - se).hypot(ends_sp.1 - sp);
    if low <= 0.0 {
        return Err(NoCorrection::Uninformative { informedness, low, high });
    }
    let mean = ((p + sp - 1.0) / informedness).clamp(0.0, 1.0);
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
    let spread = |share: &Share| {
        let smoothed = (share.part + 0.5) / (share.whole + 1.0);
        smoothed * (1.0 - smoothed) / share.whole
    };
    let variance = spread(&share)
        + mean * mean * spread(&sensitivity)
        + (1.0 - mean) * (1.0 - mean) * spread(&specificity);
    Ok(Corrected {
        mean,
        standard_error: variance.sqrt() / informedness,
        low: if lower(0.0) > 0.0 { crossing(lower, 0.0, mean) } else { 0.0 },
        high: if upper(1.0) < 0.0 { crossing(upper, mean, 1.0) } else { 1.0 },
        level,
        judge_mean: p,
        labelled: true_positive + false_negative + true_negative + false_positive,
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
