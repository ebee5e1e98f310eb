//! From what a model said to the answer that is scored: the final answer of a longer text, and the
//! answer that most samples agree on.

use std::collections::BTreeMap;

use bench_core::record::{Answer, CallKind, CallRecord, Outcome};
use regex::Regex;

use crate::score::normal_form;

/// Makes one outcome of the outcomes of a trial's calls. `final_answer` finds what is scored in
/// each; without it, all of the text is.
///
/// Of several answers the one wins whose normal form (as `exact_match` compares) is the most
/// frequent; of equally frequent ones the one that was said first, and its first wording. Empty
/// answers and failed calls do not vote. Tokens and milliseconds are those of all calls together.
pub(crate) fn assemble(
    final_answer: Option<&Regex>,
    outcomes: &[&Outcome],
) -> (Outcome, Vec<CallRecord>) {
    if let [one] = outcomes {
        let mut outcome = (*one).clone();
        if let (Outcome::Answered(answer), Some(pattern)) = (&mut outcome, final_answer) {
            extract(answer, pattern);
        }
        return (outcome, Vec::new());
    }
    let calls = outcomes.iter().map(|outcome| call_record(CallKind::Sample, outcome)).collect();
    let answers: Vec<Answer> = outcomes
        .iter()
        .filter_map(|outcome| match outcome {
            Outcome::Answered(answer) => Some(answer.clone()),
            Outcome::Failed { .. } => None,
        })
        .map(|mut answer| {
            if let Some(pattern) = final_answer {
                extract(&mut answer, pattern);
            }
            answer
        })
        .collect();
    let Some(winner) = vote(&answers) else {
        let outcome = match outcomes.first() {
            Some(failed) => (*failed).clone(),
            None => Outcome::Failed { error: "nothing was asked".into() },
        };
        return (outcome, calls);
    };
    let winner = &answers[winner];
    let answer = Answer {
        tokens_in: answers.iter().map(|answer| answer.tokens_in).sum(),
        tokens_out: answers.iter().map(|answer| answer.tokens_out).sum(),
        latency_ms: answers.iter().map(|answer| answer.latency_ms).sum(),
        first_token_ms: None,
        retrieval_ms: answers[0].retrieval_ms,
        ..winner.clone()
    };
    (Outcome::Answered(answer), calls)
}

/// Makes one outcome of several answers: the one of the highest reward, the first of equals. `rewards` are
/// what became of asking for each answer's; failed answers have none. Tokens and milliseconds are those
/// of all calls together, the rewards' included.
pub(crate) fn assemble_best(
    final_answer: Option<&Regex>,
    outcomes: &[&Outcome],
    rewards: &[Option<&Outcome>],
) -> (Outcome, Vec<CallRecord>) {
    let mut calls: Vec<CallRecord> =
        outcomes.iter().map(|outcome| call_record(CallKind::Sample, outcome)).collect();
    calls.extend(rewards.iter().flatten().map(|outcome| call_record(CallKind::Reward, outcome)));
    let reward = |outcome: &Outcome| match outcome {
        Outcome::Answered(answer) => {
            answer.text.parse::<f64>().ok().filter(|value| value.is_finite())
        }
        Outcome::Failed { .. } => None,
    };
    let mut best: Option<(f64, &Answer)> = None;
    for (outcome, rewarded) in outcomes.iter().zip(rewards) {
        if let (Outcome::Answered(answer), Some(value)) = (outcome, rewarded.and_then(reward))
            && best.is_none_or(|(most, _)| value > most)
        {
            best = Some((value, answer));
        }
    }
    let Some((_, best)) = best else {
        let failed = outcomes.iter().find(|one| matches!(one, Outcome::Failed { .. }));
        let without = || Outcome::Failed { error: "no answer got a reward".into() };
        return (failed.map_or_else(without, |failed| (*failed).clone()), calls);
    };
    let mut answer = best.clone();
    if let Some(pattern) = final_answer {
        extract(&mut answer, pattern);
    }
    answer.tokens_in = calls.iter().map(|call| call.tokens_in).sum();
    answer.tokens_out = calls.iter().map(|call| call.tokens_out).sum();
    answer.latency_ms = calls.iter().map(|call| call.latency_ms).sum();
    answer.first_token_ms = None;
    (Outcome::Answered(answer), calls)
}

