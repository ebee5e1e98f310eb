use std::{cell::Cell, collections::BTreeMap, io::Cursor};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value as Meta},
    },
};
use tempfile::TempDir;
use tokenizers::{Tokenizer, pre_tokenizers::byte_level::ByteLevel};

use super::*;

const HIDDEN: usize = 32;
const HEAD: usize = 16;
const INNER: usize = 64;
const LAYERS: usize = 2;

/// A model of two layers with the weights of its Hugging Face form, and the GGUF made from them.
struct Tiny {
    architecture: &'static str,
    weights: BTreeMap<String, Tensor>,
    metadata: Vec<(String, Meta)>,
    tensors: Vec<(String, QTensor)>,
}

impl Tiny {
    fn new(architecture: &'static str, splitting: &str) -> Self {
        let tokens = tokens();
        let strings = |items: &[String]| {
            Meta::Array(items.iter().map(|item| Meta::String(item.clone())).collect())
        };
        let types = tokens.iter().map(|token| {
            Meta::I32(match token.as_str() {
                "<|im_start|>" | "<|im_end|>" | "<|endoftext|>" => 3,
                "<tool_call>" => 4,
                "[PAD]" => 5,
                _ => 1,
            })
        });
        let id = |token: &str| tokens.iter().position(|found| found == token).unwrap() as u32;
        let mut metadata = vec![
            ("general.architecture".into(), Meta::String(architecture.into())),
            ("tokenizer.ggml.model".into(), Meta::String("gpt2".into())),
            ("tokenizer.ggml.pre".into(), Meta::String(splitting.into())),
            ("tokenizer.ggml.tokens".into(), strings(&tokens)),
            ("tokenizer.ggml.token_type".into(), Meta::Array(types.collect())),
            ("tokenizer.ggml.merges".into(), strings(&MERGES.map(String::from))),
            ("tokenizer.ggml.bos_token_id".into(), Meta::U32(id("<|im_start|>"))),
            ("tokenizer.ggml.eos_token_id".into(), Meta::U32(id("<|im_end|>"))),
            ("tokenizer.chat_template".into(), Meta::String("{{ messages }}".into())),
        ];
        for (key, value) in [
            ("context_length", 128),
            ("embedding_length", HIDDEN),
            ("feed_forward_length", INNER),
            ("block_count", LAYERS),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            metadata.push((format!("{architecture}.{key}"), Meta::U32(value as u32)));
        }
        for (key, value) in
            [("rope.freq_base", 50_000.0), ("attention.layer_norm_rms_epsilon", 1e-5)]
        {
            metadata.push((format!("{architecture}.{key}"), Meta::F32(value)));
        }
        let mut tiny =
            Self { architecture, weights: BTreeMap::new(), metadata, tensors: Vec::new() };
        tiny.add("token_embd.weight", "model.embed_tokens.weight", &[tokens.len(), HIDDEN]);
        for layer in 0..LAYERS {
            let mut add = |source: &str, target: &str, shape: &[usize]| {
                tiny.add(
                    &format!("blk.{layer}.{source}"),
                    &format!("model.layers.{layer}.{target}"),
                    shape,
                );
            };
            add("attn_norm.weight", "input_layernorm.weight", &[HIDDEN]);
            add("attn_q.weight", "self_attn.q_proj.weight", &[2 * HEAD, HIDDEN]);
            add("attn_k.weight", "self_attn.k_proj.weight", &[HEAD, HIDDEN]);
            add("attn_v.weight", "self_attn.v_proj.weight", &[HEAD, HIDDEN]);
            add("attn_output.weight", "self_attn.o_proj.weight", &[HIDDEN, 2 * HEAD]);
            if architecture == "qwen2" {
                add("attn_q.bias", "self_attn.q_proj.bias", &[2 * HEAD]);
                add("attn_k.bias", "self_attn.k_proj.bias", &[HEAD]);
                add("attn_v.bias", "self_attn.v_proj.bias", &[HEAD]);
            }
            if matches!(architecture, "qwen3" | "gemma3") {
                add("attn_q_norm.weight", "self_attn.q_norm.weight", &[HEAD]);
                add("attn_k_norm.weight", "self_attn.k_norm.weight", &[HEAD]);
            }
            if architecture == "gemma3" {
                add("post_attention_norm.weight", "post_attention_layernorm.weight", &[HIDDEN]);
                add("ffn_norm.weight", "pre_feedforward_layernorm.weight", &[HIDDEN]);
                add("post_ffw_norm.weight", "post_feedforward_layernorm.weight", &[HIDDEN]);
            } else {
                add("ffn_norm.weight", "post_attention_layernorm.weight", &[HIDDEN]);
            }
            add("ffn_gate.weight", "mlp.gate_proj.weight", &[INNER, HIDDEN]);
            add("ffn_up.weight", "mlp.up_proj.weight", &[INNER, HIDDEN]);
            add("ffn_down.weight", "mlp.down_proj.weight", &[HIDDEN, INNER]);
        }
        tiny.add("output_norm.weight", "model.norm.weight", &[HIDDEN]);
        tiny
    }

