//! Why a training run, a probe or a merge did not happen.

use std::path::PathBuf;

use bench_core::backend::BackendError;

/// What went wrong, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says it, and its fields are what the message names")]
#[non_exhaustive]
pub enum TrainError {
    #[error("the GPU failed: {what}{remedy}")]
    Device { what: String, remedy: &'static str },
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("`{path}` cannot be read: {what}; get the model again")]
    Unreadable { path: PathBuf, what: String },
    #[error(
        "models of type `{found}` cannot be trained; supported are `{supported}`: choose a model of one of these"
    )]
    ModelType { found: String, supported: String },
    #[error("the model uses {what}, which cannot be trained here: choose another model")]
    Unsupported { what: String },
    #[error("tensor `{tensor}` is missing from `{folder}`: get the model again")]
    MissingTensor { tensor: String, folder: PathBuf },
    #[error(
        "tensor `{tensor}` has the shape {found:?} where {expected:?} is expected: its files do not belong together"
    )]
    Shape { tensor: String, found: Vec<usize>, expected: Vec<usize> },
    #[error(
        "tensor `{tensor}` is stored as {found}; f32, f16 and bf16 can be read: use the unquantised model"
    )]
    TensorType { tensor: String, found: String },
    #[error(
        "tensor `{tensor}` has no place in a model of type `{model_type}`: leaving it out would change the model"
    )]
    UnknownTensor { tensor: String, model_type: String },
    #[error(
        "`{name}` is not a projection of the model; `target_modules` takes {known}, or `all-linear` for all of them"
    )]
    UnknownModule { name: String, known: String },
    #[error("`target_modules` is empty: name the projections to adapt, or write `all-linear`")]
    NoModules,
    #[error("`lora_r` is {rank}, and `{module}` allows 1 to {most}: choose a rank in that range")]
    Rank { rank: u32, module: &'static str, most: usize },
    #[error("`last_layers` is {asked}, and the model has 1 to {layers} layers to train")]
    Layers { asked: usize, layers: usize },
    #[error(
        "models of type `{model_type}` have no biases, so `method: bitfit` has nothing to train: choose `lora`"
    )]
    NoBiases { model_type: String },
    #[error(
        "`{module}` has {columns} columns, which do not make whole blocks of 32: choose `method: lora`"
    )]
    Blocks { module: &'static str, columns: usize },
    #[error("`{module}` cannot be kept as `{quantization}`: {what}; choose `quantization: q8_0`")]
    Packing { module: &'static str, quantization: String, what: String },
    #[error("`{key}` does not go with `{other}`: {remedy}")]
    Together { key: &'static str, other: String, remedy: &'static str },
    #[error(
        "training row {row}{asked} does not suit `objective: {objective}`; preferences need `chosen` and `rejected`, verdicts `completion` and `label`, and plain learning a `reference`: mend the row, or choose `objective: {other}`"
    )]
    Objective { objective: &'static str, row: usize, asked: String, other: &'static str },
    #[error(
        "training would take about {needed} MiB of memory, and {available} MiB are free: {remedy}"
    )]
    Memory { needed: u64, available: u64, remedy: String },
    #[error("`{key}` is {value}, and must be {expected}")]
    Setting { key: &'static str, value: String, expected: &'static str },
    #[error("there are no training rows: give at least one example")]
    NoRows,
    #[error(
        "none of the {rows} {what}s fits into `sequence_len: {sequence_len}` (the shortest has {shortest} tokens){remedy}"
    )]
    AllTooLong {
        what: &'static str,
        rows: usize,
        sequence_len: u32,
        shortest: usize,
        remedy: &'static str,
    },
    #[error(
        "{too_long} of {rows} training rows do not fit into `sequence_len: {sequence_len}` (the longest has {longest} tokens), more than the twentieth that may be left out{remedy}"
    )]
    TooLong {
        too_long: usize,
        rows: usize,
        sequence_len: u32,
        longest: usize,
        remedy: &'static str,
    },
    #[error(
        "{what} {row}{asked} has an empty completion: there is nothing to learn from it; remove it"
    )]
    EmptyCompletion { what: &'static str, row: usize, asked: String },
    #[error("the chat template cannot be used: {0}")]
    Template(String),
    #[error(
        "the tokenizer gives token {token}, and the model has {vocabulary}: tokenizer and weights do not belong together"
    )]
    Token { token: u32, vocabulary: usize },
    #[error(
        "the tokenizer in `{folder}` is another model's: {what}; get config.json, tokenizer.json and weights of one model"
    )]
    Tokenizer { folder: PathBuf, what: String },
    #[error(
        "the loss or a gradient was not a number at step {step}, the {times}th time, although the learning rate was halved each time: lower `learning_rate` ({learning_rate}){kept}"
    )]
    NotFinite { step: u64, times: u32, learning_rate: f64, kept: String },
    #[error(
        "`{folder}` holds an adapter of another base model ({found}, not {expected}): choose another folder, or remove this one"
    )]
    OtherBase { folder: PathBuf, found: String, expected: String },
    #[error(
        "`{folder}` holds an adapter trained with other settings or data: choose another folder, or remove this one"
    )]
    OtherJob { folder: PathBuf },
    #[error("`{folder}` is in use already: {what}; choose another folder, or remove this one")]
    Occupied { folder: PathBuf, what: String },
    #[error("another process is training into `{folder}`: wait for it to finish")]
    Busy { folder: PathBuf },
    #[error("the adapter in `{folder}` cannot be used: {what}")]
    Adapter { folder: PathBuf, what: String },
}

impl From<TrainError> for BackendError {
    fn from(error: TrainError) -> Self {
        // Another learning rate may do: a sweep goes on.
        if matches!(error, TrainError::NotFinite { .. }) {
            Self::rejected("candle", error)
        } else {
            Self::fatal("candle", error)
        }
    }
}
