//! The gated unit of the MLP (Shazeer 2020): `f(gate) * up`, where `f` is SiLU or GELU. Gate and up lie
//! side by side in one row.

use rayon::prelude::*;

use super::{exp, sigmoid, vectorised};

/// What a gate passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016).
    Gelu,
}

impl Activation {
    /// The value at `x`, and the slope there.
    #[inline(always)]
    fn at(self, x: f32) -> (f32, f32) {
        /// sqrt(2 / pi)
        const ROOT: f32 = 0.797_884_6;
        const CUBIC: f32 = 0.044_715;
        match self {
            Self::Silu => {
                let s = sigmoid(x);
                (x * s, s * (1.0 + x * (1.0 - s)))
            }
            Self::Gelu => {
                let inner = ROOT * x * (1.0 + CUBIC * x * x);
                let tanh = 1.0 - 2.0 / (1.0 + exp(2.0 * inner));
                let share = 0.5 * (1.0 + tanh);
                let slope = ROOT * (1.0 + 3.0 * CUBIC * x * x);
                (x * share, share + 0.5 * x * (1.0 - tanh * tanh) * slope)
            }
        }
    }
}

/// `gate_up` has rows of `2 * size`, `out` of `size`.
pub(crate) fn swiglu(activation: Activation, gate_up: &[f32], size: usize, out: &mut [f32]) {
    out.par_chunks_mut(size).with_min_len(4).zip(gate_up.par_chunks(2 * size)).for_each(
        |(out, row)| match activation {
            Activation::Silu => unit(|x| Activation::Silu.at(x).0, row, out),
            Activation::Gelu => unit(|x| Activation::Gelu.at(x).0, row, out),
        },
    );
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "one copy for each activation")]
fn unit(value: impl Fn(f32) -> f32, row: &[f32], out: &mut [f32]) {
    let (gate, up) = row.split_at(out.len());
    vectorised(
        #[inline(always)]
        || {
            for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
                *out = value(*g) * u;
            }
        },
    );
}

/// Replaces the derivative in `d` by the unit's value, and gives the derivative to gate and up.
pub(crate) fn swiglu_backward(
    activation: Activation,
    gate_up: &[f32],
    size: usize,
    d: &mut [f32],
    d_gate_up: &mut [f32],
) {
    d.par_chunks_mut(size)
        .with_min_len(4)
        .zip(gate_up.par_chunks(2 * size))
        .zip(d_gate_up.par_chunks_mut(2 * size))
        .for_each(|((d, row), d_row)| match activation {
            Activation::Silu => unit_backward(|x| Activation::Silu.at(x), row, d, d_row),
            Activation::Gelu => unit_backward(|x| Activation::Gelu.at(x), row, d, d_row),
        });
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "one copy for each activation")]
fn unit_backward(at: impl Fn(f32) -> (f32, f32), row: &[f32], d: &mut [f32], d_row: &mut [f32]) {
    let (gate, up) = row.split_at(d.len());
    let (d_gate, d_up) = d_row.split_at_mut(d.len());
    vectorised(
        #[inline(always)]
        || {
            let values = d.iter_mut().zip(gate).zip(up);
            for ((((d, g), u), dg), du) in values.zip(d_gate).zip(d_up) {
                let (value, slope) = at(*g);
                *dg = *d * u * slope;
                *du = *d * value;
                *d = value * u;
            }
        },
    );
}
