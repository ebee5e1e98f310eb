//! An index on a Qdrant server: a collection with a dense vector and a sparse BM25 vector a chunk.
//!
//! Text is cut and read by the [`Analysis`] that is given, and two rankings are fused here by the
//! same function as everywhere, so that an arm finds the same passages on a server as on disk.
//! The server compares exactly, without its approximate index: a comparison of arms holds no
//! approximation noise.

mod bridge;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench_core::backend::{
    BackendError, Embedder, IndexInfo, IndexJob, Indexer, Passage, Retriever,
};
use bench_core::digest;
use bench_core::retrieval::{
    Analysis, Chunk, bm25_parameters, bm25_weight, candidates, embed_chunks, embed_query, fuse,
    index_digest,
};
use bench_core::spec::Retrieval;
use qdrant_client::qdrant::{
    CountPointsBuilder, CreateCollectionBuilder, Distance, GetPointsBuilder, Modifier,
    NamedVectors, PointId, PointStruct, Query, QueryBatchPointsBuilder, QueryPoints,
    QueryPointsBuilder, ScoredPoint, SearchParamsBuilder, SparseVectorParamsBuilder,
    SparseVectorsConfigBuilder, UpsertPointsBuilder, Value, Vector, VectorInput,
    VectorParamsBuilder, VectorsConfigBuilder, point_id, value,
};
use qdrant_client::{Payload, Qdrant};

use bridge::Bridge;

const DENSE: &str = "dense";
const SPARSE: &str = "bm25";
/// In the payload of a collection's first point: what the collection is an index of.
const DIGEST: &str = "bench_index";
/// Beside it: how many chunks there will be when it is whole.
const TOTAL: &str = "bench_chunks";
/// Points per request.
const BATCH: usize = 128;

/// Builds and opens collections on a Qdrant server.
///
/// Chunks are upserted in order under their position as id, so a build that was interrupted goes
/// on where it was and makes no duplicates. A collection that holds something else is refused,
/// never overwritten.
pub struct QdrantIndexer {
    url: String,
    api_key: Option<String>,
    collection: Option<String>,
    analysis: Arc<dyn Analysis>,
}

impl QdrantIndexer {
    /// `url` is the server's gRPC address, for example `http://localhost:6334`. Without a
    /// `collection`, each corpus gets one of its own, named after its digest.
    pub fn new(
        url: &str,
        api_key: Option<String>,
        collection: Option<String>,
        analysis: Arc<dyn Analysis>,
    ) -> Self {
        Self { url: url.to_owned(), api_key, collection, analysis }
    }

    fn connect(&self) -> Result<Bridge, BackendError> {
        let client = Qdrant::from_url(&self.url)
            .api_key(self.api_key.clone())
            .timeout(Duration::from_mins(1))
            .connect_timeout(Duration::from_secs(5))
            .skip_compatibility_check()
            .build()
            .map_err(|error| bridge::explain(&self.url, &error))?;
        Bridge::new(client, &self.url)
    }
}

