//! What `config.json` says about a decoder.

use serde_json::Value;

use crate::error::TrainError;
use crate::ops::swiglu::Activation;

/// The model types that [`Config::parse`] accepts.
const MODEL_TYPES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "gemma3_text"];

/// The shape of a decoder, and the constants of its formulas.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) model_type: String,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) key_heads: usize,
    pub(crate) head: usize,
    pub(crate) vocabulary: usize,
    pub(crate) norm_epsilon: f32,
    pub(crate) tied: bool,
    /// Positions the model was made for.
    pub(crate) positions: usize,
    /// Rotary angles per position, one per pair of a head.
    pub(crate) frequencies: Vec<f64>,
    /// The same for layers whose attention is windowed, where they differ (Gemma 3).
    pub(crate) local_frequencies: Option<Vec<f64>>,
    /// Keys that a token of a windowed layer sees, its own included.
    pub(crate) window: Option<usize>,
    /// For each layer, whether its attention is windowed.
    pub(crate) windowed: Vec<bool>,
    /// What attention scores are multiplied by.
    pub(crate) attention_scale: f32,
    /// What the MLP's gate passes through.
    pub(crate) activation: Activation,
    /// What embeddings are multiplied by.
    pub(crate) embedding_scale: f32,
    /// Gemma 3: norms multiply by 1 + weight, heads of query and key are normalised, and what a block
    /// adds to the residual stream is normalised before.
    pub(crate) gemma: bool,
}

impl Config {
    /// Reads the text of a `config.json`.
    pub(crate) fn parse(text: &str) -> Result<Self, TrainError> {
        let json: Value = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
        let model_type = json["model_type"].as_str().unwrap_or_default().to_owned();
        if !MODEL_TYPES.contains(&model_type.as_str()) {
            let supported = MODEL_TYPES.join("`, `");
            return Err(TrainError::ModelType { found: model_type, supported });
        }
        let number = |key: &str| {
            let value = json[key].as_u64().filter(|value| *value > 0);
            value
                .map(|value| value as usize)
                .ok_or_else(|| unreadable(&format!("it has no `{key}`")))
        };
        let unsupported = |what: String| Err(TrainError::Unsupported { what });
        let gemma = model_type == "gemma3_text";
        let activation = json["hidden_activation"].as_str().or(json["hidden_act"].as_str());
        let activation = match activation.unwrap_or(if gemma { GELU } else { "silu" }) {
            "silu" => Activation::Silu,
            GELU => Activation::Gelu,
            other => return unsupported(format!("the activation `{other}`")),
        };
        for key in ["final_logit_softcapping", "attn_logit_softcapping"] {
            if !json[key].is_null() {
                return unsupported(format!("`{key}`"));
            }
        }
        if json["use_bidirectional_attention"] == true {
            return unsupported("attention in both directions".into());
        }
        if json.get("quantization_config").is_some_and(|value| !value.is_null()) {
            return unsupported("quantised weights".into());
        }
        let hidden = number("hidden_size")?;
        let qwen = model_type.starts_with("qwen");
        let heads = number("num_attention_heads")?;
        let key_heads = number("num_key_value_heads").unwrap_or(heads);
        let head = number("head_dim").unwrap_or(hidden / heads);
        if head % 2 == 1 || heads % key_heads > 0 {
            return unsupported(format!("{heads} heads of {head} over {key_heads} key heads"));
        }
        let positions = number("max_position_embeddings").unwrap_or(usize::MAX);
        let layers = number("num_hidden_layers")?;
        let window = number("sliding_window").ok();
        let window = window.filter(|_| json["use_sliding_window"].as_bool().unwrap_or(!qwen));
        let windowed = windowed(&json, layers, window.is_some(), &model_type);
        let scalar = json["query_pre_attn_scalar"].as_f64().filter(|_| gemma);
        Ok(Self {
            hidden,
            intermediate: number("intermediate_size")?,
            layers,
            heads,
            key_heads,
            head,
            vocabulary: number("vocab_size")?,
            norm_epsilon: json["rms_norm_eps"].as_f64().unwrap_or(1e-6) as f32,
            // Absent, transformers ties the embeddings of Gemma alone.
            tied: json["tie_word_embeddings"].as_bool().unwrap_or(gemma),
            positions,
            frequencies: frequencies(&json, head, gemma)?,
            local_frequencies: gemma.then(|| local_frequencies(&json, head)),
            window,
            windowed,
            attention_scale: scalar.unwrap_or(head as f64).sqrt().recip() as f32,
            activation,
            embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
            gemma,
            model_type,
        })
    }

