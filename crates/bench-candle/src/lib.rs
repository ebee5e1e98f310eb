//! Trains adapters and imports models, on candle.
//!
//! [`CandleTrainer`] trains low-rank adapters of a model in Hugging Face layout and writes them in
//! PEFT's; [`merge`] folds one into its base. [`import`] makes such a layout of a GGUF file.
//!
//! The decoder is passed forward and back by hand, layer by layer, over plain slices: a frozen
//! weight gets no gradient, and nothing is kept that the way back does not need.

pub mod import;

mod adapter;
mod blocks;
mod checkpoint;
mod data;
mod decode;
mod device;
mod error;
mod export;
mod generator;
mod logistic;
mod matrix;
mod merge;
mod model;
mod ops;
mod optimizer;
mod pissa;
mod preference;
mod runner;
mod step;
mod tensor_file;
mod tensorboard;
mod trainer;

pub use error::TrainError;
pub use export::{Exported, GgufKind, export_gguf, export_peft};
pub use generator::{CandleCounter, CandleLoader};
pub use logistic::LogisticTrainer;
pub use merge::{Merged, merge};
pub use trainer::{CandleTrainer, TrainEstimate, train_plan, trained_digest};

#[cfg(test)]
mod tests;
