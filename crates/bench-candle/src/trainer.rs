//! Training jobs: from examples to an adapter folder that is whole or absent.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bench_core::backend::{
    BackendError, ModelFolder, Probe, ProbeRow, TrainExample, TrainJob, TrainOutcome, TrainStep,
    Trainer,
};
use bench_core::spec::Finetune;
use fs_err as fs;
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    adapter::{self, Layout},
    checkpoint::{self, Progress, State},
    data::{Batch, Encoder, Row, Rows, order},
    error::TrainError,
    model::Model,
    optimizer::{AdamW, clip, learning_rate, norm},
    step::{Adapter, Dropout, Engine, Keep},
};

/// What a finished output says about itself.
const RECORD: &str = "bench.json";

/// Another version may train other numbers from the same job; raise the number when it does.
const TRAINED_BY: &str = concat!("bench-candle ", env!("CARGO_PKG_VERSION"), ", trainer 2");

/// Steps in a row that may fail to give a number.
const MOST_SKIPPED: u32 = 3;

/// Tokens of a forward pass without a way back.
const PREDICT_TOKENS: usize = 1024;

/// Trains low-rank adapters on the processor, in f32.
///
/// The same job gives the same bits on the same kind of processor, also when it was interrupted.
#[derive(Clone, Copy, Debug)]
pub struct CandleTrainer {
    /// Time between two checkpoints of a running job; one is also written after each epoch.
    pub checkpoint_every: Duration,
}

impl Default for CandleTrainer {
    fn default() -> Self {
        Self { checkpoint_every: Duration::from_mins(1) }
    }
}

impl Trainer for CandleTrainer {
    fn train(
        &self,
        job: &TrainJob,
        on_step: &mut dyn FnMut(&TrainStep),
    ) -> Result<TrainOutcome, BackendError> {
        Ok(self.run(job, on_step)?)
    }

    fn probe(
        &self,
        base: &ModelFolder,
        adapter: Option<&Path>,
        rows: &[ProbeRow],
    ) -> Result<Vec<Probe>, BackendError> {
        Ok(probe(base, adapter, rows)?)
    }
}

/// What a job will take, for plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainEstimate {
    /// Rows that are trained on.
    pub rows: u64,
    /// Rows left out because they do not fit the sequence length.
    pub rows_too_long: u64,
    /// Tokens of all epochs.
    pub tokens: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Estimated peak resident memory in bytes, weights included.
    pub peak_memory_bytes: u64,
}

/// Says what `job` will take: reads configuration and tokenizer, but computes nothing.
pub fn train_plan(job: &TrainJob) -> Result<TrainEstimate, TrainError> {
    let plan = Plan::new(job)?;
    let settings = &job.settings;
    let config = &plan.model.config;
    let rows = &plan.rows.rows;
    let longest = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
    let batch = longest * (settings.micro_batch_size as usize).min(rows.len());
    let rank = plan.layout.rank;
    let layer = config.qkv()
        + config.query()
        + config.heads
        + config.hidden
        + 2 * config.intermediate
        + 7 * rank;
    let kept = if settings.gradient_checkpointing { 1 } else { config.layers };
    let activations = batch * (layer * kept + config.hidden * config.layers);
    let scratch = batch * (8 * config.hidden + 8 * config.intermediate);
    let logits = 2 * 128 * config.vocabulary;
    let numbers = activations + scratch + logits + 4 * plan.layout.len;
    Ok(TrainEstimate {
        rows: rows.len() as u64,
        rows_too_long: plan.rows.too_long as u64,
        tokens: rows.iter().map(|row| row.tokens.len() as u64).sum::<u64>()
            * u64::from(settings.num_epochs),
        steps: plan.steps(),
        peak_memory_bytes: 4 * (plan.model.parameters + numbers as u64) + (64 << 20),
    })
}

/// A job with everything read that it depends on.
struct Plan<'a> {
    job: &'a TrainJob,
    model: Model,
    layout: Layout,
    rows: Rows,
    dev: Vec<Row>,
}

