//! Arms that were trained with several seeds, compared as recipes and not as adapters: what another
//! training would give is as uncertain as what another sample would.
//!
//! The model is crossed, samples by training seeds, as in [`crate::compare_seeds`]; here it honours
//! clusters, takes part in a family that Holm corrects, and goes into the decision.

use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{mean, variance},
    distribution::t_critical,
    family::{ArmMean, ArmScores, Family, FamilyError, Pairs, analyse},
    interval::{Clusters, Estimate, Method, Options},
    paired::{Comparison, Test, conclude, tost},
};

/// An arm and its scores with each training seed; an arm without training has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The arm's name.
    pub arm: String,
    /// Per training seed, a score per sample, in the same order throughout; `None` where unscored.
    pub seeds: Vec<Vec<Option<f64>>>,
}

impl Recipe {
    /// An arm with one seed.
    pub fn of(arm: &ArmScores) -> Recipe {
        Recipe { arm: arm.arm.clone(), seeds: vec![arm.scores.clone()] }
    }

    /// The mean over seeds of every sample, unscored where any seed is.
    pub fn mean(&self) -> ArmScores {
        let samples = self.seeds.first().map_or(0, Vec::len);
        let of = |sample: usize| -> Option<f64> {
            let scores = self.seeds.iter().map(|seed| seed.get(sample).copied().flatten());
            Some(scores.sum::<Option<f64>>()? / self.seeds.len() as f64)
        };
        ArmScores { arm: self.arm.clone(), scores: (0..samples).map(of).collect() }
    }

    /// The scores of each seed on some samples, on which all are scored.
    fn columns(&self, kept: &[usize]) -> Vec<Vec<f64>> {
        let column =
            |seed: &Vec<Option<f64>>| kept.iter().filter_map(|&sample| seed[sample]).collect();
        self.seeds.iter().map(column).collect()
    }
}

/// A variance of a mean and what it was estimated from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The variance that the source leaves in the mean.
    pub variance: f64,
    /// Degrees of freedom of its estimate.
    pub degrees: f64,
}

impl Part {
    fn reach(self, level: f64) -> f64 {
        // The quantile is the dear part.
        if self.variance > 0.0 {
            t_critical(level, self.degrees).powi(2) * self.variance
        } else {
            0.0
        }
    }
}

/// The variances of a difference of recipes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crossed {
    /// Training seeds of the first recipe and of the second.
    pub seeds: [usize; 2],
    /// What new samples would change, cluster-robust where samples share clusters.
    pub samples: Part,
    /// What new trainings of each recipe would change, the noise of finite samples taken off where
    /// there are three seeds or more; `None` with one seed, and then the comparison holds for that one model and not for its recipe.
    pub training: [Option<Part>; 2],
}

impl Crossed {
    /// The square of the half-width that the training seeds alone have at a level: no number of
    /// samples makes the interval narrower.
    pub fn of_training(&self, level: f64) -> f64 {
        self.training.iter().flatten().map(|part| part.reach(level)).sum()
    }

    /// Half of the interval's width at a level: the square root of the sum of `t^2 * variance`
    /// (Graybill and Wang 1980, JASA 75:869).
    pub fn half_width(&self, level: f64) -> f64 {
        (self.samples.reach(level) + self.of_training(level)).sqrt()
    }

    /// Two-sided p-value of a difference so far from the hypothesis: 1 less the level of the widest
    /// interval that leaves the hypothesis out.
    pub fn p_value(&self, gap: f64) -> f64 {
        let (mut inside, mut outside) = (1.0, 0.0);
        for _ in 0..50 {
            let level = f64::midpoint(inside, outside);
            if self.half_width(level) < gap.abs() {
                outside = level;
            } else {
                inside = level;
            }
        }
        1.0 - inside
    }

    /// Standard deviation between single trainings of the first recipe and of the second.
    pub fn deviations(&self) -> [Option<f64>; 2] {
        let of = |at: usize| Some((self.training[at]?.variance * self.seeds[at] as f64).sqrt());
        [of(0), of(1)]
    }

    /// The same of the other order.
    pub(crate) fn swapped(&self) -> Crossed {
        let ([a, b], [first, second]) = (self.seeds, self.training);
        Crossed { seeds: [b, a], training: [second, first], ..*self }
    }
}

