//! Files that say how a judge is measured on samples that people have judged.

use std::cell::RefCell;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{expanded, is_map};
use super::node::{Reader, did_you_mean};
use super::problem::{Problem, Source, SpecError};
use super::{Judge, JudgeMode, ModelSource, Price, Run, Shown};

/// A judge, or several beside each other, and samples with people's labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Version of the file's layout: 1.
    pub version: u32,
    /// Names the run and report folders; the file's own name when absent.
    #[serde(default)]
    pub name: String,
    /// What is measured, in a sentence or two; it opens the report card.
    #[serde(default)]
    pub description: String,
    /// The models, by the names the rest of the file uses.
    pub models: BTreeMap<String, ModelSource>,
    /// The judges and what they are asked. Each of `judges` gets a card, and all together one.
    pub judge: Judge,
    /// The labelled samples.
    pub labelled: Labelled,
    /// How it is carried out.
    #[serde(default)]
    pub run: Run,
    /// Prices, by model name.
    #[serde(default)]
    pub prices: BTreeMap<String, Price>,
}

/// Samples with people's labels (JSON Lines: `id`, `input`, `reference`, `choices`, `meta`).
///
/// A rubric judge grades `meta`'s answer; `reference` is people's label. A pairwise judge compares
/// the two `choices`; `reference` is `1`, `2` or `tie`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Labelled {
    /// The samples.
    pub path: String,
    /// Documents that `context_ids` name; they are shown to the judge before the question. Where
    /// `judge.shows` names `passages`, each stands by itself, as in a run.
    #[serde(default)]
    pub corpus: Option<String>,
    /// The meta field that holds the answer to grade.
    #[serde(default = "response")]
    pub answer: String,
    /// The meta field that holds the right answer or a list of right answers; none is shown when
    /// absent.
    #[serde(default)]
    pub references: Option<String>,
    /// The meta field that holds each person's label, as a list. Dots lead into it:
    /// `ratings.faithfulness`. In comparisons a number below 0 is for the first answer, above 0
    /// for the second.
    #[serde(default)]
    pub people: Option<String>,
    /// Grades by the labels' words; without it labels are grades.
    #[serde(default)]
    pub labels: BTreeMap<String, u32>,
    /// Use only this many samples, drawn with `run.seed`.
    #[serde(default)]
    pub limit: Option<u32>,
}

fn response() -> String {
    "response".into()
}

/// Whether a file is meant as one: it names labelled samples at its top, and no eval set.
pub fn is_calibration(text: &str) -> bool {
    let has = |key: &str| {
        text.lines()
            .filter_map(|line| line.strip_prefix(key))
            .any(|rest| rest.trim_start().starts_with(':'))
    };
    has("labelled") && !has("eval_sets")
}

