//! A judge that says which of two answers is better, asked in both orders.
//!
//! Judges prefer a place as such (Wang et al. 2023, "Large Language Models are not Fair
//! Evaluators"). A preference that turns with the order is a tie, counted as inconsistent.

use std::sync::Arc;

use bench_core::backend::{BackendError, BackendErrorKind, Generator, Request};
use bench_core::dataset::Sample;
use bench_core::record::Preference;
use bench_core::spec::{Judge, Shown};
use serde_json::json;

use super::judge::{
    Effort, Fenced, background, read_reply, reply_schema, request, system, unreadable,
};

/// Compares two answers by a rubric.
pub struct PairJudge {
    rubric: String,
    shows: Vec<Shown>,
    generator: Arc<dyn Generator>,
    temperature: f64,
}

/// What the judge says in one order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    A,
    B,
    Tie,
}

impl PairJudge {
    /// Raise it when the prompt or the reading of the reply changes: older preferences are then
    /// asked for again.
    pub const VERSION: u32 = 1;

    /// A judge with a rubric of what makes an answer better, and `judge`'s view.
    pub fn new(judge: &Judge, rubric: String, generator: Arc<dyn Generator>) -> Self {
        let (shows, temperature) = (judge.shows.clone(), judge.temperature);
        Self { rubric, shows, generator, temperature }
    }

    /// Asks in both orders. Equal answers are a tie that is not asked for.
    ///
    /// # Errors
    /// Only failures after which no later comparison is possible.
    pub async fn compare(
        &self,
        sample: &Sample,
        first: &str,
        second: &str,
        seed: u64,
    ) -> Result<(Preference, Effort), BackendError> {
        let mut effort = Effort::default();
        if first.trim() == second.trim() {
            return Ok((Preference::Tie { consistent: true }, effort));
        }
        let straight = self.ask(sample, first, second, seed, &mut effort).await?;
        let turned = self.ask(sample, second, first, seed, &mut effort).await?;
        let preference = match (straight, turned) {
            (Err(reason), _) | (_, Err(reason)) => Preference::Unscored { reason },
            (Ok(Side::A), Ok(Side::B)) => Preference::First,
            (Ok(Side::B), Ok(Side::A)) => Preference::Second,
            (Ok(straight), Ok(turned)) => {
                Preference::Tie { consistent: straight == Side::Tie && turned == Side::Tie }
            }
        };
        Ok((preference, effort))
    }

    async fn ask(
        &self,
        sample: &Sample,
        a: &str,
        b: &str,
        seed: u64,
        effort: &mut Effort,
    ) -> Result<Result<Side, String>, BackendError> {
        let of = [sample.input.as_str(), &sample.reference];
        let (a, b) = (Fenced::new("answer A", &of, a), Fenced::new("answer B", &of, b));
        let user = format!(
            "{}{a}{b}\nWhich is better by the rubric: A, {}, or B, {}? Reply with JSON only, the \
             reason first: {{\"reason\": \"<one short sentence>\", \"better\": <\"A\", \"B\" or \
             \"tie\">}}",
            background(&self.shows, sample, &[]),
            a.place(),
            b.place(),
        );
        let system = system("You compare two answers to a question by a rubric.", &self.rubric);
        let schema = reply_schema("better", &json!({ "enum": ["A", "B", "tie"] }));
        let request =
            Request { temperature: self.temperature, seed, ..request(system, user, schema) };
        let completion = match self.generator.generate(&request).await {
            Ok(completion) => {
                effort.add(&completion);
                completion
            }
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
