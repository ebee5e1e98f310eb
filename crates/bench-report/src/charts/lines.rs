//! Lines with a name at their end: recall and nDCG by depth, losses, the distribution of latency; and
//! the plot that other charts of lines are drawn with.

use bench_stats::Estimate;
use plotters::prelude::{Color as _, Polygon};

use super::Drawing;
use super::canvas::{
    Anchor, INK, LIGHT, Scale, TOP, WIDTH, colour, dashed, fit, line, mark, spread, svg, width,
    write, x_axis, y_axis,
};
use crate::ReportError;
use crate::evaluation::{Contender, Evaluation, SetResult};
use crate::retrieval::{self, AtK, RetrievalResult};
use crate::text::{number, whole};

/// Points that a loss curve keeps: more would not be seen.
const MOST_POINTS: usize = 300;

#[derive(Default)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) arm: usize,
    pub(super) points: Vec<(f64, f64)>,
    /// Lower and upper end per point, where there is an interval.
    pub(super) band: Vec<[f64; 2]>,
    /// Measured now and then, drawn as marks.
    pub(super) marks: Vec<(f64, f64)>,
    /// Lower and upper end per mark, where there is an interval.
    pub(super) whiskers: Vec<[f64; 2]>,
    /// Left and right end per mark, where there is an interval along the axis at the foot.
    pub(super) spans: Vec<[f64; 2]>,
    /// A second line, thin and dashed.
    pub(super) dashed: Vec<(f64, f64)>,
}

/// How figures lie along the axis at the foot.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Across {
    /// In equal steps from the first to the last.
    Even,
    /// In equal steps of whole numbers.
    Count,
    /// Logarithmic where they span more than a factor of ten.
    Log,
}

pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) alt: &'a str,
    pub(super) x_name: &'a str,
    pub(super) y_name: &'a str,
    pub(super) x: Across,
    pub(super) y: Option<[f64; 2]>,
    /// Whether names are tied to the ends of their lines; where all lines end at one height, names
    /// stand in the order given.
    pub(super) is_tied: bool,
}

/// Recall@k and nDCG@k.
pub(super) fn retrieval(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
) -> Result<[Option<Drawing>; 2], ReportError> {
    let results = retrieval::results(set, &evaluation.options);
    Ok([
        by_depth(set, results, "recall", "recall@k", "recall of gold documents", |at| {
            at.recall.as_ref()
        })?,
        by_depth(set, results, "ndcg", "nDCG@k", "ranking of gold documents", |at| {
            at.ndcg.as_ref()
        })?,
    ])
}

