//! Causal attention with grouped heads over segments that do not see each other.
//!
//! Scores exist for a block of queries at a time and only up to the block's last key; the backward
//! pass computes them again (Dao et al. 2022). The query heads that share a key head form one block,
//! so that their keys are packed once.

use std::ops::Range;

use rayon::prelude::*;

use super::{exp, largest, sum_of, vectorised};
use crate::matrix::{Into, Lhs, Rhs, Shared, Term, product_here};

/// Rows (queries times heads that share a key head) of a block.
const BLOCK: usize = 96;
/// Queries from which on the backward pass of one head is shared out among threads.
const LONG: usize = 256;

/// The layout of a row of queries, keys and values.
#[derive(Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "two kinds of heads, and what both have")]
pub(crate) struct Heads {
    pub(crate) query_heads: usize,
    pub(crate) key_heads: usize,
    pub(crate) head: usize,
    /// What scores are multiplied by before the softmax.
    pub(crate) scale: f32,
    /// Keys that a query sees at most, its own included (Beltagy et al. 2020); all earlier ones where
    /// absent.
    pub(crate) window: Option<usize>,
}

impl Heads {
    pub(crate) fn group(self) -> usize {
        self.query_heads / self.key_heads
    }

    pub(crate) fn query(self) -> usize {
        self.query_heads * self.head
    }

    fn stride(self) -> usize {
        self.query() + 2 * self.key_heads * self.head
    }

    /// Columns of a query head, of a key head, and of a value head.
    fn columns(self, head: usize, key_head: usize) -> [usize; 3] {
        let key = self.query() + key_head * self.head;
        [head * self.head, key, key + self.key_heads * self.head]
    }

    fn block(self) -> usize {
        (BLOCK / self.group()).max(8)
    }
}

/// `out` gets a row of all query heads per token, `log_sums` the logarithm of each query's sum of
/// exponentials (one per query head and token), which the backward pass needs.
pub(crate) fn attention(
    qkv: &[f32],
    segments: &[Range<usize>],
    heads: Heads,
    out: &mut [f32],
    log_sums: &mut [f32],
) {
    let (out, log_sums) = (Shared::new(out), Shared::new(log_sums));
    let mut jobs = Vec::new();
    for segment in segments {
        for from in (0..segment.len()).step_by(heads.block()) {
            let to = (from + heads.block()).min(segment.len());
            jobs.extend((0..heads.key_heads).map(|key_head| (segment.clone(), key_head, from..to)));
        }
    }
    // Late blocks see more keys: the costliest jobs first.
    jobs.sort_by_key(|job| std::cmp::Reverse(job.2.end));
    jobs.into_par_iter().with_max_len(1).for_each_init(Scratch::default, |scratch, job| {
        let (segment, key_head, queries) = job;
        let block = Block { qkv, segment: &segment, heads, key_head, queries };
        let Scratch { lhs, scores, rows, .. } = scratch;
        block.scores(lhs, scores);
        let width = block.keys();
        for (row, scores) in scores.chunks_exact_mut(width).enumerate() {
            let (head, token) = block.place(row);
            let log_sum = softmax(scores, block.seen(row), heads.scale);
            // SAFETY: each query of each head belongs to one job.
            #[expect(unsafe_code, reason = "jobs write to places of their own")]
            unsafe {
                log_sums.part(token * heads.query_heads + head, 1)[0] = log_sum;
            }
        }
        lhs.pack_rows(block.rows(), width, |row| &scores[row * width..][..width]);
        rows.resize(block.rows() * heads.head, 0.0);
        product_here(&[Term::whole(lhs, block.values())], rows, heads.head, heads.head, Into::Set);
        for (row, value) in rows.chunks_exact(heads.head).enumerate() {
            let (head, token) = block.place(row);
            // SAFETY: as above.
            #[expect(unsafe_code, reason = "jobs write to places of their own")]
            unsafe {
                out.part(token * heads.query() + head * heads.head, heads.head)
                    .copy_from_slice(value);
            }
        }
    });
}

