//! How long all statistics of a large run take: 8 arms x 10,000 samples x 5 scorers, 10,000 draws.
//!
//! `cargo bench -p bench-stats --bench speed`; figures with their spread are left in `criterion/` of
//! the target folder, or in the folder that `CRITERION_HOME` names.

use bench_stats::{
    ArmScores, Clusters, Family, FamilyError, Options, Pairs, Utility, analyse, decide,
};
use criterion::{BenchmarkId, Criterion, SamplingMode};
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

/// Means, all pairs and the decision on the first scorer, as a report makes them.
fn statistics(tables: &[Vec<ArmScores>], clusters: &Clusters) -> Result<Vec<Family>, FamilyError> {
    let options = Options { margin: Some(0.02), ..Options::default() };
    let families: Vec<Family> = tables
        .iter()
        .map(|arms| analyse(arms, clusters, &Pairs::All, &options))
        .collect::<Result<_, _>>()?;
    let decision =
        decide(&tables[0], clusters, &families[0], &[], &Utility::default(), None, &options);
    assert!(decision.is_ok_and(|decision| decision.arms.len() == ARMS));
    Ok(families)
}

fn speed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("8 arms x 10000 samples x 5 scorers");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    let groups = Clusters::from_labels((0..SAMPLES).map(|i| i / 4));
    for (case, unscored, clusters) in [
        ("all scored", 0.0, Clusters::none()),
        ("5 % unscored", 0.05, Clusters::none()),
        ("clusters of 4", 0.0, groups),
    ] {
        let tables: Vec<Vec<ArmScores>> =
            (0..SCORERS).map(|scorer| scores(scorer, unscored)).collect();
        group.bench_function(BenchmarkId::from_parameter(case), |bencher| {
            bencher.iter(|| statistics(&tables, &clusters));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    speed(&mut criterion);
    criterion.final_summary();
}
