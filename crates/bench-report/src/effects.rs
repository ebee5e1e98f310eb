//! What retrieval and fine-tuning add, alone and together, and how far training seeds differ.

use bench_core::spec::{ArmPlan, Strategy};
use bench_stats::factorial::{Cells, Factorial, factorial};
use bench_stats::variance::{SeedComparison, compare_seeds};

use crate::evaluation::{Evaluation, Metric, SetResult};

/// Two-way effects of one composed arm.
pub(crate) struct Effects {
    /// Contenders: neither, retrieval, fine-tuning, both.
    pub(crate) cells: [usize; 4],
    /// Samples scored in all four.
    pub(crate) n: usize,
    pub(crate) factorial: Factorial,
}

/// For every arm composed of a retrieving and a fine-tuned one, where an arm with neither ran too.
pub(crate) fn effects(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    metric: &Metric,
) -> Vec<Effects> {
    let arms = &evaluation.manifest.experiment.arms;
    let composed = arms.iter().filter_map(|arm| match &arm.strategy {
        Strategy::Compose(parts) => Some((arm.name.as_str(), parts)),
        Strategy::Prompt(_) | Strategy::Rag(_) | Strategy::Finetune(_) | Strategy::Features(_) => {
            None
        }
    });
    composed.filter_map(|(name, parts)| one(evaluation, set, metric, name, parts)).collect()
}

fn one(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    metric: &Metric,
    both: &str,
    parts: &[String],
) -> Option<Effects> {
    let plan = |contender: usize| &evaluation.plans[set.contenders[contender].arm];
    let find = |wanted: &dyn Fn(&ArmPlan) -> bool| {
        (0..set.contenders.len()).find(|&contender| wanted(plan(contender)))
    };
    let kind = |plan: &ArmPlan| (plan.rag.is_some(), plan.finetune.is_some());
    let both = find(&|plan| plan.name == both && kind(plan) == (true, true))?;
    let model = &plan(both).model;
    let retrieving = find(&|p| parts.contains(&p.name) && kind(p) == (true, false))?;
    let trained = find(&|p| parts.contains(&p.name) && kind(p) == (false, true))?;
    let is_plain = |plan: &ArmPlan| plan.model == *model && kind(plan) == (false, false);
    let prompted = find(&|p| parts.contains(&p.name) && is_plain(p));
    let base = prompted
        .or_else(|| set.baseline.filter(|&baseline| is_plain(plan(baseline))))
        .or_else(|| find(&is_plain))?;
    let cells = [base, retrieving, trained, both];
    let (kept, columns) = aligned(metric, &cells);
    let factorial = factorial(
        Cells { base: &columns[0], first: &columns[1], second: &columns[2], both: &columns[3] },
        &set.clusters_of(&kept),
        &evaluation.options,
    )?;
    Some(Effects { cells, n: kept.len(), factorial })
}

/// An arm trained with several seeds against the baseline, as a recipe and not as one adapter.
pub(crate) struct Seeds {
    pub(crate) arm: String,
    pub(crate) comparison: SeedComparison,
}

/// Per arm with several training seeds; empty where the baseline has several itself.
pub(crate) fn seeds(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    metric: &Metric,
) -> Vec<Seeds> {
    let Some(baseline) = set.baseline else { return Vec::new() };
    let of_arm = |arm: usize| -> Vec<usize> {
        (0..set.contenders.len()).filter(|&at| set.contenders[at].arm == arm).collect()
    };
    let rivals = of_arm(set.contenders[baseline].arm);
    let arms = evaluation.plans.iter().enumerate();
    arms.filter(|(arm, _)| *arm != set.contenders[baseline].arm)
        .filter_map(|(arm, plan)| {
            let members = of_arm(arm);
            if members.len() < 2 {
                return None;
            }
            let all: Vec<usize> = members.iter().chain(&rivals).copied().collect();
            let (_, columns) = aligned(metric, &all);
            let (a, b) = columns.split_at(members.len());
            let comparison = compare_seeds(a, b, evaluation.options.level)?;
            Some(Seeds { arm: plan.name.clone(), comparison })
        })
        .collect()
}

/// The samples that all contenders have a score on, and the scores, contender by contender.
fn aligned(metric: &Metric, contenders: &[usize]) -> (Vec<usize>, Vec<Vec<f64>>) {
    let score = |at: usize, sample: usize| metric.scores[at].scores[sample];
    let samples = metric.scores.first().map_or(0, |scores| scores.scores.len());
    let kept: Vec<usize> = (0..samples)
        .filter(|&sample| contenders.iter().all(|&at| score(at, sample).is_some()))
        .collect();
    let column = |&at: &usize| kept.iter().filter_map(|&sample| score(at, sample)).collect();
    let columns = contenders.iter().map(column).collect();
    (kept, columns)
}
