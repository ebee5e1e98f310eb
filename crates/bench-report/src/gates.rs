//! Conditions on the result, and the JUnit file that continuous integration reads.

use std::fmt::Write as _;

use bench_core::spec::{Bound, Gate};
use bench_stats::{Clusters, estimate, quantile_interval, wilson};

use crate::agreement::Agreement;
use crate::evaluation::{Contender, Evaluation, SetResult};
use crate::text::{number, signed, xml};
use crate::{judging, retention};

/// One condition on one eval set (and one training seed).
pub(crate) struct GateResult {
    /// What is demanded.
    pub(crate) name: String,
    /// Why it is not met.
    pub(crate) failure: Option<String>,
}

/// Every gate on every set it speaks of. A gate that nothing could be measured for has failed.
pub(crate) fn check(evaluation: &Evaluation<'_>) -> Vec<GateResult> {
    let gates = &evaluation.manifest.experiment.gates;
    gates.iter().flat_map(|gate| one(evaluation, gate)).collect()
}

/// Ends of an interval; one that cannot be vouched for is absent.
type Ends = [Option<f64>; 2];

fn one(evaluation: &Evaluation<'_>, gate: &Gate) -> Vec<GateResult> {
    let wanted = |set: &&SetResult<'_>| gate.set.as_ref().is_none_or(|name| set.set.name == *name);
    let conditions: Vec<(usize, &str, &str)> = [&gate.ci_lower, &gate.ci_upper]
        .into_iter()
        .zip(["lower", "upper"])
        .enumerate()
        .filter_map(|(end, (text, word))| Some((end, text.as_deref()?, word)))
        .collect();
    let mut results = Vec::new();
    for set in evaluation.sets.iter().filter(wanted) {
        let arms = set.contenders.iter().enumerate();
        for (at, contender) in arms.filter(|(_, c)| evaluation.plans[c.arm].name == gate.arm) {
            let Some(ends) = measured(evaluation, gate, set, at, contender) else { continue };
            let subject = gate.vs.as_ref().map_or(String::new(), |vs| format!(" over {vs}"));
            for &(end, text, word) in &conditions {
                let name = format!(
                    "{}: {} of {}{subject}, {word} bound {text}",
                    set.set.name, gate.metric, contender.name
                );
                let failure = match (ends[end], Bound::parse(text)) {
                    (None, _) => Some(lacking(evaluation, gate, contender)),
                    (_, None) => Some(format!("`{text}` is no condition")),
                    (Some(figure), Some(bound)) => (!bound.is_met(figure)).then(|| {
                        let figure = if Gate::FIGURES.contains(&gate.metric.as_str()) {
                            number(figure)
                        } else {
                            signed(figure)
                        };
                        format!("the {word} bound is {figure}")
                    }),
                };
                results.push(GateResult { name, failure });
            }
        }
    }
    if results.is_empty() {
        let texts: Vec<String> =
            conditions.iter().map(|(_, text, word)| format!("{word} bound {text}")).collect();
        let name = format!("{} of {}, {}", gate.metric, gate.arm, texts.join(", "));
        let failure = "the run has no such arm, metric and set together".to_owned();
        results.push(GateResult { name, failure: Some(failure) });
    }
    results
}

/// Why there is no figure to hold a gate against.
fn lacking(evaluation: &Evaluation<'_>, gate: &Gate, contender: &Contender<'_>) -> String {
    let plan = &evaluation.plans[contender.arm];
    let prices = &evaluation.manifest.experiment.prices;
    let is_cost = ["cost_per_1000_usd", "training_cost_usd"].contains(&gate.metric.as_str());
    let is_tokens = ["tokens_in", "tokens_out"].contains(&gate.metric.as_str());
    if is_cost && prices.of(&plan.model, plan.finetune.is_some()).is_none() {
        return format!(
            "the experiment has no price for the model `{}`; write it under `prices: {{ models: {{ {}: … }} }}` of the experiment, or give a list with `bench report --prices`",
            plan.model, plan.model
        );
    }
    if gate.metric == "training_cost_usd" {
        return format!(
            "{} was not trained, or the price of the model `{}` has neither `gpu_hour` nor `machine_hour`",
            contender.name, plan.model
        );
    }
    if (is_cost || is_tokens) && contender.usage.uncounted > 0 {
        return format!(
            "the endpoint counted no tokens for {} of {} answers, so the figure is unknown",
            contender.usage.uncounted, contender.usage.answered
        );
    }
    "there is no such figure: too few answers or scores".to_owned()
}

