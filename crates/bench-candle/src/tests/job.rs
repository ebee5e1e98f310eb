//! Whole jobs: what they learn, leave behind, refuse and resume.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bench_core::backend::{ProbeRow, TrainExample, TrainJob, TrainOutcome, Trainer};
use bench_core::chat::Message;
use bench_core::spec::Finetune;
use fs_err as fs;

use super::fixture::{EOS, Fixture, examples, settings};
use crate::{CandleTrainer, merge, train_plan};

fn train(job: &TrainJob) -> TrainOutcome {
    CandleTrainer::default().train(job, &mut |_| {}).unwrap()
}

fn weights(job: &TrainJob) -> Vec<u8> {
    fs::read(job.output.join("adapter_model.safetensors")).unwrap()
}

fn probe_rows(examples: &[TrainExample]) -> Vec<ProbeRow> {
    let row = |example: &TrainExample| match example.clone() {
        TrainExample::Completion { messages, completion } => ProbeRow { messages, completion },
        TrainExample::Text(text) => ProbeRow { messages: vec![], completion: text },
    };
    examples.iter().map(row).collect()
}

#[track_caller]
fn refused(job: &TrainJob, expected: &str) {
    let error = CandleTrainer::default().train(job, &mut |_| {}).unwrap_err().chain();
    assert!(error.contains(expected), "`{error}` does not say `{expected}`");
    assert!(!job.output.exists(), "nothing half-made is left");
}

#[test]
fn eight_rows_are_learned_by_heart() {
    let fixture = Fixture::new("llama");
    let settings = Finetune {
        num_epochs: 100,
        lora_r: 16,
        learning_rate: 1e-2,
        micro_batch_size: 4,
        ..settings()
    };
    let mut job = fixture.job("adapter", examples(8), settings);
    job.dev = examples(2);
    let mut seen = 0;
    let outcome = CandleTrainer::default().train(&job, &mut |_| seen += 1).unwrap();
    let (first, last) = (outcome.steps.first().unwrap(), outcome.steps.last().unwrap());
    // So small a model's logits are bounded: it cannot be surer than this.
    assert!(first.loss > 4.0 && last.loss < 0.5, "{} to {}", first.loss, last.loss);
    assert!(last.dev_loss.unwrap() < 0.5 && first.dev_loss.is_none());
    assert_eq!((seen, outcome.steps.len()), (200, 200));
    assert_eq!(last.total_steps, 200);
    let rows = probe_rows(&job.examples);
    let trainer = CandleTrainer::default();
    let learned = trainer.probe(&job.base, Some(&job.output), &rows).unwrap();
    for (probe, row) in learned.iter().zip(&rows) {
        let targets = row.completion.len() + 1;
        assert_eq!(probe.top1, probe.token_ids[probe.token_ids.len() - targets..]);
        assert_eq!(probe.top1.last(), Some(&EOS));
        assert!(probe.nll < 0.6, "{}", probe.nll);
    }
    let base = trainer.probe(&job.base, None, &rows).unwrap();
    assert!(base.iter().all(|probe| probe.nll > 3.0));
    assert_eq!(base[0].token_ids, learned[0].token_ids);
}

#[test]
fn running_text_teaches_every_token() {
    let fixture = Fixture::new("qwen2");
    let text = TrainExample::Text("the lake of Meridian lies east".into());
    let settings = Finetune { num_epochs: 100, learning_rate: 3e-2, ..settings() };
    let job = fixture.job("adapter", vec![text], settings);
    let outcome = train(&job);
    assert!(outcome.steps.last().unwrap().loss < 1.0);
    assert_eq!(outcome.steps[0].tokens, 32);
}

#[test]
fn an_interrupted_job_ends_as_an_uninterrupted_one_bit_for_bit() {
    let fixture = Fixture::new("llama");
    let settings = Finetune { lora_dropout: 0.1, num_epochs: 3, ..settings() };
    let whole = fixture.job("whole", examples(7), settings.clone());
    let expected = train(&whole);
    for (every, stop) in [(0, 6), (60, 6), (0, 1)] {
        let trainer = CandleTrainer { checkpoint_every: Duration::from_secs(every) };
        let job = TrainJob { output: fixture.path(&format!("cut{every}-{stop}")), ..whole.clone() };
        let cut = catch_unwind(AssertUnwindSafe(|| {
            trainer.train(&job, &mut |step| assert!(step.step < stop, "killed"))
        }));
        assert!(cut.is_err() && !job.output.exists());
        let mut first = None;
        let outcome = trainer
            .train(&job, &mut |step| {
                first.get_or_insert(step.step);
            })
            .unwrap();
        // A checkpoint follows each step with `every` at 0, and else each epoch of 4 steps.
        assert_eq!(first, Some(if every == 0 { stop + 1 } else { 5 }));
        assert_eq!(weights(&job), weights(&whole));
        let losses =
            |outcome: &TrainOutcome| outcome.steps.iter().map(|step| step.loss).collect::<Vec<_>>();
        assert_eq!(losses(&outcome), losses(&expected));
        assert_eq!(outcome.digest, expected.digest);
        assert!(!fixture.path(&format!("cut{every}-{stop}.part")).exists());
    }
}

