//! Conditions on meta data in the server's words.

use bench_core::spec::Filter;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::{Condition, FieldType, Filter as Conditions, Range};
use serde_json::Value;

/// The payload field that holds a document's meta data.
pub(crate) const META: &str = "meta";

/// All filters together.
pub(crate) fn all(filters: &[Filter]) -> Conditions {
    let mut conditions = Conditions::default();
    for filter in filters {
        let key = key(filter);
        let equals = |value: &Value| equals(&key, value);
        conditions.must.extend(filter.is.iter().filter_map(equals));
        if !filter.any.is_empty() {
            let any = filter.any.iter().filter_map(equals);
            conditions.must.push(Conditions::should(any).into());
        }
        conditions.must_not.extend(filter.not.iter().filter_map(equals));
        let Filter { gt, gte, lt, lte, .. } = *filter;
        if [gt, gte, lt, lte].iter().any(Option::is_some) {
            conditions.must.push(Condition::range(key, Range { lt, gt, gte, lte }));
        }
    }
    conditions
}

/// The path of the field in the payload.
pub(crate) fn key(filter: &Filter) -> String {
    let field = &filter.field;
    if field == Filter::DOCUMENT {
        return field.clone();
    }
    if field.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        format!("{META}.{field}")
    } else {
        format!("{META}.\"{field}\"")
    }
}

/// The kind of index that the filter needs.
pub(crate) fn field_type(filter: &Filter) -> Option<FieldType> {
    if [filter.gt, filter.gte, filter.lt, filter.lte].iter().any(Option::is_some) {
        return Some(FieldType::Float);
    }
    match filter.values().next()? {
        Value::String(_) => Some(FieldType::Keyword),
        Value::Bool(_) => Some(FieldType::Bool),
        Value::Number(_) => Some(FieldType::Integer),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `None` for values that no filter may hold; the experiment's check refuses them.
fn equals(key: &str, value: &Value) -> Option<Condition> {
    match value {
        // Given as text alone, one with a space would be searched for word by word.
        Value::String(text) => Some(Condition::matches(key, MatchValue::Keyword(text.clone()))),
        Value::Bool(truth) => Some(Condition::matches(key, *truth)),
        Value::Number(number) => number.as_i64().map(|number| Condition::matches(key, number)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
