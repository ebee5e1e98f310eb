//! Embeds and reranks text with models in ONNX format, through fastembed and an ONNX Runtime that is loaded
//! when the first embedder opens. Knows nothing of where files come from.

mod rerank;

pub use rerank::OnnxReranker;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bench_core::backend::{BackendError, Embedder, Purpose};
use bench_core::digest;
use bench_core::retrieval::normalise;
use fastembed::{InitOptionsUserDefined, TextEmbedding, TokenizerFiles, UserDefinedEmbeddingModel};
use ort::environment::Environment;
use serde::{Deserialize, Serialize};

const BACKEND: &str = "fastembed";
/// Texts of a batch, at most.
const BATCH: usize = 32;
/// Bytes of a batch, at most, every text as long as its longest: small batches of texts of one
/// length, since the runtime keeps every intermediate tensor of a batch. About 1,000 tokens, which
/// keep two cores as busy as more would.
const BATCH_BYTES: usize = 4096;
/// Bytes of a token, about: what a text has beyond the model's window is not read.
const TOKEN_BYTES: usize = 4;

/// How a model turns token vectors into one vector, and what it expects of its input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Tokens read per text, special ones included.
    pub max_length: usize,
    /// How token vectors become one.
    pub pooling: Pooling,
    /// Put before a question, for example `query: `.
    pub query_prefix: String,
    /// Put before a passage.
    pub passage_prefix: String,
}

/// How token vectors become one. The wrong choice raises no error and loses much quality.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean: the sentence-transformers and E5 families.
    #[default]
    Mean,
    /// The first one: the BGE and Arctic families.
    Cls,
}

/// As all-MiniLM-L6-v2 was trained: the mean of 256 tokens, no prefix.
impl Default for Options {
    fn default() -> Self {
        Self {
            max_length: 256,
            pooling: Pooling::Mean,
            query_prefix: String::new(),
            passage_prefix: String::new(),
        }
    }
}

impl Options {
    /// The id of the embedder that these options and files of these SHA-256 digests make, without
    /// opening anything.
    pub fn id(&self, onnx_sha256: &str, tokenizer_sha256: &str) -> String {
        digest::of_json(&(onnx_sha256, tokenizer_sha256, self))
    }
}

/// A sentence-embedding model.
pub struct OnnxEmbedder {
    id: String,
    dimension: usize,
    window: usize,
    options: Options,
    count: Box<dyn Fn(&str) -> usize + Send + Sync>,
    model: Mutex<TextEmbedding>,
}

impl OnnxEmbedder {
    /// Opens a model. `runtime` is the ONNX Runtime library, 1.24 or newer; the first one that a
    /// process loads serves all its embedders. `expected_id`, where given, is what
    /// [`Options::id`] promised.
    ///
    /// # Errors
    /// A file that is missing, damaged or not the promised one; a runtime that is too old.
    pub fn open(
        onnx: &Path,
        tokenizer: &Path,
        runtime: &Path,
        options: &Options,
        expected_id: Option<&str>,
    ) -> Result<Self, BackendError> {
        let read = |path| fs_err::read(path).map_err(fatal);
        let (onnx_bytes, tokenizer_bytes) = (read(onnx)?, read(tokenizer)?);
        let digests = [&onnx_bytes, &tokenizer_bytes].map(|bytes| digest::of_bytes(bytes));
        let id = options.id(&digests[0], &digests[1]);
        if expected_id.is_some_and(|expected| expected != id) {
            return Err(fatal(format!(
                "`{}` (SHA-256 {}) or `{}` (SHA-256 {}) is not the file it should be; remove both \
                 and pull the model again",
                onnx.display(),
                digests[0],
                tokenizer.display(),
                digests[1]
            )));
        }
        let environment = environment(runtime)?;
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let model = UserDefinedEmbeddingModel::new(
            onnx_bytes,
            tokenizer_files(tokenizer, tokenizer_bytes, options.max_length)?,
        )
        .with_pooling(match options.pooling {
            Pooling::Mean => fastembed::Pooling::Mean,
            Pooling::Cls => fastembed::Pooling::Cls,
        });
        let init = InitOptionsUserDefined::new()
            .with_environment(environment)
            .with_max_length(options.max_length)
            .with_intra_threads(threads)
            // Threads that wait for work without sleeping take it from the tokenizer.
            .with_session_config("session.intra_op.allow_spinning", "0");
        let mut model = TextEmbedding::try_new_from_user_defined(model, init).map_err(|error| {
            let (onnx, tokenizer) = (onnx.display(), tokenizer.display());
            fatal(format!("cannot use `{onnx}` with `{tokenizer}`: {error}; pull the model again"))
        })?;
        let probe = model.embed(["probe"], None).map_err(fatal)?;
        let dimension = probe.first().map_or(0, Vec::len);

        let mut counter = model.tokenizer.clone();
        counter.with_padding(None);
        counter.with_truncation(None).map_err(|error| fatal(error.to_string()))?;
        // A text that cannot be encoded is counted by its bytes, which no tokenizer exceeds.
        let count = move |text: &str, special: bool| {
            counter.encode_fast(text, special).map_or(text.len(), |encoding| encoding.len())
        };
        let prefix = |prefix: &str| count(prefix, false);
        let prefixes = prefix(&options.query_prefix).max(prefix(&options.passage_prefix));
        let window = options.max_length.saturating_sub(count("", true) + prefixes);
        Ok(Self {
            id,
            dimension,
            window,
            options: options.clone(),
            count: Box::new(move |text| count(text, false)),
            model: Mutex::new(model),
        })
    }
}

