//! What a run needs from the libraries that compute, behind one trait.

use std::path::Path;
use std::sync::Arc;

use bench_core::backend::{
    BackendError, ClassifierTrainer, Constraint, Embedder, Generator, Indexer, ModelFolder,
    ProbeRow, Progress, Reranker, Trainer,
};
use bench_core::chat::Message;
use bench_core::manifest::ModelEntry;
use bench_core::spec::{EmbedderSource, IndexBackend, ModelSource, RerankerSource, Scripted};

/// Makes models, trainers, embedders and indexes. Implemented by the `bench` program, and by
/// [`crate::scripted::ScriptedBackends`] for tests.
pub trait Backends: Send + Sync {
    /// Finds a model, getting it first if need be; loads nothing.
    fn resolve(
        &self,
        name: &str,
        source: &ModelSource,
        progress: &dyn Progress,
    ) -> Result<ResolvedModel, BackendError>;

    /// Loads a model, with an adapter when one is given.
    fn load(
        &self,
        model: &ResolvedModel,
        adapter: Option<&Path>,
    ) -> Result<Arc<dyn Generator>, BackendError>;

    /// The decoder that serves soft prompts, over the model without one; `None` where the model is
    /// served by it anyway, so that there is nothing to compare it with.
    fn decoder(&self, model: &ResolvedModel) -> Result<Option<Arc<dyn Generator>>, BackendError> {
        let _ = model;
        Ok(None)
    }

    /// Counts tokens as the model does, without loading its weights; `None` for models that are
    /// not local.
    fn counter(&self, model: &ResolvedModel) -> Result<Option<Arc<dyn Counter>>, BackendError>;

    /// Whether answers of the model can be held to a language; says what to do where they cannot.
    /// Loads no weights.
    fn check_constraint(
        &self,
        model: &ResolvedModel,
        constraint: &Constraint,
    ) -> Result<(), BackendError>;

    /// The trainer for a local model.
    fn trainer(&self, model: &ResolvedModel) -> Result<Arc<dyn Trainer>, BackendError>;

    /// What fits classifiers over embeddings. Those that have none refuse.
    fn classifier_trainer(&self) -> Result<Arc<dyn ClassifierTrainer>, BackendError> {
        Err(BackendError::fatal("classifier", "classifiers cannot be fitted here"))
    }

    /// The embedder. Remembers what it embedded, so that a second run embeds nothing and opens no
    /// model.
    fn embedder(
        &self,
        source: &EmbedderSource,
        progress: &dyn Progress,
    ) -> Result<Arc<dyn Embedder>, BackendError>;

    /// The reranker. Those that have none refuse.
    fn reranker(
        &self,
        source: &RerankerSource,
        progress: &dyn Progress,
    ) -> Result<Arc<dyn Reranker>, BackendError> {
        let _ = progress;
        Err(BackendError::fatal("reranker", format!("there is no reranker `{source:?}` here")))
    }

    /// The index of that kind.
    fn indexer(&self, backend: &IndexBackend) -> Result<Arc<dyn Indexer>, BackendError>;
}

/// Counts the tokens of a prompt.
pub trait Counter: Send + Sync {
    /// Tokens of the conversation, its chat template included.
    fn count(&self, messages: &[Message]) -> Result<u32, BackendError>;

    /// The ids of a conversation and its known answer, as the server sees them.
    fn token_ids(&self, row: &ProbeRow) -> Result<Vec<u32>, BackendError>;

    /// Tokens that prompt and answer may take together.
    fn context_window(&self) -> u32;
}

/// A model that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedModel {
    /// What the manifest says of it; its digest keys the answers.
    pub entry: ModelEntry,
    /// Where it is.
    pub place: Place,
}

/// Where a model is.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// On disk.
    Local(ModelFolder),
    /// Behind an endpoint.
    Endpoint(bench_core::spec::Endpoint),
    /// In the experiment itself.
    Scripted(Scripted),
    /// There is none: a classifier over the embedder's vectors answers.
    Embedder(EmbedderSource),
}

impl ResolvedModel {
    /// The folder of a local model, for training.
    pub fn folder(&self) -> Result<ModelFolder, BackendError> {
        match &self.place {
            Place::Local(folder) => Ok(folder.clone()),
            Place::Scripted(_) => {
                Ok(ModelFolder { path: "scripted".into(), digest: self.entry.digest.clone() })
            }
            Place::Embedder(_) => {
                Err(BackendError::fatal("trainer", "an embedder cannot be trained here"))
            }
            Place::Endpoint(endpoint) => Err(BackendError::fatal(
                "trainer",
                format!("`{}` is behind an endpoint and cannot be trained here", endpoint.model),
            )),
        }
    }
}
