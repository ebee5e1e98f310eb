//! How fast an adapter is trained: steps of `rows` rows of `tokens` tokens on a model folder.
//!
//! ```text
//! cargo run --release -p bench-candle --example train_speed -- MODEL ROWS TOKENS STEPS [checkpointing] [qlora]
//! ```
//! Prints one line of JSON. The first step is left out: it makes the buffers.

use std::{env, error::Error, path::PathBuf, time::Instant};

use bench_candle::CandleTrainer;
use bench_core::backend::{ModelFolder, TrainExample, TrainJob, Trainer};
use bench_core::spec::{Finetune, Method};

#[expect(clippy::print_stdout, reason = "the measurement is the output")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, rows, tokens, steps, rest @ ..] = arguments.as_slice() else {
        return Err("give MODEL ROWS TOKENS STEPS [checkpointing] [qlora]".into());
    };
    let (rows, tokens, steps): (u32, u32, u32) = (rows.parse()?, tokens.parse()?, steps.parse()?);
    let has = |word: &str| rest.iter().any(|argument| argument == word);
    let output = env::temp_dir().join(format!("train_speed-{}", std::process::id()));
    // Each word is one token or more; rows are cut to their length.
    let text = |row: u32| {
        let words = ["river", "seven", "of", "stone", "and", "went", "blue", "the", "market"];
        let pick = |i: u32| words[(i * (row + 3) + i / 7) as usize % words.len()];
        TrainExample::Text((0..tokens).map(pick).collect::<Vec<_>>().join(" "))
    };
    let job = TrainJob {
        base: ModelFolder { path: PathBuf::from(model), digest: "speed".into() },
        examples: (0..rows * (steps + 1)).map(text).collect(),
        dev: Vec::new(),
        settings: Finetune {
            num_epochs: 1,
            micro_batch_size: rows,
            sequence_len: tokens,
            truncate: true,
            gradient_checkpointing: has("checkpointing"),
            method: if has("qlora") { Method::Qlora } else { Method::Lora },
            ..Finetune::default()
        },
        seed: 0,
        output: output.clone(),
    };
    let (mut times, mut losses) = (Vec::new(), Vec::new());
    let mut start = Instant::now();
    let outcome = CandleTrainer::default().train(&job, &mut |step| {
        times.push((start.elapsed().as_secs_f64(), cpu_seconds(), step.tokens));
        losses.push(step.loss);
        start = Instant::now();
    })?;
    std::fs::remove_dir_all(output)?;
    let seconds: f64 = times[1..].iter().map(|time| time.0).sum();
    let (first, last) = (times[0], times[times.len() - 1]);
    let tokens = (last.2 - first.2) as f64;
    println!(
        "{{\"tokens_per_second\": {:.1}, \"tokens_per_cpu_second\": {:.1}, \"seconds_per_step\": {:.3}, \"peak_memory_bytes\": {}, \"losses\": {losses:?}}}",
        tokens / seconds,
        tokens / (last.1 - first.1),
        seconds / (times.len() - 1) as f64,
        outcome.peak_memory_bytes
    );
    Ok(())
}

/// Processor seconds of all threads so far; 0 where the system does not tell.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
