//! One loaded model, answering.

use std::any::Any;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex as Locked};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bench_core::backend::{
    BackendError, Completion, Constraint, Generator, ModelFolder, Probe, ProbeRow, Request,
};
use bench_core::chat::Message;
use bench_core::digest;
use bench_core::sampling::{likeliest, log_sum_exp};
use candle_core::{DType, Device};
use mistralrs::model_builder_trait::{build_model_from_pipeline, build_text_pipeline};
use mistralrs::{
    MemoryGpuConfig, ModelDType, PagedAttentionMetaBuilder, TextModelBuilder, TokenSource,
};
use mistralrs_core::{
    AddModelConfig, CustomLogitsProcessor, NormalRequest, Pipeline, Request as EngineRequest,
    RequestMessage, Response, SamplingParams, SchedulerConfig, StopTokens,
};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::choose::Chooser;
use crate::folder::Folder;
use crate::{BACKEND, MistralLoader, adapter};

/// Answers in progress at once on one copy of a model.
///
/// On the processor, mistral.rs 0.8.1 mixes up the sequences of a batch: its attention for one new
/// token has one scratch buffer for all of them, so each gets what the last one attends to
/// (`flash_attn_cpu_single_q`). Answers are therefore written one at a time.
const MAX_RUNNING: u32 = if cfg!(feature = "cuda") { 32 } else { 1 };

/// Tokens, of all answers in progress on a GPU, whose keys and values have room there.
const PAGED_TOKENS: usize = 32_768;

/// Tokens by which mistral.rs grows the keys and values of an answer (`CACHE_GROW_SIZE`).
const GROWTH: u64 = 512;

/// A model in memory, merged with its adapter if it has one.
///
/// Requests may come all at once and wait for their turn inside. An answer depends on its own
/// request alone, up to the rounding of a prompt read in one piece or two: sampling is seeded by
/// request.
pub struct MistralGenerator {
    id: String,
    folder: Folder,
    /// Bytes of keys and values per token that the prefix cache keeps; 0 without one.
    kept_per_token: u64,
    /// Bytes that the prefix cache of a copy may hold.
    prefix_cache_memory: u64,
    /// Copies of one model, each with its own engine.
    copies: Vec<Served>,
    /// Which copies can take one more answer. A probe takes all: an engine cannot show logits and
    /// answer at the same time.
    slots: Slots,
}

