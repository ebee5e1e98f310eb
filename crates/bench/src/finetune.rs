//! Fine-tuning without an experiment's other stages: training alone, and what can be made of an adapter.

use std::path::{Path, PathBuf};

use bench_candle::{
    Exported, GgufKind, TrainError, export_gguf, export_peft, merge, trained_digest,
};
use bench_core::digest;
use bench_run::Loaded;
use clap::ValueEnum;
use miette::{IntoDiagnostic as _, miette};

use crate::backends::Real;
use crate::exit::Exit;
use crate::models::Cache;
use crate::progress;

/// What `bench export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The adapter's two files, for PEFT and everything that reads its adapters.
    Peft,
    /// The merged model as a Hugging Face folder.
    Safetensors,
    /// The merged model as one file for llama.cpp and what is built on it.
    Gguf,
}

/// How the matrices of a GGUF file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Outtype {
    /// 32 bits: the same numbers.
    F32,
    /// 16 bits.
    F16,
}

/// Trains the adapters of an experiment and says where they lie.
pub(crate) fn train(loaded: &Loaded, arms: &[String]) -> miette::Result<Exit> {
    let tuned: Vec<&str> = loaded
        .plans
        .iter()
        .filter(|plan| plan.finetune.is_some() && plan.curve.is_none() || plan.features.is_some())
        .map(|plan| plan.name.as_str())
        .collect();
    if tuned.is_empty() {
        return Err(miette!(
            help = "give an arm a strategy like `finetune: { num_epochs: 3 }`",
            "no arm of this experiment is fine-tuned"
        ));
    }
    if let Some(arm) = arms.iter().find(|arm| !tuned.contains(&arm.as_str())) {
        return Err(miette!(
            help = format!("the fine-tuned arms are: {}", tuned.join(", ")),
            "there is no fine-tuned arm `{arm}`"
        ));
    }
    let progress = progress::terminal();
    let entries = match bench_run::train(loaded, &Real::new(Cache::open()), arms, progress.as_ref())
    {
        Ok(entries) => entries,
        Err(error) => {
            let help = crate::remedy(&error);
            anstream::eprintln!("{:?}", miette!(help = help, "{}", crate::chain(&error)));
            let is_wrong = matches!(error, bench_run::RunError::Trainings(_));
            return Ok(if is_wrong { Exit::Wrong } else { Exit::Backend });
        }
    };
    for entry in &entries {
        let outcome = &entry.outcome;
        for note in entry.notes() {
            anstream::eprintln!("warning: {note}");
        }
        if let Some(classifier) = &entry.classifier {
            anstream::println!(
                "{}: {} on {}: {} rows, {} labels, C {}, {:.1} s",
                outcome.adapter.display(),
                entry.arms.join(", "),
                entry.set,
                entry.rows,
                classifier.labels,
                classifier.c,
                outcome.seconds
            );
            continue;
        }
        let last = outcome.steps.last();
        let share = outcome.trainable_parameters as f64 / outcome.total_parameters.max(1) as f64;
        let dev = outcome.steps.iter().rev().find_map(|step| step.dev_loss);
        anstream::println!(
            "{}: {} on {}, seed {}: {} rows, {} steps, loss {:.3}{}{}, {:.0} tokens/s, {:.0} s; \
             {} of {} parameters trained ({:.2} %), {:.1} MB; peak memory {:.2} GiB{}",
            outcome.adapter.display(),
            entry.arms.join(", "),
            entry.set,
            entry.seed,
            entry.rows,
            outcome.steps.len(),
            last.map_or(f64::NAN, |step| step.loss),
            dev.map_or_else(String::new, |loss| format!(", validation loss {loss:.3}")),
            outcome
                .best_step
                .map_or_else(String::new, |step| format!(", step {step} kept as the best")),
            last.map_or(0.0, |step| step.tokens_per_second),
            outcome.seconds,
            outcome.trainable_parameters,
            outcome.total_parameters,
            100.0 * share,
            entry.adapter_bytes as f64 / 1e6,
            outcome.peak_memory_bytes as f64 / f64::from(1 << 30),
            entry.energy_joules.map_or_else(String::new, |joules| {
                format!("; {:.1} kJ by the processor's counters", joules / 1e3)
            }),
        );
    }
    Ok(Exit::Done)
}

