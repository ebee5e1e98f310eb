//! Low-rank adapters (Hu et al. 2021): where their numbers lie, and PEFT's files.
//!
//! All numbers of an adapter lie in one vector, so that the optimiser knows nothing of modules. The
//! projections of a layer that read the same input form a group, and the A matrices of a group lie
//! one after the other: one product serves them all.

use std::{ops::Range, path::Path};

use bench_core::spec::Finetune;
use fs_err as fs;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::error::TrainError;
use crate::model::{Config, Projection, Weight, Weights};
use crate::tensor_file;

/// The file with the numbers.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
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
}

/// Rank, scale and places of an adapter's numbers.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
    pub(crate) targets: Vec<Projection>,
    layers: Vec<[GroupPlace; 4]>,
    pub(crate) len: usize,
}

impl Layout {
    fn new(
        config: &Config,
        rank: u32,
        alpha: f64,
        targets: Vec<Projection>,
    ) -> Result<Self, TrainError> {
        let size = rank as usize;
        for target in &targets {
            let (output, input) = target.shape(config);
            let most = output.min(input);
            if !(1..=most).contains(&size) {
                return Err(TrainError::Rank { rank, module: target.name(), most });
            }
        }
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
                let members = places.collect();
                GroupPlace { a, members }
            })
        });
        let layers = layers.collect();
        Ok(Self { rank: size, alpha, targets, layers, len })
    }

    /// The adapter that `settings` ask for.
    pub(crate) fn of_settings(config: &Config, settings: &Finetune) -> Result<Self, TrainError> {
        let targets = targets(&settings.target_modules)?;
        Self::new(config, settings.lora_r, settings.lora_alpha, targets)
    }

    pub(crate) fn group(&self, layer: usize, group: Group) -> &GroupPlace {
        &self.layers[layer][group as usize]
    }

    /// How much the update counts.
    pub(crate) fn scale(&self) -> f32 {
        (self.alpha / self.rank as f64) as f32
    }

    /// Every tensor with PEFT's name, its place and its shape.
    fn tensors(&self, config: &Config) -> Vec<(String, Range<usize>, [usize; 2])> {
        let mut tensors = Vec::new();
        for (layer, groups) in self.layers.iter().enumerate() {
            for place in groups {
                for (index, (projection, b)) in place.members.iter().enumerate() {
                    let (output, input) = projection.shape(config);
                    let path = format!("base_model.model.{}", projection.path(layer));
                    let from = place.a.start + index * self.rank * input;
                    let a = from..from + self.rank * input;
                    tensors.push((format!("{path}.lora_A.weight"), a, [self.rank, input]));
                    tensors.push((format!("{path}.lora_B.weight"), b.clone(), [output, self.rank]));
                }
            }
        }
        tensors
    }

    /// A fresh adapter as PEFT makes it: A uniform within ±1/√input, B zero.
    pub(crate) fn initial(&self, config: &Config, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut parameters = vec![0.0; self.len];
        for (place, [_, input]) in self
            .tensors(config)
            .into_iter()
            .filter(|(name, ..)| name.contains("lora_A"))
            .map(|t| (t.1, t.2))
        {
            let bound = 1.0 / (input as f32).sqrt();
            parameters[place].fill_with(|| random.random_range(-bound..bound));
        }
        parameters
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
        let tensors: Vec<_> = tensors
            .map(|(name, place, shape)| (name, shape.to_vec(), &parameters[place]))
            .collect();
        tensor_file::write(&folder.join(WEIGHTS), &json!({"format": "pt"}), &tensors)?;
        let text = serde_json::to_string_pretty(&self.config(base, dropout));
        let text = text.map_err(std::io::Error::from)?;
        Ok(fs::write(folder.join(CONFIG), text + "\n")?)
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
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": {},
            "revision": null,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": false,
        })
    }

    /// Reads an adapter of PEFT's, or of ours, for a model of this shape.
    pub(crate) fn read(config: &Config, folder: &Path) -> Result<(Self, Vec<f32>), TrainError> {
        let refuse = |what: String| TrainError::Adapter { folder: folder.into(), what };
        let json: Value = serde_json::from_slice(&fs::read(folder.join(CONFIG))?)
            .map_err(|error| refuse(format!("`{CONFIG}` is not JSON ({error})")))?;
        for (key, plain) in [
            ("use_dora", json!(false)),
            ("fan_in_fan_out", json!(false)),
            ("bias", json!("none")),
            ("rank_pattern", json!({})),
            ("alpha_pattern", json!({})),
            ("modules_to_save", Value::Null),
            ("layers_to_transform", Value::Null),
        ] {
            let value = json.get(key).unwrap_or(&Value::Null);
            if !value.is_null() && *value != plain {
                return Err(refuse(format!("`{key}: {value}` is not supported")));
            }
        }
        let rank = json["r"].as_u64().ok_or_else(|| refuse("it has no `r`".into()))?;
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
        let layout = Self::new(config, rank as u32, alpha, targets(&names)?)?;
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
