//! `json_schema`: JSON that a schema accepts, field by field against the reference.

use bench_core::dataset::Sample;
use bench_core::record::Verdict;
use jsonschema::Validator;
use serde_json::Value;

use super::{best, overlap, unfenced, wrong};

/// Compiles a schema; its references must lie within it, since nothing is fetched.
pub(super) fn compile(text: &str) -> Result<Validator, String> {
    let schema = serde_json::from_str(text)
        .map_err(|error| format!("json_schema: the schema is not JSON: {error}"))?;
    jsonschema::validator_for(&schema).map_err(|error| {
        format!(
            "json_schema: the schema does not compile: {error} (at `{}`)",
            error.instance_path()
        )
    })
}

pub(super) fn score(sample: &Sample, answer: &str, schema: Option<&Validator>) -> Verdict {
    // Whole first: a string within may hold a fence.
    let parsed = serde_json::from_str(answer).or_else(|_| serde_json::from_str(unfenced(answer)));
    let answer: Value = match parsed {
        Ok(answer) => answer,
        Err(error) => return wrong(format!("not JSON: {error}")),
    };
    if let Some(Err(error)) = schema.map(|schema| schema.validate(&answer)) {
        let place = error.instance_path().to_string();
        return wrong(format!("the schema refuses `{place}`: {error}"));
    }
    if problem(sample).is_some() {
        return Verdict::unscored("the reference is not JSON");
    }
    let said = fields(&answer);
    best(sample, |accepted| {
        serde_json::from_str(accepted)
            .map_or(0.0, |accepted| overlap::f1(said.iter(), fields(&accepted).iter()))
    })
}

pub(super) fn problem(sample: &Sample) -> Option<String> {
    let error = serde_json::from_str::<Value>(&sample.reference).err()?;
    Some(format!("the reference is not JSON: {error}"))
}

/// Every leaf with its path. List items go by their position.
fn fields(value: &Value) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    collect(value, String::new(), &mut fields);
    fields
}

fn collect(value: &Value, path: String, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                collect(value, format!("{path}/{name:?}"), fields);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (place, value) in items.iter().enumerate() {
                collect(value, format!("{path}/{place}"), fields);
            }
        }
        // JSON knows one kind of number: 1 and 1.0 are equal.
        Value::Number(number) if number.is_f64() => {
            fields.push((path, number.as_f64().unwrap_or_default().to_string()));
        }
        leaf => fields.push((path, leaf.to_string())),
    }
}
