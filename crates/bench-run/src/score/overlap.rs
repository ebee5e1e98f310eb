//! How much of a text another repeats: F1 over parts, ROUGE-L and chrF.

use std::collections::BTreeMap;

use bench_core::dataset::Sample;
use bench_core::record::Verdict;

use super::best;

/// ROUGE-L F1 (Lin 2004): the longest common subsequence of words, without stemming. Words are
/// runs of letters and digits in lower case.
pub(super) fn rouge_l(sample: &Sample, answer: &str) -> Verdict {
    let answer = words(answer);
    if sample.accepted().all(|accepted| words(accepted).is_empty()) {
        return Verdict::unscored("the reference holds no word");
    }
    best(sample, |accepted| {
        let accepted = words(accepted);
        harmonic(common_subsequence(&answer, &accepted), answer.len(), accepted.len())
    })
}

/// chrF2 (Popović 2015) as sacreBLEU computes it for a sentence, divided by 100: character
/// 1- to 6-grams without white space, precision and recall averaged over the orders that both
/// sides have, recall weighing twice as much.
pub(super) fn chrf(sample: &Sample, answer: &str) -> Verdict {
    let answer = characters(answer);
    best(sample, |accepted| chrf_score(&answer, &characters(accepted)))
}

/// F1 over parts, each counted as often as it occurs.
pub(super) fn f1<K: Ord>(
    answer: impl IntoIterator<Item = K>,
    reference: impl IntoIterator<Item = K>,
) -> f64 {
    let (answer, reference) = (counts(answer), counts(reference));
    harmonic(shared(&answer, &reference), answer.values().sum(), reference.values().sum())
}

fn harmonic(shared: usize, answer: usize, reference: usize) -> f64 {
    if shared == 0 { 0.0 } else { 2.0 * shared as f64 / (answer + reference) as f64 }
}

fn counts<K: Ord>(parts: impl IntoIterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for part in parts {
        *counts.entry(part).or_default() += 1;
    }
    counts
}

fn shared<K: Ord>(one: &BTreeMap<K, usize>, other: &BTreeMap<K, usize>) -> usize {
    one.iter().map(|(part, &count)| count.min(other.get(part).copied().unwrap_or(0))).sum()
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn common_subsequence(one: &[String], other: &[String]) -> usize {
    let mut lengths = vec![0; other.len() + 1];
    for word in one {
        let mut diagonal = 0;
        for (column, candidate) in other.iter().enumerate() {
            let above = lengths[column + 1];
            lengths[column + 1] =
                if word == candidate { diagonal + 1 } else { above.max(lengths[column]) };
            diagonal = above;
        }
    }
    lengths[other.len()]
}

fn characters(text: &str) -> Vec<char> {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

fn chrf_score(answer: &[char], reference: &[char]) -> f64 {
    const ORDER: usize = 6;
    const RECALL_WEIGHT: f64 = 4.0; // beta 2, squared
    // An order counts when both texts are long enough for it.
    let orders = ORDER.min(answer.len()).min(reference.len());
    let (mut precision, mut recall) = (0.0, 0.0);
    for order in 1..=orders {
        let (ours, theirs) = (counts(answer.windows(order)), counts(reference.windows(order)));
        let shared = shared(&ours, &theirs) as f64;
        precision += shared / (answer.len() + 1 - order) as f64;
        recall += shared / (reference.len() + 1 - order) as f64;
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / orders as f64, recall / orders as f64);
    (1.0 + RECALL_WEIGHT) * precision * recall / (RECALL_WEIGHT * precision + recall)
}
