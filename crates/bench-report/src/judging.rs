//! What a judge's scores are worth: its report card beside people's labels, scores corrected by
//! them, whether it may decide, and strengths from pairwise preferences.

use std::collections::{BTreeMap, BTreeSet};

use bench_core::judging::{JudgedItem, JudgedItems};
use bench_core::manifest::Manifest;
use bench_core::record::{Preference, Record};
use bench_core::spec::{Judge, JudgeMode};
use bench_stats::{
    BradleyTerryError, Clusters, Coefficient, Confusion, Corrected, Estimate, LEAST_LABELS,
    NoCorrection, Options, PairCount, Scale, Strength, Weighting, bradley_terry,
    cohens_kappa_clustered, estimate, krippendorff_alpha_clustered, least_labels, ppi_mean,
    rogan_gladen, wilson,
};

use crate::evaluation::{Evaluation, HUMAN, JUDGE, Metric, RIGHT, SetResult};

mod measured;
pub(crate) mod tables;

pub use measured::judge_report;

/// Fewer judged samples than this say little.
const FEW: usize = 30;

/// How far one judge can be trusted.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// The judge.
    pub judge: String,
    /// Samples (or pairs) judged, repeats not counted.
    pub judged: usize,
    /// Share of judgements that could not be read or failed.
    pub failures: Option<Estimate>,
    /// Samples that people labelled and the judge decided on.
    pub labelled: usize,
    /// Share on which judge and people agree.
    pub agreement: Option<Estimate>,
    /// Cohen's kappa of judge and people: quadratic weights for more than two grades, else plain.
    pub kappa: Option<Coefficient>,
    /// Krippendorff's alpha of judge and people, ordinal.
    pub alpha: Option<Coefficient>,
    /// Share of pairs of people that agree.
    pub people_agreement: Option<f64>,
    /// Krippendorff's alpha among people, ordinal.
    pub people_alpha: Option<Coefficient>,
    /// Share of pairs of repeats that agree.
    pub self_consistency: Option<Estimate>,
    /// Share of comparisons that survive the other order.
    pub order_consistency: Option<Estimate>,
    /// Share of decided pairs in which the longer answer was preferred.
    pub prefers_longer: Option<Estimate>,
    /// Seconds of generation for 1,000 judgements, one after the other.
    pub seconds_per_1000: Option<f64>,
    /// US dollars for 1,000 judgements.
    pub cost_per_1000: Option<f64>,
    /// Judge's verdicts against people's where both are right or wrong.
    pub confusion: Option<Confusion>,
}

/// The card of a judge's work. `grades` is the scale; values in the upper half count as right. Every
/// item is taken for a sample of its own.
pub fn card(work: &JudgedItems, grades: &[u32], options: &Options) -> Card {
    card_of(work, &Labels::default(), grades, options)
}

/// What judged items belong to, where several are of one sample: the arms' answers to it, the pairs of
/// them. Empty where every item stands for itself.
#[derive(Default)]
struct Labels {
    /// Per item.
    items: Vec<String>,
    /// Per entry of [`JudgedItems::longer`].
    longer: Vec<String>,
}

/// A judge's work in a run.
struct Work {
    judged: JudgedItems,
    labels: Labels,
}

