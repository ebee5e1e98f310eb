//! The frozen decoder: Llama, Mistral, Qwen2, Qwen3 and Gemma 3, told apart by configuration and tensors.

mod config;
mod slot;
mod weights;

use std::path::Path;

use fs_err as fs;

pub(crate) use config::{Config, rope_scaling};
pub(crate) use slot::Slot;
pub(crate) use weights::{Weight, Weights};

use crate::blocks::{Blocks, Kind, Packed};
use crate::error::TrainError;

/// The linear layers of a decoder layer, in the order in which a token passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Projection {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Projection {
    pub(crate) const ALL: [Self; 7] =
        [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The name that configurations use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Q => "q_proj",
            Self::K => "k_proj",
            Self::V => "v_proj",
            Self::O => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module's path within the model.
    pub(crate) fn path(self, layer: usize) -> String {
        let block = if self < Self::Gate { "self_attn" } else { "mlp" };
        format!("model.layers.{layer}.{block}.{}", self.name())
    }

    /// Output and input dimension.
    pub(crate) fn shape(self, config: &Config) -> (usize, usize) {
        match self {
            Self::Q => (config.query(), config.hidden),
            Self::K | Self::V => (config.key(), config.hidden),
            Self::O => (config.hidden, config.query()),
            Self::Gate | Self::Up => (config.intermediate, config.hidden),
            Self::Down => (config.hidden, config.intermediate),
        }
    }
}

/// A linear layer: `weight` is (output, input), row by row.
pub(crate) struct Linear {
    /// Empty where `packed` holds it.
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Weight>,
    /// The weight in few bits, for training over a quantised base.
    pub(crate) packed: Option<Packed>,
}

impl Linear {
    /// The weight as numbers, in `buffer` where it has to be unpacked.
    pub(crate) fn unpacked<'a>(&'a self, buffer: &'a mut [f32]) -> &'a [f32] {
        match &self.packed {
            None => &self.weight,
            Some(packed) => {
                let buffer = &mut buffer[..packed.len()];
                packed.unpack(buffer);
                buffer
            }
        }
    }
}

/// One decoder layer.
pub(crate) struct Layer {
    pub(crate) attention_norm: Weight,
    pub(crate) mlp_norm: Weight,
    /// Qwen3 and Gemma 3 normalise each head of query and key.
    pub(crate) head_norms: Option<[Weight; 2]>,
    /// Gemma 3 normalises what attention and MLP give.
    pub(crate) post_norms: Option<[Weight; 2]>,
    linear: Vec<Linear>,
}

impl Layer {
    pub(crate) fn linear(&self, projection: Projection) -> &Linear {
        &self.linear[projection as usize]
    }
}

/// A decoder in memory.
pub(crate) struct Model {
    pub(crate) config: Config,
    pub(crate) embedding: Weight,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Weight,
    head: Option<Weight>,
    pub(crate) parameters: u64,
}

impl Model {
    /// Whether the layers' matrices are read from their file as they are used.
    pub(crate) fn is_mapped(&self) -> bool {
        let matrices = self.layers.iter().flat_map(|layer| &layer.linear);
        matrices.into_iter().all(|linear| matches!(linear.weight, Weight::Mapped { .. }))
    }

