//! Serves local models and their adapters with mistral.rs.
