//! Asking judges about answers, and what their verdicts come to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bench_core::backend::{BackendError, BackendErrorKind, Generator, Stage};
use bench_core::dataset::Sample;
use bench_core::digest;
use bench_core::judging::NO_PASSAGES;
use bench_core::manifest::JudgingEntry;
use bench_core::record::{Outcome, PairVerdict, Preference, Verdict};
use bench_core::spec::{Judge, JudgeMode, Scorer};
use bench_core::template::ContextPassage;
use futures::stream::{self, StreamExt as _};

use super::{Ready, RunError, Runner};
use crate::backends::ResolvedModel;
use crate::load::{Loaded, draw};
use crate::prepare::add_seconds;
use crate::score::{Effort, PairJudge, RubricJudge, jury};

/// One judgement to be made.
struct Question<'a> {
    key: String,
    /// By which of the judge's rubrics.
    by: usize,
    sample: &'a Sample,
    /// What stood in the arm's prompt.
    passages: Arc<[ContextPassage]>,
    answer: String,
    /// The answer to compare with.
    rival: Option<String>,
    seed: u64,
}

/// A rubric that a judge goes by: its own, or one of its criteria.
struct Grading<'a> {
    /// The name that its verdicts are recorded under.
    column: String,
    /// With the grades and the view that belong to the rubric.
    judge: Judge,
    rubric: &'a str,
}

impl Grading<'_> {
    /// True where there is nothing to grade by.
    fn is_void(&self, trial: &Ready<'_>) -> bool {
        self.judge.needs_passages() && trial.laid.shown.is_empty()
    }
}

/// What a judge said.
enum Said {
    Grade(Verdict),
    Preference(Preference),
}

/// Two trials whose answers are compared, by their positions among all.
struct Pair {
    first: usize,
    second: usize,
}

impl<'a> Runner<'a> {
    /// Judges what the experiment asks to be judged and has no judgement yet, one loaded judge
    /// after the other. Gives the number of judgements that are missing because the run was asked
    /// to stop.
    pub(super) fn judge(&mut self, trials: &[Ready<'a>]) -> Result<usize, RunError> {
        let loaded = self.loaded;
        let Some(judge) = &loaded.experiment.judge else { return Ok(0) };
        for name in judge.names() {
            let mut pending = self.questions(judge, name, trials);
            if pending.is_empty() || self.stop.is_requested() {
                continue;
            }
            // Judge prompts share the rubric and, sample by sample, the question: neighbours reuse
            // the prefix that is already computed.
            pending.sort_by_key(|one| (one.by, one.sample.id.as_str()));
            let started = Instant::now();
            let generator = self.backends.load(&self.prepared.models[name], None)?;
            self.desk.prove(&self.prepared.models[name], generator.as_ref())?;
            self.ask(judge, name, &pending, &generator)?;
            drop(generator);
            add_seconds(&mut self.desk.store.state, "judge", started.elapsed().as_secs_f64());
            self.desk.note_memory();
            self.desk.store.save_state()?;
        }
        if !self.stop.is_requested() {
            return Ok(0);
        }
        let left = |name: &str| {
            let asked = |question: &Question<'_>| match judge.mode {
                JudgeMode::Rubric => self.desk.store.verdict(&question.key).is_some(),
                JudgeMode::Pairwise => self.desk.store.preference(&question.key).is_some(),
            };
            self.questions(judge, name, trials).iter().filter(|one| !asked(one)).count()
        };
        Ok(judge.names().into_iter().map(left).sum())
    }

