//! `choice`: which option of a multiple choice an answer takes.

use std::sync::LazyLock;

use bench_core::dataset::Sample;
use bench_core::record::Verdict;
use regex::Regex;

use super::classification::label;
use super::{judged, wrong};

pub(super) fn score(sample: &Sample, answer: &str) -> Verdict {
    let mut right = sample.accepted().filter_map(|text| named(text, &sample.choices)).peekable();
    if right.peek().is_none() {
        return Verdict::unscored("the reference is none of the choices");
    }
    match chosen(answer, &sample.choices) {
        Some(choice) => judged(right.any(|right| right == choice)),
        None => wrong("the answer names no choice, or several"),
    }
}

pub(super) fn problem(sample: &Sample) -> Option<String> {
    if sample.choices.len() < 2 || sample.choices.len() > 26 {
        return Some(format!("`choices` holds {}; give 2 to 26", sample.choices.len()));
    }
    named(&sample.reference, &sample.choices)
        .is_none()
        .then(|| format!("the reference `{}` is neither a choice nor its letter", sample.reference))
}

/// The choice an answer takes, counted from 0; `None` when it takes none or leaves it open.
///
/// In this order: the answer is a choice's text or letter; it says `answer`, `choice` or `option`
/// and a letter (the last such place); it begins with a letter; after its last `answer is`, or
/// else in all of it, it holds one choice's text and no other's; it holds a letter in brackets
/// (the last).
pub fn chosen(answer: &str, choices: &[String]) -> Option<usize> {
    // A and I are words as well, so they need a sign that they are meant as letters.
    static LETTER: &str = r"(?:([B-HJ-Z])\b|([AI])(?:[\])}.,:;*_]|\s*$))";
    static STATED: LazyLock<Regex> = LazyLock::new(|| {
        compiled(&format!(r"(?m)(?i:answer|choice|option)(?i:\s+is)?\s*[:=]?\s*[*_(\[{{]*{LETTER}"))
    });
    static LEADING: LazyLock<Regex> =
        LazyLock::new(|| compiled(&format!(r"(?m)\A[\s*_(\[]*{LETTER}")));
    static BRACKETED: LazyLock<Regex> =
        LazyLock::new(|| compiled(r"[(\[{]([B-HJ-Z])[)\]}]|[(\[{]([AI])[)\]}]"));
    let letter = |pattern: &Regex| {
        let found = pattern.captures_iter(answer).last()?;
        let letter = found.get(1).or(found.get(2))?.as_str();
        by_letter(letter, choices)
    };
    named(answer, choices)
        .or_else(|| letter(&STATED))
        .or_else(|| letter(&LEADING))
        .or_else(|| only_text(answer.rsplit_once("answer is")?.1, choices))
        .or_else(|| only_text(answer, choices))
        .or_else(|| letter(&BRACKETED))
}

/// The choice whose text or letter this is. Text goes first: a choice may be called `B`.
fn named(text: &str, choices: &[String]) -> Option<usize> {
    let text = label(text);
    choices.iter().position(|choice| label(choice) == text).or_else(|| by_letter(&text, choices))
}

fn by_letter(text: &str, choices: &[String]) -> Option<usize> {
    let [letter] = text.as_bytes() else { return None };
    let place = usize::from(letter.to_ascii_uppercase().checked_sub(b'A')?);
    (place < choices.len()).then_some(place)
}

/// The one choice that a text holds, choices that stand inside a longer held one aside.
fn only_text(text: &str, choices: &[String]) -> Option<usize> {
    let text = label(text);
    let texts: Vec<String> = choices.iter().map(|choice| bare(&label(choice))).collect();
    let held: Vec<usize> =
        (0..texts.len()).filter(|&choice| holds(&text, &texts[choice])).collect();
    let mut outer = held.iter().filter(|&&choice| {
        !held.iter().any(|&other| other != choice && holds(&texts[other], &texts[choice]))
    });
    let first = outer.next()?;
    outer.next().is_none().then_some(*first)
}

/// A choice without its article: `A spleen` may be answered with `the spleen`.
fn bare(choice: &str) -> String {
    let article = ["a ", "an ", "the "].into_iter().find_map(|word| choice.strip_prefix(word));
    article.unwrap_or(choice).to_owned()
}

/// Whether a part stands in a text between word boundaries. Punctuation counts: 4.2 is not 42.
fn holds(text: &str, part: &str) -> bool {
    let joins = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    !part.is_empty()
        && text.match_indices(part).any(|(start, _)| {
            !joins(text[..start].chars().next_back())
                && !joins(text[start + part.len()..].chars().next())
        })
}

fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is constant")
}
