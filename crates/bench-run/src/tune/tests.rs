//! Tuning from an experiment file to its manifest, with scripted models.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bench_core::backend::{
    BackendError, Completion, Constraint, Embedder, Generator, Indexer, ModelFolder, Probe,
    ProbeRow, Progress, Request, TrainJob, TrainOutcome, TrainStep, Trainer,
};
use bench_core::chat::Message;
use bench_core::manifest::{Origin, TuningKind};
use bench_core::spec::{EmbedderSource, IndexBackend, ModelSource};

use crate::backends::{Backends, Counter, ResolvedModel};
use crate::scripted::{Quiet, ScriptedBackends, ScriptedTrainer};
use crate::{Finished, Options, RunError, Stop, load, run};

/// Scripted models that remember what they were asked, in order.
#[derive(Default)]
struct Spy {
    asked: Arc<Mutex<Vec<String>>>,
    /// Everything that was trained on, row by row.
    learnt: Arc<Mutex<Vec<String>>>,
    /// The server has another tokenizer than the trainer.
    reads_otherwise: bool,
}

struct Otherwise;

impl Counter for Otherwise {
    fn count(&self, _: &[Message]) -> Result<u32, BackendError> {
        Ok(1)
    }

    fn token_ids(&self, row: &ProbeRow) -> Result<Vec<u32>, BackendError> {
        Ok(row.completion.bytes().map(|byte| u32::from(byte.to_ascii_uppercase())).collect())
    }

    fn context_window(&self) -> u32 {
        4096
    }
}

struct Watched(Arc<Mutex<Vec<String>>>);

impl Trainer for Watched {
    fn version(&self) -> String {
        "watched".into()
    }

    fn check(&self, job: &TrainJob) -> Result<(), BackendError> {
        if job.settings.lora_r > 1000 {
            return Err(BackendError::fatal("watched", "`lora_r` is above the layer"));
        }
        Ok(())
    }

    fn token_ids(
        &self,
        base: &ModelFolder,
        rows: &[ProbeRow],
    ) -> Result<Vec<Vec<u32>>, BackendError> {
        ScriptedTrainer.token_ids(base, rows)
    }

    fn train(
        &self,
        job: &TrainJob,
        on_step: &mut dyn FnMut(&TrainStep),
    ) -> Result<TrainOutcome, BackendError> {
        let rows = job.examples.iter().chain(&job.dev).map(|row| format!("{row:?}"));
        self.0.lock().unwrap().extend(rows);
        if job.settings.learning_rate > 1.0 {
            return Err(BackendError::rejected("watched", "the loss was not a number"));
        }
        ScriptedTrainer.train(job, on_step)
    }

    fn probe(
        &self,
        base: &ModelFolder,
        adapter: Option<&Path>,
        rows: &[ProbeRow],
    ) -> Result<Vec<Probe>, BackendError> {
        ScriptedTrainer.probe(base, adapter, rows)
    }
}

#[test]
fn an_adapter_of_another_version_of_the_trainer_lies_elsewhere() {
    let folder = |trainer: &dyn Trainer| {
        crate::prepare::adapter_folder(Path::new("runs/x"), "the job", trainer)
    };
    let watched = Watched(Arc::default());
    assert_eq!(folder(&watched), folder(&watched));
    assert_ne!(folder(&watched), folder(&ScriptedTrainer));
    assert!(folder(&watched).starts_with("runs/x/adapters"));
}

