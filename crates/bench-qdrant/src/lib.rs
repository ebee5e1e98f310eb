//! A vector index on a Qdrant server.
