//! Weights in blocks of 32 numbers with one scale: the GGUF formats `Q4_0`, `Q5_0` and `Q8_0`.
//!
//! A frozen base in blocks takes 4.5, 5.5 or 8.5 bits per weight and is unpacked layer by layer, so
//! that adapters are trained over it in little memory (`QLoRA`, Dettmers et al. 2023). The rounding is
//! that of ggml's reference quantiser.

use half::f16;
use rayon::prelude::*;

/// Numbers in a block.
pub(crate) const SIZE: usize = 32;

/// Numbers that one thread unpacks at a time.
const PIECE: usize = 1 << 14;

/// How many bits a number takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 4 bits, 4.5 with the scale.
    Q4,
    /// 5 bits, 5.5 with the scale.
    Q5,
    /// 8 bits, 8.5 with the scale.
    Q8,
}

impl Kind {
    /// Bytes of a block.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Q4 => 2 + SIZE / 2,
            Self::Q5 => 2 + 4 + SIZE / 2,
            Self::Q8 => 2 + SIZE,
        }
    }

    fn pack(self, values: &[f32], out: &mut [u8]) {
        // The element of the largest size, with its sign: it lands on the end of the range exactly.
        let extreme = values
            .iter()
            .fold(0.0f32, |most, value| if value.abs() > most.abs() { *value } else { most });
        let scale = match self {
            Self::Q4 => extreme / -8.0,
            Self::Q5 => extreme / -16.0,
            Self::Q8 => extreme.abs() / 127.0,
        };
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        let half = SIZE / 2;
        match self {
            Self::Q4 => {
                let code = |value: f32| ((value * inverse + 8.5) as u8).min(15);
                for i in 0..half {
                    out[2 + i] = code(values[i]) | (code(values[i + half]) << 4);
                }
            }
            Self::Q5 => {
                let code = |value: f32| ((value * inverse + 16.5) as u8).min(31);
                let mut fifth = 0u32;
                for i in 0..half {
                    let (low, high) = (code(values[i]), code(values[i + half]));
                    out[6 + i] = (low & 15) | ((high & 15) << 4);
                    fifth |= u32::from(low >> 4) << i;
                    fifth |= u32::from(high >> 4) << (i + half);
                }
                out[2..6].copy_from_slice(&fifth.to_le_bytes());
            }
            Self::Q8 => {
                for (out, value) in out[2..].iter_mut().zip(values) {
                    *out = (value * inverse).round() as i8 as u8;
                }
            }
        }
    }

    fn unpack(self, block: &[u8], out: &mut [f32]) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (low, high) = out.split_at_mut(SIZE / 2);
        match self {
            Self::Q4 => {
                for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[2..]) {
                    *low = (f32::from(byte & 15) - 8.0) * scale;
                    *high = (f32::from(byte >> 4) - 8.0) * scale;
                }
            }
            Self::Q5 => {
                let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
                let values = low.iter_mut().zip(high).zip(&block[6..]).enumerate();
                for (i, ((low, high), byte)) in values {
                    let first = (byte & 15) | (((fifth >> i) & 1) << 4) as u8;
                    let second = (byte >> 4) | (((fifth >> (i + SIZE / 2)) & 1) << 4) as u8;
                    *low = (f32::from(first) - 16.0) * scale;
                    *high = (f32::from(second) - 16.0) * scale;
                }
            }
            Self::Q8 => {
                for (value, byte) in low.iter_mut().chain(high).zip(&block[2..]) {
                    *value = f32::from(*byte as i8) * scale;
                }
            }
        }
    }
}

/// A matrix in blocks; its rows are whole numbers of blocks.
pub(crate) struct Blocks {
    kind: Kind,
    data: Vec<u8>,
}

impl Blocks {
    /// Rounds numbers, of which there must be whole blocks.
    pub(crate) fn pack(kind: Kind, numbers: &[f32]) -> Self {
        let mut data = vec![0; numbers.len() / SIZE * kind.bytes()];
        data.par_chunks_mut(PIECE / SIZE * kind.bytes()).zip(numbers.par_chunks(PIECE)).for_each(
            |(out, values)| {
                for (out, values) in
                    out.chunks_exact_mut(kind.bytes()).zip(values.chunks_exact(SIZE))
                {
                    kind.pack(values, out);
                }
            },
        );
        Self { kind, data }
    }

    /// How many bits a number takes.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The blocks as GGUF has them.
    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    /// How many numbers it holds.
    pub(crate) fn len(&self) -> usize {
        self.data.len() / self.kind.bytes() * SIZE
    }

    /// Writes the numbers to `out`, which has room for just them.
    pub(crate) fn unpack(&self, out: &mut [f32]) {
        let bytes = self.kind.bytes();
        out.par_chunks_mut(PIECE).zip(self.data.par_chunks(PIECE / SIZE * bytes)).for_each(
            |(out, data)| {
                let blocks = out.chunks_exact_mut(SIZE).zip(data.chunks_exact(bytes));
                blocks.for_each(|(out, block)| self.kind.unpack(block, out));
            },
        );
    }
}

/// A matrix in few bits.
pub(crate) enum Packed {
    /// In GGUF's formats.
    Blocks(Blocks),
    /// In somebody else's, with the count of its numbers.
    Other(Box<dyn bench_core::backend::Packed>, usize),
}

impl Packed {
    /// How many numbers it holds.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Blocks(blocks) => blocks.len(),
            Self::Other(_, len) => *len,
        }
    }

    /// Writes the numbers to `out`, which has room for just them. What cannot be given back is no
    /// number, which stops a training as any loss that is none.
    pub(crate) fn unpack(&self, out: &mut [f32]) {
        match self {
            Self::Blocks(blocks) => blocks.unpack(out),
            Self::Other(packed, _) => {
                if packed.unpack(out).is_err() {
                    out.fill(f32::NAN);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn blocks_are_those_of_ggml_as_candle_has_them() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut numbers: Vec<f32> = (0..64 * 96).map(|_| random.random_range(-2.0..2.0)).collect();
        numbers[..SIZE].fill(0.0);
        numbers[SIZE] = 40.0;
        let tensor = Tensor::from_slice(&numbers, (64, 96), &Device::Cpu).unwrap();
        for (kind, theirs, error) in [
            (Kind::Q4, GgmlDType::Q4_0, 0.13),
            (Kind::Q5, GgmlDType::Q5_0, 0.065),
            (Kind::Q8, GgmlDType::Q8_0, 0.005),
        ] {
            let blocks = Blocks::pack(kind, &numbers);
            assert_eq!(blocks.len(), numbers.len());
            let mut found = vec![0.0; numbers.len()];
            blocks.unpack(&mut found);
            let expected = QTensor::quantize(&tensor, theirs).unwrap();
            assert_eq!(blocks.data.len(), expected.storage_size_in_bytes());
            let expected = expected.dequantize(&Device::Cpu).unwrap();
            let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(found, expected, "{kind:?}");
            for (found, exact) in found.iter().zip(&numbers).skip(2 * SIZE) {
                assert!((found - exact).abs() <= 2.0 * error, "{kind:?}: {found}, {exact}");
            }
        }
    }
}
