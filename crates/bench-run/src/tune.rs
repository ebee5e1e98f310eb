//! Tuning: the best of several prompts, retrieval settings or trainings on the dev samples, by
//! successive halving (Jamieson and Talwalkar 2016). The eval samples are not looked at.
//!
//! Every answer is kept like any other, so that tuning goes on after a kill and a second run asks
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use bench_core::backend::{BackendError, Request};
use bench_core::dataset::Sample;
use bench_core::digest;
use bench_core::manifest::{Origin, PromptCandidate, RungScore, TuningEntry, TuningKind};
use bench_core::record::Outcome;
use bench_core::spec::{ArmPlan, Effort, Propose, ProposeFrom, Tune};
use bench_core::template::{Example, PromptTemplate};
use regex::Regex;

use crate::answer::assemble;
use crate::backends::ResolvedModel;
use crate::desk::{Call, Desk, LayJob, lay_all};
use crate::load::LoadedSet;
use crate::prepare::Adapter;
use crate::prompt::{Layout, Passages, asked, examples};
use crate::run::RunError;
use crate::score::Scorer;

mod propose;
mod trials;

/// Dev answers of the first prompt that `failures` looks at.
const LOOKED_AT: usize = 16;

/// Dev answers that tell what an answer takes.
const LOOKED_AT_FIRST: usize = 4;

/// What tuning one arm on one set needs.
pub(crate) struct Tuner<'a> {
    pub(crate) plan: &'a ArmPlan,
    pub(crate) set: &'a LoadedSet,
    pub(crate) model: &'a ResolvedModel,
    /// Rewrites queries.
    pub(crate) asker: &'a ResolvedModel,
    pub(crate) sorter: &'a ResolvedModel,
    /// Writes candidates.
    pub(crate) writer: &'a ResolvedModel,
    pub(crate) scorer: Box<dyn Scorer>,
    pub(crate) final_answer: Option<&'a Regex>,
    /// Temperature, nucleus and stop strings of the arm's answers.
    pub(crate) request: Request,
    pub(crate) seed: u64,
    /// What choosing may cost, where the experiment says it for all arms.
    pub(crate) effort: Option<Effort>,
}

/// What is tried.
pub(crate) enum Variant {
    /// Another prompt.
    Prompt(PromptTemplate),
    /// Other passages.
    Retrieval(Box<Passages>),
    /// Another training.
    Trained(Adapter),
}

impl Variant {
    /// Makes the layout its own, and gives the adapter that answers.
    fn apply(&self, layout: &mut Layout) -> Option<&Adapter> {
        match self {
            Self::Prompt(prompt) => layout.template = prompt.clone(),
            Self::Retrieval(passages) => layout.passages = Some((**passages).clone()),
            Self::Trained(adapter) => return Some(adapter),
        }
        None
    }
}

/// What choosing took so far.
#[derive(Default)]
pub(crate) struct Spent {
    /// Calls.
    keys: BTreeSet<String>,
    /// Tokens of each training, by its key.
    trained: BTreeMap<String, u64>,
}

impl Spent {
    /// Token passes, see [`Effort`].
    fn passes(&self, desk: &Desk<'_>) -> u64 {
        let (tokens_in, tokens_out) = tokens(desk, &self.keys);
        let trained: u64 = self.trained.values().sum();
        tokens_in + tokens_out + Effort::PASSES_PER_TRAINED_TOKEN * trained
    }
}

/// The one that was chosen, and the scores of all, rung by rung.
type Halved = (usize, Vec<Vec<RungScore>>);

/// Successive halving: `score` gives, for a rung of so many, the scores of those that are left.
fn halve(
    candidates: usize,
    rungs: u32,
    mut score: impl FnMut(usize, usize, &[usize]) -> Result<Vec<RungScore>, RunError>,
) -> Result<Halved, RunError> {
    let keeps = ladder(candidates, rungs);
    let mut scores: Vec<Vec<RungScore>> = vec![Vec::new(); candidates];
    let mut alive: Vec<usize> = (0..candidates).collect();
    for (rung, &keep) in keeps.iter().enumerate() {
        let found = score(rung, keeps.len(), &alive)?;
        for (&at, score) in alive.iter().zip(found) {
            scores[at].push(score);
        }
        let value = |at: usize| {
            scores[at].last().and_then(|score| score.value).unwrap_or(f64::NEG_INFINITY)
        };
        alive.sort_by(|&a, &b| value(b).total_cmp(&value(a)).then(a.cmp(&b)));
        alive.truncate(keep);
    }
    Ok((alive[0], scores))
}

