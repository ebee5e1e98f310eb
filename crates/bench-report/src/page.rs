//! `report.md` and `report.html`: one description of the page, two skeletons in `templates/`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bench_core::manifest;
use bench_core::record::Record;
use bench_core::spec::{
    ArmPlan, ChunkBy, Expand, Noise, PassageSource, Rag, Rerank, Retrieval, Strategy,
};
use bench_stats::{Comparison, Estimate};
use minijinja::Environment;
use minijinja::value::Value;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::agreement::Agreement;
use crate::charts::Chart;
use crate::cost::{Requests, break_even};
use crate::diagnosis::{self, Outcome};
use crate::evaluation::{Evaluation, Metric, RIGHT, SetResult};
use crate::gates::GateResult;
use crate::grid::{self, Grid, Head, Shown, figure, shown};
use crate::learning::curves;
use crate::tables::{SliceFigure, cost_per_1000_right, slices_of};
use crate::text::{
    cut, dollars, duration, gibibytes, number, p_value, printable, signed, tenth, whole,
};
use crate::{ReportError, browser, causes, effects, recipes, retention, retrieval, trouble};

mod judging;
mod prompting;
mod scorers;
mod variance;

/// Flips that the page shows per arm and direction; all are in `flips.csv`.
const FLIPS: usize = 5;
/// Other arms of which the first lines tell why they did not win; all are told under the scores.
const OTHERS: usize = 5;
/// Characters of a text in a flip.
const FLIP_TEXT: usize = 160;

#[derive(Serialize)]
struct Page {
    title: String,
    question: String,
    warnings: Vec<String>,
    sets: Vec<Section>,
    arms: Grid,
    gates: Grid,
    training: Part,
    parity: Grid,
    proofs: Grid,
    indexes: Grid,
    models: Grid,
    files: Grid,
    facts: Vec<[String; 2]>,
}

#[derive(Serialize)]
struct Section {
    name: String,
    /// `decided` or `undecided`.
    state: &'static str,
    headline: String,
    reason: String,
    /// What the winner scores and takes: the best of the arms need not be good.
    standing: String,
    confidence: String,
    /// Why the arms of which the reason says nothing did not win, for the first lines.
    others: String,
    /// Why each arm won, lost or remains open.
    sentences: Vec<String>,
    about: String,
    notes: Vec<String>,
    /// Shown in this order, those that are empty left out; the first is the one that decides.
    parts: Vec<Part>,
    flips: Vec<FlipGroup>,
}

/// A table under its pictures.
#[derive(Serialize)]
struct Part {
    #[serde(flatten)]
    grid: Grid,
    charts: Vec<Picture>,
}

#[derive(Serialize)]
struct Picture {
    path: String,
    title: String,
    alt: String,
    svg: String,
}

#[derive(Serialize)]
struct FlipGroup {
    title: String,
    total: usize,
    grid: Grid,
}

/// The pages of a report.
pub(crate) struct Pages {
    /// Markdown and HTML.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// A few lines of Markdown.
    pub(crate) summary: String,
}

/// The style of `report.html`.
pub(crate) const STYLE: &str = include_str!("templates/report.css");
/// The script of `report.html`.
pub(crate) const SCRIPT: &str = include_str!("templates/report.js");

/// Where the page finds its style and script.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// In itself: one file, no network.
    File,
    /// On the server that shows it, which answers questions about this run under the given path.
    Server(&'a str),
}

/// Markdown, HTML and the summary.
pub(crate) fn files(
    evaluation: &Evaluation<'_>,
    charts: &[Chart],
    gates: &[GateResult],
) -> Result<Pages, ReportError> {
    let page = page(evaluation, charts, gates);
    let environment = environment()?;
    let md = environment.get_template("report.md")?.render(&page)?;
    let html = html(&environment, evaluation, &page, Place::File)?;
    // Once for all that the pages hold, so that no field can be forgotten.
    let file = |name: &str, page: &str| (name.to_owned(), printable(page).into_bytes());
    let summary = printable(&environment.get_template("summary.md")?.render(&page)?);
    Ok(Pages { files: vec![file("report.md", &md), file("report.html", &html)], summary })
}

/// The HTML page as a server shows it.
pub(crate) fn served(
    evaluation: &Evaluation<'_>,
    charts: &[Chart],
    gates: &[GateResult],
    api: &str,
) -> Result<String, ReportError> {
    let page = page(evaluation, charts, gates);
    Ok(printable(&html(&environment()?, evaluation, &page, Place::Server(api))?))
}

fn environment() -> Result<Environment<'static>, ReportError> {
    let mut environment = grid::environment()?;
    environment.add_template("report.md", include_str!("templates/report.md.j2"))?;
    environment.add_template("summary.md", include_str!("templates/summary.md.j2"))?;
    environment.add_template("report.html", include_str!("templates/report.html.j2"))?;
    Ok(environment)
}

fn html(
    environment: &Environment<'_>,
    evaluation: &Evaluation<'_>,
    page: &Page,
    place: Place<'_>,
) -> Result<String, ReportError> {
    let data = browser::embedded(evaluation)?;
    // Only the script that this digest speaks of may run, whatever else gets into the page.
    let digest = STANDARD.encode(Sha256::digest(SCRIPT.as_bytes()));
    let html = environment.get_template("report.html")?.render(minijinja::context! {
        page => Value::from_serialize(page),
        served => match place {
            Place::File => None,
            Place::Server(api) => Some(api),
        },
        style => Value::from_safe_string(STYLE.to_owned()),
        script => Value::from_safe_string(SCRIPT.to_owned()),
        script_digest => Value::from_safe_string(digest),
        data => minijinja::context! {
            media_type => Value::from_safe_string(data.media_type.to_owned()),
            text => Value::from_safe_string(data.text),
        },
    })?;
    Ok(html)
}

fn page(evaluation: &Evaluation<'_>, charts: &[Chart], gates: &[GateResult]) -> Page {
    let manifest = evaluation.manifest;
    let experiment = &manifest.experiment;
    let sections = evaluation.sets.iter().enumerate().map(|(at, set)| {
        section(
            evaluation,
            set,
            charts.iter().filter(|c| c.set == at && c.kind != LOSSES).collect(),
        )
    });
    let losses = charts.iter().filter(|chart| chart.kind == LOSSES);
    Page {
        title: experiment.name.clone(),
        question: experiment.description.clone(),
        warnings: warnings(evaluation),
        sets: sections.collect(),
        arms: arms(evaluation),
        gates: gate_grid(gates),
        training: Part { grid: training(evaluation), charts: losses.map(Picture::of).collect() },
        parity: parity(evaluation),
        proofs: proofs(evaluation),
        indexes: indexes(evaluation),
        models: models(evaluation),
        files: files_grid(evaluation),
        facts: facts(evaluation),
    }
}

