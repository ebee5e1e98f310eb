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
    /// Share of gold documents among those that stood in the prompt.
    pub(crate) context_precision: Option<Estimate>,
    /// Share of the gold documents that stood in the prompt.
    pub(crate) context_recall: Option<Estimate>,
}

/// Figures of the first `k` passages.
pub(crate) struct AtK {
    pub(crate) recall: Option<Estimate>,
    pub(crate) precision: Option<Estimate>,
    pub(crate) hit: Option<Estimate>,
    pub(crate) map: Option<Estimate>,
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
        // Of each trial: gold documents in the prompt, documents in the prompt, gold documents.
        let context = |of: &dyn Fn(usize, usize, usize) -> f64| {
            let value = |(_, record): &(usize, &Record)| {
                let shown = shown(record);
                let found = shown.iter().filter(|document| record.gold.contains(document)).count();
                of(found, shown.len(), gold(record))
            };
            let values: Vec<f64> = asked.iter().map(value).collect();
            estimate(&values, &clusters, options)
        };
        results.push(RetrievalResult {
            contender: at,
            at: (1..=depth)
                .map(|k| AtK {
                    recall: mean(&|ranks, gold| recall(ranks, gold, k)),
                    precision: mean(&|ranks, _| precision(ranks, k)),
                    hit: mean(&|ranks, _| f64::from(u8::from(precision(ranks, k) > 0.0))),
                    map: mean(&|ranks, gold| average_precision(ranks, gold, k)),
                    ndcg: mean(&|ranks, gold| ndcg(ranks, gold, k)),
                })
                .collect(),
            mrr: mean(&|ranks, _| ranks.first().map_or(0.0, |&rank| 1.0 / rank as f64)),
            context_precision: context(&|gold_shown, shown, _| {
                if shown == 0 { 0.0 } else { gold_shown as f64 / shown as f64 }
            }),
            context_recall: context(&|gold_shown, _, gold| gold_shown as f64 / gold as f64),
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

/// The different documents whose passages stood in the prompt.
fn shown(record: &Record) -> Vec<&String> {
    let mut shown: Vec<&String> = record
        .retrieved
        .iter()
        .filter(|passage| passage.in_prompt)
        .map(|passage| &passage.document)
        .collect();
    shown.sort();
    shown.dedup();
    shown
}

/// Share of gold documents among the first `k` places, empty ones counted as misses.
fn precision(ranks: &[usize], k: usize) -> f64 {
    ranks.iter().filter(|&&rank| rank <= k).count() as f64 / k as f64
}

/// Mean of the precision at each gold document among the first `k` passages, those not found
/// counted as 0. Its mean over samples is MAP.
fn average_precision(ranks: &[usize], gold: usize, k: usize) -> f64 {
    let found = ranks.iter().filter(|&&rank| rank <= k);
    let precisions = (1..).zip(found).map(|(n, rank)| f64::from(n) / *rank as f64);
    precisions.sum::<f64>() / gold as f64
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
        assert!((precision(&[1, 3], 4) - 0.5).abs() < 1e-12);
        assert!((average_precision(&[1, 3], 2, 3) - f64::midpoint(1.0, 2.0 / 3.0)).abs() < 1e-12);
        assert!((average_precision(&[1, 3], 2, 2) - 0.5).abs() < 1e-12);
        let ideal = 1.0 + 1.0 / 3_f64.log2();
        assert!((ndcg(&[1, 3], 2, 3) - 1.5 / ideal).abs() < 1e-12);
        assert!((ndcg(&[1], 2, 1) - 1.0).abs() < 1e-12);
    }
}