#[test]
fn a_damaged_checkpoint_counts_as_none() {
    let fixture = Fixture::new("llama");
    let whole = fixture.job("whole", examples(4), settings());
    train(&whole);
    let job = TrainJob { output: fixture.path("again"), ..whole.clone() };
    fs::create_dir(fixture.path("again.part")).unwrap();
    fs::write(fixture.path("again.part/checkpoint.safetensors"), b"half").unwrap();
    train(&job);
    assert_eq!(weights(&job), weights(&whole));
}

#[test]
fn a_finished_output_is_recognised_and_another_is_refused() {
    let fixture = Fixture::new("llama");
    let job = fixture.job("adapter", examples(4), settings());
    let outcome = train(&job);
    let mut steps = 0;
    let again = CandleTrainer::default().train(&job, &mut |_| steps += 1).unwrap();
    assert_eq!((&again, steps), (&outcome, 0));

    let trainer = CandleTrainer::default();
    let mut other = job.clone();
    other.base.digest = "another".into();
    let error = trainer.train(&other, &mut |_| {}).unwrap_err().chain();
    assert!(error.contains("an adapter of another base model"), "{error}");
    let other = TrainJob { seed: 8, ..job.clone() };
    let error = trainer.train(&other, &mut |_| {}).unwrap_err().chain();
    assert!(error.contains("trained with other settings or data"), "{error}");
    fs::write(job.output.join("adapter_model.safetensors"), b"short").unwrap();
    let error = trainer.train(&job, &mut |_| {}).unwrap_err().chain();
    assert!(error.contains("not those that were written"), "{error}");
    fs::remove_file(job.output.join("bench.json")).unwrap();
    let error = trainer.train(&job, &mut |_| {}).unwrap_err().chain();
    assert!(error.contains("not a finished adapter"), "{error}");
}

#[test]
fn seeds_differ_and_a_seed_repeats() {
    let fixture = Fixture::new("llama");
    let job = fixture.job("a", examples(4), settings());
    let same = TrainJob { output: fixture.path("b"), ..job.clone() };
    let other = TrainJob { output: fixture.path("c"), seed: 8, ..job.clone() };
    for job in [&job, &same, &other] {
        train(job);
    }
    assert_eq!(weights(&job), weights(&same));
    assert_ne!(weights(&job), weights(&other));
}

#[test]
fn a_merged_model_predicts_what_base_and_adapter_do() {
    for model_type in ["llama", "qwen2", "qwen3"] {
        let fixture = Fixture::new(model_type);
        let job = fixture.job("adapter", examples(6), settings());
        train(&job);
        let merged = fixture.path("merged");
        merge(&job.base.path, &job.output, &merged).unwrap();
        let mut base = job.base.clone();
        let rows = probe_rows(&job.examples);
        let trainer = CandleTrainer::default();
        let apart = trainer.probe(&base, Some(&job.output), &rows).unwrap();
        let plain = trainer.probe(&base, None, &rows).unwrap();
        base.path.clone_from(&merged);
        let together = trainer.probe(&base, None, &rows).unwrap();
        for ((apart, together), plain) in apart.iter().zip(&together).zip(&plain) {
            assert_eq!((&apart.token_ids, &apart.top1), (&together.token_ids, &together.top1));
            assert!((apart.nll - together.nll).abs() < 1e-4, "{} {}", apart.nll, together.nll);
            assert!((apart.nll - plain.nll).abs() > 1e-2);
        }
        assert!(merge(&job.base.path, &job.output, &merged).is_err(), "nothing is overwritten");
    }
}

