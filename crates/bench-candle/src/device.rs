//! The passes of [`crate::step`] over candle's tensors: what trains on a GPU.
//!
//! The derivatives are worked out by hand here too, from tensors' own operations. candle's way back
//! would make a full-sized gradient for every frozen weight and keep the whole graph; operations of our
//! own would need kernels of their own. Hidden states and frozen weights are in the device's numbers
//! (bf16 on a GPU); norms, softmax, gates and losses are computed in f32. What is trained, and the
//! optimiser, stay in f32 on the host: a step takes the numbers to the device and the gradient back.

mod ops;

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{D, DType, Device, Result, Tensor};

use crate::{
    adapter::{Group, GroupPlace, Layout},
    blocks::{Kind, Packed},
    data::Batch,
    model::{Model, Projection, Slot},
    ops::{attention::Heads, loss::Prediction},
    step::{self, Adapter, Keep, Noise, Weigh},
};
use ops::{Grid, Turns, attention, attention_backward, gated, gated_backward, norm, norm_backward};

/// Logits that exist at a time, in numbers.
const LOGITS: usize = 1 << 26;

/// Where tensors are, and in which numbers.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
}

/// A model on a device.
pub(crate) struct Engine<'a> {
    model: &'a Model,
    place: Place,
    layers: Vec<Layer>,
    norms: BTreeMap<Slot, Tensor>,
    /// The output matrix, where it is not trained.
    head: Option<Tensor>,
}

/// The frozen parts of a layer, by the order of its projections.
struct Layer {
    linear: Vec<Linear>,
}

struct Linear {
    /// (output, input); none where it is trained.
    weight: Option<Frozen>,
    bias: Option<Tensor>,
}

enum Frozen {
    Numbers(Tensor),
    /// Unpacked each time.
    Blocks(QTensor),
    /// Unpacked each time, by whoever packed it on the host.
    Host,
}

/// What is trained, as it is now.
struct Trained<'a> {
    adapter: Adapter<'a>,
    /// All numbers in f32, and in the place's.
    exact: Tensor,
    numbers: Tensor,
}

impl Trained<'_> {
    fn layout(&self) -> &Layout {
        self.adapter.layout
    }

    fn part(&self, range: &Range<usize>, shape: (usize, usize)) -> Result<Tensor> {
        self.numbers.narrow(0, range.start, range.len())?.reshape(shape)
    }

    fn exact(&self, range: &Range<usize>) -> Result<Tensor> {
        self.exact.narrow(0, range.start, range.len())
    }
}

/// A batch on its way.
struct Pass<'a> {
    batch: &'a Batch,
    trained: Option<Trained<'a>>,
    grid: Grid,
    turns: Turns,
    /// Of layers whose attention is windowed, where theirs differ.
    local_turns: Option<Turns>,
    /// What `DoRA` makes of adapted weights.
    directions: BTreeMap<(usize, Projection), Direction>,
}

/// The rows of an adapted weight are brought to a trained length.
struct Direction {
    /// The rows' lengths as they are, in f32.
    lengths: Tensor,
    /// Trained length over length as it is, in the place's numbers.
    factors: Tensor,
}

/// What the way back through a layer needs besides the layer's input.
struct Activations {
    /// Queries and keys before their heads were normalised, where they are.
    raw: Option<Tensor>,
    qkv: Tensor,
    attended: Tensor,
    attention_output: Option<Tensor>,
    middle: Tensor,
    gate_up: Tensor,
    mlp_output: Option<Tensor>,
    groups: [GroupActivations; 4],
}

/// What the way back through a group needs besides its input.
#[derive(Default)]
struct GroupActivations {
    /// Inputs times A, scaled: (tokens, members * rank).
    low: Option<Tensor>,
    /// Results before `DoRA` brings them to length, by member.
    results: Vec<Tensor>,
}

/// Derivatives to what is trained, with their places.
#[derive(Default)]
struct Sink(Vec<(Range<usize>, Tensor)>);

impl Sink {
    fn push(&mut self, place: &Range<usize>, d: Tensor) {
        self.0.push((place.clone(), d));
    }

    /// Adds everything to `gradient`.
    fn pour(self, gradient: &mut [f32]) -> Result<()> {
        for (place, d) in self.0 {
            let d: Vec<f32> = d.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            gradient[place].iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
        }
        Ok(())
    }
}

