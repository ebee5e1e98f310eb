//! Serves local models and their adapters with mistral.rs.
//!
//! The library runs the forward pass and the batching. Everything that decides *what* is asked and
//! answered is ours, so that training and serving share it: the chat template and the tokenizer
//! make the prompt ids, `choose` picks every token, and the tokenizer turns them into text.

mod adapter;
mod choose;
mod counter;
mod folder;
mod generator;

use std::path::Path;
use std::sync::Arc;

use bench_core::backend::{BackendError, Generator, Loader, ModelFolder};

pub use crate::counter::PromptCounter;
pub use crate::generator::MistralGenerator;

const BACKEND: &str = "mistralrs";

/// Loads Hugging Face folders: f32 on the processor, or bf16 on the first GPU with feature `cuda`.
///
/// Nothing is fetched. Dropping the generator frees the model before the drop returns, so models
/// can be loaded one after the other within the memory of the largest.
#[derive(Clone, Copy, Debug, Default)]
pub struct MistralLoader;

impl Loader for MistralLoader {
    fn load(
        &self,
        model: &ModelFolder,
        adapter: Option<&Path>,
    ) -> Result<Arc<dyn Generator>, BackendError> {
        Ok(Arc::new(MistralGenerator::load(model, adapter)?))
    }
}
