//! Soft prompts, and writing token by token: against PEFT (`tests/golden/soft_prompt.py` makes the
//! values), against the pass over whole rows, and from a job to an answer.

use bench_core::backend::{
    Completion, Generator, Loader, ProbeRow, Request, Served, TrainExample, Trainer,
};
use bench_core::chat::Message;
use bench_core::sampling::{likeliest, log_sum_exp};
use bench_core::spec::{Finetune, Method, PromptTuningInit};
use fs_err as fs;
use serde_json::Value;

use super::fixture::{Fixture, examples, settings};
use super::golden::{folder, golden};
use super::methods::{check_course, mean_loss, variant, variants};
use crate::adapter::{CONFIG, Layout};
use crate::decode::Decoder;
use crate::generator::CandleLoader;
use crate::model::{Model, Weights};
use crate::optimizer::Rates;
use crate::step::{Adapter, Engine};
use crate::trainer::CandleTrainer;
use crate::{TrainError, merge};

fn soft(n: u32) -> Finetune {
    Finetune {
        method: Method::SoftPrompt,
        num_virtual_tokens: n,
        learning_rate: 3e-2,
        num_epochs: 20,
        ..settings()
    }
}

#[test]
fn a_soft_prompt_of_peft_predicts_learns_and_writes_as_in_peft() {
    let (_, batch) = golden("llama");
    let model = Model::open(&folder("llama")).unwrap();
    let (layout, parameters) =
        Layout::read(&model.config, &folder("llama").join("soft_prompt")).unwrap();
    assert_eq!((layout.virtual_tokens, layout.len), (5, 5 * model.config.hidden));
    let adapter = Adapter { layout: &layout, parameters: &parameters, dropout: None };
    let found = Engine::new(&model, 96).predict(&batch, Some(adapter));
    let golden = variant("soft_prompt");
    assert_eq!(found.len(), golden.adapted.len());
    for (found, expected) in found.iter().zip(&golden.adapted) {
        let difference = (f64::from(found.loss) - expected).abs();
        assert!(difference < 3e-5 * expected.max(1.0), "{found:?}, {expected}");
    }
    let written: Vec<u32> =
        serde_json::from_value(variants()["soft_prompt"]["written"].clone()).unwrap();
    let mut decoder = Decoder::new(&model, Some(adapter), 32);
    let mut logits = decoder.see(&batch.tokens[..9]);
    for expected in written {
        let token = likeliest(&logits) as u32;
        assert_eq!(token, expected);
        logits = decoder.see(&[token]);
    }
    let rates = Rates::plain(1e-2, 0.1);
    let course = &mut mean_loss(&batch);
    check_course("soft_prompt", &model, &layout, parameters.clone(), rates, course);
}

#[test]
fn the_files_are_those_that_peft_writes() {
    let theirs = folder("llama").join("soft_prompt");
    let model = Model::open(&folder("llama")).unwrap();
    let (layout, parameters) = Layout::read(&model.config, &theirs).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    layout.write(&model.config, &parameters, "llama", 0.0, scratch.path()).unwrap();
    let read = |folder: &std::path::Path| -> Value {
        serde_json::from_slice(&fs::read(folder.join(CONFIG)).unwrap()).unwrap()
    };
    let (ours, peft) = (read(scratch.path()), read(&theirs));
    for (key, value) in peft.as_object().unwrap() {
        if !["peft_version", "modules_to_save"].contains(&key.as_str()) {
            assert_eq!(&ours[key], value, "{key}");
        }
    }
    let tensor = |folder: &std::path::Path| {
        let mut weights = Weights::open_file(&folder.join(crate::adapter::WEIGHTS)).unwrap();
        let names: Vec<String> = weights.names().map(str::to_owned).collect();
        assert_eq!(names, ["prompt_embeddings"]);
        weights.take("prompt_embeddings", &[5, model.config.hidden]).unwrap().to_vec()
    };
    assert_eq!(tensor(scratch.path()), tensor(&theirs));
}