/// `d_qkv` gets the derivative to queries, keys and values; `out` and `log_sums` are what
/// [`attention`] gave.
pub(crate) fn attention_backward(
    qkv: &[f32],
    segments: &[Range<usize>],
    heads: Heads,
    out: &[f32],
    log_sums: &[f32],
    d_out: &[f32],
    d_qkv: &mut [f32],
) {
    let mut jobs = Vec::new();
    for segment in segments {
        // Fixed parts, not one per thread: sums keep their order on any machine.
        let parts = segment.len().div_ceil(LONG).min(4);
        for key_head in 0..heads.key_heads {
            jobs.extend((0..parts).map(|part| (segment.clone(), key_head, part, parts)));
        }
    }
    let shared = Shared::new(d_qkv);
    let sums: Vec<(Vec<f32>, Vec<f32>)> = jobs
        .par_iter()
        .with_max_len(1)
        .map_init(Scratch::default, |scratch, (segment, key_head, part, parts)| {
            let size = segment.len() * heads.head;
            let (mut d_keys, mut d_values) = (vec![0.0; size], vec![0.0; size]);
            let step = heads.block();
            for from in (0..segment.len()).step_by(step).skip(*part).step_by(*parts) {
                let queries = from..(from + step).min(segment.len());
                let block = Block { qkv, segment, heads, key_head: *key_head, queries };
                block.backward(scratch, out, log_sums, d_out, shared, &mut d_keys, &mut d_values);
            }
            (d_keys, d_values)
        })
        .collect();
    for ((segment, key_head, part, _), (d_keys, d_values)) in jobs.iter().zip(sums) {
        let [_, key, value] = heads.columns(0, *key_head);
        for (token, i) in segment.clone().zip((0..).step_by(heads.head)) {
            for (column, sums) in [(key, &d_keys), (value, &d_values)] {
                let out = &mut d_qkv[token * heads.stride() + column..][..heads.head];
                let sums = &sums[i..i + heads.head];
                if *part == 0 {
                    out.copy_from_slice(sums);
                } else {
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                }
            }
        }
    }
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    lhs: Lhs,
    scores: Vec<f32>,
    d_scores: Vec<f32>,
    rows: Vec<f32>,
    queries: Vec<f32>,
}

/// Queries of the heads that share a key head, and the keys that they see.
struct Block<'a> {
    qkv: &'a [f32],
    segment: &'a Range<usize>,
    heads: Heads,
    key_head: usize,
    queries: Range<usize>,
}

