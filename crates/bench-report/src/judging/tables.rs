//! The judge's tables as files.

use super::{cards, corrected, strengths};
use crate::evaluation::Evaluation;
use crate::table::Kind::{Count, Number, Text};
use crate::table::{Table, row};

/// `judge.csv`, `corrected.csv` and `bradley_terry.csv`.
pub(crate) fn all(evaluation: &Evaluation<'_>) -> [(&'static str, Table); 3] {
    [
        ("judge", card_table(evaluation)),
        ("corrected", corrected_table(evaluation)),
        ("bradley_terry", strength_table(evaluation)),
    ]
}

fn card_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("judge", Text),
        ("figure", Text),
        ("n", Count),
        ("value", Number),
        ("ci_low", Number),
        ("ci_high", Number),
    ]);
    for set in &evaluation.sets {
        let Some(found) = cards(evaluation, set) else { continue };
        let set = set.set.name.as_str();
        for card in &found.cards {
            for figure in card.figures() {
                table.push(row![
                    set,
                    card.judge.as_str(),
                    figure.name,
                    figure.n,
                    Some(figure.value),
                    figure.interval.map(|(low, _)| low),
                    figure.interval.map(|(_, high)| high),
                ]);
            }
        }
        if let Some(alpha) = &found.jury_alpha {
            let figure = "alpha_within_jury";
            let (low, high) = (Some(alpha.low), Some(alpha.high));
            table.push(row![set, "jury", figure, Some(alpha.n), Some(alpha.value), low, high]);
        }
    }
    table
}

fn corrected_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("method", Text),
        ("judged", Count),
        ("labelled", Count),
        ("judge_value", Number),
        ("value", Number),
        ("standard_error", Number),
        ("ci_low", Number),
        ("ci_high", Number),
        ("judge_weight", Number),
    ]);
    for set in &evaluation.sets {
        for found in corrected(evaluation, set) {
            let score = &found.score;
            table.push(row![
                set.set.name.as_str(),
                set.contenders[found.contender].name.as_str(),
                found.method,
                score.judged,
                score.labelled,
                score.judge_mean,
                score.mean,
                score.standard_error,
                score.low,
                score.high,
                score.judge_weight,
            ]);
        }
    }
    table
}

fn strength_table(evaluation: &Evaluation<'_>) -> Table {
    let mut table = Table::new(&[
        ("set", Text),
        ("arm", Text),
        ("strength", Number),
        ("standard_error", Number),
        ("ci_low", Number),
        ("ci_high", Number),
    ]);
    for set in &evaluation.sets {
        let Some(Ok(strengths)) = strengths(set, &evaluation.options) else { continue };
        for found in strengths {
            table.push(row![
                set.set.name.as_str(),
                found.arm.as_str(),
                found.strength,
                found.standard_error,
                found.low,
                found.high,
            ]);
        }
    }
    table
}
