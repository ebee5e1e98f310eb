//! Where the passes run: on the processor, or on a GPU.

use candle_core::{DType, Device};

use crate::{
    adapter::Layout,
    data::Batch,
    device::{self, Place},
    error::TrainError,
    model::Model,
    ops::loss::Prediction,
    step::{self, Adapter, Keep, Noise, Weigh},
};

/// A model with what it takes to run it.
pub(crate) enum Runner<'a> {
    /// In f32, over slices.
    Processor(Box<step::Engine<'a>>),
    /// In bf16, over tensors.
    Gpu(device::Engine<'a>),
}

/// What a record says of where an adapter was trained: bits are the same on the processor alone.
pub(crate) const TRAINED_ON: &str = if cfg!(feature = "cuda") { " on a GPU in bf16" } else { "" };

impl<'a> Runner<'a> {
    /// For rows of at most `positions` tokens. On the first GPU with feature `cuda`.
    pub(crate) fn new(
        model: &'a Model,
        layout: Option<&Layout>,
        positions: usize,
    ) -> Result<Self, TrainError> {
        if !cfg!(feature = "cuda") {
            return Ok(Self::Processor(Box::new(step::Engine::new(model, positions))));
        }
        let device = Device::new_cuda(0).map_err(|error| device_error(&error))?;
        let place = Place { device, dtype: DType::BF16 };
        Ok(Self::Gpu(
            device::Engine::new(model, layout, place).map_err(|error| device_error(&error))?,
        ))
    }

    /// What the model predicts at each of the batch's targets.
    pub(crate) fn predict(
        &mut self,
        batch: &Batch,
        adapter: Option<Adapter<'_>>,
    ) -> Result<Vec<Prediction>, TrainError> {
        match self {
            Self::Processor(engine) => Ok(engine.predict(batch, adapter)),
            Self::Gpu(engine) => {
                engine.predict(batch, adapter).map_err(|error| device_error(&error))
            }
        }
    }

    /// The same. Adds the derivative of the weighed losses to `gradient`.
    pub(crate) fn learn(
        &mut self,
        batch: &Batch,
        adapter: Adapter<'_>,
        weigh: Weigh<'_>,
        keep: Keep,
        noise: Option<Noise>,
        gradient: &mut [f32],
    ) -> Result<Vec<Prediction>, TrainError> {
        match self {
            Self::Processor(engine) => {
                Ok(engine.learn_weighted(batch, adapter, weigh, keep, noise, gradient))
            }
            Self::Gpu(engine) => engine
                .learn_weighted(batch, adapter, weigh, keep, noise, gradient)
                .map_err(|error| device_error(&error)),
        }
    }
}

fn device_error(error: &candle_core::Error) -> TrainError {
    let what = error.to_string();
    let is_full = what.to_lowercase().contains("out of memory");
    let remedy = if is_full {
        "; `gradient_checkpointing: true`, a smaller `micro_batch_size` or `method: qlora` takes less memory"
    } else {
        ""
    };
    TrainError::Device { what, remedy }
}
