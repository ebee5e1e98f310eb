//! What a heavy leaf crate implements. One trait per capability; each returns [`BackendError`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::chat::Message;
use crate::classifier::LinearClassifier;
use crate::dataset::Document;
use crate::spec::{Finetune, Quantization, Rag};

/// Turns a prompt into text. Implemented by `bench-mistralrs`, `bench-openai` and the scripted
/// backend of `bench-run`.
#[async_trait]
pub trait Generator: Send + Sync {
    /// What a record cites: model, revision, numeric type, adapter.
    fn id(&self) -> &str;

    /// The tokens a prompt would take, counted as the backend counts them; `None` when it cannot
    /// know before asking (an endpoint).
    fn count_tokens(&self, messages: &[Message]) -> Result<Option<u32>, BackendError>;

    /// Generates one completion. Cancellation is dropping the future.
    async fn generate(&self, request: &Request) -> Result<Completion, BackendError>;

    /// What the served model makes of known completions, for the check that training and serving
    /// agree. Backends that cannot show logits refuse.
    async fn probe(&self, rows: &[ProbeRow]) -> Result<Vec<Probe>, BackendError> {
        let _ = rows;
        let message = format!("`{}` does not show its logits", self.id());
        Err(BackendError::rejected("generator", message))
    }
}

/// One generation request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The conversation, ending with the user's turn.
    pub messages: Vec<Message>,
    /// Upper bound on generated tokens.
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus sampling mass, when sampling.
    pub top_p: Option<f64>,
    /// Sampling seed, so that a repeat is a repeat.
    pub seed: u64,
    /// Generation ends before any of these.
    pub stop: Vec<String>,
    /// The language the answer must belong to.
    pub constraint: Option<Constraint>,
    /// How many alternatives to report per generated token; 0 for none.
    pub top_logprobs: u8,
}

/// A language for constrained generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// JSON that a schema accepts.
    JsonSchema(serde_json::Value),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choices(Vec<String>),
    /// A grammar in the Lark form of llguidance, beginning at `start`.
    Grammar(String),
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The generated text, without the stop string.
    pub text: String,
    /// Tokens in the prompt; 0 where nobody counted them, and then those generated are unknown too.
    pub tokens_in: u32,
    /// Tokens generated.
    pub tokens_out: u32,
    /// Milliseconds from the request to the first generated token, when the backend streams.
    pub first_token_ms: Option<f64>,
    /// Milliseconds from the request to the last token.
    pub latency_ms: f64,
    /// Why generation ended: `stop`, `length` or the backend's own word.
    pub finish: String,
    /// The generated tokens with their alternatives, when asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// One generated token and what else it could have been.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token's text.
    pub token: String,
    /// Its natural-log probability.
    pub logprob: f64,
    /// The likeliest tokens at this place, likeliest first.
    pub top: Vec<(String, f64)>,
}

/// A conversation whose completion is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRow {
    /// The conversation, ending with the user's turn.
    pub messages: Vec<Message>,
    /// The assistant's known answer.
    pub completion: String,
}

/// What one side of the fairness check makes of a [`ProbeRow`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Prompt and completion as token ids, in order.
    pub token_ids: Vec<u32>,
    /// The likeliest token at each completion position (teacher forced).
    pub top1: Vec<u32>,
    /// Mean negative log-likelihood per completion token, in nats.
    pub nll: f64,
}

/// A model on disk in Hugging Face layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFolder {
    /// The folder with `config.json`, `tokenizer.json` and safetensors.
    pub path: PathBuf,
    /// SHA-256 over weights, tokenizer, template and configuration.
    pub digest: String,
}

/// Loads local models. Implemented by `bench-mistralrs`.
pub trait Loader: Send + Sync {
    /// Loads a model, with an adapter in PEFT's layout when one is given. A whole model given as
    /// the adapter takes the model's place.
    fn load(
        &self,
        model: &ModelFolder,
        adapter: Option<&Path>,
    ) -> Result<Arc<dyn Generator>, BackendError>;
}

/// Trains adapters. Implemented by `bench-candle`.
pub trait Trainer: Send + Sync {
    /// What it is and which numbers it trains: another version may train other ones from the same job,
    /// and so may the same one elsewhere. Adapters of different versions never share a folder.
    fn version(&self) -> String;