#[test]
fn every_training_that_cannot_be_done_is_named_before_the_first_one() {
    let experiment = "version: 1
models:
  m: { scripted: { otherwise: none } }
eval_sets: [{ name: s, path: e.jsonl, dev: d.jsonl, train: t.jsonl, scorers: [exact_match] }]
tune: { budget: 100000, rungs: 1 }
arms:
  - { name: fits, model: m, strategy: { finetune: { lora_r: 8 } } }
  - { name: wide, model: m, strategy: { finetune: { lora_r: 2000 } } }
  - { name: swept, model: m, strategy: { finetune: { sweep: { lora_r: [8, 4000], learning_rate: [1.0e-4, 1.0e-3] } } } }
compare: { baseline: fits }
run: { runs: RUNS, max_concurrency: 1 }
";
    let spy = Spy::default();
    let error = Folder::new(experiment).try_run(&spy).unwrap_err().to_string();
    let named: Vec<&str> = error.lines().collect();
    assert_eq!(named.len(), 3, "{error}");
    assert!(named[1].contains("arm `wide` on set `s`:"), "{error}");
    assert!(named[2].contains("arm `swept` on set `s`:"), "{error}");
    assert!(spy.learnt.lock().unwrap().is_empty(), "nothing is trained before");
}

#[test]
fn a_server_that_reads_other_tokens_is_found_out_before_the_training() {
    let experiment = "version: 1
models:
  m: { scripted: { otherwise: none } }
eval_sets: [{ name: s, path: e.jsonl, train: t.jsonl, scorers: [exact_match] }]
arms: [{ name: lora, model: m, strategy: { finetune: {} } }]
compare: { baseline: lora }
run: { runs: RUNS, max_concurrency: 1 }
";
    let spy = Spy { reads_otherwise: true, ..Spy::default() };
    let error = Folder::new(experiment).try_run(&spy).unwrap_err().to_string();
    // `right` and `RIGHT`.
    let said =
        "the first that differs, number 0, is 114 and 82; compare the model's tokenizer.json";
    assert!(error.contains(said) && error.contains("`train question`"), "{error}");
    assert!(spy.learnt.lock().unwrap().is_empty(), "nothing is trained before");
}

struct Overheard {
    inner: Arc<dyn Generator>,
    asked: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Generator for Overheard {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn count_tokens(&self, messages: &[Message]) -> Result<Option<u32>, BackendError> {
        self.inner.count_tokens(messages)
    }

    async fn generate(&self, request: &Request) -> Result<Completion, BackendError> {
        let text = request.messages.iter().map(|turn| turn.content.as_str()).collect::<Vec<_>>();
        self.asked.lock().unwrap().push(text.join("\n"));
        self.inner.generate(request).await
    }

    async fn probe(&self, rows: &[ProbeRow]) -> Result<Vec<Probe>, BackendError> {
        self.inner.probe(rows).await
    }
}

impl Backends for Spy {
    fn resolve(
        &self,
        name: &str,
        source: &ModelSource,
        progress: &dyn Progress,
    ) -> Result<ResolvedModel, BackendError> {
        ScriptedBackends.resolve(name, source, progress)
    }

    fn load(
        &self,
        model: &ResolvedModel,
        adapter: Option<&Path>,
    ) -> Result<Arc<dyn Generator>, BackendError> {
        let inner = ScriptedBackends.load(model, adapter)?;
        Ok(Arc::new(Overheard { inner, asked: Arc::clone(&self.asked) }))
    }

    fn counter(&self, model: &ResolvedModel) -> Result<Option<Arc<dyn Counter>>, BackendError> {
        if self.reads_otherwise {
            return Ok(Some(Arc::new(Otherwise)));
        }
        ScriptedBackends.counter(model)
    }

    fn check_constraint(
        &self,
        model: &ResolvedModel,
        constraint: &Constraint,
    ) -> Result<(), BackendError> {
        ScriptedBackends.check_constraint(model, constraint)
    }

    fn trainer(&self, _: &ResolvedModel) -> Result<Arc<dyn Trainer>, BackendError> {
        Ok(Arc::new(Watched(Arc::clone(&self.learnt))))
    }

    fn embedder(
        &self,
        source: &EmbedderSource,
        progress: &dyn Progress,
    ) -> Result<Arc<dyn Embedder>, BackendError> {
        ScriptedBackends.embedder(source, progress)
    }

