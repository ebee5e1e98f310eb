//! One pass through the decoder and back, layer by layer, over buffers that are kept.
//!
//! Of each layer the pass keeps what the way back cannot cheaply compute again; with checkpointing
//! only each layer's input, and the layer is passed once more on the way back.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::{
    adapter::{Group, GroupPlace, Layout, length},
    data::Batch,
    decode::Past,
    matrix::{Into, Lhs, Rhs, Term, product},
    model::{Config, Layer, Model, Projection, Slot},
    ops::{
        attention::{Heads, attention, attention_backward},
        loss::{self, Prediction, Weights, predict_weighted},
        norm::{
            norm, norm_backward, norm_heads, norm_heads_backward, norm_heads_weight_backward,
            norm_weight_backward,
        },
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

/// Uniform noise on embeddings, in training (`NEFTune`, Jain et al. 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Noise {
    /// The noise lies within ± this over the root of a row's tokens times the hidden size.
    pub(crate) alpha: f32,
    pub(crate) seed: u64,
}

/// What is trained: places and numbers, of an adapter beside the model or of the model's tensors.
#[derive(Clone, Copy)]
pub(crate) struct Adapter<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) parameters: &'a [f32],
    pub(crate) dropout: Option<Dropout>,
}

impl<'a> Adapter<'a> {
    /// The numbers of a tensor of the model, where they are trained.
    fn whole(self, slot: Slot) -> Option<&'a [f32]> {
        Some(&self.parameters[self.layout.whole.get(&slot)?.clone()])
    }
}

/// The numbers that stand in a tensor's place: the trained ones, or else the model's `own`.
fn current<'a>(adapter: Option<Adapter<'a>>, slot: Slot, own: &'a [f32]) -> &'a [f32] {
    adapter.and_then(|adapter| adapter.whole(slot)).unwrap_or(own)
}

/// The same for the weight of a norm, by which it multiplies.
fn current_norm<'a>(
    lifted: &'a BTreeMap<Slot, Vec<f32>>,
    adapter: Option<Adapter<'a>>,
    slot: Slot,
    own: &'a [f32],
) -> &'a [f32] {
    lifted.get(&slot).map_or_else(|| current(adapter, slot, own), Vec::as_slice)
}

/// How the losses of a batch's targets make up what is minimised.
pub(crate) enum Weigh<'a> {
    /// Each counts the same.
    Same(f32),
    /// Their weights depend on what is predicted: the derivative of the minimised value to each loss.
    Each(&'a mut dyn FnMut(&[Prediction]) -> Vec<f32>),
    /// There are none: each source's hidden state has a reward, and this gives the derivative of the
    /// minimised value to each.
    Rewards(&'a mut dyn FnMut(&[f32]) -> Vec<f32>),
}

/// A model with the buffers to run it.
pub(crate) struct Engine<'a> {
    model: &'a Model,
    rotations: Rotations,
    /// Of layers whose attention is windowed, where theirs differ.
    local_rotations: Option<Rotations>,
    inputs: Vec<Vec<f32>>,
    activations: Vec<Activations>,
    buffers: Buffers,
    loss: loss::Scratch,
    /// Of each layer's projections, by their order.
    directions: Vec<[Option<Direction>; 7]>,
    /// The trained norms of Gemma 3 as they count: 1 and what is trained.
    lifted: BTreeMap<Slot, Vec<f32>>,
}

/// What `DoRA` makes of an adapted weight: its rows are brought to a trained length.
struct Direction {
    /// The rows' lengths as they are.
    lengths: Vec<f32>,
    /// Trained length over length as it is.
    factors: Vec<f32>,
}

/// What the way back through a layer needs besides the layer's input.
#[derive(Default)]
struct Activations {
    /// Queries and keys as they were before their heads were normalised, where they are.
    raw: Vec<f32>,
    qkv: Vec<f32>,
    log_sums: Vec<f32>,
    attended: Vec<f32>,
    /// What attention gives before it is normalised, where it is.
    attention_output: Vec<f32>,
    middle: Vec<f32>,
    gate_up: Vec<f32>,
    /// What the MLP gives before it is normalised, where it is.
    mlp_output: Vec<f32>,
    /// For each group.
    groups: [GroupActivations; 4],
}

/// What the way back through a group needs besides the group's input.
#[derive(Default)]
struct GroupActivations {
    /// Inputs times A, scaled.
    low: Vec<f32>,
    /// Results before `DoRA` brings them to length; empty without it.
    results: Vec<f32>,
}

/// Room for what is forgotten at once.
#[derive(Default)]
struct Buffers {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    wide: Vec<f32>,
    wider: Vec<f32>,
    scratch: Scratch,
}

/// Room for the products of one group.
#[derive(Default)]
struct Scratch {
    lhs: Lhs,
    low_lhs: Lhs,
    low: Vec<f32>,
    small: Vec<f32>,
    dropped: Vec<f32>,
    /// Unpacked weights of a quantised base.
    weights: Vec<f32>,
    /// Derivatives to results before `DoRA` brought them to length.
    scaled: Vec<f32>,
}

/// Numbers that a thread copies at a time.
const PIECE: usize = 1 << 16;

impl<'a> Engine<'a> {
    /// For rows of at most `positions` tokens.
    pub(crate) fn new(model: &'a Model, positions: usize) -> Self {
        Self {
            model,
            rotations: Rotations::new(&model.config.frequencies, positions),
            local_rotations: model
                .config
                .local_frequencies
                .as_ref()
                .map(|frequencies| Rotations::new(frequencies, positions)),
            inputs: Vec::new(),
            activations: Vec::new(),
            buffers: Buffers::default(),
            loss: loss::Scratch::default(),
            directions: Vec::new(),
            lifted: BTreeMap::new(),
        }
    }