/// How many stay after each rung: of n a rung keeps n / eta, so that one is left after the last; at
/// least a half go.
fn ladder(candidates: usize, most: u32) -> Vec<usize> {
    let eta = (candidates as f64).powf(1.0 / f64::from(most)).max(2.0);
    let needed =
        (1..=most).find(|rung| eta.powi(*rung as i32) >= candidates as f64 - 1e-9).unwrap_or(most);
    let mut left = candidates;
    (1..=needed)
        .map(|rung| {
            left = if rung == needed { 1 } else { (left as f64 / eta).ceil() as usize };
            left
        })
        .collect()
}

/// A round of the halving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rung {
    /// Candidates that enter.
    candidates: usize,
    /// Dev samples each of them has answered when it ends, those of earlier rungs included.
    samples: usize,
    /// Candidates that stay.
    keep: usize,
}

/// The rounds for `candidates` prompts: the budget of answers is shared evenly by the rungs, and
/// those that stay answer more samples.
fn rungs(tune: &Tune, candidates: usize, dev: usize) -> Vec<Rung> {
    let mut left = candidates;
    let keeps = ladder(candidates, tune.rungs);
    let share = tune.budget as usize / keeps.len();
    let mut rungs = Vec::new();
    let mut before = 1;
    for keep in keeps {
        let samples = (share / left).max(before).min(dev);
        rungs.push(Rung { candidates: left, samples, keep });
        (left, before) = (keep, samples);
    }
    rungs
}

