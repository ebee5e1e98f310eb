//! What every index has in common, wherever its vectors live: chunks, how text is read, how two
//! rankings become one. An index on disk and one on a server then find the same passages.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::{
    BackendError, Embedder, IndexInfo, IndexJob, Passage, Purpose, Reranker, Retriever,
};
use crate::dataset::Document;
use crate::digest;
use crate::spec::{Expand, Filter, Mmr, Rag, Retrieval, Terms};

/// A piece of a document, as an index stores it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// `<document>#<n>`, counted from 0.
    pub id: String,
    /// The document it was cut from.
    pub document: String,
    /// The document's title, or empty; with the headings above it where cuts follow Markdown.
    pub title: String,
    /// Its text.
    pub text: String,
    /// Its number within the document, from 0. The chunks of a document follow each other.
    #[serde(default)]
    pub n: u32,
    /// How many chunks the document has.
    #[serde(default)]
    pub of: u32,
    /// Where its text starts in the document's, in bytes.
    #[serde(default)]
    pub start: u64,
    /// The document's meta data.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, Value>,
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

    /// True when its document passes every filter.
    pub fn passes(&self, filters: &[Filter]) -> bool {
        filters.iter().all(|filter| filter.accepts(&self.document, &self.meta))
    }
}

/// Documents that were cut.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cut {
    /// The chunks of each document, in order.
    pub chunks: Vec<Vec<Chunk>>,
    /// Documents whose chunks had to be smaller than asked for, because the embedder's window is.
    pub cut_to_window: u64,
}

/// How text is cut and read. Implemented by `bench-retrieval`; a crate that keeps vectors
/// elsewhere is given one.
pub trait Analysis: Send + Sync {
    /// Changes whenever the same text would be cut or read in another way.
    fn id(&self) -> &str;

    /// Cuts documents so that no chunk with its title exceeds the embedder's window.
    fn chunks(
        &self,
        documents: &[&Document],
        settings: &Rag,
        embedder: Option<&dyn Embedder>,
    ) -> Result<Cut, BackendError>;

    /// The terms of a text in order, repeats included.
    fn terms(&self, text: &str, how: Terms) -> Vec<String>;
}

/// The SHA-256 of everything but the documents that a stored index depends on. Settings that
/// matter only when a question is asked (`top_k`, fusion, filters, order) are left out: changing
/// them rebuilds nothing.
pub fn settings_digest(job: &IndexJob, analysis: &str) -> String {
    let embedder = job.embedder.as_ref().map(|embedder| embedder.id().to_owned());
    let dense = job.settings.retriever.is_dense();
    digest::of_json(&(analysis, job.settings.chunking(), embedder.filter(|_| dense), dense))
}

/// The SHA-256 of everything a stored index depends on.
pub fn index_digest(job: &IndexJob, analysis: &str) -> String {
    digest::of_json(&(settings_digest(job, analysis), &job.documents))
}

/// A question on its way to an index.
pub struct Question<'a> {
    /// Its words.
    pub text: &'a str,
    /// Its vector of unit length, where the retriever is dense.
    pub vector: Option<Vec<f32>>,
}

/// What an index can do; [`Pipeline`] makes a retriever of it. Chunks are named by position.
pub trait Searcher: Send + Sync {
    /// Chunks that pass the filter, best first by the fused score; at most `limit` of each ranking
    /// that is fused.
    fn search(
        &self,
        question: &Question<'_>,
        limit: usize,
    ) -> Result<Vec<(u32, f64)>, BackendError>;

    /// The chunks at these positions, in this order.
    fn chunks(&self, positions: &[u32]) -> Result<Vec<Chunk>, BackendError>;

    /// The vectors at these positions, of unit length, in this order.
    fn vectors(&self, positions: &[u32]) -> Result<Vec<Vec<f32>>, BackendError>;
}

/// From a question to passages, the same way over every index: search, rerank, leave out what
/// scores too low, choose different ones, show what surrounds them.
pub struct Pipeline<S> {
    searcher: S,
    settings: Rag,
    embedder: Option<Arc<dyn Embedder>>,
    reranker: Option<Arc<dyn Reranker>>,
    info: IndexInfo,
}