    /// Whether a job can be trained, as far as can be told without computing: its settings suit the model,
    /// its rows fit, and there is memory. A job that was trained already can.
    fn check(&self, job: &TrainJob) -> Result<(), BackendError>;

    /// The ids of each conversation and its known answer, as they are learnt.
    fn token_ids(
        &self,
        base: &ModelFolder,
        rows: &[ProbeRow],
    ) -> Result<Vec<Vec<u32>>, BackendError>;

    /// Trains and writes an adapter into `job.output`, which is whole or absent afterwards. An
    /// interrupted job goes on where it was when it is started again with the same output.
    fn train(
        &self,
        job: &TrainJob,
        on_step: &mut dyn FnMut(&TrainStep),
    ) -> Result<TrainOutcome, BackendError>;

    /// What the model makes of known completions, with what was trained where a folder of it is given:
    /// the trainer's own forward pass in f32 on the processor, wherever it trains.
    fn probe(
        &self,
        base: &ModelFolder,
        adapter: Option<&Path>,
        rows: &[ProbeRow],
    ) -> Result<Vec<Probe>, BackendError>;
}

/// Fits classifiers over vectors. Implemented by `bench-candle`.
pub trait ClassifierTrainer: Send + Sync {
    /// Multinomial logistic regression: `labels[i]` is the label of `vectors[i]`. `c` is the inverse
    /// strength of the L2 penalty on the weights; intercepts are not penalised. The same rows give
    /// the same classifier, whose labels are sorted.
    fn fit(
        &self,
        vectors: &[Vec<f32>],
        labels: &[String],
        c: f64,
    ) -> Result<LinearClassifier, BackendError>;
}

/// Everything a training run depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainJob {
    /// The frozen base.
    pub base: ModelFolder,
    /// What to learn.
    pub examples: Vec<TrainExample>,
    /// Held-out examples for the validation loss; may be empty.
    pub dev: Vec<TrainExample>,
    /// Method and hyperparameters.
    pub settings: Finetune,
    /// Seeds initialisation, order and dropout.
    pub seed: u64,
    /// The adapter folder to make.
    pub output: PathBuf,
}

/// Rounds frozen weights to few bits, for training over them.
pub trait Packer: Send + Sync {
    /// Rounds a matrix of `shape` (rows, columns), row by row in `numbers`, in a format that the trainer
    /// has not itself.
    ///
    /// # Errors
    /// The format has no place for this shape, or cannot be given back as numbers.
    fn pack(
        &self,
        quantization: Quantization,
        shape: (usize, usize),
        numbers: &[f32],
    ) -> Result<Box<dyn Packed>, BackendError>;
}

/// A matrix rounded to few bits.
pub trait Packed: Send + Sync {
    /// Writes its numbers, row by row, into `out`, which has room for just them.
    ///
    /// # Errors
    /// They cannot be given back.
    fn unpack(&self, out: &mut [f32]) -> Result<(), BackendError>;
}

/// One training example, laid out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainExample {
    /// Only the completion carries loss.
    Completion {
        /// The conversation, ending with the user's turn.
        messages: Vec<Message>,
        /// What the assistant should say.
        completion: String,
    },
    /// Running text; every token carries loss.
    Text(String),
    /// Two completions of one conversation, of which one is the better.
    Preference {
        /// The conversation, ending with the user's turn.
        messages: Vec<Message>,
        /// What the assistant should rather say.
        chosen: String,
        /// What it should rather not say.
        rejected: String,
    },
    /// A completion that somebody found good or bad.
    Labelled {
        /// The conversation, ending with the user's turn.
        messages: Vec<Message>,
        /// What the assistant said.
        completion: String,
        /// Whether it was good.
        label: bool,
    },
}

/// One optimiser step, as it happens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainStep {
    /// Counted from 1.
    pub step: u64,
    /// Steps in the whole run.
    pub total_steps: u64,
    /// Mean loss over the step's loss-carrying tokens, in nats.
    pub loss: f64,
    /// Validation loss, on the steps that measure it.
    pub dev_loss: Option<f64>,
    /// The learning rate used.
    pub learning_rate: f64,
    /// Tokens seen so far, padding excluded.
    pub tokens: u64,
    /// Tokens a second so far, padding excluded.
    pub tokens_per_second: f64,
}

