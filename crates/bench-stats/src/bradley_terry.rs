//! Strengths of arms from pairwise judgements, by the model of Bradley and Terry (1952).

use serde::{Deserialize, Serialize};

use crate::distribution::critical;

/// Judgements of one pair of arms, over all samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCount {
    /// One arm.
    pub a: String,
    /// The other arm.
    pub b: String,
    /// Judgements for `a`.
    pub a_wins: usize,
    /// Judgements for `b`.
    pub b_wins: usize,
    /// Judgements for neither, each half a win for both.
    pub ties: usize,
}

/// One arm's strength on the logistic scale; the strengths of all arms sum to zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Strength {
    /// The arm's name.
    pub arm: String,
    /// Log-strength: arm `i` is preferred to `j` with probability `1 / (1 + exp(s_j - s_i))`.
    pub strength: f64,
    /// Its standard error, from the Fisher information. Judgements of one sample count as
    /// independent; a tie counts as a whole game, which errs on the wide side.
    pub standard_error: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// Judgements from which no strengths follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BradleyTerryError {
    /// There are fewer than two arms.
    #[error("a pairwise judge needs two arms, and here are {0}")]
    TooFewArms(usize),
    /// Some arms never lost to the rest, or the rest was never compared with them: the likelihood
    /// has no maximum (Ford 1957).
    #[error(
        "nothing ties {0:?} to the other arms: they won every comparison with the others or had none; judge more pairs"
    )]
    Unbounded(Vec<String>),
}

/// Fits strengths by the MM algorithm (Hunter 2004, Annals of Statistics 32:384) with Wald intervals.
/// Arms come out in order of name.
pub fn bradley_terry(counts: &[PairCount], level: f64) -> Result<Vec<Strength>, BradleyTerryError> {
    let mut arms: Vec<&str> =
        counts.iter().flat_map(|count| [count.a.as_str(), count.b.as_str()]).collect();
    arms.sort_unstable();
    arms.dedup();
    let k = arms.len();
    if k < 2 {
        return Err(BradleyTerryError::TooFewArms(k));
    }
    let mut wins = vec![vec![0.0; k]; k];
    for count in counts {
        let [a, b] =
            [&count.a, &count.b].map(|name| arms.partition_point(|arm| *arm < name.as_str()));
        wins[a][b] += count.a_wins as f64 + count.ties as f64 / 2.0;
        wins[b][a] += count.b_wins as f64 + count.ties as f64 / 2.0;
    }
    if let Some(group) = unbeaten(&wins) {
        return Err(BradleyTerryError::Unbounded(
            group.into_iter().map(|i| arms[i].to_owned()).collect(),
        ));
    }
    let strengths = maximum(&wins);
    let errors = standard_errors(&wins, &strengths);
    let z = critical(level);
    Ok(arms
        .iter()
        .zip(strengths.iter().zip(errors))
        .map(|(arm, (&strength, standard_error))| Strength {
            arm: (*arm).to_owned(),
            strength,
            standard_error,
            low: strength - z * standard_error,
            high: strength + z * standard_error,
        })
        .collect())
}

/// A proper subset of arms that no other arm ever beat, if there is one: whoever is reached from an
/// arm by going from losers to winners.
fn unbeaten(wins: &[Vec<f64>]) -> Option<Vec<usize>> {
    let k = wins.len();
    (0..k).find_map(|start| {
        let mut reached = vec![false; k];
        reached[start] = true;
        let mut queue = vec![start];
        while let Some(loser) = queue.pop() {
            for winner in 0..k {
                if wins[winner][loser] > 0.0 && !reached[winner] {
                    reached[winner] = true;
                    queue.push(winner);
                }
            }
        }
        let group: Vec<usize> = (0..k).filter(|&i| reached[i]).collect();
        (group.len() < k).then_some(group)
    })
}

