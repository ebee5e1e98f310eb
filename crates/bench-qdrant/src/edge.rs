//! An index that the Qdrant engine keeps inside this program, in a folder: a shard with a dense
//! vector, searched through a graph (HNSW), and a sparse BM25 vector a chunk.
//!
//! The graph is approximate: it may miss some of the nearest chunks, and its scores are exact.
//! Collections too small for a graph to pay are compared exactly by the engine itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bench_core::backend::{BackendError, Embedder, IndexInfo, IndexJob, Indexer, Retriever};
use bench_core::dataset::Document;
use bench_core::digest;
use bench_core::retrieval::{
    Analysis, Chunk, Pipeline, Question, Searcher, bm25_parameters, embed_chunks, fuse,
    index_digest,
};
use bench_core::spec::{Filter, Retrieval, Terms};
use qdrant_edge::external::serde_json::{self, Value, json};
use qdrant_edge::{
    Distance, EdgeConfig, EdgeOptimizersConfig, EdgeShard, EdgeSparseVectorParams,
    EdgeVectorParams, HnswIndexConfig, Modifier, NamedQuery, OperationError, PointId,
    PointInsertOperations, PointOperations, PointStruct, QueryEnum, QueryRequest, Record,
    ScoringQuery, SearchParams, SparseVector, UpdateOperation, Vector, VectorInternal,
    VectorStructInternal, Vectors, WithPayloadInterface, WithVector,
};
use serde::{Deserialize, Serialize};

use crate::{BACKEND, BATCH, DENSE, SPARSE, counts, fatal, filter, sparse_vectors};

/// The shard's folder, and where the next one grows until it is whole.
const SHARD: &str = "edge";
const NEW: &str = "edge.new";
/// In a whole shard: what it is an index of.
const WHOLE: &str = "bench.json";
/// Changes when the same settings make another shard.
const LAYOUT: u32 = 1;
/// Kilobytes of one segment, at most: more than any disk, so that there is one graph.
const ONE_SEGMENT: usize = 1 << 40;

/// Builds and opens shards of the embedded Qdrant engine.
pub struct EdgeIndexer {
    graph: Graph,
    analysis: Arc<dyn Analysis>,
}

/// How the graph is built and searched (Malkov and Yashunin 2018).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// Edges of a node.
    pub m: usize,
    /// Neighbours looked at while building.
    pub ef_construct: usize,
    /// Neighbours looked at while searching.
    pub ef: usize,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct Whole {
    digest: String,
    chunks: u64,
}

impl EdgeIndexer {
    /// With the text analysis that all indexes share.
    pub fn new(graph: Graph, analysis: Arc<dyn Analysis>) -> Self {
        Self { graph, analysis }
    }