impl Block<'_> {
    fn rows(&self) -> usize {
        self.queries.len() * self.heads.group()
    }

    /// The first key that any of the queries sees.
    fn first_key(&self) -> usize {
        self.heads.window.map_or(0, |window| (self.queries.start + 1).saturating_sub(window))
    }

    /// Keys from the first to the last that any of the queries sees.
    fn keys(&self) -> usize {
        self.queries.end - self.first_key()
    }

    /// Head and token of a row.
    fn place(&self, row: usize) -> (usize, usize) {
        let (head, query) = (row / self.queries.len(), row % self.queries.len());
        let head = self.key_head * self.heads.group() + head;
        (head, self.segment.start + self.queries.start + query)
    }

    /// Keys that a row's query sees, counted from the block's first.
    fn seen(&self, row: usize) -> Range<usize> {
        let (first, end) = (self.first_key(), self.queries.start + row % self.queries.len() + 1);
        let from = self.heads.window.map_or(0, |window| end.saturating_sub(window));
        from - first..end - first
    }

    fn query(&self, row: usize) -> &[f32] {
        let (head, token) = self.place(row);
        &self.qkv[token * self.heads.stride() + head * self.heads.head..][..self.heads.head]
    }

    fn key_data(&self, column: usize) -> &[f32] {
        &self.qkv[(self.segment.start + self.first_key()) * self.heads.stride() + column..]
    }

    /// Keys as rows: summed over the keys.
    fn keys_as_rows(&self) -> Rhs<'_> {
        let [_, key, _] = self.heads.columns(0, self.key_head);
        Rhs::Rows { data: self.key_data(key), stride: self.heads.stride() }
    }

    fn keys_as_columns(&self) -> Rhs<'_> {
        let [_, key, _] = self.heads.columns(0, self.key_head);
        Rhs::Columns { data: self.key_data(key), stride: self.heads.stride() }
    }

    fn values(&self) -> Rhs<'_> {
        let [_, _, value] = self.heads.columns(0, self.key_head);
        Rhs::Rows { data: self.key_data(value), stride: self.heads.stride() }
    }

    fn values_as_columns(&self) -> Rhs<'_> {
        let [_, _, value] = self.heads.columns(0, self.key_head);
        Rhs::Columns { data: self.key_data(value), stride: self.heads.stride() }
    }

    fn scores(&self, lhs: &mut Lhs, scores: &mut Vec<f32>) {
        let width = self.keys();
        lhs.pack_rows(self.rows(), self.heads.head, |row| self.query(row));
        scores.resize(self.rows() * width, 0.0);
        product_here(&[Term::whole(lhs, self.keys_as_columns())], scores, width, width, Into::Set);
    }

    #[expect(clippy::too_many_arguments, reason = "one block of the backward pass")]
    fn backward(
        &self,
        scratch: &mut Scratch,
        out: &[f32],
        log_sums: &[f32],
        d_out: &[f32],
        d_qkv: Shared,
        d_keys: &mut [f32],
        d_values: &mut [f32],
    ) {
        let Scratch { lhs, scores, d_scores, rows, queries } = scratch;
        let Heads { head: size, query_heads: heads, .. } = self.heads;
        let (n_rows, width, scale) = (self.rows(), self.keys(), self.heads.scale);
        let first = self.first_key() * size;
        let part = |row: usize| {
            let (head, token) = self.place(row);
            token * self.heads.query() + head * size..token * self.heads.query() + (head + 1) * size
        };
        self.scores(lhs, scores);
        lhs.pack_rows(n_rows, size, |row| &d_out[part(row)]);
        d_scores.resize(n_rows * width, 0.0);
        product_here(
            &[Term::whole(lhs, self.values_as_columns())],
            d_scores,
            width,
            width,
            Into::Set,
        );
        let lines = scores.chunks_exact_mut(width).zip(d_scores.chunks_exact_mut(width));
        for (row, (p, d)) in lines.enumerate() {
            let (head, token) = self.place(row);
            let seen = self.seen(row);
            let log_sum = log_sums[token * heads + head];
            let along = sum_of(&d_out[part(row)], &out[part(row)], |a, b| a * b);
            vectorised(
                #[inline(always)]
                || {
                    let seen_parts = p[seen.clone()].iter_mut().zip(&mut d[seen.clone()]);
                    for (p, d) in seen_parts {
                        *p = exp(*p * scale - log_sum);
                        *d = *p * (*d - along) * scale;
                    }
                },
            );
            for unseen in [0..seen.start, seen.end..width] {
                p[unseen.clone()].fill(0.0);
                d[unseen].fill(0.0);
            }
        }
        let gather = |queries: &mut Vec<f32>,
                      source: &dyn Fn(usize) -> std::ops::Range<usize>,
                      from: &[f32]| {
            queries.clear();
            for row in 0..n_rows {
                queries.extend_from_slice(&from[source(row)]);
            }
        };
        let query = |row: usize| {
            let (head, token) = self.place(row);
            let from = token * self.heads.stride() + head * size;
            from..from + size
        };
        gather(queries, &part, d_out);
        lhs.pack_transposed(scores, width, n_rows, width);
        let rhs = Rhs::Rows { data: queries, stride: size };
        product_here(&[Term::whole(lhs, rhs)], &mut d_values[first..], size, size, Into::Add);
        gather(queries, &query, self.qkv);
        lhs.pack_transposed(d_scores, width, n_rows, width);
        let rhs = Rhs::Rows { data: queries, stride: size };
        product_here(&[Term::whole(lhs, rhs)], &mut d_keys[first..], size, size, Into::Add);
        lhs.pack_rows(n_rows, width, |row| &d_scores[row * width..][..width]);
        rows.resize(n_rows * size, 0.0);
        product_here(&[Term::whole(lhs, self.keys_as_rows())], rows, size, size, Into::Set);
        for (row, value) in rows.chunks_exact(size).enumerate() {
            // SAFETY: each query of each head belongs to one job.
            #[expect(unsafe_code, reason = "jobs write to places of their own")]
            unsafe {
                d_qkv.part(query(row).start, size).copy_from_slice(value);
            }
        }
    }
}

/// Softmax of the `seen` scores times `scale`, zeros around them. Returns the logarithm of the
/// sum of exponentials.
fn softmax(scores: &mut [f32], seen: Range<usize>, scale: f32) -> f32 {
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let scores = &mut scores[seen];
    vectorised(
        #[inline(always)]
        || {
            let most = largest(scores) * scale;
            for score in scores.iter_mut() {
                *score = exp(*score * scale - most);
            }
            let sum = sum_of(scores, scores, |score, _| score);
            let share = 1.0 / sum;
            for score in scores.iter_mut() {
                *score *= share;
            }
            most + sum.ln()
        },
    )
}
