//! Samples, documents and training rows, read from JSON Lines.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// One question of an eval set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Unique within its set. Here and in all texts of a row, a number is read as its text.
    #[serde(deserialize_with = "text")]
    pub id: String,
    /// What is asked.
    #[serde(deserialize_with = "text")]
    pub input: String,
    /// The answer that is right.
    #[serde(deserialize_with = "text")]
    pub reference: String,
    /// Other answers that are right too.
    #[serde(default, deserialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Gold passages: ids of corpus documents that hold the answer.
    #[serde(default, deserialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub context_ids: Vec<String>,
    /// How relevant corpus documents are, 0 for not at all, where people graded them (graded
    /// relevance judgements, as TREC's qrels). Takes the place of `context_ids`, which are then the
    /// documents of a grade above 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub qrels: BTreeMap<String, u32>,
    /// The options of a multiple choice.
    #[serde(default, deserialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Anything else; `cluster` groups samples that are not independent, the rest can be slices.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, Value>,
}

impl Sample {
    /// The keys of a row.
    const KEYS: [&str; 8] =
        ["id", "input", "reference", "aliases", "context_ids", "qrels", "choices", "meta"];

    /// The reference and its aliases.
    pub fn accepted(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.reference.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// The label of samples that are not independent of this one.
    pub fn cluster(&self) -> Option<String> {
        self.meta_text("cluster")
    }

    /// A meta field as text; numbers and truth values are written as JSON writes them.
    pub fn meta_text(&self, field: &str) -> Option<String> {
        match self.meta.get(field)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// False only when the sample says that no answer exists in the corpus.
    pub fn answerable(&self) -> bool {
        self.meta.get("answerable").and_then(Value::as_bool).unwrap_or(true)
    }
}

/// One document of a corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Unique within its corpus.
    pub id: String,
    /// A heading, or empty.
    #[serde(default)]
    pub title: String,
    /// The text.
    pub text: String,
    /// Anything else, to filter by: in JSON Lines the object `meta` and all other keys, in CSV the
    /// other columns, in files their front matter, format and name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, Value>,
}

/// A row of a corpus: what is no field of a document is its meta data.
#[derive(Deserialize)]
struct WireDocument {
    #[serde(deserialize_with = "text")]
    id: String,
    #[serde(default, deserialize_with = "text")]
    title: String,
    #[serde(deserialize_with = "text")]
    text: String,
    #[serde(default)]
    meta: BTreeMap<String, Value>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl From<WireDocument> for Document {
    fn from(wire: WireDocument) -> Self {
        let mut meta = wire.rest;
        meta.extend(wire.meta);
        Self { id: wire.id, title: wire.title, text: wire.text, meta }
    }
}

/// One row of training data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrainRow {
    /// A prompt and the completion to learn. Only the completion carries loss.
    Completion {
        /// What is asked.
        input: String,
        /// What the model should say.
        reference: String,
    },
    /// Running text, all of which carries loss (knowledge injection).
    Text(String),
    /// A prompt with a better and a worse completion. Where nothing learns preferences, the better
    /// one is the completion.
    Preference {
        /// What is asked.
        input: String,
        /// What the model should rather say.
        chosen: String,
        /// What it should rather not say.
        rejected: String,
    },
    /// A prompt and a completion that somebody found good or bad. Where nothing learns from such
    /// verdicts, the good ones are completions and the bad ones are left out.
    Labelled {
        /// What is asked.
        input: String,
        /// What was said.
        completion: String,
        /// Whether it was good.
        label: bool,
    },
}

#[derive(Deserialize)]
struct WireTrainRow {
    #[serde(default, alias = "prompt")]
    input: Option<Text>,
    #[serde(default)]
    reference: Option<Text>,
    #[serde(default)]
    text: Option<Text>,
    #[serde(default)]
    chosen: Option<Text>,
    #[serde(default)]
    rejected: Option<Text>,
    #[serde(default)]
    completion: Option<Text>,
    #[serde(default)]
    label: Option<bool>,
}

impl TrainRow {
    /// The keys of a row that a misspelt one may have meant.
    const KEYS: [&str; 12] = [
        "id",
        "input",
        "prompt",
        "reference",
        "text",
        "chosen",
        "rejected",
        "completion",
        "label",
        "context_ids",
        "choices",
        "meta",
    ];
}

/// A text, or a number in its place.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> Result<String, E> {
        Ok(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(Value::from(value).to_string())
    }
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Text::deserialize(deserializer).map(|text| text.0)
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Vec::<Text>::deserialize(deserializer)
        .map(|texts| texts.into_iter().map(|text| text.0).collect())
}

