//! What is trained, and where its numbers lie: low-rank adapters (Hu et al. 2021) with PEFT's files,
//! or tensors of the model itself.
//!
//! All trained numbers lie in one vector, so that the optimiser knows nothing of modules. The
//! projections of a layer that read the same input form a group, and the A matrices of a group lie
//! one after the other: one product serves them all.

use std::{collections::BTreeMap, ops::Range, path::Path};

use bench_core::spec::{Finetune, InitLoraWeights, Method, Objective};
use fs_err as fs;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::error::TrainError;
use crate::model::{Config, Model, Projection, Slot, Weight, Weights};
use crate::tensor_file;

/// The file with the numbers.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT calls the kind of a soft prompt, and its one tensor.
pub(crate) const PROMPT_TUNING: &str = "PROMPT_TUNING";
/// What PEFT calls the task of a reward model, and the tensor of its head.
pub(crate) const REWARD_TASK: &str = "SEQ_CLS";
const SCORE: &str = "base_model.model.score.weight";
const PROMPT_EMBEDDINGS: &str = "prompt_embeddings";
/// The file with rank, scale and modules.
pub(crate) const CONFIG: &str = "adapter_config.json";

/// Projections that read the same input, in the order of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Query, key and value.
    Attention,
    /// The attention's output.
    Output,
    /// Gate and up.
    GateUp,
    /// Down.
    Down,
}

impl Group {
    pub(crate) const ALL: [Self; 4] = [Self::Attention, Self::Output, Self::GateUp, Self::Down];

    pub(crate) fn projections(self) -> &'static [Projection] {
        match self {
            Self::Attention => &[Projection::Q, Projection::K, Projection::V],
            Self::Output => &[Projection::O],
            Self::GateUp => &[Projection::Gate, Projection::Up],
            Self::Down => &[Projection::Down],
        }
    }
}

/// Where the numbers of a group lie.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupPlace {
    /// A of all members: `members * rank` rows of the input's size.
    pub(crate) a: Range<usize>,
    /// Each member with its B: (output, rank).
    pub(crate) members: Vec<(Projection, Range<usize>)>,
    /// The magnitude of each member's outputs under `DoRA` (Liu et al. 2024); none without it.
    pub(crate) magnitudes: Vec<Range<usize>>,
}

/// Rank, scale and places of the trained numbers.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
    pub(crate) targets: Vec<Projection>,
    pub(crate) dora: bool,
    layers: Vec<[GroupPlace; 4]>,
    /// Tensors of the model that are trained themselves: the places of their current numbers, which
    /// stand in for the model's own.
    pub(crate) whole: BTreeMap<Slot, Range<usize>>,
    /// Virtual tokens before every row: their embeddings are all numbers there are. 0 without.
    pub(crate) virtual_tokens: usize,
    /// The weights that make a reward of the last hidden state, in a reward model.
    pub(crate) score: Option<Range<usize>>,
    pub(crate) len: usize,
}

impl Layout {
    fn new(config: &Config, rank: usize, alpha: f64, targets: Vec<Projection>, dora: bool) -> Self {
        let size = rank;
        let mut len = 0;
        let mut next = |n: usize| {
            len += n;
            len - n..len
        };
        let layers = (0..config.layers).map(|_| {
            Group::ALL.map(|group| {
                let members = group.projections().iter().filter(|p| targets.contains(p));
                let members: Vec<_> = members.copied().collect();
                let Some(first) = members.first() else { return GroupPlace::default() };
                let a = next(members.len() * size * first.shape(config).1);
                let places = members.iter().map(|p| (*p, next(p.shape(config).0 * size)));
                let places = places.collect();
                let magnitudes = members.iter().filter(|_| dora).map(|p| next(p.shape(config).0));
                let magnitudes = magnitudes.collect();
                GroupPlace { a, members: places, magnitudes }
            })
        });
        let layers = layers.collect();
        let whole = BTreeMap::new();
        let (virtual_tokens, score) = (0, None);
        Self { rank: size, alpha, targets, dora, layers, whole, virtual_tokens, score, len }
    }

    /// The same with weights that make a reward of the last hidden state.
    fn rewarding(mut self, config: &Config) -> Self {
        self.score = Some(self.len..self.len + config.hidden);
        self.len += config.hidden;
        self
    }

