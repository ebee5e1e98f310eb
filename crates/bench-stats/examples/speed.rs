//! How long all statistics of a large run take: 8 arms x 10,000 samples x 5 scorers, 10,000 draws.
//!
//! `cargo run --release -p bench-stats --example speed [speed.json]` prints a Markdown table and
//! writes the same figures as JSON.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark needs the clock that the library must not touch"
)]

use std::time::Instant;

use bench_stats::{ArmScores, Clusters, Family, Options, Pairs, Utility, analyse, decide};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ARMS: usize = 8;
const SAMPLES: usize = 10_000;
const SCORERS: usize = 5;

/// Scorers 0 and 1 are right or wrong; the others are continuous. Some are unscored if so asked.
fn scores(scorer: usize, unscored: f64) -> Vec<ArmScores> {
    let mut random = ChaCha8Rng::seed_from_u64(scorer as u64);
    let hard: Vec<f64> = (0..SAMPLES).map(|_| random.random()).collect();
    (0..ARMS)
        .map(|arm| {
            let mut score = |hard: f64| {
                let x = f64::midpoint(hard, random.random::<f64>()).powf(1.0 + arm as f64 / 50.0);
                let x = if scorer < 2 { x.round() } else { x };
                (random.random::<f64>() >= unscored).then_some(x)
            };
            ArmScores {
                arm: format!("arm_{arm}"),
                scores: hard.iter().map(|&hard| score(hard)).collect(),
            }
        })
        .collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options { margin: Some(0.02), ..Options::default() };
    let labels = Clusters::from_labels((0..SAMPLES).map(|i| i / 4));
    let cases = [
        ("all scored", 0.0, Clusters::none()),
        ("5 % unscored", 0.05, Clusters::none()),
        ("clusters of 4", 0.0, labels),
    ];
    println!(
        "| 8 arms x 10,000 samples x 5 scorers, 10,000 draws | threads | seconds |\n|---|---|---|"
    );
    let mut figures = Vec::new();
    for (case, unscored, clusters) in cases {
        let tables: Vec<Vec<ArmScores>> =
            (0..SCORERS).map(|scorer| scores(scorer, unscored)).collect();
        let start = Instant::now();
        let families: Vec<Family> = tables
            .iter()
            .map(|arms| analyse(arms, &clusters, &Pairs::All, &options))
            .collect::<Result<_, _>>()?;
        let decision =
            decide(&tables[0], &clusters, &families[0], &[], &Utility::default(), None, &options)?;
        let seconds = start.elapsed().as_secs_f64();
        let pairs: usize = families.iter().map(|family| family.pairs.len()).sum();
        let threads = rayon::current_num_threads();
        println!(
            "| {case}: {pairs} comparisons and a decision among {} arms | {threads} | {seconds:.2} |",
            decision.arms.len()
        );
        figures.push(serde_json::json!({ "case": case, "threads": threads, "seconds": seconds }));
    }
    if let Some(path) = std::env::args_os().nth(1) {
        std::fs::write(path, serde_json::to_string_pretty(&figures)? + "\n")?;
    }
    Ok(())
}
