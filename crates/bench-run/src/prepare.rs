//! Making every arm ready to answer: find its model, build its index, train its adapters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bench_core::backend::{
    BackendError, Embedder, ModelFolder, Passage, ProbeRow, Progress, Retriever, Served, Stage,
    TrainExample, TrainJob, TrainOutcome, Trainer,
};
use bench_core::chat::Message;
use bench_core::dataset::TrainRow;
use bench_core::digest;
use bench_core::manifest::{IndexEntry, ModelEntry, TrainingEntry, TuningEntry};
use bench_core::spec::{
    Arm, ArmPlan, Effort, EmbedderSource, Features, Finetune, Mix, Objective, Raft, Rag, Rerank,
    SettingsTrial,
};
use bench_core::template::PromptTemplate;
use regex::Regex;

use crate::backends::{Backends, Counter, Place, ResolvedModel};
use crate::desk::Desk;
use crate::endpoint::check_schema;
use crate::energy::Meter;
use crate::features;
use crate::load::{Loaded, LoadedSet, draw};
use crate::prompt::{Fewshot, Layout, Passages, asked, needs_embedder, permutation};
use crate::run::{RunError, peak_memory_bytes};
use crate::score::{self, Scorer};
use crate::search;
use crate::store::State;
use crate::tune::{self, Tuner};

/// An arm on one eval set, ready but for its weights.
pub(crate) struct PreparedArm {
    /// As planned.
    pub(crate) plan: ArmPlan,
    /// Position of its eval set.
    pub(crate) set: usize,
    /// Its model.
    pub(crate) model: ResolvedModel,
    /// Says what must be said before a prompt can be laid out.
    pub(crate) asker: ResolvedModel,
    /// Puts passages in order.
    pub(crate) sorter: ResolvedModel,
    /// How it lays out prompts.
    pub(crate) layout: Layout,
    /// One adapter per training seed; a single `None` for an arm that is not trained.
    pub(crate) adapters: Vec<Option<Adapter>>,
    /// Finds the final answer in what it says, where that is less than all.
    pub(crate) final_answer: Option<Regex>,
}

/// A trained adapter.
#[derive(Clone)]
pub(crate) struct Adapter {
    pub(crate) seed: u64,
    pub(crate) folder: PathBuf,
    pub(crate) digest: String,
    pub(crate) base: ModelFolder,
    /// What trained it, where a server could see it otherwise.
    pub(crate) trainer: Option<Arc<dyn Trainer>>,
    /// How it is served.
    pub(crate) served: Served,
    /// Rows on which trainer and server must agree.
    pub(crate) probes: Vec<ProbeRow>,
}

/// Every arm, and what preparing them left behind for the manifest.
pub(crate) struct Prepared {
    pub(crate) arms: Vec<PreparedArm>,
    pub(crate) models: BTreeMap<String, ResolvedModel>,
    pub(crate) training: Vec<TrainingEntry>,
    pub(crate) indexes: Vec<IndexEntry>,
    pub(crate) embedder: Option<Arc<dyn Embedder>>,
    /// Things that are allowed and that a reader should know.
    pub(crate) warnings: Vec<String>,
    /// How prompts were chosen.
    pub(crate) tuning: Vec<TuningEntry>,
    /// The reward models that choose among answers, by name.
    pub(crate) rewards: BTreeMap<String, PreparedReward>,
}

/// A trained reward model.
pub(crate) struct PreparedReward {
    pub(crate) model: ResolvedModel,
    pub(crate) adapter: Adapter,
    /// Lays out the prompt that an answer is judged beside.
    pub(crate) layout: Layout,
}

/// A reward model that is to be trained.
struct RewardJob<'a> {
    model: ResolvedModel,
    trainer: Arc<dyn Trainer>,
    set: &'a LoadedSet,
    layout: Layout,
    job: TrainJob,
}

/// Settings that were chosen on dev samples.
#[derive(Clone)]
pub(crate) enum Chosen {
    Finetune(Box<Finetune>),
    /// The position among the trials.
    Rag(usize),
}

/// Rows of the fairness check.
const PROBE_ROWS: usize = 16;

/// Characters of a running text that are shown, and of those that follow, which both must find alike.
const PROBE_BEGINNING: usize = 40;
const PROBE_CHARACTERS: usize = 200;

/// Validation rows: enough to see over-fitting, few enough to cost nothing.
const DEV_ROWS: usize = 32;

pub(crate) struct Preparer<'a> {
    pub(crate) loaded: &'a Loaded,
    pub(crate) backends: &'a dyn Backends,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) folder: PathBuf,
    pub(crate) indexes: BTreeMap<String, (Arc<dyn Retriever>, usize)>,
    pub(crate) trained: BTreeMap<String, (TrainOutcome, usize)>,
    /// Settings that were chosen on dev samples, with how they were.
    pub(crate) chosen: BTreeMap<String, (Chosen, TuningEntry)>,
    pub(crate) prepared: Prepared,
}

impl<'a> Preparer<'a> {
    pub(crate) fn new(
        loaded: &'a Loaded,
        backends: &'a dyn Backends,
        progress: &'a dyn Progress,
        folder: PathBuf,
    ) -> Self {
        let prepared = Prepared {
            arms: Vec::new(),
            models: BTreeMap::new(),
            training: Vec::new(),
            indexes: Vec::new(),
            embedder: None,
            warnings: Vec::new(),
            tuning: Vec::new(),
            rewards: BTreeMap::new(),
        };
        Self {
            loaded,
            backends,
            progress,
            folder,
            indexes: BTreeMap::new(),
            trained: BTreeMap::new(),
            chosen: BTreeMap::new(),
            prepared,
        }
    }

