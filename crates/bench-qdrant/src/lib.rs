//! An index on a Qdrant server: a collection with a dense vector and a sparse BM25 vector a chunk.
//! With the feature `edge` also one that the engine keeps inside this program.
//!
//! Text is cut and read by the [`Analysis`] that is given, and two rankings are fused here by the
//! same function as everywhere, so that an arm finds the same passages on a server as on disk.
//! The server compares exactly, without its approximate index: a comparison of arms holds no
//! approximation noise.

mod bridge;
#[cfg(feature = "edge")]
mod edge;
mod filter;

#[cfg(feature = "edge")]
pub use edge::{EdgeIndexer, Graph};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench_core::backend::{BackendError, IndexInfo, IndexJob, Indexer, Retriever};
use bench_core::dataset::Document;
use bench_core::digest;
use bench_core::retrieval::{
    Analysis, Chunk, Pipeline, Question, Searcher, bm25_parameters, bm25_weight, embed_chunks,
    fuse, index_digest,
};
use bench_core::spec::{Filter, Retrieval, Terms};
use qdrant_client::qdrant::vectors_output::VectorsOptions;
use qdrant_client::qdrant::{
    CountPointsBuilder, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder, Distance,
    GetPointsBuilder, Modifier, NamedVectors, PointId, PointStruct, Query, QueryBatchPointsBuilder,
    QueryPoints, QueryPointsBuilder, RetrievedPoint, ScoredPoint, SearchParamsBuilder,
    SparseVectorParamsBuilder, SparseVectorsConfigBuilder, UpsertPointsBuilder, Value, Vector,
    VectorInput, VectorParamsBuilder, VectorsConfigBuilder, VectorsSelector, point_id, value,
    vector_output,
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
    server: QdrantServer,
    analysis: Arc<dyn Analysis>,
}

/// Where a server is, and how new collections are made on it.
#[derive(Clone, Debug)]
pub struct QdrantServer {
    /// Its gRPC address, for example `http://localhost:6334`; `https://` speaks TLS.
    pub url: String,
    /// The key, where one is needed.
    pub api_key: Option<String>,
    /// The collection; without one, each corpus gets one of its own, named after its digest.
    pub collection: Option<String>,
    /// Shards of a new collection.
    pub shards: Option<u32>,
    /// Copies of each shard.
    pub replicas: Option<u32>,
    /// Copies that must have a write before it counts.
    pub write_consistency: Option<u32>,
    /// How long a request may take.
    pub timeout: Duration,
}

impl QdrantServer {
    /// A server at this address, everything else as it comes.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            api_key: None,
            collection: None,
            shards: None,
            replicas: None,
            write_consistency: None,
            timeout: Duration::from_mins(1),
        }
    }
}

impl QdrantIndexer {
    /// Over a server, with the text analysis that all indexes share.
    pub fn new(server: QdrantServer, analysis: Arc<dyn Analysis>) -> Self {
        Self { server, analysis }
    }

