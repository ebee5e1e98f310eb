//! Records as Parquet: one row per trial, and back again without loss.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bench_core::record::{Answer, Outcome, Record, TrialId, Verdict};
use polars::prelude::{
    BooleanChunked, ChunkedArray, DataFrame, Engine, Float64Chunked, IdxSize, LazyFrame,
    ParquetReader, PlSmallStr, PlanCallback, PolarsDataType, ScanArgsParquet, ScanSources,
    SerReader as _, StringChunked, UInt32Chunked, UInt64Chunked, col,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ReportError;
use crate::table::{batches, column};

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

/// Rows that are read together when there are at most so many others between them.
const NEAR: usize = 1000;

/// One row per trial, in the order given. What is nested (prompt, passages, verdicts) is JSON text.
///
/// # Errors
/// A score that is infinite or not a number, which no JSON can hold.
pub fn trials_parquet(records: &[Record]) -> Result<Vec<u8>, ReportError> {
    trials_of(&records.iter().collect::<Vec<_>>())
}

pub(crate) fn trials_of(records: &[&Record]) -> Result<Vec<u8>, ReportError> {
    for record in records {
        let finite = |verdict: &Verdict| {
            verdict.value().into_iter().chain(verdict.parts().values().copied()).all(f64::is_finite)
        };
        if let Some((scorer, _)) = record.verdicts.iter().find(|(_, verdict)| !finite(verdict)) {
            return Err(ReportError::NotFinite {
                trial: name(&record.trial),
                scorer: scorer.clone(),
            });
        }
    }
    let label = vec![(LABEL.into(), FORMAT.to_string())];
    let is_paired = records.iter().any(|record| !record.preferences.is_empty());
    let is_graded = records.iter().any(|record| !record.qrels.is_empty());
    let frame = |records: &[&Record]| trial_frame(records, is_paired, is_graded);
    batches(records.chunks(BATCH).map(frame), || frame(&[]), label)
}

/// `is_paired`: some trial of the run has preferences. `is_graded`: some sample has graded documents.
fn trial_frame(
    records: &[&Record],
    is_paired: bool,
    is_graded: bool,
) -> Result<DataFrame, ReportError> {
    let text = |of: fn(&Record) -> Option<&str>| records.iter().map(move |record| of(record));
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
    if is_graded {
        columns.push(column("qrels", json(records, |r| &r.qrels)?));
    }
    Ok(DataFrame::new(records.len(), columns)?)
}

/// Reads what [`trials_parquet`] wrote.
///
/// # Errors
/// Bytes that are not such a file, a file of a newer version, a column that is missing.
pub fn read_trials(bytes: &[u8]) -> Result<Vec<Record>, ReportError> {
    guarded(|| Trials::open(bytes.to_vec())?.records(&[]))
}

/// Polars panics on some files whose pages are damaged: a file that the user can mend, not our mistake.
fn guarded<T>(read: impl FnOnce() -> Result<T, ReportError>) -> Result<T, ReportError> {
    // What the closure leaves half-done is dropped with it.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or(Err(ReportError::Damaged))
}

/// As [`read_trials`], without what a report of very many trials does not show: of every arm on
/// every set, all but the first prompts.
///
/// # Errors
/// As [`read_trials`].
pub fn read_figures(bytes: Vec<u8>) -> Result<Vec<Record>, ReportError> {
    guarded(|| {
        let trials = Trials::open(bytes)?;
        if !is_large(trials.rows) {
            return trials.records(&[]);
        }
        // What is not asked for is not even unpacked.
        let mut records = trials.records(&PROMPT)?;
        trials.add_prompts(&mut records)?;
        Ok(records)
    })
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

/// The columns that are looked at in part.
const PROMPT: [&str; 2] = ["key", "prompt"];

/// A file of trials, scanned by Polars' lazy engine: columns that nobody asks for are not unpacked,
/// and rows stream through in batches.
struct Trials {
    frame: LazyFrame,
    columns: Vec<PlSmallStr>,
    rows: usize,
}

/// What is kept of the batches so far; the engine hands each on and forgets it.
#[derive(Default)]
struct Read {
    records: Vec<Record>,
    error: Option<ReportError>,
}

impl Trials {
    fn open(bytes: Vec<u8>) -> Result<Self, ReportError> {
        let mut reader = ParquetReader::new(Cursor::new(&bytes));
        let labels = reader.get_metadata()?.key_value_metadata().as_deref().unwrap_or_default();
        let format =
            labels.iter().find(|label| label.key == LABEL).and_then(|l| l.value.as_deref());
        let format =
            format.and_then(|text| text.parse::<u32>().ok()).ok_or(ReportError::NotTrials)?;
        if format > FORMAT {
            return Err(ReportError::NewerFormat { what: "trials", found: format, known: FORMAT });
        }
        let columns: Vec<PlSmallStr> = reader.schema()?.iter_names().cloned().collect();
        if let Some(column) = COLUMNS.iter().find(|name| !columns.iter().any(|c| c == **name)) {
            return Err(ReportError::MissingColumn { column });
        }
        let rows = reader.num_rows()?;
        drop(reader);
        let sources = ScanSources::Buffers(Arc::from([bytes.into()]));
        // Bytes in memory have no folders that could say more columns.
        let mut arguments = ScanArgsParquet { glob: false, ..ScanArgsParquet::default() };
        arguments.hive_options.enabled = Some(false);
        let frame = LazyFrame::scan_parquet_sources(sources, arguments)?;
        Ok(Self { frame, columns, rows })
    }

    /// Every row, without some of [`PROMPT`].
    fn records(&self, without: &[&str]) -> Result<Vec<Record>, ReportError> {
        let kept = self.columns.iter().filter(|name| !without.contains(&name.as_str()));
        let read = Read { records: Vec::with_capacity(self.rows), error: None };
        let read = Arc::new(Mutex::new(read));
        let sink = Arc::clone(&read);
        // A panic while the lock was held has ended the query already.
        let take = move |frame: DataFrame| {
            let mut read = sink.lock().unwrap_or_else(PoisonError::into_inner);
            let from = read.records.len();
            match records_of(frame, from) {
                Ok(batch) => read.records.extend(batch),
                Err(error) => read.error = Some(error),
            }
            Ok(read.error.is_some())
        };
        self.frame
            .clone()
            .select(kept.map(|name| col(name.clone())).collect::<Vec<_>>())
            .sink_batches(PlanCallback::new(take), true, NonZeroUsize::new(BATCH))?
            .collect_with_engine(Engine::Streaming)?;
        let read = std::mem::take(&mut *read.lock().unwrap_or_else(PoisonError::into_inner));
        read.error.map_or(Ok(read.records), Err)
    }

    /// Gives the first trials of every arm on every set, in the order of their samples, what of
    /// [`PROMPT`] was left out.
    fn add_prompts(&self, records: &mut [Record]) -> Result<(), ReportError> {
        // By set, arm and training seed: sample, repeat and row.
        type First<'r> = BTreeMap<(&'r str, &'r str, u64), BTreeSet<(&'r str, u32, usize)>>;
        let mut first = First::new();
        for (row, record) in records.iter().enumerate() {
            let TrialId { set, arm, sample, repeat, train_seed } = &record.trial;
            let group = first.entry((set, arm, *train_seed)).or_default();
            group.insert((sample, *repeat, row));
            if group.len() > PROMPTED {
                group.pop_last();
            }
        }
        let mut rows: Vec<usize> = first.into_values().flatten().map(|(.., row)| row).collect();
        rows.sort_unstable();
        for near in rows.chunk_by(|one, next| next - one < NEAR) {
            let (from, to) = (near[0], near[near.len() - 1]);
            let part = self.frame.clone().slice(from as i64, (to - from + 1) as IdxSize);
            let part = part.select(PROMPT.map(col)).collect_with_engine(Engine::Streaming)?;
            let part = part.unwrap_single();
            let [keys, prompts] = [part.column(PROMPT[0])?.str()?, part.column(PROMPT[1])?.str()?];
            for &row in near {
                let cell = |column: &StringChunked| {
                    column.get(row - from).map(str::to_owned).ok_or_else(|| {
                        ReportError::EmptyCell { column: column.name().to_string(), row: row + 1 }
                    })
                };
                records[row].key = cell(keys)?;
                records[row].prompt = serde_json::from_str(&cell(prompts)?)?;
            }
        }
        Ok(())
    }
}

/// The rows of a batch, on all cores: reading JSON takes longer than reading Parquet.
fn records_of(mut frame: DataFrame, from: usize) -> Result<Vec<Record>, ReportError> {
    frame.rechunk_mut();
    let rows = Rows::new(&frame, from)?;
    let read = |range: Range<usize>| -> Result<Vec<Record>, ReportError> {
        range.map(|at| rows.record(at)).collect()
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = frame.height().div_ceil(threads).max(1000);
    if frame.height() <= share {
        return read(0..frame.height());
    }
    std::thread::scope(|scope| {
        let parts = (0..frame.height()).step_by(share).map(|start| {
            let end = (start + share).min(frame.height());
            let read = &read;
            scope.spawn(move || read(start..end))
        });
        let parts: Vec<_> = parts.collect();
        let mut records = Vec::with_capacity(frame.height());
        for part in parts {
            match part.join() {
                Ok(part) => records.extend(part?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(records)
    })
}

/// One row per trial and scorer: `value` is null where `reason` says why.
pub fn scores_parquet(records: &[Record]) -> Result<Vec<u8>, ReportError> {
    scores_of(&records.iter().collect::<Vec<_>>())
}

pub(crate) fn scores_of(records: &[&Record]) -> Result<Vec<u8>, ReportError> {
    batches(records.chunks(BATCH).map(score_frame), || score_frame(&[]), Vec::new())
}

fn score_frame(records: &[&Record]) -> Result<DataFrame, ReportError> {
    let rows = || {
        records.iter().flat_map(|record| {
            record.verdicts.iter().map(|(scorer, verdict)| (&record.trial, scorer, verdict))
        })
    };
    let text = |of: fn(&TrialId) -> &str| rows().map(move |(trial, ..)| Some(of(trial)));
    let columns = vec![
        column("set", text(|trial| &trial.set)),
        column("arm", text(|trial| &trial.arm)),
        column("sample", text(|trial| &trial.sample)),
        column("repeat", rows().map(|(trial, ..)| Some(i64::from(trial.repeat)))),
        column("train_seed", rows().map(|(trial, ..)| Some(trial.train_seed as i64))),
        column("scorer", rows().map(|(_, scorer, _)| Some(scorer.as_str()))),
        // Adding zero turns -0.0 into 0.0.
        column("value", rows().map(|(.., verdict)| verdict.value().map(|value| value + 0.0))),
        column(
            "reason",
            rows().map(|(.., verdict)| match verdict {
                Verdict::Scored { reason, .. } => reason.as_deref(),
                Verdict::Unscored { reason } => Some(reason.as_str()),
            }),
        ),
    ];
    Ok(DataFrame::new(rows().count(), columns)?)
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

/// The columns of a batch, each looked up once.
struct Rows<'a> {
    trial: [&'a StringChunked; 3],
    repeat: &'a UInt32Chunked,
    train_seed: &'a UInt64Chunked,
    error: &'a StringChunked,
    answer: &'a StringChunked,
    finish: &'a StringChunked,
    tokens: [&'a UInt32Chunked; 2],
    first_token_ms: &'a Float64Chunked,
    latency_ms: &'a Float64Chunked,
    retrieval_ms: &'a Float64Chunked,
    cost_usd: &'a Float64Chunked,
    full_text: Option<&'a StringChunked>,
    input: &'a StringChunked,
    cluster: &'a StringChunked,
    /// References, slices, what was retrieved, gold, verdicts.
    json: [&'a StringChunked; 5],
    /// Key and prompt, where they were asked for.
    prompt: Option<[&'a StringChunked; 2]>,
    /// Preferences, calls, budget, graded documents: not every file has them.
    added: [Option<&'a StringChunked>; 4],
    unanswerable: Option<&'a BooleanChunked>,
    /// Rows of the file before this batch.
    from: usize,
}

impl<'a> Rows<'a> {
    fn new(frame: &'a DataFrame, from: usize) -> Result<Self, ReportError> {
        let text = |name: &str| frame.column(name)?.str();
        let count = |name: &str| frame.column(name)?.u32();
        let number = |name: &str| frame.column(name)?.f64();
        let has = |name: &str| frame.get_column_index(name).is_some();
        let added = |name: &str| has(name).then(|| text(name)).transpose();
        Ok(Self {
            trial: [text("set")?, text("arm")?, text("sample")?],
            repeat: count("repeat")?,
            train_seed: frame.column("train_seed")?.u64()?,
            error: text("error")?,
            answer: text("answer")?,
            finish: text("finish")?,
            tokens: [count("tokens_in")?, count("tokens_out")?],
            first_token_ms: number("first_token_ms")?,
            latency_ms: number("latency_ms")?,
            retrieval_ms: number("retrieval_ms")?,
            cost_usd: number("cost_usd")?,
            full_text: added("full_text")?,
            input: text("input")?,
            cluster: text("cluster")?,
            json: [
                text("references")?,
                text("slices")?,
                text("retrieved")?,
                text("gold")?,
                text("verdicts")?,
            ],
            prompt: match (added("key")?, added("prompt")?) {
                (Some(key), Some(prompt)) => Some([key, prompt]),
                _ => None,
            },
            added: [added("preferences")?, added("calls")?, added("budget")?, added("qrels")?],
            unanswerable: match frame.column("unanswerable") {
                Ok(column) => Some(column.bool()?),
                Err(_) => None,
            },
            from,
        })
    }

    fn record(&self, at: usize) -> Result<Record, ReportError> {
        let owned = |column: &StringChunked| column.get(at).map(str::to_owned);
        let text = |column: &StringChunked| owned(column).ok_or_else(|| self.empty(column, at));
        let count = |column: &UInt32Chunked| column.get(at).ok_or_else(|| self.empty(column, at));
        let number = |column: &Float64Chunked| column.get(at).ok_or_else(|| self.empty(column, at));
        let outcome = match owned(self.error) {
            Some(error) => Outcome::Failed { error },
            None => Outcome::Answered(Answer {
                text: text(self.answer)?,
                tokens_in: count(self.tokens[0])?,
                tokens_out: count(self.tokens[1])?,
                first_token_ms: self.first_token_ms.get(at),
                latency_ms: number(self.latency_ms)?,
                retrieval_ms: number(self.retrieval_ms)?,
                finish: text(self.finish)?,
                cost_usd: self.cost_usd.get(at),
                full_text: self.full_text.and_then(owned),
            }),
        };
        let [set, arm, sample] = self.trial;
        let [references, slices, retrieved, gold, verdicts] = self.json;
        let [preferences, calls, budget, qrels] = self.added;
        let seed = self.train_seed.get(at).ok_or_else(|| self.empty(self.train_seed, at))?;
        Ok(Record {
            trial: TrialId {
                set: text(set)?,
                arm: text(arm)?,
                sample: text(sample)?,
                repeat: count(self.repeat)?,
                train_seed: seed,
            },
            key: self.prompt.map_or(Ok(String::new()), |[key, _]| text(key))?,
            input: text(self.input)?,
            references: self.json(references, at)?,
            cluster: owned(self.cluster),
            slices: self.json(slices, at)?,
            prompt: self.prompt.map_or(Ok(Vec::new()), |[_, prompt]| self.json(prompt, at))?,
            retrieved: self.json(retrieved, at)?,
            gold: self.json(gold, at)?,
            qrels: qrels.map_or(Ok(BTreeMap::new()), |column| self.json(column, at))?,
            outcome,
            verdicts: self.json(verdicts, at)?,
            preferences: preferences.map_or(Ok(Vec::new()), |column| self.json(column, at))?,
            calls: calls.map_or(Ok(Vec::new()), |column| self.json(column, at))?,
            budget: budget.map_or(Ok(None), |column| self.json(column, at))?,
            unanswerable: self.unanswerable.and_then(|column| column.get(at)).unwrap_or(false),
        })
    }

    fn json<T: DeserializeOwned>(
        &self,
        column: &StringChunked,
        at: usize,
    ) -> Result<T, ReportError> {
        let text = column.get(at).ok_or_else(|| self.empty(column, at))?;
        Ok(serde_json::from_str(text)?)
    }

    fn empty<T: PolarsDataType>(&self, column: &ChunkedArray<T>, at: usize) -> ReportError {
        ReportError::EmptyCell { column: column.name().to_string(), row: self.from + at + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_over_a_damaged_page_is_an_error_of_the_file() {
        let page: &[u8] = &[];
        let error = guarded(|| Ok(page[page.len()])).unwrap_err();
        assert!(matches!(error, ReportError::Damaged), "{error}");
        assert!(guarded(|| Ok(1)).is_ok());
    }
}
