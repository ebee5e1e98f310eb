//! Measures of retrieval: of a ranking of documents against those known to be relevant, defined as `trec_eval`
//! defines them. Every measure is `None` when no document is relevant: nothing was there to find.

use std::collections::{BTreeMap, BTreeSet};

/// How relevant each document is: 0 is not at all. Documents not named are not relevant.
pub type Grades<'a> = BTreeMap<&'a str, u32>;

/// Gold documents, all equally relevant.
pub fn binary<'a>(gold: impl IntoIterator<Item = &'a str>) -> Grades<'a> {
    gold.into_iter().map(|document| (document, 1)).collect()
}

/// The documents of retrieved passages, given best first, each where its first passage stands.
pub fn documents<'a>(of_passages: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    of_passages.into_iter().filter(|document| seen.insert(*document)).collect()
}

/// Share of the relevant documents among the first `k`.
pub fn recall(ranking: &[&str], grades: &Grades, k: usize) -> Option<f64> {
    let n_relevant = n_relevant(grades)?;
    Some(relevant(ranking, grades, k).count() as f64 / n_relevant as f64)
}

/// Share of relevant documents among the first `k` places, empty places counted as misses.
pub fn precision(ranking: &[&str], grades: &Grades, k: usize) -> Option<f64> {
    n_relevant(grades)?;
    Some(relevant(ranking, grades, k).count() as f64 / k.max(1) as f64)
}

/// 1 when any of the first `k` documents is relevant, else 0.
pub fn hit(ranking: &[&str], grades: &Grades, k: usize) -> Option<f64> {
    n_relevant(grades)?;
    Some(if relevant(ranking, grades, k).next().is_some() { 1.0 } else { 0.0 })
}

/// 1 / rank of the first relevant document among the first `k`, else 0. Its mean is MRR.
pub fn reciprocal_rank(ranking: &[&str], grades: &Grades, k: usize) -> Option<f64> {
    n_relevant(grades)?;
    Some(relevant(ranking, grades, k).next().map_or(0.0, |rank| 1.0 / rank as f64))
}

/// Mean of the precision at each relevant document among the first `k`, those not found counted
/// as 0. Its mean over questions is MAP.
pub fn average_precision(ranking: &[&str], grades: &Grades, k: usize) -> Option<f64> {
    let n_relevant = n_relevant(grades)?;
    let precisions =
        (1..).zip(relevant(ranking, grades, k)).map(|(n, rank)| f64::from(n) / rank as f64);
    Some(precisions.sum::<f64>() / n_relevant as f64)
}

/// Normalised discounted cumulative gain among the first `k` (Järvelin & Kekäläinen 2002): gain is
/// the grade, its discount the binary logarithm of rank + 1.
pub fn ndcg(ranking: &[&str], grades: &Grades, k: usize) -> Option<f64> {
    n_relevant(grades)?;
    let mut ideal: Vec<u32> = grades.values().copied().collect();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    let gained = ranking.iter().map(|document| grade(grades, document));
    Some(discounted(gained, k) / discounted(ideal.into_iter(), k))
}

fn discounted(gains: impl Iterator<Item = u32>, k: usize) -> f64 {
    let discount = |(rank, gain): (usize, u32)| f64::from(gain) / (rank as f64 + 2.0).log2();
    gains.take(k).enumerate().map(discount).sum()
}

/// Ranks, from 1, of the relevant documents among the first `k`.
fn relevant(ranking: &[&str], grades: &Grades, k: usize) -> impl Iterator<Item = usize> {
    let ranked = (1..).zip(ranking.iter().take(k));
    ranked.filter(|(_, document)| grade(grades, document) > 0).map(|(rank, _)| rank)
}

fn grade(grades: &Grades, document: &str) -> u32 {
    grades.get(document).copied().unwrap_or(0)
}

fn n_relevant(grades: &Grades) -> Option<usize> {
    Some(grades.values().filter(|grade| **grade > 0).count()).filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANKING: &[&str] = &["a", "b", "c", "d", "e"];

    #[track_caller]
    fn check(value: Option<f64>, expect: f64) {
        assert!((value.unwrap() - expect).abs() < 1e-12, "{value:?} is not {expect}");
    }

    #[test]
    fn measures_equal_those_worked_by_hand() {
        let gold = binary(["b", "d", "z"]);
        check(recall(RANKING, &gold, 3), 1.0 / 3.0);
        check(recall(RANKING, &gold, 5), 2.0 / 3.0);
        check(precision(RANKING, &gold, 4), 0.5);
        check(precision(RANKING, &gold, 10), 0.2);
        check(hit(RANKING, &gold, 1), 0.0);
        check(hit(RANKING, &gold, 2), 1.0);
        check(reciprocal_rank(RANKING, &gold, 5), 0.5);
        check(reciprocal_rank(RANKING, &gold, 1), 0.0);
        check(average_precision(RANKING, &gold, 5), (1.0 / 2.0 + 2.0 / 4.0) / 3.0);
        let ideal = 1.0 + 1.0 / 3.0_f64.log2() + 0.5;
        check(ndcg(RANKING, &gold, 5), (1.0 / 3.0_f64.log2() + 1.0 / 5.0_f64.log2()) / ideal);
    }

    #[test]
    fn a_higher_grade_gains_more() {
        let grades = BTreeMap::from([("a", 1), ("b", 3), ("c", 0)]);
        let gained = 1.0 + 3.0 / 3.0_f64.log2();
        check(ndcg(RANKING, &grades, 5), gained / (3.0 + 1.0 / 3.0_f64.log2()));
        check(recall(RANKING, &grades, 5), 1.0);
        check(ndcg(&["b", "a"], &grades, 5), 1.0);
    }

    #[test]
    fn nothing_to_find_is_not_a_zero() {
        for measure in [recall, precision, hit, reciprocal_rank, average_precision, ndcg] {
            assert_eq!(measure(RANKING, &binary([]), 5), None);
            assert_eq!(measure(RANKING, &BTreeMap::from([("a", 0)]), 5), None);
            assert_eq!(measure(&[], &binary(["a"]), 5), Some(0.0));
        }
    }

    #[test]
    fn a_document_counts_once_where_its_first_passage_stands() {
        assert_eq!(documents(["b", "a", "b", "c", "a"]), ["b", "a", "c"]);
    }
}
