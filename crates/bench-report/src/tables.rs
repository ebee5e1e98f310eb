//! The files under `tables/`. Their columns are documented in `docs/tables.md`.

use std::collections::BTreeMap;

use bench_core::record::Record;
use bench_stats::{Estimate, Options, Test};

use crate::agreement::Agreement;
use crate::budget::{PARTS, budget};
use crate::causes;
use crate::cost::{Horizon, break_even, costings};
use crate::diagnosis::{self, Outcome};
use crate::effects::effects;
use crate::evaluation::{Evaluation, Metric, SetResult};
use crate::learning::curves;
use crate::recipes::seeds;
use crate::retention::retained;
use crate::retrieval;
use crate::table::Kind::{Count, Number, Text};
use crate::table::{Table, row};
use crate::text::cut;
use crate::trials::{scores_of, trials_of};
use crate::{ReportError, judging};

pub(crate) mod prompting;
mod scorers;

/// Characters of an answer that `flips.csv` keeps.
const FLIP_TEXT: usize = 1000;

/// Rows of `flips.csv` for a pair of arms without the baseline: there may be very many such pairs.
const FLIPS_OF_PAIR: usize = 1000;

/// Whether the file of trials is among the tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trials {
    /// It is made from the records.
    Written,
    /// It is there already: the records were read from it, in part.
    Kept,
}

/// Every table, by path.
pub(crate) fn files(
    evaluation: &Evaluation<'_>,
    trials: Trials,
) -> Result<Vec<(String, Vec<u8>)>, ReportError> {
    let records: Vec<&Record> = evaluation
        .sets
        .iter()
        .flat_map(|set| set.all().flat_map(|contender| &contender.trials))
        .copied()
        .collect();
    let mut files = Vec::new();
    if trials == Trials::Written {
        files.push(("tables/trials.parquet".to_owned(), trials_of(&records)?));
    }
    files.push(("tables/scores.parquet".to_owned(), scores_of(&records)?));
    drop(records);
    let (summary, pairs) = (summary(evaluation), pairs(evaluation));
    files.push(("tables/summary.parquet".into(), summary.parquet()?));
    files.push(("tables/pairs.parquet".into(), pairs.parquet()?));
    for (name, table) in [
        ("summary", summary),
        ("pairs", pairs),
        ("slices", slices(evaluation)),
        ("retrieval", retrieval(evaluation)),
        ("diagnosis", diagnosis(evaluation)),
        ("causes", cause_table(evaluation)),
        ("effects", effect_table(evaluation)),
        ("seeds", seed_table(evaluation)),
        ("training", training(evaluation)),
        ("losses", losses(evaluation)),
        ("costs", costs(evaluation)),
        ("break_even", break_evens(evaluation)),
        ("budgets", prompting::budget_table(evaluation)),
        ("tuning", prompting::tuning_table(evaluation)),
        ("effort", prompting::effort_table(evaluation)),
        ("tokens", tokens(evaluation)),
        ("learning_curve", learning_curve(evaluation)),
        ("retention", retention_table(evaluation)),
        ("agreement", agreement(evaluation)),
    ]
    .into_iter()
    .chain(
        judging::tables::all(evaluation)
            .into_iter()
            .chain([("variances", crate::variance::table(evaluation))])
            .filter(|(_, table)| !table.is_empty()),
    ) {
        files.push((format!("tables/{name}.csv"), table.csv()?));
    }
    // Tables that few runs have are both, where they have rows.
    for (name, table) in scorers::all(evaluation).into_iter().filter(|(_, t)| !t.is_empty()) {
        files.push((format!("tables/{name}.parquet"), table.parquet()?));
        files.push((format!("tables/{name}.csv"), table.csv()?));
    }
    files.push(("tables/flips.csv".into(), flips(evaluation)?));
    Ok(files)
}

