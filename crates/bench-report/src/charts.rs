//! Charts as SVG: one function per chart, from figures to a picture and its alternative text.

use crate::ReportError;
use crate::agreement::Agreement;
use crate::evaluation::Evaluation;
use crate::text::file_stem;

mod bars;
mod break_even;
mod canvas;
mod curve;
mod forest;
mod heat;
mod lines;
mod rates;
mod tradeoff;

pub(crate) use canvas::png;

/// One picture.
pub(crate) struct Chart {
    /// Position of the eval set that it is about.
    pub(crate) set: usize,
    /// What it shows, as its file name ends.
    pub(crate) kind: &'static str,
    /// Its path without ending.
    pub(crate) path: String,
    pub(crate) title: String,
    /// What the picture says, for those who do not see it.
    pub(crate) alt: String,
    pub(crate) svg: String,
}

/// The picture without its own style, for a page whose style has the same rules.
pub(crate) fn unstyled(svg: &str) -> String {
    match (svg.split_once("<style>"), svg.split_once("</style>")) {
        (Some((head, _)), Some((_, rest))) => format!("{head}{rest}"),
        _ => svg.to_owned(),
    }
}

/// A chart before it has a place: kind, title, alternative text, SVG.
struct Drawing {
    kind: &'static str,
    title: String,
    alt: String,
    svg: String,
}

/// All charts for which the run has figures, set by set, the most telling first.
pub(crate) fn all(evaluation: &Evaluation<'_>) -> Result<Vec<Chart>, ReportError> {
    let mut charts = Vec::new();
    for (at, set) in evaluation.sets.iter().enumerate() {
        let Some(metric) = set.primary() else { continue };
        let [recall, ndcg] = lines::retrieval(evaluation, set)?;
        let agreement = Agreement::of(set, &evaluation.options);
        let confusion = agreement.map(|found| heat::confusion(set, &found)).transpose()?;
        let drawings = [
            forest::differences(evaluation, set, metric)?,
            rates::retained(set)?,
            tradeoff::latency(evaluation, set, metric)?,
            tradeoff::cost(evaluation, set, metric)?,
            break_even::crossings(evaluation, set)?,
            bars::outcomes(set, metric)?,
            heat::labels(set, &evaluation.options)?,
            heat::slices(set, metric, &evaluation.options)?,
            recall,
            ndcg,
            curve::learning(evaluation, set, metric)?,
            lines::training(evaluation, set)?,
            lines::latencies(set)?,
            bars::tokens(set)?,
            confusion.flatten(),
            rates::judges(evaluation, set)?,
        ];
        for Drawing { kind, title, alt, svg } in drawings.into_iter().flatten() {
            let path = format!("charts/{}_{kind}", file_stem(&set.set.name));
            // Two sets may differ only in characters that a file name cannot hold.
            let is_taken = charts.iter().any(|chart: &Chart| chart.path == path);
            let path = if is_taken { format!("{path}_{at}") } else { path };
            charts.push(Chart { set: at, kind, path, title, alt, svg });
        }
    }
    Ok(charts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_turns_the_colours_that_a_picture_turns_itself() {
        for (light, dark) in canvas::DARK {
            for attribute in ["fill", "stroke"] {
                let rule = format!("[{attribute}=\"{light}\"] {{ {attribute}: {dark}; }}");
                assert!(crate::page::STYLE.contains(&rule), "{rule}");
            }
        }
        let svg = "<svg><title>a</title><style>x</style><rect/></svg>";
        assert_eq!(unstyled(svg), "<svg><title>a</title><rect/></svg>");
        assert_eq!(unstyled("<svg/>"), "<svg/>");
    }
}
