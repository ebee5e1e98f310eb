//! What `config.json` says about a decoder.

use serde_json::Value;

use crate::error::TrainError;

/// The model types that [`Config::parse`] accepts.
const MODEL_TYPES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

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
    /// Positions the model may see: its context, or its attention window where that is smaller.
    pub(crate) positions: usize,
    /// Rotary angles per position, one per pair of a head.
    pub(crate) frequencies: Vec<f64>,
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
        let activation = json["hidden_act"].as_str().unwrap_or("silu");
        if activation != "silu" {
            return unsupported(format!("the activation `{activation}`"));
        }
        if json.get("quantization_config").is_some_and(|value| !value.is_null()) {
            return unsupported("quantised weights".into());
        }
        let hidden = number("hidden_size")?;
        let heads = number("num_attention_heads")?;
        let key_heads = number("num_key_value_heads").unwrap_or(heads);
        let head = number("head_dim").unwrap_or(hidden / heads);
        if head % 2 == 1 || heads % key_heads > 0 {
            return unsupported(format!("{heads} heads of {head} over {key_heads} key heads"));
        }
        let mut positions = number("max_position_embeddings").unwrap_or(usize::MAX);
        if json["use_sliding_window"].as_bool().unwrap_or(model_type == "mistral") {
            positions = positions.min(number("sliding_window").unwrap_or(usize::MAX));
        }
        Ok(Self {
            hidden,
            intermediate: number("intermediate_size")?,
            layers: number("num_hidden_layers")?,
            heads,
            key_heads,
            head,
            vocabulary: number("vocab_size")?,
            norm_epsilon: json["rms_norm_eps"].as_f64().unwrap_or(1e-6) as f32,
            // Absent, transformers ties the embeddings of none of these families.
            tied: json["tie_word_embeddings"].as_bool().unwrap_or(false),
            positions,
            frequencies: frequencies(&json, head)?,
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

/// Rotary angle per position of each pair (Su et al. 2021), with the scalings of Llama 3 and of plain
/// interpolation. Newer files keep everything in `rope_parameters`.
fn frequencies(json: &Value, head: usize) -> Result<Vec<f64>, TrainError> {
    let scaling = match &json["rope_parameters"] {
        Value::Null => &json["rope_scaling"],
        parameters => parameters,
    };
    let theta = json["rope_theta"].as_f64().or_else(|| scaling["rope_theta"].as_f64());
    let theta = theta.unwrap_or(10_000.0);
    let plain = (0..head / 2).map(|i| theta.powf(-2.0 * i as f64 / head as f64));
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