fn summary(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("train_seed", Count),
        ("metric", Text),
        ("n", Count),
        ("value", Number),
        ("standard_error", Number),
        ("ci_low", Number),
        ("ci_high", Number),
        ("interval", Text),
        ("difference", Number),
        ("difference_low", Number),
        ("difference_high", Number),
        ("p", Number),
        ("p_holm", Number),
        ("verdict", Text),
        ("unscored", Count),
        ("failed", Count),
        ("tokens_in", Number),
        ("tokens_out", Number),
        ("cost_per_1000_usd", Number),
        ("latency_p50_ms", Number),
        ("latency_p95_ms", Number),
        ("tokens_per_second", Number),
        ("training_seconds", Number),
        ("training_peak_memory_bytes", Count),
    ]);
    for set in &evaluation.sets {
        for metric in &set.metrics {
            for (at, contender) in set.contenders.iter().enumerate() {
                let estimate = metric.estimates[at].as_ref();
                let against = metric.against_baseline[at].as_ref();
                let usage = &contender.usage;
                let outcome = contender.training.map(|training| &training.outcome);
                table.push(row![
                    set.set.name.as_str(),
                    contender.name.as_str(),
                    contender.training.map(|_| contender.train_seed),
                    metric.name.as_str(),
                    metric.scores[at].scores.iter().flatten().count(),
                    estimate.map(|e| e.mean),
                    estimate.map(|e| e.standard_error),
                    estimate.map(|e| e.low),
                    estimate.map(|e| e.high),
                    estimate.map(method),
                    against.map(|c| c.difference),
                    against.map(|c| c.low),
                    against.map(|c| c.high),
                    against.map(|c| c.p_value),
                    against.map(|c| c.p_holm),
                    against.map(|c| c.verdict.word()),
                    metric.unscored[at],
                    usage.failed,
                    usage.per_answer(usage.tokens_in),
                    usage.per_answer(usage.tokens_out),
                    usage.cost_per_1000(),
                    usage.latency(0.5),
                    usage.latency(0.95),
                    usage.tokens_per_second,
                    outcome.map(|o| o.seconds),
                    outcome.map(|o| o.peak_memory_bytes),
                ]);
            }
        }
    }
    table
}

pub(crate) fn method(estimate: &Estimate) -> &'static str {
    use bench_stats::Method::{
        Bca, ClusterRobust, ConfidenceSequence, Constant, CrossedModel, Hall, Tango, Wilson,
        WilsonClustered,
    };
    match estimate.method {
        Wilson => "wilson",
        WilsonClustered => "wilson_clustered",
        Bca => "bca",
        Hall => "hall",
        ClusterRobust => "cluster_robust",
        Tango => "tango",
        ConfidenceSequence => "confidence_sequence",
        CrossedModel => "crossed_model",
        Constant => "constant",
    }
}

fn pairs(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("metric", Text),
        ("arm_a", Text),
        ("arm_b", Text),
        ("n", Count),
        ("value_a", Number),
        ("value_b", Number),
        ("difference", Number),
        ("standard_error", Number),
        ("ci_low", Number),
        ("ci_high", Number),
        ("a_only", Count),
        ("b_only", Count),
        ("test", Text),
        ("p", Number),
        ("p_holm", Number),
        ("p_equivalence", Number),
        ("verdict", Text),
        ("more_samples", Count),
    ]);
    for set in &evaluation.sets {
        for metric in &set.metrics {
            for (a, b, comparison) in &metric.pairs {
                let c = comparison.as_ref();
                table.push(row![
                    set.set.name.as_str(),
                    metric.name.as_str(),
                    set.contenders[*a].name.as_str(),
                    set.contenders[*b].name.as_str(),
                    c.map_or(0, |c| c.n),
                    c.map(|c| c.mean_a),
                    c.map(|c| c.mean_b),
                    c.map(|c| c.difference),
                    c.map(|c| c.standard_error),
                    c.map(|c| c.low),
                    c.map(|c| c.high),
                    c.and_then(|c| c.a_only),
                    c.and_then(|c| c.b_only),
                    c.map(|c| match c.test {
                        Test::McNemarExact => "mcnemar_exact",
                        Test::PermutationExact => "permutation_exact",
                        Test::PermutationMonteCarlo => "permutation_monte_carlo",
                        Test::CrossedModel => "crossed_model",
                    }),
                    c.map(|c| c.p_value),
                    c.map(|c| c.p_holm),
                    c.and_then(|c| c.equivalence_p_holm),
                    c.map(|c| c.verdict.word()),
                    c.and_then(|c| c.more_needed),
                ]);
            }
        }
    }
    table
}

fn slices(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("slice", Text),
        ("slice_value", Text),
        ("arm", Text),
        ("metric", Text),
        ("n", Count),
        ("value", Number),
        ("standard_error", Number),
        ("ci_low", Number),
        ("ci_high", Number),
    ]);
    for set in &evaluation.sets {
        for slice in slices_of(set, &evaluation.options) {
            for (metric, figures) in set.metrics.iter().zip(&slice.figures) {
                for (contender, SliceFigure { n, estimate }) in set.contenders.iter().zip(figures) {
                    table.push(row![
                        set.set.name.as_str(),
                        slice.field.as_str(),
                        slice.value.as_str(),
                        contender.name.as_str(),
                        metric.name.as_str(),
                        *n,
                        estimate.as_ref().map(|e| e.mean),
                        estimate.as_ref().map(|e| e.standard_error),
                        estimate.as_ref().map(|e| e.low),
                        estimate.as_ref().map(|e| e.high),
                    ]);
                }
            }
        }
    }
    table
}

