//! Training alone: the adapters of an experiment, without asking anything.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bench_core::backend::{BackendError, Progress};
use bench_core::manifest::TrainingEntry;
use tokio::runtime::Runtime;

use crate::backends::Backends;
use crate::desk::Desk;
use crate::load::Loaded;
use crate::prepare::Preparer;
use crate::run::{Options, RunError, Stop};
use crate::store::Store;

/// Trains the adapters of the fine-tuned arms, or of those in `arms`, where a run looks for them. What
/// is trained already is found and not trained again; an interrupted training goes on.
///
/// # Errors
/// When a model or the trainer cannot start, or the run folder is in use.
pub fn train(
    loaded: &Loaded,
    backends: &dyn Backends,
    arms: &[String],
    progress: &dyn Progress,
) -> Result<Vec<TrainingEntry>, RunError> {
    let mut loaded = loaded.clone();
    // Nothing is judged, so its model need not be here.
    loaded.experiment.judge = None;
    loaded.plans.retain(|plan| plan.finetune.is_some() || plan.features.is_some());
    let chosen = |name: &str| arms.is_empty() || arms.iter().any(|arm| arm == name);
    let folder = PathBuf::from(&loaded.experiment.run.runs).join(&loaded.experiment.name);
    let store = Store::open(&folder)?;
    let concurrency = loaded.experiment.run.max_concurrency.max(1) as usize;
    let runtime = Runtime::new().map_err(|error| BackendError::fatal("tokio", error))?;
    let (options, stop, asked) = (Options::default(), Stop::default(), BTreeSet::new());
    // A fine-tuned arm that searches for its prompt asks before it is trained.
    let mut desk = Desk {
        backends,
        progress,
        stop: &stop,
        options: &options,
        store,
        runtime,
        concurrency,
        asked,
        peak_before: 0,
    };
    let preparer = Preparer::new(&loaded, backends, progress, folder).resolve(&chosen)?;
    let prepared = preparer.prepare(&chosen, &mut desk)?;
    desk.store.save_state()?;
    Ok(prepared.training)
}