    /// Builds a shard beside the old one and puts it in its place when it is whole. Gives its
    /// chunks, and how many documents the embedder's window shortened.
    fn build(
        &self,
        job: &IndexJob,
        digest: &str,
        on_progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(u64, u64), BackendError> {
        let documents: Vec<&Document> = job.documents.iter().collect();
        let cut = self.analysis.chunks(&documents, &job.settings, job.embedder.as_deref())?;
        let chunks: Vec<Chunk> = cut.chunks.into_iter().flatten().collect();
        if chunks.is_empty() {
            return Err(fatal("the corpus holds no text".into()));
        }
        let settings = &job.settings;
        let embedder = job.embedder.as_deref().filter(|_| settings.retriever.is_dense());
        let parameters = bm25_parameters(&settings.retriever);
        let sparse = sparse_vectors(self.analysis.as_ref(), &chunks, parameters, settings.terms);
        let dense = match embedder {
            Some(embedder) => embed_chunks(embedder, &chunks, on_progress)?,
            None => vec![Vec::new(); chunks.len()],
        };
        let new = job.folder.join(NEW);
        if new.exists() {
            std::fs::remove_dir_all(&new).map_err(io)?;
        }
        std::fs::create_dir_all(&new).map_err(io)?;
        let dimension = embedder.map(Embedder::dimension);
        let shard = EdgeShard::new(&new, self.config(dimension));
        let shard = shard.map_err(|error| explain(&error))?;
        let points: Vec<PointStruct> = (0_u64..)
            .zip(&chunks)
            .zip(dense)
            .zip(&sparse)
            .map(|(((at, chunk), dense), sparse)| point(at, chunk, dense, sparse))
            .collect::<Result<_, _>>()?;
        for batch in points.chunks(BATCH) {
            let points = batch.iter().cloned().map(Into::into).collect();
            let insert = PointInsertOperations::PointsList(points);
            let upsert = UpdateOperation::PointOperation(PointOperations::UpsertPoints(insert));
            shard.update(upsert).map_err(|error| explain(&error))?;
        }
        shard.optimize().map_err(|error| explain(&error))?;
        shard.flush();
        drop(shard);
        let whole = Whole { digest: digest.to_owned(), chunks: chunks.len() as u64 };
        let text = serde_json::to_vec(&whole).map_err(|error| fatal(error.to_string()))?;
        std::fs::write(new.join(WHOLE), text).map_err(io)?;
        let old = job.folder.join(SHARD);
        if old.exists() {
            std::fs::remove_dir_all(&old).map_err(io)?;
        }
        std::fs::rename(&new, &old).map_err(io)?;
        Ok((whole.chunks, cut.cut_to_window))
    }

    fn config(&self, dimension: Option<usize>) -> EdgeConfig {
        let idf = EdgeSparseVectorParams {
            full_scan_threshold: None,
            on_disk: None,
            modifier: Some(Modifier::Idf),
            datatype: None,
        };
        let mut config = EdgeConfig::builder()
            .sparse_vector(SPARSE, idf)
            .hnsw_config(HnswIndexConfig {
                m: self.graph.m,
                ef_construct: self.graph.ef_construct,
                ..HnswIndexConfig::default()
            })
            .optimizers(EdgeOptimizersConfig {
                default_segment_number: Some(1),
                max_segment_size: Some(ONE_SEGMENT),
                ..EdgeOptimizersConfig::default()
            });
        if let Some(dimension) = dimension {
            let dense = EdgeVectorParams::builder(dimension, Distance::Cosine).build();
            config = config.vector(DENSE, dense);
        }
        config.build()
    }
}

impl Indexer for EdgeIndexer {
    fn index(
        &self,
        job: &IndexJob,
        on_progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Arc<dyn Retriever>, BackendError> {
        let started = Instant::now();
        let settings = &job.settings;
        let embedder = job.embedder.as_ref().filter(|_| settings.retriever.is_dense());
        if settings.retriever.is_dense() && embedder.is_none() {
            return Err(fatal("this retriever needs an embedder, or choose `bm25`".into()));
        }
        let of_index = index_digest(job, self.analysis.id());
        let parameters = bm25_parameters(&settings.retriever);
        let Graph { m, ef_construct, .. } = self.graph;
        let digest =
            digest::of_json(&(of_index, parameters, settings.terms, m, ef_construct, LAYOUT));
        let folder = job.folder.join(SHARD);
        let found = stored(&folder).filter(|whole| whole.digest == digest);
        let opened = found.is_some();
        let (chunks, cut_to_window) = match found {
            Some(whole) => (whole.chunks, 0),
            None => self.build(job, &digest, on_progress)?,
        };
        on_progress(chunks, chunks);
        let shard = EdgeShard::load(&folder, None).map_err(|error| {
            let message = format!(
                "`{}` cannot be opened: {error}; remove that folder and build it again",
                folder.display()
            );
            fatal(message)
        })?;
        let info = IndexInfo {
            digest,
            documents: job.documents.len() as u64,
            chunks,
            dimension: embedder.map_or(0, |embedder| embedder.dimension() as u64),
            seconds: if opened { 0.0 } else { started.elapsed().as_secs_f64() },
            documents_new: if opened { 0 } else { job.documents.len() as u64 },
            cut_to_window,
        };
        let searcher = EdgeSearcher {
            shard,
            ef: self.graph.ef,
            analysis: Arc::clone(&self.analysis),
            retrieval: settings.retriever.clone(),
            terms: settings.terms,
            filter: conditions(&settings.filter)?,
        };
        Ok(Arc::new(Pipeline::new(searcher, job, info)?))
    }
}

/// What a shard says it is an index of; `None` where there is no whole shard.
fn stored(folder: &Path) -> Option<Whole> {
    serde_json::from_slice(&std::fs::read(folder.join(WHOLE)).ok()?).ok()
}

struct EdgeSearcher {
    shard: EdgeShard,
    ef: usize,
    analysis: Arc<dyn Analysis>,
    retrieval: Retrieval,
    terms: Terms,
    filter: Option<qdrant_edge::Filter>,
}

impl EdgeSearcher {
    /// Positions and scores, best first; the engine leaves the order of ties open.
    fn nearest(
        &self,
        vector: VectorInternal,
        using: &str,
        limit: usize,
    ) -> Result<Vec<(u32, f64)>, BackendError> {
        let request = QueryRequest {
            prefetches: Vec::new(),
            query: Some(ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery::new(vector, using)))),
            filter: self.filter.clone(),
            score_threshold: None,
            limit,
            offset: 0,
            params: Some(SearchParams {
                hnsw_ef: Some(self.ef.max(limit)),
                ..SearchParams::default()
            }),
            with_vector: WithVector::Bool(false),
            with_payload: WithPayloadInterface::Bool(false),
        };
        let found = self.shard.query(request).map_err(|error| explain(&error))?;
        let mut ranking: Vec<(u32, f64)> = found
            .iter()
            .filter_map(|point| Some((position(&point.id)?, f64::from(point.score))))
            .collect();
        ranking.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        Ok(ranking)
    }

