//! What the tokens of an answer were spent on: instructions, examples, context, question, answer.

use bench_core::chat::Role;
use bench_core::record::Record;

use crate::evaluation::Contender;

/// The parts, in the order of [`budget`].
pub(crate) const PARTS: [&str; 5] = ["instructions", "examples", "context", "question", "answer"];

/// Mean tokens per answer and part: the tokens of a prompt as its parts were counted, or by their
/// characters where they were not.
pub(crate) fn budget(contender: &Contender<'_>) -> [f64; 5] {
    let mut sums = [0.0; 5];
    let mut answered = 0;
    for record in contender.prompted() {
        let Some(answer) = record.answer() else { continue };
        answered += 1;
        let parts = match record.budget {
            Some(counted) => {
                [counted.instructions, counted.examples, counted.context, counted.question]
                    .map(f64::from)
            }
            None => characters(record).map(|part| part as f64),
        };
        let total: f64 = parts.iter().sum();
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum += f64::from(answer.tokens_in) * part / total.max(1.0);
        }
        sums[4] += f64::from(answer.tokens_out);
    }
    sums.map(|sum| sum / f64::from(answered.max(1)))
}

/// Characters of a prompt: instructions, examples, context, question.
fn characters(record: &Record) -> [usize; 4] {
    let mut parts = [0; 4];
    let last = record.prompt.iter().rposition(|turn| turn.role == Role::User);
    for (at, turn) in record.prompt.iter().enumerate() {
        let length = turn.content.chars().count();
        if Some(at) == last {
            let question =
                if turn.content.contains(&record.input) { record.input.chars().count() } else { 0 };
            parts[3] += question;
            // What stands around the question is passages where there are any: their words outweigh
            // those of the template.
            let has_context = record.retrieved.iter().any(|passage| passage.in_prompt);
            parts[if has_context { 2 } else { 0 }] += length - question;
        } else {
            parts[usize::from(turn.role != Role::System)] += length;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use bench_core::chat::Message;
    use bench_core::record::{Outcome, Retrieved, TrialId};

    #[test]
    fn characters_are_counted_where_they_stand() {
        let mut record = Record {
            trial: TrialId {
                set: "s".into(),
                arm: "a".into(),
                sample: "1".into(),
                repeat: 0,
                train_seed: 0,
            },
            key: String::new(),
            input: "why?".into(),
            references: vec![],
            cluster: None,
            slices: std::collections::BTreeMap::new(),
            prompt: vec![
                Message::system("be brief"),
                Message::user("who?"),
                Message { role: Role::Assistant, content: "me".into() },
                Message::user("Q: why?"),
            ],
            retrieved: vec![],
            gold: vec![],
            qrels: std::collections::BTreeMap::new(),
            outcome: Outcome::Failed { error: String::new() },
            verdicts: std::collections::BTreeMap::new(),
            calls: vec![],
            budget: None,
            unanswerable: false,
            preferences: vec![],
        };
        assert_eq!(characters(&record), [11, 6, 0, 4]);
        let passage = Retrieved {
            id: "p".into(),
            document: "d".into(),
            score: 1.0,
            in_prompt: true,
            number: None,
        };
        record.retrieved.push(passage);
        assert_eq!(characters(&record), [8, 6, 3, 4]);
    }
}
