//! What a report says of its judge, of runs that stop early and of repeats.

use std::collections::BTreeMap;

use bench_core::judging::{JudgedItem, JudgedItems, Measured, NO_PASSAGES};
use bench_core::manifest::{JudgingEntry, Machine, Manifest, ModelEntry, StopEntry};
use bench_core::record::{PairVerdict, Preference, Record, Verdict};
use bench_core::spec::{Judge, Scorer, StopWhen};
use bench_report::{judge_report, settled};
use serde_json::json;

use crate::synthetic::{arm, run, two_arms};
use crate::{built, keep, text};

/// A run of `n` samples whose judge gives 1 to what `contains` calls right and decides.
fn judged(n: usize, judge: serde_json::Value) -> (Manifest, Vec<Record>) {
    let (mut manifest, mut records) = run(&two_arms(), n);
    records.retain(|record| record.trial.set == "facts");
    manifest.experiment.eval_sets.truncate(1);
    manifest.experiment.eval_sets[0].scorers = vec![Scorer::Judge {}, Scorer::Contains {}];
    manifest.experiment.gates.clear();
    manifest.experiment.judge = Some(serde_json::from_value::<Judge>(judge).unwrap());
    for record in &mut records {
        let right = record.verdicts["contains"].clone();
        record.verdicts.insert("judge".into(), right);
    }
    (manifest, records)
}

/// Grades of people for every second sample: the judge's own, but turned round on the first
/// `wrong` samples.
fn label(records: &mut [Record], wrong: usize) {
    for record in records {
        let sample: usize = record.trial.sample.rsplit('-').next().unwrap().parse().unwrap();
        if sample.is_multiple_of(2) {
            let judge = record.verdicts["judge"].value().unwrap();
            let human = if sample < wrong { 1.0 - judge } else { judge };
            record.verdicts.insert("human".into(), Verdict::scored(human));
        }
    }
}

fn grader() -> serde_json::Value {
    json!({ "model": "grader", "rubric": "r", "grades": [0, 1] })
}

fn with(mut judge: serde_json::Value, key: &str, value: serde_json::Value) -> serde_json::Value {
    judge[key] = value;
    judge
}

#[test]
fn a_judge_under_its_floor_is_shown_and_never_decides() {
    let floor = with(grader(), "min_judge_agreement", json!(0.8));
    let (manifest, unlabelled) = judged(80, floor);
    let decision = |records: &[Record]| {
        let report = built(&manifest, records);
        assert!(text(&report, "report.md").contains("| judge | rag |"));
        report.decisions[0].decision.clone()
    };
    let mut good = unlabelled.clone();
    label(&mut good, 4);
    assert_eq!(decision(&good).winner.as_deref(), Some("rag"));
    let mut bad = unlabelled.clone();
    label(&mut bad, 40);
    let barred = decision(&bad);
    assert_eq!(barred.winner, None);
    assert!(
        barred.reason.contains(
            "agrees with people on 50 % of 80 labelled answers, which may be as little as 3"
        ),
        "{}",
        barred.reason
    );
    let unknown = decision(&unlabelled);
    assert_eq!(unknown.winner, None);
    assert!(unknown.reason.contains("nobody knows how far"), "{}", unknown.reason);
}

#[test]
fn a_floor_is_held_against_the_lower_end_of_the_agreement() {
    let reason = |floor: f64, labelled: &[&str]| {
        let (manifest, mut records) =
            judged(80, with(grader(), "min_judge_agreement", json!(floor)));
        for record in &mut records {
            let name = format!("{} {}", record.trial.arm, record.trial.sample);
            if labelled.contains(&name.as_str()) {
                let judge = record.verdicts["judge"].clone();
                record.verdicts.insert("human".into(), judge);
            }
        }
        built(&manifest, &records).decisions[0].decision.reason.clone()
    };
    let two = ["rag facts-001", "rag facts-002"];
    assert_eq!(
        reason(0.8, &two),
        "undecided: the judge agrees with people on 100 % of 2 labelled answers, which may be as little as 34 % (lower end of the 95 % interval), under its floor of 80 %"
    );
    assert!(reason(0.3, &two).starts_with("use rag"));
    // Two answers to one sample are not two samples.
    let one = ["rag facts-001", "zero_shot facts-001"];
    assert!(reason(0.3, &one).contains("as little as 0 %"), "{}", reason(0.3, &one));
}

