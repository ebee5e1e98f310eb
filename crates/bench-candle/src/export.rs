//! Writes a model folder as a GGUF file, which llama.cpp and everything built on it reads, and an
//! adapter folder as plain PEFT files.
//!
//! The counterpart of [`crate::gguf_to_folder`]: what is written here is read back there to the same
//! numbers, with the same tokenizer.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use fs_err::{self as fs, File};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use crate::adapter::{CONFIG, WEIGHTS};
use crate::error::TrainError;
use crate::import::{ROPE_FACTORS, Splitting, splitting_of};
use crate::model::{Config, Weights, rope_scaling};

/// How the matrices of a GGUF file are stored. Vectors are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GgufKind {
    /// 32 bits: the same numbers.
    #[default]
    F32,
    /// 16 bits, rounded to nearest.
    F16,
}

/// What a GGUF file holds after an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// GGUF's name of the family.
    pub architecture: &'static str,
    /// Tensors written.
    pub tensors: usize,
    /// Length of the file in bytes.
    pub bytes: u64,
}

/// Token types of `llama_token_type` in llama.h.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The alignment of tensors within the file, in bytes.
const ALIGNMENT: usize = 32;

/// Copies an adapter's two PEFT files to `output`, which appears whole or not at all and must not
/// exist. The base may be renamed, for example to its name on a hub.
pub fn export_peft(
    adapter: &Path,
    output: &Path,
    base_name: Option<&str>,
) -> Result<(), TrainError> {
    let partial = claim(output)?;
    fs::create_dir_all(&partial)?;
    let refuse = |what: String| TrainError::Adapter { folder: adapter.into(), what };
    let mut config: Value = serde_json::from_slice(&fs::read(adapter.join(CONFIG))?)
        .map_err(|error| refuse(format!("`{CONFIG}` is not JSON ({error})")))?;
    if config["peft_type"].as_str().is_none() {
        return Err(refuse(format!("`{CONFIG}` has no `peft_type`, so PEFT would not read it")));
    }
    if let Some(name) = base_name {
        config["base_model_name_or_path"] = json!(name);
    }
    let text = serde_json::to_string_pretty(&config).map_err(io::Error::from)?;
    fs::write(partial.join(CONFIG), text + "\n")?;
    let weights = fs::read(adapter.join(WEIGHTS))?;
    SafeTensors::deserialize(&weights)
        .map_err(|error| refuse(format!("`{WEIGHTS}` is damaged ({error})")))?;
    fs::write(partial.join(WEIGHTS), weights)?;
    Ok(fs::rename(&partial, output)?)
}

/// Writes the model in `folder` as one GGUF file. The file `output` appears whole or not at all, and
/// must not exist.
pub fn export_gguf(folder: &Path, output: &Path, kind: GgufKind) -> Result<Exported, TrainError> {
    let text = fs::read_to_string(folder.join("config.json"))?;
    let config = Config::parse(&text)?;
    let json: Value = serde_json::from_str(&text).map_err(io::Error::from)?;
    let mut weights = Weights::open(folder)?;
    let family = Family::of(&config)?;
    let mut metadata = Metadata::default();
    describe(&mut metadata, folder, &config, &json, family, kind)?;
    tokenizer(&mut metadata, folder, config.vocabulary)?;

    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    let mut tensors = Vec::with_capacity(names.len() + 1);
    if let Some(factors) = llama3_factors(&config, &json) {
        let shape = vec![factors.len()];
        tensors.push(Tensor { name: ROPE_FACTORS.into(), shape, source: Source::Made(factors) });
    }
    for source in names {
        if source.ends_with("rotary_emb.inv_freq") || (config.tied && source == "lm_head.weight") {
            continue;
        }
        let name = gguf_name(&source, family).ok_or_else(|| TrainError::UnknownTensor {
            tensor: source.clone(),
            model_type: config.model_type.clone(),
        })?;
        let shape = weights.shape(&source).unwrap_or_default().to_vec();
        tensors.push(Tensor { name, shape, source: Source::Weight(source) });
    }

    let partial = claim(output)?;
    if let Some(parent) = output.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut out = BufWriter::new(File::create(&partial)?);
    out.write_all(&header(&metadata, &tensors, kind))?;
    for tensor in &tensors {
        let bytes = match &tensor.source {
            Source::Made(numbers) => encode(numbers, GgufKind::F32),
            Source::Weight(name) => {
                let weight = weights.take(name, &tensor.shape)?;
                let kind = tensor.kind(kind);
                match (family.moves_heads(name, &config), family.lifts(name)) {
                    (Some(head), _) => encode(&interleaved(&weight, &tensor.shape, head), kind),
                    (None, true) => {
                        encode(&weight.iter().map(|w| w + 1.0).collect::<Vec<_>>(), kind)
                    }
                    (None, false) => encode(&weight, kind),
                }
            }
        };
        out.write_all(&bytes)?;
        out.write_all(&vec![0; padding(bytes.len())])?;
    }
    out.flush()?;
    drop(out);
    fs::rename(&partial, output)?;
    let (tensors, bytes) = (tensors.len(), fs::metadata(output)?.len());
    Ok(Exported { architecture: family.architecture(), tensors, bytes })
}

