//! How well graders agree: a judge with people, people among themselves, a judge with itself.
//!
//! Grades are numbers; categories are their distinct values in ascending order.

use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{Coefficient, coefficient},
    interval::{Clusters, Estimate, Options, wilson},
};

/// Distinct grades that nominal and ordinal coefficients accept.
const MOST_GRADES: usize = 64;

/// How far apart two grades count in Cohen's kappa.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// Grades are equal or not (Cohen 1960).
    Plain,
    /// By the number of categories between them (Cohen 1968).
    Linear,
    /// By its square.
    Quadratic,
}

/// What the grades are, for Krippendorff's alpha.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Names without an order.
    Nominal,
    /// Ranks.
    Ordinal,
    /// Numbers whose differences mean something.
    Interval,
}

/// The share of samples on which two graders give the same grade, with Wilson's interval. `None`
/// without samples or with different numbers of them.
#[expect(clippy::float_cmp, reason = "grades are labels; equal ones are the same number")]
pub fn percent_agreement(a: &[f64], b: &[f64], level: f64) -> Option<Estimate> {
    let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
    (a.len() == b.len()).then(|| wilson(same, a.len(), level)).flatten()
}

/// Cohen's kappa of two graders of the same samples, with a bootstrap interval over samples. `None`
/// with fewer than two samples, slices of different lengths, more than 64 grades, a grade that is not
/// finite, or when both graders gave all samples one grade: then chance explains everything.
pub fn cohens_kappa(
    a: &[f64],
    b: &[f64],
    weighting: Weighting,
    options: &Options,
) -> Option<Coefficient> {
    cohens_kappa_clustered(a, b, weighting, &Clusters::none(), options)
}

/// As [`cohens_kappa`], of items that share clusters, such as several answers to one question: the
/// bootstrap draws clusters. Also `None` with fewer than two clusters, or labels of another number.
pub fn cohens_kappa_clustered(
    a: &[f64],
    b: &[f64],
    weighting: Weighting,
    clusters: &Clusters,
    options: &Options,
) -> Option<Coefficient> {
    let grades = categories(a.iter().chain(b).copied())?;
    let k = grades.len();
    if a.len() != b.len() || clusters.len().is_some_and(|labels| labels != a.len()) {
        return None;
    }
    let rows = a
        .iter()
        .zip(b)
        .map(|(a, b)| {
            let mut row = vec![0.0; k * k];
            row[position(&grades, *a) * k + position(&grades, *b)] = 1.0;
            row
        })
        .collect();
    let weight = |i: usize, j: usize| {
        let gap = i.abs_diff(j) as f64;
        match weighting {
            Weighting::Plain => f64::from(u8::from(i != j)),
            Weighting::Linear => gap,
            Weighting::Quadratic => gap * gap,
        }
    };
    let kappa = |table: &[f64]| {
        let row = |i: usize| (0..k).map(|j| table[i * k + j]).sum::<f64>();
        let column = |j: usize| (0..k).map(|i| table[i * k + j]).sum::<f64>();
        let (rows, columns): (Vec<f64>, Vec<f64>) = (0..k).map(|i| (row(i), column(i))).unzip();
        let n: f64 = rows.iter().sum();
        let cells = || (0..k).flat_map(|i| (0..k).map(move |j| (i, j)));
        let seen: f64 = cells().map(|(i, j)| weight(i, j) * table[i * k + j]).sum();
        let chance: f64 = cells().map(|(i, j)| weight(i, j) * rows[i] * columns[j] / n).sum();
        (chance > 1e-12).then(|| 1.0 - seen / chance)
    };
    clustered(rows, clusters, kappa, options)
}

/// Krippendorff's alpha of any number of graders, some of whom may have left samples out
/// (Krippendorff 2011, "Computing Krippendorff's alpha-reliability"), with a bootstrap interval over
/// samples.
///
/// `grades` has a row per grader and a column per sample. Samples with one grade or none say nothing
/// and are left out. `None` when fewer than two remain, rows differ in length, a grade is not finite,
/// all grades are equal, or a nominal or ordinal scale has more than 64 grades.
pub fn krippendorff_alpha(
    grades: &[Vec<Option<f64>>],
    scale: Scale,
    options: &Options,
) -> Option<Coefficient> {
    krippendorff_alpha_clustered(grades, scale, &Clusters::none(), options)
}

