//! The families of models that can be imported: what their tensors are called on both sides, which
//! shapes they must have, and the `config.json` that describes them.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::{ImportError, gguf::Gguf};

/// A family, by the name that GGUF and Hugging Face's `model_type` share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    /// As Llama, with biases on q, k and v.
    Qwen2,
    /// As Llama, with a norm on each head of q and k.
    Qwen3,
    /// As Qwen3, with norms after attention and MLP, and windowed layers.
    Gemma3,
}

const FAMILIES: [(&str, Family); 4] = [
    ("llama", Family::Llama),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma3", Family::Gemma3),
];

/// Of Gemma 3's layers, each sixth sees everything; the file does not say so.
const GEMMA_PATTERN: usize = 6;

/// Base of the rotation in Gemma 3's windowed layers; the file does not say so.
const GEMMA_LOCAL_THETA: f64 = 10_000.0;

/// The shape of one model.
#[derive(Debug)]
pub(super) struct Layout {
    family: Family,
    pub(super) architecture: &'static str,
    pub(super) context_length: usize,
    hidden_size: usize,
    intermediate_size: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    n_embeddings: usize,
    tied: bool,
    rms_norm_eps: f64,
    rope_theta: f64,
    rope_scaling: Option<Value>,
    window: Option<usize>,
}

/// One tensor to write.
#[derive(Debug)]
pub(super) struct Weight {
    pub(super) source: String,
    pub(super) target: String,
    pub(super) shape: Vec<usize>,
    /// Rows of q and k, head by head, that the file keeps in the order of interleaved rotation.
    pub(super) interleaved_head: Option<usize>,
    /// The file keeps it with 1 added.
    pub(super) lifted: bool,
}

