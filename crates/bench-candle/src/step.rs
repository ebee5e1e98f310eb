//! One pass through the decoder and back, layer by layer, over buffers that are kept.
//!
//! Of each layer the pass keeps what the way back cannot cheaply compute again; with checkpointing
//! only each layer's input, and the layer is passed once more on the way back.

use rayon::prelude::*;

use crate::{
    adapter::{Group, GroupPlace, Layout},
    data::Batch,
    matrix::{Into, Lhs, Rhs, Term, product},
    model::{Config, Layer, Model, Projection},
    ops::{
        attention::{Heads, attention, attention_backward},
        loss::{self, Prediction, predict},
        norm::{norm, norm_backward, norm_heads, norm_heads_backward},
        rope::{Rotations, Turn},
        swiglu::{swiglu, swiglu_backward},
    },
};

/// What is kept for the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All activations.
    Activations,
    /// The inputs of layers.
    Inputs,
}

/// Randomly silences inputs of adapters, in training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dropout {
    /// Share of inputs that are silenced, 0 to 1.
    pub(crate) share: f32,
    /// Which ones.
    pub(crate) seed: u64,
}

/// An adapter's places and numbers.
#[derive(Clone, Copy)]
pub(crate) struct Adapter<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) parameters: &'a [f32],
    pub(crate) dropout: Option<Dropout>,
}

/// A model with the buffers to run it.
pub(crate) struct Engine<'a> {
    model: &'a Model,
    rotations: Rotations,
    inputs: Vec<Vec<f32>>,
    activations: Vec<Activations>,
    buffers: Buffers,
    loss: loss::Scratch,
}

/// What the way back through a layer needs besides the layer's input.
#[derive(Default)]
struct Activations {
    /// Queries and keys as they were before their heads were normalised, where they are.
    raw: Vec<f32>,
    qkv: Vec<f32>,
    log_sums: Vec<f32>,
    attended: Vec<f32>,
    middle: Vec<f32>,
    gate_up: Vec<f32>,
    /// Inputs times A, scaled, for each group.
    low: [Vec<f32>; 4],
}

/// Room for what is forgotten at once.
#[derive(Default)]
struct Buffers {
    lhs: Lhs,
    low_lhs: Lhs,
    a: Vec<f32>,
    b: Vec<f32>,
    wide: Vec<f32>,
    wider: Vec<f32>,
    low: Vec<f32>,
    small: Vec<f32>,
    dropped: Vec<f32>,
}

impl<'a> Engine<'a> {
    /// For rows of at most `positions` tokens.
    pub(crate) fn new(model: &'a Model, positions: usize) -> Self {
        Self {
            model,
            rotations: Rotations::new(&model.config.frequencies, positions),
            inputs: Vec::new(),
            activations: Vec::new(),
            buffers: Buffers::default(),
            loss: loss::Scratch::default(),
        }
    }

    /// What the model predicts at each of the batch's targets.
    pub(crate) fn predict(
        &mut self,
        batch: &Batch,
        adapter: Option<Adapter<'_>>,
    ) -> Vec<Prediction> {
        let mut hidden = self.embed(batch);
        self.activations.resize_with(self.activations.len().max(1), Activations::default);
        let mut output = Vec::new();
        for layer in 0..self.model.layers.len() {
            self.forward(layer, batch, adapter, &hidden, 0, &mut output);
            std::mem::swap(&mut hidden, &mut output);
        }
        let (mut rows, _) = self.last_rows(batch, &hidden);
        let size = self.model.config.hidden;
        predict(&mut rows, self.model.head(), size, &batch.targets, None, &mut self.loss)
    }

