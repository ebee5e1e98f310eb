//! From an experiment to records: reading its data, preparing its arms (index, train, check),
//! answering, scoring, and keeping everything that was paid for.
//!
//! Knows no library that computes: models, embedders and indexes come in through [`Backends`].

mod answer;
pub mod backends;
pub mod calibrate;
mod desk;
mod endpoint;
mod energy;
mod features;
mod likelihood;
pub mod load;
mod parity;
mod prepare;
pub mod prompt;
pub mod run;
pub mod score;
pub mod scripted;
pub mod search;
pub mod store;
mod train;
mod tune;

pub use backends::{Backends, Counter, ResolvedModel};
pub use calibrate::calibrate;
pub use load::{
    Loaded, LoadedCalibration, LoadedSet, load, load_calibration, load_checked, load_with,
};
pub use run::{Finished, Options, RunError, Stop, run};
pub use train::train;
