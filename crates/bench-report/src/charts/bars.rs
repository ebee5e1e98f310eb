//! Bars in parts: what became of the samples, and what an answer's tokens were spent on.

use plotters::prelude::{Color as _, RGBColor};

use super::Drawing;
use super::canvas::{
    Anchor, FAINT, INK, ON_DARK, ON_LIGHT, PALETTE, Scale, TOP, WIDTH, bar, fit, svg, width, write,
    x_axis,
};
use crate::ReportError;
use crate::budget::budget;
use crate::diagnosis::{self, Outcome};
use crate::evaluation::{Metric, SetResult};
use crate::text::whole;

const ROW: i32 = 28;

/// One part of all bars.
struct Part {
    name: &'static str,
    colour: RGBColor,
}

pub(super) fn outcomes(
    set: &SetResult<'_>,
    metric: &Metric,
) -> Result<Option<Drawing>, ReportError> {
    let counts = diagnosis::counts(set, metric);
    if counts.iter().flatten().sum::<usize>() == 0 {
        return Ok(None);
    }
    let title = format!("{}: what became of the samples", set.set.name);
    let parts = Outcome::ALL.map(|outcome| Part {
        name: outcome.words(),
        colour: match outcome {
            Outcome::Right => PALETTE[2],
            Outcome::Misread => PALETTE[1],
            Outcome::LeftOut => PALETTE[4],
            Outcome::NotFound => PALETTE[3],
            Outcome::NotInCorpus => PALETTE[5],
            Outcome::Wrong => RGBColor(130, 130, 130),
            Outcome::Unscored => RGBColor(215, 215, 215),
        },
    });
    let rows = rows(set, counts.iter().map(|counts| counts.map(|count| count as f64).to_vec()));
    let alt = told("Stacked bars of samples", &rows, &parts);
    let svg = stacked(&title, &alt, "samples", &parts, &rows)?;
    Ok(Some(Drawing { kind: "outcomes", title, alt, svg }))
}

pub(super) fn tokens(set: &SetResult<'_>) -> Result<Option<Drawing>, ReportError> {
    let spent: Vec<Vec<f64>> = set.contenders.iter().map(|c| budget(c).to_vec()).collect();
    if spent.iter().flatten().sum::<f64>() <= 0.0 {
        return Ok(None);
    }
    let title = format!("{}: tokens per answer", set.set.name);
    let parts = [
        Part { name: "instructions", colour: RGBColor(130, 130, 130) },
        Part { name: "examples", colour: PALETTE[4] },
        Part { name: "context", colour: PALETTE[5] },
        Part { name: "question", colour: PALETTE[0] },
        Part { name: "answer", colour: PALETTE[1] },
    ];
    let rows = rows(set, spent.into_iter());
    let alt = told("Stacked bars of mean tokens per answer", &rows, &parts);
    let svg = stacked(&title, &alt, "tokens, mean over answers", &parts, &rows)?;
    Ok(Some(Drawing { kind: "tokens", title, alt, svg }))
}

fn rows(set: &SetResult<'_>, values: impl Iterator<Item = Vec<f64>>) -> Vec<(String, Vec<f64>)> {
    set.contenders.iter().map(|contender| contender.name.clone()).zip(values).collect()
}

fn told(what: &str, rows: &[(String, Vec<f64>)], parts: &[Part]) -> String {
    let row = |(name, values): &(String, Vec<f64>)| {
        let shown = parts.iter().zip(values).filter(|(_, value)| **value > 0.0);
        let shown: Vec<String> =
            shown.map(|(part, value)| format!("{} {}", whole(*value), part.name)).collect();
        format!("{name}: {}", shown.join(", "))
    };
    format!("{what}. {}.", rows.iter().map(row).collect::<Vec<_>>().join("; "))
}

fn stacked(
    title: &str,
    alt: &str,
    axis: &str,
    parts: &[Part],
    rows: &[(String, Vec<f64>)],
) -> Result<String, ReportError> {
    let occurring: Vec<&Part> = (0..parts.len())
        .filter(|&at| rows.iter().any(|(_, values)| values[at] > 0.0))
        .map(|at| &parts[at])
        .collect();
    // The legend may need a second line; letters are at most 8 pixels wide on average.
    let legend: usize = occurring.iter().map(|part| 8 * part.name.chars().count() + 34).sum();
    let lines = if legend > WIDTH as usize { 2 } else { 1 };
    let top = TOP + 6 + 20 * lines;
    let foot = top + 4 + ROW * rows.len() as i32;
    svg(foot + 56, title, alt, |area| {
        let mut pen = (14, TOP + 4);
        for part in occurring {
            let wide = width(area, part.name)? + 34;
            if pen.0 + wide > WIDTH as i32 + 16 {
                pen = (14, pen.1 + 20);
            }
            bar(area, [(pen.0, pen.1 - 6), (pen.0 + 12, pen.1 + 6)], part.colour.filled())?;
            write(area, part.name, (pen.0 + 18, pen.1), Anchor::Left, INK)?;
            pen.0 += wide;
        }
        let mut left = 60;
        for (name, _) in rows {
            left = left.max(width(area, &fit(area, name, 220)?)? + 24);
        }
        let longest = rows.iter().map(|(_, values)| values.iter().sum::<f64>()).fold(0.0, f64::max);
        let x = Scale::fixed(0.0, longest, [left, WIDTH as i32 - 58]).counting();
        x_axis(area, &x, [top, foot], axis)?;
        for (row, (name, values)) in rows.iter().enumerate() {
            let y = top + 4 + ROW * row as i32;
            write(area, &fit(area, name, 220)?, (left - 10, y + ROW / 2), Anchor::Right, INK)?;
            let mut sum = 0.0;
            for (part, value) in parts.iter().zip(values) {
                let (from, to) = (x.at(sum), x.at(sum + value));
                sum += value;
                bar(area, [(from, y + 4), (to, y + ROW - 4)], part.colour.filled())?;
                let words = whole(*value);
                if *value >= 0.5 && to - from > width(area, &words)? + 6 {
                    let (r, g, b) = (part.colour.0, part.colour.1, part.colour.2);
                    let is_dark =
                        299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b) < 95_000;
                    let ink = if is_dark { ON_DARK } else { ON_LIGHT };
                    write(
                        area,
                        &words,
                        (i32::midpoint(from, to), y + ROW / 2),
                        Anchor::Middle,
                        ink,
                    )?;
                }
            }
            write(area, &whole(sum), (x.at(sum) + 6, y + ROW / 2), Anchor::Left, FAINT)?;
        }
        Ok(())
    })
}
