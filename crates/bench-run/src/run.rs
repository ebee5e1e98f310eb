//! From prepared arms to records: answer what is not answered yet, judge, assemble.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bench_core::backend::{
    BackendError, BackendErrorKind, Generator, Probe, Progress, Request, Stage,
};
use bench_core::dataset::Sample;
use bench_core::digest;
use bench_core::manifest::{Machine, Manifest, ParityEntry};
use bench_core::plan;
use bench_core::record::{Answer, Outcome, Record, TrialId, Verdict};
use bench_core::spec::{ModelSource, Price};
use futures::stream::{self, StreamExt as _};
use tokio::runtime::Runtime;

use crate::backends::Backends;
use crate::load::{Loaded, LoadedSet, draw};
use crate::prepare::{Adapter, Prepared, PreparedArm, Preparer, add_seconds};
use crate::prompt::Laid;
use crate::score::{self, RubricJudge, Scorer, ScorerContext};
use crate::store::{Store, StoreError};

/// What a caller may choose.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Trials in flight at once; the experiment's setting when absent.
    pub concurrency: Option<u32>,
    /// Only these arms; all when empty.
    pub arms: Vec<String>,
    /// Try failed trials again.
    pub retry_failed: bool,
    /// Answer again what has an answer.
    pub no_cache: bool,
    /// Only score and judge what was answered.
    pub score_only: bool,
    /// Where this runs, for the manifest.
    pub machine: Machine,
    /// The program's version, for the manifest.
    pub program: String,
}

/// Asks a run to end early; what is in flight is finished and kept.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    requested: Arc<AtomicBool>,
    answering: Arc<AtomicBool>,
}

impl Stop {
    /// Asks. True when the run is at a stage that ends by itself soon; false when the caller
    /// should end the process (training and indexing go on from disk next time).
    pub fn request(&self) -> bool {
        self.requested.store(true, Ordering::SeqCst);
        self.answering.load(Ordering::SeqCst)
    }

    fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }
}

/// A run that ended, wholly or because it was asked to.
#[derive(Debug)]
pub struct Finished {
    /// What the run was made of.
    pub manifest: Manifest,
    /// Every trial that has an outcome, in the order of sets, arms and samples.
    pub records: Vec<Record>,
    /// Trials without an outcome, because the run was asked to stop.
    pub missing: usize,
    /// Trials that failed.
    pub failed: usize,
    /// Answers that were made now rather than found.
    pub answered_now: usize,
}

/// A run that could not go on. What it had paid for is kept.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The run folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A model, index or trainer.
    #[error("{}", .0.chain())]
    Backend(#[from] BackendError),
    /// The adapter is not served as it was trained.
    #[error(
        "trainer and server disagree about the adapter of arm `{arm}` on set `{set}`:\n{table}"
    )]
    Parity {
        /// The arm.
        arm: String,
        /// The eval set.
        set: String,
        /// One line per row that differs.
        table: String,
    },
    /// A scorer that `check` could not see to be wrong.
    #[error("scorer `{name}` of set `{set}`: {message}")]
    Scorer {
        /// The scorer.
        name: String,
        /// The eval set.
        set: String,
        /// What is wrong.
        message: String,
    },
}

/// Runs an experiment, or goes on with one: what has an answer under the same key is not asked
/// again.
///
/// # Errors
/// When a backend cannot start or a fatal failure stops the run. Answers made until then are kept.
pub fn run(
    loaded: &Loaded,
    backends: &dyn Backends,
    options: &Options,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Finished, RunError> {
    let experiment = &loaded.experiment;
    let folder = PathBuf::from(&experiment.run.runs).join(&experiment.name);
    let mut store = Store::open(&folder)?;
    let chosen = |name: &str| options.arms.is_empty() || options.arms.iter().any(|arm| arm == name);
    let prepared =
        Preparer::new(loaded, backends, progress, folder).prepare(&chosen, &mut store)?;
    store.save_state()?;
    let runtime = Runtime::new().map_err(|error| BackendError::fatal("tokio", error))?;
    let mut run =
        Runner { loaded, backends, options, progress, stop, store, runtime, prepared: &prepared };
    let trials = run.trials()?;
    let mut answered_now = 0;
    if !options.score_only {
        stop.answering.store(true, Ordering::SeqCst);
        answered_now = run.answer(&trials)?;
    }
    run.judge(&trials)?;
    stop.answering.store(false, Ordering::SeqCst);
    run.finish(&trials, answered_now)
}

struct Runner<'a> {
    loaded: &'a Loaded,
    backends: &'a dyn Backends,
    options: &'a Options,
    progress: &'a dyn Progress,
    stop: &'a Stop,
    store: Store,
    runtime: Runtime,
    prepared: &'a Prepared,
}

