//! Two runs against each other.

use bench_core::manifest::Manifest;
use bench_core::record::{Outcome, Record, Verdict};
use bench_core::spec::Scorer;
use bench_report::{RunComparison, Samples, Side, compare_runs};

use super::synthetic::{four_arms, run, two_arms};

type Run = (Manifest, Vec<Record>);

#[track_caller]
fn compared(before: &Run, after: &Run, samples: Samples) -> RunComparison {
    let side = |name, run: &'_ Run| -> (&'static str, Manifest, Vec<Record>) {
        (name, run.0.clone(), run.1.clone())
    };
    let (old, new) = (side("reports/before", before), side("reports/after", after));
    compare_runs(
        Side { name: old.0, manifest: &old.1, records: &old.2 },
        Side { name: new.0, manifest: &new.1, records: &new.2 },
        samples,
    )
    .unwrap()
}

/// The run, with all answers of an arm on samples that end in 0 to 4 turned wrong.
fn spoilt((mut manifest, mut records): Run, arm: &str) -> Run {
    for record in records.iter_mut().filter(|record| {
        record.trial.arm == arm && record.trial.sample.ends_with(['0', '1', '2', '3', '4'])
    }) {
        if let Outcome::Answered(answer) = &mut record.outcome {
            answer.text = "I | <b>cannot</b> say".into();
        }
        record.verdicts.values_mut().for_each(|verdict| *verdict = Verdict::scored(0.0));
    }
    manifest.experiment.generate.max_tokens = 16;
    manifest.program = "0.2.0".into();
    (manifest, records)
}

#[test]
fn an_arm_that_got_worse_is_named_with_its_flips_and_the_change() {
    let before = run(&two_arms(), 40);
    let after = spoilt(before.clone(), "rag");
    let comparison = compared(&before, &after, Samples::OfEqualFiles);
    assert!(comparison.is_comparable());
    assert_eq!(comparison.worse.len(), 2, "{:?}", comparison.worse);
    assert!(comparison.worse[0].starts_with("facts: rag contains -0."), "{:?}", comparison.worse);
    insta::assert_snapshot!("comparison", comparison.markdown().unwrap());
    let html = comparison.html().unwrap();
    assert!(html.contains("max_tokens") && !html.contains("<b>cannot"));
}

#[test]
fn a_run_against_itself_shows_no_difference() {
    let one = run(&four_arms(), 12);
    let comparison = compared(&one, &one, Samples::OfEqualFiles);
    assert_eq!((comparison.refused.len(), comparison.worse.len()), (0, 0));
    let page = comparison.markdown().unwrap();
    assert!(
        page.contains("[!NOTE]") && page.contains("nothing that the manifests record"),
        "{page}"
    );
    assert!(!page.contains(" lost, "), "{page}");
}

#[test]
fn only_samples_of_both_are_compared() {
    let (manifest, mut records) = run(&two_arms(), 12);
    let before = (manifest.clone(), records.clone());
    records.retain(|record| !record.trial.sample.ends_with('3'));
    let page = compared(&before, &(manifest, records), Samples::OfEqualFiles).markdown().unwrap();
    assert!(
        page.contains("11 samples are in both runs; the first has 12, the second 11"),
        "{page}"
    );
}

#[test]
fn what_is_not_comparable_is_refused_with_the_reason() {
    let one = run(&two_arms(), 6);
    let check = |change: &dyn Fn(&mut Run), samples: Samples, sets: bool, why: &str| {
        let mut other = one.clone();
        change(&mut other);
        let comparison = compared(&one, &other, samples);
        assert!(comparison.refused.iter().any(|r| r.contains(why)), "{:?}", comparison.refused);
        assert_eq!(comparison.is_comparable(), sets, "{why}");
        assert!(comparison.markdown().unwrap().contains("Not compared"));
    };
    let equal = Samples::OfEqualFiles;
    check(
        &|run| drop(run.0.files.insert("facts.jsonl".into(), "fb".repeat(32))),
        equal,
        true,
        "facts: the samples are not the same: `facts.jsonl` has digest",
    );
    check(
        &|run| run.1.iter_mut().for_each(|record| record.references = vec!["other".into()]),
        equal,
        false,
        "has another question or reference",
    );
    check(
        &|run| run.1.iter_mut().for_each(|record| record.input.push('?')),
        Samples::Common,
        false,
        "no sample in common",
    );
    check(
        &|run| run.0.experiment.eval_sets[0].scorers[0] = Scorer::ExactMatch { normalize: true },
        equal,
        true,
        "facts: `exact_match`, which decides here, differs: only the second run has it",
    );
    check(
        &|run| run.0.scorers.extend([("token_f1".into(), 2)]),
        equal,
        true,
        "facts, token_f1: scorer version 1 and then 2",
    );
    check(
        &|run| run.1.retain(|record| record.trial.arm == "nobody"),
        equal,
        false,
        "the runs have no sample in common",
    );
    check(
        &|run| {
            run.0.experiment.eval_sets[1].name = "other".into();
            for record in run.1.iter_mut().filter(|record| record.trial.set == "form") {
                record.trial.set = "other".into();
            }
        },
        equal,
        true,
        "other: only the second run has this eval set",
    );
}

#[test]
fn changed_data_can_be_compared_on_what_stayed_the_same() {
    let before = run(&two_arms(), 12);
    let mut after = before.clone();
    after.0.files.insert("facts.jsonl".into(), "fb".repeat(32));
    for record in after.1.iter_mut().filter(|record| record.trial.sample.ends_with('5')) {
        record.input = "Another question?".into();
    }
    let comparison = compared(&before, &after, Samples::Common);
    assert!(comparison.refused.is_empty(), "{:?}", comparison.refused);
    let page = comparison.markdown().unwrap();
    assert!(page.contains("11 samples are in both runs"), "{page}");
}

#[test]
fn a_comment_stays_short_enough_for_a_code_host() {
    let before = run(&super::synthetic::twelve_arms(), 400);
    let mut after = before.clone();
    for arm in before.0.experiment.arms.iter().map(|arm| arm.name.clone()) {
        after = spoilt(after, &arm);
    }
    for record in &mut after.1 {
        record.input = "long ".repeat(400);
    }
    let mut before = before;
    before.1.iter_mut().for_each(|record| record.input = "long ".repeat(400));
    let comparison = compared(&before, &after, Samples::OfEqualFiles);
    let page = comparison.markdown().unwrap();
    assert!(page.chars().count() <= 65_536, "{}", page.chars().count());
    assert!(comparison.html().unwrap().len() > page.len());
}