impl Tuner<'_> {
    /// Chooses among `given` prompts and those that a model writes. `layout` lays out the arm's
    /// prompts; its template is replaced.
    pub(crate) fn choose(
        &self,
        given: &[PromptTemplate],
        layout: &mut Layout,
        desk: &mut Desk<'_>,
    ) -> Result<TuningEntry, RunError> {
        let tune = self.plan.prompt.tune.clone().unwrap_or_default();
        let dev = self.dev();
        let mut effort = BTreeSet::new();
        let mut candidates: Vec<(Origin, PromptTemplate)> =
            given.iter().map(|prompt| (Origin::Given, prompt.clone())).collect();
        let mut unusable = 0;
        if let Some(propose) = &self.plan.prompt.propose {
            let written = self.propose(propose, &given[0], &dev, layout, desk, &mut effort)?;
            for prompt in written {
                match prompt {
                    Some(prompt) if candidates.iter().all(|(_, other)| *other != prompt) => {
                        candidates.push((propose.from.into(), prompt));
                    }
                    _ => unusable += 1,
                }
            }
        }
        let variants: Vec<Variant> =
            candidates.iter().map(|(_, prompt)| Variant::Prompt(prompt.clone())).collect();
        let mut spent = Spent { keys: effort, ..Spent::default() };
        let (chosen, scores) = match &self.effort {
            Some(effort) => self.by_passes(effort, &variants, &dev, layout, desk, &mut spent)?,
            None => self.by_answers(&tune, &variants, &dev, layout, desk, &mut spent)?,
        };
        layout.template = candidates[chosen].1.clone();
        let (tokens_in, tokens_out) = tokens(desk, &spent.keys);
        Ok(TuningEntry {
            arm: self.plan.name.clone(),
            set: self.set.spec.name.clone(),
            metric: self.scorer.name().to_owned(),
            dev_samples: dev.len() as u64,
            candidates: candidates
                .into_iter()
                .zip(scores)
                .map(|((origin, prompt), rungs)| PromptCandidate {
                    origin,
                    system: prompt.system,
                    user: prompt.user,
                    rungs,
                    settings: String::new(),
                })
                .collect(),
            chosen: chosen as u64,
            unusable,
            calls: spent.keys.len() as u64,
            tokens_in,
            tokens_out,
            kind: TuningKind::Prompt,
            tokens_trained: 0,
            budget: self.effort.as_ref().map(|effort| effort.budget),
        })
    }

    /// Halves with a budget of answers.
    fn by_answers(
        &self,
        tune: &Tune,
        variants: &[Variant],
        dev: &[&Sample],
        layout: &mut Layout,
        desk: &mut Desk<'_>,
        spent: &mut Spent,
    ) -> Result<Halved, RunError> {
        let rungs = rungs(tune, variants.len(), dev.len());
        halve(variants.len(), tune.rungs, |rung, _, alive| {
            let samples = &dev[..rungs[rung].samples];
            let chosen: Vec<&Variant> = alive.iter().map(|&at| &variants[at]).collect();
            self.scores(&chosen, samples, layout, desk, spent)
        })
    }

    /// Halves with a budget of token passes.
    fn by_passes(
        &self,
        effort: &Effort,
        variants: &[Variant],
        dev: &[&Sample],
        layout: &mut Layout,
        desk: &mut Desk<'_>,
        spent: &mut Spent,
    ) -> Result<Halved, RunError> {
        let mut before = 0;
        halve(variants.len(), effort.rungs, |rung, of, alive| {
            let allowed = effort.budget * (rung as u64 + 1) / of as u64;
            let chosen: Vec<&Variant> = alive.iter().map(|&at| &variants[at]).collect();
            let scores = self.within(&chosen, before, allowed, dev, layout, desk, spent)?;
            before = scores.first().map_or(before, |score| score.samples as usize);
            Ok(scores)
        })
    }

    /// The score of each variant on as many dev samples as can be answered until `allowed` token
    /// passes are spent: those that were answered before, or the first few, tell what one takes.
    #[expect(clippy::too_many_arguments, reason = "what is asked, how far, and where it is kept")]
    fn within(
        &self,
        variants: &[&Variant],
        before: usize,
        allowed: u64,
        dev: &[&Sample],
        layout: &mut Layout,
        desk: &mut Desk<'_>,
        spent: &mut Spent,
    ) -> Result<Vec<RungScore>, RunError> {
        let first = before.max(LOOKED_AT_FIRST).min(dev.len());
        let mut keys = BTreeSet::new();
        self.answers(variants, &dev[..first], layout, desk, &mut keys)?;
        let (tokens_in, tokens_out) = tokens(desk, &keys);
        let per_sample = ((tokens_in + tokens_out) / first.max(1) as u64).max(1);
        spent.keys.extend(keys);
        let more = allowed.saturating_sub(spent.passes(desk)) / per_sample;
        let n = (first as u64 + more).min(dev.len() as u64) as usize;
        self.scores(variants, &dev[..n], layout, desk, spent)
    }

    fn scores(
        &self,
        variants: &[&Variant],
        samples: &[&Sample],
        layout: &mut Layout,
        desk: &mut Desk<'_>,
        spent: &mut Spent,
    ) -> Result<Vec<RungScore>, RunError> {
        let answers = self.answers(variants, samples, layout, desk, &mut spent.keys)?;
        let score = |answers: &Vec<Option<String>>| {
            let value = self.mean(samples, answers, desk)?;
            Ok(RungScore { samples: samples.len() as u64, value, rows: None })
        };
        answers.iter().map(score).collect()
    }

    /// The dev samples in an order drawn with the seed, so that a rung's samples are those of the
    /// rung before and more. A dev sample that is an eval sample is never one of them.
    fn dev(&self) -> Vec<&Sample> {
        let eval = asked(&self.set.samples);
        let mut dev: Vec<&Sample> = self
            .set
            .dev
            .iter()
            .flatten()
            .filter(|sample| !eval.contains(&crate::load::normal(&sample.input)))
            .collect();
        dev.sort_by_cached_key(|sample| digest::of_json(&("tune", self.seed, &sample.id)));
        dev
    }

    /// The text that is scored per variant and sample; `None` where there is none.
    fn answers(
        &self,
        variants: &[&Variant],
        samples: &[&Sample],
        layout: &mut Layout,
        desk: &mut Desk<'_>,
        effort: &mut BTreeSet<String>,
    ) -> Result<Vec<Vec<Option<String>>>, RunError> {
        let name = (self.set.spec.name.as_str(), self.plan.name.as_str());
        let vote = self.plan.prompt.self_consistency;
        let mut calls = Vec::new();
        // Keys per variant and sample.
        let mut keys: Vec<Vec<Vec<String>>> = Vec::new();
        for variant in variants {
            let adapter = variant.apply(layout);
            let layout = &*layout;
            let jobs: Vec<LayJob<'_>> = samples
                .iter()
                .map(|sample| {
                    let (asker, sorter) = (self.asker, self.sorter);
                    LayJob { layout, asker, sorter, sample, name }
                })
                .collect();
            let (laid, asked) = lay_all(desk, &jobs)?;
            effort.extend(asked);
            let mut of_prompt = Vec::new();
            for (sample, laid) in samples.iter().zip(laid) {
                let Some(laid) = laid else { return Err(RunError::Stopped) };
                let mut of_sample = Vec::new();
                for n in 0..vote.map_or(1, |vote| vote.n) {
                    let request = Request {
                        messages: laid.messages.clone(),
                        seed: self.request.seed + u64::from(n),
                        constraint: self
                            .set
                            .languages
                            .get(&self.plan.name)
                            .map(|language| language.of(sample)),
                        ..self.request.clone()
                    };
                    let counter = layout.counter.as_deref();
                    let mut call = Call::new(self.model, adapter, request, counter, name)?;
                    if let Some(by) = self.set.spec.likelihood() {
                        call = call.choosing(by, &sample.choices);
                    }
                    of_sample.push(call.key.clone());
                    calls.push(call);
                }
                of_prompt.push(of_sample);
            }
            keys.push(of_prompt);
        }
        desk.ask(&calls)?;
        effort.extend(calls.iter().map(|call| call.key.clone()));
        let text = |keys: &Vec<String>| -> Result<Option<String>, RunError> {
            let outcomes: Option<Vec<&Outcome>> =
                keys.iter().map(|key| desk.store.answer(key)).collect();
            let outcomes = outcomes.ok_or(RunError::Stopped)?;
            Ok(match assemble(self.final_answer, &outcomes).0 {
                Outcome::Answered(answer) => Some(answer.text),
                Outcome::Failed { .. } => None,
            })
        };
        keys.iter().map(|of_prompt| of_prompt.iter().map(text).collect()).collect()
    }

    /// The mean score of answers; failed and unscored ones are left out, as in a report. `None`
    /// where nothing is left.
    fn mean(
        &self,
        samples: &[&Sample],
        answers: &[Option<String>],
        desk: &Desk<'_>,
    ) -> Result<Option<f64>, RunError> {
        let mut values = Vec::new();
        for (sample, answer) in samples.iter().zip(answers) {
            if let Some(answer) = answer {
                let verdict = desk.runtime.block_on(self.scorer.score(sample, answer))?;
                values.extend(verdict.value());
            }
        }
        let n = values.len();
        Ok((n > 0).then(|| values.iter().sum::<f64>() / n as f64))
    }

    /// The prompts that a model writes; `None` for a reply that makes no prompt.
    fn propose(
        &self,
        propose: &Propose,
        first: &PromptTemplate,
        dev: &[&Sample],
        layout: &mut Layout,
        desk: &mut Desk<'_>,
        effort: &mut BTreeSet<String>,
    ) -> Result<Vec<Option<PromptTemplate>>, RunError> {
        let rows: Vec<Example> = {
            let never = asked(self.set.samples.iter());
            examples(self.set.train.as_deref().unwrap_or_default())
                .into_iter()
                .filter(|row| !never.contains(&crate::load::normal(&row.input)))
                .collect()
        };
        let failures = match propose.from {
            ProposeFrom::Failures => {
                let samples = &dev[..dev.len().min(LOOKED_AT)];
                let answers = {
                    let first = Variant::Prompt(first.clone());
                    self.answers(&[&first], samples, layout, desk, effort)?
                };
                let mut failures = Vec::new();
                for (sample, answer) in samples.iter().zip(answers.into_iter().flatten()) {
                    let Some(answer) = answer else { continue };
                    let verdict = desk.runtime.block_on(self.scorer.score(sample, &answer))?;
                    if verdict.value().is_some_and(|value| value < 0.5) {
                        failures.push((*sample, answer));
                    }
                }
                failures
            }
            ProposeFrom::Induction | ProposeFrom::Paraphrase => Vec::new(),
        };
        let name = (self.set.spec.name.as_str(), self.plan.name.as_str());
        let mut calls = Vec::new();
        for n in 0..propose.n {
            let Some(messages) =
                propose::request(propose.from, first, &rows, &failures, self.seed + u64::from(n))
            else {
                continue;
            };
            let request = Request {
                messages,
                max_tokens: propose::MAX_TOKENS,
                temperature: propose::TEMPERATURE,
                top_p: None,
                seed: self.seed + u64::from(n),
                stop: Vec::new(),
                constraint: None,
                top_logprobs: 0,
            };
            calls.push(Call::new(self.writer, None, request, None, name)?);
        }
        desk.ask(&calls)?;
        effort.extend(calls.iter().map(|call| call.key.clone()));
        let mut written = Vec::new();
        for call in &calls {
            written.push(match desk.store.answer(&call.key) {
                Some(Outcome::Answered(answer)) => propose::prompt(first, &answer.text),
                Some(Outcome::Failed { .. }) => None,
                None => return Err(RunError::Stopped),
            });
        }
        Ok(written)
    }
}

