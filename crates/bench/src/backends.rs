//! The real backends, put together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bench_candle::{CandleCounter, CandleLoader, CandleTrainer, LogisticTrainer};
use bench_core::backend::{
    BackendError, ClassifierTrainer, Constraint, Embedder, Generator, Indexer, Loader, ModelFolder,
    ProbeRow, Progress, Reranker, Trainer,
};
use bench_core::chat::Message;
use bench_core::digest;
use bench_core::manifest::ModelEntry;
use bench_core::spec::{self, EmbedderSource, IndexBackend, ModelSource, RerankerSource};
use bench_fastembed::{OnnxEmbedder, OnnxReranker, Options, Pooling};
use bench_mistralrs::{MistralLoader, MistralPacker, PromptCounter};
use bench_openai::{EndpointEmbedder, EndpointGenerator};
use bench_qdrant::{QdrantIndexer, QdrantServer};
use bench_retrieval::{CachedEmbedder, English, ExactIndexer, HashingEmbedder, OverlapReranker};
use bench_run::backends::{Counter, Place};
use bench_run::scripted::{self, ScriptedTrainer};
use bench_run::{Backends, ResolvedModel};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::catalog::{self, Kind};
use crate::models::Cache;

/// Numbers per vector of the catalogue's embedder, and tokens it reads beside the two special ones.
const MINILM_DIMENSION: usize = 384;
const MINILM_WINDOW: usize = 254;

/// The part of the machine's memory that further copies of a small model may take: one sixteenth.
const COPIES_SHARE: u64 = 16;

/// The part of it that the keys and values of earlier answers may take in each copy.
const PREFIX_CACHE_SHARE: u64 = 32;

/// Everything a user can name in an experiment.
pub(crate) struct Real {
    pub(crate) cache: Cache,
    counters: Mutex<BTreeMap<String, Arc<PromptCounter>>>,
    loader: MistralLoader,
}

impl Real {
    pub(crate) fn new(cache: Cache) -> Self {
        let memory = System::new_with_specifics(
            RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()),
        );
        let loader = MistralLoader {
            copies_memory: memory.total_memory() / COPIES_SHARE,
            prefix_cache_memory: memory.total_memory() / PREFIX_CACHE_SHARE,
        };
        Self { cache, counters: Mutex::new(BTreeMap::new()), loader }
    }

    /// The prompt side of a model folder, opened once.
    fn prompts(&self, folder: &ModelFolder) -> Result<Arc<PromptCounter>, BackendError> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = counters.get(&folder.digest) {
            return Ok(Arc::clone(counter));
        }
        let opened = Arc::new(PromptCounter::open(&folder.path)?);
        counters.insert(folder.digest.clone(), Arc::clone(&opened));
        Ok(opened)
    }

    /// ONNX Runtime: the library that the environment names, else the catalogue's.
    fn runtime(&self, progress: &dyn Progress) -> Result<PathBuf, BackendError> {
        match std::env::var_os("ORT_DYLIB_PATH") {
            Some(path) => Ok(path.into()),
            None => Ok(self.cache.pull("onnxruntime", progress)?.join("libonnxruntime.so")),
        }
    }

    /// An embedder of two files, which remembers what it embedded.
    fn onnx(
        &self,
        [onnx, tokenizer]: &[PathBuf; 2],
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Arc<dyn Embedder>, BackendError> {
        let runtime = self.runtime(progress)?;
        let inner = OnnxEmbedder::open(onnx, tokenizer, &runtime, options, None)?;
        let cache = self.cache.folder().join("embeddings");
        Ok(Arc::new(CachedEmbedder::new(Arc::new(inner), &cache)))
    }

    /// What serves a model: our own decoder where no other can.
    fn loader(&self, model: &ModelFolder, adapter: Option<&Path>) -> &dyn Loader {
        if CandleLoader::is_own_family(&model.path)
            || adapter.is_some_and(CandleLoader::is_soft_prompt)
            || adapter.is_some_and(CandleLoader::is_reward)
        {
            return &CandleLoader;
        }
        &self.loader
    }

    fn local(&self, id: String, folder: &Path) -> Result<ResolvedModel, BackendError> {
        let folder = self.cache.model_folder(folder)?;
        let own = CandleLoader::is_own_family(&folder.path);
        let (backend, dtype) = match own {
            true => ("candle", "f32"),
            false if cfg!(feature = "cuda") => ("mistralrs", "bf16"),
            false => ("mistralrs", "f32"),
        };
        // Answers in another numeric type are other answers.
        let digest = match dtype {
            "f32" => folder.digest.clone(),
            other => digest::of_json(&(&folder.digest, other)),
        };
        let entry = ModelEntry { id, digest, backend: backend.into(), dtype: dtype.into() };
        Ok(ResolvedModel { entry, place: Place::Local(folder) })
    }
}

