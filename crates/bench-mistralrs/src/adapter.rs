//! A `LoRA` adapter in PEFT's layout, checked against the base it is for.
//!
//! mistral.rs reads three keys of `adapter_config.json`, ignores the others, and merges what it
//! finds by name; whatever it would ignore is an error here, because an adapter that is half
//! applied gives numbers that look right.

use std::path::Path;
use std::sync::Arc;

use bench_core::{chat, digest};
use candle_core::{DType, Device};
use mistralrs_quant::{LoraAdapter, LoraConfig, ShardedSafeTensors};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::folder::{Folder, json, shapes};

#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the keys of a file format")]
struct PeftConfig {
    #[serde(default = "lora")]
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    lora_bias: bool,
    bias: Option<String>,
    #[serde(default)]
    init_lora_weights: Value,
    #[serde(default)]
    target_modules: Value,
    #[serde(default)]
    modules_to_save: Value,
    #[serde(default)]
    rank_pattern: Value,
    #[serde(default)]
    alpha_pattern: Value,
    #[serde(default)]
    layer_replication: Value,
}

fn lora() -> String {
    "LORA".into()
}

/// The adapter, ready to merge, and the digest of its files.
pub(crate) fn open(
    path: &Path,
    base: &Folder,
    dtype: DType,
    device: &Device,
) -> Result<(LoraAdapter, String), String> {
    let value = json(path, "adapter_config.json")?;
    let config: PeftConfig = serde_json::from_value(value.clone())
        .map_err(|error| format!("`{}/adapter_config.json`: {error}", path.display()))?;
    if let Some(problem) = unsupported(&config) {
        return Err(format!("`{}` {problem}", path.display()));
    }
    if path.join("tokenizer.json").exists() {
        let own = Tokenizer::from_file(path.join("tokenizer.json"))
            .map_err(|error| format!("`{}/tokenizer.json`: {error}", path.display()))?;
        let differing =
            chat::differing_token(&base.tokenizer.get_vocab(true), &own.get_vocab(true));
        if let Some(what) = differing {
            return Err(format!(
                "`{}` was trained with another tokenizer than its base has ({what}); use the base that it was trained on",
                path.display()
            ));
        }
    }
    let weights = path.join("adapter_model.safetensors");
    let modules = modules(&weights, config.r, base)?;
    let alpha = if config.use_rslora {
        config.lora_alpha * (config.r as f64).sqrt()
    } else {
        config.lora_alpha
    };
    #[expect(unsafe_code, reason = "mapping weights; nobody writes into an adapter in use")]
    let tensors = unsafe {
        ShardedSafeTensors::sharded(&[&weights], dtype, device, None, Arc::new(|_| true))
    }
    .map_err(|error| error.to_string())?;
    let bytes = fs_err::read(&weights).map_err(|error| error.to_string())?;
    let digest = digest::of_bytes(format!("{value}{}", digest::of_bytes(&bytes)).as_bytes());
    // The library joins these with `|` and searches each layer's name for them.
    let target_modules = modules.iter().map(|module| exactly(module)).collect();
    let config = LoraConfig { rank: config.r, alpha, target_modules };
    Ok((LoraAdapter { config, weights: tensors }, digest))
}

