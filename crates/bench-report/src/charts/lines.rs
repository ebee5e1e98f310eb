//! Lines with a name at their end: recall by depth, training loss, the distribution of latency.

use plotters::prelude::{Color as _, Polygon};

use super::Drawing;
use super::canvas::{
    Anchor, INK, LIGHT, Scale, TOP, WIDTH, colour, fit, line, mark, spread, svg, width, write,
    x_axis, y_axis,
};
use crate::ReportError;
use crate::evaluation::{Contender, Evaluation, SetResult};
use crate::retrieval;
use crate::text::{number, whole};

/// Points that a loss curve keeps: more would not be seen.
const MOST_POINTS: usize = 300;

struct Series {
    name: String,
    arm: usize,
    points: Vec<(f64, f64)>,
    /// Lower and upper end per point, where there is an interval.
    band: Vec<[f64; 2]>,
    /// Measured now and then, drawn as marks.
    marks: Vec<(f64, f64)>,
}

struct Plot<'a> {
    title: &'a str,
    alt: &'a str,
    x_name: &'a str,
    y_name: &'a str,
    is_x_log: bool,
    y: Option<[f64; 2]>,
    /// Whether names are tied to the ends of their lines; where all lines end at one height, names
    /// stand in the order given.
    is_tied: bool,
}

pub(super) fn recall(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
) -> Result<Option<Drawing>, ReportError> {
    let results = retrieval::results(set, &evaluation.options);
    let mut lines = Vec::new();
    let mut told = Vec::new();
    for result in &results {
        let contender = &set.contenders[result.contender];
        let at: Vec<(usize, &bench_stats::Estimate)> = (1..)
            .zip(&result.at)
            .filter_map(|(k, figures)| Some((k, figures.recall.as_ref()?)))
            .collect();
        let Some((deepest, last)) = at.last() else { continue };
        told.push(format!("{} {} at {deepest}", contender.name, number(last.mean)));
        lines.push(Series {
            name: contender.name.clone(),
            arm: contender.arm,
            points: at.iter().map(|(k, e)| (*k as f64, e.mean)).collect(),
            band: at.iter().map(|(_, e)| [e.low, e.high]).collect(),
            marks: at.iter().map(|(k, e)| (*k as f64, e.mean)).collect(),
        });
    }
    let title = format!("{}: recall of gold documents", set.set.name);
    let alt = format!("Line chart of recall at k. {}.", told.join("; "));
    let plot = Plot {
        title: &title,
        alt: &alt,
        x_name: "k, passages retrieved",
        y_name: "recall@k (band: interval)",
        is_x_log: false,
        y: Some([0.0, 1.0]),
        is_tied: true,
    };
    Ok(plot.draw(&lines)?.map(|svg| Drawing { kind: "recall", title, alt, svg }))
}

pub(super) fn training(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
) -> Result<Option<Drawing>, ReportError> {
    let mut lines = Vec::new();
    let mut told = Vec::new();
    let entries: Vec<_> =
        evaluation.manifest.training.iter().filter(|entry| entry.set == set.set.name).collect();
    for entry in &entries {
        let arms = entry.arms.join(", ");
        let seeds = entries.iter().filter(|other| other.arms == entry.arms).count();
        let name = if seeds > 1 { format!("{arms} (seed {})", entry.seed) } else { arms };
        let arm = evaluation.plans.iter().position(|plan| entry.arms.contains(&plan.name));
        let steps = &entry.outcome.steps;
        let finite = steps.iter().filter(|step| step.loss.is_finite());
        let points: Vec<(f64, f64)> = finite.map(|step| (step.step as f64, step.loss)).collect();
        if let (Some(first), Some(last)) = (points.first(), points.last()) {
            told.push(format!("{name} from {} to {}", number(first.1), number(last.1)));
        }
        let dev = steps.iter().filter_map(|s| Some((s.step as f64, s.dev_loss?)));
        lines.push(Series {
            name,
            arm: arm.unwrap_or(0),
            points: thinned(&points),
            band: Vec::new(),
            marks: dev.filter(|(_, loss)| loss.is_finite()).collect(),
        });
    }
    let title = format!("{}: training loss", set.set.name);
    let alt = format!("Line chart of training loss by optimiser step. {}.", told.join("; "));
    let plot = Plot {
        title: &title,
        alt: &alt,
        x_name: "optimiser step",
        y_name: "loss in nats per token (marks: validation loss)",
        is_x_log: false,
        y: None,
        is_tied: true,
    };
    Ok(plot.draw(&lines)?.map(|svg| Drawing { kind: "training_loss", title, alt, svg }))
}