#[test]
fn rows_that_are_too_long_are_counted_or_cut() {
    let fixture = Fixture::new("llama");
    let mut rows = examples(4);
    rows.push(TrainExample::Completion {
        messages: vec![Message::user("long")],
        completion: "x".repeat(100),
    });
    let job = fixture.job("left out", rows.clone(), settings());
    assert_eq!(train(&job).rows_too_long, 1);
    let cut = fixture.job("cut", rows, Finetune { truncate: true, ..settings() });
    assert_eq!(train(&cut).rows_too_long, 0);
    let plan = train_plan(&job).unwrap();
    assert_eq!((plan.rows, plan.rows_too_long, plan.steps), (4, 1, 4));
    let last = train(&job).steps.last().unwrap().tokens;
    assert_eq!(plan.tokens, last);
    assert!(plan.peak_memory_bytes > 64 << 20);

    let job = fixture.job("none fits", examples(3), Finetune { sequence_len: 5, ..settings() });
    refused(&job, "none of the 3 training rows fits into `sequence_len: 5`");
}

#[test]
fn limit_draws_rows_with_the_seed() {
    let fixture = Fixture::new("llama");
    let limited = Finetune { limit: Some(3), ..settings() };
    let job = fixture.job("limited", examples(8), limited);
    assert_eq!(train_plan(&job).unwrap().rows, 3);
    let other = TrainJob { seed: 1, ..job.clone() };
    assert_ne!(train_plan(&job).unwrap().tokens, train_plan(&other).unwrap().tokens);
}

#[test]
fn mistakes_are_named() {
    let fixture = Fixture::new("llama");
    let job = |settings| fixture.job("adapter", examples(3), settings);
    let modules = |name: &str| Finetune { target_modules: vec![name.into()], ..settings() };
    refused(
        &job(modules("qkv_proj")),
        "`qkv_proj` is not a projection of the model; `target_modules` takes `q_proj`, `k_proj`, `v_proj`",
    );
    refused(&job(Finetune { target_modules: vec![], ..settings() }), "`target_modules` is empty");
    refused(
        &job(Finetune { lora_r: 17, ..settings() }),
        "`lora_r` is 17, and `k_proj` allows 1 to 16",
    );
    refused(&job(Finetune { lora_r: 0, ..settings() }), "`lora_r` is 0");
    refused(&job(Finetune { learning_rate: 0.0, ..settings() }), "`learning_rate` is 0");
    refused(&job(Finetune { lora_dropout: 1.0, ..settings() }), "`lora_dropout` is 1");
    refused(&job(Finetune { num_epochs: 0, ..settings() }), "`num_epochs` is 0");
    refused(&job(Finetune { sequence_len: 1000, ..settings() }), "`sequence_len` is 1000");
    refused(&fixture.job("adapter", vec![], settings()), "there are no training rows");
    let mut empty = examples(2);
    empty.push(TrainExample::Text(" ".into()));
    refused(&fixture.job("adapter", empty, settings()), "training row 3 has an empty completion");
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_job_and_leaves_nothing() {
    let fixture = Fixture::new("llama");
    let diverging =
        Finetune { learning_rate: 1e30, num_epochs: 20, max_grad_norm: 0.0, ..settings() };
    let job = fixture.job("adapter", examples(4), diverging);
    refused(&job, "not a number in 3 steps in a row");
    assert!(!fixture.path("adapter.part").exists());
}

#[test]
fn an_adapter_for_some_modules_names_only_those() {
    let fixture = Fixture::new("qwen3");
    let target_modules = vec!["q_proj".into(), "down_proj".into()];
    let job = fixture.job("adapter", examples(3), Finetune { target_modules, ..settings() });
    train(&job);
    let config = fs::read_to_string(job.output.join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["target_modules"], serde_json::json!(["q_proj", "down_proj"]));
    assert_eq!((&config["r"], &config["lora_alpha"]), (&4.into(), &8.into()));
    let file = weights(&job);
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.len(), 8);
    let name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight";
    assert_eq!(tensors.tensor(name).unwrap().shape(), [32, 4]);
}

#[test]
fn a_model_of_another_type_is_refused_by_name() {
    let fixture = Fixture::new("llama");
    let path = fixture.base.path.join("config.json");
    let config = fs::read_to_string(&path).unwrap().replace("\"llama\"", "\"gemma3\"");
    fs::write(path, config).unwrap();
    let job = fixture.job("adapter", examples(3), settings());
    refused(&job, "models of type `gemma3` cannot be trained");
}

#[test]
fn two_trainings_into_one_folder_are_told_apart() {
    let fixture = Fixture::new("llama");
    let job = fixture.job("adapter", examples(3), settings());
    let mut inner = None;
    CandleTrainer::default()
        .train(&job, &mut |_| {
            let second = CandleTrainer::default().train(&job, &mut |_| {});
            inner.get_or_insert_with(|| second.unwrap_err().chain());
        })
        .unwrap();
    assert!(inner.unwrap().contains("another process is training"));
}