/// The samples that share a value of a meta field.
pub(crate) struct Slice {
    pub(crate) field: String,
    pub(crate) value: String,
    /// Samples with the value.
    pub(crate) samples: usize,
    /// Per metric and contender.
    pub(crate) figures: Vec<Vec<SliceFigure>>,
}

/// The score of a contender on the samples of a slice.
pub(crate) struct SliceFigure {
    /// Samples that are scored.
    pub(crate) n: usize,
    /// `None` where too few are.
    pub(crate) estimate: Option<Estimate>,
}

/// By field as declared, then by value.
pub(crate) fn slices_of<'s>(set: &'s SetResult<'_>, options: &Options) -> &'s [Slice] {
    set.once.slices.get_or_init(|| sliced(set, options))
}

fn sliced(set: &SetResult<'_>, options: &Options) -> Vec<Slice> {
    let mut slices = Vec::new();
    for field in &set.set.slices {
        let mut values: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
        for contender in &set.contenders {
            for (record, &sample) in contender.trials.iter().zip(&contender.positions) {
                if let Some(value) = record.slices.get(field) {
                    let kept = values.entry(value);
                    kept.or_insert_with(|| vec![false; set.samples.len()])[sample] = true;
                }
            }
        }
        for (value, kept) in values {
            let figure = |metric: &Metric, at: usize| {
                let scored = metric.scores[at].scores.iter().zip(&kept);
                SliceFigure {
                    n: scored.filter(|(score, kept)| score.is_some() && **kept).count(),
                    estimate: metric.estimate_on(at, set, |sample| kept[sample], options),
                }
            };
            let of_metric =
                |metric| (0..set.contenders.len()).map(|at| figure(metric, at)).collect();
            slices.push(Slice {
                field: field.clone(),
                value: value.to_owned(),
                samples: kept.iter().filter(|kept| **kept).count(),
                figures: set.metrics.iter().map(of_metric).collect(),
            });
        }
    }
    slices
}

fn retrieval(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("metric", Text),
        ("k", Count),
        ("n", Count),
        ("value", Number),
        ("standard_error", Number),
        ("ci_low", Number),
        ("ci_high", Number),
    ]);
    for set in &evaluation.sets {
        for result in retrieval::results(set, &evaluation.options) {
            let mut push = |metric: &str, k: Option<usize>, estimate: Option<&Estimate>| {
                table.push(row![
                    set.set.name.as_str(),
                    set.contenders[result.contender].name.as_str(),
                    metric,
                    k,
                    estimate.map(|e| e.n),
                    estimate.map(|e| e.mean),
                    estimate.map(|e| e.standard_error),
                    estimate.map(|e| e.low),
                    estimate.map(|e| e.high),
                ]);
            };
            for (at, figures) in result.at.iter().enumerate() {
                push("recall", Some(at + 1), figures.recall.as_ref());
                push("precision", Some(at + 1), figures.precision.as_ref());
                push("hit", Some(at + 1), figures.hit.as_ref());
                push("map", Some(at + 1), figures.map.as_ref());
                push("ndcg", Some(at + 1), figures.ndcg.as_ref());
            }
            push("mrr", None, result.mrr.as_ref());
            push("context_precision", None, result.context_precision.as_ref());
            push("context_recall", None, result.context_recall.as_ref());
        }
    }
    table
}

fn diagnosis(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("metric", Text),
        ("outcome", Text),
        ("samples", Count),
    ]);
    for set in &evaluation.sets {
        let Some(metric) = set.primary() else { continue };
        for (contender, counts) in set.contenders.iter().zip(diagnosis::counts(set, metric)) {
            for (outcome, count) in Outcome::ALL.iter().zip(counts) {
                table.push(row![
                    set.set.name.as_str(),
                    contender.name.as_str(),
                    metric.name.as_str(),
                    outcome.column(),
                    count,
                ]);
            }
        }
    }
    table
}

