//! Where answers went wrong, and which samples changed sides between the baseline and an arm.

use bench_core::record::Record;

use crate::evaluation::{Contender, Metric, SetResult};

/// What became of a sample. The order is that of the chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Answered right.
    Right,
    /// Wrong although every gold document stood in the prompt.
    Misread,
    /// Wrong; a gold document was found, but the token budget left it out.
    LeftOut,
    /// Wrong; a gold document was not found.
    NotFound,
    /// Wrong; the corpus does not hold the answer, and the arm did not say so.
    NotInCorpus,
    /// Wrong, where retrieval has no part: an arm without it, a sample without gold documents.
    Wrong,
    /// No answer, or none that could be scored.
    Unscored,
}

impl Outcome {
    pub(crate) const ALL: [Self; 7] = [
        Self::Right,
        Self::Misread,
        Self::LeftOut,
        Self::NotFound,
        Self::NotInCorpus,
        Self::Wrong,
        Self::Unscored,
    ];

    /// The outcome in a few words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Misread => "wrong, gold in prompt",
            Self::LeftOut => "wrong, gold left out",
            Self::NotFound => "wrong, gold not found",
            Self::NotInCorpus => "wrong, not in corpus",
            Self::Wrong => "wrong",
            Self::Unscored => "no score",
        }
    }

    /// The outcome as a column name.
    pub(crate) fn column(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Misread => "misread",
            Self::LeftOut => "left_out",
            Self::NotFound => "not_found",
            Self::NotInCorpus => "not_in_corpus",
            Self::Wrong => "wrong",
            Self::Unscored => "unscored",
        }
    }
}

/// Samples per outcome, in the order of [`Outcome::ALL`].
pub(crate) type Counts = [usize; 7];

/// Per contender.
pub(crate) fn counts(set: &SetResult<'_>, metric: &Metric) -> Vec<Counts> {
    let count = |(at, contender): (usize, &Contender<'_>)| {
        let mut counts = Counts::default();
        for sample in 0..set.samples.len() {
            if let Some(record) = contender.first(sample) {
                counts[outcome(metric.is_right(at, sample), record) as usize] += 1;
            }
        }
        counts
    };
    set.contenders.iter().enumerate().map(count).collect()
}

/// What became of one sample.
pub(crate) fn outcome(right: Option<bool>, record: &Record) -> Outcome {
    match right {
        None => Outcome::Unscored,
        Some(true) => Outcome::Right,
        Some(false) if record.unanswerable => Outcome::NotInCorpus,
        Some(false) if record.retrieved.is_empty() || record.gold.is_empty() => Outcome::Wrong,
        Some(false) => {
            let found = |in_prompt: bool| {
                record.gold.iter().all(|gold| {
                    let mut passages = record.retrieved.iter();
                    passages.any(|p| p.document == *gold && (p.in_prompt || !in_prompt))
                })
            };
            match (found(true), found(false)) {
                (true, _) => Outcome::Misread,
                (false, true) => Outcome::LeftOut,
                (false, false) => Outcome::NotFound,
            }
        }
    }
}

/// A sample that one of two arms answered right and the other wrong.
pub(crate) struct Flip<'a> {
    pub(crate) contender: usize,
    /// The arm that it is compared with, mostly the baseline.
    pub(crate) against: usize,
    /// Right there, wrong here.
    pub(crate) is_lost: bool,
    pub(crate) other_value: f64,
    pub(crate) value: f64,
    pub(crate) other: &'a Record,
    pub(crate) trial: &'a Record,
}

/// Of every contender against the baseline: by contender, those lost first, then by sample.
pub(crate) fn flips<'a>(set: &SetResult<'a>, metric: &Metric) -> Vec<Flip<'a>> {
    let Some(baseline) = set.baseline else { return Vec::new() };
    let others = (0..set.contenders.len()).filter(|&at| at != baseline);
    others.flat_map(|contender| flips_between(set, metric, contender, baseline)).collect()
}

/// Every pair of contenders that does not have the baseline in it, each later one against each
/// earlier.
pub(crate) fn other_pairs(set: &SetResult<'_>) -> Vec<(usize, usize)> {
    let n = set.contenders.len();
    let pairs = (0..n).flat_map(|against| (against + 1..n).map(move |at| (at, against)));
    pairs.filter(|&(a, b)| set.baseline != Some(a) && set.baseline != Some(b)).collect()
}

/// Those lost first, then by sample.
pub(crate) fn flips_between<'a>(
    set: &SetResult<'a>,
    metric: &Metric,
    contender: usize,
    against: usize,
) -> Vec<Flip<'a>> {
    let mut flips = Vec::new();
    for is_lost in [true, false] {
        for sample in 0..set.samples.len() {
            let scores = |at: usize| metric.scores[at].scores[sample];
            let sides = (metric.is_right(against, sample), metric.is_right(contender, sample));
            if sides != (Some(is_lost), Some(!is_lost)) {
                continue;
            }
            let first = |at: usize| set.contenders[at].first(sample);
            if let ((Some(other), Some(trial)), (Some(other_value), Some(value))) =
                ((first(against), first(contender)), (scores(against), scores(contender)))
            {
                flips.push(Flip { contender, against, is_lost, other_value, value, other, trial });
            }
        }
    }
    flips
}
