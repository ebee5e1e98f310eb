//! The indexer: a corpus in, a retriever out.

use std::sync::Arc;
use std::time::Instant;

use bench_core::backend::{
    BackendError, Embedder, IndexInfo, IndexJob, Indexer, Passage, Retriever,
};
use bench_core::retrieval::{
    Analysis, bm25_parameters, candidates, embed_chunks, embed_query, fuse, index_digest,
};
use bench_core::spec::Retrieval;
use rayon::prelude::*;

use crate::{Bm25, English, ExactIndex, fatal};

/// Builds and opens exact indexes on disk. The index in `job.folder` is replaced when it is of
/// another corpus, cut or embedder; with an embedder that remembers, only what changed is embedded.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExactIndexer;

impl Indexer for ExactIndexer {
    fn index(
        &self,
        job: &IndexJob,
        on_progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Arc<dyn Retriever>, BackendError> {
        let (settings, started) = (&job.settings, Instant::now());
        let dense = settings.retriever.is_dense();
        if dense && job.embedder.is_none() {
            return Err(fatal("this retriever needs an embedder, or choose `bm25`"));
        }
        let digest = index_digest(job, English.id());
        let (index, seconds) = if let Ok(index) = ExactIndex::open(&job.folder, &digest) {
            (index, 0.0)
        } else {
            let embedder = job.embedder.as_deref();
            let chunks = English.chunks(&job.documents, settings, embedder)?;
            let vectors = match embedder.filter(|_| dense) {
                Some(embedder) => embed_chunks(embedder, &chunks, on_progress)?,
                None => Vec::new(),
            };
            ExactIndex::write(&job.folder, &digest, &chunks, &vectors).map_err(fatal)?;
            let index = ExactIndex::open(&job.folder, &digest).map_err(fatal)?;
            (index, started.elapsed().as_secs_f64())
        };
        let n_chunks = index.n_chunks() as u64;
        on_progress(n_chunks, n_chunks);
        let lexical = match settings.retriever {
            Retrieval::Dense {} => None,
            Retrieval::Bm25 { .. } | Retrieval::Hybrid { .. } | Retrieval::Rrf { .. } => {
                let text = |at| index.chunk(at).map(|chunk| chunk.contextual());
                let texts: Result<Vec<_>, _> =
                    (0..n_chunks as u32).into_par_iter().map(text).collect();
                Some(Bm25::new(&texts.map_err(fatal)?, bm25_parameters(&settings.retriever)))
            }
        };
        let info = IndexInfo {
            digest,
            documents: job.documents.len() as u64,
            chunks: n_chunks,
            dimension: index.dimension() as u64,
            seconds,
        };
        let embedder = job.embedder.clone().filter(|_| dense);
        let retrieval = settings.retriever.clone();
        Ok(Arc::new(ExactRetriever { index, lexical, embedder, retrieval, info }))
    }
}

struct ExactRetriever {
    index: ExactIndex,
    lexical: Option<Bm25>,
    embedder: Option<Arc<dyn Embedder>>,
    retrieval: Retrieval,
    info: IndexInfo,
}

impl Retriever for ExactRetriever {
    fn retrieve(&self, query: &str, top_k: usize) -> Result<Vec<Passage>, BackendError> {
        if query.trim().is_empty() {
            return Err(BackendError::rejected("retrieval", "the question is empty"));
        }
        let limit = candidates(top_k);
        let dense = match &self.embedder {
            Some(embedder) => self.index.search(&embed_query(embedder.as_ref(), query)?, limit),
            None => Vec::new(),
        };
        let lexical = self.lexical.as_ref().map_or_else(Vec::new, |bm25| bm25.search(query, limit));
        let found = fuse(&self.retrieval, &dense, &lexical);
        let passage = |(chunk, score): (u32, f64)| {
            self.index.chunk(chunk).map(|chunk| chunk.into_passage(score)).map_err(fatal)
        };
        found.into_iter().take(top_k).map(passage).collect()
    }

    fn info(&self) -> IndexInfo {
        self.info.clone()
    }
}