fn cause_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("metric", Text),
        ("cause", Text),
        ("samples", Count),
        ("gain", Number),
        ("best_arm", Text),
        ("right_there", Count),
    ]);
    for set in &evaluation.sets {
        let Some(metric) = set.primary() else { continue };
        for found in causes::errors(evaluation, set, metric) {
            let best = found.best.map(|(arm, n)| (set.contenders[arm].name.as_str(), n)).unzip();
            table.push(row![
                set.set.name.as_str(),
                set.contenders[found.contender].name.as_str(),
                metric.name.as_str(),
                found.cause.column(),
                found.samples,
                found.gain,
                best.0,
                best.1,
            ]);
        }
    }
    table
}

fn effect_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("metric", Text),
        ("arm", Text),
        ("effect", Text),
        ("n", Count),
        ("value", Number),
        ("standard_error", Number),
        ("ci_low", Number),
        ("ci_high", Number),
        ("p", Number),
        ("p_holm", Number),
    ]);
    for set in &evaluation.sets {
        let Some(metric) = set.primary() else { continue };
        for found in effects(evaluation, set, metric) {
            let factorial = &found.factorial;
            for (effect, c) in [
                ("retrieval", &factorial.first),
                ("fine_tuning", &factorial.second),
                ("interaction", &factorial.interaction),
            ] {
                table.push(row![
                    set.set.name.as_str(),
                    metric.name.as_str(),
                    set.contenders[found.cells[3]].name.as_str(),
                    effect,
                    found.n,
                    c.difference,
                    c.standard_error,
                    c.low,
                    c.high,
                    c.p_value,
                    c.p_holm,
                ]);
            }
        }
    }
    table
}

fn seed_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("metric", Text),
        ("arm", Text),
        ("seeds", Count),
        ("n", Count),
        ("value", Number),
        ("seed_deviation", Number),
        ("difference", Number),
        ("standard_error", Number),
        ("ci_low", Number),
        ("ci_high", Number),
        ("p", Number),
        ("against", Text),
        ("p_holm", Number),
        ("verdict", Text),
    ]);
    for set in &evaluation.sets {
        let Some(metric) = set.primary() else { continue };
        for found in seeds(set) {
            let c = &found.comparison;
            table.push(row![
                set.set.name.as_str(),
                metric.name.as_str(),
                found.arm,
                found.crossed.seeds[0],
                c.n,
                c.mean_a,
                found.crossed.deviations()[0],
                c.difference,
                c.standard_error,
                c.low,
                c.high,
                c.p_value,
                found.against,
                c.p_holm,
                c.verdict.word(),
            ]);
        }
    }
    table
}

fn training(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arms", Text),
        ("train_seed", Count),
        ("rows", Count),
        ("rows_too_long", Count),
        ("steps", Count),
        ("tokens", Count),
        ("trainable_parameters", Count),
        ("total_parameters", Count),
        ("seconds", Number),
        ("tokens_per_second", Number),
        ("peak_memory_bytes", Count),
        ("final_loss", Number),
        ("final_dev_loss", Number),
        ("adapter_digest", Text),
        ("adapter_bytes", Count),
        ("energy_joules", Number),
    ]);
    for entry in &evaluation.manifest.training {
        let outcome = &entry.outcome;
        let last = outcome.steps.last();
        table.push(row![
            entry.set.as_str(),
            entry.arms.join(" "),
            entry.seed,
            entry.rows,
            outcome.rows_too_long,
            outcome.steps.len(),
            last.map(|step| step.tokens),
            outcome.trainable_parameters,
            outcome.total_parameters,
            outcome.seconds,
            last.map(|step| step.tokens_per_second),
            outcome.peak_memory_bytes,
            last.map(|step| step.loss),
            outcome.steps.iter().rev().find_map(|step| step.dev_loss),
            outcome.digest.as_str(),
            Some(entry.adapter_bytes).filter(|bytes| *bytes > 0),
            entry.energy_joules,
        ]);
    }
    table
}

fn losses(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arms", Text),
        ("train_seed", Count),
        ("step", Count),
        ("loss", Number),
        ("dev_loss", Number),
        ("learning_rate", Number),
        ("tokens", Count),
    ]);
    for entry in &evaluation.manifest.training {
        for step in &entry.outcome.steps {
            table.push(row![
                entry.set.as_str(),
                entry.arms.join(" "),
                entry.seed,
                step.step,
                step.loss,
                step.dev_loss,
                step.learning_rate,
                step.tokens,
            ]);
        }
    }
    table
}

