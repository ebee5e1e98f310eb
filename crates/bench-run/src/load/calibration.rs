//! Reading a calibration file and its labelled samples.

use std::collections::BTreeMap;
use std::path::Path;

use bench_core::dataset::{self, Document, Sample};
use bench_core::digest;
use bench_core::spec::{Calibration, JudgeMode, parse_calibration};
use bench_core::template::ContextPassage;
use serde_json::Value;

use super::{JsonLinesOnly, LoadError, Reader, SHOWN_ROW_ERRORS, draw};
use crate::score::RubricJudge;

/// A calibration with all its data in memory.
#[derive(Clone, Debug)]
pub struct LoadedCalibration {
    /// As written, with defaults.
    pub calibration: Calibration,
    /// The rubric's text.
    pub rubric: String,
    /// The labelled samples, after `limit`.
    pub rows: Vec<LabelledRow>,
    /// Digest of each file that was read, by the path as written.
    pub files: BTreeMap<String, String>,
}

/// One answer, or two, that people judged.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledRow {
    /// Question and right answers as the judge sees them; an empty reference is not shown.
    pub sample: Sample,
    /// The passages that the answer was made from, for a judge that is shown them by themselves; else
    /// they stand before the question, in its text.
    pub passages: Vec<ContextPassage>,
    /// The answer to grade, or the first of two.
    pub answer: String,
    /// The second of two.
    pub rival: Option<String>,
    /// What people say together: a grade, or 1, 0, 0.5 for the first, the second, neither.
    pub label: f64,
    /// What each person says.
    pub people: Vec<Option<f64>>,
}

/// Reads a calibration file and everything it names. `limit` caps the samples.
///
/// # Errors
/// Everything that is wrong, at once: mistakes of the file, samples without an answer or a label,
/// labels off the scale.
pub fn load_calibration(
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    limit: Option<u32>,
) -> Result<LoadedCalibration, LoadError> {
    let shown = path.display().to_string();
    let text = fs_err::read_to_string(path)
        .map_err(|source| LoadError::Unreadable { path: shown.clone(), source })?;
    let stem =
        path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let (calibration, source) = parse_calibration(&shown, &stem, &text, environment)?;
    let mut reader = Reader {
        source: &source,
        folder: path.parent().unwrap_or(Path::new("")),
        corpora: &JsonLinesOnly,
        sets: Vec::new(),
        problems: Vec::new(),
        files: BTreeMap::new(),
        warnings: Vec::new(),
    };
    let rubric = reader.text(&["judge", "rubric"], &calibration.judge.rubric);
    if let Some(problem) = rubric.as_ref().and_then(|rubric| {
        (calibration.judge.mode == JudgeMode::Rubric)
            .then(|| RubricJudge::problem(&calibration.judge, rubric))?
    }) {
        reader.add(&["judge", "rubric"], problem, "one line per grade, for example `Grade 1: …`");
    }
    let labelled = &calibration.labelled;
    let samples = reader.rows(&["labelled", "path"], &labelled.path, dataset::samples);
    let corpus = labelled
        .corpus
        .as_ref()
        .and_then(|name| reader.rows(&["labelled", "corpus"], name, dataset::documents));
    let mut rows = Vec::new();
    let mut wrong = 0;
    for sample in samples.iter().flatten() {
        match row(&calibration, sample, corpus.as_deref().unwrap_or_default()) {
            Ok(row) => rows.push(row),
            Err(problem) => {
                wrong += 1;
                if wrong <= SHOWN_ROW_ERRORS {
                    let message = format!("{}: sample `{}`: {problem}", labelled.path, sample.id);
                    reader.add(
                        &["labelled"],
                        message,
                        "mend the sample, or what `labelled` says of its fields",
                    );
                }
            }
        }
    }
    if wrong > SHOWN_ROW_ERRORS {
        let message = format!("{}: {} more bad samples", labelled.path, wrong - SHOWN_ROW_ERRORS);
        reader.add(&["labelled"], message, "mend the samples");
    }
    if !reader.problems.is_empty() {
        return Err(Box::new(source.error(reader.problems)).into());
    }
    let files = reader.files;
    let cap = labelled.limit.into_iter().chain(limit).min().map_or(usize::MAX, |cap| cap as usize);
    let drawn = draw(&rows, cap, calibration.run.seed, |_, row| row.sample.id.clone());
    let rows = drawn.into_iter().cloned().collect();
    Ok(LoadedCalibration { calibration, rubric: rubric.unwrap_or_default(), rows, files })
}

impl LoadedCalibration {
    /// Digest of the file and all its data: equal digests mean the same measurement.
    pub fn digest(&self) -> String {
        digest::of_json(&(&self.calibration, &self.files))
    }
}

