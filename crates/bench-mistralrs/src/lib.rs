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
mod grammar;
mod packer;

use std::path::Path;
use std::sync::Arc;

use bench_core::backend::{BackendError, Generator, Loader, ModelFolder};

pub use crate::counter::PromptCounter;
pub use crate::generator::MistralGenerator;
pub use crate::packer::MistralPacker;

const BACKEND: &str = "mistralrs";

/// Loads Hugging Face folders: f32 on the processor, or bf16 on the first GPU with feature `cuda`.
///
/// Nothing is fetched. Dropping the generator frees the model before the drop returns, so models
/// can be loaded one after the other within the memory of the largest and its copies.
#[derive(Clone, Copy, Debug, Default)]
pub struct MistralLoader {
    /// Bytes that further copies of a model may take, on the processor. Writing one token uses one
    /// core, and tokens of several answers cannot be written together there, so a small model
    /// answers faster from a copy per core. 0 for no copies.
    pub copies_memory: u64,
    /// Bytes of keys and values that each copy may keep of earlier answers, on the processor: a
    /// prompt that begins like an earlier one (the instructions, the examples) is read from where
    /// they part. On a GPU nothing is kept: the library's prefix cache is unproved there. 0 for
    /// none.
    pub prefix_cache_memory: u64,
}

impl Loader for MistralLoader {
    fn load(
        &self,
        model: &ModelFolder,
        adapter: Option<&Path>,
    ) -> Result<Arc<dyn Generator>, BackendError> {
        Ok(Arc::new(MistralGenerator::load(model, adapter, *self)?))
    }
}
