//! Counting prompt tokens without loading weights.

use std::path::Path;

use bench_core::backend::{BackendError, Constraint, ProbeRow};
use bench_core::chat::Message;

use crate::BACKEND;
use crate::folder::Folder;

/// The chat template and tokenizer of a model folder, and nothing heavier.
pub struct PromptCounter(Folder);

impl PromptCounter {
    /// Opens a model folder.
    ///
    /// # Errors
    /// As for loading the model.
    pub fn open(folder: &Path) -> Result<Self, BackendError> {
        Folder::open(folder).map(Self).map_err(|error| BackendError::fatal(BACKEND, error))
    }

    /// Tokens of the conversation as the server will see it.
    ///
    /// # Errors
    /// A chat template that refuses the conversation.
    pub fn count(&self, messages: &[Message]) -> Result<u32, BackendError> {
        Ok(self.0.prompt(messages)?.len() as u32)
    }

    /// The ids of a conversation and its known answer, as the server will see them.
    ///
    /// # Errors
    /// A chat template that refuses the conversation.
    pub fn token_ids(&self, row: &ProbeRow) -> Result<Vec<u32>, BackendError> {
        let mut ids = self.0.prompt(&row.messages)?;
        ids.extend(self.0.completion(&row.completion)?);
        Ok(ids)
    }

    /// Whether the model's answers can be held to a language.
    ///
    /// # Errors
    /// A tokenizer without an end that the grammar engine knows, and a language that it refuses.
    pub fn check_constraint(&self, constraint: &Constraint) -> Result<(), BackendError> {
        if self.0.grammar_end.is_none() {
            return Err(BackendError::rejected(BACKEND, crate::grammar::NO_END));
        }
        crate::grammar::check(constraint)
    }

    /// Tokens that prompt and answer may take together.
    pub fn context_window(&self) -> u32 {
        self.0.window as u32
    }
}
