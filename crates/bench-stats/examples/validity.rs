//! Simulated proof that the statistics are right: coverage, error rates, sample sizes.
//!
//! `cargo run --release -p bench-stats --example validity [validity.json [word]]` prints a Markdown
//! page and writes the same figures as JSON; with a word, only of sections that have it in their title.
#![expect(clippy::print_stdout, reason = "the page is what this program is for")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bench_stats::{
    ArmScores, Clusters, ConfidenceSequence, Confusion, Corrected, Options, Pairs, Spread,
    StopRule, Utility, Verdict, analyse, compare, compare_seeds, decide, estimate, ppi_mean,
    rogan_gladen, samples_for_difference, wilson,
};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Value, json};

type Random = ChaCha8Rng;

const OPENING: &str = "# The statistics, proved by simulation

Made by `cargo run --release -p bench-stats --example validity`; the seeds are fixed, so that every machine prints the
same figures. A simulated share has a Monte-Carlo standard error, told above each table; shares marked *exact* are sums
over all outcomes.
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sections: [(&str, &str, Section); 8] = [
        ("Coverage of 95 % intervals", COVERAGE_NOTE, coverage),
        (
            "False differences and false winners among 6 equal arms",
            "2,000 runs: a standard error of 0.005 at 0.05.",
            false_winners,
        ),
        (
            "Predicted against simulated sample sizes (power 0.8)",
            "Simulated: where a line through the power at five sizes around the prediction crosses 0.8.",
            sample_sizes,
        ),
        ("Size of the equivalence test at the margin", EQUIVALENCE_NOTE, equivalence),
        (
            "Sequential rule, peeking after every sample of 2,000",
            "2,000 runs: a standard error of 0.005 at 0.05.",
            sequential,
        ),
        ("Judge scores corrected by human labels", CORRECTED_NOTE, corrected),
        ("Graded judge scores corrected by human labels", GRADED_NOTE, graded),
        ("Coverage with training seeds", "10,000 runs: a standard error of 0.002 at 0.95.", seeds),
    ];
    let mut arguments = std::env::args().skip(1);
    let (path, word) = (arguments.next(), arguments.next().unwrap_or_default());
    let mut all = BTreeMap::new();
    let mut tables = String::new();
    for (title, note, section) in sections.into_iter().filter(|(title, ..)| title.contains(&word)) {
        let rows = section();
        write!(tables, "\n### {title}\n\n{note}\n\n{}", table(&rows))?;
        let rows: Vec<BTreeMap<&str, Value>> =
            rows.into_iter().map(|row| row.into_iter().collect()).collect();
        all.insert(title, rows);
    }
    println!("{OPENING}\n{}{}", outside(&all), tables.trim_end());
    if let Some(path) = path {
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    Ok(())
}

/// Rows as a Markdown table.
fn table(rows: &[Row]) -> String {
    let columns: Vec<&str> =
        rows.iter().flatten().map(|(name, _)| *name).take(rows[0].len()).collect();
    let mut text = format!("| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|(_, value)| cell(value)).collect();
        writeln!(text, "| {} |", cells.join(" | ")).ok();
    }
    text
}