impl<S: Searcher> Pipeline<S> {
    /// Over an open index, with the settings, embedder and reranker of the job.
    ///
    /// # Errors
    /// `rerank` without a reranker, and an embedder of another dimension than the index.
    pub fn new(searcher: S, job: &IndexJob, info: IndexInfo) -> Result<Self, BackendError> {
        let fatal = |message: String| BackendError::fatal("retrieval", message);
        if job.settings.rerank.is_some() && job.reranker.is_none() {
            return Err(fatal("`rerank` is asked for, but there is no reranker".into()));
        }
        let embedder = job.embedder.clone().filter(|_| job.settings.retriever.is_dense());
        if let Some(embedder) = &embedder
            && embedder.dimension() as u64 != info.dimension
        {
            return Err(fatal(format!(
                "the index in `{}` holds {} numbers per vector, embedder `{}` gives {}; rebuild it \
                 with `bench index build`",
                job.folder.display(),
                info.dimension,
                embedder.id(),
                embedder.dimension()
            )));
        }
        let (settings, reranker) = (job.settings.clone(), job.reranker.clone());
        Ok(Self { searcher, settings, embedder, reranker, info })
    }

    fn reranked(
        &self,
        query: &str,
        found: &mut Vec<(u32, f64)>,
        top_k: usize,
    ) -> Result<(), BackendError> {
        let (Some(rerank), Some(reranker)) = (&self.settings.rerank, &self.reranker) else {
            return Ok(());
        };
        found.truncate(top_k.max(rerank.candidates as usize));
        let chunks = self.searcher.chunks(&positions(found))?;
        let texts: Vec<String> = chunks.iter().map(Chunk::contextual).collect();
        let scores = reranker.score(query, &texts)?;
        if scores.len() != texts.len() || scores.iter().any(|score| score.is_nan()) {
            let message = format!(
                "reranker `{}` gave {} scores for {} passages, or one that is no number",
                reranker.id(),
                scores.len(),
                texts.len()
            );
            return Err(BackendError::fatal("retrieval", message));
        }
        for (hit, score) in found.iter_mut().zip(scores) {
            hit.1 = score;
        }
        // Stable: among equals the first search decides.
        found.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ok(())
    }
}

fn positions(found: &[(u32, f64)]) -> Vec<u32> {
    found.iter().map(|(position, _)| *position).collect()
}

impl<S: Searcher> Retriever for Pipeline<S> {
    fn retrieve(&self, query: &str, top_k: usize) -> Result<Vec<Passage>, BackendError> {
        if query.trim().is_empty() {
            return Err(BackendError::rejected("retrieval", "the question is empty"));
        }
        let settings = &self.settings;
        let wider = [
            settings.rerank.as_ref().map_or(0, |rerank| rerank.candidates as usize),
            settings.mmr.as_ref().map_or(0, |mmr| mmr.candidates as usize),
        ];
        let limit = candidates(wider.into_iter().fold(top_k, usize::max));
        let embedder = self.embedder.as_deref();
        let vector = embedder.map(|embedder| embed_query(embedder, query)).transpose()?;
        let question = Question { text: query, vector };
        let mut found = self.searcher.search(&question, limit)?;
        self.reranked(query, &mut found, top_k)?;
        if let Some(least) = settings.min_score {
            found.retain(|(_, score)| *score >= least);
        }
        if let (Some(mmr), Some(vector)) = (&settings.mmr, &question.vector) {
            found.truncate(top_k.max(mmr.candidates as usize));
            let vectors = self.searcher.vectors(&positions(&found))?;
            let order = marginal_relevance(vector, &vectors, mmr, top_k);
            found = order.into_iter().map(|at| found[at]).collect();
        }
        if settings.expand == Expand::None {
            found.truncate(top_k);
            let chunks = self.searcher.chunks(&positions(&found))?;
            let passage = |(chunk, (_, score)): (Chunk, &(u32, f64))| chunk.into_passage(*score);
            return Ok(chunks.into_iter().zip(&found).map(passage).collect());
        }
        expand(&self.searcher, settings.expand, &found, top_k)
    }

    fn info(&self) -> IndexInfo {
        self.info.clone()
    }
}

/// Positions of the `top_k` candidates of the largest marginal relevance, in the order they were
/// chosen: `lambda` x cosine to the question - (1 - `lambda`) x largest cosine to one chosen before
/// (Carbonell and Goldstein 1998). All vectors have unit length; ties go to the earlier candidate.
pub fn marginal_relevance(
    question: &[f32],
    candidates: &[Vec<f32>],
    mmr: &Mmr,
    top_k: usize,
) -> Vec<usize> {
    let cosine = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let relevance: Vec<f64> = candidates.iter().map(|vector| cosine(question, vector)).collect();
    let mut nearest = vec![f64::NEG_INFINITY; candidates.len()];
    let mut chosen = Vec::new();
    while chosen.len() < top_k.min(candidates.len()) {
        let value = |at: usize| {
            // Nothing is chosen yet: only relevance counts.
            let like = if nearest[at].is_finite() { nearest[at] } else { 0.0 };
            mmr.lambda * relevance[at] - (1.0 - mmr.lambda) * like
        };
        let left = (0..candidates.len()).filter(|at| !chosen.contains(at));
        let Some(best) = left.reduce(|a, b| if value(b) > value(a) { b } else { a }) else { break };
        chosen.push(best);
        for (near, vector) in nearest.iter_mut().zip(candidates) {
            *near = near.max(cosine(&candidates[best], vector));
        }
    }
    chosen
}

