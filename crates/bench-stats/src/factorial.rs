//! Two-way effects: what retrieval adds, what fine-tuning adds, and whether together they add more or
//! less than the sum.

use serde::{Deserialize, Serialize};

use crate::{
    interval::{Clusters, Options},
    paired::{Comparison, compare, conclude},
};

/// Scores of the four arms on the same samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cells<'a> {
    /// Neither change.
    pub base: &'a [f64],
    /// The first change alone, such as retrieval.
    pub first: &'a [f64],
    /// The second change alone, such as fine-tuning.
    pub second: &'a [f64],
    /// Both.
    pub both: &'a [f64],
}

/// Main effects and interaction, each a paired comparison (bootstrap interval, permutation test),
/// corrected as a family of three.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Factorial {
    /// Mean effect of the first change, over presence and absence of the second.
    pub first: Comparison,
    /// Mean effect of the second change, over presence and absence of the first.
    pub second: Comparison,
    /// How much larger the effect of one change is in presence of the other; below zero they overlap.
    /// `difference` and its interval are in the units of the score; the means are sums of two arms.
    pub interaction: Comparison,
}

/// The effects. `None` with fewer than two samples, slices of different lengths, or a score that is
/// not finite.
pub fn factorial(cells: Cells<'_>, clusters: &Clusters, options: &Options) -> Option<Factorial> {
    let Cells { base, first, second, both } = cells;
    if [first, second, both].iter().any(|cell| cell.len() != base.len()) {
        return None;
    }
    let sum = |x: &[f64], y: &[f64], scale: f64| -> Vec<f64> {
        x.iter().zip(y).map(|(x, y)| (x + y) * scale).collect()
    };
    let contrast = |with: Vec<f64>, without: Vec<f64>| compare(&with, &without, clusters, options);
    let mut effects = [
        contrast(sum(first, both, 0.5), sum(base, second, 0.5))?,
        contrast(sum(second, both, 0.5), sum(base, first, 0.5))?,
        contrast(sum(both, base, 1.0), sum(first, second, 1.0))?,
    ];
    conclude(&mut effects, options);
    let [first, second, interaction] = effects;
    Some(Factorial { first, second, interaction })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_those_worked_by_hand() {
        let repeat = |pattern: [f64; 4]| -> Vec<f64> { (0..40).map(|i| pattern[i % 4]).collect() };
        let [base, first, second, both] = [
            repeat([0.0, 0.1, 0.2, 0.3]),
            repeat([0.5, 0.6, 0.4, 0.9]),
            repeat([0.2, 0.1, 0.4, 0.5]),
            repeat([0.6, 0.7, 0.5, 0.8]),
        ];
        let cells = Cells { base: &base, first: &first, second: &second, both: &both };
        let effects =
            factorial(cells, &Clusters::none(), &Options { draws: 500, ..Options::default() })
                .unwrap();
        // Means 0.15, 0.6, 0.3, 0.65.
        let close = |x: f64, y: f64| assert!((x - y).abs() < 1e-12, "{x} {y}");
        close(effects.first.difference, 0.4);
        close(effects.second.difference, 0.1);
        close(effects.interaction.difference, -0.1);
        assert!(effects.interaction.low < -0.1 && effects.interaction.high > -0.1);
    }

    #[test]
    fn cells_of_different_sizes_have_no_effects() {
        let cells = Cells { base: &[0.0; 3], first: &[0.0; 2], second: &[0.0; 3], both: &[0.0; 3] };
        assert_eq!(factorial(cells, &Clusters::none(), &Options::default()), None);
    }
}
