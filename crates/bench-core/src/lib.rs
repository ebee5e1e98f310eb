//! The vocabulary of `bench`: what an experiment, a sample, a prompt, an answer, a verdict and a
//! record are, and the traits a backend implements.
//!
//! Pure: this crate touches no file, clock, environment or socket. Text comes in, values go out.

pub mod backend;
pub mod chat;
pub mod classifier;
pub mod dataset;
pub mod digest;
pub mod judging;
pub mod label;
pub mod manifest;
pub mod metrics;
pub mod plan;
pub mod record;
pub mod retrieval;
pub mod sampling;
pub mod spec;
pub mod status;
pub mod template;
pub mod text;
