//! What arms do where they cannot know: how often they answer, how often they are wrong when they
//! do, and how often they decline where there is no answer.

use bench_core::record::{Record, Verdict};
use bench_stats::{Estimate, Options};

use crate::evaluation::{RIGHT, SetResult};

/// The scorer that says whether an answer declines.
const SCORER: &str = "abstained";

/// Scorers that do not say whether an answer is right.
const OTHER: [&str; 5] =
    [SCORER, "citation", "citation_precision", "citation_recall", "resisted_injection"];

/// How one contender declines.
pub(crate) struct Declining {
    /// Position among the contenders.
    pub(crate) contender: usize,
    /// Share of the answerable samples that it answers.
    pub(crate) coverage: Option<Estimate>,
    /// Share of wrong answers among the answerable samples that it answers, by [`quality`].
    pub(crate) risk: Option<Estimate>,
    /// Share of the unanswerable samples that it declines.
    pub(crate) declined: Option<Estimate>,
    /// Answers of which the scorer could not tell.
    pub(crate) unscored: usize,
}

/// The scorer that says which answers are wrong: the set's first that looks at their content.
pub(crate) fn quality<'s>(set: &'s SetResult<'_>) -> Option<&'s str> {
    let mut names = set.metrics.iter().map(|metric| metric.name.as_str());
    names.find(|name| !OTHER.contains(name))
}

/// Per contender; empty where the set is not scored by declining.
pub(crate) fn declining(set: &SetResult<'_>, options: &Options) -> Vec<Declining> {
    let Some(metric) = set.metrics.iter().find(|metric| metric.name == SCORER) else {
        return Vec::new();
    };
    // A judge of an arm's own model has a longer name in tables than in records.
    let quality = quality(set).map(|name| name.trim_end_matches(crate::judging::SELF));
    let wrong = |record: &Record| {
        let value = quality.and_then(|name| record.verdicts.get(name)).and_then(Verdict::value);
        value.filter(|value| value.is_finite()).map(|value| f64::from(u8::from(value < RIGHT)))
    };
    let mut all = Vec::new();
    for (contender, unscored) in metric.unscored.iter().enumerate() {
        let mean = |of: &dyn Fn(&Record, bool) -> Option<f64>| {
            let value = |record: &Record| of(record, scored(record)? >= RIGHT);
            set.estimate_trials(contender, value, options)
        };
        let share = |yes: bool| Some(f64::from(u8::from(yes)));
        all.push(Declining {
            contender,
            coverage: mean(&|record, as_it_should| {
                if record.unanswerable { None } else { share(as_it_should) }
            }),
            risk: mean(&|record, as_it_should| {
                if record.unanswerable || !as_it_should { None } else { wrong(record) }
            }),
            declined: mean(&|record, as_it_should| {
                if record.unanswerable { share(as_it_should) } else { None }
            }),
            unscored: *unscored,
        });
    }
    if all.iter().all(|arm| arm.coverage.is_none() && arm.declined.is_none()) {
        all.clear();
    }
    all
}

/// 1 where the answer declines exactly when the sample is unanswerable.
fn scored(record: &Record) -> Option<f64> {
    record.answer()?;
    record.verdicts.get(SCORER)?.value().filter(|value| value.is_finite())
}