fn costs(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("trials", Count),
        ("answered", Count),
        ("failed", Count),
        ("cut_short", Count),
        ("tokens_in_total", Count),
        ("tokens_out_total", Count),
        ("tokens_in", Number),
        ("tokens_out", Number),
        ("cost_usd", Number),
        ("cost_per_1000_usd", Number),
        ("cost_per_1000_right_usd", Number),
        ("training_cost_usd", Number),
        ("first_token_p50_ms", Number),
        ("retrieval_p50_ms", Number),
        ("latency_p50_ms", Number),
        ("latency_p95_ms", Number),
        ("tokens_per_second", Number),
        ("cost_per_1000_low_usd", Number),
        ("cost_per_1000_high_usd", Number),
        ("cost_per_right_usd", Number),
        ("cached_tokens_in", Number),
        ("cached_cost_per_1000_usd", Number),
        ("training_hours", Number),
        ("trainings", Number),
        ("fixed_per_month_usd", Number),
    ]);
    let horizon = Horizon::of(&evaluation.manifest.experiment.break_even);
    for set in &evaluation.sets {
        for (at, contender) in set.contenders.iter().enumerate() {
            let usage = &contender.usage;
            let costing = costings(evaluation, set)[at].as_ref();
            table.push(row![
                set.set.name.as_str(),
                contender.name.as_str(),
                usage.trials,
                usage.answered,
                usage.failed,
                usage.cut_short,
                usage.tokens_in,
                usage.tokens_out,
                usage.per_answer(usage.tokens_in),
                usage.per_answer(usage.tokens_out),
                usage.cost,
                usage.cost_per_1000(),
                cost_per_1000_right(set, at),
                contender.training_cost,
                usage.first_token_p50,
                usage.retrieval_p50,
                usage.latency(0.5),
                usage.latency(0.95),
                usage.tokens_per_second,
                costing.map(|c| c.per_answer.low * 1000.0),
                costing.map(|c| c.per_answer.high * 1000.0),
                cost_per_1000_right(set, at).map(|cost| cost / 1000.0),
                costing.map(|c| c.cached_tokens),
                costing.map(|c| c.cached.mean * 1000.0),
                contender.training.map(|entry| entry.outcome.seconds / 3600.0),
                costing.map(|c| c.trainings),
                costing.map(|c| c.fixed(&horizon)),
            ]);
        }
    }
    table
}

/// US dollars per 1,000 right answers by the deciding metric.
pub(crate) fn cost_per_1000_right(set: &SetResult<'_>, contender: usize) -> Option<f64> {
    let metric = set.primary()?;
    let scored = (0..set.samples.len()).filter_map(|at| metric.is_right(contender, at));
    let (mut n, mut right) = (0, 0);
    for is_right in scored {
        n += 1;
        right += usize::from(is_right);
    }
    let per_1000 = set.contenders[contender].usage.cost_per_1000()?;
    (right > 0).then(|| per_1000 * f64::from(n) / right as f64)
}

fn break_evens(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("against", Text),
        ("training_cost_usd", Number),
        ("saving_per_1000_usd", Number),
        ("saving_low_usd", Number),
        ("saving_high_usd", Number),
        ("answers", Number),
        ("answers_low", Number),
        ("answers_high", Number),
        ("cached_saving_per_1000_usd", Number),
        ("cheaper", Text),
        ("requests_per_month", Number),
        ("requests_low", Number),
        ("requests_high", Number),
        ("requests_high_cheaper", Text),
        ("quality_difference", Number),
        ("quality_verdict", Text),
    ]);
    for set in &evaluation.sets {
        for found in break_even(evaluation, set) {
            let [saving, low, high] = found.saving.map(|saving| saving * 1000.0);
            let [answers, few, many] = found.answers();
            table.push(row![
                set.set.name.as_str(),
                set.contenders[found.trained].name.as_str(),
                set.contenders[found.other].name.as_str(),
                found.training_cost,
                saving,
                low,
                high,
                answers,
                few,
                many,
                found.cached_saving[0] * 1000.0,
                found.requests[0].word(),
                found.requests[0].count(),
                found.requests[1].count(),
                found.requests[2].count(),
                found.requests[2].word(),
                found.quality.as_ref().map(|c| c.difference),
                found.quality.as_ref().map(|c| c.verdict.word()),
            ]);
        }
    }
    table
}