#[test]
fn a_card_in_a_run_draws_samples_and_not_answers() {
    let width = |arms: &[&str]| {
        let (mut manifest, mut records) = judged(80, grader());
        manifest.experiment.arms.truncate(arms.len());
        records.retain(|record| arms.contains(&record.trial.arm.as_str()));
        for record in &mut records {
            let sample: usize = record.trial.sample.rsplit('-').next().unwrap().parse().unwrap();
            // Both arms answer alike, so that the second adds nothing.
            let judge = sample.is_multiple_of(3);
            let human = judge && !sample.is_multiple_of(4);
            for (name, right) in [("judge", judge), ("human", human)] {
                record.verdicts.insert(name.into(), Verdict::scored(f64::from(u8::from(right))));
            }
        }
        let table = text(&built(&manifest, &records), "tables/judge.csv");
        ["agreement", "kappa", "alpha"].map(|figure| {
            let row = table.lines().find(|line| line.contains(&format!(",{figure},"))).unwrap();
            let cells: Vec<&str> = row.split(',').collect();
            cells[6].parse::<f64>().unwrap() - cells[5].parse::<f64>().unwrap()
        })
    };
    let (one, two) = (width(&["zero_shot"]), width(&["zero_shot", "rag"]));
    for (one, two) in one.iter().zip(two) {
        // If answers were drawn, it would be less by the root of two.
        assert!((0.9..1.1).contains(&(two / one)), "{one} {two}");
    }
}

#[test]
fn a_confusion_matrix_can_lift_a_judge_over_its_floor() {
    let matrix = |right: u32| json!({ "true_positive": right, "false_negative": 10, "true_negative": right, "false_positive": 10 });
    let winner = |right: u32| {
        let judge = with(grader(), "min_judge_agreement", json!(0.8));
        let (manifest, records) = judged(80, with(judge, "confusion", matrix(right)));
        built(&manifest, &records).decisions[0].decision.winner.clone()
    };
    assert_eq!(winner(90).as_deref(), Some("rag"));
    assert_eq!(winner(20), None);
}

#[test]
fn people_s_grades_correct_the_judge_s() {
    let (manifest, mut records) = judged(200, grader());
    // A judge that takes every third wrong answer for a right one.
    for (at, record) in records.iter_mut().enumerate() {
        let truth = record.verdicts["contains"].value().unwrap();
        if at.is_multiple_of(2) {
            record.verdicts.insert("human".into(), Verdict::scored(truth));
        }
        if truth < 0.5 && at.is_multiple_of(3) {
            record.verdicts.insert("judge".into(), Verdict::scored(1.0));
        }
    }
    let truth = |arm: &str| {
        let own: Vec<f64> = records
            .iter()
            .filter(|r| r.trial.arm == arm)
            .map(|r| r.verdicts["contains"].value().unwrap())
            .collect();
        own.iter().sum::<f64>() / own.len() as f64
    };
    let report = built(&manifest, &records);
    keep(&report, "corrected");
    let table = text(&report, "tables/corrected.csv");
    let row = table.lines().find(|line| line.contains(",zero_shot,ppi,")).unwrap();
    let cells: Vec<f64> = row.split(',').skip(3).map(|cell| cell.parse().unwrap()).collect();
    let [judged, labelled, by_judge, corrected, _, low, high, ..] = cells[..] else { panic!() };
    assert!((judged, labelled) == (200.0, 100.0));
    assert!(by_judge > truth("zero_shot") + 0.15, "{row}");
    assert!((corrected - truth("zero_shot")).abs() < 0.07, "{row}");
    assert!(low < truth("zero_shot") && truth("zero_shot") < high, "{row}");
    let page = text(&report, "report.md");
    for words in [
        "Judge scores corrected by people",
        "prediction-powered",
        "Judge report card",
        "Cohen's kappa",
    ] {
        assert!(page.contains(words), "{words}");
    }
}

