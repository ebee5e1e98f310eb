//! Cross-entropy of the next token, from hidden states: the logits of a few rows exist at a time.

use rayon::prelude::*;

use super::{exp, largest, sum_of, vectorised};
use crate::matrix::{Into, Lhs, Rhs, Term, product};

/// Logits that exist at the same time, in numbers: 128 MiB. Each chunk of rows packs the whole output
/// matrix twice, so that few large ones are fastest.
const LOGITS: usize = 1 << 25;
/// A multiple of all kernels' tiles.
const TILES: usize = 12;
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
#[cfg(test)]
pub(crate) fn predict(
    hidden: &mut [f32],
    head: &[f32],
    size: usize,
    targets: &[u32],
    weight: Option<f32>,
    scratch: &mut Scratch,
) -> Vec<Prediction> {
    let weights = weight.map_or(Weights::None, Weights::Same);
    predict_weighted(hidden, head, size, targets, weights, None, scratch)
}

/// How much each loss counts in the derivative.
#[derive(Clone, Copy)]
pub(crate) enum Weights<'a> {
    /// No derivative is asked for.
    None,
    /// All the same.
    Same(f32),
    /// Each its own, negative where a target is to become less likely.
    Each(&'a [f32]),
}

impl Weights<'_> {
    fn of(self, row: usize) -> Option<f32> {
        match self {
            Self::None => None,
            Self::Same(weight) => Some(weight),
            Self::Each(weights) => Some(weights[row]),
        }
    }
}

/// How many of `rows` rows have their logits at the same time: all chunks are about equally long.
pub(crate) fn chunk(rows: usize, vocabulary: usize) -> usize {
    let most = (LOGITS / vocabulary).max(TILES);
    rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(TILES)
}

/// [`predict`] with a weight per target. Adds the derivative to the output matrix to `d_head` where
/// that is given.
pub(crate) fn predict_weighted(
    hidden: &mut [f32],
    head: &[f32],
    size: usize,
    targets: &[u32],
    weights: Weights<'_>,
    mut d_head: Option<&mut [f32]>,
    scratch: &mut Scratch,
) -> Vec<Prediction> {
    let vocabulary = head.len() / size;
    let Scratch { lhs, logits } = scratch;
    let n_rows = targets.len();
    let mut predictions = Vec::with_capacity(n_rows);
    let chunk = chunk(n_rows, vocabulary).max(1);
    let chunks = hidden.chunks_mut(chunk * size).zip(targets.chunks(chunk));
    for (from, (hidden, targets)) in (0..).step_by(chunk).zip(chunks) {
        let rows = targets.len();
        logits.resize(chunk.min(n_rows) * vocabulary, 0.0);
        let logits = &mut logits[..rows * vocabulary];
        lhs.pack(hidden, rows, size, size);
        let rhs = Rhs::Columns { data: head, stride: size };
        product(&[Term::whole(lhs, rhs)], logits, vocabulary, vocabulary, Into::Set);
        let rows_of_logits = logits.par_chunks_mut(vocabulary).zip(targets).enumerate();
        predictions.par_extend(
            rows_of_logits
                .map(|(index, (logits, target))| row(logits, *target, weights.of(from + index))),
        );
        if matches!(weights, Weights::None) {
            continue;
        }
        if let Some(d_head) = d_head.as_deref_mut() {
            for from in (0..vocabulary).step_by(BLOCK) {
                let block = BLOCK.min(vocabulary - from);
                lhs.pack_transposed(&logits[from..], block, rows, vocabulary);
                let rhs = Rhs::Rows { data: hidden, stride: size };
                let d_head = &mut d_head[from * size..][..block * size];
                product(&[Term::whole(lhs, rhs)], d_head, size, size, Into::Add);
            }
        }
        back(logits, rows, head, size, lhs, hidden);
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
