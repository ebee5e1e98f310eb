//! A tiny model with a byte-level tokenizer, in Hugging Face layout.

use std::path::{Path, PathBuf};

use bench_core::backend::{ModelFolder, TrainExample, TrainJob};
use bench_core::chat::Message;
use bench_core::spec::Finetune;
use fs_err as fs;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::model::{Config, Projection};
use crate::tensor_file;

/// Bytes, the two special tokens, and padding.
pub(crate) const VOCABULARY: usize = 264;
pub(crate) const EOS: u32 = 257;

pub(crate) struct Fixture {
    pub(crate) root: tempfile::TempDir,
    pub(crate) base: ModelFolder,
}

impl Fixture {
    /// A model of this type.
    pub(crate) fn new(model_type: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("base");
        write_model(&path, model_type);
        Self { root, base: ModelFolder { path, digest: "digest of the base".into() } }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A job over these examples that writes to `name`.
    pub(crate) fn job(
        &self,
        name: &str,
        examples: Vec<TrainExample>,
        settings: Finetune,
    ) -> TrainJob {
        TrainJob {
            base: self.base.clone(),
            examples,
            dev: Vec::new(),
            settings,
            seed: 7,
            output: self.path(name),
        }
    }
}

/// Settings that suit a tiny model.
pub(crate) fn settings() -> Finetune {
    Finetune {
        lora_r: 4,
        lora_alpha: 8.0,
        num_epochs: 2,
        learning_rate: 1e-2,
        micro_batch_size: 2,
        sequence_len: 64,
        ..Finetune::default()
    }
}

/// Questions and answers of different lengths.
pub(crate) fn examples(n: usize) -> Vec<TrainExample> {
    let words = ["red", "green", "a deep blue", "grey", "black", "white as snow", "ochre", "teal"];
    (0..n)
        .map(|i| TrainExample::Completion {
            messages: vec![Message::user(format!(
                "{}?",
                "abcdefgh"[i % 8..=i % 8].repeat(4 + i % 3)
            ))],
            completion: format!("{} {i}", words[i % words.len()]),
        })
        .collect()
}

fn config(model_type: &str) -> serde_json::Value {
    let mut config = json!({
        "model_type": model_type, "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": if model_type == "qwen3" { 16 } else { 8 }, "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 512,
        "tie_word_embeddings": model_type == "llama",
    });
    if model_type == "gemma3_text" {
        config["hidden_activation"] = json!("gelu_pytorch_tanh");
        config["query_pre_attn_scalar"] = json!(12);
        config["sliding_window"] = json!(6);
        config["layer_types"] = json!(["sliding_attention", "full_attention"]);
    }
    config
}

fn write_model(folder: &Path, model_type: &str) {
    fs::create_dir_all(folder).unwrap();
    let config = serde_json::to_string(&config(model_type)).unwrap();
    fs::write(folder.join("config.json"), &config).unwrap();
    let config = Config::parse(&config).unwrap();
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, config.hidden]),
        ("model.norm.weight".to_owned(), vec![config.hidden]),
    ];
    if !config.tied {
        shapes.push(("lm_head.weight".into(), vec![VOCABULARY, config.hidden]));
    }
    for layer in 0..config.layers {
        for projection in Projection::ALL {
            let (output, input) = projection.shape(&config);
            let path = projection.path(layer);
            shapes.push((format!("{path}.weight"), vec![output, input]));
            if model_type == "qwen2" && projection <= Projection::V {
                shapes.push((format!("{path}.bias"), vec![output]));
            }
        }
        let mut names =
            vec![("input_layernorm", config.hidden), ("post_attention_layernorm", config.hidden)];
        if model_type == "gemma3_text" {
            names.extend([
                ("pre_feedforward_layernorm", config.hidden),
                ("post_feedforward_layernorm", config.hidden),
            ]);
        }
        if matches!(model_type, "qwen3" | "gemma3_text") {
            names.extend([("self_attn.q_norm", config.head), ("self_attn.k_norm", config.head)]);
        }
        for (name, size) in names {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), vec![size]));
        }
    }
    write_tensors(&folder.join("model.safetensors"), &shapes, 1);

    // GPT-2's alphabet: printable bytes stand for themselves, the others for what follows 255.
    let mut next = 255;
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..=255u32 {
        let plain = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let code = if plain {
            byte
        } else {
            next += 1;
            next
        };
        vocabulary.insert(char::from_u32(code).unwrap().to_string(), json!(byte));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(256, "<s>"), special(EOS, "</s>")],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocabulary, "merges": []},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}\n";
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
}

/// Random numbers around 0, or around 1 for norms.
fn write_tensors(path: &Path, shapes: &[(String, Vec<usize>)], seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let numbers: Vec<Vec<f32>> = shapes
        .iter()
        .map(|(name, shape)| {
            let centre = if name.contains("norm") { 1.0 } else { 0.0 };
            let n = shape.iter().product::<usize>();
            (0..n).map(|_| centre + random.random_range(-0.4f32..0.4)).collect()
        })
        .collect();
    let tensors: Vec<_> = shapes
        .iter()
        .zip(&numbers)
        .map(|((name, shape), numbers)| (name.clone(), shape.clone(), numbers.as_slice()))
        .collect();
    tensor_file::write(path, &json!({}), &tensors).unwrap();
}