/// A grade that a person gave to an arm's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The eval set; may be left out where there is one only.
    pub set: String,
    /// The arm that answered.
    pub arm: String,
    /// The sample.
    pub sample: String,
    /// The grade, on the judge's scale.
    pub grade: u32,
    /// Who graded, where several people did.
    pub grader: Option<String>,
    /// The answer that was graded. A label counts only while the arm still gives this answer.
    pub answer: Option<String>,
    /// Which repeat, counted from 0.
    pub repeat: u32,
    /// Which training seed; any when absent.
    pub train_seed: Option<u64>,
}

/// A label before it is known to be one: a row that nobody has graded yet has a null grade.
#[derive(Deserialize)]
struct WireLabel {
    #[serde(default)]
    set: String,
    arm: String,
    #[serde(deserialize_with = "text")]
    sample: String,
    grade: Option<u32>,
    #[serde(default)]
    grader: Option<String>,
    #[serde(default)]
    answer: Option<String>,
    #[serde(default)]
    repeat: u32,
    #[serde(default)]
    train_seed: Option<u64>,
}

/// Reads people's grades; rows without one are left out. `problem` says what else is wrong with one, for example that it is not
/// on the scale.
///
/// # Errors
/// As [`samples`], and what `problem` finds.
pub fn labels(
    text: &str,
    problem: impl Fn(&Label) -> Option<String>,
) -> Result<Vec<Label>, Vec<RowError>> {
    let (wires, mut errors) = rows::<WireLabel>(text);
    let graded = wires.into_iter().filter_map(|(line, wire)| {
        let WireLabel { set, arm, sample, grade, grader, answer, repeat, train_seed } = wire;
        let grade = grade?;
        Some((line, Label { set, arm, sample, grade, grader, answer, repeat, train_seed }))
    });
    let rows: Vec<(usize, Label)> = graded.collect();
    for (line, row) in &rows {
        errors.extend(problem(row).map(|message| RowError { line: *line, message }));
    }
    finish(rows, errors)
}

/// Something wrong in a JSON Lines file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct RowError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

/// Reads the samples of an eval set. Reports every bad line, not only the first.
///
/// # Errors
/// Lines that are not JSON, rows without `id`, `input` or `reference` or with a key that is nearly
/// one of a sample's, ids used twice, no row.
pub fn samples(text: &str) -> Result<Vec<Sample>, Vec<RowError>> {
    let (mut rows, mut errors) = rows::<Sample>(text);
    misspelt(text, &Sample::KEYS, &mut errors);
    unique(rows.iter().map(|(line, row)| (*line, row.id.as_str())), &mut errors);
    for (line, row) in &mut rows {
        let mut add = |message| errors.push(RowError { line: *line, message });
        if !row.qrels.is_empty() {
            if !row.context_ids.is_empty() {
                add(format!("sample `{}` has `context_ids` and `qrels`; keep one", row.id));
            }
            let relevant = row.qrels.iter().filter(|(_, grade)| **grade > 0);
            row.context_ids = relevant.map(|(document, _)| document.clone()).collect();
        }
        if row.id.trim().is_empty() {
            add("the sample has an empty id; give each sample one of its own".into());
        }
        if row.input.trim().is_empty() {
            add(format!("sample `{}` has an empty input; say what is asked", row.id));
        }
        if row.reference.trim().is_empty() {
            add(format!("sample `{}` has an empty reference; give the right answer", row.id));
        }
    }
    finish(rows, errors)
}

