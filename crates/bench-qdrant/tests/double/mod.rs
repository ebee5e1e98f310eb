//! A server that speaks Qdrant's published protocol on 127.0.0.1 and searches in memory: enough
//! for our client, written from the protocol's description, not a replacement for a real server.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use qdrant_client::qdrant::collections_server::{Collections, CollectionsServer};
use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::points_server::{Points, PointsServer};
use qdrant_client::qdrant::vectors_config::Config;
use qdrant_client::qdrant::{self as q, query, vector, vector_input, vectors};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
pub(crate) struct Double {
    collections: Arc<Mutex<BTreeMap<String, Collection>>>,
    /// Upserts that may still succeed; below 0 they fail until it is raised.
    upserts_left: Arc<AtomicI64>,
    n_upserts: Arc<AtomicU64>,
}

#[derive(Default)]
struct Collection {
    /// Shards, copies, copies that must have a write.
    layout: [Option<u32>; 3],
    /// Fields with an index; a filter on any other is refused, as in strict mode.
    fields: BTreeSet<String>,
    dimensions: BTreeMap<String, u64>,
    with_idf: BTreeMap<String, bool>,
    points: BTreeMap<u64, Point>,
}

#[derive(Default)]
struct Point {
    payload: HashMap<String, q::Value>,
    dense: BTreeMap<String, Vec<f32>>,
    sparse: BTreeMap<String, BTreeMap<u32, f32>>,
}

impl Double {
    /// Starts a server on a free port, for as long as the process lives.
    pub(crate) fn start() -> (Self, String) {
        Self::locked(None)
    }

    /// As [`Double::start`]; with a `key`, whoever does not send it is sent away.
    pub(crate) fn locked(key: Option<&'static str>) -> (Self, String) {
        let check = move |request: Request<()>| {
            let sent = request.metadata().get("api-key").and_then(|sent| sent.to_str().ok());
            if key.is_some() && sent != key {
                return Err(Status::unauthenticated("Must provide an API key"));
            }
            Ok(request)
        };
        let double = Self::default();
        double.allow_upserts(i64::MAX);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let services = double.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let server = Server::builder()
                    .add_service(CollectionsServer::with_interceptor(services.clone(), check))
                    .add_service(PointsServer::with_interceptor(services, check));
                server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
            });
        });
        (double, url)
    }

    /// After this many upserts the server is away.
    pub(crate) fn allow_upserts(&self, n: i64) {
        self.upserts_left.store(n, Ordering::SeqCst);
    }

    /// Upserts that were applied.
    pub(crate) fn n_upserts(&self) -> u64 {
        self.n_upserts.load(Ordering::SeqCst)
    }

    /// The names of all collections.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// How many points a collection holds.
    pub(crate) fn n_points(&self, name: &str) -> usize {
        self.lock()[name].points.len()
    }

    /// Shards, copies, copies that must have a write, as they were asked for.
    pub(crate) fn layout(&self, name: &str) -> [Option<u32>; 3] {
        self.lock()[name].layout
    }

    /// Makes a collection look like one of somebody else.
    pub(crate) fn forget_owner(&self, name: &str) {
        let mut collections = self.lock();
        let points = &mut collections.get_mut(name).unwrap().points;
        points.get_mut(&0).unwrap().payload.clear();
    }

    /// Removes a collection behind the client's back.
    pub(crate) fn drop_collection(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Collection>> {
        self.collections.lock().unwrap()
    }

    fn with<T>(
        &self,
        name: &str,
        work: impl FnOnce(&mut Collection) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let missing = || Status::not_found(format!("Collection `{name}` doesn't exist!"));
        work(self.lock().get_mut(name).ok_or_else(missing)?)
    }
}

