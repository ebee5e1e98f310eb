//! What models cost, and what a break-even assumes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::ArmPlan;
use super::check::tree;
use super::node::Reader;
use super::problem::{Source, SpecError};
use crate::record::{Answer, CallKind, CallRecord};

/// The prices of an experiment: written in it, or `file://` and the path of a list that several
/// experiments share. Never looked up anywhere.
#[derive(Clone, Debug, PartialEq)]
pub enum Prices {
    /// A file that has not been read yet, without `file://`. Whoever loads an experiment replaces it
    /// by its content, see [`parse_prices`].
    File(String),
    /// The prices.
    List(PriceList),
}

/// A dated list of prices in US dollars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceList {
    /// The day on which the prices were looked up, as `2026-11-21`. Reports show it.
    #[serde(default)]
    pub date: String,
    /// By the model names of the experiment. A list in a file may name more.
    #[serde(default)]
    pub models: BTreeMap<String, Price>,
    /// US dollars per gigabyte and month of keeping adapters and indexes.
    #[serde(default)]
    pub storage_gb_month: f64,
}

/// What a model costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    /// US dollars per million prompt tokens.
    pub input: f64,
    /// US dollars per million prompt tokens that the provider's prompt cache serves; `input` when
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<f64>,
    /// US dollars per million generated tokens.
    pub output: f64,
    /// US dollars per hour of the machine, for the time that an answer takes.
    pub machine_hour: f64,
    /// US dollars per hour of the machine that trains; `machine_hour` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_hour: Option<f64>,
    /// US dollars per hour of keeping the model ready, asked or not.
    #[serde(skip_serializing_if = "is_zero")]
    pub hosting_hour: f64,
    /// What the model costs once it is fine-tuned, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuned: Option<TunedPrice>,
}

/// What a fine-tuned model costs; what is absent is as for the model itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TunedPrice {
    /// US dollars per million prompt tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<f64>,
    /// US dollars per million prompt tokens from the prompt cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<f64>,
    /// US dollars per million generated tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<f64>,
    /// US dollars per hour of the machine, for the time that an answer takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_hour: Option<f64>,
    /// US dollars per hour of keeping the model ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosting_hour: Option<f64>,
}

/// What is assumed when a report says at how many requests a month fine-tuning pays for itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakEven {
    /// Months over which costs are added up.
    pub months: u32,
    /// Weeks after which an adapter is trained again, because facts, task or base model moved on;
    /// trained once when absent.
    pub retrain_weeks: Option<f64>,
    /// Share of the cacheable prompt tokens that the provider's cache serves, 0 to 1. Matters where
    /// a price has `cached_input`.
    pub cache_hit_rate: f64,
    /// Tokens that prompts must begin with alike before a provider caches them.
    pub cache_min_tokens: u32,
    /// Hours a month that the machine of a fine-tuned arm is paid for without answering.
    pub idle_hours: f64,
    /// Percent a year by which the prices of answering fall: the savings of a shorter prompt shrink
    /// with them, training and hosting stay as they are.
    pub price_fall_percent: f64,
}

impl Default for BreakEven {
    fn default() -> Self {
        Self {
            months: 12,
            retrain_weeks: None,
            cache_hit_rate: 1.0,
            cache_min_tokens: 1024,
            idle_hours: 0.0,
            price_fall_percent: 0.0,
        }
    }
}

impl Default for Prices {
    fn default() -> Self {
        Self::List(PriceList::default())
    }
}

impl Prices {
    /// The list; `None` while it is an unread file.
    pub fn list(&self) -> Option<&PriceList> {
        match self {
            Self::File(_) => None,
            Self::List(list) => Some(list),
        }
    }

    /// What a model costs, as it is or fine-tuned.
    pub fn of(&self, model: &str, is_tuned: bool) -> Option<Price> {
        let price = self.list()?.models.get(model)?;
        Some(match (&price.tuned, is_tuned) {
            (Some(tuned), true) => Price {
                input: tuned.input.unwrap_or(price.input),
                // A tuned price without one of its own is not cached at the price of the base.
                cached_input: tuned.cached_input.or(if tuned.input.is_some() {
                    None
                } else {
                    price.cached_input
                }),
                output: tuned.output.unwrap_or(price.output),
                machine_hour: tuned.machine_hour.unwrap_or(price.machine_hour),
                hosting_hour: tuned.hosting_hour.unwrap_or(price.hosting_hour),
                gpu_hour: Some(price.training_hour()),
                tuned: None,
            },
            _ => price.clone(),
        })
    }
}