/// Every coverage outside of 94 to 96 % from 50 samples or labels on, with its reason.
fn outside(all: &BTreeMap<&str, Vec<BTreeMap<&str, Value>>>) -> String {
    let mut lines = Vec::new();
    let mut look = |share: &Value, what: String, why: &str| {
        let share = share.as_f64().unwrap_or(f64::NAN);
        if !(0.94..=0.96).contains(&share) {
            lines.push(format!("- {what}: {:.1} %. {why}\n", 100.0 * share));
        }
    };
    let word = |row: &BTreeMap<&str, Value>, key: &str| {
        row.get(key).map_or_else(String::new, |value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    };
    for row in all.get("Coverage of 95 % intervals").into_iter().flatten() {
        let kind = word(row, "scores and interval");
        let why = if kind == HALF {
            "Right answers come in whole numbers: an interval that treats right and wrong alike covers 93.5 or 96.7 % here and nothing between."
        } else {
            ""
        };
        for n in ["n = 50", "n = 200", "n = 1,000"] {
            look(&row[n], format!("{kind}, {n}"), why);
        }
    }
    for row in all.get("Judge scores corrected by human labels").into_iter().flatten() {
        let what = format!(
            "{} labels, {} right, a judge of accuracy {}",
            word(row, "human labels of 1,000"),
            word(row, "truth"),
            word(row, "judge accuracy"),
        );
        let errors = "Few errors among few labels: coverage goes in steps.";
        look(&row["coverage of PPI"], format!("PPI, {what}"), errors);
        if let Some(share) = row.get("coverage of Rogan-Gladen").filter(|share| !share.is_null()) {
            let given = row["Rogan-Gladen given"].as_f64().unwrap_or_default();
            let why = if given < 0.5 { "It is refused in most runs." } else { errors };
            look(share, format!("Rogan-Gladen where it is given, {what}"), why);
        }
    }
    for row in all.get("Graded judge scores corrected by human labels").into_iter().flatten() {
        let what = format!(
            "{} labels, a judge of accuracy {}",
            word(row, "human labels of 1,000"),
            word(row, "judge accuracy"),
        );
        look(&row["coverage of PPI"], format!("PPI of five grades, {what}"), "");
    }
    if lines.is_empty() {
        return "No coverage is outside of 94 to 96 % from 50 samples on.\n".into();
    }
    format!("Outside of 94 to 96 % from 50 samples on:\n{}", lines.concat())
}

type Row = Vec<(&'static str, Value)>;
type Section = fn() -> Vec<Row>;

/// Coverage at a number of samples.
type Cover<'a> = Box<dyn Fn(usize) -> f64 + 'a>;

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".into(),
        Value::Number(number) if number.is_f64() => {
            format!("{:.4}", number.as_f64().unwrap_or(f64::NAN))
        }
        other => other.to_string(),
    }
}

/// The mean of a figure over simulated runs, each with its own stream.
fn simulate(runs: usize, figure: impl Fn(&mut Random) -> f64 + Sync) -> f64 {
    simulate_all(runs, |random| [figure(random)])[0]
}

/// The means of several figures of the same runs.
fn simulate_all<const K: usize>(
    runs: usize,
    figures: impl Fn(&mut Random) -> [f64; K] + Sync,
) -> [f64; K] {
    let run = |i: usize| {
        let mut random = Random::seed_from_u64(20_240_501);
        random.set_stream(i as u64);
        figures(&mut random)
    };
    let all: Vec<[f64; K]> = (0..runs).into_par_iter().map(run).collect();
    std::array::from_fn(|k| all.iter().map(|figures| figures[k]).sum::<f64>() / runs as f64)
}