    /// What the model predicts at each of the batch's targets.
    pub(crate) fn predict(
        &mut self,
        batch: &Batch,
        adapter: Option<Adapter<'_>>,
    ) -> Vec<Prediction> {
        let behind = behind(self.model, batch, adapter);
        let batch = behind.as_ref().unwrap_or(batch);
        let hidden = self.last_layer(batch, adapter);
        let (mut rows, _) = self.last_rows(batch, adapter, &hidden);
        let (size, head) = (self.model.config.hidden, head(self.model, adapter));
        let targets = &batch.targets;
        predict_weighted(&mut rows, head, size, targets, Weights::None, None, &mut self.loss)
    }

    /// What the last layer gives for each token.
    fn last_layer(&mut self, batch: &Batch, adapter: Option<Adapter<'_>>) -> Vec<f32> {
        self.direct(adapter);
        let mut hidden = embed(self.model, batch, adapter, None);
        self.activations.resize_with(self.activations.len().max(1), Activations::default);
        let mut output = Vec::new();
        for layer in 0..self.model.layers.len() {
            self.forward(layer, batch, adapter, &hidden, 0, Some(&mut output), None);
            std::mem::swap(&mut hidden, &mut output);
        }
        hidden
    }

    /// The summed loss over the batch's targets. Adds the derivative of `weight` times it to
    /// `gradient`.
    #[cfg(test)]
    pub(crate) fn learn(
        &mut self,
        batch: &Batch,
        adapter: Adapter<'_>,
        weight: f32,
        keep: Keep,
        gradient: &mut [f32],
    ) -> f64 {
        let predictions =
            self.learn_weighted(batch, adapter, Weigh::Same(weight), keep, None, gradient);
        predictions.iter().map(|prediction| f64::from(prediction.loss)).sum()
    }

    /// What the model predicts at each of the batch's targets. Adds the derivative of the weighed
    /// losses to `gradient`.
    pub(crate) fn learn_weighted(
        &mut self,
        batch: &Batch,
        adapter: Adapter<'_>,
        weigh: Weigh<'_>,
        keep: Keep,
        noise: Option<Noise>,
        gradient: &mut [f32],
    ) -> Vec<Prediction> {
        let behind = behind(self.model, batch, Some(adapter));
        let batch = behind.as_ref().unwrap_or(batch);
        self.direct(Some(adapter));
        let n_layers = self.model.layers.len();
        // Nothing below the lowest layer that learns needs a way back.
        let lowest = adapter.layout.lowest();
        let kept = if keep == Keep::Activations { (n_layers - lowest).max(1) } else { 1 };
        let slot = |layer: usize| layer.saturating_sub(lowest).min(kept - 1);
        self.inputs.resize_with(n_layers, Vec::new);
        self.activations.resize_with(kept, Activations::default);
        let mut hidden = embed(self.model, batch, Some(adapter), noise);
        for layer in 0..n_layers {
            std::mem::swap(&mut hidden, &mut self.inputs[layer]);
            let input = std::mem::take(&mut self.inputs[layer]);
            let to = Some(&mut hidden);
            self.forward(layer, batch, Some(adapter), &input, slot(layer), to, None);
            self.inputs[layer] = input;
            self.release(layer, keep);
        }
        let (predictions, mut d) = self.losses(batch, adapter, weigh, &hidden, gradient);
        for layer in (lowest..n_layers).rev() {
            let input = std::mem::take(&mut self.inputs[layer]);
            if keep == Keep::Inputs {
                self.forward(layer, batch, Some(adapter), &input, 0, None, None);
            }
            self.backward(layer, batch, adapter, &input, slot(layer), &mut d, gradient);
            self.inputs[layer] = input;
            self.release(layer, keep);
        }
        embedding_gradient(self.model, batch, adapter.layout, &d, gradient);
        predictions
    }

    /// The last hidden state of tokens that follow those of `past`, normalised as the output matrix
    /// takes it. `past` remembers them.
    pub(crate) fn last_hidden(
        &mut self,
        batch: &Batch,
        adapter: Option<Adapter<'_>>,
        past: &mut [Past],
    ) -> Vec<f32> {
        self.direct(adapter);
        let mut hidden = embed(self.model, batch, adapter, None);
        self.activations.resize_with(self.activations.len().max(1), Activations::default);
        let mut output = Vec::new();
        for (layer, past) in past.iter_mut().enumerate() {
            self.forward(layer, batch, adapter, &hidden, 0, Some(&mut output), Some(past));
            std::mem::swap(&mut hidden, &mut output);
        }
        let size = self.model.config.hidden;
        let w = current_norm(&self.lifted, adapter, Slot::Norm, &self.model.norm);
        let mut row = vec![0.0; size];
        norm(&hidden[hidden.len() - size..], w, self.model.config.norm_epsilon, &mut row);
        row
    }

