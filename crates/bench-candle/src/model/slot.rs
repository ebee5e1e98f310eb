//! Tensors of a model as things that can be trained.

use std::collections::BTreeMap;

use super::{Model, Projection, Weight};
use crate::error::TrainError;

/// The place of a tensor in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    Embedding,
    Weight(usize, Projection),
    Bias(usize, Projection),
    AttentionNorm(usize),
    /// Of what attention gives, in Gemma 3.
    AttentionPostNorm(usize),
    MlpNorm(usize),
    /// Of what the MLP gives, in Gemma 3.
    MlpPostNorm(usize),
    QueryNorm(usize),
    KeyNorm(usize),
    Norm,
    Head,
}

impl Slot {
    /// The decoder layer it belongs to.
    pub(crate) fn layer(self) -> Option<usize> {
        match self {
            Self::Weight(layer, _)
            | Self::Bias(layer, _)
            | Self::AttentionNorm(layer)
            | Self::AttentionPostNorm(layer)
            | Self::MlpNorm(layer)
            | Self::MlpPostNorm(layer)
            | Self::QueryNorm(layer)
            | Self::KeyNorm(layer) => Some(layer),
            Self::Embedding | Self::Norm | Self::Head => None,
        }
    }

    /// Whether it is the weight of a norm.
    pub(crate) fn is_norm(self) -> bool {
        match self {
            Self::AttentionNorm(_)
            | Self::AttentionPostNorm(_)
            | Self::MlpNorm(_)
            | Self::MlpPostNorm(_)
            | Self::QueryNorm(_)
            | Self::KeyNorm(_)
            | Self::Norm => true,
            Self::Embedding | Self::Weight(..) | Self::Bias(..) | Self::Head => false,
        }
    }

    /// The tensor's name in files, of Gemma 3 or of the other families.
    pub(crate) fn name(self, gemma: bool) -> String {
        let norm = |layer: usize, name: &str| format!("model.layers.{layer}.{name}.weight");
        match self {
            Self::Embedding => "model.embed_tokens.weight".into(),
            Self::Weight(layer, projection) => format!("{}.weight", projection.path(layer)),
            Self::Bias(layer, projection) => format!("{}.bias", projection.path(layer)),
            Self::AttentionNorm(layer) => norm(layer, "input_layernorm"),
            // Gemma 3 has the name of the other families' second norm for what follows attention.
            Self::MlpNorm(layer) if gemma => norm(layer, "pre_feedforward_layernorm"),
            Self::AttentionPostNorm(layer) | Self::MlpNorm(layer) => {
                norm(layer, "post_attention_layernorm")
            }
            Self::MlpPostNorm(layer) => norm(layer, "post_feedforward_layernorm"),
            Self::QueryNorm(layer) => norm(layer, "self_attn.q_norm"),
            Self::KeyNorm(layer) => norm(layer, "self_attn.k_norm"),
            Self::Norm => "model.norm.weight".into(),
            Self::Head => "lm_head.weight".into(),
        }
    }

    fn of_layers(layers: usize) -> impl Iterator<Item = Self> {
        let in_layer = |layer: usize| {
            let weights = Projection::ALL.map(|projection| Self::Weight(layer, projection));
            let biases = Projection::ALL.map(|projection| Self::Bias(layer, projection));
            let norms = [
                Self::AttentionNorm(layer),
                Self::MlpNorm(layer),
                Self::AttentionPostNorm(layer),
                Self::MlpPostNorm(layer),
                Self::QueryNorm(layer),
                Self::KeyNorm(layer),
            ];
            weights.into_iter().chain(biases).chain(norms)
        };
        (0..layers).flat_map(in_layer).chain([Self::Embedding, Self::Norm, Self::Head])
    }
}

impl Model {
    /// Every tensor that the model has, with the count of its numbers.
    pub(crate) fn slots(&self) -> Result<BTreeMap<Slot, usize>, TrainError> {
        let mut sizes: BTreeMap<String, usize> =
            self.tensors().into_iter().map(|(name, _, weight)| (name, weight.len())).collect();
        let slots = Slot::of_layers(self.config.layers)
            .filter_map(|slot| Some((slot, sizes.remove(&slot.name(self.config.gemma))?)))
            .collect();
        match sizes.into_keys().next() {
            // Leaving it frozen would not be what the method's name says.
            Some(tensor) => Err(TrainError::Unsupported {
                what: format!("`{tensor}`, which has no derivative"),
            }),
            None => Ok(slots),
        }
    }

    /// The numbers of a tensor as files keep them. A tied head is the embedding.
    pub(crate) fn tensor(&self, slot: Slot) -> &[f32] {
        let norms = |layer: usize| self.layers[layer].head_norms.as_ref();
        let posts = |layer: usize| self.layers[layer].post_norms.as_ref();
        match slot {
            Slot::Embedding => &self.embedding,
            Slot::Weight(layer, projection) => &self.layers[layer].linear(projection).weight,
            Slot::Bias(layer, projection) => {
                self.layers[layer].linear(projection).bias.as_deref().unwrap_or_default()
            }
            Slot::AttentionNorm(layer) => self.layers[layer].attention_norm.stored(),
            Slot::AttentionPostNorm(layer) => posts(layer).map_or(&[], |[w, _]| w.stored()),
            Slot::MlpNorm(layer) => self.layers[layer].mlp_norm.stored(),
            Slot::MlpPostNorm(layer) => posts(layer).map_or(&[], |[_, w]| w.stored()),
            Slot::QueryNorm(layer) => norms(layer).map_or(&[], |[q, _]| q.stored()),
            Slot::KeyNorm(layer) => norms(layer).map_or(&[], |[_, k]| k.stored()),
            Slot::Norm => self.norm.stored(),
            Slot::Head => self.head(),
        }
    }

    /// Puts other numbers in a tensor's place, as files keep them. A head given to a tied model unties it.
    pub(crate) fn put(&mut self, slot: Slot, numbers: &[f32]) {
        let weight = Weight::Owned(numbers.into());
        let lifted = self.config.gemma && slot.is_norm();
        let weight = if lifted { weight.lifted() } else { weight };
        match slot {
            Slot::Embedding => self.embedding = weight,
            Slot::Weight(layer, projection) => {
                self.layers[layer].linear[projection as usize].weight = weight;
            }
            Slot::Bias(layer, projection) => {
                self.layers[layer].linear[projection as usize].bias = Some(weight);
            }
            Slot::AttentionNorm(layer) => self.layers[layer].attention_norm = weight,
            Slot::AttentionPostNorm(layer) => {
                if let Some([w, _]) = &mut self.layers[layer].post_norms {
                    *w = weight;
                }
            }
            Slot::MlpNorm(layer) => self.layers[layer].mlp_norm = weight,
            Slot::MlpPostNorm(layer) => {
                if let Some([_, w]) = &mut self.layers[layer].post_norms {
                    *w = weight;
                }
            }
            Slot::QueryNorm(layer) => {
                if let Some([q, _]) = &mut self.layers[layer].head_norms {
                    *q = weight;
                }
            }
            Slot::KeyNorm(layer) => {
                if let Some([_, k]) = &mut self.layers[layer].head_norms {
                    *k = weight;
                }
            }
            Slot::Norm => self.norm = weight,
            Slot::Head => {
                self.head = Some(weight);
                self.config.tied = false;
            }
        }
    }
}