#[test]
fn a_confusion_matrix_corrects_where_there_are_no_labels() {
    let matrix = json!({ "true_positive": 80, "false_negative": 20, "true_negative": 90, "false_positive": 10 });
    let (manifest, records) = judged(60, with(grader(), "confusion", matrix));
    let table = text(&built(&manifest, &records), "tables/corrected.csv");
    assert!(table.contains(",rag,rogan_gladen,60,200,"), "{table}");
    // One that may be no better than chance corrects nothing, nor does one of a few samples, and the
    // page says why.
    for (right, wrong, words) in [
        (26, 24, Some("sensitivity + specificity - 1 is 0.04")),
        (48, 2, None),
        (45, 4, Some("98 labels are too few: 100 are the least")),
    ] {
        let matrix = json!({ "true_positive": right, "false_negative": wrong, "true_negative": right, "false_positive": wrong });
        let (manifest, records) = judged(60, with(grader(), "confusion", matrix));
        let report = built(&manifest, &records);
        let is_corrected = report.files.iter().any(|(path, _)| path == "tables/corrected.csv");
        let page = text(&report, "report.md");
        assert_eq!(is_corrected, words.is_none(), "{page}");
        assert_eq!(page.contains("are not corrected"), words.is_some(), "{page}");
        assert!(words.is_none_or(|words| page.contains(words)), "{page}");
    }
}

#[test]
fn a_few_labels_correct_nothing_and_the_page_says_how_many_it_takes() {
    let page_of = |labelled: usize, grades: serde_json::Value| {
        let (manifest, mut records) = judged(240, with(grader(), "grades", grades));
        for record in &mut records {
            let sample: usize = record.trial.sample.rsplit('-').next().unwrap().parse().unwrap();
            let graded = manifest.experiment.judge.as_ref().unwrap().grades.len() > 2;
            let judge = record.verdicts["judge"].value().unwrap();
            let between = if graded && sample.is_multiple_of(7) { 0.5 } else { judge };
            record.verdicts.insert("judge".into(), Verdict::scored(between));
            if sample < labelled {
                record.verdicts.insert("human".into(), Verdict::scored(between));
            }
        }
        let report = built(&manifest, &records);
        let is_corrected = report.files.iter().any(|(path, _)| path == "tables/corrected.csv");
        (is_corrected, text(&report, "report.md"))
    };
    for (grades, least) in [(json!([0, 1]), 100), (json!([1, 3, 5]), 200)] {
        let (is_corrected, page) = page_of(least - 1, grades.clone());
        let words = format!("{} labels are too few: {least} are the least", least - 1);
        assert!(!is_corrected && page.contains(&words), "{page}");
        let (is_corrected, page) = page_of(least, grades);
        assert!(is_corrected && !page.contains("too few"), "{page}");
    }
}

#[test]
fn a_confusion_matrix_of_other_answers_is_refused_for_the_arms_that_contradict_it() {
    let matrix = json!({ "true_positive": 900, "false_negative": 100, "true_negative": 900, "false_positive": 100 });
    let (manifest, mut records) = judged(60, with(grader(), "confusion", matrix));
    for record in &mut records {
        if record.trial.arm == "rag" {
            record.verdicts.insert("judge".into(), Verdict::scored(1.0));
        }
    }
    let report = built(&manifest, &records);
    let table = text(&report, "tables/corrected.csv");
    assert!(!table.contains(",rag,") && table.contains(",zero_shot,rogan_gladen,"), "{table}");
    let page = text(&report, "report.md");
    let words = "it passed 1.00 of the answers, but 0.10 of wrong and 0.90 of right ones";
    assert_eq!(page.matches(words).count(), 1, "{page}");
}

