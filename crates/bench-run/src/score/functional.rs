//! `functional`: forms such as `inform(name[Tetris], rating[good])`.

use std::collections::BTreeMap;

use bench_core::dataset::Sample;
use bench_core::record::Verdict;

use super::{named, overlap, wrong};

/// A form, read: names and values in lower case, the items of a value list in order of spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// What stands before the bracket.
    pub function: String,
    /// Attributes with their values, sorted.
    pub attributes: Vec<(String, String)>,
}

/// What of a form is right. Each figure is between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    /// 1 when the function is the reference's.
    pub function: f64,
    /// F1 over attribute names.
    pub attributes: f64,
    /// F1 over attributes with their values.
    pub values: f64,
    /// 1 when everything is right.
    pub whole: f64,
}

impl Parts {
    /// The parts under their names in records and tables.
    fn by_name(self) -> BTreeMap<String, f64> {
        named([
            ("function_name", self.function),
            ("attribute_names", self.attributes),
            ("attribute_values", self.values),
            ("whole_match", self.whole),
        ])
    }
}

pub(super) fn score(sample: &Sample, answer: &str) -> Verdict {
    if sample.accepted().all(|accepted| parse(accepted).is_none()) {
        return Verdict::unscored("the reference is no form");
    }
    let Some(said) = parse(answer) else {
        return wrong("no form `f(a[b])` in the answer").with_parts(Parts::default().by_name());
    };
    let (mut value, mut parts) = (0.0, None);
    for accepted in sample.accepted().filter_map(parse) {
        let found = overlap::f1(all_parts(&said), all_parts(&accepted));
        // The first of equals.
        if parts.is_none() || found > value {
            (value, parts) = (found, Some(parts_of(&said, &accepted)));
        }
    }
    Verdict::scored(value).with_parts(parts.unwrap_or_default().by_name())
}

pub(super) fn problem(sample: &Sample) -> Option<String> {
    parse(&sample.reference)
        .is_none()
        .then(|| format!("the reference `{}` is no form `f(a[b], …)`", sample.reference))
}

/// What of an answer's form is right; nothing when it holds none, `None` when the reference holds
/// none.
pub fn parts(reference: &str, answer: &str) -> Option<Parts> {
    let reference = parse(reference)?;
    Some(parse(answer).map_or_else(Parts::default, |answer| parts_of(&answer, &reference)))
}

fn parts_of(answer: &Form, reference: &Form) -> Parts {
    let right = |equal: bool| f64::from(u8::from(equal));
    let names = |form: &Form| form.attributes.iter().map(|(name, _)| name.clone()).collect();
    let f1 = |ours: Vec<_>, theirs: Vec<_>| {
        if ours.is_empty() && theirs.is_empty() { 1.0 } else { overlap::f1(ours, theirs) }
    };
    Parts {
        function: right(answer.function == reference.function),
        attributes: f1(names(answer), names(reference)),
        values: if answer.attributes == reference.attributes {
            1.0
        } else {
            overlap::f1(&answer.attributes, &reference.attributes)
        },
        whole: right(answer == reference),
    }
}

/// Finds the form in a text: the first that parses and has a bracketed value, else the first that
/// parses.
pub fn parse(text: &str) -> Option<Form> {
    let mut bare = None;
    for (open, _) in text.match_indices('(') {
        let Some(form) = form_at(text, open) else { continue };
        if form.attributes.iter().any(|(_, value)| !value.is_empty()) {
            return Some(form);
        }
        bare.get_or_insert(form);
    }
    bare
}

/// The function, its attribute names and its attribute values, as parts of one kind.
fn all_parts(form: &Form) -> impl Iterator<Item = (&'static str, &str, &str)> {
    let attributes = form.attributes.iter();
    std::iter::once(("function", form.function.as_str(), "")).chain(attributes.flat_map(
        |(name, value)| {
            [("attribute", name.as_str(), ""), ("value", name.as_str(), value.as_str())]
        },
    ))
}

fn form_at(text: &str, open: usize) -> Option<Form> {
    let before = text[..open].trim_end();
    let start = before
        .rfind(|c| !in_name(c))
        .map_or(0, |place| place + before[place..].chars().next().map_or(0, char::len_utf8));
    let function = before[start..].to_lowercase();
    if function.is_empty() {
        return None;
    }
    let mut attributes = Vec::new();
    let mut rest = text[open + 1..].trim_start();
    while !rest.starts_with(')') {
        let end = rest.find(|c| !in_name(c))?;
        let name = rest[..end].to_lowercase();
        if name.is_empty() {
            return None;
        }
        rest = rest[end..].trim_start();
        let mut value = String::new();
        if rest.starts_with('[') {
            let close = closing(rest)?;
            value = canonical(&rest[1..close]);
            rest = rest[close + 1..].trim_start();
        }
        attributes.push((name, value));
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if rest.starts_with(')') => {}
            None => return None,
        }
    }
    attributes.sort();
    Some(Form { function, attributes })
}

fn in_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-')
}

/// Where the bracket that a text opens with is closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (place, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(place);
        }
    }
    None
}

/// A value list in lower case, spaces evened out, its items sorted.
fn canonical(value: &str) -> String {
    let mut items: Vec<String> = value
        .to_lowercase()
        .split(',')
        .map(|item| item.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    items.sort();
    items.join(", ")
}
