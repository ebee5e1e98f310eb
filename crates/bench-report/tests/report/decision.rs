//! What the user wants besides score, from the experiment to the decision.

use std::collections::BTreeMap;

use bench_core::manifest::Manifest;
use bench_core::record::{Record, Verdict};
use bench_core::spec::{Constraints, StopWhen, Weights};
use serde_json::{Value, json};

use crate::synthetic::{arm, four_arms, run, twelve_arms, two_arms};
use crate::{built, text};

fn decided(constraints: Constraints, weights: Weights) -> (Value, String) {
    let (mut manifest, records) = run(&four_arms(), 60);
    manifest.experiment.eval_sets[1].retention = true;
    manifest.experiment.compare.constraints = constraints;
    manifest.experiment.compare.weights = weights;
    let report = built(&manifest, &records);
    let decision = serde_json::from_str(&text(&report, "decision.json")).unwrap();
    (decision, text(&report, "report.md"))
}

fn sentence<'v>(decision: &'v Value, arm: &str) -> &'v str {
    let arms = decision["sets"][0]["decision"]["arms"].as_array().unwrap();
    let found = arms.iter().find(|found| found["arm"].as_str().unwrap().starts_with(arm));
    found.unwrap()["sentence"].as_str().unwrap()
}

#[test]
fn limits_on_every_figure_are_told_and_kept() {
    let constraints = Constraints {
        min_quality: Some(0.3),
        min_retention: Some(1.01),
        max_training_cost: Some(100.0),
        ..Constraints::default()
    };
    let (decision, page) = decided(constraints, Weights::default());
    assert_eq!(decision["utility"]["constraints"]["min_retention"], 1.01);
    // What is not fine-tuned keeps all general skills; the trained arm's share was measured.
    let zero_shot = sentence(&decision, "zero_shot");
    assert_eq!(
        sentence(&decision, "rag"),
        "rag is out: its retention is 1, under the limit of 1.01",
        "{decision:#}"
    );
    assert!(
        zero_shot.starts_with("zero_shot is out: its lower end of the quality interval is 0."),
        "{zero_shot}"
    );
    assert!(
        page.contains(
            "The winner must keep: training cost at most 100, quality at least 0.3, retention at least 1.01."
        ),
        "{page}"
    );
    let cheap = Constraints { max_training_cost: Some(0.0), ..Constraints::default() };
    let (decision, _) = decided(cheap, Weights::default());
    let lora = sentence(&decision, "lora");
    assert!(lora.starts_with("lora is out: its training cost is 0."), "{lora}");
    assert_eq!(decision["sets"][0]["decision"]["winner"], "rag");
}

#[test]
fn a_weight_takes_its_cost_off_the_score() {
    // Dear enough that the spread between two trainings does not leave it open.
    let weights =
        Weights { retention: Some(0.5), training_cost: Some(1000.0), ..Weights::default() };
    let (decision, page) = decided(Constraints::default(), weights);
    assert_eq!(decision["utility"]["weights"]["retention"], 0.5);
    assert_eq!(decision["sets"][0]["decision"]["winner"], "rag", "{decision:#}");
    let lora = sentence(&decision, "lora");
    assert!(lora.contains("after costs"), "{lora}");
    assert!(
        page.contains(
            "Weighed against the score: 1000 for a unit of training cost, 0.5 for a unit of retention."
        ),
        "{page}"
    );
}

#[test]
fn without_wishes_only_scores_count_and_the_file_says_nothing_of_them() {
    let (decision, page) = decided(Constraints::default(), Weights::default());
    assert!(decision.get("utility").is_none());
    assert!(!page.contains("The winner must keep"));
}