/// The line of each sample by its id, for messages about samples that were read before.
pub fn sample_lines(text: &str) -> BTreeMap<String, usize> {
    rows::<Sample>(text).0.into_iter().map(|(line, row)| (row.id, line)).collect()
}

/// Reads the documents of a corpus.
///
/// # Errors
/// As [`samples`]; a document without text is an error too.
pub fn documents(text: &str) -> Result<Vec<Document>, Vec<RowError>> {
    let (rows, mut errors) = rows::<WireDocument>(text);
    let rows: Vec<(usize, Document)> =
        rows.into_iter().map(|(line, wire)| (line, wire.into())).collect();
    unique(rows.iter().map(|(line, row)| (*line, row.id.as_str())), &mut errors);
    for (line, row) in &rows {
        let mut add = |message| errors.push(RowError { line: *line, message });
        if row.id.trim().is_empty() {
            add("the document has an empty id; give each document one of its own".into());
        }
        if row.text.trim().is_empty() {
            add(format!("document `{}` has no text", row.id));
        }
    }
    finish(rows, errors)
}

/// Reads training rows: `{input, reference}`, `{text}`, `{input, chosen, rejected}` or
/// `{input, completion, label}`; TRL's `prompt` is taken for `input`, and its `completion` without a
/// `label` for `reference`.
///
/// # Errors
/// As [`samples`]; a row that is neither form is an error.
pub fn train_rows(text: &str) -> Result<Vec<TrainRow>, Vec<RowError>> {
    let (wires, mut errors) = rows::<WireTrainRow>(text);
    misspelt(text, &TrainRow::KEYS, &mut errors);
    let mut out = Vec::with_capacity(wires.len());
    for (line, wire) in wires {
        let said = |text: &str| !text.trim().is_empty();
        let own = |text: Option<Text>| text.map(|text| text.0);
        let WireTrainRow { input, reference, text, chosen, rejected, completion, label } = wire;
        let (input, completion) = (own(input), own(completion));
        if let (Some(input), Some(completion), Some(label)) = (&input, &completion, label)
            && said(completion)
            && [&reference, &text, &chosen, &rejected].iter().all(|one| one.is_none())
        {
            let (input, completion) = (input.clone(), completion.clone());
            out.push((line, TrainRow::Labelled { input, completion, label }));
            continue;
        }
        // TRL's name for a reference, where nobody says whether it is a good one.
        let (reference, completion) = match (own(reference), completion, label) {
            (None, Some(completion), None) => (Some(completion), None),
            (reference, completion, _) => (reference, completion),
        };
        let reference = reference.filter(|_| completion.is_none());
        match (input, reference, own(text), own(chosen), own(rejected)) {
            (Some(input), Some(reference), None, None, None) if said(&reference) => {
                out.push((line, TrainRow::Completion { input, reference }));
            }
            (None, None, Some(text), None, None) if said(&text) => {
                out.push((line, TrainRow::Text(text)));
            }
            (Some(input), None, None, Some(chosen), Some(rejected))
                if said(&chosen) && said(&rejected) =>
            {
                out.push((line, TrainRow::Preference { input, chosen, rejected }));
            }
            _ => errors.push(RowError {
                line,
                message: "a training row is `input` with a non-empty `reference`, `text` alone, `input` with `chosen` and `rejected`, or `input` with `completion` and `label`"
                    .into(),
            }),
        }
    }
    finish(out, errors)
}

