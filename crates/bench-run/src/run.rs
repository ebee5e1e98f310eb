//! From prepared arms to records: answer what is not answered yet, judge, assemble.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bench_core::backend::{BackendError, Progress, Request};
use bench_core::chat::Message;
use bench_core::dataset::Sample;
use bench_core::digest;
use bench_core::manifest::{Machine, Manifest, StopEntry};
use bench_core::plan;
use bench_core::record::{Answer, CallKind, CallRecord, Outcome, Record, TrialId, Verdict};
use bench_core::spec::ModelSource;
use tokio::runtime::Runtime;

use crate::answer::{assemble, assemble_best};
use crate::backends::Backends;
use crate::desk::{Call, Desk, LayJob, lay_all};
use crate::load::{Loaded, LoadedSet};
use crate::prepare::{Adapter, Prepared, PreparedArm, PreparedReward, Preparer};
use crate::prompt::Laid;
use crate::score::{self, Scorer};
use crate::store::{Store, StoreError};

mod judging;
mod rounds;

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
    /// Says why a set is to be asked no further, for experiments with `run.stop`; without it all
    /// samples are asked.
    pub settled: Option<Settled>,
    /// Where this runs, for the manifest.
    pub machine: Machine,
    /// The program's version, for the manifest.
    pub program: String,
}

/// From the experiment, a set's name and its records so far: why it is to be asked no further.
pub type Settled = fn(&bench_core::spec::Experiment, &str, &[Record]) -> Option<String>;

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

    /// Says whether the run is at a stage that ends by itself soon when it is asked to.
    pub(crate) fn will_end(&self, soon: bool) {
        self.answering.store(soon, Ordering::SeqCst);
    }

    pub(crate) fn is_requested(&self) -> bool {
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
    /// Judgements that are missing for the same reason.
    pub unjudged: usize,
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
    /// What no training can be done with, a line for each.
    #[error("before any training:\n{0}")]
    Trainings(String),
    /// The adapter is not served as it was trained.
    #[error(
        "trainer and server disagree about the adapter of arm `{arm}` on set `{set}`, so the arm would not be served as it was trained:\n{table}  where tokens differ, the model's tokenizer or chat template is at fault: compare its tokenizer.json and tokenizer_config.json with the original's; where losses do, please report it with this table"
    )]
    Parity {
        /// The arm.
        arm: String,
        /// The eval set.
        set: String,
        /// One line per row that differs.
        table: String,
    },
    /// The model is another one as it is served.
    #[error(
        "`{model}`, served in {dtype}, does not answer as it does in f32, so its answers would not be the model's:\n{table}  use a build that serves in f32 (without the feature `cuda`), or another model"
    )]
    Unproved {
        /// What the backend calls the model.
        model: String,
        /// Numeric type of the weights as served.
        dtype: String,
        /// One line per row that differs.
        table: String,
    },
    /// The run was asked to stop before its arms were ready.
    #[error("the prompt of an arm is not chosen yet; `bench run` goes on with it")]
    Stopped,
    /// The judge has the weights of an arm under another name.
    #[error(
        "the judge `{judge}` has the same base weights as the model of arm `{arm}`; judge with another model, or set `allow_self_judging: true` and every table says so"
    )]
    SelfJudging {
        /// The judge's name.
        judge: String,
        /// The arm.
        arm: String,
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
    let store = Store::open(&folder)?;
    let concurrency = options.concurrency.unwrap_or(experiment.run.max_concurrency).max(1) as usize;
    let runtime = Runtime::new().map_err(|error| BackendError::fatal("tokio", error))?;
    let asked = BTreeSet::new();
    let mut desk = Desk {
        backends,
        progress,
        stop,
        options,
        store,
        runtime,
        concurrency,
        asked,
        peak_before: 0,
    };
    let chosen = |name: &str| options.arms.is_empty() || options.arms.iter().any(|arm| arm == name);
    let preparer = Preparer::new(loaded, backends, progress, folder).resolve(&chosen)?;
    judging::check_models(loaded, &preparer.prepared.models)?;
    let prepared = preparer.prepare(&chosen, &mut desk)?;
    desk.store.save_state()?;
    let mut run = Runner { loaded, backends, options, progress, stop, desk, prepared: &prepared };
    stop.will_end(true);
    let asked = match (&experiment.run.stop, options.settled) {
        (Some(when), Some(settled)) => run.rounds(when.first as usize, settled)?,
        _ => run.all()?,
    };
    stop.will_end(false);
    run.finish(asked)
}