impl MistralGenerator {
    /// Loads a model, with an adapter in PEFT's layout when one is given.
    ///
    /// # Errors
    /// A folder or adapter that is incomplete, damaged, quantised or of a kind that mistral.rs
    /// would load wrongly.
    pub fn load(
        model: &ModelFolder,
        adapter: Option<&Path>,
        room: MistralLoader,
    ) -> Result<Self, BackendError> {
        let fatal = |message: String| BackendError::fatal(BACKEND, message);
        let folder = Folder::open(&model.path).map_err(fatal)?;
        let (dtype, device) = if cfg!(feature = "cuda") {
            (DType::BF16, Device::new_cuda(0).map_err(|error| fatal(error.to_string()))?)
        } else {
            (DType::F32, Device::Cpu)
        };
        let adapter = adapter
            .map(|path| adapter::open(path, &folder, dtype, &device).map_err(fatal))
            .transpose()?;
        let mut id = format!(
            "mistral.rs 0.8.1, {} {}, {}",
            folder.path.file_name().unwrap_or_default().to_string_lossy(),
            digest::short(&model.digest),
            if dtype == DType::F32 { "f32" } else { "bf16" },
        );
        if let Some((_, digest)) = &adapter {
            id.push_str(", adapter ");
            id.push_str(digest::short(digest));
        }
        let n_copies =
            if device.is_cpu() { copies(folder.bytes(dtype), room.copies_memory) } else { 1 };
        let may_keep = device.is_cpu() && room.prefix_cache_memory > 0;
        let kept_per_token = if may_keep { folder.kept_per_token(dtype) } else { 0 };
        let keeps = kept_per_token > 0;
        if keeps {
            id.push_str(", prefix cache");
        }
        let path = folder.path.display().to_string();
        let builder = move || {
            let builder = TextModelBuilder::new(&path)
                .with_token_source(TokenSource::None)
                .with_max_num_seqs(MAX_RUNNING as usize)
                .with_prefix_cache_n(keeps.then_some(1));
            if cfg!(feature = "cuda") {
                // Keys and values in pages, so that answers of different lengths share the GPU (Kwon
                // et al. 2023).
                let pages = PagedAttentionMetaBuilder::default()
                    .with_gpu_memory(MemoryGpuConfig::ContextSize(PAGED_TOKENS))
                    .build();
                let builder = builder.with_dtype(ModelDType::BF16);
                match pages {
                    Ok(pages) => builder.with_paged_attn(pages),
                    // Without pages it answers too, with less in parallel.
                    Err(_) => builder,
                }
            } else {
                builder.with_dtype(ModelDType::F32).with_force_cpu()
            }
        };
        // The library keeps adapters to merge in a thread-local list that it never clears; a
        // thread of its own keeps this model's adapter out of every other model.
        let build = move || {
            mistralrs_quant::clear_applied_loras();
            if let Some((adapter, _)) = adapter {
                mistralrs_quant::push_applied_lora(adapter);
            }
            let served: Result<Vec<_>, _> = (0..n_copies).map(|_| serve(builder())).collect();
            mistralrs_quant::clear_applied_loras();
            served
        };
        let copies = std::thread::Builder::new()
            .name("load-model".into())
            .spawn(build)
            .map_err(|error| fatal(error.to_string()))?
            .join()
            .unwrap_or_else(|panic| Err(panic_message(panic.as_ref())))
            .map_err(|error| fatal(format!("cannot load `{}`: {error}", folder.path.display())))?;
        let slots = Slots::new(copies.len());
        let prefix_cache_memory = room.prefix_cache_memory;
        Ok(Self { id, folder, kept_per_token, prefix_cache_memory, copies, slots })
    }

    fn check_window(&self, prompt: usize, answer: usize) -> Result<(), BackendError> {
        let window = self.folder.window;
        if prompt + answer <= window {
            return Ok(());
        }
        let message = format!(
            "a prompt of {prompt} tokens and up to {answer} for the answer do not fit the context window of {window}; shorten the prompt or lower `max_tokens`"
        );
        Err(BackendError::rejected(BACKEND, message))
    }

    fn constraint(
        &self,
        constraint: Option<&Constraint>,
    ) -> Result<mistralrs_core::Constraint, BackendError> {
        let Some(constraint) = constraint else { return Ok(mistralrs_core::Constraint::None) };
        if self.folder.grammar_end.is_none() {
            return Err(BackendError::rejected(BACKEND, crate::grammar::NO_END));
        }
        Ok(crate::grammar::engine_constraint(constraint))
    }

    /// Hands a request to the engine of its slot.
    async fn send(
        prompt: Vec<u32>,
        sampling: SamplingParams,
        slot: Slot,
        engine: Arc<mistralrs::Model>,
        chooser: Option<&Arc<Chooser>>,
        complete: impl FnOnce(&mut NormalRequest) + Send,
    ) -> Result<Waiting, BackendError> {
        let start = Instant::now();
        let (sender, responses) = mpsc::channel(1);
        let message = RequestMessage::CompletionTokens(prompt);
        let mut request = NormalRequest::new_simple(message, sampling, sender, 0, None, None);
        complete(&mut request);
        let stopped = |error: String| {
            BackendError::transient(BACKEND, format!("the engine stopped: {error}"))
        };
        let requests =
            engine.inner().get_sender(None).map_err(|error| stopped(error.to_string()))?;
        let request = EngineRequest::Normal(Box::new(request));
        requests.send(request).await.map_err(|error| stopped(error.to_string()))?;
        Ok(Waiting { start, rest: Some((responses, slot)), chooser: chooser.cloned() })
    }

