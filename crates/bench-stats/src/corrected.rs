//! What an arm really scores when a judge that errs graded it, given some human labels.

use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{mean, variance},
    distribution::{critical, t_critical},
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
/// judge's grades of all other samples. The interval uses Student's t with two degrees of
/// freedom less than there are labels. Three labels and two unlabelled samples are the least it takes; `None`
/// below that, with slices of different lengths or a grade that is not finite.
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

/// The share of right answers behind a judge's share of `passed` in `n` (Rogan and Gladen 1978), with
/// the interval of Lang and Reiczigel (2014, Preventive Veterinary Medicine 113:13) which pays for the
/// uncertainty of the judge's sensitivity and specificity. Clamped to 0 and 1.
///
/// `None` without samples, without right or wrong answers in `confusion`, or when the judge does no
/// better than chance: then its verdicts hold no information.
pub fn rogan_gladen(
    passed: usize,
    n: usize,
    confusion: Confusion,
    level: f64,
) -> Option<Corrected> {
    let Confusion { true_positive, false_negative, true_negative, false_positive } = confusion;
    let [right, wrong] = [true_positive + false_negative, true_negative + false_positive];
    if n == 0 || right == 0 || wrong == 0 || passed > n {
        return None;
    }
    let share = |part: usize, whole: usize| part as f64 / whole as f64;
    let (p, sensitivity, specificity) =
        (share(passed, n), share(true_positive, right), share(true_negative, wrong));
    let information = sensitivity + specificity - 1.0;
    if information <= 0.0 {
        return None;
    }
    let mean = ((p + specificity - 1.0) / information).clamp(0.0, 1.0);

    // Every proportion is drawn towards one half: z^2 more verdicts, one more of each label.
    let z = critical(level);
    let added = |p: f64, n: f64, more: f64| ((n * p + more / 2.0) / (n + more), n + more);
    let (p, n_p) = added(p, n as f64, z * z);
    let (se, n_se) = added(sensitivity, right as f64, 2.0);
    let (sp, n_sp) = added(specificity, wrong as f64, 2.0);
    let information = se + sp - 1.0;
    if information <= 0.0 {
        return None;
    }
    let centre = (p + sp - 1.0) / information;
    let [v_p, v_se, v_sp] = [(p, n_p), (se, n_se), (sp, n_sp)].map(|(p, n)| p * (1.0 - p) / n);
    let skew = 2.0 * z * z * (centre * v_se - (1.0 - centre) * v_sp);
    let standard_error =
        (v_p + centre * centre * v_se + (1.0 - centre).powi(2) * v_sp).sqrt() / information;
    Some(Corrected {
        mean,
        standard_error,
        low: (centre + skew - z * standard_error).clamp(0.0, 1.0),
        high: (centre + skew + z * standard_error).clamp(0.0, 1.0),
        level,
        judge_mean: share(passed, n),
        labelled: right + wrong,
        judged: n,
        judge_weight: None,
    })
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
    fn a_judge_no_better_than_chance_corrects_nothing() {
        let confusion =
            Confusion { true_positive: 5, false_negative: 5, true_negative: 5, false_positive: 5 };
        assert_eq!(rogan_gladen(50, 100, confusion, 0.95), None);
        assert_eq!(ppi_mean(&[1.0], &[1.0], &[1.0, 0.0], 0.95), None);
    }
}