/// What was asked in the end.
struct Asked<'a> {
    trials: Vec<Ready<'a>>,
    /// Calls made now rather than found.
    answered_now: usize,
    /// Trials that were to be asked and are not laid out or not answered, because the run was asked
    /// to end.
    missing: usize,
    /// Judgements that were to be made, likewise.
    unjudged: usize,
    stopped: Vec<StopEntry>,
}

struct Runner<'a> {
    loaded: &'a Loaded,
    backends: &'a dyn Backends,
    options: &'a Options,
    progress: &'a dyn Progress,
    stop: &'a Stop,
    desk: Desk<'a>,
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
    /// The requests whose answers make the trial's answer.
    calls: Vec<Call<'a>>,
    /// The requests for the reward of each answer that there is, where a reward chooses.
    rewards: Vec<Option<Call<'a>>>,
    key: String,
}

impl<'a> Runner<'a> {
    /// Answers and judges everything.
    fn all(&mut self) -> Result<Asked<'a>, RunError> {
        let (trials, missing, answered_now) = self.trials(&|_, _| true)?;
        let unjudged = self.judge(&trials)?;
        Ok(Asked { trials, answered_now, missing, unjudged, stopped: Vec::new() })
    }

    /// Answers every trial on the samples that are due (by position of their set) and that has no
    /// answer yet. Gives those that are laid out, in the order of the report, the number of those
    /// that are not, and the number of calls made.
    fn trials(
        &mut self,
        due: &dyn Fn(usize, &Sample) -> bool,
    ) -> Result<(Vec<Ready<'a>>, usize, usize), RunError> {
        let (loaded, prepared) = (self.loaded, self.prepared);
        let mut jobs = Vec::new();
        for arm in &prepared.arms {
            let set = &loaded.sets[arm.set];
            let name = (set.spec.name.as_str(), arm.plan.name.as_str());
            let (asker, sorter) = (&arm.asker, &arm.sorter);
            let samples = set.samples.iter().filter(|sample| due(arm.set, sample));
            let layout = &arm.layout;
            jobs.extend(samples.map(|sample| LayJob { layout, asker, sorter, sample, name }));
        }
        let (laid, asked) = lay_all(&mut self.desk, &jobs)?;
        let mut laid = laid.into_iter();
        let (mut all, mut missing) = (Vec::new(), 0);
        for arm in &prepared.arms {
            let set = &loaded.sets[arm.set];
            let laid: BTreeMap<&str, Laid> = set
                .samples
                .iter()
                .filter(|sample| due(arm.set, sample))
                .filter_map(|sample| Some((sample.id.as_str(), laid.next()??)))
                .collect();
            for adapter in &arm.adapters {
                let one = std::slice::from_ref(arm);
                for trial in plan::trials(one, &set.samples, loaded.experiment.run.epochs) {
                    match laid.get(trial.sample.id.as_str()) {
                        _ if !due(arm.set, trial.sample) => {}
                        Some(laid) => all.push(self.ready(&trial, adapter.as_ref(), set, laid)?),
                        None => missing += 1,
                    }
                }
            }
        }
        let calls: Vec<Call<'a>> =
            all.iter().flat_map(|trial| trial.calls.iter().cloned()).collect();
        let answered = asked.intersection(&self.desk.asked).count() + self.desk.ask(&calls)?;
        for trial in &mut all {
            trial.rewards = self.reward_calls(trial)?;
        }
        let calls: Vec<Call<'a>> =
            all.iter().flat_map(|trial| trial.rewards.iter().flatten().cloned()).collect();
        let answered = answered + self.desk.ask(&calls)?;
        Ok((all, missing, answered))
    }

    fn ready(
        &self,
        trial: &plan::Trial<'a, PreparedArm>,
        adapter: Option<&'a Adapter>,
        set: &'a LoadedSet,
        laid: &Laid,
    ) -> Result<Ready<'a>, BackendError> {
        let plan = &trial.arm.plan;
        let request = Request {
            messages: laid.messages.clone(),
            constraint: set.languages.get(&plan.name).map(|one| one.of(trial.sample)),
            ..self.loaded.request(plan, trial.arm.layout.max_tokens)
        };
        let n = u64::from(plan.prompt.draws().0);
        let counter = trial.arm.layout.counter.as_deref();
        let name = (set.spec.name.as_str(), trial.arm.plan.name.as_str());
        let mut calls = Vec::with_capacity(n as usize);
        for sample in 0..n {
            // Repeats share no sample with each other.
            let seed = request.seed + u64::from(trial.repeat) * n + sample;
            let request = Request { seed, ..request.clone() };
            let mut call = Call::new(&trial.arm.model, adapter, request, counter, name)?;
            if let Some(by) = set.spec.likelihood().filter(|_| plan.features.is_none()) {
                call = call.choosing(by, &trial.sample.choices);
            }
            call.retrieval_ms = laid.retrieval_ms;
            calls.push(call);
        }
        let keys: Vec<&String> = calls.iter().map(|call| &call.key).collect();
        let key = match (keys.as_slice(), self.reward(trial.arm)) {
            ([one], None) => (*one).clone(),
            (several, None) => digest::of_json(&several),
            // Another reward may choose another answer.
            (several, Some(reward)) => digest::of_json(&(several, &reward.adapter.digest)),
        };
        Ok(Ready {
            arm: trial.arm,
            adapter,
            set,
            sample: trial.sample,
            repeat: trial.repeat,
            laid: laid.clone(),
            calls,
            rewards: Vec::new(),
            key,
        })
    }

    /// The reward model that chooses among an arm's answers.
    fn reward(&self, arm: &PreparedArm) -> Option<&'a PreparedReward> {
        let best = arm.plan.prompt.best_of.as_ref()?;
        self.prepared.rewards.get(&best.reward)
    }

    /// The question for the reward of each of a trial's answers.
    fn reward_calls(&self, trial: &Ready<'a>) -> Result<Vec<Option<Call<'a>>>, BackendError> {
        let Some(reward) = self.reward(trial.arm) else { return Ok(Vec::new()) };
        let asked = reward.layout.training_turns(&trial.sample.input)?;
        let name = (trial.set.spec.name.as_str(), trial.arm.plan.name.as_str());
        let call = |call: &Call<'a>| {
            let Some(Outcome::Answered(answer)) = self.desk.store.answer(&call.key) else {
                return Ok(None);
            };
            let mut messages = asked.clone();
            messages.push(Message::assistant(answer.text.clone()));
            let request = Request {
                messages,
                max_tokens: 1,
                temperature: 0.0,
                top_p: None,
                seed: 0,
                stop: Vec::new(),
                constraint: None,
                top_logprobs: 0,
            };
            Call::new(&reward.model, Some(&reward.adapter), request, None, name).map(Some)
        };
        trial.calls.iter().map(call).collect()
    }

    /// What became of a trial: its answer made of those of its calls; `None` while any is missing.
    fn outcome(&self, trial: &Ready<'_>) -> Option<(Outcome, Vec<CallRecord>)> {
        let outcomes: Option<Vec<&Outcome>> =
            trial.calls.iter().map(|call| self.desk.store.answer(&call.key)).collect();
        let (outcomes, pattern) = (outcomes?, trial.arm.final_answer.as_ref());
        let (mut outcome, calls) = if self.reward(trial.arm).is_some() {
            let rewards: Option<Vec<Option<&Outcome>>> = trial
                .rewards
                .iter()
                .map(|call| match call {
                    Some(call) => self.desk.store.answer(&call.key).map(Some),
                    None => Some(None),
                })
                .collect();
            assemble_best(pattern, &outcomes, &rewards?)
        } else {
            assemble(pattern, &outcomes)
        };
        // What was asked to lay out the prompt belongs to the answer's cost.
        if let Outcome::Answered(answer) = &mut outcome {
            for call in &trial.laid.calls {
                answer.tokens_in += call.tokens_in;
                answer.tokens_out += call.tokens_out;
                answer.latency_ms += call.latency_ms;
                answer.first_token_ms = None;
            }
        }
        Some((outcome, trial.laid.calls.iter().cloned().chain(calls).collect()))
    }

    fn finish(self, asked: Asked<'a>) -> Result<Finished, RunError> {
        let Told { records, missing, failed, labelled, warnings } = self.records(&asked.trials)?;
        let mut manifest = Manifest { stopped: asked.stopped, ..self.manifest() };
        manifest.warnings.extend(warnings);
        manifest.warnings.extend(self.unused_labels(labelled));
        let (missing, answered_now) = (missing + asked.missing, asked.answered_now);
        let unjudged = asked.unjudged;
        manifest.warnings.extend(self.loaded.sets.iter().filter_map(limited));
        if missing > 0 {
            let (answered, all) = (records.len(), records.len() + missing);
            let why = if self.options.score_only {
                "only what was answered before was scored"
            } else {
                "the run was interrupted"
            };
            manifest.warnings.push(format!(
                "this report is partial: {why}, with {answered} of {all} trials answered; `bench run` goes on with the others"
            ));
        }
        if unjudged > 0 {
            manifest.warnings.push(format!(
                "{unjudged} judgements are missing, because the run was interrupted; `bench run` goes on with them"
            ));
        }
        Ok(Finished { manifest, records, missing, unjudged, failed, answered_now })
    }

    /// The records of all trials that have an outcome.
    fn records(&self, trials: &[Ready<'a>]) -> Result<Told, RunError> {
        let mut scorers: Vec<Vec<Box<dyn Scorer>>> = Vec::new();
        for set in &self.loaded.sets {
            scorers.push(self.scorers(set)?);
        }
        let mut records = Vec::new();
        let (mut missing, mut failed) = (0, 0);
        let opinions = self.opinions(trials);
        let labelled = opinions.iter().map(|opinion| opinion.labels).sum::<usize>();
        let mut formless: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        // Replies without an order among those that were to sort passages.
        let mut sorted: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
        for (trial, opinion) in trials.iter().zip(opinions) {
            let Some((mut outcome, calls)) = self.outcome(trial) else {
                missing += 1;
                continue;
            };
            let place = (trial.set.spec.name.as_str(), trial.arm.plan.name.as_str());
            for call in calls.iter().filter(|call| call.kind == CallKind::Rerank) {
                let (unsorted, all) = sorted.entry(place).or_default();
                *unsorted += usize::from(call.failed);
                *all += 1;
            }
            let mut verdicts = BTreeMap::new();
            match &mut outcome {
                Outcome::Failed { .. } => failed += 1,
                Outcome::Answered(answer) => {
                    if let (Some(pattern), Some(text)) =
                        (&trial.arm.final_answer, &answer.full_text)
                        && !pattern.is_match(text)
                    {
                        *formless.entry(place).or_default() += 1;
                    }
                    answer.cost_usd = self.cost(trial, answer);
                    for scorer in &scorers[trial.arm.set] {
                        let scored = self.desk.runtime.block_on(scorer.score_shown(
                            trial.sample,
                            &answer.text,
                            &trial.laid.retrieved,
                        ));
                        let verdict =
                            scored.unwrap_or_else(|error| Verdict::unscored(error.chain()));
                        verdicts.insert(scorer.name().to_owned(), verdict);
                    }
                    verdicts.extend(opinion.verdicts);
                }
            }
            records.push(Record {
                preferences: opinion.preferences,
                ..record(trial, outcome, calls, verdicts)
            });
        }
        let warnings = formless.into_iter().map(|((set, arm), count)| {
            format!(
                "set `{set}`, arm `{arm}`: {count} without a final answer; the last line of each was scored"
            )
        });
        let unsorted = sorted.into_iter().filter(|(_, (unsorted, _))| *unsorted > 0);
        let unsorted = unsorted.map(|((set, arm), (unsorted, all))| {
            format!(
                "set `{set}`, arm `{arm}`: {unsorted} of {all} replies that were to sort passages hold no order; those passages stayed as the search ranked them"
            )
        });
        let warnings = warnings.chain(unsorted).collect();
        Ok(Told { records, missing, failed, labelled, warnings })
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
        let context = score::context(self.loaded, set, embedder);
        let build = |spec: &bench_core::spec::Scorer| {
            score::build(spec, &context).map_err(|message| RunError::Scorer {
                name: spec.name().into(),
                set: set.spec.name.clone(),
                message,
            })
        };
        let computed = set
            .spec
            .scorers
            .iter()
            .filter(|scorer| !matches!(scorer, bench_core::spec::Scorer::Judge {}));
        computed.map(build).collect()
    }

    /// By the price list: tokens, and the machine's time shared by the trials in flight.
    fn cost(&self, trial: &Ready<'_>, answer: &Answer) -> Option<f64> {
        let in_flight = f64::from(
            self.options.concurrency.unwrap_or(self.loaded.experiment.run.max_concurrency).max(1),
        );
        let prices = &self.loaded.experiment.prices;
        prices.of_trial(&trial.arm.plan, answer, &trial.laid.calls, in_flight)
    }

    fn manifest(&self) -> Manifest {
        let experiment = &self.loaded.experiment;
        let mut warnings = self.loaded.warnings.clone();
        warnings.extend(self.prepared.warnings.iter().cloned());
        if experiment.models.values().any(|model| matches!(model, ModelSource::Scripted(_))) {
            warnings
                .push("a scripted backend answered: these figures are not a measurement".into());
        }
        if experiment.judge.as_ref().is_some_and(|judge| judge.allow_self_judging) {
            warnings
                .push("the judge may judge its own model's answers (`allow_self_judging`)".into());
        }
        for entry in &self.prepared.training {
            warnings.extend(entry.notes());
        }
        let parity = self
            .prepared
            .arms
            .iter()
            .flat_map(|arm| arm.adapters.iter().flatten())
            .map(|adapter| adapter.digest.as_str())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter_map(|digest| self.desk.store.state.parity.get(digest).cloned())
            .collect();
        let proofs = self
            .prepared
            .models
            .values()
            .map(|model| model.entry.digest.as_str())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter_map(|digest| self.desk.store.state.proofs.get(digest).cloned())
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
            scorers: experiment
                .eval_sets
                .iter()
                .flat_map(|set| &set.scorers)
                .map(|scorer| (scorer.name().to_owned(), scorer.version()))
                .collect(),
            training: self.prepared.training.clone(),
            indexes: self.prepared.indexes.clone(),
            parity,
            proofs,
            judging: self.judging_entries(),
            stopped: Vec::new(),
            machine: self.options.machine.clone(),
            seconds: self.desk.store.state.seconds.clone(),
            peak_memory_bytes: self.desk.store.state.peak_memory_bytes,
            warnings,
            tuning: self.prepared.tuning.clone(),
        }
    }
}

/// That a set was asked on fewer samples than the experiment declares.
fn limited(set: &LoadedSet) -> Option<String> {
    let declared = set.spec.limit.map_or(usize::MAX, |limit| limit as usize).min(set.ids.len());
    let asked = set.samples.len();
    (asked < declared).then(|| {
        format!(
            "this report is partial: set `{}` was limited to {asked} of {declared} samples (`--limit`)",
            set.spec.name
        )
    })
}

/// The records of some trials.
struct Told {
    records: Vec<Record>,
    /// Trials without an outcome.
    missing: usize,
    failed: usize,
    /// People's labels that are of these answers.
    labelled: usize,
    warnings: Vec<String>,
}

fn record(
    trial: &Ready<'_>,
    outcome: Outcome,
    calls: Vec<CallRecord>,
    verdicts: BTreeMap<String, Verdict>,
) -> Record {
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
        qrels: trial.sample.qrels.clone(),
        outcome,
        verdicts,
        calls,
        budget: trial.laid.budget,
        unanswerable: !trial.sample.answerable(),
        preferences: Vec::new(),
    }
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
