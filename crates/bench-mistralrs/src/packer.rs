//! Frozen weights in mistral.rs' own formats of few bits, for training over them.

use std::num::NonZeroUsize;

use bench_core::backend::{BackendError, Packed, Packer};
use bench_core::spec::Quantization;
use candle_core::{DType, Device, Tensor};
use mistralrs_quant::{HqqAxis, HqqBits, HqqConfig, HqqLayer, QuantMethod};

use crate::BACKEND;

/// Weights that share two numbers, and rounds of fitting these: what mistral.rs takes while it loads a
/// model.
const GROUP: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");
const STEPS: usize = 10;

/// Rounds weights as mistral.rs does when it quantises a model while loading it (`QuantMethod`): the
/// numbers that a training over the base sees are those that it would serve with.
#[derive(Clone, Copy, Debug, Default)]
pub struct MistralPacker;

impl Packer for MistralPacker {
    fn pack(
        &self,
        quantization: Quantization,
        shape: (usize, usize),
        numbers: &[f32],
    ) -> Result<Box<dyn Packed>, BackendError> {
        let bits = match quantization {
            Quantization::Hqq4 => HqqBits::Four,
            Quantization::Hqq8 => HqqBits::Eight,
            Quantization::Q4_0 | Quantization::Q5_0 | Quantization::Q8_0 => {
                let message = "GGUF's formats are the trainer's own";
                return Err(BackendError::rejected(BACKEND, message));
            }
        };
        let config = HqqConfig {
            bits,
            group_size: GROUP,
            axis: HqqAxis::Zero,
            optimization_steps: Some(STEPS),
            round_zeros: false,
            channel_wise: true,
        };
        let pack = || {
            let weight = Tensor::from_slice(numbers, shape, &Device::Cpu)?;
            HqqLayer::quantize(&weight, &Device::Cpu, config)
        };
        let packed = Matrix(pack().map_err(|error| rejected(&error))?);
        // What cannot be given back must not come to light in the middle of a training.
        packed.unpack(&mut vec![0.0; numbers.len()])?;
        Ok(Box::new(packed))
    }
}

struct Matrix(HqqLayer);

impl Packed for Matrix {
    fn unpack(&self, out: &mut [f32]) -> Result<(), BackendError> {
        let numbers = || self.0.dequantize_w()?.to_dtype(DType::F32)?.flatten_all()?.to_vec1();
        let numbers: Vec<f32> = numbers().map_err(|error| rejected(&error))?;
        if numbers.len() != out.len() {
            let message = format!("{} of {} weights come back", numbers.len(), out.len());
            return Err(BackendError::rejected(BACKEND, message));
        }
        out.copy_from_slice(&numbers);
        Ok(())
    }
}

fn rejected(error: &candle_core::Error) -> BackendError {
    BackendError::rejected(BACKEND, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: (usize, usize) = (96, 128);

    /// Numbers like weights: most small, some large.
    fn weights() -> Vec<f32> {
        let mut state = 7u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        };
        (0..SHAPE.0 * SHAPE.1).map(|_| 0.1 * (next() + next() + next())).collect()
    }

    /// The root of the mean square of what rounding changed, over that of the weights.
    fn error(quantization: Quantization) -> f32 {
        let weights = weights();
        let packed = MistralPacker.pack(quantization, SHAPE, &weights).unwrap();
        let mut found = vec![0.0; weights.len()];
        packed.unpack(&mut found).unwrap();
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
        let off = square(&mut found.iter().zip(&weights).map(|(f, w)| f - w));
        (off / square(&mut weights.iter().copied())).sqrt()
    }

    #[test]
    fn weights_come_back_in_their_places_up_to_the_rounding_of_their_bits() {
        for (quantization, most) in [(Quantization::Hqq4, 0.15), (Quantization::Hqq8, 0.01)] {
            let error = error(quantization);
            assert!(error > 0.0 && error < most, "{quantization:?}: {error}");
        }
        assert!(error(Quantization::Hqq4) > 4.0 * error(Quantization::Hqq8));
    }

    #[test]
    fn a_shape_that_the_format_has_no_place_for_is_refused() {
        let refused = MistralPacker.pack(Quantization::Hqq4, (3, 5), &[0.5; 15]).err().unwrap();
        assert!(!refused.chain().is_empty());
    }
}
