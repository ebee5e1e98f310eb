//! What people say of answers: the lines of a report's `labels.jsonl`, which `bench view` appends
//! and a judge is checked against. Knows no file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::dataset::RowError;
use crate::record::TrialId;

/// One thing that one person said of one answer, or of two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// The eval set.
    pub set: String,
    /// The sample.
    pub sample: String,
    /// The arm whose answer it is about.
    pub arm: String,
    /// The repeat, counted from 0.
    #[serde(default)]
    pub repeat: u32,
    /// The training seed; 0 for arms that are not trained.
    #[serde(default)]
    pub train_seed: u64,
    /// Which question was put.
    pub kind: Kind,
    /// For a pairwise label, the arm whose answer was shown beside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// For a pairwise label, the training seed of `against`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub against_seed: u64,
    /// The figure, see [`Kind`]; `None` takes an earlier label back.
    pub value: Option<f64>,
    /// Who said so.
    #[serde(default)]
    pub grader: String,
    /// The answer itself: a label counts for an arm only while it still answers so.
    #[serde(default)]
    pub answer: String,
    /// When, as RFC 3339 in UTC.
    #[serde(default)]
    pub time: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(seed: &u64) -> bool {
    *seed == 0
}

/// The questions that can be put to a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Good or bad: 1 or 0.
    Thumbs,
    /// From 1, the worst, to 5, the best.
    Rating,
    /// Which of two answers is better: 1 the arm's, 0 that of `against`, 0.5 neither.
    Pairwise,
}

/// A label that says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A line that is not a label.
    #[error("line {line} is not a label: {why}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Why.
        why: String,
    },
    /// A value that the kind does not have.
    #[error("a {kind} label cannot be {value}: give {range}")]
    Value {
        /// The kind.
        kind: &'static str,
        /// The value.
        value: String,
        /// What it may be.
        range: &'static str,
    },
    /// A pairwise label without its other arm, or another one with it.
    #[error("`against` names the other arm of a pairwise label, and of no other kind")]
    Against,
}

impl Label {
    /// Checks that the value is one that its kind has.
    ///
    /// # Errors
    /// A value out of range, a pairwise label without another arm.
    pub fn check(&self) -> Result<(), LabelError> {
        let (kind, range, fits): (_, _, fn(f64) -> bool) = match self.kind {
            Kind::Thumbs => ("thumbs", "0 or 1", |v| [0.0, 1.0].contains(&v)),
            Kind::Rating => ("rating", "a whole number from 1 to 5", |v| {
                (1.0..=5.0).contains(&v) && v.fract() == 0.0
            }),
            Kind::Pairwise => ("pairwise", "0, 0.5 or 1", |v| [0.0, 0.5, 1.0].contains(&v)),
        };
        if let Some(value) = self.value.filter(|value| !fits(*value)) {
            return Err(LabelError::Value { kind, value: value.to_string(), range });
        }
        let other = self.against.as_ref().map(|arm| (arm, self.against_seed));
        let is_itself = other == Some((&self.arm, self.train_seed));
        if (self.kind == Kind::Pairwise) == other.is_some() && !is_itself {
            Ok(())
        } else {
            Err(LabelError::Against)
        }
    }

    /// The value on a scale from 0 to 1, as scorers use it.
    pub fn score(&self) -> Option<f64> {
        self.value.map(|value| match self.kind {
            Kind::Thumbs | Kind::Pairwise => value,
            Kind::Rating => (value - 1.0) / 4.0,
        })
    }

    /// The value as a grade of a judge whose scale is `grades`, worst to best: thumbs fit a scale
    /// of two grades, a rating one of five.
    pub fn grade_on(&self, grades: &[u32]) -> Option<u32> {
        let (at, steps) = match self.kind {
            Kind::Thumbs => (self.value?, 2),
            Kind::Rating => (self.value? - 1.0, 5),
            Kind::Pairwise => return None,
        };
        if grades.len() == steps { grades.get(at as usize).copied() } else { None }
    }

    /// The trial it is about.
    pub fn trial(&self) -> TrialId {
        TrialId {
            set: self.set.clone(),
            arm: self.arm.clone(),
            sample: self.sample.clone(),
            repeat: self.repeat,
            train_seed: self.train_seed,
        }
    }
}

/// Reads a `labels.jsonl`. Empty lines are passed over.
///
/// # Errors
/// The first line that is not a label, by its number.
pub fn read(text: &str) -> Result<Vec<Label>, LabelError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = lines.map(|(at, line)| {
        let wrong = |why: String| LabelError::Line { line: at + 1, why };
        let label: Label = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        label.check().map_err(|error| wrong(error.to_string()))?;
        Ok(label)
    });
    read.collect()
}