/// Intervals draw samples, with all their items.
fn card_of(work: &JudgedItems, labels: &Labels, grades: &[u32], options: &Options) -> Card {
    let items = &work.items;
    let share = |found: Vec<(Option<&String>, bool)>| -> Option<Estimate> {
        let labels: Option<Vec<&String>> = found.iter().map(|(label, _)| *label).collect();
        let clusters = labels.map_or_else(Clusters::none, Clusters::from_labels);
        let values: Vec<f64> = found.iter().map(|(_, hit)| f64::from(u8::from(*hit))).collect();
        estimate(&values, &clusters, options)
    };
    let each = |of: &dyn Fn(&JudgedItem) -> Vec<bool>| {
        let hits = items.iter().enumerate();
        let hits = hits.flat_map(|(at, item)| of(item).into_iter().map(move |hit| (at, hit)));
        share(hits.map(|(at, hit)| (labels.items.get(at), hit)).collect())
    };
    let failed = |item: &JudgedItem| item.judge.iter().map(Option::is_none).collect();
    // People's median may fall between two grades.
    let label =
        |item: &JudgedItem| item.label.map(|label| nearest(label, grades, work.is_pairwise));
    let decided = |item: &JudgedItem| Some((said(item, grades, work.is_pairwise)?, label(item)?));
    let both: Vec<(f64, f64)> = items.iter().filter_map(decided).collect();
    let (judge, people): (Vec<f64>, Vec<f64>) = both.iter().copied().unzip();
    let clusters_of = |kept: &dyn Fn(&JudgedItem) -> bool| {
        let kept = items.iter().zip(&labels.items).filter(|(item, _)| kept(item));
        Clusters::from_labels(kept.map(|(_, label)| label))
    };
    let (labelled, all) = (clusters_of(&|item| decided(item).is_some()), clusters_of(&|_| true));
    let same = |(judge, people): (f64, f64)| (judge - people).abs() < 1e-9;
    let plain = work.is_pairwise || grades.len() < 3;
    let weighting = if plain { Weighting::Plain } else { Weighting::Quadratic };
    let raters = |of: &dyn Fn(&JudgedItem) -> Vec<Option<f64>>| columns(items, of);
    let repeats = |item: &JudgedItem| {
        let values = item.judge.iter().flatten();
        let values: Vec<f64> =
            values.map(|&value| nearest(value, grades, work.is_pairwise)).collect();
        let (same, pairs) = agreeing(std::iter::once(values));
        (0..pairs).map(|at| at < same).collect()
    };
    let (people_same, people_pairs) =
        agreeing(items.iter().map(|item| item.people.iter().flatten().copied().collect()));
    let judgements = work.took.judgements as f64;
    let per_1000 = |total: f64| (judgements > 0.0).then(|| total / judgements * 1000.0);
    Card {
        judge: work.judge.clone(),
        judged: items.len(),
        failures: each(&failed),
        labelled: both.len(),
        agreement: each(&|item| decided(item).map(same).into_iter().collect()),
        kappa: cohens_kappa_clustered(&judge, &people, weighting, &labelled, options),
        alpha: krippendorff_alpha_clustered(
            &raters(&|item| vec![said(item, grades, work.is_pairwise), label(item)]),
            Scale::Ordinal,
            &all,
            options,
        ),
        people_agreement: (people_pairs > 0).then(|| people_same as f64 / people_pairs as f64),
        people_alpha: krippendorff_alpha_clustered(
            &raters(&|item| item.people.clone()),
            Scale::Ordinal,
            &all,
            options,
        ),
        self_consistency: each(&repeats),
        order_consistency: each(&|item| item.consistent.clone()),
        prefers_longer: share(
            work.longer.iter().enumerate().map(|(at, hit)| (labels.longer.get(at), *hit)).collect(),
        ),
        seconds_per_1000: per_1000(work.took.latency_ms / 1000.0).filter(|&s| s > 0.0),
        cost_per_1000: work.cost_usd.and_then(per_1000),
        confusion: (!work.is_pairwise).then(|| confusion(&both, grades)).flatten(),
    }
}

/// One figure of a card.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CardFigure {
    /// Its name in tables.
    pub name: &'static str,
    /// The same for reading.
    pub words: &'static str,
    /// What it is computed from.
    pub n: Option<usize>,
    /// The figure.
    pub value: f64,
    /// Ends of its interval.
    pub interval: Option<(f64, f64)>,
}

