//! Measures a model folder on this machine: prefill, one answer at a time, and answers together.
//!
//! ```text
//! cargo run --release -p bench -p bench-mistralrs --example generate_speed -- path/to/model [adapter]
//! ```
#![expect(clippy::print_stdout, reason = "a program that prints its measurements")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bench_core::backend::{Completion, Generator, Loader, ModelFolder, Request};
use bench_core::chat::Message;
use bench_mistralrs::MistralLoader;
use futures::future::try_join_all;

const QUESTIONS: [&str; 8] = [
    "What is the capital of France?",
    "Name three fruits.",
    "Who wrote Romeo and Juliet?",
    "What is the boiling point of water in degrees Celsius?",
    "Write one sentence about the sea.",
    "Translate `good morning` into French.",
    "What is 12 plus 30?",
    "Why is the sky blue?",
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let path = arguments.first().ok_or("which model folder?")?.clone();
    let start = Instant::now();
    let model = ModelFolder { path, digest: String::new() };
    let loader = MistralLoader { copies_memory: 4 << 30, prefix_cache_memory: 0 };
    let generator = loader.load(&model, arguments.get(1).map(PathBuf::as_path))?;
    println!("loaded {} in {:.2} s", generator.id(), start.elapsed().as_secs_f64());

    let first = generator.generate(&request(QUESTIONS[0], 64)).await?;
    println!("{} {:?} ({})", QUESTIONS[0], first.text, first.finish);

    let long = format!("Repeat the last word. {}", "The sea is wide and blue. ".repeat(100));
    let prefill = generator.generate(&request(&long, 1)).await?;
    let seconds = prefill.latency_ms / 1e3;
    println!(
        "prefill: {} tokens, {:.0} tokens/s",
        prefill.tokens_in,
        f64::from(prefill.tokens_in) / seconds
    );

    let answer = generator.generate(&request("Tell a long story about a ship.", 128)).await?;
    let decoding = (answer.latency_ms - answer.first_token_ms.unwrap_or_default()) / 1e3;
    println!(
        "one at a time: {} tokens, {:.1} tokens/s after the first token",
        answer.tokens_out,
        f64::from(answer.tokens_out - 1) / decoding
    );

    let same = QUESTIONS.map(|_| "Tell a long story about a ship.");
    together(generator.as_ref(), "8 equal prompts at once", &same).await?;
    together(generator.as_ref(), "8 different prompts at once", &QUESTIONS).await?;
    println!("resident memory: {} MiB", resident_mib());
    let freed = Instant::now();
    drop(generator);
    println!(
        "dropped in {:.2} s, resident memory: {} MiB",
        freed.elapsed().as_secs_f64(),
        resident_mib()
    );
    Ok(())
}

fn request(question: &str, max_tokens: u32) -> Request {
    Request {
        messages: vec![Message::user(question)],
        max_tokens,
        temperature: 0.0,
        top_p: None,
        seed: 0,
        stop: Vec::new(),
        constraint: None,
        top_logprobs: 0,
    }
}

async fn together(
    generator: &dyn Generator,
    label: &str,
    questions: &[&str],
) -> Result<(), Box<dyn Error>> {
    let requests: Vec<Request> = questions.iter().map(|question| request(question, 64)).collect();
    let start = Instant::now();
    let answers: Vec<Completion> =
        try_join_all(requests.iter().map(|request| generator.generate(request))).await?;
    let seconds = start.elapsed().as_secs_f64();
    let tokens: u32 = answers.iter().map(|answer| answer.tokens_out).sum();
    println!(
        "{label}: {tokens} tokens, {:.1} tokens/s, prefill included",
        f64::from(tokens) / seconds
    );
    Ok(())
}

/// 0 where the system does not say.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