    /// The weight that turns the last hidden state into logits.
    pub(crate) fn head<'b>(&self, adapter: Option<Adapter<'b>>) -> &'b [f32]
    where
        'a: 'b,
    {
        head(self.model, adapter)
    }

    /// With checkpointing, the pages of a mapped layer are given back once it is passed: it comes again
    /// from the system's cache of the file, which can do without it when memory is short.
    fn release(&self, layer: usize, keep: Keep) {
        if keep == Keep::Inputs {
            for projection in Projection::ALL {
                self.model.layers[layer].linear(projection).weight.release();
            }
        }
    }

    /// The predictions from the last hidden states, and the derivative to those.
    fn losses(
        &mut self,
        batch: &Batch,
        adapter: Adapter<'_>,
        mut weigh: Weigh<'_>,
        hidden: &[f32],
        gradient: &mut [f32],
    ) -> (Vec<Prediction>, Vec<f32>) {
        let (mut rows, raw) = self.last_rows(batch, Some(adapter), hidden);
        let size = self.model.config.hidden;
        if let (Weigh::Rewards(weigh), Some(place)) = (&mut weigh, &adapter.layout.score) {
            let slopes = weigh(&rewards(&rows, &adapter.parameters[place.clone()]));
            for (row, slope) in rows.chunks_exact_mut(size).zip(slopes) {
                let score = &adapter.parameters[place.clone()];
                let sums = &mut gradient[place.clone()];
                for ((value, weight), sum) in row.iter_mut().zip(score).zip(sums) {
                    *sum += slope * *value;
                    *value = slope * weight;
                }
            }
            return (
                Vec::new(),
                self.through_last_norm(batch, adapter, &rows, &raw, hidden.len(), gradient),
            );
        }
        let (head, targets) = (head(self.model, Some(adapter)), &batch.targets);
        let each;
        let weights = match weigh {
            // Without a head for rewards there is nothing to weigh.
            Weigh::Rewards(_) => Weights::None,
            Weigh::Same(weight) => Weights::Same(weight),
            Weigh::Each(weigh) => {
                let (mut rows, none) = (rows.clone(), Weights::None);
                let predictions =
                    predict_weighted(&mut rows, head, size, targets, none, None, &mut self.loss);
                each = weigh(&predictions);
                Weights::Each(&each)
            }
        };
        let whole = &adapter.layout.whole;
        let tied = self.model.is_tied().then(|| whole.get(&Slot::Embedding)).flatten();
        let d_head = whole.get(&Slot::Head).or(tied).map(|place| &mut gradient[place.clone()]);
        let predictions =
            predict_weighted(&mut rows, head, size, targets, weights, d_head, &mut self.loss);
        let d = self.through_last_norm(batch, adapter, &rows, &raw, hidden.len(), gradient);
        (predictions, d)
    }

    /// The derivative to the last hidden states, `len` numbers, from `rows`, that to their normalised
    /// sources, which were `raw` before.
    fn through_last_norm(
        &self,
        batch: &Batch,
        adapter: Adapter<'_>,
        rows: &[f32],
        raw: &[f32],
        len: usize,
        gradient: &mut [f32],
    ) -> Vec<f32> {
        let (size, epsilon) = (self.model.config.hidden, self.model.config.norm_epsilon);
        if let Some(place) = adapter.layout.whole.get(&Slot::Norm) {
            norm_weight_backward(rows, raw, epsilon, &mut gradient[place.clone()]);
        }
        let w = current_norm(&self.lifted, Some(adapter), Slot::Norm, &self.model.norm);
        let mut d_raw = vec![0.0; raw.len()];
        norm_backward(rows, raw, w, epsilon, &mut d_raw);
        let mut d = vec![0.0; len];
        for (source, row) in batch.sources.iter().zip(d_raw.chunks_exact(size)) {
            d[source * size..][..size].copy_from_slice(row);
        }
        d
    }

    /// The reward of each of the batch's sources, by a reward model.
    pub(crate) fn rewards(&mut self, batch: &Batch, adapter: Adapter<'_>) -> Vec<f32> {
        let hidden = self.last_layer(batch, Some(adapter));
        let (rows, _) = self.last_rows(batch, Some(adapter), &hidden);
        let score = adapter.layout.score.clone();
        score.map_or_else(Vec::new, |place| rewards(&rows, &adapter.parameters[place]))
    }

    /// The normalised last hidden states that predict a target, and the same before the norm.
    fn last_rows(
        &self,
        batch: &Batch,
        adapter: Option<Adapter<'_>>,
        hidden: &[f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let size = self.model.config.hidden;
        let rows = batch.sources.iter().flat_map(|row| &hidden[row * size..][..size]);
        let raw: Vec<f32> = rows.copied().collect();
        let mut rows = vec![0.0; raw.len()];
        let w = current_norm(&self.lifted, adapter, Slot::Norm, &self.model.norm);
        norm(&raw, w, self.model.config.norm_epsilon, &mut rows);
        (rows, raw)
    }

    fn heads(&self, layer: usize) -> Heads {
        let config = &self.model.config;
        Heads {
            query_heads: config.heads,
            key_heads: config.key_heads,
            head: config.head,
            scale: config.attention_scale,
            window: config.window.filter(|_| config.windowed[layer]),
        }
    }

    /// Adds 1 to the norms of Gemma 3 that are trained, and measures the rows of the weights that
    /// `DoRA` adapts, as they are now.
    fn direct(&mut self, adapter: Option<Adapter<'_>>) {
        self.lifted.clear();
        if let Some(adapter) = adapter.filter(|_| self.model.config.gemma) {
            let norms = adapter.layout.whole.iter().filter(|(slot, _)| slot.is_norm());
            self.lifted.extend(norms.map(|(slot, place)| {
                let numbers = adapter.parameters[place.clone()].iter();
                (*slot, numbers.map(|number| number + 1.0).collect())
            }));
        }
        self.directions.clear();
        let Some(adapter) = adapter.filter(|adapter| adapter.layout.dora) else { return };
        let config = &self.model.config;
        let (rank, scale) = (adapter.layout.rank, adapter.layout.scale());
        for (index, layer) in self.model.layers.iter().enumerate() {
            let mut directions = [const { None }; 7];
            for group in Group::ALL {
                let place = adapter.layout.group(index, group);
                for (i, (projection, b)) in place.members.iter().enumerate() {
                    let (rows, columns) = projection.shape(config);
                    let weights = room(&mut self.buffers.scratch.weights, rows * columns);
                    let weight = layer.linear(*projection).unpacked(weights);
                    let a = &adapter.parameters[place.a.clone()][i * rank * columns..];
                    let lengths = merged_lengths(
                        weight,
                        &adapter.parameters[b.clone()],
                        &a[..rank * columns],
                        [rank, columns],
                        scale,
                        &mut self.buffers.scratch.lhs,
                    );
                    let magnitudes = &adapter.parameters[place.magnitudes[i].clone()];
                    let factors = magnitudes.iter().zip(&lengths).map(|(m, length)| m / length);
                    let factors = factors.collect();
                    directions[*projection as usize] = Some(Direction { lengths, factors });
                }
            }
            self.directions.push(directions);
        }
    }

    /// Passes a layer. `slot` says where its activations go. Without `output`, only what the way back
    /// needs is computed. With `past`, the tokens come after those that it remembers, which they see.
    #[expect(clippy::too_many_arguments, reason = "everything a layer's result depends on")]
    fn forward(
        &mut self,
        index: usize,
        batch: &Batch,
        adapter: Option<Adapter<'_>>,
        input: &[f32],
        slot: usize,
        output: Option<&mut Vec<f32>>,
        past: Option<&mut Past>,
    ) {
        let config = &self.model.config;
        let (layer, heads, n) = (&self.model.layers[index], self.heads(index), batch.tokens.len());
        let local = self.local_rotations.as_ref().filter(|_| config.windowed[index]);
        let rotations = local.unwrap_or(&self.rotations);
        let (act, buffers) = (&mut self.activations[slot], &mut self.buffers);
        let (hidden, inner) = (config.hidden, config.intermediate);
        let directions = self.directions.get(index);
        let pass = Pass { index, config, layer, adapter, batch, n, directions };
        let lifted = &self.lifted;
        let own = |slot, own| current_norm(lifted, adapter, slot, own);
        let scratch = &mut buffers.scratch;

        let normed = room(&mut buffers.a, n * hidden);
        let w = own(Slot::AttentionNorm(index), &layer.attention_norm);
        norm(input, w, config.norm_epsilon, normed);
        let qkv = resized(&mut act.qkv, n * config.qkv());
        let [attention_group, output_group, gate_up_group, down_group] = &mut act.groups;
        pass.group(Group::Attention, normed, attention_group, scratch, Some(qkv), Into::Set);
        if let Some([q, k]) = &layer.head_norms {
            act.raw.clone_from(&act.qkv);
            let q = (own(Slot::QueryNorm(index), q), 0, config.heads);
            let k = (own(Slot::KeyNorm(index), k), config.query(), config.key_heads);
            for (w, from, heads) in [q, k] {
                norm_heads(&mut act.qkv, config.qkv(), from, heads, w, config.norm_epsilon);
            }
        }
        let rotated = config.heads + config.key_heads;
        let positions = &batch.positions;
        rotations.turn(&mut act.qkv, config.qkv(), rotated, positions, Turn::Forward);
        let attended = resized(&mut act.attended, n * config.query());
        let log_sums = resized(&mut act.log_sums, n * config.heads);
        match past {
            Some(past) if !past.is_empty() => {
                past.take(&act.qkv, config);
                past.attend(&act.qkv, heads, attended);
            }
            past => {
                attention(&act.qkv, &batch.segments, heads, attended, log_sums);
                if let Some(past) = past {
                    past.take(&act.qkv, config);
                }
            }
        }

        resized(&mut act.middle, n * hidden);
        copy(input, &mut act.middle);
        if let Some([w, _]) = &layer.post_norms {
            let raw = resized(&mut act.attention_output, n * hidden);
            pass.group(Group::Output, attended, output_group, scratch, Some(raw), Into::Set);
            let w = own(Slot::AttentionPostNorm(index), w);
            norm(raw, w, config.norm_epsilon, normed);
            add(normed, &mut act.middle);
        } else {
            let middle = Some(act.middle.as_mut_slice());
            pass.group(Group::Output, attended, output_group, scratch, middle, Into::Add);
        }
        let w = own(Slot::MlpNorm(index), &layer.mlp_norm);
        norm(&act.middle, w, config.norm_epsilon, normed);
        let gate_up = resized(&mut act.gate_up, n * 2 * inner);
        pass.group(Group::GateUp, normed, gate_up_group, scratch, Some(gate_up), Into::Set);
        let value = room(&mut buffers.wide, n * inner);
        swiglu(config.activation, &act.gate_up, inner, value);
        if let Some([_, w]) = &layer.post_norms {
            let raw = resized(&mut act.mlp_output, n * hidden);
            pass.group(Group::Down, value, down_group, scratch, Some(raw), Into::Set);
            if let Some(output) = output {
                let w = own(Slot::MlpPostNorm(index), w);
                norm(raw, w, config.norm_epsilon, normed);
                resized(output, n * hidden);
                copy(&act.middle, output);
                add(normed, output);
            }
        } else if let Some(output) = output {
            resized(output, n * hidden);
            copy(&act.middle, output);
            pass.group(Group::Down, value, down_group, scratch, Some(output), Into::Add);
        } else if pass.directions.is_some() {
            // The way back needs the results themselves.
            let results = room(&mut buffers.b, n * hidden);
            pass.group(Group::Down, value, down_group, scratch, Some(results), Into::Set);
        } else {
            pass.group(Group::Down, value, down_group, scratch, None, Into::Set);
        }
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
        let (layer, heads, n) = (&self.model.layers[index], self.heads(index), batch.tokens.len());
        let local = self.local_rotations.as_ref().filter(|_| config.windowed[index]);
        let rotations = local.unwrap_or(&self.rotations);
        let (act, buffers) = (&mut self.activations[slot], &mut self.buffers);
        let (hidden, inner, epsilon) = (config.hidden, config.intermediate, config.norm_epsilon);
        let directions = self.directions.get(index);
        let pass = Pass { index, config, layer, adapter: Some(adapter), batch, n, directions };
        let lifted = &self.lifted;
        let own = |slot, own| current_norm(lifted, Some(adapter), slot, own);
        let Buffers { a, b, c, wide, wider, scratch } = buffers;
        let mut back = Back { pass, scratch, gradient };

        let d_value = room(wide, n * inner);
        let d_mlp = match &layer.post_norms {
            None => &*d,
            Some([_, w]) => {
                let w = own(Slot::MlpPostNorm(index), w);
                back.norm(Slot::MlpPostNorm(index), d, &act.mlp_output);
                through_norm(d, &act.mlp_output, w, epsilon, room(c, n * hidden))
            }
        };
        back.b(Group::Down, d_mlp, &act.groups[3]);
        back.inputs(Group::Down, d_value);
        let d_gate_up = room(wider, n * 2 * inner);
        swiglu_backward(config.activation, &act.gate_up, inner, d_value, d_gate_up);
        back.a(Group::Down, d_mlp, d_value);

        let (d_normed, normed) = (room(a, n * hidden), room(b, n * hidden));
        let w = own(Slot::MlpNorm(index), &layer.mlp_norm);
        back.b(Group::GateUp, d_gate_up, &act.groups[2]);
        back.inputs(Group::GateUp, d_normed);
        norm(&act.middle, w, epsilon, normed);
        back.a(Group::GateUp, d_gate_up, normed);
        back.norm(Slot::MlpNorm(index), d_normed, &act.middle);
        norm_backward(d_normed, &act.middle, w, epsilon, d);

        let d_attended = room(wide, n * config.query());
        let d_attention = match &layer.post_norms {
            None => &*d,
            Some([w, _]) => {
                let w = own(Slot::AttentionPostNorm(index), w);
                back.norm(Slot::AttentionPostNorm(index), d, &act.attention_output);
                through_norm(d, &act.attention_output, w, epsilon, room(c, n * hidden))
            }
        };
        back.b(Group::Output, d_attention, &act.groups[1]);
        back.inputs(Group::Output, d_attended);
        back.a(Group::Output, d_attention, &act.attended);
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
        rotations.turn(d_qkv, config.qkv(), rotated, &batch.positions, Turn::Backward);
        if let Some([q, k]) = &layer.head_norms {
            let q = (Slot::QueryNorm(index), &**q, 0, config.heads);
            let k = (Slot::KeyNorm(index), &**k, config.query(), config.key_heads);
            for (slot, w, from, heads) in [q, k] {
                let (raw, stride, w) = (&act.raw, config.qkv(), own(slot, w));
                if let Some(place) = adapter.layout.whole.get(&slot) {
                    let dw = &mut back.gradient[place.clone()];
                    norm_heads_weight_backward(d_qkv, raw, stride, from, heads, epsilon, dw);
                }
                norm_heads_backward(d_qkv, raw, stride, from, heads, w, epsilon);
            }
        }
        let w = own(Slot::AttentionNorm(index), &layer.attention_norm);
        back.b(Group::Attention, d_qkv, &act.groups[0]);
        norm(input, w, epsilon, normed);
        back.a(Group::Attention, d_qkv, normed);
        let whole = &adapter.layout.whole;
        let embeddings = whole.contains_key(&Slot::Embedding) || adapter.layout.virtual_tokens > 0;
        let below = index > adapter.layout.lowest() || embeddings;
        if !below && !whole.contains_key(&Slot::AttentionNorm(index)) {
            // Nothing below learns.
            return;
        }
        back.inputs(Group::Attention, d_normed);
        back.norm(Slot::AttentionNorm(index), d_normed, input);
        norm_backward(d_normed, input, w, epsilon, d);
    }
}

