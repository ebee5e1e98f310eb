//! What of an answer is right, for scorers that tell its parts apart: a form's function, names and
//! values; whether JSON is valid, and its fields.

use std::collections::BTreeSet;

use bench_core::record::{Record, Verdict};
use bench_stats::{Estimate, Options};

use crate::evaluation::SetResult;

/// Parts in the order in which they are read; others come after them.
const ORDER: [&str; 6] =
    ["function_name", "attribute_names", "attribute_values", "valid", "field_f1", "whole_match"];

/// One part of a scorer's figure and its mean per contender.
pub(crate) struct PartResult {
    /// The scorer.
    pub(crate) metric: String,
    /// The part's name in records and tables.
    pub(crate) part: String,
    /// Per contender: the mean over the samples that have the part; `None` where none has.
    pub(crate) estimates: Vec<Option<Estimate>>,
}

impl PartResult {
    /// The field that the part is about, if it is one.
    pub(crate) fn field(&self) -> Option<&str> {
        self.part.strip_prefix("field_f1/")
    }

    /// The part in words.
    pub(crate) fn words(&self) -> String {
        match (self.field(), self.part.as_str()) {
            (Some(field), _) => format!("field {field}"),
            (None, "field_f1") => "F1 over fields".into(),
            (None, part) => part.replace('_', " "),
        }
    }

    /// The lowest mean of any contender.
    pub(crate) fn lowest(&self) -> Option<f64> {
        self.estimates.iter().flatten().map(|estimate| estimate.mean).min_by(f64::total_cmp)
    }
}

/// By scorer, in the order of the set, then by part; empty where no scorer tells parts apart.
pub(crate) fn parts<'s>(set: &'s SetResult<'_>, options: &Options) -> &'s [PartResult] {
    set.once.parts.get_or_init(|| measured(set, options))
}

fn measured(set: &SetResult<'_>, options: &Options) -> Vec<PartResult> {
    let mut results = Vec::new();
    for metric in &set.metrics {
        let records = set.contenders.iter().flat_map(|contender| &contender.trials);
        let names: BTreeSet<String> = records
            .filter_map(|record| record.verdicts.get(&metric.name))
            .flat_map(|verdict| verdict.parts().keys().cloned())
            .collect();
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort_by_key(|name| {
            ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len())
        });
        for part in names {
            let value = |record: &Record| {
                record.answer()?;
                let parts = record.verdicts.get(&metric.name).map(Verdict::parts)?;
                parts.get(&part).copied().filter(|value| value.is_finite())
            };
            let estimates = (0..set.contenders.len())
                .map(|at| set.estimate_trials(at, value, options))
                .collect();
            results.push(PartResult { metric: metric.name.clone(), part, estimates });
        }
    }
    results
}