/// Parses such a file; arguments and errors as for [`super::parse`].
///
/// # Errors
/// Everything that is wrong, each with its place and what to do.
pub fn parse_calibration(
    name: &str,
    stem: &str,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(Calibration, Source), Box<SpecError>> {
    let problems = RefCell::new(Vec::new());
    let root = expanded(name, text, environment, &problems)?;
    let calibration: Option<Calibration> = if is_map(&root, &problems) {
        Reader { node: &root, problems: &problems }.read()
    } else {
        None
    };
    let source = Source::new(name, text, Some(root));
    let mut problems = problems.into_inner();
    if let Some(mut calibration) = calibration {
        if calibration.name.is_empty() {
            stem.clone_into(&mut calibration.name);
        }
        problems.extend(check(&calibration, &source));
        if problems.is_empty() {
            return Ok((calibration, source));
        }
    }
    Err(Box::new(source.error(problems)))
}

/// The conditions that types cannot say.
fn check(calibration: &Calibration, source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |path: &[&str], message: String, label: &str, help: String| {
        problems.push(source.problem(path, message, label, help));
    };
    let Calibration { version, models, judge, labelled, .. } = calibration;
    if *version != 1 {
        let message = format!("version {version} of the file layout is not known");
        add(&["version"], message, "here", "this program reads `version: 1`".into());
    }
    if judge.model.is_empty() == judge.judges.is_empty() {
        let help = "give `model: …`, or `judges: [a, b]`".into();
        add(&["judge"], "the judge is not named once".into(), "here", help);
    } else {
        let known: Vec<&str> = models.keys().map(String::as_str).collect();
        for judge in judge.names().into_iter().filter(|judge| !known.contains(judge)) {
            let message = format!("there is no model `{judge}`");
            add(&["judge"], message, "not declared", did_you_mean(judge, &known));
        }
    }
    if judge.rubric.trim().is_empty() {
        let help = "say what each grade means, or what makes an answer better".into();
        add(&["judge", "rubric"], "the rubric is empty".into(), "here", help);
    }
    let rising = judge.grades.windows(2).all(|pair| pair[0] < pair[1]);
    if judge.grades.len() < 2 || !rising {
        let help = "at least two, worst to best, for example [1, 2, 3, 4, 5]".into();
        add(&["judge", "grades"], "the grades are no scale".into(), "here", help);
    }
    if judge.repeats.get() > 1 && judge.temperature <= 0.0 {
        let help = "give `temperature: 0.7`, or leave `repeats` out".into();
        let message = "a greedy judge says the same each time".into();
        add(&["judge", "repeats"], message, "with temperature 0", help);
    }
    for (key, given) in [
        ("on", judge.on.is_some()),
        ("sample", judge.sample.is_some()),
        ("labels", judge.labels.is_some()),
        ("confusion", judge.confusion.is_some()),
        ("pairs_per_sample", judge.pairs_per_sample.is_some()),
        ("min_judge_agreement", judge.min_judge_agreement.is_some()),
        ("criteria", !judge.criteria.is_empty()),
    ] {
        if given {
            let message = format!("`judge.{key}` belongs into an experiment");
            add(&["judge", key], message, "here", "leave it out; `labelled` says the rest".into());
        }
    }
    if !judge.shows.contains(&Shown::Answer) {
        let help = "add `answer` to `shows`".into();
        add(&["judge", "shows"], "the judge is not shown what it judges".into(), "here", help);
    }
    if judge.needs_passages() && judge.mode == JudgeMode::Pairwise {
        let help = "leave `passages` out; documents then stand with the question".into();
        add(&["judge", "shows"], "a pairwise judge is shown no passages".into(), "here", help);
    } else if judge.needs_passages() && labelled.corpus.is_none() {
        let help = "give `labelled.corpus`, which the samples' `context_ids` name".into();
        let message = "the judge is shown passages, and there is no corpus".into();
        add(&["judge", "shows"], message, "here", help);
    }
    for (word, grade) in &labelled.labels {
        if judge.mode == JudgeMode::Rubric && !judge.grades.contains(grade) {
            let message = format!("label `{word}` is grade {grade}, which the scale lacks");
            let help = "use the grades of `judge.grades`".into();
            add(&["labelled", "labels", word], message, "off the scale", help);
        }
    }
    if labelled.limit == Some(0) {
        let help = "leave it out, or give at least 1".into();
        add(&["labelled", "limit"], "no sample is used".into(), "0", help);
    }
    if calibration.run.max_concurrency == 0 {
        let message = "`run.max_concurrency` is out of range".into();
        add(&["run", "max_concurrency"], message, "here", "give at least 1".into());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "version: 1
models: { small: { catalog: small } }
judge: { model: small, rubric: '0 wrong, 1 right', grades: [0, 1] }
labelled: { path: l.jsonl, labels: { correct: 1, incorrect: 0 } }
";

    fn read(text: &str) -> Result<Calibration, Vec<String>> {
        parse_calibration("j.yaml", "j", text, &|_| None)
            .map(|(calibration, _)| calibration)
            .map_err(|error| error.problems().iter().map(ToString::to_string).collect())
    }

    #[track_caller]
    fn check_problem(from: &str, to: &str, expect: &str) {
        assert!(GOOD.contains(from), "{from}");
        assert_eq!(read(&GOOD.replacen(from, to, 1)).unwrap_err(), [expect]);
    }

    #[test]
    fn a_good_file_is_read_with_its_defaults() {
        let calibration = read(GOOD).unwrap();
        assert_eq!(
            (calibration.name.as_str(), calibration.labelled.answer.as_str()),
            ("j", "response")
        );
    }

    #[test]
    fn a_file_is_known_by_its_top_keys() {
        assert!(is_calibration(GOOD));
        assert!(is_calibration("# what\nlabelled :\n  path: l.jsonl\n"));
        assert!(!is_calibration("eval_sets: []\njudge:\n  labelled: no\n"));
        assert!(!is_calibration("labelled: x\neval_sets: []\n"));
    }

    #[test]
    fn mistakes_are_found_before_anything_is_judged() {
        check_problem("model: small,", "model: big,", "there is no model `big`");
        check_problem("model: small,", "", "the judge is not named once");
        check_problem("grades: [0, 1]", "grades: [1, 0]", "the grades are no scale");
        check_problem(
            "correct: 1",
            "correct: 2",
            "label `correct` is grade 2, which the scale lacks",
        );
        check_problem(
            "grades: [0, 1]",
            "grades: [0, 1], repeats: 2",
            "a greedy judge says the same each time",
        );
        check_problem(
            "grades: [0, 1]",
            "grades: [0, 1], on: [x]",
            "`judge.on` belongs into an experiment",
        );
        check_problem(
            "grades: [0, 1]",
            "grades: [0, 1], shows: [passages, answer]",
            "the judge is shown passages, and there is no corpus",
        );
        check_problem("path: l.jsonl,", "path: l.jsonl, limt: 3,", "unknown key `limt`");
        check_problem("version: 1", "version: 2", "version 2 of the file layout is not known");
    }
}