    /// The summed loss over the batch's targets. Adds the derivative of `weight` times it to
    /// `gradient`.
    pub(crate) fn learn(
        &mut self,
        batch: &Batch,
        adapter: Adapter<'_>,
        weight: f32,
        keep: Keep,
        gradient: &mut [f32],
    ) -> f64 {
        let n_layers = self.model.layers.len();
        let kept = if keep == Keep::Activations { n_layers } else { 1 };
        self.inputs.resize_with(n_layers, Vec::new);
        self.activations.resize_with(kept, Activations::default);
        let mut hidden = self.embed(batch);
        for layer in 0..n_layers {
            std::mem::swap(&mut hidden, &mut self.inputs[layer]);
            let input = std::mem::take(&mut self.inputs[layer]);
            self.forward(layer, batch, Some(adapter), &input, layer.min(kept - 1), &mut hidden);
            self.inputs[layer] = input;
        }
        let (mut rows, raw) = self.last_rows(batch, &hidden);
        let config = &self.model.config;
        let size = config.hidden;
        let head = self.model.head();
        let predictions =
            predict(&mut rows, head, size, &batch.targets, Some(weight), &mut self.loss);
        let mut d_raw = vec![0.0; raw.len()];
        norm_backward(&rows, &raw, &self.model.norm, config.norm_epsilon, &mut d_raw);
        let mut d = vec![0.0; hidden.len()];
        for (source, row) in batch.sources.iter().zip(d_raw.chunks_exact(size)) {
            d[source * size..][..size].copy_from_slice(row);
        }
        for layer in (0..n_layers).rev() {
            let input = std::mem::take(&mut self.inputs[layer]);
            if keep == Keep::Inputs {
                self.forward(layer, batch, Some(adapter), &input, 0, &mut hidden);
            }
            self.backward(layer, batch, adapter, &input, layer.min(kept - 1), &mut d, gradient);
            self.inputs[layer] = input;
        }
        predictions.iter().map(|prediction| f64::from(prediction.loss)).sum()
    }

    fn embed(&self, batch: &Batch) -> Vec<f32> {
        let size = self.model.config.hidden;
        let rows =
            batch.tokens.iter().map(|id| &self.model.embedding[*id as usize * size..][..size]);
        rows.flatten().copied().collect()
    }

    /// The normalised last hidden states that predict a target, and the same before the norm.
    fn last_rows(&self, batch: &Batch, hidden: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let size = self.model.config.hidden;
        let rows = batch.sources.iter().flat_map(|row| &hidden[row * size..][..size]);
        let raw: Vec<f32> = rows.copied().collect();
        let mut rows = vec![0.0; raw.len()];
        norm(&raw, &self.model.norm, self.model.config.norm_epsilon, &mut rows);
        (rows, raw)
    }

    fn heads(&self) -> Heads {
        let config = &self.model.config;
        Heads { query_heads: config.heads, key_heads: config.key_heads, head: config.head }
    }

    /// Passes a layer. `slot` says where its activations go.
    fn forward(
        &mut self,
        index: usize,
        batch: &Batch,
        adapter: Option<Adapter<'_>>,
        input: &[f32],
        slot: usize,
        output: &mut Vec<f32>,
    ) {
        let config = &self.model.config;
        let (layer, heads, n) = (&self.model.layers[index], self.heads(), batch.tokens.len());
        let (act, buffers) = (&mut self.activations[slot], &mut self.buffers);
        let (hidden, inner) = (config.hidden, config.intermediate);
        let pass = Pass { index, config, layer, adapter, batch, n };

        let normed = room(&mut buffers.a, n * hidden);
        norm(input, &layer.attention_norm, config.norm_epsilon, normed);
        resized(&mut act.qkv, n * config.qkv());
        pass.group(
            Group::Attention,
            normed,
            hidden,
            &mut act.low[0],
            &mut buffers.lhs,
            &mut buffers.low_lhs,
            &mut buffers.dropped,
            &mut act.qkv,
            config.qkv(),
            Into::Set,
        );
        if let Some([q, k]) = &layer.head_norms {
            act.raw.clone_from(&act.qkv);
            for (w, from, heads) in [(q, 0, config.heads), (k, config.query(), config.key_heads)] {
                norm_heads(&mut act.qkv, config.qkv(), from, heads, w, config.norm_epsilon);
            }
        }
        let rotated = config.heads + config.key_heads;
        let positions = &batch.positions;
        self.rotations.turn(&mut act.qkv, config.qkv(), rotated, positions, Turn::Forward);
        let attended = resized(&mut act.attended, n * config.query());
        let log_sums = resized(&mut act.log_sums, n * config.heads);
        attention(&act.qkv, &batch.segments, heads, attended, log_sums);

        act.middle.clear();
        act.middle.extend_from_slice(input);
        pass.group(
            Group::Output,
            attended,
            config.query(),
            &mut act.low[1],
            &mut buffers.lhs,
            &mut buffers.low_lhs,
            &mut buffers.dropped,
            &mut act.middle,
            hidden,
            Into::Add,
        );
        norm(&act.middle, &layer.mlp_norm, config.norm_epsilon, normed);
        resized(&mut act.gate_up, n * 2 * inner);
        pass.group(
            Group::GateUp,
            normed,
            hidden,
            &mut act.low[2],
            &mut buffers.lhs,
            &mut buffers.low_lhs,
            &mut buffers.dropped,
            &mut act.gate_up,
            2 * inner,
            Into::Set,
        );
        let value = room(&mut buffers.wide, n * inner);
        swiglu(&act.gate_up, inner, value);
        output.clear();
        output.extend_from_slice(&act.middle);
        pass.group(
            Group::Down,
            value,
            inner,
            &mut act.low[3],
            &mut buffers.lhs,
            &mut buffers.low_lhs,
            &mut buffers.dropped,
            output,
            hidden,
            Into::Add,
        );
    }

