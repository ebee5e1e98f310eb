//! Learning curves: one recipe trained on different numbers of rows, and the power law through its
//! scores.

use bench_stats::{Estimate, estimate};
use serde_json::Value;

use crate::evaluation::{Contender, Evaluation, Metric, SetResult};

/// One recipe.
pub(crate) struct Curve {
    pub(crate) name: String,
    /// Position of the arm that gives the colour: the one with the most rows.
    pub(crate) arm: usize,
    /// By rows, rising.
    pub(crate) points: Vec<Point>,
    /// `None` with fewer than three sizes, or where no such law fits.
    pub(crate) law: Option<PowerLaw>,
}

/// What training on a number of rows gave.
pub(crate) struct Point {
    pub(crate) rows: u64,
    /// Trainings on so many: one per seed.
    pub(crate) seeds: usize,
    /// Mean over seeds and samples; its interval is over samples, for these adapters.
    pub(crate) estimate: Estimate,
}

/// `ceiling - scale * rows^-exponent`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PowerLaw {
    pub(crate) ceiling: f64,
    pub(crate) scale: f64,
    pub(crate) exponent: f64,
}

impl PowerLaw {
    pub(crate) fn at(&self, rows: f64) -> f64 {
        self.ceiling - self.scale * rows.powf(-self.exponent)
    }

    /// Weighted least squares: for each exponent of a grid, refined twice, ceiling and scale have a
    /// closed form. Only laws that rise towards a ceiling are considered.
    pub(crate) fn fit(points: &[(f64, f64)], weights: &[f64]) -> Option<Self> {
        if points.len() < 3 || points.iter().any(|(rows, _)| *rows <= 0.0) {
            return None;
        }
        let mut range = (0.02, 3.0);
        let mut best: Option<(f64, Self)> = None;
        for _ in 0..3 {
            let step = (range.1 - range.0) / 200.0;
            for at in 0..=200 {
                let exponent = range.0 + step * f64::from(at);
                if let Some((error, law)) = Self::with(exponent, points, weights)
                    && best.is_none_or(|(least, _)| error < least)
                {
                    best = Some((error, law));
                }
            }
            let middle = best?.1.exponent;
            range = ((middle - 2.0 * step).max(0.02), (middle + 2.0 * step).min(3.0));
        }
        best.map(|(_, law)| law)
    }

    fn with(exponent: f64, points: &[(f64, f64)], weights: &[f64]) -> Option<(f64, Self)> {
        let mut sums = [0.0; 5];
        for (&(rows, score), &weight) in points.iter().zip(weights) {
            let x = rows.powf(-exponent);
            for (sum, term) in sums.iter_mut().zip([1.0, x, score, x * x, x * score]) {
                *sum += weight * term;
            }
        }
        let [n, x, y, xx, xy] = sums;
        let determinant = n * xx - x * x;
        if determinant <= 1e-12 * n * xx {
            return None;
        }
        let slope = (n * xy - x * y) / determinant;
        let law = Self { ceiling: (y - slope * x) / n, scale: -slope, exponent };
        let error = points
            .iter()
            .zip(weights)
            .map(|(&(rows, score), &weight)| weight * (score - law.at(rows)).powi(2))
            .sum::<f64>();
        (law.scale > 0.0).then_some((error, law))
    }
}

/// Every recipe that was trained on at least two numbers of rows.
pub(crate) fn curves(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    metric: &Metric,
) -> Vec<Curve> {
    let arms = set
        .contenders
        .iter()
        .zip(&metric.scores)
        .map(|(contender, scores)| (contender, &scores.scores));
    let points = set.points.iter().map(|point| (&point.contender, &point.scores));
    let mut recipes: Vec<(Value, Vec<Member<'_>>)> = Vec::new();
    for (contender, scores) in arms.chain(points) {
        let Some(training) = contender.training else { continue };
        let member = Member { contender, scores, rows: training.rows };
        let recipe = recipe(evaluation, contender.arm);
        match recipes.iter_mut().find(|(known, _)| *known == recipe) {
            Some((_, members)) => members.push(member),
            None => recipes.push((recipe, vec![member])),
        }
    }
    recipes.into_iter().filter_map(|(_, members)| curve(evaluation, set, &members)).collect()
}

/// One training of a recipe.
struct Member<'m> {
    contender: &'m Contender<'m>,
    /// Per sample.
    scores: &'m [Option<f64>],
    rows: u64,
}