fn tokens(desk: &Desk<'_>, keys: &BTreeSet<String>) -> (u64, u64) {
    let mut sums = (0, 0);
    for key in keys {
        if let Some(Outcome::Answered(answer)) = desk.store.answer(key) {
            sums.0 += u64::from(answer.tokens_in);
            sums.1 += u64::from(answer.tokens_out);
        }
    }
    sums
}

/// The scorer that candidates are compared by.
///
/// # Errors
/// One that cannot be built.
pub(crate) fn metric<'s>(
    metric: Option<&str>,
    scorers: &'s [bench_core::spec::Scorer],
) -> Result<&'s bench_core::spec::Scorer, BackendError> {
    let found = match metric {
        Some(name) => scorers.iter().find(|scorer| scorer.name() == name),
        None => scorers.first(),
    };
    found.ok_or_else(|| BackendError::fatal("tune", "the set has no such scorer"))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod halving {
    use super::*;

    fn tune(budget: u32, rungs: u32) -> Tune {
        Tune { metric: None, budget, rungs }
    }

    #[track_caller]
    fn check(tune: &Tune, candidates: usize, dev: usize, expect: &[(usize, usize, usize)]) {
        let found: Vec<(usize, usize, usize)> = rungs(tune, candidates, dev)
            .iter()
            .map(|rung| (rung.candidates, rung.samples, rung.keep))
            .collect();
        assert_eq!(found, expect);
        // A rung's answers of earlier samples are there already.
        let mut asked = 0;
        let mut before = 0;
        for (candidates, samples, _) in found {
            asked += candidates * (samples - before);
            before = samples;
        }
        assert!(asked <= (tune.budget as usize).max(candidates), "{asked}");
    }

    #[test]
    fn the_budget_is_shared_by_rungs_and_the_better_half_goes_on() {
        check(&tune(240, 3), 8, 100, &[(8, 10, 4), (4, 20, 2), (2, 40, 1)]);
        check(&tune(240, 3), 8, 25, &[(8, 10, 4), (4, 20, 2), (2, 25, 1)]);
        check(&tune(100, 1), 4, 100, &[(4, 25, 1)]);
        check(&tune(100, 3), 2, 100, &[(2, 50, 1)]);
        check(&tune(90, 3), 3, 100, &[(3, 15, 2), (2, 22, 1)]);
        // A budget that is too small still sees every candidate once.
        check(&tune(1, 2), 4, 9, &[(4, 1, 2), (2, 1, 1)]);
    }
}