impl<'a> Plan<'a> {
    fn new(job: &'a TrainJob) -> Result<Self, TrainError> {
        let settings = &job.settings;
        check(settings)?;
        if job.examples.is_empty() {
            return Err(TrainError::NoRows);
        }
        let model = Model::open(&job.base.path)?;
        if settings.sequence_len as usize > model.config.positions {
            return Err(TrainError::Setting {
                key: "sequence_len",
                value: settings.sequence_len.to_string(),
                expected: "within the positions that the model attends to",
            });
        }
        let layout = Layout::of_settings(&model.config, settings)?;
        let encoder = Encoder::open(&job.base.path, model.config.vocabulary)?;
        let mut rows = encoder.rows("training row", &limited(job), settings)?;
        rows.rows.shrink_to_fit();
        let dev = encoder.rows("validation row", &job.dev, settings)?.rows;
        Ok(Self { job, model, layout, rows, dev })
    }

    fn rows_per_step(&self) -> usize {
        let settings = &self.job.settings;
        (settings.micro_batch_size * settings.gradient_accumulation_steps) as usize
    }

    fn steps_per_epoch(&self) -> u64 {
        self.rows.rows.len().div_ceil(self.rows_per_step()) as u64
    }

    fn steps(&self) -> u64 {
        self.steps_per_epoch() * u64::from(self.job.settings.num_epochs)
    }
}

/// The examples that `limit` leaves, in their order.
fn limited(job: &TrainJob) -> Vec<TrainExample> {
    let all = job.examples.len();
    let Some(limit) = job.settings.limit.map(|limit| limit as usize).filter(|limit| *limit < all)
    else {
        return job.examples.clone();
    };
    let mut random = ChaCha8Rng::seed_from_u64(job.seed);
    let mut drawn = index::sample(&mut random, all, limit).into_vec();
    drawn.sort_unstable();
    drawn.into_iter().map(|index| job.examples[index].clone()).collect()
}

fn check(settings: &Finetune) -> Result<(), TrainError> {
    let at_least_one = "at least 1";
    let share = "at least 0 and below 1";
    let positive = "a number above 0";
    let not_negative = "a number of at least 0";
    let rules = [
        ("num_epochs", f64::from(settings.num_epochs), settings.num_epochs > 0, at_least_one),
        (
            "micro_batch_size",
            f64::from(settings.micro_batch_size),
            settings.micro_batch_size > 0,
            at_least_one,
        ),
        (
            "gradient_accumulation_steps",
            f64::from(settings.gradient_accumulation_steps),
            settings.gradient_accumulation_steps > 0,
            at_least_one,
        ),
        ("sequence_len", f64::from(settings.sequence_len), settings.sequence_len > 1, "at least 2"),
        ("limit", f64::from(settings.limit.unwrap_or(1)), settings.limit != Some(0), at_least_one),
        (
            "lora_alpha",
            settings.lora_alpha,
            settings.lora_alpha.is_finite() && settings.lora_alpha > 0.0,
            positive,
        ),
        (
            "learning_rate",
            settings.learning_rate,
            settings.learning_rate.is_finite() && settings.learning_rate > 0.0,
            positive,
        ),
        ("lora_dropout", settings.lora_dropout, (0.0..1.0).contains(&settings.lora_dropout), share),
        ("warmup_ratio", settings.warmup_ratio, (0.0..1.0).contains(&settings.warmup_ratio), share),
        (
            "weight_decay",
            settings.weight_decay,
            settings.weight_decay.is_finite() && settings.weight_decay >= 0.0,
            not_negative,
        ),
        (
            "max_grad_norm",
            settings.max_grad_norm,
            settings.max_grad_norm.is_finite() && settings.max_grad_norm >= 0.0,
            not_negative,
        ),
    ];
    match rules.into_iter().find(|rule| !rule.2) {
        Some((key, value, _, expected)) => {
            Err(TrainError::Setting { key, value: value.to_string(), expected })
        }
        None => Ok(()),
    }
}