    async fn probe_row(
        &self,
        row: &ProbeRow,
        engine: &Arc<mistralrs::Model>,
    ) -> Result<Probe, BackendError> {
        let mut token_ids = self.folder.prompt(&row.messages)?;
        let n_prompt = token_ids.len();
        token_ids.extend(self.folder.completion(&row.completion)?);
        self.check_window(token_ids.len(), 1)?;
        let sampling = SamplingParams { max_len: Some(1), ..SamplingParams::deterministic() };
        let raw = |request: &mut NormalRequest| request.return_raw_logits = true;
        let slot = self.slots.all().await;
        let mut waiting =
            Self::send(token_ids.clone(), sampling, slot, Arc::clone(engine), None, raw).await?;
        let mut logits = None;
        // The engine takes one more step before it lets the sequence go; wait for that too.
        while let Some(response) = waiting.next().await {
            match response {
                Response::Raw { logits_chunks, .. } => logits = logits_chunks.into_iter().next(),
                other => return Err(failure(other)),
            }
        }
        let logits = logits.ok_or_else(engine_stopped)?;
        let measure = || -> candle_core::Result<Probe> {
            let logits = logits.to_dtype(DType::F32)?;
            let n_logits = logits.dims().iter().rev().nth(1).copied().unwrap_or(0);
            if n_logits != token_ids.len() {
                candle_core::bail!("{n_logits} logits for {} tokens", token_ids.len());
            }
            let vocabulary = logits.dim(candle_core::D::Minus1)?;
            let logits = logits.reshape((n_logits, vocabulary))?;
            let mut top1 = Vec::new();
            let mut nll = 0.0;
            // The logits at one position are about the token at the next.
            for (position, &token) in token_ids.iter().enumerate().skip(n_prompt) {
                let row: Vec<f32> = logits.get(position - 1)?.to_vec1()?;
                top1.push(likeliest(&row) as u32);
                nll += log_sum_exp(&row) - f64::from(row[token as usize]);
            }
            nll /= top1.len().max(1) as f64;
            Ok(Probe { token_ids: token_ids.clone(), top1, nll })
        };
        measure().map_err(|error| BackendError::rejected(BACKEND, error.to_string()))
    }
}

#[async_trait]
impl Generator for MistralGenerator {
    fn id(&self) -> &str {
        &self.id
    }

    fn count_tokens(&self, messages: &[Message]) -> Result<Option<u32>, BackendError> {
        Ok(Some(self.folder.prompt(messages)?.len() as u32))
    }

    async fn generate(&self, request: &Request) -> Result<Completion, BackendError> {
        let prompt = self.folder.prompt(&request.messages)?;
        let tokens_in = prompt.len() as u32;
        self.check_window(prompt.len(), request.max_tokens as usize)?;
        if request.max_tokens == 0 {
            return Err(BackendError::rejected(BACKEND, "`max_tokens` is 0; ask for at least 1"));
        }
        let constraint = self.constraint(request.constraint.as_ref())?;
        let Folder { tokenizer, ends, grammar_end, .. } = &self.folder;
        let chooser = Arc::new(Chooser::new(request, tokenizer, ends, *grammar_end));
        let sampling = SamplingParams {
            // 0 hands our choice through; absent means 1 here.
            temperature: Some(0.0),
            max_len: Some(request.max_tokens as usize),
            stop_toks: Some(StopTokens::Ids(ends.clone())),
            ..SamplingParams::neutral()
        };
        let processor = Arc::clone(&chooser) as Arc<dyn CustomLogitsProcessor>;
        let complete = |request: &mut NormalRequest| {
            request.constraint = constraint;
            request.logits_processors = Some(vec![processor]);
        };
        let slot = self.slots.one().await;
        let longest = u64::from(tokens_in + request.max_tokens).next_multiple_of(GROWTH);
        let kept = longest * self.kept_per_token;
        let engine = self.copies[slot.copy].engine(kept, self.prefix_cache_memory).await?;
        let mut waiting =
            Self::send(prompt, sampling, slot, engine, Some(&chooser), complete).await?;
        let finish = match waiting.next().await {
            Some(Response::CompletionDone(done)) => done
                .choices
                .into_iter()
                .next()
                .map_or_else(String::new, |choice| choice.finish_reason),
            Some(other) => return Err(failure(other)),
            None => return Err(engine_stopped()),
        };
        let start = waiting.start;
        let latency = start.elapsed();
        let choices = chooser.finish().map_err(|error| BackendError::rejected(BACKEND, error))?;
        let first_token = choices.first_token.map(|first| milliseconds(first - start));
        Ok(Completion {
            text: choices.text,
            tokens_in,
            tokens_out: choices.n_tokens,
            first_token_ms: first_token,
            latency_ms: milliseconds(latency),
            finish: if choices.stopped { "stop".into() } else { finish },
            logprobs: choices.logprobs,
        })
    }

