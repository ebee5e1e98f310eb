//! Where a training run stands, on disk: one file that is replaced as a whole.
//!
//! Everything random in a run follows from its seed and the step's number, so the step is all the
//! state that chance has.

use std::path::{Path, PathBuf};

use bench_core::backend::TrainStep;
use fs_err as fs;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::TrainError;
use crate::optimizer::AdamW;
use crate::tensor_file;

/// A run between two steps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) parameters: Vec<f32>,
    pub(crate) optimizer: AdamW,
    pub(crate) progress: Progress,
}

/// What has happened so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Steps done, those that were skipped included.
    pub(crate) step: u64,
    /// Steps the optimiser has taken.
    pub(crate) taken: u64,
    /// Steps skipped since the last one that was taken.
    pub(crate) skipped_in_a_row: u32,
    pub(crate) tokens: u64,
    /// Wall-clock seconds, and those of them spent in steps.
    pub(crate) seconds: f64,
    pub(crate) step_seconds: f64,
    pub(crate) steps: Vec<TrainStep>,
}

fn path(folder: &Path) -> PathBuf {
    folder.join("checkpoint.safetensors")
}

/// Replaces the checkpoint in `folder`.
pub(crate) fn save(folder: &Path, key: &str, state: &State) -> Result<(), TrainError> {
    let progress = serde_json::to_string(&state.progress).map_err(std::io::Error::from)?;
    let metadata = json!({"key": key, "progress": progress});
    let State { parameters, optimizer, .. } = state;
    let numbers =
        [("parameters", parameters), ("first", &optimizer.first), ("second", &optimizer.second)];
    let tensors =
        numbers.map(|(name, numbers)| (name.to_owned(), vec![numbers.len()], numbers.as_slice()));
    let temporary = folder.join("checkpoint.new");
    tensor_file::write(&temporary, &metadata, &tensors)?;
    fs::rename(temporary, path(folder))?;
    Ok(())
}

/// Reads the checkpoint in `folder` where it belongs to this job; one that is damaged or of another
/// job counts as none.
pub(crate) fn load(folder: &Path, key: &str, len: usize) -> Option<State> {
    let file = fs::read(path(folder)).ok()?;
    let (_, metadata) = SafeTensors::read_metadata(&file).ok()?;
    let metadata = metadata.metadata().as_ref()?;
    if metadata.get("key")? != key {
        return None;
    }
    let progress: Progress = serde_json::from_str(metadata.get("progress")?).ok()?;
    let tensors = SafeTensors::deserialize(&file).ok()?;
    let numbers = |name: &str| {
        let numbers = tensors.tensor(name).ok()?.data().as_chunks().0.iter();
        let numbers: Vec<f32> = numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (numbers.len() == len).then_some(numbers)
    };
    Some(State {
        parameters: numbers("parameters")?,
        optimizer: AdamW {
            first: numbers("first")?,
            second: numbers("second")?,
            steps: progress.taken,
        },
        progress,
    })
}