/// The hidden place beside `output` that becomes it, empty.
fn claim(output: &Path) -> Result<PathBuf, TrainError> {
    if output.exists() {
        let what = "nothing is overwritten".to_owned();
        return Err(TrainError::Occupied { folder: output.into(), what });
    }
    let mut name = OsString::from(".");
    name.push(output.file_name().unwrap_or_default());
    name.push(".partial");
    let partial = output.with_file_name(name);
    if partial.is_dir() {
        fs::remove_dir_all(&partial)?;
    } else if partial.exists() {
        fs::remove_file(&partial)?;
    }
    Ok(partial)
}

/// What distinguishes the files of one family from those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Also Mistral's: llama.cpp knows them as one.
    Llama,
    Qwen2,
    Qwen3,
    Gemma3,
}

impl Family {
    fn of(config: &Config) -> Result<Self, TrainError> {
        Ok(match config.model_type.as_str() {
            "llama" | "mistral" => Self::Llama,
            "qwen2" => Self::Qwen2,
            "qwen3" => Self::Qwen3,
            "gemma3_text" => Self::Gemma3,
            other => {
                let what = format!("`{other}` in a GGUF file");
                return Err(TrainError::Unsupported { what });
            }
        })
    }

    fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
        }
    }

    /// The size of a head where the rows of this tensor are to be kept in interleaved order.
    fn moves_heads(self, name: &str, config: &Config) -> Option<usize> {
        let moved = ["q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias"];
        let moved = moved.iter().any(|end| name.ends_with(end));
        (self == Self::Llama && moved).then_some(config.head)
    }

    /// Whether the file keeps this tensor with 1 added to it.
    fn lifts(self, name: &str) -> bool {
        self == Self::Gemma3 && name.ends_with("norm.weight")
    }
}

fn gguf_name(name: &str, family: Family) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let module = match (module, family) {
        ("input_layernorm", _) => "attn_norm",
        ("self_attn.q_proj", _) => "attn_q",
        ("self_attn.k_proj", _) => "attn_k",
        ("self_attn.v_proj", _) => "attn_v",
        ("self_attn.o_proj", _) => "attn_output",
        ("self_attn.q_norm", _) => "attn_q_norm",
        ("self_attn.k_norm", _) => "attn_k_norm",
        ("post_attention_layernorm", Family::Gemma3) => "post_attention_norm",
        ("post_feedforward_layernorm", Family::Gemma3) => "post_ffw_norm",
        ("pre_feedforward_layernorm", Family::Gemma3) | ("post_attention_layernorm", _) => {
            "ffn_norm"
        }
        ("mlp.gate_proj", _) => "ffn_gate",
        ("mlp.up_proj", _) => "ffn_up",
        ("mlp.down_proj", _) => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{module}.{kind}"))
}

/// Rows of each head as the file keeps them: row `i` of half `j` becomes row `2 i + j`.
fn interleaved(weight: &[f32], shape: &[usize], head: usize) -> Vec<f32> {
    let columns = shape.get(1).copied().unwrap_or(1);
    let half = head / 2;
    let mut out = Vec::with_capacity(weight.len());
    for head_rows in weight.chunks_exact(head * columns) {
        for i in 0..half {
            for j in 0..2 {
                out.extend_from_slice(&head_rows[(j * half + i) * columns..][..columns]);
            }
        }
    }
    out
}

