//! `classification`: whether an answer is the right label.

use bench_core::dataset::Sample;
use bench_core::record::Verdict;
pub use bench_core::text::label;

use super::judged;

pub(super) fn score(sample: &Sample, answer: &str) -> Verdict {
    let answer = label(answer);
    judged(sample.accepted().any(|accepted| label(accepted) == answer))
}
