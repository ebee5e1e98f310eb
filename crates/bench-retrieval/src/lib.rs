//! Retrieval without a server or a model of its own: files to documents, documents to chunks, an exact vector index in a
//! memory-mapped file, BM25, an embedder that hashes words, a cache around any embedder, and the
//! measures of a ranking. Knows nothing of ONNX, HTTP or Qdrant.

mod bm25;
mod cache;
mod chunk;
mod disk;
mod documents;
mod exact;
mod hashing;
mod index;
mod overlap;
mod text;

pub use bm25::Bm25;
pub use cache::CachedEmbedder;
pub use documents::Files;
pub use exact::{ExactIndex, Made, OpenError};
pub use hashing::HashingEmbedder;
pub use index::ExactIndexer;
pub use overlap::OverlapReranker;
pub use text::English;

use bench_core::backend::BackendError;

/// A failure that no later request can undo, for example a full disk.
fn fatal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BackendError {
    BackendError::fatal("retrieval", error)
}