#[test]
fn every_error_has_one_cause_and_says_what_could_help() {
    let (manifest, mut records) = run(&twelve_arms(), 40);
    for record in &mut records {
        // On the set of facts `contains` decides; nothing else looks at content alone.
        if record.trial.sample.ends_with('7') && record.trial.arm == "zero_shot" {
            record.verdicts.insert("human".into(), Verdict::scored(1.0));
        }
    }
    let report = built(&manifest, &records);
    let rows: Vec<Vec<String>> = text(&report, "tables/causes.csv")
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(str::to_owned).collect())
        .collect();
    let of = |arm: &str, cause: &str| -> usize {
        let mine = rows.iter().filter(|row| row[0] == "facts" && row[1] == arm && row[3] == cause);
        mine.map(|row| row[4].parse::<usize>().unwrap()).sum()
    };
    let wrong = |arm: &str| {
        let wrong = |record: &&Record| {
            record.trial.set == "facts"
                && record.trial.arm == arm
                && record.trial.repeat == 0
                && record.verdicts.get("contains").and_then(Verdict::value).is_some_and(|x| x < 0.5)
        };
        records.iter().filter(wrong).count()
    };
    for arm in ["zero_shot", "rag_dense_top_3", "rag_oracle_passages_as_a_control"] {
        let all: usize = CAUSES.iter().map(|cause| of(arm, cause)).sum();
        assert_eq!(all, wrong(arm), "{arm}: {rows:?}");
    }
    assert!(of("zero_shot", "judge_doubt") > 0);
    assert!(of("zero_shot", "knowledge_gap") > of("zero_shot", "reading_miss"));
    assert_eq!(of("zero_shot", "retrieval_miss"), 0);
    assert_eq!(of("rag_oracle_passages_as_a_control", "knowledge_gap"), 0);
    let page = text(&report, "report.md");
    assert!(page.contains("Why answers were wrong"), "{page}");
    assert!(page.contains("retrieval, or fine-tuning on the facts; not a prompt"), "{page}");
}

const CAUSES: [&str; 8] = [
    "form_miss",
    "not_in_corpus",
    "misled",
    "retrieval_miss",
    "reading_miss",
    "knowledge_gap",
    "judge_doubt",
    "untold",
];

/// Samples of the set of facts that an arm got wrong for each cause.
fn causes_of(manifest: &Manifest, records: &[Record], arm: &str) -> BTreeMap<String, usize> {
    let table = text(&built(manifest, records), "tables/causes.csv");
    let rows = table.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    rows.filter(|row| row[0] == "facts" && row[1] == arm)
        .map(|row| (row[3].to_owned(), row[4].parse().unwrap()))
        .collect()
}

#[test]
fn a_judge_that_nobody_has_measured_explains_nothing_away() {
    let (mut manifest, mut records) = run(&two_arms(), 60);
    let judge = json!({"model": "grader", "rubric": "r", "grades": [0, 1]});
    manifest.experiment.judge = serde_json::from_value(judge).unwrap();
    let before = causes_of(&manifest, &records, "rag");
    assert!(before["retrieval_miss"] > 0, "{before:?}");
    for record in &mut records {
        record.verdicts.insert("judge".into(), Verdict::scored(1.0));
    }
    assert_eq!(causes_of(&manifest, &records, "rag"), before);
    // One that keeps its floor is heard, and only where nothing else tells.
    manifest.experiment.judge.as_mut().unwrap().min_judge_agreement = Some(0.5);
    for record in records.iter_mut().filter(|r| r.verdicts["contains"].value() == Some(1.0)) {
        record.verdicts.insert("human".into(), Verdict::scored(1.0));
    }
    assert_eq!(causes_of(&manifest, &records, "rag"), before);
    for record in &mut records {
        record.gold.clear();
        record.retrieved.clear();
    }
    let heard = causes_of(&manifest, &records, "rag");
    assert_eq!(heard.keys().collect::<Vec<_>>(), ["judge_doubt"]);
    manifest.experiment.judge.as_mut().unwrap().min_judge_agreement = None;
    assert_eq!(causes_of(&manifest, &records, "rag")["untold"], heard["judge_doubt"]);
    // People always count.
    for record in &mut records {
        record.verdicts.insert("human".into(), Verdict::scored(1.0));
    }
    assert_eq!(causes_of(&manifest, &records, "rag"), heard);
}

#[test]
fn an_answer_that_the_corpus_does_not_hold_is_a_cause_of_its_own() {
    let (manifest, mut records) = run(&two_arms(), 60);
    let before = causes_of(&manifest, &records, "rag");
    for record in &mut records {
        record.unanswerable = true;
    }
    let found = causes_of(&manifest, &records, "rag");
    assert_eq!(found["not_in_corpus"], before.values().sum::<usize>());
    let page = text(&built(&manifest, &records), "report.md");
    assert!(page.contains("answer not in the corpus"), "{page}");
    assert!(page.contains("let the arm abstain"), "{page}");
}