/// The surroundings of found chunks, until there are `top_k` passages. A chunk within, or beside,
/// an earlier passage of its document widens that one.
fn expand<S: Searcher>(
    searcher: &S,
    how: Expand,
    found: &[(u32, f64)],
    top_k: usize,
) -> Result<Vec<Passage>, BackendError> {
    /// Positions of chunks, both ends included.
    struct Window {
        first: u32,
        last: u32,
        id: String,
        score: f64,
    }
    let mut windows: Vec<Window> = Vec::new();
    for page in found.chunks(top_k.max(1)) {
        if windows.len() >= top_k {
            break;
        }
        let chunks = searcher.chunks(&positions(page))?;
        for (chunk, (position, score)) in chunks.into_iter().zip(page) {
            let start = position - chunk.n;
            let end = start + chunk.of.max(1) - 1;
            let (first, last, id) = match how {
                Expand::None => (*position, *position, chunk.id),
                Expand::Parent => (start, end, chunk.document),
                Expand::Neighbours(n) => (
                    position.saturating_sub(n).max(start),
                    position.saturating_add(n).min(end),
                    chunk.id,
                ),
            };
            let touches = |window: &&mut Window| {
                (start..=end).contains(&window.first)
                    && first <= window.last + 1
                    && window.first <= last + 1
            };
            if let Some(window) = windows.iter_mut().find(touches) {
                window.first = window.first.min(first);
                window.last = window.last.max(last);
            } else if windows.len() < top_k {
                windows.push(Window { first, last, id, score: *score });
            }
        }
    }
    let passage = |window: Window| {
        let positions: Vec<u32> = (window.first..=window.last).collect();
        let chunks = searcher.chunks(&positions)?;
        let text = joined(&chunks);
        let first = chunks.into_iter().next().unwrap_or_default();
        let passage = Chunk { text, ..first }.into_passage(window.score);
        Ok(Passage { id: window.id, ..passage })
    };
    windows.into_iter().map(passage).collect()
}