    /// A soft prompt of `n` virtual tokens (Lester et al. 2021).
    fn soft(config: &Config, n: usize) -> Self {
        let none = Self::new(config, 1, 1.0, Vec::new(), false);
        Self { virtual_tokens: n, len: n * config.hidden, ..none }
    }

    /// What `settings` ask for.
    pub(crate) fn of_settings(model: &Model, settings: &Finetune) -> Result<Self, TrainError> {
        match settings.method {
            Method::Lora | Method::Qlora => {
                let layout = Self::low_rank(&model.config, settings)?;
                let rewards = settings.objective == Objective::Reward;
                Ok(if rewards { layout.rewarding(&model.config) } else { layout })
            }
            Method::Full | Method::LastLayers | Method::Head | Method::Bitfit => {
                Self::of_tensors(model, settings)
            }
            Method::SoftPrompt => {
                Ok(Self::soft(&model.config, settings.num_virtual_tokens as usize))
            }
        }
    }

    fn low_rank(config: &Config, settings: &Finetune) -> Result<Self, TrainError> {
        let targets = targets(&settings.target_modules)?;
        let rank = settings.lora_r;
        let most = |target: &Projection| {
            let (output, input) = target.shape(config);
            output.min(input)
        };
        if let Some(narrowest) = targets.iter().min_by_key(|target| most(target)) {
            let most = most(narrowest);
            if !(1..=most).contains(&(rank as usize)) {
                return Err(TrainError::Rank { rank, module: narrowest.name(), most });
            }
        }
        // Kalajdzievski 2023: the scale alpha / sqrt(r) keeps the update's size as the rank grows.
        let stabilised = if settings.use_rslora { f64::from(rank).sqrt() } else { 1.0 };
        let alpha = settings.lora_alpha * stabilised;
        Ok(Self::new(config, rank as usize, alpha, targets, settings.use_dora))
    }

    fn of_tensors(model: &Model, settings: &Finetune) -> Result<Self, TrainError> {
        let layers = model.config.layers;
        let k = settings.last_layers as usize;
        if settings.method == Method::LastLayers && !(1..=layers).contains(&k) {
            return Err(TrainError::Layers { asked: k, layers });
        }
        let slots = model.slots()?;
        let tied = !slots.contains_key(&Slot::Head);
        let mut chosen: Vec<(Slot, usize)> = slots
            .into_iter()
            .filter(|(slot, _)| match settings.method {
                Method::Lora | Method::Qlora | Method::SoftPrompt => false,
                Method::Full => true,
                Method::LastLayers => {
                    *slot == Slot::Norm || slot.layer().is_some_and(|layer| layer >= layers - k)
                }
                Method::Head => *slot == Slot::Head,
                Method::Bitfit => matches!(slot, Slot::Bias(..)),
            })
            .collect();
        if settings.method == Method::Head && tied {
            // The head is the embedding's transpose: it gets numbers of its own.
            chosen.push((Slot::Head, model.embedding.len()));
        }
        if chosen.is_empty() {
            return Err(TrainError::NoBiases { model_type: model.config.model_type.clone() });
        }
        let mut layout = Self::new(&model.config, 1, 1.0, Vec::new(), false);
        for (slot, size) in chosen {
            layout.whole.insert(slot, layout.len..layout.len + size);
            layout.len += size;
        }
        Ok(layout)
    }

    /// The lowest layer with something to learn; the number of layers where none has.
    pub(crate) fn lowest(&self) -> usize {
        let adapted = self
            .layers
            .iter()
            .position(|groups| groups.iter().any(|place| !place.members.is_empty()));
        if self.virtual_tokens > 0 || self.whole.contains_key(&Slot::Embedding) {
            return 0;
        }
        let whole = self.whole.keys().filter_map(|slot| slot.layer()).min();
        adapted.into_iter().chain(whole).min().unwrap_or(self.layers.len())
    }

    /// Whether PEFT has files for what is trained, and so a server of adapters can serve it.
    pub(crate) fn is_plain_adapter(&self) -> bool {
        self.whole.is_empty() && !self.dora && self.virtual_tokens == 0 && self.score.is_none()
    }