#[test]
fn passages_that_mislead_are_told_by_the_control_without_any() {
    let mut arms = two_arms();
    arms.push(arm("closed_book", json!({"rag": {"passages": "closed_book"}}), 0.5));
    let (manifest, records) = run(&arms, 60);
    let right = |arm: &str| -> Vec<bool> {
        let own = records.iter().filter(|r| r.trial.set == "facts" && r.trial.arm == arm);
        own.map(|r| r.verdicts["contains"].value() == Some(1.0)).collect()
    };
    let pairs: Vec<(bool, bool)> = right("rag").into_iter().zip(right("closed_book")).collect();
    let found = causes_of(&manifest, &records, "rag");
    let misled = pairs.iter().filter(|(rag, alone)| !rag && *alone).count();
    assert!(misled > 0);
    assert_eq!(found["misled"], misled);
    let wrong = pairs.iter().filter(|(rag, _)| !rag).count();
    assert_eq!(found.values().sum::<usize>(), wrong);
    // Arms that show no passages are not misled by any.
    assert!(!causes_of(&manifest, &records, "zero_shot").contains_key("misled"));
    assert!(!causes_of(&manifest, &records, "closed_book").contains_key("misled"));
}

#[test]
fn every_pair_of_arms_has_its_flips() {
    let (manifest, records) = run(&four_arms(), 30);
    let report = built(&manifest, &records);
    let pairs = text(&report, "tables/pairs.csv");
    let flips = text(&report, "tables/flips.csv");
    let last = flips.lines().next().unwrap().split(',').count() - 1;
    assert!(flips.lines().next().unwrap().ends_with(",against"), "{flips}");
    let mut compared = 0;
    for row in pairs.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>()) {
        // Of the metric that decides.
        if row[0] != "facts" || row[1] != "contains" {
            continue;
        }
        let of = |arm: &str, against: &str| {
            let mut rows = flips.lines().map(|line| line.split(',').collect::<Vec<_>>());
            rows.by_ref()
                .filter(|flip| {
                    flip[0] == "facts" && flip[1] == arm && flip.get(last) == Some(&against)
                })
                .count()
        };
        let expect: usize = row[11].parse::<usize>().unwrap() + row[12].parse::<usize>().unwrap();
        assert_eq!(of(row[2], row[3]) + of(row[3], row[2]), expect, "{row:?}");
        compared += 1;
    }
    assert_eq!(compared, 15);
}

#[test]
fn the_first_lines_say_why_each_of_the_others_lost() {
    let (manifest, records) = run(&four_arms(), 120);
    let report = built(&manifest, &records);
    let page = text(&report, "report.md");
    let head = page.split("## ").next().unwrap();
    let decision = &report.decisions[0].decision;
    for arm in &decision.arms {
        let is_first = Some(&arm.arm) == decision.winner.as_ref() || arm.sentence.ends_with("won");
        let brief = arm.sentence.split("; about ").next().unwrap();
        assert!(is_first || head.contains(brief), "{brief}: {head}");
    }
    assert!(head.contains("- **facts, "), "{head}");
    assert!(text(&report, "report.html").contains("<strong>facts, "));
    // Two arms leave nobody to tell of where one has won.
    let (manifest, records) = run(&two_arms(), 60);
    let page = text(&built(&manifest, &records), "report.md");
    assert!(!page.contains("why the others lost"), "{page}");
    // Very many are cut short.
    let (manifest, records) = run(&twelve_arms(), 40);
    let page = text(&built(&manifest, &records), "report.md");
    assert!(page.split("## ").next().unwrap().contains(" more, told below."), "{page}");
}

