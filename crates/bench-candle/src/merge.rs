//! Folds an adapter into its base: `W + alpha / r * B · A`.

use std::ffi::OsString;
use std::path::Path;

use fs_err as fs;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::adapter::{Group, Layout, length};
use crate::data::{Batch, Row, same_tokenizer};
use crate::error::TrainError;
use crate::matrix::{Into, Lhs, Rhs, Term, product};
use crate::model::Model;
use crate::step::{Adapter, Engine};
use crate::tensor_file;

/// The files besides weights that a model folder has.
const OTHERS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// How a merged model compares with its base and adapter, on a row of tokens drawn with a fixed seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Merged {
    /// Tokens compared.
    pub tokens: usize,
    /// The largest difference of a token's negative log-likelihood, in nats.
    pub largest_difference: f64,
}

/// Tokens on which a merged model is compared.
const COMPARED: usize = 64;
/// The largest difference of a token's negative log-likelihood, in nats, that rounding explains.
const TOLERANCE: f64 = 1e-2;

/// Writes the model in `base` with the adapter in `adapter` folded in, as a Hugging Face folder with
/// weights in f32, once it is shown to predict what base and adapter do. The folder `output` appears
/// whole or not at all, and must not exist.
pub fn merge(base: &Path, adapter: &Path, output: &Path) -> Result<Merged, TrainError> {
    if output.exists() {
        let what = "nothing is overwritten".to_owned();
        return Err(TrainError::Occupied { folder: output.into(), what });
    }
    same_tokenizer(base, adapter)?;
    let mut model = Model::open(base)?;
    let (layout, parameters) = Layout::read(&model.config, adapter)?;
    if layout.virtual_tokens > 0 || layout.score.is_some() {
        let kind =
            if layout.score.is_some() { "the head of a reward model" } else { "a soft prompt" };
        let what = format!("{kind} is no part of the weights and cannot be merged");
        return Err(TrainError::Adapter { folder: adapter.into(), what });
    }
    fold_in(&mut model, &layout, &parameters);
    let mut name = OsString::from(".");
    name.push(output.file_name().unwrap_or_default());
    name.push(".partial");
    let partial = output.with_file_name(name);
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    write_folder(&model, base, &partial)?;
    drop(model);
    let merged = compare(base, &layout, &parameters, &partial)?;
    if merged.largest_difference > TOLERANCE {
        let difference = merged.largest_difference;
        let what = format!(
            "merged into `{}`, it predicts otherwise than beside it, by up to {difference:.3} nats; \
             was it trained on this base?",
            base.display()
        );
        fs::remove_dir_all(&partial)?;
        return Err(TrainError::Adapter { folder: adapter.into(), what });
    }
    fs::rename(partial, output)?;
    Ok(merged)
}

fn compare(
    base: &Path,
    layout: &Layout,
    parameters: &[f32],
    merged: &Path,
) -> Result<Merged, TrainError> {
    let (base, merged) = (Model::open(base)?, Model::open(merged)?);
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let vocabulary = base.config.vocabulary as u32;
    let tokens = (0..=COMPARED).map(|_| random.random_range(0..vocabulary)).collect();
    let row = Row { tokens, prompt: 0 };
    let batch = Batch::new([(&row, 0)]);
    let adapter = Adapter { layout, parameters, dropout: None };
    let apart = Engine::new(&base, COMPARED + 1).predict(&batch, Some(adapter));
    let together = Engine::new(&merged, COMPARED + 1).predict(&batch, None);
    let differences =
        apart.iter().zip(&together).map(|(a, b)| (f64::from(a.loss) - f64::from(b.loss)).abs());
    Ok(Merged { tokens: COMPARED, largest_difference: differences.fold(0.0, f64::max) })
}

/// Makes what was trained a part of the model.
pub(crate) fn fold_in(model: &mut Model, layout: &Layout, parameters: &[f32]) {
    for layer in 0..model.config.layers {
        for group in Group::ALL {
            let place = layout.group(layer, group);
            for (index, (projection, b)) in place.members.iter().enumerate() {
                let (rows, columns) = projection.shape(&model.config);
                let a = &parameters[place.a.clone()][index * layout.rank * columns..];
                let mut merged = fold(
                    &model.layers[layer].linear(*projection).weight,
                    &parameters[b.clone()],
                    a,
                    [rows, layout.rank, columns],
                    layout.scale(),
                );
                if let Some(magnitudes) = place.magnitudes.get(index) {
                    let magnitudes = &parameters[magnitudes.clone()];
                    for (row, magnitude) in merged.chunks_exact_mut(columns).zip(magnitudes) {
                        let factor = magnitude / length(row);
                        for value in row.iter_mut() {
                            *value *= factor;
                        }
                    }
                }
                model.replace(layer, *projection, merged);
            }
        }
    }
    for (slot, place) in &layout.whole {
        model.put(*slot, &parameters[place.clone()]);
    }
}

