//! What a filter on meta data accepts.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Filter;

impl Filter {
    /// The field that stands for the document's id.
    pub const DOCUMENT: &str = "document";

    /// True when a document of this id and meta data passes.
    pub fn accepts(&self, document: &str, meta: &BTreeMap<String, Value>) -> bool {
        let id;
        let value = if self.field == Self::DOCUMENT {
            id = Value::from(document);
            Some(&id)
        } else {
            meta.get(&self.field)
        };
        let values: &[Value] = match value {
            None | Some(Value::Null) => &[],
            Some(Value::Array(values)) => values,
            Some(value) => std::slice::from_ref(value),
        };
        let holds = |wanted: &[Value]| wanted.iter().any(|wanted| values.contains(wanted));
        let bounds = [self.gt, self.gte, self.lt, self.lte];
        let inside = |value: &Value| {
            value.as_f64().is_some_and(|x| {
                self.gt.is_none_or(|bound| x > bound)
                    && self.gte.is_none_or(|bound| x >= bound)
                    && self.lt.is_none_or(|bound| x < bound)
                    && self.lte.is_none_or(|bound| x <= bound)
            })
        };
        self.is.as_ref().is_none_or(|wanted| holds(std::slice::from_ref(wanted)))
            && (self.any.is_empty() || holds(&self.any))
            && !holds(&self.not)
            && (bounds.iter().all(Option::is_none) || values.iter().any(inside))
    }

    /// True when it has no condition at all.
    pub fn is_empty(&self) -> bool {
        self.is.is_none()
            && self.any.is_empty()
            && self.not.is_empty()
            && [self.gt, self.gte, self.lt, self.lte].iter().all(Option::is_none)
    }

    /// The values it compares with.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.is.iter().chain(&self.any).chain(&self.not)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &Filter, meta: &str, expect: bool) {
        let meta: BTreeMap<String, Value> = serde_json::from_str(meta).unwrap();
        assert_eq!(filter.accepts("d", &meta), expect, "{filter:?} on {meta:?}");
    }

    fn filter(field: &str) -> Filter {
        Filter { field: field.into(), ..Filter::default() }
    }

    #[test]
    fn values_are_compared_with_their_type() {
        let english = Filter { is: Some("en".into()), ..filter("lang") };
        check(&english, r#"{"lang": "en"}"#, true);
        check(&english, r#"{"lang": "de"}"#, false);
        check(&english, r#"{"lang": ["de", "en"]}"#, true);
        check(&english, "{}", false);
        check(&Filter { is: Some(7.into()), ..filter("n") }, r#"{"n": "7"}"#, false);
        check(&Filter { any: vec![1.into(), 2.into()], ..filter("n") }, r#"{"n": 2}"#, true);
    }

    #[test]
    fn what_is_excluded_must_be_there_to_count() {
        let german = Filter { not: vec!["de".into()], ..filter("lang") };
        check(&german, r#"{"lang": "de"}"#, false);
        check(&german, r#"{"lang": "en"}"#, true);
        check(&german, "{}", true);
    }

    #[test]
    fn bounds_hold_together() {
        let years = Filter { gte: Some(1900.0), lt: Some(1911.0), ..filter("year") };
        check(&years, r#"{"year": 1900}"#, true);
        check(&years, r#"{"year": 1911}"#, false);
        check(&years, r#"{"year": "1905"}"#, false);
        check(&years, "{}", false);
    }

    #[test]
    fn a_document_can_be_named() {
        assert!(
            Filter { is: Some("d".into()), ..filter("document") }.accepts("d", &BTreeMap::new())
        );
    }
}
