//! Chunks, exact vector index, BM25 and fusion.