/// Writes a model as a Hugging Face folder with weights in f32; all else is that of `base`.
pub(crate) fn write_folder(model: &Model, base: &Path, folder: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("config.json"), config(base, model.is_tied())?)?;
    for name in OTHERS {
        if base.join(name).exists() {
            fs::copy(base.join(name), folder.join(name))?;
        }
    }
    let tensors: Vec<_> =
        model.tensors().into_iter().map(|(name, shape, weight)| (name, shape, &**weight)).collect();
    tensor_file::write(&folder.join("model.safetensors"), &json!({"format": "pt"}), &tensors)?;
    Ok(())
}

/// `weight + scale * b · a`, for sizes (output, rank, input).
pub(crate) fn fold(
    weight: &[f32],
    b: &[f32],
    a: &[f32],
    sizes: [usize; 3],
    scale: f32,
) -> Vec<f32> {
    let [rows, rank, columns] = sizes;
    let scaled: Vec<f32> = b.iter().map(|b| b * scale).collect();
    let mut lhs = Lhs::default();
    lhs.pack(&scaled, rows, rank, rank);
    let mut merged = weight.to_vec();
    let rhs = Rhs::Rows { data: a, stride: columns };
    product(&[Term::whole(&lhs, rhs)], &mut merged, columns, columns, Into::Add);
    merged
}

/// The base's configuration with what older readers look for: the numeric type, and what
/// `rope_parameters` say of rotations outside of them. Embedding and output matrix are tied or not, as
/// the model has them.
fn config(base: &Path, tied: bool) -> Result<Vec<u8>, TrainError> {
    let path = base.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)
        .map_err(|error| TrainError::Unreadable { path, what: error.to_string() })?;
    config["tie_word_embeddings"] = json!(tied);
    config["torch_dtype"] = json!("float32");
    if config.get("dtype").is_some() {
        config["dtype"] = json!("float32");
    }
    let rope = config["rope_parameters"].clone();
    // Gemma 3 has one set for each kind of layer.
    let all = if rope["full_attention"].is_null() { &rope } else { &rope["full_attention"] };
    let mut add = |key: &str, value: &Value| {
        if config.get(key).is_none_or(Value::is_null) && !value.is_null() {
            config[key] = value.clone();
        }
    };
    add("rope_theta", &all["rope_theta"]);
    add("rope_local_base_freq", &rope["sliding_attention"]["rope_theta"]);
    if all["rope_type"].as_str().is_some_and(|kind| kind != "default") {
        let mut scaling = all.clone();
        if let Some(scaling) = scaling.as_object_mut() {
            scaling.remove("rope_theta");
        }
        add("rope_scaling", &scaling);
    }
    Ok(serde_json::to_vec_pretty(&config).map_err(std::io::Error::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::golden::folder;

    /// mistral.rs 0.8.1 and older transformers read only those.
    #[test]
    fn a_written_configuration_has_the_keys_of_older_readers() {
        let written = |family: &str| -> Value {
            serde_json::from_slice(&config(&folder(family), true).unwrap()).unwrap()
        };
        for family in ["llama", "llama3", "qwen2", "qwen3"] {
            let text = fs::read_to_string(folder(family).join("config.json")).unwrap();
            assert!(
                !text.contains("\n  \"rope_theta\""),
                "{family} is as transformers 5 writes it"
            );
            assert_eq!(written(family)["rope_theta"], 10_000.0, "{family}");
        }
        assert_eq!(
            written("llama3")["rope_scaling"],
            json!({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64})
        );
        assert!(written("llama").get("rope_scaling").is_none());
        let gemma = written("gemma3");
        assert_eq!(gemma["rope_theta"], 1_000_000.0);
        assert_eq!(gemma["rope_local_base_freq"], 10_000.0);
        // What was there stays, and is read as before.
        for family in ["llama3", "gemma3"] {
            let text = fs::read_to_string(folder(family).join("config.json")).unwrap();
            let before = crate::model::Config::parse(&text).unwrap();
            let text = written(family).to_string();
            let after = crate::model::Config::parse(&text).unwrap();
            assert_eq!(crate::model::Config { tied: before.tied, ..after }, before, "{family}");
        }
    }
}
