//! Samples, documents and training rows, read from JSON Lines.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One question of an eval set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Unique within its set.
    pub id: String,
    /// What is asked.
    pub input: String,
    /// The answer that is right.
    pub reference: String,
    /// Other answers that are right too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Gold passages: ids of corpus documents that hold the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context_ids: Vec<String>,
    /// How relevant corpus documents are, 0 for not at all, where people graded them (graded
    /// relevance judgements, as TREC's qrels). Takes the place of `context_ids`, which are then the
    /// documents of a grade above 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub qrels: BTreeMap<String, u32>,
    /// The options of a multiple choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Anything else; `cluster` groups samples that are not independent, the rest can be slices.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, Value>,
}

impl Sample {
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
    id: String,
    #[serde(default)]
    title: String,
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
    input: Option<String>,
    #[serde(default)]
    reference: Option<String>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    chosen: Option<String>,
    #[serde(default)]
    rejected: Option<String>,
    #[serde(default)]
    completion: Option<String>,
    #[serde(default)]
    label: Option<bool>,
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
/// Lines that are not JSON, rows without `id`, `input` or `reference`, ids used twice, no row.
pub fn samples(text: &str) -> Result<Vec<Sample>, Vec<RowError>> {
    let (mut rows, mut errors) = rows::<Sample>(text);
    unique(rows.iter().map(|(line, row)| (*line, row.id.as_str())), &mut errors);
    for (line, row) in &mut rows {
        if !row.qrels.is_empty() {
            if !row.context_ids.is_empty() {
                let message =
                    format!("sample `{}` has `context_ids` and `qrels`; keep one", row.id);
                errors.push(RowError { line: *line, message });
            }
            let relevant = row.qrels.iter().filter(|(_, grade)| **grade > 0);
            row.context_ids = relevant.map(|(document, _)| document.clone()).collect();
        }
        if row.reference.trim().is_empty() {
            let message =
                format!("sample `{}` has an empty reference; give the right answer", row.id);
            errors.push(RowError { line: *line, message });
        }
    }
    finish(rows, errors)
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
        if row.text.trim().is_empty() {
            errors.push(RowError {
                line: *line,
                message: format!("document `{}` has no text", row.id),
            });
        }
    }
    finish(rows, errors)
}

/// Reads training rows: `{input, reference}`, `{text}`, `{input, chosen, rejected}` or
/// `{input, completion, label}`; TRL's `prompt` is taken for `input`.
///
/// # Errors
/// As [`samples`]; a row that is neither form is an error.
pub fn train_rows(text: &str) -> Result<Vec<TrainRow>, Vec<RowError>> {
    let (wires, mut errors) = rows::<WireTrainRow>(text);
    let mut out = Vec::with_capacity(wires.len());
    for (line, wire) in wires {
        let said = |text: &str| !text.trim().is_empty();
        if let (Some(input), Some(completion), Some(label)) =
            (&wire.input, &wire.completion, wire.label)
            && said(completion)
            && [&wire.reference, &wire.text, &wire.chosen, &wire.rejected]
                .iter()
                .all(|one| one.is_none())
        {
            let (input, completion) = (input.clone(), completion.clone());
            out.push((line, TrainRow::Labelled { input, completion, label }));
            continue;
        }
        match (wire.input, wire.reference, wire.text, wire.chosen, wire.rejected) {
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
        #[serde(default)]
        context_ids: Vec<String>,
    }
    rows::<Row>(text).0.into_iter().map(|(_, row)| row.context_ids).collect()
}

fn rows<T: DeserializeOwned>(text: &str) -> (Vec<(usize, T)>, Vec<RowError>) {
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = if index == 0 { line.trim_start_matches('\u{feff}') } else { line };
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(row) => rows.push((index + 1, row)),
            Err(error) => errors.push(RowError { line: index + 1, message: json_error(&error) }),
        }
    }
    (rows, errors)
}

/// serde's message without its own line number, which is always 1 here.
fn json_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    format!("{text} (column {})", error.column())
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
                "line 2: expected ident (column 2)",
                "line 4: id `a` was already used on line 1; ids join the arms",
                "line 4: sample `a` has an empty reference; give the right answer",
                "line 5: missing field `reference` (column 22)",
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
        assert!(train_rows(r#"{"input":"q","completion":"a"}"#).is_err());
        assert!(train_rows(r#"{"input":"q","chosen":"a"}"#).is_err());
        assert_eq!(train_rows("{\"input\":\"q\"}").unwrap_err()[0].line, 1);
        assert_eq!(train_rows("{\"input\":\"q\",\"reference\":\"\"}").unwrap_err().len(), 1);
    }
}
