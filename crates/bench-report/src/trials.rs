//! Records as Parquet: one row per trial, and back again without loss.

use std::collections::BTreeMap;
use std::io::Cursor;

use bench_core::record::{Answer, Outcome, Record, TrialId, Verdict};
use polars::prelude::{DataFrame, ParquetReader, SerReader as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ReportError;
use crate::table::{Kind, Table, batches, column, row};

/// Version of the layout of `trials.parquet`.
const FORMAT: u32 = 1;

/// Where a file says its version.
const LABEL: &str = "bench.trials";

/// The columns that every file of this version has; later ones may be absent.
const COLUMNS: [&str; 23] = [
    "set",
    "arm",
    "sample",
    "repeat",
    "train_seed",
    "key",
    "input",
    "cluster",
    "answer",
    "error",
    "finish",
    "tokens_in",
    "tokens_out",
    "first_token_ms",
    "latency_ms",
    "retrieval_ms",
    "cost_usd",
    "references",
    "slices",
    "prompt",
    "retrieved",
    "gold",
    "verdicts",
];

/// Rows that are written and read at once: what is in memory twice.
const BATCH: usize = 50_000;

/// Trials per arm, on one set, whose prompts are kept where there are very many.
const PROMPTED: usize = 200;

/// One row per trial, in the order given. What is nested (prompt, passages, verdicts) is JSON text.
///
/// # Errors
/// A score that is infinite or not a number, which no JSON can hold.
pub fn trials_parquet(records: &[Record]) -> Result<Vec<u8>, ReportError> {
    trials_of(&records.iter().collect::<Vec<_>>())
}

pub(crate) fn trials_of(records: &[&Record]) -> Result<Vec<u8>, ReportError> {
    for record in records {
        let finite = |verdict: &Verdict| verdict.value().is_none_or(f64::is_finite);
        if let Some((scorer, _)) = record.verdicts.iter().find(|(_, verdict)| !finite(verdict)) {
            return Err(ReportError::NotFinite {
                trial: name(&record.trial),
                scorer: scorer.clone(),
            });
        }
    }
    let label = vec![(LABEL.into(), FORMAT.to_string())];
    let is_paired = records.iter().any(|record| !record.preferences.is_empty());
    let frame = |records: &[&Record]| trial_frame(records, is_paired);
    batches(records.chunks(BATCH).map(frame), || frame(&[]), label)
}

/// `is_paired`: some trial of the run has preferences.
fn trial_frame(records: &[&Record], is_paired: bool) -> Result<DataFrame, ReportError> {
    let text = |of: fn(&Record) -> Option<&str>| {
        records.iter().map(move |record| of(record).map(str::to_owned))
    };
    let number = |of: fn(&Answer) -> Option<f64>| {
        records.iter().map(move |record| record.answer().and_then(of))
    };
    let count = |of: fn(&Answer) -> u32| records.iter().map(move |r| r.answer().map(of));
    let mut columns = vec![
        column("set", text(|r| Some(&r.trial.set))),
        column("arm", text(|r| Some(&r.trial.arm))),
        column("sample", text(|r| Some(&r.trial.sample))),
        column("repeat", records.iter().map(|r| Some(r.trial.repeat))),
        column("train_seed", records.iter().map(|r| Some(r.trial.train_seed))),
        column("key", text(|r| Some(&r.key))),
        column("input", text(|r| Some(&r.input))),
        column("cluster", text(|r| r.cluster.as_deref())),
        column("answer", text(|r| r.answer().map(|a| a.text.as_str()))),
        column("error", text(error)),
        column("finish", text(|r| r.answer().map(|a| a.finish.as_str()))),
        column("tokens_in", count(|a| a.tokens_in)),
        column("tokens_out", count(|a| a.tokens_out)),
        column("first_token_ms", number(|a| a.first_token_ms)),
        column("latency_ms", number(|a| Some(a.latency_ms))),
        column("retrieval_ms", number(|a| Some(a.retrieval_ms))),
        column("cost_usd", number(|a| a.cost_usd)),
        column("references", json(records, |r| &r.references)?),
        column("slices", json(records, |r| &r.slices)?),
        column("prompt", json(records, |r| &r.prompt)?),
        column("retrieved", json(records, |r| &r.retrieved)?),
        column("gold", json(records, |r| &r.gold)?),
        column("verdicts", json(records, |r| &r.verdicts)?),
        column("full_text", text(|r| r.answer().and_then(|a| a.full_text.as_deref()))),
        column("calls", json(records, |r| &r.calls)?),
        column("budget", json(records, |r| &r.budget)?),
        column("unanswerable", records.iter().map(|r| Some(r.unanswerable))),
    ];
    if is_paired {
        columns.push(column("preferences", json(records, |r| &r.preferences)?));
    }
    Ok(DataFrame::new(records.len(), columns)?)
}

/// Reads what [`trials_parquet`] wrote.
///
/// # Errors
/// Bytes that are not such a file, a file of a newer version, a column that is missing.
pub fn read_trials(bytes: &[u8]) -> Result<Vec<Record>, ReportError> {
    let mut records = Vec::new();
    each_batch(bytes, |batch| {
        records.extend(batch);
        Ok(())
    })?;
    Ok(records)
}

/// As [`read_trials`], without what a report of very many trials does not show: of every arm on
/// every set, all but the first prompts.
///
/// # Errors
/// As [`read_trials`].
pub fn read_figures(bytes: &[u8]) -> Result<Vec<Record>, ReportError> {
    let mut records: Vec<Record> = Vec::new();
    let mut seen: BTreeMap<(String, String, u64), usize> = BTreeMap::new();
    let most = prompted(usize::MAX, ParquetReader::new(Cursor::new(bytes)).num_rows()?);
    each_batch(bytes, |batch| {
        records.reserve(batch.len());
        for mut record in batch {
            let TrialId { set, arm, train_seed, .. } = &record.trial;
            let n = seen.entry((set.clone(), arm.clone(), *train_seed)).or_default();
            *n += 1;
            if *n > most {
                record.prompt = Vec::new();
                record.key = String::new();
            }
            records.push(record);
        }
        Ok(())
    })?;
    Ok(records)
}

/// Of how many trials of an arm on a set the prompts are looked at, in a run of so many trials.
pub(crate) fn prompted(trials: usize, of_run: usize) -> usize {
    if is_large(of_run) { trials.min(PROMPTED) } else { trials }
}

/// Whether a run has so many trials that its report is made from [`read_figures`].
pub fn is_large(trials: usize) -> bool {
    trials > LARGE
}

/// Trials of a run from which on prompts are looked at in part.
const LARGE: usize = 200_000;

fn each_batch(
    bytes: &[u8],
    mut take: impl FnMut(Vec<Record>) -> Result<(), ReportError>,
) -> Result<(), ReportError> {
    let mut reader = ParquetReader::new(Cursor::new(bytes));
    let labels = reader.get_metadata()?.key_value_metadata().as_deref().unwrap_or_default();
    let format = labels.iter().find(|label| label.key == LABEL).and_then(|l| l.value.as_deref());
    let format = format.and_then(|text| text.parse::<u32>().ok()).ok_or(ReportError::NotTrials)?;
    if format > FORMAT {
        return Err(ReportError::NewerFormat { what: "trials", found: format, known: FORMAT });
    }
    let rows = reader.num_rows()?;
    for from in (0..rows).step_by(BATCH) {
        let reader = ParquetReader::new(Cursor::new(bytes));
        let frame = reader.with_slice(Some((from, BATCH.min(rows - from)))).finish()?;
        take(records_of(&frame, from)?)?;
    }
    Ok(())
}

/// The rows of a batch, on two threads: reading JSON takes longer than reading Parquet.
fn records_of(frame: &DataFrame, from: usize) -> Result<Vec<Record>, ReportError> {
    if let Some(column) = COLUMNS.iter().find(|column| frame.column(column).is_err()) {
        return Err(ReportError::MissingColumn { column });
    }
    let rows = Rows { frame, from };
    let half = frame.height() / 2;
    let read = |range: std::ops::Range<usize>| -> Result<Vec<Record>, ReportError> {
        range.map(|at| rows.record(at)).collect()
    };
    if half < 1000 {
        return read(0..frame.height());
    }
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| read(half..frame.height()));
        (read(0..half), second.join())
    });
    let mut records = first?;
    match second {
        Ok(second) => records.extend(second?),
        Err(panic) => std::panic::resume_unwind(panic),
    }
    Ok(records)
}

