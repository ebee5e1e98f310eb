//! The indexer: a corpus in, a retriever out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bench_core::backend::{BackendError, IndexInfo, IndexJob, Indexer, Retriever};
use bench_core::digest;
use bench_core::retrieval::{
    Analysis, Chunk, Pipeline, Question, Searcher, bm25_parameters, embed_chunks, fuse,
    index_digest, settings_digest,
};
use bench_core::spec::Retrieval;
use rayon::prelude::*;

use crate::exact::{Made, bytes_of_chunks};
use crate::{Bm25, English, ExactIndex, disk, fatal};

/// Builds and opens exact indexes on disk. Where only some documents changed, the chunks and
/// vectors of the others are taken over from the index in `job.folder`; what is no longer in the
/// corpus is no longer in the index.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExactIndexer;

impl Indexer for ExactIndexer {
    fn index(
        &self,
        job: &IndexJob,
        on_progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Arc<dyn Retriever>, BackendError> {
        if job.settings.retriever.is_dense() && job.embedder.is_none() {
            return Err(fatal("this retriever needs an embedder, or choose `bm25`"));
        }
        let digest = index_digest(job, English.id());
        let (index, info) = match ExactIndex::open(&job.folder, &digest) {
            Ok(index) => (index, IndexInfo::default()),
            Err(_) => build(job, &digest, disk::free(&job.folder), on_progress)?,
        };
        let n_chunks = index.n_chunks() as u64;
        on_progress(n_chunks, n_chunks);
        let info = IndexInfo {
            digest,
            documents: job.documents.len() as u64,
            chunks: n_chunks,
            dimension: index.dimension() as u64,
            ..info
        };
        Ok(Arc::new(Pipeline::new(Exact::new(index, job)?, job, info.clone())?))
    }
}

/// Writes the index and opens it. The info holds only what building it took. `free` is the room on
/// the disk, where it is known: a corpus that does not fit is refused before it is embedded.
fn build(
    job: &IndexJob,
    digest: &str,
    free: Option<u64>,
    on_progress: &mut dyn FnMut(u64, u64),
) -> Result<(ExactIndex, IndexInfo), BackendError> {
    let started = Instant::now();
    let settings = settings_digest(job, English.id());
    let digests: Vec<String> =
        job.documents.par_iter().map(|document| digest::of_json(document)[..16].into()).collect();
    let kept = Kept::open(job, &settings);
    let taken: Vec<Option<(u32, u32)>> = job
        .documents
        .iter()
        .zip(&digests)
        .map(|(document, digest)| kept.find(&document.id, digest))
        .collect();
    let new: Vec<_> =
        job.documents.iter().zip(&taken).filter(|(_, taken)| taken.is_none()).collect();
    let new: Vec<_> = new.into_iter().map(|(document, _)| document).collect();
    let cut = English.chunks(&new, &job.settings, job.embedder.as_deref())?;
    let dense = job.embedder.as_deref().filter(|_| job.settings.retriever.is_dense());
    let fresh: Vec<Chunk> = cut.chunks.iter().flatten().cloned().collect();
    let vector = dense.map_or(0, |embedder| 4 * embedder.dimension() as u64);
    // Each new vector is written twice: into the index, and among the remembered embeddings. What
    // is taken over is written beside the old index.
    let needed = bytes_of_chunks(&fresh) + 2 * vector * fresh.len() as u64 + kept.bytes(&taken);
    disk::check(&job.folder, needed, free)?;
    let vectors = match dense {
        Some(embedder) => embed_chunks(embedder, &fresh, on_progress)?,
        None => Vec::new(),
    };
    let (mut cut_chunks, mut fresh_vectors) = (cut.chunks.into_iter(), vectors.into_iter());
    let (mut chunks, mut vectors) = (Vec::new(), Vec::new());
    for taken in &taken {
        if let (Some((first, of)), Some(old)) = (taken, &kept.index) {
            for at in *first..first + of {
                chunks.push(old.chunk(at).map_err(fatal)?);
                if dense.is_some() {
                    vectors.push(old.vector(at).to_vec());
                }
            }
        } else {
            let cut = cut_chunks.next().unwrap_or_default();
            vectors.extend(fresh_vectors.by_ref().take(cut.len()));
            chunks.extend(cut);
        }
    }
    if chunks.is_empty() {
        return Err(fatal("the corpus holds no text"));
    }
    let documents: HashMap<&str, String> =
        job.documents.iter().map(|document| document.id.as_str()).zip(digests).collect();
    let made = Made { digest, settings: &settings, documents: &documents };
    ExactIndex::write(&job.folder, made, &chunks, &vectors).map_err(fatal)?;
    let index = ExactIndex::open(&job.folder, digest).map_err(fatal)?;
    let info = IndexInfo {
        seconds: started.elapsed().as_secs_f64(),
        documents_new: new.len() as u64,
        cut_to_window: cut.cut_to_window,
        ..IndexInfo::default()
    };
    Ok((index, info))
}

/// What an earlier index of the same settings holds.
#[derive(Default)]
struct Kept {
    index: Option<ExactIndex>,
    documents: HashMap<(String, String), (u32, u32)>,
}

impl Kept {
    /// Empty where there is none that can be used.
    fn open(job: &IndexJob, settings: &str) -> Self {
        let Ok(index) = ExactIndex::open_made_with(&job.folder, settings) else {
            return Self::default();
        };
        match index.documents() {
            Ok(documents) => Self { index: Some(index), documents },
            Err(_) => Self::default(),
        }
    }