    fn add(&mut self, source: &str, target: &str, shape: &[usize]) {
        let weight = Tensor::randn(0_f32, 1.0, shape, &Device::Cpu).unwrap();
        let permuted = matches!(source.rsplit_once("attn_"), Some((_, "q.weight" | "k.weight")));
        let stored = if self.architecture == "llama" && permuted {
            // As llama.cpp's converter does it: the two halves of each head, interleaved.
            weight
                .reshape((shape[0] / HEAD, 2, HEAD / 2, shape[1]))
                .and_then(|halves| halves.transpose(1, 2)?.contiguous()?.reshape(shape))
                .unwrap()
        } else if self.architecture == "gemma3" && source.ends_with("norm.weight") {
            // The converter adds 1; a multiple of 1/64 survives that and its reversal.
            let rounded = ((&weight * 64.0).unwrap().round().unwrap() / 64.0).unwrap();
            self.weights.insert(target.into(), rounded.clone());
            return self.store(source, &(rounded + 1.0).unwrap(), GgmlDType::F32);
        } else {
            weight.clone()
        };
        self.weights.insert(target.into(), weight);
        self.store(source, &stored, GgmlDType::F32);
    }

    fn store(&mut self, source: &str, weight: &Tensor, kind: GgmlDType) {
        self.tensors.retain(|(name, _)| name != source);
        self.tensors.push((source.into(), QTensor::quantize(weight, kind).unwrap()));
    }

    fn set(&mut self, key: &str, value: Meta) {
        self.metadata.retain(|(found, _)| found != key);
        self.metadata.push((key.into(), value));
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let metadata: Vec<_> =
            self.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors: Vec<_> =
            self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
        file.into_inner()
    }

    fn import(&self) -> (TempDir, Result<Imported, ImportError>) {
        import(&self.bytes())
    }
}

const MERGES: [&str; 5] = ["h e", "l l", "he ll", "1 2", "Ġ hell"];

/// The 256 bytes, what the merges make of them, and a few that are not text.
fn tokens() -> Vec<String> {
    let mut bytes: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    bytes.sort();
    let specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "[PAD]"];
    bytes
        .into_iter()
        .chain(MERGES.map(|merge| merge.replace(' ', "")))
        .chain(specials.map(String::from))
        .collect()
}

fn import(bytes: &[u8]) -> (TempDir, Result<Imported, ImportError>) {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("model.gguf");
    fs::write(&source, bytes).unwrap();
    let imported = gguf_to_folder(&source, &scratch.path().join("model"), &mut |_, _| {});
    (scratch, imported)
}

fn json(scratch: &TempDir, name: &str) -> Value {
    let text = fs::read(scratch.path().join("model").join(name)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn tokenizer(scratch: &TempDir) -> Tokenizer {
    Tokenizer::from_file(scratch.path().join("model/tokenizer.json")).unwrap()
}

fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    tokenizer.encode(text, false).unwrap().get_tokens().to_vec()
}

#[track_caller]
fn check_weights(tiny: &Tiny) {
    let (scratch, imported) = tiny.import();
    let imported = imported.unwrap();
    let file = scratch.path().join("model/model.safetensors");
    let written = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    assert_eq!(written.len(), tiny.weights.len());
    assert_eq!(imported.tensors, tiny.weights.len());
    for (name, expected) in &tiny.weights {
        assert_eq!(written[name].dims(), expected.dims(), "{name}");
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&written[name]), values(expected), "{name}");
    }
    let parameters: usize = tiny.weights.values().map(Tensor::elem_count).sum();
    assert_eq!(imported.parameters, parameters as u64);
}

