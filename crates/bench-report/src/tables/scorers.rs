//! `classification.csv`, `labels.csv`, `confusion.csv`, `abstained.csv` and `parts.csv`: what scorers
//! say beside their one figure.

use super::method;
use crate::classification::{Classified, classified};
use crate::declining::{declining, quality};
use crate::evaluation::{Evaluation, SetResult};
use crate::parts::parts;
use crate::table::Kind::{Count, Number, Text};
use crate::table::{Table, row};

/// Every table of this kind, those without rows included.
pub(super) fn all(evaluation: &Evaluation<'_>) -> [(&'static str, Table); 5] {
    [
        ("classification", classification_table(evaluation)),
        ("labels", label_table(evaluation)),
        ("confusion", confusion_table(evaluation)),
        ("abstained", abstained_table(evaluation)),
        ("parts", part_table(evaluation)),
    ]
}

/// The sets that are scored by labels.
fn sets<'e>(
    evaluation: &'e Evaluation<'_>,
) -> impl Iterator<Item = (&'e SetResult<'e>, &'e Classified)> {
    evaluation.sets.iter().filter_map(|set| Some((set, classified(set, &evaluation.options)?)))
}

fn classification_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("n", Count),
        ("labels", Count),
        ("accuracy", Number),
        ("accuracy_low", Number),
        ("accuracy_high", Number),
        ("macro_f1", Number),
        ("macro_f1_low", Number),
        ("macro_f1_high", Number),
        ("no_label", Count),
        ("unscored", Count),
    ]);
    for (set, found) in sets(evaluation) {
        for (contender, arm) in set.contenders.iter().zip(&found.arms) {
            let accuracy = arm.accuracy.as_ref();
            let macro_f1 = arm.macro_f1.as_ref();
            table.push(row![
                set.set.name.as_str(),
                contender.name.as_str(),
                arm.n,
                macro_f1.map(|f1| f1.labels),
                accuracy.map(|e| e.mean),
                accuracy.map(|e| e.low),
                accuracy.map(|e| e.high),
                macro_f1.map(|f1| f1.value),
                macro_f1.and_then(|f1| f1.interval).map(|(low, _)| low),
                macro_f1.and_then(|f1| f1.interval).map(|(_, high)| high),
                arm.no_label(),
                arm.unscored,
            ]);
        }
    }
    table
}

fn label_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("label", Text),
        ("n", Count),
        ("predicted", Number),
        ("precision", Number),
        ("recall", Number),
        ("f1", Number),
    ]);
    for (set, found) in sets(evaluation) {
        for (contender, arm) in set.contenders.iter().zip(&found.arms) {
            for (label, score) in found.labels.iter().zip(&arm.scores) {
                table.push(row![
                    set.set.name.as_str(),
                    contender.name.as_str(),
                    label.as_str(),
                    score.support,
                    score.predicted,
                    score.precision,
                    score.recall,
                    score.f1,
                ]);
            }
        }
    }
    table
}

fn confusion_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("gold", Text),
        ("predicted", Text),
        ("answers", Count),
    ]);
    for (set, found) in sets(evaluation) {
        for (contender, arm) in set.contenders.iter().zip(&found.arms) {
            for (&(gold, said), &answers) in &arm.cells {
                table.push(row![
                    set.set.name.as_str(),
                    contender.name.as_str(),
                    found.labels[gold].as_str(),
                    said.map(|said| found.labels[said].as_str()),
                    answers,
                ]);
            }
        }
    }
    table
}

fn abstained_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("figure", Text),
        ("metric", Text),
        ("n", Count),
        ("value", Number),
        ("ci_low", Number),
        ("ci_high", Number),
        ("interval", Text),
    ]);
    for set in &evaluation.sets {
        let quality = quality(set);
        for arm in declining(set, &evaluation.options) {
            let abstained = Some("abstained");
            for (figure, metric, estimate) in [
                ("coverage", abstained, &arm.coverage),
                ("risk", quality, &arm.risk),
                ("declined", abstained, &arm.declined),
            ] {
                let estimate = estimate.as_ref();
                table.push(row![
                    set.set.name.as_str(),
                    set.contenders[arm.contender].name.as_str(),
                    figure,
                    metric,
                    estimate.map_or(0, |e| e.n),
                    estimate.map(|e| e.mean),
                    estimate.map(|e| e.low),
                    estimate.map(|e| e.high),
                    estimate.map(method),
                ]);
            }
        }
    }
    table
}

fn part_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("metric", Text),
        ("part", Text),
        ("arm", Text),
        ("n", Count),
        ("value", Number),
        ("standard_error", Number),
        ("ci_low", Number),
        ("ci_high", Number),
        ("interval", Text),
    ]);
    for set in &evaluation.sets {
        for part in parts(set, &evaluation.options) {
            for (contender, estimate) in set.contenders.iter().zip(&part.estimates) {
                let estimate = estimate.as_ref();
                table.push(row![
                    set.set.name.as_str(),
                    part.metric.as_str(),
                    part.part.as_str(),
                    contender.name.as_str(),
                    estimate.map_or(0, |e| e.n),
                    estimate.map(|e| e.mean),
                    estimate.map(|e| e.standard_error),
                    estimate.map(|e| e.low),
                    estimate.map(|e| e.high),
                    estimate.map(method),
                ]);
            }
        }
    }
    table
}