/// The batch behind the virtual tokens of a soft prompt, where there is one.
pub(crate) fn behind(model: &Model, batch: &Batch, adapter: Option<Adapter<'_>>) -> Option<Batch> {
    let n = adapter.map_or(0, |adapter| adapter.layout.virtual_tokens);
    (n > 0).then(|| batch.behind(n, model.config.vocabulary as u32))
}

/// The embeddings of a batch's tokens, with noise where it is asked for.
pub(crate) fn embed(
    model: &Model,
    batch: &Batch,
    adapter: Option<Adapter<'_>>,
    noise: Option<Noise>,
) -> Vec<f32> {
    let size = model.config.hidden;
    let table = current(adapter, Slot::Embedding, &model.embedding);
    let (first, scale) = (model.config.vocabulary, model.config.embedding_scale);
    let plain = scale.to_bits() == 1.0f32.to_bits();
    let soft = adapter.map_or(&[][..], |adapter| adapter.parameters);
    let mut rows = Vec::with_capacity(batch.tokens.len() * size);
    for id in &batch.tokens {
        match (*id as usize).checked_sub(first) {
            // A virtual token is what it was trained to be.
            Some(place) => rows.extend_from_slice(&soft[place * size..][..size]),
            None if plain => rows.extend_from_slice(&table[*id as usize * size..][..size]),
            None => {
                let row = &table[*id as usize * size..][..size];
                rows.extend(row.iter().map(|value| value * scale));
            }
        }
    }
    if let Some(noise) = noise {
        for segment in &batch.segments {
            let most = noise.alpha / ((segment.len() * size) as f32).sqrt();
            for token in segment.clone() {
                if batch.tokens[token] as usize >= first {
                    continue;
                }
                let key = mix(mix(!noise.seed) ^ batch.keys[token]);
                for (column, value) in rows[token * size..][..size].iter_mut().enumerate() {
                    let draw = (mix(key.wrapping_add(column as u64)) >> 40) as f32;
                    *value += most * (draw / (1u32 << 23) as f32 - 1.0);
                }
            }
        }
    }
    rows
}