/// What a training run left behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOutcome {
    /// The folder of what was trained: see `served`.
    pub adapter: PathBuf,
    /// SHA-256 of its files.
    pub digest: String,
    /// How the folder is served.
    #[serde(default)]
    pub served: Served,
    /// Parameters that were trained.
    pub trainable_parameters: u64,
    /// Parameters of base and adapter.
    pub total_parameters: u64,
    /// Wall-clock seconds, earlier interrupted attempts included.
    pub seconds: f64,
    /// The process's peak resident memory during training, in bytes; 0 when unknown.
    pub peak_memory_bytes: u64,
    /// Rows left out because they do not fit the sequence length.
    pub rows_too_long: u64,
    /// Rows whose end was cut off to fit it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_cut: u64,
    /// Validation rows left out because they do not fit it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dev_rows_too_long: u64,
    /// The step whose parameters were kept where that is not the last: the one of the lowest
    /// validation loss.
    #[serde(default)]
    pub best_step: Option<u64>,
    /// Times that a loss or a gradient was not a number, and the learning rate was halved.
    #[serde(default)]
    pub halved: u32,
    /// Every step.
    pub steps: Vec<TrainStep>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// How what was trained is served. Either way every number is f32 on the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Served {
    /// As a low-rank adapter in PEFT's layout, which the server folds into the base as it loads.
    #[default]
    Adapter,
    /// As a whole model in Hugging Face layout, in the base's place.
    Merged,
    /// As a soft prompt before every prompt, by this program's own decoder.
    Decoder,
    /// Not as an answer: as the reward of one, by this program's own decoder.
    Reward,
    /// As a classifier over the embedder's vectors, without a language model.
    Classifier,
}

/// Turns text into vectors. Implemented by `bench-fastembed` and the hashing embedder.
pub trait Embedder: Send + Sync {
    /// Digest of model and options: vectors of two ids must not meet in one index.
    fn id(&self) -> &str;

    /// Numbers per vector.
    fn dimension(&self) -> usize;

    /// Tokens read per text; what lies beyond is not seen.
    fn window(&self) -> usize;

    /// Tokens of a text, counted as this embedder counts them.
    fn count_tokens(&self, text: &str) -> usize;

    /// One vector of unit length per text, in order.
    fn embed(&self, purpose: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError>;
}

/// What a vector is for: some models put another prefix before a query than before a passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A question.
    Query,
    /// A piece of a document.
    Passage,
}

/// Builds or opens an index. Implemented by `bench-retrieval` and `bench-qdrant`.
pub trait Indexer: Send + Sync {
    /// Makes the corpus searchable. A folder that already holds this corpus, cut and embedded in
    /// this way, is opened; anything else is rebuilt. `on_progress` gets chunks done and in all.
    fn index(
        &self,
        job: &IndexJob,
        on_progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Arc<dyn Retriever>, BackendError>;
}

/// Everything an index depends on.
#[derive(Clone, Default)]
pub struct IndexJob {
    /// The corpus.
    pub documents: Arc<Vec<Document>>,
    /// How to cut and search it.
    pub settings: Rag,
    /// What embeds it; `None` only where the retriever is lexical.
    pub embedder: Option<Arc<dyn Embedder>>,
    /// Reads question and passage together; needed where the settings say `rerank`.
    pub reranker: Option<Arc<dyn Reranker>>,
    /// Where an index on disk lives.
    pub folder: PathBuf,
}

/// Scores how well passages answer a question, reading both together. Implemented by
/// `bench-fastembed` and the term overlap of `bench-retrieval`.
pub trait Reranker: Send + Sync {
    /// What it is: changes whenever its scores may.
    fn id(&self) -> &str;

    /// One score per passage, higher is better; comparable within one question only.
    fn score(&self, query: &str, passages: &[String]) -> Result<Vec<f64>, BackendError>;
}

/// Reads a corpus from files of any known format. Implemented by `bench-retrieval`.
pub trait CorpusReader: Send + Sync {
    /// The documents of `names`: files, folders and glob patterns, each looked up below its root.
    /// The same files give the same documents in the same order, with the same ids.
    ///
    /// # Errors
    /// Every problem that leaves the corpus in doubt: a name that is nothing, a bad row, two
    /// documents with one id, no document at all.
    fn read(&self, names: &[CorpusName]) -> Result<Corpus, Vec<String>>;
}

/// Where a part of a corpus is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusName {
    /// The folder that `name` is relative to.
    pub root: PathBuf,
    /// A file, a folder or a glob pattern, as written.
    pub name: String,
}