fn maximum(wins: &[Vec<f64>]) -> Vec<f64> {
    let k = wins.len();
    let total: Vec<f64> = wins.iter().map(|row| row.iter().sum()).collect();
    let mut worth = vec![1.0_f64; k];
    for _ in 0..100_000 {
        let mut next: Vec<f64> = (0..k)
            .map(|i| {
                let games = |j: usize| wins[i][j] + wins[j][i];
                let load: f64 =
                    (0..k).filter(|&j| j != i).map(|j| games(j) / (worth[i] + worth[j])).sum();
                total[i] / load
            })
            .collect();
        let centre = next.iter().map(|x| x.ln()).sum::<f64>() / k as f64;
        for x in &mut next {
            *x /= centre.exp();
        }
        let moved = next.iter().zip(&worth).map(|(x, y)| (x / y).ln().abs()).fold(0.0, f64::max);
        worth = next;
        if moved < 1e-13 {
            break;
        }
    }
    worth.into_iter().map(f64::ln).collect()
}

/// From the pseudo-inverse of the information, whose null space is a common shift of all strengths:
/// `(I + J/k)^-1 - J/k` with `J` of ones.
fn standard_errors(wins: &[Vec<f64>], strengths: &[f64]) -> Vec<f64> {
    let k = wins.len();
    let shift = 1.0 / k as f64;
    let mut information = vec![vec![shift; k]; k];
    for i in 0..k {
        for j in (0..k).filter(|&j| j != i) {
            let p = 1.0 / (1.0 + (strengths[j] - strengths[i]).exp());
            let weight = (wins[i][j] + wins[j][i]) * p * (1.0 - p);
            information[i][i] += weight;
            information[i][j] -= weight;
        }
    }
    let inverse = inverse(information);
    (0..k).map(|i| (inverse[i][i] - shift).max(0.0).sqrt()).collect()
}

/// Gauss and Jordan's inverse of a positive definite matrix, which needs no pivoting.
fn inverse(mut matrix: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let k = matrix.len();
    for (i, row) in matrix.iter_mut().enumerate() {
        row.extend((0..k).map(|j| f64::from(u8::from(i == j))));
    }
    for column in 0..k {
        let pivot = matrix[column][column];
        matrix[column].iter_mut().for_each(|x| *x /= pivot);
        let lead = matrix[column].clone();
        for (_, row) in matrix.iter_mut().enumerate().filter(|(i, _)| *i != column) {
            let factor = row[column];
            row.iter_mut().zip(&lead).for_each(|(x, lead)| *x -= factor * lead);
        }
    }
    matrix.into_iter().map(|row| row[k..].to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(a: &str, b: &str, a_wins: usize, b_wins: usize, ties: usize) -> PairCount {
        PairCount { a: a.into(), b: b.into(), a_wins, b_wins, ties }
    }

    #[test]
    fn two_arms_have_the_log_odds_between_them() {
        let fitted = bradley_terry(&[count("a", "b", 30, 10, 0)], 0.95).unwrap();
        assert!((fitted[0].strength - fitted[1].strength - 3.0_f64.ln()).abs() < 1e-9);
        // The variance of log-odds is 1/30 + 1/10; each strength is half of them.
        assert!((fitted[0].standard_error - (1.0 / 30.0 + 0.1_f64).sqrt() / 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_tie_is_half_a_win_for_both() {
        let tied = bradley_terry(&[count("a", "b", 10, 4, 6)], 0.95).unwrap();
        let halved = bradley_terry(&[count("b", "a", 7, 13, 0)], 0.95).unwrap();
        assert_eq!(tied, halved);
    }

    #[test]
    fn an_arm_that_was_never_beaten_has_no_finite_strength() {
        let counts = [count("a", "b", 5, 0, 0), count("b", "c", 3, 2, 0)];
        assert_eq!(
            bradley_terry(&counts, 0.95),
            Err(BradleyTerryError::Unbounded(vec!["a".into()]))
        );
        assert_eq!(bradley_terry(&[], 0.95), Err(BradleyTerryError::TooFewArms(0)));
    }

    #[test]
    fn arms_that_were_never_compared_are_named() {
        let counts = [count("a", "b", 5, 2, 0), count("c", "d", 3, 2, 0)];
        let error = bradley_terry(&counts, 0.95).unwrap_err();
        assert_eq!(error, BradleyTerryError::Unbounded(vec!["a".into(), "b".into()]));
    }
}
