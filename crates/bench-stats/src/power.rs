//! How many samples a comparison needs, and what difference a number of samples can show.

use serde::{Deserialize, Serialize};

use crate::{
    distribution::{binomial_cdf, binomial_pmf, normal_cdf, normal_quantile},
    interval::Options,
};

/// No advice beyond this many samples.
const MOST_SAMPLES: usize = 10_000_000;

/// Discordant samples up to which McNemar's power is summed exactly.
const EXACT_DISCORDANT: f64 = 200.0;

/// How much paired differences vary: seen, or guessed when planning.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Share of samples that exactly one of two arms gets right, for scores of 0 and 1.
    Discordance(f64),
    /// Standard deviation of the paired difference of a sample, for other scores.
    StandardDeviation(f64),
}

/// The chance that a comparison of `n` samples finds a true `difference` at `alpha`, two-sided: exact
/// for McNemar's test while discordant samples number up to two hundred, normal beyond and otherwise.
pub fn power(difference: f64, spread: Spread, n: usize, alpha: f64) -> f64 {
    let difference = difference.abs();
    match spread {
        Spread::Discordance(share) => {
            let share = share.clamp(difference, 1.0);
            if n as f64 * share <= EXACT_DISCORDANT {
                mcnemar_power(n as i64, share, difference, alpha)
            } else {
                let z = normal_quantile(1.0 - alpha / 2.0);
                let deviation = (share - difference * difference).max(1e-12).sqrt();
                // Connor 1987; the half step that the exact test loses is taken off.
                let seen = difference * (n as f64).sqrt() - 1.0 / (n as f64).sqrt();
                normal_cdf((seen - z * share.sqrt()) / deviation)
            }
        }
        Spread::StandardDeviation(deviation) => {
            let z = normal_quantile(1.0 - alpha / 2.0);
            // The estimated deviation costs about z^2 / 2 samples (Guenther 1981).
            let n = (n as f64 - z * z / 2.0).max(0.0);
            normal_cdf(difference * n.sqrt() / deviation.max(1e-12) - z)
        }
    }
}

/// Samples after which a true `difference` is found with `options.power` in a family of `comparisons`
/// (at `alpha / comparisons`, Holm's first step). `None` for no difference or beyond ten million.
pub fn samples_for_difference(
    difference: f64,
    spread: Spread,
    comparisons: usize,
    options: &Options,
) -> Option<usize> {
    let alpha = options.alpha / comparisons.max(1) as f64;
    let (z, deviation) =
        (normal_quantile(1.0 - alpha / 2.0) + normal_quantile(options.power), spread.deviation());
    let guess = (z * deviation / difference).powi(2);
    smallest(guess, |n| power(difference, spread, n, alpha) >= options.power)
}

/// Samples after which two one-sided tests find equivalence within `margin` with `options.power` if
/// the true difference is `difference`. `None` when it is not inside the margin.
pub fn samples_for_equivalence(
    difference: f64,
    spread: Spread,
    margin: f64,
    comparisons: usize,
    options: &Options,
) -> Option<usize> {
    let z = normal_quantile(1.0 - options.alpha / comparisons.max(1) as f64);
    // A spread of nothing would promise too much: at least one sample in a hundred may differ.
    let deviation = match spread {
        Spread::Discordance(share) => (share.max(0.01) - difference * difference).max(0.0).sqrt(),
        Spread::StandardDeviation(_) => spread.deviation(),
    };
    let reach = |gap: f64, n: usize| normal_cdf(gap * (n as f64).sqrt() / deviation.max(1e-12) - z);
    if difference.abs() >= margin {
        return None;
    }
    let guess = ((z + 1.0) * deviation / (margin - difference.abs())).powi(2);
    smallest(guess, |n| {
        reach(margin - difference, n) + reach(margin + difference, n) - 1.0 >= options.power
    })
}