    /// Goes back through a layer: `d` is the derivative to its output and becomes that to its input.
    #[expect(clippy::too_many_arguments, reason = "everything a layer's derivative depends on")]
    fn backward(
        &mut self,
        index: usize,
        batch: &Batch,
        adapter: Adapter<'_>,
        input: &[f32],
        slot: usize,
        d: &mut [f32],
        gradient: &mut [f32],
    ) {
        let config = &self.model.config;
        let (layer, heads, n) = (&self.model.layers[index], self.heads(), batch.tokens.len());
        let (act, buffers) = (&mut self.activations[slot], &mut self.buffers);
        let (hidden, inner, epsilon) = (config.hidden, config.intermediate, config.norm_epsilon);
        let pass = Pass { index, config, layer, adapter: Some(adapter), batch, n };
        let Buffers { lhs, low_lhs, a, b, wide, wider, low, small, dropped } = buffers;
        let mut back = Back { pass, lhs, low_lhs, low, small, dropped, gradient };

        let d_value = room(wide, n * inner);
        back.b(Group::Down, d, hidden, &act.low[3]);
        back.inputs(Group::Down, d_value, inner);
        let d_gate_up = room(wider, n * 2 * inner);
        swiglu_backward(&act.gate_up, inner, d_value, d_gate_up);
        back.a(Group::Down, d_value, inner);

        let (d_normed, normed) = (room(a, n * hidden), room(b, n * hidden));
        back.b(Group::GateUp, d_gate_up, 2 * inner, &act.low[2]);
        back.inputs(Group::GateUp, d_normed, hidden);
        norm(&act.middle, &layer.mlp_norm, epsilon, normed);
        back.a(Group::GateUp, normed, hidden);
        norm_backward(d_normed, &act.middle, &layer.mlp_norm, epsilon, d);

        let d_attended = room(wide, n * config.query());
        back.b(Group::Output, d, hidden, &act.low[1]);
        back.inputs(Group::Output, d_attended, config.query());
        back.a(Group::Output, &act.attended, config.query());
        let d_qkv = room(wider, n * config.qkv());
        attention_backward(
            &act.qkv,
            &batch.segments,
            heads,
            &act.attended,
            &act.log_sums,
            d_attended,
            d_qkv,
        );
        let rotated = config.heads + config.key_heads;
        self.rotations.turn(d_qkv, config.qkv(), rotated, &batch.positions, Turn::Backward);
        if let Some([q, k]) = &layer.head_norms {
            for (w, from, heads) in [(q, 0, config.heads), (k, config.query(), config.key_heads)] {
                norm_heads_backward(d_qkv, &act.raw, config.qkv(), from, heads, w, epsilon);
            }
        }
        back.b(Group::Attention, d_qkv, config.qkv(), &act.low[0]);
        norm(input, &layer.attention_norm, epsilon, normed);
        back.a(Group::Attention, normed, hidden);
        if index == 0 {
            // Nothing below the first layer learns.
            return;
        }
        back.inputs(Group::Attention, d_normed, hidden);
        norm_backward(d_normed, input, &layer.attention_norm, epsilon, d);
    }
}

/// A layer with its adapter, for `n` tokens.
#[derive(Clone, Copy)]
struct Pass<'a> {
    index: usize,
    config: &'a Config,
    layer: &'a Layer,
    adapter: Option<Adapter<'a>>,
    batch: &'a Batch,
    n: usize,
}

impl<'a> Pass<'a> {
    /// The group's place in the adapter, where it has one.
    fn place(&self, group: Group) -> Option<(Adapter<'a>, &'a GroupPlace)> {
        let adapter = self.adapter?;
        let place = adapter.layout.group(self.index, group);
        (!place.members.is_empty()).then_some((adapter, place))
    }

    /// Columns of a projection's result.
    fn columns(&self, projection: Projection) -> usize {
        projection.shape(self.config).0
    }