impl Collection {
    fn store(&mut self, point: q::PointStruct) -> Result<(), Status> {
        let mut stored = Point { payload: point.payload, ..Point::default() };
        let named = match point.vectors.and_then(|vectors| vectors.vectors_options) {
            Some(vectors::VectorsOptions::Vectors(named)) => BTreeMap::from_iter(named.vectors),
            _ => return Err(Status::invalid_argument("only named vectors")),
        };
        for (name, vector) in named {
            match vector.vector {
                Some(vector::Vector::Dense(dense)) => {
                    self.check(&name, dense.data.len())?;
                    stored.dense.insert(name, unit(dense.data));
                }
                Some(vector::Vector::Sparse(sparse)) => {
                    let pairs = sparse.indices.into_iter().zip(sparse.values).collect();
                    stored.sparse.insert(name, pairs);
                }
                _ => return Err(Status::unimplemented("this kind of vector")),
            }
        }
        self.points.insert(number(point.id.as_ref())?, stored);
        Ok(())
    }

    fn search(&self, request: &q::QueryPoints) -> Result<Vec<q::ScoredPoint>, Status> {
        let name = request.using();
        if let Some(filter) = &request.filter {
            self.check_fields(filter)?;
        }
        let passes = |point: &Point| {
            request.filter.as_ref().is_none_or(|filter| passes(filter, &point.payload))
        };
        let Some(query::Variant::Nearest(nearest)) =
            request.query.as_ref().and_then(|query| query.variant.as_ref())
        else {
            return Err(Status::unimplemented("only nearest"));
        };
        let mut scored: Vec<(u64, f32)> = match nearest.variant.as_ref() {
            Some(vector_input::Variant::Dense(dense)) => {
                self.check(name, dense.data.len())?;
                let query = unit(dense.data.clone());
                let dot = |vector: &Vec<f32>| query.iter().zip(vector).map(|(a, b)| a * b).sum();
                let points = self.points.iter().filter(|(_, point)| passes(point));
                points.filter_map(|(id, point)| Some((*id, dot(point.dense.get(name)?)))).collect()
            }
            Some(vector_input::Variant::Sparse(sparse)) => {
                let pairs = sparse.indices.iter().zip(&sparse.values);
                let terms: Vec<_> = pairs.map(|(i, x)| (i, x * self.rarity(name, *i))).collect();
                let score = |point: &Point| -> Option<f32> {
                    let stored = point.sparse.get(name)?;
                    let found = terms.iter().filter_map(|(i, x)| Some(stored.get(i)? * x));
                    Some(found.sum()).filter(|score| *score > 0.0)
                };
                let points = self.points.iter().filter(|(_, point)| passes(point));
                points.filter_map(|(id, point)| Some((*id, score(point)?))).collect()
            }
            _ => return Err(Status::unimplemented("this kind of query vector")),
        };
        scored.sort_by(|a, b| b.1.total_cmp(&a.1));
        scored.truncate(request.limit() as usize);
        let enabled = q::with_payload_selector::SelectorOptions::Enable(true);
        let selector = request.with_payload.as_ref().and_then(|s| s.selector_options.as_ref());
        let with_payload = selector == Some(&enabled);
        let point = |(id, score): (u64, f32)| q::ScoredPoint {
            id: Some(id.into()),
            payload: if with_payload { self.points[&id].payload.clone() } else { HashMap::new() },
            score,
            ..q::ScoredPoint::default()
        };
        Ok(scored.into_iter().map(point).collect())
    }

