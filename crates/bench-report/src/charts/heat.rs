//! Tables of coloured cells: slices by arm, gold labels by answered ones, and what a judge says
//! against what the deciding scorer says.

use bench_stats::Options;
use plotters::prelude::{Color as _, RGBColor};

use super::Drawing;
use super::canvas::{
    Anchor, FAINT, INK, ON_DARK, ON_LIGHT, TOP, WIDTH, bar, fit, svg, width, write,
};
use crate::ReportError;
use crate::agreement::Agreement;
use crate::classification::{Arm, Matrix, classified, matrix, shown};
use crate::evaluation::{Metric, SetResult};
use crate::tables::{Slice, slices_of};
use crate::text::number;

const ROW: i32 = 26;
/// Cells beside each other before the table goes on below.
const MOST_COLUMNS: usize = 7;

/// Light to dark blue, by a share of 0 to 1: one hue, so that lightness alone carries the figure.
fn shade(share: f64) -> RGBColor {
    let (light, dark) = ((222.0, 235.0, 247.0), (8.0, 69.0, 148.0));
    let share = share.clamp(0.0, 1.0);
    let mix = |from: f64, to: f64| (from + (to - from) * share).round() as u8;
    RGBColor(mix(light.0, dark.0), mix(light.1, dark.1), mix(light.2, dark.2))
}

fn ink_on(share: f64) -> RGBColor {
    if share > 0.5 { ON_DARK } else { ON_LIGHT }
}

/// A column per slice, a row per arm.
pub(super) fn slices(
    set: &SetResult<'_>,
    metric: &Metric,
    options: &Options,
) -> Result<Option<Drawing>, ReportError> {
    let slices = slices_of(set, options);
    // A single slice is the whole set.
    if slices.len() < 2 {
        return Ok(None);
    }
    // The first metric is the one that decides.
    let mean = |slice: &Slice, at: usize| slice.figures[0][at].estimate.as_ref().map(|e| e.mean);
    let cells: Vec<Vec<Option<f64>>> = (0..set.contenders.len())
        .map(|at| slices.iter().map(|slice| mean(slice, at)).collect())
        .collect();
    let scored = || cells.iter().flatten().flatten().copied();
    if scored().next().is_none() {
        return Ok(None);
    }
    // Scores of 0 to 1 keep that scale, so that charts can be compared; others span their own.
    let (low, high) = if scored().all(|x| (0.0..=1.0).contains(&x)) {
        (0.0, 1.0)
    } else {
        (scored().fold(f64::INFINITY, f64::min), scored().fold(f64::NEG_INFINITY, f64::max))
    };
    let share = |x: f64| if high > low { (x - low) / (high - low) } else { 0.5 };
    let title = format!("{}: {} by slice", set.set.name, metric.name);
    let told: Vec<String> = slices
        .iter()
        .enumerate()
        .map(|(column, slice)| {
            let row = |(at, row): (usize, &Vec<Option<f64>>)| {
                format!("{} {}", set.contenders[at].name, number(row[column]))
            };
            let rows: Vec<String> = cells.iter().enumerate().map(row).collect();
            format!("{} = {}: {}", slice.field, slice.value, rows.join(", "))
        })
        .collect();
    let alt = format!("Heat map of {} by slice and arm. {}.", metric.name, told.join("; "));
    let blocks = slices.len().div_ceil(MOST_COLUMNS);
    let block_height = 46 + ROW * set.contenders.len() as i32 + 14;
    let svg = svg(TOP + block_height * blocks as i32 + 4, &title, &alt, |area| {
        let mut left = 60;
        for contender in &set.contenders {
            left = left.max(width(area, &fit(area, &contender.name, 220)?)? + 24);
        }
        let columns = slices.len().min(MOST_COLUMNS) as i32;
        let wide = ((WIDTH as i32 - 14 - left) / columns).min(150);
        for (column, slice) in slices.iter().enumerate() {
            let top = TOP + block_height * (column / MOST_COLUMNS) as i32;
            let x = left + wide * (column % MOST_COLUMNS) as i32;
            let middle = x + wide / 2;
            let head = format!("{} ({})", slice.field, slice.samples);
            write(area, &fit(area, &head, wide - 6)?, (middle, top + 10), Anchor::Middle, FAINT)?;
            let value = fit(area, &slice.value, wide - 6)?;
            write(area, &value, (middle, top + 28), Anchor::Middle, INK)?;
            for (row, cells) in cells.iter().enumerate() {
                let y = top + 42 + ROW * row as i32;
                let words = number(cells[column]);
                match cells[column] {
                    Some(value) => {
                        let colour = shade(share(value));
                        bar(area, [(x + 1, y + 1), (x + wide - 1, y + ROW - 1)], colour.filled())?;
                        let ink = ink_on(share(value));
                        write(area, &words, (middle, y + ROW / 2), Anchor::Middle, ink)?;
                    }
                    None => write(area, &words, (middle, y + ROW / 2), Anchor::Middle, FAINT)?,
                }
            }
        }
        for block in 0..blocks {
            for (row, contender) in set.contenders.iter().enumerate() {
                let y = TOP + block_height * block as i32 + 42 + ROW * row as i32 + ROW / 2;
                let name = fit(area, &contender.name, 220)?;
                write(area, &name, (left - 8, y), Anchor::Right, INK)?;
            }
        }
        Ok(())
    })?;
    Ok(Some(Drawing { kind: "slices", title, alt, svg }))
}

