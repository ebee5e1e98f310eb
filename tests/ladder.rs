//! Every way to train, served by mistral.rs: the run compares trainer and server before an arm
//! answers, on a toy model with seeded weights, and stops where they differ.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Map, Value, json};

use crate::Scratch;

const HIDDEN: usize = 32;
const INNER: usize = 64;
const VOCABULARY: usize = 259;

/// Tied, with biases on query, key and value, so that every method has something to train.
fn write_model(folder: &Path) {
    write_family(folder, "qwen2");
}

fn write_family(folder: &Path, model_type: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, value: &Value| {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    };
    let mut config = json!({
        "model_type": model_type, "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "max_position_embeddings": 256, "vocab_size": VOCABULARY,
        "tie_word_embeddings": true, "torch_dtype": "float32"});
    let gemma = model_type == "gemma3_text";
    config["architectures"] = match model_type {
        "qwen2" => json!(["Qwen2ForCausalLM"]),
        "gemma3_text" => json!(["Gemma3ForCausalLM"]),
        _ => json!(["LlamaForCausalLM"]),
    };
    let own = match model_type {
        "qwen2" => {
            json!({"sliding_window": 256, "use_sliding_window": false, "max_window_layers": 2})
        }
        "gemma3_text" => json!({
            "hidden_activation": "gelu_pytorch_tanh", "head_dim": HIDDEN / 4, "sliding_window": 8,
            "query_pre_attn_scalar": 12, "rope_theta": 1e6, "rope_local_base_freq": 10000.0,
            "layer_types": ["sliding_attention", "full_attention"]}),
        _ => json!({}),
    };
    for (key, value) in own.as_object().unwrap() {
        config[key] = value.clone();
    }
    write("config.json", &config);
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
            if model_type == "qwen2" {
                add(&format!("self_attn.{name}.bias"), &[out]);
            }
        }
        add("self_attn.o_proj.weight", &[HIDDEN, HIDDEN]);
        add("mlp.gate_proj.weight", &[INNER, HIDDEN]);
        add("mlp.up_proj.weight", &[INNER, HIDDEN]);
        add("mlp.down_proj.weight", &[HIDDEN, INNER]);
        add("input_layernorm.weight", &[HIDDEN]);
        add("post_attention_layernorm.weight", &[HIDDEN]);
        if gemma {
            add("pre_feedforward_layernorm.weight", &[HIDDEN]);
            add("post_feedforward_layernorm.weight", &[HIDDEN]);
            add("self_attn.q_norm.weight", &[HIDDEN / 4]);
            add("self_attn.k_norm.weight", &[HIDDEN / 4]);
        }
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
    // GPT-2's way, for which a GGUF file has a name.
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
                            "use_regex": true});
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
    // How each is served, and its settings.
    let arms = [
        ("lora", "adapter", "lora_r: 4"),
        ("rslora", "adapter", "lora_r: 4, use_rslora: true"),
        ("pissa", "adapter", "lora_r: 4, init_lora_weights: pissa"),
        ("qlora", "adapter", "lora_r: 4, method: qlora"),
        ("hqq", "adapter", "lora_r: 4, method: qlora, quantization: hqq4"),
        ("dora", "merged", "lora_r: 4, use_dora: true"),
        ("last_layers", "merged", "method: last_layers, last_layers: 1"),
        ("head", "merged", "method: head"),
        ("bitfit", "merged", "method: bitfit"),
        ("full", "merged", "method: full, optimizer: adamw_8bit"),
        ("soft_prompt", "decoder", "method: soft_prompt, num_virtual_tokens: 4"),
        ("kto", "adapter", "lora_r: 4, objective: kto"),
    ];
    let manifest = learnt_and_served("qwen2", &arms);
    let parity = manifest["parity"].as_array().unwrap();
    // The decoder of the soft prompt writes what the server does where nothing was trained.
    let written: Vec<u64> =
        parity.iter().filter_map(|check| check["base_tokens"].as_u64()).collect();
    assert!(matches!(written.as_slice(), [tokens] if *tokens >= 4), "{parity:?}");
    // Of verdicts, plain learning takes the good half.
    let training = manifest["training"].as_array().unwrap();
    let rows = |name: &str| {
        training.iter().find(|entry| entry["arms"][0] == name).unwrap()["rows"].as_u64()
    };
    assert_eq!((rows("lora"), rows("kto")), (Some(6), Some(12)));
}

