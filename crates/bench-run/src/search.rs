//! What an arm searches: the documents of its eval set, cut and embedded as its settings say. The
//! same for a run, for `bench index` and for `bench retrieve`, so that all of them share an index.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bench_core::backend::{BackendError, Embedder, IndexJob, Progress, Retriever, Stage};
use bench_core::dataset::Document;
use bench_core::digest;
use bench_core::spec::Rag;

use crate::backends::Backends;
use crate::load::{Loaded, LoadedSet};
use crate::prompt::as_documents;

/// An index to build or open.
pub struct Search {
    /// What it depends on.
    pub job: IndexJob,
    /// The set it belongs to.
    pub set: String,
    /// The embedder, or `none`.
    pub embedder: String,
    /// The digest of everything that its answers depend on.
    pub key: String,
}

/// The documents that retrieving arms of a set search: its corpus, else its training rows.
pub fn documents(set: &LoadedSet) -> Arc<Vec<Document>> {
    Arc::new(match (&set.corpus, &set.train) {
        (Some(corpus), _) => corpus.clone(),
        (None, Some(train)) => as_documents(train),
        (None, None) => Vec::new(),
    })
}

/// The folder of an experiment's indexes.
pub fn folder(loaded: &Loaded) -> PathBuf {
    let experiment = &loaded.experiment;
    Path::new(&experiment.run.runs).join(&experiment.name).join("index")
}

/// Puts a search together. `embedder` is needed where the retriever is dense; `folder` is where
/// the experiment's indexes lie.
///
/// # Errors
/// A reranker that cannot be opened.
pub fn search(
    set: &str,
    documents: &Arc<Vec<Document>>,
    settings: &Rag,
    embedder: Option<Arc<dyn Embedder>>,
    folder: &Path,
    backends: &dyn Backends,
    progress: &dyn Progress,
) -> Result<Search, BackendError> {
    let embedder = embedder.filter(|_| settings.retriever.is_dense());
    let embedder_id = embedder.as_ref().map_or("none", |embedder| embedder.id()).to_owned();
    // Where the index lies depends on nothing that a changed document changes, so that the next
    // build finds what it can take over.
    let cut = (settings.chunking(), settings.retriever.is_dense());
    let place = digest::of_json(&(set, cut, &settings.index, &embedder_id));
    let search = (&settings.retriever, settings.terms, &settings.filter, settings.min_score);
    // A chat model sorts after the search, call by call; the index knows nothing of it.
    let scored = settings.rerank.as_ref().filter(|rerank| rerank.chat_model().is_none());
    let after = (scored, &settings.mmr, settings.expand);
    let key = digest::of_json(&(&place, documents.as_slice(), search, after));
    let reranker = match scored {
        Some(rerank) => Some(backends.reranker(&rerank.model, progress)?),
        None => None,
    };
    let job = IndexJob {
        documents: Arc::clone(documents),
        settings: Rag { rerank: scored.cloned(), ..settings.clone() },
        embedder,
        reranker,
        folder: folder.join(digest::short(&place)),
    };
    Ok(Search { job, set: set.to_owned(), embedder: embedder_id, key })
}

impl Search {
    /// Builds or opens the index, showing how far it is, and says when the embedder's window
    /// shortened chunks.
    ///
    /// # Errors
    /// The index's own.
    pub fn open(
        &self,
        backends: &dyn Backends,
        progress: &dyn Progress,
    ) -> Result<Arc<dyn Retriever>, BackendError> {
        let what = format!("{} ({} documents)", self.set, self.job.documents.len());
        let indexer = backends.indexer(&self.job.settings.index)?;
        let mut task = None;
        let retriever = indexer.index(&self.job, &mut |done, total| {
            let task = task.get_or_insert_with(|| progress.begin(Stage::Index, &what, total));
            task.advance(done, "");
        })?;
        drop(task);
        let shortened = retriever.info().cut_to_window;
        if shortened > 0 {
            progress.say(&format!(
                "warning: {shortened} documents of set `{}` are cut smaller than asked for, because \
                 the embedder reads no more",
                self.set
            ));
        }
        Ok(retriever)
    }
}
