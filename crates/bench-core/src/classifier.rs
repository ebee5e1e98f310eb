//! A linear classifier over vectors: what it is once it is fitted, and what it answers.

use serde::{Deserialize, Serialize};

/// Multinomial logistic regression over vectors of a fixed size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearClassifier {
    /// What it can answer, in the order of the weights.
    pub labels: Vec<String>,
    /// One row of weights per label, each as long as a vector.
    pub weights: Vec<Vec<f64>>,
    /// One number per label, added to the product of its weights and the vector.
    pub intercepts: Vec<f64>,
}

impl LinearClassifier {
    /// Numbers that were fitted.
    pub fn parameters(&self) -> u64 {
        (self.weights.iter().map(Vec::len).sum::<usize>() + self.intercepts.len()) as u64
    }

    /// The logarithm of each label's probability, in the order of `labels`.
    pub fn log_probabilities(&self, vector: &[f32]) -> Vec<f64> {
        let rows = self.weights.iter().zip(&self.intercepts);
        let scores: Vec<f64> = rows
            .map(|(weights, intercept)| {
                let products = weights.iter().zip(vector).map(|(w, x)| w * f64::from(*x));
                intercept + products.sum::<f64>()
            })
            .collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
        scores.into_iter().map(|score| score - most - sum.ln()).collect()
    }

    /// The likeliest label, the first of equals; `None` without labels.
    pub fn label(&self, vector: &[f32]) -> Option<&str> {
        let mut best: Option<(f64, &str)> = None;
        for (value, label) in self.log_probabilities(vector).into_iter().zip(&self.labels) {
            if best.is_none_or(|(most, _)| value > most) {
                best = Some((value, label));
            }
        }
        best.map(|(_, label)| label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_label_is_the_answer_and_the_first_of_equals() {
        let classifier = LinearClassifier {
            labels: vec!["no".into(), "yes".into(), "so".into()],
            weights: vec![vec![0.0, 0.0], vec![1.0, 0.0], vec![1.0, 0.0]],
            intercepts: vec![0.5, 0.0, 0.0],
        };
        assert_eq!(classifier.label(&[0.0, 9.0]), Some("no"));
        assert_eq!(classifier.label(&[1.0, 9.0]), Some("yes"));
        assert_eq!(classifier.parameters(), 9);
        let probabilities = classifier.log_probabilities(&[1.0, 0.0]);
        let sum: f64 = probabilities.iter().map(|value| value.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert!((probabilities[1] - probabilities[0] - 0.5).abs() < 1e-12);
    }
}
