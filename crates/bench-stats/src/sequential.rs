//! Intervals that stay valid when looked at after every sample, so that a clear answer stops the spending.

use serde::{Deserialize, Serialize};

/// Candidate means on the scale of 0 to 1.
const GRID: usize = 1000;

/// A confidence sequence of a mean: with probability `level` its interval holds the true mean at
/// every moment, so one may stop at any of them.
///
/// This is the hedged capital process of betting (Waudby-Smith and Ramdas 2023, JRSS-B 86:1). It
/// assumes that values lie in the declared range and that each is, given the past, a draw with the
/// same mean: samples in random order. It assumes nothing of their distribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfidenceSequence {
    /// Values seen.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Lower end of the interval now.
    pub low: f64,
    /// Upper end of the interval now.
    pub high: f64,
    /// Confidence level over all moments together.
    pub level: f64,
    range: (f64, f64),
    /// Capital of a bet that the mean is above, and below, each candidate still in the interval.
    capital: Vec<[f64; 2]>,
    first: usize,
    /// The most that either half of the capital has grown to at the middle of the range.
    grown: f64,
    /// Sums for the running mean and variance of scaled values, started at one half and one quarter.
    sum: f64,
    squares: f64,
}

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopRule {
    /// When the interval reaches no further than this from its middle.
    HalfWidth(f64),
    /// When zero is outside the interval, or the interval is inside the margin if there is one.
    Difference {
        /// The largest difference that does not matter.
        margin: Option<f64>,
    },
}

impl ConfidenceSequence {
    /// For the paired difference of scores from 0 to 1.
    pub fn of_difference(level: f64) -> ConfidenceSequence {
        ConfidenceSequence::new(-1.0, 1.0, level)
    }

    /// For values from `lowest` to `highest`. For several sequences that must all hold, give each the
    /// level `1 - (1 - level) / their number`.
    pub fn new(lowest: f64, highest: f64, level: f64) -> ConfidenceSequence {
        ConfidenceSequence {
            n: 0,
            mean: f64::midpoint(lowest, highest),
            low: lowest,
            high: highest,
            level,
            range: (lowest, highest),
            capital: vec![[1.0; 2]; GRID + 1],
            first: 0,
            grown: 1.0,
            sum: 0.5,
            squares: 0.25,
        }
    }

    /// Takes the next value. One outside the range (or not a number) is moved into it, and the caller
    /// has declared the wrong range.
    pub fn push(&mut self, value: f64) {
        let (lowest, highest) = self.range;
        let value = if value.is_finite() { value.clamp(lowest, highest) } else { lowest };
        let x = (value - lowest) / (highest - lowest);
        let t = (self.n + 1) as f64;
        let error = 1.0 - self.level;
        // The bet depends on the past alone.
        let bet = (2.0 * (2.0 / error).ln() / (self.squares * (t + 1.0).ln())).sqrt();
        self.n += 1;
        self.mean += (value - self.mean) / t;
        self.sum += x;
        self.squares += (x - self.sum / (t + 1.0)).powi(2);

        let threshold = 2.0 / error;
        let first = self.first;
        for (i, [above, below]) in self.capital.iter_mut().enumerate() {
            let candidate = (first + i) as f64 / GRID as f64;
            *above *= 1.0 + bet.min(0.5 / candidate) * (x - candidate);
            *below *= 1.0 - bet.min(0.5 / (1.0 - candidate)) * (x - candidate);
        }
        // Once the middle is out, its capital is kept no longer, and it has grown enough.
        if let Some([above, below]) =
            (GRID / 2).checked_sub(first).and_then(|i| self.capital.get(i))
        {
            self.grown = self.grown.max(above.max(*below));
        }
        // Half the capital is bet on each side; a candidate is out when either half has grown 2 / error.
        let open = |[above, below]: &[f64; 2]| above.max(*below) < threshold;
        let Some(from) = self.capital.iter().position(open) else {
            return;
        };
        let to = self.capital.iter().rposition(open).unwrap_or(from);
        self.capital.truncate(to + 1);
        self.capital.drain(..from);
        self.first += from;
        // The true mean may lie between candidates: a rejected neighbour bounds it.
        let at = |i: f64| lowest + (highest - lowest) * (i / GRID as f64).clamp(0.0, 1.0);
        self.low = at(self.first as f64 - 1.0);
        self.high = at((self.first + self.capital.len()) as f64);
    }