    /// Places that learn at another rate than the rest: B under LoRA+ (Hayou et al. 2024).
    pub(crate) fn b_places(&self) -> Vec<Range<usize>> {
        let places = self.layers.iter().flatten().flat_map(|place| &place.members);
        places.map(|(_, b)| b.clone()).collect()
    }

    pub(crate) fn group(&self, layer: usize, group: Group) -> &GroupPlace {
        &self.layers[layer][group as usize]
    }

    /// How much the update counts.
    pub(crate) fn scale(&self) -> f32 {
        (self.alpha / self.rank as f64) as f32
    }

    /// Every tensor with PEFT's name, its place and its shape.
    fn tensors(&self, config: &Config) -> Vec<(String, Range<usize>, Vec<usize>)> {
        let mut tensors = Vec::new();
        if self.virtual_tokens > 0 {
            let shape = vec![self.virtual_tokens, config.hidden];
            tensors.push((PROMPT_EMBEDDINGS.into(), 0..self.len, shape));
        }
        if let Some(place) = &self.score {
            tensors.push((SCORE.into(), place.clone(), vec![1, config.hidden]));
        }
        for (layer, groups) in self.layers.iter().enumerate() {
            for place in groups {
                for (index, (projection, b)) in place.members.iter().enumerate() {
                    let (output, input) = projection.shape(config);
                    let path = format!("base_model.model.{}", projection.path(layer));
                    let from = place.a.start + index * self.rank * input;
                    let a = from..from + self.rank * input;
                    let b = b.clone();
                    tensors.push((format!("{path}.lora_A.weight"), a, vec![self.rank, input]));
                    tensors.push((format!("{path}.lora_B.weight"), b, vec![output, self.rank]));
                    if let Some(place) = place.magnitudes.get(index) {
                        let name = format!("{path}.lora_magnitude_vector");
                        tensors.push((name, place.clone(), vec![output]));
                    }
                }
            }
        }
        tensors
    }

    /// The numbers that training starts from: an adapter as PEFT makes it (A uniform within
    /// ±1/√input or normal with deviation 1/r, B zero, magnitudes the norms of the model's rows), or
    /// the model's own tensors.
    pub(crate) fn initial(&self, model: &Model, init: InitLoraWeights, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut parameters = vec![0.0; self.len];
        let tensors = self.tensors(&model.config);
        for (place, shape) in
            tensors.into_iter().filter(|(name, ..)| name.contains("lora_A")).map(|t| (t.1, t.2))
        {
            let bound = 1.0 / (shape[1] as f32).sqrt();
            let deviation = 1.0 / self.rank as f32;
            match init {
                InitLoraWeights::Default | InitLoraWeights::Pissa => {
                    parameters[place].fill_with(|| random.random_range(-bound..bound));
                }
                InitLoraWeights::Gaussian => {
                    parameters[place].fill_with(|| deviation * normal(&mut random));
                }
            }
        }
        for (layer, groups) in self.layers.iter().enumerate() {
            for place in groups {
                for ((projection, _), magnitude) in place.members.iter().zip(&place.magnitudes) {
                    let input = projection.shape(&model.config).1;
                    let weight = &model.layers[layer].linear(*projection).weight;
                    let rows = weight.chunks_exact(input);
                    let values = &mut parameters[magnitude.clone()];
                    values.iter_mut().zip(rows).for_each(|(value, row)| *value = length(row));
                }
            }
        }
        if let Some(place) = &self.score {
            // As transformers makes a new head.
            parameters[place.clone()].fill_with(|| 0.02 * normal(&mut random));
        }
        if self.virtual_tokens > 0 {
            parameters.fill_with(|| normal(&mut random));
        }
        for (slot, place) in &self.whole {
            parameters[place.clone()].copy_from_slice(model.tensor(*slot));
        }
        parameters
    }