/// One row per trial and scorer: `value` is null where `reason` says why.
pub fn scores_parquet(records: &[Record]) -> Result<Vec<u8>, ReportError> {
    scores_of(&records.iter().collect::<Vec<_>>())
}

pub(crate) fn scores_of(records: &[&Record]) -> Result<Vec<u8>, ReportError> {
    batches(records.chunks(BATCH).map(score_frame), || score_frame(&[]), Vec::new())
}

fn score_frame(records: &[&Record]) -> Result<DataFrame, ReportError> {
    let mut table = Table::new(&[
        ("set", Kind::Text),
        ("arm", Kind::Text),
        ("sample", Kind::Text),
        ("repeat", Kind::Count),
        ("train_seed", Kind::Count),
        ("scorer", Kind::Text),
        ("value", Kind::Number),
        ("reason", Kind::Text),
    ]);
    for Record { trial, verdicts, .. } in records {
        for (scorer, verdict) in verdicts {
            let reason = match verdict {
                Verdict::Scored { reason, .. } => reason.as_deref(),
                Verdict::Unscored { reason } => Some(reason.as_str()),
            };
            table.push(row![
                trial.set.as_str(),
                trial.arm.as_str(),
                trial.sample.as_str(),
                u64::from(trial.repeat),
                trial.train_seed,
                scorer.as_str(),
                verdict.value(),
                reason,
            ]);
        }
    }
    Ok(table.exact_frame()?)
}