impl<'a> Engine<'a> {
    /// Takes the model to the device, but for the tensors that `layout` trains.
    ///
    /// # Errors
    /// The device has no room.
    pub(crate) fn new(model: &'a Model, layout: Option<&Layout>, place: Place) -> Result<Self> {
        let is_trained = |slot: Slot| layout.is_some_and(|layout| layout.whole.contains_key(&slot));
        let config = &model.config;
        let mut norms = BTreeMap::new();
        let mut layers = Vec::new();
        for index in 0..config.layers {
            let mut linear = Vec::new();
            for projection in Projection::ALL {
                let own = model.layers[index].linear(projection);
                let shape = projection.shape(config);
                let weight = match &own.packed {
                    _ if is_trained(Slot::Weight(index, projection)) => None,
                    Some(Packed::Other(..)) => Some(Frozen::Host),
                    Some(Packed::Blocks(blocks)) => {
                        let kind = match blocks.kind() {
                            Kind::Q4 => GgmlDType::Q4_0,
                            Kind::Q5 => GgmlDType::Q5_0,
                            Kind::Q8 => GgmlDType::Q8_0,
                        };
                        let data = blocks.data().into();
                        let storage = QStorage::from_data(data, &place.device, kind)?;
                        Some(Frozen::Blocks(QTensor::new(storage, shape)?))
                    }
                    None => {
                        let numbers = place.numbers(&own.weight, shape)?;
                        own.weight.release();
                        Some(Frozen::Numbers(numbers))
                    }
                };
                let bias = own.bias.as_ref().filter(|_| !is_trained(Slot::Bias(index, projection)));
                let bias = bias.map(|bias| place.numbers(bias, bias.len())).transpose()?;
                linear.push(Linear { weight, bias });
            }
            layers.push(Layer { linear });
            let layer = &model.layers[index];
            let mut keep = |slot: Slot, w: &[f32]| -> Result<()> {
                norms.insert(slot, Tensor::new(w, &place.device)?);
                Ok(())
            };
            keep(Slot::AttentionNorm(index), &layer.attention_norm)?;
            keep(Slot::MlpNorm(index), &layer.mlp_norm)?;
            if let Some([q, k]) = &layer.head_norms {
                keep(Slot::QueryNorm(index), q)?;
                keep(Slot::KeyNorm(index), k)?;
            }
            if let Some([attention, mlp]) = &layer.post_norms {
                keep(Slot::AttentionPostNorm(index), attention)?;
                keep(Slot::MlpPostNorm(index), mlp)?;
            }
        }
        norms.insert(Slot::Norm, Tensor::new(&*model.norm, &place.device)?);
        let head_is_trained =
            is_trained(Slot::Head) || model.is_tied() && is_trained(Slot::Embedding);
        let shape = (config.vocabulary, config.hidden);
        let head = (!head_is_trained).then(|| place.numbers(model.head(), shape)).transpose()?;
        Ok(Self { model, place, layers, norms, head })
    }

    /// As [`step::Engine::predict`].
    ///
    /// # Errors
    /// The device fails, or has no room.
    pub(crate) fn predict(
        &self,
        batch: &Batch,
        adapter: Option<Adapter<'_>>,
    ) -> Result<Vec<Prediction>> {
        let behind = step::behind(self.model, batch, adapter);
        let batch = behind.as_ref().unwrap_or(batch);
        let pass = self.pass(batch, adapter)?;
        let mut hidden = self.embed(batch, adapter, None)?;
        for index in 0..self.layers.len() {
            hidden = self.forward(&pass, index, &hidden)?.0;
        }
        let (rows, _) = self.last_rows(&pass, &hidden)?;
        Ok(self.losses(&pass, &rows, Weights::None, &mut Sink::default())?.0)
    }

