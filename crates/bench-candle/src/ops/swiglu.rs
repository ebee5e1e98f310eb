//! The gated unit of the MLP (Shazeer 2020): `gate * sigmoid(gate) * up`. Gate and up lie side by
//! side in one row.

use rayon::prelude::*;

use super::{sigmoid, vectorised};

/// `gate_up` has rows of `2 * size`, `out` of `size`.
pub(crate) fn swiglu(gate_up: &[f32], size: usize, out: &mut [f32]) {
    out.par_chunks_mut(size).with_min_len(4).zip(gate_up.par_chunks(2 * size)).for_each(
        |(out, row)| {
            let (gate, up) = row.split_at(size);
            vectorised(
                #[inline(always)]
                || {
                    for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
                        *out = g * sigmoid(*g) * u;
                    }
                },
            );
        },
    );
}

/// Replaces the derivative in `d` by the unit's value, and gives the derivative to gate and up.
pub(crate) fn swiglu_backward(gate_up: &[f32], size: usize, d: &mut [f32], d_gate_up: &mut [f32]) {
    d.par_chunks_mut(size)
        .with_min_len(4)
        .zip(gate_up.par_chunks(2 * size))
        .zip(d_gate_up.par_chunks_mut(2 * size))
        .for_each(|((d, row), d_row)| {
            let (gate, up) = row.split_at(size);
            let (d_gate, d_up) = d_row.split_at_mut(size);
            vectorised(
                #[inline(always)]
                || {
                    let values = d.iter_mut().zip(gate).zip(up);
                    for ((((d, g), u), dg), du) in values.zip(d_gate).zip(d_up) {
                        let s = sigmoid(*g);
                        *dg = *d * u * s * (1.0 + g * (1.0 - s));
                        *du = *d * g * s;
                        *d = g * s * u;
                    }
                },
            );
        });
}