/// What Llama 3's scaling divides each frequency by, which the file keeps in the scaling's place.
fn llama3_factors(config: &Config, json: &Value) -> Option<Vec<f32>> {
    let scaling = rope_scaling(json);
    if scaling["rope_type"].as_str().or_else(|| scaling["type"].as_str()) != Some("llama3") {
        return None;
    }
    let theta = rope_theta(json);
    let plain = (0..config.head / 2).map(|i| theta.powf(-2.0 * i as f64 / config.head as f64));
    Some(plain.zip(&config.frequencies).map(|(plain, found)| (plain / found) as f32).collect())
}

fn rope_theta(json: &Value) -> f64 {
    let parameters = &json["rope_parameters"];
    json["rope_theta"]
        .as_f64()
        .or_else(|| parameters["rope_theta"].as_f64())
        .or_else(|| parameters["full_attention"]["rope_theta"].as_f64())
        .unwrap_or(10_000.0)
}

/// The keys that define the model.
fn describe(
    metadata: &mut Metadata,
    folder: &Path,
    config: &Config,
    json: &Value,
    family: Family,
    kind: GgufKind,
) -> Result<(), TrainError> {
    let scaling = rope_scaling(json);
    let named = scaling["rope_type"].as_str().or_else(|| scaling["type"].as_str());
    let linear = match (named, family, scaling["factor"].as_f64()) {
        (None | Some("default" | "llama3"), ..) => None,
        (Some("linear"), Family::Gemma3, Some(factor)) => Some(factor),
        (Some(other), ..) => {
            let what = format!("the rotary scaling `{other}` of this family in a GGUF file");
            return Err(TrainError::Unsupported { what });
        }
    };
    let architecture = family.architecture();
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    metadata.text("general.architecture", architecture);
    metadata.text("general.name", &name);
    metadata.number("general.file_type", u32::from(kind == GgufKind::F16));
    metadata.number("general.alignment", ALIGNMENT as u32);
    let mut number = |key: &str, value: usize| {
        metadata.number(&format!("{architecture}.{key}"), value as u32);
    };
    let context = json["max_position_embeddings"].as_u64().unwrap_or(config.positions as u64);
    number("context_length", context as usize);
    number("embedding_length", config.hidden);
    number("block_count", config.layers);
    number("feed_forward_length", config.intermediate);
    number("attention.head_count", config.heads);
    number("attention.head_count_kv", config.key_heads);
    number("attention.key_length", config.head);
    number("attention.value_length", config.head);
    number("rope.dimension_count", config.head);
    number("vocab_size", config.vocabulary);
    if let Some(window) = config.window.filter(|_| family == Family::Gemma3 || context > 0) {
        number("attention.sliding_window", window);
    }
    metadata
        .float(&format!("{architecture}.attention.layer_norm_rms_epsilon"), config.norm_epsilon);
    metadata.float(&format!("{architecture}.rope.freq_base"), rope_theta(json) as f32);
    if let Some(factor) = linear {
        metadata.text(&format!("{architecture}.rope.scaling.type"), "linear");
        metadata.float(&format!("{architecture}.rope.scaling.factor"), factor as f32);
    }
    Ok(())
}