    /// As [`step::Engine::learn_weighted`].
    ///
    /// # Errors
    /// The device fails, or has no room.
    pub(crate) fn learn_weighted(
        &self,
        batch: &Batch,
        adapter: Adapter<'_>,
        weigh: Weigh<'_>,
        keep: Keep,
        noise: Option<Noise>,
        gradient: &mut [f32],
    ) -> Result<Vec<Prediction>> {
        let behind = step::behind(self.model, batch, Some(adapter));
        let batch = behind.as_ref().unwrap_or(batch);
        let pass = self.pass(batch, Some(adapter))?;
        let lowest = adapter.layout.lowest();
        let (mut inputs, mut kept) = (Vec::new(), Vec::new());
        let mut hidden = self.embed(batch, Some(adapter), noise)?;
        for index in 0..self.layers.len() {
            let (output, activations) = self.forward(&pass, index, &hidden)?;
            let input = std::mem::replace(&mut hidden, output);
            // Nothing below the lowest layer that learns needs a way back.
            if index >= lowest {
                inputs.push(input);
                kept.push((keep == Keep::Activations).then_some(activations));
            }
        }
        let mut sink = Sink::default();
        let (rows, raw) = self.last_rows(&pass, &hidden)?;
        let (predictions, d_rows) = match weigh {
            Weigh::Same(weight) => self.losses(&pass, &rows, Weights::Same(weight), &mut sink)?,
            Weigh::Each(weigh) => {
                let (predictions, _) = self.losses(&pass, &rows, Weights::None, &mut sink)?;
                let weights = weigh(&predictions);
                self.losses(&pass, &rows, Weights::Each(&weights), &mut sink)?
            }
            Weigh::Rewards(weigh) => {
                (Vec::new(), Some(self.rewards(&pass, &rows, weigh, &mut sink)?))
            }
        };
        let Some(d_rows) = d_rows else { return Ok(predictions) };
        let mut d = self.through_last_norm(&pass, &d_rows, &raw, &hidden, &mut sink)?;
        for index in (lowest..self.layers.len()).rev() {
            let (Some(input), Some(activations)) = (inputs.pop(), kept.pop()) else { break };
            let activations = match activations {
                Some(activations) => activations,
                None => self.forward(&pass, index, &input)?.1,
            };
            d = self.backward(&pass, index, &input, &activations, d, &mut sink)?;
        }
        sink.pour(gradient)?;
        let layout = adapter.layout;
        if layout.virtual_tokens > 0 || layout.whole.contains_key(&Slot::Embedding) {
            let d: Vec<f32> = d.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            step::embedding_gradient(self.model, batch, layout, &d, gradient);
        }
        Ok(predictions)
    }

    fn pass<'b>(&self, batch: &'b Batch, adapter: Option<Adapter<'b>>) -> Result<Pass<'b>> {
        let (config, device) = (&self.model.config, &self.place.device);
        let trained = adapter.map(|adapter| {
            let exact = Tensor::new(adapter.parameters, device)?;
            let numbers = exact.to_dtype(self.place.dtype)?;
            Ok::<_, candle_core::Error>(Trained { adapter, exact, numbers })
        });
        let local = config.local_frequencies.as_ref();
        let mut pass = Pass {
            batch,
            trained: trained.transpose()?,
            grid: Grid::new(batch, config.window, device)?,
            turns: Turns::new(&config.frequencies, &batch.positions, device)?,
            local_turns: local
                .map(|frequencies| Turns::new(frequencies, &batch.positions, device))
                .transpose()?,
            directions: BTreeMap::new(),
        };
        pass.directions = self.directions(&pass)?;
        Ok(pass)
    }

    fn directions(&self, pass: &Pass<'_>) -> Result<BTreeMap<(usize, Projection), Direction>> {
        let mut directions = BTreeMap::new();
        let Some(trained) = pass.trained.as_ref().filter(|t| t.layout().dora) else {
            return Ok(directions);
        };
        let (rank, scale) = (trained.layout().rank, f64::from(trained.layout().scale()));
        for index in 0..self.layers.len() {
            for group in Group::ALL {
                let place = trained.layout().group(index, group);
                for (i, (projection, b)) in place.members.iter().enumerate() {
                    let (rows, columns) = projection.shape(&self.model.config);
                    let from = place.a.start + i * rank * columns;
                    let a = trained.exact(&(from..from + rank * columns))?;
                    let b = trained.exact(b)?.reshape((rows, rank))?;
                    let change = b.matmul(&a.reshape((rank, columns))?)?;
                    let weight = self.weight(pass, index, *projection)?.to_dtype(DType::F32)?;
                    let merged = (weight + (change * scale)?)?;
                    let lengths = merged.sqr()?.sum(1)?.sqrt()?;
                    let factors = (trained.exact(&place.magnitudes[i])? / &lengths)?;
                    let factors = factors.to_dtype(self.place.dtype)?;
                    directions.insert((index, *projection), Direction { lengths, factors });
                }
            }
        }
        Ok(directions)
    }