fn unsupported(config: &PeftConfig) -> Option<String> {
    let merged =
        "; merge it into the base (PEFT: `merge_and_unload`) and use the result as a model";
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let problem = match config {
        _ if config.peft_type != "LORA" => {
            format!("is a `{}` adapter; only LoRA can be served", config.peft_type)
        }
        _ if config.r == 0 => "has rank 0".into(),
        _ if config.use_dora => format!("uses DoRA{merged}"),
        _ if config.fan_in_fan_out => format!("sets `fan_in_fan_out`{merged}"),
        _ if config.lora_bias || config.bias.as_deref().is_some_and(|bias| bias != "none") => {
            format!("trains biases{merged}")
        }
        _ if !empty(&config.modules_to_save) => {
            format!("replaces modules (`modules_to_save`){merged}")
        }
        _ if !empty(&config.rank_pattern) || !empty(&config.alpha_pattern) => {
            format!("has ranks or alphas by layer (`rank_pattern`, `alpha_pattern`){merged}")
        }
        _ if !empty(&config.layer_replication) => format!("replicates layers{merged}"),
        _ if config.target_modules.is_string() => {
            "has a text as `target_modules`; write the list of module names".into()
        }
        _ => match config.init_lora_weights.as_str() {
            None | Some("gaussian" | "eva" | "orthogonal") => return None,
            Some(init) => format!("was initialised with `{init}`, which changes the base{merged}"),
        },
    };
    Some(problem)
}

/// The names of the layers that the adapter changes, each with a matrix of the right shape in the
/// base.
fn modules(weights: &Path, rank: usize, base: &Folder) -> Result<Vec<String>, String> {
    let name = weights.display();
    let found = shapes(&[weights.to_owned()])?;
    let mut modules = Vec::new();
    for tensor in found.keys() {
        let module = tensor
            .strip_suffix(".lora_A.weight")
            .or_else(|| tensor.strip_suffix(".lora_B.weight"))
            .ok_or_else(|| {
                format!("`{name}` holds `{tensor}`; expected names that end in `.lora_A.weight` or `.lora_B.weight`")
            })?;
        let plain = module.strip_prefix("base_model.model.").unwrap_or(module);
        let Some(&[out, input]) = base.shapes.get(&format!("{plain}.weight")).map(Vec::as_slice)
        else {
            return Err(format!(
                "`{name}` changes `{plain}`, which `{}` does not have as a matrix; the adapter is for another base",
                base.path.display()
            ));
        };
        let shape = |end: &str| found.get(&format!("{module}.{end}.weight")).map(Vec::as_slice);
        let (a, b) = (shape("lora_A"), shape("lora_B"));
        if a != Some(&[rank, input]) || b != Some(&[out, rank]) {
            return Err(format!(
                "`{name}` has for `{plain}` lora_A {:?} and lora_B {:?}, where rank {rank} and a base of {out}x{input} need {:?} and {:?}; the adapter is for another base",
                a.unwrap_or_default(),
                b.unwrap_or_default(),
                [rank, input],
                [out, rank]
            ));
        }
        modules.push(plain.to_owned());
    }
    modules.dedup();
    if modules.is_empty() { Err(format!("`{name}` is empty")) } else { Ok(modules) }
}

/// A regular expression that finds this name and no other.
fn exactly(module: &str) -> String {
    format!("^{}$", module.replace('.', r"\."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(extra: &str, expect: Option<&str>) {
        let text = format!(r#"{{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]{extra}}}"#);
        let problem = unsupported(&serde_json::from_str(&text).unwrap());
        match (problem, expect) {
            (Some(problem), Some(expect)) => assert!(problem.contains(expect), "{problem}"),
            (problem, expect) => assert_eq!(problem.as_deref(), expect),
        }
    }

    #[test]
    fn plain_and_rank_stabilised_adapters_are_served() {
        check("", None);
        check(
            r#", "bias": "none", "use_rslora": true, "modules_to_save": null, "rank_pattern": {}"#,
            None,
        );
        check(r#", "init_lora_weights": true"#, None);
    }

    #[test]
    fn what_the_library_would_ignore_is_refused_by_name() {
        check(r#", "use_dora": true"#, Some("DoRA"));
        check(r#", "bias": "all"}"#.trim_end_matches('}'), Some("biases"));
        check(r#", "modules_to_save": ["lm_head"]"#, Some("modules_to_save"));
        check(r#", "rank_pattern": {"q_proj": 8}"#, Some("rank_pattern"));
        check(r#", "init_lora_weights": "pissa""#, Some("pissa"));
        check(r#", "peft_type": "IA3""#, Some("IA3"));
    }
}
