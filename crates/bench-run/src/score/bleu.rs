//! `bleu`: how many word sequences of an answer stand in the reference.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bench_core::dataset::Sample;
use bench_core::record::Verdict;
use regex::Regex;

/// Longest word sequence counted.
const ORDER: usize = 4;

/// BLEU (Papineni et al. 2002) of one sentence as sacreBLEU computes it, divided by 100: the
/// tokenizer `13a`, exponential smoothing, the effective order for short answers, and all accepted
/// answers together as references (Post 2018).
pub(super) fn score(sample: &Sample, answer: &str) -> Verdict {
    let answer = tokens(answer);
    let references: Vec<Vec<String>> = sample.accepted().map(tokens).collect();
    if references.iter().all(Vec::is_empty) {
        return Verdict::unscored("the reference holds no word");
    }
    Verdict::scored(bleu(&answer, &references))
}

fn bleu(answer: &[String], references: &[Vec<String>]) -> f64 {
    let (mut logarithms, mut orders, mut smoothing) = (0.0, 0.0, 1.0);
    let mut any_shared = false;
    for order in 1..=ORDER.min(answer.len()) {
        let shared = clipped(answer, references, order);
        any_shared |= shared > 0;
        let total = (answer.len() + 1 - order) as f64;
        let precision = if shared == 0 {
            smoothing *= 2.0;
            1.0 / (smoothing * total)
        } else {
            shared as f64 / total
        };
        logarithms += precision.ln();
        orders += 1.0;
    }
    if !any_shared {
        return 0.0;
    }
    brevity(answer.len(), references) * (logarithms / orders).exp()
}

/// Sequences of the answer that a reference has too, each as often as the reference that has it
/// most.
fn clipped(answer: &[String], references: &[Vec<String>], order: usize) -> usize {
    let mut allowed: BTreeMap<&[String], usize> = BTreeMap::new();
    for reference in references {
        for (sequence, count) in counts(reference, order) {
            let most = allowed.entry(sequence).or_default();
            *most = count.max(*most);
        }
    }
    let shared = |(sequence, count): (&[String], usize)| {
        count.min(allowed.get(sequence).copied().unwrap_or_default())
    };
    counts(answer, order).into_iter().map(shared).sum()
}

fn counts(words: &[String], order: usize) -> BTreeMap<&[String], usize> {
    let mut counts = BTreeMap::new();
    for sequence in words.windows(order) {
        *counts.entry(sequence).or_default() += 1;
    }
    counts
}

/// The penalty of an answer that is shorter than the reference closest to it in length, the
/// shorter of two equally close ones.
fn brevity(length: usize, references: &[Vec<String>]) -> f64 {
    let lengths = references.iter().map(Vec::len);
    let closest = lengths.min_by_key(|&other| (other.abs_diff(length), other)).unwrap_or(length);
    if length < closest { (1.0 - closest as f64 / length as f64).exp() } else { 1.0 }
}

/// Words as the tokenizer `13a` of NIST's `mteval-v13a` splits them: symbols stand alone, full
/// stops and commas unless they are within a number, hyphens after a digit.
fn tokens(text: &str) -> Vec<String> {
    static RULES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        let rule = |pattern, split| (Regex::new(pattern).expect("the pattern is constant"), split);
        [
            rule(r"([\{-\~\[-\` -\&\(-\+\:-\@/])", " $1 "),
            rule(r"([^0-9])([.,])", "$1 $2 "),
            rule(r"([.,])([^0-9])", " $1 $2"),
            rule(r"([0-9])(-)", "$1 $2 "),
        ]
    });
    let mut text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (entity, symbol) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(entity, symbol);
    }
    let text = RULES.iter().fold(format!(" {text} "), |text, (pattern, split)| {
        pattern.replace_all(&text, *split).into_owned()
    });
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_tokens(text: &str, expect: &[&str]) {
        assert_eq!(tokens(text), expect, "{text}");
    }

    #[test]
    fn symbols_stand_alone_and_numbers_stay_whole() {
        check_tokens("Hello, world!", &["Hello", ",", "world", "!"]);
        check_tokens("It is 1,234.5 m.", &["It", "is", "1,234.5", "m", "."]);
        check_tokens("20-30", &["20", "-", "30"]);
        check_tokens("well-known", &["well-known"]);
        check_tokens("a &amp; b", &["a", "&", "b"]);
    }

    #[test]
    fn an_answer_without_a_shared_word_or_without_any_is_worth_nothing() {
        let reference = vec![tokens("the cat sat")];
        assert!(bleu(&tokens("dogs bark"), &reference).abs() < 1e-12);
        assert!(bleu(&[], &reference).abs() < 1e-12);
    }

    #[test]
    fn the_closest_reference_in_length_sets_the_penalty() {
        let lengths = [vec![String::new(); 3], vec![String::new(); 5]];
        assert!((brevity(4, &lengths) - 1.0).abs() < 1e-12);
        assert!((brevity(2, &lengths) - (1.0_f64 - 1.5).exp()).abs() < 1e-12);
    }
}