    fn embed(
        &self,
        batch: &Batch,
        adapter: Option<Adapter<'_>>,
        noise: Option<Noise>,
    ) -> Result<Tensor> {
        let rows = step::embed(self.model, batch, adapter, noise);
        self.place.numbers(&rows, (batch.tokens.len(), self.model.config.hidden))
    }

    /// The weight of a norm by which it multiplies, in f32.
    fn norm(&self, pass: &Pass<'_>, slot: Slot) -> Result<Tensor> {
        match pass.in_place_of(slot) {
            Some((trained, place)) if self.model.config.gemma => trained.exact(place)? + 1.0,
            Some((trained, place)) => trained.exact(place),
            None => Ok(self.norms[&slot].clone()),
        }
    }

    fn weight(&self, pass: &Pass<'_>, index: usize, projection: Projection) -> Result<Tensor> {
        if let Some((trained, place)) = pass.in_place_of(Slot::Weight(index, projection)) {
            return trained.part(place, projection.shape(&self.model.config));
        }
        match &self.layers[index].linear[projection as usize].weight {
            Some(Frozen::Numbers(numbers)) => Ok(numbers.clone()),
            Some(Frozen::Blocks(blocks)) => {
                blocks.dequantize(&self.place.device)?.to_dtype(self.place.dtype)
            }
            Some(Frozen::Host) => {
                let (rows, columns) = projection.shape(&self.model.config);
                let mut numbers = vec![0.0; rows * columns];
                let linear = self.model.layers[index].linear(projection);
                self.place.numbers(linear.unpacked(&mut numbers), (rows, columns))
            }
            None => candle_core::bail!("layer {index} has no {}", projection.name()),
        }
    }

    fn bias(
        &self,
        pass: &Pass<'_>,
        index: usize,
        projection: Projection,
    ) -> Result<Option<Tensor>> {
        match pass.in_place_of(Slot::Bias(index, projection)) {
            Some((trained, place)) => {
                Ok(Some(trained.numbers.narrow(0, place.start, place.len())?))
            }
            None => Ok(self.layers[index].linear[projection as usize].bias.clone()),
        }
    }

    fn heads(&self, index: usize) -> Heads {
        let config = &self.model.config;
        Heads {
            query_heads: config.heads,
            key_heads: config.key_heads,
            head: config.head,
            scale: config.attention_scale,
            window: config.window.filter(|_| config.windowed[index]),
        }
    }

    /// A layer's output, and what the way back needs.
    fn forward(
        &self,
        pass: &Pass<'_>,
        index: usize,
        input: &Tensor,
    ) -> Result<(Tensor, Activations)> {
        let config = &self.model.config;
        let (epsilon, gemma) = (config.norm_epsilon, self.model.layers[index].post_norms.is_some());
        let by = |slot: Slot, x: &Tensor| norm(x, &self.norm(pass, slot)?, epsilon);
        let normed = by(Slot::AttentionNorm(index), input)?;
        let (results, attention_group) = self.group(pass, index, Group::Attention, &normed)?;
        let mut qkv = Tensor::cat(&results, 1)?;
        let mut raw = None;
        if self.model.layers[index].head_norms.is_some() {
            raw = Some(qkv.clone());
            let (q, k) = (config.query(), config.key());
            let of_heads = |slot: Slot, from: usize, columns: usize| {
                let x = qkv.narrow(1, from, columns)?;
                let apart = x.reshape((x.dim(0)?, columns / config.head, config.head))?;
                by(slot, &apart)?.reshape(x.shape())
            };
            qkv = Tensor::cat(
                &[
                    of_heads(Slot::QueryNorm(index), 0, q)?,
                    of_heads(Slot::KeyNorm(index), q, k)?,
                    qkv.narrow(1, q + k, k)?,
                ],
                1,
            )?;
        }
        let qkv = pass.turns(config.windowed[index]).turn(
            &qkv,
            config.heads + config.key_heads,
            config.head,
        )?;
        let attended = attention(&qkv, &pass.grid, self.heads(index))?;
        let (results, output_group) = self.group(pass, index, Group::Output, &attended)?;
        let mut added = results[0].clone();
        let attention_output = gemma.then(|| added.clone());
        if gemma {
            added = by(Slot::AttentionPostNorm(index), &added)?;
        }
        let middle = (input + added)?;
        let normed = by(Slot::MlpNorm(index), &middle)?;
        let (results, gate_up_group) = self.group(pass, index, Group::GateUp, &normed)?;
        let gate_up = Tensor::cat(&results, 1)?;
        let value = gated(config.activation, &gate_up)?;
        let (results, down_group) = self.group(pass, index, Group::Down, &value)?;
        let mut added = results[0].clone();
        let mlp_output = gemma.then(|| added.clone());
        if gemma {
            added = by(Slot::MlpPostNorm(index), &added)?;
        }
        let output = (&middle + added)?;
        let groups = [attention_group, output_group, gate_up_group, down_group];
        let activations = Activations {
            raw,
            qkv,
            attended,
            attention_output,
            middle,
            gate_up,
            mlp_output,
            groups,
        };
        Ok((output, activations))
    }