    fn check_fields(&self, filter: &q::Filter) -> Result<(), Status> {
        let conditions = filter.must.iter().chain(&filter.should).chain(&filter.must_not);
        for condition in conditions {
            match condition.condition_one_of.as_ref() {
                Some(ConditionOneOf::Field(field)) if !self.fields.contains(&field.key) => {
                    let message = format!("Index required but not found for \"{}\"", field.key);
                    return Err(Status::invalid_argument(message));
                }
                Some(ConditionOneOf::Filter(inner)) => self.check_fields(inner)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Qdrant's `idf` modifier: ln((N - n + 0.5) / (n + 0.5) + 1).
    fn rarity(&self, name: &str, index: u32) -> f32 {
        if self.with_idf.get(name) != Some(&true) {
            return 1.0;
        }
        let holds = |point: &&Point| {
            point.sparse.get(name).is_some_and(|vector| vector.contains_key(&index))
        };
        let n = self.points.values().filter(holds).count() as f32;
        ((self.points.len() as f32 - n + 0.5) / (n + 0.5) + 1.0).ln()
    }

    fn check(&self, name: &str, dimension: usize) -> Result<(), Status> {
        match self.dimensions.get(name) {
            Some(expected) if *expected == dimension as u64 => Ok(()),
            Some(expected) => Err(Status::invalid_argument(format!(
                "Wrong input: Vector dimension error: expected dim: {expected}, got {dimension}"
            ))),
            None => Err(Status::invalid_argument(format!("no vector is named `{name}`"))),
        }
    }
}

/// A filter as the protocol describes it: all of `must`, one of `should`, none of `must_not`.
fn passes(filter: &q::Filter, payload: &HashMap<String, q::Value>) -> bool {
    let holds = |condition: &q::Condition| match condition.condition_one_of.as_ref() {
        Some(ConditionOneOf::Field(field)) => {
            values(payload, &field.key).iter().any(|value| matches(field, value))
        }
        Some(ConditionOneOf::Filter(inner)) => passes(inner, payload),
        other => panic!("not written for this double: {other:?}"),
    };
    filter.must.iter().all(holds)
        && (filter.should.is_empty() || filter.should.iter().any(holds))
        && !filter.must_not.iter().any(holds)
}

/// The values at a path such as `meta.year`; a list is its elements.
fn values(payload: &HashMap<String, q::Value>, path: &str) -> Vec<q::Value> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(a, b)| (a, Some(b)));
    let Some(value) = payload.get(first.trim_matches('"')) else { return Vec::new() };
    match (rest, value.kind.as_ref()) {
        (Some(rest), Some(q::value::Kind::StructValue(inner))) => values(&inner.fields, rest),
        (Some(_), _) => Vec::new(),
        (None, Some(q::value::Kind::ListValue(list))) => list.values.clone(),
        (None, _) => vec![value.clone()],
    }
}

fn matches(field: &q::FieldCondition, value: &q::Value) -> bool {
    use q::value::Kind;
    let wanted = field.r#match.as_ref().and_then(|wanted| wanted.match_value.as_ref());
    let same = match (wanted, value.kind.as_ref()) {
        (None, _) => true,
        (Some(MatchValue::Keyword(a)), Some(Kind::StringValue(b))) => a == b,
        (Some(MatchValue::Integer(a)), Some(Kind::IntegerValue(b))) => a == b,
        (Some(MatchValue::Boolean(a)), Some(Kind::BoolValue(b))) => a == b,
        _ => false,
    };
    let number = match value.kind.as_ref() {
        Some(Kind::IntegerValue(number)) => Some(*number as f64),
        Some(Kind::DoubleValue(number)) => Some(*number),
        _ => None,
    };
    let inside = field.range.as_ref().is_none_or(|range| {
        number.is_some_and(|x| {
            range.gt.is_none_or(|bound| x > bound)
                && range.gte.is_none_or(|bound| x >= bound)
                && range.lt.is_none_or(|bound| x < bound)
                && range.lte.is_none_or(|bound| x <= bound)
        })
    });
    same && inside
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    bench_core::retrieval::normalise(&mut vector);
    vector
}

fn number(id: Option<&q::PointId>) -> Result<u64, Status> {
    match id.and_then(|id| id.point_id_options.as_ref()) {
        Some(q::point_id::PointIdOptions::Num(number)) => Ok(*number),
        _ => Err(Status::unimplemented("only numbers as ids")),
    }
}

/// The dense vectors of a point as a server returns them.
fn dense_output(point: &Point) -> q::VectorsOutput {
    let output = |(name, data): (&String, &Vec<f32>)| {
        let dense = q::DenseVector { data: data.clone() };
        let vector = Some(q::vector_output::Vector::Dense(dense));
        (name.clone(), q::VectorOutput { vector, ..q::VectorOutput::default() })
    };
    let vectors = point.dense.iter().map(output).collect();
    let named = q::NamedVectorsOutput { vectors };
    q::VectorsOutput { vectors_options: Some(q::vectors_output::VectorsOptions::Vectors(named)) }
}

/// Implements a service: the calls that are given, and a refusal of all others.
macro_rules! service {
    ($service:ident { $($given:tt)* } refuses { $($name:ident($request:ident) -> $response:ident;)* }) => {
        #[tonic::async_trait]
        impl $service for Double {
            $($given)*
            $(async fn $name(
                &self,
                _: Request<q::$request>,
            ) -> Result<Response<q::$response>, Status> {
                Err(Status::unimplemented(stringify!($name)))
            })*
        }
    };
}

service! {
    Collections {
        async fn create(
            &self,
            request: Request<q::CreateCollection>,
        ) -> Result<Response<q::CollectionOperationResponse>, Status> {
            let request = request.into_inner();
            let layout = [
                request.shard_number,
                request.replication_factor,
                request.write_consistency_factor,
            ];
            let mut collection = Collection { layout, ..Collection::default() };
            if let Some(Config::ParamsMap(named)) = request.vectors_config.and_then(|c| c.config) {
                let sizes = named.map.into_iter().map(|(name, params)| (name, params.size));
                collection.dimensions = sizes.collect();
            }
            for (name, params) in request.sparse_vectors_config.into_iter().flat_map(|c| c.map) {
                collection.with_idf.insert(name, params.modifier() == q::Modifier::Idf);
            }
            let mut collections = self.lock();
            if collections.contains_key(&request.collection_name) {
                return Err(Status::already_exists("Wrong input: the collection already exists!"));
            }
            collections.insert(request.collection_name, collection);
            Ok(Response::new(q::CollectionOperationResponse { result: true, time: 0.0 }))
        }

        async fn delete(
            &self,
            request: Request<q::DeleteCollection>,
        ) -> Result<Response<q::CollectionOperationResponse>, Status> {
            let result = self.lock().remove(&request.into_inner().collection_name).is_some();
            Ok(Response::new(q::CollectionOperationResponse { result, time: 0.0 }))
        }

        async fn collection_exists(
            &self,
            request: Request<q::CollectionExistsRequest>,
        ) -> Result<Response<q::CollectionExistsResponse>, Status> {
            let exists = self.lock().contains_key(&request.into_inner().collection_name);
            let result = Some(q::CollectionExists { exists });
            Ok(Response::new(q::CollectionExistsResponse { result, time: 0.0 }))
        }
    } refuses {
        get(GetCollectionInfoRequest) -> GetCollectionInfoResponse;
        list(ListCollectionsRequest) -> ListCollectionsResponse;
        update(UpdateCollection) -> CollectionOperationResponse;
        update_aliases(ChangeAliases) -> CollectionOperationResponse;
        list_collection_aliases(ListCollectionAliasesRequest) -> ListAliasesResponse;
        list_aliases(ListAliasesRequest) -> ListAliasesResponse;
        collection_cluster_info(CollectionClusterInfoRequest) -> CollectionClusterInfoResponse;
        update_collection_cluster_setup(UpdateCollectionClusterSetupRequest)
            -> UpdateCollectionClusterSetupResponse;
        create_shard_key(CreateShardKeyRequest) -> CreateShardKeyResponse;
        delete_shard_key(DeleteShardKeyRequest) -> DeleteShardKeyResponse;
        list_shard_keys(ListShardKeysRequest) -> ListShardKeysResponse;
    }
}

service! {
    Points {
        async fn upsert(
            &self,
            request: Request<q::UpsertPoints>,
        ) -> Result<Response<q::PointsOperationResponse>, Status> {
            if self.upserts_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
                return Err(Status::unavailable("the server is going down"));
            }
            self.n_upserts.fetch_add(1, Ordering::SeqCst);
            let request = request.into_inner();
            if request.wait != Some(true) {
                return Err(Status::invalid_argument("a caller must wait, or a count is no proof"));
            }
            self.with(&request.collection_name, |collection| {
                request.points.into_iter().try_for_each(|point| collection.store(point))
            })?;
            Ok(Response::new(q::PointsOperationResponse::default()))
        }

        async fn get(
            &self,
            request: Request<q::GetPoints>,
        ) -> Result<Response<q::GetResponse>, Status> {
            let request = request.into_inner();
            let result = self.with(&request.collection_name, |collection| {
                let ids: Vec<u64> =
                    request.ids.iter().map(|id| number(Some(id))).collect::<Result<_, _>>()?;
                let point = |id: &u64| {
                    let point = collection.points.get(id)?;
                    Some(q::RetrievedPoint {
                        id: Some((*id).into()),
                        payload: point.payload.clone(),
                        vectors: request.with_vectors.is_some().then(|| dense_output(point)),
                        ..q::RetrievedPoint::default()
                    })
                };
                Ok(ids.iter().filter_map(point).collect())
            })?;
            Ok(Response::new(q::GetResponse { result, ..q::GetResponse::default() }))
        }

        async fn count(
            &self,
            request: Request<q::CountPoints>,
        ) -> Result<Response<q::CountResponse>, Status> {
            let name = request.into_inner().collection_name;
            let count = self.with(&name, |collection| Ok(collection.points.len() as u64))?;
            let result = Some(q::CountResult { count });
            Ok(Response::new(q::CountResponse { result, ..q::CountResponse::default() }))
        }

        async fn create_field_index(
            &self,
            request: Request<q::CreateFieldIndexCollection>,
        ) -> Result<Response<q::PointsOperationResponse>, Status> {
            let request = request.into_inner();
            self.with(&request.collection_name, |collection| {
                collection.fields.insert(request.field_name);
                Ok(())
            })?;
            Ok(Response::new(q::PointsOperationResponse::default()))
        }

        async fn query_batch(
            &self,
            request: Request<q::QueryBatchPoints>,
        ) -> Result<Response<q::QueryBatchResponse>, Status> {
            let request = request.into_inner();
            let result = self.with(&request.collection_name, |collection| {
                let queries = request.query_points.iter();
                let batch = |query| Ok(q::BatchResult { result: collection.search(query)? });
                queries.map(batch).collect::<Result<Vec<_>, Status>>()
            })?;
            Ok(Response::new(q::QueryBatchResponse { result, ..q::QueryBatchResponse::default() }))
        }
    } refuses {
        delete(DeletePoints) -> PointsOperationResponse;
        update_vectors(UpdatePointVectors) -> PointsOperationResponse;
        delete_vectors(DeletePointVectors) -> PointsOperationResponse;
        set_payload(SetPayloadPoints) -> PointsOperationResponse;
        overwrite_payload(SetPayloadPoints) -> PointsOperationResponse;
        delete_payload(DeletePayloadPoints) -> PointsOperationResponse;
        clear_payload(ClearPayloadPoints) -> PointsOperationResponse;
        delete_field_index(DeleteFieldIndexCollection) -> PointsOperationResponse;
        create_vector_name(CreateVectorNameRequest) -> PointsOperationResponse;
        delete_vector_name(DeleteVectorNameRequest) -> PointsOperationResponse;
        search(SearchPoints) -> SearchResponse;
        search_batch(SearchBatchPoints) -> SearchBatchResponse;
        search_groups(SearchPointGroups) -> SearchGroupsResponse;
        scroll(ScrollPoints) -> ScrollResponse;
        recommend(RecommendPoints) -> RecommendResponse;
        recommend_batch(RecommendBatchPoints) -> RecommendBatchResponse;
        recommend_groups(RecommendPointGroups) -> RecommendGroupsResponse;
        discover(DiscoverPoints) -> DiscoverResponse;
        discover_batch(DiscoverBatchPoints) -> DiscoverBatchResponse;
        update_batch(UpdateBatchPoints) -> UpdateBatchResponse;
        query(QueryPoints) -> QueryResponse;
        query_groups(QueryPointGroups) -> QueryGroupsResponse;
        facet(FacetCounts) -> FacetResponse;
        search_matrix_pairs(SearchMatrixPoints) -> SearchMatrixPairsResponse;
        search_matrix_offsets(SearchMatrixPoints) -> SearchMatrixOffsetsResponse;
    }
}
