//! What prompts are made of, and how one was chosen among several.

use super::{Grid, Head, Shown, figure, number};
use crate::evaluation::{Evaluation, SetResult};
use crate::tables::prompting::{PARTS, budgets, entries};
use crate::text::cut;

/// Characters of a prompt that a row shows.
const PROMPT_TEXT: usize = 160;

/// Mean tokens per part of an arm's prompts.
pub(super) fn budget_grid(set: &SetResult<'_>) -> Grid {
    let mut grid = Grid::new(
        "What prompts are made of",
        "Mean tokens per part, counted by the arm's own tokenizer; the answer's are those kept free for it.",
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

/// Every prompt that was tried, and its score per rung.
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
                "{} took {} calls, {} prompt tokens and {} answer tokens",
                entry.arm, entry.calls, entry.tokens_in, entry.tokens_out
            )
        })
        .collect();
    let mut grid = Grid::new(
        "Prompts that were tried",
        format!(
            "Chosen on dev samples alone, by successive halving: mean score and, in brackets, samples. The whole prompts are in manifest.json. {}.",
            effort.join("; ")
        ),
        &["arm", "prompt", "written by"],
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
                    Some(_) => format!("{} ({})", number(value), score.samples),
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