fn tokens(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[("set", Text), ("arm", Text), ("part", Text), ("tokens", Number)]);
    for set in &evaluation.sets {
        for contender in &set.contenders {
            for (part, tokens) in PARTS.iter().zip(budget(contender)) {
                table.push(row![set.set.name.as_str(), contender.name.as_str(), *part, tokens]);
            }
        }
    }
    table
}

fn learning_curve(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("curve", Text),
        ("metric", Text),
        ("rows", Count),
        ("seeds", Count),
        ("n", Count),
        ("value", Number),
        ("ci_low", Number),
        ("ci_high", Number),
        ("fitted", Number),
        ("ceiling", Number),
        ("scale", Number),
        ("exponent", Number),
    ]);
    for set in &evaluation.sets {
        let Some(metric) = set.primary() else { continue };
        for curve in curves(evaluation, set, metric) {
            for point in &curve.points {
                table.push(row![
                    set.set.name.as_str(),
                    curve.name.as_str(),
                    metric.name.as_str(),
                    point.rows,
                    point.seeds,
                    point.estimate.n,
                    point.estimate.mean,
                    point.estimate.low,
                    point.estimate.high,
                    curve.law.map(|law| law.at(point.rows as f64)),
                    curve.law.map(|law| law.ceiling),
                    curve.law.map(|law| law.scale),
                    curve.law.map(|law| law.exponent),
                ]);
            }
        }
    }
    table
}

fn retention_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("metric", Text),
        ("kept", Number),
        ("ci_low", Number),
        ("ci_high", Number),
    ]);
    for set in &evaluation.sets {
        let Some(metric) = set.primary() else { continue };
        for kept in retained(set) {
            table.push(row![
                set.set.name.as_str(),
                set.contenders[kept.contender].name.as_str(),
                metric.name.as_str(),
                kept.share,
                kept.ends[0],
                kept.ends[1],
            ]);
        }
    }
    table
}

fn agreement(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("metric", Text),
        ("both_right", Count),
        ("judge_only", Count),
        ("scorer_only", Count),
        ("both_wrong", Count),
        ("agreement", Number),
        ("ci_low", Number),
        ("ci_high", Number),
    ]);
    for set in &evaluation.sets {
        let Some(found) = Agreement::of(set, &evaluation.options) else { continue };
        for (at, contender) in set.contenders.iter().enumerate() {
            let [[both, judge], [scorer, neither]] = found.counts[at];
            let share = found.of_contender(at, &evaluation.options);
            table.push(row![
                set.set.name.as_str(),
                contender.name.as_str(),
                found.scorer.as_str(),
                both,
                judge,
                scorer,
                neither,
                share.as_ref().map(|e| e.mean),
                share.as_ref().map(|e| e.low),
                share.as_ref().map(|e| e.high),
            ]);
        }
    }
    table
}

/// There may be as many as trials, so that they are written as they come.
fn flips(evaluation: &Evaluation<'_>) -> Result<Vec<u8>, ReportError> {
    const AT_ONCE: usize = 20_000;
    let mut bytes = Vec::new();
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("sample", Text),
        ("metric", Text),
        ("direction", Text),
        ("baseline_value", Number),
        ("arm_value", Number),
        ("input", Text),
        ("reference", Text),
        ("baseline_answer", Text),
        ("arm_answer", Text),
        ("against", Text),
    ]);
    for set in &evaluation.sets {
        let Some(metric) = set.primary() else { continue };
        let others = diagnosis::other_pairs(set).into_iter().flat_map(|(arm, against)| {
            diagnosis::flips_between(set, metric, arm, against).into_iter().take(FLIPS_OF_PAIR)
        });
        for flip in diagnosis::flips(set, metric).into_iter().chain(others) {
            let answer =
                |record: &Record| cut(record.answer().map_or("", |a| a.text.as_str()), FLIP_TEXT);
            table.push(row![
                set.set.name.as_str(),
                set.contenders[flip.contender].name.as_str(),
                flip.trial.trial.sample.as_str(),
                metric.name.as_str(),
                if flip.is_lost { "lost" } else { "gained" },
                flip.other_value,
                flip.value,
                cut(&flip.trial.input, FLIP_TEXT),
                cut(flip.trial.references.first().map_or("", String::as_str), FLIP_TEXT),
                answer(flip.other),
                answer(flip.trial),
                set.contenders[flip.against].name.as_str(),
            ]);
            if table.len() == AT_ONCE {
                table.drain_to_csv(&mut bytes)?;
            }
        }
    }
    if bytes.is_empty() || !table.is_empty() {
        table.drain_to_csv(&mut bytes)?;
    }
    Ok(bytes)
}