    /// The same change of the base without `initial`, which was taken out of it (`PiSSA`): an
    /// adapter of twice the rank, `[B, -B₀] · [A; A₀]`.
    pub(crate) fn less(
        &self,
        config: &Config,
        parameters: &[f32],
        initial: &[f32],
    ) -> (Self, Vec<f32>) {
        let (rank, twice) = (self.rank, 2 * self.rank);
        let wide = Self::new(config, twice, 2.0 * self.alpha, self.targets.clone(), false);
        let mut numbers = vec![0.0; wide.len];
        for (from, to) in self.layers.iter().flatten().zip(wide.layers.iter().flatten()) {
            let Some((first, _)) = from.members.first() else { continue };
            let input = first.shape(config).1;
            for (i, ((_, b), (_, wide_b))) in from.members.iter().zip(&to.members).enumerate() {
                let a = from.a.start + i * rank * input..from.a.start + (i + 1) * rank * input;
                let both = &mut numbers[to.a.start + i * twice * input..][..twice * input];
                both[..rank * input].copy_from_slice(&parameters[a.clone()]);
                both[rank * input..].copy_from_slice(&initial[a]);
                let rows = numbers[wide_b.clone()].chunks_exact_mut(twice);
                let (b, b_0) = (&parameters[b.clone()], &initial[b.clone()]);
                for ((row, b), b_0) in rows.zip(b.chunks_exact(rank)).zip(b_0.chunks_exact(rank)) {
                    row[..rank].copy_from_slice(b);
                    row[rank..].iter_mut().zip(b_0).for_each(|(value, b_0)| *value = -b_0);
                }
            }
        }
        (wide, numbers)
    }

    /// Writes the adapter's files into `folder`.
    pub(crate) fn write(
        &self,
        config: &Config,
        parameters: &[f32],
        base: &str,
        dropout: f64,
        folder: &Path,
    ) -> Result<(), TrainError> {
        let tensors = self.tensors(config).into_iter();
        let tensors: Vec<_> =
            tensors.map(|(name, place, shape)| (name, shape, &parameters[place])).collect();
        tensor_file::write(&folder.join(WEIGHTS), &json!({"format": "pt"}), &tensors)?;
        let settings = if self.virtual_tokens > 0 {
            self.prompt_tuning_config(config, base)
        } else {
            self.config(base, dropout)
        };
        let text = serde_json::to_string_pretty(&settings);
        let text = text.map_err(std::io::Error::from)?;
        Ok(fs::write(folder.join(CONFIG), text + "\n")?)
    }

    /// PEFT's `PromptTuningConfig`.
    fn prompt_tuning_config(&self, config: &Config, base: &str) -> Value {
        json!({
            "auto_mapping": null,
            "base_model_name_or_path": base,
            "inference_mode": true,
            "num_attention_heads": config.heads,
            "num_layers": config.layers,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": self.virtual_tokens,
            "peft_type": PROMPT_TUNING,
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": null,
            "revision": null,
            "task_type": "CAUSAL_LM",
            "token_dim": config.hidden,
            "tokenizer_kwargs": null,
            "tokenizer_name_or_path": null,
        })
    }

    /// PEFT's `LoraConfig`.
    fn config(&self, base: &str, dropout: f64) -> Value {
        let whole = self.alpha.fract() == 0.0;
        let alpha = if whole { json!(self.alpha as i64) } else { json!(self.alpha) };
        let targets: Vec<_> = self.targets.iter().map(|target| target.name()).collect();
        json!({
            "alpha_pattern": {},
            "auto_mapping": null,
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layer_replication": null,
            "layers_pattern": null,
            "layers_to_transform": null,
            "loftq_config": {},
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": self.score.as_ref().map(|_| ["classifier", "score"]),
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": {},
            "revision": null,
            "target_modules": targets,
            "task_type": if self.score.is_some() { REWARD_TASK } else { "CAUSAL_LM" },
            "use_dora": self.dora,
            "use_rslora": false,
        })
    }

