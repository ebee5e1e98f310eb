//! Why answers were wrong, and what could help: each error is put down to one cause by what other
//! scorers, the judge, people and the arms that serve as controls said of the same sample.

use bench_core::record::{Record, Verdict};
use bench_core::spec::PassageSource;

use crate::diagnosis::{Outcome, outcome};
use crate::evaluation::{Evaluation, HUMAN, JUDGE, Metric, RIGHT, SetResult};
use crate::judging::{self, is_judge};

/// Why an answer was wrong. The first that applies, in the order of [`Cause::ALL`] from the top; people
/// who say that it is right come second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// A scorer of the set that looks at the content alone finds it right.
    FormMiss,
    /// The sample says that the corpus does not hold its answer, and the arm gave one all the same.
    NotInCorpus,
    /// The arm shows passages, and the same model without any (`closed_book`) was right.
    Misled,
    /// The arm retrieves, and gold documents were not in the prompt.
    RetrievalMiss,
    /// The gold documents were in the prompt, or an arm that had them in its prompt failed too.
    ReadingMiss,
    /// The arm does not retrieve and the corpus holds the answer; an arm that had the gold documents
    /// in its prompt, where there is one, was right.
    KnowledgeGap,
    /// Whether it is wrong at all is in doubt. Before all but the form where people say right; after all
    /// others where a judge that keeps its floor does, or a part of the jury that decides.
    JudgeDoubt,
    /// Nothing in the run tells why.
    Untold,
}

/// Scorers that look for the right content in whatever form.
const CONTENT: [&str; 3] = ["contains", "numeric", "choice"];

impl Cause {
    pub(crate) const ALL: [Self; 8] = [
        Self::FormMiss,
        Self::NotInCorpus,
        Self::Misled,
        Self::RetrievalMiss,
        Self::ReadingMiss,
        Self::KnowledgeGap,
        Self::JudgeDoubt,
        Self::Untold,
    ];

    /// The cause in words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::FormMiss => "form miss",
            Self::NotInCorpus => "answer not in the corpus",
            Self::Misled => "misled by passages",
            Self::JudgeDoubt => "judge doubt",
            Self::RetrievalMiss => "retrieval miss",
            Self::ReadingMiss => "reading miss",
            Self::KnowledgeGap => "knowledge gap",
            Self::Untold => "not told apart",
        }
    }

    /// The cause in tables.
    pub(crate) fn column(self) -> &'static str {
        match self {
            Self::FormMiss => "form_miss",
            Self::NotInCorpus => "not_in_corpus",
            Self::Misled => "misled",
            Self::JudgeDoubt => "judge_doubt",
            Self::RetrievalMiss => "retrieval_miss",
            Self::ReadingMiss => "reading_miss",
            Self::KnowledgeGap => "knowledge_gap",
            Self::Untold => "untold",
        }
    }

    /// What can help against it at all.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::FormMiss => {
                "examples, constrained answers, fine-tuning on the form; not retrieval"
            }
            Self::NotInCorpus => "let the arm abstain; not fine-tuning on the facts",
            Self::Misled => {
                "fewer or better passages, or fine-tuning among distractors; not more passages"
            }
            Self::JudgeDoubt => "people's labels or a better judge; no technique",
            Self::RetrievalMiss => "better retrieval; not fine-tuning on the form",
            Self::ReadingMiss => {
                "a better prompt, fine-tuning with passages or a stronger model; not retrieval"
            }
            Self::KnowledgeGap => "retrieval, or fine-tuning on the facts; not a prompt",
            Self::Untold => {
                "controls tell: an arm that sees the gold passages, a scorer of content"
            }
        }
    }
}

/// The errors of one arm that have one cause.
pub(crate) struct Errors {
    pub(crate) contender: usize,
    pub(crate) cause: Cause,
    pub(crate) samples: usize,
    /// What the mean score would gain if all of them were right.
    pub(crate) gain: f64,
    /// The other arm that is right on most of them, and on how many.
    pub(crate) best: Option<(usize, usize)>,
}