/// What an error says, for a model that `change` has spoilt.
#[track_caller]
fn check_error(change: impl FnOnce(&mut Tiny), message: &str) {
    let mut tiny = Tiny::new("llama", "smollm");
    change(&mut tiny);
    let (scratch, imported) = tiny.import();
    let error = imported.unwrap_err().to_string();
    assert!(error.contains(message), "`{error}` does not say `{message}`");
    assert!(!scratch.path().join("model").exists());
}

#[test]
fn llama_weights_come_out_with_the_halves_of_each_head_together() {
    check_weights(&Tiny::new("llama", "smollm"));
}

#[test]
fn qwen2_weights_come_out_in_their_order_with_biases() {
    check_weights(&Tiny::new("qwen2", "qwen2"));
}

#[test]
fn qwen3_weights_come_out_in_their_order_with_head_norms() {
    check_weights(&Tiny::new("qwen3", "qwen2"));
}

#[test]
fn blocks_come_out_as_candle_decodes_them() {
    for kind in [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::F16, GgmlDType::BF16] {
        let mut tiny = Tiny::new("qwen2", "qwen2");
        let name = "model.layers.1.mlp.down_proj.weight";
        let blocks = QTensor::quantize(&tiny.weights[name], kind).unwrap();
        let decoded = blocks.dequantize(&Device::Cpu).unwrap();
        tiny.store("blk.1.ffn_down.weight", &tiny.weights[name].clone(), kind);
        tiny.weights.insert(name.into(), decoded);
        check_weights(&tiny);
    }
}

#[test]
fn a_head_of_its_own_is_written_and_unties_the_embedding() {
    let mut tiny = Tiny::new("llama", "smollm");
    assert_eq!(json(&tiny.import().0, "config.json")["tie_word_embeddings"], true);
    tiny.add("output.weight", "lm_head.weight", &[tokens().len(), HIDDEN]);
    check_weights(&tiny);
    assert_eq!(json(&tiny.import().0, "config.json")["tie_word_embeddings"], false);
}

#[test]
fn the_configuration_says_what_the_metadata_says() {
    let (scratch, _) = Tiny::new("qwen2", "qwen2").import();
    let config = json(&scratch, "config.json");
    for (key, expected) in [
        ("architectures", json!(["Qwen2ForCausalLM"])),
        ("model_type", json!("qwen2")),
        ("hidden_size", json!(32)),
        ("intermediate_size", json!(64)),
        ("num_hidden_layers", json!(2)),
        ("num_attention_heads", json!(2)),
        ("num_key_value_heads", json!(1)),
        ("head_dim", json!(16)),
        ("max_position_embeddings", json!(128)),
        ("rms_norm_eps", json!(1e-5)),
        ("rope_theta", json!(50_000.0)),
        ("rope_scaling", Value::Null),
        ("rope_parameters", json!({"rope_type": "default", "rope_theta": 50_000.0})),
        ("vocab_size", json!(tokens().len())),
        ("use_sliding_window", json!(false)),
        ("sliding_window", Value::Null),
        ("torch_dtype", json!("float32")),
    ] {
        assert_eq!(config[key], expected, "{key}");
    }
}

#[test]
fn every_token_that_ends_an_answer_stops_generation() {
    let (scratch, _) = Tiny::new("llama", "smollm").import();
    let tokenizer = tokenizer(&scratch);
    let id = |token| tokenizer.token_to_id(token).unwrap();
    assert_eq!(json(&scratch, "config.json")["eos_token_id"], id("<|im_end|>"));
    assert_eq!(
        json(&scratch, "generation_config.json")["eos_token_id"],
        json!([id("<|im_end|>"), id("<|endoftext|>")]),
    );
    let config = json(&scratch, "tokenizer_config.json");
    assert_eq!(config["eos_token"], "<|im_end|>");
    assert_eq!(config["chat_template"], "{{ messages }}");
}

