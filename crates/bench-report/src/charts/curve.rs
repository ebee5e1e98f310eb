//! Score by rows trained on, and the power law through it.

use super::Drawing;
use super::lines::{Across, Plot, Series};
use crate::ReportError;
use crate::evaluation::{Evaluation, Metric, SetResult};
use crate::learning::curves;
use crate::text::number;

/// Points that the fitted law is drawn through.
const STEPS: i32 = 60;

pub(super) fn learning(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
    metric: &Metric,
) -> Result<Option<Drawing>, ReportError> {
    let mut lines = Vec::new();
    let mut told = Vec::new();
    for curve in curves(evaluation, set, metric) {
        let points: Vec<(f64, f64)> =
            curve.points.iter().map(|point| (point.rows as f64, point.estimate.mean)).collect();
        let band: Vec<[f64; 2]> =
            curve.points.iter().map(|p| [p.estimate.low, p.estimate.high]).collect();
        let mut words: Vec<String> = curve
            .points
            .iter()
            .map(|p| format!("{} at {} rows", number(p.estimate.mean), p.rows))
            .collect();
        let (first, last) = (points[0].0, points[points.len() - 1].0);
        let dashed = curve.law.map_or_else(Vec::new, |law| {
            words.push(format!("the fitted ceiling is {}", number(law.ceiling)));
            let grow = (last / first).powf(1.0 / f64::from(STEPS));
            (0..=STEPS).map(|step| first * grow.powi(step)).map(|x| (x, law.at(x))).collect()
        });
        told.push(format!("{}: {}", curve.name, words.join(", ")));
        lines.push(Series {
            name: curve.name,
            arm: curve.arm,
            marks: points.clone(),
            points,
            whiskers: band.clone(),
            band,
            dashed,
            ..Series::default()
        });
    }
    let title = format!("{}: {} by rows trained on", set.set.name, metric.name);
    let alt = format!("Learning curves of {}. {}.", metric.name, told.join("; "));
    let scores = || lines.iter().flat_map(|line| line.band.iter().flatten().copied());
    let is_share = scores().all(|score| (0.0..=1.0).contains(&score));
    let plot = Plot {
        title: &title,
        alt: &alt,
        x_name: "training rows",
        y_name: &format!("{} (band: interval; dashes: power law)", metric.name),
        x: Across::Log,
        y: is_share.then_some([0.0, 1.0]),
        is_tied: true,
    };
    Ok(plot.draw(&lines)?.map(|svg| Drawing { kind: "learning_curve", title, alt, svg }))
}