/// As [`krippendorff_alpha`], of items that share clusters, such as several answers to one question:
/// the bootstrap draws clusters. Also `None` with fewer than two clusters, or labels of another number.
pub fn krippendorff_alpha_clustered(
    grades: &[Vec<Option<f64>>],
    scale: Scale,
    clusters: &Clusters,
    options: &Options,
) -> Option<Coefficient> {
    let samples = grades.first()?.len();
    if grades.iter().any(|row| row.len() != samples)
        || clusters.len().is_some_and(|labels| labels != samples)
    {
        return None;
    }
    let (kept, units): (Vec<usize>, Vec<Vec<f64>>) = (0..samples)
        .map(|i| (i, grades.iter().filter_map(|row| row[i]).collect()))
        .filter(|(_, unit): &(usize, Vec<f64>)| unit.len() > 1)
        .unzip();
    let clusters = &clusters.select(&kept);
    if scale == Scale::Interval {
        return interval_alpha(&units, clusters, options);
    }
    let categories = categories(units.iter().flatten().copied())?;
    let k = categories.len();
    let rows = units
        .iter()
        .map(|unit| {
            let places: Vec<usize> =
                unit.iter().map(|&grade| position(&categories, grade)).collect();
            let mut row = vec![0.0; k * k];
            for (i, a) in places.iter().enumerate() {
                for (j, b) in places.iter().enumerate() {
                    row[a * k + b] += if i == j { 0.0 } else { 1.0 / (unit.len() as f64 - 1.0) };
                }
            }
            row
        })
        .collect();
    let alpha = |coincidences: &[f64]| {
        let counts: Vec<f64> = coincidences.chunks_exact(k).map(|row| row.iter().sum()).collect();
        let n: f64 = counts.iter().sum();
        let distance = |i: usize, j: usize| match scale {
            _ if i == j => 0.0,
            Scale::Ordinal => {
                let between: f64 = counts[i.min(j)..=i.max(j)].iter().sum();
                (between - f64::midpoint(counts[i], counts[j])).powi(2)
            }
            Scale::Nominal | Scale::Interval => 1.0,
        };
        let cells = || (0..k).flat_map(|i| (0..k).map(move |j| (i, j)));
        let seen: f64 = cells().map(|(i, j)| coincidences[i * k + j] * distance(i, j)).sum();
        let chance: f64 = cells().map(|(i, j)| counts[i] * counts[j] * distance(i, j)).sum();
        (chance > 1e-12).then(|| 1.0 - (n - 1.0) * seen / chance)
    };
    clustered(rows, clusters, alpha, options)
}

/// A statistic of sums over items that are drawn by cluster; it still tells the number of items.
fn clustered(
    rows: Vec<Vec<f64>>,
    clusters: &Clusters,
    statistic: impl Fn(&[f64]) -> Option<f64>,
    options: &Options,
) -> Option<Coefficient> {
    let n = rows.len();
    Some(Coefficient { n, ..coefficient(clusters.sum_rows(rows), statistic, options)? })
}

/// Squared differences need no table of coincidences, only moments.
fn interval_alpha(
    units: &[Vec<f64>],
    clusters: &Clusters,
    options: &Options,
) -> Option<Coefficient> {
    // Around the overall mean, so that squares do not cancel.
    let count = units.iter().map(Vec::len).sum::<usize>() as f64;
    let centre = units.iter().flatten().sum::<f64>() / count;
    if !centre.is_finite() {
        return None;
    }
    let spread = |m: f64, sum: f64, square: f64| 2.0 * (m * square - sum * sum);
    let rows = units
        .iter()
        .map(|unit| {
            let m = unit.len() as f64;
            let [sum, square] =
                unit.iter().map(|x| x - centre).fold([0.0; 2], |[s, q], x| [s + x, q + x * x]);
            vec![spread(m, sum, square) / (m - 1.0), m, sum, square]
        })
        .collect();
    let alpha = |sums: &[f64]| {
        let chance = spread(sums[1], sums[2], sums[3]);
        (chance > 1e-12).then(|| 1.0 - (sums[1] - 1.0) * sums[0] / chance)
    };
    clustered(rows, clusters, alpha, options)
}

fn categories(grades: impl Iterator<Item = f64>) -> Option<Vec<f64>> {
    let mut all: Vec<f64> = grades.map(|x| x + 0.0).collect();
    if all.iter().any(|x| !x.is_finite()) {
        return None;
    }
    all.sort_unstable_by(f64::total_cmp);
    all.dedup();
    (all.len() <= MOST_GRADES).then_some(all)
}

fn position(categories: &[f64], grade: f64) -> usize {
    categories.partition_point(|&category| category < grade)
}