#[test]
fn any_text_survives_encoding_and_decoding() {
    let architectures =
        [("llama", "smollm"), ("llama", "gpt-2"), ("llama", "llama-bpe"), ("qwen2", "qwen2")];
    for (architecture, splitting) in architectures {
        let (scratch, imported) = Tiny::new(architecture, splitting).import();
        let tokenizer = tokenizer(&scratch);
        assert_eq!(imported.unwrap().vocabulary, tokenizer.get_vocab_size(true));
        for text in ["", "hello  hell\n\n", "año 1234 ½", "日本語 👩‍🔬\u{0}", "\tfn f() {}\r\n"]
        {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text, "{splitting}");
        }
    }
}

#[test]
fn each_family_splits_digits_in_its_own_way() {
    for (architecture, splitting, expected) in [
        ("llama", "smollm", ["1", "2"].as_slice()),
        ("qwen2", "qwen2", &["1", "2"]),
        ("llama", "llama-bpe", &["12"]),
        ("llama", "gpt-2", &["12"]),
    ] {
        let (scratch, _) = Tiny::new(architecture, splitting).import();
        assert_eq!(pieces(&tokenizer(&scratch), "12"), expected, "{splitting}");
    }
}

#[test]
fn a_space_belongs_to_the_word_after_it() {
    let (scratch, _) = Tiny::new("llama", "smollm").import();
    assert_eq!(pieces(&tokenizer(&scratch), "hell hello"), ["hell", "Ġhell", "o"]);
}

#[test]
fn control_tokens_are_special_and_user_tokens_are_kept_whole() {
    let (scratch, _) = Tiny::new("qwen2", "qwen2").import();
    let tokenizer = tokenizer(&scratch);
    let text = "<|im_start|>he<tool_call><|im_end|>";
    assert_eq!(pieces(&tokenizer, text), ["<|im_start|>", "he", "<tool_call>", "<|im_end|>"]);
    let ids = tokenizer.encode(text, false).unwrap();
    assert_eq!(tokenizer.decode(ids.get_ids(), true).unwrap(), "he<tool_call>");
    assert_eq!(tokenizer.token_to_id("[PAD]"), None);
}

#[test]
fn qwen_composes_accents_before_it_encodes() {
    let (scratch, _) = Tiny::new("qwen2", "qwen2").import();
    let tokenizer = tokenizer(&scratch);
    assert_eq!(pieces(&tokenizer, "e\u{301}"), pieces(&tokenizer, "é"));
}

#[test]
fn a_begin_token_is_added_only_where_the_file_asks_for_it() {
    let mut tiny = Tiny::new("llama", "smollm");
    let first = |tiny: &Tiny| {
        tokenizer(&tiny.import().0).encode("he", true).unwrap().get_tokens()[0].clone()
    };
    assert_eq!(first(&tiny), "he");
    tiny.set("tokenizer.ggml.add_bos_token", Meta::Bool(true));
    assert_eq!(first(&tiny), "<|im_start|>");
}

#[test]
fn llama3_scaling_is_recognised_by_its_divisors() {
    // The first and the last frequency of Llama 3.2 (theta 500,000, heads of 64, factor 32), and
    // the ones between that its rule blends.
    let theta: f64 = 500_000.0;
    let divisors: Vec<f32> = (0..HEAD / 2)
        .map(|i| {
            let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / HEAD as f64);
            if wavelength < 2048.0 {
                1.0
            } else if wavelength > 8192.0 {
                32.0
            } else {
                let smooth = (8192.0 / wavelength - 1.0) / 3.0;
                (1.0 / ((1.0 - smooth) / 32.0 + smooth)) as f32
            }
        })
        .collect();
    let mut tiny = Tiny::new("llama", "llama-bpe");
    tiny.set("llama.rope.freq_base", Meta::F32(500_000.0));
    let store = |tiny: &mut Tiny, divisors: &[f32]| {
        tiny.store(
            "rope_freqs.weight",
            &Tensor::new(divisors, &Device::Cpu).unwrap(),
            GgmlDType::F32,
        );
    };
    store(&mut tiny, &divisors);
    let scaling = json(&tiny.import().0, "config.json")["rope_scaling"].clone();
    assert_eq!(scaling["rope_type"], "llama3");
    assert_eq!(scaling["factor"], 32.0);

    let mut other = divisors.clone();
    other[1] = 3.0;
    store(&mut tiny, &other);
    assert!(matches!(tiny.import().1, Err(ImportError::Unsupported { .. })));
}

