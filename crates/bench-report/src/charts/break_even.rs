//! Dollars a month by requests a month: where the line of a trained arm crosses that of a longer
//! prompt, training has paid for itself.

use super::Drawing;
use super::lines::{Across, Plot, Series};
use crate::ReportError;
use crate::cost::{Horizon, Requests, Rivalry, break_even, costings};
use crate::evaluation::{Evaluation, SetResult};
use crate::page::requests;

/// Points of a line.
const STEPS: i32 = 80;
/// Requests a month that the axis reaches where no lines cross.
const USUAL: f64 = 100_000.0;

pub(super) fn crossings(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
) -> Result<Option<Drawing>, ReportError> {
    let found = break_even(evaluation, set);
    if found.is_empty() {
        return Ok(None);
    }
    let assumed = &evaluation.manifest.experiment.break_even;
    let horizon = Horizon::of(assumed);
    // Lines that lie on each other cross anywhere: only crossings whose band ends are drawn.
    let crossing = |rivalry: &Rivalry| match rivalry.requests {
        [Requests::From(count), Requests::From(from), Requests::From(to)] => {
            Some((count, [from, to]))
        }
        _ => None,
    };
    let crossings: Vec<f64> = found.iter().filter_map(crossing).map(|(count, _)| count).collect();
    let most = crossings.iter().copied().fold(0.0, f64::max);
    let least = crossings.iter().copied().fold(f64::INFINITY, f64::min);
    let reach = if most > 0.0 { most * 2.0 } else { USUAL };
    // Crossings far apart are told from each other on a logarithmic axis only.
    let start = if most > 20.0 * least { least / 5.0 } else { 0.0 };
    let at = |step: i32| {
        let share = f64::from(step) / f64::from(STEPS);
        if start > 0.0 { start * (reach / start).powf(share) } else { reach * share }
    };
    let mut lines = Vec::new();
    for (position, contender) in set.contenders.iter().enumerate() {
        let Some(costing) = &costings(evaluation, set)[position] else { continue };
        let monthly = |x: f64, answer: f64| costing.monthly(x, answer, &horizon);
        let own = found.iter().filter(|rivalry| rivalry.trained == position);
        let (marks, spans): (Vec<(f64, f64)>, Vec<[f64; 2]>) = own
            .filter_map(crossing)
            .map(|(x, band)| ((x, monthly(x, costing.cached.mean)), band))
            .unzip();
        let x = || (0..=STEPS).map(at);
        lines.push(Series {
            name: contender.name.clone(),
            arm: contender.arm,
            points: x().map(|x| (x, monthly(x, costing.cached.mean))).collect(),
            band: x()
                .map(|x| [monthly(x, costing.cached.low), monthly(x, costing.cached.high)])
                .collect(),
            marks,
            spans,
            ..Series::default()
        });
    }
    let told: Vec<String> = found
        .iter()
        .map(|rivalry| {
            let name = |at: usize| set.contenders[at].name.as_str();
            format!(
                "{} against {}: {}",
                name(rivalry.trained),
                name(rivalry.other),
                requests(rivalry.requests[0])
            )
        })
        .collect();
    let title = format!("{}: cost by requests", set.set.name);
    let alt = format!(
        "Lines of dollars a month by requests a month; marks where a trained arm becomes the cheaper one. Requests a month: {}.",
        told.join("; ")
    );
    let plot = Plot {
        title: &title,
        alt: &alt,
        x_name: &format!(
            "requests a month, over {} months (marks: break-even of a trained arm, with its band)",
            assumed.months
        ),
        y_name: "US dollars a month (band: interval)",
        x: if start > 0.0 { Across::Log } else { Across::Even },
        y: None,
        is_tied: true,
    };
    Ok(plot.draw(&lines)?.map(|svg| Drawing { kind: "break_even", title, alt, svg }))
}