/// What a reader must know before any number.
fn warnings(evaluation: &Evaluation<'_>) -> Vec<String> {
    let mut warnings: Vec<String> = evaluation.manifest.warnings.clone();
    for set in &evaluation.sets {
        let failed: usize = set.all().map(|c| c.usage.failed).sum();
        let trials: usize = set.all().map(|c| c.usage.trials).sum();
        let name = &set.set.name;
        if trials == 0 {
            warnings.push(format!("{name}: no trial has run"));
        } else if failed == trials {
            warnings
                .push(format!("{name}: all {trials} trials failed, there is nothing to compare"));
        } else if failed > 0 {
            warnings.push(format!("{name}: means leave {} out", plural(failed, "failed trial")));
        }
        let records: Vec<&Record> = set.all().flat_map(|c| c.trials.iter().copied()).collect();
        let troubles = [trouble::trials(&records), trouble::judgements(&records)];
        warnings.extend(troubles.into_iter().flatten().map(|told| format!("{name}: {told}")));
        for contender in set.all().filter(|c| c.usage.uncounted > 0) {
            warnings.push(format!(
                "{name}: the endpoint counted no tokens for {} of {} answers of {}; their number, and any cost by the token, is unknown",
                contender.usage.uncounted, contender.usage.answered, contender.name
            ));
        }
        let missing = evaluation
            .plans
            .iter()
            .enumerate()
            .filter(|(at, plan)| plan.sets.contains(name) && set.all().all(|c| c.arm != *at));
        let missing: Vec<&str> = missing.map(|(_, plan)| plan.name.as_str()).collect();
        if trials > 0 && !missing.is_empty() {
            warnings.push(format!(
                "{name}: this report is partial: no trials of {}",
                missing.join(", ")
            ));
        }
        let answers: Vec<usize> = set.all().map(|c| c.trials.len()).collect();
        if answers.iter().any(|n| Some(n) != answers.first()) {
            warnings.push(format!(
                "{name}: this report is partial: the arms have different numbers of trials, because the run is not finished"
            ));
        }
    }
    warnings.extend(crate::judging::warnings(evaluation));
    warnings
}

/// The chart that is about training, not about a set's answers.
const LOSSES: &str = "training_loss";

impl Picture {
    fn of(chart: &Chart) -> Self {
        Self {
            path: chart.path.clone(),
            title: chart.title.clone(),
            alt: chart.alt.clone(),
            svg: crate::charts::unstyled(&chart.svg),
        }
    }
}

fn section(evaluation: &Evaluation<'_>, set: &SetResult<'_>, mut charts: Vec<&Chart>) -> Section {
    let name = set.set.name.clone();
    let decision = set.decision.as_ref();
    let winner = decision.and_then(|decision| decision.winner.as_deref());
    let kept = retention_words(set);
    let reason = match (decision, set.set.retention) {
        (Some(decision), _) => decision.reason.as_str(),
        (None, true) => kept.as_str(),
        (None, false) => "nothing was scored",
    };
    // The reason opens with "use X: " or "undecided: ", which is the headline here.
    let reason = reason.split_once(": ").map_or(reason, |(_, rest)| rest);
    let best = decision.and_then(|decision| {
        let best = decision.probability_best.iter().max_by(|a, b| a.1.total_cmp(b.1))?;
        let share = *best.1 * 100.0;
        let share = if share > 99.9 { "over 99.9 %".to_owned() } else { format!("{share:.1} %") };
        Some(format!(
            "The chance that {} is the best of these arms: {share} (joint bootstrap over {} samples{}).",
            best.0,
            decision.joint_samples,
            if set.recipes.is_some() { " and the training seeds" } else { "" }
        ))
    });
    let mut section = Section {
        name,
        state: if winner.is_some() { "decided" } else { "undecided" },
        headline: match winner {
            Some(winner) => format!("use {winner}"),
            None if set.set.retention => "general skills".into(),
            None => "undecided".into(),
        },
        reason: reason.to_owned(),
        standing: standing(evaluation, set, winner),
        confidence: best.unwrap_or_default(),
        others: others(set),
        sentences: decision
            .map(|d| d.arms.iter().map(|arm| arm.sentence.clone()).collect())
            .unwrap_or_default(),
        about: String::new(),
        notes: Vec::new(),
        parts: Vec::new(),
        flips: Vec::new(),
    };
    let Some(primary) = set.primary() else { return section };
    section.about = format!(
        "{} samples, {} per sample. Decided on {}. Intervals are {} %.",
        set.samples.len(),
        plural(evaluation.manifest.experiment.run.epochs.get() as usize, "answer"),
        primary.name,
        (evaluation.options.level * 100.0).round(),
    );
    section.notes.extend(
        crate::evaluation::wanted(&evaluation.manifest.experiment.compare)
            .filter(|_| decision.is_some()),
    );
    match set.baseline {
        Some(baseline) => {
            let name = &set.contenders[baseline].name;
            section.about.push_str(" Differences are to ");
            section.about.push_str(name);
            section.about.push_str(", on the samples that both were scored on.");
        }
        None if !set.contenders.is_empty() => section.notes.push(format!(
            "The baseline {} did not run on this set, so there are no differences to it.",
            evaluation.manifest.experiment.compare.baseline
        )),
        None => {}
    }
    if evaluation.manifest.experiment.run.stop.is_some() {
        section.notes.push(stop_note(evaluation, set));
    }
    if set.clusters != bench_stats::Clusters::none() {
        section.notes.push(
            "Samples share clusters; standard errors, intervals and tests allow for it.".into(),
        );
    }
    if set.recipes.is_some() {
        section.notes.push(
            "An arm with several training seeds enters the decision as its recipe: with the mean over its seeds, whose spread is in interval, p-value and chance. Rows with a seed are single trainings."
                .into(),
        );
    }
    section.notes.extend(self::judging::note(evaluation, set));
    section.notes.extend(prompting::effort_note(evaluation, set));
    let mut part = |grid: Grid, kinds: &[&str]| {
        let (own, others): (Vec<&Chart>, Vec<&Chart>) =
            std::mem::take(&mut charts).into_iter().partition(|c| kinds.contains(&c.kind));
        charts = others;
        Part { grid, charts: own.into_iter().map(Picture::of).collect() }
    };
    let [card, corrected, strengths] = self::judging::grids(evaluation, set);
    section.parts = vec![
        part(quality(evaluation, set, &set.metrics[..1]), &["differences"]),
        part(other_scores(evaluation, set), &[]),
        part(scorers::classification_grid(evaluation, set), &["confusion"]),
        part(scorers::confused_grid(evaluation, set), &[]),
        part(scorers::part_grid(evaluation, set), &[]),
        part(scorers::declining_grid(evaluation, set), &[]),
        part(retention_grid(set), &["retention"]),
        part(
            usage(evaluation, set),
            &["quality_latency", "quality_cost", "quality_tokens", "latency"],
        ),
        part(break_even_grid(evaluation, set), &["break_even"]),
        part(diagnosis_grid(set, primary), &["outcomes"]),
        part(cause_grid(evaluation, set, primary), &[]),
        part(retrieval_grid(evaluation, set), &["recall", "ndcg"]),
        part(effect_grid(evaluation, set, primary), &[]),
        part(curve_grid(evaluation, set, primary), &["learning_curve"]),
        part(seed_grid(set, primary), &[]),
        part(self::variance::grid(evaluation, set, primary), &[]),
        part(slice_grid(evaluation, set, primary), &["slices"]),
        part(pairs(evaluation, set, primary), &[]),
        part(prompting::tuning_grid(evaluation, set), &[]),
        part(prompting::effort_grid(evaluation, set), &[]),
        part(prompting::budget_grid(set), &["tokens"]),
        part(agreement_grid(evaluation, set), &["judge_confusion"]),
        part(card, &["judge_consistency"]),
        part(corrected, &[]),
        part(strengths, &[]),
    ];
    let matrices = scorers::confusion_grids(evaluation, set);
    let behind = section.parts.iter().position(|part| part.grid.title == scorers::CLASSIFICATION);
    for (at, matrix) in (behind.map_or(0, |at| at + 1)..).zip(matrices) {
        section.parts.insert(at, Part { grid: matrix, charts: Vec::new() });
    }
    section.parts.retain(|part| !part.grid.rows.is_empty() || !part.charts.is_empty());
    section.flips = flips(set, primary);
    section
}

