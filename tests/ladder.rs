//! Every way to train, served by mistral.rs: the run compares trainer and server before an arm
//! answers, on a toy model with seeded weights, and stops where they differ.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::Scratch;

const HIDDEN: usize = 32;
const INNER: usize = 64;
const VOCABULARY: usize = 259;

/// Tied, with biases on query, key and value, so that every method has something to train.
fn write_model(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, value: &Value| {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    };
    write(
        "config.json",
        &json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
                "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
                "rope_theta": 10000.0, "max_position_embeddings": 256, "vocab_size": VOCABULARY,
                "sliding_window": 256, "use_sliding_window": false, "max_window_layers": 2,
                "tie_word_embeddings": true, "torch_dtype": "float32"}),
    );
    write("generation_config.json", &json!({"eos_token_id": [2]}));
    write(
        "tokenizer_config.json",
        &json!({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
                "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}"}),
    );
    write("tokenizer.json", &tokenizer());
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        for (name, out) in [("q_proj", HIDDEN), ("k_proj", HIDDEN / 2), ("v_proj", HIDDEN / 2)] {
            add(&format!("self_attn.{name}.weight"), &[out, HIDDEN]);
            add(&format!("self_attn.{name}.bias"), &[out]);
        }
        add("self_attn.o_proj.weight", &[HIDDEN, HIDDEN]);
        add("mlp.gate_proj.weight", &[INNER, HIDDEN]);
        add("mlp.up_proj.weight", &[INNER, HIDDEN]);
        add("mlp.down_proj.weight", &[HIDDEN, INNER]);
        add("input_layernorm.weight", &[HIDDEN]);
        add("post_attention_layernorm.weight", &[HIDDEN]);
    }
    write_weights(&folder.join("model.safetensors"), &shapes);
}

fn write_weights(path: &Path, shapes: &[(String, Vec<usize>)]) {
    let (mut header, mut data, mut state) = (Map::new(), Vec::new(), 7u64);
    for (name, shape) in shapes {
        let from = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let noise = 0.4 * ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0);
            let value = if name.contains("norm") { 1.0 + noise } else { noise };
            data.extend(value.to_le_bytes());
        }
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]});
        header.insert(name.clone(), entry);
    }
    let mut text = Value::Object(header).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.write_all(&data).unwrap();
}

/// Bytes as tokens, in GPT-2's alphabet: printable ones stand for themselves, the others for what
/// follows 255.
fn tokenizer() -> Value {
    let specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let mut vocabulary: Map<String, Value> =
        specials.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), json!(id))).collect();
    let mut next = 255;
    for byte in 0..=255u32 {
        let plain = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        next += u32::from(!plain);
        let code = if plain { byte } else { next };
        vocabulary.insert(char::from_u32(code).unwrap().to_string(), json!(byte + 3));
    }
    let added: Vec<Value> = specials
        .iter()
        .zip(0..)
        .map(|(token, id)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                            "use_regex": false});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
           "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
           "decoder": byte_level,
           "model": {"type": "BPE", "dropout": null, "unk_token": null,
                     "continuing_subword_prefix": null, "end_of_word_suffix": null,
                     "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                     "vocab": vocabulary, "merges": []}})
}