    fn connect(&self) -> Result<Bridge, BackendError> {
        let QdrantServer { url, api_key, timeout, .. } = &self.server;
        let client = Qdrant::from_url(url)
            .api_key(api_key.clone())
            .timeout(*timeout)
            .connect_timeout(Duration::from_secs(5))
            .skip_compatibility_check()
            .build()
            .map_err(|error| bridge::explain(url, &error))?;
        Bridge::new(client, url)
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
        let terms = job.settings.terms;
        let digest = digest::of_json(&(index_digest(job, self.analysis.id()), parameters, terms));
        let name = match &self.server.collection {
            Some(name) => name.clone(),
            None => format!("bench-{}", digest::short(&digest)),
        };
        let collection = Collection { bridge: self.connect()?, name };
        let dimension = embedder.as_ref().map_or(0, |embedder| embedder.dimension() as u64);
        let (stored, total) = collection.prepare(&digest, dimension, &self.server)?;
        let (mut n_chunks, mut cut_to_window) = (total, 0);
        if stored == 0 || stored < total {
            let documents: Vec<&Document> = job.documents.iter().collect();
            let cut = self.analysis.chunks(&documents, &job.settings, job.embedder.as_deref())?;
            let chunks: Vec<Chunk> = cut.chunks.into_iter().flatten().collect();
            if chunks.is_empty() {
                return Err(fatal("the corpus holds no text".into()));
            }
            (n_chunks, cut_to_window) = (chunks.len() as u64, cut.cut_to_window);
            let sparse = sparse_vectors(self.analysis.as_ref(), &chunks, parameters, terms);
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
        for filter in &job.settings.filter {
            collection.index_field(filter)?;
        }
        let opened = stored > 0 && stored == total;
        let info = IndexInfo {
            digest,
            documents: job.documents.len() as u64,
            chunks: n_chunks,
            dimension,
            seconds: if opened { 0.0 } else { started.elapsed().as_secs_f64() },
            documents_new: if opened { 0 } else { job.documents.len() as u64 },
            cut_to_window,
        };
        let searcher = QdrantSearcher {
            collection,
            analysis: Arc::clone(&self.analysis),
            retrieval: retrieval.clone(),
            terms,
            filters: job.settings.filter.clone(),
        };
        Ok(Arc::new(Pipeline::new(searcher, job, info)?))
    }
}

struct Collection {
    bridge: Bridge,
    name: String,
}

impl Collection {
    /// Makes the collection ready for an index: how many chunks of it are stored, and how many
    /// there are in all (0 when nothing is stored).
    fn prepare(
        &self,
        digest: &str,
        dimension: u64,
        server: &QdrantServer,
    ) -> Result<(u64, u64), BackendError> {
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
        self.create(dimension, server)?;
        Ok((0, 0))
    }