/// What tells one job from another, and what a finished output keeps of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    /// SHA-256 over everything below but the outcome.
    key: String,
    trained_by: String,
    /// Digest of the base model.
    base: String,
    /// SHA-256 over training and validation examples.
    data: String,
    seed: u64,
    settings: Finetune,
    /// `None` only while the job runs.
    outcome: Option<TrainOutcome>,
}

impl Record {
    fn new(job: &TrainJob) -> Result<Self, TrainError> {
        let data = serde_json::to_vec(&(&job.examples, &job.dev)).map_err(std::io::Error::from)?;
        let mut record = Self {
            key: String::new(),
            trained_by: TRAINED_BY.into(),
            base: job.base.digest.clone(),
            data: format!("{:x}", Sha256::digest(data)),
            seed: job.seed,
            // The other seeds train adapters of their own.
            settings: Finetune { seeds: vec![job.seed], ..job.settings.clone() },
            outcome: None,
        };
        let text = serde_json::to_vec(&record).map_err(std::io::Error::from)?;
        record.key = format!("{:x}", Sha256::digest(text));
        Ok(record)
    }

    /// The outcome of this job where `folder` has it already.
    fn finished(&self, folder: &Path) -> Result<Option<TrainOutcome>, TrainError> {
        if !folder.exists() {
            return Ok(None);
        }
        let occupied = |what: String| TrainError::Occupied { folder: folder.into(), what };
        let text =
            fs::read(folder.join(RECORD)).map_err(|_| occupied(format!("it has no `{RECORD}`")))?;
        let found: Self = serde_json::from_slice(&text)
            .map_err(|error| occupied(format!("its `{RECORD}` cannot be read ({error})")))?;
        if found.base != self.base {
            return Err(TrainError::OtherBase {
                folder: folder.into(),
                found: found.base,
                expected: self.base.clone(),
            });
        }
        if found.key != self.key {
            return Err(TrainError::OtherJob { folder: folder.into() });
        }
        let outcome = found.outcome.ok_or_else(|| occupied("it was left unfinished".into()))?;
        if digest(folder)? != outcome.digest {
            return Err(occupied("its files are not those that were written".into()));
        }
        Ok(Some(TrainOutcome { adapter: folder.into(), ..outcome }))
    }
}

/// SHA-256 of the adapter's files in the format of `sha256sum`.
fn digest(folder: &Path) -> Result<String, TrainError> {
    let mut lines = String::new();
    for name in [adapter::CONFIG, adapter::WEIGHTS] {
        let hash = Sha256::digest(fs::read(folder.join(name))?);
        // Writing to a `String` cannot fail.
        let _ = writeln!(lines, "{hash:x}  {name}");
    }
    Ok(format!("{:x}", Sha256::digest(lines)))
}

/// The folder of a running job, beside its output. One process at a time has it.
struct Part {
    path: PathBuf,
    _lock: fs::File,
}

impl Part {
    fn claim(output: &Path) -> Result<Self, TrainError> {
        let what = "it names no folder".to_owned();
        let name = output
            .file_name()
            .ok_or_else(|| TrainError::Occupied { folder: output.into(), what })?;
        let mut part = OsString::from(name);
        part.push(".part");
        let path = output.with_file_name(part);
        fs::create_dir_all(&path)?;
        let lock = fs::File::create(path.join("lock"))?;
        if lock.file().try_lock().is_err() {
            return Err(TrainError::Busy { folder: output.into() });
        }
        Ok(Self { path, _lock: lock })
    }

    fn remove(self) -> Result<(), TrainError> {
        Ok(fs::remove_dir_all(&self.path)?)
    }
}