pub(super) fn latencies(set: &SetResult<'_>) -> Result<Option<Drawing>, ReportError> {
    let mut lines = Vec::new();
    let mut told = Vec::new();
    let median = |contender: &&Contender<'_>| contender.usage.latency(0.5).unwrap_or(f64::NAN);
    let mut contenders: Vec<&Contender<'_>> = set.contenders.iter().collect();
    contenders.sort_by(|a, b| median(a).total_cmp(&median(b)));
    for contender in contenders {
        let sorted = &contender.usage.latencies;
        let median = median(&contender);
        if !median.is_finite() {
            continue;
        }
        told.push(format!("{} {} ms", contender.name, whole(median)));
        let n = sorted.len() as f64;
        let steps = sorted.iter().enumerate().map(|(rank, &ms)| (ms, (rank + 1) as f64 / n));
        let start = sorted.first().map(|&ms| (ms, 0.0));
        let points: Vec<(f64, f64)> =
            start.into_iter().chain(steps).filter(|(ms, _)| ms.is_finite()).collect();
        lines.push(Series {
            name: contender.name.clone(),
            arm: contender.arm,
            points: thinned(&points),
            band: Vec::new(),
            // The smallest latency that half of the answers kept to, so that the mark is on the line.
            marks: vec![(sorted[sorted.len().div_ceil(2) - 1], 0.5)],
        });
    }
    let title = format!("{}: latency", set.set.name);
    let alt = format!("Cumulative distribution of latency. Medians: {}.", told.join("; "));
    let plot = Plot {
        title: &title,
        alt: &alt,
        x_name: "latency in ms, retrieval and generation",
        y_name: "share of answers that took no longer (marks: median)",
        is_x_log: true,
        y: Some([0.0, 1.0]),
        is_tied: false,
    };
    Ok(plot.draw(&lines)?.map(|svg| Drawing { kind: "latency", title, alt, svg }))
}

/// Means of neighbours where there are more points than can be seen; the last point stays.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        let sum = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / n, sum.1 / n)
    };
    let chunks = points.chunks(points.len().div_ceil(MOST_POINTS));
    chunks.map(mean).chain(points.last().copied()).collect()
}

impl Plot<'_> {
    fn draw(&self, lines: &[Series]) -> Result<Option<String>, ReportError> {
        let all = || lines.iter().flat_map(|l| l.points.iter().chain(&l.marks).copied());
        if all().next().is_none() {
            return Ok(None);
        }
        let lines: Vec<&Series> = lines.iter().filter(|l| !l.points.is_empty()).collect();
        let height = 330.max(120 + 17 * lines.len() as i32);
        let svg = svg(height, self.title, self.alt, |area| {
            let mut names = Vec::new();
            let mut wide = 0;
            for series in &lines {
                let name = fit(area, &series.name, 200)?;
                wide = wide.max(width(area, &name)?);
                names.push(name);
            }
            let (left, right, top, foot) = (62, WIDTH as i32 - wide - 44, TOP + 30, height - 54);
            let x = if self.is_x_log {
                Scale::positive(all().map(|p| p.0), [left, right])
            } else {
                let last = all().map(|p| p.0).fold(0.0, f64::max);
                let first = all().map(|p| p.0).fold(f64::INFINITY, f64::min);
                Scale::fixed(first.min(last - 1.0).max(0.0), last, [left, right])
            };
            let y = match self.y {
                Some([low, high]) => Scale::fixed(low, high, [foot, top]),
                None => Scale::positive(all().map(|p| p.1), [foot, top]),
            };
            x_axis(area, &x, [top, foot], self.x_name)?;
            y_axis(area, &y, [left, right], self.y_name)?;
            for series in &lines {
                let band: Vec<(i32, i32)> = series
                    .points
                    .iter()
                    .zip(&series.band)
                    .map(|(point, ends)| (x.at(point.0), y.at(ends[1])))
                    .chain(
                        series
                            .points
                            .iter()
                            .zip(&series.band)
                            .rev()
                            .map(|(point, ends)| (x.at(point.0), y.at(ends[0]))),
                    )
                    .collect();
                if band.len() > 3 {
                    area.draw(&Polygon::new(band, colour(series.arm).mix(0.15)))?;
                }
            }
            for series in &lines {
                let points = series.points.iter().map(|p| (x.at(p.0), y.at(p.1))).collect();
                line(area, points, colour(series.arm).stroke_width(2))?;
                for point in &series.marks {
                    mark(area, (x.at(point.0), y.at(point.1)), series.arm, 1.0)?;
                }
            }
            let ends: Vec<(i32, i32)> = lines
                .iter()
                .filter_map(|series| series.points.last().map(|p| (x.at(p.0), y.at(p.1))))
                .collect();
            let wanted: Vec<i32> = ends.iter().map(|end| end.1).collect();
            let heights = spread(&wanted, 17, [top, foot]);
            for (((series, name), end), at) in lines.iter().zip(&names).zip(&ends).zip(heights) {
                if self.is_tied {
                    line(area, vec![*end, (right + 12, at)], LIGHT)?;
                }
                mark(area, (right + 18, at), series.arm, 1.0)?;
                write(area, name, (right + 30, at), Anchor::Left, INK)?;
            }
            Ok(())
        })?;
        Ok(Some(svg))
    }
}