impl Indexer for QdrantIndexer {
    fn index(
        &self,
        job: &IndexJob,
        on_progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Arc<dyn Retriever>, BackendError> {
        let started = Instant::now();
        let retrieval = &job.settings.retriever;
        let embedder = job.embedder.clone().filter(|_| retrieval.is_dense());
        if retrieval.is_dense() && embedder.is_none() {
            return Err(fatal("this retriever needs an embedder, or choose `bm25`".into()));
        }
        let parameters = bm25_parameters(retrieval);
        let digest = digest::of_json(&(index_digest(job, self.analysis.id()), parameters));
        let name = match &self.collection {
            Some(name) => name.clone(),
            None => format!("bench-{}", digest::short(&digest)),
        };
        let collection = Collection { bridge: self.connect()?, name };
        let dimension = embedder.as_ref().map_or(0, |embedder| embedder.dimension() as u64);
        let (stored, total) = collection.prepare(&digest, dimension)?;
        let mut n_chunks = total;
        if stored == 0 || stored < total {
            let chunks =
                self.analysis.chunks(&job.documents, &job.settings, job.embedder.as_deref())?;
            n_chunks = chunks.len() as u64;
            let sparse = sparse_vectors(self.analysis.as_ref(), &chunks, parameters);
            // A batch that was under way may be there in part, so its points are sent again.
            let first = (stored as usize).saturating_sub(BATCH);
            let dense = match &embedder {
                Some(embedder) => embed_chunks(embedder.as_ref(), &chunks[first..], on_progress)?,
                None => vec![Vec::new(); chunks.len() - first],
            };
            let mut points = chunks[first..]
                .iter()
                .zip(dense)
                .zip(&sparse[first..])
                .zip(first..)
                .map(|(((chunk, dense), sparse), at)| {
                    let whole = (at == 0).then_some((digest.as_str(), n_chunks));
                    point(at as u64, chunk, dense, sparse, whole)
                })
                .peekable();
            if first == 0 {
                // It says whose collection this is.
                collection.upsert(points.by_ref().take(1).collect())?;
            }
            while points.peek().is_some() {
                collection.upsert(points.by_ref().take(BATCH).collect())?;
            }
        }
        on_progress(n_chunks, n_chunks);
        let info = IndexInfo {
            digest,
            documents: job.documents.len() as u64,
            chunks: n_chunks,
            dimension,
            seconds: if stored > 0 && stored == total {
                0.0
            } else {
                started.elapsed().as_secs_f64()
            },
        };
        let (analysis, retrieval) = (Arc::clone(&self.analysis), retrieval.clone());
        Ok(Arc::new(QdrantRetriever { collection, analysis, embedder, retrieval, info }))
    }
}

struct Collection {
    bridge: Bridge,
    name: String,
}

impl Collection {
    /// Makes the collection ready for an index: how many chunks of it are stored, and how many
    /// there are in all (0 when nothing is stored).
    fn prepare(&self, digest: &str, dimension: u64) -> Result<(u64, u64), BackendError> {
        let name = self.name.clone();
        if self.bridge.ask(move |client| {
            let name = name.clone();
            async move { client.collection_exists(name).await }
        })? {
            let stored = self.count()?;
            let first = self.first()?;
            match first.as_ref().and_then(|payload| text(payload, DIGEST)) {
                Some(found) if found == digest => {
                    let total = first.as_ref().and_then(|payload| integer(payload, TOTAL));
                    return Ok((stored, total.unwrap_or(0)));
                }
                None if stored > 0 => {
                    return Err(fatal(format!(
                        "collection `{}` holds something that bench did not write; name another \
                         collection",
                        self.name
                    )));
                }
                // Empty, or ours of another corpus.
                Some(_) | None => self.delete()?,
            }
        }
        self.create(dimension)?;
        Ok((0, 0))
    }

    fn create(&self, dimension: u64) -> Result<(), BackendError> {
        let name = self.name.clone();
        self.bridge.ask(move |client| {
            let mut sparse = SparseVectorsConfigBuilder::default();
            let idf = SparseVectorParamsBuilder::default().modifier(Modifier::Idf);
            sparse.add_named_vector_params(SPARSE, idf);
            let mut request =
                CreateCollectionBuilder::new(name.clone()).sparse_vectors_config(sparse);
            if dimension > 0 {
                let mut dense = VectorsConfigBuilder::default();
                let cosine = VectorParamsBuilder::new(dimension, Distance::Cosine);
                dense.add_named_vector_params(DENSE, cosine);
                request = request.vectors_config(dense);
            }
            async move {
                match client.create_collection(request).await {
                    // Made by an attempt whose answer was lost.
                    Err(error) if bridge::already_exists(&error) => Ok(()),
                    answer => answer.map(|_| ()),
                }
            }
        })
    }

