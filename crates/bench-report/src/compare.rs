//! Two runs of one question, before and after a change: what got better or worse on the same
//! samples, which answers changed sides, and what was changed. What cannot be compared is refused
//! with the reason, never compared all the same.

use std::collections::BTreeMap;

use bench_core::digest;
use bench_core::manifest::Manifest;
use bench_core::record::Record;
use bench_core::spec::{Experiment, Scorer};
use bench_stats::{ArmScores, Comparison, Pairs, Verdict, analyse};
use minijinja::value::Value as Shape;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::ReportError;
use crate::evaluation::{Evaluation, JUDGE, Metric, SetResult};
use crate::grid::{self, Grid, Shown, figure, shown};
use crate::text::{cut, dollars, line, number, p_value, printable, signed, tenth, whole};

/// Flips that the Markdown shows per arm; the HTML shows up to [`MOST_FLIPS`].
const FLIPS: usize = 10;
/// Flips that are kept per arm.
const MOST_FLIPS: usize = 500;
/// Characters of a text in a flip.
const FLIP_TEXT: usize = 160;
/// A comment on a code host holds 65,536 characters; some room is left for a line around it.
const COMMENT: usize = 60_000;
/// Characters of a setting in the list of changes.
const SETTING: usize = 100;

/// One side of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What the page calls it, for example its folder.
    pub name: &'a str,
    /// What the run was made of.
    pub manifest: &'a Manifest,
    /// Its trials.
    pub records: &'a [Record],
}

/// Which samples are compared where a data file was changed between the runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Samples {
    /// None: an eval set whose file has another digest is refused.
    #[default]
    OfEqualFiles,
    /// Those that are in both, with the same question and the same references.
    Common,
}

/// What two runs have to say to each other.
#[derive(Debug)]
pub struct RunComparison {
    /// Eval sets and metrics that cannot be compared, and why.
    pub refused: Vec<String>,
    /// Arms that got worse on the deciding metric of a set, after Holm's correction, in words.
    pub worse: Vec<String>,
    sets: Vec<SetChange>,
    page: Page,
}

#[derive(Debug)]
struct SetChange {
    name: String,
    metric: String,
    arms: Vec<ArmChange>,
    section: Section,
}

/// One contender on the deciding metric.
#[derive(Debug)]
struct ArmChange {
    name: String,
    comparison: Option<Comparison>,
}

#[derive(Debug, Serialize)]
struct Page {
    title: String,
    before: String,
    after: String,
    /// The kind of alert on a code host.
    alert: &'static str,
    /// The class of the card in HTML.
    state: &'static str,
    headlines: Vec<Headline>,
    refused: Vec<String>,
    changes: Grid,
}

#[derive(Debug, Serialize)]
struct Headline {
    head: String,
    rest: String,
}

#[derive(Debug, Serialize)]
struct Section {
    name: String,
    notes: Vec<String>,
    grids: Vec<Grid>,
    flips: Vec<Flips>,
}

#[derive(Debug, Serialize)]
struct Flips {
    title: String,
    total: usize,
    grid: Grid,
}

/// Compares `after` with `before`, arm by arm, on the samples that both have.
///
/// # Errors
/// When the records of a side do not fit its manifest. That the sides cannot be compared is no
/// error: see [`RunComparison::refused`].
pub fn compare_runs(
    before: Side<'_>,
    after: Side<'_>,
    samples: Samples,
) -> Result<RunComparison, ReportError> {
    let old = Evaluation::new(before.manifest, before.records)?;
    let new = Evaluation::new(after.manifest, after.records)?;
    let mut refused = Vec::new();
    let mut sets = Vec::new();
    for set in &new.sets {
        let name = &set.set.name;
        let Some(earlier) = old.sets.iter().find(|earlier| earlier.set.name == *name) else {
            refused.push(format!("{name}: only the second run has this eval set"));
            continue;
        };
        match SetChange::new([&old, &new], [earlier, set], samples, &mut refused)? {
            Ok(change) => sets.push(change),
            Err(why) => refused.push(format!("{name}: {why}")),
        }
    }
    for earlier in &old.sets {
        if new.sets.iter().all(|set| set.set.name != earlier.set.name) {
            refused.push(format!("{}: only the first run has this eval set", earlier.set.name));
        }
    }
    let worse: Vec<String> = sets
        .iter()
        .flat_map(|set| set.arms.iter().map(move |arm| (set, arm)))
        .filter_map(|(set, arm)| {
            let c = arm.comparison.as_ref().filter(|c| c.verdict == Verdict::Worse)?;
            Some(format!("{}: {} {} {}", set.name, arm.name, set.metric, told(c)))
        })
        .collect();
    let (alert, state) = match (sets.is_empty(), worse.is_empty()) {
        (true, _) => ("CAUTION", "warning"),
        (_, false) => ("WARNING", "warning"),
        (_, true) => ("NOTE", "decided"),
    };
    let page = Page {
        title: after.manifest.experiment.name.clone(),
        before: before.name.to_owned(),
        after: after.name.to_owned(),
        alert,
        state,
        headlines: sets.iter().map(SetChange::headline).collect(),
        refused: refused.clone(),
        changes: changes(before.manifest, after.manifest),
    };
    Ok(RunComparison { refused, worse, sets, page })
}

