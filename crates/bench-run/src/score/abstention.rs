//! Whether an answer declines to answer, and `abstained`.

use std::sync::LazyLock;

use bench_core::dataset::Sample;
use bench_core::record::Verdict;
use regex::Regex;

use super::judged;
use super::squad::{holds, normalized};

/// Answers that decline by themselves, as `SQuAD` normalisation leaves them.
pub const PHRASES: [&str; 24] = [
    "cannot answer",
    "cannot be answered",
    "cannot be determined",
    "cannot be found",
    "do not know",
    "dont know",
    "i do not know",
    "i dont know",
    "insufficient information",
    "na",
    "no answer",
    "no information",
    "not answerable",
    "not available",
    "not enough information",
    "not found",
    "not given",
    "not known",
    "not mentioned",
    "not provided",
    "not specified",
    "not stated",
    "unanswerable",
    "unknown",
];

/// Declining words within a sentence, after `SQuAD` normalisation.
const WITHIN: [&str; 9] = [
    r"not (?:\w+ly )?(?:stated|mentioned|specified|disclosed)",
    r"not (?:\w+ly )?(?:addressed|answered|available|contained|covered|described|found|given|included|indicated|known|listed|present|provided) (?:by|from|in|within) (?:\w+ ){0,2}(?:context|corpus|documentation|documents?|excerpts?|information|passages?|sources?|texts?)",
    r"(?:article|context|corpus|documentation|documents?|excerpts?|information|manual|passages?|sources?|texts?) (?:above |given |provided )?(?:did|does|do) ?(?:not|nt) (?:\w+ly )?(?:address|answer|contain|cover|describe|disclose|give|have|include|indicate|list|mention|provide|say|specify|state|tell)",
    r"(?:did|does|do) ?(?:not|nt) (?:\w+ly )?(?:mention|specify|state)",
    r"(?:no|not enough|insufficient) (?:\w+ )?(?:information|mention)",
    r"(?:i|we) do ?(?:not|nt) (?:know|have (?:\w+ ){0,2}(?:access|answer|data|information|knowledge))",
    r"(?:is|are|was|were|remains?) (?:currently |still )?(?:not known|unclear|unknown)",
    r"(?:can ?not|cant|could not|couldnt|impossible to|not able to|not possible to|unable to) (?:(?:be )?(?:answer|answered|confirm|confirmed|determine|determined|found|infer|inferred|verify)|find (?:any|answer|information|it|that|this|what)|say|tell (?:from|how|if|what|when|where|whether|which|who))",
    r"no answer",
];

pub(super) fn score(sample: &Sample, answer: &str, phrases: &[String]) -> Verdict {
    let own = phrases.iter().map(String::as_str);
    if !sample.answerable() {
        return judged(declines(answer, own.chain(sample.accepted())));
    }
    // `unknown` may be the right answer.
    let said = normalized(answer);
    let right = sample.accepted().any(|accepted| normalized(accepted) == said);
    judged(right || !declines(answer, own))
}

/// The phrases by which an eval set says that there is no answer: the distinct references of its
/// unanswerable samples.
pub fn phrases(samples: &[Sample]) -> Vec<String> {
    let mut phrases: Vec<String> = samples
        .iter()
        .filter(|sample| !sample.answerable())
        .flat_map(Sample::accepted)
        .map(str::to_owned)
        .collect();
    phrases.sort();
    phrases.dedup();
    phrases
}

/// Whether an answer declines: it is blank, it is one of [`PHRASES`], or its first sentence
/// (apologies aside) holds a declining wording or one of the `own` phrases. Later sentences do not
/// count: an answer may add what it does not know.
pub fn declines<'a>(answer: &str, mut own: impl Iterator<Item = &'a str>) -> bool {
    static DECLINING: LazyLock<Regex> = LazyLock::new(|| {
        let pattern = format!(r"\b(?:{})\b", WITHIN.join("|"));
        Regex::new(&pattern).expect("the pattern is constant")
    });
    static SENTENCE_END: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[.!?]\s+|\n+").expect("the pattern is constant"));
    let answer = answer.replace('’', "'");
    if answer.trim().is_empty() || is_phrase(&normalized(&answer)) {
        return true;
    }
    let opening = SENTENCE_END
        .split(&answer)
        .map(normalized)
        .find(|sentence| !sentence.is_empty() && !apologises(sentence));
    opening.is_some_and(|opening| {
        is_phrase(&opening)
            || DECLINING.is_match(&opening)
            || own.any(|phrase| holds(&opening, &normalized(phrase)))
    })
}

/// Whether a normalised text is one of [`PHRASES`].
pub(super) fn is_phrase(normalized: &str) -> bool {
    PHRASES.contains(&normalized)
}

fn apologises(sentence: &str) -> bool {
    matches!(sentence, "sorry" | "im sorry" | "i am sorry" | "i apologize" | "i apologise")
}
