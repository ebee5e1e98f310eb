//! Time and memory of each way to train, on one model folder.
//!
//! ```text
//! cargo run --release -p bench-candle --example train_ladder -- MODEL ROWS TOKENS STEPS [METHOD …]
//! ```
//! Each way runs in a process of its own, so that its peak memory is its own; the first step is left
//! out, because it makes the buffers. Prints a Markdown table, or with `--json` a line per way.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::{env, error::Error, path::PathBuf, process::Command, time::Instant};

use bench_candle::{CandleTrainer, train_plan};
use bench_core::backend::{ModelFolder, TrainExample, TrainJob, Trainer};
use bench_core::chat::Message;
use bench_core::spec::{Finetune, InitLoraWeights, Method, Objective, Optimizer, Quantization};
use serde_json::{Value, json};

/// The ways, from the least to the most that is trained.
fn ways() -> Vec<(&'static str, Finetune)> {
    let of = |method| Finetune { method, ..Finetune::default() };
    let lora = of(Method::Lora);
    let checkpointing = |settings| Finetune { gradient_checkpointing: true, ..settings };
    let eight_bit = |settings| Finetune { optimizer: Optimizer::Adamw8bit, ..settings };
    vec![
        ("head", of(Method::Head)),
        ("last_layers 2", of(Method::LastLayers)),
        ("lora r 16", lora.clone()),
        ("lora r 16, checkpointing", checkpointing(lora.clone())),
        ("lora r 16, dora", Finetune { use_dora: true, ..lora.clone() }),
        (
            "lora r 16, pissa",
            Finetune { init_lora_weights: InitLoraWeights::Pissa, ..lora.clone() },
        ),
        ("lora r 16, dpo", Finetune { objective: Objective::Dpo, ..lora }),
        ("qlora r 16 q4_0, checkpointing", checkpointing(of(Method::Qlora))),
        (
            "qlora r 16 q8_0, checkpointing",
            checkpointing(Finetune { quantization: Quantization::Q8_0, ..of(Method::Qlora) }),
        ),
        ("full, checkpointing, adamw_8bit", eight_bit(checkpointing(of(Method::Full)))),
        ("full, checkpointing", checkpointing(of(Method::Full))),
    ]
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let as_json = arguments.iter().any(|argument| argument == "--json");
    arguments.retain(|argument| argument != "--json");
    let [model, rows, tokens, steps, chosen @ ..] = arguments.as_slice() else {
        return Err("give MODEL ROWS TOKENS STEPS [METHOD …]".into());
    };
    let numbers: [u32; 3] = [rows.parse()?, tokens.parse()?, steps.parse()?];
    if let Ok(way) = env::var("TRAIN_LADDER_WAY") {
        println!("{}", measure(model, numbers, way.parse()?)?);
        return Ok(());
    }
    if !as_json {
        println!(
            "| method | trained | seconds per step | tokens per second | peak memory, MiB | estimate, MiB |"
        );
        println!("|---|--:|--:|--:|--:|--:|");
    }
    let program = env::current_exe()?;
    for (way, (name, _)) in ways().into_iter().enumerate() {
        if !chosen.is_empty() && !chosen.iter().any(|chosen| name.starts_with(chosen)) {
            continue;
        }
        let output = Command::new(&program)
            .args(&arguments)
            .env("TRAIN_LADDER_WAY", way.to_string())
            .output()?;
        if !output.status.success() {
            eprintln!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
            continue;
        }
        let row: Value = serde_json::from_slice(&output.stdout)?;
        if as_json {
            println!("{row}");
        } else {
            let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
            println!(
                "| {name} | {:.2} % | {:.2} | {:.0} | {:.0} | {:.0} |",
                100.0 * number("trained_share"),
                number("seconds_per_step"),
                number("tokens_per_second"),
                number("peak_memory_bytes") / f64::from(1 << 20),
                number("estimated_memory_bytes") / f64::from(1 << 20),
            );
        }
    }
    Ok(())
}

/// Steps of one way.
fn measure(model: &str, numbers: [u32; 3], way: usize) -> Result<Value, Box<dyn Error>> {
    let [rows, tokens, steps] = numbers;
    let (name, settings) = ways().swap_remove(way);
    let words = ["river", "seven", "of", "stone", "and", "went", "blue", "the", "market"];
    let text = |row: u32, n: u32| {
        let pick = |i: u32| words[(i * (row + 3) + i / 7) as usize % words.len()];
        (0..n).map(pick).collect::<Vec<_>>().join(" ")
    };
    // Each word is one token or more; rows are cut to their length. A preference is two rows.
    let preference = settings.objective == Objective::Dpo;
    let micro_batch_size = if preference { (rows / 2).max(1) } else { rows };
    let example = |row: u32| {
        if preference {
            TrainExample::Preference {
                messages: vec![Message::user(text(row, 8))],
                chosen: text(row, tokens),
                rejected: text(row + 1, tokens),
            }
        } else {
            TrainExample::Text(text(row, tokens))
        }
    };
    let output = env::temp_dir().join(format!("train_ladder-{}", std::process::id()));
    let job = TrainJob {
        base: ModelFolder { path: PathBuf::from(model), digest: "ladder".into() },
        examples: (0..micro_batch_size * (steps + 1)).map(example).collect(),
        dev: Vec::new(),
        settings: Finetune {
            num_epochs: 1,
            micro_batch_size,
            sequence_len: tokens,
            truncate: true,
            ..settings
        },
        seed: 0,
        output: output.clone(),
    };
    let estimate = train_plan(&job)?;
    let mut times = Vec::new();
    let mut peak = 0;
    let mut start = Instant::now();
    let outcome = CandleTrainer::default().train(&job, &mut |step| {
        times.push((start.elapsed().as_secs_f64(), step.tokens));
        // What is written at the end takes memory of its own.
        peak = peak_memory_bytes();
        start = Instant::now();
    })?;
    std::fs::remove_dir_all(output)?;
    let seconds: f64 = times[1..].iter().map(|time| time.0).sum();
    let tokens = times[times.len() - 1].1 - times[0].1;
    Ok(json!({
        "method": name,
        "trained_parameters": outcome.trainable_parameters,
        "trained_share": outcome.trainable_parameters as f64 / outcome.total_parameters as f64,
        "seconds_per_step": seconds / (times.len() - 1) as f64,
        "tokens_per_second": tokens as f64 / seconds,
        "peak_memory_bytes": peak,
        "peak_memory_with_export_bytes": outcome.peak_memory_bytes,
        "estimated_memory_bytes": estimate.peak_memory_bytes,
        "served": outcome.served,
    }))
}

fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