    /// What the chunks that are taken over take in the new index, as a share of the old one.
    fn bytes(&self, taken: &[Option<(u32, u32)>]) -> u64 {
        let Some(index) = &self.index else { return 0 };
        let chunks: u64 = taken.iter().flatten().map(|(_, of)| u64::from(*of)).sum();
        (index.bytes() as f64 * chunks as f64 / index.n_chunks().max(1) as f64) as u64
    }

    fn find(&self, id: &str, digest: &str) -> Option<(u32, u32)> {
        self.documents.get(&(id.to_owned(), digest.to_owned())).copied()
    }
}

/// An open index and what its settings add.
struct Exact {
    index: ExactIndex,
    lexical: Option<Bm25>,
    retrieval: Retrieval,
    /// Whether each chunk passes the filters; `None` where there are none.
    passes: Option<Vec<bool>>,
}

impl Exact {
    fn new(index: ExactIndex, job: &IndexJob) -> Result<Self, BackendError> {
        let settings = &job.settings;
        let lexical = match settings.retriever {
            Retrieval::Dense {} => None,
            Retrieval::Bm25 { .. } | Retrieval::Hybrid { .. } | Retrieval::Rrf { .. } => {
                let text = |at| index.chunk(at).map(|chunk| chunk.contextual());
                let parameters = bm25_parameters(&settings.retriever);
                let read = Bm25::read(index.n_chunks(), text, parameters, settings.terms);
                Some(read.map_err(fatal)?)
            }
        };
        let passes = if settings.filter.is_empty() {
            None
        } else {
            let passes = |at| index.chunk(at).map(|chunk| chunk.passes(&settings.filter));
            let all: std::io::Result<Vec<bool>> =
                (0..index.n_chunks() as u32).into_par_iter().map(passes).collect();
            Some(all.map_err(fatal)?)
        };
        Ok(Self { index, lexical, retrieval: settings.retriever.clone(), passes })
    }
}

impl Searcher for Exact {
    fn search(
        &self,
        question: &Question<'_>,
        limit: usize,
    ) -> Result<Vec<(u32, f64)>, BackendError> {
        let keep = |at: u32| self.passes.as_ref().is_none_or(|passes| passes[at as usize]);
        let dense = match &question.vector {
            Some(vector) => self.index.search_in(vector, limit, &keep),
            None => Vec::new(),
        };
        let lexical = self
            .lexical
            .as_ref()
            .map_or_else(Vec::new, |bm25| bm25.search_in(question.text, limit, &keep));
        Ok(fuse(&self.retrieval, &dense, &lexical))
    }

    fn chunks(&self, positions: &[u32]) -> Result<Vec<Chunk>, BackendError> {
        positions.iter().map(|at| self.index.chunk(*at).map_err(fatal)).collect()
    }

    fn vectors(&self, positions: &[u32]) -> Result<Vec<Vec<f32>>, BackendError> {
        Ok(positions.iter().map(|at| self.index.vector(*at).to_vec()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use bench_core::backend::{Embedder, Purpose};
    use bench_core::dataset::Document;

    use super::*;

    /// Remembers whether it was asked to embed.
    #[derive(Default)]
    struct Asked(AtomicBool);

    impl Embedder for Asked {
        fn id(&self) -> &'static str {
            "asked"
        }
        fn dimension(&self) -> usize {
            384
        }
        fn window(&self) -> usize {
            100
        }
        fn count_tokens(&self, text: &str) -> usize {
            text.split_whitespace().count()
        }
        fn embed(&self, _: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
            self.0.store(true, Ordering::Relaxed);
            Ok(vec![vec![1.0; 384]; texts.len()])
        }
    }

    #[test]
    fn a_corpus_larger_than_the_disk_left_is_refused_before_it_is_embedded() {
        let folder = tempfile::tempdir().unwrap();
        let document =
            |n: u32| Document { id: n.to_string(), text: "a word".into(), ..Document::default() };
        let embedder = Arc::new(Asked::default());
        let job = IndexJob {
            documents: Arc::new((0..100).map(document).collect()),
            embedder: Some(Arc::clone(&embedder) as _),
            folder: folder.path().join("index"),
            ..IndexJob::default()
        };
        // 100 vectors of 1536 bytes, twice, are 307 kB.
        let error = build(&job, "digest", Some(300_000), &mut |_, _| {}).err().unwrap().chain();
        assert!(error.contains("needs about 1 MB and the disk has 0 MB left"), "{error}");
        assert!(!embedder.0.load(Ordering::Relaxed) && !job.folder.exists());
        assert!(build(&job, "digest", Some(400_000), &mut |_, _| {}).is_ok());
    }
}