/// The text of consecutive chunks, what they share written once.
fn joined(chunks: &[Chunk]) -> String {
    let mut text = String::new();
    let mut end = 0;
    for chunk in chunks {
        let shared = usize::try_from(end.max(chunk.start) - chunk.start).unwrap_or(0);
        let past = chunk.start + chunk.text.len() as u64;
        if text.is_empty() {
            text.push_str(&chunk.text);
        } else if end > chunk.start {
            text.push_str(chunk.text.get(shared..).unwrap_or_default());
        } else {
            text.push_str(if chunk.start - end > 1 { "\n\n" } else { " " });
            text.push_str(&chunk.text);
        }
        end = end.max(past);
    }
    text
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
    fn marginal_relevance_prefers_what_is_not_there_yet() {
        let question = [1.0, 0.0];
        let candidates = [vec![0.96, 0.28], vec![0.936, 0.352], vec![0.8, -0.6]];
        let order = |lambda| {
            marginal_relevance(&question, &candidates, &Mmr { lambda, ..Mmr::default() }, 3)
        };
        assert_eq!(order(1.0), [0, 1, 2]);
        // 0.5 * 0.936 - 0.5 * 0.9971 < 0.5 * 0.8 - 0.5 * 0.6
        assert_eq!(order(0.5), [0, 2, 1]);
        let few = Mmr::default();
        assert_eq!(marginal_relevance(&question, &candidates, &few, 2), [0, 2]);
        assert!(marginal_relevance(&question, &[], &few, 2).is_empty());
    }

    #[test]
    fn what_chunks_share_is_written_once() {
        let chunk = |start, text: &str| Chunk { start, text: text.into(), ..Chunk::default() };
        let text = joined(&[chunk(0, "one two"), chunk(4, "two three"), chunk(14, "four")]);
        assert_eq!(text, "one two three four");
        assert_eq!(joined(&[chunk(0, "a."), chunk(4, "b.")]), "a.\n\nb.");
    }

    /// Documents a (3 chunks), b (1), c (2); everything is found in the order of `order`.
    struct Shelf {
        order: Vec<u32>,
    }

    impl Searcher for Shelf {
        fn search(&self, _: &Question<'_>, _: usize) -> Result<Vec<(u32, f64)>, BackendError> {
            Ok(self.order.iter().enumerate().map(|(n, at)| (*at, 1.0 - n as f64 / 10.0)).collect())
        }

        fn chunks(&self, positions: &[u32]) -> Result<Vec<Chunk>, BackendError> {
            let all =
                [("a", 0, 3), ("a", 1, 3), ("a", 2, 3), ("b", 0, 1), ("c", 0, 2), ("c", 1, 2)];
            let chunk = |at: &u32| {
                let (document, n, of) = all[*at as usize];
                Chunk {
                    id: format!("{document}#{n}"),
                    document: document.into(),
                    text: format!("{document}{n}"),
                    n,
                    of,
                    start: u64::from(n) * 3,
                    ..Chunk::default()
                }
            };
            Ok(positions.iter().map(chunk).collect())
        }

        fn vectors(&self, _: &[u32]) -> Result<Vec<Vec<f32>>, BackendError> {
            Ok(Vec::new())
        }
    }

    /// Longer passages first.
    struct Longest;

    impl Reranker for Longest {
        fn id(&self) -> &'static str {
            "longest"
        }

        fn score(&self, _: &str, passages: &[String]) -> Result<Vec<f64>, BackendError> {
            Ok(passages.iter().map(|text| f64::from(u32::from(text == "c1"))).collect())
        }
    }

    fn retrieve(settings: Rag, order: &[u32], top_k: usize) -> Vec<(String, String)> {
        let settings = Rag { retriever: Retrieval::Bm25 { k1: 0.9, b: 0.4 }, ..settings };
        let job = IndexJob { settings, reranker: Some(Arc::new(Longest)), ..IndexJob::default() };
        let shelf = Shelf { order: order.to_vec() };
        let pipeline = Pipeline::new(shelf, &job, IndexInfo::default()).unwrap();
        let found = pipeline.retrieve("question", top_k).unwrap();
        found.into_iter().map(|passage| (passage.id, passage.text)).collect()
    }

    #[track_caller]
    fn check_passages(settings: Rag, order: &[u32], expect: &[(&str, &str)]) {
        let found = retrieve(settings, order, 2);
        let found: Vec<_> = found.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn an_embedder_of_another_dimension_says_what_to_rebuild() {
        struct Eight;
        impl Embedder for Eight {
            fn id(&self) -> &'static str {
                "eight"
            }
            fn dimension(&self) -> usize {
                8
            }
            fn window(&self) -> usize {
                100
            }
            fn count_tokens(&self, text: &str) -> usize {
                text.len()
            }
            fn embed(&self, _: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
                Ok(vec![vec![0.0; 8]; texts.len()])
            }
        }
        let job = IndexJob {
            embedder: Some(Arc::new(Eight)),
            folder: "corpora/x".into(),
            ..IndexJob::default()
        };
        let info = IndexInfo { dimension: 384, ..IndexInfo::default() };
        let error = Pipeline::new(Shelf { order: Vec::new() }, &job, info).err().unwrap().chain();
        assert!(
            error.ends_with("the index in `corpora/x` holds 384 numbers per vector, embedder `eight` gives 8; rebuild it with `bench index build`"),
            "{error}"
        );
    }

    #[test]
    fn a_parent_is_shown_once_and_makes_room_for_the_next() {
        let parent = Rag { expand: Expand::Parent, ..Rag::default() };
        check_passages(parent, &[1, 0, 2, 5, 3], &[("a", "a0 a1 a2"), ("c", "c0 c1")]);
    }

    #[test]
    fn neighbours_stop_at_the_document_and_touching_passages_join() {
        let near = Rag { expand: Expand::Neighbours(1), ..Rag::default() };
        check_passages(near.clone(), &[3, 0, 4], &[("b#0", "b0"), ("a#0", "a0 a1")]);
        check_passages(near, &[0, 2, 3], &[("a#0", "a0 a1 a2"), ("b#0", "b0")]);
    }

    #[test]
    fn a_reranker_sorts_its_candidates_and_a_threshold_leaves_out() {
        let rerank = |candidates| {
            let model = crate::spec::RerankerSource::Overlap;
            Some(crate::spec::Rerank::new(model, candidates))
        };
        let all = Rag { rerank: rerank(5), ..Rag::default() };
        check_passages(all.clone(), &[0, 3, 5], &[("c#1", "c1"), ("a#0", "a0")]);
        let few = Rag { rerank: rerank(2), ..Rag::default() };
        check_passages(few, &[0, 3, 5], &[("a#0", "a0"), ("b#0", "b0")]);
        check_passages(Rag { min_score: Some(0.5), ..all }, &[0, 3, 5], &[("c#1", "c1")]);
        check_passages(Rag { min_score: Some(0.95), ..Rag::default() }, &[4, 3], &[("c#0", "c0")]);
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
