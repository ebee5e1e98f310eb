//! A judge that says which of two answers is better, asked in both orders.
//!
//! Judges prefer a place as such (Wang et al. 2023, "Large Language Models are not Fair
//! Evaluators"). A preference that turns with the order is a tie, counted as inconsistent.

use std::sync::Arc;

use bench_core::backend::{BackendError, BackendErrorKind, Generator};
use bench_core::dataset::Sample;
use serde_json::json;

use super::judge::{Fenced, question, read_reply, reply_schema, request, system, unreadable};

/// Which of two answers is better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preference {
    /// The first, in both orders.
    First,
    /// The second, in both orders.
    Second,
    /// Neither.
    Tie {
        /// False when the two orders disagreed.
        consistent: bool,
    },
    /// The judge could not decide.
    Unscored {
        /// Why.
        reason: String,
    },
}

/// Compares two answers by a rubric.
pub struct PairJudge {
    rubric: String,
    generator: Arc<dyn Generator>,
}

/// What the judge says in one order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    A,
    B,
    Tie,
}

impl PairJudge {
    /// A judge with a rubric of what makes an answer better.
    pub fn new(rubric: String, generator: Arc<dyn Generator>) -> Self {
        Self { rubric, generator }
    }

    /// Asks in both orders.
    ///
    /// # Errors
    /// Only failures after which no later comparison is possible.
    pub async fn compare(
        &self,
        sample: &Sample,
        first: &str,
        second: &str,
    ) -> Result<Preference, BackendError> {
        let straight = self.ask(sample, first, second).await?;
        let turned = self.ask(sample, second, first).await?;
        Ok(match (straight, turned) {
            (Err(reason), _) | (_, Err(reason)) => Preference::Unscored { reason },
            (Ok(Side::A), Ok(Side::B)) => Preference::First,
            (Ok(Side::B), Ok(Side::A)) => Preference::Second,
            (Ok(straight), Ok(turned)) => {
                Preference::Tie { consistent: straight == Side::Tie && turned == Side::Tie }
            }
        })
    }

    async fn ask(
        &self,
        sample: &Sample,
        a: &str,
        b: &str,
    ) -> Result<Result<Side, String>, BackendError> {
        let of = [sample.input.as_str(), &sample.reference];
        let (a, b) = (Fenced::new("answer A", &of, a), Fenced::new("answer B", &of, b));
        let user = format!(
            "{}{a}{b}\nWhich is better by the rubric: A, {}, or B, {}? Reply with JSON only, the \
             reason first: {{\"reason\": \"<one short sentence>\", \"better\": <\"A\", \"B\" or \
             \"tie\">}}",
            question(sample),
            a.place(),
            b.place(),
        );
        let system = system("You compare two answers to a question by a rubric.", &self.rubric);
        let schema = reply_schema("better", &json!({ "enum": ["A", "B", "tie"] }));
        let completion = match self.generator.generate(&request(system, user, schema)).await {
            Ok(completion) => completion,
            Err(error) if error.kind == BackendErrorKind::Fatal => return Err(error),
            Err(error) => return Ok(Err(error.chain())),
        };
        let better = read_reply(&completion.text, "better").map(|(_reason, better)| better);
        Ok(match better.as_ref().and_then(serde_json::Value::as_str) {
            Some("A") => Ok(Side::A),
            Some("B") => Ok(Side::B),
            Some("tie") => Ok(Side::Tie),
            _ => Err(unreadable(&completion, "preference")),
        })
    }
}