    fn indexer(&self, backend: &IndexBackend) -> Result<Arc<dyn Indexer>, BackendError> {
        ScriptedBackends.indexer(backend)
    }
}

/// The model answers right when it is asked politely.
const EXPERIMENT: &str = "version: 1
models:
  m: { scripted: { otherwise: none, rules: [{ when: What was the instruction, say: 'Please answer, WRITTEN.' }, { when: WRITTEN, say: none }, { when: please, say: right }] } }
eval_sets: [{ name: s, path: e.jsonl, dev: d.jsonl, train: t.jsonl, scorers: [exact_match] }]
arms:
  - name: tuned
    model: m
    strategy: { prompt: { candidates: ['now: {{ input }}', 'please: {{ input }}'], tune: { budget: 24, rungs: 2 } } }
compare: { baseline: tuned }
run: { runs: RUNS, max_concurrency: 1 }
";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(experiment: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let row = |what: &str, i: usize| {
            format!(
                "{{\"id\":\"{what}{i}\",\"input\":\"{what} question {i}\",\"reference\":\"right\"}}"
            )
        };
        let rows =
            |what: &str, n: usize| (0..n).map(|i| row(what, i)).collect::<Vec<_>>().join("\n");
        folder.write("e.jsonl", &rows("test", 4));
        folder.write("d.jsonl", &rows("dev", 10));
        folder.write("t.jsonl", "{\"input\":\"train question\",\"reference\":\"right\"}\n");
        let runs = folder.0.path().join("runs").display().to_string();
        folder.write("x.yaml", &experiment.replace("RUNS", &runs));
        folder
    }

    fn write(&self, name: &str, text: &str) {
        fs_err::write(self.0.path().join(name), text).unwrap();
    }

    fn run(&self, spy: &Spy) -> Finished {
        self.try_run(spy).unwrap()
    }

    fn try_run(&self, spy: &Spy) -> Result<Finished, RunError> {
        let loaded = load(&self.0.path().join("x.yaml"), &|_| None, None).unwrap();
        run(&loaded, spy, &Options::default(), &Quiet, &Stop::default())
    }
}

#[test]
fn the_best_prompt_on_dev_is_used_and_its_history_kept() {
    let finished = Folder::new(EXPERIMENT).run(&Spy::default());
    let entry = &finished.manifest.tuning[0];
    assert_eq!((entry.chosen, entry.metric.as_str(), entry.dev_samples), (1, "exact_match", 10));
    assert_eq!(entry.candidates[1].user, "please: {{ input }}");
    // Two candidates need one halving: the whole budget goes into it, as far as dev samples reach.
    let value = |at: usize| entry.candidates[at].rungs[0].value;
    assert_eq!((value(0), value(1)), (Some(0.0), Some(1.0)));
    assert_eq!((entry.candidates[0].rungs[0].samples, entry.calls), (10, 20));
    assert!(finished.records.iter().all(|record| record.prompt[0].content.starts_with("please")));
    assert!(
        finished.records.iter().all(|record| record.verdicts["exact_match"].value() == Some(1.0))
    );
}

#[test]
fn the_test_split_is_not_seen_before_the_prompt_is_chosen() {
    let spy = Spy::default();
    Folder::new(EXPERIMENT).run(&spy);
    let asked = spy.asked.lock().unwrap();
    let first_test = asked.iter().position(|text| text.contains("test question")).unwrap();
    let last_dev = asked.iter().rposition(|text| text.contains("dev question")).unwrap();
    assert!(last_dev < first_test);
    assert_eq!(first_test, 20);
    // The losing prompt never meets a test question.
    assert!(asked[first_test..].iter().all(|text| text.starts_with("please: test question")));
}

#[test]
fn a_second_run_tunes_from_what_is_kept() {
    let folder = Folder::new(EXPERIMENT);
    let first = folder.run(&Spy::default());
    let spy = Spy::default();
    let second = folder.run(&spy);
    assert_eq!(first.manifest, second.manifest);
    assert_eq!(first.records, second.records);
    assert!(spy.asked.lock().unwrap().is_empty());
}