impl RunComparison {
    /// False when there is no eval set that could be compared; [`RunComparison::refused`] says why.
    pub fn is_comparable(&self) -> bool {
        !self.sets.is_empty()
    }

    /// A comment for a pull request: short enough for one, with the long parts folded.
    ///
    /// # Errors
    /// When the page cannot be written.
    pub fn markdown(&self) -> Result<String, ReportError> {
        let mut flips = FLIPS;
        loop {
            let text =
                self.render("compare.md", include_str!("templates/compare.md.j2"), flips, false)?;
            if text.chars().count() <= COMMENT || flips == 0 {
                return Ok(text);
            }
            flips /= 2;
        }
    }

    /// A page of one file, with all flips that were kept.
    ///
    /// # Errors
    /// When the page cannot be written.
    pub fn html(&self) -> Result<String, ReportError> {
        self.render("compare.html", include_str!("templates/compare.html.j2"), MOST_FLIPS, false)
    }

    /// The same page for a server that shows it: style and script are links, as those of
    /// [`crate::served_page`].
    ///
    /// # Errors
    /// When the page cannot be written.
    pub fn served(&self) -> Result<String, ReportError> {
        self.render("compare.html", include_str!("templates/compare.html.j2"), MOST_FLIPS, true)
    }

    fn render(
        &self,
        name: &'static str,
        template: &'static str,
        flips: usize,
        is_served: bool,
    ) -> Result<String, ReportError> {
        let mut environment = grid::environment()?;
        environment.add_template(name, template)?;
        let sections: Vec<&Section> = self.sets.iter().map(|set| &set.section).collect();
        let text = environment.get_template(name)?.render(minijinja::context! {
            page => Shape::from_serialize(&self.page),
            sections => Shape::from_serialize(&sections),
            flips => flips,
            served => is_served,
            style => Shape::from_safe_string(include_str!("templates/report.css").to_owned()),
        })?;
        Ok(printable(&text))
    }
}

/// "-0.150 (-0.260 to -0.040)".
fn told(c: &Comparison) -> String {
    format!("{} ({} to {})", signed(c.difference), signed(c.low), signed(c.high))
}

/// A contender in both runs, and its position in each.
struct Pair {
    name: String,
    at: [usize; 2],
}