fn yes(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn holds(low: f64, truth: f64, high: f64) -> f64 {
    yes(low <= truth && truth <= high)
}

fn options(draws: usize) -> Options {
    Options { draws, ..Options::default() }
}

fn normal(random: &mut Random) -> f64 {
    let [u, v]: [f64; 2] = random.random();
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Beta(1/2, 2) by its density: a square of a uniform, kept with probability `1 - x`.
fn skewed(random: &mut Random) -> f64 {
    loop {
        let x = random.random::<f64>().powi(2);
        if random.random::<f64>() < 1.0 - x {
            return x;
        }
    }
}

fn likert(random: &mut Random) -> f64 {
    let u: f64 = random.random();
    [0.05, 0.15, 0.30, 0.60].iter().map(|&edge| yes(u >= edge)).sum::<f64>() / 4.0
}

const LIKERT_MEAN: f64 = (0.95 + 0.85 + 0.70 + 0.40) / 4.0;

const COVERAGE_NOTE: &str = "40,000 runs where the interval has a closed form (a standard error of 0.001), 20,000 where it is a bootstrap (0.0015; 0.003 at n = 1,000, 6,000 runs). A proportion of one half is exact.";

/// The row of a single proportion.
const HALF: &str = "Bernoulli, p = 0.5: Wilson, exact";

/// What Wilson's interval covers of a proportion of one half: a sum over all outcomes.
fn coverage_of_half(n: usize) -> f64 {
    let ln_choose = |k: usize| (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum::<f64>();
    let chance = |k: usize| (ln_choose(k) - n as f64 * std::f64::consts::LN_2).exp();
    (0..=n)
        .filter(|&k| wilson(k, n, 0.95).is_some_and(|e| e.low <= 0.5 && 0.5 <= e.high))
        .map(chance)
        .sum()
}

fn coverage() -> Vec<Row> {
    const RUNS: usize = 40_000;
    let bootstraps = |n: usize| if n > 500 { 6_000 } else { 20_000 };
    let mean_of = |n: usize, truth: f64, draw: fn(&mut Random) -> f64| {
        simulate(bootstraps(n), |random| {
            let values: Vec<f64> = (0..n).map(|_| draw(random)).collect();
            estimate(&values, &Clusters::none(), &options(2000))
                .map_or(0.0, |e| holds(e.low, truth, e.high))
        })
    };
    let bernoulli = |n: usize, lowest: f64, highest: f64| {
        simulate(RUNS, |random| {
            let p = lowest + (highest - lowest) * random.random::<f64>();
            let values: Vec<f64> = (0..n).map(|_| yes(random.random::<f64>() < p)).collect();
            estimate(&values, &Clusters::none(), &options(1))
                .map_or(0.0, |e| holds(e.low, p, e.high))
        })
    };
    // Five samples of a cluster share its luck.
    let clustered = |n: usize, binary: bool| {
        let clusters = Clusters::from_labels((0..n).map(|i| i / 5));
        simulate(RUNS, |random| {
            let mut values = Vec::with_capacity(n);
            while values.len() < n {
                let luck = 0.3 * (random.random::<f64>() - 0.5);
                for _ in 0..5 {
                    let p = 0.6 + luck;
                    let u: f64 = random.random();
                    values.push(if binary { yes(u < p) } else { p + 0.4 * (u - 0.5) });
                }
            }
            estimate(&values, &clusters, &options(1)).map_or(0.0, |e| holds(e.low, 0.6, e.high))
        })
    };
    let paired_binary = |n: usize| {
        simulate(RUNS, |random| {
            let (discordant, share) =
                (0.05 + 0.45 * random.random::<f64>(), 0.2 + 0.6 * random.random::<f64>());
            let (a, b): (Vec<f64>, Vec<f64>) = (0..n)
                .map(|_| pair(random, discordant * share, discordant * (1.0 - share)))
                .unzip();
            let truth = discordant * (2.0 * share - 1.0);
            compare(&a, &b, &Clusters::none(), &options(1))
                .map_or(0.0, |c| holds(c.low, truth, c.high))
        })
    };
    let paired_scores = |n: usize| {
        simulate(bootstraps(n), |random| {
            let (a, b): (Vec<f64>, Vec<f64>) = (0..n)
                .map(|_| {
                    let base = likert(random);
                    (
                        if random.random::<f64>() < 0.5 { base } else { likert(random) },
                        if random.random::<f64>() < 0.5 { base } else { skewed(random) },
                    )
                })
                .unzip();
            let truth = LIKERT_MEAN - f64::midpoint(LIKERT_MEAN, 0.2);
            compare(&a, &b, &Clusters::none(), &options(2000))
                .map_or(0.0, |c| holds(c.low, truth, c.high))
        })
    };
    let kinds: [(&str, Cover<'_>); 10] = [
        ("Bernoulli, p from 0.1 to 0.9: Wilson", Box::new(|n| bernoulli(n, 0.1, 0.9))),
        (HALF, Box::new(coverage_of_half)),
        ("Likert of 5 grades: BCa", Box::new(|n| mean_of(n, LIKERT_MEAN, likert))),
        ("skewed, Beta(1/2, 2): BCa", Box::new(|n| mean_of(n, 0.2, skewed))),
        (
            "70 % zeros, else uniform: BCa",
            Box::new(|n| {
                mean_of(n, 0.15, |r| if r.random::<f64>() < 0.7 { 0.0 } else { r.random() })
            }),
        ),
        (
            "exponential, unbounded: Hall",
            Box::new(|n| mean_of(n, 1.0, |r| -(1.0 - r.random::<f64>()).ln())),
        ),
        ("clusters of 5, scores: cluster-robust t", Box::new(|n| clustered(n, false))),
        ("clusters of 5, right or wrong: Wilson, clustered", Box::new(|n| clustered(n, true))),
        ("paired difference, right or wrong: Tango", Box::new(paired_binary)),
        ("paired difference, scores: BCa", Box::new(paired_scores)),
    ];
    kinds
        .iter()
        .map(|(kind, cover)| {
            let figures = [("n = 20", 20), ("n = 50", 50), ("n = 200", 200), ("n = 1,000", 1000)];
            let cells = figures.into_iter().map(|(name, n)| (name, json!(cover(n))));
            [("scores and interval", json!(kind))].into_iter().chain(cells).collect()
        })
        .collect()
}

/// Two scores of 0 or 1: only the first, only the second, or both the same.
fn pair(random: &mut Random, first: f64, second: f64) -> (f64, f64) {
    let u: f64 = random.random();
    (yes(u < first || u > 0.9), yes((first..first + second).contains(&u) || u > 0.9))
}

fn false_winners() -> Vec<Row> {
    let table = |random: &mut Random, n: usize, binary: bool| -> Vec<ArmScores> {
        let hard: Vec<f64> = (0..n).map(|_| random.random()).collect();
        let mut score = |hard: f64| {
            let x = f64::midpoint(hard, random.random::<f64>());
            if binary { yes(x > 0.5) } else { x * x }
        };
        (0..6)
            .map(|arm| ArmScores {
                arm: format!("arm {arm}"),
                scores: hard.iter().map(|&h| Some(score(h))).collect(),
            })
            .collect()
    };
    [(50, true), (200, true), (50, false), (200, false)]
        .into_iter()
        .map(|(n, binary)| {
            let run = |random: &mut Random| {
                let options = Options { draws: 1000, seed: random.random(), ..Options::default() };
                let arms = table(random, n, binary);
                let family = analyse(&arms, &Clusters::none(), &Pairs::All, &options).ok()?;
                let any = family
                    .pairs
                    .iter()
                    .flat_map(|p| &p.comparison)
                    .any(|c| matches!(c.verdict, Verdict::Better | Verdict::Worse));
                let decision = decide(
                    &arms,
                    &Clusters::none(),
                    &family,
                    &[],
                    &Utility::default(),
                    None,
                    &options,
                )
                .ok()?;
                Some((any, decision.winner.is_some()))
            };
            let [any, winner] = simulate_all(2000, |random| {
                run(random).map_or([1.0; 2], |(any, winner)| [yes(any), yes(winner)])
            });
            vec![
                ("scores", json!(if binary { "right or wrong" } else { "continuous, skewed" })),
                ("samples", json!(n)),
                ("some pair called different", json!(any)),
                ("a winner named", json!(winner)),
            ]
        })
        .collect()
}

fn sample_sizes() -> Vec<Row> {
    let power_of =
        |n: usize, alpha: f64, runs: usize, draw: &(dyn Fn(&mut Random) -> (f64, f64) + Sync)| {
            simulate(runs, |random| {
                let (a, b): (Vec<f64>, Vec<f64>) = (0..n).map(|_| draw(random)).unzip();
                let options = Options { seed: random.random(), ..options(1000) };
                compare(&a, &b, &Clusters::none(), &options).map_or(0.0, |c| yes(c.p_value < alpha))
            })
        };
    // Where a line through powers around the prediction crosses 0.8.
    let needed = |predicted: usize,
                  alpha: f64,
                  runs: usize,
                  draw: &(dyn Fn(&mut Random) -> (f64, f64) + Sync)| {
        let points: Vec<(f64, f64)> = [0.8, 0.9, 1.0, 1.1, 1.2]
            .into_iter()
            .map(|factor| {
                let n = predicted as f64 * factor;
                (n.round(), power_of(n.round() as usize, alpha, runs, draw))
            })
            .collect();
        let count = points.len() as f64;
        let [x, y] = points.iter().fold([0.0; 2], |[x, y], p| [x + p.0 / count, y + p.1 / count]);
        let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>()
            / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
        x + (0.8 - y) / slope
    };
    let row = |kind: String, predicted: usize, simulated: f64| -> Row {
        let ratio = predicted as f64 / simulated;
        vec![
            ("comparison", json!(kind)),
            ("predicted n", json!(predicted)),
            ("simulated n", json!(simulated.round() as usize)),
            ("ratio", json!(ratio)),
        ]
    };
    let mut rows = Vec::new();
    for (difference, discordance, family) in
        [(0.2, 0.4, 1), (0.1, 0.2, 1), (0.1, 0.3, 15), (0.05, 0.15, 6), (0.03, 0.2, 1)]
    {
        let alpha = 0.05 / family as f64;
        let predicted = samples_for_difference(
            difference,
            Spread::Discordance(discordance),
            family,
            &options(1),
        )
        .unwrap_or(0);
        let first = f64::midpoint(discordance, difference);
        let simulated =
            needed(predicted, alpha, 6000, &|random| pair(random, first, discordance - first));
        rows.push(row(
            format!(
                "right or wrong, difference {difference}, discordance {discordance}, 1 of {family}"
            ),
            predicted,
            simulated,
        ));
    }
    for (difference, deviation) in [(0.1, 0.3), (0.05, 0.2)] {
        let predicted = samples_for_difference(
            difference,
            Spread::StandardDeviation(deviation),
            1,
            &options(1),
        )
        .unwrap_or(0);
        let simulated =
            needed(predicted, 0.05, 3000, &|random| (difference + deviation * normal(random), 0.0));
        rows.push(row(
            format!("scores, difference {difference}, deviation {deviation}"),
            predicted,
            simulated,
        ));
    }
    rows
}

const EQUIVALENCE_NOTE: &str = "Right or wrong is exact: a sum over all outcomes. The standard error of the others stands in the last column.";

/// How often arms that differ by the margin are called equivalent: over all counts of samples that
/// only one of them gets right.
fn exact_size(n: usize, discordance: f64, margin: f64) -> f64 {
    let (first, second) = (f64::midpoint(discordance, margin), f64::midpoint(discordance, -margin));
    let mut ln_factorial = vec![0.0; n + 1];
    for i in 1..=n {
        ln_factorial[i] = ln_factorial[i - 1] + (i as f64).ln();
    }
    let ln_chance = |a: usize, b: usize| {
        let rest = n - a - b;
        ln_factorial[n] - ln_factorial[a] - ln_factorial[b] - ln_factorial[rest]
            + a as f64 * first.ln()
            + if b > 0 { b as f64 * second.ln() } else { 0.0 }
            + rest as f64 * (1.0 - discordance).ln()
    };
    let options = Options { margin: Some(margin), ..options(1) };
    let equivalent = |a: usize, b: usize| {
        let only = |from: usize, count: usize| {
            (0..n).map(|i| yes((from..from + count).contains(&i))).collect::<Vec<f64>>()
        };
        compare(&only(0, a), &only(a, b), &Clusters::none(), &options)
            .and_then(|c| c.equivalence_p)
            .is_some_and(|p| p < 0.05)
    };
    (0..=n)
        .into_par_iter()
        .map(|a| {
            // Beyond the margin nothing is equivalent, and what is rarer than 1e-12 adds nothing.
            let near = (0..=n - a).filter(|&b| a.abs_diff(b) as f64 <= n as f64 * margin);
            near.filter(|&b| ln_chance(a, b) > -27.0 && equivalent(a, b))
                .map(|b| ln_chance(a, b).exp())
                .sum::<f64>()
        })
        // An empty sum of floats is -0.
        .sum::<f64>()
        + 0.0
}

fn equivalence() -> Vec<Row> {
    let margin = 0.05;
    let mut rows: Vec<Row> = Vec::new();
    for n in [50, 200, 1000] {
        for discordance in [0.0501, 0.06, 0.1, 0.2, 0.3, 0.5] {
            rows.push(vec![
                ("scores", json!(format!("right or wrong, discordance {discordance}"))),
                ("samples", json!(n)),
                ("called equivalent", json!(exact_size(n, discordance, margin))),
                ("standard error", json!(0.0)),
            ]);
        }
        let runs = 20_000_000 / n.max(100);
        let rate = simulate(runs, |random| {
            let a: Vec<f64> = (0..n).map(|_| margin + 0.15 * normal(random)).collect();
            let options = Options { margin: Some(margin), ..options(20) };
            compare(&a, &vec![0.0; n], &Clusters::none(), &options)
                .and_then(|c| c.equivalence_p)
                .map_or(0.0, |p| yes(p < 0.05))
        });
        rows.push(vec![
            ("scores", json!("continuous, deviation 0.15")),
            ("samples", json!(n)),
            ("called equivalent", json!(rate)),
            ("standard error", json!((rate * (1.0 - rate) / runs as f64).sqrt())),
        ]);
    }
    rows
}

fn sequential() -> Vec<Row> {
    let run = |random: &mut Random, first: f64, second: f64| {
        let mut sequence = ConfidenceSequence::of_difference(0.95);
        (1_u32..=2000).find(|_| {
            let (a, b) = pair(random, first, second);
            sequence.push(a - b);
            sequence.stops(StopRule::Difference { margin: None })
        })
    };
    [(0.05, 0.05), (0.2, 0.2), (0.15, 0.05), (0.3, 0.1)]
        .into_iter()
        .map(|(first, second): (f64, f64)| {
            let [stopped, samples] = simulate_all(2000, |random| {
                let end = run(random, first, second);
                [yes(end.is_some()), f64::from(end.unwrap_or(2000))]
            });
            vec![
                ("true difference", json!(((first - second) * 100.0).round() / 100.0)),
                ("discordance", json!(first + second)),
                ("stopped with a difference", json!(stopped)),
                ("mean samples spent", json!(samples.round() as usize)),
            ]
        })
        .collect()
}

const CORRECTED_NOTE: &str = "Right or wrong. 20,000 runs: standard errors of 0.0015 of a coverage, of 0.1 points of a bias with 50 labels. Rogan-Gladen is refused where sensitivity + specificity - 1 is not clearly above 0; its figures are those of the runs in which it is given. Truth is the share of right answers: the nearer to 1, the more of its estimates end at 1.";

/// One row: so many labels of 1,000 answers, of which a share is right, by a judge of an accuracy.
fn corrected_row(labels: usize, truth: f64, accuracy: f64) -> Option<Row> {
    // A judge that is kinder than it is strict, with this accuracy over all.
    let specificity = accuracy - 0.03;
    let sensitivity = (accuracy - (1.0 - truth) * specificity) / truth;
    if sensitivity >= 1.0 {
        return None;
    }
    let draw = |random: &mut Random| {
        let right = random.random::<f64>() < truth;
        let passes = random.random::<f64>() < if right { sensitivity } else { 1.0 - specificity };
        (yes(right), yes(passes))
    };
    let both = |random: &mut Random| {
        let labelled: Vec<(f64, f64)> = (0..labels).map(|_| draw(random)).collect();
        let rest: Vec<f64> = (0..1000 - labels).map(|_| draw(random).1).collect();
        let (human, judge): (Vec<f64>, Vec<f64>) = labelled.iter().copied().unzip();
        let ppi = ppi_mean(&human, &judge, &rest, 0.95);
        let count = |h: f64, j: f64| {
            labelled.iter().filter(|&&(x, y)| (x - h).abs() + (y - j).abs() < 0.5).count()
        };
        let confusion = Confusion {
            true_positive: count(1.0, 1.0),
            false_negative: count(1.0, 0.0),
            true_negative: count(0.0, 0.0),
            false_positive: count(0.0, 1.0),
        };
        let passed = rest.iter().filter(|&&x| x > 0.5).count();
        (ppi, rogan_gladen(passed, rest.len(), confusion, 0.95).ok())
    };
    let naive = truth * sensitivity + (1.0 - truth) * (1.0 - specificity);
    let judged = |found: Option<Corrected>| {
        found.map_or([0.0; 3], |c| [1.0, c.mean - truth, holds(c.low, truth, c.high)])
    };
    let [_, bias, covered, given, inverted, inverted_covered] = simulate_all(20_000, |random| {
        let (ppi, inverse) = both(random);
        let [ppi, inverse] = [ppi, inverse].map(judged);
        std::array::from_fn(|k| if k < 3 { ppi[k] } else { inverse[k - 3] })
    });
    // A handful of runs tells nothing.
    let of_given = |sum: f64| if given > 0.01 { json!(sum / given) } else { Value::Null };
    Some(vec![
        ("truth", json!(truth)),
        ("human labels of 1,000", json!(labels)),
        ("judge accuracy", json!(accuracy)),
        ("bias of the judge, points", json!(100.0 * (naive - truth))),
        ("bias of PPI, points", json!(100.0 * bias)),
        ("coverage of PPI", json!(covered)),
        ("Rogan-Gladen given", json!(given)),
        ("bias of Rogan-Gladen, points", of_given(100.0 * inverted)),
        ("coverage of Rogan-Gladen", of_given(inverted_covered)),
    ])
}

fn corrected() -> Vec<Row> {
    let settings = [(0.6, 50), (0.6, 100), (0.6, 200), (0.6, 500), (0.85, 200), (0.85, 500)];
    settings
        .into_iter()
        .flat_map(|(truth, labels)| {
            [0.6, 0.7, 0.8, 0.9, 0.95]
                .into_iter()
                .filter_map(move |accuracy| corrected_row(labels, truth, accuracy))
        })
        .collect()
}

const GRADED_NOTE: &str =
    "Five grades; a judge that does not give people's grade gives any. 20,000 runs, as above.";

fn graded() -> Vec<Row> {
    let row = |labels: usize, accuracy: f64| -> Row {
        let draw = |random: &mut Random| {
            let human = likert(random);
            let same = random.random::<f64>() < accuracy;
            (human, if same { human } else { (5.0 * random.random::<f64>()).floor() / 4.0 })
        };
        let [bias, covered] = simulate_all(20_000, |random| {
            let (human, judge): (Vec<f64>, Vec<f64>) = (0..labels).map(|_| draw(random)).unzip();
            let rest: Vec<f64> = (0..1000 - labels).map(|_| draw(random).1).collect();
            ppi_mean(&human, &judge, &rest, 0.95)
                .map_or([0.0; 2], |c| [c.mean - LIKERT_MEAN, holds(c.low, LIKERT_MEAN, c.high)])
        });
        vec![
            ("human labels of 1,000", json!(labels)),
            ("judge accuracy", json!(accuracy)),
            ("bias of PPI, points", json!(100.0 * bias)),
            ("coverage of PPI", json!(covered)),
        ]
    };
    let accuracies = [0.6, 0.8, 0.95];
    [50, 100, 200]
        .into_iter()
        .flat_map(|labels| accuracies.map(|accuracy| row(labels, accuracy)))
        .collect()
}

fn seeds() -> Vec<Row> {
    let run = |random: &mut Random, seeds: usize, n: usize, luck: f64| {
        let mut order: Vec<f64> = (0..n).map(|i| i as f64 / n as f64).collect();
        order.shuffle(random);
        let model = |random: &mut Random, shift: f64| -> Vec<f64> {
            order
                .iter()
                .map(|hard| yes(0.6 + shift > f64::midpoint(*hard, random.random::<f64>())))
                .collect()
        };
        let tuned: Vec<Vec<f64>> = (0..seeds)
            .map(|_| {
                let shift = luck * normal(random);
                model(random, shift)
            })
            .collect();
        let base = vec![model(random, 0.0)];
        compare_seeds(&tuned, &base, 0.95)
    };
    [(3, 200, 0.0), (3, 200, 0.03), (3, 1000, 0.05), (5, 200, 0.03), (5, 1000, 0.05)]
        .into_iter()
        .map(|(seeds, n, luck)| {
            // The truth of a recipe is the mean over seeds, whose score bends a little with the shift.
            let truth = if luck > 0.0 {
                simulate(4000, |r| run(r, 20, 1000, luck).map_or(0.0, |c| c.difference))
            } else {
                0.0
            };
            let [covered, pooled] = simulate_all(10_000, |random| {
                run(random, seeds, n, luck).map_or([0.0; 2], |c| {
                    // As if the seeds' mean answers were the only noise.
                    let of_seeds = c.seed_deviation_a.unwrap_or(0.0).powi(2) / seeds as f64;
                    let alone = (c.standard_error.powi(2) - of_seeds).max(0.0).sqrt();
                    [holds(c.low, truth, c.high), yes((c.difference - truth).abs() <= 1.96 * alone)]
                })
            });
            vec![
                ("training seeds", json!(seeds)),
                ("samples", json!(n)),
                ("deviation between seeds, as a shift", json!(luck)),
                ("coverage, seeds apart", json!(covered)),
                ("coverage if seeds were pooled", json!(pooled)),
            ]
        })
        .collect()
}
