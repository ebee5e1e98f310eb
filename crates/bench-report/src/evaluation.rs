//! From records to figures: who was asked what, how well each arm did, what it took, and who won.
//! Knows nothing of tables, charts or pages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use bench_core::manifest::{Manifest, TrainingEntry};
use bench_core::plan;
use bench_core::record::{Answer, Outcome, Record, Verdict};
use bench_core::spec::{ArmPlan, Compare, Correction, EvalSet, resolve};
use bench_stats::decision::{
    ArmFigures, Constraint, Decision, DecisionError, Figure, Limit, Utility, decide, decide_recipes,
};
use bench_stats::{
    ArmMean, ArmScores, Clusters, Comparison, Estimate, Family, Options, PairResult, Pairs,
    analyse, estimate,
};

use crate::classification::Classified;
use crate::cost::{Costing, Rivalry};
use crate::parts::PartResult;
use crate::recipes::{self, Entrant, Recipes};
use crate::retrieval::RetrievalResult;
use crate::sequential::Look;
use crate::tables::Slice;
use crate::{ReportError, judging, retention, trials};

/// The scorer name under which an LLM judge's verdicts are recorded.
pub(crate) const JUDGE: &str = "judge";

/// The name under which people's grades of an answer are recorded.
pub(crate) const HUMAN: &str = "human";

/// A score from here on counts as a right answer, in flips and in the diagnosis.
pub(crate) const RIGHT: f64 = 0.5;

/// All figures of a run.
pub(crate) struct Evaluation<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) plans: Vec<ArmPlan>,
    pub(crate) options: Options,
    pub(crate) sets: Vec<SetResult<'a>>,
}

/// The figures of one eval set.
pub(crate) struct SetResult<'a> {
    pub(crate) set: &'a EvalSet,
    /// Ids of all samples that any trial has, in order.
    pub(crate) samples: Vec<&'a str>,
    pub(crate) clusters: Clusters,
    /// Per sample, the label of samples that are not independent of it.
    labels: Vec<Option<&'a str>>,
    /// Those that have trials, in the experiment's order.
    pub(crate) contenders: Vec<Contender<'a>>,
    /// Points of learning curves: arms on fewer rows, which are compared with nobody.
    pub(crate) points: Vec<Point<'a>>,
    /// The arms that the decision is made among.
    pub(crate) entrants: Vec<Entrant>,
    /// What it is made on, where any of them has several training seeds.
    pub(crate) recipes: Option<Recipes>,
    /// Position of the baseline among the contenders.
    pub(crate) baseline: Option<usize>,
    /// The first is the metric that decides.
    pub(crate) metrics: Vec<Metric>,
    /// Why the metric that decides may not, if so: a judge under its floor.
    pub(crate) barred: Option<String>,
    /// Whether that is because arms did not run, or not wholly.
    is_partial: bool,
    pub(crate) decision: Option<Decision>,
    pub(crate) once: Once,
}

/// What several tables, charts and pages show and what takes resampling: worked out by the first of
/// them.
#[derive(Default)]
pub(crate) struct Once {
    pub(crate) retrieval: OnceLock<Vec<RetrievalResult>>,
    pub(crate) slices: OnceLock<Vec<Slice>>,
    pub(crate) costings: OnceLock<Vec<Option<Costing>>>,
    pub(crate) rivalries: OnceLock<Vec<Rivalry>>,
    pub(crate) classified: OnceLock<Option<Classified>>,
    pub(crate) parts: OnceLock<Vec<PartResult>>,
}

/// An arm on one eval set; where it was trained with several seeds, one contender for each, because
/// the spread of training is not the spread of samples.
pub(crate) struct Contender<'a> {
    pub(crate) name: String,
    /// Position of the arm in the experiment.
    pub(crate) arm: usize,
    pub(crate) train_seed: u64,
    /// By sample, then repeat.
    pub(crate) trials: Vec<&'a Record>,
    /// Per trial, the position of its sample in the set.
    pub(crate) positions: Vec<usize>,
    /// Per sample of the set, the first trial.
    firsts: Vec<Option<usize>>,
    /// Of how many trials, from the first, the prompts are looked at.
    n_prompted: usize,
    pub(crate) usage: Usage,
    pub(crate) training: Option<&'a TrainingEntry>,
    /// US dollars, where the experiment prices the machine.
    pub(crate) training_cost: Option<f64>,
}

