//! What the user wants besides score, from the experiment to the decision.

use bench_core::manifest::Manifest;
use bench_core::record::{Record, Verdict};
use bench_core::spec::{Constraints, StopWhen, Weights};
use serde_json::{Value, json};

use crate::synthetic::{arm, four_arms, run, twelve_arms};
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

const CAUSES: [&str; 6] =
    ["form_miss", "judge_doubt", "retrieval_miss", "reading_miss", "knowledge_gap", "untold"];

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