fn row(
    calibration: &Calibration,
    sample: &Sample,
    corpus: &[Document],
) -> Result<LabelledRow, String> {
    let labelled = &calibration.labelled;
    let references: Vec<String> = match &labelled.references {
        None => Vec::new(),
        Some(field) => texts(meta(sample, field)?)
            .ok_or_else(|| format!("`meta.{field}` is neither a text nor a list of texts"))?,
    };
    let mut references = references.into_iter();
    let mut passages = passages(sample, corpus)?;
    let input = if calibration.judge.needs_passages() {
        if passages.is_empty() {
            return Err("it names no document (`context_ids`) for the judge to be shown".into());
        }
        sample.input.clone()
    } else {
        let text = |one: ContextPassage| format!("{}\n{}", one.title, one.text).trim().to_owned();
        let mut parts: Vec<String> = std::mem::take(&mut passages).into_iter().map(text).collect();
        parts.push(sample.input.clone());
        parts.join("\n\n")
    };
    let seen = Sample {
        id: sample.id.clone(),
        input,
        reference: references.next().unwrap_or_default(),
        aliases: references.collect(),
        ..Sample::default()
    };
    let people: Vec<Option<f64>> = match &labelled.people {
        None => Vec::new(),
        Some(field) => {
            let list = meta(sample, field)?.as_array();
            let list = list.ok_or_else(|| format!("`meta.{field}` is not a list"))?;
            list.iter()
                .map(|value| match value {
                    Value::Null => Ok(None),
                    value => label(calibration, value).map(Some),
                })
                .collect::<Result<_, _>>()?
        }
    };
    let label = label(calibration, &Value::String(sample.reference.clone()))?;
    let (answer, rival) = match calibration.judge.mode {
        JudgeMode::Pairwise => match sample.choices.as_slice() {
            [first, second] => (first.clone(), Some(second.clone())),
            other => {
                return Err(format!(
                    "`choices` holds {}; a pairwise judge compares 2",
                    other.len()
                ));
            }
        },
        JudgeMode::Rubric => {
            let field = &labelled.answer;
            let answer = meta(sample, field)?.as_str();
            (answer.ok_or_else(|| format!("`meta.{field}` is not a text"))?.to_owned(), None)
        }
    };
    Ok(LabelledRow { sample: seen, passages, answer, rival, label, people })
}

/// The documents that the sample's question is to be answered from.
fn passages(sample: &Sample, corpus: &[Document]) -> Result<Vec<ContextPassage>, String> {
    if corpus.is_empty() {
        return Ok(Vec::new());
    }
    let passage = |id: &String| {
        let document = corpus.iter().find(|document| document.id == *id);
        let document = document.ok_or_else(|| format!("the corpus has no document `{id}`"))?;
        let (title, text) = (document.title.clone(), document.text.clone());
        Ok(ContextPassage { id: id.clone(), title, text })
    };
    sample.context_ids.iter().map(passage).collect()
}

/// A meta field; dots lead into it.
fn meta<'s>(sample: &'s Sample, field: &str) -> Result<&'s Value, String> {
    let mut keys = field.split('.');
    let first = keys.next().and_then(|key| sample.meta.get(key));
    let found = keys.fold(first, |value, key| value?.get(key));
    found.ok_or_else(|| format!("there is no `meta.{field}`"))
}

fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|value| value.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// A label as a grade, or as what the first of two answers gets.
fn label(calibration: &Calibration, value: &Value) -> Result<f64, String> {
    let judge = &calibration.judge;
    let text = value.as_str().map(str::trim);
    if judge.mode == JudgeMode::Pairwise {
        return match (text, value.as_f64()) {
            (Some("1"), _) => Ok(1.0),
            (Some("2"), _) => Ok(0.0),
            (None, Some(number)) if number < 0.0 => Ok(1.0),
            (None, Some(number)) if number > 0.0 => Ok(0.0),
            (Some("tie"), _) | (None, Some(_)) => Ok(0.5),
            _ => Err(format!("the label {value} is none of `1`, `2` and `tie`")),
        };
    }
    if let Some(grade) = text.and_then(|text| calibration.labelled.labels.get(text)) {
        return Ok(f64::from(*grade));
    }
    let number = value.as_f64().or_else(|| text?.parse().ok());
    let number = number.ok_or_else(|| {
        format!("the label {value} is no grade; say what it means under `labelled.labels`")
    })?;
    let on_scale = judge.grades.iter().any(|&grade| (f64::from(grade) - number).abs() < 1e-9);
    // People's median may fall between two grades.
    let ends = judge.grades.first().zip(judge.grades.last());
    let within = ends.is_some_and(|(&worst, &best)| {
        (f64::from(worst)..=f64::from(best)).contains(&number) && (number * 2.0).fract() == 0.0
    });
    if on_scale || within {
        Ok(number)
    } else {
        let grades: Vec<String> = judge.grades.iter().map(u32::to_string).collect();
        Err(format!("the label {number} is not on the scale {}", grades.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUBRIC: &str = "version: 1
models: { m: { scripted: {} } }
judge: { model: m, rubric: '0 wrong, 1 right', grades: [0, 1] }
labelled: { path: l.jsonl, references: answers, people: votes.ann, labels: { yes: 1, no: 0 } }
";
    const PAIRS: &str = "version: 1
models: { m: { scripted: {} } }
judge: { model: m, rubric: better, mode: pairwise }
labelled: { path: l.jsonl, corpus: c.jsonl, people: votes }
";

    fn read(yaml: &str, row: &str) -> Result<LoadedCalibration, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(folder.path().join(name), text).unwrap();
        write("j.yaml", yaml);
        write("l.jsonl", &format!("{row}\n"));
        write("c.jsonl", "{\"id\":\"d\",\"title\":\"T\",\"text\":\"text\"}\n");
        match load_calibration(&folder.path().join("j.yaml"), &|_| None, None) {
            Ok(loaded) => Ok(loaded),
            Err(LoadError::Wrong(error)) => {
                Err(error.problems().iter().map(ToString::to_string).collect())
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[track_caller]
    fn check(yaml: &str, row: &str, expect: &str) {
        let found = read(yaml, row).unwrap_err();
        assert!(found.iter().any(|problem| problem.contains(expect)), "{found:?}");
    }

    #[test]
    fn a_graded_answer_is_read_with_what_people_say() {
        let row = r#"{"id":"a","input":"q","reference":"yes","meta":{"answers":["x","y"],"response":"z","votes":{"ann":["yes",null,"no"]}}}"#;
        let loaded = read(RUBRIC, row).unwrap();
        let row = &loaded.rows[0];
        assert_eq!((row.answer.as_str(), row.label), ("z", 1.0));
        assert_eq!(row.people, [Some(1.0), None, Some(0.0)]);
        assert_eq!(row.sample.accepted().collect::<Vec<_>>(), ["x", "y"]);
    }

    #[test]
    fn a_pair_is_read_with_its_passages() {
        let row = r#"{"id":"a","input":"q","reference":"tie","choices":["x","y"],"context_ids":["d"],"meta":{"votes":["1","2",-1,2,0]}}"#;
        let loaded = read(PAIRS, row).unwrap();
        let row = &loaded.rows[0];
        assert_eq!((row.answer.as_str(), row.rival.as_deref(), row.label), ("x", Some("y"), 0.5));
        assert_eq!(row.people, [1.0, 0.0, 1.0, 0.0, 0.5].map(Some));
        assert_eq!(row.sample.input, "T\ntext\n\nq");
    }

    #[test]
    fn a_judge_of_passages_is_measured_with_them_as_it_judges_in_a_run() {
        let yaml = RUBRIC
            .replace("grades: [0, 1]", "grades: [0, 1], shows: [question, passages, answer]")
            .replace("references: answers, people: votes.ann", "corpus: c.jsonl");
        let row = |ids: &str| {
            format!(
                r#"{{"id":"a","input":"q","reference":"yes","context_ids":[{ids}],"meta":{{"response":"z"}}}}"#
            )
        };
        let loaded = read(&yaml, &row("\"d\"")).unwrap();
        assert_eq!(loaded.rows[0].sample.input, "q");
        let shown = &loaded.rows[0].passages;
        assert_eq!((shown[0].title.as_str(), shown[0].text.as_str()), ("T", "text"));
        check(&yaml, &row(""), "sample `a`: it names no document");
    }

    #[test]
    fn samples_that_cannot_be_judged_are_named() {
        let graded = |reference: &str, meta: &str| {
            format!(r#"{{"id":"a","input":"q","reference":"{reference}","meta":{{{meta}}}}}"#)
        };
        let meta = r#""answers":"x","response":"z","votes":{"ann":[]}"#;
        check(RUBRIC, &graded("perhaps", meta), "sample `a`: the label \"perhaps\" is no grade");
        check(RUBRIC, &graded("7", meta), "the label 7 is not on the scale 0, 1");
        check(RUBRIC, &graded("yes", r#""response":"z""#), "there is no `meta.answers`");
        check(
            RUBRIC,
            &graded("yes", r#""answers":"x","votes":{"ann":[]}"#),
            "there is no `meta.response`",
        );
        check(PAIRS, &graded("1", r#""votes":[]"#), "`choices` holds 0");
        check(
            PAIRS,
            r#"{"id":"a","input":"q","reference":"3","choices":["x","y"],"meta":{"votes":[]}}"#,
            "none of `1`, `2` and `tie`",
        );
        check(
            PAIRS,
            r#"{"id":"a","input":"q","reference":"1","choices":["x","y"],"context_ids":["e"],"meta":{"votes":[]}}"#,
            "no document `e`",
        );
        check(
            &RUBRIC.replace("'0 wrong, 1 right'", "be fair"),
            &graded("yes", meta),
            "does not say what grade",
        );
    }
}