    /// What each position's point holds, in the order of the positions.
    fn read<T>(
        &self,
        positions: &[u32],
        vector: WithVector,
        read: impl Fn(Record) -> Option<T>,
    ) -> Result<Vec<T>, BackendError> {
        let ids: Vec<PointId> = positions.iter().map(|at| PointId::NumId((*at).into())).collect();
        let payload = matches!(vector, WithVector::Bool(false));
        let found = self
            .shard
            .retrieve(&ids, Some(WithPayloadInterface::Bool(payload)), Some(vector))
            .map_err(|error| explain(&error))?;
        let mut known: BTreeMap<u32, T> = found
            .into_iter()
            .filter_map(|record| Some((position(&record.id)?, read(record)?)))
            .collect();
        let missing =
            |at: &u32| fatal(format!("point {at} vanished from the index; build it again"));
        positions.iter().map(|at| known.remove(at).ok_or_else(|| missing(at))).collect()
    }
}

impl Searcher for EdgeSearcher {
    fn search(
        &self,
        question: &Question<'_>,
        limit: usize,
    ) -> Result<Vec<(u32, f64)>, BackendError> {
        let dense = match &question.vector {
            Some(vector) => self.nearest(VectorInternal::Dense(vector.clone()), DENSE, limit)?,
            None => Vec::new(),
        };
        let terms = match self.retrieval {
            Retrieval::Dense {} => BTreeMap::new(),
            Retrieval::Bm25 { .. } | Retrieval::Hybrid { .. } | Retrieval::Rrf { .. } => {
                counts(self.analysis.as_ref(), question.text, self.terms)
            }
        };
        let lexical = if terms.is_empty() {
            Vec::new()
        } else {
            let (indices, values) = terms.into_iter().unzip();
            let vector = SparseVector::new(indices, values)
                .map_err(|error| fatal(format!("a question's terms: {error}")))?;
            self.nearest(VectorInternal::Sparse(vector), SPARSE, limit)?
        };
        Ok(fuse(&self.retrieval, &dense, &lexical))
    }

    fn chunks(&self, positions: &[u32]) -> Result<Vec<Chunk>, BackendError> {
        self.read(positions, WithVector::Bool(false), |record| {
            serde_json::from_value(Value::Object(record.payload?.0)).ok()
        })
    }

    fn vectors(&self, positions: &[u32]) -> Result<Vec<Vec<f32>>, BackendError> {
        let dense = WithVector::Selector(vec![DENSE.into()]);
        self.read(positions, dense, |record| {
            let VectorStructInternal::Named(mut named) = record.vector? else { return None };
            match named.remove(DENSE)? {
                VectorInternal::Dense(vector) => Some(vector),
                VectorInternal::Sparse(_) | VectorInternal::MultiDense(_) => None,
            }
        })
    }
}

fn point(
    at: u64,
    chunk: &Chunk,
    dense: Vec<f32>,
    sparse: &BTreeMap<u32, f32>,
) -> Result<PointStruct, BackendError> {
    let (indices, values): (Vec<u32>, Vec<f32>) = sparse.iter().unzip();
    let sparse = Vector::new_sparse(indices, values).map_err(|error| explain(&error))?;
    let mut vectors = vec![(SPARSE, sparse)];
    if !dense.is_empty() {
        vectors.push((DENSE, Vector::new_dense(dense)));
    }
    let payload = serde_json::to_value(chunk).map_err(|error| fatal(error.to_string()))?;
    Ok(PointStruct::new(PointId::NumId(at), Vectors::new_named(vectors), payload))
}

fn position(id: &PointId) -> Option<u32> {
    match id {
        PointId::NumId(id) => u32::try_from(*id).ok(),
        PointId::Uuid(_) => None,
    }
}

/// All filters together, in the engine's own JSON; `None` where there are none.
fn conditions(filters: &[Filter]) -> Result<Option<qdrant_edge::Filter>, BackendError> {
    if filters.is_empty() {
        return Ok(None);
    }
    let (mut must, mut must_not) = (Vec::new(), Vec::new());
    for filter in filters {
        let key = filter::key(filter);
        let equals = |value: &Value| json!({ "key": key, "match": { "value": value } });
        must.extend(filter.is.iter().map(equals));
        if !filter.any.is_empty() {
            let any: Vec<Value> = filter.any.iter().map(equals).collect();
            must.push(json!({ "should": any }));
        }
        must_not.extend(filter.not.iter().map(equals));
        let Filter { gt, gte, lt, lte, .. } = *filter;
        if [gt, gte, lt, lte].iter().any(Option::is_some) {
            let range = json!({ "gt": gt, "gte": gte, "lt": lt, "lte": lte });
            must.push(json!({ "key": key, "range": range }));
        }
    }
    let all = json!({ "must": must, "must_not": must_not });
    let read = serde_json::from_value(all);
    read.map(Some).map_err(|error| fatal(format!("a filter the engine does not know: {error}")))
}

fn explain(error: &OperationError) -> BackendError {
    fatal(format!("the embedded engine: {error}"))
}

fn io(error: std::io::Error) -> BackendError {
    BackendError::fatal(BACKEND, error)
}
