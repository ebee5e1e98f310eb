//! Answers by this crate's own decoder, for what no other server has a place for: soft prompts, and
//! families that it does not know.
//!
//! Tokens are chosen by [`bench_core::sampling`], as everywhere.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use bench_core::backend::{
    BackendError, Completion, Generator, Loader, ModelFolder, Probe, ProbeRow, Request,
    TokenLogprob,
};
use bench_core::chat::Message;
use bench_core::{digest, sampling};
use fs_err as fs;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::adapter::{CONFIG, Layout};
use crate::data::{Batch, Encoder};
use crate::decode::Decoder;
use crate::error::TrainError;
use crate::model::{Config, Model};
use crate::step::{Adapter, Engine};

const BACKEND: &str = "candle";

/// Loads models into this crate's own decoder: f32 on the processor, one answer at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct CandleLoader;

impl CandleLoader {
    /// Whether a folder holds a soft prompt, which only this decoder can serve.
    pub fn is_soft_prompt(adapter: &Path) -> bool {
        fs::read(adapter.join(CONFIG))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .is_some_and(|config| config["peft_type"] == crate::adapter::PROMPT_TUNING)
    }

    /// Whether a folder holds a reward model, which only this decoder can serve.
    pub fn is_reward(adapter: &Path) -> bool {
        fs::read(adapter.join(CONFIG))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .is_some_and(|config| config["task_type"] == crate::adapter::REWARD_TASK)
    }

    /// Whether a model is of a family that only this decoder can serve.
    pub fn is_own_family(model: &Path) -> bool {
        fs::read(model.join("config.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .is_some_and(|config| config["model_type"] == "gemma3_text")
    }
}

impl CandleLoader {
    /// Why answers cannot be held to a language.
    pub fn no_constraint() -> BackendError {
        BackendError::rejected(BACKEND, NO_CONSTRAINT)
    }
}

/// Counts the tokens of prompts, without weights.
pub struct CandleCounter {
    encoder: Encoder,
    window: u32,
}

impl CandleCounter {
    /// The tokenizer and template of a model folder.
    ///
    /// # Errors
    /// A folder without them, or of a family that is not known.
    pub fn open(folder: &Path) -> Result<Self, BackendError> {
        let config = fs::read_to_string(folder.join("config.json")).map_err(TrainError::from)?;
        let config = Config::parse(&config)?;
        let encoder = Encoder::open(folder, config.vocabulary)?;
        Ok(Self { encoder, window: u32::try_from(config.positions).unwrap_or(u32::MAX) })
    }

    /// Tokens of the conversation, its chat template included.
    ///
    /// # Errors
    /// A chat template that refuses the conversation.
    pub fn count(&self, messages: &[Message]) -> Result<u32, BackendError> {
        let prompt = self.encoder.prompt(messages);
        prompt.map(|ids| ids.len() as u32).map_err(|error| BackendError::rejected(BACKEND, error))
    }

    /// The ids of a conversation and its known answer.
    ///
    /// # Errors
    /// A chat template that refuses the conversation.
    pub fn token_ids(&self, row: &ProbeRow) -> Result<Vec<u32>, BackendError> {
        Ok(self.encoder.probe_row(row)?.tokens)
    }

    /// Tokens that prompt and answer may take together.
    pub fn context_window(&self) -> u32 {
        self.window
    }
}

impl Loader for CandleLoader {
    fn load(
        &self,
        model: &ModelFolder,
        adapter: Option<&Path>,
    ) -> Result<Arc<dyn Generator>, BackendError> {
        Ok(Arc::new(CandleGenerator::load(model, adapter)?))
    }
}

/// A model in memory, with its adapter beside it.
struct CandleGenerator {
    id: String,
    served: Arc<Served>,
    /// One answer at a time: each uses all cores.
    turn: Mutex<()>,
}

struct Served {
    model: Model,
    adapter: Option<(Layout, Vec<f32>)>,
    encoder: Encoder,
    ends: Vec<u32>,
}

impl CandleGenerator {
    fn load(folder: &ModelFolder, adapter: Option<&Path>) -> Result<Self, TrainError> {
        let model = Model::open(&folder.path)?;
        let encoder = Encoder::open(&folder.path, model.config.vocabulary)?;
        let ends = ends(&folder.path, &encoder)?;
        let name = folder.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut id = format!("candle, {name} {}, f32", digest::short(&folder.digest));
        let adapter = match adapter {
            Some(path) => {
                let weights = fs::read(path.join(crate::adapter::WEIGHTS))?;
                id.push_str(", adapter ");
                id.push_str(digest::short(&digest::of_bytes(&weights)));
                Some(Layout::read(&model.config, path)?)
            }
            None => None,
        };
        Ok(Self {
            id,
            served: Arc::new(Served { model, adapter, encoder, ends }),
            turn: Mutex::new(()),
        })
    }

    /// Runs work off the runtime, one at a time; it is told when nobody waits for it any more.
    async fn alone<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Served, &AtomicBool) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let _turn = self.turn.lock().await;
        let served = Arc::clone(&self.served);
        let cancel = Cancel(Arc::new(AtomicBool::new(false)));
        let cancelled = Arc::clone(&cancel.0);
        tokio::task::spawn_blocking(move || work(&served, &cancelled))
            .await
            .map_err(|panic| BackendError::rejected(BACKEND, format!("it broke off: {panic}")))?
    }
}