    /// The derivative to a layer's input, from `d`, that to its output.
    fn backward(
        &self,
        pass: &Pass<'_>,
        index: usize,
        input: &Tensor,
        act: &Activations,
        d: Tensor,
        sink: &mut Sink,
    ) -> Result<Tensor> {
        let config = &self.model.config;
        let through = |slot: Slot, d: &Tensor, x: &Tensor, sink: &mut Sink| {
            self.through_norm(pass, slot, d, x, sink)
        };
        let d_mlp = match &act.mlp_output {
            None => d.clone(),
            Some(x) => through(Slot::MlpPostNorm(index), &d, x, sink)?,
        };
        let value = gated(config.activation, &act.gate_up)?;
        let d_value = self.group_backward(pass, index, Group::Down, &d_mlp, &value, act, sink)?;
        let d_gate_up = gated_backward(config.activation, &act.gate_up, &d_value)?;
        let w = self.norm(pass, Slot::MlpNorm(index))?;
        let normed = norm(&act.middle, &w, config.norm_epsilon)?;
        let d_normed =
            self.group_backward(pass, index, Group::GateUp, &d_gate_up, &normed, act, sink)?;
        let d = (d + through(Slot::MlpNorm(index), &d_normed, &act.middle, sink)?)?;

        let d_attention = match &act.attention_output {
            None => d.clone(),
            Some(x) => through(Slot::AttentionPostNorm(index), &d, x, sink)?,
        };
        let d_attended = self.group_backward(
            pass,
            index,
            Group::Output,
            &d_attention,
            &act.attended,
            act,
            sink,
        )?;
        let d_qkv = attention_backward(&act.qkv, &pass.grid, self.heads(index), &d_attended)?;
        let turned = config.heads + config.key_heads;
        let back = pass.turns(config.windowed[index]).back()?;
        let mut d_qkv = back.turn(&d_qkv, turned, config.head)?;
        if let Some(raw) = &act.raw {
            let (q, k) = (config.query(), config.key());
            let mut of_heads = |slot: Slot, from: usize, columns: usize| {
                let apart = |x: &Tensor| {
                    let x = x.narrow(1, from, columns)?;
                    x.reshape((x.dim(0)?, columns / config.head, config.head))
                };
                let d = through(slot, &apart(&d_qkv)?, &apart(raw)?, sink)?;
                d.reshape((d.dim(0)?, columns))
            };
            let d_q = of_heads(Slot::QueryNorm(index), 0, q)?;
            let d_k = of_heads(Slot::KeyNorm(index), q, k)?;
            d_qkv = Tensor::cat(&[d_q, d_k, d_qkv.narrow(1, q + k, k)?], 1)?;
        }
        let w = self.norm(pass, Slot::AttentionNorm(index))?;
        let normed = norm(input, &w, config.norm_epsilon)?;
        let d_normed =
            self.group_backward(pass, index, Group::Attention, &d_qkv, &normed, act, sink)?;
        d + through(Slot::AttentionNorm(index), &d_normed, input, sink)?
    }

    /// The derivative to a norm's input, in the place's numbers. That to its weight goes to `sink` where
    /// it is trained.
    fn through_norm(
        &self,
        pass: &Pass<'_>,
        slot: Slot,
        d: &Tensor,
        x: &Tensor,
        sink: &mut Sink,
    ) -> Result<Tensor> {
        let w = self.norm(pass, slot)?;
        let (dx, dw) = norm_backward(d, x, &w, self.model.config.norm_epsilon)?;
        if let Some(place) = pass.whole(slot) {
            let columns = dw.dim(D::Minus1)?;
            sink.push(place, dw.reshape(((), columns))?.sum(0)?);
        }
        dx.to_dtype(self.place.dtype)
    }

