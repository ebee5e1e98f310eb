//! Where a training run stands, on disk: one file that is replaced as a whole.
//!
//! Everything random in a run follows from its seed and the step's number, so the step is all the
//! state that chance has.

use std::path::{Path, PathBuf};

use bench_core::backend::TrainStep;
use bench_core::spec::Optimizer;
use fs_err as fs;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::TrainError;
use crate::optimizer::{AdamW, Moments};
use crate::tensor_file;

/// A run between two steps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) parameters: Vec<f32>,
    /// The last parameters whose loss and gradient were numbers.
    pub(crate) good: Vec<f32>,
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
    /// Times that a loss or a gradient was not a number; the learning rate was halved each time.
    pub(crate) halved: u32,
    /// Steps that the parameters hold, and that the last good ones hold.
    pub(crate) held: u64,
    pub(crate) good_step: u64,
    /// The lowest validation loss so far and its step, and measurements since.
    pub(crate) best: Option<Best>,
    pub(crate) tokens: u64,
    /// Wall-clock seconds, and those of them spent in steps.
    pub(crate) seconds: f64,
    pub(crate) step_seconds: f64,
    pub(crate) steps: Vec<TrainStep>,
}

/// Where the validation loss was lowest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    pub(crate) step: u64,
    pub(crate) loss: f64,
    /// Measurements since that were no better.
    pub(crate) worse: u32,
}

fn path(folder: &Path) -> PathBuf {
    folder.join("checkpoint.safetensors")
}

/// Replaces the checkpoint in `folder`.
pub(crate) fn save(folder: &Path, key: &str, state: &State) -> Result<(), TrainError> {
    let progress = serde_json::to_string(&state.progress).map_err(std::io::Error::from)?;
    let metadata = json!({"key": key, "progress": progress});
    let State { parameters, good, optimizer, .. } = state;
    let mut numbers = vec![("parameters", parameters), ("good", good)];
    let mut bytes: Vec<(&str, &[u8])> = Vec::new();
    let names = [("first", "first_scales"), ("second", "second_scales")];
    for ((name, scales_name), moments) in
        names.into_iter().zip([&optimizer.first, &optimizer.second])
    {
        match moments {
            Moments::Exact(values) => numbers.push((name, values)),
            Moments::Coded { codes, scales } => {
                numbers.push((scales_name, scales));
                bytes.push((name, codes));
            }
        }
    }
    let tensors: Vec<_> = numbers
        .into_iter()
        .map(|(name, numbers)| (name.to_owned(), vec![numbers.len()], numbers.as_slice()))
        .collect();
    let temporary = folder.join("checkpoint.new");
    tensor_file::write_with_bytes(&temporary, &metadata, &tensors, &bytes)?;
    fs::rename(temporary, path(folder))?;
    Ok(())
}

/// Replaces the parameters with the lowest validation loss so far.
pub(crate) fn save_best(folder: &Path, parameters: &[f32]) -> Result<(), TrainError> {
    let temporary = folder.join("best.new");
    let tensor = ("parameters".to_owned(), vec![parameters.len()], parameters);
    tensor_file::write(&temporary, &json!({}), &[tensor])?;
    fs::rename(temporary, folder.join("best.safetensors"))?;
    Ok(())
}

/// Reads what [`save_best`] wrote.
pub(crate) fn load_best(folder: &Path, len: usize) -> Option<Vec<f32>> {
    let file = fs::read(folder.join("best.safetensors")).ok()?;
    let tensors = SafeTensors::deserialize(&file).ok()?;
    numbers(&tensors, "parameters").filter(|numbers| numbers.len() == len)
}

fn numbers(tensors: &SafeTensors<'_>, name: &str) -> Option<Vec<f32>> {
    let numbers = tensors.tensor(name).ok()?.data().as_chunks().0.iter();
    Some(numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Reads the checkpoint in `folder` where it belongs to this job; one that is damaged or of another
/// job counts as none.
pub(crate) fn load(folder: &Path, key: &str, kind: Optimizer, len: usize) -> Option<State> {
    let file = fs::read(path(folder)).ok()?;
    let (_, metadata) = SafeTensors::read_metadata(&file).ok()?;
    let metadata = metadata.metadata().as_ref()?;
    if metadata.get("key")? != key {
        return None;
    }
    let progress: Progress = serde_json::from_str(metadata.get("progress")?).ok()?;
    let tensors = SafeTensors::deserialize(&file).ok()?;
    let exact = |name: &str| numbers(&tensors, name).filter(|numbers| numbers.len() == len);
    let moments = |name: &str, scales: &str| match kind {
        Optimizer::Adamw => Some(Moments::Exact(exact(name)?)),
        Optimizer::Adamw8bit => {
            let codes = tensors.tensor(name).ok()?.data().to_vec();
            let scales = numbers(&tensors, scales)?;
            (codes.len() == len).then_some(Moments::Coded { codes, scales })
        }
    };
    Some(State {
        parameters: exact("parameters")?,
        good: exact("good")?,
        optimizer: AdamW {
            first: moments("first", "first_scales")?,
            second: moments("second", "second_scales")?,
            steps: progress.taken,
        },
        progress,
    })
}
