//! What an answer is worth: one module per family of scorers, and the judge.
//!
//! A scorer knows a sample and an answer; arms, runs and models' names it does not know.
//! Definitions, ranges and sources: `docs/scorers.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bench_core::backend::{BackendError, Embedder};
use bench_core::dataset::Sample;
use bench_core::record::{Retrieved, Verdict};
use bench_core::spec::Scorer as Spec;

use crate::load::{Loaded, LoadedSet};

pub mod abstention;
mod bleu;
pub mod choice;
mod citation;
pub mod classification;
pub mod functional;
mod injection;
mod json;
mod judge;
pub mod jury;
mod numeric;
mod overlap;
mod pairwise;
pub mod report_card;
mod similarity;
mod sql;
mod squad;

pub use bench_core::record::Preference;
pub use json::fields_of as json_fields;
pub use judge::{Effort, RubricJudge};
pub use pairwise::PairJudge;

/// Gives an answer a figure, or says why it cannot.
#[async_trait]
pub trait Scorer: Send + Sync {
    /// The column it fills.
    fn name(&self) -> &str;

    /// What an answer is worth.
    ///
    /// # Errors
    /// Only failures after which no later verdict is possible; any other trouble is
    /// [`Verdict::Unscored`] with its reason.
    async fn score(&self, sample: &Sample, answer: &str) -> Result<Verdict, BackendError>;

    /// What an answer is worth beside the passages that were found for it, best first. Scorers that
    /// do not look at passages leave this as it is.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    async fn score_shown(
        &self,
        sample: &Sample,
        answer: &str,
        retrieved: &[Retrieved],
    ) -> Result<Verdict, BackendError> {
        let _ = retrieved;
        self.score(sample, answer).await
    }
}

/// What scorers need besides their options.
#[derive(Clone, Default)]
pub struct ScorerContext {
    /// Embeds answers for `embedding_similarity`.
    pub embedder: Option<Arc<dyn Embedder>>,
    /// The text of `json_schema`'s schema, read from its file where the setting names one.
    pub schema_text: Option<String>,
    /// The folder that `sql_execution`'s database paths are relative to.
    pub folder: PathBuf,
    /// How this eval set words "no answer": see [`abstention::phrases`].
    pub abstentions: Vec<String>,
    /// The fields that the JSON references of this eval set have: see [`json_fields`].
    pub json_fields: BTreeSet<String>,
}

/// What the scorers of an eval set need.
pub(crate) fn context(
    loaded: &Loaded,
    set: &LoadedSet,
    embedder: Option<Arc<dyn Embedder>>,
) -> ScorerContext {
    ScorerContext {
        embedder,
        schema_text: set.schema.clone(),
        folder: loaded.folder.clone(),
        abstentions: abstention::phrases(&set.samples),
        json_fields: json_fields(&set.samples),
    }
}

/// Builds the scorer that a setting asks for.
///
/// # Errors
/// A regular expression or schema that does not compile, a database folder that cannot be read,
/// no embedder where one is needed.
pub fn build(spec: &Spec, context: &ScorerContext) -> Result<Box<dyn Scorer>, String> {
    let rule: Rule = match spec {
        Spec::ExactMatch { normalize: true } => Box::new(squad::exact_match),
        Spec::ExactMatch { normalize: false } => Box::new(squad::raw_match),
        Spec::Contains {} => Box::new(squad::contains),
        Spec::TokenF1 {} => Box::new(squad::token_f1),
        Spec::Regex { pattern } => {
            let pattern = expression(pattern)?;
            Box::new(move |_, answer| judged(pattern.is_match(answer)))
        }
        Spec::RougeL {} => Box::new(overlap::rouge_l),
        Spec::Chrf {} => Box::new(overlap::chrf),
        Spec::Bleu {} => Box::new(bleu::score),
        Spec::Numeric { tolerance } => {
            let tolerance = *tolerance;
            if !(tolerance.is_finite() && tolerance >= 0.0) {
                return Err(format!("tolerance {tolerance} is no distance; give 0 or more"));
            }
            Box::new(move |sample, answer| numeric::score(sample, answer, tolerance))
        }
        // By likelihood the answer is a choice already: the likeliest.
        Spec::Choice { .. } => Box::new(choice::score),
        Spec::Classification {} => Box::new(classification::score),
        Spec::JsonSchema { .. } => {
            let schema = context.schema_text.as_deref().map(json::compile).transpose()?;
            let fields = context.json_fields.clone();
            Box::new(move |sample, answer| json::score(sample, answer, schema.as_ref(), &fields))
        }
        Spec::Functional {} => Box::new(functional::score),
        Spec::Abstained {} => {
            let phrases = context.abstentions.clone();
            Box::new(move |sample, answer| abstention::score(sample, answer, &phrases))
        }
        Spec::SqlExecution { database } => {
            return Ok(Box::new(sql::SqlExecution::new(database, &context.folder)?));
        }
        Spec::Judge {} => return Err("the judge is asked by the run and not built here".into()),
        Spec::EmbeddingSimilarity {} => {
            let embedder = context.embedder.clone().ok_or(
                "embedding_similarity needs an embedder; declare one under `embedder` or drop the scorer",
            )?;
            return Ok(Box::new(similarity::EmbeddingSimilarity::new(embedder)));
        }
        Spec::Citation { figure } => {
            return Ok(Box::new(citation::Citation { name: spec.name(), figure: *figure }));
        }
        Spec::ResistedInjection {} => return Ok(Box::new(injection::ResistedInjection)),
    };
    Ok(Box::new(Computed { name: spec.name(), rule }))
}

