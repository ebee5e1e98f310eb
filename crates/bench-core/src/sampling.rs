//! How the next token is chosen from a model's logits. Every local backend chooses by this code, so
//! that arms differ in what the model thinks and not in how it is asked.

/// The natural logarithm of the sum of exponentials, without overflow.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum::<f64>().ln()
}

/// The index of the largest value, the first one of several; 0 where there is none.
pub fn likeliest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best
}

/// The indices of the `n` largest values, largest first.
pub fn best(logits: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let by_logit = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]);
    if n < order.len() {
        order.select_nth_unstable_by(n, by_logit);
    }
    order.truncate(n);
    order.sort_by(by_logit);
    order
}

/// The token at `point` (0 to 1) of the distribution at `temperature`, in order of probability
/// and cut to the likeliest tokens that make up `top_p`.
pub fn sample(logits: &[f32], temperature: f64, top_p: f64, point: f64) -> usize {
    let max = f64::from(logits[likeliest(logits)]);
    let mut weighted: Vec<(usize, f64)> = logits
        .iter()
        .enumerate()
        .map(|(id, &logit)| (id, ((f64::from(logit) - max) / temperature).exp()))
        // What lies 1e-12 below the likeliest is never drawn; leaving it out makes sorting cheap.
        .filter(|(_, weight)| *weight > 1e-12)
        .collect();
    weighted.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
    let mut mass = 0.0;
    let nucleus = weighted
        .iter()
        .position(|(_, weight)| {
            mass += weight;
            mass >= top_p * total
        })
        .unwrap_or(weighted.len() - 1);
    weighted.truncate(nucleus + 1);
    let kept: f64 = weighted.iter().map(|(_, weight)| weight).sum();
    let mut left = point * kept;
    for &(id, weight) in &weighted {
        left -= weight;
        if left < 0.0 {
            return id;
        }
    }
    weighted[nucleus].0
}

/// A number in [0, 1) that depends on nothing but its arguments (`SplitMix64`, Steele et al. 2014):
/// the point at which the token at `position` is drawn. `attempt` counts draws that a grammar
/// refused.
pub fn uniform(seed: u64, position: u64, attempt: u64) -> f64 {
    let mix = |mut x: u64| {
        x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    let bits = mix(mix(mix(seed) ^ position) ^ attempt);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_logits_is_the_likeliest() {
        assert_eq!(likeliest(&[0.0, 2.0, 2.0, 1.0]), 1);
        assert_eq!(best(&[0.0, 3.0, 2.0, 1.0], 2), [1, 2]);
        assert_eq!(best(&[0.0], 2), [0]);
    }

    #[test]
    fn log_sum_exp_does_not_overflow() {
        assert!((log_sum_exp(&[1000.0, 1000.0]) - (1000.0 + 2_f64.ln())).abs() < 1e-9);
    }

    #[test]
    fn drawn_tokens_follow_their_probabilities() {
        let logits = [0.0, 3_f32.ln(), f32::NEG_INFINITY];
        let n = 20_000;
        let ones = (0..n).filter(|&i| sample(&logits, 1.0, 1.0, uniform(7, i, 0)) == 1).count();
        let share = ones as f64 / n as f64;
        // 0.75, give or take four standard errors.
        assert!((share - 0.75).abs() < 0.0125, "{share}");
    }

    #[test]
    fn temperature_sharpens_and_top_p_cuts() {
        let logits = [0.0, 1.0, 2.0];
        assert!((0..200).all(|i| sample(&logits, 0.01, 1.0, uniform(1, i, 0)) == 2));
        assert!((0..200).all(|i| sample(&logits, 1.0, 0.6, uniform(1, i, 0)) == 2));
        assert!((0..200).any(|i| sample(&logits, 1.0, 0.9, uniform(1, i, 0)) == 1));
        assert!((0..200).all(|i| sample(&logits, 1.0, 0.9, uniform(1, i, 0)) != 0));
    }

    #[test]
    fn every_seed_position_and_attempt_draws_anew() {
        let draws = [uniform(1, 0, 0), uniform(2, 0, 0), uniform(1, 1, 0), uniform(1, 0, 1)];
        for (i, a) in draws.iter().enumerate() {
            assert!((0.0..1.0).contains(a));
            assert!(draws[..i].iter().all(|b| (a - b).abs() > 1e-9));
        }
        assert!((uniform(1, 2, 3) - uniform(1, 2, 3)).abs() < f64::EPSILON);
    }
}