/// The smallest difference that `n` samples find with `options.power` in a family of `comparisons`,
/// in the units of the score: what `bench plan` prints. For [`Spread::Discordance`] the true
/// discordance is taken to be at least the difference. `None` when even the largest possible
/// difference would be missed.
pub fn minimum_detectable_difference(
    n: usize,
    spread: Spread,
    comparisons: usize,
    options: &Options,
) -> Option<f64> {
    let alpha = options.alpha / comparisons.max(1) as f64;
    let found = |difference: f64| power(difference, spread, n, alpha) >= options.power;
    let mut high = match spread {
        Spread::Discordance(_) => 1.0,
        Spread::StandardDeviation(deviation) => 100.0 * deviation,
    };
    if !found(high) {
        return None;
    }
    let mut low = 0.0;
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if found(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

/// The smallest `n` that is enough to a thousandth, looked for around a guess.
fn smallest(guess: f64, enough: impl Fn(usize) -> bool) -> Option<usize> {
    if guess.is_nan() || guess > MOST_SAMPLES as f64 {
        return None;
    }
    let mut high = (guess as usize).max(2);
    let mut low = high;
    while !enough(high) {
        low = high;
        high += high.div_ceil(4);
        if high > MOST_SAMPLES {
            return None;
        }
    }
    while low > 1 && enough(low) {
        high = low;
        low -= low.div_ceil(4);
    }
    while high - low > 1.max(high / 1000) {
        let middle = usize::midpoint(low, high);
        if enough(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

impl Spread {
    fn deviation(self) -> f64 {
        match self {
            Spread::Discordance(share) => share.sqrt(),
            Spread::StandardDeviation(deviation) => deviation,
        }
    }
}

/// The exact power of the exact McNemar test: over the number of discordant samples, the chance that
/// the binomial test of it rejects in the right direction or the wrong one.
fn mcnemar_power(n: i64, share: f64, difference: f64, alpha: f64) -> f64 {
    if share <= 0.0 {
        return 0.0;
    }
    let first = f64::midpoint(1.0, (difference / share).min(1.0));
    let (centre, deviation) = (n as f64 * share, (n as f64 * share * (1.0 - share)).sqrt());
    let from = ((centre - 7.0 * deviation).floor() as i64).max(0);
    let to = ((centre + 7.0 * deviation).ceil() as i64).min(n);
    // Rejected when at most `edge` samples fall on one side. The edge moves by at most one a step, and
    // starts a little below its normal approximation.
    let reach = normal_quantile(1.0 - alpha / 2.0) * (from as f64).sqrt();
    let mut edge = (((from as f64 - reach) / 2.0).floor() as i64 - 5).max(-1);
    let mut total = 0.0;
    for m in from..=to {
        while 2.0 * binomial_cdf(edge + 1, m, 0.5) <= alpha {
            edge += 1;
        }
        let chance = if share < 1.0 { binomial_pmf(m, n, share) } else { f64::from(m == n) };
        if edge >= 0 && chance > 0.0 {
            total += chance * (binomial_cdf(edge, m, 1.0 - first) + binomial_cdf(edge, m, first));
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_of_a_small_mcnemar_test_is_the_sum_over_all_outcomes() {
        // With 8 samples of which each is discordant with probability 1, seven or eight on one side
        // reject at 0.1 (2 * 9/256 = 0.07); with p = 0.9 on the first side that has this chance.
        let p: f64 = 0.9;
        let by_hand =
            p.powi(8) + 8.0 * p.powi(7) * 0.1 + 0.1_f64.powi(8) + 8.0 * 0.1_f64.powi(7) * p;
        let ours = power(0.8, Spread::Discordance(1.0), 8, 0.1);
        assert!((ours - by_hand).abs() < 1e-9, "{ours} {by_hand}");
    }

    #[test]
    fn exact_and_normal_power_meet_where_one_takes_over() {
        let [exact, normal] = [995, 1_005].map(|n| power(0.07, Spread::Discordance(0.2), n, 0.01));
        assert!((exact - normal).abs() < 0.01, "{exact} {normal}");
    }

    #[test]
    fn the_detectable_difference_of_the_samples_needed_is_the_difference_asked() {
        let options = Options::default();
        for spread in [Spread::Discordance(0.3), Spread::StandardDeviation(0.4)] {
            let n = samples_for_difference(0.1, spread, 6, &options).unwrap();
            let found = minimum_detectable_difference(n, spread, 6, &options).unwrap();
            assert!((found - 0.1).abs() < 0.004, "{found}");
        }
    }

    #[test]
    fn no_number_of_samples_shows_a_difference_of_nothing() {
        let options = Options::default();
        assert_eq!(samples_for_difference(0.0, Spread::Discordance(0.3), 1, &options), None);
        assert_eq!(
            samples_for_equivalence(0.05, Spread::Discordance(0.3), 0.05, 1, &options),
            None
        );
        assert_eq!(minimum_detectable_difference(3, Spread::Discordance(0.3), 1, &options), None);
    }

    #[test]
    fn equivalence_of_equal_arms_needs_the_samples_of_the_textbook() {
        // (1.645 + 1.282)^2 * 0.2 / 0.05^2: each side may miss a tenth.
        let n =
            samples_for_equivalence(0.0, Spread::Discordance(0.2), 0.05, 1, &Options::default())
                .unwrap();
        assert!(n.abs_diff(686) < 4, "{n}");
    }
}