    /// The results of the linear layers of a group.
    fn group(
        &self,
        pass: &Pass<'_>,
        index: usize,
        group: Group,
        input: &Tensor,
    ) -> Result<(Vec<Tensor>, GroupActivations)> {
        let mut act = GroupActivations::default();
        let adapted = pass.adapted(index, group);
        if let Some((trained, place)) = adapted {
            let size = input.dim(1)?;
            let rank = trained.layout().rank;
            let a = trained.part(&place.a, (place.members.len() * rank, size))?;
            let low = match self.dropped(pass, index, place, input)? {
                None => input.matmul(&a.t()?)?,
                Some(inputs) => {
                    let each = inputs
                        .iter()
                        .enumerate()
                        .map(|(i, input)| input.matmul(&a.narrow(0, i * rank, rank)?.t()?));
                    Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 1)?
                }
            };
            act.low = Some((low * f64::from(trained.layout().scale()))?);
        }
        let mut results = Vec::new();
        for projection in group.projections() {
            let weight = self.weight(pass, index, *projection)?;
            let mut result = input.matmul(&weight.t()?)?;
            if let Some((trained, place)) = adapted
                && let Some(i) = place.members.iter().position(|member| member.0 == *projection)
                && let Some(low) = &act.low
            {
                let rank = trained.layout().rank;
                let b = trained.part(&place.members[i].1, (weight.dim(0)?, rank))?;
                let low = low.narrow(1, i * rank, rank)?.contiguous()?;
                result = (result + low.matmul(&b.t()?)?)?;
            }
            if let Some(direction) = pass.directions.get(&(index, *projection)) {
                act.results.push(result.clone());
                result = result.broadcast_mul(&direction.factors)?;
            }
            if let Some(bias) = self.bias(pass, index, *projection)? {
                result = result.broadcast_add(&bias)?;
            }
            results.push(result);
        }
        Ok((results, act))
    }

    /// The derivative to a group's input, from `d`, that to its results side by side.
    #[expect(clippy::too_many_arguments, reason = "everything a group's derivative depends on")]
    fn group_backward(
        &self,
        pass: &Pass<'_>,
        index: usize,
        group: Group,
        d: &Tensor,
        input: &Tensor,
        act: &Activations,
        sink: &mut Sink,
    ) -> Result<Tensor> {
        let act = &act.groups[group as usize];
        let adapted = pass.adapted(index, group);
        let (mut d_input, mut d_lows) = (None, Vec::new());
        let mut column = 0;
        for projection in group.projections() {
            let columns = projection.shape(&self.model.config).0;
            let mut d = d.narrow(1, column, columns)?.contiguous()?;
            column += columns;
            if let Some(place) = pass.whole(Slot::Weight(index, *projection)) {
                sink.push(place, d.t()?.matmul(input)?);
            }
            if let Some(place) = pass.whole(Slot::Bias(index, *projection)) {
                sink.push(place, d.to_dtype(DType::F32)?.sum(0)?);
            }
            if let Some((trained, place)) = adapted
                && let Some(i) = place.members.iter().position(|member| member.0 == *projection)
                && let Some(low) = &act.low
            {
                let rank = trained.layout().rank;
                if let Some(direction) = pass.directions.get(&(index, *projection)) {
                    // The rows' lengths count as constant in the derivative, as in the paper and in PEFT.
                    let along = (&d * &act.results[i])?.to_dtype(DType::F32)?.sum(0)?;
                    sink.push(&place.magnitudes[i], (along / &direction.lengths)?);
                    d = d.broadcast_mul(&direction.factors)?;
                }
                let low = low.narrow(1, i * rank, rank)?.contiguous()?;
                sink.push(&place.members[i].1, d.t()?.matmul(&low)?);
                let b = trained.part(&place.members[i].1, (columns, rank))?;
                d_lows.push((d.matmul(&b)? * f64::from(trained.layout().scale()))?);
            }
            let part = d.matmul(&self.weight(pass, index, *projection)?)?;
            d_input = Some(match d_input {
                None => part,
                Some(sum) => (sum + part)?,
            });
        }
        let Some(mut d_input) = d_input else { candle_core::bail!("a group has no projection") };
        let Some((trained, place)) = adapted else { return Ok(d_input) };
        let (rank, size) = (trained.layout().rank, input.dim(1)?);
        let a = trained.part(&place.a, (place.members.len() * rank, size))?;
        let masks = self.masks(pass, index, place, input)?;
        for (i, d_low) in d_lows.iter().enumerate() {
            let from = place.a.start + i * rank * size;
            let range = from..from + rank * size;
            let mut back = d_low.matmul(&a.narrow(0, i * rank, rank)?)?;
            if let Some(masks) = &masks {
                sink.push(&range, d_low.t()?.matmul(&(input * &masks[i])?)?);
                back = (back * &masks[i])?;
            } else {
                sink.push(&range, d_low.t()?.matmul(input)?);
            }
            d_input = (d_input + back)?;
        }
        Ok(d_input)
    }

    /// What each member's dropout multiplies its input by; none without dropout.
    fn masks(
        &self,
        pass: &Pass<'_>,
        index: usize,
        place: &GroupPlace,
        input: &Tensor,
    ) -> Result<Option<Vec<Tensor>>> {
        let dropout = pass.trained.as_ref().and_then(|trained| trained.adapter.dropout);
        let Some(dropout) = dropout else { return Ok(None) };
        let (n, size) = input.dims2()?;
        let masks = place.members.iter().map(|(projection, _)| {
            let mut mask = vec![1.0; n * size];
            step::silence(dropout, index, *projection, &pass.batch.keys, size, &mut mask);
            self.place.numbers(&mask, (n, size))
        });
        Ok(Some(masks.collect::<Result<_>>()?))
    }

    fn dropped(
        &self,
        pass: &Pass<'_>,
        index: usize,
        place: &GroupPlace,
        input: &Tensor,
    ) -> Result<Option<Vec<Tensor>>> {
        let masks = self.masks(pass, index, place, input)?;
        masks.map(|masks| masks.iter().map(|mask| input * mask).collect()).transpose()
    }

    /// The normalised hidden states that predict a target, and the same before the norm.
    fn last_rows(&self, pass: &Pass<'_>, hidden: &Tensor) -> Result<(Tensor, Tensor)> {
        let raw = hidden.index_select(&self.sources(pass)?, 0)?;
        let w = self.norm(pass, Slot::Norm)?;
        Ok((norm(&raw, &w, self.model.config.norm_epsilon)?, raw))
    }

    fn sources(&self, pass: &Pass<'_>) -> Result<Tensor> {
        let sources: Vec<u32> = pass.batch.sources.iter().map(|source| *source as u32).collect();
        let n = sources.len();
        Tensor::from_vec(sources, n, &self.place.device)
    }

    /// The derivative to the last hidden states, from that to their normalised sources.
    fn through_last_norm(
        &self,
        pass: &Pass<'_>,
        d_rows: &Tensor,
        raw: &Tensor,
        hidden: &Tensor,
        sink: &mut Sink,
    ) -> Result<Tensor> {
        let d_raw = self.through_norm(pass, Slot::Norm, d_rows, raw, sink)?;
        hidden.zeros_like()?.index_add(&self.sources(pass)?, &d_raw, 0)
    }

    /// What is predicted from rows, and with weights the derivative to these.
    fn losses(
        &self,
        pass: &Pass<'_>,
        rows: &Tensor,
        weights: Weights<'_>,
        sink: &mut Sink,
    ) -> Result<(Vec<Prediction>, Option<Tensor>)> {
        let (head, place) = self.head(pass)?;
        let vocabulary = head.dim(0)?;
        let targets = &pass.batch.targets;
        let at_a_time = (LOGITS / vocabulary).max(1);
        let (mut predictions, mut derivatives) = (Vec::new(), Vec::new());
        for from in (0..targets.len()).step_by(at_a_time) {
            let n = at_a_time.min(targets.len() - from);
            let rows = rows.narrow(0, from, n)?;
            let logits = rows.matmul(&head.t()?)?.to_dtype(DType::F32)?;
            let target = Tensor::new(&targets[from..from + n], &self.place.device)?;
            let target = target.unsqueeze(1)?;
            let most = logits.max_keepdim(1)?;
            let shares = logits.broadcast_sub(&most)?.exp()?;
            let sum = shares.sum_keepdim(1)?;
            let of_target = (logits.gather(&target, 1)? - most)?;
            let loss: Vec<f32> = (sum.log()? - of_target)?.flatten_all()?.to_vec1()?;
            let top: Vec<u32> = logits.argmax(1)?.to_vec1()?;
            predictions
                .extend(loss.into_iter().zip(top).map(|(loss, top)| Prediction { loss, top }));
            let weights = match weights {
                Weights::None => continue,
                Weights::Same(weight) => vec![weight; n],
                Weights::Each(weights) => weights[from..from + n].to_vec(),
            };
            let weights = Tensor::from_vec(weights, (n, 1), &self.place.device)?;
            let d = shares.broadcast_mul(&(&weights / sum)?)?;
            let d = d.scatter_add(&target, &weights.neg()?, 1)?.to_dtype(self.place.dtype)?;
            if let Some(place) = place {
                sink.push(place, d.t()?.matmul(&rows)?);
            }
            derivatives.push(d.matmul(&head)?);
        }
        let all = (!derivatives.is_empty()).then(|| Tensor::cat(&derivatives, 0));
        Ok((predictions, all.transpose()?))
    }

    /// The output matrix, and its place where it is trained.
    fn head<'b>(&self, pass: &'b Pass<'_>) -> Result<(Tensor, Option<&'b Range<usize>>)> {
        if let Some(head) = &self.head {
            return Ok((head.clone(), None));
        }
        let tied = || pass.whole(Slot::Embedding).filter(|_| self.model.is_tied());
        let place = pass.whole(Slot::Head).or_else(tied);
        let (Some(trained), Some(place)) = (&pass.trained, place) else {
            candle_core::bail!("there is no output matrix")
        };
        let shape = (self.model.config.vocabulary, self.model.config.hidden);
        Ok((trained.part(place, shape)?, Some(place)))
    }

    /// The derivative to rows of which each has a reward.
    fn rewards(
        &self,
        pass: &Pass<'_>,
        rows: &Tensor,
        weigh: &mut dyn FnMut(&[f32]) -> Vec<f32>,
        sink: &mut Sink,
    ) -> Result<Tensor> {
        let place = pass.trained.as_ref().and_then(|t| Some((t, t.layout().score.as_ref()?)));
        let Some((trained, place)) = place else { return rows.zeros_like() };
        let score = trained.exact(place)?.unsqueeze(0)?;
        let rows = rows.to_dtype(DType::F32)?;
        let rewards: Vec<f32> = rows.matmul(&score.t()?)?.flatten_all()?.to_vec1()?;
        let slopes = weigh(&rewards);
        let slopes = Tensor::from_vec(slopes, (rewards.len(), 1), &self.place.device)?;
        sink.push(place, slopes.t()?.matmul(&rows)?);
        slopes.matmul(&score)?.to_dtype(self.place.dtype)
    }
}