    fn create(&self, dimension: u64, server: &QdrantServer) -> Result<(), BackendError> {
        let name = self.name.clone();
        let QdrantServer { shards, replicas, write_consistency, .. } = *server;
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
            if let Some(shards) = shards {
                request = request.shard_number(shards);
            }
            if let Some(replicas) = replicas {
                request = request.replication_factor(replicas);
            }
            if let Some(copies) = write_consistency {
                request = request.write_consistency_factor(copies);
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
        Ok(self.points(&[0], false)?.into_iter().next().map(|point| point.payload))
    }

    /// Points by id, in any order, with their payload or with their dense vectors.
    fn points(&self, ids: &[u32], dense: bool) -> Result<Vec<RetrievedPoint>, BackendError> {
        let ids: Vec<PointId> = ids.iter().map(|id| u64::from(*id).into()).collect();
        let mut request = GetPointsBuilder::new(self.name.clone(), ids).with_payload(!dense);
        if dense {
            request = request.with_vectors(VectorsSelector { names: vec![DENSE.to_owned()] });
        }
        let found = self.bridge.ask(move |client| {
            let request = request.clone();
            async move { client.get_points(request).await }
        })?;
        Ok(found.result)
    }

    /// Makes a filter fast, and possible on a server in strict mode.
    fn index_field(&self, filter: &Filter) -> Result<(), BackendError> {
        let Some(kind) = filter::field_type(filter) else { return Ok(()) };
        let key = filter::key(filter);
        let request =
            CreateFieldIndexCollectionBuilder::new(self.name.clone(), key, kind).wait(true);
        self.bridge.ask(move |client| {
            let request = request.clone();
            async move { client.create_field_index(request).await }
        })?;
        Ok(())
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

struct QdrantSearcher {
    collection: Collection,
    analysis: Arc<dyn Analysis>,
    retrieval: Retrieval,
    terms: Terms,
    filters: Vec<Filter>,
}

impl Searcher for QdrantSearcher {
    fn search(
        &self,
        question: &Question<'_>,
        limit: usize,
    ) -> Result<Vec<(u32, f64)>, BackendError> {
        let ask = |vector: VectorInput, using: &str| {
            let mut request = QueryPointsBuilder::new(self.collection.name.clone())
                .query(Query::new_nearest(vector))
                .using(using)
                .params(SearchParamsBuilder::default().exact(true))
                .limit(limit as u64)
                .with_payload(false);
            if !self.filters.is_empty() {
                request = request.filter(filter::all(&self.filters));
            }
            request.build()
        };
        let mut queries = Vec::new();
        if let Some(vector) = &question.vector {
            queries.push(ask(vector.clone().into(), DENSE));
        }
        let terms = match self.retrieval {
            Retrieval::Dense {} => BTreeMap::new(),
            Retrieval::Bm25 { .. } | Retrieval::Hybrid { .. } | Retrieval::Rrf { .. } => {
                counts(self.analysis.as_ref(), question.text, self.terms)
            }
        };
        if !terms.is_empty() {
            let (indices, values): (Vec<u32>, Vec<f32>) = terms.into_iter().unzip();
            queries.push(ask(VectorInput::new_sparse(indices, values), SPARSE));
        }
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = self.collection.query(queries)?.into_iter();
        let mut next = || found.next().map_or_else(Vec::new, |points| ranking(&points));
        let dense = if question.vector.is_some() { next() } else { Vec::new() };
        Ok(fuse(&self.retrieval, &dense, &next()))
    }

    fn chunks(&self, positions: &[u32]) -> Result<Vec<Chunk>, BackendError> {
        let found = self.collection.points(positions, false)?;
        in_order(positions, found, |point| Some(chunk(&point.payload)))
    }

    fn vectors(&self, positions: &[u32]) -> Result<Vec<Vec<f32>>, BackendError> {
        let found = self.collection.points(positions, true)?;
        in_order(positions, found, |point| {
            let Some(VectorsOptions::Vectors(mut named)) = point.vectors?.vectors_options else {
                return None;
            };
            match named.vectors.remove(DENSE)?.into_vector() {
                vector_output::Vector::Dense(dense) => Some(dense.data),
                vector_output::Vector::Sparse(_) | vector_output::Vector::MultiDense(_) => None,
            }
        })
    }
}

/// What each position's point holds, in the order of the positions.
fn in_order<T: Clone>(
    positions: &[u32],
    found: Vec<RetrievedPoint>,
    read: impl Fn(RetrievedPoint) -> Option<T>,
) -> Result<Vec<T>, BackendError> {
    let known: BTreeMap<u32, T> = found
        .into_iter()
        .filter_map(|point| Some((number(point.id.as_ref()?)?, read(point)?)))
        .collect();
    let missing = |at: &u32| fatal(format!("point {at} vanished from the collection; run again"));
    positions.iter().map(|at| known.get(at).cloned().ok_or_else(|| missing(at))).collect()
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
    payload.insert("n", i64::from(chunk.n));
    payload.insert("of", i64::from(chunk.of));
    payload.insert("start", chunk.start as i64);
    payload.insert(filter::META, serde_json::json!(chunk.meta));
    if let Some((digest, total)) = whole {
        payload.insert(DIGEST, digest);
        payload.insert(TOTAL, total as i64);
    }
    PointStruct::new(id, vectors, payload)
}

/// A chunk as it was stored. Its meta data stays on the server, where filters read it.
fn chunk(payload: &Fields) -> Chunk {
    let field = |name| text(payload, name).unwrap_or_default().to_owned();
    let count = |name| integer(payload, name).unwrap_or_default();
    Chunk {
        id: field("id"),
        document: field("document"),
        title: field("title"),
        text: field("text"),
        n: count("n") as u32,
        of: count("of") as u32,
        start: count("start"),
        meta: BTreeMap::new(),
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
    number(point.id.as_ref()?)
}

fn number(id: &PointId) -> Option<u32> {
    match id.point_id_options.as_ref()? {
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
    how: Terms,
) -> Vec<BTreeMap<u32, f32>> {
    let counts: Vec<_> = chunks.iter().map(|c| counts(analysis, &c.contextual(), how)).collect();
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
fn counts(analysis: &dyn Analysis, text: &str, how: Terms) -> BTreeMap<u32, f32> {
    let mut counts = BTreeMap::new();
    for term in analysis.terms(text, how) {
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
