//! Cross-entropy of the next token, from hidden states: the logits of a few rows exist at a time.

use rayon::prelude::*;

use super::{exp, largest, sum_of, vectorised};
use crate::matrix::{Into, Lhs, Rhs, Term, product};

/// Rows whose logits exist at the same time: a multiple of all kernels' tiles.
const CHUNK: usize = 252;
/// Tokens whose derivatives are packed at the same time.
const BLOCK: usize = 3072;

/// What one row's logits say about its target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Prediction {
    /// Negative log-likelihood of the target, in nats.
    pub(crate) loss: f32,
    /// The likeliest token.
    pub(crate) top: u32,
}

/// Buffers that are kept from call to call.
#[derive(Default)]
pub(crate) struct Scratch {
    lhs: Lhs,
    logits: Vec<f32>,
}

/// Predicts `targets[i]` from row `i` of `hidden` with the output matrix `head`. Where `weight` is
/// given, `hidden` becomes the derivative of `weight` times the summed loss.
pub(crate) fn predict(
    hidden: &mut [f32],
    head: &[f32],
    size: usize,
    targets: &[u32],
    weight: Option<f32>,
    scratch: &mut Scratch,
) -> Vec<Prediction> {
    let vocabulary = head.len() / size;
    let Scratch { lhs, logits } = scratch;
    let n_rows = targets.len();
    let mut predictions = Vec::with_capacity(n_rows);
    for (hidden, targets) in hidden.chunks_mut(CHUNK * size).zip(targets.chunks(CHUNK)) {
        let rows = targets.len();
        logits.resize(CHUNK.min(n_rows) * vocabulary, 0.0);
        let logits = &mut logits[..rows * vocabulary];
        lhs.pack(hidden, rows, size, size);
        let rhs = Rhs::Columns { data: head, stride: size };
        product(&[Term::whole(lhs, rhs)], logits, vocabulary, vocabulary, Into::Set);
        let rows_of_logits = logits.par_chunks_mut(vocabulary).zip(targets);
        predictions.par_extend(rows_of_logits.map(|(logits, target)| row(logits, *target, weight)));
        if weight.is_some() {
            back(logits, rows, head, size, lhs, hidden);
        }
    }
    predictions
}

/// `d_hidden` gets the derivative to the hidden states, from that to the logits.
fn back(
    d_logits: &[f32],
    rows: usize,
    head: &[f32],
    size: usize,
    lhs: &mut Lhs,
    d_hidden: &mut [f32],
) {
    let vocabulary = head.len() / size;
    for from in (0..vocabulary).step_by(BLOCK) {
        lhs.pack(&d_logits[from..], rows, BLOCK.min(vocabulary - from), vocabulary);
        let rhs = Rhs::Rows { data: &head[from * size..], stride: size };
        let into = if from == 0 { Into::Set } else { Into::Add };
        product(&[Term::whole(lhs, rhs)], d_hidden, size, size, into);
    }
}

/// Replaces the logits by their derivative where a weight is given.
fn row(logits: &mut [f32], target: u32, weight: Option<f32>) -> Prediction {
    vectorised(
        #[inline(always)]
        || {
            let most = largest(logits);
            // The first of equal logits, as everyone's argmax has it.
            let top = logits.iter().position(|logit| *logit >= most).unwrap_or(0) as u32;
            let of_target = logits[target as usize] - most;
            let sum = match weight {
                None => sum_of(logits, logits, |logit, _| exp(logit - most)),
                Some(weight) => {
                    for logit in logits.iter_mut() {
                        *logit = exp(*logit - most);
                    }
                    let sum = sum_of(logits, logits, |value, _| value);
                    let share = weight / sum;
                    for value in logits.iter_mut() {
                        *value *= share;
                    }
                    logits[target as usize] -= weight;
                    sum
                }
            };
            Prediction { loss: sum.ln() - of_target, top }
        },
    )
}
