//! Variances kept apart: samples, training seeds, generation seeds, the judge.
//!
//! A fine-tuned arm trained with several seeds is several models. Pooling their answers would treat
//! the seeds' spread as if more samples could remove it; the crossed model here does not.

use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{mean, variance},
    distribution::t_critical,
};

/// An arm with training seeds against another on the same samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedComparison {
    /// Samples.
    pub n: usize,
    /// Training seeds of the first arm.
    pub seeds_a: usize,
    /// Training seeds of the second arm.
    pub seeds_b: usize,
    /// Mean of the first arm over seeds and samples.
    pub mean_a: f64,
    /// Mean of the second arm.
    pub mean_b: f64,
    /// `mean_a - mean_b`.
    pub difference: f64,
    /// Standard error over new samples and new training seeds.
    pub standard_error: f64,
    /// Lower end of the difference's interval.
    pub low: f64,
    /// Upper end of the difference's interval.
    pub high: f64,
    /// Two-sided p-value of no difference.
    pub p_value: f64,
    /// Standard deviation between training seeds of the first arm, sampling noise taken off; `None`
    /// with one seed, and then the interval holds for that one model and not for its recipe.
    pub seed_deviation_a: Option<f64>,
    /// The same of the second arm.
    pub seed_deviation_b: Option<f64>,
}

/// Compares arms by a crossed mixed model, samples by training seeds: moment estimates of each
/// variance, and the modified large-sample interval, whose half-width squared is the sum of
/// `t^2 * variance` with the degrees of freedom of each (Graybill and Wang 1980, JASA 75:869). It holds
/// its level with three seeds, where Satterthwaite's single t falls short.
///
/// Scores are `[seed][sample]`, generation repeats averaged; an arm without training has one seed.
/// `None` with fewer than two samples, rows of different lengths, no seed or a score that is not finite.
pub fn compare_seeds(a: &[Vec<f64>], b: &[Vec<f64>], level: f64) -> Option<SeedComparison> {
    let n = a.first()?.len();
    let fits = |row: &Vec<f64>| row.len() == n && row.iter().all(|x| x.is_finite());
    if n < 2 || b.is_empty() || !a.iter().chain(b).all(fits) {
        return None;
    }
    let [over_a, over_b] = [a, b].map(over_seeds);
    let differences: Vec<f64> = over_a.iter().zip(&over_b).map(|(a, b)| a - b).collect();
    let difference = mean(&differences);
    let samples = variance(&differences) / n as f64;
    let [seeds_a, seeds_b] = [a, b].map(TwoWay::of);
    let parts = [
        Some((samples, n as f64 - 1.0)),
        seeds_a.map(TwoWay::of_mean),
        seeds_b.map(TwoWay::of_mean),
    ];
    let half = |level: f64| -> f64 {
        parts
            .iter()
            .flatten()
            .map(|&(v, degrees)| t_critical(level, degrees).powi(2) * v)
            .sum::<f64>()
            .sqrt()
    };
    // The p-value is that of the widest interval without zero.
    let (mut inside, mut outside) = (1.0, 0.0);
    for _ in 0..50 {
        let level = f64::midpoint(inside, outside);
        if half(level) < difference.abs() {
            outside = level;
        } else {
            inside = level;
        }
    }
    let margin = half(level);
    Some(SeedComparison {
        n,
        seeds_a: a.len(),
        seeds_b: b.len(),
        mean_a: mean(&over_a),
        mean_b: mean(&over_b),
        difference,
        standard_error: parts.iter().flatten().map(|(variance, _)| variance).sum::<f64>().sqrt(),
        low: difference - margin,
        high: difference + margin,
        p_value: 1.0 - inside,
        seed_deviation_a: seeds_a.map(|two| two.seed.sqrt()),
        seed_deviation_b: seeds_b.map(|two| two.seed.sqrt()),
    })
}

/// Variance of one score that each source brings, and of the arm's mean: which to buy more of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Components {
    /// The arm's mean.
    pub mean: f64,
    /// Its standard error over new samples and new seeds of every kind that was repeated.
    pub standard_error: f64,
    /// One per source that the design can tell apart, in the order of [`Source`].
    pub sources: Vec<Component>,
}

