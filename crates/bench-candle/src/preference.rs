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

/// Weighs the tokens of completions that were found good or bad (KTO, Ethayarajh et al. 2024, in the form
/// of TRL's `KTOTrainer`): rows come as completion, mismatched completion, and so on. The mismatched
/// ones, of other prompts, say how far the policy has left its reference by itself: the mean over the
/// batch of their log-ratios, at least 0, is the point from which gains and losses are counted. It has
/// no derivative. `weights` are those of good and of bad completions.
pub(crate) fn weigh_labelled(
    beta: f64,
    [desirable, undesirable]: [f64; 2],
    predictions: &[Prediction],
    targets: &[usize],
    reference: &[f64],
    labels: &[bool],
    share: f64,
) -> Weighed {
    let mut rest = predictions;
    let ratios: Vec<f64> = targets
        .iter()
        .zip(reference)
        .map(|(n, reference)| {
            let (row, others) = rest.split_at(*n);
            rest = others;
            reference - row.iter().map(|prediction| f64::from(prediction.loss)).sum::<f64>()
        })
        .collect();
    let mismatched: f64 = ratios.iter().skip(1).step_by(2).sum();
    let point = (mismatched / labels.len().max(1) as f64).max(0.0);
    let mut weighed = Weighed::default();
    for (i, (pair, good)) in targets.chunks_exact(2).zip(labels).enumerate() {
        let (sign, weight) = if *good { (1.0, desirable) } else { (-1.0, undesirable) };
        let value = sigmoid(beta * sign * (ratios[2 * i] - point));
        weighed.loss += weight * (1.0 - value);
        let d = share * weight * sign * beta * value * (1.0 - value);
        weighed.weights.extend(std::iter::repeat_n(d as f32, pair[0]));
        weighed.weights.extend(std::iter::repeat_n(0.0, pair[1]));
    }
    weighed
}

/// Weighs rewards of pairs, which come as chosen, rejected, chosen, …: the negative logarithm of the
/// chance that the chosen one is preferred (Bradley and Terry 1952, as in TRL's `RewardTrainer`), and
/// its derivative to each reward.
pub(crate) fn weigh_rewards(rewards: &[f32], share: f64) -> Weighed {
    let mut weighed = Weighed::default();
    for pair in rewards.chunks_exact(2) {
        let margin = f64::from(pair[0]) - f64::from(pair[1]);
        let d = share * sigmoid(-margin);
        weighed.loss += softplus(-margin);
        weighed.weights.extend([-d as f32, d as f32]);
    }
    weighed
}

/// The odds of what is certain are infinite; in f32 a loss below half of this is none.
const LEAST_MEAN_LOSS: f64 = 1e-7;

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
            // Completions one by one are weighed by `weigh_labelled`, rewards by `weigh_rewards`.
            Objective::Sft | Objective::Kto | Objective::Reward => (chosen, 1.0, 0.0),
            Objective::Dpo => {
                // Each side is how much likelier the policy makes it than the reference does.
                let gain = |row: usize, loss: f64| reference[2 * i + row] - loss;
                let margin = beta * (gain(0, chosen) - gain(1, rejected));
                let slope = beta * sigmoid(-margin);
                (softplus(-margin), slope, -slope)
            }
            Objective::Orpo => {
                let mean = |loss: f64, n: usize| (loss / n as f64).max(LEAST_MEAN_LOSS);
                let (chosen, rejected) = (mean(chosen, n_chosen), mean(rejected, n_rejected));
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

    /// Two completions, a good and a bad one, each with a mismatched one behind it.
    fn labelled(losses: &[f32]) -> Weighed {
        let weights = [1.0, 1.5];
        let labels = [true, false];
        weigh_labelled(0.3, weights, &predictions(losses), &TARGETS, &REFERENCE, &labels, 1.0)
    }

    #[test]
    fn weights_of_labelled_completions_are_slopes_and_the_reference_point_has_none() {
        let weighed = labelled(&LOSSES);
        for i in 0..LOSSES.len() {
            let mismatched = matches!(i, 2 | 4..=6);
            let moved = |step: f32| {
                let mut losses = LOSSES;
                losses[i] += step;
                labelled(&losses).loss
            };
            let slope = if mismatched { 0.0 } else { (moved(1e-2) - moved(-1e-2)) / 2e-2 };
            let found = f64::from(weighed.weights[i]);
            assert!((slope - found).abs() < 1e-4, "{i}: {slope}, {found}");
        }
    }

    #[test]
    fn labelled_completions_worked_by_hand() {
        // Log-ratios: 2.3 - 2.0 = 0.3 of the good one, 1.0 - 0.7 = 0.3 of the bad one; the mismatched
        // ones 1.2 - 2.0 and 2.0 - 2.4, whose mean lies below 0 and counts as 0.
        let (good, bad) = (sigmoid(0.3 * 0.3), sigmoid(-0.3 * 0.3));
        let expected = (1.0 - good) + 1.5 * (1.0 - bad);
        assert!((labelled(&LOSSES).loss - expected).abs() < 1e-6);
        // A mean of 0.4 takes away from the good one and gives to the bad one.
        let losses = [0.5, 1.5, 0.8, 0.7, 0.6, 0.3, 0.7];
        let (good, bad) = (sigmoid(0.3 * (0.3 - 0.4)), sigmoid(0.3 * (0.4 - 0.3)));
        let expected = (1.0 - good) + 1.5 * (1.0 - bad);
        assert!((labelled(&losses).loss - expected).abs() < 1e-6);
    }

    #[test]
    fn rewards_are_weighed_by_the_chance_of_the_preference() {
        let weighed = weigh_rewards(&[1.0, 1.0, 3f32.ln(), 0.0], 0.5);
        // Equal rewards are a coin; ln 3 more makes three to one.
        let expected = 2f64.ln() + (4.0f64 / 3.0).ln();
        assert!((weighed.loss - expected).abs() < 1e-6, "{}", weighed.loss);
        for (found, expected) in weighed.weights.iter().zip([-0.25, 0.25, -0.125, 0.125]) {
            assert!((found - expected).abs() < 1e-6, "{:?}", weighed.weights);
        }
    }

    #[test]
    fn what_is_certain_has_odds_that_are_numbers() {
        for losses in [[0.0, 0.0], [0.0, 3.0], [3.0, 0.0]] {
            let predictions = predictions(&losses);
            let weighed = weigh(Objective::Orpo, 0.1, &predictions, &[1, 1], &[], 1.0);
            assert!(weighed.loss.is_finite(), "{losses:?}");
            assert!(weighed.weights.iter().all(|weight| weight.is_finite()), "{losses:?}");
        }
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
