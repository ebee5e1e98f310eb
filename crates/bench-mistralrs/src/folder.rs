//! A model folder, checked before the library reads it: what the library would answer with a
//! panic, or silently do wrong, is refused here by name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bench_core::backend::BackendError;
use bench_core::chat::{self, ChatTemplate, Message};
use candle_core::DType;
use candle_core::safetensors::MmapedSafetensors;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::BACKEND;

/// The dimensions of every tensor, by name.
pub(crate) type Shapes = BTreeMap<String, Vec<usize>>;

pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) template: ChatTemplate,
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// The tokens a prompt and its answer may take together.
    pub(crate) window: usize,
    /// Special tokens that end an answer, the one to end it with ourselves first.
    pub(crate) ends: Vec<u32>,
    /// The one that ends a constrained answer; without it, answers cannot be constrained.
    pub(crate) grammar_end: Option<u32>,
    pub(crate) shapes: Shapes,
}

impl Folder {
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        if let Some(file) = other_format(path) {
            return Err(format!(
                "`{}` cannot be served as it is: mistral.rs 0.8.1 ignores adapters on such weights and computes with rounded numbers; name a GGUF file itself as the model's `path`, which converts it once, or get the model as safetensors",
                file.display()
            ));
        }
        let read =
            |name: &str| fs_err::read_to_string(path.join(name)).map_err(|error| error.to_string());
        let config = json(path, "config.json")?;
        if !config["quantization_config"].is_null() {
            return Err(format!(
                "`{}` is quantised (`quantization_config` in config.json), and adapters are silently ignored on such weights; use the unquantised model",
                path.display()
            ));
        }
        if config.get("rope_theta").is_none() && config.get("rope_parameters").is_some() {
            return Err(format!(
                "`{}/config.json` has `rope_parameters` where mistral.rs 0.8.1 reads `rope_theta`; copy the value to a top-level `rope_theta`",
                path.display()
            ));
        }
        let scaling = &config["rope_parameters"];
        let scaled = scaling["rope_type"].as_str().is_some_and(|kind| kind != "default");
        if scaled && config["rope_scaling"].is_null() {
            return Err(format!(
                "`{}/config.json` scales rotations in `rope_parameters`, where mistral.rs 0.8.1 does not look; copy them to a top-level `rope_scaling`",
                path.display()
            ));
        }
        let window = config["max_position_embeddings"].as_u64().ok_or_else(|| {
            format!("`{}/config.json` has no `max_position_embeddings`", path.display())
        })? as usize;
        let window = sliding_window(&config).map_or(window, |sliding| sliding.min(window));
        let tokenizer_config = read("tokenizer_config.json")?;
        let jinja = path.join("chat_template.jinja");
        let jinja = jinja.exists().then(|| read("chat_template.jinja")).transpose()?;
        let template = ChatTemplate::from_folder(&tokenizer_config, jinja.as_deref())
            .map_err(|error| format!("`{}`: {error}", path.display()))?;
        let mut tokenizer = Tokenizer::from_file(path.join("tokenizer.json"))
            .map_err(|error| format!("`{}/tokenizer.json`: {error}", path.display()))?;
        // Some folders say how to batch for training; a prompt must never be cut silently.
        tokenizer
            .with_padding(None)
            .with_truncation(None)
            .map_err(|error| format!("`{}/tokenizer.json`: {error}", path.display()))?;
        let special = special(&tokenizer);
        let tokens = tokenizer.get_vocab_size(true);
        let generation = json(path, "generation_config.json").unwrap_or_default();
        if let Some(what) = chat::foreign_tokenizer(&config, &generation, &special, tokens) {
            return Err(format!(
                "the tokenizer in `{}` is another model's: {what}; get config.json, tokenizer.json and weights of one model",
                path.display()
            ));
        }
        let template = template.with_turn_end(&special);
        let grammar_end = chat::grammar_end(&special);
        let ends = ends(path, &config, &template, &tokenizer, &special)?;
        let shapes = shapes(&weight_files(path)?)?;
        if let Some(missing) = missing_tensor(&config, &shapes) {
            return Err(format!(
                "the weights in `{}` lack `{missing}`; the model was not copied whole, get it again",
                path.display()
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            template,
            tokenizer: Arc::new(tokenizer),
            window,
            ends,
            grammar_end,
            shapes,
        })
    }

    /// The ids of a conversation as the model's template lays it out.
    pub(crate) fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>, BackendError> {
        let text = self.template.render(messages).map_err(|error| {
            BackendError::rejected(BACKEND, format!("the model's chat template: {error:#}"))
        })?;
        self.encode(&text)
    }

    /// The ids of a known answer to it.
    pub(crate) fn completion(&self, completion: &str) -> Result<Vec<u32>, BackendError> {
        self.encode(&self.template.completion(completion))
    }

