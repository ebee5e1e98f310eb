//! Resampling: one engine for every bootstrap and every sign-flip test.
//!
//! The engine draws units (samples, or clusters of samples) and returns the sums of all columns of
//! the drawn units. Every statistic here is a function of such sums, so arms that share a draw
//! share the resample: the bootstrap is joint and paired, and a difference costs nothing extra.
//!
//! Each draw has its own `ChaCha8` stream, so results do not depend on the number of threads.
//! Units are put into a canonical order first, so results do not depend on the order of samples.

use std::cmp::Ordering;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use serde::{Deserialize, Serialize};

use crate::{
    distribution::{normal_cdf, normal_quantile, t_critical},
    interval::Options,
};

/// More units than this are summed into groups before they are drawn.
const MOST_UNITS: usize = 10_000;
/// Groups that they are summed into, about: a standard error is then known to one per cent.
const GROUPS: usize = 5_000;

/// Columns summed together: one cache line of `f64`.
const LANES: usize = 8;

/// Units with the same columns each.
pub(crate) struct Units {
    n: usize,
    width: usize,
    /// `blocks[c][unit]` holds columns `c * LANES ..`, padded with zeros.
    blocks: Vec<Vec<[f64; LANES]>>,
    /// Share of all samples in each unit, where units are groups of samples.
    shares: Vec<f64>,
}

/// The sums of every column, a row per draw.
pub(crate) struct Sums {
    width: usize,
    values: Vec<f64>,
}

impl Sums {
    pub(crate) fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.width)
    }
}

impl Units {
    /// Takes one row of columns per unit.
    pub(crate) fn new(mut rows: Vec<Vec<f64>>) -> Units {
        rows.sort_unstable_by(|x, y| {
            let differs = x.iter().zip(y).map(|(x, y)| x.total_cmp(y)).find(|order| order.is_ne());
            differs.unwrap_or(Ordering::Equal)
        });
        let (rows, shares) = grouped(rows);
        let width = rows.first().map_or(0, Vec::len);
        let blocks = (0..width.div_ceil(LANES))
            .map(|block| {
                let lane = |row: &Vec<f64>, l| row.get(block * LANES + l).copied().unwrap_or(0.0);
                rows.iter().map(|row| std::array::from_fn(|l| lane(row, l))).collect()
            })
            .collect();
        Units { n: rows.len(), width, blocks, shares }
    }

    pub(crate) fn from_column(column: &[f64]) -> Units {
        Units::new(column.iter().map(|&x| vec![x]).collect())
    }

    /// Sums over `n` units drawn with replacement, for each draw. The index is `(random * n) >> 32`:
    /// its bias is below `n / 2^32`.
    pub(crate) fn resample(&self, draws: usize, seed: u64) -> Sums {
        let totals: Vec<[f64; LANES]> = if self.shares.is_empty() {
            Vec::new()
        } else {
            self.blocks.iter().map(|block| total(block)).collect()
        };
        self.each_draw(draws, seed, self.n, |random, out| {
            let at = |word: u32| ((u64::from(word) * self.n as u64) >> 32) as usize;
            for (block, out) in self.blocks.iter().zip(out.chunks_mut(LANES)) {
                let mut sums = [0.0; LANES];
                for &word in random {
                    let row = &block[at(word)];
                    for (sum, x) in sums.iter_mut().zip(row) {
                        *sum += x;
                    }
                }
                out.copy_from_slice(&sums[..out.len()]);
            }
            if !self.shares.is_empty() {
                // Groups may differ in size by a sample: a draw counts as many samples as there are.
                let missing = 1.0 - random.iter().map(|&word| self.shares[at(word)]).sum::<f64>();
                for (total, out) in totals.iter().zip(out.chunks_mut(LANES)) {
                    out.iter_mut().zip(total).for_each(|(out, total)| *out += missing * total);
                }
            }
        })
    }

