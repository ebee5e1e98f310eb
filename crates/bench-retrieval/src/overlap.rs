//! A reranker without a model: the share of the question's terms that stand in a passage.

use std::collections::BTreeSet;

use bench_core::backend::{BackendError, Reranker};
use bench_core::spec::Terms;

use crate::text::Reader;

/// Counts terms that question and passage have in common.
#[derive(Clone, Copy, Debug, Default)]
pub struct OverlapReranker;

impl Reranker for OverlapReranker {
    fn id(&self) -> &'static str {
        "overlap-1"
    }

    fn score(&self, query: &str, passages: &[String]) -> Result<Vec<f64>, BackendError> {
        let mut reader = Reader::new(Terms::default());
        let wanted: BTreeSet<String> = reader.terms(query).into_iter().collect();
        let share = |passage: &String| {
            let found: BTreeSet<String> = reader.terms(passage).into_iter().collect();
            wanted.intersection(&found).count() as f64 / wanted.len().max(1) as f64
        };
        Ok(passages.iter().map(share).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_the_share_of_terms_found() {
        let passages = ["The harbour of Velm", "Velm", "", "harbours, masters and Velm"];
        let passages = passages.map(String::from);
        let scores = OverlapReranker.score("the master of Velm harbour", &passages).unwrap();
        assert_eq!(scores, [2.0 / 3.0, 1.0 / 3.0, 0.0, 1.0]);
        assert_eq!(OverlapReranker.score("the of", &passages[..1]).unwrap(), [0.0]);
    }
}
