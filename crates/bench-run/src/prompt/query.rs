//! What is searched for: the question itself, or what a model makes of it first.
//!
//! Knows no model: a [`Question`] goes out, its reply comes back with the next attempt, so that
//! every reply is kept on disk like an answer.

use bench_core::backend::Constraint;
use bench_core::chat::Message;
use bench_core::record::{CallKind, CallRecord};
use bench_core::spec::Query;
use bench_core::template::ContextPassage;

/// Something a model must say before a prompt can be laid out.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// What for.
    pub kind: CallKind,
    /// The conversation.
    pub messages: Vec<Message>,
    /// Upper bound on the reply's tokens.
    pub max_tokens: u32,
    /// The language that the reply must belong to.
    pub constraint: Option<Constraint>,
}

/// What was said to a [`Question`]; `failed` in the record where nothing was.
pub type Replies<'a> = dyn Fn(&Question) -> Option<CallRecord> + 'a;

/// A value, or what must be asked first.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<T> {
    /// It is there.
    Done(T),
    /// This must be asked.
    Ask(Question),
}

/// Queries that a rewriting gives beside the question, at most.
const MOST_QUERIES: usize = 3;

/// What to ask a model for, before the first search; `None` where the question is searched as it
/// is.
pub(super) fn rewriting(query: Query, question: &str) -> Option<Question> {
    let (text, max_tokens) = match query {
        Query::None => return None,
        Query::Hyde => (
            format!(
                "Write two or three sentences of a reference work that answer the question. Guess where you do not know.\n\nQuestion: {question}"
            ),
            96,
        ),
        Query::MultiQuery => (
            format!(
                "Ask the question in {MOST_QUERIES} other ways, with other words. One per line, nothing else.\n\nQuestion: {question}"
            ),
            96,
        ),
        Query::Decompose => (
            format!(
                "Which simpler questions must be answered to answer this one? At most {MOST_QUERIES}, one per line, nothing else.\n\nQuestion: {question}"
            ),
            96,
        ),
    };
    let messages = vec![Message::user(text)];
    Some(Question { kind: CallKind::Rewrite, messages, max_tokens, constraint: None })
}

/// The queries to search with, the question among them. A reply that says nothing leaves the
/// question.
pub(super) fn queries(query: Query, question: &str, reply: &str) -> Vec<String> {
    let mut queries = vec![question.to_owned()];
    match query {
        Query::None => {}
        // As in query2doc (Wang et al. 2023): the passage joins the question, so that a wrong guess
        // cannot lose its words.
        Query::Hyde => {
            let passage = reply.split_whitespace().collect::<Vec<_>>().join(" ");
            if !passage.is_empty() {
                queries[0] = format!("{question}\n{passage}");
            }
        }
        Query::MultiQuery | Query::Decompose => {
            for line in lines(reply).take(MOST_QUERIES) {
                if !queries.contains(&line) {
                    queries.push(line);
                }
            }
        }
    }
    queries
}

/// After a search: what else must be looked up?
pub(super) fn follow_up(question: &str, known: &[ContextPassage]) -> Question {
    let mut text = String::from("Notes:\n");
    for passage in known {
        text.push_str("- ");
        if !passage.title.is_empty() {
            text.push_str(&passage.title);
            text.push_str(": ");
        }
        text.push_str(&passage.text);
        text.push('\n');
    }
    text.push_str(
        "\nThe notes may lack something that the question needs. Write the one short search query that would find it, with the names that the notes give, and nothing else. If nothing is missing, write DONE.\n\nQuestion: ",
    );
    text.push_str(question);
    let messages = vec![Message::user(text)];
    Question { kind: CallKind::FollowUp, messages, max_tokens: 32, constraint: None }
}

/// The query that a reply to [`follow_up`] asks for; `None` where nothing is missing.
pub(super) fn next_query(reply: &str) -> Option<String> {
    let line = lines(reply).next()?;
    let done = line.trim_matches(|c: char| !c.is_alphanumeric()).eq_ignore_ascii_case("done");
    (!done).then_some(line)
}

/// Lines that say something, without list marks, quotes and labels such as `Query:`.
fn lines(reply: &str) -> impl Iterator<Item = String> {
    reply.lines().filter_map(|line| {
        let line = line.trim().trim_start_matches(['-', '*', '•']).trim_start();
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        let line = match line[digits..].strip_prefix(['.', ')']) {
            Some(rest) if digits > 0 => rest,
            _ => line,
        };
        let line = match line.split_once(':') {
            Some((label, rest)) if LABELS.contains(&label.trim().to_lowercase().as_str()) => rest,
            _ => line,
        };
        let line = line.trim().trim_matches('"').trim();
        (!line.is_empty()).then(|| line.to_owned())
    })
}

const LABELS: [&str; 4] = ["query", "question", "search query", "search"];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: Query, reply: &str, expect: &[&str]) {
        assert_eq!(queries(query, "Who?", reply), expect);
    }

    #[test]
    fn a_hypothetical_passage_joins_the_question() {
        check(Query::Hyde, "It was\n Ada. ", &["Who?\nIt was Ada."]);
        check(Query::Hyde, " \n", &["Who?"]);
    }

    #[test]
    fn queries_are_read_line_by_line_without_their_marks() {
        let reply = "1. Which person?\n- \"What name?\"\n\nWho?\nQuery: Whose name?\none too many";
        check(Query::MultiQuery, reply, &["Who?", "Which person?", "What name?"]);
        check(Query::Decompose, "1959 was what?", &["Who?", "1959 was what?"]);
        check(Query::Decompose, "", &["Who?"]);
        check(Query::None, "anything", &["Who?"]);
    }

    #[test]
    fn a_follow_up_ends_when_nothing_is_missing() {
        assert_eq!(next_query("Search query: \"river of Brindal\"\n").unwrap(), "river of Brindal");
        for done in ["DONE", "done.", "", "\n"] {
            assert_eq!(next_query(done), None, "{done}");
        }
    }

    #[test]
    fn the_question_stands_in_every_request() {
        for query in [Query::Hyde, Query::MultiQuery, Query::Decompose] {
            let question = rewriting(query, "Who?").unwrap();
            assert!(question.messages[0].content.ends_with("Question: Who?"));
        }
        assert_eq!(rewriting(Query::None, "Who?"), None);
        let passage = ContextPassage { id: "d".into(), title: "T".into(), text: "x".into() };
        let text = &follow_up("Who?", &[passage]).messages[0].content;
        assert!(text.starts_with("Notes:\n- T: x\n") && text.ends_with("Question: Who?"), "{text}");
    }
}
