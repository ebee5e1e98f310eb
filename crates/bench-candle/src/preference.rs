//! Objectives over pairs of a chosen and a rejected completion, as weights of their tokens' losses.
//!
//! Each objective depends on the two completions' log-probabilities alone, so its derivative is a
//! weight per token, and the pass back is that of the plain loss.

use bench_core::spec::Objective;

use crate::ops::loss::Prediction;

/// What a batch of pairs comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Weighed {
    /// The objective, summed over pairs.
    pub(crate) loss: f64,
    /// Its derivative to each token's loss, times the share that a pair has in the step.
    pub(crate) weights: Vec<f32>,
}

/// Weighs the tokens of pairs: rows come as chosen, rejected, chosen, …; `targets` counts the
/// predictions of each. `reference` is the summed loss of each row under the model that training
/// started from.
pub(crate) fn weigh(
    objective: Objective,
    beta: f64,
    predictions: &[Prediction],
    targets: &[usize],
    reference: &[f64],
    share: f64,
) -> Weighed {
    let mut weighed = Weighed::default();
    let mut rest = predictions;
    for (i, pair) in targets.chunks_exact(2).enumerate() {
        let mut loss_of = |n: usize| {
            let (row, others) = rest.split_at(n);
            rest = others;
            row.iter().map(|prediction| f64::from(prediction.loss)).sum::<f64>()
        };
        let (n_chosen, n_rejected) = (pair[0], pair[1]);
        let (chosen, rejected) = (loss_of(n_chosen), loss_of(n_rejected));
        let (loss, d_chosen, d_rejected) = match objective {
            Objective::Sft => (chosen, 1.0, 0.0),
            Objective::Dpo => {
                // Each side is how much likelier the policy makes it than the reference does.
                let gain = |row: usize, loss: f64| reference[2 * i + row] - loss;
                let margin = beta * (gain(0, chosen) - gain(1, rejected));
                let slope = beta * sigmoid(-margin);
                (softplus(-margin), slope, -slope)
            }
            Objective::Orpo => {
                let (chosen, rejected) = (chosen / n_chosen as f64, rejected / n_rejected as f64);
                let margin = log_odds(chosen) - log_odds(rejected);
                let slope = beta * sigmoid(-margin);
                // The derivative of the log odds to the mean loss is -1 / (1 - p).
                let d = |loss: f64| slope / -(-loss).exp_m1();
                let d_chosen = (1.0 + d(chosen)) / n_chosen as f64;
                let d_rejected = -d(rejected) / n_rejected as f64;
                (chosen + beta * softplus(-margin), d_chosen, d_rejected)
            }
        };
        weighed.loss += loss;
        for (n, d) in [(n_chosen, d_chosen), (n_rejected, d_rejected)] {
            weighed.weights.extend(std::iter::repeat_n((share * d) as f32, n));
        }
    }
    weighed
}

/// The logarithm of p / (1 - p), for p of this negative logarithm.
fn log_odds(loss: f64) -> f64 {
    -loss - (-(-loss).exp_m1()).ln()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln(1 + e^x).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictions(losses: &[f32]) -> Vec<Prediction> {
        losses.iter().map(|loss| Prediction { loss: *loss, top: 0 }).collect()
    }

    /// Losses of two pairs with 2 and 1, and 1 and 3 tokens.
    const LOSSES: [f32; 7] = [0.5, 1.5, 2.0, 0.7, 0.9, 0.4, 1.1];
    const TARGETS: [usize; 4] = [2, 1, 1, 3];
    const REFERENCE: [f64; 4] = [2.3, 1.2, 1.0, 2.0];

    fn loss(objective: Objective, losses: &[f32]) -> Weighed {
        weigh(objective, 0.3, &predictions(losses), &TARGETS, &REFERENCE, 1.0)
    }

    #[test]
    fn weights_are_the_slopes_of_each_objective() {
        for objective in [Objective::Sft, Objective::Dpo, Objective::Orpo] {
            let weighed = loss(objective, &LOSSES);
            assert_eq!(weighed.weights.len(), LOSSES.len());
            for i in 0..LOSSES.len() {
                let moved = |step: f32| {
                    let mut losses = LOSSES;
                    losses[i] += step;
                    loss(objective, &losses).loss
                };
                let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                let found = f64::from(weighed.weights[i]);
                assert!((slope - found).abs() < 1e-4, "{objective:?} {i}: {slope}, {found}");
            }
        }
    }

    #[test]
    fn a_model_that_is_its_reference_has_the_loss_of_a_coin() {
        let reference = [2.0, 2.0, 0.7, 2.4];
        let weighed = weigh(Objective::Dpo, 0.3, &predictions(&LOSSES), &TARGETS, &reference, 1.0);
        assert!((weighed.loss - 2.0 * 2f64.ln()).abs() < 1e-6);
        assert!((weighed.weights[0] - 0.15).abs() < 1e-6);
        assert!((weighed.weights[2] + 0.15).abs() < 1e-6);
    }

    #[test]
    fn one_pair_worked_by_hand() {
        // Chosen: mean loss ln 2, odds 1. Rejected: loss ln 4, odds 1/3. The ratio's logarithm is
        // ln 3, and -ln sigmoid(ln 3) is ln(4/3).
        let (two, four) = (2f32.ln(), 4f32.ln());
        let pair = predictions(&[two, two, four]);
        let weighed = weigh(Objective::Orpo, 0.5, &pair, &[2, 1], &[], 1.0);
        let expected = 2f64.ln() + 0.5 * (4.0f64 / 3.0).ln();
        assert!((weighed.loss - expected).abs() < 1e-6, "{}", weighed.loss);
    }
}
