//! Rotary position embedding (Su et al. 2021), in the half-split layout of Hugging Face.

use rayon::prelude::*;

use super::vectorised;

/// Cosines and sines by position: `half` of each per position.
pub(crate) struct Rotations {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Which way to turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// As the model does.
    Forward,
    /// Back: what the derivative needs, because a rotation's inverse is its transpose.
    Backward,
}

impl Rotations {
    /// For positions below `positions`.
    pub(crate) fn new(frequencies: &[f64], positions: usize) -> Self {
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        // transformers computes the angle in f32, and so do those who serve the model.
        let angles: Vec<f32> = angles.map(|angle| angle as f32).collect();
        let cos = angles.iter().map(|angle| angle.cos()).collect();
        let sin = angles.iter().map(|angle| angle.sin()).collect();
        Self { half: frequencies.len(), cos, sin }
    }

    /// Turns the first `heads` heads of each row in place, row `i` by position `positions[i]`.
    pub(crate) fn turn(
        &self,
        rows: &mut [f32],
        stride: usize,
        heads: usize,
        positions: &[u32],
        turn: Turn,
    ) {
        let half = self.half;
        let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
        rows.par_chunks_mut(stride).with_min_len(16).zip(positions).for_each(|(row, position)| {
            let from = *position as usize * half;
            let (cos, sin) = (&self.cos[from..from + half], &self.sin[from..from + half]);
            vectorised(
                #[inline(always)]
                || {
                    for head in row[..heads * 2 * half].chunks_exact_mut(2 * half) {
                        let (first, second) = head.split_at_mut(half);
                        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                            let sin = sin * sign;
                            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                        }
                    }
                },
            );
        });
    }
}