/// What a run that may stop early did here, and what that does to the figures.
fn stop_note(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> String {
    let stopped = evaluation.manifest.stopped.iter().find(|entry| entry.set == set.set.name);
    let what = stopped.map_or_else(
        || "The run could stop early and did not: it asked every sample.".to_owned(),
        |entry| {
            format!(
                "The run stopped after {} of {} samples: {}.",
                entry.asked, entry.samples, entry.because
            )
        },
    );
    format!(
        "{what} On the deciding metric, intervals, p-values, verdicts and decision are those of confidence sequences, which hold at every look; they are wider than intervals for a number of samples fixed beforehand."
    )
}

/// What the arms kept of general skills, in a sentence without its full stop.
fn retention_words(set: &SetResult<'_>) -> String {
    let kept: Vec<String> = retention::retained(set)
        .iter()
        .map(|kept| {
            let name = &set.contenders[kept.contender].name;
            let [low, high] = kept.ends.map(|end| end * 100.0);
            format!("{name} keeps {:.0} % ({low:.0} to {high:.0} %)", kept.share * 100.0)
        })
        .collect();
    if kept.is_empty() { "there is nothing to compare with".into() } else { kept.join("; ") }
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("one {what}") } else { format!("{count} {what}s") }
}

fn interval(low: f64, high: f64) -> String {
    format!("{} to {}", number(low), number(high))
}

/// Why the other arms did not win, a sentence each for the first few of them. What the reason says
/// already is left out, and all of it where the set may not be decided at all.
fn others(set: &SetResult<'_>) -> String {
    let Some(decision) = set.decision.as_ref().filter(|_| set.barred.is_none()) else {
        return String::new();
    };
    let told = |sentence: &str| {
        let [wins, leads, best, alone] =
            [" wins", " has not won", " but has not won", "to be compared with"];
        decision.reason.contains(sentence)
            || [wins, leads, best, alone].iter().any(|end| sentence.ends_with(end))
    };
    // The reason says how many more samples are needed.
    let brief =
        |sentence: &'_ str| sentence.split("; about ").next().unwrap_or_default().to_owned();
    let sentences = decision.arms.iter().map(|arm| arm.sentence.as_str());
    let others: Vec<String> = sentences.filter(|sentence| !told(sentence)).map(brief).collect();
    match others.split_at_checked(OTHERS) {
        Some((first, more)) if !more.is_empty() => {
            format!("{}; and {} more, told below", first.join("; "), more.len())
        }
        _ => others.join("; "),
    }
}

/// What the winner scores and takes, or who scores highest where there is no winner.
fn standing(evaluation: &Evaluation<'_>, set: &SetResult<'_>, winner: Option<&str>) -> String {
    let Some(metric) = set.primary().filter(|_| !set.set.retention) else { return String::new() };
    let mean = |at: usize| set.estimate_of(at).map(|estimate| estimate.mean);
    let by_mean = |a: &usize, b: &usize| {
        mean(*a).unwrap_or(f64::NEG_INFINITY).total_cmp(&mean(*b).unwrap_or(f64::NEG_INFINITY))
    };
    let at = match winner {
        Some(winner) => set.entrants.iter().position(|entrant| entrant.name == *winner),
        None => (0..set.entrants.len()).filter(|at| mean(*at).is_some()).max_by(by_mean),
    };
    let Some((at, estimate)) = at.and_then(|at| Some((at, set.estimate_of(at)?))) else {
        return String::new();
    };
    let (name, usage) = (&set.entrants[at].name, set.entrants[at].usage(set));
    let subject = match winner {
        Some(_) => "It".to_owned(),
        None => format!("The highest mean is that of {name}: it"),
    };
    let mut takes = vec![format!(
        "scores {} on {} ({} % interval {})",
        number(estimate.mean),
        metric.name,
        (evaluation.options.level * 100.0).round(),
        interval(estimate.low, estimate.high)
    )];
    if let Some(tokens) = usage.per_answer(usage.tokens_in + usage.tokens_out) {
        takes.push(format!("takes {} tokens an answer", whole(tokens)));
    }
    if let Some(ms) = usage.latency(0.95).filter(|ms| ms.is_finite()) {
        takes.push(format!("keeps 95 % of its answers under {} ms", whole(ms)));
    }
    if let Some(cost) = usage.cost_per_1000() {
        takes.push(format!("costs {} USD per 1,000 answers", dollars(cost)));
    }
    let last = takes.pop().unwrap_or_default();
    let takes = if takes.is_empty() { last } else { format!("{} and {last}", takes.join(", ")) };
    let scores = metric.scores.iter().flat_map(|arm| arm.scores.iter().flatten());
    let is_share = scores.clone().all(|score| (0.0..=1.0).contains(score));
    let low = match winner {
        _ if !is_share || estimate.high >= RIGHT => "",
        Some(_) => {
            " That is less than half of what can be had: the best of these arms, not yet a good one."
        }
        None => " That is less than half of what can be had.",
    };
    format!("{subject} {takes}.{low}")
}

