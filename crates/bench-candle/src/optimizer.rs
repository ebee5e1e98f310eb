//! AdamW (Loshchilov and Hutter 2019) over one vector of parameters, the clipping of gradients and
//! the course of the learning rate.

use bench_core::spec::{Finetune, LrScheduler};
use rayon::prelude::*;

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// Elements that are summed or updated at a time; fixed, so that sums keep their order.
const CHUNK: usize = 1 << 14;

/// First and second moments, and the steps behind them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AdamW {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
    pub(crate) steps: u64,
}

impl AdamW {
    pub(crate) fn new(len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len], steps: 0 }
    }

    /// One step down the gradient, which counts `share` times.
    pub(crate) fn step(
        &mut self,
        parameters: &mut [f32],
        gradient: &[f32],
        share: f32,
        learning_rate: f64,
        weight_decay: f64,
    ) {
        self.steps += 1;
        let steps = self.steps as f64;
        let correction_1 = 1.0 - f64::from(BETA_1).powf(steps);
        let correction_2 = (1.0 - f64::from(BETA_2).powf(steps)).sqrt() as f32;
        let size = (learning_rate / correction_1) as f32;
        let keep = (1.0 - learning_rate * weight_decay) as f32;
        parameters
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(self.first.par_chunks_mut(CHUNK))
            .zip(self.second.par_chunks_mut(CHUNK))
            .for_each(|(((parameters, gradient), first), second)| {
                let values = parameters.iter_mut().zip(gradient).zip(first).zip(second);
                for (((parameter, gradient), first), second) in values {
                    let gradient = gradient * share;
                    *first = BETA_1 * *first + (1.0 - BETA_1) * gradient;
                    *second = BETA_2 * *second + (1.0 - BETA_2) * gradient * gradient;
                    *parameter *= keep;
                    *parameter -= size * *first / (second.sqrt() / correction_2 + EPSILON);
                }
            });
    }
}

/// The Euclidean norm of a gradient; not finite as soon as one element is not.
pub(crate) fn norm(gradient: &[f32]) -> f64 {
    let squares = |chunk: &[f32]| chunk.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>();
    let sums: Vec<f64> = gradient.par_chunks(CHUNK).map(squares).collect();
    sums.iter().sum::<f64>().sqrt()
}

/// What a gradient of this norm is multiplied by so that its norm is at most `most`; 0 is no limit.
pub(crate) fn clip(norm: f64, most: f64) -> f32 {
    if most > 0.0 && norm > most { (most / (norm + 1e-6)) as f32 } else { 1.0 }
}

/// The learning rate of a step, counted from 1. The rate rises in equal steps to its peak, and then
/// falls so that the step after the last would be at 0.
pub(crate) fn learning_rate(settings: &Finetune, step: u64, steps: u64) -> f64 {
    let peak = settings.learning_rate;
    let warmup = (settings.warmup_ratio * steps as f64).ceil() as u64;
    if step <= warmup {
        return peak * step as f64 / warmup as f64;
    }
    let done = (step - 1 - warmup) as f64 / (steps - warmup).max(1) as f64;
    match settings.lr_scheduler {
        LrScheduler::Constant => peak,
        LrScheduler::Linear => peak * (1.0 - done),
        LrScheduler::Cosine => peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
    }
}