impl Place {
    fn numbers(&self, numbers: &[f32], shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
        Tensor::from_slice(numbers, shape, &self.device)?.to_dtype(self.dtype)
    }
}

impl<'a> Pass<'a> {
    /// A group's place in the adapter, where it has one.
    fn adapted(&self, index: usize, group: Group) -> Option<(&Trained<'a>, &GroupPlace)> {
        let trained = self.trained.as_ref()?;
        let place = trained.layout().group(index, group);
        (!place.members.is_empty()).then_some((trained, place))
    }

    /// What is trained in the place of a tensor of the model, and where its numbers lie.
    fn in_place_of(&self, slot: Slot) -> Option<(&Trained<'a>, &Range<usize>)> {
        let trained = self.trained.as_ref()?;
        Some((trained, trained.layout().whole.get(&slot)?))
    }

    /// Where the numbers of a tensor of the model lie that is trained itself.
    fn whole(&self, slot: Slot) -> Option<&Range<usize>> {
        self.in_place_of(slot).map(|(_, place)| place)
    }

    fn turns(&self, windowed: bool) -> &Turns {
        self.local_turns.as_ref().filter(|_| windowed).unwrap_or(&self.turns)
    }
}

/// How much each loss counts in the derivative.
#[derive(Clone, Copy)]
enum Weights<'a> {
    /// No derivative is asked for.
    None,
    Same(f32),
    Each(&'a [f32]),
}
