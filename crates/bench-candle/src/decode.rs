//! Writing token by token: each layer remembers the keys and values of the tokens it has seen.

use rayon::prelude::*;

use crate::data::Batch;
use crate::matrix::{Into, Lhs, Rhs, Term, product};
use crate::model::{Config, Model};
use crate::ops::attention::Heads;
use crate::ops::{exp, largest, sum_of, vectorised};
use crate::step::{Adapter, Engine};

/// What a layer remembers: a row of all key heads, and one of all value heads, for each token.
#[derive(Default)]
pub(crate) struct Past {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Past {
    /// Whether nothing has been seen.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Remembers the keys and values of new tokens, whose rows hold queries, keys and values.
    pub(crate) fn take(&mut self, qkv: &[f32], config: &Config) {
        let (query, key) = (config.query(), config.key());
        for row in qkv.chunks_exact(config.qkv()) {
            self.keys.extend_from_slice(&row[query..query + key]);
            self.values.extend_from_slice(&row[query + key..query + 2 * key]);
        }
    }

    /// `out` gets what the last tokens, whose rows are `qkv`, attend to among all that are
    /// remembered, themselves included.
    pub(crate) fn attend(&self, qkv: &[f32], heads: Heads, out: &mut [f32]) {
        let Heads { query_heads, key_heads, head, scale, window } = heads;
        let (query, key) = (query_heads * head, key_heads * head);
        let stride = query + 2 * key;
        let (new, seen) = (qkv.len() / stride, self.keys.len() / key);
        out.par_chunks_mut(head).enumerate().for_each_init(
            Vec::new,
            |scores: &mut Vec<f32>, job| {
                let (place, out) = job;
                let (row, query_head) = (place / query_heads, place % query_heads);
                let from_key = query_head / (query_heads / key_heads) * head;
                let end = seen - new + row + 1;
                let first = window.map_or(0, |window| end.saturating_sub(window));
                let asked = &qkv[row * stride + query_head * head..][..head];
                vectorised(
                    #[inline(always)]
                    || {
                        scores.clear();
                        scores.extend((first..end).map(|token| {
                            let row = &self.keys[token * key + from_key..][..head];
                            scale * sum_of(asked, row, |a, b| a * b)
                        }));
                        let most = largest(scores);
                        for score in scores.iter_mut() {
                            *score = exp(*score - most);
                        }
                        let share = 1.0 / sum_of(scores, scores, |score, _| score);
                        out.fill(0.0);
                        for (token, score) in (first..end).zip(scores.iter()) {
                            let row = &self.values[token * key + from_key..][..head];
                            let weight = score * share;
                            for (out, value) in out.iter_mut().zip(row) {
                                *out += weight * value;
                            }
                        }
                    },
                );
            },
        );
    }
}

/// A conversation that grows token by token.
pub(crate) struct Decoder<'a> {
    engine: Engine<'a>,
    model: &'a Model,
    adapter: Option<Adapter<'a>>,
    past: Vec<Past>,
    /// Tokens seen, virtual ones included.
    seen: usize,
    lhs: Lhs,
}

impl<'a> Decoder<'a> {
    /// For at most `positions` tokens, besides the virtual ones of a soft prompt.
    pub(crate) fn new(model: &'a Model, adapter: Option<Adapter<'a>>, positions: usize) -> Self {
        let before = adapter.map_or(0, |adapter| adapter.layout.virtual_tokens);
        Self {
            engine: Engine::new(model, positions + before),
            model,
            adapter,
            past: (0..model.layers.len()).map(|_| Past::default()).collect(),
            seen: 0,
            lhs: Lhs::default(),
        }
    }

    /// Sees further tokens and gives the logits of the one after them. A soft prompt comes before the
    /// first.
    pub(crate) fn see(&mut self, tokens: &[u32]) -> Vec<f32> {
        let mut batch = Batch::following(tokens, self.seen as u32);
        if self.seen == 0
            && let Some(adapter) = self.adapter
        {
            let first = self.model.config.vocabulary as u32;
            batch = batch.behind(adapter.layout.virtual_tokens, first);
        }
        self.seen += batch.tokens.len();
        let row = self.engine.last_hidden(&batch, self.adapter, &mut self.past);
        let (head, size) = (self.engine.head(self.adapter), self.model.config.hidden);
        let mut logits = vec![0.0; head.len() / size];
        let n = logits.len();
        self.lhs.pack(&row, 1, size, size);
        let rhs = Rhs::Columns { data: head, stride: size };
        product(&[Term::whole(&self.lhs, rhs)], &mut logits, n, n, Into::Set);
        logits
    }
}