impl SetChange {
    /// The outer error is a fault, the inner one a refusal; metrics that are refused alone are
    /// added to `refused`.
    fn new(
        runs: [&Evaluation<'_>; 2],
        sets: [&SetResult<'_>; 2],
        samples: Samples,
        refused: &mut Vec<String>,
    ) -> Result<Result<Self, String>, ReportError> {
        let shared = match shared(runs, sets, samples) {
            Ok(shared) => shared,
            Err(why) => return Ok(Err(why)),
        };
        let arm_of = |side: usize, at: usize| {
            let contender = &sets[side].contenders[at];
            (runs[side].plans[contender.arm].name.as_str(), contender.train_seed)
        };
        let pairs: Vec<Pair> = (0..sets[1].contenders.len())
            .filter_map(|new| {
                let old =
                    (0..sets[0].contenders.len()).find(|&old| arm_of(0, old) == arm_of(1, new))?;
                Some(Pair { name: sets[1].contenders[new].name.clone(), at: [old, new] })
            })
            .collect();
        if pairs.is_empty() {
            return Ok(Err("the runs have no arm in common".into()));
        }
        let set = sets[1];
        let mut metrics = Vec::new();
        for (rank, metric) in set.metrics.iter().enumerate() {
            let earlier = sets[0].metrics.iter().find(|earlier| earlier.name == metric.name);
            let why = match earlier {
                None => Some("only the second run has it".to_owned()),
                Some(_) => other_scorer(runs, sets, &metric.name),
            };
            match (earlier, why) {
                (_, Some(why)) if rank == 0 => {
                    let name = &metric.name;
                    return Ok(Err(format!("`{name}`, which decides here, differs: {why}")));
                }
                (Some(earlier), None) => metrics.push([earlier, metric]),
                (_, why) => refused.push(format!(
                    "{}, {}: {}",
                    set.set.name,
                    metric.name,
                    why.unwrap_or_default()
                )),
            }
        }
        let Some(&primary) = metrics.first() else {
            return Ok(Err("nothing was scored".into()));
        };
        let mut rows = Vec::new();
        let mut arms = Vec::new();
        for &metric in &metrics {
            let found = compared(runs[1], set, metric, &pairs, &shared)?;
            for (pair, comparison) in pairs.iter().zip(&found) {
                rows.push(row(&metric[1].name, &pair.name, comparison.as_ref()));
            }
            if arms.is_empty() {
                let names = pairs.iter().map(|pair| pair.name.clone());
                arms = names
                    .zip(found)
                    .map(|(name, comparison)| ArmChange { name, comparison })
                    .collect();
            }
        }
        let mut grids = quality(runs[1], pairs.len(), rows);
        grids.push(took(sets, &pairs));
        let section = Section {
            name: set.set.name.clone(),
            notes: notes(runs, sets, &shared),
            grids,
            flips: pairs.iter().filter_map(|pair| flips(sets, primary, pair, &shared)).collect(),
        };
        Ok(Ok(Self { name: set.set.name.clone(), metric: primary[1].name.clone(), arms, section }))
    }

    fn headline(&self) -> Headline {
        let of = |verdict: Verdict| -> Vec<String> {
            let with = |arm: &ArmChange| {
                let c = arm.comparison.as_ref().filter(|c| c.verdict == verdict)?;
                Some(match verdict {
                    Verdict::Better | Verdict::Worse => format!("{} {}", arm.name, told(c)),
                    Verdict::Equivalent | Verdict::Undecided => arm.name.clone(),
                })
            };
            self.arms.iter().filter_map(with).collect()
        };
        let worse = of(Verdict::Worse);
        let head = match (worse.is_empty(), of(Verdict::Better).is_empty()) {
            (false, _) => "worse",
            (true, false) => "better",
            (true, true) => "no difference found",
        };
        let mut parts = Vec::new();
        for (word, arms) in [
            ("worse", worse),
            ("better", of(Verdict::Better)),
            ("equivalent", of(Verdict::Equivalent)),
            ("undecided", of(Verdict::Undecided)),
        ] {
            if !arms.is_empty() {
                parts.push(format!("{word}: {}", arms.join(", ")));
            }
        }
        let without: Vec<&str> = self
            .arms
            .iter()
            .filter(|arm| arm.comparison.is_none())
            .map(|arm| arm.name.as_str())
            .collect();
        if !without.is_empty() {
            parts.push(format!("too few scored samples: {}", without.join(", ")));
        }
        Headline {
            head: format!("{}: {head}", self.name),
            rest: format!("{}; {}", self.metric, parts.join("; ")),
        }
    }
}

/// Positions of the samples that are compared, in both runs.
fn shared(
    runs: [&Evaluation<'_>; 2],
    sets: [&SetResult<'_>; 2],
    samples: Samples,
) -> Result<Vec<[usize; 2]>, String> {
    let digest_of = |side: usize| runs[side].manifest.files.get(&sets[side].set.path);
    if let ([Some(old), Some(new)], Samples::OfEqualFiles) = ([digest_of(0), digest_of(1)], samples)
        && old != new
    {
        return Err(format!(
            "the samples are not the same: `{}` has digest {} and then {}; run both on one file, or compare the samples that did not change with `--common`",
            sets[1].set.path,
            digest::short(old),
            digest::short(new)
        ));
    }
    let asked: [BTreeMap<&str, &Record>; 2] = [0, 1].map(|side| {
        let records = sets[side].contenders.iter().flat_map(|contender| &contender.trials);
        records.map(|record| (record.trial.sample.as_str(), *record)).collect()
    });
    let mut shared = Vec::new();
    for (new, id) in sets[1].samples.iter().enumerate() {
        let (Ok(old), Some(before), Some(after)) =
            (sets[0].samples.binary_search(id), asked[0].get(id), asked[1].get(id))
        else {
            continue;
        };
        if before.input == after.input && before.references == after.references {
            shared.push([old, new]);
        } else if samples == Samples::OfEqualFiles {
            return Err(format!(
                "sample `{id}` has another question or reference in the second run; compare the samples that did not change with `--common`"
            ));
        }
    }
    if shared.is_empty() { Err("the runs have no sample in common".into()) } else { Ok(shared) }
}

/// Why figures of one name do not mean the same in both runs.
fn other_scorer(
    runs: [&Evaluation<'_>; 2],
    sets: [&SetResult<'_>; 2],
    metric: &str,
) -> Option<String> {
    let of = |side: usize| -> (&Experiment, &Manifest) {
        (&runs[side].manifest.experiment, runs[side].manifest)
    };
    let file = |side: usize, text: &str| -> Option<String> {
        of(side).1.files.get(text.strip_prefix("file://")?).cloned()
    };
    let criterion = metric.strip_prefix("judge:");
    if metric == JUDGE || criterion.is_some() {
        let judges = [0, 1].map(|side| {
            let judge = of(side).0.judge.as_ref()?;
            let judge = match criterion {
                Some(name) => judge.by(judge.criteria.get(name)?),
                None => judge.clone(),
            };
            let digest = |name: &&str| of(side).1.models.get(*name).map(|model| &model.digest);
            let models: Vec<Option<&String>> = judge.names().iter().map(digest).collect();
            let rubric = file(side, &judge.rubric).unwrap_or(judge.rubric);
            Some((judge.grades, models, rubric, judge.shows))
        });
        return match judges {
            [Some(old), Some(new)] if old.1 != new.1 => Some("the judge is another model".into()),
            [Some(old), Some(new)] if old != new => {
                Some("the judge has another rubric, other grades or another view".into())
            }
            _ => None,
        };
    }
    let scorer = |side: usize| sets[side].set.scorers.iter().find(|s| s.name() == metric);
    let [Some(old), Some(new)] = [scorer(0), scorer(1)] else { return None };
    if old != new {
        return Some("the scorer has other settings".into());
    }
    let version = |side: usize| of(side).1.scorers.get(metric).copied().unwrap_or(1);
    if version(0) != version(1) {
        return Some(format!(
            "scorer version {} and then {}; `bench score` scores the first run again",
            version(0),
            version(1)
        ));
    }
    if matches!(new, Scorer::EmbeddingSimilarity {}) && of(0).0.embedder != of(1).0.embedder {
        return Some("it uses another embedder".into());
    }
    None
}

/// After less before, per pair.
fn compared(
    run: &Evaluation<'_>,
    set: &SetResult<'_>,
    metric: [&Metric; 2],
    pairs: &[Pair],
    shared: &[[usize; 2]],
) -> Result<Vec<Option<Comparison>>, ReportError> {
    let name = |pair: &Pair, side: usize| format!("{} {}", pair.name, ["before", "after"][side]);
    let arms: Vec<ArmScores> = pairs
        .iter()
        .flat_map(|pair| [0, 1].map(|side| (pair, side)))
        .map(|(pair, side)| ArmScores {
            arm: name(pair, side),
            scores: shared
                .iter()
                .map(|at| metric[side].scores[pair.at[side]].scores[at[side]])
                .collect(),
        })
        .collect();
    let clusters = set.clusters_of(&shared.iter().map(|at| at[1]).collect::<Vec<_>>());
    let wanted = pairs.iter().map(|pair| (name(pair, 1), name(pair, 0))).collect();
    let family = analyse(&arms, &clusters, &Pairs::Of(wanted), &run.options)?;
    Ok(family.pairs.into_iter().map(|pair| pair.comparison).collect())
}

fn row(metric: &str, arm: &str, comparison: Option<&Comparison>) -> Vec<Shown> {
    let dash = || "–".to_owned();
    let c = comparison;
    let count = |n: Option<usize>| figure(n.map(|n| n as f64), whole);
    let mut row = shown![metric, arm, c.map_or(0, |c| c.n)];
    row.extend([
        figure(c.map(|c| c.mean_b), number),
        figure(c.map(|c| c.mean_a), number),
        figure(c.map(|c| c.difference), |x| x.map_or_else(dash, signed)),
        figure(c.map(|c| c.low), |_| {
            c.map_or_else(dash, |c| format!("{} to {}", signed(c.low), signed(c.high)))
        }),
        count(c.and_then(|c| c.b_only)),
        count(c.and_then(|c| c.a_only)),
        figure(c.map(|c| c.p_holm), |p| p.map_or_else(dash, p_value)),
        c.map_or("–", |c| c.verdict.word()).into(),
    ]);
    row
}

/// The deciding metric open, the others folded.
fn quality(run: &Evaluation<'_>, arms: usize, rows: Vec<Vec<Shown>>) -> Vec<Grid> {
    let level = (run.options.level * 100.0).round();
    let grid = |title: &str, rows: Vec<Vec<Shown>>| Grid {
        rows,
        ..Grid::new(
            title,
            format!(
                "After less before, on the same samples; {level} % intervals; p is Holm's, over the arms of a metric."
            ),
            &[
                "metric",
                "arm",
                ">n",
                ">before",
                ">after",
                ">difference",
                ">its interval",
                ">lost",
                ">gained",
                ">p (Holm)",
                "verdict",
            ],
        )
    };
    let mut first = rows;
    let rest = first.split_off(arms.min(first.len()));
    vec![grid("Quality", first), grid("Other metrics", rest).folded()]
}

fn took(sets: [&SetResult<'_>; 2], pairs: &[Pair]) -> Grid {
    let mut grid = Grid::new(
        "What it took",
        "Means per answer, before and after, over all samples of each run; figures of time were not measured side by side.",
        &["arm", ">tokens in", ">tokens out", ">p50 ms", ">p95 ms", ">USD per 1,000", ">failed"],
    );
    for pair in pairs {
        let usage = [0, 1].map(|side| &sets[side].contenders[pair.at[side]].usage);
        let both = |values: [Option<f64>; 2], write: fn(Option<f64>) -> String| {
            let [old, new] = values.map(write);
            let text = if old == new { new } else { format!("{old} → {new}") };
            Shown { text, sort: values[1] }
        };
        let mut row = shown![pair.name.as_str()];
        row.extend([
            both(usage.map(|u| u.per_answer(u.tokens_in)), tenth),
            both(usage.map(|u| u.per_answer(u.tokens_out)), tenth),
            both(usage.map(|u| u.latency(0.5)), whole),
            both(usage.map(|u| u.latency(0.95)), whole),
            both(usage.map(crate::evaluation::Usage::cost_per_1000), dollars),
            both(usage.map(|u| Some(u.failed as f64)), whole),
        ]);
        grid.rows.push(row);
    }
    grid.without_empty_columns(1)
}

fn notes(
    runs: [&Evaluation<'_>; 2],
    sets: [&SetResult<'_>; 2],
    shared: &[[usize; 2]],
) -> Vec<String> {
    let mut notes = Vec::new();
    let counts = sets.map(|set| set.samples.len());
    notes.push(if counts == [shared.len(); 2] {
        format!("{} samples, the same in both runs.", shared.len())
    } else {
        format!(
            "{} samples are in both runs; the first has {}, the second {}.",
            shared.len(),
            counts[0],
            counts[1]
        )
    });
    let names = |side: usize| -> Vec<&str> {
        let mut names: Vec<&str> = sets[side]
            .contenders
            .iter()
            .map(|contender| runs[side].plans[contender.arm].name.as_str())
            .collect();
        names.dedup();
        names
    };
    for (side, word) in [(1, "New"), (0, "No longer there")] {
        let only: Vec<&str> =
            names(side).into_iter().filter(|name| !names(1 - side).contains(name)).collect();
        if !only.is_empty() {
            notes.push(format!("{word}: {}.", only.join(", ")));
        }
    }
    let decision = |side: usize| {
        let decision = sets[side].decision.as_ref()?;
        Some(decision.winner.as_ref().map_or("undecided".to_owned(), |arm| format!("use {arm}")))
    };
    if let (Some(old), Some(new)) = (decision(0), decision(1)) {
        notes.push(if old == new {
            format!("The decision stays: {new}.")
        } else {
            format!("The decision was “{old}” and is now “{new}”.")
        });
    }
    notes
}

fn flips(
    sets: [&SetResult<'_>; 2],
    metric: [&Metric; 2],
    pair: &Pair,
    shared: &[[usize; 2]],
) -> Option<Flips> {
    let mut grid =
        Grid::new("", "", &["sample", "change", "`question", "`reference", "`before", "`after"]);
    let mut totals = [0, 0];
    for (direction, word) in ["lost", "gained"].into_iter().enumerate() {
        let was_right = direction == 0;
        for at in shared {
            let right = [0, 1].map(|side| metric[side].is_right(pair.at[side], at[side]));
            if right != [Some(was_right), Some(!was_right)] {
                continue;
            }
            let trials = [0, 1].map(|side| sets[side].contenders[pair.at[side]].first(at[side]));
            let [Some(old), Some(new)] = trials else { continue };
            totals[direction] += 1;
            if grid.rows.len() >= MOST_FLIPS {
                continue;
            }
            let short = |text: &str| cut(&line(text), FLIP_TEXT);
            let answer = |record: &Record| short(record.answer().map_or("", |a| &a.text));
            grid.rows.push(shown![
                new.trial.sample.as_str(),
                word,
                short(&new.input),
                short(new.references.first().map_or("", String::as_str)),
                answer(old),
                answer(new),
            ]);
        }
    }
    let [lost, gained] = totals;
    (lost + gained > 0).then(|| Flips {
        title: format!("{}: {lost} lost, {gained} gained", pair.name),
        total: lost + gained,
        grid,
    })
}

/// Every setting, model, file, adapter and index that is not the same.
fn changes(before: &Manifest, after: &Manifest) -> Grid {
    let mut grid = Grid::new("What changed", "", &["`what", "`before", "`after"]);
    let mut found = Vec::new();
    differ("", &identity(before), &identity(after), &mut found);
    for (path, old, new) in found {
        grid.rows.push(shown![path, old, new]);
    }
    if grid.rows.is_empty() {
        grid.rows.push(shown!["nothing that the manifests record", "", ""]);
    }
    grid.folded()
}

/// What a run was made of, without what is different in every run.
fn identity(manifest: &Manifest) -> Value {
    let training: Map<String, Value> = manifest
        .training
        .iter()
        .map(|entry| {
            let name = format!("{}/{} (seed {})", entry.set, entry.arms.join("+"), entry.seed);
            let steps = entry.outcome.steps.len();
            (name, json!({ "rows": entry.rows, "steps": steps, "adapter": entry.outcome.digest }))
        })
        .collect();
    let indexes: Map<String, Value> = manifest
        .indexes
        .iter()
        .map(|entry| {
            let info = &entry.info;
            let value = json!({ "embedder": entry.embedder, "documents": info.documents, "chunks": info.chunks, "digest": info.digest });
            (format!("{}/{}", entry.set, entry.arms.join("+")), value)
        })
        .collect();
    json!({
        "program": manifest.program,
        "experiment": manifest.experiment,
        "files": manifest.files,
        "models": manifest.models,
        "scorers": manifest.scorers,
        "training": training,
        "indexes": indexes,
        "machine": manifest.machine,
    })
}

fn differ(path: &str, old: &Value, new: &Value, found: &mut Vec<(String, String, String)>) {
    if old == new {
        return;
    }
    let under = |key: &str| {
        if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
    };
    // Lists of named things (arms, eval sets) are maps.
    let maps = [named(old), named(new)];
    if let [Some(old), Some(new)] = &maps {
        for (key, value) in old {
            differ(&under(key), value, new.get(key).unwrap_or(&Value::Null), found);
        }
        for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
            differ(&under(key), &Value::Null, value, found);
        }
        return;
    }
    found.push((path.to_owned(), setting(old), setting(new)));
}

fn named(value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(entries) => Some(entries.clone()),
        Value::Array(items) if !items.is_empty() => items
            .iter()
            .map(|item| Some((item.get("name")?.as_str()?.to_owned(), item.clone())))
            .collect(),
        _ => None,
    }
}

/// A setting in few characters.
fn setting(value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::String(text) if text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit()) => {
            digest::short(text).to_owned()
        }
        Value::String(text) => cut(&line(text), SETTING),
        other => cut(&other.to_string(), SETTING),
    }
}