/// The interval that a gate speaks of; `None` where the set has no such metric at all.
fn measured(
    evaluation: &Evaluation<'_>,
    gate: &Gate,
    set: &SetResult<'_>,
    at: usize,
    contender: &Contender<'_>,
) -> Option<Ends> {
    let options = &evaluation.options;
    let usage = &contender.usage;
    let mean_of = |figure: &dyn Fn(&bench_core::record::Answer) -> Option<f64>| -> Ends {
        let answers = contender.trials.iter().filter_map(|record| record.answer());
        let values: Vec<f64> = answers.filter_map(figure).collect();
        match estimate(&values, &Clusters::none(), options) {
            Some(estimate) => [Some(estimate.low), Some(estimate.high)],
            None => [None; 2],
        }
    };
    Some(match gate.metric.as_str() {
        "latency_p50_ms" => quantile_interval(&usage.latencies, 0.5, options.level),
        "latency_p95_ms" => quantile_interval(&usage.latencies, 0.95, options.level),
        "cost_per_1000_usd" if usage.cost.is_none() => [None; 2],
        "cost_per_1000_usd" => {
            mean_of(&|answer| answer.cost_usd).map(|end| end.map(|cost| cost * 1000.0))
        }
        "tokens_in" | "tokens_out" if usage.uncounted > 0 => [None; 2],
        "tokens_in" => mean_of(&|answer| Some(f64::from(answer.tokens_in))),
        "tokens_out" => mean_of(&|answer| Some(f64::from(answer.tokens_out))),
        "failed" => {
            let share = wilson(usage.failed, usage.trials, options.level);
            [share.as_ref().map(|e| e.low), share.as_ref().map(|e| e.high)]
        }
        "training_cost_usd" => [contender.training_cost; 2],
        "retention" => {
            if !set.set.retention {
                return None;
            }
            let kept = retention::retained(set).into_iter().find(|kept| kept.contender == at);
            kept.map_or([None; 2], |kept| kept.ends.map(Some))
        }
        "judge_agreement" => {
            let agreement = Agreement::of(set, options)?;
            let share = agreement.of_contender(at, options);
            [share.as_ref().map(|e| e.low), share.as_ref().map(|e| e.high)]
        }
        name => {
            let metric = set.metrics.iter().find(|metric| {
                metric.name.strip_suffix(judging::SELF).unwrap_or(&metric.name) == name
            })?;
            let Some(vs) = &gate.vs else {
                let estimate = metric.estimates[at].as_ref();
                return Some([estimate.map(|e| e.low), estimate.map(|e| e.high)]);
            };
            // Of several seeds of the other arm, the one that is hardest to beat counts.
            let is_other = |i: usize| evaluation.plans[set.contenders[i].arm].name == *vs;
            let ends: Vec<[f64; 2]> = metric
                .pairs
                .iter()
                .filter_map(|(a, b, comparison)| {
                    let c = comparison.as_ref()?;
                    match (*a == at && is_other(*b), *b == at && is_other(*a)) {
                        (true, _) => Some([c.low, c.high]),
                        (_, true) => Some([-c.high, -c.low]),
                        _ => None,
                    }
                })
                .collect();
            let hardest = ends.into_iter().min_by(|a, b| a[0].total_cmp(&b[0]));
            hardest.map_or([None; 2], |ends| ends.map(Some))
        }
    })
}

/// The gates as JUnit XML.
pub(crate) fn junit(suite: &str, gates: &[GateResult]) -> String {
    let failures = gates.iter().filter(|gate| gate.failure.is_some()).count();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\">\n",
        xml(suite),
        gates.len(),
    );
    for gate in gates {
        let name = xml(&gate.name);
        let _ = match &gate.failure {
            None => writeln!(out, "    <testcase classname=\"gates\" name=\"{name}\"/>"),
            Some(why) => writeln!(
                out,
                "    <testcase classname=\"gates\" name=\"{name}\"><failure message=\"{}\"/></testcase>",
                xml(why)
            ),
        };
    }
    out.push_str("  </testsuite>\n</testsuites>\n");
    out
}