impl Card {
    /// The figures that exist, in the order in which they are read.
    pub fn figures(&self) -> Vec<CardFigure> {
        let share = |name, words, estimate: Option<&Estimate>| {
            estimate.map(|e| CardFigure {
                name,
                words,
                n: Some(e.n),
                value: e.mean,
                interval: Some((e.low, e.high)),
            })
        };
        let coefficient = |name, words, coefficient: Option<&Coefficient>| {
            coefficient.map(|c| CardFigure {
                name,
                words,
                n: Some(c.n),
                value: c.value,
                interval: Some((c.low, c.high)),
            })
        };
        let plain = |name, words, value: Option<f64>| {
            value.map(|value| CardFigure { name, words, n: None, value, interval: None })
        };
        [
            share("failures", "failed or unreadable", self.failures.as_ref()),
            share("agreement", "agreement with people", self.agreement.as_ref()),
            plain("people_agreement", "people's agreement with each other", self.people_agreement),
            coefficient("kappa", "Cohen's kappa with people", self.kappa.as_ref()),
            coefficient("alpha", "Krippendorff's alpha with people", self.alpha.as_ref()),
            coefficient(
                "people_alpha",
                "Krippendorff's alpha among people",
                self.people_alpha.as_ref(),
            ),
            share("self_consistency", "agrees with itself", self.self_consistency.as_ref()),
            share("order_consistency", "survives the other order", self.order_consistency.as_ref()),
            share("prefers_longer", "prefers the longer answer", self.prefers_longer.as_ref()),
            plain("seconds_per_1000", "seconds for 1,000 judgements", self.seconds_per_1000),
            plain("cost_per_1000_usd", "US dollars for 1,000 judgements", self.cost_per_1000),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// What the judge says in the end: the grade nearest to the mean of its repeats.
fn said(item: &JudgedItem, grades: &[u32], is_pairwise: bool) -> Option<f64> {
    let values: Vec<f64> = item.judge.iter().flatten().copied().collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (!values.is_empty()).then(|| nearest(mean, grades, is_pairwise))
}

/// The grade nearest to a value; of a preference, the nearest of lost, tied and won.
fn nearest(value: f64, grades: &[u32], is_pairwise: bool) -> f64 {
    if is_pairwise {
        return (value * 2.0).round() / 2.0;
    }
    let distance = |grade: &u32| (f64::from(*grade) - value).abs();
    let best = grades.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
    best.map_or(value, |&grade| f64::from(grade))
}

/// A row per rater and a column per sample.
fn columns(
    items: &[JudgedItem],
    of: &dyn Fn(&JudgedItem) -> Vec<Option<f64>>,
) -> Vec<Vec<Option<f64>>> {
    let rows: Vec<Vec<Option<f64>>> = items.iter().map(of).collect();
    let raters = rows.iter().map(Vec::len).max().unwrap_or(0);
    (0..raters)
        .map(|rater| rows.iter().map(|row| row.get(rater).copied().flatten()).collect())
        .collect()
}

/// Equal pairs among the values of each sample, and all pairs.
fn agreeing(samples: impl Iterator<Item = Vec<f64>>) -> (usize, usize) {
    let (mut same, mut pairs) = (0, 0);
    for values in samples {
        for (at, one) in values.iter().enumerate() {
            for other in &values[..at] {
                pairs += 1;
                same += usize::from((one - other).abs() < 1e-9);
            }
        }
    }
    (same, pairs)
}

/// Counts of right and wrong by judge and people, each in the upper half of the scale or not.
fn confusion(both: &[(f64, f64)], grades: &[u32]) -> Option<Confusion> {
    let (worst, best) = (f64::from(*grades.first()?), f64::from(*grades.last()?));
    let right = |value: f64| (value - worst) / (best - worst) >= RIGHT;
    let count = |judge: bool, people: bool| {
        both.iter().filter(|(j, p)| right(*j) == judge && right(*p) == people).count()
    };
    (!both.is_empty()).then(|| Confusion {
        true_positive: count(true, true),
        false_negative: count(false, true),
        true_negative: count(false, false),
        false_positive: count(true, false),
    })
}

/// A card per judge of a set, and for a jury one of all together, with the jury's own agreement.
pub(crate) struct SetCards {
    pub(crate) cards: Vec<Card>,
    /// Krippendorff's alpha among the jury's members.
    pub(crate) jury_alpha: Option<Coefficient>,
}

/// `None` where the experiment has no judge or it judged nothing here.
pub(crate) fn cards(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Option<SetCards> {
    let manifest = evaluation.manifest;
    let judge = manifest.experiment.judge.as_ref()?;
    let names = judge.names();
    let records: Vec<&Record> =
        set.contenders.iter().flat_map(|c| c.trials.iter().copied()).collect();
    let works: Vec<Work> = match judge.mode {
        JudgeMode::Rubric => graded(manifest, judge, &records),
        JudgeMode::Pairwise => {
            names.iter().map(|name| compared(manifest, name, &records)).collect()
        }
    };
    if works.iter().all(|work| work.judged.items.is_empty()) {
        return None;
    }
    let options = &evaluation.options;
    let members: Vec<&Work> =
        works.iter().filter(|work| names.contains(&work.judged.judge.as_str())).collect();
    let jury_alpha = (members.len() > 1).then(|| {
        let mut rows: BTreeMap<&str, (&str, Vec<Option<f64>>)> = BTreeMap::new();
        for (at, Work { judged, labels }) in members.iter().enumerate() {
            for (item, label) in judged.items.iter().zip(&labels.items) {
                let row = rows.entry(&item.id).or_insert((label, vec![None; members.len()]));
                row.1[at] = said(item, &judge.grades, judged.is_pairwise);
            }
        }
        let raters: Vec<Vec<Option<f64>>> =
            (0..members.len()).map(|at| rows.values().map(|row| row.1[at]).collect()).collect();
        let clusters = Clusters::from_labels(rows.values().map(|row| row.0));
        krippendorff_alpha_clustered(&raters, Scale::Ordinal, &clusters, options)
    });
    Some(SetCards {
        cards: works
            .iter()
            .map(|work| card_of(&work.judged, &work.labels, &judge.grades, options))
            .collect(),
        jury_alpha: jury_alpha.flatten(),
    })
}

/// The judge's grades of answers, or each juror's and the jury's.
fn graded(manifest: &Manifest, judge: &Judge, records: &[&Record]) -> Vec<Work> {
    let names = judge.names();
    let mut columns: Vec<(String, String)> =
        names.iter().map(|name| ((*name).to_owned(), format!("{JUDGE}/{name}"))).collect();
    if names.len() == 1 {
        columns[0].1 = JUDGE.into();
    } else {
        columns.push(("jury".into(), JUDGE.into()));
    }
    let graders: BTreeSet<&str> = records
        .iter()
        .flat_map(|record| record.verdicts.keys())
        .filter_map(|name| name.strip_prefix("human/"))
        .collect();
    let grade = |place: f64| judge.nearest(place).map(f64::from);
    let (worst, best) = match (judge.grades.first(), judge.grades.last()) {
        (Some(&worst), Some(&best)) => (f64::from(worst), f64::from(best)),
        _ => (0.0, 1.0),
    };
    let on_scale = |place: f64| worst + place * (best - worst);
    columns
        .into_iter()
        .map(|(name, column)| {
            let judged = records.iter().filter(|record| record.verdicts.contains_key(&column));
            let items = judged
                .clone()
                .map(|record| {
                    let value = |key: &str| {
                        record.verdicts.get(key).and_then(bench_core::record::Verdict::value)
                    };
                    let repeats: Vec<Option<f64>> = (1..=judge.repeats.get())
                        .map_while(|k| record.verdicts.get(&format!("{JUDGE}#{k}")))
                        .map(|verdict| verdict.value().map(on_scale))
                        .collect();
                    let alone = vec![value(&column).map(on_scale)];
                    JudgedItem {
                        id: crate::trials::name(&record.trial),
                        judge: if column == JUDGE && repeats.len() > 1 { repeats } else { alone },
                        label: value(HUMAN).and_then(grade),
                        people: graders
                            .iter()
                            .map(|grader| value(&format!("{HUMAN}/{grader}")).and_then(grade))
                            .collect(),
                        ..JudgedItem::default()
                    }
                })
                .collect();
            let (of_longer, longer) = longer_graded(records, &column).into_iter().unzip();
            let labels = Labels {
                items: judged.map(|record| sample_of(record)).collect(),
                longer: of_longer,
            };
            let judged = JudgedItems { longer, ..priced(manifest, &name, items, false) };
            Work { judged, labels }
        })
        .collect()
}

/// Of all pairs of answers to one sample that differ in grade and length: whether the longer one
/// has the better grade, beside what the sample belongs to.
fn longer_graded(records: &[&Record], column: &str) -> Vec<(String, bool)> {
    let mut by_sample: BTreeMap<&str, Vec<(f64, usize, String)>> = BTreeMap::new();
    for record in records {
        let value = record.verdicts.get(column).and_then(bench_core::record::Verdict::value);
        if let (Some(value), Some(answer)) = (value, record.answer()) {
            let answers = by_sample.entry(&record.trial.sample).or_default();
            answers.push((value, answer.text.chars().count(), sample_of(record)));
        }
    }
    let mut longer = Vec::new();
    for answers in by_sample.values() {
        for (at, (grade, length, label)) in answers.iter().enumerate() {
            for (other_grade, other_length, _) in &answers[..at] {
                if (grade - other_grade).abs() > 1e-9 && length != other_length {
                    let is_longer = (grade > other_grade) == (length > other_length);
                    longer.push((label.clone(), is_longer));
                }
            }
        }
    }
    longer
}

/// What a record is a sample of: its cluster, or the sample that all arms answered.
fn sample_of(record: &Record) -> String {
    record.cluster.clone().unwrap_or_else(|| record.trial.sample.clone())
}

/// One judge's preferences between arms.
fn compared(manifest: &Manifest, name: &str, records: &[&Record]) -> Work {
    let length = |arm: &str, sample: &str| {
        let of = |record: &&&Record| record.trial.arm == arm && record.trial.sample == sample;
        records.iter().find(of).and_then(|r| r.answer()).map(|answer| answer.text.chars().count())
    };
    let (mut items, mut longer, mut labels) = (Vec::new(), Vec::new(), Labels::default());
    for record in records {
        for pair in record.preferences.iter().filter(|pair| pair.judge == name) {
            let trial = &record.trial;
            let lengths = length(&trial.arm, &trial.sample)
                .zip(length(&pair.against, &trial.sample))
                .filter(|(first, second)| first != second);
            labels.items.push(sample_of(record));
            items.push(JudgedItem {
                id: format!("{} {} {}", trial.sample, trial.arm, pair.against),
                judge: vec![pair.preference.value()],
                consistent: consistent(&pair.preference).into_iter().collect(),
                ..JudgedItem::default()
            });
            let is_longer = lengths.and_then(|(first, second)| match pair.preference {
                Preference::First => Some(first > second),
                Preference::Second => Some(second > first),
                Preference::Tie { .. } | Preference::Unscored { .. } => None,
            });
            labels.longer.extend(is_longer.map(|_| sample_of(record)));
            longer.extend(is_longer);
        }
    }
    let judged = JudgedItems { longer, ..priced(manifest, name, items, true) };
    Work { judged, labels }
}

/// Whether both orders said the same; `None` where one could not be read.
fn consistent(preference: &Preference) -> Option<bool> {
    match preference {
        Preference::First | Preference::Second => Some(true),
        Preference::Tie { consistent } => Some(*consistent),
        Preference::Unscored { .. } => None,
    }
}

fn priced(
    manifest: &Manifest,
    name: &str,
    items: Vec<JudgedItem>,
    is_pairwise: bool,
) -> JudgedItems {
    let took = manifest.judging.iter().find(|entry| entry.judge == name).cloned();
    let took = took.unwrap_or_default();
    let price = manifest.experiment.prices.of(name, false);
    let cost_usd = price.filter(|_| took.judgements > 0).map(|price| {
        (took.tokens_in as f64 * price.input + took.tokens_out as f64 * price.output) / 1e6
            + took.latency_ms / 3.6e6 * price.machine_hour
    });
    JudgedItems { judge: name.to_owned(), items, longer: Vec::new(), took, cost_usd, is_pairwise }
}

/// An arm's mean by the judge, and what it really is.
pub(crate) struct CorrectedScore {
    pub(crate) contender: usize,
    /// `ppi` or `rogan_gladen`.
    pub(crate) method: &'static str,
    pub(crate) score: Corrected,
}

/// One arm's scores by the judge, apart where people labelled the same answers.
#[derive(Default)]
struct Labelled {
    /// People's.
    people: Vec<f64>,
    /// The judge's of the same answers.
    beside: Vec<f64>,
    /// The judge's of all others.
    alone: Vec<f64>,
}

impl Labelled {
    fn of(set: &SetResult<'_>, contender: usize) -> Labelled {
        let scores = |name: &str| {
            let named = |metric: &&Metric| {
                metric.name == name || metric.name.strip_suffix(SELF) == Some(name)
            };
            set.metrics.iter().find(named).map(|metric| &metric.scores[contender].scores)
        };
        let human = scores(HUMAN);
        let mut found = Labelled::default();
        for (sample, judge) in scores(JUDGE).into_iter().flatten().enumerate() {
            let Some(judge) = *judge else { continue };
            match human.and_then(|human| human[sample]) {
                Some(person) => {
                    found.people.push(person);
                    found.beside.push(judge);
                }
                None => found.alone.push(judge),
            }
        }
        found
    }

    fn judged(&self) -> impl Iterator<Item = f64> {
        self.beside.iter().chain(&self.alone).copied()
    }

    /// # Errors
    /// There are too few labels.
    fn suffices(&self) -> Result<(), NoCorrection> {
        let judge: Vec<f64> = self.judged().collect();
        enough(self.people.len(), least_labels(&self.people, &judge))
    }
}

fn enough(labelled: usize, least: usize) -> Result<(), NoCorrection> {
    if labelled < least { Err(NoCorrection::TooFewLabels { labelled, least }) } else { Ok(()) }
}

/// Whether a confusion matrix can correct anything.
///
/// # Errors
/// It is of too few samples, or the judge may do no better than chance.
fn usable(confusion: Confusion, level: f64) -> Result<Confusion, NoCorrection> {
    enough(confusion.labelled(), LEAST_LABELS)?;
    confusion.informs(level)?;
    Ok(confusion)
}

/// Per contender: by prediction-powered inference where people labelled enough of its answers, else
/// by the experiment's confusion matrix.
pub(crate) fn corrected(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Vec<CorrectedScore> {
    let Some(judge) = &evaluation.manifest.experiment.judge else { return Vec::new() };
    let level = evaluation.options.level;
    (0..set.contenders.len())
        .filter_map(|at| {
            let scores = Labelled::of(set, at);
            let by_labels = scores
                .suffices()
                .ok()
                .and_then(|()| ppi_mean(&scores.people, &scores.beside, &scores.alone, level));
            if let Some(score) = by_labels {
                return Some(CorrectedScore { contender: at, method: "ppi", score });
            }
            let confusion = usable(confusion_of(judge)?, level).ok()?;
            let passed = scores.judged().filter(|score| *score >= RIGHT).count();
            let score = rogan_gladen(passed, scores.judged().count(), confusion, level).ok()?;
            Some(CorrectedScore { contender: at, method: "rogan_gladen", score })
        })
        .collect()
}

/// The confusion matrix that the experiment gives.
fn confusion_of(judge: &Judge) -> Option<Confusion> {
    let given = judge.confusion?;
    Some(Confusion {
        true_positive: given.true_positive as usize,
        false_negative: given.false_negative as usize,
        true_negative: given.true_negative as usize,
        false_positive: given.false_positive as usize,
    })
}

/// Why the judge may not decide on these trials; `None` when it may.
pub(crate) fn barred(judge: &Judge, trials: &[(usize, &Record)]) -> Option<String> {
    let floor = judge.min_judge_agreement?;
    let value = |record: &Record, key: &str| {
        let place = record.verdicts.get(key)?.value()?;
        judge.nearest(place)
    };
    // Several arms' answers to one sample are no samples of their own.
    let (samples, both): (Vec<&str>, Vec<f64>) = trials
        .iter()
        .filter_map(|(_, record)| {
            let agrees = value(record, JUDGE)? == value(record, HUMAN)?;
            let label = record.cluster.as_deref().unwrap_or(&record.trial.sample);
            Some((label, f64::from(u8::from(agrees))))
        })
        .unzip();
    let (estimate, low, on) = if both.is_empty() {
        let Some(estimate) = confusion_of(judge).and_then(|confusion| agreement_of(&confusion))
        else {
            return Some(format!(
                "nobody knows how far the judge agrees with people, and its floor is {}: give `judge.labels` or `judge.confusion`",
                percent(floor)
            ));
        };
        let low = estimate.low;
        (estimate, low, "samples of its confusion matrix")
    } else {
        let agreed = both.iter().filter(|agrees| **agrees > 0.5).count();
        let plain = wilson(agreed, both.len(), LEVEL)?;
        let options = Options { level: LEVEL, ..Options::default() };
        // Never surer than if all were independent; nothing is known from a single sample.
        let low = estimate(&both, &Clusters::from_labels(samples), &options)
            .map_or(0.0, |clustered| clustered.low.min(plain.low));
        (plain, low, "labelled answers")
    };
    (low < floor).then(|| {
        format!(
            "the judge agrees with people on {} of {} {on}, which may be as little as {} (lower end of the 95 % interval), under its floor of {}",
            percent(estimate.mean),
            estimate.n,
            percent_below(low),
            percent(floor)
        )
    })
}

/// The level of the interval whose lower end a judge's floor is compared with.
const LEVEL: f64 = 0.95;

/// The share on which a judge and people agree in a confusion matrix, with Wilson's interval.
fn agreement_of(confusion: &Confusion) -> Option<Estimate> {
    let agreed = confusion.true_positive + confusion.true_negative;
    wilson(agreed, agreed + confusion.false_negative + confusion.false_positive, LEVEL)
}

/// Never rounded up: what is under a floor must not read as on it.
fn percent_below(share: f64) -> String {
    format!("{} %", (share * 100.0).floor())
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 100.0).round())
}

/// What is put after the judge's name in every table where it judges its own model's answers.
pub(crate) const SELF: &str = " (judges itself)";

/// A judge and an arm with the same base weights, if there are any.
pub(crate) fn judges_itself(evaluation: &Evaluation<'_>) -> Option<(String, String)> {
    own_arm(
        evaluation.manifest,
        evaluation.plans.iter().map(|plan| (plan.name.as_str(), plan.model.as_str())),
    )
}

/// As [`judges_itself`], before there is an evaluation: arms come with their models.
pub(crate) fn own_arm<'a>(
    manifest: &Manifest,
    arms: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<(String, String)> {
    let judge = manifest.experiment.judge.as_ref()?;
    let same = |one: &str, other: &str| {
        one == other
            || manifest
                .models
                .get(one)
                .zip(manifest.models.get(other))
                .is_some_and(|(one, other)| one.same_weights(other))
    };
    for (arm, model) in arms {
        if let Some(judge) = judge.names().into_iter().find(|judge| same(judge, model)) {
            return Some((judge.to_owned(), arm.to_owned()));
        }
    }
    None
}

/// What a reader must know of the judge before any number.
pub(crate) fn warnings(evaluation: &Evaluation<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some((judge, arm)) = judges_itself(evaluation) {
        warnings.push(format!(
            "the judge `{judge}` is also the model of arm `{arm}`; models prefer their own answers"
        ));
    }
    let level = evaluation.options.level;
    let matrix = evaluation.manifest.experiment.judge.as_ref().and_then(confusion_of);
    let refused = matrix.and_then(|confusion| usable(confusion, level).err());
    if let Some(why) = refused {
        warnings.push(format!(
            "the judge's scores are not corrected by `judge.confusion`: {why}; people's labels of this run's answers (`judge.labels`) correct any judge"
        ));
    }
    for set in &evaluation.sets {
        let Some(metric) = set.metrics.iter().find(|metric| is_judge(&metric.name)) else {
            continue;
        };
        warnings.extend(sparsely_labelled(set));
        if let Some(confusion) = matrix {
            warnings.extend(contradicted(evaluation, set, metric, confusion));
        }
        let judged = metric.scores.iter().map(|arm| arm.scores.iter().flatten().count()).min();
        if let Some(n) = judged.filter(|&n| n < FEW) {
            warnings.push(format!(
                "{}: the judge scored only {n} samples of an arm; under {FEW} its figures are a hint",
                set.set.name
            ));
        }
    }
    warnings
}

/// A warning where people labelled some of the answers that the judge scored, and too few of an arm's.
fn sparsely_labelled(set: &SetResult<'_>) -> Option<String> {
    let arms = (0..set.contenders.len()).map(|at| Labelled::of(set, at));
    let partly = arms.filter(|arm| !arm.people.is_empty() && !arm.alone.is_empty());
    let fewest = partly.min_by_key(|arm| arm.people.len())?;
    let why = fewest.suffices().err()?;
    Some(format!(
        "{}: the judge's scores are not corrected by people's labels of an arm's answers: {why}; the rows `{HUMAN}` are people's own means of what they labelled",
        set.set.name
    ))
}

/// A warning for each arm whose passes the confusion matrix cannot explain.
fn contradicted(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    metric: &Metric,
    confusion: Confusion,
) -> Vec<String> {
    let found = corrected(evaluation, set);
    let without = metric
        .scores
        .iter()
        .enumerate()
        .filter(|(at, _)| found.iter().all(|score| score.contender != *at));
    without
        .filter_map(|(at, arm)| {
            let scores = arm.scores.iter().flatten();
            let passed = scores.clone().filter(|score| **score >= RIGHT).count();
            let level = evaluation.options.level;
            let why = rogan_gladen(passed, scores.count(), confusion, level).err()?;
            matches!(why, NoCorrection::Contradicted { .. }).then(|| {
                format!(
                    "{}: the judge's scores of `{}` are not corrected by `judge.confusion`: {why}",
                    set.set.name, set.contenders[at].name
                )
            })
        })
        .collect()
}

/// Whether a metric is the judge's verdict.
pub(crate) fn is_judge(metric: &str) -> bool {
    metric == JUDGE || metric.strip_suffix(SELF) == Some(JUDGE)
}

/// Counts per pair of arms over all samples, a jury's members each with a vote of their own weight.
pub(crate) fn pair_counts(set: &SetResult<'_>) -> Vec<PairCount> {
    let mut counts: BTreeMap<(&str, &str), PairCount> = BTreeMap::new();
    for record in set.contenders.iter().flat_map(|contender| contender.trials.iter().copied()) {
        // A jury's majority is one judgement of the sample.
        let mut by_rival: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for pair in &record.preferences {
            let votes = by_rival.entry(&pair.against).or_default();
            match pair.preference {
                Preference::First => votes.0 += 1,
                Preference::Second => votes.1 += 1,
                Preference::Tie { .. } | Preference::Unscored { .. } => {}
            }
        }
        for (rival, (won, lost)) in by_rival {
            let decided = record
                .preferences
                .iter()
                .any(|pair| pair.against == rival && pair.preference.value().is_some());
            if !decided {
                continue;
            }
            let arm = record.trial.arm.as_str();
            let count = counts.entry((arm, rival)).or_insert_with(|| PairCount {
                a: arm.to_owned(),
                b: rival.to_owned(),
                a_wins: 0,
                b_wins: 0,
                ties: 0,
            });
            match won.cmp(&lost) {
                std::cmp::Ordering::Greater => count.a_wins += 1,
                std::cmp::Ordering::Less => count.b_wins += 1,
                std::cmp::Ordering::Equal => count.ties += 1,
            }
        }
    }
    counts.into_values().collect()
}

/// The arms' Bradley-Terry strengths; `None` where nothing was compared.
pub(crate) fn strengths(
    set: &SetResult<'_>,
    options: &Options,
) -> Option<Result<Vec<Strength>, BradleyTerryError>> {
    let counts = pair_counts(set);
    (!counts.is_empty()).then(|| bradley_terry(&counts, options.level))
}