/// By contender, then cause; causes without errors are left out.
pub(crate) fn errors(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    metric: &Metric,
) -> Vec<Errors> {
    let judge_counts = judge_counts(evaluation, set);
    let mut all = Vec::new();
    for at in 0..set.contenders.len() {
        let oracle = control(evaluation, set, at, &PassageSource::Oracle);
        let closed_book = control(evaluation, set, at, &PassageSource::ClosedBook);
        let mut by_cause: Vec<Vec<usize>> = vec![Vec::new(); Cause::ALL.len()];
        for sample in 0..set.samples.len() {
            let wrong = metric.is_right(at, sample) == Some(false);
            if let Some(record) = set.contenders[at].first(sample).filter(|_| wrong) {
                let with_gold = oracle.and_then(|oracle| metric.is_right(oracle, sample));
                let rag = evaluation.plans[set.contenders[at].arm].rag.as_ref();
                let retrieves = rag.is_some_and(|rag| rag.passages != PassageSource::ClosedBook);
                let alone = closed_book.and_then(|control| metric.is_right(control, sample));
                let seen = Seen { with_gold, alone, retrieves, judge_counts };
                let cause = cause(record, metric, &seen);
                by_cause[cause as usize].push(sample);
            }
        }
        let scored = metric.scores[at].scores.iter().flatten().count().max(1) as f64;
        for (cause, samples) in Cause::ALL.into_iter().zip(by_cause) {
            if samples.is_empty() {
                continue;
            }
            let lost = |&sample: &usize| metric.scores[at].scores[sample].map_or(0.0, |x| 1.0 - x);
            all.push(Errors {
                contender: at,
                cause,
                samples: samples.len(),
                gain: samples.iter().map(lost).sum::<f64>() / scored,
                best: best(set, metric, at, &samples),
            });
        }
    }
    all
}

/// What the rest of the run says of a wrong answer.
struct Seen {
    /// Whether the control with the gold passages was right.
    with_gold: Option<bool>,
    /// Whether the control without passages was right.
    alone: Option<bool>,
    /// Whether the arm shows passages.
    retrieves: bool,
    /// Whether the judge may speak.
    judge_counts: bool,
}

fn cause(record: &Record, metric: &Metric, seen: &Seen) -> Cause {
    let says_right = |name: &str| {
        record.verdicts.get(name).and_then(Verdict::value).is_some_and(|value| value >= RIGHT)
    };
    if CONTENT.iter().any(|name| *name != metric.name && says_right(name)) {
        return Cause::FormMiss;
    }
    if metric.name != HUMAN && says_right(HUMAN) {
        return Cause::JudgeDoubt;
    }
    if record.unanswerable {
        return Cause::NotInCorpus;
    }
    if seen.retrieves && seen.alone == Some(true) {
        return Cause::Misled;
    }
    let told = match outcome(Some(false), record) {
        Outcome::NotFound | Outcome::LeftOut => Cause::RetrievalMiss,
        Outcome::Misread => Cause::ReadingMiss,
        _ if seen.retrieves => Cause::Untold,
        _ => match seen.with_gold {
            Some(false) => Cause::ReadingMiss,
            None if record.gold.is_empty() => Cause::Untold,
            Some(true) | None => Cause::KnowledgeGap,
        },
    };
    if told != Cause::Untold {
        return told;
    }
    let of_judge = |name: &str| name.starts_with("judge/") || name.starts_with("judge#");
    let in_doubt = if is_judge(&metric.name) {
        record.verdicts.keys().any(|name| of_judge(name) && says_right(name))
    } else {
        seen.judge_counts && says_right(JUDGE)
    };
    if in_doubt { Cause::JudgeDoubt } else { Cause::Untold }
}

/// The control with these passages in its prompt, of the arm's model; rather one that is tuned as the
/// arm is.
fn control(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    at: usize,
    passages: &PassageSource,
) -> Option<usize> {
    let plan = |contender: usize| &evaluation.plans[set.contenders[contender].arm];
    let own = plan(at);
    let is_control = |&other: &usize| {
        let source = plan(other).rag.as_ref().map(|rag| &rag.passages);
        source == Some(passages) && plan(other).model == own.model
    };
    let controls: Vec<usize> = (0..set.contenders.len()).filter(is_control).collect();
    let alike = controls.iter().find(|&&other| plan(other).finetune == own.finetune);
    alike.or(controls.first()).copied()
}

/// Whether the judge may speak at all: it has a floor of agreement with people and keeps it. One that
/// nobody has measured says nothing of a scorer.
fn judge_counts(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> bool {
    let judge = evaluation.manifest.experiment.judge.as_ref();
    let Some(judge) = judge.filter(|judge| judge.min_judge_agreement.is_some()) else {
        return false;
    };
    let trials: Vec<(usize, &Record)> = set
        .contenders
        .iter()
        .flat_map(|contender| contender.trials.iter().map(|&record| (contender.arm, record)))
        .collect();
    judging::barred(judge, &trials).is_none()
}

fn best(
    set: &SetResult<'_>,
    metric: &Metric,
    at: usize,
    samples: &[usize],
) -> Option<(usize, usize)> {
    let right = |other: usize| {
        samples.iter().filter(|&&sample| metric.is_right(other, sample) == Some(true)).count()
    };
    let others = (0..set.contenders.len()).filter(|&other| other != at);
    let counted = others.map(|other| (other, right(other))).filter(|(_, n)| *n > 0);
    // The first of equals.
    counted.reduce(|best, next| if next.1 > best.1 { next } else { best })
}