/// What a scorer would stumble over, found before anything is spent: one line per problem, with
/// the sample's id.
pub fn check(spec: &Spec, samples: &[Sample]) -> Vec<String> {
    if let Spec::Regex { pattern } = spec {
        return expression(pattern).err().into_iter().collect();
    }
    problems(spec, samples).into_iter().map(|(_, problem)| problem).collect()
}

/// The samples that lack what a scorer needs: position, and the problem with the sample's id.
pub(crate) fn problems(spec: &Spec, samples: &[Sample]) -> Vec<(usize, String)> {
    let problem: &dyn Fn(&Sample) -> Option<String> = match spec {
        Spec::Numeric { .. } => &numeric::problem,
        Spec::Choice { .. } => &choice::problem,
        Spec::JsonSchema { .. } => &json::problem,
        Spec::Functional {} => &functional::problem,
        Spec::SqlExecution { database } => &|sample| sql::problem(sample, database),
        Spec::ResistedInjection {} => &injection::problem,
        Spec::ExactMatch { .. }
        | Spec::Contains {}
        | Spec::TokenF1 {}
        | Spec::Regex { .. }
        | Spec::RougeL {}
        | Spec::Chrf {}
        | Spec::Bleu {}
        | Spec::Classification {}
        | Spec::Abstained {}
        | Spec::Citation { .. }
        | Spec::EmbeddingSimilarity {}
        | Spec::Judge {} => return Vec::new(),
    };
    let problems = samples.iter().enumerate().filter_map(|(at, sample)| {
        Some((at, format!("sample `{}`: {}", sample.id, problem(sample)?)))
    });
    problems.collect()
}

/// What is wrong with a scorer whatever is answered, found before anything is spent.
#[derive(Debug, Default)]
pub(crate) struct Unbuildable {
    /// What keeps it from being built, or from scoring any sample.
    pub(crate) problems: Vec<String>,
    /// What leaves some samples unscored.
    pub(crate) warnings: Vec<String>,
}

/// Looks whether a scorer can be built and finds what it reads.
pub(crate) fn unbuildable(
    spec: &Spec,
    schema: Option<&str>,
    folder: &Path,
    samples: &[Sample],
) -> Unbuildable {
    // These two stand on models, which are not loaded yet.
    if matches!(spec, Spec::EmbeddingSimilarity {} | Spec::Judge {}) {
        return Unbuildable::default();
    }
    let context = ScorerContext {
        schema_text: schema.map(str::to_owned),
        folder: folder.to_owned(),
        ..ScorerContext::default()
    };
    match (build(spec, &context), spec) {
        (Err(problem), _) => Unbuildable { problems: vec![problem], ..Unbuildable::default() },
        (Ok(_), Spec::SqlExecution { database }) => sql::unreadable(database, folder, samples),
        (Ok(_), _) => Unbuildable::default(),
    }
}

/// Why a text is no JSON Schema, if it is none.
pub(crate) fn schema_problem(text: &str) -> Result<(), String> {
    json::compile(text).map(|_| ())
}

/// A text as answers are voted on: `SQuAD`-normalised.
pub(crate) fn normal_form(text: &str) -> String {
    squad::normalized(text)
}

type Rule = Box<dyn Fn(&Sample, &str) -> Verdict + Send + Sync>;

/// A scorer that waits for nothing.
struct Computed {
    name: &'static str,
    rule: Rule,
}

#[async_trait]
impl Scorer for Computed {
    fn name(&self) -> &str {
        self.name
    }

    async fn score(&self, sample: &Sample, answer: &str) -> Result<Verdict, BackendError> {
        Ok((self.rule)(sample, answer))
    }
}

fn expression(pattern: &str) -> Result<regex::Regex, String> {
    regex::Regex::new(pattern).map_err(|error| format!("regex: `{pattern}`: {error}"))
}

/// Right or wrong.
fn judged(right: bool) -> Verdict {
    Verdict::scored(f64::from(u8::from(right)))
}

/// Wrong, with the grounds that a reader of the answer would look for.
fn wrong(reason: impl Into<String>) -> Verdict {
    Verdict::explained(0.0, Some(reason.into()))
}

/// The best of a figure over the reference and its aliases.
fn best(sample: &Sample, figure: impl Fn(&str) -> f64) -> Verdict {
    Verdict::scored(sample.accepted().map(figure).fold(0.0, f64::max))
}

/// Named parts of a figure, as a verdict keeps them.
fn named<N: Into<String>>(parts: impl IntoIterator<Item = (N, f64)>) -> BTreeMap<String, f64> {
    parts.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

/// The first Markdown code block of a reply, or all of it: models like to fence code.
fn unfenced(reply: &str) -> &str {
    let Some((_, rest)) = reply.split_once("```") else { return reply.trim() };
    let block = rest.split("```").next().unwrap_or(rest);
    match block.split_once('\n') {
        Some((language, body)) if language.trim().chars().all(char::is_alphanumeric) => body.trim(),
        _ => block.trim(),
    }
}

/// The start of a text, for a message.
fn excerpt(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}
