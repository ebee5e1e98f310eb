//! `exact_match`, `contains` and `token_f1`, as the `SQuAD` evaluation script (Rajpurkar et al.
//! 2016, 2018) normalises and counts.

use std::sync::LazyLock;

use bench_core::dataset::Sample;
use bench_core::record::Verdict;
use regex::Regex;

use super::{abstention, best, judged, overlap};

pub(super) fn exact_match(sample: &Sample, answer: &str) -> Verdict {
    let answer = normalized(answer);
    let declines = !sample.answerable() && abstention::is_phrase(&answer);
    judged(declines || sample.accepted().any(|accepted| normalized(accepted) == answer))
}

pub(super) fn raw_match(sample: &Sample, answer: &str) -> Verdict {
    judged(sample.accepted().any(|accepted| accepted.trim() == answer.trim()))
}

pub(super) fn contains(sample: &Sample, answer: &str) -> Verdict {
    if !sample.answerable() {
        return judged(abstention::declines(answer, sample.accepted()));
    }
    let answer = normalized(answer);
    judged(sample.accepted().any(|accepted| holds(&answer, &normalized(accepted))))
}

pub(super) fn token_f1(sample: &Sample, answer: &str) -> Verdict {
    if !sample.answerable() {
        return judged(abstention::declines(answer, sample.accepted()));
    }
    let answer = normalized(answer);
    best(sample, |accepted| overlap::f1(answer.split(' '), normalized(accepted).split(' ')))
}

/// Lower case, without ASCII punctuation and English articles, one space between words. A text of
/// which nothing would be left keeps what it has: otherwise the references `A` and `The` would be
/// equal, to each other and to silence.
pub(super) fn normalized(text: &str) -> String {
    static ARTICLES: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b(a|an|the)\b").expect("the pattern is constant"));
    let lower = text.to_lowercase();
    let plain: String = lower.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let bare = words(&ARTICLES.replace_all(&plain, " "));
    if bare.is_empty() { words(&lower) } else { bare }
}

/// Whether a normalised text holds another on word boundaries.
pub(super) fn holds(text: &str, part: &str) -> bool {
    !part.is_empty() && format!(" {text} ").contains(&format!(" {part} "))
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