fn key(variable: Option<&String>) -> Result<Option<String>, BackendError> {
    let Some(variable) = variable else { return Ok(None) };
    match std::env::var(variable) {
        Ok(key) if !key.is_empty() => Ok(Some(key)),
        _ => Err(BackendError::fatal(
            "endpoint",
            format!("the environment variable `{variable}` is not set"),
        )),
    }
}

impl Backends for Real {
    fn resolve(
        &self,
        name: &str,
        source: &ModelSource,
        progress: &dyn Progress,
    ) -> Result<ResolvedModel, BackendError> {
        match source {
            ModelSource::Catalog(id) => {
                if catalog::find(id).is_some_and(|entry| entry.kind != Kind::Model) {
                    let message = format!("model `{name}`: `{id}` is not a chat model");
                    return Err(BackendError::fatal("models", message));
                }
                let folder = self.cache.pull(id, progress)?;
                self.local(id.clone(), &folder)
            }
            ModelSource::Path(path) => {
                let path = Path::new(path);
                let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if !path.exists() {
                    let message =
                        format!("model `{name}`: there is nothing at `{}`", path.display());
                    return Err(BackendError::fatal("models", message));
                }
                if path.is_dir() {
                    return self.local(id, path);
                }
                let folder = self.cache.import(path, progress)?;
                self.local(id, &folder)
            }
            ModelSource::Hub(id) => {
                let folder = self.cache.hub(id, progress)?;
                self.local(id.clone(), &folder)
            }
            ModelSource::Endpoint(endpoint) => {
                key(endpoint.api_key_env.as_ref())?;
                let entry = ModelEntry {
                    id: endpoint.model.clone(),
                    digest: digest::of_json(&(&endpoint.base_url, &endpoint.model)),
                    backend: "openai".into(),
                    dtype: "unknown".into(),
                };
                Ok(ResolvedModel { entry, place: Place::Endpoint(endpoint.clone()) })
            }
            ModelSource::Scripted(script) => Ok(scripted::resolve(script)),
        }
    }

    fn load(
        &self,
        model: &ResolvedModel,
        adapter: Option<&Path>,
    ) -> Result<Arc<dyn Generator>, BackendError> {
        match &model.place {
            Place::Local(folder) => match adapter {
                // Trained weights that are no adapter: a whole model in the base's place.
                Some(trained) if trained.join("model.safetensors").exists() => {
                    let folder = self.cache.model_folder(trained)?;
                    self.loader(&folder, None).load(&folder, None)
                }
                adapter => self.loader(folder, adapter).load(folder, adapter),
            },
            Place::Endpoint(endpoint) => {
                let key = key(endpoint.api_key_env.as_ref())?;
                Ok(Arc::new(EndpointGenerator::new(endpoint, key)?))
            }
            Place::Scripted(script) => scripted::load(script, adapter),
            Place::Embedder(_) => {
                Err(BackendError::fatal("embedder", "an embedder answers with a classifier only"))
            }
        }
    }

