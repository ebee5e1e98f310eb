//! Answers that are labels: accuracy, macro-F1 and who is taken for whom, from records alone.

use std::collections::{BTreeMap, BTreeSet};

use bench_core::record::{Record, Verdict};
use bench_core::text::label;
use bench_stats::{Estimate, LabelScore, Labelled, MacroF1, Options, label_scores, macro_f1};

use crate::evaluation::{Contender, Metric, RIGHT, SetResult};

/// The scorer whose answers are labels.
const SCORER: &str = "classification";

/// Labels that a matrix shows; of more, those with the most errors.
pub(crate) const MOST_LABELS: usize = 10;

/// The labels of a set and what every contender made of them.
pub(crate) struct Classified {
    /// The labels that are gold for some sample of the set, in order.
    pub(crate) labels: Vec<String>,
    /// Per contender.
    pub(crate) arms: Vec<Arm>,
}

/// What one contender made of the labels.
pub(crate) struct Arm {
    /// Samples with a score.
    pub(crate) n: usize,
    /// Share of right answers.
    pub(crate) accuracy: Option<Estimate>,
    /// Over the labels that are gold in these samples; `None` without samples.
    pub(crate) macro_f1: Option<MacroF1>,
    /// Per label of the set.
    pub(crate) scores: Vec<LabelScore>,
    /// Answers by gold and answered label; `None` is an answer that is none of the labels.
    pub(crate) cells: BTreeMap<(usize, Option<usize>), usize>,
    /// Answers without a score.
    pub(crate) unscored: usize,
}

impl Arm {
    /// Answers that are none of the labels.
    pub(crate) fn no_label(&self) -> usize {
        self.cells.iter().filter(|((_, said), _)| said.is_none()).map(|(_, n)| n).sum()
    }

    /// Scored answers to samples of a label.
    pub(crate) fn asked(&self, gold: usize) -> usize {
        self.cells.iter().filter(|((of, _), _)| *of == gold).map(|(_, n)| n).sum()
    }

    /// Gold label, answered label and number of answers of every confusion, the most frequent first.
    pub(crate) fn confusions(&self) -> Vec<(usize, Option<usize>, usize)> {
        let wrong = self.cells.iter().filter(|((gold, said), _)| *said != Some(*gold));
        let mut all: Vec<_> = wrong.map(|(&(gold, said), &n)| (gold, said, n)).collect();
        all.sort_by_key(|&(gold, said, n)| (std::cmp::Reverse(n), gold, said.is_none(), said));
        all
    }
}

/// The counts of one contender that a reader can take in.
pub(crate) struct Matrix {
    /// Gold labels, a row each.
    pub(crate) rows: Vec<usize>,
    /// Per row: answers with each of the labels of `rows`, with other labels, with none.
    pub(crate) counts: Vec<Vec<usize>>,
}

/// The labels that the matrices of a set show: all, or those with the most errors of all contenders,
/// as gold or as answer.
pub(crate) fn shown(found: &Classified) -> Vec<usize> {
    let mut errors: Vec<(usize, usize)> = (0..found.labels.len()).map(|at| (0, at)).collect();
    for (gold, said, n) in found.arms.iter().flat_map(Arm::confusions) {
        errors[gold].0 += n;
        if let Some(said) = said {
            errors[said].0 += n;
        }
    }
    errors.sort_by_key(|&(n, at)| (std::cmp::Reverse(n), at));
    let mut shown: Vec<usize> = errors.into_iter().take(MOST_LABELS).map(|(_, at)| at).collect();
    shown.sort_unstable();
    shown
}

/// The matrix of one contender over some labels.
pub(crate) fn matrix(arm: &Arm, labels: &[usize]) -> Matrix {
    let counts = labels.iter().map(|&gold| {
        let mut row = vec![0; labels.len() + 2];
        for (&(_, said), n) in arm.cells.iter().filter(|((of, _), _)| *of == gold) {
            let column = match said {
                Some(said) => {
                    labels.iter().position(|&known| known == said).unwrap_or(labels.len())
                }
                None => labels.len() + 1,
            };
            row[column] += n;
        }
        row
    });
    Matrix { counts: counts.collect(), rows: labels.to_vec() }
}