/// Folds an adapter into its base.
pub(crate) fn merge_into(adapter: &Path, base: Option<&Path>, out: &Path) -> miette::Result<Exit> {
    check_intact(adapter)?;
    let base = base_of(adapter, base)?;
    let merged = merge(&base, adapter, out).map_err(|error| explained(&error))?;
    anstream::println!(
        "{}: the merged model; over {} tokens it predicts what base and adapter do, within {:.1e} nats",
        out.display(),
        merged.tokens,
        merged.largest_difference
    );
    Ok(Exit::Done)
}

/// Writes an adapter, or a model folder, in another format.
pub(crate) fn export(
    source: &Path,
    format: Format,
    outtype: Outtype,
    base: Option<&Path>,
    out: Option<&Path>,
) -> miette::Result<Exit> {
    let is_adapter = source.join(ADAPTER_CONFIG).exists();
    check_intact(source)?;
    let out = out.map_or_else(|| beside(source, format), Path::to_owned);
    match format {
        Format::Peft if !is_adapter => Err(miette!(
            help = other_folder(source),
            "`{}` is not an adapter: it has no `{ADAPTER_CONFIG}`",
            source.display()
        )),
        Format::Peft => {
            let base = base.map(|base| base.display().to_string());
            export_peft(source, &out, base.as_deref()).map_err(|error| explained(&error))?;
            anstream::println!("{}: the adapter in PEFT's format", out.display());
            Ok(Exit::Done)
        }
        Format::Safetensors if is_adapter => merge_into(source, base, &out),
        Format::Safetensors => Err(miette!(
            help = "give an adapter, or choose `--format gguf`",
            "`{}` is a model folder of safetensors already",
            source.display()
        )),
        Format::Gguf => {
            let kind = match outtype {
                Outtype::F32 => GgufKind::F32,
                Outtype::F16 => GgufKind::F16,
            };
            let exported = if is_adapter {
                let base = base_of(source, base)?;
                let scratch = out.with_extension("merging");
                let exported =
                    merge(&base, source, &scratch).and_then(|_| export_gguf(&scratch, &out, kind));
                if scratch.exists() {
                    std::fs::remove_dir_all(&scratch).into_diagnostic()?;
                }
                exported
            } else {
                export_gguf(source, &out, kind)
            };
            let Exported { architecture, tensors, bytes } =
                exported.map_err(|error| explained(&error))?;
            anstream::println!(
                "{}: {tensors} tensors of architecture `{architecture}`, {:.1} MB",
                out.display(),
                bytes as f64 / 1e6
            );
            Ok(Exit::Done)
        }
    }
}

const ADAPTER_CONFIG: &str = "adapter_config.json";

/// Where an export goes when nobody says.
fn beside(source: &Path, format: Format) -> PathBuf {
    let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    source.with_file_name(match format {
        Format::Peft => format!("{name}-peft"),
        Format::Safetensors => format!("{name}-merged"),
        Format::Gguf => format!("{name}.gguf"),
    })
}

/// The base that the caller names, or else the one that the adapter does. An adapter that was
/// trained here remembers the digest of its base, and another one is refused.
fn base_of(adapter: &Path, base: Option<&Path>) -> miette::Result<PathBuf> {
    let base = named_base(adapter, base)?;
    let record = std::fs::read(adapter.join("bench.json")).ok();
    let record = record.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
    if let Some(expected) = record.as_ref().and_then(|record| record["base"].as_str()) {
        let found =
            Cache::open().model_folder(&base).map_err(|error| miette!("{}", error.chain()))?.digest;
        if found != expected {
            return Err(miette!(
                help = "give the folder of the model that it was trained on with --base",
                "`{}` was trained on a base with digest {}, and `{}` has {}",
                adapter.display(),
                digest::short(expected),
                base.display(),
                digest::short(&found)
            ));
        }
    }
    Ok(base)
}

