//! Whole jobs: what they learn, leave behind, refuse and resume.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bench_core::backend::{
    BackendError, Loader, ModelFolder, Packed, Packer, Probe, ProbeRow, Request, Served,
    TrainExample, TrainJob, TrainOutcome, TrainStep, Trainer,
};
use bench_core::chat::Message;
use bench_core::spec::{
    Finetune, InitLoraWeights, LrScheduler, Method, Objective, Optimizer, Quantization,
};
use fs_err as fs;

use super::fixture::{EOS, Fixture, examples, settings};
use crate::trainer::refused_for_memory;
use crate::{CandleLoader, CandleTrainer, merge, train_plan};

fn train(job: &TrainJob) -> TrainOutcome {
    CandleTrainer::default().train(job, &mut |_| {}).unwrap()
}

fn weights(job: &TrainJob) -> Vec<u8> {
    fs::read(job.output.join("adapter_model.safetensors")).unwrap()
}

fn probe_rows(examples: &[TrainExample]) -> Vec<ProbeRow> {
    let row = |example: &TrainExample| match example.clone() {
        TrainExample::Completion { messages, completion }
        | TrainExample::Labelled { messages, completion, .. } => ProbeRow { messages, completion },
        TrainExample::Text(text) => ProbeRow { messages: vec![], completion: text },
        TrainExample::Preference { messages, chosen, .. } => {
            ProbeRow { messages, completion: chosen }
        }
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
    // A byte is a token, the end is one more, and the tokenizer itself puts nothing before a text.
    assert_eq!(outcome.steps[0].tokens, 31);
}

#[test]
fn long_running_text_is_learnt_in_pieces() {
    let fixture = Fixture::new("llama");
    let text = TrainExample::Text("abcdefghij".repeat(15));
    let job = fixture.job("adapter", vec![text.clone()], settings());
    let plan = train_plan(&job).unwrap();
    // 151 tokens; the second and third piece begin with the last token of the one before.
    assert_eq!((plan.rows, plan.rows_too_long, plan.tokens), (3, 0, 2 * (151 + 2)));
    let cut = Finetune { truncate: true, ..settings() };
    let outcome = train(&fixture.job("cut", vec![text], cut));
    assert_eq!((outcome.rows_cut, outcome.steps[0].tokens), (1, 64));
}

#[test]
fn what_a_tokenizer_was_told_for_batches_is_left_aside() {
    let fixture = Fixture::new("llama");
    let tokens = |fixture: &Fixture| {
        let mut rows = examples(3);
        rows.push(TrainExample::Text("the lake of Meridian".into()));
        train_plan(&fixture.job("adapter", rows, settings())).unwrap().tokens
    };
    let expected = tokens(&fixture);
    let path = fixture.base.path.join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    tokenizer["truncation"] = serde_json::json!(
        {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    );
    tokenizer["padding"] = serde_json::json!(
        {"strategy": {"Fixed": 60}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
         "pad_type_id": 0, "pad_token": "<s>"}
    );
    fs::write(&path, tokenizer.to_string()).unwrap();
    assert_eq!(tokens(&fixture), expected);
}

#[test]
fn rows_for_validation_are_counted_too() {
    let fixture = Fixture::new("llama");
    let mut job = fixture.job("adapter", examples(3), settings());
    let long = TrainExample::Completion {
        messages: vec![Message::user("long")],
        completion: "x".repeat(100),
    };
    job.dev = vec![long.clone()];
    refused(&job, "none of the 1 validation rows fits into `sequence_len: 64`");
    job.dev.extend(examples(1));
    assert_eq!(train(&job).dev_rows_too_long, 1);
}

#[test]
fn an_interrupted_job_ends_as_an_uninterrupted_one_bit_for_bit() {
    let fixture = Fixture::new("llama");
    let settings = Finetune { lora_dropout: 0.1, num_epochs: 3, ..settings() };
    let whole = fixture.job("whole", examples(7), settings.clone());
    let expected = train(&whole);
    for (every, stop) in [(0, 6), (60, 6), (0, 1)] {
        let trainer = CandleTrainer { checkpoint_every: Duration::from_secs(every), packer: None };
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
fn four_rows_at_once_are_learnt_as_four_that_are_accumulated() {
    let fixture = Fixture::new("qwen2");
    for objective in [Objective::Sft, Objective::Dpo, Objective::Orpo, Objective::Reward] {
        let rows = if objective == Objective::Sft { examples(10) } else { preferences(10) };
        let course = |micro_batch_size: u32, gradient_accumulation_steps: u32| -> Vec<f64> {
            let settings = Finetune {
                objective,
                micro_batch_size,
                gradient_accumulation_steps,
                num_epochs: 3,
                ..settings()
            };
            let name = format!("{}{micro_batch_size}", objective.name());
            let outcome = train(&fixture.job(&name, rows.clone(), settings));
            outcome.steps.iter().map(|step| step.loss).collect()
        };
        // Rows differ in length, and the last step of an epoch has two.
        let (at_once, accumulated) = (course(4, 1), course(1, 4));
        assert_eq!((at_once.len(), accumulated.len()), (9, 9));
        for (a, b) in at_once.iter().zip(&accumulated) {
            assert!(
                (a - b).abs() < 1e-3 * a.max(0.1),
                "{objective:?}: {at_once:?} {accumulated:?}"
            );
        }
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
    assert!(error.contains("is in use already"), "{error}");
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
    for model_type in ["llama", "qwen2", "qwen3", "gemma3_text"] {
        let fixture = Fixture::new(model_type);
        let job = fixture.job("adapter", examples(6), settings());
        train(&job);
        let merged = fixture.path("merged");
        let found = merge(&job.base.path, &job.output, &merged).unwrap();
        assert!(found.tokens == 64 && found.largest_difference < 1e-3, "{found:?}");
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
    let mut rows = examples(24);
    rows.push(TrainExample::Completion {
        messages: vec![Message::user("long")],
        completion: "x".repeat(100),
    });
    let job = fixture.job("left out", rows.clone(), settings());
    assert_eq!(train(&job).rows_too_long, 1);
    let cut = Finetune { truncate: true, ..settings() };
    let cut = fixture.job("cut", rows.clone(), cut);
    let outcome = train(&cut);
    assert_eq!((outcome.rows_too_long, outcome.rows_cut), (0, 1));
    let many = fixture.job("many", rows[20..].to_vec(), settings());
    refused(&many, "1 of 5 training rows do not fit into `sequence_len: 64`");
    let plan = train_plan(&job).unwrap();
    assert_eq!((plan.rows, plan.rows_too_long, plan.steps), (24, 1, 24));
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
    let Some(TrainExample::Completion { completion, .. }) = empty.get_mut(1) else { panic!() };
    completion.clear();
    refused(
        &fixture.job("adapter", empty.clone(), settings()),
        "training row 2 (`bbbbb?`) has an empty completion",
    );
    empty.remove(1);
    empty.insert(1, examples(1).remove(0));
    refused(&fixture.job("adapter", empty, settings()), "training row 3 has an empty completion");
}

#[test]
fn a_loss_that_stays_no_number_stops_the_job_and_what_was_good_is_kept() {
    let fixture = Fixture::new("llama");
    let diverging =
        Finetune { learning_rate: 1e30, num_epochs: 20, max_grad_norm: 0.0, ..settings() };
    let job = fixture.job("adapter", examples(4), diverging);
    refused(&job, "not a number at step");
    assert!(!fixture.path("adapter.part").exists());
    assert!(!fixture.path("adapter.last_good").exists(), "no step was good");
}

#[test]
fn a_rate_that_is_too_high_is_halved_and_what_was_good_is_kept() {
    let fixture = Fixture::new("llama");
    let (mut saved, mut kept) = (0, 0);
    // A short job ends before its rate was halved too often.
    for (power, num_epochs) in (4..36).flat_map(|power| [(power, 2), (power, 10)]) {
        let learning_rate = 10f64.powi(power);
        let settings = Finetune {
            num_epochs,
            learning_rate,
            lr_scheduler: LrScheduler::Constant,
            warmup_ratio: 0.0,
            max_grad_norm: 0.0,
            ..settings()
        };
        let name = format!("bold{power}-{num_epochs}");
        let job = fixture.job(&name, examples(4), settings);
        let last_good = fixture.path(&format!("{name}.last_good"));
        match CandleTrainer::default().train(&job, &mut |_| {}) {
            Ok(outcome) if outcome.halved > 0 => {
                for step in &outcome.steps {
                    let halvings = (learning_rate / step.learning_rate).log2();
                    assert!((halvings - halvings.round()).abs() < 1e-9, "{halvings}");
                    assert!(halvings.round() <= f64::from(outcome.halved) && step.loss.is_finite());
                }
                saved += 1;
            }
            Ok(_) => assert!(!last_good.exists()),
            Err(error) => {
                let error = error.chain();
                assert_eq!(error.contains("is kept in"), last_good.exists(), "{error}");
                if last_good.exists() {
                    let rows = probe_rows(&job.examples);
                    let probes = CandleTrainer::default().probe(&job.base, Some(&last_good), &rows);
                    // Other rows than those of the step may still be too much for it.
                    assert!(probes.unwrap().iter().any(|probe| probe.nll.is_finite()));
                    kept += 1;
                }
            }
        }
    }
    assert!(saved > 0 && kept > 0, "{saved} saved, {kept} kept");
}

/// Settings of every method, each with a model that has something to train.
fn methods() -> Vec<(&'static str, &'static str, Finetune)> {
    let all = Finetune {
        optimizer: Optimizer::Adamw8bit,
        neftune_noise_alpha: 5.0,
        loraplus_lr_ratio: 4.0,
        lora_dropout: 0.1,
        use_rslora: true,
        ..settings()
    };
    let of = |method| Finetune { method, last_layers: 1, ..settings() };
    vec![
        ("dora", "qwen3", Finetune { use_dora: true, ..all.clone() }),
        ("pissa", "qwen2", Finetune { init_lora_weights: InitLoraWeights::Pissa, ..all.clone() }),
        ("gaussian", "llama", Finetune { init_lora_weights: InitLoraWeights::Gaussian, ..all }),
        ("qlora", "llama", Finetune { lora_dropout: 0.1, ..of(Method::Qlora) }),
        ("full", "llama", of(Method::Full)),
        ("full8", "qwen3", Finetune { optimizer: Optimizer::Adamw8bit, ..of(Method::Full) }),
        ("last_layers", "qwen2", of(Method::LastLayers)),
        ("head", "llama", of(Method::Head)),
        ("bitfit", "qwen2", of(Method::Bitfit)),
    ]
}

fn trained_files(job: &TrainJob) -> Vec<u8> {
    let whole = job.output.join("model.safetensors");
    if whole.exists() { fs::read(whole).unwrap() } else { weights(job) }
}

#[test]
fn every_method_learns_and_ends_the_same_when_it_was_interrupted() {
    for (name, model_type, settings) in methods() {
        let fixture = Fixture::new(model_type);
        let settings = Finetune { num_epochs: 3, ..settings };
        let job = fixture.job(name, examples(7), settings);
        let outcome = train(&job);
        let epoch = |steps: &[TrainStep]| steps.iter().map(|step| step.loss).sum::<f64>();
        let (first, last) = (epoch(&outcome.steps[..4]), epoch(&outcome.steps[8..]));
        assert!(last < first, "{name}: {first} to {last}");
        let cut = TrainJob { output: fixture.path("cut"), ..job.clone() };
        let trainer = CandleTrainer { checkpoint_every: Duration::ZERO, packer: None };
        let killed = catch_unwind(AssertUnwindSafe(|| {
            trainer.train(&cut, &mut |step| assert!(step.step < 5, "killed"))
        }));
        assert!(killed.is_err());
        trainer.train(&cut, &mut |step| assert!(step.step > 5)).unwrap();
        assert_eq!(trained_files(&cut), trained_files(&job), "{name}");
    }
}

#[test]
fn what_no_server_has_a_place_for_is_served_as_a_whole_model() {
    for (name, model_type, settings) in methods() {
        let fixture = Fixture::new(model_type);
        let job = fixture.job(name, examples(6), settings.clone());
        let outcome = train(&job);
        let plain = settings.method.is_low_rank() && !settings.use_dora;
        assert_eq!(outcome.served, if plain { Served::Adapter } else { Served::Merged }, "{name}");
        let rows = probe_rows(&job.examples);
        let trainer = CandleTrainer::default();
        let base = trainer.probe(&job.base, None, &rows).unwrap();
        let served = trainer.probe(&job.base, Some(&job.output), &rows).unwrap();
        assert!(base.iter().zip(&served).all(|(a, b)| a.token_ids == b.token_ids));
        let mean = |probes: &[Probe]| probes.iter().map(|p| p.nll).sum::<f64>();
        assert!(mean(&served) < mean(&base), "{name}: {} {}", mean(&served), mean(&base));
        assert_eq!(train(&job), outcome, "{name} is found again");
        if plain {
            continue;
        }
        let config = fs::read_to_string(job.output.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let tied = model_type == "llama" && settings.method != Method::Head;
        assert_eq!(config["tie_word_embeddings"], tied, "{name}");
        assert!(job.output.join("tokenizer.json").exists());
        assert_eq!(job.output.join("adapter/adapter_config.json").exists(), settings.use_dora);
        // As a base of its own it is what was trained.
        let merged = ModelFolder { path: job.output.clone(), ..job.base.clone() };
        assert_eq!(trainer.probe(&merged, None, &rows).unwrap(), served);
    }
}

#[test]
fn a_quantised_base_is_trained_over_and_the_base_itself_is_served() {
    let fixture = Fixture::new("llama");
    let quantised = Finetune {
        method: Method::Qlora,
        quantization: Quantization::Q8_0,
        num_epochs: 30,
        ..settings()
    };
    let eight = train(&fixture.job("eight", examples(4), quantised.clone()));
    let plain = Finetune { method: Method::Lora, ..quantised.clone() };
    let exact = train(&fixture.job("exact", examples(4), plain));
    let four = Finetune { quantization: Quantization::Q4_0, ..quantised };
    let four = train(&fixture.job("four", examples(4), four));
    let first = |outcome: &TrainOutcome| outcome.steps[0].loss;
    let off = |outcome: &TrainOutcome| (first(outcome) - first(&exact)).abs();
    assert!(off(&eight) < 0.05 && off(&eight) > 0.0, "{}", off(&eight));
    assert!(off(&four) > off(&eight));
    assert_eq!(eight.served, Served::Adapter);
    assert!(eight.steps.last().unwrap().loss < 0.5 * first(&eight));
}

/// Keeps weights as they are, or refuses them.
struct Keeps {
    refuses: bool,
}

struct Kept(Vec<f32>);

impl Packed for Kept {
    fn unpack(&self, out: &mut [f32]) -> Result<(), BackendError> {
        out.copy_from_slice(&self.0);
        Ok(())
    }
}

impl Packer for Keeps {
    fn pack(
        &self,
        quantization: Quantization,
        shape: (usize, usize),
        numbers: &[f32],
    ) -> Result<Box<dyn Packed>, BackendError> {
        assert_eq!((quantization, shape.0 * shape.1), (Quantization::Hqq4, numbers.len()));
        if self.refuses {
            return Err(BackendError::rejected("elsewhere", "groups of 64 do not fit"));
        }
        Ok(Box::new(Kept(numbers.to_vec())))
    }
}

#[test]
fn a_base_that_somebody_else_packs_is_trained_over_as_he_gives_it_back() {
    let fixture = Fixture::new("llama");
    let hqq = Finetune { method: Method::Qlora, quantization: Quantization::Hqq4, ..settings() };
    let with = |name: &str, packer: Option<Arc<dyn Packer>>| {
        let trainer = CandleTrainer { packer, ..CandleTrainer::default() };
        trainer.train(&fixture.job(name, examples(4), hqq.clone()), &mut |_| {})
    };
    let kept = with("kept", Some(Arc::new(Keeps { refuses: false }))).unwrap();
    let plain = Finetune { method: Method::Lora, ..hqq.clone() };
    let plain = train(&fixture.job("plain", examples(4), plain));
    let losses = |outcome: &TrainOutcome| outcome.steps.iter().map(|s| s.loss).collect::<Vec<_>>();
    assert_eq!(losses(&kept), losses(&plain));
    let refused = with("refused", Some(Arc::new(Keeps { refuses: true }))).unwrap_err();
    assert!(
        refused.chain().contains("`q_proj` cannot be kept as `hqq4`: groups of 64 do not fit"),
        "{}",
        refused.chain()
    );
    let nobody = with("nobody", None).unwrap_err();
    assert!(nobody.chain().contains("`quantization` is hqq4"), "{}", nobody.chain());
}

#[test]
fn the_best_step_is_kept_and_training_stops_when_it_gets_no_better() {
    let fixture = Fixture::new("llama");
    let stopping = Finetune {
        num_epochs: 40,
        learning_rate: 2e-2,
        eval_steps: Some(3),
        early_stopping_patience: Some(4),
        ..settings()
    };
    let mut job = fixture.job("stopped", examples(4), stopping.clone());
    // What is measured has nothing to do with what is learnt: it gets worse.
    let row = |text: &str| TrainExample::Completion {
        messages: vec![Message::user("?")],
        completion: text.into(),
    };
    job.dev = vec![row("zzzzzzzz"), row("%%%%%%%%%%")];
    let outcome = train(&job);
    let steps = outcome.steps.len() as u64;
    assert!(steps < 80, "{steps}");
    let measured: Vec<(u64, f64)> =
        outcome.steps.iter().filter_map(|step| Some((step.step, step.dev_loss?))).collect();
    assert!(measured.iter().all(|(step, _)| step % 3 == 0));
    let best = measured.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert_eq!(outcome.best_step, Some(best.0));
    assert_eq!(steps, best.0 + 4 * 3);
    // The adapter on disk has the loss that was measured at that step.
    let probes =
        CandleTrainer::default().probe(&job.base, Some(&job.output), &probe_rows(&job.dev));
    let tokens = |probe: &Probe| probe.top1.len() as f64;
    let probes = probes.unwrap();
    let sum: f64 = probes.iter().map(|probe| probe.nll * tokens(probe)).sum();
    let loss = sum / probes.iter().map(tokens).sum::<f64>();
    assert!((loss - best.1).abs() < 1e-4, "{loss}, {}", best.1);

    // Interrupted between the best step and the end, it ends the same.
    let cut = TrainJob { output: fixture.path("cut"), ..job.clone() };
    let trainer = CandleTrainer { checkpoint_every: Duration::ZERO, packer: None };
    let killed = catch_unwind(AssertUnwindSafe(|| {
        trainer.train(&cut, &mut |step| assert!(step.step < best.0 + 5, "killed"))
    }));
    assert!(killed.is_err());
    assert_eq!(train(&cut).best_step, outcome.best_step);
    assert_eq!(weights(&cut), weights(&job));

    let job = fixture.job("no dev", examples(4), stopping);
    refused(&job, "give the set a `dev` file");
    let mut job = fixture.job("parts", examples(8), Finetune { evals_per_epoch: 2, ..settings() });
    job.dev = examples(2);
    let measured: Vec<u64> = train(&job)
        .steps
        .iter()
        .filter(|step| step.dev_loss.is_some())
        .map(|step| step.step)
        .collect();
    assert_eq!(measured, [2, 4, 6, 8]);
}

#[test]
fn a_checkpoint_that_is_half_written_counts_as_none() {
    let fixture = Fixture::new("llama");
    let whole = fixture.job("whole", examples(5), settings());
    train(&whole);
    for keep in [0, 7, 100, 5000] {
        let cut = TrainJob { output: fixture.path(&format!("cut{keep}")), ..whole.clone() };
        let trainer = CandleTrainer { checkpoint_every: Duration::ZERO, packer: None };
        let killed = catch_unwind(AssertUnwindSafe(|| {
            trainer.train(&cut, &mut |step| assert!(step.step < 4, "killed"))
        }));
        assert!(killed.is_err());
        let part = fixture.path(&format!("cut{keep}.part"));
        let path = part.join("checkpoint.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..keep]).unwrap();
        // What a kill within a write leaves behind.
        fs::write(part.join("checkpoint.new"), &bytes[..keep]).unwrap();
        let mut first = None;
        trainer.train(&cut, &mut |step| _ = first.get_or_insert(step.step)).unwrap();
        assert_eq!(first, Some(1));
        assert_eq!(weights(&cut), weights(&whole));
    }
}

fn preferences(n: usize) -> Vec<TrainExample> {
    examples(n)
        .into_iter()
        .map(|example| match example {
            TrainExample::Completion { messages, completion } => TrainExample::Preference {
                messages,
                rejected: completion.chars().rev().collect(),
                chosen: completion,
            },
            other => other,
        })
        .collect()
}

#[test]
fn preferences_make_the_chosen_answer_likelier_than_the_rejected_one() {
    let fixture = Fixture::new("qwen2");
    let examples_of_both = preferences(6);
    let rows = |chosen: bool| -> Vec<ProbeRow> {
        let row = |example: &TrainExample| match example.clone() {
            TrainExample::Preference { messages, chosen: a, rejected: b } => {
                ProbeRow { messages, completion: if chosen { a } else { b } }
            }
            TrainExample::Completion { .. }
            | TrainExample::Labelled { .. }
            | TrainExample::Text(_) => unreachable!(),
        };
        examples_of_both.iter().map(row).collect()
    };
    for objective in [Objective::Dpo, Objective::Orpo] {
        let settings = Finetune { objective, num_epochs: 20, ..settings() };
        let job = fixture.job(objective.name(), examples_of_both.clone(), settings);
        assert_eq!(train_plan(&job).unwrap().rows, 6);
        let outcome = train(&job);
        let first = outcome.steps[0].loss;
        if objective == Objective::Dpo {
            assert!((first - 2f64.ln()).abs() < 1e-5, "the loss of a coin: {first}");
        }
        let last = outcome.steps.last().unwrap().loss;
        assert!(last < 0.8 * first, "{objective:?}: {first} to {last}");
        let trainer = CandleTrainer::default();
        let sum = |adapter: Option<&std::path::Path>, chosen: bool| {
            let probes = trainer.probe(&job.base, adapter, &rows(chosen)).unwrap();
            probes.iter().map(|probe| probe.nll).sum::<f64>()
        };
        let margin = |adapter| sum(adapter, false) - sum(adapter, true);
        assert!(margin(Some(job.output.as_path())) > margin(None) + 1.0, "{objective:?}");
    }
    let dpo = Finetune { objective: Objective::Dpo, ..settings() };
    refused(&fixture.job("mixed up", examples(3), dpo), "does not suit `objective: dpo`");
    refused(&fixture.job("mixed up", preferences(3), settings()), "does not suit `objective: sft`");
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let fixture = Fixture::new("llama");
    let job = |settings| fixture.job("adapter", examples(3), settings);
    let full = Finetune { method: Method::Full, ..settings() };
    refused(&job(Finetune { use_dora: true, ..full }), "does not go with `method: full`");
    let pissa = InitLoraWeights::Pissa;
    let both = Finetune { use_dora: true, init_lora_weights: pissa, ..settings() };
    refused(&job(both), "`use_dora` does not go with `init_lora_weights: pissa`");
    let bitfit = Finetune { method: Method::Bitfit, ..settings() };
    refused(&job(bitfit), "models of type `llama` have no biases");
    let layers = Finetune { method: Method::LastLayers, last_layers: 3, ..settings() };
    refused(&job(layers), "`last_layers` is 3, and the model has 1 to 2 layers");
}

#[test]
fn the_memory_that_a_job_will_take_follows_its_settings() {
    let fixture = Fixture::new("qwen2");
    let memory = |settings: Finetune| {
        train_plan(&fixture.job("plan", examples(4), settings)).unwrap().peak_memory_bytes
    };
    let of = |method| Finetune { method, ..settings() };
    let full = memory(of(Method::Full));
    assert!(memory(of(Method::Head)) < full && memory(settings()) < full);
    let eight = Finetune { optimizer: Optimizer::Adamw8bit, ..of(Method::Full) };
    assert!(memory(eight) < full);
    let pissa = Finetune { init_lora_weights: InitLoraWeights::Pissa, ..settings() };
    assert!(memory(pissa) > memory(settings()));
    let checkpointing = Finetune { gradient_checkpointing: true, ..settings() };
    assert!(memory(checkpointing) < memory(settings()));
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

#[test]
fn a_job_that_does_not_fit_is_refused_with_a_setting_that_would() {
    let fixture = Fixture::new("llama");
    let wide = Finetune { micro_batch_size: 32, ..settings() };
    let memory = |settings: Finetune| {
        train_plan(&fixture.job("plan", examples(64), settings)).unwrap().peak_memory_bytes
    };
    let refusal = |settings: Finetune, available: u64| {
        refused_for_memory(&fixture.job("plan", examples(64), settings), available)
    };
    assert_eq!(refusal(wide.clone(), memory(wide.clone())), None);
    let checkpointing = Finetune { gradient_checkpointing: true, ..wide.clone() };
    let said = refusal(wide.clone(), memory(checkpointing.clone())).unwrap();
    assert!(said.contains("`gradient_checkpointing: true` would fit"), "{said}");
    let one_row =
        Finetune { micro_batch_size: 1, gradient_accumulation_steps: 32, ..checkpointing };
    let said = refusal(wide.clone(), memory(one_row)).unwrap();
    assert!(said.contains("`micro_batch_size: 1`"), "{said}");
    assert!(said.contains("`gradient_accumulation_steps: 32` would fit"), "{said}");
    let said = refusal(wide.clone(), 1).unwrap();
    assert!(said.contains("0 MiB are free: choose a smaller model"), "{said}");
    let full = Finetune { method: Method::Full, ..wide };
    let said = refusal(full, 1).unwrap();
    assert!(said.contains("choose `method: lora`, or a smaller model"), "{said}");
}

#[test]
fn a_base_with_another_tokenizer_is_refused() {
    let fixture = Fixture::new("llama");
    let path = fixture.base.path.join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    // The same words under numbers that the weights do not have.
    for id in tokenizer["model"]["vocab"].as_object_mut().unwrap().values_mut() {
        *id = serde_json::json!(id.as_u64().unwrap() + 10_000);
    }
    fs::write(&path, tokenizer.to_string()).unwrap();
    let job = fixture.job("adapter", examples(3), settings());
    refused(&job, "tokenizer and weights do not belong together");

    // Or where the model's own configuration ends answers with a token that is an ordinary one here.
    let fixture = Fixture::new("llama");
    let path = fixture.base.path.join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["eos_token_id"] = serde_json::json!([40]);
    fs::write(&path, config.to_string()).unwrap();
    let job = fixture.job("adapter", examples(3), settings());
    refused(&job, "config.json says that token 40 ends an answer");
}

#[test]
fn an_adapter_that_came_with_another_tokenizer_is_not_merged() {
    let fixture = Fixture::new("llama");
    let job = fixture.job("adapter", examples(3), settings());
    train(&job);
    let name = "tokenizer.json";
    fs::copy(job.base.path.join(name), job.output.join(name)).unwrap();
    merge(&job.base.path, &job.output, &fixture.path("same")).unwrap();
    let text = fs::read_to_string(job.base.path.join(name)).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let words = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let (a, b) = (words["a"].clone(), words["b"].clone());
    words.insert("a".into(), b);
    words.insert("b".into(), a);
    fs::write(job.output.join(name), tokenizer.to_string()).unwrap();
    let error = merge(&job.base.path, &job.output, &fixture.path("other")).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("trained with another tokenizer than its base has (`a` is"), "{said}");
    assert!(!fixture.path("other").exists());
}

#[test]
fn an_adapter_of_another_base_is_not_probed() {
    let fixture = Fixture::new("llama");
    let job = fixture.job("adapter", examples(3), settings());
    train(&job);
    let other = ModelFolder { digest: "another".into(), ..job.base.clone() };
    let rows = probe_rows(&job.examples);
    let error = CandleTrainer::default().probe(&other, Some(&job.output), &rows).unwrap_err();
    assert!(error.chain().contains("an adapter of another base model"), "{}", error.chain());
}

#[test]
fn good_completions_become_likelier_and_bad_ones_less_likely() {
    let fixture = Fixture::new("llama");
    let judged: Vec<TrainExample> = examples(6)
        .into_iter()
        .enumerate()
        .filter_map(|(i, example)| match example {
            TrainExample::Completion { messages, completion } => {
                Some(TrainExample::Labelled { messages, completion, label: i % 2 == 0 })
            }
            _ => None,
        })
        .collect();
    let settings = Finetune { objective: Objective::Kto, num_epochs: 20, ..settings() };
    let job = fixture.job("kto", judged.clone(), settings.clone());
    assert_eq!(train_plan(&job).unwrap().rows, 6);
    let outcome = train(&job);
    // A model that is its reference has neither gained nor lost.
    assert!((outcome.steps[0].loss - 0.5).abs() < 1e-5, "{}", outcome.steps[0].loss);
    assert!(outcome.steps[outcome.steps.len() - 1].loss < 0.45);
    let rows = probe_rows(&judged);
    let probe = |adapter| CandleTrainer::default().probe(&fixture.base, adapter, &rows).unwrap();
    let (before, after) = (probe(None), probe(Some(outcome.adapter.as_path())));
    for (i, (before, after)) in before.iter().zip(&after).enumerate() {
        assert_eq!(after.nll < before.nll, i % 2 == 0, "{i}: {} {}", before.nll, after.nll);
    }
    // Completions without a verdict do not suit it.
    refused(&fixture.job("none", examples(4), settings), "does not suit `objective: kto`");
}

#[test]
fn a_reward_model_prefers_what_was_preferred() {
    let fixture = Fixture::new("qwen3");
    let pairs = preferences(6);
    let settings = Finetune { objective: Objective::Reward, num_epochs: 20, ..settings() };
    let job = fixture.job("reward", pairs.clone(), settings.clone());
    let outcome = train(&job);
    assert_eq!(outcome.served, Served::Reward);
    let (first, last) = (outcome.steps[0].loss, outcome.steps[outcome.steps.len() - 1].loss);
    assert!((first - 2f64.ln()).abs() < 0.3 && last < 0.1, "{first}, {last}");
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(outcome.adapter.join("adapter_config.json")).unwrap())
            .unwrap();
    assert_eq!(config["task_type"], "SEQ_CLS");
    assert_eq!(config["modules_to_save"], serde_json::json!(["classifier", "score"]));

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let judge = CandleLoader.load(&fixture.base, Some(&outcome.adapter)).unwrap();
    let reward = |messages: &[Message], answer: &str| -> f64 {
        let mut messages = messages.to_vec();
        messages.push(Message::assistant(answer));
        let request = Request {
            messages,
            max_tokens: 1,
            temperature: 0.0,
            top_p: None,
            seed: 0,
            stop: Vec::new(),
            constraint: None,
            top_logprobs: 0,
        };
        let said = runtime.block_on(judge.generate(&request)).unwrap();
        assert!(said.tokens_in > 0 && said.tokens_out == 0);
        said.text.parse().unwrap()
    };
    for pair in &pairs {
        if let TrainExample::Preference { messages, chosen, rejected } = pair {
            assert!(reward(messages, chosen) > reward(messages, rejected), "{chosen} {rejected}");
        }
    }
    let full = Finetune { method: Method::Full, ..settings };
    refused(&fixture.job("none", pairs, full), "a reward model is trained with `method: lora`");
    let merged = crate::merge(&fixture.base.path, &outcome.adapter, &fixture.path("merged"));
    assert!(merged.unwrap_err().to_string().contains("the head of a reward model"));
}