/// Analyses recipes on one scorer: all pairs, corrected together. A pair in which neither has several
/// seeds is compared as by [`analyse`]. Of the others the interval is that of the crossed model, and
/// never inside that of the means over seeds alone; the p-value is the larger of the crossed model's
/// and that of the sign flips of the means over seeds. So few samples that happen to agree are
/// not taken for certainty, which a t-test would do. A pair uses the samples that every seed of both
/// was scored on.
///
/// # Errors
/// As [`analyse`]; also where the seeds of a recipe have different numbers of samples.
pub fn analyse_recipes(
    recipes: &[Recipe],
    clusters: &Clusters,
    options: &Options,
) -> Result<Family, FamilyError> {
    for recipe in recipes {
        let expected = recipe.seeds.first().map_or(0, Vec::len);
        if let Some(other) = recipe.seeds.iter().find(|seed| seed.len() != expected) {
            let (arm, found) = (recipe.arm.clone(), other.len());
            return Err(FamilyError::SampleCount { arm, found, expected });
        }
    }
    let means: Vec<ArmScores> = recipes.iter().map(Recipe::mean).collect();
    let family = analyse(&means, clusters, &Pairs::All, options)?;
    if recipes.iter().all(|recipe| recipe.seeds.len() < 2) {
        return Ok(family);
    }
    let Family { means, mut pairs } = family;
    let means = recipes.iter().zip(means).map(|(recipe, mean)| of_recipe(recipe, mean, clusters));
    let means = means.collect();
    let numbers = (0..recipes.len()).flat_map(|i| (i + 1..recipes.len()).map(move |j| (i, j)));
    let mut tested = Vec::new();
    for ((i, j), pair) in numbers.zip(&mut pairs) {
        if let Some(comparison) = pair.comparison.take() {
            tested.push(crossed([&recipes[i], &recipes[j]], comparison, clusters, options));
            // Put back once it is corrected.
            pair.comparison = tested.last().cloned();
        }
    }
    conclude(&mut tested, options);
    let mut tested = tested.into_iter();
    for pair in pairs.iter_mut().filter(|pair| pair.comparison.is_some()) {
        pair.comparison = tested.next();
    }
    Ok(Family { means, pairs })
}

/// Samples on which a recipe is scored with every seed.
fn scored(recipe: &Recipe, sample: usize) -> bool {
    recipe.seeds.iter().all(|seed| seed[sample].is_some())
}

/// Whether all scores are from 0 to 1, so that no mean is beyond.
fn is_share(scores: &[Vec<f64>]) -> bool {
    scores.iter().flatten().all(|x| (0.0..=1.0).contains(x))
}

/// The mean of a recipe over samples and trainings.
fn of_recipe(recipe: &Recipe, mean: ArmMean, clusters: &Clusters) -> ArmMean {
    let samples = recipe.seeds.first().map_or(0, Vec::len);
    let kept: Vec<usize> = (0..samples).filter(|&sample| scored(recipe, sample)).collect();
    let columns = recipe.columns(&kept);
    let Some(training) = training(&columns, &clusters.select(&kept)) else { return mean };
    let widened = mean.estimate.map(|estimate| {
        let level = estimate.level;
        let units = estimate.clusters.unwrap_or(estimate.n) as f64;
        let samples =
            Part { variance: estimate.standard_error.powi(2), degrees: (units - 1.0).max(1.0) };
        let half = (samples.reach(level) + training.reach(level)).sqrt();
        let (mut low, mut high) = (estimate.mean - half, estimate.mean + half);
        if is_share(&columns) {
            (low, high) = (low.max(0.0), high.min(1.0));
        }
        Estimate {
            standard_error: (samples.variance + training.variance).sqrt(),
            low: low.min(estimate.low),
            high: high.max(estimate.high),
            method: Method::CrossedModel,
            ..estimate
        }
    });
    ArmMean { estimate: widened, ..mean }
}

/// A pair of recipes; `alone` compares their means over seeds, as if these were all there could be.
fn crossed(
    pair: [&Recipe; 2],
    alone: Comparison,
    clusters: &Clusters,
    options: &Options,
) -> Comparison {
    let samples = pair[0].seeds.first().map_or(0, Vec::len);
    let kept: Vec<usize> =
        (0..samples).filter(|&at| pair.iter().all(|recipe| scored(recipe, at))).collect();
    let clusters = clusters.select(&kept);
    let training = pair.map(|recipe| training(&recipe.columns(&kept), &clusters));
    if training == [None, None] {
        return alone;
    }
    let crossed = Crossed {
        seeds: pair.map(|recipe| recipe.seeds.len()),
        samples: Part {
            variance: alone.standard_error.powi(2),
            degrees: alone.clusters.unwrap_or(alone.n) as f64 - 1.0,
        },
        training,
    };
    let half = crossed.half_width(alone.level);
    let (mut low, mut high) = (alone.difference - half, alone.difference + half);
    if pair.iter().all(|recipe| is_share(&recipe.columns(&kept))) {
        (low, high) = (low.max(-1.0), high.min(1.0));
    }
    let of_training: f64 = training.iter().flatten().map(|part| part.variance).sum();
    let mut comparison = Comparison {
        standard_error: (crossed.samples.variance + of_training).sqrt(),
        low: low.min(alone.low),
        high: high.max(alone.high),
        method: Method::CrossedModel,
        test: Test::CrossedModel,
        p_value: crossed.p_value(alone.difference).max(alone.p_value),
        a_only: None,
        b_only: None,
        crossed: Some(crossed),
        ..alone
    };
    comparison.equivalence_p = options.margin.map(|margin| {
        // Again, no surer than the means over seeds alone.
        tost(&comparison, margin).max(alone.equivalence_p.unwrap_or(0.0))
    });
    comparison
}