    /// The judge's rubrics: its own, then those of its criteria.
    fn gradings(&self, judge: &Judge) -> Vec<Grading<'a>> {
        let loaded: &'a Loaded = self.loaded;
        let rubric = loaded.rubric.as_deref().unwrap_or_default();
        let own = Grading { column: "judge".into(), judge: judge.clone(), rubric };
        let criteria = judge.criteria.iter().map(|(name, criterion)| Grading {
            column: Judge::column(name),
            judge: judge.by(criterion),
            rubric: loaded.criteria.get(name).map_or("", String::as_str),
        });
        std::iter::once(own).chain(criteria).collect()
    }

    fn questions(&self, judge: &Judge, name: &str, trials: &[Ready<'a>]) -> Vec<Question<'a>> {
        let mut questions = Vec::new();
        let mut seen = BTreeSet::new();
        let mut ask = |known: Option<bool>, question: Question<'a>| {
            // A judgement that failed is asked for again when failed trials are.
            let asked = known.is_some_and(|decided| decided || !self.options.retry_failed);
            if !asked && seen.insert(question.key.clone()) {
                questions.push(question);
            }
        };
        match judge.mode {
            JudgeMode::Rubric => {
                let (judged, gradings) = (self.judged(judge), self.gradings(judge));
                for trial in trials {
                    let Some(answer) = self.judged_answer(&judged, trial) else { continue };
                    let asked = gradings.iter().enumerate().filter(|(_, one)| !one.is_void(trial));
                    for (by, grading) in asked {
                        for repeat in 0..judge.repeats.get() {
                            let key = self.grade_key(grading, name, trial, &answer, repeat);
                            let known = self.desk.store.verdict(&key).map(|v| v.value().is_some());
                            let question = Question {
                                key,
                                by,
                                sample: trial.sample,
                                passages: Arc::clone(&trial.laid.shown),
                                answer: answer.clone(),
                                rival: None,
                                seed: u64::from(repeat),
                            };
                            ask(known, question);
                        }
                    }
                }
            }
            JudgeMode::Pairwise => {
                for pair in self.pairs(judge, trials) {
                    let Some((key, answer, rival)) = self.pair_key(judge, name, trials, &pair)
                    else {
                        continue;
                    };
                    let known = self.desk.store.preference(&key).map(|p| p.value().is_some());
                    let question = Question {
                        key,
                        by: 0,
                        sample: trials[pair.first].sample,
                        passages: Arc::default(),
                        answer,
                        rival: Some(rival),
                        seed: 0,
                    };
                    ask(known, question);
                }
            }
        }
        questions
    }

    fn ask(
        &mut self,
        judge: &Judge,
        name: &str,
        pending: &[Question<'_>],
        generator: &Arc<dyn Generator>,
    ) -> Result<(), RunError> {
        let rubric = self.loaded.rubric.clone().unwrap_or_default();
        let pairs = PairJudge::new(judge, rubric, Arc::clone(generator));
        let grades: Vec<RubricJudge> = self
            .gradings(judge)
            .iter()
            .map(|one| RubricJudge::new(&one.judge, one.rubric.to_owned(), Arc::clone(generator)))
            .collect();
        let task = self.progress.begin(Stage::Judge, name, pending.len() as u64);
        let concurrency = self.desk.concurrency;
        let (store, runtime, stop) = (&mut self.desk.store, &self.desk.runtime, self.stop);
        runtime.block_on(async {
            let (pairs, grades) = (&pairs, &grades);
            let mut replies = stream::iter(pending.iter().take_while(|_| !stop.is_requested()))
                .map(|question| async move {
                    (question, said(question, pairs, &grades[question.by]).await)
                })
                .buffer_unordered(concurrency);
            let mut done = 0;
            while let Some((question, result)) = replies.next().await {
                let (said, effort) = match result {
                    Ok(reply) => reply,
                    Err(error) if error.kind == BackendErrorKind::Fatal => {
                        return Err(RunError::from(error));
                    }
                    Err(error) => {
                        let verdict = Verdict::unscored(error.chain());
                        (Said::Grade(verdict), Effort::default())
                    }
                };
                match said {
                    Said::Grade(verdict) => store.put_verdict(&question.key, verdict)?,
                    Said::Preference(preference) => {
                        store.put_preference(&question.key, preference)?;
                    }
                }
                let entry = store.state.judging.entry(name.to_owned()).or_default();
                entry.judgements += 1;
                entry.latency_ms += effort.latency_ms;
                entry.tokens_in += effort.tokens_in;
                entry.tokens_out += effort.tokens_out;
                done += 1;
                task.advance(done, "");
            }
            Ok(())
        })
    }

    /// Per set, the samples to be judged.
    fn judged(&self, judge: &Judge) -> Vec<BTreeSet<&'a str>> {
        let seed = self.loaded.experiment.run.seed;
        let of = |set: &'a crate::load::LoadedSet| -> BTreeSet<&'a str> {
            if judge.on.as_ref().is_some_and(|on| !on.contains(&set.spec.name)) {
                return BTreeSet::new();
            }
            let n = judge.sample.map_or(usize::MAX, |n| n as usize);
            let drawn = draw(&set.samples, n, seed, |_, sample| format!("judge/{}", sample.id));
            drawn.into_iter().map(|sample| sample.id.as_str()).collect()
        };
        self.loaded.sets.iter().map(of).collect()
    }

    /// The answer, where this trial is to be judged and has one.
    fn judged_answer(&self, judged: &[BTreeSet<&str>], trial: &Ready<'_>) -> Option<String> {
        // Points of a learning curve are judged only where that is what decides.
        let decides = matches!(trial.set.spec.scorers.first(), Some(Scorer::Judge {}));
        let is_point = trial.arm.plan.curve.is_some();
        if !judged[trial.arm.set].contains(trial.sample.id.as_str()) || is_point && !decides {
            return None;
        }
        self.answer(trial)
    }

    /// What the trial answered, if it did.
    fn answer(&self, trial: &Ready<'_>) -> Option<String> {
        match self.outcome(trial)? {
            (Outcome::Answered(answer), _) => Some(answer.text),
            (Outcome::Failed { .. }, _) => None,
        }
    }

    fn grade_key(
        &self,
        grading: &Grading<'_>,
        name: &str,
        trial: &Ready<'_>,
        answer: &str,
        repeat: u32,
    ) -> String {
        let judge = &grading.judge;
        let accepted: Vec<&str> = trial.sample.accepted().collect();
        let key = (
            RubricJudge::VERSION,
            &self.prepared.models[name].entry.digest,
            grading.rubric,
            &judge.grades,
            &trial.sample.input,
            &accepted,
            answer,
        );
        let key = if judge.temperature > 0.0 {
            digest::of_json(&(key, judge.temperature, repeat))
        } else {
            digest::of_json(&key)
        };
        if judge.shows_the_usual() {
            return key;
        }
        let shown = trial.laid.shown.iter().map(|one| (&one.title, &one.text));
        let shown: Vec<_> = shown.filter(|_| judge.needs_passages()).collect();
        digest::of_json(&(key, &judge.shows, shown))
    }

    /// The comparisons of each sample: all pairs of arms that answered it, or some of them, drawn
    /// so that over the samples every pair has its turn. Of an arm with several training seeds or
    /// repeats the first answers.
    fn pairs(&self, judge: &Judge, trials: &[Ready<'a>]) -> Vec<Pair> {
        let judged = self.judged(judge);
        let mut found: BTreeMap<(usize, &str), BTreeMap<&str, usize>> = BTreeMap::new();
        for (at, trial) in trials.iter().enumerate() {
            if trial.repeat == 0 && self.judged_answer(&judged, trial).is_some() {
                let sample = found.entry((trial.arm.set, trial.sample.id.as_str())).or_default();
                sample.entry(&trial.arm.plan.name).or_insert(at);
            }
        }
        let mut pairs = Vec::new();
        for (index, set) in self.loaded.sets.iter().enumerate() {
            let arms: Vec<&str> = self
                .prepared
                .arms
                .iter()
                .filter(|arm| arm.set == index && arm.plan.curve.is_none())
                .map(|arm| arm.plan.name.as_str())
                .collect();
            let turns = turns(&arms, judge.pairs_per_sample, self.loaded.experiment.run.seed);
            let samples = set.samples.iter().filter(|s| judged[index].contains(s.id.as_str()));
            for (place, sample) in samples.enumerate() {
                let Some(answers) = found.get(&(index, sample.id.as_str())) else { continue };
                for (first, second) in turns(place) {
                    if let (Some(&first), Some(&second)) = (answers.get(first), answers.get(second))
                    {
                        pairs.push(Pair { first, second });
                    }
                }
            }
        }
        pairs
    }

    fn pair_key(
        &self,
        judge: &Judge,
        name: &str,
        trials: &[Ready<'_>],
        pair: &Pair,
    ) -> Option<(String, String, String)> {
        let answer = |at: usize| self.answer(&trials[at]);
        let (first, second) = (answer(pair.first)?, answer(pair.second)?);
        let sample = trials[pair.first].sample;
        let accepted: Vec<&str> = sample.accepted().collect();
        let key = digest::of_json(&(
            "pair",
            PairJudge::VERSION,
            &self.prepared.models[name].entry.digest,
            &self.loaded.rubric,
            &sample.input,
            &accepted,
            &first,
            &second,
            judge.temperature,
        ));
        let usual = judge.shows_the_usual();
        let key = if usual { key } else { digest::of_json(&(key, &judge.shows)) };
        Some((key, first, second))
    }

    /// Per trial, what judges and people say of its answer: verdicts by name, and preferences.
    pub(super) fn opinions(&self, trials: &[Ready<'a>]) -> Vec<Opinion> {
        let mut opinions: Vec<Opinion> = trials.iter().map(|_| Opinion::default()).collect();
        let Some(judge) = &self.loaded.experiment.judge else { return opinions };
        match judge.mode {
            JudgeMode::Rubric => {
                let (judged, gradings) = (self.judged(judge), self.gradings(judge));
                for (trial, opinion) in trials.iter().zip(&mut opinions) {
                    if let Some(answer) = self.judged_answer(&judged, trial) {
                        let grades = |one| self.grades(one, trial, &answer);
                        opinion.verdicts = gradings.iter().filter_map(grades).flatten().collect();
                    }
                }
            }
            JudgeMode::Pairwise => self.preferences(judge, trials, &mut opinions),
        }
        for (trial, opinion) in trials.iter().zip(&mut opinions) {
            let (verdicts, labels) = self.labels(judge, trial);
            opinion.verdicts.extend(verdicts);
            opinion.labels = labels;
        }
        opinions
    }

    /// The verdicts by one rubric; `None` until every judge has been asked as often as it is to be.
    fn grades(
        &self,
        grading: &Grading<'_>,
        trial: &Ready<'_>,
        answer: &str,
    ) -> Option<BTreeMap<String, Verdict>> {
        let Grading { column, judge, .. } = grading;
        if grading.is_void(trial) {
            return Some([(column.clone(), Verdict::unscored(NO_PASSAGES))].into());
        }
        let mut verdicts = BTreeMap::new();
        let names = judge.names();
        let mut all: Vec<(&str, Vec<Verdict>)> = Vec::new();
        for &name in &names {
            let repeats = (0..judge.repeats.get()).map(|repeat| {
                self.desk
                    .store
                    .verdict(&self.grade_key(grading, name, trial, answer, repeat))
                    .cloned()
            });
            all.push((name, repeats.collect::<Option<_>>()?));
        }
        let jurors: Vec<(&str, Verdict)> =
            all.iter().map(|(name, repeats)| (*name, jury::repeated(repeats))).collect();
        verdicts.insert(column.clone(), jury::combined(judge, &jurors));
        if judge.repeats.get() > 1 {
            for repeat in 0..judge.repeats.get() as usize {
                let said: Vec<(&str, Verdict)> =
                    all.iter().map(|(name, repeats)| (*name, repeats[repeat].clone())).collect();
                let repeat = format!("{column}#{}", repeat + 1);
                verdicts.insert(repeat, jury::combined(judge, &said));
            }
        }
        if jurors.len() > 1 {
            for (name, verdict) in jurors {
                verdicts.insert(format!("{column}/{name}"), verdict);
            }
        }
        Some(verdicts)
    }

    /// An answer's score is its share of wins over the answers that it was compared with.
    fn preferences(&self, judge: &Judge, trials: &[Ready<'a>], opinions: &mut [Opinion]) {
        let mut won: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        let mut silent: BTreeMap<usize, String> = BTreeMap::new();
        for pair in self.pairs(judge, trials) {
            let mut said = Vec::new();
            for name in judge.names() {
                let Some((key, ..)) = self.pair_key(judge, name, trials, &pair) else { continue };
                let Some(preference) = self.desk.store.preference(&key) else { continue };
                opinions[pair.first].preferences.push(PairVerdict {
                    against: trials[pair.second].arm.plan.name.clone(),
                    judge: name.to_owned(),
                    preference: preference.clone(),
                });
                said.push(preference.clone());
            }
            if said.len() < judge.names().len() {
                continue;
            }
            match jury::preferred(judge.combine, &said) {
                Some(value) => {
                    won.entry(pair.first).or_default().push(value);
                    won.entry(pair.second).or_default().push(1.0 - value);
                }
                None => {
                    if let Some(Preference::Unscored { reason }) = said.into_iter().next() {
                        silent.entry(pair.first).or_insert_with(|| reason.clone());
                        silent.entry(pair.second).or_insert(reason);
                    }
                }
            }
        }
        for (at, values) in won {
            let value = values.iter().sum::<f64>() / values.len() as f64;
            let reason = format!("{} of {} comparisons", plain(values.iter().sum()), values.len());
            let verdict = Verdict::explained(value, Some(reason));
            opinions[at].verdicts.insert("judge".into(), verdict);
            silent.remove(&at);
        }
        for (at, reason) in silent {
            opinions[at].verdicts.insert("judge".into(), Verdict::unscored(reason));
        }
    }

    /// The grades that people gave to this trial's answer.
    fn labels(&self, judge: &Judge, trial: &Ready<'_>) -> (BTreeMap<String, Verdict>, usize) {
        let mut verdicts = BTreeMap::new();
        let Some(answer) = self.answer(trial) else { return (verdicts, 0) };
        let seed = trial.adapter.map_or(0, |adapter| adapter.seed);
        let mut places = Vec::new();
        for label in &self.loaded.labels {
            let meant = label.set == trial.set.spec.name
                && label.arm == trial.arm.plan.name
                && label.sample == trial.sample.id
                && label.repeat == trial.repeat
                && label.train_seed.is_none_or(|wanted| wanted == seed)
                && label.answer.as_ref().is_none_or(|graded| *graded == answer);
            if meant {
                let place = judge.place(f64::from(label.grade));
                places.push(place);
                if let Some(grader) = &label.grader {
                    let reason = Some(label.grade.to_string());
                    let verdict = Verdict::explained(place, reason);
                    verdicts.insert(format!("human/{grader}"), verdict);
                }
            }
        }
        if !places.is_empty() {
            let mean = places.iter().sum::<f64>() / places.len() as f64;
            verdicts.insert("human".into(), Verdict::scored(mean));
        }
        (verdicts, places.len())
    }
}

impl Runner<'_> {
    /// What judging took, in the experiment's order; nothing of judges that were not asked.
    pub(super) fn judging_entries(&self) -> Vec<JudgingEntry> {
        let judges = self.loaded.experiment.judge.iter().flat_map(Judge::names);
        judges
            .filter_map(|name| {
                let entry = self.desk.store.state.judging.get(name)?.clone();
                Some(JudgingEntry { judge: name.to_owned(), ..entry })
            })
            .collect()
    }
}

impl Runner<'_> {
    /// Labels that were given to other answers than the arms give now.
    pub(super) fn unused_labels(&self, used: usize) -> Option<String> {
        let (all, graded) = (self.loaded.labels.len(), used);
        (graded < all).then(|| {
            format!(
                "{} of {all} labels are of answers that the arms do not give (any more) and were not used",
                all - graded
            )
        })
    }
}

/// Refuses a judge that has the weights of an arm, under whatever name.
pub(super) fn check_models(
    loaded: &Loaded,
    models: &BTreeMap<String, ResolvedModel>,
) -> Result<(), RunError> {
    let Some(judge) = &loaded.experiment.judge else { return Ok(()) };
    if judge.allow_self_judging {
        return Ok(());
    }
    for name in judge.names() {
        for plan in &loaded.plans {
            if let (Some(own), Some(other)) = (models.get(name), models.get(&plan.model))
                && own.entry.same_weights(&other.entry)
            {
                return Err(RunError::SelfJudging {
                    judge: name.to_owned(),
                    arm: plan.name.clone(),
                });
            }
        }
    }
    Ok(())
}

/// What is thought of one answer.
#[derive(Default)]
pub(super) struct Opinion {
    pub(super) verdicts: BTreeMap<String, Verdict>,
    pub(super) preferences: Vec<PairVerdict>,
    /// Labels of this answer.
    pub(super) labels: usize,
}

async fn said(
    question: &Question<'_>,
    pairs: &PairJudge,
    grades: &RubricJudge,
) -> Result<(Said, Effort), BackendError> {
    let Question { sample, passages, answer, rival, seed, .. } = question;
    Ok(if let Some(rival) = rival {
        let (preference, effort) = pairs.compare(sample, answer, rival, *seed).await?;
        (Said::Preference(preference), effort)
    } else {
        let (verdict, effort) = grades.judge(sample, passages, answer, *seed).await?;
        (Said::Grade(verdict), effort)
    })
}

/// Which pairs of arms are compared on the sample at a place: all, or the next `n` of a drawn order.
fn turns<'n>(
    arms: &[&'n str],
    n: Option<u32>,
    seed: u64,
) -> impl Fn(usize) -> Vec<(&'n str, &'n str)> + use<'n> {
    let mut all: Vec<(&str, &str)> = Vec::new();
    for (at, &first) in arms.iter().enumerate() {
        all.extend(arms[at + 1..].iter().map(|&second| (first, second)));
    }
    if n.is_some() {
        all.sort_by_cached_key(|pair| digest::of_json(&(seed, pair)));
    }
    move |place| match n {
        Some(n) if (n as usize) < all.len() => {
            let start = place * n as usize;
            (start..start + n as usize).map(|at| all[at % all.len()]).collect()
        }
        _ => all.clone(),
    }
}

/// At most one decimal.
fn plain(x: f64) -> String {
    format!("{x:.1}").trim_end_matches(".0").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_the_samples_every_pair_has_its_turn() {
        let arms = ["a", "b", "c", "d"];
        let some = turns(&arms, Some(2), 7);
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for place in 0..9 {
            assert_eq!(some(place).len(), 2);
            for pair in some(place) {
                *counts.entry(pair).or_default() += 1;
            }
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|&n| n == 3), "{counts:?}");
        assert_eq!(turns(&arms, None, 7)(3).len(), 6);
        assert_eq!(turns(&arms, Some(9), 7)(3).len(), 6);
    }
}
