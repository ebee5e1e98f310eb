//! How well passages were found, from retrieved against gold document ids.

use bench_core::record::Record;
use bench_stats::{Estimate, Options, estimate};

use crate::evaluation::SetResult;

/// Retrieval quality of one contender, over the samples that name gold documents.
pub(crate) struct RetrievalResult {
    /// Position among the contenders.
    pub(crate) contender: usize,
    /// Per cut-off `k`, counted from 1.
    pub(crate) at: Vec<AtK>,
    /// Mean reciprocal rank of the first gold document.
    pub(crate) mrr: Option<Estimate>,
}

/// Figures of the first `k` passages.
pub(crate) struct AtK {
    pub(crate) recall: Option<Estimate>,
    pub(crate) ndcg: Option<Estimate>,
}

/// A result per contender that retrieved anything for samples with gold documents.
pub(crate) fn results<'s>(set: &'s SetResult<'_>, options: &Options) -> &'s [RetrievalResult] {
    set.once.retrieval.get_or_init(|| measured(set, options))
}

fn measured(set: &SetResult<'_>, options: &Options) -> Vec<RetrievalResult> {
    let mut results = Vec::new();
    for (at, contender) in set.contenders.iter().enumerate() {
        // A repeat retrieves the same passages again.
        let trials = contender.positions.iter().copied().zip(contender.trials.iter().copied());
        let asked: Vec<(usize, &Record)> = trials
            .filter(|(_, record)| record.trial.repeat == 0 && !record.gold.is_empty())
            .collect();
        let depth = asked.iter().map(|(_, record)| record.retrieved.len()).max().unwrap_or(0);
        if depth == 0 {
            continue;
        }
        let clusters =
            set.clusters_of(&asked.iter().map(|(sample, _)| *sample).collect::<Vec<_>>());
        let mean = |of: &dyn Fn(&[usize], usize) -> f64| {
            let values: Vec<f64> =
                asked.iter().map(|(_, record)| of(&ranks(record), gold(record))).collect();
            estimate(&values, &clusters, options)
        };
        results.push(RetrievalResult {
            contender: at,
            at: (1..=depth)
                .map(|k| AtK {
                    recall: mean(&|ranks, gold| recall(ranks, gold, k)),
                    ndcg: mean(&|ranks, gold| ndcg(ranks, gold, k)),
                })
                .collect(),
            mrr: mean(&|ranks, _| ranks.first().map_or(0.0, |&rank| 1.0 / rank as f64)),
        });
    }
    results
}

/// Number of different gold documents.
fn gold(record: &Record) -> usize {
    let mut gold: Vec<&String> = record.gold.iter().collect();
    gold.sort();
    gold.dedup();
    gold.len()
}

/// The ranks, from 1, of gold documents among the passages; a document counts where it comes first.
fn ranks(record: &Record) -> Vec<usize> {
    let documents: Vec<&String> =
        record.retrieved.iter().map(|passage| &passage.document).collect();
    (0..documents.len())
        .filter(|&at| {
            record.gold.contains(documents[at]) && !documents[..at].contains(&documents[at])
        })
        .map(|at| at + 1)
        .collect()
}

/// Share of the gold documents among the first `k` passages.
fn recall(ranks: &[usize], gold: usize, k: usize) -> f64 {
    ranks.iter().filter(|&&rank| rank <= k).count() as f64 / gold as f64
}

/// Normalised discounted cumulative gain with binary relevance (Järvelin and Kekäläinen 2002).
fn ndcg(ranks: &[usize], gold: usize, k: usize) -> f64 {
    let gain = |rank: usize| 1.0 / (rank as f64 + 1.0).log2();
    let ideal: f64 = (1..=gold.min(k)).map(gain).sum();
    ranks.iter().filter(|&&rank| rank <= k).map(|&rank| gain(rank)).sum::<f64>() / ideal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_worked_by_hand() {
        // Two gold documents, at ranks 1 and 3.
        assert!((recall(&[1, 3], 2, 2) - 0.5).abs() < 1e-12);
        let ideal = 1.0 + 1.0 / 3_f64.log2();
        assert!((ndcg(&[1, 3], 2, 3) - 1.5 / ideal).abs() < 1e-12);
        assert!((ndcg(&[1], 2, 1) - 1.0).abs() < 1e-12);
    }
}
