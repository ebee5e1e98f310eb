//! Picks every token of one answer.
//!
//! The library's own sampler has one seed per engine, so that an answer depends on what was asked
//! before; it reports base-10 logarithms of logits as log-probabilities when greedy; and it trims
//! the text. So it is only handed logits that leave no choice: one token at 0, the rest at minus
//! infinity.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bench_core::backend::{Request, TokenLogprob};
use bench_core::sampling::{best, likeliest, log_sum_exp, sample, uniform};
use candle_core::{Result, Tensor, bail};
use mistralrs_core::CustomLogitsProcessor;
use tokenizers::Tokenizer;

/// How to choose, and what was chosen so far.
pub(crate) struct Chooser {
    temperature: f64,
    top_p: f64,
    seed: u64,
    n_alternatives: usize,
    stop: Vec<String>,
    tokenizer: Arc<Tokenizer>,
    ends: Vec<u32>,
    grammar_end: Option<u32>,
    cancelled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The context's length at the last call. A second call with the same length means that the
    /// grammar refused the first choice.
    context: usize,
    attempt: u64,
    /// Whether the text has reached a stop string.
    stopped: bool,
    tokens: Vec<Chosen>,
    first_token: Option<Instant>,
    /// What the model itself thinks at this position, before any grammar.
    logits: Vec<f32>,
}

struct Chosen {
    id: u32,
    logprob: f64,
    alternatives: Vec<(u32, f64)>,
}

/// What a [`Chooser`] chose.
pub(crate) struct Choices {
    pub(crate) text: String,
    /// How many tokens the model wrote, the one that ends the answer included.
    pub(crate) n_tokens: u32,
    pub(crate) first_token: Option<Instant>,
    /// Whether the answer ended by itself or at a stop string.
    pub(crate) stopped: bool,
    pub(crate) logprobs: Vec<TokenLogprob>,
}

impl Chooser {
    pub(crate) fn new(
        request: &Request,
        tokenizer: &Arc<Tokenizer>,
        ends: &[u32],
        grammar_end: Option<u32>,
    ) -> Self {
        Self {
            temperature: request.temperature,
            top_p: request.top_p.unwrap_or(1.0),
            seed: request.seed,
            n_alternatives: request.top_logprobs.into(),
            stop: request.stop.iter().filter(|stop| !stop.is_empty()).cloned().collect(),
            tokenizer: Arc::clone(tokenizer),
            ends: ends.to_vec(),
            grammar_end,
            cancelled: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Ends the answer at the next token.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn finish(&self) -> std::result::Result<Choices, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tokens = std::mem::take(&mut state.tokens);
        let n_tokens = tokens.len() as u32;
        let ended = tokens.pop_if(|last| self.ends.contains(&last.id)).is_some();
        let mut text = self.text(&tokens)?;
        let cut = self.stop.iter().filter_map(|stop| text.find(stop)).min();
        if let Some(cut) = cut {
            text.truncate(cut);
        }
        let name = |id: u32| self.tokenizer.decode(&[id], false).map_err(|error| error.to_string());
        let logprobs = match self.n_alternatives {
            0 => Vec::new(),
            _ => tokens
                .iter()
                .map(|chosen| {
                    let top =
                        chosen.alternatives.iter().map(|&(id, logprob)| Ok((name(id)?, logprob)));
                    Ok(TokenLogprob {
                        token: name(chosen.id)?,
                        logprob: chosen.logprob,
                        top: top.collect::<std::result::Result<_, String>>()?,
                    })
                })
                .collect::<std::result::Result<_, String>>()?,
        };
        let stopped = ended || cut.is_some();
        Ok(Choices { text, n_tokens, first_token: state.first_token, stopped, logprobs })
    }

    fn text(&self, tokens: &[Chosen]) -> std::result::Result<String, String> {
        let ids: Vec<u32> = tokens.iter().map(|chosen| chosen.id).collect();
        self.tokenizer.decode(&ids, true).map_err(|error| error.to_string())
    }

    fn choose(&self, mut logits: Vec<f32>, context: usize) -> Result<Vec<f32>> {
        if logits.iter().any(|logit| logit.is_nan()) {
            bail!(
                "the model's logits are not numbers; its weights are damaged, or training diverged"
            );
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        state.first_token.get_or_insert_with(Instant::now);
        if state.context == context {
            state.attempt += 1;
            if !state.stopped {
                state.tokens.pop();
            }
            // The grammar engine knows one end; the model's wish for another end is a wish for it.
            if let Some(end) = self.grammar_end.map(|end| end as usize)
                && logits.get(end).is_some_and(|logit| logit.is_finite())
            {
                let wish =
                    self.ends.iter().filter_map(|&end| state.logits.get(end as usize).copied());
                logits[end] = wish.fold(logits[end], f32::max);
            }
        } else {
            state.context = context;
            state.attempt = 0;
            state.logits.clone_from(&logits);
            state.stopped = state.stopped || self.reached_stop(&state.tokens)?;
        }
        let end = self.ends[0] as usize;
        let over = state.stopped || self.cancelled.load(Ordering::Relaxed);
        if over && logits.get(end).is_some_and(|logit| logit.is_finite()) {
            return Ok(only(end, logits.len()));
        }
        let id = if self.temperature > 0.0 {
            let point = uniform(self.seed, state.tokens.len() as u64, state.attempt);
            sample(&logits, self.temperature, self.top_p, point)
        } else {
            likeliest(&logits)
        };
        if !state.stopped {
            state.tokens.push(self.chosen(id, &state.logits));
        }
        Ok(only(id, logits.len()))
    }

    fn reached_stop(&self, tokens: &[Chosen]) -> Result<bool> {
        if self.stop.is_empty() {
            return Ok(false);
        }
        let text = self.text(tokens).map_err(candle_core::Error::msg)?;
        Ok(self.stop.iter().any(|stop| text.contains(stop)))
    }

    /// Log-probabilities are the model's own: at temperature 1 and before any grammar.
    fn chosen(&self, id: usize, logits: &[f32]) -> Chosen {
        if self.n_alternatives == 0 {
            return Chosen { id: id as u32, logprob: 0.0, alternatives: Vec::new() };
        }
        let normaliser = log_sum_exp(logits);
        let logprob = |id: usize| f64::from(logits[id]) - normaliser;
        let order = best(logits, self.n_alternatives);
        let alternatives = order.into_iter().map(|id| (id as u32, logprob(id))).collect();
        Chosen { id: id as u32, logprob: logprob(id), alternatives }
    }
}

impl CustomLogitsProcessor for Chooser {
    fn apply(&self, logits: &Tensor, context: &[u32]) -> Result<Tensor> {
        let chosen = self.choose(logits.to_vec1()?, context.len())?;
        Tensor::from_vec(chosen, logits.dims1()?, logits.device())
    }
}

fn only(id: usize, vocabulary: usize) -> Vec<f32> {
    let mut logits = vec![f32::NEG_INFINITY; vocabulary];
    logits[id] = 0.0;
    logits
}
