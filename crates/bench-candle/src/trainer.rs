//! Training jobs: from examples to an adapter folder that is whole or absent.

use std::error::Error as _;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bench_core::backend::{
    BackendError, ModelFolder, Packer, Probe, ProbeRow, Served, TrainExample, TrainJob,
    TrainOutcome, TrainStep, Trainer,
};
use bench_core::spec::{
    Finetune, InitLoraWeights, Method, Objective, Optimizer, PromptTuningInit, Quantization,
};
use fs_err as fs;
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    adapter::{self, Layout},
    blocks,
    checkpoint::{self, Best, Progress, State},
    data::{Batch, Encoder, Row, Rows, TRAINING_ROW, order},
    error::TrainError,
    generator::CandleCounter,
    merge::{fold_in, write_folder},
    model::{Model, Projection},
    ops::loss,
    optimizer::{AdamW, Moments, Rates, clip, learning_rate, norm},
    pissa, preference,
    runner::{Runner, TRAINED_ON},
    step::{Adapter, Dropout, Engine, Keep, Noise, Weigh},
    tensorboard::Events,
};

/// What a finished output says about itself.
const RECORD: &str = "bench.json";

/// Another version may train other numbers from the same job; raise the number when it does.
const TRAINED_BY: &str = concat!("bench-candle ", env!("CARGO_PKG_VERSION"), ", trainer 3");

/// Times that a step may fail to give a number and the learning rate is halved.
const MOST_HALVED: u32 = 5;

/// The weights of a model that was trained as a whole.
const MODEL: &str = "model.safetensors";

/// Tokens of a forward pass without a way back.
const PREDICT_TOKENS: usize = 1024;

/// Trains low-rank adapters, or a model's own weights: on the processor in f32, or with feature `cuda` on
/// the first GPU in bf16.
///
/// The same job gives the same bits on the same kind of processor, also when it was interrupted.
#[derive(Clone)]
pub struct CandleTrainer {
    /// Time between two checkpoints of a running job; one is also written after each epoch.
    pub checkpoint_every: Duration,
    /// Rounds a frozen base in the formats that are not GGUF's. Without it these are refused.
    pub packer: Option<Arc<dyn Packer>>,
}

impl Default for CandleTrainer {
    fn default() -> Self {
        Self { checkpoint_every: Duration::from_mins(1), packer: None }
    }
}

impl std::fmt::Debug for CandleTrainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CandleTrainer")
            .field("checkpoint_every", &self.checkpoint_every)
            .field("packer", &self.packer.is_some())
            .finish()
    }
}

impl Trainer for CandleTrainer {
    fn version(&self) -> String {
        version()
    }

    fn check(&self, job: &TrainJob) -> Result<(), BackendError> {
        if Record::new(job)?.finished(&job.output)?.is_some() {
            return Ok(());
        }
        Ok(Plan::new(job)?.check_memory()?)
    }

    fn token_ids(
        &self,
        base: &ModelFolder,
        rows: &[ProbeRow],
    ) -> Result<Vec<Vec<u32>>, BackendError> {
        let counter = CandleCounter::open(&base.path)?;
        rows.iter().map(|row| counter.token_ids(row)).collect()
    }

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
    let rows = &plan.rows.rows;
    Ok(TrainEstimate {
        rows: rows.len() as u64 / plan.unit() as u64,
        rows_too_long: plan.rows.too_long as u64,
        tokens: rows.iter().map(|row| row.tokens.len() as u64).sum::<u64>()
            * u64::from(settings.num_epochs),
        steps: plan.steps(),
        peak_memory_bytes: plan.peak_memory_bytes(settings),
    })
}

/// What the program says of a job when so many bytes of memory are free.
#[cfg(test)]
pub(crate) fn refused_for_memory(job: &TrainJob, available: u64) -> Option<String> {
    Plan::new(job).ok()?.fits(available).err().map(|error| error.to_string())
}

