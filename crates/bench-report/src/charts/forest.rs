//! Differences to the baseline with their intervals: the first thing to look at.

use bench_stats::{Comparison, Verdict};
use plotters::prelude::Color as _;

use super::Drawing;
use super::canvas::{
    Anchor, FAINT, GRID, INK, Scale, TOP, WIDTH, bar, colour, fit, line, mark, svg, width, write,
    x_axis,
};
use crate::ReportError;
use crate::evaluation::{Evaluation, Metric, SetResult};
use crate::text::signed;

const ROW: i32 = 36;

pub(super) fn differences(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    metric: &Metric,
) -> Result<Option<Drawing>, ReportError> {
    let Some(baseline) = set.baseline else { return Ok(None) };
    let rows: Vec<(usize, &Comparison)> = metric
        .against_baseline
        .iter()
        .enumerate()
        .filter_map(|(at, comparison)| Some((at, comparison.as_ref()?)))
        .collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let baseline = &set.contenders[baseline].name;
    let title = format!("{}: {} against {baseline}", set.set.name, metric.name);
    let told: Vec<String> = rows
        .iter()
        .map(|(at, c)| {
            let name = &set.contenders[*at].name;
            format!(
                "{name} {} ({} to {}), {}",
                signed(c.difference),
                signed(c.low),
                signed(c.high),
                c.verdict.word()
            )
        })
        .collect();
    let alt = format!(
        "Forest plot of the difference in {} to {baseline} with {} % intervals. {}.",
        metric.name,
        (evaluation.options.level * 100.0).round(),
        told.join("; ")
    );
    let foot = TOP + 6 + ROW * rows.len() as i32;
    let svg = svg(foot + 58, &title, &alt, |area| {
        let names: Vec<String> = rows
            .iter()
            .map(|(at, _)| fit(area, &set.contenders[*at].name, 190))
            .collect::<Result<_, _>>()?;
        let mut left = 60;
        for name in &names {
            left = left.max(width(area, name)? + 26);
        }
        let right = WIDTH as i32 - 218;
        let margin = evaluation.options.margin.unwrap_or(0.0);
        let reach = rows.iter().flat_map(|(_, c)| [c.low, c.high]).chain([0.0, -margin, margin]);
        let x = Scale::linear(reach, [left, right]);
        if margin > 0.0 {
            bar(area, [(x.at(-margin), TOP), (x.at(margin), foot)], GRID.mix(0.6).filled())?;
        }
        let level = (evaluation.options.level * 100.0).round();
        x_axis(
            area,
            &x,
            [TOP, foot],
            &format!("difference in {} ({level} % interval)", metric.name),
        )?;
        line(area, vec![(x.at(0.0), TOP), (x.at(0.0), foot)], INK.stroke_width(2))?;
        for (row, ((at, c), name)) in rows.iter().zip(&names).enumerate() {
            let y = TOP + 6 + ROW * row as i32 + ROW / 2;
            let arm = set.contenders[*at].arm;
            write(area, name, (left - 12, y), Anchor::Right, INK)?;
            let style = colour(arm).stroke_width(3);
            line(area, vec![(x.at(c.low), y), (x.at(c.high), y)], style)?;
            for end in [x.at(c.low), x.at(c.high)] {
                line(area, vec![(end, y - 5), (end, y + 5)], colour(arm).stroke_width(2))?;
            }
            mark(area, (x.at(c.difference), y), arm, 1.0)?;
            let figures =
                format!("{} [{}, {}]", signed(c.difference), signed(c.low), signed(c.high));
            write(area, &figures, (right + 12, y - 8), Anchor::Left, INK)?;
            let ink = if c.verdict == Verdict::Undecided { FAINT } else { INK };
            write(area, c.verdict.word(), (right + 12, y + 8), Anchor::Left, ink)?;
        }
        Ok(())
    })?;
    Ok(Some(Drawing { kind: "differences", title, alt, svg }))
}