/// What training leaves in the mean over seeds. The means of seeds differ by training and by what each
/// finds hard among these samples; the second is taken off, cluster by cluster where samples share
/// one. With two seeds nothing is taken off: their one difference is below its noise so often, although
/// training differs, that false winners would be more than they may be. `None` with one seed or fewer
/// than two independent samples.
fn training(scores: &[Vec<f64>], clusters: &Clusters) -> Option<Part> {
    let n = scores.first()?.len();
    let seeds = scores.len() as f64;
    if scores.len() < 2 || n < 2 {
        return None;
    }
    let of_seed: Vec<f64> = scores.iter().map(|row| mean(row)).collect();
    let grand = mean(&of_seed);
    let residuals = |sample: usize| -> Vec<f64> {
        let of_sample = scores.iter().map(|row| row[sample]).sum::<f64>() / seeds;
        let rows = scores.iter().zip(&of_seed);
        rows.map(|(row, seed)| row[sample] - seed - of_sample + grand).collect()
    };
    let units = clusters.sum_rows((0..n).map(residuals).collect());
    let count = units.len() as f64;
    if units.len() < 2 {
        return None;
    }
    let squares: f64 = units.iter().flatten().map(|x| x * x).sum();
    let noise = squares * count / (count - 1.0) / ((seeds - 1.0) * (n as f64).powi(2));
    let noise = if scores.len() == 2 { 0.0 } else { noise };
    Some(Part { variance: (variance(&of_seed) - noise).max(0.0) / seeds, degrees: seeds - 1.0 })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::decision::{Decision, Utility, decide_recipes};
    use crate::paired::Verdict;
    use crate::variance::compare_seeds;

    /// Recipes whose seeds are right with these probabilities, on samples of shared difficulty.
    fn simulated(n: usize, recipes: &[(&str, &[f64])]) -> Vec<Recipe> {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let hard: Vec<f64> = (0..n).map(|_| rng.random()).collect();
        let mut seed = |p: f64| -> Vec<Option<f64>> {
            let right = |hard: &f64| 0.5 * hard + 0.5 * rng.random::<f64>() < p;
            hard.iter().map(right).map(|right| Some(f64::from(u8::from(right)))).collect()
        };
        recipes
            .iter()
            .map(|&(arm, shares)| Recipe {
                arm: arm.to_owned(),
                seeds: shares.iter().map(|&p| seed(p)).collect(),
            })
            .collect()
    }

    fn options() -> Options {
        Options { draws: 2000, ..Options::default() }
    }

    fn decided(recipes: &[Recipe]) -> Decision {
        let family = analyse_recipes(recipes, &Clusters::none(), &options()).unwrap();
        let (none, utility) = (Clusters::none(), Utility::default());
        decide_recipes(recipes, &none, &family, &[], &utility, None, &options()).unwrap()
    }

    #[test]
    fn a_winner_does_not_rest_on_one_lucky_training() {
        let lucky = simulated(400, &[("base", &[0.5]), ("lora", &[0.72, 0.49, 0.52])]);
        // That training alone would win.
        let alone =
            [lucky[0].clone(), Recipe { seeds: lucky[1].seeds[..1].to_vec(), ..lucky[1].clone() }];
        assert_eq!(decided(&alone).winner.as_deref(), Some("lora"));
        let decision = decided(&lucky);
        assert_eq!(decision.winner, None, "{}", decision.reason);
        assert!(decision.reason.contains("more training seeds may"), "{}", decision.reason);
        let best = decision.probability_best["lora"];
        assert!((0.55..0.99).contains(&best), "{best}");
    }

    #[test]
    fn a_recipe_that_is_better_with_every_seed_wins() {
        let recipes = simulated(
            300,
            &[("base", &[0.4]), ("lora", &[0.7, 0.72, 0.69]), ("wide", &[0.5, 0.52, 0.48])],
        );
        let decision = decided(&recipes);
        assert_eq!(decision.winner.as_deref(), Some("lora"), "{}", decision.reason);
        assert!(decision.probability_best["lora"] > 0.99);
    }

    #[test]
    fn one_seed_each_is_the_plain_analysis_byte_for_byte() {
        let recipes = simulated(60, &[("base", &[0.4]), ("rag", &[0.6]), ("lora", &[0.5])]);
        let arms: Vec<ArmScores> = recipes.iter().map(Recipe::mean).collect();
        let plain = analyse(&arms, &Clusters::none(), &Pairs::All, &options()).unwrap();
        assert_eq!(analyse_recipes(&recipes, &Clusters::none(), &options()).unwrap(), plain);
        let utility = Utility::default();
        let decision =
            crate::decide(&arms, &Clusters::none(), &plain, &[], &utility, None, &options());
        assert_eq!(decided(&recipes), decision.unwrap());
    }

    #[test]
    fn without_clusters_the_parts_are_those_of_the_crossed_model() {
        let recipes = simulated(200, &[("base", &[0.5]), ("lora", &[0.7, 0.6, 0.5])]);
        let family = analyse_recipes(&recipes, &Clusters::none(), &options()).unwrap();
        let found = family.pairs[0].comparison.as_ref().unwrap();
        let columns = |at: usize| recipes[at].columns(&(0..200).collect::<Vec<_>>());
        let expect = compare_seeds(&columns(0), &columns(1), 0.95).unwrap();
        assert!((found.difference - expect.difference).abs() < 1e-12);
        assert!((found.standard_error - expect.standard_error).abs() < 1e-12);
        let ends = (expect.low.max(-1.0), expect.high.min(1.0));
        assert!(found.low <= ends.0 + 1e-12 && found.high >= ends.1 - 1e-12);
        let crossed = found.crossed.unwrap();
        let deviation = crossed.deviations()[1].unwrap();
        assert!((deviation - expect.seed_deviation_b.unwrap()).abs() < 1e-12);
        assert!((crossed.p_value(found.difference) - expect.p_value).abs() < 1e-9);
        assert!(found.p_value >= expect.p_value - 1e-12);
        assert_eq!(found.swapped().crossed.unwrap().seeds, [3, 1]);
    }

    #[test]
    fn samples_that_share_a_cluster_count_as_one() {
        // Every sample four times over: the clusters are what is independent.
        let once = simulated(80, &[("base", &[0.5]), ("lora", &[0.75, 0.6, 0.65])]);
        let four = |seed: &Vec<Option<f64>>| seed.iter().flat_map(|x| [*x; 4]).collect();
        let copied: Vec<Recipe> = once
            .iter()
            .map(|r| Recipe { arm: r.arm.clone(), seeds: r.seeds.iter().map(four).collect() })
            .collect();
        let clusters = Clusters::from_labels((0..320).map(|at| at / 4));
        let of = |recipes: &[Recipe], clusters: &Clusters| {
            let family = analyse_recipes(recipes, clusters, &options()).unwrap();
            family.pairs[0].comparison.clone().unwrap()
        };
        let (plain, clustered) = (of(&once, &Clusters::none()), of(&copied, &clusters));
        let [own, shared] = [plain.crossed.unwrap(), clustered.crossed.unwrap()];
        assert!((own.samples.variance / shared.samples.variance - 1.0).abs() < 1e-9);
        let [own, shared] = [own, shared].map(|c| c.training[1].unwrap().variance);
        assert!((own - shared).abs() < 1e-12, "{own} {shared}");
        assert_eq!(clustered.clusters, Some(80));
        assert!(of(&copied, &Clusters::none()).standard_error < clustered.standard_error);
    }

    #[test]
    fn few_samples_that_all_agree_are_not_certainty() {
        let scores = |x: f64, seeds: usize| vec![vec![Some(x); 4]; seeds];
        let recipes = [
            Recipe { arm: "base".into(), seeds: scores(0.0, 1) },
            Recipe { arm: "lora".into(), seeds: scores(1.0, 3) },
        ];
        let family = analyse_recipes(&recipes, &Clusters::none(), &options()).unwrap();
        let found = family.pairs[0].comparison.as_ref().unwrap();
        assert_eq!(found.verdict, Verdict::Undecided);
        assert!((found.p_value - 0.125).abs() < 1e-12 && found.high > -0.9, "{found:?}");
    }

    #[test]
    fn holm_is_over_the_recipes_and_not_over_their_seeds() {
        let recipes = simulated(
            150,
            &[("base", &[0.5]), ("lora", &[0.56, 0.6, 0.58]), ("wide", &[0.5, 0.51, 0.49])],
        );
        let family = analyse_recipes(&recipes, &Clusters::none(), &options()).unwrap();
        let found: Vec<&Comparison> =
            family.pairs.iter().filter_map(|pair| pair.comparison.as_ref()).collect();
        assert_eq!(found.len(), 3);
        let least = found.iter().map(|c| c.p_value).fold(1.0, f64::min);
        let corrected = found.iter().map(|c| c.p_holm).fold(1.0, f64::min);
        assert!((corrected - (3.0 * least).min(1.0)).abs() < 1e-12);
    }

    #[test]
    fn the_mean_of_a_recipe_has_the_spread_of_its_trainings() {
        let recipes = simulated(2000, &[("base", &[0.5]), ("lora", &[0.75, 0.55, 0.65])]);
        let family = analyse_recipes(&recipes, &Clusters::none(), &options()).unwrap();
        let width = |at: usize| family.means[at].estimate.as_ref().map(|e| e.high - e.low).unwrap();
        // Three seeds with a deviation of 0.1 or more: t with two degrees of freedom.
        assert!(width(0) < 0.05 && width(1) > 0.3, "{} {}", width(0), width(1));
    }

    #[test]
    fn equal_recipes_seldom_differ_however_lucky_their_trainings() {
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        let options = Options { draws: 199, ..Options::default() };
        for (seeds, n, luck) in [(2, 100, 0.06), (2, 500, 0.03), (3, 100, 0.06), (3, 500, 0.03)] {
            let (runs, mut found) = (200, 0);
            for _ in 0..runs {
                let hard: Vec<f64> = (0..n).map(|_| rng.random()).collect();
                let mut train = |luck: f64| -> Vec<Option<f64>> {
                    // The sum of twelve is nearly normal.
                    let normal: f64 = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
                    let share = 0.6 + luck * normal;
                    let right = |hard: &f64| f64::midpoint(*hard, rng.random()) < share;
                    hard.iter().map(right).map(|right| Some(f64::from(u8::from(right)))).collect()
                };
                let base = Recipe { arm: "base".into(), seeds: vec![train(0.0)] };
                let tuned = (0..seeds).map(|_| train(luck)).collect();
                let tuned = Recipe { arm: "lora".into(), seeds: tuned };
                let family = analyse_recipes(&[base, tuned], &Clusters::none(), &options).unwrap();
                let verdict = family.pairs[0].comparison.as_ref().unwrap().verdict;
                found += usize::from(verdict != Verdict::Undecided);
            }
            // 5 % and twice the simulation's standard error.
            let rate = found as f64 / f64::from(runs);
            assert!(rate < 0.08, "{seeds} seeds, {n} samples, luck {luck}: {rate}");
        }
    }

    #[test]
    fn a_cost_weighed_in_does_not_hide_the_seeds() {
        let recipes = simulated(400, &[("base", &[0.5]), ("lora", &[0.75, 0.5, 0.6])]);
        let family = analyse_recipes(&recipes, &Clusters::none(), &options()).unwrap();
        let found = family.pairs[0].comparison.as_ref().unwrap();
        let crossed = found.crossed.unwrap();
        for null in [-0.2, 0.0, 0.1] {
            let p = found.p_value_against(null);
            assert!((p - crossed.p_value(found.difference - null)).abs() < 1e-9, "{null} {p}");
        }
        let weights = BTreeMap::from([(crate::Figure::CostPer1000, 0.001)]);
        let figures = ["base", "lora"].map(|arm| crate::ArmFigures {
            arm: arm.into(),
            cost_per_1000: Some(1.0),
            ..crate::ArmFigures::default()
        });
        let utility = Utility { weights, ..Utility::default() };
        let decision = decide_recipes(
            &recipes,
            &Clusters::none(),
            &family,
            &figures,
            &utility,
            None,
            &options(),
        );
        assert_eq!(decision.unwrap().winner, None);
    }

    #[test]
    fn seeds_of_different_lengths_are_refused() {
        let recipe =
            Recipe { arm: "lora".into(), seeds: vec![vec![Some(1.0); 3], vec![Some(1.0); 2]] };
        let error = analyse_recipes(&[recipe], &Clusters::none(), &options()).unwrap_err();
        assert!(error.to_string().starts_with("arm `lora` has 2 samples"), "{error}");
    }
}
