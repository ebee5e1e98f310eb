//! Classifiers over vectors: multinomial logistic regression, by L-BFGS in f64.

use bench_core::backend::{BackendError, ClassifierTrainer};
use bench_core::classifier::LinearClassifier;
use linfa::Dataset;
use linfa::traits::Fit;
use linfa_logistic::MultiLogisticRegression;
use ndarray::{Array1, Array2};

const BACKEND: &str = "classifier";

/// Iterations that no fit has needed yet.
const MOST_ITERATIONS: u64 = 5_000;

/// The length of the gradient at which a fit ends.
const TOLERANCE: f64 = 1e-4;

/// Fits classifiers with linfa. The numbers are those of scikit-learn's `LogisticRegression`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogisticTrainer;

impl ClassifierTrainer for LogisticTrainer {
    fn fit(
        &self,
        vectors: &[Vec<f32>],
        labels: &[String],
        c: f64,
    ) -> Result<LinearClassifier, BackendError> {
        let fatal = |message: String| BackendError::fatal(BACKEND, message);
        let size = vectors.first().map_or(0, Vec::len);
        if vectors.len() != labels.len() || vectors.iter().any(|vector| vector.len() != size) {
            return Err(fatal("vectors and labels do not match".into()));
        }
        let mut names = labels.to_vec();
        names.sort();
        names.dedup();
        if names.len() < 2 || size == 0 {
            let n = names.len();
            return Err(fatal(format!("{n} labels over vectors of {size} leave no choice")));
        }
        let numbers = vectors.iter().flatten().map(|value| f64::from(*value)).collect();
        let numbers = Array2::from_shape_vec((vectors.len(), size), numbers)
            .map_err(|error| fatal(error.to_string()))?;
        let targets: Array1<usize> =
            labels.iter().map(|label| names.binary_search(label).unwrap_or(0)).collect();
        // Of two labels, each gets half of the one row of weights that scikit-learn has for both: the
        // same penalty on it is twice as much on the halves.
        let alpha = if names.len() == 2 { 2.0 } else { 1.0 } / c;
        let fitted = MultiLogisticRegression::default()
            .alpha(alpha)
            .max_iterations(MOST_ITERATIONS)
            .gradient_tolerance(TOLERANCE)
            .fit(&Dataset::new(numbers, targets))
            .map_err(|error| fatal(format!("`C: {c}` cannot be fitted: {error}")))?;
        Ok(LinearClassifier {
            weights: fitted.params().columns().into_iter().map(|row| row.to_vec()).collect(),
            intercepts: fitted.intercept().to_vec(),
            labels: names,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six points of three labels.
    const POINTS: [([f32; 2], &str); 6] = [
        ([1.0, 0.1], "east"),
        ([0.9, -0.3], "east"),
        ([0.0, 1.0], "north"),
        ([0.2, 0.8], "north"),
        ([-0.6, -0.7], "away"),
        ([-0.1, -0.2], "away"),
    ];

    fn rows(points: &[([f32; 2], &str)]) -> (Vec<Vec<f32>>, Vec<String>) {
        points.iter().map(|(point, label)| (point.to_vec(), (*label).to_owned())).unzip()
    }

    /// The derivative of the penalised loss, which is 0 at the minimum.
    fn slopes(classifier: &LinearClassifier, points: &[([f32; 2], &str)], c: f64) -> Vec<f64> {
        let mut slopes = Vec::new();
        for (k, label) in classifier.labels.iter().enumerate() {
            let excess = |point: &[f32], own: &str| {
                let share = classifier.log_probabilities(point)[k].exp();
                share - f64::from(u8::from(own == label))
            };
            slopes.push(points.iter().map(|(point, own)| excess(point, own)).sum());
            for i in 0..2 {
                let loss = points.iter().map(|(p, own)| excess(p, own) * f64::from(p[i]));
                slopes.push(loss.sum::<f64>() + classifier.weights[k][i] / c);
            }
        }
        slopes
    }

    #[test]
    fn a_fit_is_the_minimum_of_the_penalised_loss() {
        let (vectors, labels) = rows(&POINTS);
        for c in [0.01, 1.0, 100.0] {
            let fitted = LogisticTrainer.fit(&vectors, &labels, c).unwrap();
            assert_eq!(fitted.labels, ["away", "east", "north"]);
            for slope in slopes(&fitted, &POINTS, c) {
                assert!(slope.abs() < 1e-3, "C {c}: {slope}");
            }
        }
        let fitted = LogisticTrainer.fit(&vectors, &labels, 10.0).unwrap();
        for (point, label) in POINTS {
            assert_eq!(fitted.label(&point), Some(label));
        }
        assert_eq!(fitted, LogisticTrainer.fit(&vectors, &labels, 10.0).unwrap());
    }

    /// With two labels, one row of weights has the penalty: the difference of ours.
    #[test]
    fn two_labels_are_the_binomial_case() {
        let points = &POINTS[..4];
        let (vectors, labels) = rows(points);
        let c = 2.0;
        let fitted = LogisticTrainer.fit(&vectors, &labels, c).unwrap();
        for i in 0..2 {
            let w = fitted.weights[1][i] - fitted.weights[0][i];
            let loss = points.iter().map(|(point, label)| {
                let share = fitted.log_probabilities(point)[1].exp();
                (share - f64::from(u8::from(*label == "north"))) * f64::from(point[i])
            });
            let slope = loss.sum::<f64>() + w / c;
            assert!(slope.abs() < 1e-3, "{slope}");
        }
    }

    #[test]
    fn one_label_is_refused() {
        let (vectors, labels) = rows(&POINTS[..2]);
        let error = LogisticTrainer.fit(&vectors, &labels, 1.0).unwrap_err();
        assert!(error.source.to_string().contains("leave no choice"), "{}", error.source);
    }
}