#[test]
fn a_model_writes_candidates_that_are_tried_like_the_others() {
    let text = EXPERIMENT.replace("tune: {", "propose: { n: 2, from: induction }, tune: {");
    let spy = Spy::default();
    let finished = Folder::new(&text).run(&spy);
    let entry = &finished.manifest.tuning[0];
    // Both proposals say the same: one is tried, one is counted.
    assert_eq!((entry.candidates.len(), entry.unusable), (3, 1));
    assert_eq!(entry.candidates[2].origin, Origin::Induction);
    assert_eq!(entry.candidates[2].user, "Please answer, WRITTEN.\n\nnow: {{ input }}");
    assert_eq!(entry.candidates[2].rungs[0].value, Some(0.0));
    assert_eq!(entry.chosen, 1);
    let asked = spy.asked.lock().unwrap();
    assert!(asked[0].contains("Input: train question\nOutput: right"), "{}", asked[0]);
}

#[test]
fn a_dev_sample_that_is_an_eval_sample_is_an_error() {
    let folder = Folder::new(EXPERIMENT);
    folder.write(
        "d.jsonl",
        "{\"id\":\"d\",\"input\":\"Test  question 1\",\"reference\":\"right\"}\n",
    );
    let error = load(&folder.0.path().join("x.yaml"), &|_| None, None).unwrap_err();
    let crate::load::LoadError::Wrong(error) = error else { panic!("another error") };
    let message = error.problems()[0].to_string();
    assert!(message.contains("1 of them (`d` is one) are eval samples too"), "{message}");
}

/// The trainer remembers its rows, which are the dev questions: a training on more of them knows more.
const SWEPT: &str = "version: 1
models: { m: { scripted: { otherwise: none, rules: [{ when: please, say: right }] } } }
eval_sets: [{ name: s, path: e.jsonl, dev: d.jsonl, train: t.jsonl, scorers: [exact_match] }]
tune: { budget: BUDGET }
arms:
  - { name: plain, model: m, strategy: prompt }
  - { name: tuned, model: m, strategy: { prompt: { candidates: ['now: {{ input }}', 'please: {{ input }}'] } } }
  - { name: both, model: m, strategy: { compose: [lora, rag] } }
  - { name: rag, model: m, strategy: { rag: { retriever: { bm25: {} }, sweep: { top_k: [1, 2] } } } }
  - { name: lora, model: m, strategy: { finetune: { sweep: { learning_rate: [1.0e-4, 5.0, 1.0e-3], train_size: [9, 20] } } } }
compare: { baseline: plain }
run: { runs: RUNS, max_concurrency: 1 }
";

fn swept(budget: u64) -> Folder {
    let folder = Folder::new(&SWEPT.replace("BUDGET", &budget.to_string()));
    let row = |what: &str, i: usize| {
        format!(
            "{{\"id\":\"{what}{i}\",\"input\":\"{what} question {i}\",\"reference\":\"right\"}}"
        )
    };
    let rows = |n: usize| (0..n).map(|i| row("dev", i)).collect::<Vec<_>>().join("\n");
    folder.write("d.jsonl", &rows(20));
    folder.write("t.jsonl", &rows(20));
    folder
}

#[test]
fn the_best_training_on_dev_is_used_and_its_history_kept() {
    let finished = swept(100_000).run(&Spy::default());
    let entry = finished.manifest.tuning.iter().find(|entry| entry.arm == "lora").unwrap();
    assert_eq!(
        (entry.kind, entry.candidates.len(), entry.budget),
        (TuningKind::Finetune, 6, Some(100_000))
    );
    let best = &entry.candidates[entry.chosen as usize];
    assert_eq!(best.settings, "learning_rate 0.0001, train_size 20");
    assert_eq!(best.rungs.last().unwrap().value, Some(1.0));
    assert_eq!(best.rungs.last().unwrap().rows, Some(20));
    assert_eq!(entry.candidates[0].rungs[0].value, Some(0.45), "nine of twenty are known");
    // What diverges has no score and goes first.
    for (candidate, rungs) in entry.candidates.iter().zip([2, 3, 1, 1, 1, 3]) {
        assert!(candidate.rungs.len() <= rungs, "{candidate:?}");
    }
    assert_eq!(entry.candidates[2].rungs[0].value, None);
    // The arm itself is trained with what was chosen.
    let trained = finished.manifest.training.iter().find(|one| one.arms.contains(&"lora".into()));
    assert_eq!(trained.unwrap().rows, 20);
    assert_eq!(finished.manifest.training.len(), 1, "trials are no trainings of an arm");
}