    /// Columns of the query projection.
    pub(crate) fn query(&self) -> usize {
        self.heads * self.head
    }

    /// Columns of the key projection, and of the value projection.
    pub(crate) fn key(&self) -> usize {
        self.key_heads * self.head
    }

    /// Columns of query, key and value side by side.
    pub(crate) fn qkv(&self) -> usize {
        self.query() + 2 * self.key()
    }
}

/// The name that configurations give to GELU by its tangent.
const GELU: &str = "gelu_pytorch_tanh";

/// Which layers see a window only: as `layer_types` says, or as transformers fills it in.
fn windowed(json: &Value, layers: usize, window: bool, model_type: &str) -> Vec<bool> {
    let types = json["layer_types"].as_array();
    let pattern = json["sliding_window_pattern"].as_u64().unwrap_or(6) as usize;
    let first = json["max_window_layers"].as_u64().unwrap_or(28) as usize;
    let one = |layer: usize| match (types, model_type) {
        (Some(types), _) => types.get(layer).is_some_and(|name| *name == "sliding_attention"),
        (None, "mistral") => true,
        (None, "gemma3_text") => !(layer + 1).is_multiple_of(pattern.max(1)),
        (None, "qwen2" | "qwen3") => layer >= first,
        (None, _) => false,
    };
    (0..layers).map(|layer| window && one(layer)).collect()
}

/// Angles of Gemma 3's windowed layers, which are never scaled.
fn local_frequencies(json: &Value, head: usize) -> Vec<f64> {
    let theta = json["rope_local_base_freq"].as_f64();
    let theta =
        theta.or_else(|| json["rope_parameters"]["sliding_attention"]["rope_theta"].as_f64());
    plain_frequencies(theta.unwrap_or(10_000.0), head)
}

fn plain_frequencies(theta: f64, head: usize) -> Vec<f64> {
    (0..head / 2).map(|i| theta.powf(-2.0 * i as f64 / head as f64)).collect()
}

/// Where a `config.json` says how rotations are scaled.
pub(crate) fn rope_scaling(json: &Value) -> &Value {
    match &json["rope_parameters"] {
        Value::Null => &json["rope_scaling"],
        // Gemma 3 has one set for each kind of layer.
        parameters if !parameters["full_attention"].is_null() => &parameters["full_attention"],
        parameters => parameters,
    }
}

/// Rotary angle per position of each pair (Su et al. 2021), with the scalings of Llama 3 and of plain
/// interpolation. Newer files keep everything in `rope_parameters`.
fn frequencies(json: &Value, head: usize, gemma: bool) -> Result<Vec<f64>, TrainError> {
    let scaling = rope_scaling(json);
    let theta = json["rope_theta"].as_f64().or_else(|| scaling["rope_theta"].as_f64());
    let theta = theta.unwrap_or(if gemma { 1_000_000.0 } else { 10_000.0 });
    let plain = plain_frequencies(theta, head).into_iter();
    let kind = scaling["rope_type"].as_str().or_else(|| scaling["type"].as_str());
    let value = |key: &str| {
        scaling[key]
            .as_f64()
            .ok_or_else(|| unreadable(&format!("its rotary scaling has no `{key}`")))
    };
    match kind.unwrap_or("default") {
        "default" => Ok(plain.collect()),
        "linear" => {
            let factor = value("factor")?;
            Ok(plain.map(|angle| angle / factor).collect())
        }
        "llama3" => {
            let (factor, low, high) =
                (value("factor")?, value("low_freq_factor")?, value("high_freq_factor")?);
            let context = value("original_max_position_embeddings")?;
            Ok(plain
                .map(|angle| {
                    let turns = context * angle / std::f64::consts::TAU;
                    let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - share) * angle / factor + share * angle
                })
                .collect())
        }
        other => Err(TrainError::Unsupported { what: format!("the rotary scaling `{other}`") }),
    }
}

fn unreadable(what: &dyn std::fmt::Display) -> TrainError {
    TrainError::Unreadable { path: "config.json".into(), what: what.to_string() }
}