/// The keys that define the tokenizer, and the chat template.
fn tokenizer(metadata: &mut Metadata, folder: &Path, vocabulary: usize) -> Result<(), TrainError> {
    let path = folder.join("tokenizer.json");
    let unreadable = |what: String| TrainError::Unreadable { path: path.clone(), what };
    let json: Value =
        serde_json::from_slice(&fs::read(&path)?).map_err(|error| unreadable(error.to_string()))?;
    let config: Value = serde_json::from_slice(&fs::read(folder.join("tokenizer_config.json"))?)
        .map_err(|error| unreadable(format!("tokenizer_config.json: {error}")))?;
    let model = &json["model"];
    if model["type"] != "BPE" {
        let what = format!("a tokenizer of type {} in a GGUF file", model["type"]);
        return Err(TrainError::Unsupported { what });
    }
    let splitting = splitting_of(&json).ok_or_else(|| TrainError::Unsupported {
        what:
            "a way of splitting text for which a GGUF file has no name (known are those of GPT-2, \
               SmolLM, Qwen 2, Llama 3 and SentencePiece)"
                .into(),
    })?;

    let mut tokens: Vec<(String, i32)> =
        (0..vocabulary).map(|id| (format!("[PAD{id}]"), UNUSED)).collect();
    let mut put = |id: Option<u64>, token: &str, kind: i32| {
        let place = id.and_then(|id| tokens.get_mut(id as usize));
        let place = place
            .ok_or_else(|| unreadable(format!("token `{token}` has no place in the model")))?;
        *place = (token.to_owned(), kind);
        Ok::<_, TrainError>(())
    };
    let none = Map::new();
    let pieces = matches!(splitting, Splitting::Pieces { .. });
    let unknown = model["unk_token"].as_str().filter(|_| pieces);
    for (token, id) in model["vocab"].as_object().unwrap_or(&none) {
        let byte = pieces && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        put(id.as_u64(), token, if byte { BYTE } else { NORMAL })?;
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let token = added["content"].as_str().unwrap_or_default();
        let kind = match added["special"] == true {
            _ if unknown == Some(token) => UNKNOWN,
            true => CONTROL,
            false => USER_DEFINED,
        };
        put(added["id"].as_u64(), token, kind)?;
    }
    let merges = model["merges"].as_array().into_iter().flatten().map(|merge| match merge {
        Value::String(merge) => merge.clone(),
        pair => {
            let half = |i: usize| pair[i].as_str().unwrap_or_default();
            format!("{} {}", half(0), half(1))
        }
    });
    let merges: Vec<String> = merges.collect();
    let id_of = |name: &str| {
        let token = match &config[name] {
            Value::String(token) => Some(token.as_str()),
            token => token["content"].as_str(),
        }?;
        tokens.iter().position(|found| found.0 == token).map(|id| id as u32)
    };
    match splitting {
        Splitting::Bytes(pre) => {
            metadata.text("tokenizer.ggml.model", "gpt2");
            metadata.text("tokenizer.ggml.pre", pre);
        }
        Splitting::Pieces { prefix } => {
            metadata.text("tokenizer.ggml.model", "llama");
            metadata.text("tokenizer.ggml.pre", "default");
            metadata.flag("tokenizer.ggml.add_space_prefix", prefix);
            metadata.floats("tokenizer.ggml.scores", scores(&tokens, &merges).into_iter());
        }
    }
    for (key, name) in [
        ("bos_token_id", "bos_token"),
        ("eos_token_id", "eos_token"),
        ("padding_token_id", "pad_token"),
    ] {
        if let Some(id) = id_of(name) {
            metadata.number(&format!("tokenizer.ggml.{key}"), id);
        }
    }
    let adds_bos = json["post_processor"]["single"][0]["SpecialToken"]["id"].as_str();
    metadata.flag("tokenizer.ggml.add_bos_token", adds_bos.is_some());
    metadata.texts("tokenizer.ggml.tokens", tokens.iter().map(|token| token.0.clone()));
    metadata.integers("tokenizer.ggml.token_type", tokens.iter().map(|token| token.1));
    if !pieces {
        metadata.texts("tokenizer.ggml.merges", merges.into_iter());
    }
    let jinja = folder.join("chat_template.jinja");
    if jinja.exists() {
        metadata.text("tokenizer.chat_template", &fs::read_to_string(jinja)?);
    } else if let Some(template) = config["chat_template"].as_str() {
        metadata.text("tokenizer.chat_template", template);
    }
    Ok(())
}

/// SentencePiece's scores: the earlier a token is merged, the higher. What no merge makes comes last.
fn scores(tokens: &[(String, i32)], merges: &[String]) -> Vec<f32> {
    let mut ranks = HashMap::new();
    for (rank, merge) in merges.iter().enumerate() {
        ranks.entry(merge.replacen(' ', "", 1)).or_insert(rank);
    }
    let score = |token: &(String, i32)| ranks.get(&token.0).map_or(-1e9, |rank| -(*rank as f32));
    tokens.iter().map(score).collect()
}

/// Keys and values as the file holds them.
#[derive(Default)]
struct Metadata {
    count: u64,
    bytes: Vec<u8>,
}

impl Metadata {
    fn entry(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.count += 1;
        text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
    }

