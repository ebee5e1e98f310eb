use bench_core::spec::Experiment;

use super::*;
use crate::load;
use crate::scripted::{Quiet, ScriptedBackends};

struct Folder(tempfile::TempDir);

const EXPERIMENT: &str = "version: 1
models:
  m: { scripted: { otherwise: none, rules: [{ when: blue, say: sky }, { when: refuse, say: '!rejected' }] } }
  j: { scripted: { otherwise: '{\"reason\": \"fine\", \"grade\": 5}' } }
judge: { model: j, rubric: '1 is wrong, 5 is right' }
eval_sets: [{ name: s, path: e.jsonl, train: t.jsonl, scorers: [exact_match] }]
arms:
  - { name: zero, model: m, strategy: prompt }
  - { name: few, model: m, strategy: { prompt: { num_fewshot: 1 } } }
  - { name: tuned, model: m, strategy: { finetune: { seeds: [0, 1] } } }
compare: { baseline: zero }
run: { runs: RUNS }
";

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write(
            "e.jsonl",
            "{\"id\":\"a\",\"input\":\"what is blue?\",\"reference\":\"sky\"}\n{\"id\":\"b\",\"input\":\"please refuse\",\"reference\":\"x\"}\n{\"id\":\"c\",\"input\":\"learnt\",\"reference\":\"yes\"}\n",
        );
        folder.write("t.jsonl", "{\"input\":\"learnt\",\"reference\":\"yes\"}\n");
        let runs = folder.0.path().join("runs").display().to_string();
        folder.write("x.yaml", &EXPERIMENT.replace("RUNS", &runs));
        folder
    }

    fn write(&self, name: &str, text: &str) {
        fs_err::write(self.0.path().join(name), text).unwrap();
    }

    fn run(&self, options: &Options) -> Result<Finished, RunError> {
        let loaded = load(&self.0.path().join("x.yaml"), &|_| None, None).unwrap();
        run(&loaded, &ScriptedBackends, options, &Quiet, &Stop::default())
    }
}

fn find<'a>(finished: &'a Finished, arm: &str, sample: &str) -> &'a Record {
    let found = |record: &&Record| record.trial.arm == arm && record.trial.sample == sample;
    finished.records.iter().find(found).unwrap()
}

#[test]
fn every_trial_leaves_a_record_and_a_failed_one_says_why() {
    let finished = Folder::new().run(&Options::default()).unwrap();
    // Three samples for two plain arms and two training seeds.
    assert_eq!(finished.records.len(), 12);
    assert_eq!(find(&finished, "zero", "a").verdicts["exact_match"].value(), Some(1.0));
    assert_eq!(find(&finished, "tuned", "c").verdicts["exact_match"].value(), Some(1.0));
    assert_eq!(find(&finished, "zero", "c").verdicts["exact_match"].value(), Some(0.0));
    let Outcome::Failed { error } = &find(&finished, "zero", "b").outcome else {
        panic!("answered")
    };
    assert!(error.contains("told to refuse"), "{error}");
    assert_eq!(finished.failed, 4);
    assert!(find(&finished, "zero", "a").verdicts["judge"].value().is_some());
    assert!(finished.manifest.warnings.iter().any(|warning| warning.contains("scripted")));
}

#[test]
fn a_second_run_asks_nothing_and_gives_the_same_records() {
    let folder = Folder::new();
    let first = folder.run(&Options::default()).unwrap();
    let second = folder.run(&Options::default()).unwrap();
    assert!(first.answered_now > 0);
    assert_eq!(second.answered_now, 0);
    assert_eq!(first.records, second.records);
    assert_eq!(first.manifest, second.manifest);
}

#[test]
fn a_changed_prompt_is_asked_again_and_the_rest_is_kept() {
    let folder = Folder::new();
    folder.run(&Options::default()).unwrap();
    let text = fs_err::read_to_string(folder.0.path().join("x.yaml")).unwrap();
    folder.write(
        "x.yaml",
        &text.replace(
            "name: zero, model: m, strategy: prompt",
            "name: zero, model: m, strategy: { prompt: { system: Be brief. } }",
        ),
    );
    assert_eq!(folder.run(&Options::default()).unwrap().answered_now, 3);
}

#[test]
fn failed_trials_are_tried_again_only_when_asked() {
    let folder = Folder::new();
    folder.run(&Options::default()).unwrap();
    assert_eq!(
        folder.run(&Options { retry_failed: true, ..Options::default() }).unwrap().answered_now,
        3
    );
}

#[test]
fn a_stopped_run_keeps_what_it_has_and_goes_on() {
    let folder = Folder::new();
    let loaded = load(&folder.0.path().join("x.yaml"), &|_| None, None).unwrap();
    let stop = Stop::default();
    assert!(!stop.request());
    let stopped = run(&loaded, &ScriptedBackends, &Options::default(), &Quiet, &stop).unwrap();
    assert_eq!((stopped.records.len(), stopped.missing), (0, 12));
    assert_eq!(folder.run(&Options::default()).unwrap().missing, 0);
}

#[test]
fn only_the_chosen_arms_run() {
    let options = Options { arms: vec!["few".into()], ..Options::default() };
    let finished = Folder::new().run(&options).unwrap();
    assert!(finished.records.iter().all(|record| record.trial.arm == "few"));
    let _: Experiment = finished.manifest.experiment;
}

#[test]
fn a_fatal_failure_stops_the_run_and_keeps_the_answers() {
    let folder = Folder::new();
    let text = fs_err::read_to_string(folder.0.path().join("x.yaml")).unwrap();
    folder.write("x.yaml", &text.replace("!rejected", "!fatal"));
    let error = folder.run(&Options { concurrency: Some(1), ..Options::default() }).unwrap_err();
    assert!(error.to_string().contains("told to stop"), "{error}");
    folder.write("x.yaml", &text);
}

#[test]
fn disagreement_between_trainer_and_server_is_shown_row_by_row() {
    let probe =
        |ids: &[u32], top1: &[u32], nll| Probe { token_ids: ids.into(), top1: top1.into(), nll };
    let (entry, table) = compare_probes(
        &[probe(&[1, 2], &[3, 4], 0.5), probe(&[1], &[2], 0.1), probe(&[1], &[2], 0.1)],
        &[probe(&[1, 2], &[3, 4], 0.505), probe(&[9], &[2], 0.1), probe(&[1], &[5], 0.9)],
    );
    assert_eq!((entry.rows, entry.tokens, entry.top1_agree), (3, 3, 2));
    assert!(
        table.contains("row 1: token 0 is Some(1) in training and Some(9) in serving"),
        "{table}"
    );
    assert!(table.contains("row 2: likeliest token agrees on 0 of 1"), "{table}");
    assert!(!table.contains("row 0"), "{table}");
}
