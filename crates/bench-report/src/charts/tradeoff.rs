//! Quality against what it costs, with the arms that no other arm beats in both.

use bench_stats::quantile_interval;
use plotters::prelude::Color as _;

use super::Drawing;
use super::canvas::{
    Anchor, FAINT, INK, LIGHT, Scale, TOP, Taken, WIDTH, colour, fit, line, mark, place, svg,
    width, write, x_axis, y_axis,
};
use crate::ReportError;
use crate::cost::costings;
use crate::evaluation::{Evaluation, Metric, SetResult};
use crate::text::{dollars, number, whole};

struct Point {
    contender: usize,
    x: f64,
    /// Ends of the interval along the axis at the foot; open where too few answers vouch for one.
    across: [Option<f64>; 2],
    y: f64,
    ends: [f64; 2],
    /// No other arm is at least as good in both and better in one.
    is_efficient: bool,
}

pub(super) fn latency(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    metric: &Metric,
) -> Result<Option<Drawing>, ReportError> {
    let drawing = Tradeoff {
        kind: "quality_latency",
        title: "quality against latency",
        axis: "95th percentile of latency in ms (less is better)",
        figure: "p95 latency",
        say: |x| format!("{} ms", whole(x)),
    };
    drawing.draw(set, metric, |at| {
        let usage = &set.contenders[at].usage;
        let ends = quantile_interval(&usage.latencies, 0.95, evaluation.options.level);
        Some((usage.latency(0.95)?, ends))
    })
}

/// Against money where the experiment has prices, against tokens otherwise.
pub(super) fn cost(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    metric: &Metric,
) -> Result<Option<Drawing>, ReportError> {
    let costings = costings(evaluation, set);
    let cost = |at: usize| {
        let per_1000 = set.contenders[at].usage.cost_per_1000()?;
        let ends = costings[at]
            .as_ref()
            .map_or([None; 2], |c| [c.per_answer.low, c.per_answer.high].map(|x| Some(x * 1000.0)));
        Some((per_1000, ends))
    };
    if (0..set.contenders.len()).any(|at| cost(at).is_some()) {
        let drawing = Tradeoff {
            kind: "quality_cost",
            title: "quality against cost",
            axis: "US dollars per 1,000 answers (less is better)",
            figure: "cost per 1,000",
            say: |x| format!("{} USD", dollars(x)),
        };
        return drawing.draw(set, metric, cost);
    }
    let drawing = Tradeoff {
        kind: "quality_tokens",
        title: "quality against tokens",
        axis: "tokens in and out per answer (less is better)",
        figure: "tokens per answer",
        say: |x| whole(x),
    };
    drawing.draw(set, metric, |at| {
        let usage = &set.contenders[at].usage;
        Some((usage.per_answer(usage.tokens_in + usage.tokens_out)?, [None; 2]))
    })
}

struct Tradeoff {
    kind: &'static str,
    title: &'static str,
    axis: &'static str,
    figure: &'static str,
    say: fn(f64) -> String,
}

impl Tradeoff {
    fn draw(
        &self,
        set: &SetResult<'_>,
        metric: &Metric,
        cost: impl Fn(usize) -> Option<(f64, [Option<f64>; 2])>,
    ) -> Result<Option<Drawing>, ReportError> {
        let points = points(set, metric, cost);
        if points.is_empty() {
            return Ok(None);
        }
        let title = format!("{}: {}", set.set.name, self.title);
        let told: Vec<String> = points
            .iter()
            .map(|point| {
                let name = &set.contenders[point.contender].name;
                let rest = if point.is_efficient { "" } else { ", dominated" };
                format!("{name} {} at {}{rest}", number(point.y), (self.say)(point.x))
            })
            .collect();
        let alt = format!(
            "Scatter plot of {} against {}. {}.",
            metric.name,
            self.figure,
            told.join("; ")
        );
        let height = 360 + 8 * points.len().saturating_sub(6) as i32;
        let svg = svg(height, &title, &alt, |area| self.paint(area, set, metric, &points, height))?;
        Ok(Some(Drawing { kind: self.kind, title, alt, svg }))
    }