    /// The linear layers of a group over one input, their results side by side in `out`.
    #[expect(clippy::too_many_arguments, reason = "buffers that belong to different owners")]
    fn group(
        &self,
        group: Group,
        input: &[f32],
        size: usize,
        low: &mut Vec<f32>,
        lhs: &mut Lhs,
        low_lhs: &mut Lhs,
        dropped: &mut Vec<f32>,
        out: &mut [f32],
        stride: usize,
        into: Into,
    ) {
        let n = self.n;
        if let Some((adapter, place)) = self.place(group) {
            let rank = adapter.layout.rank;
            let width = place.members.len() * rank;
            let a = &adapter.parameters[place.a.clone()];
            resized(low, n * width);
            if let Some(dropout) = adapter.dropout {
                for (i, (projection, _)) in place.members.iter().enumerate() {
                    let kept = self.drop(dropout, *projection, input, size, dropped);
                    lhs.pack(kept, n, size, size);
                    let rhs = Rhs::Columns { data: &a[i * rank * size..], stride: size };
                    product(&[Term::whole(lhs, rhs)], &mut low[i * rank..], rank, width, Into::Set);
                }
                lhs.pack(input, n, size, size);
            } else {
                lhs.pack(input, n, size, size);
                let rhs = Rhs::Columns { data: a, stride: size };
                product(&[Term::whole(lhs, rhs)], low, width, width, Into::Set);
            }
            let scale = adapter.layout.scale();
            for value in low.iter_mut() {
                *value *= scale;
            }
            low_lhs.pack(low, n, width, width);
        } else {
            lhs.pack(input, n, size, size);
        }
        let mut column = 0;
        for projection in group.projections() {
            let linear = self.layer.linear(*projection);
            let columns = self.columns(*projection);
            let weight = Rhs::Columns { data: &linear.weight, stride: size };
            let mut terms = vec![Term::whole(lhs, weight)];
            if let Some((adapter, place)) = self.place(group) {
                let rank = adapter.layout.rank;
                let member = place.members.iter().position(|member| member.0 == *projection);
                terms.extend(member.map(|i| Term {
                    lhs: low_lhs,
                    from: i * rank,
                    depth: rank,
                    rhs: Rhs::Columns {
                        data: &adapter.parameters[place.members[i].1.clone()],
                        stride: rank,
                    },
                }));
            }
            product(&terms, &mut out[column..], columns, stride, into);
            if let Some(bias) = &linear.bias {
                out.par_chunks_mut(stride).for_each(|row| {
                    let row = &mut row[column..column + columns];
                    row.iter_mut().zip(&**bias).for_each(|(value, bias)| *value += bias);
                });
            }
            column += columns;
        }
    }

    /// The input of a projection's adapter, with some elements silenced and the others scaled so
    /// that the mean stays.
    fn drop<'b>(
        &self,
        dropout: Dropout,
        projection: Projection,
        input: &[f32],
        size: usize,
        out: &'b mut Vec<f32>,
    ) -> &'b [f32] {
        out.clear();
        out.extend_from_slice(input);
        self.silence(dropout, projection, size, out);
        out
    }

    fn silence(&self, dropout: Dropout, projection: Projection, size: usize, rows: &mut [f32]) {
        let module = (self.index * Projection::ALL.len() + projection as usize) as u64;
        let base = mix(dropout.seed ^ mix(module));
        let scale = 1.0 / (1.0 - dropout.share);
        let below = (f64::from(dropout.share) * 2f64.powi(32)) as u64;
        rows.par_chunks_mut(size).zip(&self.batch.keys).for_each(|(row, key)| {
            let row_key = mix(base ^ key);
            for (column, value) in row.iter_mut().enumerate() {
                let draw = mix(row_key.wrapping_add(column as u64)) >> 32;
                *value = if draw < below { 0.0 } else { *value * scale };
            }
        });
    }
}

/// The way back through the groups of one layer.
struct Back<'a, 'b> {
    pass: Pass<'a>,
    lhs: &'b mut Lhs,
    low_lhs: &'b mut Lhs,
    low: &'b mut Vec<f32>,
    small: &'b mut Vec<f32>,
    dropped: &'b mut Vec<f32>,
    gradient: &'b mut [f32],
}