    /// Reads an adapter of PEFT's, or of ours, for a model of this shape.
    pub(crate) fn read(config: &Config, folder: &Path) -> Result<(Self, Vec<f32>), TrainError> {
        let refuse = |what: String| TrainError::Adapter { folder: folder.into(), what };
        let json: Value = serde_json::from_slice(&fs::read(folder.join(CONFIG))?)
            .map_err(|error| refuse(format!("`{CONFIG}` is not JSON ({error})")))?;
        if json["peft_type"] == PROMPT_TUNING {
            return Self::read_soft(config, folder, &json);
        }
        for (key, plain) in [
            ("fan_in_fan_out", json!(false)),
            ("bias", json!("none")),
            ("rank_pattern", json!({})),
            ("alpha_pattern", json!({})),
            ("modules_to_save", Value::Null),
            ("layers_to_transform", Value::Null),
        ] {
            let value = json.get(key).unwrap_or(&Value::Null);
            if key == "modules_to_save" && json["task_type"] == REWARD_TASK {
                continue;
            }
            if !value.is_null() && *value != plain {
                return Err(refuse(format!("`{key}: {value}` is not supported")));
            }
        }
        let rank = json["r"].as_u64().filter(|rank| *rank > 0);
        let rank = rank.ok_or_else(|| refuse("it has no `r` above 0".into()))?;
        let mut alpha = json["lora_alpha"].as_f64().unwrap_or(rank as f64);
        if json["use_rslora"] == true {
            alpha *= (rank as f64).sqrt();
        }
        let names: Vec<String> = match &json["target_modules"] {
            Value::String(name) => vec![name.clone()],
            Value::Array(names) => {
                names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => return Err(refuse("it has no `target_modules`".into())),
        };
        if let Some(init) = json["init_lora_weights"].as_str()
            && !["gaussian", "eva", "orthogonal"].contains(&init)
        {
            return Err(refuse(format!("`init_lora_weights: {init}` changes the base")));
        }
        let dora = json["use_dora"] == true;
        let layout = Self::new(config, rank as usize, alpha, targets(&names)?, dora);
        let rewards = json["task_type"] == REWARD_TASK;
        let layout = if rewards { layout.rewarding(config) } else { layout };
        let mut weights = Weights::open_file(&folder.join(WEIGHTS))?;
        let mut parameters = vec![0.0; layout.len];
        for (name, place, shape) in layout.tensors(config) {
            let weight: Weight = weights.take(&name, &shape)?;
            parameters[place].copy_from_slice(&weight);
        }
        if let Some(name) = weights.names().next() {
            return Err(refuse(format!("tensor `{name}` has no place in it")));
        }
        Ok((layout, parameters))
    }
}

impl Layout {
    /// Reads a soft prompt of PEFT's, or of ours.
    fn read_soft(
        config: &Config,
        folder: &Path,
        json: &Value,
    ) -> Result<(Self, Vec<f32>), TrainError> {
        let refuse = |what: String| TrainError::Adapter { folder: folder.into(), what };
        let n = json["num_virtual_tokens"].as_u64().filter(|n| *n > 0);
        let n = n.ok_or_else(|| refuse("it has no `num_virtual_tokens` above 0".into()))?;
        let mut weights = Weights::open_file(&folder.join(WEIGHTS))?;
        let layout = Self::soft(config, n as usize);
        let parameters = weights.take(PROMPT_EMBEDDINGS, &[n as usize, config.hidden])?.to_vec();
        if let Some(name) = weights.names().next() {
            return Err(refuse(format!("tensor `{name}` has no place in it")));
        }
        Ok((layout, parameters))
    }

    /// The numbers that the virtual tokens start from: the embeddings of `tokens`, repeated or cut to
    /// their number, as the model reads them.
    pub(crate) fn embedded(&self, model: &Model, tokens: &[u32]) -> Vec<f32> {
        let (size, scale) = (model.config.hidden, model.config.embedding_scale);
        let rows = tokens.iter().cycle().take(self.virtual_tokens);
        let rows = rows.flat_map(|token| &model.embedding[*token as usize * size..][..size]);
        rows.map(|value| value * scale).collect()
    }
}

/// The projections that `target_modules` names.
fn targets(names: &[String]) -> Result<Vec<Projection>, TrainError> {
    if names.is_empty() {
        return Err(TrainError::NoModules);
    }
    if names.iter().any(|name| name == "all-linear") {
        return Ok(Projection::ALL.into());
    }
    let known = Projection::ALL.map(Projection::name);
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        let known = format!("`{}`", known.join("`, `"));
        return Err(TrainError::UnknownModule { name: name.clone(), known });
    }
    Ok(Projection::ALL.into_iter().filter(|p| names.iter().any(|name| name == p.name())).collect())
}

/// The Euclidean length of a row.
pub(crate) fn length(row: &[f32]) -> f32 {
    row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt() as f32
}

/// A number of the standard normal distribution (Box and Muller 1958).
pub(crate) fn normal(random: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f32, f32) = (random.random_range(f32::MIN_POSITIVE..1.0), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}