impl Prices {
    /// US dollars of a trial's answer: its tokens, its milliseconds of a machine that `in_flight`
    /// answers share, and at another model's price the calls that this model answered. `None` where
    /// a model has no price, or has one by the token and nobody counted the tokens of its answer: no
    /// prompt has none.
    pub fn of_trial(
        &self,
        plan: &ArmPlan,
        answer: &Answer,
        calls: &[CallRecord],
        in_flight: f64,
    ) -> Option<f64> {
        let price = self.of(&plan.model, plan.finetune.is_some())?;
        let is_uncounted = answer.tokens_in == 0 && plan.features.is_none();
        if is_uncounted && (price.input > 0.0 || price.output > 0.0) {
            return None;
        }
        let rag = plan.rag.as_ref();
        let of = |model: Option<&str>| match model {
            Some(model) => self.of(model, false),
            None => Some(price.clone()),
        };
        let asking = of(rag.and_then(|rag| rag.query_model.as_deref()))?;
        let sorting = of(rag.and_then(|rag| rag.rerank.as_ref()?.chat_model()))?;
        let rewarding = of(plan.reward_model.as_deref())?;
        let of_calls: f64 = calls
            .iter()
            .map(|call| {
                let its = match call.kind {
                    CallKind::Sample => return 0.0,
                    CallKind::Rewrite | CallKind::FollowUp => &asking,
                    CallKind::Rerank => &sorting,
                    CallKind::Reward => &rewarding,
                };
                f64::from(call.tokens_in) * (its.input - price.input) / 1e6
                    + f64::from(call.tokens_out) * (its.output - price.output) / 1e6
            })
            .sum();
        let own =
            price.of_answer(answer.tokens_in, answer.tokens_out, answer.latency_ms, in_flight);
        Some(of_calls + own)
    }
}

impl Price {
    /// US dollars per hour of training.
    pub fn training_hour(&self) -> f64 {
        self.gpu_hour.unwrap_or(self.machine_hour)
    }

    /// US dollars of one answer: its tokens, and its milliseconds of a machine that `in_flight`
    /// answers share.
    pub fn of_answer(
        &self,
        tokens_in: u32,
        tokens_out: u32,
        latency_ms: f64,
        in_flight: f64,
    ) -> f64 {
        f64::from(tokens_in) * self.input / 1e6
            + f64::from(tokens_out) * self.output / 1e6
            + latency_ms / 3.6e6 / in_flight * self.machine_hour
    }

    fn figures(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let tuned = self.tuned.clone().unwrap_or_default();
        [
            ("input", Some(self.input)),
            ("cached_input", self.cached_input),
            ("output", Some(self.output)),
            ("machine_hour", Some(self.machine_hour)),
            ("gpu_hour", self.gpu_hour),
            ("hosting_hour", Some(self.hosting_hour)),
            ("tuned", tuned.input),
            ("tuned", tuned.cached_input),
            ("tuned", tuned.output),
            ("tuned", tuned.machine_hour),
            ("tuned", tuned.hosting_hour),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
    }
}

/// Something wrong in a list: the keys that lead to it, what, and what to do.
type Flaw = (Vec<String>, String, &'static str);

impl PriceList {
    /// What is wrong in the list.
    pub(super) fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        if !self.models.is_empty() && !is_date(&self.date) {
            let message = if self.date.is_empty() {
                "the prices have no date".to_owned()
            } else {
                format!("`{}` is no date", self.date)
            };
            let help = "say when they were looked up, for example `date: 2026-11-21`";
            flaws.push((vec!["date".into()], message, help));
        }
        for (name, price) in &self.models {
            for (key, value) in price.figures() {
                if !(value >= 0.0 && value.is_finite()) {
                    let path = vec!["models".into(), name.clone(), key.into()];
                    flaws.push((path, format!("{value} is no price"), "give 0 or more"));
                }
            }
        }
        if !(self.storage_gb_month >= 0.0 && self.storage_gb_month.is_finite()) {
            let message = format!("{} is no price", self.storage_gb_month);
            flaws.push((vec!["storage_gb_month".into()], message, "give 0 or more"));
        }
        flaws
    }
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    let number = |text: &str, digits: usize| {
        (text.len() == digits && text.chars().all(|c| c.is_ascii_digit()))
            .then(|| text.parse::<u32>().ok())
            .flatten()
    };
    number(year, 4).is_some()
        && number(month, 2).is_some_and(|month| (1..=12).contains(&month))
        && number(day, 2).is_some_and(|day| (1..=31).contains(&day))
}

/// Parses a file of prices.
///
/// # Errors
/// Everything that is wrong, each with its place and what to do.
pub fn parse_prices(name: &str, text: &str) -> Result<PriceList, Box<SpecError>> {
    let root = match tree(text, "the file must be YAML") {
        Ok(root) => root,
        Err(problem) => return Err(Box::new(Source::new(name, text, None).error(vec![problem]))),
    };
    let problems = RefCell::new(Vec::new());
    let list = Reader { node: &root, problems: &problems }.read::<PriceList>();
    let source = Source::new(name, text, Some(root));
    let mut problems = problems.into_inner();
    if let Some(list) = list {
        for (path, message, help) in list.flaws() {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            problems.push(source.problem(&path, message, "here", help));
        }
        if problems.is_empty() {
            return Ok(list);
        }
    }
    Err(Box::new(source.error(problems)))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Serialize for Prices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) => serializer.serialize_str(&format!("file://{path}")),
            Self::List(list) => list.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Prices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Prices;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`file://` and a path, or a map with `date` and `models`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Prices, E> {
                let path = text.strip_prefix("file://").filter(|path| !path.is_empty());
                path.map(|path| Prices::File(path.to_owned())).ok_or_else(|| {
                    E::custom(format!("`{text}` is no list of prices: give `file://` and a path"))
                })
            }