    fn decoder(&self, model: &ResolvedModel) -> Result<Option<Arc<dyn Generator>>, BackendError> {
        match &model.place {
            Place::Local(folder) if !CandleLoader::is_own_family(&folder.path) => {
                Ok(Some(CandleLoader.load(folder, None)?))
            }
            Place::Local(_) | Place::Endpoint(_) | Place::Scripted(_) | Place::Embedder(_) => {
                Ok(None)
            }
        }
    }

    fn counter(&self, model: &ResolvedModel) -> Result<Option<Arc<dyn Counter>>, BackendError> {
        let Place::Local(folder) = &model.place else { return Ok(None) };
        if CandleLoader::is_own_family(&folder.path) {
            return Ok(Some(Arc::new(Own(CandleCounter::open(&folder.path)?))));
        }
        Ok(Some(Arc::new(Local(self.prompts(folder)?))))
    }

    fn check_constraint(
        &self,
        model: &ResolvedModel,
        constraint: &Constraint,
    ) -> Result<(), BackendError> {
        match &model.place {
            Place::Local(folder) if CandleLoader::is_own_family(&folder.path) => {
                Err(CandleLoader::no_constraint())
            }
            Place::Local(folder) => self.prompts(folder)?.check_constraint(constraint),
            Place::Endpoint(_) => bench_openai::check_constraint(constraint),
            Place::Scripted(_) => scripted::check_constraint(constraint),
            // A classifier says labels and nothing else.
            Place::Embedder(_) => Ok(()),
        }
    }

    fn trainer(&self, model: &ResolvedModel) -> Result<Arc<dyn Trainer>, BackendError> {
        match &model.place {
            Place::Local(_) => Ok(Arc::new(CandleTrainer {
                packer: Some(Arc::new(MistralPacker)),
                ..CandleTrainer::default()
            })),
            Place::Scripted(_) => Ok(Arc::new(ScriptedTrainer)),
            Place::Endpoint(_) | Place::Embedder(_) => {
                model.folder().map(|_| Arc::new(ScriptedTrainer) as Arc<dyn Trainer>)
            }
        }
    }

    fn classifier_trainer(&self) -> Result<Arc<dyn ClassifierTrainer>, BackendError> {
        Ok(Arc::new(LogisticTrainer))
    }

    fn embedder(
        &self,
        source: &EmbedderSource,
        progress: &dyn Progress,
    ) -> Result<Arc<dyn Embedder>, BackendError> {
        let options = Options::default();
        let cache = self.cache.folder().join("embeddings");
        match source {
            EmbedderSource::Hashing => Ok(Arc::new(HashingEmbedder::new(256))),
            EmbedderSource::Path(path) => {
                let folder = Path::new(path);
                let files = [folder.join("model.onnx"), folder.join("tokenizer.json")];
                self.onnx(&files, &options, progress)
            }
            EmbedderSource::Onnx(onnx) => {
                let options = Options {
                    max_length: onnx.max_length as usize,
                    pooling: match onnx.pooling {
                        spec::Pooling::Mean => Pooling::Mean,
                        spec::Pooling::Cls => Pooling::Cls,
                    },
                    query_prefix: onnx.query_prefix.clone(),
                    passage_prefix: onnx.passage_prefix.clone(),
                };
                let files = match (&onnx.path, &onnx.hub) {
                    (_, Some(id)) => self.cache.hub_onnx(id, progress)?.into(),
                    (path, None) => {
                        let folder = Path::new(path.as_deref().unwrap_or_default());
                        [folder.join("model.onnx"), folder.join("tokenizer.json")]
                    }
                };
                self.onnx(&files, &options, progress)
            }
            EmbedderSource::Endpoint(endpoint) => {
                let key = key(endpoint.api_key_env.as_ref())?;
                let inner = EndpointEmbedder::new(endpoint, key)?;
                Ok(Arc::new(CachedEmbedder::new(Arc::new(inner), &cache)))
            }
            EmbedderSource::Catalog(name) => {
                let entry = catalog::find(name).filter(|entry| entry.kind == Kind::Embedder);
                let entry = entry.ok_or_else(|| {
                    BackendError::fatal("models", format!("the catalogue has no embedder `{name}`"))
                })?;
                let folder = self.cache.pull(name, progress)?;
                let runtime = self.runtime(progress)?;
                // The pinned digests are the identity, so that a run whose texts are all in the
                // cache opens no model.
                let id = options.id(entry.files[0].sha256, entry.files[1].sha256);
                let expected = id.clone();
                let load = move || {
                    let (onnx, tokenizer) =
                        (folder.join("model.onnx"), folder.join("tokenizer.json"));
                    let inner =
                        OnnxEmbedder::open(&onnx, &tokenizer, &runtime, &options, Some(&expected))?;
                    Ok(Arc::new(inner) as Arc<dyn Embedder>)
                };
                let embedder = CachedEmbedder::lazy(
                    &id,
                    MINILM_DIMENSION,
                    MINILM_WINDOW,
                    &cache,
                    Box::new(load),
                );
                Ok(Arc::new(embedder))
            }
        }
    }