    /// Sums over all units, each kept or negated by a fair coin, for each draw.
    pub(crate) fn flip_signs(&self, draws: usize, seed: u64) -> Sums {
        let totals: Vec<[f64; LANES]> = self.blocks.iter().map(|block| total(block)).collect();
        // A seed of its own: flips must not mirror the resamples of the same seed.
        self.each_draw(draws, seed ^ 0x666C_6970_7369_676E, self.n.div_ceil(32), |random, out| {
            for ((block, total), out) in self.blocks.iter().zip(&totals).zip(out.chunks_mut(LANES))
            {
                let mut kept = [0.0; LANES];
                for (rows, &word) in block.chunks(32).zip(random) {
                    for (bit, row) in rows.iter().enumerate() {
                        let mask = u64::from((word >> bit) & 1).wrapping_neg();
                        for (kept, x) in kept.iter_mut().zip(row) {
                            *kept += f64::from_bits(x.to_bits() & mask);
                        }
                    }
                }
                for ((out, kept), total) in out.iter_mut().zip(kept).zip(total) {
                    *out = 2.0 * kept - total;
                }
            }
        })
    }

    fn each_draw(
        &self,
        draws: usize,
        seed: u64,
        words: usize,
        sum: impl Fn(&[u32], &mut [f64]) + Sync,
    ) -> Sums {
        let mut values = vec![0.0; draws * self.width];
        let base = ChaCha8Rng::seed_from_u64(seed);
        if self.width > 0 {
            values.par_chunks_exact_mut(self.width).enumerate().with_min_len(64).for_each_init(
                || vec![0_u32; words],
                |random, (draw, out)| {
                    let mut rng = base.clone();
                    rng.set_stream(draw as u64);
                    rng.fill(&mut random[..]);
                    sum(random, out);
                },
            );
        }
        Sums { width: self.width, values }
    }
}

/// Sums very many rows into groups drawn at random, with the share of the rows in each; the variance
/// of a sum over drawn groups is that over drawn rows in expectation. Few rows stay as they are.
fn grouped(mut rows: Vec<Vec<f64>>) -> (Vec<Vec<f64>>, Vec<f64>) {
    let n = rows.len();
    if n <= MOST_UNITS {
        return (rows, Vec::new());
    }
    // Neighbours are alike, because rows are sorted: Fisher and Yates's shuffle parts them.
    let mut random = ChaCha8Rng::seed_from_u64(n as u64);
    for last in (1..n).rev() {
        let word: u64 = random.random();
        rows.swap(last, ((u128::from(word) * (last as u128 + 1)) >> 64) as usize);
    }
    rows.chunks(n.div_ceil(GROUPS))
        .map(|group| {
            let mut sums = vec![0.0; group[0].len()];
            for row in group {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            (sums, group.len() as f64 / n as f64)
        })
        .unzip()
}

fn total(block: &[[f64; LANES]]) -> [f64; LANES] {
    block.iter().fold([0.0; LANES], |sum, row| std::array::from_fn(|l| sum[l] + row[l]))
}

/// The interval of bias-corrected and accelerated bootstrap (Efron 1987, JASA 82:171-185) from
/// replicates that were already drawn. `acceleration` is the jackknife's, see [`acceleration`];
/// `z` is the two-sided critical value, see [`expanded_critical`]. `None` without replicates.
pub fn bca(replicates: &[f64], estimate: f64, acceleration: f64, z: f64) -> Option<(f64, f64)> {
    let n = replicates.len() as f64;
    let mut sorted = replicates.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let slack = 1e-12 * estimate.abs().max(sorted.last()?.abs());
    let below = sorted.partition_point(|&x| x < estimate - slack) as f64;
    let at_most = sorted.partition_point(|&x| x <= estimate + slack) as f64;
    let share = (f64::midpoint(below, at_most) / n).clamp(0.5 / n, 1.0 - 0.5 / n);
    let bias = normal_quantile(share);
    let end = |z: f64| {
        let shifted = bias + z;
        percentile(&sorted, normal_cdf(bias + shifted / (1.0 - acceleration * shifted)))
    };
    Some((end(-z), end(z)))
}

/// The critical value with which a bootstrap interval of `n` values is as wide as Student's:
/// `t(n - 1) * sqrt(n / (n - 1))` in place of `z` (Hesterberg 2015, The American Statistician 69:371,
/// section 5.3). Without it percentile-type intervals are too narrow in small samples.
pub fn expanded_critical(n: usize, level: f64) -> f64 {
    let n = n as f64;
    t_critical(level, n - 1.0) * (n / (n - 1.0)).sqrt()
}

/// The acceleration of a mean from its jackknife, `sum d^3 / (6 (sum d^2)^1.5)`; 0 for equal values.
pub fn acceleration(values: &[f64]) -> f64 {
    let mean = mean(values);
    let [square, cube] =
        values.iter().map(|x| x - mean).fold([0.0; 2], |[s, c], d| [s + d * d, c + d * d * d]);
    if square > 0.0 { cube / (6.0 * square.powf(1.5)) } else { 0.0 }
}

/// The percentile of sorted values, interpolated as `numpy` does by default.
pub(crate) fn percentile(sorted: &[f64], p: f64) -> f64 {
    let position = p * (sorted.len() - 1) as f64;
    let low = position.floor();
    let at = |i: f64| sorted[(i as usize).min(sorted.len() - 1)];
    at(low) + (position - low) * (at(low + 1.0) - at(low))
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The sample variance, `n - 1` in the denominator.
pub(crate) fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
}

/// A statistic that is a function of column sums over units, with its bias-corrected and accelerated
/// bootstrap interval; the acceleration is the jackknife's. Resamples where the statistic does not
/// exist (a single grade left) are dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coefficient {
    /// Units that it is computed from.
    pub n: usize,
    /// The statistic.
    pub value: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end of its interval.
    pub high: f64,
    /// Confidence level of the interval.
    pub level: f64,
}