/// An arm that was trained on fewer rows, and its scores on the deciding metric per sample.
pub(crate) struct Point<'a> {
    pub(crate) contender: Contender<'a>,
    pub(crate) scores: Vec<Option<f64>>,
}

/// What the answers of a contender took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) trials: usize,
    pub(crate) answered: usize,
    pub(crate) failed: usize,
    /// Answers whose tokens nobody counted; no prompt has none.
    pub(crate) uncounted: usize,
    /// Answers that ended at the token limit.
    pub(crate) cut_short: usize,
    pub(crate) tokens_in: u64,
    pub(crate) tokens_out: u64,
    pub(crate) cost: Option<f64>,
    /// Sorted milliseconds of retrieval and generation together.
    pub(crate) latencies: Vec<f64>,
    pub(crate) first_token_p50: Option<f64>,
    pub(crate) retrieval_p50: Option<f64>,
    /// Generated tokens per second of generation, over all answers.
    pub(crate) tokens_per_second: Option<f64>,
}

/// One scorer on one eval set.
pub(crate) struct Metric {
    pub(crate) name: String,
    /// Per contender, a score per sample: the mean over repeats.
    pub(crate) scores: Vec<ArmScores>,
    /// Per contender.
    pub(crate) estimates: Vec<Option<Estimate>>,
    /// Per contender: answers without a score.
    pub(crate) unscored: Vec<usize>,
    /// Per contender: the difference to the baseline.
    pub(crate) against_baseline: Vec<Option<Comparison>>,
    /// Every pair of contenders.
    pub(crate) pairs: Vec<(usize, usize, Option<Comparison>)>,
}

impl<'a> Evaluation<'a> {
    pub(crate) fn new(manifest: &'a Manifest, records: &'a [Record]) -> Result<Self, ReportError> {
        let experiment = &manifest.experiment;
        let plans = resolve(experiment);
        let compare = &experiment.compare;
        let options = Options {
            level: 1.0 - compare.alpha,
            alpha: compare.alpha,
            margin: (compare.margin > 0.0).then_some(compare.margin),
            seed: experiment.run.seed,
            ..Options::default()
        };
        let sorted = sorted(experiment.eval_sets.as_slice(), &plans, records)?;
        let of_run = sorted.len();
        let mut by_set = vec![Vec::new(); experiment.eval_sets.len()];
        for (set, arm, record) in sorted {
            by_set[set].push((arm, record));
        }
        let sets = experiment.eval_sets.iter().zip(by_set);
        let sets = sets
            .map(|(set, trials)| SetResult::new(manifest, &plans, &options, set, &trials))
            .collect::<Result<Vec<_>, _>>()?;
        let mut sets: Vec<SetResult<'a>> = sets;
        for contender in sets.iter_mut().flat_map(|set| &mut set.contenders) {
            contender.n_prompted = trials::prompted(contender.trials.len(), of_run);
        }
        // What an arm kept of general skills is measured on other sets than it is decided on.
        let utility = utility(&experiment.compare);
        let decisions: Vec<Option<Decision>> =
            sets.iter().map(|set| set.decided(&sets, &plans, &utility, &options)).collect();
        sets.iter_mut().zip(decisions).for_each(|(set, decision)| set.decision = decision);
        Ok(Self { manifest, plans, options, sets })
    }
}

