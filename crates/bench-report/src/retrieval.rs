//! How well passages were found, from retrieved against gold document ids.

use std::collections::BTreeSet;

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
        let over = |of: &dyn Fn(&Record) -> f64| {
            let values: Vec<f64> = asked.iter().map(|(_, record)| of(record)).collect();
            estimate(&values, &clusters, options)
        };
        let mean =
            |of: &dyn Fn(&[usize], usize) -> f64| over(&|record| of(&ranks(record), gold(record)));
        // Of each trial: gold documents in the prompt, documents in the prompt, gold documents.
        let context = |of: &dyn Fn(usize, usize, usize) -> f64| {
            over(&|record| {
                let shown = shown(record);
                let found = shown.iter().filter(|document| record.gold.contains(document)).count();
                of(found, shown.len(), gold(record))
            })
        };
        results.push(RetrievalResult {
            contender: at,
            at: (1..=depth)
                .map(|k| AtK {
                    recall: mean(&|ranks, gold| recall(ranks, gold, k)),
                    precision: mean(&|ranks, _| precision(ranks, k)),
                    hit: mean(&|ranks, _| f64::from(u8::from(precision(ranks, k) > 0.0))),
                    map: mean(&|ranks, gold| average_precision(ranks, gold, k)),
                    ndcg: over(&|record| ndcg(record, k)),
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

/// Normalised discounted cumulative gain among the first `k` passages (Järvelin and Kekäläinen 2002):
/// a document gains its grade, 1 where nobody graded, over the binary logarithm of its rank + 1.
fn ndcg(record: &Record, k: usize) -> f64 {
    let grade = |document: &str| record.qrels.get(document).map_or(1.0, |grade| f64::from(*grade));
    let gain = |rank: usize, grade: f64| grade / (rank as f64 + 1.0).log2();
    let found = ranks(record).into_iter().filter(|&rank| rank <= k);
    let gained = found.map(|rank| gain(rank, grade(&record.retrieved[rank - 1].document)));
    let different: BTreeSet<&String> = record.gold.iter().collect();
    let mut best: Vec<f64> = different.into_iter().map(|document| grade(document)).collect();
    best.sort_by(|a, b| b.total_cmp(a));
    let ideal = (1..).zip(best).take(k).map(|(rank, grade)| gain(rank, grade));
    gained.sum::<f64>() / ideal.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bench_core::record::{Outcome, Retrieved, TrialId};

    use super::*;
    use crate::{read_trials, trials_parquet};

    /// A record whose passages are of these documents, best first.
    fn record(documents: &[&str], gold: &[&str], qrels: &[(&str, u32)]) -> Record {
        let passage = |document: &&str| Retrieved {
            id: format!("{document}#0"),
            document: (*document).into(),
            score: 0.0,
            in_prompt: true,
            number: None,
        };
        Record {
            trial: TrialId {
                set: "s".into(),
                arm: "a".into(),
                sample: "1".into(),
                repeat: 0,
                train_seed: 0,
            },
            key: String::new(),
            input: String::new(),
            references: vec![],
            cluster: None,
            slices: BTreeMap::new(),
            prompt: vec![],
            retrieved: documents.iter().map(passage).collect(),
            gold: gold.iter().map(|document| (*document).to_owned()).collect(),
            qrels: qrels.iter().map(|(document, grade)| ((*document).to_owned(), *grade)).collect(),
            outcome: Outcome::Failed { error: "none".into() },
            verdicts: BTreeMap::new(),
            preferences: vec![],
            calls: vec![],
            budget: None,
            unanswerable: false,
        }
    }

    #[test]
    fn documents_gain_their_grades_also_when_a_report_is_made_again() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        let log = |x: f64| x.log2();
        // Binary: at ranks 1 and 3 of two; the document's second passage counts nothing.
        let binary = record(&["a", "x", "b", "a"], &["a", "b"], &[]);
        near(ndcg(&binary, 4), 1.5 / (1.0 + 1.0 / log(3.0)));
        near(ndcg(&binary, 1), 1.0);
        // trec_eval's ndcg_cut on the same: linear gains 1, 0, 3 against 3, 1.
        let graded = record(&["a", "x", "b"], &["a", "b"], &[("a", 1), ("b", 3), ("x", 0)]);
        near(ndcg(&graded, 3), (1.0 + 3.0 / log(4.0)) / (3.0 + 1.0 / log(3.0)));
        near(ndcg(&graded, 1), 1.0 / 3.0);
        let again = read_trials(&trials_parquet(&[graded.clone(), binary]).unwrap()).unwrap();
        assert_eq!(again[0], graded);
        assert!(again[1].qrels.is_empty());
    }

    #[test]
    fn the_figures_are_those_worked_by_hand() {
        // Two gold documents, at ranks 1 and 3.
        assert!((recall(&[1, 3], 2, 2) - 0.5).abs() < 1e-12);
        assert!((precision(&[1, 3], 4) - 0.5).abs() < 1e-12);
        assert!((average_precision(&[1, 3], 2, 3) - f64::midpoint(1.0, 2.0 / 3.0)).abs() < 1e-12);
        assert!((average_precision(&[1, 3], 2, 2) - 0.5).abs() < 1e-12);
    }
}