/// Ends the work in progress when its caller goes away.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Served {
    fn adapter(&self) -> Option<Adapter<'_>> {
        let adapter = self.adapter.as_ref();
        adapter.map(|(layout, parameters)| Adapter { layout, parameters, dropout: None })
    }

    fn virtual_tokens(&self) -> usize {
        self.adapter.as_ref().map_or(0, |(layout, _)| layout.virtual_tokens)
    }

    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>, BackendError> {
        let prompt = self.encoder.prompt(messages);
        prompt.map_err(|error| BackendError::rejected(BACKEND, error))
    }

    fn check_window(&self, prompt: usize, answer: usize) -> Result<(), BackendError> {
        let window = self.model.config.positions;
        if prompt + answer <= window {
            return Ok(());
        }
        let message = format!(
            "a prompt of {prompt} tokens and up to {answer} for the answer do not fit the context window of {window}; shorten the prompt or lower `max_tokens`"
        );
        Err(BackendError::rejected(BACKEND, message))
    }

    /// The reward of the last turn as an answer to those before it; the text is the number.
    fn reward(&self, request: &Request) -> Result<Completion, BackendError> {
        let started = Instant::now();
        let rejected = |message: &str| BackendError::rejected(BACKEND, message.to_owned());
        let Some((answer, asked)) = request.messages.split_last() else {
            return Err(rejected("there is no answer to give a reward to"));
        };
        let (messages, completion) = (asked.to_vec(), answer.content.clone());
        let row = self.encoder.probe_row(&ProbeRow { messages, completion })?;
        self.check_window(row.tokens.len(), 0)?;
        let adapter = self.adapter().ok_or_else(|| rejected("a reward model has an adapter"))?;
        let batch = Batch::new([(&row, 0)]).ends();
        let rewards = Engine::new(&self.model, row.tokens.len()).rewards(&batch, adapter);
        let reward = rewards.first().filter(|reward| reward.is_finite());
        let reward = reward.ok_or_else(|| rejected("the reward is not a number"))?;
        Ok(Completion {
            text: reward.to_string(),
            tokens_in: row.tokens.len() as u32,
            latency_ms: started.elapsed().as_secs_f64() * 1e3,
            finish: "reward".into(),
            ..Completion::default()
        })
    }

    fn answer(
        &self,
        request: &Request,
        cancelled: &AtomicBool,
    ) -> Result<Completion, BackendError> {
        let rewards = self.adapter.as_ref().is_some_and(|(layout, _)| layout.score.is_some());
        if rewards {
            return self.reward(request);
        }
        let started = Instant::now();
        let rejected = |message: String| BackendError::rejected(BACKEND, message);
        if request.constraint.is_some() {
            return Err(rejected(NO_CONSTRAINT.into()));
        }
        let prompt = self.prompt(&request.messages)?;
        let n_prompt = prompt.len() + self.virtual_tokens();
        let most = request.max_tokens as usize;
        self.check_window(n_prompt, most)?;
        if most == 0 {
            return Err(rejected("`max_tokens` is 0; ask for at least 1".into()));
        }
        let stop: Vec<&String> = request.stop.iter().filter(|stop| !stop.is_empty()).collect();
        let mut decoder = Decoder::new(&self.model, self.adapter(), prompt.len() + most);
        let mut logits = decoder.see(&prompt);
        let (mut first_token, mut ended, mut cut) = (None, false, None);
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        let mut text = String::new();
        while tokens.len() < most && !ended && cut.is_none() {
            if logits.iter().any(|logit| logit.is_nan()) {
                return Err(rejected(
                    "the model's logits are not numbers; its weights are damaged, or training diverged"
                        .into(),
                ));
            }
            if cancelled.load(Ordering::Relaxed) {
                return Err(rejected("nobody waits for the answer".into()));
            }
            let id = if request.temperature > 0.0 {
                let point = sampling::uniform(request.seed, tokens.len() as u64, 0);
                let top_p = request.top_p.unwrap_or(1.0);
                sampling::sample(&logits, request.temperature, top_p, point)
            } else {
                sampling::likeliest(&logits)
            } as u32;
            first_token.get_or_insert_with(|| started.elapsed());
            tokens.push(id);
            ended = self.ends.contains(&id);
            if ended {
                break;
            }
            if request.top_logprobs > 0 {
                logprobs.push(self.logprob(&logits, id, request.top_logprobs.into())?);
            }
            text = self.encoder.text(&tokens).map_err(rejected)?;
            cut = stop.iter().filter_map(|stop| text.find(*stop)).min();
            if cut.is_none() && tokens.len() < most {
                logits = decoder.see(&[id]);
            }
        }
        if let Some(cut) = cut {
            text.truncate(cut);
        }
        let milliseconds = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
        Ok(Completion {
            text,
            tokens_in: n_prompt as u32,
            tokens_out: tokens.len() as u32,
            first_token_ms: first_token.map(milliseconds),
            latency_ms: milliseconds(started.elapsed()),
            finish: if ended || cut.is_some() { "stop" } else { "length" }.into(),
            logprobs,
        })
    }

    fn logprob(&self, logits: &[f32], id: u32, n: usize) -> Result<TokenLogprob, BackendError> {
        let normaliser = sampling::log_sum_exp(logits);
        let name = |id: u32| {
            let name = self.encoder.name(id);
            name.map_err(|error| BackendError::rejected(BACKEND, error))
        };
        let logprob = |id: usize| f64::from(logits[id]) - normaliser;
        Ok(TokenLogprob {
            token: name(id)?,
            logprob: logprob(id as usize),
            top: sampling::best(logits, n)
                .into_iter()
                .map(|id| Ok((name(id as u32)?, logprob(id))))
                .collect::<Result<_, BackendError>>()?,
        })
    }

    /// Sees the completion token by token, as it would have written it.
    fn probe(&self, row: &ProbeRow) -> Result<Probe, BackendError> {
        let row = self.encoder.probe_row(row)?;
        let n = row.tokens.len();
        self.check_window(n + self.virtual_tokens(), 0)?;
        let mut decoder = Decoder::new(&self.model, self.adapter(), n);
        let mut logits = decoder.see(&row.tokens[..row.prompt]);
        let (mut top1, mut nll) = (Vec::new(), 0.0);
        for (place, &token) in row.tokens.iter().enumerate().skip(row.prompt) {
            top1.push(sampling::likeliest(&logits) as u32);
            nll += sampling::log_sum_exp(&logits) - f64::from(logits[token as usize]);
            if place + 1 < n {
                logits = decoder.see(&[token]);
            }
        }
        let nll = nll / top1.len().max(1) as f64;
        Ok(Probe { token_ids: row.tokens, top1, nll })
    }
}