    /// Finds every model of the arms and of the judge; loads none.
    pub(crate) fn resolve(mut self, chosen: &dyn Fn(&str) -> bool) -> Result<Self, BackendError> {
        let loaded = self.loaded;
        let plans: Vec<&ArmPlan> = loaded.plans.iter().filter(|plan| chosen(plan.arm())).collect();
        let judges = loaded.experiment.judge.iter().flat_map(bench_core::spec::Judge::names);
        let helpers = plans.iter().flat_map(|plan| {
            let asks = plan.rag.as_ref().and_then(|rag| rag.query_model.as_deref());
            let sorts = plan.rag.as_ref().and_then(|rag| rag.rerank.as_ref()?.chat_model());
            let writes = plan.prompt.propose.as_ref().and_then(|one| one.model.as_deref());
            let judges = plan.reward_model.as_deref();
            asks.into_iter().chain(sorts).chain(writes).chain(judges)
        });
        if plans.iter().any(|plan| plan.features.is_some()) {
            let embedder = self.embedder()?;
            let source = loaded.experiment.embedder.clone();
            let entry = ModelEntry {
                id: match &source {
                    EmbedderSource::Catalog(name) => name.clone(),
                    EmbedderSource::Path(path) => path.clone(),
                    EmbedderSource::Onnx(onnx) => {
                        onnx.path.clone().or_else(|| onnx.hub.clone()).unwrap_or_default()
                    }
                    EmbedderSource::Endpoint(endpoint) => endpoint.model.clone(),
                    EmbedderSource::Hashing => "hashing".into(),
                },
                digest: embedder.id().to_owned(),
                backend: "embedder".into(),
                dtype: "f32".into(),
            };
            let model = ResolvedModel { entry, place: Place::Embedder(source) };
            self.prepared.models.insert(Arm::EMBEDDER.into(), model);
        }
        for name in plans.iter().map(|plan| plan.model.as_str()).chain(judges).chain(helpers) {
            if !self.prepared.models.contains_key(name) {
                let source = &loaded.experiment.models[name];
                let model = self.backends.resolve(name, source, self.progress)?;
                self.prepared.models.insert(name.to_owned(), model);
            }
        }
        Ok(self)
    }

    pub(crate) fn prepare(
        mut self,
        chosen: &dyn Fn(&str) -> bool,
        desk: &mut Desk<'_>,
    ) -> Result<Prepared, RunError> {
        let loaded = self.loaded;
        let plans: Vec<&ArmPlan> = loaded.plans.iter().filter(|plan| chosen(plan.arm())).collect();
        self.check_trainings(&plans)?;
        for (index, set) in loaded.sets.iter().enumerate() {
            let of_set = plans.iter().enumerate();
            let mut of_set: Vec<(usize, &&ArmPlan)> =
                of_set.filter(|(_, plan)| plan.sets.contains(&set.spec.name)).collect();
            // A composition takes the settings that its part has found.
            let waits =
                |plan: &ArmPlan| plan.tuned() > 0 && plan.rag.is_some() && plan.finetune.is_some();
            of_set.sort_by_key(|(_, plan)| waits(plan));
            let mut arms = Vec::new();
            for (place, plan) in of_set {
                arms.push((place, self.arm(index, set, plan, desk)?));
            }
            arms.sort_by_key(|(place, _)| *place);
            self.prepared.arms.extend(arms.into_iter().map(|(_, arm)| arm));
        }
        Ok(self.prepared)
    }

