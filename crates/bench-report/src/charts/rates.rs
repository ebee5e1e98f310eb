//! Bars of shares with their intervals: what is left of general skills, how often a judge keeps to
//! itself when the order of two answers is turned.

use plotters::prelude::{Color as _, RGBColor};

use super::Drawing;
use super::canvas::{
    Anchor, INK, Scale, TOP, WIDTH, bar, colour, fit, line, svg, width, write, x_axis,
};
use crate::ReportError;
use crate::evaluation::{Evaluation, SetResult};
use crate::{judging, retention};

const ROW: i32 = 30;

/// One bar.
pub(super) struct Rate {
    pub(super) name: String,
    pub(super) colour: RGBColor,
    /// A share; 1 is all.
    pub(super) share: f64,
    pub(super) ends: [f64; 2],
}

pub(super) fn retained(set: &SetResult<'_>) -> Result<Option<Drawing>, ReportError> {
    let Some(baseline) = set.baseline.map(|at| set.contenders[at].name.as_str()) else {
        return Ok(None);
    };
    let rates: Vec<Rate> = retention::retained(set)
        .into_iter()
        .map(|kept| {
            let contender = &set.contenders[kept.contender];
            let colour = colour(contender.arm);
            Rate { name: contender.name.clone(), colour, share: kept.share, ends: kept.ends }
        })
        .collect();
    let title = format!("{}: what is left of the score of {baseline}", set.set.name);
    let name = format!("percent of the score of {baseline} (line: interval)");
    rates_chart("retention", title, "Bars of retention", &name, &rates)
}

/// How far each judge agrees with people, and with itself.
pub(super) fn judges(
    evaluation: &Evaluation<'_>,
    set: &SetResult<'_>,
) -> Result<Option<Drawing>, ReportError> {
    let Some(found) = judging::cards(evaluation, set) else { return Ok(None) };
    let mut rates = Vec::new();
    for (at, card) in found.cards.iter().enumerate() {
        for (words, estimate) in [
            ("as people", card.agreement.as_ref()),
            ("same in the other order", card.order_consistency.as_ref()),
            ("same when asked again", card.self_consistency.as_ref()),
        ] {
            if let Some(estimate) = estimate {
                rates.push(Rate {
                    name: format!("{}: {words}", card.judge),
                    colour: colour(at),
                    share: estimate.mean,
                    ends: [estimate.low, estimate.high],
                });
            }
        }
    }
    let title = format!("{}: how far judges can be trusted", set.set.name);
    let axis = "percent of the judgements (line: interval)";
    rates_chart("judge_consistency", title, "Bars of agreement and consistency", axis, &rates)
}

/// A bar per rate, in percent, with a line at 100.
pub(super) fn rates_chart(
    kind: &'static str,
    title: String,
    what: &str,
    axis: &str,
    rates: &[Rate],
) -> Result<Option<Drawing>, ReportError> {
    if rates.is_empty() {
        return Ok(None);
    }
    let figures = |rate: &Rate| {
        let [share, low, high] = [rate.share, rate.ends[0], rate.ends[1]].map(|x| x * 100.0);
        format!("{share:.0} % ({low:.0} to {high:.0})")
    };
    let told: Vec<String> =
        rates.iter().map(|rate| format!("{} {}", rate.name, figures(rate))).collect();
    let alt = format!("{what}. {}.", told.join("; "));
    let foot = TOP + 6 + ROW * rates.len() as i32;
    let svg = svg(foot + 58, &title, &alt, |area| {
        let mut left = 60;
        for rate in rates {
            left = left.max(width(area, &fit(area, &rate.name, 200)?)? + 24);
        }
        let right = WIDTH as i32 - 150;
        let reach = rates.iter().map(|rate| rate.ends[1].max(rate.share)).fold(1.0, f64::max);
        let x = Scale::fixed(0.0, (reach * 102.0).min(200.0), [left, right]);
        x_axis(area, &x, [TOP, foot], axis)?;
        line(area, vec![(x.at(100.0), TOP), (x.at(100.0), foot)], INK.stroke_width(2))?;
        for (row, rate) in rates.iter().enumerate() {
            let y = TOP + 6 + ROW * row as i32;
            let middle = y + ROW / 2;
            let name = fit(area, &rate.name, 200)?;
            write(area, &name, (left - 10, middle), Anchor::Right, INK)?;
            let end = x.at(rate.share * 100.0);
            bar(area, [(left, y + 5), (end, y + ROW - 5)], rate.colour.mix(0.55).filled())?;
            let [low, high] = rate.ends.map(|end| x.at(end * 100.0));
            line(area, vec![(low, middle), (high, middle)], INK.stroke_width(2))?;
            for end in [low, high] {
                line(area, vec![(end, middle - 4), (end, middle + 4)], INK.stroke_width(2))?;
            }
            write(area, &figures(rate), (right + 12, middle), Anchor::Left, INK)?;
        }
        Ok(())
    })?;
    Ok(Some(Drawing { kind, title, alt, svg }))
}