/// The same file with the labels that count as grades of a judge whose scale is `grades`: each of
/// them gets a `grade`, or a null one where it does not fit the scale, was taken back or has been
/// replaced by a later line. Lines that have no `kind` stay as they are, and every line its number.
///
/// # Errors
/// Every line that has a `kind` and is no label.
pub fn on_scale(text: &str, grades: &[u32]) -> Result<String, Vec<RowError>> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let (mut last, mut errors) = (BTreeMap::new(), Vec::new());
    for (at, line) in lines.iter_mut().enumerate() {
        let is_label = serde_json::from_str::<serde_json::Value>(line)
            .is_ok_and(|value| value.get("kind").is_some());
        if !is_label {
            continue;
        }
        let label = serde_json::from_str::<Label>(line).map_err(|error| error.to_string());
        match label.and_then(|label| label.check().map(|()| label).map_err(|e| e.to_string())) {
            Ok(label) => {
                let other = (label.against.clone(), label.against_seed);
                let key = (label.trial(), label.kind, other, label.grader.clone());
                last.insert(key, (at, label));
                "{\"arm\":\"\",\"sample\":\"\",\"grade\":null}".clone_into(line);
            }
            Err(message) => errors.push(RowError { line: at + 1, message }),
        }
    }
    for (at, label) in last.into_values() {
        let grade = label.grade_on(grades);
        lines[at] = serde_json::json!({
            "set": label.set, "arm": label.arm, "sample": label.sample, "repeat": label.repeat,
            "train_seed": label.train_seed, "grade": grade, "grader": label.grader,
            "answer": label.answer,
        })
        .to_string();
    }
    if errors.is_empty() { Ok(lines.join("\n")) } else { Err(errors) }
}

/// The labels that count: of each person, answer and question the last one, unless it takes the
/// earlier ones back. Ordered by trial.
pub fn standing(labels: &[Label]) -> Vec<&Label> {
    let mut last = BTreeMap::new();
    for label in labels {
        let other = (&label.against, label.against_seed);
        last.insert((label.trial(), label.kind, other, &label.grader), label);
    }
    last.into_values().filter(|label| label.value.is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        r#"{"set":"s","sample":"1","arm":"rag","kind":"rating","value":4,"grader":"ann"}"#;

    #[track_caller]
    fn check(line: &str, error: &str) {
        assert_eq!(read(line).unwrap_err().to_string(), error);
    }

    #[test]
    fn the_last_word_of_a_person_counts() {
        let other = LINE.replace("ann", "bob");
        let back = LINE.replace('4', "null").replace("ann", "bob");
        let better = LINE.replace(":4", ":5");
        let labels = read(&[LINE, "", &other, &better, &back].join("\n")).unwrap();
        let standing = standing(&labels);
        assert_eq!(labels.len(), 4);
        assert_eq!(standing.len(), 1);
        assert_eq!(standing[0].score(), Some(1.0));
        assert_eq!(standing[0].grader, "ann");
    }

    #[test]
    fn a_judge_gets_grades_on_its_scale_with_the_line_numbers_kept() {
        let own = r#"{"arm":"a","sample":"2","grade":3}"#;
        let thumbs = LINE.replace("rating", "thumbs").replace(":4", ":1");
        let text = [LINE, "", own, &LINE.replace(":4", ":5"), &thumbs].join("\n");
        let grades = |scale: &[u32]| -> Vec<Option<u64>> {
            let lines = on_scale(&text, scale).unwrap();
            let grade = |line: &str| -> Option<u64> {
                serde_json::from_str::<serde_json::Value>(line).ok()?["grade"].as_u64()
            };
            lines.split('\n').map(grade).collect()
        };
        assert_eq!(grades(&[1, 2, 3, 4, 5]), [None, None, Some(3), Some(5), None]);
        assert_eq!(grades(&[0, 1]), [None, None, Some(3), None, Some(1)]);
        assert_eq!(grades(&[0, 1, 2]), [None, None, Some(3), None, None]);
        let errors = on_scale(&LINE.replace(":4", ":9"), &[0, 1]).unwrap_err();
        assert_eq!((errors.len(), errors[0].line), (1, 1));
    }

    #[test]
    fn a_line_survives_being_written_and_read() {
        let label = Label {
            kind: Kind::Pairwise,
            against: Some("lora".into()),
            against_seed: u64::MAX,
            value: Some(0.5),
            answer: "nine".into(),
            ..read(LINE).unwrap().remove(0)
        };
        let line = serde_json::to_string(&label).unwrap();
        assert_eq!(read(&line).unwrap(), [label]);
    }

    #[test]
    fn what_is_no_label_is_refused_by_its_line() {
        check(
            &format!("{LINE}\n{}", LINE.replace(":4", ":6")),
            "line 2 is not a label: a rating label cannot be 6: give a whole number from 1 to 5",
        );
        check(
            &LINE.replace("rating", "pairwise").replace(":4", ":1"),
            "line 1 is not a label: `against` names the other arm of a pairwise label, and of no other kind",
        );
        assert!(
            read("{}").unwrap_err().to_string().starts_with("line 1 is not a label: missing field")
        );
    }
}