/// One source of variance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// The source.
    pub source: Source,
    /// Variance that it brings to a single score, never below zero.
    pub variance: f64,
    /// What of it is left in the arm's mean.
    pub of_mean: f64,
}

/// Where variance comes from. A source that was not repeated is not listed; its variance is in the
/// one before it (a single training seed's is nowhere).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Some samples are harder.
    Samples,
    /// Some training seeds are luckier.
    TrainingSeeds,
    /// Each training seed finds other samples hard.
    SamplesByTrainingSeeds,
    /// Sampling of the answer.
    GenerationSeeds,
    /// The judge's verdict on one answer changes.
    Judge,
}

/// Takes an arm's variance apart. Scores are `[training seed][generation seed][judgement][sample]`,
/// the same numbers of each throughout. `None` when they are not, with fewer than two samples, or with
/// a score that is not finite.
pub fn components(scores: &[Vec<Vec<Vec<f64>>>]) -> Option<Components> {
    let (generations, judgements) = (scores.first()?.len(), scores.first()?.first()?.len());
    let n = scores[0][0].first()?.len();
    let even = scores.iter().all(|training| {
        training.len() == generations
            && training.iter().all(|generation| {
                let full = |row: &Vec<f64>| row.len() == n && row.iter().all(|x| x.is_finite());
                generation.len() == judgements && generation.iter().all(full)
            })
    });
    if n < 2 || !even {
        return None;
    }
    // Inside out: the variance over the innermost repeats, then over their means.
    let judged: Vec<Vec<Vec<f64>>> =
        scores.iter().map(|t| t.iter().map(|g| over_seeds(g)).collect()).collect();
    let answered: Vec<Vec<f64>> = judged.iter().map(|t| over_seeds(t)).collect();
    let judge = (judgements > 1)
        .then(|| mean(&scores.iter().flatten().map(|g| within(g)).collect::<Vec<_>>()));
    let generation_raw =
        (generations > 1).then(|| mean(&judged.iter().map(|t| within(t)).collect::<Vec<_>>()));

    let [t, g, j] = [scores.len(), generations, judgements].map(|x| x as f64);
    let judge_left = judge.map_or(0.0, |judge| judge / j);
    let generation_left = generation_raw.map_or(judge_left / g, |raw| raw / g);
    let generation = generation_raw.map(|raw| raw - judge_left);
    let over_all = over_seeds(&answered);
    let two_way = TwoWay::of(&answered);
    let samples = variance(&over_all) - two_way.map_or(generation_left, |two| two.residual / t);
    let count = n as f64;
    let sources = [
        (Source::Samples, Some(samples), count),
        (Source::TrainingSeeds, two_way.map(|two| two.seed), t),
        (
            Source::SamplesByTrainingSeeds,
            two_way.map(|two| two.residual - generation_left),
            count * t,
        ),
        (Source::GenerationSeeds, generation, count * t * g),
        (Source::Judge, judge, count * t * g * j),
    ];
    let standard_error =
        (variance(&over_all) / count + two_way.map_or(0.0, |two| two.of_mean().0)).sqrt();
    let sources = sources
        .into_iter()
        .filter_map(|(source, variance, repeats)| {
            let variance = variance?.max(0.0);
            Some(Component { source, variance, of_mean: variance / repeats })
        })
        .collect();
    Some(Components { mean: mean(&over_all), standard_error, sources })
}

/// The moments of a table of training seeds by samples.
#[derive(Clone, Copy)]
struct TwoWay {
    seeds: f64,
    /// Variance between seeds, the noise of finite samples taken off.
    seed: f64,
    /// Variance that neither seed nor sample explains.
    residual: f64,
}

impl TwoWay {
    /// `None` with one seed.
    fn of(scores: &[Vec<f64>]) -> Option<TwoWay> {
        let (s, n) = (scores.len() as f64, scores[0].len() as f64);
        if scores.len() < 2 {
            return None;
        }
        let of_sample = over_seeds(scores);
        let of_seed: Vec<f64> = scores.iter().map(|row| mean(row)).collect();
        let grand = mean(&of_seed);
        let squares: f64 = scores
            .iter()
            .zip(&of_seed)
            .flat_map(|(row, seed)| {
                row.iter().zip(&of_sample).map(move |(x, sample)| x - seed - sample + grand)
            })
            .map(|residual| residual * residual)
            .sum();
        let residual = squares / ((s - 1.0) * (n - 1.0));
        Some(TwoWay { seeds: s, seed: (variance(&of_seed) - residual / n).max(0.0), residual })
    }