/// Arms that a picture of confusion matrices has room for.
const MOST_ARMS: usize = 6;

/// A confusion matrix per arm: gold labels down, answered ones across, shaded by the share of a row.
pub(super) fn labels(
    set: &SetResult<'_>,
    options: &Options,
) -> Result<Option<Drawing>, ReportError> {
    let Some(found) = classified(set, options) else { return Ok(None) };
    let labels = shown(found);
    // Two columns more: other labels, no known one.
    if labels.len() < 2 {
        return Ok(None);
    }
    let arms = accurate(&found.arms);
    let matrices: Vec<(usize, Matrix)> =
        arms.into_iter().map(|at| (at, matrix(&found.arms[at], &labels))).collect();
    let any = |column: usize| {
        matrices.iter().any(|(_, matrix)| matrix.counts.iter().any(|row| row[column] > 0))
    };
    let columns: Vec<usize> =
        (0..labels.len() + 2).filter(|&column| column < labels.len() || any(column)).collect();
    let head = |column: usize| match column.checked_sub(labels.len()) {
        None => (column + 1).to_string(),
        Some(0) => "other".into(),
        Some(_) => "none".into(),
    };
    let told: Vec<String> = matrices
        .iter()
        .map(|(at, matrix)| {
            let right: usize = (0..labels.len()).map(|row| matrix.counts[row][row]).sum();
            let all: usize = matrix.counts.iter().flatten().sum();
            format!("{}: {right} of {all} answers on the diagonal", set.contenders[*at].name)
        })
        .collect();
    let title = format!("{}: gold labels and answered ones", set.set.name);
    let some = if labels.len() < found.labels.len() {
        format!(" of the {} labels with the most errors", labels.len())
    } else {
        String::new()
    };
    let alt = format!(
        "Confusion matrices{some}, rows the gold labels and columns the answered ones in the same order. {}.",
        told.join("; ")
    );
    let block = 52 + ROW * labels.len() as i32;
    let svg = svg(TOP + block * matrices.len() as i32 + 6, &title, &alt, |area| {
        let mut left = 100;
        for (row, &label) in labels.iter().enumerate() {
            let name = format!("{} {}", row + 1, found.labels[label]);
            left = left.max(width(area, &fit(area, &name, 210)?)? + 24);
        }
        let wide = ((WIDTH as i32 - 14 - left) / columns.len() as i32).min(90);
        for (at, (arm, matrix)) in matrices.iter().enumerate() {
            let top = TOP + block * at as i32;
            let name = fit(area, &set.contenders[*arm].name, WIDTH as i32 - 30)?;
            write(area, &name, (12, top + 8), Anchor::Left, INK)?;
            for (place, &column) in columns.iter().enumerate() {
                let middle = left + wide * place as i32 + wide / 2;
                let words = fit(area, &head(column), wide)?;
                write(area, &words, (middle, top + 30), Anchor::Middle, FAINT)?;
            }
            for (row, (&label, counts)) in labels.iter().zip(&matrix.counts).enumerate() {
                let y = top + 42 + ROW * row as i32;
                let name = format!("{} {}", row + 1, found.labels[label]);
                let name = fit(area, &name, 210)?;
                write(area, &name, (left - 8, y + ROW / 2), Anchor::Right, INK)?;
                let all: usize = counts.iter().sum();
                for (place, &column) in columns.iter().enumerate() {
                    let x = left + wide * place as i32;
                    let n = counts[column];
                    let share = if all > 0 { n as f64 / all as f64 } else { 0.0 };
                    let cell = [(x + 1, y + 1), (x + wide - 1, y + ROW - 1)];
                    bar(area, cell, shade(share).filled())?;
                    if n > 0 {
                        let words = fit(area, &n.to_string(), wide)?;
                        let centre = (x + wide / 2, y + ROW / 2);
                        write(area, &words, centre, Anchor::Middle, ink_on(share))?;
                    }
                }
            }
        }
        Ok(())
    })?;
    Ok(Some(Drawing { kind: "confusion", title, alt, svg }))
}

