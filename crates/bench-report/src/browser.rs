//! The trials inside `report.html`, compact enough to travel with the page.

use std::collections::BTreeMap;

use bench_core::chat::Role;
use bench_core::record::{Outcome, Record, Verdict};
use serde_json::{Value, json};

use crate::evaluation::{Evaluation, JUDGE};
use crate::text::{cut, printable};

/// Characters that all answers may take together; longer ones are cut until they fit.
const ANSWERS: usize = 700_000;
/// Characters that all prompts may take together; what does not fit is left to `trials.parquet`.
const PROMPTS: usize = 500_000;

/// Every sample with the trials of all arms, as the page's script reads it.
pub(crate) fn data(evaluation: &Evaluation<'_>) -> Value {
    let records = || {
        evaluation
            .sets
            .iter()
            .flat_map(|set| set.contenders.iter().flat_map(|c| &c.trials).copied())
    };
    let limit = answer_limit(&records().collect::<Vec<_>>());
    let mut names = Index::default();
    let mut documents = Index::default();
    let mut turns = Turns::default();
    let mut sets = Vec::new();
    for set in &evaluation.sets {
        let metrics: Vec<&str> = set.metrics.iter().map(|metric| metric.name.as_str()).collect();
        let mut samples: Vec<Value> = Vec::new();
        for id in &set.samples {
            let mut about: Option<&Record> = None;
            let mut trials = Vec::new();
            for contender in &set.contenders {
                let arm = names.of(&printable(&contender.name));
                let from = contender.trials.partition_point(|r| r.trial.sample.as_str() < *id);
                let own = contender.trials[from..].iter().take_while(|r| r.trial.sample == *id);
                for record in own {
                    about = about.or(Some(record));
                    trials.push(trial(record, arm, &metrics, limit, &mut documents, &mut turns));
                }
            }
            if let Some(record) = about {
                let accepted: Vec<String> =
                    record.references.iter().take(5).map(|r| cut(&printable(r), limit)).collect();
                let gold: Vec<usize> =
                    record.gold.iter().map(|id| documents.of(&printable(id))).collect();
                let input = cut(&printable(&record.input), limit);
                samples.push(json!([printable(id), input, accepted, gold, trials]));
            }
        }
        sets.push(
            json!({ "name": printable(&set.set.name), "metrics": metrics, "samples": samples }),
        );
    }
    json!({ "arms": names.list, "documents": documents.list, "turns": turns.list, "sets": sets })
}

/// `[arm, repeat, answer or null, error or null, scores, judge's reason, finish, tokens in, tokens
/// out, milliseconds, passages as [document, in prompt], turns]`
fn trial(
    record: &Record,
    arm: usize,
    metrics: &[&str],
    limit: usize,
    documents: &mut Index,
    turns: &mut Turns,
) -> Value {
    let scores: Vec<Value> = metrics
        .iter()
        .map(|metric| match record.verdicts.get(*metric).and_then(Verdict::value) {
            Some(value) if value.is_finite() => json!((value * 1000.0).round() / 1000.0),
            _ => Value::Null,
        })
        .collect();
    let reason = match record.verdicts.get(JUDGE) {
        Some(Verdict::Scored { reason, .. }) => reason.as_deref(),
        Some(Verdict::Unscored { reason }) => Some(reason.as_str()),
        None => None,
    };
    let reason = reason.map(|reason| cut(&printable(reason), 400.min(limit)));
    let passages: Vec<Value> = record
        .retrieved
        .iter()
        .map(|passage| {
            json!([documents.of(&printable(&passage.document)), u8::from(passage.in_prompt)])
        })
        .collect();
    let prompt: Vec<i64> = record
        .prompt
        .iter()
        .map(|turn| {
            let role = match turn.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            turns.of(role, &printable(&turn.content))
        })
        .collect();
    let (text, error, answer) = match &record.outcome {
        Outcome::Answered(answer) => {
            (Some(cut(&printable(&answer.text), limit)), None, Some(answer))
        }
        Outcome::Failed { error } => (None, Some(cut(&printable(error), 400)), None),
    };
    let took = answer.map(|a| (a.latency_ms + a.retrieval_ms).round());
    json!([
        arm,
        record.trial.repeat,
        text,
        error,
        scores,
        reason,
        answer.map(|a| a.finish.as_str()),
        answer.map(|a| a.tokens_in),
        answer.map(|a| a.tokens_out),
        took,
        passages,
        prompt,
    ])
}

/// The most characters per answer with which all answers stay in bounds.
fn answer_limit(records: &[&Record]) -> usize {
    let total = |limit: usize| -> usize {
        let lengths = records.iter().map(|r| {
            let answer = r.answer().map_or(0, |answer| answer.text.len());
            answer.min(limit) + r.input.len().min(limit) / 4
        });
        lengths.sum()
    };
    [6000, 3000, 1500, 800, 400, 200, 100].into_iter().find(|&l| total(l) <= ANSWERS).unwrap_or(60)
}

/// Texts that occur often, each kept once.
#[derive(Default)]
struct Index {
    known: BTreeMap<String, usize>,
    list: Vec<String>,
}

impl Index {
    fn of(&mut self, text: &str) -> usize {
        if let Some(at) = self.known.get(text) {
            return *at;
        }
        self.known.insert(text.to_owned(), self.list.len());
        self.list.push(text.to_owned());
        self.list.len() - 1
    }
}

/// Turns of prompts, each kept once, until the page would grow too large.
#[derive(Default)]
struct Turns {
    known: BTreeMap<(&'static str, String), i64>,
    list: Vec<[String; 2]>,
    size: usize,
}

impl Turns {
    /// Its position; -1 where it was left out.
    fn of(&mut self, role: &'static str, content: &str) -> i64 {
        let key = (role, cut(content, 8000));
        if let Some(at) = self.known.get(&key) {
            return *at;
        }
        if self.size + key.1.len() > PROMPTS {
            return -1;
        }
        self.size += key.1.len();
        let at = self.list.len() as i64;
        self.list.push([role.to_owned(), key.1.clone()]);
        self.known.insert(key, at);
        at
    }
}
