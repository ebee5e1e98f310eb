//! Tables, charts and report files from records alone.
//!
//! Pure: records and manifest in, bytes out, equal bytes for equal input. [`build`] makes a whole
//! report folder; [`trials_parquet`] and [`read_trials`] keep records between runs.

use bench_core::manifest::Manifest;
use bench_core::record::Record;
use bench_core::spec::{Compare, Constraints, Weights};
use bench_stats::Decision;
use serde::Serialize;

mod agreement;
mod browser;
mod budget;
mod causes;
mod charts;
mod classification;
mod compare;
mod cost;
mod declining;
mod diagnosis;
mod effects;
mod evaluation;
mod gates;
mod grid;
mod judging;
mod learning;
mod page;
mod parts;
mod recipes;
mod retention;
mod retrieval;
mod sequential;
mod table;
mod tables;
mod text;
mod trials;
mod trouble;
mod variance;

pub use compare::{RunComparison, Samples, Side, compare_runs};
pub use judging::{Card, CardFigure, card, judge_report};
pub use sequential::settled;
pub use trials::{is_large, read_figures, read_trials, scores_parquet, trials_parquet};
pub use trouble::failures;

use evaluation::Evaluation;
use tables::Trials;

/// A report folder, not yet on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Contents by path relative to the report's folder, in a stable order.
    pub files: Vec<(String, Vec<u8>)>,
    /// What was decided, per eval set in the experiment's order.
    pub decisions: Vec<SetDecision>,
    /// Each gate that is not met, with the reason; empty when all are met.
    pub failed_gates: Vec<String>,
    /// Verdicts, gates and quality in a few lines of Markdown without pictures, for the summary of a
    /// step of continuous integration.
    pub summary: String,
}

/// The decision on one eval set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SetDecision {
    /// The eval set.
    pub set: String,
    /// The scorer it was decided on.
    pub metric: String,
    /// The decision and its reasons.
    pub decision: Decision,
}