#[test]
fn every_method_is_served_as_it_was_trained() {
    let scratch = Scratch::new();
    write_model(&scratch.path().join("toy"));
    // How each is served, and its settings.
    let arms = [
        ("lora", "adapter", "lora_r: 4"),
        ("rslora", "adapter", "lora_r: 4, use_rslora: true"),
        ("pissa", "adapter", "lora_r: 4, init_lora_weights: pissa"),
        ("qlora", "adapter", "lora_r: 4, method: qlora"),
        ("dora", "merged", "lora_r: 4, use_dora: true"),
        ("last_layers", "merged", "method: last_layers, last_layers: 1"),
        ("head", "merged", "method: head"),
        ("bitfit", "merged", "method: bitfit"),
        ("full", "merged", "method: full, optimizer: adamw_8bit"),
        ("soft_prompt", "decoder", "method: soft_prompt, num_virtual_tokens: 4"),
        ("kto", "adapter", "lora_r: 4, objective: kto"),
    ];
    let lines: Vec<String> = arms
        .iter()
        .map(|(name, _, settings)| {
            format!(
                "  - {{ name: {name}, model: m, strategy: {{ finetune: {{ num_epochs: 20, sequence_len: 128, learning_rate: 1.0e-2, micro_batch_size: 2, {settings} }} }} }}"
            )
        })
        .collect();
    let lines = lines.join("\n");
    // KTO learns from verdicts, of which plain learning leaves the bad ones out.
    let mut rows = String::new();
    for i in 0..6 {
        for (word, label) in [("said", true), ("never", false)] {
            let row = format!(
                "{{\"prompt\":\"say {i}\",\"completion\":\"{word} {i}\",\"label\":{label}}}\n"
            );
            rows.push_str(&row);
        }
    }
    scratch.write("train.jsonl", &rows);
    scratch.write(
        "x.yaml",
        &format!(
            "version: 1
models: {{ m: {{ path: toy }} }}
eval_sets:
  - {{ name: forms, path: forms.jsonl, train: train.jsonl, scorers: [exact_match], limit: 1, max_tokens: 8 }}
arms:
  - {{ name: zero_shot, model: m, strategy: prompt }}
{lines}
compare: {{ baseline: zero_shot }}
"
        ),
    );
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let manifest: Value = serde_json::from_slice(&scratch.read("reports/x/manifest.json")).unwrap();
    let training = manifest["training"].as_array().unwrap();
    assert_eq!(training.len(), arms.len());
    for (name, served, _) in arms {
        let entry = training.iter().find(|entry| entry["arms"][0] == name).unwrap();
        assert_eq!(entry["outcome"]["served"], served, "{name}");
        let steps = entry["outcome"]["steps"].as_array().unwrap();
        let loss = |step: &Value| step["loss"].as_f64().unwrap();
        assert!(loss(&steps[steps.len() - 1]) < loss(&steps[0]), "{name}");
    }
    // Trainer and server agree on every arm, or the run had stopped.
    let parity = manifest["parity"].as_array().unwrap();
    assert_eq!(parity.len(), arms.len());
    for check in parity {
        assert_eq!(check["tokens"], check["top1_agree"], "{check}");
        assert!(check["max_nll_difference"].as_f64().unwrap() < 1e-3, "{check}");
    }
    // The decoder of the soft prompt writes what the server does where nothing was trained.
    let written: Vec<u64> =
        parity.iter().filter_map(|check| check["base_tokens"].as_u64()).collect();
    assert!(matches!(written.as_slice(), [tokens] if *tokens >= 4), "{parity:?}");
    // Of verdicts, plain learning takes the good half.
    let rows = |name: &str| {
        training.iter().find(|entry| entry["arms"][0] == name).unwrap()["rows"].as_u64()
    };
    assert_eq!((rows("lora"), rows("kto")), (Some(6), Some(12)));
}

#[test]
fn the_best_of_several_answers_is_taken_by_a_reward_model() {
    let scratch = Scratch::new();
    write_model(&scratch.path().join("toy"));
    let rows: String = (0..8)
        .map(|i| {
            format!("{{\"input\":\"say {i}\",\"chosen\":\"said {i}\",\"rejected\":\"no {i}\"}}")
                + "\n"
        })
        .collect();
    scratch.write("train.jsonl", &rows);
    scratch.write(
        "x.yaml",
        "version: 1
models: { m: { path: toy } }
prices: { date: 2026-11-21, models: { m: { input: 1, output: 10 } } }
rewards: { taste: { model: m, set: forms, finetune: { lora_r: 4, num_epochs: 5, sequence_len: 128, learning_rate: 1.0e-2 } } }
eval_sets:
  - { name: forms, path: forms.jsonl, train: train.jsonl, scorers: [exact_match], max_tokens: 8 }
arms:
  - { name: zero_shot, model: m, strategy: prompt }
  - { name: best, model: m, strategy: { prompt: { best_of: { reward: taste, n: 3, temperature: 1.0 } } } }
compare: { baseline: zero_shot }
",
    );
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.out.contains("12 trials"), "{}", ran.out);
    let manifest: Value = serde_json::from_slice(&scratch.read("reports/x/manifest.json")).unwrap();
    let training = &manifest["training"][0];
    assert_eq!(training["arms"], json!(["reward taste"]));
    assert_eq!(training["outcome"]["served"], "reward");
    let steps = training["outcome"]["steps"].as_array().unwrap();
    assert!(steps[steps.len() - 1]["loss"].as_f64() < steps[0]["loss"].as_f64());

    let summary = String::from_utf8(scratch.read("reports/x/tables/summary.csv")).unwrap();
    let header: Vec<&str> = summary.lines().next().unwrap().split(',').collect();
    let cell = |arm: &str, name: &str| -> f64 {
        let row = summary.lines().find(|line| line.starts_with(&format!("forms,{arm},"))).unwrap();
        let place = header.iter().position(|column| *column == name).unwrap();
        row.split(',').nth(place).unwrap().parse().unwrap()
    };
    // Three prompts and three rewards, each of prompt and answer, are paid for.
    assert!(cell("best", "tokens_in") > 6.0 * cell("zero_shot", "tokens_in"), "{summary}");
    assert!(cell("best", "cost_per_1000_usd") > 3.0 * cell("zero_shot", "cost_per_1000_usd"));

    let before = scratch.files("reports/x");
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert!(ran.out.contains("(0 answered now)"), "{}", ran.out);
    assert!(before == scratch.files("reports/x"), "a file changed");
}