/// Adds the derivatives to virtual tokens, and to embeddings that are trained themselves, given that to
/// the first layer's input.
pub(crate) fn embedding_gradient(
    model: &Model,
    batch: &Batch,
    layout: &Layout,
    d: &[f32],
    gradient: &mut [f32],
) {
    let (size, first) = (model.config.hidden, model.config.vocabulary);
    if layout.virtual_tokens > 0 {
        for (id, d) in batch.tokens.iter().zip(d.chunks_exact(size)) {
            if let Some(place) = (*id as usize).checked_sub(first) {
                let row = &mut gradient[place * size..][..size];
                row.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
            }
        }
    }
    if let Some(place) = layout.whole.get(&Slot::Embedding) {
        let scale = model.config.embedding_scale;
        let table = &mut gradient[place.clone()];
        for (id, d) in batch.tokens.iter().zip(d.chunks_exact(size)) {
            let row = &mut table[*id as usize * size..][..size];
            row.iter_mut().zip(d).for_each(|(sum, d)| *sum += d * scale);
        }
    }
}

/// The weight that turns the last hidden state into logits.
fn head<'a>(model: &'a Model, adapter: Option<Adapter<'a>>) -> &'a [f32] {
    let own = |slot| adapter.and_then(|adapter| adapter.whole(slot));
    let tied = model.is_tied().then(|| own(Slot::Embedding)).flatten();
    own(Slot::Head).or(tied).unwrap_or(model.head())
}