/// What was trained here remembers the digest of its files.
fn check_intact(folder: &Path) -> miette::Result<()> {
    let Ok(record) = std::fs::read(folder.join("bench.json")) else { return Ok(()) };
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
    let Some(expected) = record["outcome"]["digest"].as_str() else { return Ok(()) };
    if trained_digest(folder).map_err(|error| explained(&error))? == expected {
        return Ok(());
    }
    Err(miette!(
        help = "remove the folder, and `bench train` makes it again",
        "the files in `{}` are not those that were trained: they are damaged or were changed",
        folder.display()
    ))
}

fn named_base(adapter: &Path, base: Option<&Path>) -> miette::Result<PathBuf> {
    if let Some(base) = base {
        return Ok(base.to_owned());
    }
    let path = adapter.join(ADAPTER_CONFIG);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        miette!(help = other_folder(adapter), "`{}` is not an adapter: {error}", adapter.display())
    })?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
        miette!(help = other_folder(adapter), "`{}` is damaged: {error}", path.display())
    })?;
    let name = json["base_model_name_or_path"].as_str().unwrap_or_default();
    let base = PathBuf::from(name);
    if base.join("config.json").exists() {
        return Ok(base);
    }
    Err(miette!(
        help = "give the base's folder with --base",
        "the adapter was trained on `{name}`, which is no model folder here"
    ))
}

/// What to give instead of a folder that is no adapter.
fn other_folder(folder: &Path) -> String {
    let own = folder.join("adapter");
    if own.join(ADAPTER_CONFIG).exists() {
        format!("it is a merged model; its adapter lies in `{}`", own.display())
    } else if folder.join("config.json").exists() {
        "it is a whole model: it is served as it is, and `--format gguf` writes it as one file"
            .into()
    } else {
        "give the folder that `bench train` printed".into()
    }
}

fn explained(error: &TrainError) -> miette::Report {
    miette!("{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_goes_beside_its_source() {
        let source = Path::new("runs/x/adapters/ab12");
        assert_eq!(beside(source, Format::Gguf), Path::new("runs/x/adapters/ab12.gguf"));
        assert_eq!(beside(source, Format::Peft), Path::new("runs/x/adapters/ab12-peft"));
    }

    #[test]
    fn an_adapter_that_was_changed_is_not_merged_or_exported() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(ADAPTER_CONFIG, "{}");
        write("adapter_model.safetensors", "numbers");
        // From elsewhere: nobody knows what its files were.
        check_intact(folder.path()).unwrap();
        let digest = trained_digest(folder.path()).unwrap();
        write("bench.json", &format!("{{\"outcome\": {{\"digest\": \"{digest}\"}}}}"));
        check_intact(folder.path()).unwrap();
        write("adapter_model.safetensors", "numberS");
        for refused in [
            merge_into(folder.path(), None, Path::new("never")),
            export(folder.path(), Format::Peft, Outtype::F32, None, Some(Path::new("never"))),
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("are not those that were trained"), "{error}");
        }
    }

    #[test]
    fn a_base_that_is_not_here_must_be_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = base_of(folder.path(), None).unwrap_err().to_string();
        assert!(error.contains("is not an adapter"), "{error}");
        assert!(other_folder(folder.path()).contains("`bench train` printed"));
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        assert!(other_folder(folder.path()).contains("whole model"));
        let own = folder.path().join("adapter");
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join(ADAPTER_CONFIG), "{}").unwrap();
        assert!(other_folder(folder.path()).ends_with("/adapter`"));
        let config = "{\"base_model_name_or_path\": \"org/model\"}";
        std::fs::write(folder.path().join(ADAPTER_CONFIG), config).unwrap();
        let error = base_of(folder.path(), None).unwrap_err().to_string();
        assert!(error.contains("`org/model`, which is no model folder here"), "{error}");
        assert_eq!(base_of(folder.path(), Some(Path::new("b"))).unwrap(), Path::new("b"));
    }
}