    async fn probe(&self, rows: &[ProbeRow]) -> Result<Vec<Probe>, BackendError> {
        // Of a prompt whose beginning is kept, the engine would show the rest of the logits only.
        let engine = self.copies[0].forgetful().await?;
        let mut probes = Vec::with_capacity(rows.len());
        for row in rows {
            probes.push(self.probe_row(row, &engine).await?);
        }
        Ok(probes)
    }
}

impl Drop for MistralGenerator {
    /// Waits until the weights are freed.
    fn drop(&mut self) {
        for Served { running, weights, .. } in self.copies.drain(..) {
            drop(running);
            // The engine's thread lets go of its share when it has read that it is to end.
            for _ in 0..1000 {
                if Arc::strong_count(&weights) == 1 {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        give_back_memory();
    }
}

impl fmt::Debug for MistralGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MistralGenerator").field("id", &self.id).finish_non_exhaustive()
    }
}

/// How many copies of a model answer: one per core, if the further ones fit into `memory` bytes.
fn copies(bytes: u64, memory: u64) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let further = memory / bytes.max(1);
    cores.min(1 + further as usize)
}

/// The places for answers in progress.
struct Slots {
    places: Arc<Semaphore>,
    /// The copies of the free places, as many as the semaphore has permits.
    free: Arc<Locked<Vec<usize>>>,
    n: u32,
}

impl Slots {
    fn new(n_copies: usize) -> Self {
        let free: Vec<usize> =
            (0..n_copies).flat_map(|copy| (0..MAX_RUNNING).map(move |_| copy)).collect();
        let places = Arc::new(Semaphore::new(free.len()));
        Self { places, n: free.len() as u32, free: Arc::new(Locked::new(free)) }
    }

    async fn one(&self) -> Slot {
        let permit = Arc::clone(&self.places).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let copy = lock(&self.free).pop().expect("a permit stands for a free place");
        Slot { copy, back: Some(Arc::clone(&self.free)), _permit: permit }
    }

    async fn all(&self) -> Slot {
        let permit = Arc::clone(&self.places).acquire_many_owned(self.n).await;
        Slot { copy: 0, back: None, _permit: permit.expect("the semaphore is never closed") }
    }
}

/// A place for an answer on one copy, or all places.
struct Slot {
    copy: usize,
    /// Where one place goes back to; given back before the permit.
    back: Option<Arc<Locked<Vec<usize>>>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(free) = &self.back {
            lock(free).push(self.copy);
        }
    }
}

fn lock(free: &Locked<Vec<usize>>) -> std::sync::MutexGuard<'_, Vec<usize>> {
    free.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A copy of the weights, and the engine that runs them on its thread.
struct Served {
    weights: Arc<Mutex<dyn Pipeline>>,
    scheduler: SchedulerConfig,
    settings: AddModelConfig,
    running: Mutex<Running>,
}

struct Running {
    engine: Arc<mistralrs::Model>,
    /// At most so many bytes of keys and values does it keep.
    kept: u64,
}