impl Embedder for OnnxEmbedder {
    fn id(&self) -> &str {
        &self.id
    }

    fn dimension(&self) -> usize {
        self.dimension
    }

    /// Special tokens and prefixes are taken off.
    fn window(&self) -> usize {
        self.window
    }

    fn count_tokens(&self, text: &str) -> usize {
        (self.count)(text)
    }

    fn embed(&self, purpose: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
        let prefix = match purpose {
            Purpose::Query => &self.options.query_prefix,
            Purpose::Passage => &self.options.passage_prefix,
        };
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&at| texts[at].len());
        let mut vectors = vec![Vec::new(); texts.len()];
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        let length = |at: usize| texts[at].len().min(self.options.max_length * TOKEN_BYTES);
        for batch in batches(&order, length) {
            let input: Vec<String> =
                batch.iter().map(|&at| format!("{prefix}{}", texts[at])).collect();
            let found = model.embed(&input, Some(BATCH)).map_err(fatal)?;
            for (&at, mut vector) in batch.iter().zip(found) {
                normalise(&mut vector);
                vectors[at] = vector;
            }
        }
        Ok(vectors)
    }
}

/// Cuts texts, shortest first, into batches of at most [`BATCH`] texts and [`BATCH_BYTES`] bytes
/// with their padding; a text that is longer alone is a batch.
fn batches(order: &[usize], length: impl Fn(usize) -> usize) -> Vec<&[usize]> {
    let mut rest = order;
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let fits = |n: usize| n <= BATCH && n * length(rest[n - 1]) <= BATCH_BYTES;
        let n = (1..=rest.len()).take_while(|&n| fits(n)).count().max(1);
        let (batch, after) = rest.split_at(n);
        batches.push(batch);
        rest = after;
    }
    batches
}

/// Of the four files that fastembed wants, only `tokenizer.json` says anything; the others are
/// made from it, so that a model is two files and its digest covers them.
fn tokenizer_files(
    path: &Path,
    tokenizer_file: Vec<u8>,
    max_length: usize,
) -> Result<TokenizerFiles, BackendError> {
    let tokenizer: serde_json::Value = serde_json::from_slice(&tokenizer_file)
        .map_err(|error| fatal(format!("`{}` is not a tokenizer: {error}", path.display())))?;
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
    let mut added = added.filter_map(|token| token["content"].as_str());
    let pad_token = tokenizer["padding"]["pad_token"]
        .as_str()
        .or_else(|| added.find(|token| ["[PAD]", "<pad>", "<|pad|>"].contains(token)))
        .unwrap_or("[PAD]");
    let config = serde_json::json!({ "model_max_length": max_length, "pad_token": pad_token });
    Ok(TokenizerFiles {
        tokenizer_config_file: config.to_string().into_bytes(),
        config_file: b"{}".to_vec(),
        special_tokens_map_file: b"{}".to_vec(),
        tokenizer_file,
    })
}

/// The process's ONNX Runtime; there can be only one.
fn environment(runtime: &Path) -> Result<Environment, BackendError> {
    static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*environment {
        return Ok(environment.clone());
    }
    if !runtime.is_file() {
        return Err(fatal(format!(
            "ONNX Runtime is missing: there is no file `{}`; `bench models pull` gets it",
            runtime.display()
        )));
    }
    let remedy = |error: &dyn std::fmt::Display| {
        fatal(format!("cannot load ONNX Runtime (1.24 or newer is needed): {error}"))
    };
    let builder = ort::init_from(runtime).map_err(|error| remedy(&error))?;
    let opened = builder.with_telemetry(false).build().map_err(|error| remedy(&error))?;
    Ok(environment.insert(opened).clone())
}

fn fatal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BackendError {
    BackendError::fatal(BACKEND, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_holds_few_long_texts_or_more_short_ones_and_every_text_is_in_one() {
        let lengths: Vec<usize> =
            (0..100).map(|_| 20).chain([1000, 1000, 1000, 1000, 1100, 9000, 9000]).collect();
        let order: Vec<usize> = (0..lengths.len()).collect();
        let found = batches(&order, |at| lengths[at]);
        let sizes: Vec<usize> = found.iter().map(|batch| batch.len()).collect();
        assert_eq!(sizes, [32, 32, 32, 4, 4, 1, 1, 1]);
        assert_eq!(found.concat(), order);
        assert!(batches(&[], |_| 0).is_empty());
    }
}
