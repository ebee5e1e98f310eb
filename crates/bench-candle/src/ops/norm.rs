//! Root-mean-square normalisation (Zhang and Sennrich 2019): `x * w / sqrt(mean(x²) + epsilon)`.

use rayon::prelude::*;

use super::{ROWS, sum_of, vectorised};

/// Normalises each row of `w.len()` elements.
pub(crate) fn norm(x: &[f32], w: &[f32], epsilon: f32, out: &mut [f32]) {
    let size = w.len();
    out.par_chunks_mut(ROWS * size).zip(x.par_chunks(ROWS * size)).for_each(|(out, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(size).zip(x.chunks_exact(size)) {
                    let scale = inverse(x, epsilon);
                    for ((out, x), w) in out.iter_mut().zip(x).zip(w) {
                        *out = x * scale * w;
                    }
                }
            },
        );
    });
}

/// Adds the derivative to `x` to `dx`.
pub(crate) fn norm_backward(dy: &[f32], x: &[f32], w: &[f32], epsilon: f32, dx: &mut [f32]) {
    let size = w.len();
    let rows = dx.par_chunks_mut(ROWS * size);
    rows.zip(x.par_chunks(ROWS * size)).zip(dy.par_chunks(ROWS * size)).for_each(
        |((dx, x), dy)| {
            vectorised(
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(size).zip(x.chunks_exact(size));
                    for ((dx, x), dy) in rows.zip(dy.chunks_exact(size)) {
                        add_row(dy, x, w, epsilon, dx);
                    }
                },
            );
        },
    );
}

/// Rows whose contributions to a weight's derivative are summed at a time; fixed, so that sums keep
/// their order.
const SUMMED_ROWS: usize = 256;

/// Adds the derivative to `w` to `dw`: `dy · x / sqrt(mean(x²) + epsilon)` over all rows.
pub(crate) fn norm_weight_backward(dy: &[f32], x: &[f32], epsilon: f32, dw: &mut [f32]) {
    let size = dw.len();
    let chunk = SUMMED_ROWS * size;
    let sums: Vec<Vec<f32>> = dy
        .par_chunks(chunk)
        .zip(x.par_chunks(chunk))
        .map(|(dy, x)| {
            let mut sum = vec![0.0; size];
            for (dy, x) in dy.chunks_exact(size).zip(x.chunks_exact(size)) {
                let scale = inverse(x, epsilon);
                sum.iter_mut().zip(dy).zip(x).for_each(|((sum, dy), x)| *sum += dy * x * scale);
            }
            sum
        })
        .collect();
    for sum in sums {
        dw.iter_mut().zip(sum).for_each(|(dw, sum)| *dw += sum);
    }
}

/// Adds the derivative to `w` of [`norm_heads`] to `dw`, given the derivative to its result and what
/// it was given.
pub(crate) fn norm_heads_weight_backward(
    d: &[f32],
    x: &[f32],
    stride: usize,
    from: usize,
    heads: usize,
    epsilon: f32,
    dw: &mut [f32],
) {
    let size = dw.len();
    for (d, x) in d.chunks_exact(stride).zip(x.chunks_exact(stride)) {
        let range = from..from + heads * size;
        norm_weight_backward(&d[range.clone()], &x[range], epsilon, dw);
    }
}

/// [`norm_backward`] for one row.
#[inline(always)]
#[expect(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
fn add_row(dy: &[f32], x: &[f32], w: &[f32], epsilon: f32, dx: &mut [f32]) {
    let scale = inverse(x, epsilon);
    // The weighted derivative is needed twice; recomputing it is cheaper than storing it.
    let mut sums = [0.0f32; 16];
    let (xs, x_rest) = x.as_chunks::<16>();
    let (dys, dy_rest) = dy.as_chunks::<16>();
    let (ws, w_rest) = w.as_chunks::<16>();
    for ((x, dy), w) in xs.iter().zip(dys).zip(ws) {
        for i in 0..16 {
            sums[i] += x[i] * dy[i] * w[i];
        }
    }
    let rest: f32 = x_rest.iter().zip(dy_rest).zip(w_rest).map(|((x, dy), w)| x * dy * w).sum();
    let along = (sums.iter().sum::<f32>() + rest) * scale * scale * scale / x.len() as f32;
    for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(w) {
        *dx += dy * w * scale - x * along;
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
fn inverse(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum_of(x, x, |a, b| a * b) / x.len() as f32 + epsilon).sqrt()
}

/// Normalises each head of the first `heads * w.len()` columns from `from` on, in place.
pub(crate) fn norm_heads(
    rows: &mut [f32],
    stride: usize,
    from: usize,
    heads: usize,
    w: &[f32],
    epsilon: f32,
) {
    rows.par_chunks_mut(stride).for_each(|row| {
        for head in row[from..from + heads * w.len()].chunks_exact_mut(w.len()) {
            let scale = inverse(head, epsilon);
            head.iter_mut().zip(w).for_each(|(x, w)| *x *= scale * w);
        }
    });
}

/// Replaces the derivative in `d` by the derivative to what [`norm_heads`] was given, `x`.
pub(crate) fn norm_heads_backward(
    d: &mut [f32],
    x: &[f32],
    stride: usize,
    from: usize,
    heads: usize,
    w: &[f32],
    epsilon: f32,
) {
    let range = from..from + heads * w.len();
    d.par_chunks_mut(stride).zip(x.par_chunks(stride)).for_each(|(d, x)| {
        let heads = d[range.clone()].chunks_exact_mut(w.len());
        for (d, x) in heads.zip(x[range.clone()].chunks_exact(w.len())) {
            let dy = d.to_vec();
            d.fill(0.0);
            add_row(&dy, x, w, epsilon, d);
        }
    });
}