    /// The p-value of a mean in the middle of the range (of no difference, in a sequence of
    /// differences), valid at every moment: by Ville's inequality the chance that capital ever grows
    /// by a factor is at most one in it. It is below `1 - level` exactly when the middle has left the
    /// interval.
    pub fn p_value(&self) -> f64 {
        (2.0 / self.grown).min(1.0)
    }

    /// Whether the rule is met now.
    pub fn stops(&self, rule: StopRule) -> bool {
        match rule {
            StopRule::HalfWidth(half) => (self.high - self.low) / 2.0 <= half,
            StopRule::Difference { margin } => {
                let inside = |margin: f64| self.low > -margin && self.high < margin;
                self.low > 0.0 || self.high < 0.0 || margin.is_some_and(inside)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// When runs of 300 samples with these shares of gains and losses stop on a difference.
    fn stops(runs: u64, up: f64, down: f64) -> Vec<usize> {
        let run = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut sequence = ConfidenceSequence::of_difference(0.95);
            (0..300).find(|_| {
                let u: f64 = rng.random();
                sequence.push(f64::from(i8::from(u < up) - i8::from(u > 1.0 - down)));
                sequence.stops(StopRule::Difference { margin: None })
            })
        };
        (0..runs).filter_map(run).collect()
    }

    #[test]
    fn a_clear_difference_stops_early_and_no_difference_seldom() {
        let clear = stops(20, 0.4, 0.1);
        assert_eq!(clear.len(), 20);
        assert!(clear.iter().sum::<usize>() / 20 < 120, "{clear:?}");
        assert!(stops(60, 0.2, 0.2).len() <= 3);
    }

    #[test]
    fn the_interval_only_shrinks_and_holds_the_mean() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut sequence = ConfidenceSequence::new(0.0, 1.0, 0.95);
        let mut before = 1.0;
        for _ in 0..2000 {
            sequence.push(rng.random::<f64>());
            assert!(sequence.high - sequence.low <= before + 1e-12);
            before = sequence.high - sequence.low;
            assert!(sequence.low <= 0.5 && 0.5 <= sequence.high);
        }
        assert!(sequence.stops(StopRule::HalfWidth(0.03)), "{} to {}", sequence.low, sequence.high);
        assert!(!sequence.stops(StopRule::HalfWidth(0.01)));
    }

    #[test]
    fn the_p_value_tells_what_the_interval_tells() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut sequence = ConfidenceSequence::of_difference(0.95);
        assert!((sequence.p_value() - 1.0).abs() < 1e-12);
        for _ in 0..400 {
            sequence.push(f64::from(i8::from(rng.random::<f64>() < 0.3)));
            let outside = sequence.low > 0.0 || sequence.high < 0.0;
            // The interval reaches one step of the grid further than the candidates.
            assert!(!outside || sequence.p_value() <= 0.05, "{}", sequence.p_value());
        }
        assert!(sequence.low > 0.0 && sequence.p_value() <= 0.05);
    }

    #[test]
    fn equal_arms_stop_as_equivalent_within_a_margin() {
        let mut sequence = ConfidenceSequence::of_difference(0.95);
        (0..400).for_each(|_| sequence.push(0.0));
        assert!(sequence.stops(StopRule::Difference { margin: Some(0.05) }));
        assert!(!sequence.stops(StopRule::Difference { margin: None }));
    }
}