/// `None` where the set is not scored by labels.
pub(crate) fn classified<'s>(set: &'s SetResult<'_>, options: &Options) -> Option<&'s Classified> {
    set.once.classified.get_or_init(|| measured(set, options)).as_ref()
}

fn measured(set: &SetResult<'_>, options: &Options) -> Option<Classified> {
    let metric = set.metrics.iter().find(|metric| metric.name == SCORER)?;
    let gold = |record: &Record| record.references.first().map(|text| label(text));
    let all = || set.contenders.iter().flat_map(|contender| contender.trials.iter().copied());
    let labels: BTreeSet<String> = all().filter_map(gold).collect();
    let labels: Vec<String> = labels.into_iter().collect();
    if labels.is_empty() {
        return None;
    }
    let known = Known::new(labels, all());
    let arms = (0..set.contenders.len())
        .map(|at| arm(set, metric, at, &known, options))
        .collect::<Vec<_>>();
    arms.iter().any(|arm| arm.n > 0).then_some(Classified { labels: known.labels, arms })
}

/// What texts mean which label.
struct Known {
    labels: Vec<String>,
    /// Aliases of labels; `None` where several labels have it.
    aliases: BTreeMap<String, Option<usize>>,
}

impl Known {
    fn new<'r>(labels: Vec<String>, records: impl Iterator<Item = &'r Record>) -> Self {
        let mut known = Self { labels, aliases: BTreeMap::new() };
        for record in records.filter(|record| record.references.len() > 1) {
            let Some(gold) = record.references.first().and_then(|text| known.place(&label(text)))
            else {
                continue;
            };
            for alias in &record.references[1..] {
                let meant = known.aliases.entry(label(alias)).or_insert(Some(gold));
                *meant = meant.filter(|other| *other == gold);
            }
        }
        known
    }

    fn place(&self, label: &str) -> Option<usize> {
        self.labels.binary_search_by(|known| known.as_str().cmp(label)).ok()
    }

    /// The label that an answer means.
    fn meant(&self, answer: &str) -> Option<usize> {
        let said = label(answer);
        self.place(&said).or_else(|| self.aliases.get(&said).copied().flatten())
    }
}

fn arm(set: &SetResult<'_>, metric: &Metric, at: usize, known: &Known, options: &Options) -> Arm {
    let contender: &Contender<'_> = &set.contenders[at];
    let mut cells = BTreeMap::new();
    let mut asked: BTreeMap<usize, Labelled> = BTreeMap::new();
    for (record, &sample) in contender.trials.iter().zip(&contender.positions) {
        let Some((gold, said)) = read(record, known) else { continue };
        *cells.entry((gold, said)).or_default() += 1;
        let sample = asked.entry(sample);
        sample.or_insert_with(|| Labelled { gold, predicted: Vec::new() }).predicted.push(said);
    }
    let (places, samples): (Vec<usize>, Vec<Labelled>) = asked.into_iter().unzip();
    Arm {
        n: samples.len(),
        accuracy: metric.estimates[at].clone(),
        macro_f1: macro_f1(&samples, &set.clusters_of(&places), options),
        scores: label_scores(&samples, known.labels.len()),
        cells,
        unscored: metric.unscored[at],
    }
}

/// The gold label and the answered one; `None` where the answer has no score. Whether it is right the
/// scorer has said.
fn read(record: &Record, known: &Known) -> Option<(usize, Option<usize>)> {
    let answer = record.answer()?;
    let value = record.verdicts.get(SCORER).and_then(Verdict::value).filter(|x| x.is_finite())?;
    let gold = known.place(&label(record.references.first()?))?;
    let said = match known.meant(&answer.text) {
        _ if value >= RIGHT => Some(gold),
        said => said.filter(|said| *said != gold),
    };
    Some((gold, said))
}