    /// The template writes the special tokens itself.
    fn encode(&self, text: &str) -> Result<Vec<u32>, BackendError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| BackendError::rejected(BACKEND, error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The memory that the weights take in a numeric type.
    pub(crate) fn bytes(&self, dtype: DType) -> u64 {
        let elements: usize =
            self.shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
        (elements * dtype.size_in_bytes()) as u64
    }

    /// The memory that the keys and values of one token take; 0 where the names do not tell.
    pub(crate) fn kept_per_token(&self, dtype: DType) -> u64 {
        let projections = |(name, shape): (&String, &Vec<usize>)| {
            let one = ["k_proj.weight", "v_proj.weight"].iter().any(|end| name.ends_with(end));
            one.then(|| shape.first().copied().unwrap_or_default())
        };
        let elements: usize = self.shapes.iter().filter_map(projections).sum();
        (elements * dtype.size_in_bytes()) as u64
    }
}

pub(crate) fn json(folder: &Path, name: &str) -> Result<Value, String> {
    let path = folder.join(name);
    let text = fs_err::read_to_string(&path).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| format!("`{}`: {error}", path.display()))
}

/// Reads the headers of safetensors files.
pub(crate) fn shapes(files: &[PathBuf]) -> Result<Shapes, String> {
    #[expect(unsafe_code, reason = "mapping weights; nobody writes into a folder in use")]
    let mapped = unsafe { MmapedSafetensors::multi(files) }.map_err(|error| {
        let error = error.to_string();
        format!(
            "{}; the file is damaged or was not copied whole, get it again",
            error.lines().next().unwrap_or_default()
        )
    })?;
    let tensors = mapped.tensors().into_iter();
    Ok(tensors.map(|(name, view)| (name, view.shape().to_vec())).collect())
}

/// mistral.rs puts a dummy in the place of a missing matrix. Layers are alike, but in mixtures of
/// experts.
fn missing_tensor(config: &Value, shapes: &Shapes) -> Option<String> {
    let mut expected = BTreeSet::from(["model.embed_tokens.weight".to_owned()]);
    if config["tie_word_embeddings"] == false {
        expected.insert("lm_head.weight".into());
    }
    if !shapes.keys().any(|name| name.contains("expert")) {
        let in_layers: BTreeSet<&str> = shapes
            .keys()
            .filter_map(|name| name.strip_prefix("model.layers.")?.split_once('.'))
            .map(|(_, rest)| rest)
            .collect();
        for layer in 0..config["num_hidden_layers"].as_u64().unwrap_or(0) {
            expected.extend(in_layers.iter().map(|rest| format!("model.layers.{layer}.{rest}")));
        }
    }
    expected.into_iter().find(|name| !shapes.contains_key(name))
}

/// The window of attention, where a model has one: with more tokens, mistral.rs 0.8.1 lets each token of
/// a prompt see one key too many (`make_swa_mask`), which is another model than the one that is trained.
fn sliding_window(config: &Value) -> Option<usize> {
    let used = match config["model_type"].as_str() {
        Some("mistral") => true,
        Some("qwen2" | "qwen3") => config["use_sliding_window"] == true,
        _ => false,
    };
    config["sliding_window"].as_u64().filter(|_| used).map(|window| window as usize)
}

/// A file of a format that the library would load without adapters: the path itself, or what a folder
/// without safetensors holds.
fn other_format(path: &Path) -> Option<PathBuf> {
    let is = |path: &Path, kinds: &[&str]| {
        path.extension().is_some_and(|extension| kinds.iter().any(|kind| extension == *kind))
    };
    if is(path, &["gguf", "uqff"]) {
        return Some(path.to_owned());
    }
    let files = || fs_err::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    if files().any(|file| is(&file, &["safetensors"])) {
        return None;
    }
    files().find(|file| is(file, &["gguf", "uqff"]))
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    if folder.join("adapter_model.safetensors").exists() {
        return Err(format!(
            "`{}` holds an adapter beside the model, which would be read as a part of it; move `adapter_model.safetensors` to a folder of its own",
            folder.display()
        ));
    }
    let mut files: Vec<PathBuf> = fs_err::read_dir(folder)
        .map_err(|error| error.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    files.sort();
    if files.is_empty() {
        Err(format!("`{}` holds no `.safetensors` file", folder.display()))
    } else {
        Ok(files)
    }
}

/// The ids that end an answer: what `generation_config.json`, `config.json` and the tokenizer name.
fn ends(
    folder: &Path,
    config: &Value,
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    special: &BTreeMap<u32, String>,
) -> Result<Vec<u32>, String> {
    let generation = if folder.join("generation_config.json").exists() {
        json(folder, "generation_config.json")?
    } else {
        Value::Null
    };
    let eos = tokenizer.token_to_id(&template.eos_token).ok_or_else(|| {
        format!(
            "`{}/tokenizer_config.json` says that `{}` ends an answer, but the tokenizer has no such token",
            folder.display(),
            template.eos_token
        )
    })?;
    let turn_end = tokenizer.token_to_id(&template.turn_end).unwrap_or(eos);
    let ends = chat::ends(&generation, config, &[turn_end, eos], special);
    if ends.is_empty() {
        Err(format!(
            "`{}/tokenizer.json` does not list `{}` among its `added_tokens`, so no answer would ever end",
            folder.display(),
            template.eos_token
        ))
    } else {
        Ok(ends)
    }
}

/// The special tokens by id.
fn special(tokenizer: &Tokenizer) -> BTreeMap<u32, String> {
    let added = tokenizer.get_added_tokens_decoder();
    added.into_iter().map(|(id, token)| (id, token.content)).collect()
}