/// The scorers that do not decide.
fn other_scores(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let others = &set.metrics[1..];
    let names: Vec<&str> = others.iter().map(|metric| metric.name.as_str()).collect();
    let title = format!("Other scores: {}", names.join(", "));
    Grid { title, ..quality(evaluation, set, others) }.folded()
}

fn quality(evaluation: &Evaluation<'_>, set: &SetResult<'_>, metrics: &[Metric]) -> Grid {
    let correction = match evaluation.manifest.experiment.compare.correction {
        bench_core::spec::Correction::Holm => ">p (Holm)",
        bench_core::spec::Correction::None => ">p",
    };
    let mut grid = Grid::new(
        "Quality",
        format!(
            "Verdicts are said of the arm against the baseline{}; with the p-values they allow for the number of comparisons, intervals do not. Unscored and failed answers are in no mean.",
            evaluation
                .options
                .margin
                .map_or(String::new(), |m| format!("; equivalent is within ±{m}"))
        ),
        &[
            "metric",
            "arm",
            ">n",
            ">value",
            ">± SE",
            ">interval",
            ">difference",
            ">its interval",
            correction,
            "verdict",
            ">unscored",
            ">failed",
        ],
    );
    for metric in metrics {
        for (at, contender) in set.contenders.iter().enumerate() {
            let estimate = metric.estimates[at].as_ref();
            let against = metric.against_baseline[at].as_ref();
            let verdict = match against {
                Some(comparison) => comparison.verdict.word(),
                None if set.baseline == Some(at) => "baseline",
                None => "–",
            };
            let n = metric.scores[at].scores.iter().flatten().count();
            let mut row = shown![metric.name.as_str(), contender.name.as_str(), n];
            row.extend([
                figure(estimate.map(|e| e.mean), number),
                figure(estimate.map(|e| e.standard_error), number),
                figure(estimate.map(|e| e.low), |_| {
                    estimate.map_or("–".into(), |e| interval(e.low, e.high))
                }),
            ]);
            row.extend(difference(against));
            row.extend(shown![verdict, metric.unscored[at], contender.usage.failed]);
            grid.rows.push(row);
        }
    }
    grid
}

/// Difference, interval and corrected p-value.
fn difference(comparison: Option<&Comparison>) -> [Shown; 3] {
    let dash = || "–".to_owned();
    [
        figure(comparison.map(|c| c.difference), |x| x.map_or_else(dash, signed)),
        figure(comparison.map(|c| c.low), |_| {
            comparison.map_or_else(dash, |c| format!("{} to {}", signed(c.low), signed(c.high)))
        }),
        figure(comparison.map(|c| c.p_holm), |p| p.map_or_else(dash, p_value)),
    ]
}

fn usage(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let run = &evaluation.manifest.experiment.run;
    let mut grid = Grid::new(
        "What it took",
        format!(
            "Means per answer; latency is retrieval and generation, measured with up to {} trials at once on {}.",
            run.max_concurrency,
            machine(evaluation)
        ),
        &[
            "arm",
            ">answers",
            ">tokens in",
            ">tokens out",
            ">cut short",
            ">p50 ms",
            ">p95 ms",
            ">tokens/s",
            ">USD per 1,000",
            ">USD per 1,000 right",
            ">training",
            ">training USD",
            ">peak memory",
        ],
    );
    for (at, contender) in set.contenders.iter().enumerate() {
        let usage = &contender.usage;
        let outcome = contender.training.map(|training| &training.outcome);
        let mut row = shown![contender.name.as_str(), usage.answered];
        row.extend([
            figure(usage.per_answer(usage.tokens_in), tenth),
            figure(usage.per_answer(usage.tokens_out), tenth),
        ]);
        row.extend(shown![usage.cut_short]);
        row.extend([
            figure(usage.latency(0.5), whole),
            figure(usage.latency(0.95), whole),
            figure(usage.tokens_per_second, tenth),
            figure(usage.cost_per_1000(), dollars),
            figure(cost_per_1000_right(set, at), dollars),
            figure(outcome.map(|o| o.seconds), |s| s.map_or("–".into(), duration)),
            figure(contender.training_cost, dollars),
            figure(outcome.map(|o| o.peak_memory_bytes as f64), |b| {
                b.map_or("–".into(), |b| gibibytes(b as u64))
            }),
        ]);
        grid.rows.push(row);
    }
    grid.without_empty_columns(2)
}

fn pairs(evaluation: &Evaluation<'_>, set: &SetResult<'_>, metric: &Metric) -> Grid {
    let mut grid = Grid::new(
        "All pairs",
        format!(
            "{}; p-values are corrected over all {} pairs, a larger family than that of the table above.",
            metric.name,
            metric.pairs.len()
        ),
        &[
            "arm",
            "against",
            ">n",
            ">only arm right",
            ">only other right",
            ">difference",
            ">its interval",
            ">p",
            "verdict",
            ">more samples",
        ],
    );
    if set.contenders.len() < 3 {
        return grid;
    }
    for (a, b, comparison) in &metric.pairs {
        let c = comparison.as_ref();
        let count = |n: Option<usize>| figure(n.map(|n| n as f64), whole);
        let mut row = shown![
            set.contenders[*a].name.as_str(),
            set.contenders[*b].name.as_str(),
            c.map_or(0, |c| c.n),
        ];
        row.extend([count(c.and_then(|c| c.a_only)), count(c.and_then(|c| c.b_only))]);
        row.extend(difference(c));
        row.push(c.map_or("–", |c| c.verdict.word()).into());
        row.push(count(c.and_then(|c| c.more_needed)));
        grid.rows.push(row);
    }
    if evaluation.sets.len() * metric.pairs.len() > 12 { grid.folded() } else { grid }
}

