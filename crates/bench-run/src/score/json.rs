//! `json_schema`: JSON that a schema accepts, field by field against the reference.

use std::collections::{BTreeMap, BTreeSet};

use bench_core::dataset::Sample;
use bench_core::record::Verdict;
use jsonschema::Validator;
use serde_json::Value;

use super::{named, overlap, unfenced, wrong};

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

/// `known` are the fields that references of the eval set have.
pub(super) fn score(
    sample: &Sample,
    answer: &str,
    schema: Option<&Validator>,
    known: &BTreeSet<String>,
) -> Verdict {
    let accepted: Vec<Value> =
        sample.accepted().filter_map(|text| serde_json::from_str(text).ok()).collect();
    // Whole first: a string within may hold a fence.
    let parsed = serde_json::from_str(answer).or_else(|_| serde_json::from_str(unfenced(answer)));
    let said: Value = match parsed {
        Ok(said) => said,
        Err(error) => {
            let nothing = parts(None, accepted.first(), known);
            return wrong(format!("not JSON: {error}")).with_parts(nothing);
        }
    };
    let mut best: (f64, Option<&Value>) = (0.0, accepted.first());
    for value in &accepted {
        let found = overlap::f1(fields(&said).iter(), fields(value).iter());
        // The first of equals.
        if found > best.0 {
            best = (found, Some(value));
        }
    }
    let mut parts = parts(Some(&said), best.1, known);
    if let Some(Err(error)) = schema.map(|schema| schema.validate(&said)) {
        let place = error.instance_path().to_string();
        parts.extend(named([("valid", 0.0), ("whole_match", 0.0)]));
        return wrong(format!("the schema refuses `{place}`: {error}")).with_parts(parts);
    }
    if problem(sample).is_some() {
        return Verdict::unscored("the reference is not JSON");
    }
    Verdict::scored(best.0).with_parts(parts)
}

/// Whether an answer is valid (so far as no schema refuses it), F1 over all its fields, whether that is
/// 1, and F1 of each field on the first level: of those that the reference has, and of those that other references of
/// the set have where the answer has them.
fn parts(
    said: Option<&Value>,
    accepted: Option<&Value>,
    known: &BTreeSet<String>,
) -> BTreeMap<String, f64> {
    let leaves = |value: Option<&Value>| value.map(fields).unwrap_or_default();
    let f1 = |said: Option<&Value>, accepted: Option<&Value>| {
        overlap::f1(leaves(said), leaves(accepted))
    };
    let valid = f64::from(u8::from(said.is_some()));
    let overall = f1(said, accepted);
    let whole = f64::from(u8::from(overall >= 1.0));
    let mut parts = named([("valid", valid), ("field_f1", overall), ("whole_match", whole)]);
    let Some(Value::Object(accepted)) = accepted else { return parts };
    let said = said.and_then(Value::as_object);
    let invented = said.into_iter().flat_map(|said| said.keys()).filter(|key| known.contains(*key));
    for key in accepted.keys().chain(invented) {
        let value = f1(said.and_then(|said| said.get(key)), accepted.get(key));
        parts.insert(format!("field_f1/{key}"), value);
    }
    parts
}

/// The fields, on the first level, of the references of an eval set that are JSON objects.
pub fn fields_of(samples: &[Sample]) -> BTreeSet<String> {
    let objects = samples.iter().filter_map(|sample| {
        serde_json::from_str::<serde_json::Map<String, Value>>(&sample.reference).ok()
    });
    objects.flatten().map(|(key, _)| key).collect()
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