    /// The variance that seeds leave in a mean over them, with its degrees of freedom.
    fn of_mean(self) -> (f64, f64) {
        (self.seed / self.seeds, self.seeds - 1.0)
    }
}

/// The mean of each sample over seeds.
fn over_seeds(scores: &[Vec<f64>]) -> Vec<f64> {
    let seeds = scores.len() as f64;
    (0..scores[0].len()).map(|i| scores.iter().map(|row| row[i]).sum::<f64>() / seeds).collect()
}

/// The variance over repeats, averaged over samples.
fn within(repeats: &[Vec<f64>]) -> f64 {
    let samples = repeats[0].len();
    let of = |i: usize| variance(&repeats.iter().map(|row| row[i]).collect::<Vec<_>>());
    (0..samples).map(of).sum::<f64>() / samples as f64
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Uniform with mean 0 and this variance.
    fn noise(rng: &mut ChaCha8Rng, variance: f64) -> f64 {
        (rng.random::<f64>() - 0.5) * (12.0 * variance).sqrt()
    }

    #[test]
    fn each_source_gets_its_own_variance() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let hard: Vec<f64> = (0..600).map(|_| noise(&mut rng, 0.04)).collect();
        let scores: Vec<Vec<Vec<Vec<f64>>>> = (0..60)
            .map(|_| {
                let luck = noise(&mut rng, 0.01);
                (0..3)
                    .map(|_| {
                        let answers: Vec<f64> =
                            hard.iter().map(|h| 0.5 + h + luck + noise(&mut rng, 0.02)).collect();
                        (0..2)
                            .map(|_| answers.iter().map(|x| x + noise(&mut rng, 0.03)).collect())
                            .collect()
                    })
                    .collect()
            })
            .collect();
        let found = components(&scores).unwrap();
        let expected = [
            (Source::Samples, 0.04),
            (Source::TrainingSeeds, 0.01),
            (Source::SamplesByTrainingSeeds, 0.0),
            (Source::GenerationSeeds, 0.02),
            (Source::Judge, 0.03),
        ];
        assert_eq!(found.sources.len(), expected.len());
        for (component, (source, variance)) in found.sources.iter().zip(expected) {
            assert_eq!(component.source, source);
            assert!((component.variance - variance).abs() < 0.004, "{component:?}");
        }
    }

    #[test]
    fn one_training_seed_has_no_training_variance_to_tell() {
        let scores = vec![vec![vec![vec![0.1, 0.5, 0.9]]]];
        let sources: Vec<Source> =
            components(&scores).unwrap().sources.iter().map(|c| c.source).collect();
        assert_eq!(sources, [Source::Samples]);
        assert_eq!(components(&[vec![vec![vec![0.1, 0.5]]], vec![vec![vec![0.1]]]]), None);
    }

    #[test]
    fn more_samples_do_not_remove_the_spread_of_seeds() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let base: Vec<f64> = (0..5000).map(|_| rng.random::<f64>()).collect();
        let tuned: Vec<Vec<f64>> =
            [0.1, -0.1, 0.05].iter().map(|luck| base.iter().map(|x| x + luck).collect()).collect();
        let compared = compare_seeds(&tuned, &[base], 0.95).unwrap();
        assert!(compared.p_value > 0.5);
        assert!(compared.high - compared.low > 0.4);
        assert!((compared.seed_deviation_a.unwrap() - 0.104).abs() < 0.001);
        assert_eq!(compared.seed_deviation_b, None);
    }

    #[test]
    fn one_seed_each_is_the_paired_t_test() {
        let a = vec![vec![0.1, 0.5, 0.9, 0.4]];
        let b = vec![vec![0.2, 0.3, 0.5, 0.1]];
        let compared = compare_seeds(&a, &b, 0.95).unwrap();
        // Differences -0.1, 0.2, 0.4, 0.3: mean 0.2, deviation 0.21602, t = 1.8516 with 3 degrees.
        assert!((compared.difference - 0.2).abs() < 1e-12);
        assert!((compared.p_value - 0.1612).abs() < 1e-3, "{}", compared.p_value);
    }
}