/// A job with everything read that it depends on.
struct Plan<'a> {
    job: &'a TrainJob,
    model: Model,
    layout: Layout,
    rows: Rows,
    dev: Rows,
    /// Tokens whose embeddings a soft prompt starts from.
    start_tokens: Vec<u32>,
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
        let layout = Layout::of_settings(&model, settings)?;
        let most = model.config.positions.saturating_sub(layout.virtual_tokens);
        if settings.sequence_len as usize > most {
            return Err(TrainError::Setting {
                key: "num_virtual_tokens",
                value: settings.num_virtual_tokens.to_string(),
                expected: "together with `sequence_len` within the positions that the model attends to",
            });
        }
        let encoder = Encoder::open(&job.base.path, model.config.vocabulary)?;
        let start_tokens = start_tokens(&encoder, &model, job)?;
        let mut rows = encoder.rows(TRAINING_ROW, &limited(job), settings)?;
        rows.rows.shrink_to_fit();
        let dev = match settings.objective {
            // There is no completion whose likelihood would say anything.
            Objective::Reward => Rows::default(),
            _ => encoder.rows("validation row", &job.dev, settings)?,
        };
        if settings.needs_dev() && dev.rows.is_empty() {
            return Err(TrainError::Together {
                key: "early_stopping_patience",
                other: "no validation rows".into(),
                remedy: "give the set a `dev` file, or leave it and `load_best_model_at_end` out",
            });
        }
        Ok(Self { job, model, layout, rows, dev, start_tokens })
    }

    /// Rows of an example: a preference has two.
    fn unit(&self) -> usize {
        unit(&self.job.settings)
    }

    fn examples(&self) -> usize {
        self.rows.rows.len() / self.unit()
    }

    fn examples_per_step(&self) -> usize {
        let settings = &self.job.settings;
        (settings.micro_batch_size * settings.gradient_accumulation_steps) as usize
    }

    fn steps_per_epoch(&self) -> u64 {
        self.examples().div_ceil(self.examples_per_step()) as u64
    }

    fn steps(&self) -> u64 {
        self.steps_per_epoch() * u64::from(self.job.settings.num_epochs)
    }

    /// Whether the validation loss is measured after a step.
    fn measures(&self, step: u64) -> bool {
        let (settings, per_epoch) = (&self.job.settings, self.steps_per_epoch());
        if self.dev.rows.is_empty() {
            return false;
        }
        if step == self.steps() {
            return true;
        }
        if let Some(every) = settings.eval_steps {
            return step.is_multiple_of(u64::from(every));
        }
        // The epoch's steps in equal parts, the last of which ends with it.
        let times = u64::from(settings.evals_per_epoch).min(per_epoch);
        let in_epoch = (step - 1) % per_epoch + 1;
        in_epoch * times / per_epoch > (in_epoch - 1) * times / per_epoch
    }

    /// Estimated peak resident memory of a job with these settings.
    fn peak_memory_bytes(&self, settings: &Finetune) -> u64 {
        let (config, layout) = (&self.model.config, &self.layout);
        let longest = self.rows.rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0)
            + layout.virtual_tokens;
        let rows = self.rows.rows.len();
        let batch = longest * (settings.micro_batch_size as usize * unit(settings)).min(rows);
        let results = config.qkv() + 2 * config.hidden + 2 * config.intermediate;
        let layer = config.qkv()
            + config.query()
            + config.heads
            + config.hidden
            + 2 * config.intermediate
            + 7 * layout.rank
            + if settings.use_dora { results } else { 0 };
        let passed = (config.layers - layout.lowest().min(config.layers)).max(1);
        let kept = if settings.gradient_checkpointing { 1 } else { passed };
        let activations = batch * (layer * kept + config.hidden * config.layers);
        let scratch = batch * (8 * config.hidden + 8 * config.intermediate);
        let logits = loss::chunk(batch, config.vocabulary) * (config.vocabulary + 3072);
        // Parameters, the last good ones, and the gradient; then two moments of each.
        let trained = 3 * 4 * layout.len + 2 * Moments::bytes(settings.optimizer, layout.len);
        let linear: usize = Projection::ALL
            .iter()
            .map(|projection| {
                let (rows, columns) = projection.shape(config);
                rows * columns * config.layers
            })
            .sum();
        let base = match settings.method {
            Method::Qlora => {
                let packed = linear / blocks::SIZE * block_bytes(settings.quantization);
                let unpacked = 2 * config.intermediate * config.hidden;
                4 * (self.model.parameters as usize - linear + unpacked) + packed
            }
            // The weights without their principal part lie beside the mapped ones.
            Method::Lora if settings.init_lora_weights == InitLoraWeights::Pissa => {
                4 * (self.model.parameters as usize + linear)
            }
            // Layers that stay in their file are given back when they are passed.
            Method::Lora if settings.gradient_checkpointing && self.model.is_mapped() => {
                4 * (self.model.parameters as usize - linear + 2 * linear / config.layers)
            }
            Method::Lora
            | Method::Full
            | Method::LastLayers
            | Method::Head
            | Method::Bitfit
            | Method::SoftPrompt => 4 * self.model.parameters as usize,
        };
        (base + trained + 4 * (activations + scratch + logits)) as u64 + (64 << 20)
    }

    /// Refuses a job that the machine has no memory for, with a setting that fits where one does.
    fn check_memory(&self) -> Result<(), TrainError> {
        // On a GPU the numbers that need memory are not in the machine's.
        let available = available_memory_bytes().filter(|_| !cfg!(feature = "cuda"));
        available.map_or(Ok(()), |available| self.fits(available))
    }

    fn fits(&self, available: u64) -> Result<(), TrainError> {
        let settings = &self.job.settings;
        let needed = self.peak_memory_bytes(settings);
        if needed <= available {
            return Ok(());
        }
        let checkpointing = Finetune { gradient_checkpointing: true, ..settings.clone() };
        let one_row = Finetune {
            micro_batch_size: 1,
            gradient_accumulation_steps: settings.micro_batch_size
                * settings.gradient_accumulation_steps,
            ..checkpointing.clone()
        };
        let eight_bit = Finetune { optimizer: Optimizer::Adamw8bit, ..one_row.clone() };
        let quantised = Finetune { method: Method::Qlora, ..one_row.clone() };
        let steps = one_row.gradient_accumulation_steps;
        let mut ways = vec![
            (checkpointing, "`gradient_checkpointing: true`".to_owned()),
            (
                one_row,
                format!(
                    "`gradient_checkpointing: true`, `micro_batch_size: 1` and `gradient_accumulation_steps: {steps}`"
                ),
            ),
        ];
        if settings.method.is_low_rank() {
            ways.push((quantised, "that and `method: qlora`".into()));
        } else {
            ways.push((eight_bit, "that and `optimizer: adamw_8bit`".into()));
        }
        let fits = ways.into_iter().find(|way| self.peak_memory_bytes(&way.0) <= available);
        let remedy = match fits {
            Some((_, way)) => format!("{way} would fit"),
            None if settings.method.is_low_rank() => "choose a smaller model".into(),
            None => "choose `method: lora`, or a smaller model".into(),
        };
        let (needed, available) = (needed >> 20, available >> 20);
        Err(TrainError::Memory { needed, available, remedy })
    }

    /// The parameters that training starts from. What a method changes in the frozen base is
    /// changed in `self.model`.
    fn start(&mut self, packer: Option<&dyn Packer>) -> Result<Vec<f32>, TrainError> {
        let (settings, seed) = (&self.job.settings, self.job.seed);
        let mut parameters = self.layout.initial(&self.model, settings.init_lora_weights, seed);
        if settings.method.is_low_rank() && settings.init_lora_weights == InitLoraWeights::Pissa {
            pissa::take_out(&mut self.model, &self.layout, &mut parameters, seed);
        }
        if !self.start_tokens.is_empty() {
            parameters = self.layout.embedded(&self.model, &self.start_tokens);
        }
        if settings.method == Method::Qlora {
            self.quantise(settings.quantization, packer)?;
        }
        Ok(parameters)
    }

    fn quantise(
        &mut self,
        quantization: Quantization,
        packer: Option<&dyn Packer>,
    ) -> Result<(), TrainError> {
        if let Some(kind) = kind(quantization) {
            return self.model.quantise(kind);
        }
        let value = || {
            let name = serde_json::to_value(quantization).unwrap_or_default();
            name.as_str().unwrap_or_default().to_owned()
        };
        let Some(packer) = packer else {
            return Err(TrainError::Setting {
                key: "quantization",
                value: value(),
                expected: "`q4_0`, `q5_0` or `q8_0` where nothing rounds weights in other formats",
            });
        };
        self.model.pack(|projection, shape, numbers| {
            let packed = packer.pack(quantization, shape, numbers).map_err(|error| {
                let (module, quantization) = (projection.name(), value());
                let what = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                TrainError::Packing { module, quantization, what }
            })?;
            Ok(blocks::Packed::Other(packed, numbers.len()))
        })
    }

    /// Writes what was trained into `folder`, in the form in which it is served.
    fn export(
        &self,
        initial: &[f32],
        parameters: &[f32],
        folder: &Path,
    ) -> Result<Served, TrainError> {
        let settings = &self.job.settings;
        // Found from wherever the adapter will be merged.
        let base = fs::canonicalize(&self.job.base.path).unwrap_or(self.job.base.path.clone());
        let base = base.display().to_string();
        let (config, dropout) = (&self.model.config, settings.lora_dropout);
        fs::create_dir_all(folder)?;
        if self.layout.is_plain_adapter() {
            if settings.init_lora_weights == InitLoraWeights::Pissa {
                let (layout, parameters) = self.layout.less(config, parameters, initial);
                layout.write(config, &parameters, &base, dropout, folder)?;
            } else {
                self.layout.write(config, parameters, &base, dropout, folder)?;
            }
            return Ok(Served::Adapter);
        }
        if self.layout.virtual_tokens > 0 || self.layout.score.is_some() {
            self.layout.write(config, parameters, &base, dropout, folder)?;
            let rewards = self.layout.score.is_some();
            return Ok(if rewards { Served::Reward } else { Served::Decoder });
        }
        // No server has a place for these numbers, so they become a part of the model.
        let mut model = Model::open(&self.job.base.path)?;
        fold_in(&mut model, &self.layout, parameters);
        write_folder(&model, &self.job.base.path, folder)?;
        if self.layout.dora {
            let adapter = folder.join("adapter");
            fs::create_dir_all(&adapter)?;
            self.layout.write(config, parameters, &base, dropout, &adapter)?;
        }
        Ok(Served::Merged)
    }
}