/// A run of 200 samples of which the baseline gets half, and each training of `lora` so many of 20.
fn trained(of_twenty: &[usize]) -> (Manifest, Vec<Record>) {
    let seeds: Vec<usize> = (0..of_twenty.len()).collect();
    let arms = [
        arm("zero_shot", json!({"prompt": {}}), 0.5),
        arm("lora", json!({"finetune": {"seeds": seeds}}), 0.5),
    ];
    let (mut manifest, mut records) = run(&arms, 200);
    manifest.experiment.gates.clear();
    for record in &mut records {
        let sample: usize = record.trial.sample.rsplit('-').next().unwrap().parse().unwrap();
        let seed = record.trial.train_seed as usize;
        let right = match record.trial.arm.as_str() {
            "lora" => (sample * 7 + seed * 3) % 20 < of_twenty[seed],
            _ => (sample * 7) % 20 < 10,
        };
        let score = Verdict::scored(f64::from(u8::from(right)));
        record.verdicts = ["contains", "token_f1"].map(|name| (name.into(), score.clone())).into();
    }
    (manifest, records)
}

#[test]
fn a_recipe_whose_first_training_was_lucky_does_not_win() {
    let (manifest, records) = trained(&[16, 9, 9]);
    let report = built(&manifest, &records);
    let decision = &report.decisions[0].decision;
    assert_eq!(decision.winner, None, "{}", decision.reason);
    assert_eq!(decision.arms[1].arm, "lora");
    assert!(decision.probability_best["lora"] < 0.97, "{:?}", decision.probability_best);
    let page = text(&report, "report.md");
    for words in [
        "The highest mean is that of lora: it scores 0.567 on contains",
        "samples and the training seeds)",
        "An arm with several training seeds enters the decision as its recipe",
        "lora (seed 0)",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let seeds = text(&report, "tables/seeds.csv");
    let row: Vec<&str> = seeds.lines().nth(1).unwrap().split(',').collect();
    assert_eq!((row[2], row[3], row[12], row[14]), ("lora", "3", "zero_shot", "undecided"));
    // That training alone would have won: the seed is no arm of its own.
    let (manifest, records) = trained(&[16]);
    let report = built(&manifest, &records);
    assert_eq!(report.decisions[0].decision.winner.as_deref(), Some("lora"));
    assert!(!text(&report, "report.md").contains("training seeds"));
}

#[test]
fn a_recipe_that_is_better_with_every_seed_wins_under_its_own_name() {
    let (mut manifest, records) = trained(&[16, 17, 15]);
    let report = built(&manifest, &records);
    let decision = &report.decisions[0].decision;
    assert_eq!(decision.winner.as_deref(), Some("lora"), "{}", decision.reason);
    assert!(decision.reason.starts_with("use lora: lora beats zero_shot by 30.0 points"));
    assert!(decision.probability_best["lora"] > 0.99);
    let page = text(&report, "report.md");
    assert!(page.contains("It scores 0.800 on contains"), "{page}");
    assert!(page.contains("0.800, chosen"), "{page}");
    // A run that may stop early keeps the spread between seeds in its wider intervals.
    manifest.experiment.run.stop = Some(StopWhen { decided: true, ..StopWhen::default() });
    let stopped = built(&manifest, &records);
    assert_eq!(stopped.decisions[0].decision.winner.as_deref(), Some("lora"));
    let (mut manifest, records) = trained(&[16, 9, 9]);
    manifest.experiment.run.stop = Some(StopWhen { decided: true, ..StopWhen::default() });
    assert_eq!(built(&manifest, &records).decisions[0].decision.winner, None);
}

#[test]
fn clusters_weaken_a_recipe_as_they_weaken_an_arm() {
    let p = |clustered: bool| {
        let (manifest, mut records) = trained(&[13, 14, 12]);
        for record in records.iter_mut().filter(|_| clustered) {
            let sample: usize = record.trial.sample.rsplit('-').next().unwrap().parse().unwrap();
            // Samples of one residue are answered alike, so that only twenty say something.
            record.cluster = Some(format!("{}", sample % 20));
        }
        let table = text(&built(&manifest, &records), "tables/seeds.csv");
        let row: Vec<&str> = table.lines().nth(1).unwrap().split(',').collect();
        row[11].parse::<f64>().unwrap()
    };
    assert!(p(false) < 0.05 && p(true) > 0.05, "{} {}", p(false), p(true));
}
