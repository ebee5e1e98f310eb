//! How well passages were found, from retrieved against gold document ids.

use bench_core::metrics::{self, Grades};
use bench_core::record::Record;
use bench_stats::{Estimate, Options, estimate};

use crate::evaluation::SetResult;

/// Retrieval quality of one contender, over the samples that name gold documents.
pub(crate) struct RetrievalResult {
    /// Position among the contenders.
    pub(crate) contender: usize,
    /// Per cut-off `k`, counted from 1: the first `k` documents.
    pub(crate) at: Vec<AtK>,
    /// Mean reciprocal rank of the first gold document.
    pub(crate) mrr: Option<Estimate>,
    /// Share of gold documents among those that stood in the prompt.
    pub(crate) context_precision: Option<Estimate>,
    /// Share of the gold documents that stood in the prompt.
    pub(crate) context_recall: Option<Estimate>,
}

/// Figures of the first `k` documents.
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
        let mean = |of: &dyn Fn(&Record) -> f64| {
            let values: Vec<f64> = asked.iter().map(|(_, record)| of(record)).collect();
            estimate(&values, &clusters, options)
        };
        let first = |k: usize, measure: Measure| {
            // Samples without gold documents were left out.
            mean(&|record| measure(&ranking(record), &grades(record), k).unwrap_or(0.0))
        };
        // Of each trial: gold documents in the prompt, documents in the prompt, gold documents.
        let context = |of: &dyn Fn(usize, usize, usize) -> f64| {
            mean(&|record| {
                let shown = shown(record);
                let grades = grades(record);
                let gold =
                    |document: &&&str| grades.get(**document).is_some_and(|grade| *grade > 0);
                let found = shown.iter().filter(gold).count();
                of(found, shown.len(), grades.values().filter(|grade| **grade > 0).count())
            })
        };
        results.push(RetrievalResult {
            contender: at,
            at: (1..=depth)
                .map(|k| AtK {
                    recall: first(k, metrics::recall),
                    precision: first(k, metrics::precision),
                    hit: first(k, metrics::hit),
                    map: first(k, metrics::average_precision),
                    ndcg: first(k, metrics::ndcg),
                })
                .collect(),
            mrr: first(depth, metrics::reciprocal_rank),
            context_precision: context(&|gold_shown, shown, _| {
                if shown == 0 { 0.0 } else { gold_shown as f64 / shown as f64 }
            }),
            context_recall: context(&|gold_shown, _, gold| gold_shown as f64 / gold as f64),
        });
    }
    results
}

type Measure = fn(&[&str], &Grades<'_>, usize) -> Option<f64>;

/// The documents that were found, best first, each where its first passage stands.
fn ranking(record: &Record) -> Vec<&str> {
    metrics::documents(record.retrieved.iter().map(|passage| passage.document.as_str()))
}

/// What people said of documents, or else that all gold ones are equally relevant.
fn grades(record: &Record) -> Grades<'_> {
    if record.qrels.is_empty() {
        metrics::binary(record.gold.iter().map(String::as_str))
    } else {
        record.qrels.iter().map(|(document, grade)| (document.as_str(), *grade)).collect()
    }
}

/// The different documents whose passages stood in the prompt.
fn shown(record: &Record) -> Vec<&str> {
    let shown = record.retrieved.iter().filter(|passage| passage.in_prompt);
    metrics::documents(shown.map(|passage| passage.document.as_str()))
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
    fn chunks_of_one_document_count_once_and_grades_survive_the_file() {
        let chunked = record(&["a", "a", "x", "b"], &["a", "b"], &[]);
        assert_eq!(ranking(&chunked), ["a", "x", "b"]);
        assert_eq!(metrics::recall(&ranking(&chunked), &grades(&chunked), 3), Some(1.0));
        let graded = record(&["a", "x", "b"], &["a", "b"], &[("a", 1), ("b", 3), ("x", 0)]);
        assert_eq!(metrics::ndcg(&ranking(&graded), &grades(&graded), 1), Some(1.0 / 3.0));
        let again = read_trials(&trials_parquet(&[graded.clone(), chunked]).unwrap()).unwrap();
        assert_eq!(again[0], graded);
        assert!(again[1].qrels.is_empty());
    }
}
