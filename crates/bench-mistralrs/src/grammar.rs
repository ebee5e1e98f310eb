//! Constraints in the terms of the grammar engine (llguidance), and whether it takes them.

use bench_core::backend::{BackendError, Constraint};
use mistralrs_core::llguidance::api::TopLevelGrammar;
use mistralrs_core::llguidance::toktrie::ApproximateTokEnv;
use mistralrs_core::llguidance::{ParserFactory, toktrie};

use crate::BACKEND;

/// Why a model's answers cannot be constrained.
pub(crate) const NO_END: &str = "answers of this model cannot be constrained: its tokenizer has no end token that the grammar engine knows, such as `<|endoftext|>` or `</s>`";

/// What mistral.rs is asked for.
pub(crate) fn engine_constraint(constraint: &Constraint) -> mistralrs_core::Constraint {
    match constraint {
        Constraint::JsonSchema(schema) => {
            mistralrs_core::Constraint::JsonSchema(without_free_space(schema.clone()))
        }
        Constraint::Regex(regex) => mistralrs_core::Constraint::Regex(regex.clone()),
        Constraint::Choices(choices) => {
            let choices: Vec<String> = choices.iter().map(|choice| escape(choice)).collect();
            mistralrs_core::Constraint::Regex(format!("({})", choices.join("|")))
        }
        Constraint::Grammar(grammar) => mistralrs_core::Constraint::Lark(grammar.clone()),
    }
}

/// Compiles a constraint over single bytes, which takes no model and no tokenizer.
///
/// # Errors
/// What the grammar engine says of a language that it does not take.
pub(crate) fn check(constraint: &Constraint) -> Result<(), BackendError> {
    let rejected = |error: String| {
        let first = error.lines().next().unwrap_or_default().to_owned();
        BackendError::rejected(
            BACKEND,
            format!("the grammar engine refuses the constraint: {first}"),
        )
    };
    let grammar = match engine_constraint(constraint) {
        mistralrs_core::Constraint::Regex(regex) => TopLevelGrammar::from_regex(&regex),
        mistralrs_core::Constraint::Lark(lark) => TopLevelGrammar::from_lark(lark),
        mistralrs_core::Constraint::JsonSchema(schema) => TopLevelGrammar::from_json_schema(schema),
        mistralrs_core::Constraint::Llguidance(grammar) => grammar,
        mistralrs_core::Constraint::None => return Ok(()),
    };
    let bytes: toktrie::TokEnv = ApproximateTokEnv::single_byte_env();
    let factory = ParserFactory::new_simple(&bytes).map_err(|error| rejected(error.to_string()))?;
    factory.create_parser(grammar).map_err(|error| rejected(format!("{error:#}")))?;
    Ok(())
}

/// A small model that may write any space between tokens sometimes writes nothing else.
fn without_free_space(mut schema: serde_json::Value) -> serde_json::Value {
    if let Some(object) = schema.as_object_mut() {
        object.entry("x-guidance").or_insert_with(|| {
            serde_json::json!({
                "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ",
            })
        });
    }
    schema
}

/// A text as a regular expression that matches it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if r"\.+*?()|[]{}^$#&-~".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(constraint: &Constraint) {
        let error = check(constraint).unwrap_err();
        assert!(error.chain().contains("the grammar engine refuses"), "{}", error.chain());
    }

    #[test]
    fn what_the_grammar_engine_takes_is_known_without_a_model() {
        let schema = serde_json::json!({
            "type": "object", "properties": { "a": { "type": "integer" } }, "required": ["a"],
        });
        for good in [
            Constraint::Regex("[0-9]+(,[0-9]+)*".into()),
            Constraint::Choices(vec!["(a)".into(), "b+".into()]),
            Constraint::JsonSchema(schema),
            Constraint::Grammar("start: \"yes\" | \"no\" NUMBER\nNUMBER: /[0-9]+/".into()),
        ] {
            check(&good).unwrap();
        }
        check_refused(&Constraint::Regex("(".into()));
        check_refused(&Constraint::Grammar("start: nothing".into()));
        check_refused(&Constraint::JsonSchema(serde_json::json!({ "type": "nonsense" })));
    }
}