    fn indexer(&self, backend: &IndexBackend) -> Result<Arc<dyn Indexer>, BackendError> {
        match backend {
            IndexBackend::Exact => Ok(Arc::new(ExactIndexer)),
            #[cfg(feature = "edge")]
            IndexBackend::Edge { m, ef_construct, ef } => {
                let graph = bench_qdrant::Graph {
                    m: *m as usize,
                    ef_construct: *ef_construct as usize,
                    ef: *ef as usize,
                };
                Ok(Arc::new(bench_qdrant::EdgeIndexer::new(graph, Arc::new(English))))
            }
            #[cfg(not(feature = "edge"))]
            IndexBackend::Edge { .. } => Err(BackendError::fatal(
                "edge",
                "this program was built without the index `edge`: build it with `cargo build --release --features edge`, or use `index: exact`",
            )),
            IndexBackend::Qdrant {
                url,
                api_key_env,
                collection,
                shards,
                replicas,
                write_consistency,
                timeout_seconds,
            } => {
                let server = QdrantServer {
                    url: url.clone(),
                    api_key: key(api_key_env.as_ref())?,
                    collection: collection.clone(),
                    shards: *shards,
                    replicas: *replicas,
                    write_consistency: *write_consistency,
                    timeout: Duration::from_secs(*timeout_seconds),
                };
                Ok(Arc::new(QdrantIndexer::new(server, Arc::new(English))))
            }
        }
    }

    fn reranker(
        &self,
        source: &RerankerSource,
        progress: &dyn Progress,
    ) -> Result<Arc<dyn Reranker>, BackendError> {
        match source {
            RerankerSource::Overlap => Ok(Arc::new(OverlapReranker)),
            RerankerSource::Llm(name) => {
                let message = format!("chat model `{name}` sorts passages in a run only");
                Err(BackendError::fatal("reranker", message))
            }
            RerankerSource::Path(path) => {
                let runtime = self.runtime(progress)?;
                Ok(Arc::new(OnnxReranker::open(Path::new(path), &runtime)?))
            }
        }
    }
}

struct Local(Arc<PromptCounter>);

impl Counter for Local {
    fn count(&self, messages: &[Message]) -> Result<u32, BackendError> {
        self.0.count(messages)
    }

    fn token_ids(&self, row: &ProbeRow) -> Result<Vec<u32>, BackendError> {
        self.0.token_ids(row)
    }

    fn context_window(&self) -> u32 {
        self.0.context_window()
    }
}

struct Own(CandleCounter);

impl Counter for Own {
    fn count(&self, messages: &[Message]) -> Result<u32, BackendError> {
        self.0.count(messages)
    }

    fn token_ids(&self, row: &ProbeRow) -> Result<Vec<u32>, BackendError> {
        self.0.token_ids(row)
    }

    fn context_window(&self) -> u32 {
        self.0.context_window()
    }
}