const NO_CONSTRAINT: &str =
    "answers of this program's own decoder cannot be constrained; give the arm `constraint: free`";

#[async_trait]
impl Generator for CandleGenerator {
    fn id(&self) -> &str {
        &self.id
    }

    fn count_tokens(&self, messages: &[Message]) -> Result<Option<u32>, BackendError> {
        let served = &self.served;
        Ok(Some((served.prompt(messages)?.len() + served.virtual_tokens()) as u32))
    }

    async fn generate(&self, request: &Request) -> Result<Completion, BackendError> {
        let request = request.clone();
        self.alone(move |served, cancelled| served.answer(&request, cancelled)).await
    }

    async fn probe(&self, rows: &[ProbeRow]) -> Result<Vec<Probe>, BackendError> {
        let rows = rows.to_vec();
        self.alone(move |served, _| rows.iter().map(|row| served.probe(row)).collect()).await
    }
}

/// The ids that end an answer, of what the folder's files name.
fn ends(folder: &Path, encoder: &Encoder) -> Result<Vec<u32>, TrainError> {
    let read = |name: &str| -> Result<Value, TrainError> {
        let path = folder.join(name);
        if !path.exists() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&fs::read(&path)?)
            .map_err(|error| TrainError::Unreadable { path, what: error.to_string() })
    };
    let (generation, config) = (read("generation_config.json")?, read("config.json")?);
    let ends = bench_core::chat::ends(&generation, &config, &encoder.ends(), &encoder.special());
    if ends.is_empty() {
        let what = "no special token of the tokenizer ends an answer".into();
        return Err(TrainError::Unreadable { path: folder.join("tokenizer.json"), what });
    }
    Ok(ends)
}