impl Layout {
    pub(super) fn read(gguf: &mut Gguf) -> Result<Self, ImportError> {
        let found = gguf.text("general.architecture")?.unwrap_or("(none)");
        let Some(&(architecture, family)) = FAMILIES.iter().find(|(name, _)| *name == found) else {
            return Err(ImportError::Architecture {
                found: found.into(),
                supported: FAMILIES.map(|(name, _)| name).join("`, `"),
            });
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let count = |name: &str| gguf.count(&key(name));
        let required = |name: &str| {
            count(name)?
                .filter(|&n| n > 0)
                .ok_or_else(|| ImportError::MissingKey { key: key(name) })
        };
        let unsupported = |what: String| ImportError::Unsupported { what };

        if let Some(experts) = count("expert_count")?.filter(|&n| n > 0) {
            return Err(unsupported(format!("a mixture of {experts} experts")));
        }
        let scaling = gguf.text(&key("rope.scaling.type"))?.filter(|&kind| kind != "none");
        let linear = match scaling {
            None => None,
            Some("linear") if family == Family::Gemma3 => {
                let factor = gguf.float(&key("rope.scaling.factor"))?;
                Some(
                    factor.ok_or_else(|| ImportError::MissingKey {
                        key: key("rope.scaling.factor"),
                    })?,
                )
            }
            Some(scaling) => {
                return Err(unsupported(format!("`{scaling}` scaling of the rotary embedding")));
            }
        };
        let context_length = required("context_length")?;
        let window = count("attention.sliding_window")?.filter(|&n| n > 0 && n < context_length);
        if let Some(window) = window.filter(|_| matches!(family, Family::Qwen2 | Family::Qwen3)) {
            return Err(unsupported(format!("attention in a sliding window of {window} tokens")));
        }
        let hidden_size = required("embedding_length")?;
        let n_heads = required("attention.head_count")?;
        let n_kv_heads = count("attention.head_count_kv")?.unwrap_or(n_heads);
        let head_dim = match count("attention.key_length")? {
            Some(size) => size,
            None => hidden_size / n_heads,
        };
        let one_size = [count("attention.value_length")?, count("rope.dimension_count")?]
            .into_iter()
            .flatten()
            .all(|size| size == head_dim);
        if !one_size || n_kv_heads == 0 || head_dim == 0 || head_dim % 2 == 1 {
            return Err(unsupported(format!(
                "{n_heads} heads, {n_kv_heads} key-value heads and heads of size {head_dim} whose \
                 keys, values and rotation differ in size"
            )));
        }
        let n_layers = required("block_count")?;
        if n_layers > gguf.tensors.len() {
            return Err(ImportError::MissingTensor {
                tensor: format!("blk.{}.attn_norm.weight", n_layers - 1),
            });
        }
        let default_theta = if family == Family::Gemma3 { 1_000_000.0 } else { 10_000.0 };
        let rope_theta = gguf.float(&key("rope.freq_base"))?.unwrap_or(default_theta);
        let layout = Self {
            family,
            architecture,
            context_length,
            hidden_size,
            intermediate_size: required("feed_forward_length")?,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            n_embeddings: gguf.tensors.get("token_embd.weight").map_or(0, |tensor| tensor.shape[0]),
            tied: !gguf.tensors.contains_key("output.weight"),
            rms_norm_eps: gguf.float(&key("attention.layer_norm_rms_epsilon"))?.ok_or_else(
                || ImportError::MissingKey { key: key("attention.layer_norm_rms_epsilon") },
            )?,
            rope_theta,
            rope_scaling: match linear {
                Some(factor) => Some(json!({"rope_type": "linear", "factor": factor})),
                None => llama3_scaling(gguf, rope_theta, head_dim)?,
            },
            window,
        };
        layout.check(gguf)?;
        Ok(layout)
    }

    /// Every tensor we write is in the file with its shape, and nothing in the file is left out.
    fn check(&self, gguf: &Gguf) -> Result<(), ImportError> {
        let weights = self.weights();
        for weight in &weights {
            let Some(tensor) = gguf.tensors.get(&weight.source) else {
                return Err(ImportError::MissingTensor { tensor: weight.source.clone() });
            };
            if tensor.shape != weight.shape {
                return Err(ImportError::Shape {
                    tensor: weight.source.clone(),
                    found: tensor.shape.clone(),
                    expected: weight.shape.clone(),
                });
            }
        }
        let known =
            |name: &str| name == ROPE_FACTORS || weights.iter().any(|weight| weight.source == name);
        match gguf.tensors.keys().find(|name| !known(name)) {
            Some(name) => Err(ImportError::UnknownTensor {
                tensor: name.clone(),
                architecture: self.architecture,
            }),
            None => Ok(()),
        }
    }

    /// The tensors to write, in the order of the forward pass.
    pub(super) fn weights(&self) -> Vec<Weight> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        let plain = |source: &str, target: &str, shape: &[usize]| Weight {
            source: source.into(),
            target: target.into(),
            shape: shape.into(),
            interleaved_head: None,
            lifted: self.family == Family::Gemma3 && source.ends_with("norm.weight"),
        };
        let interleaved = (self.family == Family::Llama).then_some(self.head_dim);

        let mut weights = vec![plain(
            "token_embd.weight",
            "model.embed_tokens.weight",
            &[self.n_embeddings, hidden],
        )];
        for layer in 0..self.n_layers {
            let mut add = |source: &str, target: &str, shape: &[usize]| {
                weights.push(Weight {
                    interleaved_head: interleaved
                        .filter(|_| matches!(source, "attn_q.weight" | "attn_k.weight")),
                    ..plain(
                        &format!("blk.{layer}.{source}"),
                        &format!("model.layers.{layer}.{target}"),
                        shape,
                    )
                });
            };
            add("attn_norm.weight", "input_layernorm.weight", &[hidden]);
            add("attn_q.weight", "self_attn.q_proj.weight", &[q, hidden]);
            add("attn_k.weight", "self_attn.k_proj.weight", &[kv, hidden]);
            add("attn_v.weight", "self_attn.v_proj.weight", &[kv, hidden]);
            add("attn_output.weight", "self_attn.o_proj.weight", &[hidden, q]);
            match self.family {
                Family::Llama => {}
                Family::Qwen2 => {
                    add("attn_q.bias", "self_attn.q_proj.bias", &[q]);
                    add("attn_k.bias", "self_attn.k_proj.bias", &[kv]);
                    add("attn_v.bias", "self_attn.v_proj.bias", &[kv]);
                }
                Family::Qwen3 | Family::Gemma3 => {
                    add("attn_q_norm.weight", "self_attn.q_norm.weight", &[self.head_dim]);
                    add("attn_k_norm.weight", "self_attn.k_norm.weight", &[self.head_dim]);
                }
            }
            if self.family == Family::Gemma3 {
                add("post_attention_norm.weight", "post_attention_layernorm.weight", &[hidden]);
                add("ffn_norm.weight", "pre_feedforward_layernorm.weight", &[hidden]);
                add("post_ffw_norm.weight", "post_feedforward_layernorm.weight", &[hidden]);
            } else {
                add("ffn_norm.weight", "post_attention_layernorm.weight", &[hidden]);
            }
            add("ffn_gate.weight", "mlp.gate_proj.weight", &[inner, hidden]);
            add("ffn_up.weight", "mlp.up_proj.weight", &[inner, hidden]);
            add("ffn_down.weight", "mlp.down_proj.weight", &[hidden, inner]);
        }
        weights.push(plain("output_norm.weight", "model.norm.weight", &[hidden]));
        if !self.tied {
            weights.push(plain("output.weight", "lm_head.weight", &[self.n_embeddings, hidden]));
        }
        weights
    }

