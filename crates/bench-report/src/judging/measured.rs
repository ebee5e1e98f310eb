//! The report of judges measured on labelled samples.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bench_core::digest;
use bench_core::judging::{JudgedItems, Measured};
use bench_core::spec::JudgeMode;
use bench_stats::Options;
use serde::Serialize;

use super::{Card, card};
use crate::ReportError;
use crate::text::{line, markdown, number, printable, whole};

/// The files of a measurement: `card.md` to read, `card.json` with the same figures, and
/// `judgements.json`, from which all can be made again.
///
/// # Errors
/// A measurement of a newer version.
pub fn judge_report(measured: &Measured) -> Result<Vec<(String, Vec<u8>)>, ReportError> {
    if measured.format > Measured::FORMAT {
        return Err(ReportError::NewerFormat {
            what: "judgements",
            found: measured.format,
            known: Measured::FORMAT,
        });
    }
    let options = Options { seed: measured.calibration.run.seed, ..Options::default() };
    let grades = &measured.calibration.judge.grades;
    let cards: Vec<Card> =
        measured.judges.iter().map(|work| card(work, grades, &options)).collect();
    let page = printable(&page(measured, &cards)).into_bytes();
    Ok(vec![
        ("card.md".into(), page),
        ("card.json".into(), crate::json(&figures(measured, &cards))?),
        ("judgements.json".into(), crate::json(measured)?),
    ])
}

#[derive(Serialize)]
struct Figures<'a> {
    format: u32,
    name: &'a str,
    samples: usize,
    judges: Vec<JudgeFigures<'a>>,
}

#[derive(Serialize)]
struct JudgeFigures<'a> {
    judge: &'a str,
    model: Option<&'a str>,
    figures: BTreeMap<&'static str, FigureOut>,
    confusion: Option<bench_stats::Confusion>,
}

#[derive(Serialize)]
struct FigureOut {
    value: f64,
    n: Option<usize>,
    low: Option<f64>,
    high: Option<f64>,
}

fn figures<'a>(measured: &'a Measured, cards: &'a [Card]) -> Figures<'a> {
    let judge = |card: &'a Card| JudgeFigures {
        judge: &card.judge,
        model: measured.models.get(&card.judge).map(|model| model.id.as_str()),
        figures: card
            .figures()
            .into_iter()
            .map(|f| {
                let (low, high) = f.interval.unzip();
                (f.name, FigureOut { value: f.value, n: f.n, low, high })
            })
            .collect(),
        confusion: card.confusion,
    };
    Figures {
        format: 1,
        name: &measured.calibration.name,
        samples: measured.judges.iter().map(|work| work.items.len()).max().unwrap_or(0),
        judges: cards.iter().map(judge).collect(),
    }
}

fn page(measured: &Measured, cards: &[Card]) -> String {
    let calibration = &measured.calibration;
    let mut text = format!("# Judge report card: {}\n\n", markdown(&calibration.name));
    if !calibration.description.is_empty() {
        writeln!(text, "{}\n", markdown(&calibration.description)).ok();
    }
    if measured.models.values().any(|model| model.backend == "scripted") {
        text.push_str("> A scripted backend judged: these figures are not a measurement.\n\n");
    }
    for (card, work) in cards.iter().zip(&measured.judges) {
        writeln!(text, "- {}", sentence(card, work)).ok();
    }
    if measured.missing > 0 {
        writeln!(text, "- {} samples have not been judged yet.", measured.missing).ok();
    }
    let names: Vec<String> = cards.iter().map(|card| markdown(&card.judge)).collect();
    writeln!(text, "\n| figure | {} |", names.join(" | ")).ok();
    writeln!(text, "|---|{}", "---|".repeat(cards.len())).ok();
    let judged: Vec<String> = cards.iter().map(|card| card.judged.to_string()).collect();
    writeln!(text, "| judged | {} |", judged.join(" | ")).ok();
    for (name, words) in rows(cards) {
        let cells: Vec<String> = cards.iter().map(|card| cell(card, name)).collect();
        writeln!(text, "| {words} | {} |", cells.join(" | ")).ok();
    }
    writeln!(text, "\nIntervals are 95 %. {}", definitions(calibration.judge.mode)).ok();
    let confusions: Vec<String> = cards.iter().filter_map(yaml).collect();
    if !confusions.is_empty() {
        text.push_str("\nFor `judge` in an experiment, to correct its scores (right is the upper half of the scale):\n\n```yaml\n");
        text.push_str(&confusions.concat());
        text.push_str("```\n");
    }
    text.push_str("\n| judge | model | backend | type | digest |\n|---|---|---|---|---|\n");
    for (name, model) in &measured.models {
        let digest = digest::short(&model.digest);
        writeln!(
            text,
            "| {} | {} | {} | {} | {digest} |",
            markdown(name),
            markdown(&model.id),
            model.backend,
            model.dtype
        )
        .ok();
    }
    let files: Vec<String> = measured
        .files
        .iter()
        .map(|(path, sum)| format!("{} {}", markdown(path), digest::short(sum)))
        .collect();
    let machine = &measured.machine;
    writeln!(
        text,
        "\nFiles: {}. Machine: {} ({} cores), {}. Program: {}.",
        files.join(", "),
        machine.processor,
        machine.cores,
        machine.platform,
        measured.program
    )
    .ok();
    text
}

