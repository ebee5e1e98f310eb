//! What prompts are made of, how settings were chosen among several, and what that took.

use std::fmt::Write as _;

use super::{Grid, Head, Shown, figure, number};
use crate::evaluation::{Evaluation, SetResult};
use crate::tables::prompting::{PARTS, budgets, efforts, entries};
use crate::text::{cut, whole};

/// Characters of a prompt that a row shows.
const PROMPT_TEXT: usize = 160;

/// Mean tokens per part of an arm's prompts.
pub(super) fn budget_grid(set: &SetResult<'_>) -> Grid {
    let mut grid = Grid::new(
        "What prompts are made of",
        "Mean tokens per part, counted by the arm's own tokenizer. The answer's are those generated in the picture, and those kept free for it in the figures.",
        &["arm"],
    );
    grid.columns.extend(PARTS.map(|part| Head {
        name: part.to_owned(),
        is_number: true,
        is_code: false,
    }));
    for (arm, means) in budgets(set) {
        let mut row = vec![Shown::from(arm)];
        row.extend(means.map(|mean| figure(Some(mean), |_| format!("{mean:.0}"))));
        grid.rows.push(row);
    }
    grid.folded()
}

/// Everything that was tried, and its score per rung.
pub(super) fn tuning_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let of_set: Vec<_> = entries(evaluation, set).collect();
    let rungs = of_set
        .iter()
        .flat_map(|entry| &entry.candidates)
        .map(|candidate| candidate.rungs.len())
        .max()
        .unwrap_or(0);
    let effort: Vec<String> = of_set
        .iter()
        .map(|entry| {
            format!(
                "{} took {} calls, {} prompt tokens and {} answer tokens{}",
                entry.arm,
                entry.calls,
                entry.tokens_in,
                entry.tokens_out,
                match entry.tokens_trained {
                    0 => String::new(),
                    tokens => format!(", and trained on {tokens}"),
                }
            )
        })
        .collect();
    let mut grid = Grid::new(
        "Tried on dev samples",
        format!(
            "Chosen on dev samples alone, by successive halving: mean score and, in brackets, samples and the rows that were trained on; what has no score in a rung was dropped before it. The whole prompts are in manifest.json. {}.",
            effort.join("; ")
        ),
        &["arm", "prompt or settings", "written by"],
    );
    grid.columns[1].is_code = true;
    grid.columns.extend((1..=rungs).map(|rung| Head {
        name: format!("rung {rung}"),
        is_number: true,
        is_code: false,
    }));
    grid.columns.push(Head { name: "chosen".into(), is_number: false, is_code: false });
    for entry in of_set {
        for (place, candidate) in entry.candidates.iter().enumerate() {
            let text = match &candidate.system {
                _ if !candidate.settings.is_empty() => candidate.settings.clone(),
                Some(system) => format!("{system} | {}", candidate.user),
                None => candidate.user.clone(),
            };
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let mut row = vec![
                Shown::from(entry.arm.as_str()),
                Shown::from(cut(&text, PROMPT_TEXT)),
                Shown::from(crate::tables::prompting::origin(candidate.origin)),
            ];
            row.extend((0..rungs).map(|rung| match candidate.rungs.get(rung) {
                Some(score) => figure(score.value, |value| match value {
                    Some(_) => {
                        let rows =
                            score.rows.map_or_else(String::new, |rows| format!("; {rows} rows"));
                        format!("{} ({}{rows})", number(value), score.samples)
                    }
                    None => "no score".into(),
                }),
                None => Shown::from("–"),
            }));
            let is_chosen = place as u64 == entry.chosen;
            row.push(Shown::from(if is_chosen { "yes" } else { "" }));
            grid.rows.push(row);
        }
    }
    grid
}

/// What choosing took, arm by arm.
pub(super) fn effort_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let mut grid = Grid::new(
        "Effort of choosing",
        "Token passes: each token of a prompt or answer once, each token that is trained on three times. An arm without trials was taken as it was declared.",
        &[
            "arm",
            "chosen",
            ">trials",
            ">calls",
            ">prompt tokens",
            ">answer tokens",
            ">trained tokens",
            ">token passes",
            ">budget",
        ],
    );
    for effort in efforts(evaluation, set) {
        let mut row = vec![Shown::from(effort.arm), Shown::from(effort.kinds.join(", "))];
        row.extend(
            [
                effort.trials as u64,
                effort.calls,
                effort.tokens_in,
                effort.tokens_out,
                effort.tokens_trained,
                effort.passes,
            ]
            .map(|count| figure(Some(count as f64), whole)),
        );
        row.push(match effort.budget {
            Some(budget) => figure(Some(budget as f64), whole),
            None => Shown::from("–"),
        });
        grid.rows.push(row);
    }
    grid
}

/// A comparison of arms that were tuned with unequal effort says also who was tuned more.
pub(super) fn effort_note(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Option<String> {
    let efforts = efforts(evaluation, set);
    let first = efforts.first()?;
    if efforts.iter().all(|effort| effort.equals(first)) {
        return Some(format!(
            "Every arm's settings were chosen on dev samples with the same budget of {} token passes.",
            whole(first.budget? as f64)
        ));
    }
    let told: Vec<String> = efforts
        .iter()
        .map(|effort| match (effort.budget, effort.passes) {
            (_, 0) => format!("{} none", effort.arm),
            (Some(budget), spent) => format!(
                "{} {} of {}",
                effort.arm,
                whole(Some(spent as f64)),
                whole(Some(budget as f64))
            ),
            (None, spent) => format!("{} {}", effort.arm, whole(Some(spent as f64))),
        })
        .collect();
    Some(format!(
        "Unequal effort: the arms' settings were chosen on dev samples with different numbers of token passes ({}). A difference between such arms is partly one of effort.",
        told.join(", ")
    ))
}

/// What was chosen for an arm, to stand behind its declared settings.
pub(super) fn chosen(evaluation: &Evaluation<'_>, arm: &str) -> String {
    let mut said = String::new();
    for entry in evaluation.manifest.tuning.iter().filter(|entry| entry.arm == arm) {
        let best = entry.candidates.get(entry.chosen as usize);
        if let Some(best) = best.filter(|best| !best.settings.is_empty()) {
            write!(said, "; chosen on dev of {}: {}", entry.set, best.settings).ok();
        }
    }
    said
}