/// Token by token, with keys and values remembered, as in one pass over the row.
#[test]
fn writing_token_by_token_predicts_what_a_whole_pass_does() {
    for family in ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma3"] {
        let (_, batch) = golden(family);
        let model = Model::open(&folder(family)).unwrap();
        let (layout, parameters) =
            Layout::read(&model.config, &folder(family).join("adapter")).unwrap();
        let adapter = Adapter { layout: &layout, parameters: &parameters, dropout: None };
        for adapter in [None, Some(adapter)] {
            let whole = Engine::new(&model, 96).predict(&batch, adapter);
            let mut decoder = Decoder::new(&model, adapter, 96);
            // A prompt, several tokens at once, and one after the other.
            let mut logits = decoder.see(&batch.tokens[..5]);
            for (place, expected) in whole.iter().enumerate().skip(4) {
                let token = batch.tokens[place + 1] as usize;
                let loss = log_sum_exp(&logits) - f64::from(logits[token]);
                let difference = (loss - f64::from(expected.loss)).abs();
                assert!(
                    difference < 5e-5 * loss.max(1.0),
                    "{family} {place}: {loss}, {expected:?}"
                );
                assert_eq!(likeliest(&logits) as u32, expected.top, "{family} {place}");
                logits = decoder.see(&[batch.tokens[place + 1]]);
            }
        }
        let mut decoder = Decoder::new(&model, None, 96);
        decoder.see(&batch.tokens[..3]);
        let several = decoder.see(&batch.tokens[3..20]);
        let at_once = Decoder::new(&model, None, 96).see(&batch.tokens[..20]);
        for (a, b) in several.iter().zip(&at_once) {
            assert!((a - b).abs() < 1e-4, "{family}: {a}, {b}");
        }
    }
}

fn request(messages: Vec<Message>, max_tokens: u32) -> Request {
    Request {
        messages,
        max_tokens,
        temperature: 0.0,
        top_p: None,
        seed: 0,
        stop: Vec::new(),
        constraint: None,
        top_logprobs: 0,
    }
}

#[test]
fn a_soft_prompt_is_trained_served_and_never_merged() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for model_type in ["llama", "gemma3_text"] {
        let fixture = Fixture::new(model_type);
        let job = fixture.job("soft", examples(6), soft(4));
        let outcome = CandleTrainer::default().train(&job, &mut |_| {}).unwrap();
        assert_eq!(outcome.served, Served::Decoder);
        assert_eq!(outcome.trainable_parameters, 4 * 32);
        let (first, last) = (outcome.steps[0], outcome.steps[outcome.steps.len() - 1]);
        assert!(last.loss < 0.9 * first.loss, "{model_type}: {} {}", first.loss, last.loss);
        assert!(CandleLoader::is_soft_prompt(&outcome.adapter));

        let generator = CandleLoader.load(&fixture.base, Some(&outcome.adapter)).unwrap();
        let rows: Vec<ProbeRow> = job
            .examples
            .iter()
            .filter_map(|example| match example {
                TrainExample::Completion { messages, completion } => {
                    Some(ProbeRow { messages: messages.clone(), completion: completion.clone() })
                }
                _ => None,
            })
            .collect();
        let trained =
            CandleTrainer::default().probe(&fixture.base, Some(&outcome.adapter), &rows).unwrap();
        let served = runtime.block_on(generator.probe(&rows)).unwrap();
        for (trained, served) in trained.iter().zip(&served) {
            assert_eq!((&trained.token_ids, &trained.top1), (&served.token_ids, &served.top1));
            assert!((trained.nll - served.nll).abs() < 1e-4, "{model_type}");
        }
        let plain = CandleLoader.load(&fixture.base, None).unwrap();
        let base = runtime.block_on(plain.probe(&rows)).unwrap();
        assert!(base[0].nll > served[0].nll + 0.1, "{model_type}: the soft prompt does something");
        let counted =
            |generator: &dyn Generator| generator.count_tokens(&rows[0].messages).unwrap().unwrap();
        assert_eq!(counted(generator.as_ref()), counted(plain.as_ref()) + 4);

        let refused =
            merge(&fixture.base.path, &outcome.adapter, &fixture.path("merged")).unwrap_err();
        assert!(matches!(refused, TrainError::Adapter { .. }), "{refused}");
        assert!(refused.to_string().contains("cannot be merged"), "{refused}");
    }
}