/// A trial in words, for messages.
pub(crate) fn name(trial: &TrialId) -> String {
    let TrialId { set, arm, sample, repeat, train_seed } = trial;
    format!(
        "set `{set}`, arm `{arm}`, sample `{sample}`, repeat {repeat}, training seed {train_seed}"
    )
}

fn error(record: &Record) -> Option<&str> {
    match &record.outcome {
        Outcome::Answered(_) => None,
        Outcome::Failed { error } => Some(error),
    }
}

fn json<T: Serialize>(
    records: &[&Record],
    of: impl Fn(&Record) -> &T,
) -> Result<impl Iterator<Item = Option<String>>, ReportError> {
    let texts: Result<Vec<String>, serde_json::Error> =
        records.iter().map(|record| serde_json::to_string(of(record))).collect();
    Ok(texts?.into_iter().map(Some))
}

struct Rows<'a> {
    frame: &'a DataFrame,
    /// Rows of the file before this frame.
    from: usize,
}

impl Rows<'_> {
    fn record(&self, at: usize) -> Result<Record, ReportError> {
        let outcome = match self.optional_text("error", at)? {
            Some(error) => Outcome::Failed { error },
            None => Outcome::Answered(Answer {
                text: self.text("answer", at)?,
                tokens_in: self.count("tokens_in", at)?,
                tokens_out: self.count("tokens_out", at)?,
                first_token_ms: self.number("first_token_ms", at)?,
                latency_ms: self
                    .number("latency_ms", at)?
                    .ok_or_else(|| self.empty("latency_ms", at))?,
                retrieval_ms: self
                    .number("retrieval_ms", at)?
                    .ok_or_else(|| self.empty("retrieval_ms", at))?,
                finish: self.text("finish", at)?,
                cost_usd: self.number("cost_usd", at)?,
                full_text: if self.has("full_text") {
                    self.optional_text("full_text", at)?
                } else {
                    None
                },
            }),
        };
        let train_seed = self.frame.column("train_seed")?.u64()?.get(at);
        Ok(Record {
            trial: TrialId {
                set: self.text("set", at)?,
                arm: self.text("arm", at)?,
                sample: self.text("sample", at)?,
                repeat: self.count("repeat", at)?,
                train_seed: train_seed.ok_or_else(|| self.empty("train_seed", at))?,
            },
            key: self.text("key", at)?,
            input: self.text("input", at)?,
            references: self.json("references", at)?,
            cluster: self.optional_text("cluster", at)?,
            slices: self.json("slices", at)?,
            prompt: self.json("prompt", at)?,
            retrieved: self.json("retrieved", at)?,
            gold: self.json("gold", at)?,
            outcome,
            verdicts: self.json("verdicts", at)?,
            preferences: self.added("preferences", at)?,
            calls: self.added("calls", at)?,
            budget: self.added("budget", at)?,
            unanswerable: match self.frame.column("unanswerable") {
                Ok(column) => column.bool()?.get(at).unwrap_or(false),
                // Files of earlier programs lack it.
                Err(_) => false,
            },
        })
    }

    fn has(&self, name: &str) -> bool {
        self.frame.get_column_index(name).is_some()
    }

    /// A column that files of earlier programs lack.
    fn added<T: DeserializeOwned + Default>(
        &self,
        name: &'static str,
        at: usize,
    ) -> Result<T, ReportError> {
        if self.has(name) { self.json(name, at) } else { Ok(T::default()) }
    }

    fn optional_text(&self, name: &str, at: usize) -> Result<Option<String>, ReportError> {
        Ok(self.frame.column(name)?.str()?.get(at).map(str::to_owned))
    }

    fn text(&self, name: &'static str, at: usize) -> Result<String, ReportError> {
        self.optional_text(name, at)?.ok_or_else(|| self.empty(name, at))
    }

    fn count(&self, name: &'static str, at: usize) -> Result<u32, ReportError> {
        self.frame.column(name)?.u32()?.get(at).ok_or_else(|| self.empty(name, at))
    }

    fn number(&self, name: &str, at: usize) -> Result<Option<f64>, ReportError> {
        Ok(self.frame.column(name)?.f64()?.get(at))
    }

    fn json<T: DeserializeOwned>(&self, name: &'static str, at: usize) -> Result<T, ReportError> {
        Ok(serde_json::from_str(&self.text(name, at)?)?)
    }

    fn empty(&self, column: &'static str, at: usize) -> ReportError {
        ReportError::EmptyCell { column, row: self.from + at + 1 }
    }
}