    fn delete(&self) -> Result<(), BackendError> {
        let name = self.name.clone();
        self.bridge.ask(move |client| {
            let name = name.clone();
            async move { client.delete_collection(name).await }
        })?;
        Ok(())
    }

    fn count(&self) -> Result<u64, BackendError> {
        let request = CountPointsBuilder::new(self.name.clone()).exact(true);
        let found = self.bridge.ask(move |client| {
            let request = request.clone();
            async move { client.count(request).await }
        })?;
        Ok(found.result.map_or(0, |result| result.count))
    }

    /// The payload of the first point.
    fn first(&self) -> Result<Option<Fields>, BackendError> {
        let ids: Vec<PointId> = vec![0.into()];
        let request = GetPointsBuilder::new(self.name.clone(), ids).with_payload(true);
        let found = self.bridge.ask(move |client| {
            let request = request.clone();
            async move { client.get_points(request).await }
        })?;
        Ok(found.result.into_iter().next().map(|point| point.payload))
    }

    /// Stores points and waits until the server has applied them.
    fn upsert(&self, points: Vec<PointStruct>) -> Result<(), BackendError> {
        let request = UpsertPointsBuilder::new(self.name.clone(), points).wait(true);
        self.bridge.ask(move |client| {
            let request = request.clone();
            async move { client.upsert_points(request).await }
        })?;
        Ok(())
    }

    /// Answers several queries in one round trip.
    fn query(&self, queries: Vec<QueryPoints>) -> Result<Vec<Vec<ScoredPoint>>, BackendError> {
        let request = QueryBatchPointsBuilder::new(self.name.clone(), queries);
        let found = self.bridge.ask(move |client| {
            let request = request.clone();
            async move { client.query_batch(request).await }
        })?;
        Ok(found.result.into_iter().map(|batch| batch.result).collect())
    }
}

struct QdrantRetriever {
    collection: Collection,
    analysis: Arc<dyn Analysis>,
    embedder: Option<Arc<dyn Embedder>>,
    retrieval: Retrieval,
    info: IndexInfo,
}

impl Retriever for QdrantRetriever {
    fn retrieve(&self, query: &str, top_k: usize) -> Result<Vec<Passage>, BackendError> {
        if query.trim().is_empty() {
            return Err(BackendError::rejected(BACKEND, "the question is empty"));
        }
        let ask = |vector: VectorInput, using: &str| {
            QueryPointsBuilder::new(self.collection.name.clone())
                .query(Query::new_nearest(vector))
                .using(using)
                .params(SearchParamsBuilder::default().exact(true))
                .limit(candidates(top_k) as u64)
                .with_payload(true)
                .build()
        };
        let mut queries = Vec::new();
        if let Some(embedder) = &self.embedder {
            queries.push(ask(embed_query(embedder.as_ref(), query)?.into(), DENSE));
        }
        let terms = match self.retrieval {
            Retrieval::Dense {} => BTreeMap::new(),
            Retrieval::Bm25 { .. } | Retrieval::Hybrid { .. } | Retrieval::Rrf { .. } => {
                counts(self.analysis.as_ref(), query)
            }
        };
        if !terms.is_empty() {
            let (indices, values): (Vec<u32>, Vec<f32>) = terms.into_iter().unzip();
            queries.push(ask(VectorInput::new_sparse(indices, values), SPARSE));
        }
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        let mut points = self.collection.query(queries)?;
        let dense = if self.embedder.is_some() { points.remove(0) } else { Vec::new() };
        let lexical = points.pop().unwrap_or_default();
        let found = fuse(&self.retrieval, &ranking(&dense), &ranking(&lexical));
        let payloads: BTreeMap<u32, Fields> = dense
            .into_iter()
            .chain(lexical)
            .filter_map(|point| Some((position(&point)?, point.payload)))
            .collect();
        let passage = |(chunk, score): (u32, f64)| Some(passage(payloads.get(&chunk)?, score));
        Ok(found.into_iter().take(top_k).filter_map(passage).collect())
    }