/// The parameters that a job starts from.
#[cfg(test)]
pub(crate) fn start(job: &TrainJob) -> Result<Vec<f32>, TrainError> {
    Plan::new(job)?.start(None)
}

/// The tokens whose embeddings a soft prompt starts from; none where it starts from random numbers.
fn start_tokens(encoder: &Encoder, model: &Model, job: &TrainJob) -> Result<Vec<u32>, TrainError> {
    let settings = &job.settings;
    if settings.method != Method::SoftPrompt {
        return Ok(Vec::new());
    }
    match settings.prompt_tuning_init {
        PromptTuningInit::Random => Ok(Vec::new()),
        PromptTuningInit::SampleVocab => {
            let mut random = ChaCha8Rng::seed_from_u64(job.seed);
            let all = model.config.vocabulary;
            let n = (settings.num_virtual_tokens as usize).min(all);
            Ok(index::sample(&mut random, all, n).into_iter().map(|id| id as u32).collect())
        }
        PromptTuningInit::Text => {
            let text = settings.prompt_tuning_init_text.as_deref().unwrap_or_default();
            let tokens = encoder.ids(text)?;
            if tokens.is_empty() {
                return Err(TrainError::Setting {
                    key: "prompt_tuning_init_text",
                    value: format!("`{text}`"),
                    expected: "a text of at least one token",
                });
            }
            Ok(tokens)
        }
    }
}