            fn visit_unit<E>(self) -> Result<Prices, E> {
                Ok(Prices::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Prices, A::Error> {
                PriceList::deserialize(MapAccessDeserializer::new(map)).map(Prices::List)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Prices {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Prices".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let list = generator.subschema_for::<PriceList>();
        json_schema!({
            "description": "The prices of an experiment: written in it, or `file://` and the path of a list that several experiments share. Never looked up anywhere.",
            "anyOf": [{ "type": "string", "pattern": "^file://." }, list],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "
date: 2026-11-21
models:
  small: { input: 0.5, cached_input: 0.05, output: 2, machine_hour: 1.5, tuned: { input: 1, hosting_hour: 3 } }
storage_gb_month: 0.02
";

    #[track_caller]
    fn wrong(text: &str, expect: &str) {
        let error = parse_prices("prices.yaml", text).unwrap_err();
        let found: Vec<String> = error.problems().iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|message| message.contains(expect)), "{found:?}");
    }

    #[test]
    fn a_tuned_model_has_its_own_prices_and_the_rest_of_the_base() {
        let prices = Prices::List(parse_prices("prices.yaml", LIST).unwrap());
        let base = prices.of("small", false).unwrap();
        assert_eq!((base.input, base.cached_input, base.hosting_hour), (0.5, Some(0.05), 0.0));
        let tuned = prices.of("small", true).unwrap();
        assert_eq!((tuned.input, tuned.cached_input, tuned.output), (1.0, None, 2.0));
        assert_eq!((tuned.hosting_hour, tuned.training_hour()), (3.0, 1.5));
        assert_eq!(prices.of("large", false), None);
        // A million tokens each way and half an hour of the machine shared by two.
        let cost = base.of_answer(1_000_000, 1_000_000, 1.8e6, 2.0);
        assert!((cost - (0.5 + 2.0 + 0.375)).abs() < 1e-12, "{cost}");
    }

    #[test]
    fn an_answer_whose_tokens_nobody_counted_has_no_cost() {
        let prices = Prices::List(parse_prices("prices.yaml", LIST).unwrap());
        let plan = ArmPlan {
            name: "zero_shot".into(),
            model: "small".into(),
            sets: Vec::new(),
            prompt: crate::spec::Prompt::default(),
            rag: None,
            finetune: None,
            features: None,
            constraint: None,
            curve: None,
            reward_model: None,
        };
        let unknown = Answer { latency_ms: 1000.0, ..Answer::default() };
        assert_eq!(prices.of_trial(&plan, &unknown, &[], 1.0), None);
        let counted = Answer { tokens_in: 1_000_000, ..unknown };
        assert!(prices.of_trial(&plan, &counted, &[], 1.0).is_some_and(|cost| cost > 0.5));
    }

    #[test]
    fn prices_survive_json_inline_and_by_name() {
        let list = Prices::List(parse_prices("prices.yaml", LIST).unwrap());
        for prices in [list, Prices::File("prices.yaml".into()), Prices::default()] {
            let text = serde_json::to_string(&prices).unwrap();
            assert_eq!(serde_json::from_str::<Prices>(&text).unwrap(), prices, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_list_is_said() {
        wrong("models: { a: { input: 1 } }", "the prices have no date");
        wrong("{ date: yesterday, models: { a: { input: 1 } } }", "`yesterday` is no date");
        wrong("{ date: 2026-13-01, models: { a: { input: 1 } } }", "`2026-13-01` is no date");
        wrong("{ date: 2026-11-21, models: { a: { input: -1 } } }", "-1 is no price");
        wrong("{ date: 2026-11-21, models: { a: { inptu: 1 } } }", "unknown key `inptu`");
        wrong("date: [", "");
    }
}
