//! What every index has in common, wherever its vectors live: chunks, how text is read, how two
//! rankings become one. An index on disk and one on a server then find the same passages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::backend::{BackendError, Embedder, IndexJob, Passage, Purpose};
use crate::dataset::Document;
use crate::digest;
use crate::spec::{Rag, Retrieval};

/// A piece of a document, as an index stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// `<document>#<n>`, counted from 0.
    pub id: String,
    /// The document it was cut from.
    pub document: String,
    /// The document's title, or empty.
    pub title: String,
    /// Its text.
    pub text: String,
}

impl Chunk {
    /// What is embedded and read for terms: the text behind its document's title, because a piece
    /// from the middle of a document often names its subject no more.
    pub fn contextual(&self) -> String {
        if self.title.is_empty() {
            return self.text.clone();
        }
        format!("{}: {}", self.title, self.text)
    }

    /// The chunk as an answer to a query.
    pub fn into_passage(self, score: f64) -> Passage {
        Passage { id: self.id, document: self.document, title: self.title, text: self.text, score }
    }
}

/// How text is cut and read. Implemented by `bench-retrieval`; a crate that keeps vectors
/// elsewhere is given one.
pub trait Analysis: Send + Sync {
    /// Changes whenever the same text would be cut or read in another way.
    fn id(&self) -> &str;

    /// Cuts documents so that no chunk with its title exceeds the embedder's window.
    fn chunks(
        &self,
        documents: &[Document],
        settings: &Rag,
        embedder: Option<&dyn Embedder>,
    ) -> Result<Vec<Chunk>, BackendError>;

    /// The terms of a text in order, repeats included.
    fn terms(&self, text: &str) -> Vec<String>;
}

/// The SHA-256 of everything a stored index depends on. Settings that matter only when a question
/// is asked (`top_k`, fusion, order) are left out: changing them rebuilds nothing.
pub fn index_digest(job: &IndexJob, analysis: &str) -> String {
    let embedder = job.embedder.as_ref().map(|embedder| embedder.id().to_owned());
    let Rag { chunk_size, chunk_overlap, retriever, .. } = &job.settings;
    let cut = (chunk_size, chunk_overlap);
    digest::of_json(&(analysis, &job.documents, cut, embedder, retriever.is_dense()))
}

/// Embeds chunks as vectors of unit length, the short ones first, so that a batch holds texts of
/// one length and little padding. `on_progress` gets chunks done and in all.
///
/// # Errors
/// The embedder's own, and vectors that are not numbers or not of its dimension.
pub fn embed_chunks(
    embedder: &dyn Embedder,
    chunks: &[Chunk],
    on_progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Vec<f32>>, BackendError> {
    const BATCH: usize = 64;
    let mut order: Vec<usize> = (0..chunks.len()).collect();
    order.sort_by_key(|&at| chunks[at].title.len() + chunks[at].text.len());
    let mut vectors = vec![Vec::new(); chunks.len()];
    let mut done = 0;
    on_progress(0, chunks.len() as u64);
    for batch in order.chunks(BATCH) {
        let texts: Vec<String> = batch.iter().map(|&at| chunks[at].contextual()).collect();
        for (&at, mut vector) in batch.iter().zip(embed(embedder, Purpose::Passage, &texts)?) {
            normalise(&mut vector);
            vectors[at] = vector;
        }
        done += batch.len() as u64;
        on_progress(done, chunks.len() as u64);
    }
    Ok(vectors)
}

/// Embeds a question. One that exceeds the embedder's window is read in pieces, whose vectors are
/// averaged: no word of it is ignored.
///
/// # Errors
/// As [`embed_chunks`]; a question without a word is rejected.
pub fn embed_query(embedder: &dyn Embedder, query: &str) -> Result<Vec<f32>, BackendError> {
    let words: Vec<&str> = query.split_whitespace().collect();
    if words.is_empty() {
        return Err(BackendError::rejected("retrieval", "the question is empty"));
    }
    let mut pieces = Vec::new();
    if embedder.count_tokens(query) <= embedder.window() {
        pieces.push(query.to_owned());
    } else {
        halve(embedder, &words, &mut pieces);
    }
    let mut mean = vec![0.0; embedder.dimension()];
    for vector in embed(embedder, Purpose::Query, &pieces)? {
        for (sum, x) in mean.iter_mut().zip(vector) {
            *sum += x;
        }
    }
    normalise(&mut mean);
    Ok(mean)
}

fn halve(embedder: &dyn Embedder, words: &[&str], pieces: &mut Vec<String>) {
    let text = words.join(" ");
    if words.len() == 1 || embedder.count_tokens(&text) <= embedder.window() {
        return pieces.push(text);
    }
    let (left, right) = words.split_at(words.len() / 2);
    halve(embedder, left, pieces);
    halve(embedder, right, pieces);
}

fn embed(
    embedder: &dyn Embedder,
    purpose: Purpose,
    texts: &[String],
) -> Result<Vec<Vec<f32>>, BackendError> {
    let vectors = embedder.embed(purpose, texts)?;
    let dimension = embedder.dimension();
    let wrong = vectors
        .iter()
        .find(|vector| vector.len() != dimension || !vector.iter().all(|x: &f32| x.is_finite()));
    if vectors.len() == texts.len() && wrong.is_none() {
        return Ok(vectors);
    }
    let message = match wrong {
        Some(vector) if vector.len() != dimension => {
            format!("gave {} numbers where it promised {dimension}", vector.len())
        }
        Some(_) => "gave a vector that holds no number".into(),
        None => format!("gave {} vectors for {} texts", vectors.len(), texts.len()),
    };
    Err(BackendError::fatal("retrieval", format!("embedder `{}` {message}", embedder.id())))
}

/// Scales a vector to unit length; a zero vector stays.
pub fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if length > 0.0 {
        for x in vector {
            *x = (f64::from(*x) / length) as f32;
        }
    }
}

