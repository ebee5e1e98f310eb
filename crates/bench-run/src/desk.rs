//! Where calls are made: whatever is not answered yet is asked, one loaded model after the other,
//! and every answer is on disk before the next is waited for. What a call is for it does not know.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bench_core::backend::{
    BackendError, BackendErrorKind, Completion, Generator, Progress, Request, Served, Stage,
};
use bench_core::dataset::Sample;
use bench_core::digest;
use bench_core::manifest::ParityEntry;
use bench_core::record::{Answer, CallKind, Outcome};
use bench_core::spec::ChoiceBy;
use futures::stream::{self, StreamExt as _};
use tokio::runtime::Runtime;

use crate::answer::call_record;
use crate::backends::{Backends, Counter, Place, ResolvedModel};
use crate::features::Classifies;
use crate::likelihood;
use crate::parity::{TRAINED_AND_SERVED, Tolerance, compare_probes, compare_written, prove};
use crate::prepare::{Adapter, add_seconds};
use crate::prompt::{Laid, Layout, Question, Step};
use crate::run::{Options, RunError, Stop, peak_memory_bytes};
use crate::store::Store;

/// Prompts, and tokens of each answer, on which two decoders of the base model must agree.
const BASE_ROWS: usize = 4;
const BASE_TOKENS: u32 = 16;

/// One request to one model.
#[derive(Clone)]
pub(crate) struct Call<'a> {
    pub(crate) model: &'a ResolvedModel,
    pub(crate) adapter: Option<&'a Adapter>,
    pub(crate) request: Request,
    /// Digest of model, adapter and request: where the answer is kept.
    pub(crate) key: String,
    /// Prompt tokens where they can be counted: calls of like length are made together.
    pub(crate) tokens: u32,
    /// The arm, for messages.
    pub(crate) arm: &'a str,
    /// The eval set, for messages.
    pub(crate) set: &'a str,
    /// Milliseconds that finding passages for it took.
    pub(crate) retrieval_ms: f64,
    /// The texts to choose the likeliest of; without them the answer is written.
    pub(crate) choices: Option<(ChoiceBy, &'a [String])>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        model: &'a ResolvedModel,
        adapter: Option<&'a Adapter>,
        request: Request,
        counter: Option<&dyn Counter>,
        (set, arm): (&'a str, &'a str),
    ) -> Result<Self, BackendError> {
        let of_adapter = adapter.map_or("", |adapter| adapter.digest.as_str());
        let key = digest::of_json(&(&model.entry.digest, of_adapter, &request));
        let tokens = counter.map_or(Ok(0), |counter| counter.count(&request.messages))?;
        let (retrieval_ms, choices) = (0.0, None);
        Ok(Self { model, adapter, request, key, tokens, arm, set, retrieval_ms, choices })
    }

    /// The same call with an answer that is not written but chosen.
    pub(crate) fn choosing(mut self, by: ChoiceBy, choices: &'a [String]) -> Self {
        self.key = digest::of_json(&(&self.key, by, choices));
        self.choices = Some((by, choices));
        self
    }

    async fn answered_by(&self, generator: &dyn Generator) -> Result<Completion, BackendError> {
        match self.choices {
            None => generator.generate(&self.request).await,
            Some((by, choices)) => likelihood::choose(generator, &self.request, choices, by).await,
        }
    }
}

/// Makes calls and keeps what came back.
pub(crate) struct Desk<'a> {
    pub(crate) backends: &'a dyn Backends,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) stop: &'a Stop,
    pub(crate) options: &'a Options,
    pub(crate) store: Store,
    pub(crate) runtime: Runtime,
    /// Calls in flight at once.
    pub(crate) concurrency: usize,
    /// What was asked in this run: a call is never made twice in one, whatever the options say.
    pub(crate) asked: BTreeSet<String>,
    /// The largest resident memory before the process's own count of it began anew.
    pub(crate) peak_before: u64,
}

/// A prompt to lay out.
pub(crate) struct LayJob<'a> {
    pub(crate) layout: &'a Layout,
    /// Says what must be said before the prompt can be laid out.
    pub(crate) asker: &'a ResolvedModel,
    /// Puts passages in order.
    pub(crate) sorter: &'a ResolvedModel,
    pub(crate) sample: &'a Sample,
    /// Eval set and arm, for messages.
    pub(crate) name: (&'a str, &'a str),
}

impl<'a> LayJob<'a> {
    fn call(&self, question: &Question) -> Result<Call<'a>, BackendError> {
        let request = Request {
            messages: question.messages.clone(),
            max_tokens: question.max_tokens,
            temperature: 0.0,
            top_p: None,
            seed: 0,
            stop: Vec::new(),
            constraint: question.constraint.clone(),
            top_logprobs: 0,
        };
        let model = match question.kind {
            CallKind::Rerank => self.sorter,
            CallKind::Sample | CallKind::Rewrite | CallKind::FollowUp | CallKind::Reward => {
                self.asker
            }
        };
        Call::new(model, None, request, None, self.name)
    }
}