impl Served {
    /// The engine for an answer of which `bytes` will be kept, with a slot of this copy in hand.
    ///
    /// On the processor, mistral.rs 0.8.1 never lets go of what it keeps: an engine that is full
    /// makes place for a new one on the same weights.
    async fn engine(&self, bytes: u64, most: u64) -> Result<Arc<mistralrs::Model>, BackendError> {
        let mut running = self.running.lock().await;
        if running.kept > 0 && running.kept + bytes > most {
            running.engine = self.start(self.settings.clone()).await?;
            running.kept = 0;
            give_back_memory();
        }
        running.kept += bytes;
        Ok(Arc::clone(&running.engine))
    }

    /// A further engine, which keeps nothing.
    async fn forgetful(&self) -> Result<Arc<mistralrs::Model>, BackendError> {
        let mut settings = self.settings.clone();
        settings.engine_config.no_prefix_cache = true;
        self.start(settings).await
    }

    /// Never on the caller's thread: under a runtime of several threads the library tries a new engine out
    /// and blocks meanwhile, and that inner wait would take the notification by which the outer one learns
    /// that other answers are there.
    async fn start(&self, settings: AddModelConfig) -> Result<Arc<mistralrs::Model>, BackendError> {
        let (weights, scheduler) = (Arc::clone(&self.weights), self.scheduler.clone());
        let build = move || {
            let engine = build_model_from_pipeline(weights, scheduler, settings);
            Ok(Arc::new(own_runtime()?.block_on(engine)))
        };
        let built = tokio::task::spawn_blocking(build).await;
        let built = built.unwrap_or_else(|panic| Err(panic.to_string()));
        built.map_err(|error| {
            BackendError::transient(BACKEND, format!("a new engine did not start: {error}"))
        })
    }
}

/// For what the library does as it starts, on a thread of its own.
fn own_runtime() -> Result<tokio::runtime::Runtime, String> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(|error| error.to_string())
}

fn serve(builder: TextModelBuilder) -> Result<Served, String> {
    own_runtime()?.block_on(async {
        let (weights, scheduler, settings) =
            build_text_pipeline(builder).await.map_err(|error| format!("{error:#}"))?;
        let engine =
            build_model_from_pipeline(Arc::clone(&weights), scheduler.clone(), settings.clone())
                .await;
        let running = Mutex::new(Running { engine: Arc::new(engine), kept: 0 });
        Ok(Served { weights, scheduler, settings, running })
    })
}

/// glibc keeps what a thread freed for that thread's successors; every model loaded after another
/// would otherwise add to the resident memory.
fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "a call without pointers, safe from any thread")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// An answer in progress.
struct Waiting {
    start: Instant,
    rest: Option<(mpsc::Receiver<Response>, Slot)>,
    chooser: Option<Arc<Chooser>>,
}

impl Waiting {
    /// `None` when there is nothing more to come.
    async fn next(&mut self) -> Option<Response> {
        self.rest.as_mut()?.0.recv().await
    }
}

impl Drop for Waiting {
    /// The engine panics when nobody takes its answer, so someone does: the answer is cut short,
    /// and its slots are free again when the engine has let go of it.
    fn drop(&mut self) {
        let Some((mut responses, slot)) = self.rest.take() else { return };
        if responses.is_closed() {
            return;
        }
        if let Some(chooser) = &self.chooser {
            chooser.cancel();
        }
        std::thread::spawn(move || {
            while responses.blocking_recv().is_some() {}
            drop(slot);
        });
    }
}

fn failure(response: Response) -> BackendError {
    match response.as_result() {
        Ok(_) => BackendError::rejected(BACKEND, "the engine answered something else"),
        Err(error) => {
            let text = error.to_string();
            BackendError::rejected(BACKEND, text.lines().next().unwrap_or_default().to_owned())
        }
    }
}

fn engine_stopped() -> BackendError {
    BackendError::transient(BACKEND, "the engine stopped before the answer")
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("mistral.rs gave up")
        .to_owned()
}