#[test]
fn few_judged_samples_and_a_judge_of_its_own_model_are_said_before_any_number() {
    let own = with(with(grader(), "model", json!("small")), "allow_self_judging", json!(true));
    let (manifest, records) = judged(12, own);
    let report = built(&manifest, &records);
    let page = text(&report, "report.md");
    assert!(page.contains("the judge scored only 12 samples of an arm"), "{page}");
    assert!(page.contains("is also the model of arm"), "{page}");
    // Every table says so.
    for path in ["tables/summary.csv", "tables/pairs.csv", "tables/slices.csv"] {
        let table = text(&report, path);
        assert!(table.contains("judge (judges itself)"), "{path}");
        assert!(!table.contains(",judge,"), "{path}");
    }
    assert!(page.contains("| judge (judges itself) | rag |"), "{page}");
}

#[test]
fn a_jury_prints_how_far_its_members_agree() {
    let jury = json!({ "judges": ["one", "two"], "rubric": "r", "grades": [0, 1] });
    let (mut manifest, mut records) = judged(40, jury);
    for (at, record) in records.iter_mut().enumerate() {
        let one = record.verdicts["judge"].clone();
        let turned = Verdict::scored(1.0 - one.value().unwrap());
        let two = if at.is_multiple_of(10) { turned } else { one.clone() };
        record.verdicts.insert("judge/one".into(), one);
        record.verdicts.insert("judge/two".into(), two);
    }
    manifest.judging = vec![JudgingEntry {
        judge: "one".into(),
        judgements: 80,
        latency_ms: 40_000.0,
        tokens_in: 80_000,
        tokens_out: 800,
    }];
    let report = built(&manifest, &records);
    let card = text(&report, "tables/judge.csv");
    let alpha =
        card.lines().find(|line| line.starts_with("facts,jury,alpha_within_jury,80,")).unwrap();
    let value: f64 = alpha.split(',').nth(4).unwrap().parse().unwrap();
    assert!((0.7..0.9).contains(&value), "{alpha}");
    assert!(card.contains("facts,one,seconds_per_1000,,500.000000,,"), "{card}");
    assert!(text(&report, "tables/summary.csv").contains(",judge/two,"));
    assert!(text(&report, "report.md").contains("Krippendorff's alpha among its members"));
}

#[test]
fn a_criterion_is_a_score_of_its_own_and_decides_nothing() {
    let criteria = json!({
        "faithfulness": { "rubric": "r", "shows": ["question", "passages", "answer"] }
    });
    let (manifest, mut records) = judged(40, with(grader(), "criteria", criteria));
    let decided = |records: &[Record]| {
        let report = built(&manifest, records);
        (format!("{:?}", report.decisions[0].decision), text(&report, "tables/summary.csv"))
    };
    let (before, _) = decided(&records);
    let bare = records[0].trial.arm.clone();
    for record in &mut records {
        let without = record.trial.arm == bare;
        let verdict = if without { Verdict::unscored(NO_PASSAGES) } else { Verdict::scored(0.5) };
        record.verdicts.insert("judge:faithfulness".into(), verdict);
    }
    let (after, summary) = decided(&records);
    assert_eq!(before, after);
    let rows: Vec<&str> =
        summary.lines().filter(|line| line.contains(",judge:faithfulness,")).collect();
    assert!(rows.iter().any(|row| row.contains("0.500000")), "{summary}");
    // An answer without passages is no failure, and nothing would be gained by asking again.
    assert_eq!(bench_report::failures(&records), [""; 0]);
    let broken = Verdict::unscored("no grade");
    records[0].verdicts.insert("judge:faithfulness".into(), broken);
    let failures = bench_report::failures(&records);
    let answers = records.iter().filter(|record| record.trial.arm != bare).count();
    let all = records.len() + answers + 1;
    assert!(failures[0].starts_with(&format!("1 of {all} judgements failed")), "{failures:?}");
}