    /// What no training can be done with is found before the first one, for all arms at once.
    fn check_trainings(&self, plans: &[&ArmPlan]) -> Result<(), RunError> {
        let mut seen = BTreeSet::new();
        let mut problems = Vec::new();
        for plan in plans {
            if let Some(RewardJob { trainer, job, .. }) = self.reward_job(plan)?
                && seen.insert(job.output.clone())
                && let Err(error) = trainer.check(&job)
            {
                let name = plan.prompt.best_of.as_ref().map_or("", |best| &best.reward);
                problems.push(format!("  reward model `{name}`: {}", error.causes()));
            }
            for set in self.loaded.sets.iter().filter(|set| plan.sets.contains(&set.spec.name)) {
                let Some(settings) = &plan.finetune else { continue };
                // Rows with passages are laid out when there is an index.
                if set.spec.adapters_of.is_some() || settings.raft.is_some() {
                    continue;
                }
                let model = &self.prepared.models[&plan.model];
                let (base, trainer) = (model.folder()?, self.backends.trainer(model)?);
                let what = format!("arm `{}` on set `{}`", plan.name, set.spec.name);
                let counter = match self.backends.counter(model) {
                    Ok(counter) => counter,
                    Err(error) => {
                        problems.push(format!("  {what}: {}", error.causes()));
                        continue;
                    }
                };
                let training = set.training_prompts.get(&plan.name).cloned();
                let layout = bare(set.prompts[&plan.name].clone(), training);
                for settings in shapes(settings, self.loaded.experiment.run.seed) {
                    let seed = settings.seeds.first().copied().unwrap_or_default();
                    let learnt = match &settings.mix {
                        Some(mix) => self.mixed(plan, &settings, mix, seed)?,
                        None => lesson(set, &settings, &layout, seed)?,
                    };
                    let (key, one) = training_key(&base, &settings, seed, &learnt);
                    let output = adapter_folder(&self.folder, &key, trainer.as_ref());
                    if !seen.insert(output.clone()) {
                        continue;
                    }
                    let Lesson { examples, dev, probes } = learnt;
                    let base = base.clone();
                    let job = TrainJob { base, examples, dev, settings: one, seed, output };
                    let found = trainer.check(&job).and_then(|()| {
                        same_ids(trainer.as_ref(), counter.as_deref(), &job, &probes)
                    });
                    if let Err(error) = found {
                        problems.push(format!("  {what}: {}", error.causes()));
                    }
                }
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(RunError::Trainings(problems.join("\n")))
    }

    /// The training of the reward model that chooses among the answers of an arm.
    fn reward_job(&self, plan: &ArmPlan) -> Result<Option<RewardJob<'a>>, BackendError> {
        let Some(best) = &plan.prompt.best_of else { return Ok(None) };
        let loaded = self.loaded;
        let (Some(spec), Some(template)) =
            (loaded.experiment.rewards.get(&best.reward), loaded.reward_prompts.get(&best.reward))
        else {
            let message = format!("there is no reward model `{}`", best.reward);
            return Err(BackendError::fatal("reward", message));
        };
        let set = loaded.sets.iter().find(|set| set.spec.name == spec.set);
        let (Some(set), false) = (set, self.prepared.rewards.contains_key(&best.reward)) else {
            return Ok(None);
        };
        let model = self.prepared.models[&spec.model].clone();
        let base = model.folder()?;
        let trainer = self.backends.trainer(&model)?;
        let settings = Finetune { objective: Objective::Reward, ..spec.finetune.clone() };
        let layout = bare(template.clone(), None);
        let seed = settings.seeds.first().copied().unwrap_or(0);
        let examples = lesson(set, &settings, &layout, seed)?.examples;
        let settings =
            Finetune { seeds: vec![seed], limit: None, template: None, system: None, ..settings };
        let key = digest::of_json(&(&base.digest, &settings, seed, &examples));
        let output = adapter_folder(&self.folder, &key, trainer.as_ref());
        let job = TrainJob { base, examples, dev: Vec::new(), settings, seed, output };
        Ok(Some(RewardJob { model, trainer, set, layout, job }))
    }

    /// The reward model that chooses among the answers of an arm, trained once.
    fn reward(&mut self, plan: &ArmPlan, desk: &mut Desk<'_>) -> Result<(), BackendError> {
        let (Some(best), Some(found)) = (&plan.prompt.best_of, self.reward_job(plan)?) else {
            return Ok(());
        };
        let RewardJob { model, trainer, set, layout, job } = found;
        let outcome = self.train(&job, trainer.as_ref(), set, plan, desk)?;
        let TrainJob { base, examples, seed, .. } = job;
        let rows = examples.len() as u64;
        let adapter = Adapter {
            seed,
            folder: outcome.adapter.clone(),
            digest: outcome.digest.clone(),
            base,
            served: outcome.served,
            trainer: None,
            probes: Vec::new(),
        };
        self.prepared.training.push(TrainingEntry {
            arms: vec![format!("reward {}", best.reward)],
            set: set.spec.name.clone(),
            seed,
            rows,
            adapter_bytes: bytes_of(&outcome.adapter),
            energy_joules: desk.store.state.energy.get(&outcome.digest).copied(),
            outcome,
            classifier: None,
        });
        let reward = PreparedReward { model, adapter, layout };
        self.prepared.rewards.insert(best.reward.clone(), reward);
        Ok(())
    }

    /// An arm that classifies: its classifier is fitted, and it shows the bare input.
    fn classifying(
        &mut self,
        index: usize,
        set: &LoadedSet,
        plan: &ArmPlan,
        settings: &Features,
        desk: &mut Desk<'_>,
    ) -> Result<PreparedArm, RunError> {
        let model = self.prepared.models[&plan.model].clone();
        let embedder = self.embedder()?;
        let seed = self.loaded.experiment.run.seed;
        let train = set.train.as_deref().unwrap_or_default();
        let limit = settings.limit.map_or(usize::MAX, |limit| limit as usize);
        let drawn = draw(train, limit, seed, |index, _| index.to_string());
        let drawn: Vec<TrainRow> = drawn.into_iter().cloned().collect();
        let lesson = features::Lesson {
            settings,
            embedder: embedder.as_ref(),
            rows: features::labelled(&drawn),
            dev: set.dev.as_deref().unwrap_or_default(),
        };
        let folder = self.folder.join("adapters").join(digest::short(&lesson.key()));
        let started = std::time::Instant::now();
        let trainer = self.backends.classifier_trainer()?;
        let fitted = lesson.fit(trainer.as_ref(), &folder)?;
        add_seconds(&mut desk.store.state, "train", started.elapsed().as_secs_f64());
        let (rows, outcome) = (drawn.len() as u64, fitted.outcome.clone());
        let same = |entry: &&mut TrainingEntry| {
            entry.set == set.spec.name && entry.outcome.digest == outcome.digest
        };
        match self.prepared.training.iter_mut().find(same) {
            Some(entry) => entry.arms.push(plan.name.clone()),
            None => self.prepared.training.push(TrainingEntry {
                arms: vec![plan.name.clone()],
                set: set.spec.name.clone(),
                seed: 0,
                rows,
                outcome,
                classifier: Some(fitted.entry),
                adapter_bytes: 0,
                energy_joules: None,
            }),
        }
        let layout = bare(set.prompts[&plan.name].clone(), None);
        let adapter = Adapter {
            seed: 0,
            base: ModelFolder { path: folder.clone(), digest: model.entry.digest.clone() },
            folder,
            digest: fitted.outcome.digest,
            served: Served::Classifier,
            trainer: None,
            probes: Vec::new(),
        };
        Ok(PreparedArm {
            plan: plan.clone(),
            set: index,
            asker: model.clone(),
            sorter: model.clone(),
            model,
            layout,
            adapters: vec![Some(adapter)],
            final_answer: None,
        })
    }

    fn arm(
        &mut self,
        index: usize,
        set: &LoadedSet,
        plan: &ArmPlan,
        desk: &mut Desk<'_>,
    ) -> Result<PreparedArm, RunError> {
        if let Some(settings) = &plan.features {
            return self.classifying(index, set, plan, settings, desk);
        }
        self.reward(plan, desk)?;
        let model = self.prepared.models[&plan.model].clone();
        let train = set.train.as_deref().unwrap_or_default();
        let seed = self.loaded.experiment.run.seed;
        let fewshot = if plan.prompt.num_fewshot > 0 {
            let embedder = if needs_embedder(&plan.prompt) { Some(self.embedder()?) } else { None };
            let asked = asked(set.samples.iter().chain(set.dev.iter().flatten()));
            let fewshot = Fewshot::new(&plan.prompt, train, seed, embedder, &asked)?;
            if fewshot.shown() < plan.prompt.num_fewshot as usize {
                self.prepared.warnings.push(format!(
                    "set `{}`: arm `{}` asks for {} examples, and {} training rows can be shown",
                    set.spec.name,
                    plan.name,
                    plan.prompt.num_fewshot,
                    fewshot.shown()
                ));
            }
            Some(fewshot)
        } else {
            None
        };
        let mut plan = plan.clone();
        let mut tried: Vec<SettingsTrial<Rag>> = Vec::new();
        let mut passages = Vec::new();
        if let Some(rag) = &plan.rag {
            tried = match &rag.sweep {
                Some(sweep) => sweep.trials(rag, seed),
                None => vec![SettingsTrial { label: String::new(), settings: rag.clone() }],
            };
            for trial in &tried {
                passages.push(self.passages(set, &plan, &trial.settings, desk)?);
            }
        }
        let counter = self.backends.counter(&model)?;
        let template = set.prompts[&plan.name].clone();
        let max_tokens = set.spec.max_tokens.unwrap_or(self.loaded.experiment.generate.max_tokens);
        let lead = if plan.prompt.chain_of_thought { "Answer: " } else { "" };
        let final_answer = plan.prompt.final_answer_pattern().map(Regex::new).transpose();
        let final_answer = final_answer.map_err(|error| BackendError::fatal("prompt", error))?;
        let training = set.training_prompts.get(&plan.name).cloned();
        let mut layout = Layout {
            template,
            training,
            fewshot,
            passages: passages.first().cloned(),
            counter,
            max_tokens,
            lead,
            final_answer: final_answer.clone(),
        };
        self.budget(&plan, &layout);
        for sample in &set.samples {
            layout.check_examples(&plan.name, sample)?;
        }
        layout.check_corpus(&plan.name, &set.samples)?;
        if self.language(set, &plan, &model)? {
            check_schema(&model, (&set.spec.name, &plan.name), desk)?;
        }
        let helper = |name: Option<&str>| match name {
            Some(name) => self.prepared.models[name].clone(),
            None => model.clone(),
        };
        let asker = helper(plan.rag.as_ref().and_then(|rag| rag.query_model.as_deref()));
        let rerank = plan.rag.as_ref().and_then(|rag| rag.rerank.as_ref());
        let sorts = rerank.and_then(Rerank::chat_model);
        let sorter = helper(sorts);
        if let (Some(name), Some(rerank)) = (sorts, rerank) {
            let window = rerank.window_and_stride().0.min(rerank.candidates);
            let language = permutation(window as usize);
            self.backends.check_constraint(&sorter, &language).map_err(|error| {
                let message = format!(
                    "arm `{}`: model `{name}` cannot sort passages: {}",
                    plan.name, error.source
                );
                BackendError { source: message.into(), ..error }
            })?;
            check_schema(&sorter, (&set.spec.name, &plan.name), desk)?;
        }
        if plan.tuned() > 0 {
            let declared = plan.clone();
            let writer =
                helper(plan.prompt.propose.as_ref().and_then(|propose| propose.model.as_deref()));
            // What one arm chooses, all of its kinds together, is within one budget.
            let effort = self.loaded.experiment.tune.clone();
            let effort =
                effort.map(|one| Effort { budget: one.budget / plan.tuned() as u64, ..one });
            let tuner = Tuner {
                plan: &declared,
                set,
                model: &model,
                asker: &asker,
                sorter: &sorter,
                writer: &writer,
                scorer: self.tuning_scorer(set, &plan)?,
                final_answer: final_answer.as_ref(),
                request: self.loaded.request(&plan, max_tokens),
                seed,
                effort,
            };
            if tried.len() > 1 {
                plan.rag = Some(self.best_rag(&tuner, &tried, &passages, &mut layout, desk)?);
            }
            if plan.prompt.is_tuned() {
                let entry = tuner.choose(&set.candidates[&plan.name], &mut layout, desk)?;
                self.prepared.tuning.push(entry);
                // Rows are written with the prompt that was chosen, unless they have one of their own.
                if plan.finetune.as_ref().is_some_and(|finetune| finetune.template.is_none()) {
                    layout.training = Some(layout.template.clone());
                }
            }
            // A set that borrows adapters takes them as they are.
            let own = set.spec.adapters_of.is_none();
            let swept = plan.finetune.as_ref().filter(|one| own && one.sweep.is_some());
            if let Some(finetune) = swept {
                plan.finetune = Some(self.best_finetune(&tuner, finetune, &mut layout, desk)?);
            }
        }
        let adapters = match (&plan.finetune, &set.spec.adapters_of) {
            (Some(_), Some(other)) => self.borrowed(set, &plan, other),
            (Some(finetune), None) => self.adapters(set, &plan, finetune, &model, &layout, desk)?,
            (None, _) => vec![None],
        };
        Ok(PreparedArm { plan, set: index, model, asker, sorter, layout, adapters, final_answer })
    }

    /// A token budget for passages needs someone who counts.
    fn budget(&mut self, plan: &ArmPlan, layout: &Layout) {
        let asks = plan.rag.as_ref().is_some_and(|rag| rag.context_tokens > 0);
        if asks && layout.counter.is_none() {
            let warning = format!(
                "arm `{}`: the tokens of its model cannot be counted here; `context_tokens` counts four characters as one",
                plan.name
            );
            if !self.prepared.warnings.contains(&warning) {
                self.prepared.warnings.push(warning);
            }
        }
    }

    fn tuning_scorer(
        &mut self,
        set: &LoadedSet,
        plan: &ArmPlan,
    ) -> Result<Box<dyn Scorer>, RunError> {
        let own = plan.prompt.tune.as_ref().and_then(|tune| tune.metric.as_deref());
        let shared = self.loaded.experiment.tune.as_ref().and_then(|tune| tune.metric.as_deref());
        let spec = tune::metric(own.or(shared), &set.spec.scorers)?;
        let embedder = match spec {
            bench_core::spec::Scorer::EmbeddingSimilarity {} => Some(self.embedder()?),
            _ => None,
        };
        let context = score::context(self.loaded, set, embedder);
        score::build(spec, &context).map_err(|message| RunError::Scorer {
            name: spec.name().into(),
            set: set.spec.name.clone(),
            message,
        })
    }

    /// A constraint that the backend cannot meet is an error before anything is trained or asked.
    /// True where answers are held to one.
    fn language(
        &self,
        set: &LoadedSet,
        plan: &ArmPlan,
        model: &ResolvedModel,
    ) -> Result<bool, BackendError> {
        let Some(language) = set.languages.get(&plan.name) else { return Ok(false) };
        let mut checked = Vec::new();
        for sample in &set.samples {
            let constraint = language.of(sample);
            if checked.contains(&constraint) {
                continue;
            }
            self.backends.check_constraint(model, &constraint).map_err(|error| {
                let message =
                    format!("arm `{}` on set `{}`: {}", plan.name, set.spec.name, error.source);
                BackendError { source: message.into(), ..error }
            })?;
            checked.push(constraint);
        }
        Ok(!checked.is_empty())
    }

    fn embedder(&mut self) -> Result<Arc<dyn Embedder>, BackendError> {
        if let Some(embedder) = &self.prepared.embedder {
            return Ok(Arc::clone(embedder));
        }
        let embedder = self.backends.embedder(&self.loaded.experiment.embedder, self.progress)?;
        self.prepared.embedder = Some(Arc::clone(&embedder));
        Ok(embedder)
    }

    fn passages(
        &mut self,
        set: &LoadedSet,
        plan: &ArmPlan,
        rag: &Rag,
        desk: &mut Desk<'_>,
    ) -> Result<Passages, BackendError> {
        let documents = search::documents(set);
        let seed = self.loaded.experiment.run.seed;
        let trains = plan.finetune.as_ref().is_some_and(|finetune| finetune.raft.is_some());
        if !trains && !Passages::searches(rag) {
            return Ok(Passages {
                settings: rag.clone(),
                retriever: Arc::new(Nothing),
                documents,
                seed,
            });
        }
        let embedder = if rag.retriever.is_dense() { Some(self.embedder()?) } else { None };
        let folder = self.folder.join("index");
        let name = &set.spec.name;
        let search =
            search::search(name, &documents, rag, embedder, &folder, self.backends, self.progress)?;
        let key = search.key.clone();
        if let Some((retriever, entry)) = self.indexes.get(&key) {
            let arms = &mut self.prepared.indexes[*entry].arms;
            if !arms.contains(&plan.name) {
                arms.push(plan.name.clone());
            }
            return Ok(Passages {
                settings: rag.clone(),
                retriever: Arc::clone(retriever),
                documents,
                seed,
            });
        }
        let started = std::time::Instant::now();
        let retriever = search.open(self.backends, self.progress)?;
        add_seconds(&mut desk.store.state, "index", started.elapsed().as_secs_f64());
        let mut info = retriever.info();
        if info.seconds > 0.0 || !desk.store.state.indexes.contains_key(&key) {
            desk.store.state.indexes.insert(key.clone(), info.clone());
        }
        info = desk.store.state.indexes[&key].clone();
        self.indexes.insert(key, (Arc::clone(&retriever), self.prepared.indexes.len()));
        self.prepared.indexes.push(IndexEntry {
            arms: vec![plan.name.clone()],
            set: set.spec.name.clone(),
            embedder: search.embedder,
            info,
        });
        Ok(Passages { settings: rag.clone(), retriever, documents, seed })
    }

    fn adapters(
        &mut self,
        set: &LoadedSet,
        plan: &ArmPlan,
        settings: &Finetune,
        model: &ResolvedModel,
        layout: &Layout,
        desk: &mut Desk<'_>,
    ) -> Result<Vec<Option<Adapter>>, BackendError> {
        let base = model.folder()?;
        let trainer = self.backends.trainer(model)?;
        let mut adapters = Vec::new();
        for &seed in &settings.seeds {
            let learnt = match &settings.mix {
                Some(mix) => self.mixed(plan, settings, mix, seed)?,
                None => lesson(set, settings, layout, seed)?,
            };
            let (key, one) = training_key(&base, settings, seed, &learnt);
            let Lesson { examples, dev, probes } = learnt;
            let found = self.trained.get(&key).cloned();
            let (outcome, entry) = if let Some(found) = found {
                found
            } else {
                let output = adapter_folder(&self.folder, &key, trainer.as_ref());
                let base = base.clone();
                let rows = examples.len() as u64;
                let job = TrainJob { base, examples, dev, settings: one, seed, output };
                let was_there = job.output.exists();
                let outcome = self.train(&job, trainer.as_ref(), set, plan, desk)?;
                let trained_now = !was_there;
                let set = set.spec.name.clone();
                let arms = Vec::new();
                let adapter_bytes = bytes_of(&outcome.adapter);
                let energy_joules = desk.store.state.energy.get(&outcome.digest).copied();
                let entry = TrainingEntry {
                    arms,
                    set,
                    seed,
                    rows,
                    outcome: outcome.clone(),
                    classifier: None,
                    adapter_bytes,
                    energy_joules,
                };
                if trained_now {
                    self.progress.say(&summary(&plan.name, &entry));
                }
                self.prepared.training.push(entry);
                let found = (outcome, self.prepared.training.len() - 1);
                self.trained.insert(key, found.clone());
                found
            };
            let entry = self.entry_of(entry, &set.spec.name, settings);
            let arms = &mut self.prepared.training[entry].arms;
            if !arms.contains(&plan.name) {
                arms.push(plan.name.clone());
            }
            adapters.push(Some(Adapter {
                seed,
                folder: outcome.adapter.clone(),
                digest: outcome.digest.clone(),
                base: base.clone(),
                served: outcome.served,
                trainer: Some(Arc::clone(&trainer)),
                probes,
            }));
        }
        Ok(adapters)
    }

    /// The adapters that the arm was trained for on an earlier set.
    fn borrowed(&mut self, set: &LoadedSet, plan: &ArmPlan, other: &str) -> Vec<Option<Adapter>> {
        let sets = &self.loaded.sets;
        let lender = self
            .prepared
            .arms
            .iter()
            .find(|arm| arm.plan.name == plan.name && sets[arm.set].spec.name == other);
        let adapters = lender.map_or_else(Vec::new, |arm| arm.adapters.clone());
        for adapter in adapters.iter().flatten() {
            let training = &mut self.prepared.training;
            let of = |entry: &TrainingEntry, name: &str| {
                (entry.set.as_str(), entry.seed) == (name, adapter.seed)
                    && entry.outcome.digest == adapter.digest
            };
            let own = &set.spec.name;
            if let Some(at) = training.iter().position(|entry| of(entry, own)) {
                training[at].arms.push(plan.name.clone());
            } else if let Some(lent) = training.iter().find(|entry| of(entry, other)) {
                let arms = vec![plan.name.clone()];
                let entry = TrainingEntry { arms, set: own.clone(), ..lent.clone() };
                training.push(entry);
            }
        }
        adapters
    }

    /// Rows of several sets, as the arm lays out each of them.
    fn mixed(
        &self,
        plan: &ArmPlan,
        settings: &Finetune,
        mix: &Mix,
        seed: u64,
    ) -> Result<Lesson, BackendError> {
        let sets: Vec<(f64, &LoadedSet)> = mix
            .weights
            .iter()
            .filter_map(|(name, weight)| {
                let set = self.loaded.sets.iter().find(|set| &set.spec.name == name)?;
                Some((*weight, set))
            })
            .collect();
        let rows = |set: &LoadedSet| set.train.as_deref().unwrap_or_default().len();
        let sizes: Vec<(f64, usize)> =
            sets.iter().map(|(weight, set)| (*weight, rows(set))).collect();
        let all: usize = sizes.iter().map(|size| size.1).sum();
        let total = settings.limit.map_or(all, |limit| all.min(limit as usize));
        let mut lesson = Lesson::default();
        for ((_, set), count) in sets.iter().zip(mix.counts(&sizes, total)) {
            let training = set.training_prompts.get(&plan.name).cloned();
            let layout = bare(set.prompts[&plan.name].clone(), training);
            let train = set.train.as_deref().unwrap_or_default();
            // Whole copies, and a part of another.
            let copies = count.checked_div(train.len()).unwrap_or(0);
            let whole = std::iter::repeat_n(train, copies).flatten();
            let rest = count - copies * train.len();
            let part = draw(train, rest, seed, |index, _| index.to_string());
            let examples: Vec<TrainExample> = whole
                .chain(part)
                .map(|row| examples_of(row, &layout, settings.objective))
                .collect::<Result<Vec<_>, _>>()?
                .concat();
            lesson.probes.extend(probes(&examples, PROBE_ROWS.div_ceil(sets.len())));
            lesson.examples.extend(examples);
            lesson.dev.extend(dev_examples(set, &layout, None)?);
            apart(&mut lesson.examples, train, settings.objective);
        }
        Ok(lesson)
    }

    /// The manifest's entry of an adapter for a set. One that learnt several sets has an entry for
    /// each, with its part of the time.
    fn entry_of(&mut self, first: usize, set: &str, settings: &Finetune) -> usize {
        let parts = settings.mix.as_ref().map_or(1, |mix| mix.weights.len()) as f64;
        let training = &mut self.prepared.training;
        if parts > 1.0 && training[first].arms.is_empty() {
            training[first].outcome.seconds /= parts;
        }
        if training[first].set == set {
            return first;
        }
        let digest = training[first].outcome.digest.clone();
        let same = |entry: &TrainingEntry| entry.set == set && entry.outcome.digest == digest;
        if let Some(found) = training.iter().position(same) {
            return found;
        }
        let entry = TrainingEntry { arms: Vec::new(), set: set.into(), ..training[first].clone() };
        training.push(entry);
        training.len() - 1
    }

    pub(crate) fn train(
        &self,
        job: &TrainJob,
        trainer: &dyn Trainer,
        set: &LoadedSet,
        plan: &ArmPlan,
        desk: &mut Desk<'_>,
    ) -> Result<TrainOutcome, BackendError> {
        let what = format!(
            "{} on {} ({} rows, seed {})",
            plan.name,
            set.spec.name,
            job.examples.len(),
            job.seed
        );
        let started = std::time::Instant::now();
        let meter = Meter::start();
        let was_there = job.output.exists();
        if !was_there {
            // The trainer counts the peak of its own memory, and the run's is the largest of all.
            desk.peak_before = desk.peak_before.max(peak_memory_bytes());
        }
        let mut task = None;
        let outcome = trainer.train(job, &mut |step| {
            let task = task
                .get_or_insert_with(|| self.progress.begin(Stage::Train, &what, step.total_steps));
            let dev = step.dev_loss.map_or_else(String::new, |loss| format!(", dev {loss:.3}"));
            let note = format!(
                "loss {:.3}{dev}, {:.0} tokens/s, {:.2} GiB",
                step.loss,
                step.tokens_per_second,
                gibibytes(peak_memory_bytes())
            );
            task.advance(step.step, &note);
        });
        let outcome = outcome.map_err(|error| {
            let (arm, set, seed) = (&plan.name, &set.spec.name, job.seed);
            let message = format!("arm `{arm}` on set `{set}`, seed {seed}: {}", error.causes());
            BackendError { source: message.into(), ..error }
        })?;
        drop(task);
        if let Some(joules) = meter.joules().filter(|_| !was_there) {
            // Of attempts that were interrupted only the last one is known.
            desk.store.state.energy.insert(outcome.digest.clone(), joules);
        }
        add_seconds(&mut desk.store.state, "train", started.elapsed().as_secs_f64());
        Ok(outcome)
    }
}

fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Bytes of what is served in a folder: weights, and nothing that tells of the training.
fn bytes_of(folder: &Path) -> u64 {
    let files = fs_err::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter(|file| {
            let name = file.file_name();
            Path::new(&name).extension().is_some_and(|end| end == "safetensors")
        })
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum()
}

/// What a training made and took, in a line.
fn summary(arm: &str, entry: &TrainingEntry) -> String {
    let outcome = &entry.outcome;
    let share = outcome.trainable_parameters as f64 / outcome.total_parameters.max(1) as f64;
    let energy = entry.energy_joules.map_or_else(String::new, |joules| {
        format!(", {:.1} kJ by the processor's counters", joules / 1e3)
    });
    format!(
        "trained {arm} on {} (seed {}): {} of {} parameters ({:.2} %), {:.1} MB, {:.0} s, peak memory {:.2} GiB{energy}",
        entry.set,
        entry.seed,
        outcome.trainable_parameters,
        outcome.total_parameters,
        100.0 * share,
        entry.adapter_bytes as f64 / 1e6,
        outcome.seconds,
        gibibytes(outcome.peak_memory_bytes),
    )
}

pub(crate) fn add_seconds(state: &mut State, stage: &str, seconds: f64) {
    // What takes no time was found on disk; a repeated run must not change what the first measured.
    if seconds >= 0.5 {
        *state.seconds.entry(stage.to_owned()).or_default() += seconds;
    }
}

/// What is learnt from a row: nothing from a bad completion where only good ones are learnt, and two
/// completions from a preference where they are learnt one by one.
fn examples_of(
    row: &TrainRow,
    layout: &Layout,
    objective: Objective,
) -> Result<Vec<TrainExample>, BackendError> {
    Ok(match row {
        TrainRow::Completion { input, reference } => vec![TrainExample::Completion {
            messages: layout.training_turns(input)?,
            completion: reference.clone(),
        }],
        TrainRow::Text(text) => vec![TrainExample::Text(text.clone())],
        TrainRow::Preference { input, chosen, rejected } => {
            let messages = layout.training_turns(input)?;
            let (chosen, rejected) = (chosen.clone(), rejected.clone());
            match objective {
                Objective::Sft => vec![TrainExample::Completion { messages, completion: chosen }],
                Objective::Dpo | Objective::Orpo | Objective::Reward => {
                    vec![TrainExample::Preference { messages, chosen, rejected }]
                }
                Objective::Kto => {
                    let judged = |(completion, label)| {
                        let messages = messages.clone();
                        TrainExample::Labelled { messages, completion, label }
                    };
                    [(chosen, true), (rejected, false)].map(judged).into()
                }
            }
        }
        TrainRow::Labelled { input, completion, label } => {
            let messages = layout.training_turns(input)?;
            let (completion, label) = (completion.clone(), *label);
            match objective {
                Objective::Sft if label => vec![TrainExample::Completion { messages, completion }],
                Objective::Sft => Vec::new(),
                Objective::Dpo | Objective::Orpo | Objective::Kto | Objective::Reward => {
                    vec![TrainExample::Labelled { messages, completion, label }]
                }
            }
        }
    })
}

/// Good completions before bad ones, where some come from preferences: the two of one prompt must not
/// stand side by side, because `kto` measures each row with its neighbour's completion.
fn apart(examples: &mut [TrainExample], rows: &[TrainRow], objective: Objective) {
    let pairs = rows.iter().any(|row| matches!(row, TrainRow::Preference { .. }));
    if objective == Objective::Kto && pairs {
        let is_bad =
            |example: &TrainExample| matches!(example, TrainExample::Labelled { label: false, .. });
        examples.sort_by_key(is_bad);
    }
}

fn dev_examples(
    set: &LoadedSet,
    layout: &Layout,
    raft: Option<&Raft>,
) -> Result<Vec<TrainExample>, BackendError> {
    let dev = set.dev.as_deref().unwrap_or_default();
    let reasoning = raft.and_then(|raft| raft.reasoning.as_deref());
    let mut examples = Vec::new();
    for sample in draw(dev, DEV_ROWS, 0, |_, sample| sample.id.clone()) {
        let completion = match reasoning {
            None => Some(sample.reference.clone()),
            Some(field) => sample
                .meta_text(field)
                .and_then(|reasoning| layout.completion(&reasoning, &sample.reference)),
        };
        // Where reasoning is learnt, a sample without one would measure another form.
        let Some(completion) = completion else { continue };
        let messages = match raft {
            Some(raft) => layout.raft_turns(0, &sample.input, &sample.context_ids, raft)?,
            None => layout.training_turns(&sample.input)?,
        };
        examples.push(TrainExample::Completion { messages, completion });
    }
    Ok(examples)
}

/// What one training run learns, and how it is checked.
#[derive(Default)]
pub(crate) struct Lesson {
    pub(crate) examples: Vec<TrainExample>,
    pub(crate) dev: Vec<TrainExample>,
    probes: Vec<ProbeRow>,
}

/// Where the adapter of a job lies: another version of the trainer makes one of its own.
pub(crate) fn adapter_folder(folder: &Path, key: &str, trainer: &dyn Trainer) -> PathBuf {
    let key = digest::of_json(&(key, trainer.version()));
    folder.join("adapters").join(digest::short(&key))
}

/// What tells a training from others, and its settings without those that its rows show already.
pub(crate) fn training_key(
    base: &ModelFolder,
    settings: &Finetune,
    seed: u64,
    lesson: &Lesson,
) -> (String, Finetune) {
    let one = Finetune {
        seeds: vec![seed],
        limit: None,
        template: None,
        system: None,
        raft: None,
        sweep: None,
        ..settings.clone()
    };
    (digest::of_json(&(&base.digest, &one, seed, &lesson.examples, &lesson.dev)), one)
}

/// The rows of one set.
pub(crate) fn lesson(
    set: &LoadedSet,
    settings: &Finetune,
    layout: &Layout,
    seed: u64,
) -> Result<Lesson, BackendError> {
    let train = set.train.as_deref().unwrap_or_default();
    let places: Vec<usize> = (0..train.len()).collect();
    let rows: Vec<usize> = match settings.limit {
        Some(limit) => {
            let drawn = draw(&places, limit as usize, seed, |index, _| index.to_string());
            drawn.into_iter().copied().collect()
        }
        None => places,
    };
    let raft = settings.raft.as_ref();
    let mut examples = rows
        .iter()
        .map(|&row| match (&train[row], raft) {
            (TrainRow::Completion { input, reference }, Some(raft)) => {
                let gold = set.train_gold.get(row).map(Vec::as_slice).unwrap_or_default();
                let reasoned = set
                    .reasoning(raft, row)
                    .and_then(|reasoning| layout.completion(reasoning, reference));
                Ok(vec![TrainExample::Completion {
                    messages: layout.raft_turns(row, input, gold, raft)?,
                    completion: reasoned.unwrap_or_else(|| reference.clone()),
                }])
            }
            (row, _) => examples_of(row, layout, settings.objective),
        })
        .collect::<Result<Vec<_>, BackendError>>()?
        .concat();
    apart(&mut examples, train, settings.objective);
    let probes = probes(&examples, PROBE_ROWS);
    Ok(Lesson { dev: dev_examples(set, layout, raft)?, examples, probes })
}

/// The settings that a training will have, or each of its trials: those that say whether it can be done.
fn shapes(settings: &Finetune, seed: u64) -> Vec<Finetune> {
    let Some(sweep) = &settings.sweep else { return vec![settings.clone()] };
    let plain = Finetune { sweep: None, ..settings.clone() };
    let trials = sweep.trials(settings, seed).into_iter().map(|trial| Finetune {
        lora_r: trial.settings.lora_r,
        lora_alpha: trial.settings.lora_alpha,
        micro_batch_size: trial.settings.micro_batch_size,
        ..plain.clone()
    });
    let mut shapes: Vec<Finetune> = Vec::new();
    for shape in trials {
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes
}

/// Whether the server will see the very ids that are learnt, as far as a tokenizer and a template tell.
fn same_ids(
    trainer: &dyn Trainer,
    server: Option<&dyn Counter>,
    job: &TrainJob,
    rows: &[ProbeRow],
) -> Result<(), BackendError> {
    let Some(server) = server.filter(|_| !job.output.exists()) else { return Ok(()) };
    for (row, learnt) in rows.iter().zip(trainer.token_ids(&job.base, rows)?) {
        let served = server.token_ids(row)?;
        if learnt == served {
            continue;
        }
        let at = learnt.iter().zip(&served).take_while(|(a, b)| a == b).count();
        let id = |ids: &[u32]| ids.get(at).map_or("none".into(), u32::to_string);
        let asked = row.messages.last().map_or("", |turn| turn.content.as_str());
        let asked: String = asked.chars().take(60).collect();
        let message = format!(
            "the row `{asked}` has other tokens in training than in serving: the first that differs, number {at}, is {} and {}; compare the model's tokenizer.json, tokenizer_config.json and chat template with the original's",
            id(&learnt),
            id(&served)
        );
        return Err(BackendError::fatal("trainer", message));
    }
    Ok(())
}

/// Lays out the input alone.
fn bare(template: PromptTemplate, training: Option<PromptTemplate>) -> Layout {
    Layout {
        template,
        training,
        fewshot: None,
        passages: None,
        counter: None,
        max_tokens: 1,
        lead: "",
        final_answer: None,
    }
}

/// A running text as a conversation: how it begins, and how it goes on. What counts is that both sides have
/// the same model.
pub(crate) fn text_probe(text: &str) -> ProbeRow {
    let begins = PROBE_BEGINNING.min(text.chars().count() / 2);
    let mut characters = text.chars();
    let beginning: String = characters.by_ref().take(begins).collect();
    let completion = characters.take(PROBE_CHARACTERS).collect();
    ProbeRow { messages: vec![Message::user(beginning)], completion }
}

fn probes(examples: &[TrainExample], most: usize) -> Vec<ProbeRow> {
    let texts = examples.iter().filter_map(|example| match example {
        TrainExample::Text(text) => Some(text_probe(text)),
        TrainExample::Completion { .. }
        | TrainExample::Labelled { .. }
        | TrainExample::Preference { .. } => None,
    });
    let rows = examples.iter().filter_map(|example| match example {
        TrainExample::Completion { messages, completion }
        | TrainExample::Labelled { messages, completion, .. } => {
            Some(ProbeRow { messages: messages.clone(), completion: completion.clone() })
        }
        TrainExample::Preference { messages, chosen, .. } => {
            Some(ProbeRow { messages: messages.clone(), completion: chosen.clone() })
        }
        TrainExample::Text(_) => None,
    });
    rows.chain(texts).take(most).collect()
}

/// The retriever of arms that do not search.
struct Nothing;

impl Retriever for Nothing {
    fn retrieve(&self, _: &str, _: usize) -> Result<Vec<Passage>, BackendError> {
        Ok(Vec::new())
    }

    fn info(&self) -> bench_core::backend::IndexInfo {
        bench_core::backend::IndexInfo::default()
    }
}