/// The arms with the highest accuracy, as many as a picture has room for, in their order.
fn accurate(arms: &[Arm]) -> Vec<usize> {
    let mean = |at: usize| arms[at].accuracy.as_ref().map_or(0.0, |estimate| estimate.mean);
    let mut order: Vec<usize> = (0..arms.len()).filter(|&at| arms[at].n > 0).collect();
    order.sort_by(|&a, &b| mean(b).total_cmp(&mean(a)));
    order.truncate(MOST_ARMS);
    order.sort_unstable();
    order
}

/// Two by two: what the judge says against what the deciding scorer says, over all arms.
pub(super) fn confusion(
    set: &SetResult<'_>,
    agreement: &Agreement,
) -> Result<Option<Drawing>, ReportError> {
    let counts = agreement.total();
    let n: usize = counts.iter().flatten().sum();
    if n == 0 {
        return Ok(None);
    }
    let scorer = &agreement.scorer;
    let title = format!("{}: the judge against {scorer}", set.set.name);
    let words =
        [["both right", "only the judge says right"], ["only the scorer says right", "both wrong"]];
    let told: Vec<String> = counts
        .iter()
        .flatten()
        .zip(words.iter().flatten())
        .map(|(count, words)| format!("{words} {count}"))
        .collect();
    let alt = format!("Confusion table of {n} judged answers. {}.", told.join("; "));
    let (left, top, wide, high) = (230, TOP + 50, 190, 62);
    let svg = svg(top + 2 * high + 34, &title, &alt, |area| {
        let middle = |column: i32| left + wide * column + wide / 2;
        let head = fit(area, &format!("{scorer} says"), 2 * wide)?;
        write(area, &head, (left + wide, TOP + 10), Anchor::Middle, FAINT)?;
        for (column, word) in ["right", "wrong"].into_iter().enumerate() {
            write(area, word, (middle(column as i32), TOP + 32), Anchor::Middle, INK)?;
        }
        for (row, word) in ["the judge says right", "the judge says wrong"].into_iter().enumerate()
        {
            let y = top + high * row as i32;
            write(area, word, (left - 14, y + high / 2), Anchor::Right, INK)?;
            for (column, &count) in counts[row].iter().enumerate() {
                let x = left + wide * column as i32;
                let share = count as f64 / n as f64;
                let colour = shade(share);
                bar(area, [(x + 1, y + 1), (x + wide - 1, y + high - 1)], colour.filled())?;
                let ink = ink_on(share);
                let at = (x + wide / 2, y + high / 2);
                write(area, &count.to_string(), (at.0, at.1 - 9), Anchor::Middle, ink)?;
                let percent = format!("{:.1} %", share * 100.0);
                write(area, &percent, (at.0, at.1 + 10), Anchor::Middle, ink)?;
            }
        }
        let told = agreement.estimate.as_ref().map_or(String::new(), |e| {
            format!("agreement {} ({} to {})", number(e.mean), number(e.low), number(e.high))
        });
        write(area, &told, (left + wide, top + 2 * high + 16), Anchor::Middle, FAINT)
    })?;
    Ok(Some(Drawing { kind: "judge_confusion", title, alt, svg }))
}