impl CandleTrainer {
    fn run(
        &self,
        job: &TrainJob,
        on_step: &mut dyn FnMut(&TrainStep),
    ) -> Result<TrainOutcome, TrainError> {
        let mut record = Record::new(job)?;
        if let Some(outcome) = record.finished(&job.output)? {
            return Ok(outcome);
        }
        let plan = Plan::new(job)?;
        let part = Part::claim(&job.output)?;
        let state = match self.steps(&plan, &part.path, &record.key, on_step) {
            Err(error @ TrainError::NotFinite { .. }) => {
                // Starting again would only fail again.
                part.remove()?;
                return Err(error);
            }
            state => state?,
        };

        let folder = part.path.join("adapter");
        fs::create_dir_all(&folder)?;
        let base = job.base.path.display().to_string();
        let config = &plan.model.config;
        let dropout = job.settings.lora_dropout;
        plan.layout.write(config, &state.parameters, &base, dropout, &folder)?;
        let outcome = TrainOutcome {
            adapter: job.output.clone(),
            digest: digest(&folder)?,
            trainable_parameters: plan.layout.len as u64,
            total_parameters: plan.model.parameters + plan.layout.len as u64,
            seconds: state.progress.seconds,
            peak_memory_bytes: peak_memory_bytes(),
            rows_too_long: plan.rows.too_long as u64,
            steps: state.progress.steps,
        };
        record.outcome = Some(outcome.clone());
        let text = serde_json::to_vec_pretty(&json!(record)).map_err(std::io::Error::from)?;
        fs::write(folder.join(RECORD), text)?;
        fs::rename(&folder, &job.output)?;
        part.remove()?;
        Ok(outcome)
    }

    /// Runs the steps that are still to do.
    fn steps(
        &self,
        plan: &Plan<'_>,
        folder: &Path,
        key: &str,
        on_step: &mut dyn FnMut(&TrainStep),
    ) -> Result<State, TrainError> {
        let started = Instant::now();
        let (settings, seed, layout) = (&plan.job.settings, plan.job.seed, &plan.layout);
        let mut state = checkpoint::load(folder, key, layout.len).unwrap_or_else(|| State {
            parameters: layout.initial(&plan.model.config, seed),
            optimizer: AdamW::new(layout.len),
            progress: Progress::default(),
        });
        let before = state.progress.seconds;
        let rows = &plan.rows.rows;
        let longest = rows.iter().chain(&plan.dev).map(|row| row.tokens.len()).max().unwrap_or(0);
        let mut engine = Engine::new(&plan.model, longest);
        let mut gradient = vec![0.0; layout.len];
        let (steps, per_epoch) = (plan.steps(), plan.steps_per_epoch());
        let mut saved = Instant::now();
        while state.progress.step < steps {
            let step_started = Instant::now();
            let (epoch, in_epoch) =
                (state.progress.step / per_epoch, (state.progress.step % per_epoch) as usize);
            state.progress.step += 1;
            let step = state.progress.step;
            let order = order(rows.len(), seed, epoch);
            let from = in_epoch * plan.rows_per_step();
            let chosen = &order[from..(from + plan.rows_per_step()).min(rows.len())];
            let targets: usize = chosen.iter().map(|row| rows[*row].targets()).sum();
            let weight = 1.0 / targets as f32;
            let keep =
                if settings.gradient_checkpointing { Keep::Inputs } else { Keep::Activations };
            let share = settings.lora_dropout as f32;
            let dropout = (share > 0.0).then_some(Dropout { share, seed });
            gradient.fill(0.0);
            let mut loss = 0.0;
            for (index, batch) in chosen.chunks(settings.micro_batch_size as usize).enumerate() {
                let first = epoch * rows.len() as u64
                    + (from as u64)
                    + (index * settings.micro_batch_size as usize) as u64;
                let batch = Batch::new(batch.iter().map(|row| &rows[*row]).zip(first..));
                state.progress.tokens += batch.tokens.len() as u64;
                let adapter = Adapter { layout, parameters: &state.parameters, dropout };
                loss += engine.learn(&batch, adapter, weight, keep, &mut gradient);
            }
            loss /= targets as f64;
            let norm = norm(&gradient);
            let rate = learning_rate(settings, step, steps);
            if loss.is_finite() && norm.is_finite() {
                let share = clip(norm, settings.max_grad_norm);
                let decay = settings.weight_decay;
                state.optimizer.step(&mut state.parameters, &gradient, share, rate, decay);
                state.progress.taken = state.optimizer.steps;
                state.progress.skipped_in_a_row = 0;
            } else {
                state.progress.skipped_in_a_row += 1;
                if state.progress.skipped_in_a_row == MOST_SKIPPED {
                    let (times, learning_rate) = (MOST_SKIPPED, settings.learning_rate);
                    return Err(TrainError::NotFinite { step, times, learning_rate });
                }
            }
            state.progress.step_seconds += step_started.elapsed().as_secs_f64();
            let end_of_epoch = step.is_multiple_of(per_epoch);
            let dev_loss = (end_of_epoch && !plan.dev.is_empty()).then(|| {
                let adapter = Adapter { layout, parameters: &state.parameters, dropout: None };
                mean_loss(&mut engine, adapter, &plan.dev)
            });
            state.progress.seconds = before + started.elapsed().as_secs_f64();
            if state.progress.skipped_in_a_row == 0 {
                let Progress { tokens, step_seconds, .. } = state.progress;
                state.progress.steps.push(TrainStep {
                    step,
                    total_steps: steps,
                    loss,
                    dev_loss: dev_loss.filter(|loss| loss.is_finite()),
                    learning_rate: rate,
                    tokens,
                    tokens_per_second: tokens as f64 / step_seconds,
                });
            }
            if end_of_epoch || saved.elapsed() >= self.checkpoint_every {
                checkpoint::save(folder, key, &state)?;
                saved = Instant::now();
            }
            if state.progress.skipped_in_a_row == 0 {
                state.progress.steps.last().into_iter().for_each(&mut *on_step);
            }
        }
        Ok(state)
    }
}

