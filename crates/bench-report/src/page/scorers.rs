//! What the page says of answers that are labels, that decline, or that have parts.

use std::fmt::Write as _;

use bench_stats::Estimate;

use super::{Grid, Head, figure, interval, shown};
use crate::classification::{self, Arm, Classified, MOST_LABELS, classified, matrix};
use crate::declining::{self, declining};
use crate::evaluation::{Evaluation, SetResult};
use crate::grid::Shown;
use crate::parts::{self, PartResult};
use crate::text::{cut, number};

/// The title of the table that confusion matrices follow.
pub(super) const CLASSIFICATION: &str = "Classification";

/// Pairs of labels per arm that the page shows; all are in `confusion.csv`.
const PAIRS: usize = 10;
/// Characters of a label.
const LABEL: usize = 40;
/// Fields that the page shows; all are in `parts.csv`.
const FIELDS: usize = 12;

fn mean(estimate: Option<&Estimate>) -> Shown {
    figure(estimate.map(|e| e.mean), number)
}

fn ends(ends: Option<(f64, f64)>) -> Shown {
    figure(ends.map(|(low, _)| low), |_| {
        ends.map_or_else(|| "–".into(), |(low, high)| interval(low, high))
    })
}

fn of(estimate: Option<&Estimate>) -> Option<(f64, f64)> {
    estimate.map(|e| (e.low, e.high))
}

/// Accuracy and macro-F1 per arm.
pub(super) fn classification_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let found = classified(set, &evaluation.options);
    let labels = found.map_or(0, |found| found.labels.len());
    let mut grid = Grid::new(
        CLASSIFICATION,
        format!(
            "The set has {labels} labels. Macro-F1 is the mean F1 of the labels that are gold in an arm's scored samples, each counting the same; a label that the arm never answers has F1 = 0. Its interval is a bootstrap (BCa), without width where no answer is wrong."
        ),
        &[
            "arm",
            ">n",
            ">gold labels",
            ">accuracy",
            ">its interval",
            ">macro-F1",
            ">its interval",
            ">no known label",
            ">unscored",
        ],
    );
    let Some(found) = found else { return grid };
    for (contender, arm) in set.contenders.iter().zip(&found.arms) {
        let macro_f1 = arm.macro_f1.as_ref();
        let mut row = shown![contender.name.as_str(), arm.n, macro_f1.map_or(0, |f1| f1.labels)];
        row.extend([
            mean(arm.accuracy.as_ref()),
            ends(of(arm.accuracy.as_ref())),
            figure(macro_f1.map(|f1| f1.value), number),
            ends(macro_f1.and_then(|f1| f1.interval)),
        ]);
        row.extend(shown![arm.no_label(), arm.unscored]);
        grid.rows.push(row);
    }
    grid
}

/// A confusion matrix per arm, over the labels with the most errors where there are many.
pub(super) fn confusion_grids(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Vec<Grid> {
    let Some(found) = classified(set, &evaluation.options) else { return Vec::new() };
    let labels = classification::shown(found);
    let arms = set.contenders.iter().zip(&found.arms).filter(|(_, arm)| arm.n > 0);
    arms.map(|(contender, arm)| confusion_grid(&contender.name, found, arm, &labels)).collect()
}

fn confusion_grid(name: &str, found: &Classified, arm: &Arm, labels: &[usize]) -> Grid {
    let is_part = labels.len() < found.labels.len();
    let note = if is_part {
        format!(
            "Answers: a row per gold label, a column per answered one. Shown are the {MOST_LABELS} of {} labels with the most errors over all arms; all are in tables/confusion.csv.",
            found.labels.len()
        )
    } else {
        "Answers: a row per gold label, a column per answered one.".into()
    };
    let mut grid = Grid::new(&format!("Confusion matrix of {name}"), note, &["gold label"]);
    let number_head = |name: &str| Head { name: cut(name, LABEL), is_number: true, is_code: false };
    grid.columns.extend(labels.iter().map(|&at| number_head(&found.labels[at])));
    if is_part {
        grid.columns.push(number_head("other labels"));
    }
    grid.columns.push(number_head("no known label"));
    grid.columns.extend(["precision", "recall", "F1"].map(number_head));
    let counted = matrix(arm, labels);
    for (&gold, counts) in counted.rows.iter().zip(counted.counts) {
        let mut row = shown![cut(&found.labels[gold], LABEL)];
        let counts = counts.into_iter().enumerate();
        let kept = counts.filter(|(column, _)| is_part || *column != labels.len());
        row.extend(kept.map(|(_, n)| Shown::from(n)));
        let score = &arm.scores[gold];
        row.extend([score.precision, score.recall, score.f1].map(|x| figure(x, number)));
        grid.rows.push(row);
    }
    grid.folded()
}

/// Which labels are taken for which, where a matrix cannot show all.
pub(super) fn confused_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let mut grid = Grid::new(
        "Most confused labels",
        format!(
            "The {PAIRS} most frequent confusions of each arm; the share is of the scored answers to samples of the gold label."
        ),
        &["arm", "gold label", "answered", ">answers", ">share"],
    );
    let Some(found) = classified(set, &evaluation.options) else { return grid };
    if found.labels.len() <= MOST_LABELS {
        return grid;
    }
    for (contender, arm) in set.contenders.iter().zip(&found.arms) {
        for (gold, said, n) in arm.confusions().into_iter().take(PAIRS) {
            let said = said.map_or("no known label", |said| found.labels[said].as_str());
            let mut row = shown![
                contender.name.as_str(),
                cut(&found.labels[gold], LABEL),
                cut(said, LABEL),
                n
            ];
            row.push(figure(Some(n as f64 / arm.asked(gold) as f64), number));
            grid.rows.push(row);
        }
    }
    grid.folded()
}