/// One trial with its prompt laid out.
struct Ready<'a> {
    arm: &'a PreparedArm,
    adapter: Option<&'a Adapter>,
    set: &'a LoadedSet,
    sample: &'a Sample,
    repeat: u32,
    laid: Laid,
    request: Request,
    key: String,
    /// Prompt tokens where they can be counted: trials of like length are answered together.
    tokens: u32,
}

impl<'a> Runner<'a> {
    /// Every trial, with its prompt and key, in the order of the report.
    fn trials(&self) -> Result<Vec<Ready<'a>>, BackendError> {
        let mut all = Vec::new();
        for arm in &self.prepared.arms {
            let set = &self.loaded.sets[arm.set];
            let mut laid: BTreeMap<&str, Laid> = BTreeMap::new();
            for sample in &set.samples {
                laid.insert(&sample.id, arm.layout.lay(sample)?);
            }
            for adapter in &arm.adapters {
                let one = std::slice::from_ref(arm);
                for trial in plan::trials(one, &set.samples, self.loaded.experiment.run.epochs) {
                    let laid = &laid[trial.sample.id.as_str()];
                    all.push(self.ready(&trial, adapter.as_ref(), set, laid)?);
                }
            }
        }
        Ok(all)
    }

    fn ready(
        &self,
        trial: &plan::Trial<'a, PreparedArm>,
        adapter: Option<&'a Adapter>,
        set: &'a LoadedSet,
        laid: &Laid,
    ) -> Result<Ready<'a>, BackendError> {
        let generate = &self.loaded.experiment.generate;
        let request = Request {
            messages: laid.messages.clone(),
            max_tokens: set.spec.max_tokens.unwrap_or(generate.max_tokens),
            temperature: generate.temperature,
            top_p: generate.top_p,
            seed: generate.seed + u64::from(trial.repeat),
            stop: generate.stop.clone(),
            constraint: None,
            top_logprobs: 0,
        };
        let adapter_digest = adapter.map_or("", |adapter| adapter.digest.as_str());
        let key = digest::of_json(&(&trial.arm.model.entry.digest, adapter_digest, &request));
        let tokens = match &trial.arm.layout.counter {
            Some(counter) => counter.count(&request.messages)?,
            None => 0,
        };
        Ok(Ready {
            arm: trial.arm,
            adapter,
            set,
            sample: trial.sample,
            repeat: trial.repeat,
            laid: laid.clone(),
            request,
            key,
            tokens,
        })
    }

    fn has_answer(&self, key: &str) -> bool {
        match self.store.answer(key) {
            None => false,
            Some(Outcome::Failed { .. }) => !self.options.retry_failed,
            Some(Outcome::Answered(_)) => !self.options.no_cache,
        }
    }

    /// Answers what has no answer, one loaded model after the other: memory holds one set of
    /// weights at a time, and no arm's latency is measured while another model computes.
    fn answer(&mut self, trials: &[Ready<'a>]) -> Result<usize, RunError> {
        let mut groups: Vec<(String, Vec<&Ready<'a>>)> = Vec::new();
        let mut seen = BTreeSet::new();
        for trial in trials {
            if self.has_answer(&trial.key) || !seen.insert(&trial.key) {
                continue;
            }
            let adapter = trial.adapter.map_or("", |adapter| adapter.digest.as_str());
            let group = format!("{}/{adapter}", trial.arm.model.entry.digest);
            match groups.iter_mut().find(|(name, _)| *name == group) {
                Some((_, members)) => members.push(trial),
                None => groups.push((group, vec![trial])),
            }
        }
        let mut answered = 0;
        for (_, mut members) in groups {
            if self.stop.is_requested() {
                break;
            }
            members.sort_by_key(|trial| trial.tokens);
            let started = Instant::now();
            let first = members[0];
            let generator = self
                .backends
                .load(&first.arm.model, first.adapter.map(|adapter| adapter.folder.as_path()))?;
            self.parity(first, generator.as_ref())?;
            answered += self.answer_group(&members, generator.as_ref())?;
            drop(generator);
            add_seconds(&mut self.store.state, "generate", started.elapsed().as_secs_f64());
            self.note_memory();
            self.store.save_state()?;
        }
        Ok(answered)
    }

    fn answer_group(
        &mut self,
        members: &[&Ready<'a>],
        generator: &dyn Generator,
    ) -> Result<usize, RunError> {
        let names: BTreeSet<&str> =
            members.iter().map(|trial| trial.arm.plan.name.as_str()).collect();
        let what = names.into_iter().collect::<Vec<_>>().join(", ");
        let task = self.progress.begin(Stage::Generate, &what, members.len() as u64);
        let concurrency =
            self.options.concurrency.unwrap_or(self.loaded.experiment.run.max_concurrency).max(1)
                as usize;
        let stop = self.stop;
        let (store, runtime) = (&mut self.store, &self.runtime);
        runtime.block_on(async {
            let pending = members.iter().take_while(|_| !stop.is_requested());
            let mut answers = stream::iter(pending)
                .map(|trial| async move { (*trial, generator.generate(&trial.request).await) })
                .buffer_unordered(concurrency);
            let (mut done, mut failed, mut tokens) = (0, 0, 0);
            let started = Instant::now();
            while let Some((trial, result)) = answers.next().await {
                let outcome = match result {
                    Ok(completion) => {
                        tokens += u64::from(completion.tokens_out);
                        Outcome::Answered(Answer {
                            text: completion.text,
                            tokens_in: completion.tokens_in,
                            tokens_out: completion.tokens_out,
                            first_token_ms: completion.first_token_ms,
                            latency_ms: completion.latency_ms,
                            retrieval_ms: trial.laid.retrieval_ms,
                            finish: completion.finish,
                            cost_usd: None,
                        })
                    }
                    Err(error) if error.kind == BackendErrorKind::Fatal => return Err(error.into()),
                    Err(error) => {
                        failed += 1;
                        Outcome::Failed { error: error.chain() }
                    }
                };
                store.put_answer(&trial.key, outcome)?;
                done += 1;
                let rate = tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
                let failures =
                    if failed > 0 { format!(", {failed} failed") } else { String::new() };
                task.advance(done as u64, &format!("{rate:.0} tokens/s{failures}"));
            }
            Ok(done)
        })
    }

    /// Before a fine-tuned arm answers: do trainer and server agree about its adapter?
    fn parity(&mut self, trial: &Ready<'_>, generator: &dyn Generator) -> Result<(), RunError> {
        let Some(adapter) = trial.adapter else { return Ok(()) };
        if adapter.probes.is_empty() || self.store.state.parity.contains_key(&adapter.digest) {
            return Ok(());
        }
        let started = Instant::now();
        let task = self.progress.begin(Stage::Check, "trainer and server agree", 2);
        let trained =
            adapter.trainer.probe(&adapter.base, Some(&adapter.folder), &adapter.probes)?;
        task.advance(1, "");
        let served = self.runtime.block_on(generator.probe(&adapter.probes))?;
        task.advance(2, "");
        let (entry, table) = compare_probes(&trained, &served);
        if !table.is_empty() {
            let (arm, set) = (trial.arm.plan.name.clone(), trial.set.spec.name.clone());
            return Err(RunError::Parity { arm, set, table });
        }
        let entry = ParityEntry { set: trial.set.spec.name.clone(), seed: adapter.seed, ..entry };
        self.store.state.parity.insert(adapter.digest.clone(), entry);
        add_seconds(&mut self.store.state, "check", started.elapsed().as_secs_f64());
        Ok(self.store.save_state()?)
    }

    /// Judges what the experiment asks to be judged and has no judgement yet.
    fn judge(&mut self, trials: &[Ready<'a>]) -> Result<(), RunError> {
        let Some(judge) = &self.loaded.experiment.judge else { return Ok(()) };
        let mut pending = Vec::new();
        let mut seen = BTreeSet::new();
        for trial in trials {
            let Some((key, answer)) = self.to_judge(trial) else { continue };
            let known = match self.store.verdict(&key) {
                None => false,
                Some(Verdict::Unscored { .. }) => !self.options.retry_failed,
                Some(Verdict::Scored { .. }) => true,
            };
            if !known && seen.insert(key.clone()) {
                pending.push((key, trial.sample, answer));
            }
        }
        if pending.is_empty() || self.stop.is_requested() {
            return Ok(());
        }
        // Judge prompts share the rubric and, sample by sample, the question: neighbours reuse the
        // prefix that is already computed.
        pending.sort_by(|a, b| a.1.id.cmp(&b.1.id));
        let started = Instant::now();
        let rubric = self.loaded.rubric.clone().unwrap_or_default();
        let generator = self.backends.load(&self.prepared.models[&judge.model], None)?;
        let scorer = RubricJudge::new(judge, rubric, generator);
        let task = self.progress.begin(Stage::Judge, &judge.model, pending.len() as u64);
        let concurrency =
            self.options.concurrency.unwrap_or(self.loaded.experiment.run.max_concurrency).max(1)
                as usize;
        let (store, runtime, stop) = (&mut self.store, &self.runtime, self.stop);
        runtime.block_on(async {
            let scorer = &scorer;
            let mut verdicts =
                stream::iter(pending.iter().take_while(|_| !stop.is_requested()))
                    .map(|(key, sample, answer)| async move {
                        (key, scorer.score(sample, answer).await)
                    })
                    .buffer_unordered(concurrency);
            let mut done = 0;
            while let Some((key, result)) = verdicts.next().await {
                let verdict = match result {
                    Ok(verdict) => verdict,
                    Err(error) if error.kind == BackendErrorKind::Fatal => {
                        return Err(RunError::from(error));
                    }
                    Err(error) => Verdict::unscored(error.chain()),
                };
                store.put_verdict(key, verdict)?;
                done += 1;
                task.advance(done, "");
            }
            Ok(())
        })?;
        add_seconds(&mut self.store.state, "judge", started.elapsed().as_secs_f64());
        self.note_memory();
        Ok(self.store.save_state()?)
    }

    /// The judgement's key and the answer, when this trial is to be judged and has an answer.
    fn to_judge(&self, trial: &Ready<'_>) -> Option<(String, String)> {
        let judge = self.loaded.experiment.judge.as_ref()?;
        let name = &trial.set.spec.name;
        if judge.on.as_ref().is_some_and(|on| !on.contains(name)) {
            return None;
        }
        if let Some(n) = judge.sample {
            let seed = self.loaded.experiment.run.seed;
            let drawn = draw(&trial.set.samples, n as usize, seed, |_, sample| {
                format!("judge/{}", sample.id)
            });
            if !drawn.iter().any(|sample| sample.id == trial.sample.id) {
                return None;
            }
        }
        let Some(Outcome::Answered(answer)) = self.store.answer(&trial.key) else { return None };
        let model = &self.prepared.models[&judge.model].entry.digest;
        let accepted: Vec<&str> = trial.sample.accepted().collect();
        let key = digest::of_json(&(
            RubricJudge::VERSION,
            model,
            &self.loaded.rubric,
            &judge.grades,
            &trial.sample.input,
            &accepted,
            &answer.text,
        ));
        Some((key, answer.text.clone()))
    }

    fn note_memory(&mut self) {
        self.store.state.peak_memory_bytes =
            self.store.state.peak_memory_bytes.max(peak_memory_bytes());
    }

    fn finish(self, trials: &[Ready<'a>], answered_now: usize) -> Result<Finished, RunError> {
        let mut scorers: Vec<Vec<Box<dyn Scorer>>> = Vec::new();
        for set in &self.loaded.sets {
            scorers.push(self.scorers(set)?);
        }
        let mut records = Vec::new();
        let (mut missing, mut failed) = (0, 0);
        for trial in trials {
            let Some(outcome) = self.store.answer(&trial.key) else {
                missing += 1;
                continue;
            };
            let mut outcome = outcome.clone();
            let mut verdicts = BTreeMap::new();
            match &mut outcome {
                Outcome::Failed { .. } => failed += 1,
                Outcome::Answered(answer) => {
                    answer.cost_usd = self.cost(trial, answer);
                    for scorer in &scorers[trial.arm.set] {
                        let scored =
                            self.runtime.block_on(scorer.score(trial.sample, &answer.text));
                        let verdict =
                            scored.unwrap_or_else(|error| Verdict::unscored(error.chain()));
                        verdicts.insert(scorer.name().to_owned(), verdict);
                    }
                    if let Some((key, _)) = self.to_judge(trial)
                        && let Some(verdict) = self.store.verdict(&key)
                    {
                        verdicts.insert("judge".into(), verdict.clone());
                    }
                }
            }
            records.push(record(trial, outcome, verdicts));
        }
        Ok(Finished { manifest: self.manifest(), records, missing, failed, answered_now })
    }

    fn scorers(&self, set: &LoadedSet) -> Result<Vec<Box<dyn Scorer>>, RunError> {
        let wants_embedder = set
            .spec
            .scorers
            .iter()
            .any(|scorer| matches!(scorer, bench_core::spec::Scorer::EmbeddingSimilarity {}));
        let embedder = match &self.prepared.embedder {
            Some(embedder) => Some(Arc::clone(embedder)),
            None if wants_embedder => {
                Some(self.backends.embedder(&self.loaded.experiment.embedder, self.progress)?)
            }
            None => None,
        };
        let context = ScorerContext {
            embedder,
            schema_text: set.schema.clone(),
            folder: self.loaded.folder.clone(),
            abstentions: score::abstention::phrases(&set.samples),
        };
        let build = |spec: &bench_core::spec::Scorer| {
            score::build(spec, &context).map_err(|message| RunError::Scorer {
                name: spec.name().into(),
                set: set.spec.name.clone(),
                message,
            })
        };
        set.spec.scorers.iter().map(build).collect()
    }

    /// By the price list: tokens, and the machine's time shared by the trials in flight.
    fn cost(&self, trial: &Ready<'_>, answer: &Answer) -> Option<f64> {
        let price: &Price = self.loaded.experiment.prices.get(&trial.arm.plan.model)?;
        let concurrency = f64::from(
            self.options.concurrency.unwrap_or(self.loaded.experiment.run.max_concurrency).max(1),
        );
        Some(
            f64::from(answer.tokens_in) * price.input / 1e6
                + f64::from(answer.tokens_out) * price.output / 1e6
                + answer.latency_ms / 3.6e6 / concurrency * price.machine_hour,
        )
    }

    fn manifest(&self) -> Manifest {
        let experiment = &self.loaded.experiment;
        let mut warnings = self.loaded.warnings.clone();
        if experiment.models.values().any(|model| matches!(model, ModelSource::Scripted(_))) {
            warnings
                .push("a scripted backend answered: these figures are not a measurement".into());
        }
        if experiment.judge.as_ref().is_some_and(|judge| judge.allow_self_judging) {
            warnings
                .push("the judge may judge its own model's answers (`allow_self_judging`)".into());
        }
        for entry in &self.prepared.training {
            if entry.outcome.rows_too_long > 0 {
                warnings.push(format!(
                    "set `{}`: {} of {} training rows are longer than `sequence_len` and were left out",
                    entry.set, entry.outcome.rows_too_long, entry.rows
                ));
            }
        }
        let parity = self
            .prepared
            .arms
            .iter()
            .flat_map(|arm| arm.adapters.iter().flatten())
            .map(|adapter| adapter.digest.as_str())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter_map(|digest| self.store.state.parity.get(digest).cloned())
            .collect();
        Manifest {
            format: Manifest::FORMAT,
            program: self.options.program.clone(),
            experiment: experiment.clone(),
            plan_digest: self.loaded.plan_digest.clone(),
            files: self.loaded.files.clone(),
            models: self
                .prepared
                .models
                .iter()
                .map(|(name, model)| (name.clone(), model.entry.clone()))
                .collect(),
            training: self.prepared.training.clone(),
            indexes: self.prepared.indexes.clone(),
            parity,
            machine: self.options.machine.clone(),
            seconds: self.store.state.seconds.clone(),
            peak_memory_bytes: self.store.state.peak_memory_bytes,
            warnings,
        }
    }
}

fn record(trial: &Ready<'_>, outcome: Outcome, verdicts: BTreeMap<String, Verdict>) -> Record {
    let slices = trial
        .set
        .spec
        .slices
        .iter()
        .filter_map(|field| Some((field.clone(), trial.sample.meta_text(field)?)))
        .collect();
    Record {
        trial: TrialId {
            set: trial.set.spec.name.clone(),
            arm: trial.arm.plan.name.clone(),
            sample: trial.sample.id.clone(),
            repeat: trial.repeat,
            train_seed: trial.adapter.map_or(0, |adapter| adapter.seed),
        },
        key: trial.key.clone(),
        input: trial.sample.input.clone(),
        references: trial.sample.accepted().map(str::to_owned).collect(),
        cluster: trial.sample.cluster(),
        slices,
        prompt: trial.laid.messages.clone(),
        retrieved: trial.laid.retrieved.clone(),
        gold: trial.sample.context_ids.clone(),
        outcome,
        verdicts,
    }
}

/// Largest difference of a row's mean negative log-likelihood that kernels may cause, in nats.
const NLL_TOLERANCE: f64 = 1e-2;

/// Compares both sides row by row; the table is empty when they agree.
fn compare_probes(trained: &[Probe], served: &[Probe]) -> (ParityEntry, String) {
    let mut entry = ParityEntry {
        set: String::new(),
        seed: 0,
        rows: trained.len() as u64,
        tokens: 0,
        top1_agree: 0,
        max_nll_difference: 0.0,
    };
    let mut table = String::new();
    for (row, (ours, theirs)) in trained.iter().zip(served).enumerate() {
        if ours.token_ids != theirs.token_ids {
            let at =
                ours.token_ids.iter().zip(&theirs.token_ids).take_while(|(a, b)| a == b).count();
            writeln!(
                table,
                "  row {row}: token {at} is {:?} in training and {:?} in serving",
                ours.token_ids.get(at),
                theirs.token_ids.get(at)
            )
            .ok();
            continue;
        }
        let agree = ours.top1.iter().zip(&theirs.top1).filter(|(a, b)| a == b).count();
        let tokens = ours.top1.len();
        let difference = (ours.nll - theirs.nll).abs();
        entry.tokens += tokens as u64;
        entry.top1_agree += agree as u64;
        entry.max_nll_difference = entry.max_nll_difference.max(difference);
        if agree < tokens
            || theirs.top1.len() != tokens
            || difference.is_nan()
            || difference > NLL_TOLERANCE
        {
            writeln!(table,
                "  row {row}: likeliest token agrees on {agree} of {tokens}; loss {:.4} in training, {:.4} in serving",
                ours.nll, theirs.nll
            ).ok();
        }
    }
    if trained.len() != served.len() {
        writeln!(table, "  {} rows in training, {} in serving", trained.len(), served.len()).ok();
    }
    (entry, table)
}

/// The process's peak resident memory in bytes; 0 where the system does not tell.
pub fn peak_memory_bytes() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests;