/// Lays out prompts, and asks what must be asked first. Gives the prompts, `None` where the run is
/// to stop before one is there, and the keys of what was asked for them, now or earlier.
pub(crate) fn lay_all(
    desk: &mut Desk<'_>,
    jobs: &[LayJob<'_>],
) -> Result<(Vec<Option<Laid>>, BTreeSet<String>), RunError> {
    let mut laid: Vec<Option<Laid>> = vec![None; jobs.len()];
    let mut keys = BTreeSet::new();
    loop {
        let mut calls = Vec::new();
        for (job, laid) in jobs.iter().zip(&mut laid).filter(|(_, laid)| laid.is_none()) {
            let replies = |question: &Question| {
                let key = job.call(question).ok()?.key;
                desk.outcome(&key).map(|outcome| call_record(question.kind, outcome))
            };
            match job.layout.lay(job.sample, &replies)? {
                Step::Done(done) => *laid = Some(done),
                Step::Ask(question) => calls.push(job.call(&question)?),
            }
        }
        keys.extend(calls.iter().map(|call| call.key.clone()));
        if calls.is_empty() || desk.ask(&calls)? == 0 {
            return Ok((laid, keys));
        }
    }
}

impl Desk<'_> {
    /// The outcome of a call, if it counts in this run.
    pub(crate) fn outcome(&self, key: &str) -> Option<&Outcome> {
        let outcome = self.store.answer(key)?;
        let counts = self.options.score_only
            || self.asked.contains(key)
            || match outcome {
                Outcome::Failed { .. } => !self.options.retry_failed,
                Outcome::Answered(_) => !self.options.no_cache,
            };
        counts.then_some(outcome)
    }

    /// Makes the calls that have no outcome, one loaded model after the other: memory holds one set
    /// of weights at a time, and no arm's latency is measured while another model computes. Gives
    /// the number of calls made; fewer than asked for where the run is to stop, none where it is to
    /// score only.
    pub(crate) fn ask(&mut self, calls: &[Call<'_>]) -> Result<usize, RunError> {
        if self.options.score_only {
            return Ok(0);
        }
        let mut groups: Vec<(String, Vec<&Call<'_>>)> = Vec::new();
        let mut seen = BTreeSet::new();
        for call in calls {
            if self.outcome(&call.key).is_some() || !seen.insert(&call.key) {
                continue;
            }
            let adapter = call.adapter.map_or("", |adapter| adapter.digest.as_str());
            let group = format!("{}/{adapter}", call.model.entry.digest);
            match groups.iter_mut().find(|(name, _)| *name == group) {
                Some((_, members)) => members.push(call),
                None => groups.push((group, vec![call])),
            }
        }
        let mut answered = 0;
        for (_, mut members) in groups {
            if self.stop.is_requested() {
                break;
            }
            // Prompts of one arm begin alike, and a backend may keep what it has read.
            members.sort_by_key(|call| (call.arm, call.tokens));
            let started = Instant::now();
            let first = members[0];
            let adapter = first.adapter.map(|adapter| adapter.folder.as_path());
            let generator = self.load(first.model, adapter)?;
            self.parity(first, generator.as_ref())?;
            answered += self.ask_one(&members, generator.as_ref())?;
            drop(generator);
            add_seconds(&mut self.store.state, "generate", started.elapsed().as_secs_f64());
            self.note_memory();
            self.store.save_state()?;
        }
        Ok(answered)
    }

    /// What answers: a model, or a classifier over embeddings.
    fn load(
        &self,
        model: &ResolvedModel,
        adapter: Option<&Path>,
    ) -> Result<Arc<dyn Generator>, BackendError> {
        match (&model.place, adapter) {
            (Place::Embedder(source), Some(folder)) => {
                let embedder = self.backends.embedder(source, self.progress)?;
                Ok(Arc::new(Classifies::open(folder, embedder)?))
            }
            _ => self.backends.load(model, adapter),
        }
    }

    fn ask_one(
        &mut self,
        members: &[&Call<'_>],
        generator: &dyn Generator,
    ) -> Result<usize, RunError> {
        let names: BTreeSet<&str> = members.iter().map(|call| call.arm).collect();
        let what = names.into_iter().collect::<Vec<_>>().join(", ");
        let task = self.progress.begin(Stage::Generate, &what, members.len() as u64);
        let stop = self.stop;
        let (store, runtime, asked) = (&mut self.store, &self.runtime, &mut self.asked);
        runtime.block_on(async {
            let pending = members.iter().take_while(|_| !stop.is_requested());
            let mut answers = stream::iter(pending)
                .map(|call| async move { (*call, call.answered_by(generator).await) })
                .buffer_unordered(self.concurrency);
            let (mut done, mut failed, mut tokens) = (0, 0, 0);
            let started = Instant::now();
            while let Some((call, result)) = answers.next().await {
                let outcome = match result {
                    Ok(completion) => {
                        tokens += u64::from(completion.tokens_out);
                        Outcome::Answered(Answer {
                            text: completion.text,
                            tokens_in: completion.tokens_in,
                            tokens_out: completion.tokens_out,
                            first_token_ms: completion.first_token_ms,
                            latency_ms: completion.latency_ms,
                            retrieval_ms: call.retrieval_ms,
                            finish: completion.finish,
                            cost_usd: None,
                            full_text: None,
                        })
                    }
                    Err(error) if error.kind == BackendErrorKind::Fatal => return Err(error.into()),
                    Err(error) => {
                        failed += 1;
                        Outcome::Failed { error: error.chain() }
                    }
                };
                store.put_answer(&call.key, outcome)?;
                asked.insert(call.key.clone());
                done += 1;
                let rate = tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
                let failures =
                    if failed > 0 { format!(", {failed} failed") } else { String::new() };
                task.advance(done as u64, &format!("{rate:.0} tokens/s{failures}"));
            }
            Ok(done)
        })
    }

    /// Before a fine-tuned arm answers: do trainer and server agree about its adapter? Before another one
    /// does: may its model be served as it is?
    fn parity(&mut self, call: &Call<'_>, generator: &dyn Generator) -> Result<(), RunError> {
        let Some(adapter) = call.adapter else { return self.prove(call.model, generator) };
        if adapter.probes.is_empty() || self.store.state.parity.contains_key(&adapter.digest) {
            return Ok(());
        }
        let started = Instant::now();
        let task = self.progress.begin(Stage::Check, "trainer and server agree", 2);
        let Some(trainer) = &adapter.trainer else { return Ok(()) };
        let trained = trainer.probe(&adapter.base, Some(&adapter.folder), &adapter.probes)?;
        task.advance(1, "");
        let served = self.runtime.block_on(generator.probe(&adapter.probes))?;
        task.advance(2, "");
        let tolerance = Tolerance::of(&call.model.entry.dtype);
        let (agreement, table) = compare_probes(&trained, &served, TRAINED_AND_SERVED, tolerance);
        if !table.is_empty() {
            let (arm, set) = (call.arm.to_owned(), call.set.to_owned());
            return Err(RunError::Parity { arm, set, table });
        }
        let base_tokens = match adapter.served {
            Served::Decoder => self.base_agrees(call, adapter)?,
            Served::Adapter | Served::Merged | Served::Classifier | Served::Reward => None,
        };
        let set = call.set.to_owned();
        let entry = ParityEntry { set, seed: adapter.seed, agreement, base_tokens };
        self.store.state.parity.insert(adapter.digest.clone(), entry);
        add_seconds(&mut self.store.state, "check", started.elapsed().as_secs_f64());
        Ok(self.store.save_state()?)
    }

    /// Refuses a model that is served in fewer bits than f32 and does not answer as in f32.
    pub(crate) fn prove(
        &mut self,
        model: &ResolvedModel,
        generator: &dyn Generator,
    ) -> Result<(), RunError> {
        prove(self.backends, model, generator, (&mut self.store, &self.runtime, self.progress))
    }

    /// What our own decoder serves is fair beside the other arms only if it writes what their server
    /// writes where nothing was trained: the same prompts, greedily, on the base model. Gives the
    /// tokens that both wrote.
    fn base_agrees(&self, call: &Call<'_>, adapter: &Adapter) -> Result<Option<u64>, RunError> {
        let Some(own) = self.backends.decoder(call.model)? else { return Ok(None) };
        let requests: Vec<Request> = adapter
            .probes
            .iter()
            .take(BASE_ROWS)
            .map(|row| Request {
                messages: row.messages.clone(),
                max_tokens: BASE_TOKENS,
                temperature: 0.0,
                top_p: None,
                seed: 0,
                stop: Vec::new(),
                constraint: None,
                top_logprobs: 2,
            })
            .collect();
        let written = |generator: &dyn Generator| -> Result<Vec<Completion>, BackendError> {
            self.runtime.block_on(async {
                let mut written = Vec::new();
                for request in &requests {
                    written.push(generator.generate(request).await?);
                }
                Ok(written)
            })
        };
        let ours = written(own.as_ref())?;
        drop(own);
        let theirs = written(self.backends.load(call.model, None)?.as_ref())?;
        let (tokens, table) =
            compare_written(&ours, &theirs, Tolerance::of(&call.model.entry.dtype));
        if table.is_empty() {
            return Ok(Some(tokens));
        }
        let (arm, set) = (call.arm.to_owned(), call.set.to_owned());
        Err(RunError::Parity { arm, set, table })
    }

    pub(crate) fn note_memory(&mut self) {
        let peak = peak_memory_bytes().max(self.peak_before);
        self.store.state.peak_memory_bytes = self.store.state.peak_memory_bytes.max(peak);
    }
}