fn effect_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>, metric: &Metric) -> Grid {
    let mut grid = Grid::new(
        "What each technique adds",
        format!(
            "Effects on {} from the four arms together. An interaction below zero says that the two techniques overlap.",
            metric.name
        ),
        &["effect", "from", ">n", ">effect", ">its interval", ">p", "verdict"],
    );
    for found in effects::effects(evaluation, set, metric) {
        let name = |at: usize| set.contenders[found.cells[at]].name.as_str();
        let from = format!("{}, {}, {}, {}", name(0), name(1), name(2), name(3));
        let factorial = &found.factorial;
        for (effect, comparison) in [
            ("retrieval", &factorial.first),
            ("fine-tuning", &factorial.second),
            ("interaction", &factorial.interaction),
        ] {
            let mut row = shown![effect, from.as_str(), found.n];
            row.extend(difference(Some(comparison)));
            row.push(comparison.verdict.word().into());
            grid.rows.push(row);
        }
    }
    grid
}

fn seed_grid(set: &SetResult<'_>, metric: &Metric) -> Grid {
    let mut grid = Grid::new(
        "Training seeds",
        format!(
            "{} of recipes over their training seeds: samples and seeds vary (crossed mixed model); the decision is made on these rows, corrected over all pairs of arms. Rows with a seed in other tables are single trainings.",
            metric.name
        ),
        &[
            "arm",
            "against",
            ">seeds",
            ">value",
            ">SD between seeds",
            ">difference",
            ">its interval",
            ">p",
            "verdict",
        ],
    );
    for found in recipes::seeds(set) {
        let c = &found.comparison;
        let mut row = shown![found.arm, found.against, found.crossed.seeds[0]];
        row.extend([figure(Some(c.mean_a), number), figure(found.crossed.deviations()[0], number)]);
        row.extend(difference(Some(c)));
        row.push(c.verdict.word().into());
        grid.rows.push(row);
    }
    grid
}

fn retrieval_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let mut grid = Grid::new(
        "Retrieval",
        "Gold documents among the passages retrieved, on the samples that name any.",
        &[
            "arm",
            ">n",
            ">k",
            ">recall@1",
            ">recall@k",
            ">its interval",
            ">MRR",
            ">its interval",
            ">nDCG@k",
            ">its interval",
        ],
    );
    for result in retrieval::results(set, &evaluation.options) {
        let (Some(first), Some(last)) = (result.at.first(), result.at.last()) else { continue };
        let ends = |e: Option<&Estimate>| {
            figure(e.map(|e| e.low), |_| e.map_or("–".into(), |e| interval(e.low, e.high)))
        };
        let mean = |e: Option<&Estimate>| figure(e.map(|e| e.mean), number);
        let mut row = shown![
            set.contenders[result.contender].name.as_str(),
            last.recall.as_ref().map_or(0, |e| e.n),
            result.at.len(),
        ];
        row.push(mean(first.recall.as_ref()));
        for estimate in [last.recall.as_ref(), result.mrr.as_ref(), last.ndcg.as_ref()] {
            row.extend([mean(estimate), ends(estimate)]);
        }
        grid.rows.push(row);
    }
    grid
}

fn diagnosis_grid(set: &SetResult<'_>, metric: &Metric) -> Grid {
    let gold = if set.has_gold() {
        " Gold documents found but misread call for a better reader (a stronger or tuned model, a better prompt); gold documents not found call for better retrieval."
    } else {
        ""
    };
    let mut grid = Grid::new(
        "Where answers went wrong",
        format!("Samples; right is {} of at least {RIGHT}.{gold}", metric.name),
        &["arm"],
    );
    let counts = diagnosis::counts(set, metric);
    let occurring: Vec<Outcome> = Outcome::ALL
        .into_iter()
        .filter(|outcome| counts.iter().any(|counts| counts[*outcome as usize] > 0))
        .collect();
    grid.columns.extend(occurring.iter().map(|outcome| Head {
        name: outcome.words().to_owned(),
        is_number: true,
        is_code: false,
    }));
    for (contender, counts) in set.contenders.iter().zip(counts) {
        let mut row = shown![contender.name.as_str()];
        row.extend(occurring.iter().map(|outcome| Shown::from(counts[*outcome as usize])));
        grid.rows.push(row);
    }
    grid
}

fn cause_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>, metric: &Metric) -> Grid {
    let mut grid = Grid::new(
        "Why answers were wrong",
        format!(
            "Each wrong answer has one cause, told from the set's other scorers, the judge, people and the arms that see gold passages. A technique can add at most what its causes cost: points of {}.",
            metric.name
        ),
        &["arm", "cause", ">samples", ">points", "right in another arm", "what can help"],
    );
    for found in causes::errors(evaluation, set, metric) {
        let best = found.best.map_or("none".into(), |(arm, n)| {
            format!("{}: {n} of {}", set.contenders[arm].name, found.samples)
        });
        grid.rows.push(shown![
            set.contenders[found.contender].name.as_str(),
            found.cause.words(),
            found.samples,
            figure(Some(found.gain), |gain| {
                gain.map_or("–".into(), |gain| format!("{:.1}", 100.0 * gain))
            }),
            best,
            found.cause.remedy(),
        ]);
    }
    grid
}

fn slice_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>, metric: &Metric) -> Grid {
    let mut grid = Grid::new(
        "Slices",
        format!("Mean {} and its interval; slices are looked at, not tested.", metric.name),
        &["slice", ">samples"],
    );
    grid.columns.extend(set.contenders.iter().map(|contender| Head {
        name: contender.name.clone(),
        is_number: true,
        is_code: false,
    }));
    for slice in slices_of(set, &evaluation.options) {
        let mut row = shown![format!("{} = {}", slice.field, slice.value), slice.samples];
        // The first metric is the one that decides.
        row.extend(slice.figures.iter().take(1).flatten().map(
            |SliceFigure { estimate, .. }| {
                figure(estimate.as_ref().map(|e| e.mean), |mean| match (estimate, mean) {
                    (Some(e), Some(mean)) => {
                        format!("{} ({})", number(mean), interval(e.low, e.high))
                    }
                    _ => "–".into(),
                })
            },
        ));
        grid.rows.push(row);
    }
    grid.folded()
}

