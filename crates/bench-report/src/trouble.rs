//! What failed while asking and judging, and why.

use std::collections::BTreeMap;

use bench_core::judging::NO_PASSAGES;
use bench_core::record::{Outcome, Preference, Record, Verdict};

use crate::evaluation::JUDGE;
use crate::text::{cut, line};

/// Reasons that are told; the others are counted.
const REASONS: usize = 3;
/// Characters of a reason.
const REASON: usize = 240;

/// What failed in a run: a sentence on trials and one on judgements, each with the most frequent
/// reasons and the way to ask again; empty when nothing failed.
pub fn failures(records: &[Record]) -> Vec<String> {
    let records: Vec<&Record> = records.iter().collect();
    [trials(&records), judgements(&records)].into_iter().flatten().collect()
}

/// The trials without an answer.
pub(crate) fn trials(records: &[&Record]) -> Option<String> {
    let reasons = records.iter().filter_map(|record| match &record.outcome {
        Outcome::Failed { error } => Some(error.as_str()),
        Outcome::Answered(_) => None,
    });
    let reasons: Vec<&str> = reasons.collect();
    (!reasons.is_empty()).then(|| {
        format!(
            "{} of {} trials failed: {}; `bench run --retry-failed` asks them again",
            reasons.len(),
            records.len(),
            told(&reasons)
        )
    })
}

/// The judgements that came to no score: a jury's members each count, a pairwise judge's pairs.
pub(crate) fn judgements(records: &[&Record]) -> Option<String> {
    let is_pairwise = records.iter().any(|record| !record.preferences.is_empty());
    let mut judgements: Vec<Option<&str>> = Vec::new();
    for record in records {
        if is_pairwise {
            judgements.extend(record.preferences.iter().map(|pair| match &pair.preference {
                Preference::Unscored { reason } => Some(reason.as_str()),
                Preference::First | Preference::Second | Preference::Tie { .. } => None,
            }));
            continue;
        }
        // A jury's members each count, else its verdict, by every rubric.
        let has_jurors = |column: &str| {
            let of = |name: &String| name.strip_prefix(column).is_some_and(|x| x.starts_with('/'));
            record.verdicts.keys().any(of)
        };
        let is_said = |name: &str| match name.strip_prefix(JUDGE) {
            Some(rest) if rest.is_empty() || rest.starts_with(['/', ':']) => {
                name.contains('/') || !name.contains('#') && !has_jurors(name)
            }
            _ => false,
        };
        let said = record.verdicts.iter().filter(|(name, _)| is_said(name));
        judgements.extend(said.filter_map(|(_, verdict)| match verdict {
            Verdict::Unscored { reason } if reason == NO_PASSAGES => None,
            Verdict::Unscored { reason } => Some(Some(reason.as_str())),
            Verdict::Scored { .. } => Some(None),
        }));
    }
    let reasons: Vec<&str> = judgements.iter().copied().flatten().collect();
    (!reasons.is_empty()).then(|| {
        format!(
            "{} of {} judgements failed: {}; `bench run --retry-failed` asks for them again",
            reasons.len(),
            judgements.len(),
            told(&reasons)
        )
    })
}

/// The most frequent reasons with their counts.
fn told(reasons: &[&str]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(cut(&line(reason), REASON)).or_default() += 1;
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let others: usize = counts.iter().skip(REASONS).map(|&(_, count)| count).sum();
    let mut told: Vec<String> = counts
        .iter()
        .take(REASONS)
        .map(|(reason, count)| format!("{count} × “{reason}”"))
        .collect();
    if others > 0 {
        told.push(format!("{others} × other reasons"));
    }
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_reasons_come_first_and_the_rest_is_counted() {
        assert_eq!(told(&["b", "a\n c", "b"]), "2 × “b”, 1 × “a c”");
        assert_eq!(
            told(&["a", "b", "c", "d", "d", "e"]),
            "2 × “d”, 1 × “a”, 1 × “b”, 2 × other reasons"
        );
    }
}