/// A call as a record keeps it.
pub(crate) fn call_record(kind: CallKind, outcome: &Outcome) -> CallRecord {
    let (text, answer) = match outcome {
        Outcome::Answered(answer) => (&answer.text, Some(answer)),
        Outcome::Failed { error } => (error, None),
    };
    CallRecord {
        kind,
        prompt: Vec::new(),
        text: text.clone(),
        tokens_in: answer.map_or(0, |answer| answer.tokens_in),
        tokens_out: answer.map_or(0, |answer| answer.tokens_out),
        latency_ms: answer.map_or(0.0, |answer| answer.latency_ms),
        failed: answer.is_none(),
    }
}

/// Keeps the final answer as the text: the last match's first group, or the whole match of a
/// pattern without groups. Without any match it is the last line that says something, so that a
/// model that forgot the form is not wrong for that alone, and reasoning that names the right
/// answer on its way is not taken for it.
fn extract(answer: &mut Answer, pattern: &Regex) {
    let found = last_match(&answer.text, pattern);
    let found = found.or_else(|| answer.text.lines().rfind(|line| !line.trim().is_empty()));
    let found = bare(found.unwrap_or_default()).to_owned();
    answer.full_text = Some(std::mem::replace(&mut answer.text, found));
}

fn last_match<'t>(text: &'t str, pattern: &Regex) -> Option<&'t str> {
    let found = pattern.captures_iter(text).last()?;
    found.get(1).or_else(|| found.get(0)).map(|found| found.as_str())
}

fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '*')
}

/// What an arm learns to say where it learns to reason: the reasoning, then the reference where
/// `final_answer` finds it. A reasoning that ends in it is left as it is. `None` where the arm that
/// says this would be scored for something else than the reference.
pub(crate) fn reasoned(reasoning: &str, reference: &str, final_answer: &Regex) -> Option<String> {
    let (reasoning, reference) = (reasoning.trim(), reference.trim());
    let ends = |text: &str| last_match(text, final_answer).map(bare) == Some(bare(reference));
    if ends(reasoning) {
        return Some(reasoning.to_owned());
    }
    let text = format!("{reasoning}\nAnswer: {reference}");
    ends(&text).then_some(text)
}