/// Rows of an example.
fn unit(settings: &Finetune) -> usize {
    match settings.objective {
        Objective::Sft => 1,
        // A completion of `kto` comes with a mismatched one.
        Objective::Dpo | Objective::Orpo | Objective::Kto | Objective::Reward => 2,
    }
}

/// GGUF's formats, which are ours; none of the others.
fn kind(quantization: Quantization) -> Option<blocks::Kind> {
    match quantization {
        Quantization::Q4_0 => Some(blocks::Kind::Q4),
        Quantization::Q5_0 => Some(blocks::Kind::Q5),
        Quantization::Q8_0 => Some(blocks::Kind::Q8),
        Quantization::Hqq4 | Quantization::Hqq8 => None,
    }
}

/// Bytes of as many weights as a block has.
fn block_bytes(quantization: Quantization) -> usize {
    // Two numbers in f32 for each 64 weights.
    let hqq = |bits: usize| (blocks::SIZE * bits / 8) + 2 * 4 * blocks::SIZE / 64;
    match quantization {
        Quantization::Hqq4 => hqq(4),
        Quantization::Hqq8 => hqq(8),
        _ => kind(quantization).map_or(0, blocks::Kind::bytes),
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
        (
            "num_virtual_tokens",
            f64::from(settings.num_virtual_tokens),
            settings.num_virtual_tokens > 0,
            at_least_one,
        ),
        ("limit", f64::from(settings.limit.unwrap_or(1)), settings.limit != Some(0), at_least_one),
        (
            "lora_alpha",
            settings.lora_alpha,
            settings.lora_alpha.is_finite() && settings.lora_alpha > 0.0,
            positive,
        ),
        ("beta", settings.beta, settings.beta.is_finite() && settings.beta > 0.0, positive),
        (
            "loraplus_lr_ratio",
            settings.loraplus_lr_ratio,
            settings.loraplus_lr_ratio.is_finite() && settings.loraplus_lr_ratio > 0.0,
            positive,
        ),
        (
            "neftune_noise_alpha",
            settings.neftune_noise_alpha,
            settings.neftune_noise_alpha.is_finite() && settings.neftune_noise_alpha >= 0.0,
            not_negative,
        ),
        (
            "eval_steps",
            f64::from(settings.eval_steps.unwrap_or(1)),
            settings.eval_steps != Some(0),
            at_least_one,
        ),
        (
            "evals_per_epoch",
            f64::from(settings.evals_per_epoch),
            settings.evals_per_epoch > 0,
            at_least_one,
        ),
        (
            "early_stopping_patience",
            f64::from(settings.early_stopping_patience.unwrap_or(1)),
            settings.early_stopping_patience != Some(0),
            at_least_one,
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
    if let Some((key, value, _, expected)) = rules.into_iter().find(|rule| !rule.2) {
        return Err(TrainError::Setting { key, value: value.to_string(), expected });
    }
    let pissa = settings.init_lora_weights == InitLoraWeights::Pissa;
    if settings.use_dora && pissa {
        let (other, remedy) = ("init_lora_weights: pissa".into(), "choose one of them");
        return Err(TrainError::Together { key: "use_dora", other, remedy });
    }
    let rewards = settings.objective == Objective::Reward;
    if rewards && (!settings.method.is_low_rank() || settings.needs_dev() || pissa) {
        let other = format!("method: {}", settings.method.name());
        let remedy = "a reward model is trained with `method: lora` or `qlora`, from plain adapters, without early stopping";
        return Err(TrainError::Together { key: "objective: reward", other, remedy });
    }
    if !settings.method.is_low_rank() && settings.has_low_rank_settings() {
        let other = format!("method: {}", settings.method.name());
        let key = "use_dora, use_rslora, init_lora_weights, loraplus_lr_ratio, lora_dropout";
        let remedy = "these are settings of adapters; leave them out, or choose `method: lora`";
        return Err(TrainError::Together { key, other, remedy });
    }
    Ok(())
}

/// Who trains, and where.
fn version() -> String {
    format!("{TRAINED_BY}{TRAINED_ON}")
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
            trained_by: version(),
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
        if trained_digest(folder)? != outcome.digest {
            return Err(occupied("its files are not those that were written".into()));
        }
        Ok(Some(TrainOutcome { adapter: folder.into(), ..outcome }))
    }
}

/// SHA-256 of the files in `folder` that were trained, in the format of `sha256sum`: a
/// [`TrainOutcome`]'s digest as long as nobody changes them.
///
/// # Errors
/// Files that are not there.
pub fn trained_digest(folder: &Path) -> Result<String, TrainError> {
    let whole = folder.join(MODEL).exists();
    let names = if whole { ["config.json", MODEL] } else { [adapter::CONFIG, adapter::WEIGHTS] };
    let mut lines = String::new();
    for name in names {
        let mut hash = Sha256::new();
        std::io::copy(&mut fs::File::open(folder.join(name))?, &mut hash)?;
        // Writing to a `String` cannot fail.
        let _ = writeln!(lines, "{:x}  {name}", hash.finalize());
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
        let path = beside(output, ".part")?;
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

/// The path of `output` with more at its end.
fn beside(output: &Path, end: &str) -> Result<PathBuf, TrainError> {
    let what = "it names no folder".to_owned();
    let name =
        output.file_name().ok_or_else(|| TrainError::Occupied { folder: output.into(), what })?;
    let mut name = OsString::from(name);
    name.push(end);
    Ok(output.with_file_name(name))
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
        forget_peak_memory();
        let mut plan = Plan::new(job)?;
        let part = Part::claim(&job.output)?;
        plan.check_memory()?;
        let initial = plan.start(self.packer.as_deref())?;
        let folder = part.path.join("adapter");
        let state = match self.steps(&plan, &initial, &part.path, &record.key, on_step)? {
            Course::Ended(state) => state,
            Course::Diverged(state) => {
                let learning_rate = job.settings.learning_rate;
                let (step, times) = (state.progress.step, state.progress.halved);
                let mut kept = String::new();
                if state.progress.good_step > 0 {
                    plan.export(&initial, &state.good, &folder)?;
                    let last_good = beside(&job.output, ".last_good")?;
                    if last_good.exists() {
                        fs::remove_dir_all(&last_good)?;
                    }
                    fs::rename(&folder, &last_good)?;
                    let step = state.progress.good_step;
                    kept = format!(
                        "; what was good after step {step} is kept in `{}`",
                        last_good.display()
                    );
                }
                // Starting again would only fail again.
                part.remove()?;
                return Err(TrainError::NotFinite { step, times, learning_rate, kept });
            }
        };
        let served = plan.export(&initial, &state.parameters, &folder)?;
        let beside_base = if plan.layout.whole.is_empty() { plan.layout.len as u64 } else { 0 };
        let best = state.progress.best.map(|best| best.step);
        let outcome = TrainOutcome {
            adapter: job.output.clone(),
            digest: trained_digest(&folder)?,
            served,
            trainable_parameters: plan.layout.len as u64,
            total_parameters: plan.model.parameters + beside_base,
            seconds: state.progress.seconds,
            peak_memory_bytes: peak_memory_bytes(),
            rows_too_long: plan.rows.too_long as u64,
            rows_cut: plan.rows.cut as u64,
            dev_rows_too_long: plan.dev.too_long as u64,
            best_step: best.filter(|_| job.settings.needs_dev()),
            halved: state.progress.halved,
            steps: state.progress.steps,
        };
        record.outcome = Some(outcome.clone());
        Events::move_to(&part.path, &folder)?;
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
        initial: &[f32],
        folder: &Path,
        key: &str,
        on_step: &mut dyn FnMut(&TrainStep),
    ) -> Result<Course, TrainError> {
        let started = Instant::now();
        let (settings, seed, layout) = (&plan.job.settings, plan.job.seed, &plan.layout);
        let kind = settings.optimizer;
        let mut state = checkpoint::load(folder, key, kind, layout.len).unwrap_or_else(|| State {
            parameters: initial.to_vec(),
            good: initial.to_vec(),
            optimizer: AdamW::new(kind, layout.len),
            progress: Progress::default(),
        });
        let before = state.progress.seconds;
        let (rows, unit) = (&plan.rows.rows, plan.unit());
        let longest =
            rows.iter().chain(&plan.dev.rows).map(|row| row.tokens.len()).max().unwrap_or(0);
        let positions = longest + layout.virtual_tokens;
        let mut engine = Runner::new(&plan.model, Some(layout), positions)?;
        let reference = match settings.objective {
            Objective::Dpo | Objective::Kto => {
                let adapter = Adapter { layout, parameters: initial, dropout: None };
                row_losses(&mut engine, adapter, rows)?
            }
            Objective::Sft | Objective::Orpo | Objective::Reward => Vec::new(),
        };
        let others = if settings.loraplus_lr_ratio.total_cmp(&1.0).is_eq() {
            Vec::new()
        } else {
            layout.b_places()
        };
        let mut gradient = vec![0.0; layout.len];
        let (steps, per_epoch) = (plan.steps(), plan.steps_per_epoch());
        let keep = if settings.gradient_checkpointing { Keep::Inputs } else { Keep::Activations };
        let share = settings.lora_dropout as f32;
        let dropout = (share > 0.0).then_some(Dropout { share, seed });
        let alpha = settings.neftune_noise_alpha as f32;
        let noise = (alpha > 0.0).then_some(Noise { alpha, seed });
        let mut events = Events::create(folder, unix_time(), &state.progress.steps)?;
        let mut saved = Instant::now();
        while state.progress.step < steps && !stops(settings, state.progress.best) {
            let step_started = Instant::now();
            let (epoch, in_epoch) =
                (state.progress.step / per_epoch, (state.progress.step % per_epoch) as usize);
            state.progress.step += 1;
            let step = state.progress.step;
            let n = plan.examples();
            let order = order(n, seed, epoch);
            let from = in_epoch * plan.examples_per_step();
            let chosen = &order[from..(from + plan.examples_per_step()).min(n)];
            let rows_of = |example: usize| example * unit..(example + 1) * unit;
            let targets: usize =
                chosen.iter().flat_map(|e| &rows[rows_of(*e)]).map(Row::targets).sum();
            // The plain loss is a mean over tokens, the others over pairs.
            let total = if unit == 1 { targets } else { chosen.len() } as f64;
            gradient.fill(0.0);
            let mut loss = 0.0;
            for (index, batch) in chosen.chunks(settings.micro_batch_size as usize).enumerate() {
                let before = from + index * settings.micro_batch_size as usize;
                let first = ((epoch as usize * n + before) * unit) as u64;
                let places: Vec<usize> = batch.iter().flat_map(|e| rows_of(*e)).collect();
                let batch_examples = batch;
                let batch = Batch::new(places.iter().map(|row| &rows[*row]).zip(first..));
                state.progress.tokens += batch.tokens.len() as u64;
                let adapter = Adapter { layout, parameters: &state.parameters, dropout };
                if unit == 1 {
                    let weigh = Weigh::Same((1.0 / total) as f32);
                    let found = engine.learn(&batch, adapter, weigh, keep, noise, &mut gradient)?;
                    loss += found.iter().map(|found| f64::from(found.loss)).sum::<f64>();
                } else if settings.objective == Objective::Reward {
                    let mut weigh = |rewards: &[f32]| {
                        let weighed = preference::weigh_rewards(rewards, 1.0 / total);
                        loss += weighed.loss;
                        weighed.weights
                    };
                    let (batch, weigh) = (batch.ends(), Weigh::Rewards(&mut weigh));
                    engine.learn(&batch, adapter, weigh, keep, noise, &mut gradient)?;
                } else {
                    let targets: Vec<usize> =
                        places.iter().map(|row| rows[*row].targets()).collect();
                    let reference: Vec<f64> =
                        places.iter().filter_map(|row| reference.get(*row).copied()).collect();
                    let labels: Vec<bool> = batch_examples
                        .iter()
                        .filter_map(|e| plan.rows.labels.get(*e))
                        .copied()
                        .collect();
                    let mut weigh = |predictions: &[crate::ops::loss::Prediction]| {
                        if settings.objective == Objective::Kto {
                            let weighed = preference::weigh_labelled(
                                settings.beta,
                                [settings.desirable_weight, settings.undesirable_weight],
                                predictions,
                                &targets,
                                &reference,
                                &labels,
                                1.0 / total,
                            );
                            loss += weighed.loss;
                            return weighed.weights;
                        }
                        let weighed = preference::weigh(
                            settings.objective,
                            settings.beta,
                            predictions,
                            &targets,
                            &reference,
                            1.0 / total,
                        );
                        loss += weighed.loss;
                        weighed.weights
                    };
                    let weigh = Weigh::Each(&mut weigh);
                    engine.learn(&batch, adapter, weigh, keep, noise, &mut gradient)?;
                }
            }
            loss /= total;
            let norm = norm(&gradient);
            let rate =
                learning_rate(settings, step, steps) * 0.5f64.powi(state.progress.halved as i32);
            let finite = loss.is_finite() && norm.is_finite();
            if finite {
                state.good.copy_from_slice(&state.parameters);
                state.progress.good_step = state.progress.held;
                let share = clip(norm, settings.max_grad_norm);
                let rates = Rates {
                    learning_rate: rate,
                    weight_decay: settings.weight_decay,
                    others: &others,
                    multiple: settings.loraplus_lr_ratio,
                };
                state.optimizer.step(&mut state.parameters, &gradient, share, rates);
                state.progress.taken = state.optimizer.steps;
                state.progress.held += 1;
            } else {
                // The step before went too far, or this one would.
                state.parameters.copy_from_slice(&state.good);
                state.progress.held = state.progress.good_step;
                state.progress.halved += 1;
                if state.progress.halved > MOST_HALVED {
                    return Ok(Course::Diverged(state));
                }
            }
            state.progress.step_seconds += step_started.elapsed().as_secs_f64();
            let dev_loss = plan.measures(step).then(|| {
                let adapter = Adapter { layout, parameters: &state.parameters, dropout: None };
                mean_loss(&mut engine, adapter, &plan.dev.rows)
            });
            let dev_loss = dev_loss.transpose()?;
            if let Some(loss) = dev_loss {
                let better = state.progress.best.is_none_or(|best| loss < best.loss);
                if better && loss.is_finite() {
                    state.progress.best = Some(Best { step, loss, worse: 0 });
                    if settings.needs_dev() {
                        checkpoint::save_best(folder, &state.parameters)?;
                    }
                } else if let Some(best) = &mut state.progress.best {
                    best.worse += 1;
                }
            }
            state.progress.seconds = before + started.elapsed().as_secs_f64();
            if finite {
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
            if step.is_multiple_of(per_epoch) || saved.elapsed() >= self.checkpoint_every {
                checkpoint::save(folder, key, &state)?;
                saved = Instant::now();
            }
            if let Some(step) = state.progress.steps.last().filter(|_| finite) {
                events.step(unix_time(), step)?;
                on_step(step);
            }
        }
        if settings.needs_dev() {
            match (checkpoint::load_best(folder, layout.len), state.progress.best) {
                (Some(best), _) => state.parameters = best,
                // No step gave a validation loss that was a number.
                (None, None) => {}
                (None, Some(_)) => {
                    let what = "the parameters of the best step are damaged or gone; remove the folder to train again";
                    return Err(TrainError::Unreadable { path: folder.into(), what: what.into() });
                }
            }
        }
        if norm(&state.parameters).is_finite() {
            Ok(Course::Ended(state))
        } else {
            Ok(Course::Diverged(state))
        }
    }
}

/// Seconds since 1970.
fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// How the steps went.
enum Course {
    Ended(State),
    /// Numbers stopped being numbers, however small the learning rate.
    Diverged(State),
}

/// Whether the validation loss has not fallen for long enough.
fn stops(settings: &Finetune, best: Option<Best>) -> bool {
    let worse = best.map_or(0, |best| best.worse);
    settings.early_stopping_patience.is_some_and(|patience| worse >= patience)
}

/// The summed loss of each row.
fn row_losses(
    engine: &mut Runner<'_>,
    adapter: Adapter<'_>,
    rows: &[Row],
) -> Result<Vec<f64>, TrainError> {
    let mut losses = Vec::with_capacity(rows.len());
    for rows in batches(rows) {
        let predictions = engine.predict(&Batch::new(rows.iter().zip(0..)), Some(adapter))?;
        let mut rest = predictions.as_slice();
        for row in rows {
            let (mine, others) = rest.split_at(row.targets());
            rest = others;
            losses.push(mine.iter().map(|prediction| f64::from(prediction.loss)).sum());
        }
    }
    Ok(losses)
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

fn mean_loss(
    engine: &mut Runner<'_>,
    adapter: Adapter<'_>,
    rows: &[Row],
) -> Result<f64, TrainError> {
    let (mut loss, mut n) = (0.0, 0);
    for rows in batches(rows) {
        let predictions = engine.predict(&Batch::new(rows.iter().zip(0..)), Some(adapter))?;
        n += predictions.len();
        loss += predictions.iter().map(|prediction| f64::from(prediction.loss)).sum::<f64>();
    }
    Ok(loss / n as f64)
}

fn probe(
    base: &ModelFolder,
    adapter: Option<&Path>,
    rows: &[ProbeRow],
) -> Result<Vec<Probe>, TrainError> {
    let record = adapter.and_then(|folder| fs::read(folder.join(RECORD)).ok());
    let record = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    if let (Some(folder), Some(record)) = (adapter, record)
        && record.base != base.digest
    {
        let (found, expected) = (record.base, base.digest.clone());
        return Err(TrainError::OtherBase { folder: folder.into(), found, expected });
    }
    let whole = adapter.filter(|folder| folder.join(MODEL).exists());
    let model = Model::open(whole.unwrap_or(&base.path))?;
    let adapter = adapter.filter(|_| whole.is_none());
    let adapter = adapter.map(|folder| Layout::read(&model.config, folder)).transpose()?;
    let adapter =
        adapter.as_ref().map(|(layout, parameters)| Adapter { layout, parameters, dropout: None });
    let encoder = Encoder::open(&base.path, model.config.vocabulary)?;
    let rows: Vec<Row> = rows.iter().map(|row| encoder.probe_row(row)).collect::<Result<_, _>>()?;
    if let Some(row) = rows.iter().position(|row| row.tokens.len() <= row.prompt.max(1)) {
        let asked = String::new();
        return Err(TrainError::EmptyCompletion { what: "probe row", row: row + 1, asked });
    }
    let longest = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0)
        + adapter.map_or(0, |adapter| adapter.layout.virtual_tokens);
    // In f32 wherever was trained: what is served is held against the model, not against its rounding.
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

/// Memory that the system could give, where it tells: what is free, and what the container that this
/// runs in may still take.
fn available_memory_bytes() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.split_whitespace().next()?.parse::<u64>().ok()? * 1024;
    let groups = Path::new("/sys/fs/cgroup");
    let limited = [
        left_in_group(groups, ["memory.max", "memory.current"], "inactive_file"),
        left_in_group(
            &groups.join("memory"),
            ["memory.limit_in_bytes", "memory.usage_in_bytes"],
            "total_inactive_file",
        ),
    ];
    Some(limited.into_iter().flatten().fold(free, u64::min))
}

/// What a control group may still take, where it has a limit: files that are only cached can go
/// ([cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files)).
fn left_in_group(group: &Path, [limit, used]: [&str; 2], cached: &str) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(group.join(name)).ok()?.trim().parse().ok()
    };
    let statistics = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cached = statistics.lines().find_map(|line| line.strip_prefix(cached));
    let cached = cached.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0);
    let used = number(used)?.saturating_sub(cached);
    Some(number(limit)?.saturating_sub(used))
}

/// Lets the peak be that of what follows, where the system can
/// ([proc(5)](https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html)).
fn forget_peak_memory() {
    // Where it cannot, the peak is that of the process.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The process's peak resident memory in bytes, where the system tells.
fn peak_memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_leaves_its_limit_less_what_cannot_go() {
        let group = tempfile::tempdir().unwrap();
        let files = ["memory.max", "memory.current"];
        let left = || left_in_group(group.path(), files, "inactive_file");
        let write = |name: &str, text: &str| fs::write(group.path().join(name), text).unwrap();
        assert_eq!(left(), None);
        write("memory.current", "700\n");
        write("memory.stat", "anon 400\ninactive_file 200\nactive_file 100\n");
        write("memory.max", "max\n");
        assert_eq!(left(), None);
        write("memory.max", "1000\n");
        assert_eq!(left(), Some(500));
        write("memory.max", "300\n");
        assert_eq!(left(), Some(0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_of_memory_can_be_counted_anew() {
        let large = std::hint::black_box(vec![1_u8; 256 << 20]);
        let high = peak_memory_bytes();
        assert!(high >= large.len() as u64);
        drop(large);
        forget_peak_memory();
        assert!(peak_memory_bytes() < high);
    }
}