    fn paint(
        &self,
        area: &super::canvas::Area<'_>,
        set: &SetResult<'_>,
        metric: &Metric,
        points: &[Point],
        height: i32,
    ) -> Result<(), ReportError> {
        let (left, right, top, foot) = (62, WIDTH as i32 - 24, TOP + 30, height - 54);
        let reach = |p: &Point| [Some(p.x), p.across[0], p.across[1]];
        let x = Scale::positive(points.iter().flat_map(reach).flatten(), [left, right]);
        let y = Scale::linear(points.iter().flat_map(|p| p.ends), [foot, top]);
        x_axis(area, &x, [top, foot], self.axis)?;
        y_axis(
            area,
            &y,
            [left, right],
            &format!("{} (more is better; whiskers: interval)", metric.name),
        )?;
        let mut frontier: Vec<&Point> = points.iter().filter(|p| p.is_efficient).collect();
        frontier.sort_by(|a, b| a.x.total_cmp(&b.x).then(a.y.total_cmp(&b.y)));
        let mut steps = Vec::new();
        for pair in frontier.windows(2) {
            steps.extend([(x.at(pair[0].x), y.at(pair[0].y)), (x.at(pair[1].x), y.at(pair[0].y))]);
        }
        steps.extend(frontier.last().map(|p| (x.at(p.x), y.at(p.y))));
        let mut taken: Vec<Taken> = steps
            .windows(2)
            .map(|ends| {
                let [(x0, y0), (x1, y1)] = [ends[0], ends[1]];
                [x0.min(x1) - 2, y0.min(y1) - 2, x0.max(x1) + 2, y0.max(y1) + 2]
            })
            .collect();
        line(area, steps, LIGHT.stroke_width(2))?;
        for point in points {
            let (px, py) = (x.at(point.x), y.at(point.y));
            let (low, high) = (y.at(point.ends[0]), y.at(point.ends[1]));
            let arm = set.contenders[point.contender].arm;
            let strength = if point.is_efficient { 1.0 } else { 0.35 };
            let style = colour(arm).mix(strength * 0.7).stroke_width(2);
            line(area, vec![(px, low), (px, high)], style)?;
            let [from, to] = point.across.map(|end| end.map_or(px, |end| x.at(end)));
            line(area, vec![(from, py), (to, py)], style)?;
            taken.push([from, py - 1, to, py + 1]);
            mark(area, (px, py), arm, strength)?;
            taken.extend([[px - 7, py - 7, px + 7, py + 7], [px - 1, high, px + 1, low]]);
        }
        for point in points {
            let at = (x.at(point.x), y.at(point.y));
            let name = fit(area, &set.contenders[point.contender].name, 220)?;
            let wide = width(area, &name)?;
            let (from, middle) = place(at, wide, [left, top, WIDTH as i32 - 4, foot], &taken);
            if (middle - at.1).abs() > 20 {
                let near = at.0.clamp(from, from + wide);
                let edge = if middle < at.1 { middle + 8 } else { middle - 8 };
                line(area, vec![at, (near, edge)], LIGHT)?;
            }
            let ink = if point.is_efficient { INK } else { FAINT };
            write(area, &name, (from, middle), Anchor::Left, ink)?;
            taken.push([from - 2, middle - 8, from + wide + 2, middle + 8]);
        }
        Ok(())
    }
}

fn points(
    set: &SetResult<'_>,
    metric: &Metric,
    cost: impl Fn(usize) -> Option<(f64, [Option<f64>; 2])>,
) -> Vec<Point> {
    let mut points: Vec<Point> = (0..set.contenders.len())
        .filter_map(|at| {
            let estimate = metric.estimates[at].as_ref()?;
            let (x, across) = cost(at).filter(|(x, _)| x.is_finite())?;
            let ends = [estimate.low, estimate.high];
            Some(Point { contender: at, x, across, y: estimate.mean, ends, is_efficient: true })
        })
        .collect();
    for at in 0..points.len() {
        let Point { x, y, .. } = points[at];
        points[at].is_efficient =
            !points.iter().any(|p| p.x <= x && p.y >= y && (p.x < x || p.y > y));
    }
    points
}
