//! Conditions on the result, and the JUnit file that continuous integration reads.

use std::fmt::Write as _;

use bench_core::spec::Gate;

use crate::evaluation::{Evaluation, SetResult};
use crate::judging;
use crate::text::{signed, xml};

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

fn one(evaluation: &Evaluation<'_>, gate: &Gate) -> Vec<GateResult> {
    let wanted = |set: &&SetResult<'_>| gate.set.as_ref().is_none_or(|name| set.set.name == *name);
    let mut results = Vec::new();
    for set in evaluation.sets.iter().filter(wanted) {
        let arms = set.contenders.iter().enumerate();
        for (at, contender) in arms.filter(|(_, c)| evaluation.plans[c.arm].name == gate.arm) {
            let Some(metric) = set.metrics.iter().find(|metric| {
                metric.name.strip_suffix(judging::SELF).unwrap_or(&metric.name) == gate.metric
            }) else {
                continue;
            };
            let (subject, low) = match &gate.vs {
                None => (String::new(), metric.estimates[at].as_ref().map(|estimate| estimate.low)),
                Some(vs) => {
                    // Of several seeds of the other arm, the one that is hardest to beat counts.
                    let lows = metric.pairs.iter().filter_map(|(a, b, comparison)| {
                        let is_other =
                            |i: usize| evaluation.plans[set.contenders[i].arm].name == *vs;
                        match (*a == at && is_other(*b), *b == at && is_other(*a)) {
                            (true, _) => comparison.as_ref().map(|c| c.low),
                            (_, true) => comparison.as_ref().map(|c| -c.high),
                            _ => None,
                        }
                    });
                    (format!(" over {vs}"), lows.min_by(f64::total_cmp))
                }
            };
            let name = format!(
                "{}: {} of {}{subject}, lower bound {}",
                set.set.name, gate.metric, contender.name, gate.ci_lower
            );
            let failure = match (low, gate.bound()) {
                (None, _) => Some("there is no such figure: too few scored samples".to_owned()),
                (_, None) => Some(format!("`{}` is no condition", gate.ci_lower)),
                (Some(low), Some((bound, inclusive))) => {
                    let met = if inclusive { low >= bound } else { low > bound };
                    (!met).then(|| format!("the lower bound is {}", signed(low)))
                }
            };
            results.push(GateResult { name, failure });
        }
    }
    if results.is_empty() {
        let name = format!("{} of {}, lower bound {}", gate.metric, gate.arm, gate.ci_lower);
        let failure = "the run has no such arm, metric and set together".to_owned();
        results.push(GateResult { name, failure: Some(failure) });
    }
    results
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