/// The figures that any judge has, in order.
fn rows(cards: &[Card]) -> Vec<(&'static str, &'static str)> {
    let mut rows: Vec<(&str, &str)> = Vec::new();
    let all = cards.iter().map(Card::figures).max_by_key(Vec::len).unwrap_or_default();
    for figure in all.into_iter().chain(cards.iter().flat_map(Card::figures)) {
        if !rows.iter().any(|(name, _)| *name == figure.name) {
            rows.push((figure.name, figure.words));
        }
    }
    rows
}

fn cell(card: &Card, name: &str) -> String {
    let Some(figure) = card.figures().into_iter().find(|figure| figure.name == name) else {
        return "–".into();
    };
    let write = |value: f64| if name == "seconds_per_1000" { whole(value) } else { number(value) };
    match figure.interval {
        None => write(figure.value),
        Some((low, high)) => {
            let n = figure.n.map_or(String::new(), |n| format!(", n = {n}"));
            format!("{} ({} to {}{n})", write(figure.value), write(low), write(high))
        }
    }
}

/// What the card says of a judge, in a sentence.
fn sentence(card: &Card, work: &JudgedItems) -> String {
    let name = format!("**{}**", markdown(&card.judge));
    let Some(agreement) = &card.agreement else {
        return format!("{name} gave nothing that could be compared with people's labels.");
    };
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let mut text = format!(
        "{name} agrees with people on {} ({} to {}) of {} samples",
        percent(agreement.mean),
        percent(agreement.low),
        percent(agreement.high),
        agreement.n
    );
    if let Some(common) = commonest(work) {
        write!(
            text,
            "; giving every sample the commonest label would agree on {}",
            percent(common)
        )
        .ok();
    }
    if let Some(people) = card.people_agreement {
        write!(text, "; two people agree on {}", percent(people)).ok();
    }
    text.push_str(match &card.kappa {
        _ if is_constant(work) => ". It says the same of every sample: it tells nothing apart.",
        None => ". People say the same of every sample, so this tells little.",
        Some(kappa) if kappa.low <= 0.0 => {
            ". Chance explains its agreement: the interval of kappa holds 0. Do not use it here."
        }
        Some(kappa) if kappa.value < 0.4 => {
            ". That is better than chance and weak: use it only with people's labels beside it."
        }
        Some(kappa) if kappa.value < 0.6 => ". That is moderate agreement.",
        Some(_) => ". That is good agreement.",
    });
    let spoilt = |share: &Option<bench_stats::Estimate>, least: f64| {
        share.as_ref().filter(|share| share.mean < least).map(|share| share.mean)
    };
    if let Some(orders) = spoilt(&card.order_consistency, 0.8) {
        write!(text, " Only {} of its preferences survive the other order.", percent(orders)).ok();
    }
    if let Some(failures) = card.failures.as_ref().filter(|share| share.mean > 0.05) {
        write!(text, " {} of its replies could not be read.", percent(failures.mean)).ok();
    }
    text
}

/// Whether the judge gave one value to all that it judged.
fn is_constant(work: &JudgedItems) -> bool {
    let mut values = work.items.iter().flat_map(|item| &item.judge).flatten();
    let first = values.next();
    first.is_some_and(|first| values.all(|value| (value - first).abs() < 1e-9))
}

/// The share of the most frequent label among the samples that were judged.
fn commonest(work: &JudgedItems) -> Option<f64> {
    let mut labels: Vec<f64> = work
        .items
        .iter()
        .filter(|item| item.judge.iter().any(Option::is_some))
        .filter_map(|item| item.label)
        .collect();
    labels.sort_by(f64::total_cmp);
    let groups = labels.chunk_by(|a, b| (a - b).abs() < 1e-9);
    let most = groups.map(<[f64]>::len).max()?;
    Some(most as f64 / labels.len() as f64)
}

fn definitions(mode: JudgeMode) -> &'static str {
    match mode {
        JudgeMode::Rubric => {
            "Agreement is on equal grades; kappa weighs squared distances where there are more than two; alpha is ordinal."
        }
        JudgeMode::Pairwise => {
            "Each pair is asked in both orders; orders that disagree are a tie. Agreement is on first, second or tie; alpha is ordinal."
        }
    }
}

fn yaml(card: &Card) -> Option<String> {
    let c = card.confusion?;
    Some(format!(
        "# {}\nconfusion: {{ true_positive: {}, false_negative: {}, true_negative: {}, false_positive: {} }}\n",
        line(&card.judge),
        c.true_positive,
        c.false_negative,
        c.true_negative,
        c.false_positive
    ))
}