/// What all arms of a curve share: everything but the number of rows and the seeds.
fn recipe(evaluation: &Evaluation<'_>, arm: usize) -> Value {
    let plan = &evaluation.plans[arm];
    let mut finetune = serde_json::to_value(&plan.finetune).unwrap_or_default();
    if let Some(settings) = finetune.as_object_mut() {
        for key in ["limit", "train_sizes", "seeds"] {
            settings.remove(key);
        }
    }
    let mut features = serde_json::to_value(&plan.features).unwrap_or_default();
    if let Some(settings) = features.as_object_mut() {
        settings.remove("limit");
    }
    serde_json::json!([plan.model, plan.prompt, plan.rag, finetune, features])
}

fn curve(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    members: &[Member<'_>],
) -> Option<Curve> {
    let mut sizes: Vec<u64> = members.iter().map(|member| member.rows).collect();
    sizes.sort_unstable();
    sizes.dedup();
    if sizes.len() < 2 {
        return None;
    }
    let points: Vec<Point> = sizes
        .into_iter()
        .filter_map(|rows| {
            let trained: Vec<&Member<'_>> =
                members.iter().filter(|member| member.rows == rows).collect();
            let score = |sample: usize| -> Option<f64> {
                let scores: Option<Vec<f64>> =
                    trained.iter().map(|member| member.scores[sample]).collect();
                scores.map(|scores| scores.iter().sum::<f64>() / scores.len() as f64)
            };
            let kept: Vec<(usize, f64)> = (0..set.samples.len())
                .filter_map(|sample| Some((sample, score(sample)?)))
                .collect();
            let values: Vec<f64> = kept.iter().map(|(_, score)| *score).collect();
            let clusters =
                set.clusters_of(&kept.iter().map(|(sample, _)| *sample).collect::<Vec<_>>());
            let estimate = estimate(&values, &clusters, &evaluation.options)?;
            Some(Point { rows, seeds: trained.len(), estimate })
        })
        .collect();
    if points.len() < 2 {
        return None;
    }
    let largest = points.last()?.rows;
    let arm = members.iter().find(|member| member.rows == largest)?.contender.arm;
    let mut in_order: Vec<&Member<'_>> = members.iter().collect();
    in_order.sort_by_key(|member| member.rows);
    let names: Vec<&str> =
        in_order.iter().map(|member| evaluation.plans[member.contender.arm].arm()).collect();
    // A size without spread would have all the weight; its error is at least half a sample's.
    let weights: Vec<f64> = points
        .iter()
        .map(|point| {
            let least = 0.5 / point.estimate.n.max(1) as f64;
            point.estimate.standard_error.max(least).powi(-2)
        })
        .collect();
    let figures: Vec<(f64, f64)> =
        points.iter().map(|point| (point.rows as f64, point.estimate.mean)).collect();
    let law = PowerLaw::fit(&figures, &weights);
    Some(Curve { name: shared_name(&names), arm, points, law })
}

/// What the names begin with alike; the first where that is nothing.
fn shared_name(names: &[&str]) -> String {
    let Some(first) = names.first() else { return String::new() };
    let length = names.iter().skip(1).fold(first.len(), |length, name| {
        first[..length].bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count()
    });
    let length = (0..=length).rev().find(|&at| first.is_char_boundary(at)).unwrap_or(0);
    let shared = first[..length].trim_end_matches(['_', '-', '.', '+', ' ']);
    let shared = if names.iter().all(|name| name == first) { first } else { shared };
    if shared.is_empty() { (*first).to_owned() } else { shared.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_law_is_found_again() {
        let law = PowerLaw { ceiling: 0.9, scale: 2.0, exponent: 0.5 };
        let points: Vec<(f64, f64)> =
            [16.0, 64.0, 256.0, 1024.0].map(|rows| (rows, law.at(rows))).to_vec();
        let found = PowerLaw::fit(&points, &[1.0; 4]).unwrap();
        assert!((found.ceiling - 0.9).abs() < 1e-3, "{found:?}");
        assert!((found.exponent - 0.5).abs() < 1e-3, "{found:?}");
        assert!((found.at(4096.0) - law.at(4096.0)).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn no_law_goes_through_two_points_or_downwards() {
        assert_eq!(PowerLaw::fit(&[(1.0, 0.1), (2.0, 0.2)], &[1.0; 2]), None);
        let falling = [(10.0, 0.9), (100.0, 0.5), (1000.0, 0.1)];
        assert_eq!(PowerLaw::fit(&falling, &[1.0; 3]), None);
    }

    #[test]
    fn a_curve_is_called_what_its_arms_share() {
        assert_eq!(shared_name(&["lora_64", "lora_256", "lora_1000"]), "lora");
        assert_eq!(shared_name(&["lora_a", "lora_b"]), "lora");
        assert_eq!(shared_name(&["small", "large"]), "small");
    }
}