fn break_even_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let experiment = &evaluation.manifest.experiment;
    let assumed = &experiment.break_even;
    let trained = assumed
        .retrain_weeks
        .map_or("once".to_owned(), |weeks| format!("every {}", plural_of(weeks, "week")));
    let mut note = format!(
        "Requests a month from which the trained arm is the cheaper one, over {}, trained {trained}; from the prices of the experiment and the tokens and times of this run. The band is that of the saving. It counts money alone: see the quality beside it. Judging is in no figure.",
        plural(assumed.months as usize, "month"),
    );
    for (is_assumed, words) in [
        (
            assumed.price_fall_percent > 0.0,
            format!(" Prices of answering fall by {} % a year.", assumed.price_fall_percent),
        ),
        (
            assumed.idle_hours > 0.0,
            format!(" A trained arm's machine idles {} hours a month.", assumed.idle_hours),
        ),
        (
            experiment.prices.list().is_some_and(|list| !list.date.is_empty()),
            format!(" Prices of {}.", experiment.prices.list().map_or("", |list| &list.date)),
        ),
    ] {
        if is_assumed {
            note.push_str(&words);
        }
    }
    let mut grid = Grid::new(
        "Break-even",
        note,
        &[
            "arm",
            "against",
            ">training USD",
            ">saving per 1,000 in USD",
            ">its interval",
            ">requests a month",
            ">band",
            ">quality difference",
            "quality",
        ],
    );
    for found in break_even(evaluation, set) {
        let [saving, low, high] = found.cached_saving.map(|saving| saving * 1000.0);
        let [middle, few, many] = found.requests;
        let mut row = shown![
            set.contenders[found.trained].name.as_str(),
            set.contenders[found.other].name.as_str(),
        ];
        row.extend([
            figure(Some(found.training_cost), dollars),
            figure(Some(saving), dollars),
            figure(Some(low), |_| format!("{} to {}", dollars(low), dollars(high))),
            figure(middle.count(), |_| requests(middle)),
            figure(few.count(), |_| match (few, many) {
                (few, many) if few == many => requests(few),
                (few, many) => format!("{} to {}", requests(few), requests(many)),
            }),
            figure(found.quality.as_ref().map(|c| c.difference), |x| x.map_or("–".into(), signed)),
        ]);
        row.push(found.quality.as_ref().map_or("–", |c| c.verdict.word()).into());
        grid.rows.push(row);
    }
    grid
}

/// From how many requests a month on, in words.
pub(crate) fn requests(requests: Requests) -> String {
    match requests {
        Requests::Always => "any".into(),
        Requests::From(count) => whole(count),
        Requests::UpTo(count) => format!("up to {}", whole(count)),
        Requests::Never => "never".into(),
    }
}

fn plural_of(count: f64, what: &str) -> String {
    if (count - 1.0).abs() < 1e-9 { what.to_owned() } else { format!("{count} {what}s") }
}

fn retention_grid(set: &SetResult<'_>) -> Grid {
    let name = set.baseline.map_or("", |at| set.contenders[at].name.as_str());
    let mut grid = Grid::new(
        "Retention",
        format!(
            "Share of the score of {name} that an arm keeps on these general questions; the interval is that of the paired difference."
        ),
        &["arm", ">kept", ">its interval"],
    );
    for kept in retention::retained(set) {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let mut row = shown![set.contenders[kept.contender].name.as_str()];
        row.extend([
            figure(Some(kept.share), |_| percent(kept.share)),
            figure(Some(kept.ends[0]), |_| {
                format!("{} to {}", percent(kept.ends[0]), percent(kept.ends[1]))
            }),
        ]);
        grid.rows.push(row);
    }
    grid
}

fn curve_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>, metric: &Metric) -> Grid {
    let mut grid = Grid::new(
        "Learning curve",
        format!(
            "Mean {} by rows trained on, and where three sizes allow it the power law through them: ceiling - scale * rows^-exponent. The ceiling is where more rows of this kind would lead.",
            metric.name
        ),
        &[
            "recipe",
            ">rows",
            ">seeds",
            ">n",
            ">value",
            ">its interval",
            ">by the law",
            ">its ceiling",
        ],
    );
    for curve in curves(evaluation, set, metric) {
        for point in &curve.points {
            let e = &point.estimate;
            let mut row = shown![curve.name.as_str(), point.rows as usize, point.seeds, e.n];
            row.extend([
                figure(Some(e.mean), number),
                figure(Some(e.low), |_| interval(e.low, e.high)),
                figure(curve.law.map(|law| law.at(point.rows as f64)), number),
                figure(curve.law.map(|law| law.ceiling), number),
            ]);
            grid.rows.push(row);
        }
    }
    grid
}

fn agreement_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let mut grid = Grid::new(
        "Judge against scorer",
        "",
        &[
            "arm",
            ">both right",
            ">only the judge",
            ">only the scorer",
            ">both wrong",
            ">agreement",
            ">its interval",
        ],
    );
    let Some(found) = Agreement::of(set, &evaluation.options) else { return grid };
    grid.note = format!(
        "Judged answers, by whether the judge and {} call them right (at least {RIGHT}).",
        found.scorer
    );
    for (at, contender) in set.contenders.iter().enumerate() {
        let [[both, judge], [scorer, neither]] = found.counts[at];
        let share = found.of_contender(at, &evaluation.options);
        let mut row = shown![contender.name.as_str(), both, judge, scorer, neither];
        row.push(figure(share.as_ref().map(|e| e.mean), number));
        row.push(figure(share.as_ref().map(|e| e.low), |_| {
            share.as_ref().map_or("–".into(), |e| interval(e.low, e.high))
        }));
        grid.rows.push(row);
    }
    grid
}

fn flips(set: &SetResult<'_>, metric: &Metric) -> Vec<FlipGroup> {
    let all = diagnosis::flips(set, metric);
    let Some(baseline) = set.baseline.map(|at| set.contenders[at].name.as_str()) else {
        return Vec::new();
    };
    let mut groups = Vec::new();
    for (at, contender) in set.contenders.iter().enumerate() {
        let own = || all.iter().filter(|flip| flip.contender == at);
        let (lost, total) = (own().filter(|flip| flip.is_lost).count(), own().count());
        if total == 0 {
            continue;
        }
        let mut grid = Grid::new(
            "",
            "",
            &["sample", "change", "`question", "`reference", "`baseline answers", "`arm answers"],
        );
        for is_lost in [true, false] {
            for flip in own().filter(|flip| flip.is_lost == is_lost).take(FLIPS) {
                let short = |text: &str| cut(&crate::text::line(text), FLIP_TEXT);
                let answer = |record: &bench_core::record::Record| {
                    short(record.answer().map_or("", |answer| &answer.text))
                };
                grid.rows.push(shown![
                    flip.trial.trial.sample.as_str(),
                    if is_lost { "lost" } else { "gained" },
                    short(&flip.trial.input),
                    short(flip.trial.references.first().map_or("", String::as_str)),
                    answer(flip.other),
                    answer(flip.trial),
                ]);
            }
        }
        groups.push(FlipGroup {
            title: format!(
                "{} against {baseline}: {lost} lost, {} gained",
                contender.name.clone(),
                total - lost
            ),
            total,
            grid,
        });
    }
    groups
}