#[test]
fn all_tuned_arms_have_the_same_budget_and_keep_it() {
    for budget in [9_000, 100_000] {
        let finished = swept(budget).run(&Spy::default());
        let tuning = &finished.manifest.tuning;
        let of = |arm: &str| -> Vec<TuningKind> {
            tuning.iter().filter(|entry| entry.arm == arm).map(|entry| entry.kind).collect()
        };
        assert_eq!(of("tuned"), [TuningKind::Prompt]);
        assert_eq!(of("rag"), [TuningKind::Retrieval]);
        assert_eq!(of("lora"), [TuningKind::Finetune]);
        // A composition takes over what its parts have found, and their effort with it.
        assert_eq!(of("both"), [TuningKind::Retrieval, TuningKind::Finetune]);
        for entry in tuning {
            assert_eq!(entry.budget, Some(budget), "{}", entry.arm);
            assert!(entry.passes() <= budget, "{}: {} of {budget}", entry.arm, entry.passes());
        }
    }
}

#[test]
fn a_small_budget_trains_on_fewer_rows_first() {
    let finished = swept(9_000).run(&Spy::default());
    let entry = finished.manifest.tuning.iter().find(|entry| entry.arm == "lora").unwrap();
    let rows = |at: usize, rung: usize| entry.candidates[at].rungs[rung].rows.unwrap();
    let best = entry.chosen as usize;
    let last = entry.candidates[best].rungs.len() - 1;
    assert!(rows(best, 0) < 20, "{entry:?}");
    assert!(rows(best, last) > rows(best, 0), "{entry:?}");
}

#[test]
fn the_test_split_is_not_seen_before_settings_are_chosen_nor_in_training() {
    let spy = Spy::default();
    swept(100_000).run(&spy);
    let asked = spy.asked.lock().unwrap();
    let first_test = asked.iter().position(|text| text.contains("test question")).unwrap();
    let last_dev = asked
        .iter()
        .rposition(|text| text.contains("dev question") && !text.contains("test question"))
        .unwrap();
    assert!(last_dev < first_test);
    let learnt = spy.learnt.lock().unwrap();
    assert!(!learnt.is_empty());
    assert!(learnt.iter().all(|row| !row.contains("test question")));
}

#[test]
fn a_second_run_sweeps_from_what_is_kept() {
    let folder = swept(100_000);
    let first = folder.run(&Spy::default());
    let spy = Spy::default();
    let second = folder.run(&spy);
    assert_eq!(first.manifest, second.manifest);
    assert_eq!(first.records, second.records);
    assert!(spy.asked.lock().unwrap().is_empty());
    // What diverged left no adapter, only the note of it; asked to, a run tries it again.
    let state = folder.0.path().join("runs/x/state.json");
    let state: serde_json::Value =
        serde_json::from_str(&fs_err::read_to_string(state).unwrap()).unwrap();
    assert!(!state["diverged"].as_array().unwrap().is_empty());
    let learnt = spy.learnt.lock().unwrap().len();
    let retried = Spy::default();
    let loaded = load(&folder.0.path().join("x.yaml"), &|_| None, None).unwrap();
    let options = Options { retry_failed: true, ..Options::default() };
    run(&loaded, &retried, &options, &Quiet, &Stop::default()).unwrap();
    assert!(retried.learnt.lock().unwrap().len() > learnt);
}

#[test]
fn a_budget_that_cannot_try_all_says_what_would() {
    let spy = Spy::default();
    let error = swept(300).try_run(&spy).unwrap_err().to_string();
    assert!(error.contains("6 trials of 3 rungs need a budget of at least"), "{error}");
    assert!(spy.learnt.lock().unwrap().is_empty());
}
