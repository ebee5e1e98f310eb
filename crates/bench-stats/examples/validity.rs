//! Simulated proof that the statistics are right: coverage, error rates, sample sizes.
//!
//! `cargo run --release -p bench-stats --example validity [validity.json [word]]` prints a Markdown
//! page and writes the same figures as JSON; with a word, only of sections that have it in their title.
#![expect(clippy::print_stdout, reason = "the page is what this program is for")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bench_stats::{
    ArmScores, Clusters, ConfidenceSequence, Confusion, Corrected, LEAST_GRADED_LABELS,
    LEAST_LABELS, Options, Pairs, Spread, StopRule, Utility, Verdict, analyse, compare,
    compare_seeds, decide, estimate, ppi_mean, rogan_gladen, samples_for_difference, wilson,
};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Value, json};
use statrs::function::beta::{beta_reg, inv_beta_reg};

type Random = ChaCha8Rng;

const OPENING: &str = "# The statistics, proved by simulation

Made by `cargo run --release -p bench-stats --example validity`; the seeds are fixed, so that every machine prints the
same figures. A simulated share has a Monte-Carlo standard error, told above each table; shares marked *exact* are sums
over all outcomes.
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sections: [(&str, &str, Section); 9] = [
        ("Coverage of 95 % intervals", COVERAGE_NOTE, coverage),
        ("Intervals of a proportion side by side, exact", PROPORTION_NOTE, proportions),
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

/// A line for every figure that misses what is promised.
#[derive(Default)]
struct Misses {
    /// Of what a report prints.
    shown: String,
    /// Of corrections of so few labels that a report does not print them.
    refused: String,
}

impl Misses {
    /// Looks at a coverage.
    fn look(&mut self, is_shown: bool, share: &Value, what: &str, why: &str) {
        let share = share.as_f64().unwrap_or(f64::NAN);
        if !(0.94..=0.96).contains(&share) {
            self.add(is_shown, format!("- {what}: {:.1} %. {why}", 100.0 * share).trim_end());
        }
    }

    fn add(&mut self, is_shown: bool, line: &str) {
        let list = if is_shown { &mut self.shown } else { &mut self.refused };
        writeln!(list, "{line}").ok();
    }
}

/// Whether a report prints a correction with as many labels as this row's.
fn is_printed(row: &BTreeMap<&str, Value>) -> bool {
    let least = if row.contains_key(OTHERWISE) { LEAST_GRADED_LABELS } else { LEAST_LABELS };
    row["human labels of 1,000"].as_u64().is_some_and(|labels| labels >= least as u64)
}

/// Every coverage outside of 94 to 96 % from 50 samples on, with its reason, and every bias.
fn outside(all: &BTreeMap<&str, Vec<BTreeMap<&str, Value>>>) -> String {
    let mut misses = Misses::default();
    let word = |row: &BTreeMap<&str, Value>, key: &str| {
        row.get(key).map_or_else(String::new, |value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    };
    for row in all.get("Coverage of 95 % intervals").into_iter().flatten() {
        let kind = word(row, "scores and interval");
        for (name, n) in [("n = 50", 50), ("n = 200", 200), ("n = 1,000", 1000)] {
            let why = if kind == HALF {
                let [below, above] = possible_at_half(n).map(|share| 100.0 * share);
                format!(
                    "Right answers come in whole numbers: an interval that treats right and wrong alike covers {below:.1} or {above:.1} % here and nothing between; the next table has its neighbours and the other intervals."
                )
            } else {
                String::new()
            };
            misses.look(true, &row[name], &format!("{kind}, {name}"), &why);
        }
    }
    for row in all.get("Judge scores corrected by human labels").into_iter().flatten() {
        let what = format!(
            "{} labels, {} right, a judge of accuracy {}",
            word(row, "human labels of 1,000"),
            word(row, "truth"),
            word(row, "judge accuracy"),
        );
        let why = no_errors(row);
        let is_shown = is_printed(row);
        misses.look(is_shown, &row["coverage of PPI"], &format!("PPI, {what}"), &why);
        if let Some(share) = row.get("coverage of Rogan-Gladen").filter(|share| !share.is_null()) {
            let given = row["Rogan-Gladen given"].as_f64().unwrap_or_default();
            let why = if given < 0.5 { "It is refused in most runs.".into() } else { why };
            let what = format!("Rogan-Gladen where it is given, {what}");
            misses.look(is_shown, share, &what, &why);
        }
    }
    for row in all.get("Graded judge scores corrected by human labels").into_iter().flatten() {
        let what = format!(
            "{} labels, {}, a judge of accuracy {} that errs to {}",
            word(row, "human labels of 1,000"),
            word(row, "people's grades"),
            word(row, "judge accuracy"),
            word(row, "the judge errs to"),
        );
        let what = format!("PPI of five grades, {what}");
        misses.look(is_printed(row), &row["coverage of PPI"], &what, &no_errors(row));
    }
    biased(all, &mut misses);
    let list = |title: &str, lines: &str| match lines {
        "" => format!("{title}: none.\n"),
        lines => format!("{title}:\n{lines}"),
    };
    let refused = format!(
        "The same of corrections with fewer labels than {LEAST_LABELS}, or {LEAST_GRADED_LABELS} where there are more than two grades, which reports therefore refuse"
    );
    [
        list(
            "Coverages outside of 94 to 96 % from 50 samples on, and biases of 0.5 points or more",
            &misses.shown,
        ),
        list(&refused, &misses.refused),
    ]
    .join("\n")
}

/// Adds a line for every bias of a corrected judge score of half a point or more.
fn biased(all: &BTreeMap<&str, Vec<BTreeMap<&str, Value>>>, misses: &mut Misses) {
    let titles =
        ["Judge scores corrected by human labels", "Graded judge scores corrected by human labels"];
    for row in titles.iter().flat_map(|title| all.get(title).into_iter().flatten()) {
        for (name, key) in [
            ("PPI", "bias of PPI, points"),
            ("Rogan-Gladen where it is given", "bias of Rogan-Gladen, points"),
        ] {
            let Some(bias) = row.get(key).and_then(Value::as_f64).filter(|b| b.abs() >= 0.5) else {
                continue;
            };
            let settings: String = [
                ("human labels of 1,000", "", " labels, "),
                ("truth", "", " right, "),
                ("judge accuracy", "a judge of accuracy ", ""),
            ]
            .iter()
            .filter_map(|(key, before, after)| {
                row.get(key).map(|value| format!("{before}{value}{after}"))
            })
            .collect();
            let given = row.get("Rogan-Gladen given").filter(|_| name != "PPI");
            let given = given.and_then(Value::as_f64).map_or_else(String::new, |given| {
                format!(" Given in {:.0} % of runs.", 100.0 * given)
            });
            let line = format!("- {name}, {settings}: biased by {bias:.2} points.{given}");
            misses.add(is_printed(row), &line);
        }
    }
}

/// Where a good judge makes no error on the labelled answers often enough to matter: how often.
fn no_errors(row: &BTreeMap<&str, Value>) -> String {
    let number = |key: &str| row.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
    // An error may happen to be people's grade.
    let otherwise = row.get(OTHERWISE).and_then(Value::as_f64);
    let errs = otherwise.unwrap_or(1.0 - number("judge accuracy"));
    let chance = (1.0 - errs).powf(number("human labels of 1,000"));
    if chance > 0.025 {
        format!(
            "In {:.1} % of runs the judge errs on none of its labelled answers, which then tell nothing of its errors.",
            100.0 * chance
        )
    } else {
        String::new()
    }
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

/// What Wilson's interval covers of a proportion of one half.
fn coverage_of_half(n: usize) -> f64 {
    covered_share(&ends_of(n, wilson_ends), 0.5)
}

/// The chances of `0 ..= n` right answers of a proportion.
fn chances(n: usize, p: f64) -> Vec<f64> {
    let mut ln_choose = 0.0;
    (0..=n)
        .map(|k| {
            if k > 0 {
                ln_choose += ((n - k + 1) as f64 / k as f64).ln();
            }
            (ln_choose + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p()).exp()
        })
        .collect()
}

/// The chance that an interval holds the proportion: a sum over all counts of right answers.
fn covered_share(ends: &[(f64, f64)], p: f64) -> f64 {
    let held = |(chance, (low, high)): (f64, &(f64, f64))| {
        // Exact ends may lie at the proportion itself.
        if *low <= p + 1e-12 && p <= high + 1e-12 { chance } else { 0.0 }
    };
    chances(ends.len() - 1, p).into_iter().zip(ends).map(held).sum()
}

/// What an interval can cover of one half that treats right and wrong alike, and so holds it for the
/// middle counts: the largest share below 95 % and the smallest from there on.
fn possible_at_half(n: usize) -> [f64; 2] {
    let chances = chances(n, 0.5);
    let mut possible: Vec<f64> =
        (0..=n / 2).map(|tail| chances[tail..=n - tail].iter().sum()).collect();
    possible.sort_by(f64::total_cmp);
    let from = possible.partition_point(|&share| share < 0.95);
    [possible[from - 1], possible[from]]
}

/// The ends of an interval for `k` of `n`.
type Ends = fn(usize, usize) -> (f64, f64);

fn ends_of(n: usize, ends: Ends) -> Vec<(f64, f64)> {
    (0..=n).map(|k| ends(k, n)).collect()
}

fn wilson_ends(k: usize, n: usize) -> (f64, f64) {
    wilson(k, n, 0.95).map_or((0.0, 1.0), |e| (e.low, e.high))
}

fn beta_ends(k: usize, n: usize, low: [f64; 2], high: [f64; 2]) -> (f64, f64) {
    let (hits, misses) = (k as f64, (n - k) as f64);
    (
        if k == 0 { 0.0 } else { inv_beta_reg(hits + low[0], misses + low[1], 0.025) },
        if k == n { 1.0 } else { inv_beta_reg(hits + high[0], misses + high[1], 0.975) },
    )
}

/// Brown, Cai and DasGupta (2001), section 3.1.2.
fn jeffreys_ends(k: usize, n: usize) -> (f64, f64) {
    beta_ends(k, n, [0.5; 2], [0.5; 2])
}

/// Clopper and Pearson (1934).
fn clopper_pearson_ends(k: usize, n: usize) -> (f64, f64) {
    beta_ends(k, n, [0.0, 1.0], [1.0, 0.0])
}

/// As Clopper and Pearson, the count itself counted half (Lancaster 1961).
fn mid_p_ends(k: usize, n: usize) -> (f64, f64) {
    let (hits, misses) = (k as f64, (n - k) as f64);
    // P(X <= k) - P(X = k) / 2 falls in p.
    let tail = |p: f64| {
        let at_most = if k == n { 1.0 } else { beta_reg(misses, hits + 1.0, 1.0 - p) };
        let less = if k == 0 { 0.0 } else { beta_reg(misses + 1.0, hits, 1.0 - p) };
        f64::midpoint(at_most, less)
    };
    let cross = |level: f64| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..40 {
            let middle = f64::midpoint(low, high);
            if tail(middle) > level {
                low = middle;
            } else {
                high = middle;
            }
        }
        f64::midpoint(low, high)
    };
    (if k == 0 { 0.0 } else { cross(0.975) }, if k == n { 1.0 } else { cross(0.025) })
}

/// Agresti and Coull (1998).
fn agresti_coull_ends(k: usize, n: usize) -> (f64, f64) {
    let z = 1.959_963_984_540_054_f64;
    let n = n as f64 + z * z;
    let p = (k as f64 + z * z / 2.0) / n;
    let half = z * (p * (1.0 - p) / n).sqrt();
    (p - half, p + half)
}

const PROPORTION_NOTE: &str = "Sums over all counts of right answers. *Possible*: what an interval that treats right and wrong alike can cover of a proportion of one half, the next below and above 95 %. Means and ends over 901 proportions from 0.05 to 0.95, and over the 101 from 0.45 to 0.55.";

fn proportions() -> Vec<Row> {
    let kinds: [(&str, Ends); 5] = [
        ("Wilson (ours)", wilson_ends),
        ("Jeffreys", jeffreys_ends),
        ("Clopper-Pearson", clopper_pearson_ends),
        ("Clopper-Pearson, mid-P", mid_p_ends),
        ("Agresti-Coull", agresti_coull_ends),
    ];
    let mut rows = Vec::new();
    for n in [20, 50, 200, 1000] {
        let [below, above] = possible_at_half(n);
        for (kind, ends) in kinds {
            let ends = ends_of(n, ends);
            let covered: Vec<f64> = (0..=900)
                .into_par_iter()
                .map(|i| covered_share(&ends, 0.05 + f64::from(i) / 1000.0))
                .collect();
            let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
            let inside = covered.iter().filter(|share| (0.94..=0.96).contains(*share)).count();
            rows.push(vec![
                ("n", json!(n)),
                ("interval", json!(kind)),
                ("at one half", json!(covered[450])),
                ("possible below", json!(below)),
                ("possible above", json!(above)),
                ("mean, 0.45 to 0.55", json!(mean(&covered[400..=500]))),
                ("mean", json!(mean(&covered))),
                ("lowest", json!(covered.iter().copied().fold(1.0, f64::min))),
                ("highest", json!(covered.iter().copied().fold(0.0, f64::max))),
                ("share of proportions at 94 to 96 %", json!(inside as f64 / covered.len() as f64)),
            ]);
        }
    }
    rows
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

const CORRECTED_NOTE: &str = "Right or wrong. 40,000 runs: standard errors of 0.001 of a coverage, of 0.03 points of a bias of PPI with 50 labels. Rogan-Gladen is refused where sensitivity + specificity - 1 is not clearly above 0, or where no share explains what the judge passes; its figures are those of the runs in which it is given, fewer runs with a larger error. Truth is the share of right answers. *Clamped*: the bias if estimates beyond 0 and 1 were put there.";

/// How many of `n` have a property of chance `p`: by the inverse of the distribution.
struct Binomial {
    /// `P(X <= k)`.
    at_most: Vec<f64>,
}

impl Binomial {
    fn new(n: usize, p: f64) -> Binomial {
        let mut sum = 0.0;
        let add = |chance: f64| {
            sum += chance;
            sum
        };
        Binomial { at_most: chances(n, p).into_iter().map(add).collect() }
    }

    fn draw(&self, random: &mut Random) -> usize {
        let u: f64 = random.random();
        self.at_most.partition_point(|&share| share < u).min(self.at_most.len() - 1)
    }
}

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
    let naive = truth * sensitivity + (1.0 - truth) * (1.0 - specificity);
    // Of the answers without a label only the number that passes counts.
    let passes = Binomial::new(1000 - labels, naive);
    let both = |random: &mut Random| {
        let labelled: Vec<(f64, f64)> = (0..labels).map(|_| draw(random)).collect();
        let passed = passes.draw(random);
        let rest: Vec<f64> = (0..1000 - labels).map(|i| yes(i < passed)).collect();
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
        (ppi, rogan_gladen(passed, rest.len(), confusion, 0.95).ok())
    };
    let judged = |found: Option<Corrected>| {
        found.map_or([0.0; 4], |c| {
            let clamped = c.mean.clamp(0.0, 1.0);
            [1.0, c.mean - truth, holds(c.low, truth, c.high), clamped - truth]
        })
    };
    let [_, bias, covered, _, given, inverted, inverted_covered, clamped] =
        simulate_all(40_000, |random| {
            let (ppi, inverse) = both(random);
            let [ppi, inverse] = [ppi, inverse].map(judged);
            std::array::from_fn(|k| if k < 4 { ppi[k] } else { inverse[k - 4] })
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
        ("if clamped", of_given(100.0 * clamped)),
        ("coverage of Rogan-Gladen", of_given(inverted_covered)),
    ])
}

fn corrected() -> Vec<Row> {
    let settings =
        [0.6, 0.85].into_iter().flat_map(|truth| [50, 100, 200, 500].map(|labels| (truth, labels)));
    settings
        .flat_map(|(truth, labels)| {
            [0.6, 0.7, 0.8, 0.9, 0.95]
                .into_iter()
                .filter_map(move |accuracy| corrected_row(labels, truth, accuracy))
        })
        .collect()
}

const GRADED_NOTE: &str = "Five grades. Where the judge does not give people's grade, it gives any of the five; the next one, more often the better; or the best, which may be people's after all. 20,000 runs: standard errors of 0.0015 of a coverage, of 0.03 points of a bias with 50 labels.";

/// How a judge errs who does not give people's grade.
#[derive(Clone, Copy)]
enum Miss {
    Any,
    Next,
    Best,
}

impl Miss {
    fn grade(self, human: f64, random: &mut Random) -> f64 {
        let u: f64 = random.random();
        match self {
            Miss::Any => (5.0 * u).floor() / 4.0,
            Miss::Next => (human + if u < 0.7 { 0.25 } else { -0.25 }).clamp(0.0, 1.0),
            Miss::Best => 1.0,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Miss::Any => "any grade",
            Miss::Next => "the next grade",
            Miss::Best => "the best grade",
        }
    }
}

/// Grades of which 88 % are the best.
fn mostly_best(random: &mut Random) -> f64 {
    let u: f64 = random.random();
    MOSTLY_BEST.iter().map(|&edge| yes(u >= edge)).sum::<f64>() / 4.0
}

const MOSTLY_BEST: [f64; 4] = [0.01, 0.03, 0.06, 0.12];

/// The share of answers to which judge and people give different grades.
const OTHERWISE: &str = "graded otherwise";

/// What people's grades are like: in words, their mean, and one of them.
type People = (&'static str, f64, fn(&mut Random) -> f64);

fn graded() -> Vec<Row> {
    let best_mean = 1.0 - MOSTLY_BEST.iter().sum::<f64>() / 4.0;
    let answers: [People; 2] =
        [("40 % the best", LIKERT_MEAN, likert), ("88 % the best", best_mean, mostly_best)];
    let row = |(words, truth, people): People, error: Miss, labels: usize, accuracy: f64| -> Row {
        let draw = |random: &mut Random| {
            let human = people(random);
            let same = random.random::<f64>() < accuracy;
            (human, if same { human } else { error.grade(human, random) })
        };
        let [bias, covered, otherwise] = simulate_all(20_000, |random| {
            let (human, judge): (Vec<f64>, Vec<f64>) = (0..labels).map(|_| draw(random)).unzip();
            let rest: Vec<f64> = (0..1000 - labels).map(|_| draw(random).1).collect();
            let differ = human.iter().zip(&judge).filter(|(h, j)| (*h - *j).abs() > 1e-9).count();
            let [bias, covered] = ppi_mean(&human, &judge, &rest, 0.95)
                .map_or([0.0; 2], |c| [c.mean - truth, holds(c.low, truth, c.high)]);
            [bias, covered, differ as f64 / labels as f64]
        });
        vec![
            ("people's grades", json!(words)),
            ("the judge errs to", json!(error.words())),
            ("human labels of 1,000", json!(labels)),
            ("judge accuracy", json!(accuracy)),
            (OTHERWISE, json!(otherwise)),
            ("bias of PPI, points", json!(100.0 * bias)),
            ("coverage of PPI", json!(covered)),
        ]
    };
    let mut rows = Vec::new();
    for labels in [50, 100, 200] {
        for accuracy in [0.6, 0.8, 0.95] {
            for people in answers {
                for error in [Miss::Any, Miss::Next, Miss::Best] {
                    rows.push(row(people, error, labels, accuracy));
                }
            }
        }
    }
    rows
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