/// Rows in batches of about [`PREDICT_TOKENS`] tokens.
fn batches(rows: &[Row]) -> Vec<&[Row]> {
    let mut batches = Vec::new();
    let (mut from, mut tokens) = (0, 0);
    for (index, row) in rows.iter().enumerate() {
        if index > from && tokens + row.tokens.len() > PREDICT_TOKENS {
            batches.push(&rows[from..index]);
            (from, tokens) = (index, 0);
        }
        tokens += row.tokens.len();
    }
    batches.push(&rows[from..]);
    batches
}

fn mean_loss(engine: &mut Engine<'_>, adapter: Adapter<'_>, rows: &[Row]) -> f64 {
    let (mut loss, mut n) = (0.0, 0);
    for rows in batches(rows) {
        let predictions = engine.predict(&Batch::new(rows.iter().zip(0..)), Some(adapter));
        n += predictions.len();
        loss += predictions.iter().map(|prediction| f64::from(prediction.loss)).sum::<f64>();
    }
    loss / n as f64
}

fn probe(
    base: &ModelFolder,
    adapter: Option<&Path>,
    rows: &[ProbeRow],
) -> Result<Vec<Probe>, TrainError> {
    let model = Model::open(&base.path)?;
    let adapter = adapter.map(|folder| Layout::read(&model.config, folder)).transpose()?;
    let adapter =
        adapter.as_ref().map(|(layout, parameters)| Adapter { layout, parameters, dropout: None });
    let encoder = Encoder::open(&base.path, model.config.vocabulary)?;
    let rows: Vec<Row> = rows.iter().map(|row| encoder.probe_row(row)).collect::<Result<_, _>>()?;
    if let Some(row) = rows.iter().position(|row| row.tokens.len() <= row.prompt.max(1)) {
        return Err(TrainError::EmptyCompletion { what: "probe row", row: row + 1 });
    }
    let longest = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
    let mut engine = Engine::new(&model, longest);
    let mut probes = Vec::with_capacity(rows.len());
    for rows in batches(&rows) {
        let predictions = engine.predict(&Batch::new(rows.iter().zip(0..)), adapter);
        let mut rest = predictions.as_slice();
        for row in rows {
            let (mine, others) = rest.split_at(row.targets());
            rest = others;
            let loss: f64 = mine.iter().map(|prediction| f64::from(prediction.loss)).sum();
            probes.push(Probe {
                token_ids: row.tokens.clone(),
                top1: mine.iter().map(|prediction| prediction.top).collect(),
                nll: loss / mine.len() as f64,
            });
        }
    }
    Ok(probes)
}

/// The process's peak resident memory in bytes, where the system tells.
fn peak_memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