#[test]
fn the_digest_is_that_of_sha256sum_and_stays_the_same() {
    let bytes = Tiny::new("llama", "smollm").bytes();
    let (scratch, imported) = import(&bytes);
    let imported = imported.unwrap();
    let names = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let lines: String = names
        .map(|name| {
            let content = fs::read(scratch.path().join("model").join(name)).unwrap();
            format!("{:x}  {name}\n", Sha256::digest(content))
        })
        .concat();
    assert_eq!(imported.digest, format!("{:x}", Sha256::digest(lines)));
    assert_eq!(imported.source_sha256, format!("{:x}", Sha256::digest(&bytes)));
    assert_eq!(import(&bytes).1.unwrap(), imported);
}

#[test]
fn a_finished_import_is_not_done_again_and_another_model_replaces_it() {
    let (scratch, imported) = Tiny::new("llama", "smollm").import();
    let imported = imported.unwrap();
    let (source, folder) = (scratch.path().join("model.gguf"), scratch.path().join("model"));
    assert_eq!(Imported::open(&folder).unwrap(), imported);
    let count = |source: &Path| {
        let calls = Cell::new(0);
        let imported = gguf_to_folder(source, &folder, &mut |_, _| calls.set(calls.get() + 1));
        (calls.get(), imported.unwrap().digest)
    };
    assert_eq!(count(&source), (0, imported.digest.clone()));

    fs::write(&source, Tiny::new("llama", "smollm").bytes()).unwrap();
    let (calls, digest) = count(&source);
    assert_eq!(calls, imported.tensors);
    assert_ne!(digest, imported.digest);
    assert_eq!(Imported::open(&folder).unwrap().digest, digest);
}

#[test]
fn a_half_written_folder_is_not_accepted_and_is_made_again() {
    let (scratch, imported) = Tiny::new("llama", "smollm").import();
    let folder = scratch.path().join("model");
    let weights = folder.join("model.safetensors");
    let length = fs::metadata(&weights).unwrap().len();
    File::options().write(true).open(&weights).unwrap().set_len(length / 2).unwrap();
    let error = Imported::open(&folder).unwrap_err().to_string();
    assert!(error.contains("`model.safetensors` has"), "{error}");
    let again = gguf_to_folder(&scratch.path().join("model.gguf"), &folder, &mut |_, _| {});
    assert_eq!(again.unwrap(), imported.unwrap());
    Imported::open(&folder).unwrap();
}

#[test]
fn what_a_killed_import_left_is_cleared() {
    let scratch = tempfile::tempdir().unwrap();
    let (source, folder) = (scratch.path().join("model.gguf"), scratch.path().join("model"));
    fs::write(&source, Tiny::new("llama", "smollm").bytes()).unwrap();
    let partial = scratch.path().join(".model.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("leftover"), "half").unwrap();
    gguf_to_folder(&source, &folder, &mut |_, _| {}).unwrap();
    assert!(!partial.exists() && !folder.join("leftover").exists());
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
}

#[test]
fn two_imports_into_one_folder_at_once_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let (source, folder) = (scratch.path().join("model.gguf"), scratch.path().join("model"));
    fs::write(&source, Tiny::new("llama", "smollm").bytes()).unwrap();
    let mut second = None;
    gguf_to_folder(&source, &folder, &mut |_, _| {
        second = Some(gguf_to_folder(&source, &folder, &mut |_, _| {}));
    })
    .unwrap();
    assert!(matches!(second, Some(Err(ImportError::Busy { .. }))));
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("model.gguf");
    fs::write(&source, Tiny::new("llama", "smollm").bytes()).unwrap();
    let error = gguf_to_folder(&source, scratch.path(), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, ImportError::Occupied { .. }), "{error}");
    assert!(source.exists());
}

#[test]
fn a_file_cut_anywhere_is_refused_and_leaves_nothing() {
    let bytes = Tiny::new("llama", "smollm").bytes();
    // The padding after the last tensor may be missing.
    let last = bytes.len() - 32;
    for length in (0..last).step_by(211).chain([3, 4, 23, last]) {
        let (scratch, imported) = import(&bytes[..length]);
        let error = imported.unwrap_err();
        assert!(matches!(error, ImportError::Truncated { .. }), "{length}: {error}");
        assert!(!scratch.path().join("model").exists());
    }
}