    /// `config.json`, with the keys of transformers 4 (`rope_theta`, `torch_dtype`), which version 5
    /// still reads, and with `rope_parameters`, which version 5 writes.
    pub(super) fn config(&self, bos: Option<usize>, eos: usize) -> Value {
        // A Llama that sees a window only is a Mistral.
        let (class, model_type) = match self.family {
            Family::Llama if self.window.is_some() => ("MistralForCausalLM", "mistral"),
            Family::Llama => ("LlamaForCausalLM", "llama"),
            Family::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
            Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
            Family::Gemma3 => ("Gemma3ForCausalLM", "gemma3_text"),
        };
        let mut rope = self.rope_scaling.clone().unwrap_or_else(|| json!({"rope_type": "default"}));
        rope["rope_theta"] = json!(self.rope_theta);
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.context_length,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling,
            "rope_parameters": rope,
            "vocab_size": self.n_embeddings,
            "tie_word_embeddings": self.tied,
            "attention_dropout": 0.0,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "torch_dtype": "float32",
        });
        config["attention_bias"] = json!(self.family == Family::Qwen2);
        match self.family {
            Family::Llama => {
                config["mlp_bias"] = json!(false);
                if let Some(window) = self.window {
                    config["sliding_window"] = json!(window);
                }
            }
            Family::Qwen2 | Family::Qwen3 => {
                config["use_sliding_window"] = json!(false);
                config["sliding_window"] = Value::Null;
                config["max_window_layers"] = json!(self.n_layers);
            }
            Family::Gemma3 => self.describe_gemma(&mut config),
        }
        config
    }
}

impl Layout {
    /// What Gemma 3 has beside the others. The largest of its models scales queries by another size
    /// than a head's, which llama.cpp knows by its number of layers.
    fn describe_gemma(&self, config: &mut Value) {
        let scalar =
            if self.n_layers == 62 { self.hidden_size / self.n_heads } else { self.head_dim };
        let full = |layer: usize| (layer + 1).is_multiple_of(GEMMA_PATTERN);
        let types: Vec<_> = (0..self.n_layers)
            .map(|layer| if full(layer) { "full_attention" } else { "sliding_attention" })
            .collect();
        let local = json!({"rope_type": "default", "rope_theta": GEMMA_LOCAL_THETA});
        let full = config["rope_parameters"].take();
        config["rope_parameters"] = json!({"full_attention": full, "sliding_attention": local});
        config["rope_local_base_freq"] = json!(GEMMA_LOCAL_THETA);
        config["hidden_activation"] = json!("gelu_pytorch_tanh");
        config["hidden_act"] = json!("gelu_pytorch_tanh");
        config["query_pre_attn_scalar"] = json!(scalar);
        config["sliding_window"] = json!(self.window.unwrap_or(self.context_length));
        config["sliding_window_pattern"] = json!(GEMMA_PATTERN);
        config["layer_types"] = json!(types);
        config["attn_logit_softcapping"] = Value::Null;
        config["final_logit_softcapping"] = Value::Null;
    }
}

/// The tensor with what Llama 3's scaling divides frequencies by.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The `rope_scaling` of Llama 3.1 and later, from the divisor of each frequency that the file keeps
/// in its place. All published models share the three other constants, so the largest divisor is the
/// factor, and the rest must follow from it.
fn llama3_scaling(
    gguf: &mut Gguf,
    theta: f64,
    head_dim: usize,
) -> Result<Option<Value>, ImportError> {
    let Some(tensor) = gguf.tensors.get(ROPE_FACTORS).cloned() else { return Ok(None) };
    let divisors = gguf.rows(ROPE_FACTORS, &tensor, 0..tensor.n_rows())?;
    let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
    let (low, high, original_context) = (1.0, 4.0, 8192.0);
    let expected = (0..head_dim).step_by(2).map(|i| {
        let wavelength = TAU * theta.powf(i as f64 / head_dim as f64);
        let smooth = ((original_context / wavelength - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / factor + smooth)
    });
    let follows = divisors.len() == head_dim / 2
        && expected
            .zip(&divisors)
            .all(|(expected, &found)| (expected - f64::from(found)).abs() <= 1e-3 * expected);
    if !follows {
        return Err(ImportError::Unsupported {
            what: "factors of the rotary embedding that are not Llama 3's".into(),
        });
    }
    Ok(Some(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original_context as usize,
    })))
}