    fn number(&mut self, key: &str, value: u32) {
        self.entry(key, 4, &value.to_le_bytes());
    }

    fn float(&mut self, key: &str, value: f32) {
        self.entry(key, 6, &value.to_le_bytes());
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.entry(key, 7, &[u8::from(value)]);
    }

    fn text(&mut self, key: &str, value: &str) {
        let mut bytes = Vec::new();
        text(&mut bytes, value);
        self.entry(key, 8, &bytes);
    }

    fn list(&mut self, key: &str, kind: u32, count: u64, items: &[u8]) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        bytes.extend(items);
        self.entry(key, 9, &bytes);
    }

    fn texts(&mut self, key: &str, values: impl Iterator<Item = String>) {
        let (mut count, mut items) = (0, Vec::new());
        for value in values {
            count += 1;
            text(&mut items, &value);
        }
        self.list(key, 8, count, &items);
    }

    fn floats(&mut self, key: &str, values: impl Iterator<Item = f32>) {
        let items: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        self.list(key, 6, items.len() as u64 / 4, &items);
    }

    fn integers(&mut self, key: &str, values: impl Iterator<Item = i32>) {
        let items: Vec<u8> = values.flat_map(i32::to_le_bytes).collect();
        self.list(key, 5, items.len() as u64 / 4, &items);
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(value.as_bytes());
}

/// A tensor to write, its shape rows first.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    source: Source,
}

enum Source {
    /// A tensor of the folder.
    Weight(String),
    /// Numbers that the folder has in another form.
    Made(Vec<f32>),
}

impl Tensor {
    /// Vectors keep all their bits.
    fn kind(&self, kind: GgufKind) -> GgufKind {
        if self.shape.len() > 1 { kind } else { GgufKind::F32 }
    }

    fn byte_count(&self, kind: GgufKind) -> usize {
        let size = match self.kind(kind) {
            GgufKind::F32 => 4,
            GgufKind::F16 => 2,
        };
        self.shape.iter().product::<usize>() * size
    }
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT) - length
}

/// Everything before the first tensor's numbers.
fn header(metadata: &Metadata, tensors: &[Tensor], kind: GgufKind) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend(metadata.count.to_le_bytes());
    bytes.extend(&metadata.bytes);
    let mut start = 0;
    for tensor in tensors {
        text(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        // The file counts from the innermost dimension.
        for size in tensor.shape.iter().rev() {
            bytes.extend((*size as u64).to_le_bytes());
        }
        let code: u32 = match tensor.kind(kind) {
            GgufKind::F32 => 0,
            GgufKind::F16 => 1,
        };
        bytes.extend(code.to_le_bytes());
        bytes.extend((start as u64).to_le_bytes());
        let length = tensor.byte_count(kind);
        start += length + padding(length);
    }
    bytes.resize(bytes.len() + padding(bytes.len()), 0);
    bytes
}

fn encode(numbers: &[f32], kind: GgufKind) -> Vec<u8> {
    match kind {
        GgufKind::F32 => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        GgufKind::F16 => {
            numbers.iter().flat_map(|number| half::f16::from_f32(*number).to_le_bytes()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_of_queries_and_keys_move_with_their_rows() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama/config.json");
        let config = Config::parse(&fs::read_to_string(golden).unwrap()).unwrap();
        let moved = |family: Family, name: &str| family.moves_heads(name, &config).is_some();
        assert!(moved(Family::Llama, "model.layers.0.self_attn.q_proj.bias"));
        assert!(moved(Family::Llama, "model.layers.0.self_attn.k_proj.weight"));
        assert!(!moved(Family::Llama, "model.layers.0.self_attn.v_proj.bias"));
        assert!(!moved(Family::Qwen2, "model.layers.0.self_attn.q_proj.bias"));
        // Two heads of four: pairs of the two halves stand side by side.
        let bias = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0];
        let expected = [0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0];
        assert_eq!(interleaved(&bias, &[8], 4), expected);
        let rows: Vec<f32> = bias.iter().flat_map(|row| [*row, row + 0.5]).collect();
        let expected: Vec<f32> = expected.iter().flat_map(|row| [*row, row + 0.5]).collect();
        assert_eq!(interleaved(&rows, &[8, 2], 4), expected);
    }
}
