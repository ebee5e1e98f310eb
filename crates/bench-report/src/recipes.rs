//! Who enters the decision: each arm once, an arm with several training seeds as the mean over them.

use std::borrow::Cow;

use bench_core::plan;
use bench_core::record::Record;
use bench_core::spec::{ArmPlan, Correction, Run};
use bench_stats::{Clusters, Crossed, Estimate, Family, Options, Recipe, analyse_recipes};

use crate::ReportError;
use crate::evaluation::{Contender, Metric, SetResult, Usage};
use crate::sequential::Look;

/// An arm in the decision.
pub(crate) struct Entrant {
    /// The arm's name, without a seed.
    pub(crate) name: String,
    /// Position of the arm in the experiment.
    pub(crate) arm: usize,
    /// The contenders trained with its seeds; one where it has one or is not trained.
    pub(crate) members: Vec<usize>,
}

/// The arms as recipes on the deciding metric, where any has several training seeds.
pub(crate) struct Recipes {
    pub(crate) scores: Vec<Recipe>,
    /// Means and all pairs, in the order of the entrants.
    pub(crate) family: Family,
}

/// Every arm that has contenders, in the experiment's order.
pub(crate) fn entrants(contenders: &[Contender<'_>], plans: &[ArmPlan]) -> Vec<Entrant> {
    let mut entrants: Vec<Entrant> = Vec::new();
    for (at, contender) in contenders.iter().enumerate() {
        match entrants.iter_mut().find(|entrant| entrant.arm == contender.arm) {
            Some(entrant) => entrant.members.push(at),
            None => entrants.push(Entrant {
                name: plans[contender.arm].name.clone(),
                arm: contender.arm,
                members: vec![at],
            }),
        }
    }
    entrants
}

/// `None` where no arm has several training seeds: then the contenders' own figures decide.
pub(crate) fn recipes(
    metric: &Metric,
    entrants: &[Entrant],
    samples: &[&str],
    clusters: &Clusters,
    options: &Options,
    correction: Correction,
    run: &Run,
) -> Result<Option<Recipes>, ReportError> {
    if entrants.iter().all(|entrant| entrant.members.len() < 2) {
        return Ok(None);
    }
    let recipe = |entrant: &Entrant| Recipe {
        arm: entrant.name.clone(),
        seeds: entrant.members.iter().map(|&at| metric.scores[at].scores.clone()).collect(),
    };
    let scores: Vec<Recipe> = entrants.iter().map(recipe).collect();
    let mut family = analyse_recipes(&scores, clusters, options)?;
    if correction == Correction::None {
        let pairs = (0..scores.len()).flat_map(|a| (a + 1..scores.len()).map(move |b| (a, b)));
        for ((a, b), pair) in pairs.zip(&mut family.pairs) {
            let alone = [scores[a].clone(), scores[b].clone()];
            let alone = analyse_recipes(&alone, clusters, options)?;
            pair.comparison = alone.pairs.into_iter().next().and_then(|pair| pair.comparison);
        }
    }
    if run.stop.is_some() {
        let order = plan::asking_order(samples, run.seed);
        let means: Vec<_> = scores.iter().map(Recipe::mean).collect();
        Look::new(&means, &order, options.alpha).apply_to(&mut family, options);
    }
    Ok(Some(Recipes { scores, family }))
}

impl Entrant {
    /// What the answers of all its seeds took.
    pub(crate) fn usage<'s>(&self, set: &'s SetResult<'_>) -> Cow<'s, Usage> {
        let first = &set.contenders[self.members[0]].usage;
        if self.members.len() == 1 {
            return Cow::Borrowed(first);
        }
        let trials = self.members.iter().flat_map(|&at| &set.contenders[at].trials);
        let mut usage = Usage::of(&trials.copied().collect::<Vec<&Record>>());
        // Whether a missing count means anything is known to the contenders.
        usage.uncounted = self.members.iter().map(|&at| set.contenders[at].usage.uncounted).sum();
        Cow::Owned(usage)
    }

    /// The mean over its seeds of a figure that all of them have.
    pub(crate) fn mean(&self, of: impl Fn(usize) -> Option<f64>) -> Option<f64> {
        let sum = self.members.iter().map(|&at| of(at)).sum::<Option<f64>>()?;
        Some(sum / self.members.len() as f64)
    }
}

impl SetResult<'_> {
    /// The mean of an entrant on the deciding metric.
    pub(crate) fn estimate_of(&self, entrant: usize) -> Option<&Estimate> {
        match &self.recipes {
            Some(recipes) => recipes.family.means[entrant].estimate.as_ref(),
            None => self.primary()?.estimates[self.entrants[entrant].members[0]].as_ref(),
        }
    }
}

/// Two arms of which one has several training seeds.
pub(crate) struct Seeds<'s> {
    /// Positions among the entrants: of whom the comparison is said, and the other.
    pub(crate) pair: [usize; 2],
    pub(crate) comparison: bench_stats::Comparison,
    pub(crate) crossed: Crossed,
    pub(crate) arm: &'s str,
    pub(crate) against: &'s str,
}

/// Every pair of arms of which one has several training seeds, those with the baseline first. It is
/// said of the arm that has several; of two such, not of the baseline, then of the first.
pub(crate) fn seeds<'s>(set: &'s SetResult<'_>) -> Vec<Seeds<'s>> {
    let Some(recipes) = &set.recipes else { return Vec::new() };
    let baseline = set.baseline.map(|at| set.contenders[at].arm);
    let is_baseline = |entrant: usize| Some(set.entrants[entrant].arm) == baseline;
    let several = |entrant: usize| set.entrants[entrant].members.len() > 1;
    let n = set.entrants.len();
    let numbers = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b)));
    let mut found: Vec<Seeds<'s>> = numbers
        .zip(&recipes.family.pairs)
        .filter_map(|((a, b), pair)| {
            let comparison = pair.comparison.as_ref()?;
            let turned = !several(a) || (several(b) && is_baseline(a));
            let (pair, comparison) =
                if turned { ([b, a], comparison.swapped()) } else { ([a, b], comparison.clone()) };
            let crossed = comparison.crossed?;
            let [arm, against] = pair.map(|at| set.entrants[at].name.as_str());
            Some(Seeds { pair, comparison, crossed, arm, against })
        })
        .collect();
    found.sort_by_key(|seeds| (!seeds.pair.iter().any(|&at| is_baseline(at)), seeds.pair));
    found
}