/// The reward of each row.
fn rewards(rows: &[f32], score: &[f32]) -> Vec<f32> {
    let reward = |row: &[f32]| row.iter().zip(score).map(|(value, weight)| value * weight).sum();
    rows.chunks_exact(score.len()).map(reward).collect()
}

/// The lengths of the rows of `weight + scale * B · A`, without making it: a row's squared length is
/// `|w|² + 2 s b·(A w) + s² b·(A Aᵀ b)`.
fn merged_lengths(
    weight: &[f32],
    b: &[f32],
    a: &[f32],
    [rank, columns]: [usize; 2],
    scale: f32,
    lhs: &mut Lhs,
) -> Vec<f32> {
    let rows = weight.len() / columns;
    lhs.pack(weight, rows, columns, columns);
    let mut along = vec![0.0; rows * rank];
    let rhs = Rhs::Columns { data: a, stride: columns };
    product(&[Term::whole(lhs, rhs)], &mut along, rank, rank, Into::Set);
    lhs.pack(a, rank, columns, columns);
    let mut square = vec![0.0; rank * rank];
    product(&[Term::whole(lhs, rhs)], &mut square, rank, rank, Into::Set);
    let scale = f64::from(scale);
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let length_of = |(row, b, along): (&[f32], &[f32], &[f32])| {
        let own = f64::from(length(row)).powi(2);
        let rows = b.iter().zip(square.chunks_exact(rank));
        let twice: f64 = rows.map(|(value, row)| f64::from(*value) * dot(row, b)).sum();
        (own + 2.0 * scale * dot(b, along) + scale * scale * twice).max(0.0).sqrt() as f32
    };
    weight
        .par_chunks_exact(columns)
        .zip(b.par_chunks_exact(rank))
        .zip(along.par_chunks_exact(rank))
        .map(|((row, b), along)| length_of((row, b, along)))
        .collect()
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
    /// What `DoRA` makes of the layer's projections, where it adapts them.
    directions: Option<&'a [Option<Direction>; 7]>,
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

    /// Columns of a group's result, and of its input.
    fn shape(&self, group: Group) -> (usize, usize) {
        let projections = group.projections();
        let size = projections[0].shape(self.config).1;
        (projections.iter().map(|projection| self.columns(*projection)).sum(), size)
    }

    /// What `DoRA` makes of a projection.
    fn direction(&self, projection: Projection) -> Option<&'a Direction> {
        self.directions.and_then(|directions| directions[projection as usize].as_ref())
    }

    /// A projection's weight as it is now, in `buffer` where it has to be unpacked.
    fn weight<'b>(&self, projection: Projection, buffer: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        let whole = |adapter: Adapter<'a>| adapter.whole(Slot::Weight(self.index, projection));
        if let Some(weight) = self.adapter.and_then(whole) {
            return weight;
        }
        let linear = self.layer.linear(projection);
        let len = linear.packed.as_ref().map_or(0, crate::blocks::Packed::len);
        linear.unpacked(room(buffer, len))
    }

    /// The linear layers of a group over one input, their results side by side in `out`; without it,
    /// only what the way back needs.
    fn group(
        &self,
        group: Group,
        input: &[f32],
        act: &mut GroupActivations,
        scratch: &mut Scratch,
        out: Option<&mut [f32]>,
        into: Into,
    ) {
        let n = self.n;
        let (stride, size) = self.shape(group);
        let GroupActivations { low, results } = act;
        let Scratch { lhs, low_lhs, dropped, weights, .. } = scratch;
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
        let Some(out) = out else { return };
        let mut column = 0;
        for projection in group.projections() {
            let columns = self.columns(*projection);
            let weight = Rhs::Columns { data: self.weight(*projection, weights), stride: size };
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
            if let Some(direction) = self.direction(*projection) {
                resized(results, n * stride);
                product(&terms, &mut results[column..], columns, stride, Into::Set);
                let rows = out.par_chunks_mut(stride).zip(results.par_chunks(stride));
                rows.for_each(|(out, results)| {
                    let results = results[column..].iter().zip(&direction.factors);
                    for (out, (result, factor)) in out[column..].iter_mut().zip(results) {
                        *out = result * factor + if into == Into::Add { *out } else { 0.0 };
                    }
                });
            } else {
                product(&terms, &mut out[column..], columns, stride, into);
            }
            let linear = self.layer.linear(*projection);
            if let Some(bias) = &linear.bias {
                let bias = current(self.adapter, Slot::Bias(self.index, *projection), bias);
                out.par_chunks_mut(stride).for_each(|row| {
                    let row = &mut row[column..column + columns];
                    row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
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
        silence(dropout, self.index, projection, &self.batch.keys, size, out);
        out
    }
}

/// The way back through the groups of one layer.
struct Back<'a, 'b> {
    pass: Pass<'a>,
    scratch: &'b mut Scratch,
    gradient: &'b mut [f32],
}

impl Back<'_, '_> {
    /// Takes up `d`, the derivative to the group's result, and adds the derivatives to B and to
    /// magnitudes. The derivative to the inputs of B stays in `self.scratch.low`.
    fn b(&mut self, group: Group, d: &[f32], act: &GroupActivations) {
        let n = self.pass.n;
        let stride = self.pass.shape(group).0;
        let Some((adapter, place)) = self.pass.place(group) else {
            return self.scratch.lhs.pack(d, n, stride, stride);
        };
        let Scratch { lhs, low_lhs, low: d_low, small, scaled, .. } = &mut *self.scratch;
        let d = if place.magnitudes.is_empty() {
            d
        } else {
            // The rows' lengths count as constant in the derivative, as in the paper and in PEFT.
            let scaled = room(scaled, n * stride);
            scaled.copy_from_slice(&d[..n * stride]);
            let mut column = 0;
            for projection in group.projections() {
                let from = column;
                column += self.pass.columns(*projection);
                let Some(direction) = self.pass.direction(*projection) else { continue };
                let member = place.members.iter().position(|member| member.0 == *projection);
                let Some(magnitude) = member.map(|i| place.magnitudes[i].clone()) else { continue };
                let d_magnitude = &mut self.gradient[magnitude];
                for (row, results) in
                    scaled.chunks_exact_mut(stride).zip(act.results.chunks_exact(stride))
                {
                    let row = row[from..column].iter_mut().zip(&results[from..column]);
                    let Direction { lengths, factors } = direction;
                    let places = d_magnitude.iter_mut().zip(lengths).zip(factors);
                    for ((d, result), ((d_magnitude, length), factor)) in row.zip(places) {
                        *d_magnitude += *d * result / length;
                        *d *= factor;
                    }
                }
            }
            &*scaled
        };
        lhs.pack(d, n, stride, stride);
        let rank = adapter.layout.rank;
        let width = place.members.len() * rank;
        let d_low = room(d_low, n * width);
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
            let term = Term { lhs, from, depth, rhs };
            product(&[term], &mut d_low[i * rank..], rank, width, Into::Set);
            // The derivative to B, transposed: few long rows.
            low_lhs.pack_transposed(&act.low[i * rank..], rank, n, width);
            let rhs = Rhs::Rows { data: &d[from..], stride };
            let small = room(small, rank * depth);
            product(&[Term::whole(low_lhs, rhs)], small, depth, depth, Into::Set);
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
    fn inputs(&mut self, group: Group, d_input: &mut [f32]) {
        let n = self.pass.n;
        let size = self.pass.shape(group).1;
        let Scratch { lhs, low_lhs, low, dropped, weights, .. } = &mut *self.scratch;
        let packed = |projection: &Projection| {
            let linear = self.pass.layer.linear(*projection);
            linear.packed.as_ref().map_or(0, crate::blocks::Packed::len)
        };
        let mut buffer = room(weights, group.projections().iter().map(packed).sum());
        let mut terms = Vec::with_capacity(4);
        let mut from = 0;
        for projection in group.projections() {
            let depth = self.pass.columns(*projection);
            let linear = self.pass.layer.linear(*projection);
            let (mine, rest) = std::mem::take(&mut buffer).split_at_mut(packed(projection));
            buffer = rest;
            let slot = Slot::Weight(self.pass.index, *projection);
            let whole = self.pass.adapter.and_then(|adapter| adapter.whole(slot));
            let weight = whole.unwrap_or_else(|| linear.unpacked(mine));
            let rhs = Rhs::Rows { data: weight, stride: size };
            terms.push(Term { lhs, from, depth, rhs });
            from += depth;
        }
        let Some((adapter, place)) = self.pass.place(group) else {
            return product(&terms, d_input, size, size, Into::Set);
        };
        let rank = adapter.layout.rank;
        let width = place.members.len() * rank;
        let a = &adapter.parameters[place.a.clone()];
        low_lhs.pack(low, n, width, width);
        let Some(dropout) = adapter.dropout else {
            terms.push(Term::whole(low_lhs, Rhs::Rows { data: a, stride: size }));
            return product(&terms, d_input, size, size, Into::Set);
        };
        product(&terms, d_input, size, size, Into::Set);
        for (i, (projection, _)) in place.members.iter().enumerate() {
            let rhs = Rhs::Rows { data: &a[i * rank * size..], stride: size };
            let term = Term { lhs: low_lhs, from: i * rank, depth: rank, rhs };
            let part = room(dropped, n * size);
            product(&[term], part, size, size, Into::Set);
            silence(dropout, self.pass.index, *projection, &self.pass.batch.keys, size, part);
            d_input.iter_mut().zip(part).for_each(|(d, part)| *d += *part);
        }
    }

    /// Adds the derivatives to A, and to weights and biases that are trained themselves, given the
    /// derivative to the group's result and the group's input.
    fn a(&mut self, group: Group, d: &[f32], input: &[f32]) {
        self.tensors(group, d, input);
        let Some((adapter, place)) = self.pass.place(group) else { return };
        let size = self.pass.shape(group).1;
        let (n, rank) = (self.pass.n, adapter.layout.rank);
        let width = place.members.len() * rank;
        let gradient = &mut self.gradient[place.a.clone()];
        let Scratch { low_lhs, low, dropped, .. } = &mut *self.scratch;
        if let Some(dropout) = adapter.dropout {
            for (i, (projection, _)) in place.members.iter().enumerate() {
                let kept = self.pass.drop(dropout, *projection, input, size, dropped);
                low_lhs.pack_transposed(&low[i * rank..], rank, n, width);
                let rhs = Rhs::Rows { data: kept, stride: size };
                let gradient = &mut gradient[i * rank * size..][..rank * size];
                product(&[Term::whole(low_lhs, rhs)], gradient, size, size, Into::Add);
            }
        } else {
            low_lhs.pack_transposed(low, width, n, width);
            let rhs = Rhs::Rows { data: input, stride: size };
            product(&[Term::whole(low_lhs, rhs)], gradient, size, size, Into::Add);
        }
    }

    /// Adds the derivatives to the group's weights and biases that are trained themselves.
    fn tensors(&mut self, group: Group, d: &[f32], input: &[f32]) {
        let Some(adapter) = self.pass.adapter else { return };
        let (n, index) = (self.pass.n, self.pass.index);
        let (stride, size) = self.pass.shape(group);
        let mut from = 0;
        for projection in group.projections() {
            let columns = self.pass.columns(*projection);
            if let Some(place) = adapter.layout.whole.get(&Slot::Weight(index, *projection)) {
                let lhs = &mut self.scratch.low_lhs;
                lhs.pack_transposed(&d[from..], columns, n, stride);
                let rhs = Rhs::Rows { data: input, stride: size };
                let gradient = &mut self.gradient[place.clone()];
                product(&[Term::whole(lhs, rhs)], gradient, size, size, Into::Add);
            }
            if let Some(place) = adapter.layout.whole.get(&Slot::Bias(index, *projection)) {
                let gradient = &mut self.gradient[place.clone()];
                for row in d[..n * stride].chunks_exact(stride) {
                    let row = &row[from..from + columns];
                    gradient.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
                }
            }
            from += columns;
        }
    }

    /// Adds the derivative to a norm's weight where it is trained itself.
    fn norm(&mut self, slot: Slot, d: &[f32], x: &[f32]) {
        let whole = self.pass.adapter.and_then(|adapter| adapter.layout.whole.get(&slot));
        if let Some(place) = whole {
            let epsilon = self.pass.config.norm_epsilon;
            norm_weight_backward(d, x, epsilon, &mut self.gradient[place.clone()]);
        }
    }
}

/// `out = x`, on all cores.
fn copy(x: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(out, x)| out.copy_from_slice(x));
}

/// `out += x`, on all cores.
fn add(x: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(out, x)| {
        out.iter_mut().zip(x).for_each(|(out, x)| *out += x);
    });
}

/// The derivative to what a norm was given, `x`, from that to what it gave.
fn through_norm<'b>(
    d: &[f32],
    x: &[f32],
    w: &[f32],
    epsilon: f32,
    out: &'b mut [f32],
) -> &'b [f32] {
    out.fill(0.0);
    norm_backward(d, x, w, epsilon, out);
    out
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

/// Silences some elements of a projection's inputs, a row for each key, and scales the others so that the
/// mean stays.
pub(crate) fn silence(
    dropout: Dropout,
    layer: usize,
    projection: Projection,
    keys: &[u64],
    size: usize,
    rows: &mut [f32],
) {
    let module = (layer * Projection::ALL.len() + projection as usize) as u64;
    let base = mix(dropout.seed ^ mix(module));
    let scale = 1.0 / (1.0 - dropout.share);
    let below = (f64::from(dropout.share) * 2f64.powi(32)) as u64;
    rows.par_chunks_mut(size).zip(keys).for_each(|(row, key)| {
        let row_key = mix(base ^ key);
        for (column, value) in row.iter_mut().enumerate() {
            let draw = mix(row_key.wrapping_add(column as u64)) >> 32;
            *value = if draw < below { 0.0 } else { *value * scale };
        }
    });
}

/// A number that looks random and depends on every bit (Steele et al. 2014, `SplitMix64`).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