/// Every arm with what it scores on every set: the whole run at a glance.
fn arms(evaluation: &Evaluation<'_>) -> Grid {
    let mut grid = Grid::new("Arms", "", &["arm", "model", "how it answers"]);
    let sets: Vec<_> =
        evaluation.sets.iter().filter_map(|set| Some((set, set.primary()?))).collect();
    if evaluation.sets.iter().any(|set| set.contenders.len() > 1) {
        grid.note =
            "Beside each arm its mean on the metric that decides, and who was chosen.".into();
        grid.columns.extend(sets.iter().map(|(set, metric)| Head {
            name: format!("{}: {}", set.set.name, metric.name),
            is_number: true,
            is_code: false,
        }));
    }
    let columns = grid.columns.len();
    let arms = evaluation.manifest.experiment.arms.iter().zip(&evaluation.plans);
    for (position, (arm, plan)) in arms.enumerate() {
        let mut row = shown![
            plan.name.as_str(),
            plan.model.as_str(),
            [strategy(&arm.strategy, plan), prompting::chosen(evaluation, &plan.name)].concat()
        ];
        row.extend(sets.iter().map(|(set, _)| {
            let at = set.entrants.iter().position(|entrant| entrant.arm == position);
            let estimate = at.and_then(|at| set.estimate_of(at));
            let winner = set.decision.as_ref().and_then(|decision| decision.winner.as_deref());
            let is_chosen = at.is_some_and(|at| winner == Some(set.entrants[at].name.as_str()));
            figure(estimate.map(|e| e.mean), |mean| {
                format!("{}{}", number(mean), if is_chosen { ", chosen" } else { "" })
            })
        }));
        row.truncate(columns);
        grid.rows.push(row);
    }
    grid
}

/// An arm in one line.
fn strategy(strategy: &Strategy, plan: &ArmPlan) -> String {
    let mut parts = Vec::new();
    if let Strategy::Compose(names) = strategy {
        parts.push(names.join(" + "));
    }
    if plan.features.is_some() {
        return "logistic regression over sentence embeddings".into();
    }
    if let Some(f) = &plan.finetune {
        parts.push(format!(
            "{}, {} at {}",
            f.label(),
            plural(f.num_epochs as usize, "epoch"),
            f.learning_rate
        ));
    }
    if let Some(rag) = &plan.rag {
        parts.push(passages(rag));
    }
    if let Some(best) = &plan.prompt.best_of {
        parts.push(format!("the best of {} answers by the reward `{}`", best.n, best.reward));
    }
    match plan.prompt.num_fewshot {
        0 if parts.is_empty() => parts.push("prompt without examples".into()),
        0 => {}
        n => parts.push(format!("prompt with {}", plural(n as usize, "example"))),
    }
    parts.join("; ")
}

/// Which passages an arm is shown, and how they are found.
fn passages(rag: &Rag) -> String {
    let found = |source: &str| found(rag, source);
    match (&rag.passages, &rag.retriever) {
        (PassageSource::Oracle, _) => "gold passages (control)".into(),
        (PassageSource::Random, _) => {
            format!("{} at random (control)", plural(rag.top_k as usize, "passage"))
        }
        (PassageSource::ClosedBook, _) => "no passages (control)".into(),
        (PassageSource::WholeCorpus, _) => "the whole corpus (control)".into(),
        (PassageSource::OraclePlusNoise { distractors, noise, .. }, _) => {
            let noise = match noise {
                Noise::Random => "drawn at random",
                Noise::Retrieved => "retrieved",
            };
            format!("gold passages among {distractors} others, {noise} (control)")
        }
        (PassageSource::Retrieved, Retrieval::Dense {}) => found("dense retrieval"),
        (PassageSource::Retrieved, Retrieval::Bm25 { .. }) => found("BM25 retrieval"),
        (PassageSource::Retrieved, Retrieval::Hybrid { .. }) => {
            found("dense and BM25 retrieval, fused by score")
        }
        (PassageSource::Retrieved, Retrieval::Rrf { .. }) => {
            found("dense and BM25 retrieval, fused by rank")
        }
    }
}

/// A search in words: how it ranks, what it ranks, what happens afterwards.
fn found(rag: &Rag, source: &str) -> String {
    let chunking = rag.chunking();
    let mut words = vec![match chunking.by {
        ChunkBy::Document => "whole documents".to_owned(),
        ChunkBy::Tokens => format!("chunks of {} tokens", chunking.size),
        ChunkBy::Sentence => format!("sentences up to {} tokens", chunking.size),
        ChunkBy::Markdown => format!("Markdown sections up to {} tokens", chunking.size),
    }];
    if chunking.overlap > 0 && chunking.by != ChunkBy::Document {
        words.push(format!("overlapping by {}", chunking.overlap));
    }
    let model = rag.rerank.as_ref().and_then(Rerank::chat_model);
    let reranked = model.map_or("reranked".into(), |model| format!("reranked by `{model}`"));
    for (there, what) in [
        (!rag.filter.is_empty(), "filtered"),
        (rag.rerank.is_some(), reranked.as_str()),
        (rag.mmr.is_some(), "diversified (MMR)"),
        (rag.expand == Expand::Parent, "shown with their whole document"),
    ] {
        if there {
            words.push(what.to_owned());
        }
    }
    if let Expand::Neighbours(n) = rag.expand {
        words.push(format!("shown with {n} chunks on each side"));
    }
    format!("top {} by {source}, {}", rag.top_k, words.join(", "))
}

fn gate_grid(gates: &[GateResult]) -> Grid {
    let mut grid = Grid::new("Gates", "", &["gate", "outcome"]);
    for gate in gates {
        let outcome =
            gate.failure.as_ref().map_or("passed".to_owned(), |why| format!("failed: {why}"));
        grid.rows.push(shown![gate.name.as_str(), outcome]);
    }
    grid
}