/// The gold documents (`context_ids`) of each training row, in the order of [`train_rows`]; empty
/// where a row names none.
pub fn train_gold(text: &str) -> Vec<Vec<String>> {
    #[derive(Deserialize)]
    struct Row {
        #[serde(default, deserialize_with = "texts")]
        context_ids: Vec<String>,
    }
    rows::<Row>(text).0.into_iter().map(|(_, row)| row.context_ids).collect()
}

/// A field of each training row as text, a key of its `meta` or of the row itself, in the order of
/// [`train_rows`]; `None` where a row has no such text.
pub fn train_field(text: &str, field: &str) -> Vec<Option<String>> {
    let of = |(_, row): (usize, serde_json::Map<String, Value>)| {
        let value = row.get("meta").and_then(|meta| meta.get(field)).or_else(|| row.get(field))?;
        value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    rows(text).0.into_iter().map(of).collect()
}

fn rows<T: DeserializeOwned>(text: &str) -> (Vec<(usize, T)>, Vec<RowError>) {
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = if index == 0 { line.trim_start_matches('\u{feff}') } else { line };
        if line.trim().is_empty() {
            continue;
        }
        // A list would be read too, field by field in the order of their declaration.
        let row = if line.trim_start().starts_with('[') {
            Err(match serde_json::from_str::<Value>(line) {
                Ok(_) => "a row is an object, `{…}`, and this is a list".into(),
                Err(error) => json_error(&error),
            })
        } else {
            serde_json::from_str(line).map_err(|error| {
                let explained = error.is_data().then(|| misfits(line)).flatten();
                explained.unwrap_or_else(|| json_error(&error))
            })
        };
        match row {
            Ok(row) => rows.push((index + 1, row)),
            Err(message) => errors.push(RowError { line: index + 1, message }),
        }
    }
    (rows, errors)
}

/// serde's message without its own line number, which is always 1 here.
fn json_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    let what = if error.is_data() { "" } else { "not JSON: " };
    format!("{what}{text} (column {})", error.column())
}

/// What is wrong with the values of a row whose keys are known.
fn misfits(line: &str) -> Option<String> {
    const TEXTS: [&str; 9] =
        ["id", "input", "reference", "title", "text", "chosen", "rejected", "arm", "sample"];
    const LISTS: [&str; 3] = ["aliases", "context_ids", "choices"];
    let is_text = |value: &Value| value.is_string() || value.is_number();
    let row: Value = serde_json::from_str(line).ok()?;
    let Some(row) = row.as_object() else {
        return Some(format!("a row is an object, `{{…}}`, and this is {}", kind(&row)));
    };
    let mut found = Vec::new();
    for (key, value) in row {
        if TEXTS.contains(&key.as_str()) && !is_text(value) {
            let more = if key == "reference" {
                "; further right answers go into `aliases`, a list of texts"
            } else {
                ""
            };
            found.push(format!("`{key}` is {}, and must be a text{more}", kind(value)));
        }
        let is_list = value.as_array().is_some_and(|items| items.iter().all(is_text));
        if LISTS.contains(&key.as_str()) && !is_list {
            let what = if value.is_array() { "a list of other things" } else { kind(value) };
            found.push(format!("`{key}` is {what}, and must be a list of texts"));
        }
        if key == "meta" && !value.is_object() {
            found.push(format!("`meta` is {}, and must be an object, `{{…}}`", kind(value)));
        }
    }
    (!found.is_empty()).then(|| found.join("; "))
}

/// What a value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Keys that are no field of a row and look like one: what they hold would be lost without a word.
fn misspelt(text: &str, known: &[&str], errors: &mut Vec<RowError>) {
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start_matches('\u{feff}');
        let Ok(keys) = serde_json::from_str::<BTreeMap<String, Value>>(line) else { continue };
        for key in keys.keys().filter(|key| !known.contains(&key.as_str())) {
            // A short word is near to many.
            let near = known
                .iter()
                .filter(|word| !keys.contains_key(**word))
                .find(|word| strsim::damerau_levenshtein(key, word) <= (word.len() / 3).min(2));
            if let Some(near) = near {
                let message = format!("unknown key `{key}`; did you mean `{near}`?");
                errors.push(RowError { line: index + 1, message });
            }
        }
    }
}

