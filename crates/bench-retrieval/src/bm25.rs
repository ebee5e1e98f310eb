//! BM25 over chunks, in memory.

use std::collections::{BTreeMap, HashMap};

use bench_core::retrieval::bm25_weight;
use bench_core::spec::Terms;
use rayon::prelude::*;

use crate::text::Reader;

/// An inverted index that ranks by BM25 with Lucene's inverse document frequency,
/// `ln(1 + (N - n + 0.5) / (n + 0.5))`.
pub struct Bm25 {
    /// Chunk and weight, by term.
    postings: HashMap<String, Vec<(u32, f32)>>,
    n_texts: usize,
    how: Terms,
}

impl Bm25 {
    /// Reads every text. `k1` saturates term frequency, `b` normalises length.
    pub fn new<T: AsRef<str> + Sync>(texts: &[T], parameters: (f64, f64), how: Terms) -> Self {
        let text = |at: u32| Ok::<_, std::convert::Infallible>(texts[at as usize].as_ref());
        match Self::read(texts.len(), text, parameters, how) {
            Ok(index) => index,
            Err(never) => match never {},
        }
    }

    /// As [`new`](Self::new), over texts that are fetched one by one and not kept.
    ///
    /// # Errors
    /// What `text` gives.
    pub fn read<T: AsRef<str>, E: Send>(
        n_texts: usize,
        text: impl Fn(u32) -> Result<T, E> + Sync,
        parameters: (f64, f64),
        how: Terms,
    ) -> Result<Self, E> {
        let read = |reader: &mut Reader, at: u32| {
            let mut counts = BTreeMap::<String, u32>::new();
            for term in reader.terms(text(at)?.as_ref()) {
                *counts.entry(term).or_default() += 1;
            }
            Ok(counts)
        };
        let counts: Result<Vec<_>, E> =
            (0..n_texts as u32).into_par_iter().map_init(|| Reader::new(how), read).collect();
        let counts = counts?;
        let length = |counts: &BTreeMap<String, u32>| f64::from(counts.values().sum::<u32>());
        let mean = counts.iter().map(length).sum::<f64>() / n_texts.max(1) as f64;
        let mut postings = HashMap::<String, Vec<(u32, f32)>>::new();
        for (text, counts) in counts.into_iter().enumerate() {
            let length = length(&counts);
            for (term, count) in counts {
                let weight = bm25_weight(parameters, f64::from(count), length, mean);
                postings.entry(term).or_default().push((text as u32, weight as f32));
            }
        }
        Ok(Self { postings, n_texts, how })
    }

    /// At most `limit` texts that share a term with the query, best first; ties go to the earlier.
    pub fn search(&self, query: &str, limit: usize) -> Vec<(u32, f64)> {
        self.search_in(query, limit, &|_| true)
    }

    /// As [`search`](Self::search), among the texts that `keep` accepts. How rare a term is, is
    /// counted over all texts.
    pub fn search_in(
        &self,
        query: &str,
        limit: usize,
        keep: &dyn Fn(u32) -> bool,
    ) -> Vec<(u32, f64)> {
        let mut terms = BTreeMap::<String, f64>::new();
        for term in Reader::new(self.how).terms(query) {
            *terms.entry(term).or_default() += 1.0;
        }
        let mut scores = vec![0.0; self.n_texts];
        for (term, count) in terms {
            let Some(postings) = self.postings.get(&term) else { continue };
            let n = postings.len() as f64;
            let rarity = (1.0 + (self.n_texts as f64 - n + 0.5) / (n + 0.5)).ln();
            for (text, weight) in postings {
                scores[*text as usize] += count * rarity * f64::from(*weight);
            }
        }
        let found = (0..).zip(scores).filter(|(text, score)| *score > 0.0 && keep(*text));
        best(found.collect(), limit)
    }
}

/// The `limit` highest scores, best first; ties go to the lower position.
pub(crate) fn best(mut scored: Vec<(u32, f64)>, limit: usize) -> Vec<(u32, f64)> {
    let order = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if limit < scored.len() {
        scored.select_nth_unstable_by(limit, order);
        scored.truncate(limit);
    }
    scored.sort_unstable_by(order);
    scored
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 4] = ["red apple", "green apple tree", "blue sea", "apple apple"];

    #[test]
    fn scores_equal_the_formula_worked_by_hand() {
        let found = Bm25::new(&TEXTS, (0.9, 0.4), Terms::default()).search("apples", 10);
        // 3 of 4 texts hold the term; lengths 2, 3, 2, 2; mean 2.25.
        let rarity = (1.0 + 1.5 / 3.5_f64).ln();
        let weight = |count: f64, length: f64| count / (count + 0.9 * (0.6 + 0.4 * length / 2.25));
        let expect = [(3, weight(2.0, 2.0)), (0, weight(1.0, 2.0)), (1, weight(1.0, 3.0))];
        assert_eq!(found.len(), 3);
        for ((text, score), (expect_text, weight)) in found.into_iter().zip(expect) {
            assert_eq!(text, expect_text);
            assert!((score - rarity * weight).abs() < 1e-6);
        }
    }

    #[test]
    fn a_text_without_a_common_term_is_not_found() {
        let index = Bm25::new(&TEXTS, (0.9, 0.4), Terms::default());
        assert_eq!(index.search("the sea", 10).iter().map(|hit| hit.0).collect::<Vec<_>>(), [2]);
        assert!(index.search("of the", 10).is_empty() && index.search("", 10).is_empty());
    }

    #[test]
    fn ties_go_to_the_earlier_text() {
        let index = Bm25::new(&["b x", "d x", "c x"], (0.9, 0.4), Terms::default());
        assert_eq!(index.search("x", 2).iter().map(|hit| hit.0).collect::<Vec<_>>(), [0, 1]);
    }
}