/// A toy experiment with one fine-tuned arm.
fn toy(finetune: &str) -> Scratch {
    let scratch = Scratch::new();
    write_model(&scratch.path().join("toy"));
    scratch.write(
        "x.yaml",
        &format!(
            "version: 1
models: {{ m: {{ path: toy }} }}
eval_sets:
  - {{ name: forms, path: forms.jsonl, train: train.jsonl, scorers: [exact_match], limit: 1, max_tokens: 8 }}
arms:
  - {{ name: lora, model: m, strategy: {{ finetune: {{ num_epochs: 1, sequence_len: 128, micro_batch_size: 2, {finetune} }} }} }}
compare: {{ baseline: lora }}
"
        ),
    );
    scratch
}

#[test]
fn what_cannot_be_trained_is_refused_by_name() {
    for (finetune, code, expect) in [
        (
            "lora_r: 4, target_modules: [qkv_proj]",
            3,
            "`target_modules` takes `q_proj`, `k_proj`, `v_proj`",
        ),
        ("lora_r: 64", 3, "`lora_r` is 64, and `q_proj` allows 1 to 32"),
        ("lora_r: 0", 2, "`lora_r` cannot train"),
        ("lora_alpha: 8", 2, "`lora_alpha` without `lora_r`"),
        (
            "lora_r: 4, sequence_len: 8",
            3,
            "none of the 6 training rows fits into `sequence_len: 8`",
        ),
        (
            "lora_r: 4, learning_rate: 1.0e30, num_epochs: 20, max_grad_norm: 0",
            3,
            "lower `learning_rate`",
        ),
    ] {
        // The key stands once: what is under test takes the place of the toy's own.
        let scratch = toy(finetune);
        for key in ["sequence_len: 128, ", "num_epochs: 1, "] {
            let name = key.split(':').next().unwrap();
            if finetune.contains(&format!("{name}:")) {
                scratch.edit(key, "");
            }
        }
        let ran = scratch.bench(&["run", "x.yaml"]);
        assert_eq!(ran.code, Some(code), "{finetune}: {ran:#?}");
        let said = ran.err.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "");
        assert!(said.contains(expect), "{finetune}: {said}");
    }
    let scratch = toy("lora_r: 4");
    scratch.write(
        "train.jsonl",
        "{\"input\":\"a\",\"reference\":\"b\"}\n{\"input\":\"c\",\"reference\":\" \"}\n",
    );
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    let said = ran.err.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "");
    assert!(said.contains("train.jsonl, line 2"), "{said}");
}

#[test]
fn a_curve_and_a_sweep_of_real_trainings_go_from_file_to_report() {
    let scratch = toy("lora_r: 4, learning_rate: 1.0e-2, train_sizes: [2, 4, 6]");
    let rows = |what: &str| -> String {
        (0..3)
            .map(|i| {
                format!(
                    "{{\"id\":\"{what}{i}\",\"input\":\"{what} {i}\",\"reference\":\"said {i}\"}}\n"
                )
            })
            .collect::<Vec<_>>()
            .concat()
    };
    scratch.write("dev.jsonl", &rows("dev"));
    scratch.edit("train: train.jsonl", "train: train.jsonl, dev: dev.jsonl");
    scratch.edit(
        "compare:",
        "  - { name: swept, model: m, strategy: { finetune: { num_epochs: 1, sequence_len: 128, micro_batch_size: 2, sweep: { learning_rate: [1.0e-3, 1.0e-2], lora_r: [2, 4] } } } }
tune: { budget: 40000 }
compare:",
    );
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.err.contains("trained lora on forms (seed 0)"), "{}", ran.err);
    let manifest: Value = serde_json::from_slice(&scratch.read("reports/x/manifest.json")).unwrap();
    let training = manifest["training"].as_array().unwrap();
    let rows: Vec<u64> = training.iter().map(|entry| entry["rows"].as_u64().unwrap()).collect();
    assert_eq!(rows, [6, 6, 2, 4]);
    assert!(training.iter().all(|entry| entry["adapter_bytes"].as_u64().unwrap() > 1000));
    let tuning = &manifest["tuning"][0];
    assert_eq!(tuning["candidates"].as_array().unwrap().len(), 4);
    let number = |key: &str| tuning[key].as_u64().unwrap();
    let passes = number("tokens_in") + number("tokens_out") + 3 * number("tokens_trained");
    assert!(number("tokens_trained") > 0 && passes <= number("budget"), "{tuning}");
    let curve = String::from_utf8(scratch.read("reports/x/tables/learning_curve.csv")).unwrap();
    assert_eq!(curve.lines().count(), 4, "{curve}");
    let page = String::from_utf8(scratch.read("reports/x/report.md")).unwrap();
    assert!(page.contains("Unequal effort"), "{page}");
}