/// The position of the winner; `None` without answers.
fn vote(answers: &[Answer]) -> Option<usize> {
    let forms: Vec<String> = answers.iter().map(|answer| normal_form(&answer.text)).collect();
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    for form in forms.iter().filter(|form| !form.is_empty()) {
        *votes.entry(form).or_default() += 1;
    }
    let votes_of = |at: usize| votes.get(forms[at].as_str()).copied().unwrap_or(0);
    (0..answers.len()).max_by_key(|&at| (votes_of(at), std::cmp::Reverse(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_is_learnt_with_an_end_that_is_found_again() {
        let usual = Regex::new(bench_core::spec::Prompt::FINAL_ANSWER).unwrap();
        let learnt = |reasoning, reference| reasoned(reasoning, reference, &usual);
        assert_eq!(learnt("1 and 1 is 2. ", "2").as_deref(), Some("1 and 1 is 2.\nAnswer: 2"));
        let ends = "So it is.\nThe answer is **2**";
        assert_eq!(learnt(ends, "2").as_deref(), Some(ends), "it ends in the answer already");
        // Of a reference of two lines only the first would be scored.
        assert_eq!(learnt("So.", "one\ntwo"), None);
        let own = Regex::new("#### (.+)").unwrap();
        assert_eq!(reasoned("So.\n#### 72", "72", &own).as_deref(), Some("So.\n#### 72"));
        assert_eq!(reasoned("So.", "72", &own), None);
    }

    fn said(text: &str) -> Outcome {
        Outcome::Answered(Answer {
            text: text.into(),
            tokens_in: 10,
            tokens_out: 2,
            latency_ms: 5.0,
            ..Answer::default()
        })
    }

    fn failed() -> Outcome {
        Outcome::Failed { error: "no".into() }
    }

    fn pattern() -> Regex {
        Regex::new(bench_core::spec::Prompt::FINAL_ANSWER).unwrap()
    }

    #[track_caller]
    fn check_extract(text: &str, expect: &str) {
        let (outcome, calls) = assemble(Some(&pattern()), &[&said(text)]);
        let Outcome::Answered(answer) = outcome else { panic!("failed") };
        assert_eq!((answer.text.as_str(), answer.full_text.as_deref()), (expect, Some(text)));
        assert!(calls.is_empty());
    }

    #[test]
    fn the_last_final_answer_is_scored_and_the_whole_text_kept() {
        check_extract("2 and 2 is 4.\nAnswer: 4", "4");
        check_extract("Answer: 3? No.\n**Answer:** 4 ", "4");
        check_extract("the final answer is: `x`\n", "`x`");
        check_extract("So the answer is 4 apples", "4 apples");
        check_extract("I think it is four.\n\nFour it is.\n", "Four it is.");
        check_extract("", "");
    }

    #[test]
    fn one_plain_answer_stays_as_it_is() {
        let said = said("Answer: 4");
        assert_eq!(assemble(None, &[&said]), (said.clone(), Vec::new()));
    }

    #[track_caller]
    fn check_vote(texts: &[&str], expect: &str) {
        let outcomes: Vec<Outcome> =
            texts.iter().map(|text| if *text == "!" { failed() } else { said(text) }).collect();
        let (outcome, calls) = assemble(None, &outcomes.iter().collect::<Vec<_>>());
        assert_eq!(calls.len(), texts.len());
        let Outcome::Answered(answer) = outcome else { panic!("failed") };
        assert_eq!(answer.text, expect, "{texts:?}");
        let answered = texts.iter().filter(|text| **text != "!").count() as u32;
        assert_eq!((answer.tokens_in, answer.tokens_out), (10 * answered, 2 * answered));
    }

    #[test]
    fn the_most_frequent_normal_form_wins_and_the_first_of_equals() {
        check_vote(&["Paris", "Rome", "paris."], "Paris");
        check_vote(&["Rome", "Paris", "The Paris!"], "Paris");
        check_vote(&["Rome", "Paris"], "Rome");
        check_vote(&["", "", "Paris"], "Paris");
        check_vote(&["!", "Rome", "Paris", "Paris"], "Paris");
        check_vote(&["", ""], "");
    }

    #[test]
    fn the_answer_of_the_highest_reward_is_taken_and_all_calls_are_paid_for() {
        let answers = [said("a"), said("Answer: b"), said("c"), failed()];
        let rewards = [said("-1.5"), said("0.25"), said("0.25")];
        let rewards: Vec<Option<&Outcome>> = rewards.iter().map(Some).chain([None]).collect();
        let answers: Vec<&Outcome> = answers.iter().collect();
        let (outcome, calls) = assemble_best(Some(&pattern()), &answers, &rewards);
        let Outcome::Answered(answer) = outcome else { panic!("failed") };
        assert_eq!(answer.text, "b");
        // Three answers and three rewards.
        assert_eq!((answer.tokens_in, answer.tokens_out), (60, 12));
        assert!((answer.latency_ms - 30.0).abs() < 1e-9);
        assert_eq!(calls.iter().filter(|call| call.kind == CallKind::Reward).count(), 3);
        let nothing = [said("not a number"), said("NaN"), failed()];
        let nothing: Vec<Option<&Outcome>> = nothing.iter().map(Some).collect();
        let (outcome, _) = assemble_best(None, &answers[..3], &nothing);
        assert_eq!(outcome, Outcome::Failed { error: "no answer got a reward".into() });
    }

    #[test]
    fn when_every_call_failed_the_trial_failed() {
        let (outcome, calls) = assemble(None, &[&failed(), &failed()]);
        assert_eq!(outcome, failed());
        assert!(calls.iter().all(|call| call.failed));
    }
}