/// A corpus that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Corpus {
    /// Its documents, file by file in the order of their paths.
    pub documents: Vec<Document>,
    /// SHA-256 over the names and contents of all files.
    pub digest: String,
    /// Files in a folder or pattern that could not be read as text, each with the reason.
    pub skipped: Vec<(String, String)>,
}

/// Finds the passages closest to a query.
pub trait Retriever: Send + Sync {
    /// At most `top_k` passages, best first; ties go to the earlier chunk.
    fn retrieve(&self, query: &str, top_k: usize) -> Result<Vec<Passage>, BackendError>;

    /// What was built.
    fn info(&self) -> IndexInfo;
}

/// A retrieved passage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passage {
    /// The chunk, unique within the index.
    pub id: String,
    /// The document it was cut from.
    pub document: String,
    /// The document's title, or empty.
    pub title: String,
    /// Its text.
    pub text: String,
    /// Higher is better; comparable within one answer only.
    pub score: f64,
}

/// What an index holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IndexInfo {
    /// SHA-256 over corpus, chunking and embedder.
    pub digest: String,
    /// Documents in.
    pub documents: u64,
    /// Chunks made.
    pub chunks: u64,
    /// Numbers per vector; 0 for a lexical index.
    pub dimension: u64,
    /// Wall-clock seconds to build; 0 when it was opened.
    pub seconds: f64,
    /// Documents that were cut and embedded in this build; the others were taken over from the
    /// index that was there.
    #[serde(default)]
    pub documents_new: u64,
    /// Documents whose chunks are smaller than asked for, because the embedder's window is.
    #[serde(default)]
    pub cut_to_window: u64,
}

/// A backend could not do what it was asked. `kind` decides what the runner does next.
#[derive(Debug, thiserror::Error)]
#[error("{backend}: {kind}")]
pub struct BackendError {
    /// Which backend, for example `mistralrs`.
    pub backend: &'static str,
    /// What class of failure.
    pub kind: BackendErrorKind,
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl BackendError {
    /// Trying again may help: a timeout, a rate limit, a lost connection.
    pub fn transient(
        backend: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { backend, kind: BackendErrorKind::Transient, source: source.into() }
    }

    /// This request cannot succeed; others may.
    pub fn rejected(
        backend: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { backend, kind: BackendErrorKind::Rejected, source: source.into() }
    }

    /// No later request can succeed.
    pub fn fatal(
        backend: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { backend, kind: BackendErrorKind::Fatal, source: source.into() }
    }

    /// The message and all its causes in one line.
    pub fn chain(&self) -> String {
        format!("{self}: {}", self.causes())
    }

    /// The causes in one line, without who met them.
    pub fn causes(&self) -> String {
        let mut text = self.source.to_string();
        let mut source = self.source.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

/// What the runner does after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendErrorKind {
    /// Retry.
    Transient,
    /// Record it and go on.
    Rejected,
    /// Stop the run.
    Fatal,
}

impl std::fmt::Display for BackendErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Transient => "failed for now",
            Self::Rejected => "rejected the request",
            Self::Fatal => "cannot go on",
        })
    }
}

/// Where long work reports how far it is.
pub trait Progress: Send + Sync {
    /// Announces work of `total` units (0 when unknown). Dropping the task ends it.
    fn begin(&self, stage: Stage, what: &str, total: u64) -> Box<dyn Task>;

    /// Says something that stays on the screen.
    fn say(&self, line: &str);
}

/// One piece of long work.
pub trait Task: Send + Sync {
    /// `done` units in all; `note` is shown beside the bar, for example the loss.
    fn advance(&self, done: u64, note: &str);
}

/// The stages a user waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Getting models and libraries (bytes).
    Pull,
    /// Converting a model (tensors).
    Import,
    /// Cutting, embedding and indexing (chunks).
    Index,
    /// Training (steps).
    Train,
    /// Comparing trainer and server (rows).
    Check,
    /// Answering (trials).
    Generate,
    /// Judging (verdicts).
    Judge,
}