/// Records with the positions of set and arm, in the one order that everything is written in.
fn sorted<'a>(
    sets: &[EvalSet],
    plans: &[ArmPlan],
    records: &'a [Record],
) -> Result<Vec<(usize, usize, &'a Record)>, ReportError> {
    let mut rows = Vec::with_capacity(records.len());
    for record in records {
        let trial = &record.trial;
        let set = sets.iter().position(|set| set.name == trial.set);
        let arm = plans.iter().position(|plan| plan.name == trial.arm);
        let unknown = |what, name: &str| ReportError::Unknown { what, name: name.to_owned() };
        rows.push((
            set.ok_or_else(|| unknown("eval set", &trial.set))?,
            arm.ok_or_else(|| unknown("arm", &trial.arm))?,
            record,
        ));
    }
    let key = |row: &(usize, usize, &'a Record)| {
        let trial = &row.2.trial;
        (row.0, row.1, trial.train_seed, trial.sample.as_str(), trial.repeat)
    };
    rows.sort_by_key(key);
    match rows.windows(2).find(|pair| key(&pair[0]) == key(&pair[1])) {
        Some(pair) => Err(ReportError::Duplicate { trial: trials::name(&pair[0].2.trial) }),
        None => Ok(rows),
    }
}

impl<'a> SetResult<'a> {
    fn new(
        manifest: &'a Manifest,
        plans: &[ArmPlan],
        options: &Options,
        set: &'a EvalSet,
        trials: &[(usize, &'a Record)],
    ) -> Result<Self, ReportError> {
        let partial = partial(plans, set, trials);
        let about = |record: &'a Record| (record.trial.sample.as_str(), record.cluster.as_deref());
        let mut samples: Vec<_> = trials.iter().map(|&(_, record)| about(record)).collect();
        // Stable, and quick on what is sorted arm by arm.
        samples.sort_by_key(|sample| sample.0);
        samples.dedup_by_key(|sample| sample.0);
        let (samples, labels): (Vec<&str>, Vec<Option<&str>>) = samples.into_iter().unzip();
        let clusters = clusters(&samples, &labels, 0..samples.len());
        let (points, contenders): (Vec<_>, Vec<_>) =
            contenders(manifest, plans, &set.name, &samples, trials)
                .into_iter()
                .partition(|contender| plans[contender.arm].curve.is_some());
        let baseline = &manifest.experiment.compare.baseline;
        let baseline = contenders.iter().position(|c| plans[c.arm].name == *baseline);
        let correction = manifest.experiment.compare.correction;
        let mut metrics = metric_names(set, trials)
            .into_iter()
            .map(|name| {
                Metric::new(name, &samples, &clusters, &contenders, baseline, options, correction)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let points = points
            .into_iter()
            .map(|contender| {
                let name = metrics.first().map_or("", |metric| metric.name.as_str());
                let scores = sample_means(&contender, samples.len(), name);
                Point { contender, scores }
            })
            .collect();
        let entrants = recipes::entrants(&contenders, plans);
        let recipes = match metrics.first() {
            Some(metric) => recipes::recipes(
                metric,
                &entrants,
                &samples,
                &clusters,
                options,
                correction,
                &manifest.experiment.run,
            )?,
            None => None,
        };
        let judge = manifest.experiment.judge.as_ref();
        let judge_decides = metrics.first().is_some_and(|metric| metric.name == JUDGE);
        if manifest.experiment.run.stop.is_some()
            && let Some(metric) = metrics.first_mut()
        {
            let order = plan::asking_order(&samples, manifest.experiment.run.seed);
            let look = Look::new(&metric.scores, &order, options.alpha);
            look.apply(metric, baseline, options.margin);
        }
        let barred =
            judge.filter(|_| judge_decides).and_then(|judge| judging::barred(judge, trials));
        let is_partial = partial.is_some();
        let barred = partial.or(barred);
        let arms = contenders.iter().map(|c| &plans[c.arm]);
        if judging::own_arm(manifest, arms.map(|p| (p.name.as_str(), p.model.as_str()))).is_some() {
            let own = metrics.iter_mut().filter(|metric| metric.name.starts_with(JUDGE));
            own.for_each(|metric| metric.name.push_str(judging::SELF));
        }
        Ok(Self {
            set,
            samples,
            clusters,
            labels,
            contenders,
            points,
            entrants,
            recipes,
            baseline,
            metrics,
            barred,
            is_partial,
            decision: None,
            once: Once::default(),
        })
    }

    /// The metric that decides; `None` only where nothing was scored or asked.
    pub(crate) fn primary(&self) -> Option<&Metric> {
        self.metrics.first()
    }

    /// True when any sample names the documents that hold its answer.
    pub(crate) fn has_gold(&self) -> bool {
        self.contenders.iter().flat_map(|c| &c.trials).any(|record| !record.gold.is_empty())
    }
}

/// Why the set is not decided yet: arms that did not run, or have fewer trials than others. Points of
/// learning curves decide nothing.
fn partial(plans: &[ArmPlan], set: &EvalSet, trials: &[(usize, &Record)]) -> Option<String> {
    let mut counts: BTreeMap<(usize, u64), usize> = BTreeMap::new();
    for &(arm, record) in trials {
        if plans[arm].curve.is_none() {
            *counts.entry((arm, record.trial.train_seed)).or_default() += 1;
        }
    }
    let absent: Vec<&str> = plans
        .iter()
        .enumerate()
        .filter(|(arm, plan)| {
            plan.curve.is_none()
                && plan.sets.contains(&set.name)
                && counts.keys().all(|key| key.0 != *arm)
        })
        .map(|(_, plan)| plan.name.as_str())
        .collect();
    let most = counts.values().copied().max()?;
    let mut said = Vec::new();
    if !absent.is_empty() {
        said.push(format!("no trials of {}", absent.join(", ")));
    }
    let short = counts.iter().filter(|&(_, &count)| count < most);
    said.extend(
        short.map(|(key, count)| format!("{} has {count} of {most} trials", plans[key.0].name)),
    );
    (!said.is_empty()).then(|| format!("this report is partial: {}", said.join("; ")))
}

/// The set's scorers in their order, then what else was scored.
fn metric_names(set: &EvalSet, trials: &[(usize, &Record)]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut found: BTreeSet<&str> = BTreeSet::new();
    for scorer in trials.iter().flat_map(|(_, record)| record.verdicts.keys()) {
        if !found.contains(scorer.as_str()) {
            found.insert(scorer);
        }
    }
    let declared = set.scorers.iter().map(|scorer| -> &str { scorer.name() });
    // A judge's repeats and each person's grades are for the judge's report card.
    let found =
        found.into_iter().filter(|name| !name.contains(['#']) && !name.starts_with("human/"));
    for name in declared.chain(found) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn contenders<'a>(
    manifest: &'a Manifest,
    plans: &[ArmPlan],
    set: &str,
    samples: &[&str],
    trials: &[(usize, &'a Record)],
) -> Vec<Contender<'a>> {
    let mut groups: BTreeMap<(usize, u64), Vec<&'a Record>> = BTreeMap::new();
    for &(arm, record) in trials {
        groups.entry((arm, record.trial.train_seed)).or_default().push(record);
    }
    let several = |arm: usize| groups.keys().filter(|key| key.0 == arm).count() > 1;
    groups
        .iter()
        .map(|(&(arm, train_seed), trials)| {
            let plan = &plans[arm];
            let name = if several(arm) {
                format!("{} (seed {train_seed})", plan.name)
            } else {
                plan.name.clone()
            };
            let trains = plan.finetune.is_some() || plan.features.is_some();
            let training = trains.then_some(()).and_then(|()| {
                manifest.training.iter().find(|entry| {
                    entry.set == set && entry.seed == train_seed && entry.arms.contains(&plan.name)
                })
            });
            let hour = manifest.experiment.prices.of(&plan.model, false);
            let hour = hour.map(|price| price.training_hour()).filter(|&hour| hour > 0.0);
            let training_cost =
                training.zip(hour).map(|(entry, hour)| entry.outcome.seconds / 3600.0 * hour);
            let mut usage = Usage::of(trials);
            if plan.features.is_some() {
                // A classifier reads no prompt.
                usage.uncounted = 0;
            }
            let (positions, firsts) = places(samples, trials);
            Contender {
                name,
                arm,
                train_seed,
                trials: trials.clone(),
                positions,
                firsts,
                n_prompted: trials.len(),
                usage,
                training,
                training_cost,
            }
        })
        .collect()
}

/// Where the samples of trials stand among all samples, and the first trial of every sample; both are
/// in the same order.
fn places(samples: &[&str], trials: &[&Record]) -> (Vec<usize>, Vec<Option<usize>>) {
    let mut firsts = vec![None; samples.len()];
    let mut sample = 0;
    let positions = trials.iter().enumerate().map(|(trial, record)| {
        while samples[sample] != record.trial.sample {
            sample += 1;
        }
        firsts[sample].get_or_insert(trial);
        sample
    });
    (positions.collect(), firsts)
}

impl<'a> Contender<'a> {
    /// The first trial on a sample, by its position in the set.
    pub(crate) fn first(&self, sample: usize) -> Option<&'a Record> {
        self.firsts[sample].map(|at| self.trials[at])
    }

    /// The trials on a sample, by its position in the set.
    pub(crate) fn on(&self, sample: usize) -> &[&'a Record] {
        let Some(from) = self.firsts[sample] else { return &[] };
        let more = self.positions[from..].iter().take_while(|&&at| at == sample).count();
        &self.trials[from..from + more]
    }

    /// The trials whose prompts are looked at: all, or the first of very many.
    pub(crate) fn prompted(&self) -> &[&'a Record] {
        &self.trials[..self.n_prompted]
    }
}

impl Usage {
    pub(crate) fn of(trials: &[&Record]) -> Self {
        let answers: Vec<&Answer> = trials.iter().filter_map(|record| record.answer()).collect();
        let sum = |of: fn(&Answer) -> f64| answers.iter().map(|answer| of(answer)).sum::<f64>();
        let seconds = sum(|a| a.latency_ms) / 1000.0;
        let tokens_out: u64 = answers.iter().map(|a| u64::from(a.tokens_out)).sum();
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            quantile(&values, 0.5)
        };
        let mut latencies: Vec<f64> = answers.iter().map(|a| latency(a)).collect();
        latencies.sort_by(f64::total_cmp);
        let cost: Option<f64> = answers.iter().map(|answer| answer.cost_usd).sum();
        Self {
            trials: trials.len(),
            answered: answers.len(),
            failed: trials.iter().filter(|r| matches!(r.outcome, Outcome::Failed { .. })).count(),
            uncounted: answers.iter().filter(|answer| answer.tokens_in == 0).count(),
            cut_short: answers.iter().filter(|answer| answer.finish == "length").count(),
            tokens_in: answers.iter().map(|a| u64::from(a.tokens_in)).sum(),
            tokens_out,
            cost: cost.filter(|_| !answers.is_empty()),
            latencies,
            first_token_p50: median(answers.iter().filter_map(|a| a.first_token_ms).collect()),
            retrieval_p50: median(
                answers.iter().map(|a| a.retrieval_ms).filter(|&ms| ms > 0.0).collect(),
            ),
            tokens_per_second: (seconds > 0.0 && tokens_out > 0)
                .then(|| tokens_out as f64 / seconds),
        }
    }

    /// The mean of a count of tokens; `None` where some answers' are unknown.
    pub(crate) fn per_answer(&self, total: u64) -> Option<f64> {
        (self.answered > 0 && self.uncounted == 0).then(|| total as f64 / self.answered as f64)
    }

    pub(crate) fn cost_per_1000(&self) -> Option<f64> {
        self.cost.map(|cost| cost / self.answered as f64 * 1000.0)
    }

    pub(crate) fn latency(&self, share: f64) -> Option<f64> {
        quantile(&self.latencies, share)
    }
}

/// Milliseconds that a user waits for an answer: retrieval and generation.
fn latency(answer: &Answer) -> f64 {
    answer.latency_ms + answer.retrieval_ms
}

/// The quantile of sorted values, between the two nearest (type 7 of Hyndman and Fan 1996).
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share * last as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(low + (high - low) * place.fract())
}

impl Metric {
    fn new(
        name: String,
        samples: &[&str],
        clusters: &Clusters,
        contenders: &[Contender<'_>],
        baseline: Option<usize>,
        options: &Options,
        correction: Correction,
    ) -> Result<Self, ReportError> {
        let scores: Vec<ArmScores> = contenders
            .iter()
            .map(|c| ArmScores {
                arm: c.name.clone(),
                scores: sample_means(c, samples.len(), &name),
            })
            .collect();
        let unscored = contenders
            .iter()
            .map(|c| c.trials.iter().filter(|record| is_unscored(record, &name)).count())
            .collect();
        let family = analyse(&scores, clusters, &Pairs::All, options)?;
        let mut pairs = Vec::new();
        let mut compared = family.pairs.into_iter();
        for a in 0..scores.len() {
            for b in a + 1..scores.len() {
                pairs.push((a, b, compared.next().and_then(|pair| pair.comparison)));
            }
        }
        let mut against_baseline = vec![None; scores.len()];
        if let Some(baseline) = baseline {
            let family =
                analyse(&scores, clusters, &Pairs::Against(scores[baseline].arm.clone()), options)?;
            let others = (0..scores.len()).filter(|&arm| arm != baseline);
            for (arm, pair) in others.zip(family.pairs) {
                against_baseline[arm] = pair.comparison;
            }
        }
        if correction == Correction::None {
            let alone = |a: usize, b: usize| -> Result<Option<Comparison>, ReportError> {
                let pair = [scores[a].clone(), scores[b].clone()];
                let family = analyse(&pair, clusters, &Pairs::All, options)?;
                Ok(family.pairs.into_iter().next().and_then(|pair| pair.comparison))
            };
            for (a, b, comparison) in &mut pairs {
                *comparison = alone(*a, *b)?;
            }
            for (arm, comparison) in against_baseline.iter_mut().enumerate() {
                if let Some(baseline) = baseline.filter(|&baseline| baseline != arm) {
                    *comparison = alone(arm, baseline)?;
                }
            }
        }
        let estimates = family.means.into_iter().map(|mean| mean.estimate).collect();
        Ok(Self { name, scores, estimates, unscored, against_baseline, pairs })
    }

    /// Whether the contender answered the sample right; `None` where it is unscored.
    pub(crate) fn is_right(&self, contender: usize, sample: usize) -> Option<bool> {
        self.scores[contender].scores[sample].map(|score| score >= RIGHT)
    }

    /// The mean of a contender over some samples, with its interval.
    pub(crate) fn estimate_on(
        &self,
        contender: usize,
        set: &SetResult<'_>,
        keep: impl Fn(usize) -> bool,
        options: &Options,
    ) -> Option<Estimate> {
        let scores = self.scores[contender].scores.iter().enumerate();
        let kept: Vec<(usize, f64)> = scores
            .filter(|&(at, _)| keep(at))
            .filter_map(|(at, score)| Some((at, (*score)?)))
            .collect();
        let values: Vec<f64> = kept.iter().map(|&(_, score)| score).collect();
        let clusters = set.clusters_of(&kept.iter().map(|&(at, _)| at).collect::<Vec<_>>());
        estimate(&values, &clusters, options)
    }
}

impl<'a> SetResult<'a> {
    /// Everyone who was asked, points of learning curves last.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Contender<'a>> {
        self.contenders.iter().chain(self.points.iter().map(|point| &point.contender))
    }
}

impl SetResult<'_> {
    /// The mean of what trials of a contender have, over the samples of which any trial has it; of a
    /// sample with repeats their mean. `None` where no trial has it.
    pub(crate) fn estimate_trials(
        &self,
        contender: usize,
        value: impl Fn(&Record) -> Option<f64>,
        options: &Options,
    ) -> Option<Estimate> {
        let contender = &self.contenders[contender];
        let mut sums: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
        for (record, &sample) in contender.trials.iter().zip(&contender.positions) {
            if let Some(value) = value(record) {
                let (sum, n) = sums.entry(sample).or_default();
                (*sum, *n) = (*sum + value, *n + 1);
            }
        }
        let samples: Vec<usize> = sums.keys().copied().collect();
        let values: Vec<f64> = sums.into_values().map(|(sum, n)| sum / n as f64).collect();
        estimate(&values, &self.clusters_of(&samples), options)
    }

    /// The clusters of some samples.
    pub(crate) fn clusters_of(&self, samples: &[usize]) -> Clusters {
        clusters(&self.samples, &self.labels, samples.iter().copied())
    }
}

/// The clusters of samples at some positions; a sample without a label stands for itself.
fn clusters(
    samples: &[&str],
    labels: &[Option<&str>],
    positions: impl Iterator<Item = usize>,
) -> Clusters {
    if labels.iter().all(Option::is_none) {
        return Clusters::none();
    }
    Clusters::from_labels(
        positions.map(|at| (labels[at].is_none(), labels[at].unwrap_or(samples[at]))),
    )
}

/// A score per sample: the mean over the repeats that have one.
fn sample_means(contender: &Contender<'_>, samples: usize, metric: &str) -> Vec<Option<f64>> {
    let mut sums = vec![(0.0, 0_usize); samples];
    for (record, &sample) in contender.trials.iter().zip(&contender.positions) {
        // A score that is not a number says nothing; the run writes it as unscored.
        let value = record.answer().and_then(|_| record.verdicts.get(metric)?.value());
        if let Some(value) = value.filter(|value| value.is_finite()) {
            let (sum, n) = sums[sample];
            sums[sample] = (sum + value, n + 1);
        }
    }
    sums.into_iter().map(|(sum, n)| (n > 0).then(|| sum / n as f64)).collect()
}

/// An answer that the scorer could not decide on. A judge that was not asked is not counted.
fn is_unscored(record: &Record, metric: &str) -> bool {
    record.answer().is_some()
        && match record.verdicts.get(metric) {
            Some(Verdict::Unscored { .. }) => true,
            Some(Verdict::Scored { value, .. }) => !value.is_finite(),
            None => !metric.starts_with(JUDGE) && metric != HUMAN,
        }
}

/// What the user wants, in the terms of the decision.
fn utility(compare: &Compare) -> Utility {
    let (limits, weights) = (&compare.constraints, &compare.weights);
    let at_most = [
        (Figure::CostPer1000, limits.max_cost_per_1000),
        (Figure::P95LatencyMs, limits.max_p95_latency_ms),
        (Figure::TrainingCost, limits.max_training_cost),
    ]
    .map(|(figure, limit)| (figure, limit.map(Limit::AtMost)));
    let at_least =
        [(Figure::Quality, limits.min_quality), (Figure::Retention, limits.min_retention)]
            .map(|(figure, limit)| (figure, limit.map(Limit::AtLeast)));
    let constraints = at_most.into_iter().chain(at_least);
    let weights = [
        (Figure::CostPer1000, weights.cost_per_1000),
        (Figure::P95LatencyMs, weights.p95_latency_ms),
        (Figure::TrainingCost, weights.training_cost),
        (Figure::Retention, weights.retention),
    ];
    Utility {
        constraints: constraints
            .filter_map(|(figure, limit)| Some(Constraint { figure, limit: limit? }))
            .collect(),
        weights: weights.into_iter().filter_map(|(figure, w)| Some((figure, w?))).collect(),
        ..Utility::default()
    }
}

/// What the winner must keep and what costs weigh, in a sentence; `None` where only scores count.
pub(crate) fn wanted(compare: &Compare) -> Option<String> {
    let utility = utility(compare);
    let limits: Vec<String> = utility
        .constraints
        .iter()
        .map(|Constraint { figure, limit }| match limit {
            Limit::AtMost(bound) => format!("{} at most {bound}", figure.words()),
            Limit::AtLeast(bound) => format!("{} at least {bound}", figure.words()),
        })
        .collect();
    let weights: Vec<String> = utility
        .weights
        .iter()
        .map(|(figure, weight)| format!("{weight} for a unit of {}", figure.words()))
        .collect();
    let limits =
        (!limits.is_empty()).then(|| format!("The winner must keep: {}.", limits.join(", ")));
    let weights = (!weights.is_empty())
        .then(|| format!("Weighed against the score: {}.", weights.join(", ")));
    let parts: Vec<String> = limits.into_iter().chain(weights).collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

impl SetResult<'_> {
    /// The decision on this set. `sets` are all of the run. What was kept of general skills is looked
    /// at, not decided on.
    fn decided(
        &self,
        sets: &[SetResult<'_>],
        plans: &[ArmPlan],
        utility: &Utility,
        options: &Options,
    ) -> Option<Decision> {
        let metric = self.primary().filter(|_| !self.set.retention)?;
        let figures: Vec<ArmFigures> = self
            .entrants
            .iter()
            .map(|entrant| {
                let plan = &plans[entrant.arm];
                let untuned = plan.finetune.is_none();
                let untrained = untuned && plan.features.is_none();
                let usage = entrant.usage(self);
                let training_cost = entrant.mean(|at| self.contenders[at].training_cost);
                let retention = || entrant.mean(|at| self.retention(sets, &self.contenders[at]));
                ArmFigures {
                    arm: entrant.name.clone(),
                    cost_per_1000: usage.cost_per_1000(),
                    p95_latency_ms: usage.latency(0.95),
                    training_cost: training_cost.or(untrained.then_some(0.0)),
                    retention: if untuned { Some(1.0) } else { retention() },
                }
            })
            .collect();
        let decision = self.decide(metric, &figures, utility, options).map(|mut decision| {
            if self.is_partial {
                // Who is best of some arms, or of half-asked ones, is not the experiment's question.
                decision.probability_best.clear();
            }
            decision
        });
        Some(decision.unwrap_or_else(|error| {
            // A report without a decision is still a report; it says why there is none.
            Decision {
                winner: None,
                reason: format!("undecided: {error}"),
                more_samples: None,
                probability_best: BTreeMap::new(),
                joint_samples: 0,
                arms: Vec::new(),
            }
        }))
    }

    /// The least share of general skills that an arm trained for this set kept.
    fn retention(&self, sets: &[SetResult<'_>], contender: &Contender<'_>) -> Option<f64> {
        let same = |other: &Contender<'_>| {
            (other.arm, other.train_seed) == (contender.arm, contender.train_seed)
        };
        let measured = sets.iter().filter(|other| other.set.train == self.set.train);
        let shares = measured.flat_map(|other| {
            let kept = retention::retained(other).into_iter();
            kept.filter(|kept| same(&other.contenders[kept.contender])).map(|kept| kept.share)
        });
        shares.min_by(f64::total_cmp)
    }

    fn decide(
        &self,
        metric: &Metric,
        figures: &[ArmFigures],
        utility: &Utility,
        options: &Options,
    ) -> Result<Decision, DecisionError> {
        let barred = self.barred.as_deref();
        if let Some(Recipes { scores, family }) = &self.recipes {
            let clusters = &self.clusters;
            return decide_recipes(scores, clusters, family, figures, utility, barred, options);
        }
        // Every contender is an arm.
        let scores: Vec<ArmScores> = metric.scores.clone();
        let family = Family {
            means: (0..self.contenders.len())
                .map(|at| ArmMean {
                    arm: self.contenders[at].name.clone(),
                    unscored: metric.unscored[at],
                    estimate: metric.estimates[at].clone(),
                })
                .collect(),
            pairs: metric
                .pairs
                .iter()
                .map(|(a, b, comparison)| PairResult {
                    a: self.contenders[*a].name.clone(),
                    b: self.contenders[*b].name.clone(),
                    comparison: comparison.clone(),
                })
                .collect(),
        };
        decide(&scores, &self.clusters, &family, figures, utility, barred, options)
    }
}