/// BM25's `k1` and `b`: the retriever's own, else those that its fusions use.
pub fn bm25_parameters(retrieval: &Retrieval) -> (f64, f64) {
    match retrieval {
        Retrieval::Bm25 { k1, b } => (*k1, *b),
        Retrieval::Dense {} | Retrieval::Hybrid { .. } | Retrieval::Rrf { .. } => (0.9, 0.4),
    }
}

/// What a term that occurs `count` times in a chunk of `length` terms adds to its BM25 score,
/// before the term's inverse document frequency (Robertson & Zaragoza 2009, without the constant
/// factor `k1 + 1`, as Lucene writes it).
pub fn bm25_weight((k1, b): (f64, f64), count: f64, length: f64, mean_length: f64) -> f64 {
    count / (count + k1 * (1.0 - b + b * length / mean_length.max(1.0)))
}

const CANDIDATES: usize = 100;

/// How many candidates each of two rankings gives to their fusion.
pub fn candidates(top_k: usize) -> usize {
    top_k.max(CANDIDATES)
}

/// Makes one ranking of two, best first; ties go to the earlier chunk. Rankings are pairs of a
/// chunk's position and its score, best first.
///
/// `hybrid` is the convex combination of scores scaled to 0..1 between the lowest and the highest
/// candidate (Bruch, Gai & Ingber 2023); where fewer chunks than candidates share a term with the
/// question, the lowest lexical score is 0, which is what all other chunks have. `rrf` is reciprocal rank fusion (Cormack,
/// Clarke & Büttcher 2009) with ranks counted from 1.
pub fn fuse(
    retrieval: &Retrieval,
    dense: &[(u32, f64)],
    lexical: &[(u32, f64)],
) -> Vec<(u32, f64)> {
    let mut sums = BTreeMap::<u32, f64>::new();
    let mut add = |ranking: &[(u32, f64)], score: &dyn Fn(usize, f64) -> f64| {
        for (rank, (chunk, value)) in ranking.iter().enumerate() {
            *sums.entry(*chunk).or_default() += score(rank, *value);
        }
    };
    match retrieval {
        Retrieval::Dense {} => add(dense, &|_, score| score),
        Retrieval::Bm25 { .. } => add(lexical, &|_, score| score),
        Retrieval::Hybrid { dense_weight } => {
            let low = dense.last().map_or(0.0, |(_, score)| *score);
            let scale = scale(low, dense);
            add(dense, &|_, score| dense_weight * scale(score));
            let low = lexical.get(CANDIDATES - 1).map_or(0.0, |(_, score)| *score);
            let scale = self::scale(low, lexical);
            add(lexical, &|_, score| (1.0 - dense_weight) * scale(score));
        }
        Retrieval::Rrf { k } => {
            let reciprocal = |rank: usize, _: f64| 1.0 / (k + rank as f64 + 1.0);
            add(dense, &reciprocal);
            add(lexical, &reciprocal);
        }
    }
    let mut fused: Vec<(u32, f64)> = sums.into_iter().collect();
    fused.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    fused
}

/// Maps `low` to 0 and the best score to 1; equal scores are all best.
fn scale(low: f64, ranking: &[(u32, f64)]) -> impl Fn(f64) -> f64 {
    let high = ranking.first().map_or(0.0, |(_, score)| *score);
    move |score| if high > low { ((score - low) / (high - low)).max(0.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENSE: &[(u32, f64)] = &[(0, 0.9), (1, 0.7), (2, 0.5)];
    const LEXICAL: &[(u32, f64)] = &[(2, 8.0), (3, 2.0)];

    #[track_caller]
    fn check(retrieval: &Retrieval, expect: &[(u32, f64)]) {
        let fused = fuse(retrieval, DENSE, LEXICAL);
        assert_eq!(fused.len(), expect.len(), "{fused:?}");
        for (got, expect) in fused.iter().zip(expect) {
            assert!(got.0 == expect.0 && (got.1 - expect.1).abs() < 1e-12, "{fused:?}");
        }
    }

    #[test]
    fn hybrid_is_the_convex_combination_of_scaled_scores() {
        // Dense scales to 1, 0.5, 0; lexical to 1, 0.25.
        let expect = [(0, 0.6), (2, 0.4), (1, 0.3), (3, 0.1)];
        check(&Retrieval::Hybrid { dense_weight: 0.6 }, &expect);
    }

    #[test]
    fn reciprocal_ranks_are_counted_from_one() {
        let expect =
            [(2, 1.0 / 13.0 + 1.0 / 11.0), (0, 1.0 / 11.0), (1, 1.0 / 12.0), (3, 1.0 / 12.0)];
        check(&Retrieval::Rrf { k: 10.0 }, &expect);
    }

    #[test]
    fn one_ranking_alone_stays_as_it_is() {
        check(&Retrieval::Dense {}, DENSE);
        check(&Retrieval::Bm25 { k1: 0.9, b: 0.4 }, LEXICAL);
    }

    #[test]
    fn an_empty_ranking_leaves_the_other_in_order() {
        let fused = fuse(&Retrieval::Hybrid { dense_weight: 0.7 }, DENSE, &[]);
        assert_eq!(fused.iter().map(|(chunk, _)| *chunk).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn bm25_saturates_with_frequency_and_falls_with_length() {
        let weight = |count, length| bm25_weight((0.9, 0.4), count, length, 10.0);
        assert!((weight(1.0, 10.0) - 1.0 / 1.9).abs() < 1e-12);
        assert!(weight(2.0, 10.0) > weight(1.0, 10.0) && weight(1.0, 20.0) < weight(1.0, 10.0));
    }
}