/// A report cannot be made, or records cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The records are not of this experiment.
    #[error(
        "the records speak of the {what} `{name}`, which the experiment does not have: make the report with the experiment that they were run with"
    )]
    Unknown {
        /// `arm` or `eval set`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A trial was recorded twice.
    #[error("the trial of {trial} is recorded twice: keep one of the two records")]
    Duplicate {
        /// The trial in words.
        trial: String,
    },
    /// A file was written by a later version of this program.
    #[error(
        "the {what} have format {found}, and this program reads up to {known}: use a newer one"
    )]
    NewerFormat {
        /// What has the format.
        what: &'static str,
        /// The version found.
        found: u32,
        /// The newest version that can be read.
        known: u32,
    },
    /// Parquet, but not ours.
    #[error("the file holds no trials of `bench`: give a `trials.parquet` of a report")]
    NotTrials,
    /// Parquet whose pages cannot be unpacked.
    #[error(
        "the file is damaged: take it from Git, or run the experiment again, which asks nothing twice"
    )]
    Damaged,
    /// A table was written by something else, or changed.
    #[error(
        "the file has no column `{column}`: it was changed after it was written; take it from Git, or run the experiment again, which asks nothing twice"
    )]
    MissingColumn {
        /// The column.
        column: &'static str,
    },
    /// A cell that must hold something is null.
    #[error("column `{column}` is empty in row {row}: the file was changed after it was written")]
    EmptyCell {
        /// The column.
        column: String,
        /// Counted from 1.
        row: usize,
    },
    /// A score that no table can hold.
    #[error(
        "`{scorer}` gave a score that is not finite to the trial of {trial}: leave it unscored"
    )]
    NotFinite {
        /// The trial in words.
        trial: String,
        /// The scorer.
        scorer: String,
    },
    /// Scores that do not fit together.
    #[error(transparent)]
    Scores(#[from] bench_stats::FamilyError),
    /// A table could not be read or written.
    #[error("a table could not be read or written")]
    Table(#[from] polars::error::PolarsError),
    /// Text that is not the JSON it should be.
    #[error("a cell does not hold the JSON that it should")]
    Json(#[from] serde_json::Error),
    /// A page template failed.
    #[error("a page could not be written")]
    Page(#[from] minijinja::Error),
    /// A chart could not be drawn.
    #[error("a chart could not be drawn: {0}")]
    Chart(String),
}

impl From<plotters::drawing::DrawingAreaErrorKind<std::io::Error>> for ReportError {
    fn from(error: plotters::drawing::DrawingAreaErrorKind<std::io::Error>) -> Self {
        Self::Chart(error.to_string())
    }
}

/// The `decision.json` of a report.
#[derive(Serialize)]
struct DecisionFile<'a> {
    format: u32,
    plan_digest: &'a str,
    baseline: &'a str,
    /// What the user wants besides score.
    #[serde(skip_serializing_if = "Option::is_none")]
    utility: Option<Wanted<'a>>,
    sets: &'a [SetDecision],
    failed_gates: &'a [String],
}

/// Limits and weights as the experiment declares them.
#[derive(Serialize)]
struct Wanted<'a> {
    constraints: &'a Constraints,
    weights: &'a Weights,
}

impl<'a> Wanted<'a> {
    /// `None` where only scores count.
    fn of(compare: &'a Compare) -> Option<Self> {
        let Compare { constraints, weights, .. } = compare;
        let any = *constraints != Constraints::default() || !weights.is_empty();
        any.then_some(Self { constraints, weights })
    }
}

/// Makes a report: pages, tables, charts, decision, gates. The order of records does not matter.
///
/// # Errors
/// A manifest of a newer version, records of another experiment, a trial recorded twice.
pub fn build(manifest: &Manifest, records: &[Record]) -> Result<Report, ReportError> {
    make(manifest, records, Trials::Written)
}

/// The same report from [`read_figures`], without `tables/trials.parquet`, from which they were read.
///
/// # Errors
/// As [`build`].
pub fn rebuild(manifest: &Manifest, records: &[Record]) -> Result<Report, ReportError> {
    make(manifest, records, Trials::Kept)
}

fn make(manifest: &Manifest, records: &[Record], trials: Trials) -> Result<Report, ReportError> {
    let evaluation = evaluated(manifest, records)?;
    let gates = gates::check(&evaluation);
    let failed_gates: Vec<String> = gates
        .iter()
        .filter_map(|gate| Some(format!("{}: {}", gate.name, gate.failure.as_ref()?)))
        .collect();
    let decisions: Vec<SetDecision> = evaluation
        .sets
        .iter()
        .filter_map(|set| {
            Some(SetDecision {
                set: set.set.name.clone(),
                metric: set.primary()?.name.clone(),
                decision: set.decision.clone()?,
            })
        })
        .collect();
    let ((charts, pages), tables) = std::thread::scope(|scope| {
        let tables = scope.spawn(|| tables::files(&evaluation, trials));
        let pages = || -> Result<_, ReportError> {
            let charts = charts::all(&evaluation)?;
            let pages = page::files(&evaluation, &charts, &gates)?;
            Ok((charts, pages))
        };
        let pages = pages();
        match tables.join() {
            Ok(tables) => Ok::<_, ReportError>((pages?, tables?)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    let page::Pages { mut files, summary } = pages;
    let decision = DecisionFile {
        format: 1,
        plan_digest: &manifest.plan_digest,
        baseline: &manifest.experiment.compare.baseline,
        utility: Wanted::of(&manifest.experiment.compare),
        sets: &decisions,
        failed_gates: &failed_gates,
    };
    files.push(("decision.json".into(), json(&decision)?));
    files.push(("manifest.json".into(), json(manifest)?));
    if !gates.is_empty() {
        let suite = &manifest.experiment.name;
        files.push(("junit.xml".into(), gates::junit(suite, &gates).into_bytes()));
    }
    files.extend(tables);
    for chart in charts {
        files.push((format!("{}.png", chart.path), charts::png(&chart.svg)?));
        files.push((format!("{}.svg", chart.path), chart.svg.into_bytes()));
    }
    Ok(Report { files, decisions, failed_gates, summary })
}

/// The HTML page for a server that shows it: style and script are not in it but at
/// `/assets/report.css` ([`STYLE`]) and `/assets/report.js` ([`SCRIPT`]), so that the server can
/// forbid every script inside a page; `/assets/view.css` and `/assets/grade.js` are the server's own.
/// Its `bench-view` meta element holds `api`, the path under which the server answers questions
/// about this run.
///
/// # Errors
/// As [`build`].
pub fn served_page(
    manifest: &Manifest,
    records: &[Record],
    api: &str,
) -> Result<String, ReportError> {
    let evaluation = evaluated(manifest, records)?;
    let gates = gates::check(&evaluation);
    page::served(&evaluation, &charts::all(&evaluation)?, &gates, api)
}

/// The style of [`served_page`].
pub const STYLE: &str = page::STYLE;

/// The script of [`served_page`].
pub const SCRIPT: &str = page::SCRIPT;

fn evaluated<'a>(
    manifest: &'a Manifest,
    records: &'a [Record],
) -> Result<Evaluation<'a>, ReportError> {
    if manifest.format > Manifest::FORMAT {
        return Err(ReportError::NewerFormat {
            what: "records",
            found: manifest.format,
            known: Manifest::FORMAT,
        });
    }
    Evaluation::new(manifest, records)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, ReportError> {
    let mut text = text::json(&serde_json::to_string_pretty(value)?);
    text.push('\n');
    Ok(text.into_bytes())
}