fn pairwise(n: usize, wins: &dyn Fn(usize) -> Preference) -> (Manifest, Vec<Record>) {
    let judge = json!({ "model": "grader", "mode": "pairwise", "rubric": "r" });
    let (manifest, mut records) = judged(n, judge);
    for (at, record) in records.iter_mut().filter(|r| r.trial.arm == "zero_shot").enumerate() {
        record.preferences = vec![PairVerdict {
            against: "rag".into(),
            judge: "grader".into(),
            preference: wins(at),
        }];
    }
    (manifest, records)
}

#[test]
fn preferences_become_strengths_with_intervals() {
    let (manifest, records) = pairwise(40, &|at| match at % 8 {
        0 => Preference::First,
        1 => Preference::Tie { consistent: false },
        2 => Preference::Unscored { reason: "no preference".into() },
        _ => Preference::Second,
    });
    let report = built(&manifest, &records);
    keep(&report, "pairwise");
    let table = text(&report, "tables/bradley_terry.csv");
    let strength = |arm: &str| -> f64 {
        let row = table.lines().find(|line| line.starts_with(&format!("facts,{arm},"))).unwrap();
        row.split(',').nth(2).unwrap().parse().unwrap()
    };
    // 27.5 wins of 35 for the second arm.
    let expect = (27.5_f64 / 7.5).ln() / 2.0;
    assert!((strength("rag") - expect).abs() < 1e-3, "{table}");
    let page = text(&report, "report.md");
    assert!(page.contains("from 35 comparisons"), "{page}");
    assert!(page.contains("survives the other order"), "{page}");
    let trials = report.files.iter().find(|(path, _)| path == "tables/trials.parquet").unwrap();
    assert_eq!(bench_report::read_trials(&trials.1).unwrap().len(), records.len());
    assert!(
        bench_report::read_trials(&trials.1).unwrap().iter().any(|r| !r.preferences.is_empty())
    );
}

#[test]
fn an_arm_that_never_lost_has_no_strength_and_the_page_says_why() {
    let (manifest, records) = pairwise(20, &|_| Preference::Second);
    let page = text(&built(&manifest, &records), "report.md");
    assert!(page.contains("There are no strengths: nothing ties"), "{page}");
}

#[test]
fn a_run_that_stopped_early_decides_by_what_holds_at_every_look() {
    let (mut manifest, records) = judged(300, grader());
    manifest.experiment.run.stop = Some(StopWhen { decided: true, ..StopWhen::default() });
    manifest.stopped = vec![StopEntry {
        set: "facts".into(),
        asked: 300,
        samples: 900,
        because: "rag is surely better than every other arm".into(),
    }];
    let report = built(&manifest, &records);
    let page = text(&report, "report.md");
    assert!(
        page.contains("The run stopped after 300 of 900 samples: rag is surely better"),
        "{page}"
    );
    assert_eq!(report.decisions[0].decision.winner.as_deref(), Some("rag"));
    let summary = text(&report, "tables/summary.csv");
    assert!(summary.lines().nth(1).unwrap().contains(",confidence_sequence,"), "{summary}");
    assert!(settled(&manifest.experiment, "facts", &records).is_some());
    assert_eq!(settled(&manifest.experiment, "facts", &records[..4]), None);
    // The same lead on few samples is not enough for them, whatever a fixed test says.
    let few: Vec<Record> =
        records.iter().filter(|r| r.trial.sample.as_str() < "facts-012").cloned().collect();
    assert_eq!(built(&manifest, &few).decisions[0].decision.winner, None);
}