/// `None` with fewer than two units, or where the statistic of all units does not exist.
pub(crate) fn coefficient(
    rows: Vec<Vec<f64>>,
    statistic: impl Fn(&[f64]) -> Option<f64>,
    options: &Options,
) -> Option<Coefficient> {
    let n = rows.len();
    if n < 2 {
        return None;
    }
    let mut total = vec![0.0; rows[0].len()];
    for row in &rows {
        total.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    let value = statistic(&total)?;
    let without = |row: &Vec<f64>| {
        statistic(&total.iter().zip(row).map(|(sum, x)| sum - x).collect::<Vec<_>>())
    };
    let jackknife: Vec<f64> = rows.iter().filter_map(without).map(|x| -x).collect();
    let acceleration = acceleration(&jackknife);
    let replicates: Vec<f64> = Units::new(rows)
        .resample(options.draws, options.seed)
        .rows()
        .filter_map(statistic)
        .collect();
    let (low, high) = bca(&replicates, value, acceleration, expanded_critical(n, options.level))?;
    Some(Coefficient { n, value, low, high, level: options.level })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_very_many_samples_keep_the_mean_and_its_spread() {
        // 20,003 values of an uneven spread; the last group is smaller than the others.
        let values: Vec<f64> = (0..20_003).map(|at| f64::from(at % 101).powi(2) / 1e4).collect();
        let n = values.len() as f64;
        let units = Units::from_column(&values);
        assert!(units.n < values.len() && units.shares.len() == units.n);
        let replicates: Vec<f64> = units.resample(4000, 3).rows().map(|row| row[0] / n).collect();
        let expect = (variance(&values) / n).sqrt();
        let found = variance(&replicates).sqrt();
        assert!((mean(&replicates) - mean(&values)).abs() < 0.1 * expect, "{}", mean(&replicates));
        assert!((found / expect - 1.0).abs() < 0.05, "{found} {expect}");
        let flips: Vec<f64> = units.flip_signs(4000, 3).rows().map(|row| row[0]).collect();
        let expect = values.iter().map(|x| x * x).sum::<f64>();
        // Signs flip by group, so that the spread is that of the groups' sums.
        assert!(variance(&flips) > expect, "{} {expect}", variance(&flips));
    }
}