fn by_depth(
    set: &SetResult<'_>,
    results: &[RetrievalResult],
    kind: &'static str,
    metric: &str,
    title: &str,
    of: impl Fn(&AtK) -> Option<&Estimate>,
) -> Result<Option<Drawing>, ReportError> {
    let mut lines = Vec::new();
    let mut told = Vec::new();
    for result in results {
        let contender = &set.contenders[result.contender];
        let at: Vec<(usize, &Estimate)> =
            (1..).zip(&result.at).filter_map(|(k, figures)| Some((k, of(figures)?))).collect();
        let Some((deepest, last)) = at.last() else { continue };
        told.push(format!("{} {} at {deepest}", contender.name, number(last.mean)));
        lines.push(Series {
            name: contender.name.clone(),
            arm: contender.arm,
            points: at.iter().map(|(k, e)| (*k as f64, e.mean)).collect(),
            band: at.iter().map(|(_, e)| [e.low, e.high]).collect(),
            marks: at.iter().map(|(k, e)| (*k as f64, e.mean)).collect(),
            ..Series::default()
        });
    }
    let title = format!("{}: {title}", set.set.name);
    let alt = format!("Line chart of {metric}. {}.", told.join("; "));
    let plot = Plot {
        title: &title,
        alt: &alt,
        x_name: "k, documents found",
        y_name: &format!("{metric} (band: interval)"),
        x: Across::Count,
        y: Some([0.0, 1.0]),
        is_tied: true,
    };
    Ok(plot.draw(&lines)?.map(|svg| Drawing { kind, title, alt, svg }))
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
        // Points of learning curves have a chart of their own.
        let mut arms_of =
            evaluation.plans.iter().enumerate().filter(|(_, plan)| plan.curve.is_none());
        let Some((arm, _)) = arms_of.find(|(_, plan)| entry.arms.contains(&plan.name)) else {
            continue;
        };
        let steps = &entry.outcome.steps;
        let finite = steps.iter().filter(|step| step.loss.is_finite());
        let points: Vec<(f64, f64)> = finite.map(|step| (step.step as f64, step.loss)).collect();
        if let (Some(first), Some(last)) = (points.first(), points.last()) {
            told.push(format!("{name} from {} to {}", number(first.1), number(last.1)));
        }
        let dev = steps.iter().filter_map(|s| Some((s.step as f64, s.dev_loss?)));
        let dev: Vec<(f64, f64)> = dev.filter(|(_, loss)| loss.is_finite()).collect();
        if let (Some(last), Some(told)) = (dev.last(), told.last_mut()) {
            *told = format!("{told}, validation {}", number(last.1));
        }
        lines.push(Series {
            name,
            arm,
            points: thinned(&points),
            dashed: dev.clone(),
            marks: dev,
            ..Series::default()
        });
    }
    let title = format!("{}: training and validation loss", set.set.name);
    let alt = format!(
        "Line chart of training and validation loss by optimiser step. {}.",
        told.join("; ")
    );
    let plot = Plot {
        title: &title,
        alt: &alt,
        x_name: "optimiser step",
        y_name: "loss in nats per token (marks and dashes: validation)",
        x: Across::Count,
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
            // The smallest latency that half of the answers kept to, so that the mark is on the line.
            marks: vec![(sorted[sorted.len().div_ceil(2) - 1], 0.5)],
            ..Series::default()
        });
    }
    let title = format!("{}: latency", set.set.name);
    let alt = format!("Cumulative distribution of latency. Medians: {}.", told.join("; "));
    let plot = Plot {
        title: &title,
        alt: &alt,
        x_name: "latency in ms, retrieval and generation",
        y_name: "share of answers that took no longer (marks: median)",
        x: Across::Log,
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
    pub(super) fn draw(&self, lines: &[Series]) -> Result<Option<String>, ReportError> {
        let all =
            || lines.iter().flat_map(|l| l.points.iter().chain(&l.marks).chain(&l.dashed).copied());
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
            let last = all().map(|p| p.0).fold(0.0, f64::max);
            let first = all().map(|p| p.0).fold(f64::INFINITY, f64::min);
            let even = Scale::fixed(first.min(last - 1.0).max(0.0), last, [left, right]);
            let x = match self.x {
                Across::Even => even,
                Across::Count => even.counting(),
                Across::Log => Scale::positive(all().map(|p| p.0), [left, right]),
            };
            let y = match self.y {
                Some([low, high]) => Scale::fixed(low, high, [foot, top]),
                // Straight lines stay straight.
                None if self.x == Across::Even => {
                    let most = all().map(|p| p.1).fold(0.0, f64::max);
                    Scale::fixed(0.0, most * 1.08, [foot, top])
                }
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
                let dashes = series.dashed.iter().map(|p| (x.at(p.0), y.at(p.1))).collect();
                dashed(area, dashes, colour(series.arm))?;
                for (point, ends) in series.marks.iter().zip(&series.whiskers) {
                    let (at, low, high) = (x.at(point.0), y.at(ends[0]), y.at(ends[1]));
                    line(area, vec![(at, low), (at, high)], colour(series.arm).stroke_width(2))?;
                    for end in [low, high] {
                        let cap = vec![(at - 4, end), (at + 4, end)];
                        line(area, cap, colour(series.arm).stroke_width(2))?;
                    }
                }
                for (point, ends) in series.marks.iter().zip(&series.spans) {
                    let [from, to] = ends.map(|end| x.at(end));
                    let at = y.at(point.1);
                    line(area, vec![(from, at), (to, at)], colour(series.arm).stroke_width(2))?;
                    for end in [from, to] {
                        let cap = vec![(end, at - 4), (end, at + 4)];
                        line(area, cap, colour(series.arm).stroke_width(2))?;
                    }
                }
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
