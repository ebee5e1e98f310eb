//! What the page says of a judge: its report card, corrected scores, strengths of arms.

use bench_stats::Clusters;

use super::{Grid, figure, interval, shown};
use crate::evaluation::{Evaluation, SetResult};
use crate::judging::{cards, corrected, is_judge, pair_counts, strengths};
use crate::text::{number, signed, whole};

/// What the judge's scores are worth.
pub(super) fn note(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Option<String> {
    let at = set.metrics.iter().position(|metric| is_judge(&metric.name))?;
    let judge = evaluation.manifest.experiment.judge.as_ref()?;
    let metric = &set.metrics[at];
    let judged: usize = metric.scores.iter().map(|arm| arm.scores.iter().flatten().count()).sum();
    let possible = set.samples.len() * set.contenders.len();
    let unscored: usize = metric.unscored.iter().sum();
    let role = match (at, judge.min_judge_agreement) {
        (0, None) => "It is the metric that decides here.",
        (0, Some(_)) => {
            "It decides here where the lower end of its agreement with people keeps its floor."
        }
        _ => "It decides nothing here.",
    };
    let who = if judge.names().len() > 1 { "A jury of LLM judges" } else { "An LLM judge" };
    let subset = if judge.sample.is_some() && judged < possible {
        " It saw a random subset of the samples, and its intervals are as wide as that subset makes them."
    } else {
        ""
    };
    Some(format!(
        "{who} scored {judged} of {possible} answers (rows `{}`) and left {unscored} undecided.{subset} {role}",
        metric.name
    ))
}

/// The tables of this set, those without rows included.
pub(super) fn grids(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> [Grid; 3] {
    [card_grid(evaluation, set), corrected_grid(evaluation, set), strength_grid(evaluation, set)]
}

fn card_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let mut grid = Grid::new(
        "Judge report card",
        "How far the judge can be trusted; agreement is with people's labels of this run, beside people's agreement with each other. Intervals draw samples with all their answers, which are not independent of each other.",
        &["judge", "figure", ">n", ">value", ">its interval"],
    );
    let Some(found) = cards(evaluation, set) else { return grid };
    let mut push =
        |judge: &str, words: &str, n: Option<usize>, value: f64, ends: Option<(f64, f64)>| {
            let mut row = shown![judge, words];
            row.push(figure(n.map(|n| n as f64), whole));
            // Shares have decimals, seconds and tokens by the thousand do not.
            let write = |x: Option<f64>| if value.abs() < 100.0 { number(x) } else { whole(x) };
            row.push(figure(Some(value), write));
            row.push(figure(ends.map(|ends| ends.0), |_| {
                ends.map_or("–".into(), |(low, high)| interval(low, high))
            }));
            grid.rows.push(row);
        };
    for card in &found.cards {
        for line in card.figures() {
            push(&card.judge, line.words, line.n, line.value, line.interval);
        }
    }
    if let Some(alpha) = &found.jury_alpha {
        let ends = Some((alpha.low, alpha.high));
        push("jury", "Krippendorff's alpha among its members", Some(alpha.n), alpha.value, ends);
    }
    grid
}

fn corrected_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let found = corrected(evaluation, set);
    let mut note = if found.iter().any(|row| row.method == "ppi") {
        "The judge's mean corrected by people's labels of a random subset (prediction-powered inference); the interval pays for the labels."
    } else {
        "The judge's share of right answers corrected by its confusion matrix (Rogan-Gladen); the interval pays for the matrix. A value beyond 0 or 1 is chance; moving it there would bias it."
    }
    .to_owned();
    if set.clusters != Clusters::none() {
        note.push_str(" The intervals take samples as independent, although some share clusters.");
    }
    let mut grid = Grid::new(
        "Judge scores corrected by people",
        note,
        &["arm", ">judged", ">labelled", ">judge's value", ">corrected", ">its interval"],
    );
    for row in found {
        let score = &row.score;
        let mut cells =
            shown![set.contenders[row.contender].name.as_str(), score.judged, score.labelled];
        cells.push(figure(Some(score.judge_mean), number));
        cells.push(figure(Some(score.mean), number));
        cells.push(figure(Some(score.low), |_| interval(score.low, score.high)));
        grid.rows.push(cells);
    }
    grid
}

fn strength_grid(evaluation: &Evaluation<'_>, set: &SetResult<'_>) -> Grid {
    let counts = pair_counts(set);
    let compared: usize = counts.iter().map(|c| c.a_wins + c.b_wins + c.ties).sum();
    let mut note = format!(
        "Bradley-Terry strengths from {compared} comparisons, each in both orders; orders that disagree are a tie. An arm is preferred with probability 1 / (1 + exp(other - own)). The intervals take comparisons as independent, although several pairs of arms meet on one sample: read them as a little too narrow."
    );
    let columns = ["arm", ">won", ">tied", ">lost", ">strength", ">its interval"];
    let strengths = match strengths(set, &evaluation.options) {
        None => return Grid::new("Preferences", note, &columns),
        Some(Ok(strengths)) => strengths,
        Some(Err(error)) => {
            note = format!("{note} There are no strengths: {error}.");
            Vec::new()
        }
    };
    let mut grid = Grid::new("Preferences", note, &columns);
    for contender in &set.contenders {
        let arm = &evaluation.plans[contender.arm].name;
        let (mut won, mut tied, mut lost) = (0, 0, 0);
        for count in counts.iter().filter(|count| count.a == *arm || count.b == *arm) {
            let own_is_a = count.a == *arm;
            won += if own_is_a { count.a_wins } else { count.b_wins };
            lost += if own_is_a { count.b_wins } else { count.a_wins };
            tied += count.ties;
        }
        if won + tied + lost == 0 || grid.rows.iter().any(|row| row[0].text == *arm) {
            continue;
        }
        let mut row = shown![arm.as_str(), won, tied, lost];
        let own = strengths.iter().find(|strength| strength.arm == *arm);
        row.push(figure(own.map(|s| s.strength), |x| x.map_or("–".into(), signed)));
        row.push(figure(own.map(|s| s.low), |_| {
            own.map_or("–".into(), |s| format!("{} to {}", signed(s.low), signed(s.high)))
        }));
        grid.rows.push(row);
    }
    grid
}