    /// Opens a Hugging Face folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, TrainError> {
        let config = Config::parse(&fs::read_to_string(folder.join("config.json"))?)?;
        let mut weights = Weights::open(folder)?;
        let hidden = config.hidden;
        let layers = (0..config.layers).map(|index| layer(&config, index, &mut weights));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let embedding = weights.take("model.embed_tokens.weight", &[config.vocabulary, hidden])?;
        let norm = weights.take("model.norm.weight", &[hidden])?;
        let norm = if config.gemma { norm.lifted() } else { norm };
        // A file may carry the tied head as well; it is the embedding then.
        let head = if config.tied && !weights.has("lm_head.weight") {
            None
        } else {
            Some(weights.take("lm_head.weight", &[config.vocabulary, hidden])?)
        };
        let head = head.filter(|_| !config.tied);
        if let Some(tensor) = weights.names().find(|name| !name.ends_with("rotary_emb.inv_freq")) {
            let model_type = config.model_type.clone();
            return Err(TrainError::UnknownTensor { tensor: tensor.into(), model_type });
        }
        let mut model = Self { config, embedding, layers, norm, head, parameters: 0 };
        model.parameters = model.tensors().iter().map(|tensor| tensor.2.len() as u64).sum();
        Ok(model)
    }

    /// The weight that turns the last hidden state into logits.
    pub(crate) fn head(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Puts another weight of the same shape in place of a layer's.
    pub(crate) fn replace(&mut self, layer: usize, projection: Projection, weight: Vec<f32>) {
        self.layers[layer].linear[projection as usize].weight = Weight::Owned(weight.into());
    }

    /// Whether the output matrix is the embedding's transpose.
    pub(crate) fn is_tied(&self) -> bool {
        self.head.is_none()
    }

    /// Keeps the linear layers' weights in blocks of few bits from now on, and gives back the memory
    /// of their numbers.
    pub(crate) fn quantise(&mut self, kind: Kind) -> Result<(), TrainError> {
        self.pack(|projection, (_, columns), weight| {
            if columns.is_multiple_of(crate::blocks::SIZE) {
                return Ok(Packed::Blocks(Blocks::pack(kind, weight)));
            }
            Err(TrainError::Blocks { module: projection.name(), columns })
        })
    }

    /// The same in any form.
    pub(crate) fn pack(
        &mut self,
        mut pack: impl FnMut(Projection, (usize, usize), &[f32]) -> Result<Packed, TrainError>,
    ) -> Result<(), TrainError> {
        for layer in &mut self.layers {
            for (projection, linear) in Projection::ALL.iter().zip(&mut layer.linear) {
                let shape = projection.shape(&self.config);
                linear.packed = Some(pack(*projection, shape, &linear.weight)?);
                linear.weight.release();
                linear.weight = Weight::Owned(Vec::new().into());
            }
        }
        Ok(())
    }

    /// Every tensor with its name and shape.
    pub(crate) fn tensors<'a>(&'a self) -> Vec<(String, Vec<usize>, &'a Weight)> {
        let config = &self.config;
        let table = vec![config.vocabulary, config.hidden];
        let mut tensors =
            vec![("model.embed_tokens.weight".to_owned(), table.clone(), &self.embedding)];
        for (index, layer) in self.layers.iter().enumerate() {
            for projection in Projection::ALL {
                let (output, input) = projection.shape(config);
                let path = projection.path(index);
                let linear = layer.linear(projection);
                tensors.push((format!("{path}.weight"), vec![output, input], &linear.weight));
                let bias = linear.bias.iter();
                tensors.extend(bias.map(|bias| (format!("{path}.bias"), vec![output], bias)));
            }
            let mut norm = |name: &str, weight: &'a Weight| {
                let name = format!("model.layers.{index}.{name}.weight");
                tensors.push((name, vec![weight.len()], weight.stored()));
            };
            norm("input_layernorm", &layer.attention_norm);
            match &layer.post_norms {
                None => norm("post_attention_layernorm", &layer.mlp_norm),
                Some([attention, mlp]) => {
                    norm("post_attention_layernorm", attention);
                    norm("pre_feedforward_layernorm", &layer.mlp_norm);
                    norm("post_feedforward_layernorm", mlp);
                }
            }
            if let Some([q, k]) = &layer.head_norms {
                norm("self_attn.q_norm", q);
                norm("self_attn.k_norm", k);
            }
        }
        tensors.push(("model.norm.weight".into(), vec![config.hidden], self.norm.stored()));
        tensors.extend(
            self.head.iter().map(|head| ("lm_head.weight".to_owned(), table.clone(), head)),
        );
        tensors
    }
}

fn layer(config: &Config, index: usize, weights: &mut Weights) -> Result<Layer, TrainError> {
    let prefix = format!("model.layers.{index}");
    let linear = Projection::ALL.map(|projection| {
        let (output, input) = projection.shape(config);
        let path = projection.path(index);
        let bias = format!("{path}.bias");
        Ok(Linear {
            weight: weights.take(&format!("{path}.weight"), &[output, input])?,
            bias: weights.has(&bias).then(|| weights.take(&bias, &[output])).transpose()?,
            packed: None,
        })
    });
    let linear = linear.into_iter().collect::<Result<Vec<_>, TrainError>>()?;
    let mut norm = |name: &str, size: usize| {
        let weight = weights.take(&format!("{prefix}.{name}.weight"), &[size])?;
        Ok::<_, TrainError>(if config.gemma { weight.lifted() } else { weight })
    };
    let before_mlp =
        if config.gemma { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
    Ok(Layer {
        attention_norm: norm("input_layernorm", config.hidden)?,
        mlp_norm: norm(before_mlp, config.hidden)?,
        head_norms: if config.gemma || config.model_type == "qwen3" {
            Some([norm("self_attn.q_norm", config.head)?, norm("self_attn.k_norm", config.head)?])
        } else {
            None
        },
        post_norms: if config.gemma {
            Some([
                norm("post_attention_layernorm", config.hidden)?,
                norm("post_feedforward_layernorm", config.hidden)?,
            ])
        } else {
            None
        },
        linear,
    })
}