#[test]
fn a_damaged_header_is_an_error_or_another_model_and_never_a_crash() {
    let bytes = Tiny::new("llama", "smollm").bytes();
    for position in (0..bytes.len().min(12_000)).step_by(61) {
        for value in [0x00, 0x7f, 0xff] {
            let mut damaged = bytes.clone();
            damaged[position] = value;
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join("model.gguf");
            fs::write(&path, damaged).unwrap();
            let read = Gguf::open(&path).and_then(|mut gguf| {
                Layout::read(&mut gguf)?;
                Vocabulary::read(&gguf)
            });
            if let Err(error) = read {
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

#[test]
fn a_file_of_another_kind_is_named() {
    let error = import(b"<html>not found</html>").1.unwrap_err().to_string();
    assert!(error.contains("is not a GGUF file (it begins with `<htm`)"), "{error}");
}

#[test]
fn what_cannot_be_imported_is_refused_by_name() {
    let text = |text: &str| Meta::String(text.into());
    let vector = Tensor::ones(HIDDEN, candle_core::DType::F32, &Device::Cpu).unwrap();
    check_error(
        |tiny| tiny.set("general.architecture", text("gemma2")),
        "architecture `gemma2` cannot be imported; supported are `llama`, `qwen2`, `qwen3`, `gemma3`",
    );
    check_error(
        |tiny| tiny.set("tokenizer.ggml.model", text("bert")),
        "tokenizer model `bert` cannot be imported",
    );
    check_error(
        |tiny| tiny.set("tokenizer.ggml.pre", text("tekken")),
        "splits text by the rules of `tekken`",
    );
    check_error(
        |tiny| tiny.set("llama.rope.scaling.type", text("yarn")),
        "`yarn` scaling of the rotary embedding",
    );
    check_error(|tiny| tiny.set("llama.expert_count", Meta::U32(8)), "a mixture of 8 experts");
    check_error(
        |tiny| tiny.store("blk.0.attn_sinks.weight", &vector, GgmlDType::F32),
        "tensor `blk.0.attn_sinks.weight` has no place in architecture `llama`",
    );
    check_error(
        |tiny| tiny.tensors.retain(|(name, _)| name != "blk.1.ffn_up.weight"),
        "tensor `blk.1.ffn_up.weight` is missing",
    );
    check_error(
        |tiny| tiny.store("blk.1.ffn_up.weight", &vector, GgmlDType::F32),
        "tensor `blk.1.ffn_up.weight` has the shape [32]",
    );
    check_error(
        |tiny| tiny.metadata.retain(|(key, _)| key != "llama.context_length"),
        "the file has no `llama.context_length`",
    );
    check_error(
        |tiny| tiny.set("llama.context_length", text("long")),
        "`llama.context_length` in the file is not a count",
    );
    check_error(
        |tiny| {
            let spoilt = (&vector * f64::NAN).unwrap();
            tiny.store("output_norm.weight", &spoilt, GgmlDType::F32);
        },
        "tensor `output_norm.weight` holds a weight that is not a finite number",
    );
    check_error(
        |tiny| tiny.set("tokenizer.ggml.eos_token_id", Meta::U32(9999)),
        "`tokenizer.ggml.eos_token_id` is 9999",
    );
    check_error(
        |tiny| tiny.set("tokenizer.ggml.merges", Meta::Array(vec![text("zz zz")])),
        "the vocabulary does not fit together",
    );
}

#[test]
fn a_kind_of_block_that_cannot_be_decoded_is_named() {
    let tiny = Tiny::new("llama", "smollm");
    let mut bytes = tiny.bytes();
    let name = b"blk.0.ffn_up.weight";
    let at = bytes.windows(name.len()).position(|found| found == name).unwrap();
    // After the name: the number of dimensions, two sizes, the kind.
    let kind = at + name.len() + 4 + 16;
    bytes[kind..kind + 4].copy_from_slice(&20_u32.to_le_bytes());
    let error = import(&bytes).1.unwrap_err().to_string();
    assert!(error.contains("tensor `blk.0.ffn_up.weight` is stored as IQ4_NL"), "{error}");
}

impl Tiny {
    /// The vocabulary of a SentencePiece model in place of the byte-level one.
    fn with_pieces(mut self, prefix: bool) -> Self {
        let sp = "\u{2581}";
        let mut tokens: Vec<(String, i32, f32)> = ["<unk>", "<s>", "</s>"]
            .iter()
            .zip([2, 3, 3])
            .map(|(token, kind)| ((*token).to_owned(), kind, 0.0))
            .collect();
        tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 6, 0.0)));
        let merged = ["he", "ll", "hell", "lo", "hello", &format!("{sp}hello"), &format!("{sp}h")];
        let rank = |i: usize| -(i as f32);
        tokens.extend(merged.iter().zip(0..).map(|(t, i)| ((*t).to_owned(), 1, rank(i))));
        tokens.extend([sp, "h", "e", "l", "o", "w"].map(|t| (t.to_owned(), 1, -1e9)));
        tokens.push(("<tool>".into(), 4, -1e9));
        let columns = HIDDEN;
        self.add("token_embd.weight", "model.embed_tokens.weight", &[tokens.len(), columns]);
        let list = |items: Vec<Meta>| Meta::Array(items);
        self.set("tokenizer.ggml.model", Meta::String("llama".into()));
        self.set("tokenizer.ggml.add_space_prefix", Meta::Bool(prefix));
        let texts = tokens.iter().map(|token| Meta::String(token.0.clone())).collect();
        self.set("tokenizer.ggml.tokens", list(texts));
        let kinds = tokens.iter().map(|token| Meta::I32(token.1)).collect();
        self.set("tokenizer.ggml.token_type", list(kinds));
        let scores = tokens.iter().map(|token| Meta::F32(token.2)).collect();
        self.set("tokenizer.ggml.scores", list(scores));
        self.set("tokenizer.ggml.bos_token_id", Meta::U32(1));
        self.set("tokenizer.ggml.eos_token_id", Meta::U32(2));
        self.metadata.retain(|(key, _)| key != "tokenizer.ggml.merges");
        self
    }

    fn gemma() -> Self {
        let mut tiny = Self::new("gemma3", "default").with_pieces(false);
        tiny.set("gemma3.attention.sliding_window", Meta::U32(32));
        tiny
    }
}

#[test]
fn gemma3_weights_come_out_without_the_one_that_the_file_adds_to_norms() {
    let tiny = Tiny::gemma();
    check_weights(&tiny);
    let config = json(&tiny.import().0, "config.json");
    for (key, expected) in [
        ("model_type", json!("gemma3_text")),
        ("sliding_window", json!(32)),
        ("query_pre_attn_scalar", json!(HEAD)),
        ("hidden_activation", json!("gelu_pytorch_tanh")),
        ("layer_types", json!(["sliding_attention", "sliding_attention"])),
        ("rope_local_base_freq", json!(10_000.0)),
    ] {
        assert_eq!(config[key], expected, "{key}");
    }
}

#[test]
fn a_llama_with_a_window_is_a_mistral() {
    let mut tiny = Tiny::new("llama", "smollm");
    tiny.set("llama.attention.sliding_window", Meta::U32(48));
    let config = json(&tiny.import().0, "config.json");
    assert_eq!(config["model_type"], "mistral");
    assert_eq!(config["sliding_window"], 48);
}

#[test]
fn sentence_pieces_are_merged_by_score_and_the_rest_becomes_bytes() {
    let (scratch, imported) = Tiny::new("llama", "smollm").with_pieces(true).import();
    imported.unwrap();
    let tokenizer = tokenizer(&scratch);
    let sp = "\u{2581}";
    // Not from left to right: `he` and `ll` come before `lo`.
    assert_eq!(pieces(&tokenizer, "hello"), [format!("{sp}hello")]);
    assert_eq!(pieces(&tokenizer, "wello"), [sp, "w", "e", "ll", "o"]);
    assert_eq!(pieces(&tokenizer, "h\u{e9}"), [format!("{sp}h"), "<0xC3>".into(), "<0xA9>".into()]);
    assert_eq!(
        tokenizer
            .decode(tokenizer.encode("hello h\u{e9}", false).unwrap().get_ids(), true)
            .unwrap(),
        "hello h\u{e9}"
    );
    assert_eq!(tokenizer.encode("hello", true).unwrap().get_tokens()[0], "<s>");

    let (scratch, _) = Tiny::gemma().import();
    let tokenizer = self::tokenizer(&scratch);
    assert_eq!(pieces(&tokenizer, "hello hello"), ["hello", &format!("{sp}hello")]);
    assert_eq!(pieces(&tokenizer, "<tool>w"), ["<tool>", "w"]);
}

/// What is exported from an import is imported to the same.
#[track_caller]
fn check_round_trip(tiny: &Tiny) {
    let (scratch, imported) = tiny.import();
    let imported = imported.unwrap();
    let file = scratch.path().join("again.gguf");
    let exported =
        crate::export_gguf(&scratch.path().join("model"), &file, crate::GgufKind::F32).unwrap();
    assert_eq!(exported.bytes, fs::metadata(&file).unwrap().len());
    let again = gguf_to_folder(&file, &scratch.path().join("again"), &mut |_, _| {}).unwrap();
    assert_eq!(again.architecture, imported.architecture);
    for name in ["config.json", "generation_config.json", "tokenizer_config.json"] {
        let read = |folder: &str| -> Value {
            let text = fs::read(scratch.path().join(folder).join(name)).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        assert_eq!(read("again"), read("model"), "{name}");
    }
    let numbers = |folder: &str| {
        let file = scratch.path().join(folder).join("model.safetensors");
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let numbers = tensors
            .into_iter()
            .map(|(name, tensor)| (name, tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()));
        numbers.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(numbers("again"), numbers("model"));
    let tokenizers = ["model", "again"].map(|folder| {
        Tokenizer::from_file(scratch.path().join(folder).join("tokenizer.json")).unwrap()
    });
    for text in ["hello", " hello  h\u{e9}llo 12", "<tool_call><|im_end|><tool>wow</s>"] {
        let [one, other] = tokenizers.each_ref().map(|t| t.encode(text, true).unwrap());
        assert_eq!(one.get_ids(), other.get_ids(), "{text}");
    }
}

#[test]
fn an_exported_model_is_imported_to_the_same() {
    for (architecture, splitting) in [
        ("llama", "smollm"),
        ("llama", "llama-bpe"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen2"),
        ("llama", "gpt-2"),
    ] {
        check_round_trip(&Tiny::new(architecture, splitting));
    }
    check_round_trip(&Tiny::new("llama", "smollm").with_pieces(true));
    check_round_trip(&Tiny::gemma());
    let mut scaled = Tiny::gemma();
    scaled.set("gemma3.rope.scaling.type", Meta::String("linear".into()));
    scaled.set("gemma3.rope.scaling.factor", Meta::F32(8.0));
    check_round_trip(&scaled);
    let mut mistral = Tiny::new("llama", "smollm");
    mistral.set("llama.attention.sliding_window", Meta::U32(48));
    check_round_trip(&mistral);
}

#[test]
fn half_precision_rounds_matrices_and_keeps_vectors() {
    let (scratch, imported) = Tiny::new("llama", "smollm").import();
    imported.unwrap();
    let (model, file) = (scratch.path().join("model"), scratch.path().join("half.gguf"));
    crate::export_gguf(&model, &file, crate::GgufKind::F16).unwrap();
    let error = crate::export_gguf(&model, &file, crate::GgufKind::F16).unwrap_err().to_string();
    assert!(error.contains("nothing is overwritten"), "{error}");
    gguf_to_folder(&file, &scratch.path().join("again"), &mut |_, _| {}).unwrap();
    let load = |folder: &str| {
        let file = scratch.path().join(folder).join("model.safetensors");
        candle_core::safetensors::load(file, &Device::Cpu).unwrap()
    };
    let half = load("again");
    for (name, exact) in BTreeMap::from_iter(load("model")) {
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let differs = values(&exact) != values(&half[&name]);
        assert_eq!(differs, exact.rank() > 1, "{name}");
        for (exact, half) in values(&exact).iter().zip(values(&half[&name])) {
            assert!((exact - half).abs() <= 1e-3 * exact.abs().max(1e-3), "{name}");
        }
    }
}
