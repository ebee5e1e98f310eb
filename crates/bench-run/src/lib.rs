//! From an experiment to records: reading its data, preparing its arms (index, train, check),
//! answering, scoring, and keeping everything that was paid for.
//!
//! Knows no library that computes: models, embedders and indexes come in through [`Backends`].

mod answer;
pub mod backends;
mod desk;
pub mod load;
mod prepare;
pub mod prompt;
pub mod run;
pub mod score;
pub mod scripted;
pub mod store;
mod tune;

pub use backends::{Backends, Counter, ResolvedModel};
pub use load::{Loaded, LoadedSet, load};
pub use run::{Finished, Options, RunError, Stop, run};