#[test]
fn answers_end_and_are_drawn_as_everywhere() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = Fixture::new("llama");
    let generator = CandleLoader.load(&fixture.base, None).unwrap();
    let ask = |request: &Request| runtime.block_on(generator.generate(request));
    let plain = request(vec![Message::user("aaaa?")], 12);
    let greedy = ask(&plain).unwrap();
    assert_eq!(
        greedy,
        Completion {
            latency_ms: greedy.latency_ms,
            first_token_ms: greedy.first_token_ms,
            ..ask(&plain).unwrap()
        }
    );
    assert!(greedy.tokens_out <= 12 && greedy.first_token_ms.unwrap() <= greedy.latency_ms);
    assert_eq!(greedy.finish, if greedy.tokens_out < 12 { "stop" } else { "length" });
    // What comes first of what was said ends the next answer before it.
    let stop: String = greedy.text.chars().skip(2).take(1).collect();
    let stopped = ask(&Request { stop: vec![stop.clone()], ..plain.clone() }).unwrap();
    assert_eq!(stopped.finish, "stop");
    assert!(greedy.text.starts_with(&stopped.text) && !stopped.text.contains(&stop));
    let drawn = |seed| {
        let hot = Request { temperature: 1.5, seed, top_logprobs: 2, ..plain.clone() };
        ask(&hot).unwrap()
    };
    assert_eq!(drawn(1).text, drawn(1).text);
    assert_ne!(drawn(1).text, drawn(2).text);
    let listed = drawn(3);
    assert!(listed.logprobs.iter().all(|one| one.top.len() == 2 && one.top[0].1 >= one.top[1].1));
    let constrained = Request {
        constraint: Some(bench_core::backend::Constraint::Regex("a".into())),
        ..plain.clone()
    };
    assert!(ask(&constrained).unwrap_err().source.to_string().contains("constraint: free"));
    let long = Request { max_tokens: 600, ..plain };
    assert!(ask(&long).unwrap_err().source.to_string().contains("context window"));
}

#[test]
fn it_starts_from_tokens_a_text_or_noise() {
    let fixture = Fixture::new("llama");
    let model = Model::open(&fixture.base.path).unwrap();
    let size = model.config.hidden;
    let start = |settings: Finetune| {
        let job = fixture.job("none", examples(2), settings);
        crate::trainer::start(&job).unwrap()
    };
    let text = Finetune {
        prompt_tuning_init: PromptTuningInit::Text,
        prompt_tuning_init_text: Some("ab".into()),
        ..soft(3)
    };
    let row = |byte: u8| model.embedding[usize::from(byte) * size..][..size].to_vec();
    assert_eq!(start(text), [row(b'a'), row(b'b'), row(b'a')].concat());
    let drawn = start(soft(3));
    let rows: Vec<&[f32]> = model.embedding.chunks_exact(size).collect();
    assert!(drawn.chunks_exact(size).all(|row| rows.contains(&row)));
    let noise = start(Finetune { prompt_tuning_init: PromptTuningInit::Random, ..soft(200) });
    let mean = noise.iter().map(|value| f64::from(*value)).sum::<f64>() / noise.len() as f64;
    let square = noise.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
    assert!(mean.abs() < 0.05 && (square / noise.len() as f64 - 1.0).abs() < 0.1);
}

#[test]
fn a_soft_prompt_beside_rows_that_fill_the_window_is_refused() {
    let fixture = Fixture::new("llama");
    let long = Finetune { sequence_len: 500, ..soft(20) };
    let job = fixture.job("none", examples(2), long);
    let error = CandleTrainer::default().train(&job, &mut |_| {}).unwrap_err();
    assert!(error.source.to_string().contains("`num_virtual_tokens` is 20"), "{}", error.source);
}