impl Back<'_, '_> {
    /// Takes up `d`, the derivative to the group's result in rows of `stride`, and adds the
    /// derivative to B. `low` are the inputs of B; the derivative to them stays in `self.low`.
    fn b(&mut self, group: Group, d: &[f32], stride: usize, low: &[f32]) {
        let n = self.pass.n;
        self.lhs.pack(d, n, stride, stride);
        let Some((adapter, place)) = self.pass.place(group) else { return };
        let rank = adapter.layout.rank;
        let width = place.members.len() * rank;
        let d_low = room(self.low, n * width);
        let mut column = 0;
        for projection in group.projections() {
            let from = column;
            column += self.pass.columns(*projection);
            let depth = column - from;
            let Some(i) = place.members.iter().position(|member| member.0 == *projection) else {
                continue;
            };
            let b = place.members[i].1.clone();
            let rhs = Rhs::Rows { data: &adapter.parameters[b.clone()], stride: rank };
            let term = Term { lhs: self.lhs, from, depth, rhs };
            product(&[term], &mut d_low[i * rank..], rank, width, Into::Set);
            // The derivative to B, transposed: few long rows.
            self.low_lhs.pack_transposed(&low[i * rank..], rank, n, width);
            let rhs = Rhs::Rows { data: &d[from..], stride };
            let small = room(self.small, rank * depth);
            product(&[Term::whole(self.low_lhs, rhs)], small, depth, depth, Into::Set);
            for (column, gradient) in self.gradient[b].chunks_exact_mut(rank).enumerate() {
                for (r, gradient) in gradient.iter_mut().enumerate() {
                    *gradient += small[r * depth + column];
                }
            }
        }
        let scale = adapter.layout.scale();
        for value in d_low.iter_mut() {
            *value *= scale;
        }
    }

    /// `d_input` gets the derivative to the group's input, after [`Self::b`].
    fn inputs(&mut self, group: Group, d_input: &mut [f32], size: usize) {
        let n = self.pass.n;
        let mut terms = Vec::with_capacity(4);
        let mut from = 0;
        for projection in group.projections() {
            let depth = self.pass.columns(*projection);
            let weight = &self.pass.layer.linear(*projection).weight;
            let rhs = Rhs::Rows { data: weight, stride: size };
            terms.push(Term { lhs: self.lhs, from, depth, rhs });
            from += depth;
        }
        let Some((adapter, place)) = self.pass.place(group) else {
            return product(&terms, d_input, size, size, Into::Set);
        };
        let rank = adapter.layout.rank;
        let width = place.members.len() * rank;
        let a = &adapter.parameters[place.a.clone()];
        self.low_lhs.pack(self.low, n, width, width);
        let Some(dropout) = adapter.dropout else {
            terms.push(Term::whole(self.low_lhs, Rhs::Rows { data: a, stride: size }));
            return product(&terms, d_input, size, size, Into::Set);
        };
        product(&terms, d_input, size, size, Into::Set);
        for (i, (projection, _)) in place.members.iter().enumerate() {
            let rhs = Rhs::Rows { data: &a[i * rank * size..], stride: size };
            let term = Term { lhs: self.low_lhs, from: i * rank, depth: rank, rhs };
            let part = room(self.dropped, n * size);
            product(&[term], part, size, size, Into::Set);
            self.pass.silence(dropout, *projection, size, part);
            d_input.iter_mut().zip(part).for_each(|(d, part)| *d += *part);
        }
    }

    /// Adds the derivative to A, given the group's input.
    fn a(&mut self, group: Group, input: &[f32], size: usize) {
        let Some((adapter, place)) = self.pass.place(group) else { return };
        let (n, rank) = (self.pass.n, adapter.layout.rank);
        let width = place.members.len() * rank;
        let gradient = &mut self.gradient[place.a.clone()];
        if let Some(dropout) = adapter.dropout {
            for (i, (projection, _)) in place.members.iter().enumerate() {
                let kept = self.pass.drop(dropout, *projection, input, size, self.dropped);
                self.low_lhs.pack_transposed(&self.low[i * rank..], rank, n, width);
                let rhs = Rhs::Rows { data: kept, stride: size };
                let gradient = &mut gradient[i * rank * size..][..rank * size];
                product(&[Term::whole(self.low_lhs, rhs)], gradient, size, size, Into::Add);
            }
        } else {
            self.low_lhs.pack_transposed(self.low, width, n, width);
            let rhs = Rhs::Rows { data: input, stride: size };
            product(&[Term::whole(self.low_lhs, rhs)], gradient, size, size, Into::Add);
        }
    }
}

fn resized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    buffer
}

/// The first part of a buffer that never shrinks, with whatever it holds.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// A number that looks random and depends on every bit (Steele et al. 2014, `SplitMix64`).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
