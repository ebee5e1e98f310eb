//! What retrieval and fine-tuning add, alone and together.

use bench_core::spec::{ArmPlan, Strategy};
use bench_stats::factorial::{Cells, Factorial, factorial};

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
