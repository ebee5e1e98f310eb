//! Choosing settings of fine-tuning and retrieval on the dev samples, by successive halving within the
//! experiment's budget. The eval samples are not looked at, and trials are kept like everything else,
//! so that a sweep goes on after a kill.

use bench_core::backend::{BackendError, BackendErrorKind, TrainExample, TrainJob};
use bench_core::chat::{Message, Role};
use bench_core::digest;
use bench_core::manifest::{Origin, PromptCandidate, RungScore, TuningEntry, TuningKind};
use bench_core::spec::{Effort, Finetune, Rag, SettingsTrial};

use super::{Spent, Tuner, Variant, halve};
use crate::desk::Desk;
use crate::prepare::{Adapter, Chosen, Preparer, adapter_folder, lesson, training_key};
use crate::prompt::{Layout, Passages};
use crate::run::RunError;

/// Fewest rows that a trial learns, where there are as many.
const LEAST_ROWS: usize = 8;

/// Of a rung's budget, the part that training may take; the rest is for answers.
const TRAINING_SHARE: f64 = 0.75;

/// Rows whose tokens are counted before anything is trained.
const COUNTED: usize = 64;

impl Preparer<'_> {
    /// The best settings of fine-tuning, or those that another arm with the same sweep has found.
    pub(crate) fn best_finetune(
        &mut self,
        tuner: &Tuner<'_>,
        settings: &Finetune,
        layout: &mut Layout,
        desk: &mut Desk<'_>,
    ) -> Result<Finetune, RunError> {
        let known = key_of("finetune", tuner, &serde_json::json!(settings));
        if let Some((Chosen::Finetune(found), entry)) = self.chosen.get(&known).cloned() {
            self.inherit(tuner, entry);
            return Ok(*found);
        }
        let (Some(effort), Some(sweep)) = (&tuner.effort, &settings.sweep) else {
            return Err(BackendError::fatal("tune", "a sweep without a budget").into());
        };
        let trials = sweep.trials(settings, tuner.seed);
        let (chosen, entry) = self.trained_trials(tuner, effort, &trials, layout, desk)?;
        let found = trials[chosen].settings.clone();
        self.chosen.insert(known, (Chosen::Finetune(Box::new(found.clone())), entry.clone()));
        self.prepared.tuning.push(entry);
        Ok(found)
    }

    /// The best settings of retrieval, likewise. `layout` searches with them afterwards.
    pub(crate) fn best_rag(
        &mut self,
        tuner: &Tuner<'_>,
        trials: &[SettingsTrial<Rag>],
        passages: &[Passages],
        layout: &mut Layout,
        desk: &mut Desk<'_>,
    ) -> Result<Rag, RunError> {
        let all: Vec<&Rag> = trials.iter().map(|trial| &trial.settings).collect();
        let known = key_of("rag", tuner, &serde_json::json!(all));
        let chosen = if let Some((Chosen::Rag(at), entry)) = self.chosen.get(&known).cloned() {
            self.inherit(tuner, entry);
            at
        } else {
            let labels = trials.iter().map(|trial| trial.label.clone()).collect();
            let variants: Vec<Variant> =
                passages.iter().map(|one| Variant::Retrieval(Box::new(one.clone()))).collect();
            let (chosen, entry) = tuner.choose_settings(labels, &variants, layout, desk)?;
            self.chosen.insert(known, (Chosen::Rag(chosen), entry.clone()));
            self.prepared.tuning.push(entry);
            chosen
        };
        layout.passages = Some(passages[chosen].clone());
        Ok(trials[chosen].settings.clone())
    }

    /// An arm that takes over what another has found has had its effort too.
    fn inherit(&mut self, tuner: &Tuner<'_>, entry: TuningEntry) {
        self.prepared.tuning.push(TuningEntry { arm: tuner.plan.name.clone(), ..entry });
    }

    /// Trains every trial on a share of its rows, drops the worse ones, and again on a larger share.
    fn trained_trials(
        &self,
        tuner: &Tuner<'_>,
        effort: &Effort,
        trials: &[SettingsTrial<Finetune>],
        layout: &mut Layout,
        desk: &mut Desk<'_>,
    ) -> Result<(usize, TuningEntry), RunError> {
        let dev = tuner.dev();
        let mut costs = Vec::new();
        for trial in trials {
            costs.push(cost(tuner, &trial.settings, layout)?);
        }
        let passes = |at: usize, rows: usize| costs[at].per_row * rows as f64;
        let rungs = super::ladder(trials.len(), effort.rungs).len();
        let least: f64 =
            (0..trials.len()).map(|at| passes(at, LEAST_ROWS.min(costs[at].rows))).sum();
        let first = TRAINING_SHARE * effort.budget as f64 / rungs as f64;
        if least > first {
            let message = format!(
                "arm `{}`: {} trials of {rungs} rungs need a budget of at least {:.0} token passes, and `tune.budget` leaves {}; raise it, or try fewer with `sweep: {{ trials: … }}`",
                tuner.plan.name,
                trials.len(),
                (least * rungs as f64 / TRAINING_SHARE).ceil(),
                effort.budget
            );
            return Err(BackendError::fatal("tune", message).into());
        }
        let mut spent = Spent::default();
        let (chosen, scores) = halve(trials.len(), effort.rungs, |rung, of, alive| {
            let allowed = effort.budget * (rung as u64 + 1) / of as u64;
            let left = allowed.saturating_sub(spent.passes(desk)) as f64;
            let full: f64 = alive.iter().map(|&at| passes(at, costs[at].rows)).sum();
            let share = (TRAINING_SHARE * left / full).min(1.0);
            let mut rows = Vec::new();
            let mut trained = Vec::new();
            for &at in alive {
                let all = costs[at].rows;
                let n = ((share * all as f64) as usize).clamp(LEAST_ROWS.min(all), all);
                rows.push(n);
                trained.push(self.trial(
                    tuner,
                    &trials[at].settings,
                    n,
                    layout,
                    desk,
                    &mut spent,
                )?);
            }
            let variants: Vec<Variant> =
                trained.iter().flatten().cloned().map(Variant::Trained).collect();
            let variants: Vec<&Variant> = variants.iter().collect();
            let scored = tuner.within(&variants, 0, allowed, &dev, layout, desk, &mut spent)?;
            let mut scored = scored.into_iter();
            // A trial that diverged has no score, and goes.
            let score = |(trained, rows): (Option<Adapter>, usize)| {
                let score = trained.and_then(|_| scored.next());
                let score = score.unwrap_or(RungScore { samples: 0, value: None, rows: None });
                RungScore { rows: Some(rows as u64), ..score }
            };
            Ok(trained.into_iter().zip(rows).map(score).collect())
        })?;
        if scores[chosen].last().is_none_or(|score| score.value.is_none()) {
            let message = format!(
                "arm `{}`: no trial of the sweep gave an answer that could be scored; look at the learning rates",
                tuner.plan.name
            );
            return Err(BackendError::fatal("tune", message).into());
        }
        let labels = trials.iter().map(|trial| trial.label.clone()).collect();
        let entry = tuner.entry(TuningKind::Finetune, labels, scores, chosen, &spent, desk);
        Ok((chosen, entry))
    }

    /// One training on `rows` rows; `None` where it diverged.
    fn trial(
        &self,
        tuner: &Tuner<'_>,
        settings: &Finetune,
        rows: usize,
        layout: &Layout,
        desk: &mut Desk<'_>,
        spent: &mut Spent,
    ) -> Result<Option<Adapter>, RunError> {
        let seed = settings.seeds.first().copied().unwrap_or_default();
        let settings = Finetune { limit: Some(rows as u32), ..settings.clone() };
        let found = lesson(tuner.set, &settings, layout, seed)?;
        let base = tuner.model.folder()?;
        let trainer = self.backends.trainer(tuner.model)?;
        let (key, one) = training_key(&base, &settings, seed, &found);
        let output = adapter_folder(&self.folder, &key, trainer.as_ref());
        let (examples, dev) = (found.examples, found.dev);
        let name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let job = TrainJob { base: base.clone(), examples, dev, settings: one, seed, output };
        // What diverged would only diverge again.
        if desk.store.state.diverged.contains(&name) && !desk.options.retry_failed {
            return Ok(None);
        }
        let outcome = match self.train(&job, trainer.as_ref(), tuner.set, tuner.plan, desk) {
            Ok(outcome) => outcome,
            Err(error) if error.kind == BackendErrorKind::Rejected => {
                self.progress.say(&format!(
                    "a trial of {} ends: {}",
                    tuner.plan.name,
                    error.chain()
                ));
                desk.store.state.diverged.insert(name);
                desk.store.save_state()?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let tokens = outcome.steps.last().map_or(0, |step| step.tokens);
        spent.trained.insert(key, tokens);
        if outcome.halved > 0 {
            self.progress.say(&format!(
                "a trial of {} ends: its learning rate of {} was halved {} times, so it says nothing of that rate",
                tuner.plan.name, job.settings.learning_rate, outcome.halved
            ));
            return Ok(None);
        }
        Ok(Some(Adapter {
            seed,
            folder: outcome.adapter,
            digest: outcome.digest,
            base,
            served: outcome.served,
            trainer: Some(trainer),
            // The adapter that is chosen is trained once more and compared with the server then.
            probes: Vec::new(),
        }))
    }
}

/// What tells one choice from another, whichever arm makes it.
fn key_of(kind: &str, tuner: &Tuner<'_>, settings: &serde_json::Value) -> String {
    digest::of_json(&(kind, &tuner.set.spec.name, &tuner.model.entry.digest, settings))
}

/// What a trial takes in full.
struct Cost {
    rows: usize,
    /// Token passes per row, all epochs.
    per_row: f64,
}

fn cost(tuner: &Tuner<'_>, settings: &Finetune, layout: &Layout) -> Result<Cost, BackendError> {
    let all = tuner.set.train.as_deref().unwrap_or_default().len();
    let rows = settings.limit.map_or(all, |limit| all.min(limit as usize));
    let some = Finetune { limit: Some(rows.min(COUNTED) as u32), ..settings.clone() };
    let found = lesson(tuner.set, &some, layout, 0)?;
    let mut tokens = 0.0;
    for example in &found.examples {
        for turns in conversations(example) {
            let characters =
                || turns.iter().map(|turn| turn.content.chars().count()).sum::<usize>();
            tokens += match &layout.counter {
                Some(counter) => f64::from(counter.count(&turns)?),
                None => characters() as f64 / 4.0,
            };
        }
    }
    let counted = found.examples.len().max(1) as f64;
    let tokens = (tokens / counted).max(1.0);
    let passes = tokens * Effort::PASSES_PER_TRAINED_TOKEN as f64 * f64::from(settings.num_epochs);
    Ok(Cost { rows, per_row: passes })
}

/// What of an example goes through the model.
fn conversations(example: &TrainExample) -> Vec<Vec<Message>> {
    let whole = |messages: &[Message], said: &str| {
        let mut turns = messages.to_vec();
        turns.push(Message { role: Role::Assistant, content: said.to_owned() });
        turns
    };
    match example {
        TrainExample::Completion { messages, completion } => vec![whole(messages, completion)],
        // `kto` also passes a mismatched completion.
        TrainExample::Labelled { messages, completion, .. } => {
            vec![whole(messages, completion), whole(messages, completion)]
        }
        TrainExample::Text(text) => vec![whole(&[], text)],
        TrainExample::Preference { messages, chosen, rejected } => {
            vec![whole(messages, chosen), whole(messages, rejected)]
        }
    }
}

impl Tuner<'_> {
    /// The history of a sweep.
    pub(super) fn entry(
        &self,
        kind: TuningKind,
        labels: Vec<String>,
        scores: Vec<Vec<RungScore>>,
        chosen: usize,
        spent: &Spent,
        desk: &Desk<'_>,
    ) -> TuningEntry {
        let (tokens_in, tokens_out) = super::tokens(desk, &spent.keys);
        let candidates = labels.into_iter().zip(scores).map(|(settings, rungs)| PromptCandidate {
            origin: Origin::Given,
            system: None,
            user: String::new(),
            rungs,
            settings,
        });
        TuningEntry {
            arm: self.plan.name.clone(),
            set: self.set.spec.name.clone(),
            metric: self.scorer.name().to_owned(),
            dev_samples: self.dev().len() as u64,
            candidates: candidates.collect(),
            chosen: chosen as u64,
            unusable: 0,
            calls: spent.keys.len() as u64,
            tokens_in,
            tokens_out,
            kind,
            tokens_trained: spent.trained.values().sum(),
            budget: self.effort.as_ref().map(|effort| effort.budget),
        }
    }

    /// Chooses among settings that change nothing but how prompts are laid out.
    fn choose_settings(
        &self,
        labels: Vec<String>,
        variants: &[Variant],
        layout: &mut Layout,
        desk: &mut Desk<'_>,
    ) -> Result<(usize, TuningEntry), RunError> {
        let Some(effort) = &self.effort else {
            return Err(BackendError::fatal("tune", "a sweep without a budget").into());
        };
        let dev = self.dev();
        let mut spent = Spent::default();
        let (chosen, scores) = self.by_passes(effort, variants, &dev, layout, desk, &mut spent)?;
        let entry = self.entry(TuningKind::Retrieval, labels, scores, chosen, &spent, desk);
        Ok((chosen, entry))
    }
}