/// Coverage and risk where arms may decline.
pub(super) fn declining_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let by = declining::quality(set).map_or_else(
        || "no scorer of the set says which answers are wrong, so there is no risk".to_owned(),
        |metric| format!("by {metric}, under 0.5"),
    );
    let mut grid = Grid::new(
        "Declining to answer",
        format!(
            "Coverage is the share of the answerable samples that are answered; risk is the share of wrong answers among these ({by}); declined is the share of the unanswerable samples that are declined. Each is over the scored samples of its kind."
        ),
        &[
            "arm",
            ">n answerable",
            ">coverage",
            ">its interval",
            ">n answered",
            ">risk",
            ">its interval",
            ">n unanswerable",
            ">declined",
            ">its interval",
            ">unscored",
        ],
    );
    for arm in declining(set, &evaluation.options) {
        let mut row = shown![set.contenders[arm.contender].name.as_str()];
        for estimate in [&arm.coverage, &arm.risk, &arm.declined] {
            let estimate = estimate.as_ref();
            row.push(estimate.map_or(0, |e| e.n).into());
            row.extend([mean(estimate), ends(of(estimate))]);
        }
        row.push(arm.unscored.into());
        grid.rows.push(row);
    }
    grid
}

/// Means of the parts of scorers' figures.
pub(super) fn part_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let found = parts::parts(set, &evaluation.options);
    let left_out =
        found.iter().filter(|part| part.field().is_some()).count().saturating_sub(FIELDS);
    let mut note = "Means of what scorers look at one by one.".to_owned();
    if found.iter().any(|part| part.field().is_some()) {
        note.push_str(
            " A field's figure is F1 over what is below it, over the samples whose reference has it or that were answered with it.",
        );
    }
    if left_out > 0 {
        write!(
            note,
            " Shown are the {FIELDS} fields with the lowest figures; all are in tables/parts.csv."
        )
        .ok();
    }
    let mut grid = Grid::new(
        "Parts of scores",
        note,
        &["metric", "part", "arm", ">n", ">value", ">± SE", ">interval"],
    );
    let mut fields: Vec<&PartResult> = found.iter().filter(|part| part.field().is_some()).collect();
    fields.sort_by(|a, b| {
        let low = |part: &PartResult| part.lowest().unwrap_or(f64::INFINITY);
        low(a).total_cmp(&low(b))
    });
    fields.truncate(FIELDS);
    let is_shown = |part: &&PartResult| {
        part.field().is_none() || fields.iter().any(|shown| std::ptr::eq(*shown, *part))
    };
    for part in found.iter().filter(is_shown) {
        for (contender, estimate) in set.contenders.iter().zip(&part.estimates) {
            let estimate = estimate.as_ref();
            let mut row = shown![
                part.metric.as_str(),
                part.words(),
                contender.name.as_str(),
                estimate.map_or(0, |e| e.n)
            ];
            row.extend([
                mean(estimate),
                figure(estimate.map(|e| e.standard_error), number),
                ends(of(estimate)),
            ]);
            grid.rows.push(row);
        }
    }
    if grid.rows.len() > 24 { grid.folded() } else { grid }
}