/// Gemma 3, which our own decoder serves, whatever is trained.
#[test]
fn every_method_of_gemma_is_served_as_it_was_trained() {
    let arms = [
        ("lora", "adapter", "lora_r: 4"),
        ("pissa", "adapter", "lora_r: 4, init_lora_weights: pissa"),
        ("qlora", "adapter", "lora_r: 4, method: qlora"),
        ("dora", "merged", "lora_r: 4, use_dora: true"),
        ("last_layers", "merged", "method: last_layers, last_layers: 1"),
        ("head", "merged", "method: head"),
        ("full", "merged", "method: full"),
        ("soft_prompt", "decoder", "method: soft_prompt, num_virtual_tokens: 4"),
        ("kto", "adapter", "lora_r: 4, objective: kto"),
    ];
    let manifest = learnt_and_served("gemma3_text", &arms);
    assert_eq!(manifest["models"]["m"]["backend"], "candle", "{}", manifest["models"]);
    let parity = manifest["parity"].as_array().unwrap();
    // There is no other server to compare the decoder with.
    assert!(parity.iter().all(|check| check["base_tokens"].is_null()), "{parity:?}");
}

/// Trains the arms, each with how it is served and its settings, and lets them answer. The run compares
/// trainer and server. Gives the manifest.
fn learnt_and_served(model_type: &str, arms: &[(&str, &str, &str)]) -> Value {
    let scratch = Scratch::new();
    write_family(&scratch.path().join("toy"), model_type);
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
        let entry = training.iter().find(|entry| entry["arms"][0] == *name).unwrap();
        assert_eq!(entry["outcome"]["served"], *served, "{name}");
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
    manifest
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

/// A GGUF file keeps the rows of query and key in another order, and adapters on it are ignored: it is
/// made a folder again, on which all is as on the model it was made of.
#[test]
fn an_adapter_of_a_gguf_file_is_trained_and_served_as_that_of_its_model() {
    let scratch = Scratch::new();
    write_family(&scratch.path().join("toy"), "llama");
    let ran = scratch.bench(&["export", "toy", "--format", "gguf", "--out", "toy.gguf"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let run = |model: &str| -> (Vec<f64>, Vec<String>) {
        scratch.write(
            "x.yaml",
            &format!(
                "version: 1
models: {{ m: {{ path: {model} }} }}
eval_sets:
  - {{ name: forms, path: forms.jsonl, train: train.jsonl, scorers: [exact_match], max_tokens: 12 }}
arms:
  - {{ name: zero_shot, model: m, strategy: prompt }}
  - {{ name: lora, model: m, strategy: {{ finetune: {{ lora_r: 4, num_epochs: 10, sequence_len: 128, learning_rate: 1.0e-2, micro_batch_size: 2 }} }} }}
compare: {{ baseline: zero_shot }}
"
            ),
        );
        let ran = scratch.bench(&["run", "x.yaml"]);
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        let manifest: Value =
            serde_json::from_slice(&scratch.read("reports/x/manifest.json")).unwrap();
        let steps = manifest["training"][0]["outcome"]["steps"].as_array().unwrap().iter();
        let losses = steps.map(|step| step["loss"].as_f64().unwrap()).collect();
        let lines = String::from_utf8(scratch.read("runs/x/answers.jsonl")).unwrap();
        // What follows a text differs from run to run: times.
        let text =
            |line: &str| Some(line.split_once("\"text\":")?.1.split_once("\",\"")?.0.to_owned());
        let mut answers: Vec<String> = lines.lines().filter_map(text).collect();
        answers.sort();
        for folder in ["reports", "runs"] {
            std::fs::remove_dir_all(scratch.path().join(folder)).unwrap();
        }
        (losses, answers)
    };
    let (of_folder, of_file) = (run("toy"), run("toy.gguf"));
    assert_eq!(of_folder.1.len(), 12, "{:?}", of_folder.1);
    assert_eq!(of_folder.1, of_file.1);
    assert!(of_folder.0.len() == of_file.0.len() && of_folder.0.len() == 30);
    for (folder, file) in of_folder.0.iter().zip(&of_file.0) {
        assert!((folder - file).abs() < 1e-4, "{folder}, {file}");
    }
}

/// Killed as by `kill -9`, twice, and each time gone on with.
#[test]
fn a_killed_training_ends_as_one_that_was_not_bit_for_bit() {
    let scratch = toy("lora_r: 4, lora_dropout: 0.1");
    scratch.edit("num_epochs: 1", "num_epochs: 60");
    let train = ["train", "x.yaml", "--arm", "lora"];
    // Paths of files below the run's folder that end so.
    let found = |end: &str| -> Vec<std::path::PathBuf> {
        let folders = std::fs::read_dir(scratch.path().join("runs/x/adapters"));
        let folders = folders.into_iter().flatten().flatten().map(|entry| entry.path());
        folders.map(|folder| folder.join(end)).filter(|file| file.exists()).collect()
    };
    let adapter = || -> Vec<u8> {
        let files = found("adapter_model.safetensors");
        assert_eq!(files.len(), 1, "{files:?}");
        std::fs::read(&files[0]).unwrap()
    };
    let ran = scratch.bench(&train);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let expected = adapter();
    std::fs::remove_dir_all(scratch.path().join("runs")).unwrap();
    for _ in 0..2 {
        let mut child =
            scratch.command(&train).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let written = || {
            found("checkpoint.safetensors")
                .first()
                .and_then(|file| std::fs::metadata(file).ok()?.modified().ok())
        };
        let before = written();
        while written() == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found("adapter_model.safetensors").is_empty());
    }
    let ran = scratch.bench(&train);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(adapter() == expected, "other numbers than without the kills");
}

#[test]
fn an_adapter_of_another_base_is_not_merged() {
    let scratch = toy("lora_r: 4");
    let ran = scratch.bench(&["train", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let adapter = ran.out.split(": ").next().unwrap().to_owned();
    // The same shapes, other numbers.
    write_model(&scratch.path().join("other"));
    let weights = scratch.path().join("other/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let ran = scratch.bench(&["merge", &adapter, "--base", "other", "--out", "merged"]);
    assert_ne!(ran.code, Some(0), "{ran:#?}");
    let said = ran.err.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "");
    assert!(said.contains("other") && said.contains("base"), "{said}");
    assert!(!scratch.path().join("merged").exists());
    let ran = scratch.bench(&["merge", &adapter, "--base", "toy", "--out", "merged"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
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
            2,
            "`target_modules` takes `q_proj`, `k_proj`, `v_proj`",
        ),
        ("lora_r: 64", 2, "`lora_r` is 64, and `k_proj` allows 1 to 16"),
        ("lora_r: 0", 2, "`lora_r` cannot train"),
        ("lora_alpha: 8", 2, "`lora_alpha` without `lora_r`"),
        (
            "lora_r: 4, sequence_len: 8",
            2,
            "none of the 6 training rows fits into `sequence_len: 8`",
        ),
        (
            "lora_r: 4, learning_rate: 1.0e30, num_epochs: 20, max_grad_norm: 0",
            3,
            "arm `lora` on set `forms`, seed 0: the loss or a gradient was not a number",
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
