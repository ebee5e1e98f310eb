//! `classification`: whether an answer is the right label.

use bench_core::dataset::Sample;
use bench_core::record::Verdict;

use super::judged;

pub(super) fn score(sample: &Sample, answer: &str) -> Verdict {
    let answer = label(answer);
    judged(sample.accepted().any(|accepted| label(accepted) == answer))
}

/// A text as a label: lower case, one space between words, without surrounding white space,
/// quotes, brackets, emphasis and full stops. The rows and columns of a confusion matrix.
pub fn label(text: &str) -> String {
    const AROUND: &[char] = &[
        '"', '\'', '`', '“', '”', '‘', '’', '.', ',', ':', ';', '!', '?', '(', ')', '[', ']', '{',
        '}', '<', '>', '*',
    ];
    let text = text.trim_matches(|c: char| c.is_whitespace() || AROUND.contains(&c));
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}