#[test]
fn repeats_show_where_the_spread_comes_from() {
    let judge = with(with(grader(), "repeats", json!(2)), "temperature", json!(1.0));
    let (mut manifest, mut records) = judged(60, judge);
    manifest.experiment.run.epochs = 2.try_into().unwrap();
    let mut again = records.clone();
    for record in &mut again {
        record.trial.repeat = 1;
    }
    records.extend(again);
    for (at, record) in records.iter_mut().enumerate() {
        let value = record.verdicts["judge"].value().unwrap();
        let flip = if at.is_multiple_of(5) { 1.0 - value } else { value };
        record.verdicts.insert("judge#1".into(), Verdict::scored(value));
        record.verdicts.insert("judge#2".into(), Verdict::scored(flip));
    }
    let report = built(&manifest, &records);
    let table = text(&report, "tables/variances.csv");
    for source in ["samples", "generation seeds", "the judge"] {
        assert!(table.contains(&format!("facts,judge,rag,60,{source},")), "{table}");
    }
    assert!(text(&report, "report.md").contains("Where the spread comes from"));
    assert!(text(&report, "tables/judge.csv").contains(",self_consistency,"));
}

#[test]
fn an_arm_that_repeats_nothing_has_no_variances() {
    let arms = vec![arm("zero_shot", json!({"prompt": {}}), 0.2)];
    let (manifest, records) = run(&arms, 10);
    let report = built(&manifest, &records);
    assert!(report.files.iter().all(|(path, _)| !path.contains("variances")));
}

fn measured(judges: Vec<JudgedItems>) -> Measured {
    let calibration = json!({
        "version": 1,
        "name": "short",
        "models": { "small": { "catalog": "small" } },
        "judge": { "model": "small", "rubric": "r", "grades": [0, 1] },
        "labelled": { "path": "l.jsonl" },
    });
    Measured {
        format: 1,
        program: "bench 0".into(),
        calibration: serde_json::from_value(calibration).unwrap(),
        files: BTreeMap::new(),
        models: BTreeMap::from([(
            "small".into(),
            ModelEntry { id: "small-1b".into(), ..ModelEntry::default() },
        )]),
        machine: Machine::default(),
        judges,
        missing: 0,
    }
}

fn work(judge: &str, says: &dyn Fn(usize) -> Option<f64>) -> JudgedItems {
    let item = |at: usize| {
        let truth = f64::from(u8::from(at.is_multiple_of(2)));
        JudgedItem {
            id: at.to_string(),
            judge: vec![says(at)],
            label: Some(truth),
            people: vec![Some(truth), Some(if at.is_multiple_of(9) { 1.0 - truth } else { truth })],
            consistent: Vec::new(),
        }
    };
    JudgedItems {
        judge: judge.into(),
        items: (0..90).map(item).collect(),
        took: JudgingEntry { judgements: 90, latency_ms: 9000.0, ..JudgingEntry::default() },
        ..JudgedItems::default()
    }
}

#[test]
fn a_card_says_plainly_what_a_judge_is_worth() {
    let coin = work("coin", &|at| Some(f64::from(u8::from(at % 4 < 2))));
    let fair = work("fair", &|at| {
        Some(f64::from(u8::from((at.is_multiple_of(2)) != (at.is_multiple_of(15)))))
    });
    let mute = work("mute", &|_| None);
    let one = work("one", &|_| Some(1.0));
    let files = judge_report(&measured(vec![coin, fair, mute, one])).unwrap();
    let page = String::from_utf8(files[0].1.clone()).unwrap();
    for words in [
        "**coin** agrees with people on 50 %",
        "Chance explains its agreement",
        "**fair** agrees with people on 93 %",
        "two people agree on 89 %",
        "That is good agreement.",
        "**mute** gave nothing that could be compared",
        "**one** agrees with people on 50 %",
        "it tells nothing apart",
        "| seconds for 1,000 judgements | 100 | 100 | 100 | 100 |",
        "confusion: { true_positive: 42, false_negative: 3, true_negative: 42, false_positive: 3 }",
    ] {
        assert!(page.contains(words), "`{words}` is not in\n{page}");
    }
    let again: Measured = serde_json::from_slice(&files[2].1).unwrap();
    assert_eq!(judge_report(&again).unwrap(), files);
}