fn training(evaluation: &Evaluation<'_>) -> Grid {
    let mut grid = Grid::new(
        "Training",
        "",
        &[
            "set",
            "arms",
            ">seed",
            ">rows",
            ">too long",
            ">steps",
            ">trainable",
            ">share",
            ">time",
            ">tokens/s",
            ">peak memory",
            ">final loss",
            ">validation loss",
            ">served bytes",
            ">energy",
        ],
    );
    for entry in &evaluation.manifest.training {
        let outcome = &entry.outcome;
        let last = outcome.steps.last();
        let share = outcome.trainable_parameters as f64 / outcome.total_parameters.max(1) as f64;
        let mut row = shown![
            entry.set.as_str(),
            entry.arms.join(", "),
            entry.seed as usize,
            entry.rows as usize,
            outcome.rows_too_long as usize,
            outcome.steps.len(),
            outcome.trainable_parameters as usize,
        ];
        row.extend([
            figure(Some(share), |share| {
                share.map_or(String::new(), |s| format!("{:.2} %", s * 100.0))
            }),
            figure(Some(outcome.seconds), |s| s.map_or(String::new(), duration)),
            figure(last.map(|step| step.tokens_per_second), whole),
            figure(Some(outcome.peak_memory_bytes as f64), |_| {
                gibibytes(outcome.peak_memory_bytes)
            }),
            figure(last.map(|step| step.loss), number),
            figure(outcome.steps.iter().rev().find_map(|step| step.dev_loss), number),
            figure(Some(entry.adapter_bytes as f64).filter(|bytes| *bytes > 0.0), |bytes| {
                bytes.map_or("–".into(), |bytes| format!("{:.1} MB", bytes / 1e6))
            }),
            figure(entry.energy_joules, |joules| {
                joules.map_or("–".into(), |joules| format!("{:.1} kJ", joules / 1e3))
            }),
        ]);
        grid.rows.push(row);
    }
    grid
}

fn parity(evaluation: &Evaluation<'_>) -> Grid {
    let mut grid = Grid::new(
        "Fairness check",
        "Trainer and server were shown the same rows before the tuned arms were scored.",
        &[
            "set",
            ">seed",
            ">rows",
            ">same likeliest token",
            ">largest difference of mean loss in nats",
        ],
    );
    for entry in &evaluation.manifest.parity {
        let mut row = shown![entry.set.as_str(), entry.seed as usize];
        row.extend(agreement(&entry.agreement));
        grid.rows.push(row);
    }
    grid
}

fn proofs(evaluation: &Evaluation<'_>) -> Grid {
    let mut grid = Grid::new(
        "Served in fewer bits",
        "What these models wrote to a dozen prompts was compared with f32 on the processor before they answered.",
        &[
            "model",
            "numeric type",
            ">rows",
            ">same likeliest token",
            ">largest difference of mean loss in nats",
        ],
    );
    for entry in &evaluation.manifest.proofs {
        let mut row = shown![entry.model.as_str(), entry.dtype.as_str()];
        row.extend(agreement(&entry.agreement));
        grid.rows.push(row);
    }
    grid
}

/// Rows, tokens on which both agree, and the largest difference.
fn agreement(found: &manifest::Agreement) -> [Shown; 3] {
    let difference =
        figure(Some(found.max_nll_difference), |x| x.map_or(String::new(), |x| format!("{x:.4}")));
    let same = format!("{} of {}", found.top1_agree, found.tokens);
    [(found.rows as usize).into(), same.into(), difference]
}

fn indexes(evaluation: &Evaluation<'_>) -> Grid {
    let mut grid = Grid::new(
        "Indexes",
        "",
        &["set", "arms", "embedder", ">documents", ">chunks", ">dimension", ">built in", "digest"],
    );
    for entry in &evaluation.manifest.indexes {
        let info = &entry.info;
        let mut row = shown![
            entry.set.as_str(),
            entry.arms.join(", "),
            shortened(&entry.embedder),
            info.documents as usize,
            info.chunks as usize,
            info.dimension as usize,
        ];
        row.push(figure(Some(info.seconds), |s| match s {
            Some(s) if s > 0.0 => duration(s),
            _ => "opened".into(),
        }));
        row.push(bench_core::digest::short(&info.digest).into());
        grid.rows.push(row);
    }
    grid
}

/// A name as it is, a digest by its beginning.
fn shortened(name: &str) -> &str {
    let is_digest = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest { bench_core::digest::short(name) } else { name }
}

fn models(evaluation: &Evaluation<'_>) -> Grid {
    let mut grid = Grid::new("Models", "", &["name", "model", "backend", "type", "digest"]);
    for (name, model) in &evaluation.manifest.models {
        let digest = bench_core::digest::short(&model.digest);
        grid.rows.push(shown![
            name.as_str(),
            model.id.as_str(),
            model.backend.as_str(),
            model.dtype.as_str(),
            digest,
        ]);
    }
    grid
}

fn files_grid(evaluation: &Evaluation<'_>) -> Grid {
    let mut grid = Grid::new("Files", "", &["file", "SHA-256"]);
    for (path, digest) in &evaluation.manifest.files {
        grid.rows.push(shown![path.as_str(), bench_core::digest::short(digest)]);
    }
    grid.folded()
}

fn facts(evaluation: &Evaluation<'_>) -> Vec<[String; 2]> {
    let manifest = evaluation.manifest;
    let seconds: Vec<String> =
        manifest.seconds.iter().map(|(stage, s)| format!("{stage} {}", duration(*s))).collect();
    let mut facts = vec![
        ["plan".to_owned(), bench_core::digest::short(&manifest.plan_digest).to_owned()],
        ["program".to_owned(), manifest.program.clone()],
        ["machine".to_owned(), machine(evaluation)],
        ["accelerator".to_owned(), manifest.machine.accelerator.clone()],
        ["peak memory".to_owned(), gibibytes(manifest.peak_memory_bytes)],
        ["time".to_owned(), seconds.join(", ")],
    ];
    facts.retain(|[_, value]| !value.is_empty() && value != "–");
    facts
}

fn machine(evaluation: &Evaluation<'_>) -> String {
    let machine = &evaluation.manifest.machine;
    if machine.platform.is_empty() {
        return "an unnamed machine".into();
    }
    let memory = gibibytes(machine.memory_bytes);
    format!("{} ({} cores, {memory}), {}", machine.processor, machine.cores, machine.platform)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rag: &str, expect: &str) {
        let rag: Rag = serde_json::from_str(rag).unwrap();
        assert_eq!(passages(&rag), expect);
    }

    #[test]
    fn a_control_says_what_is_shown_and_names_no_search() {
        check("{\"passages\": \"closed_book\"}", "no passages (control)");
        check("{\"passages\": \"random\", \"top_k\": 1}", "one passage at random (control)");
        check("{\"passages\": \"whole_corpus\"}", "the whole corpus (control)");
        check(
            "{\"passages\": {\"oracle_plus_noise\": {\"noise\": \"retrieved\"}}}",
            "gold passages among 3 others, retrieved (control)",
        );
    }

    #[test]
    fn a_search_says_how_it_ranks_and_who_sorts_again() {
        check(
            "{\"retriever\": {\"bm25\": {}}, \"rerank\": {\"model\": {\"llm\": \"big\"}}}",
            "top 3 by BM25 retrieval, chunks of 200 tokens, reranked by `big`",
        );
    }
}