fn unique<'a>(ids: impl Iterator<Item = (usize, &'a str)>, errors: &mut Vec<RowError>) {
    let mut first = BTreeMap::new();
    for (line, id) in ids {
        if let Some(earlier) = first.insert(id, line) {
            let message =
                format!("id `{id}` was already used on line {earlier}; ids join the arms");
            errors.push(RowError { line, message });
        }
    }
}

fn finish<T>(rows: Vec<(usize, T)>, mut errors: Vec<RowError>) -> Result<Vec<T>, Vec<RowError>> {
    if rows.is_empty() && errors.is_empty() {
        errors.push(RowError { line: 1, message: "the file holds no row".into() });
    }
    if errors.is_empty() {
        return Ok(rows.into_iter().map(|(_, row)| row).collect());
    }
    errors.sort_by_key(|error| error.line);
    Err(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_errors(text: &str, expect: &[&str]) {
        let errors = samples(text).unwrap_err();
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    #[test]
    fn graded_documents_are_gold_above_grade_0() {
        let row =
            |more: &str| format!("{{\"id\":\"a\",\"input\":\"q\",\"reference\":\"r\",{more}}}");
        let read = samples(&row("\"qrels\":{\"x\":2,\"y\":0,\"z\":1}")).unwrap();
        assert_eq!(read[0].context_ids, ["x", "z"]);
        assert_eq!(read[0].qrels["x"], 2);
        let both = samples(&row("\"qrels\":{\"x\":2},\"context_ids\":[\"x\"]")).unwrap_err();
        assert_eq!(
            both[0].to_string(),
            "line 1: sample `a` has `context_ids` and `qrels`; keep one"
        );
    }

    #[test]
    fn a_row_is_read_with_all_it_may_hold() {
        let text = r#"{"id":"a","input":"q","reference":"r","context_ids":["d"],"meta":{"cluster":7,"answerable":false}}"#;
        let rows = samples(text).unwrap();
        assert_eq!(rows[0].cluster().as_deref(), Some("7"));
        assert!(!rows[0].answerable());
    }

    #[test]
    fn every_bad_line_is_reported_with_its_number() {
        check_errors(
            "{\"id\":\"a\",\"input\":\"q\",\"reference\":\"r\"}\nnot json\n\n{\"id\":\"a\",\"input\":\"q\",\"reference\":\" \"}\n{\"id\":\"b\",\"input\":\"q\"}\n",
            &[
                "line 2: not JSON: expected ident (column 2)",
                "line 4: id `a` was already used on line 1; ids join the arms",
                "line 4: sample `a` has an empty reference; give the right answer",
                "line 5: missing field `reference` (column 22)",
            ],
        );
    }

    #[test]
    fn numbers_are_read_as_their_text() {
        let rows = r#"{"id":7,"input":"q","reference":42.5,"aliases":[42],"context_ids":[1]}"#;
        let rows = samples(rows).unwrap();
        assert_eq!((rows[0].id.as_str(), rows[0].reference.as_str()), ("7", "42.5"));
        assert_eq!(rows[0].aliases, ["42"]);
        assert_eq!(rows[0].context_ids, ["1"]);
        assert_eq!(documents(r#"{"id":7,"text":"t"}"#).unwrap()[0].id, "7");
        let row = train_rows(r#"{"input":"q","reference":3}"#).unwrap().remove(0);
        assert_eq!(row, TrainRow::Completion { input: "q".into(), reference: "3".into() });
    }

    #[test]
    fn what_does_not_fit_is_named() {
        check_errors(
            "[\"a\",\"q\",\"r\"]\n{\"id\":\"a\",\"input\":\"q\",\"reference\":null,\"aliases\":\"x\"}\n7\n{\"id\":\"\",\"input\":\" \",\"reference\":\"r\"}\n",
            &[
                "line 1: a row is an object, `{…}`, and this is a list",
                "line 2: `reference` is null, and must be a text; further right answers go into `aliases`, a list of texts; `aliases` is a text, and must be a list of texts",
                "line 3: a row is an object, `{…}`, and this is a number",
                "line 4: the sample has an empty id; give each sample one of its own",
                "line 4: sample `` has an empty input; say what is asked",
            ],
        );
    }

    #[test]
    fn a_key_that_is_nearly_one_of_a_sample_is_a_mistake() {
        check_errors(
            "{\"id\":\"a\",\"input\":\"q\",\"reference\":\"r\",\"contxt_ids\":[],\"alases\":[],\"difficulty\":3}",
            &[
                "line 1: unknown key `alases`; did you mean `aliases`?",
                "line 1: unknown key `contxt_ids`; did you mean `context_ids`?",
            ],
        );
    }

    #[test]
    fn what_is_no_field_of_a_document_is_its_meta_data() {
        let row = r#"{"id":"a","text":"t","year":1911,"meta":{"lang":"en"},"title":"T"}"#;
        let found = documents(row).unwrap();
        let expect = [("lang".to_owned(), "en".into()), ("year".to_owned(), 1911.into())];
        assert_eq!(found[0].meta, BTreeMap::from(expect));
        assert_eq!(serde_json::to_value(&found[0]).unwrap()["meta"]["year"], 1911);
    }

    #[test]
    fn an_empty_file_is_an_error() {
        check_errors("\n\n", &["line 1: the file holds no row"]);
    }

    #[test]
    fn a_training_row_may_name_its_gold_documents() {
        let text =
            "{\"text\":\"t\"}\n\n{\"input\":\"q\",\"reference\":\"r\",\"context_ids\":[\"d\"]}\n";
        assert_eq!(train_gold(text), [Vec::new(), vec!["d".to_owned()]]);
        let text = "{\"input\":\"a\",\"why\":\"x\"}\n\n{\"why\":\"y\",\"meta\":{\"why\":\" z \"}}\n{\"why\":\" \"}\n{\"why\":1}\n";
        let fields = train_field(text, "why");
        assert_eq!(fields, [Some("x".to_owned()), Some("z".to_owned()), None, None]);
    }

    #[test]
    fn a_training_row_is_a_completion_or_text() {
        let rows =
            train_rows("{\"input\":\"q\",\"reference\":\"r\"}\n{\"text\":\"t\",\"id\":\"x\"}\n")
                .unwrap();
        assert_eq!(rows[1], TrainRow::Text("t".into()));
        let pair = r#"{"input":"q","chosen":"a","rejected":"b"}"#;
        assert!(
            matches!(&train_rows(pair).unwrap()[0], TrainRow::Preference { rejected, .. } if rejected == "b")
        );
        let judged = r#"{"prompt":"q","completion":"a","label":false}"#;
        assert!(
            matches!(&train_rows(judged).unwrap()[0], TrainRow::Labelled { input, label: false, .. } if input == "q")
        );
        let plain = train_rows(r#"{"prompt":"q","completion":"a"}"#).unwrap();
        let completion = TrainRow::Completion { input: "q".into(), reference: "a".into() };
        assert_eq!(plain[0], completion);
        assert!(train_rows(r#"{"input":"q","completion":"a","reference":"b"}"#).is_err());
        assert!(train_rows(r#"{"input":"q","completion":""}"#).is_err());
        assert!(train_rows(r#"{"input":"q","chosen":"a"}"#).is_err());
        assert_eq!(train_rows("{\"input\":\"q\"}").unwrap_err()[0].line, 1);
        assert_eq!(train_rows("{\"input\":\"q\",\"reference\":\"\"}").unwrap_err().len(), 1);
    }
}