    fn info(&self) -> IndexInfo {
        self.info.clone()
    }
}

/// A point's payload.
type Fields = std::collections::HashMap<String, Value>;

fn point(
    id: u64,
    chunk: &Chunk,
    dense: Vec<f32>,
    sparse: &BTreeMap<u32, f32>,
    whole: Option<(&str, u64)>,
) -> PointStruct {
    let (indices, values): (Vec<u32>, Vec<f32>) = sparse.iter().unzip();
    let mut vectors =
        NamedVectors::default().add_vector(SPARSE, Vector::new_sparse(indices, values));
    if !dense.is_empty() {
        vectors = vectors.add_vector(DENSE, dense);
    }
    let mut payload = Payload::new();
    payload.insert("id", chunk.id.as_str());
    payload.insert("document", chunk.document.as_str());
    payload.insert("title", chunk.title.as_str());
    payload.insert("text", chunk.text.as_str());
    if let Some((digest, total)) = whole {
        payload.insert(DIGEST, digest);
        payload.insert(TOTAL, total as i64);
    }
    PointStruct::new(id, vectors, payload)
}

fn passage(payload: &Fields, score: f64) -> Passage {
    let field = |name| text(payload, name).unwrap_or_default().to_owned();
    Passage {
        id: field("id"),
        document: field("document"),
        title: field("title"),
        text: field("text"),
        score,
    }
}

fn text<'a>(payload: &'a Fields, name: &str) -> Option<&'a str> {
    match payload.get(name)?.kind.as_ref()? {
        value::Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

fn integer(payload: &Fields, name: &str) -> Option<u64> {
    match payload.get(name)?.kind.as_ref()? {
        value::Kind::IntegerValue(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// The position of a chunk is its point's id.
fn position(point: &ScoredPoint) -> Option<u32> {
    match point.id.as_ref()?.point_id_options.as_ref()? {
        point_id::PointIdOptions::Num(id) => u32::try_from(*id).ok(),
        point_id::PointIdOptions::Uuid(_) => None,
    }
}

/// Positions and scores, best first; the server leaves the order of ties open.
fn ranking(points: &[ScoredPoint]) -> Vec<(u32, f64)> {
    let scored = points.iter().filter_map(|point| Some((position(point)?, f64::from(point.score))));
    let mut ranking: Vec<(u32, f64)> = scored.collect();
    ranking.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranking
}

/// BM25 without its inverse document frequency, which the server knows and multiplies in.
fn sparse_vectors(
    analysis: &dyn Analysis,
    chunks: &[Chunk],
    parameters: (f64, f64),
) -> Vec<BTreeMap<u32, f32>> {
    let counts: Vec<_> = chunks.iter().map(|c| counts(analysis, &c.contextual())).collect();
    let length = |counts: &BTreeMap<u32, f32>| counts.values().copied().map(f64::from).sum::<f64>();
    let mean = counts.iter().map(length).sum::<f64>() / chunks.len().max(1) as f64;
    let weigh = |counts: BTreeMap<u32, f32>| {
        let length = length(&counts);
        let weight = |count| bm25_weight(parameters, f64::from(count), length, mean) as f32;
        counts.into_iter().map(|(term, count)| (term, weight(count))).collect()
    };
    counts.into_iter().map(weigh).collect()
}

/// How often each term occurs. A term's dimension is 32 bits of its SHA-256: among 50,000 terms,
/// one pair in three corpora shares a dimension.
fn counts(analysis: &dyn Analysis, text: &str) -> BTreeMap<u32, f32> {
    let mut counts = BTreeMap::new();
    for term in analysis.terms(text) {
        let digest = digest::of_bytes(term.as_bytes());
        let dimension = u32::from_str_radix(&digest[..8], 16).unwrap_or_default();
        *counts.entry(dimension).or_default() += 1.0;
    }
    counts
}

const BACKEND: &str = "qdrant";

fn fatal(message: String) -> BackendError {
    BackendError::fatal(BACKEND, message)
}
