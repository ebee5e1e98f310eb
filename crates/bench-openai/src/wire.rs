//! What an endpoint sends, reading no more of it than we use: servers differ in the rest.

use std::time::Instant;

use bench_core::backend::{Completion, TokenLogprob};
use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;

/// A chat completion, or one chunk of it.
#[derive(Debug, Deserialize)]
pub(crate) struct Reply {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(alias = "delta")]
    message: Option<Text>,
    finish_reason: Option<String>,
    logprobs: Option<Logprobs>,
}

#[derive(Debug, Deserialize)]
struct Text {
    content: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Usage {
    prompt_tokens: u32,
    /// Servers leave it out of a prompt's usage.
    #[serde(default)]
    completion_tokens: u32,
}

#[derive(Debug, Deserialize)]
struct Logprobs {
    content: Option<Vec<Step>>,
}

#[derive(Debug, Deserialize)]
struct Step {
    token: String,
    logprob: f64,
    #[serde(default)]
    top_logprobs: Vec<Alternative>,
}

#[derive(Debug, Deserialize)]
struct Alternative {
    token: String,
    logprob: f64,
}

/// A completion as it grows.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    completion: Completion,
    replied: bool,
    chosen: bool,
    usage: Option<Usage>,
}

impl Collected {
    pub(crate) fn add(&mut self, reply: Reply, start: Instant) -> Result<(), Failure> {
        if let Some(error) = reply.error.filter(|error| !error.is_null()) {
            return Err(Failure::from_error(&error));
        }
        let elapsed = start.elapsed().as_secs_f64() * 1e3;
        self.replied = true;
        self.usage = reply.usage.or(self.usage.take());
        // We never ask for more than one choice.
        let Some(choice) = reply.choices.into_iter().next() else { return Ok(()) };
        self.chosen = true;
        let completion = &mut self.completion;
        completion.latency_ms = elapsed;
        if let Some(content) = choice.message.and_then(|message| message.content)
            && !content.is_empty()
        {
            completion.first_token_ms.get_or_insert(elapsed);
            completion.text.push_str(&content);
        }
        if let Some(reason) = choice.finish_reason {
            completion.finish = reason;
        }
        let tokens = choice.logprobs.and_then(|logprobs| logprobs.content).unwrap_or_default();
        completion.logprobs.extend(tokens.into_iter().map(|token| TokenLogprob {
            token: token.token,
            logprob: token.logprob,
            top: token.top_logprobs.into_iter().map(|top| (top.token, top.logprob)).collect(),
        }));
        Ok(())
    }

    pub(crate) fn finish_streamed(self) -> Result<Option<Completion>, Failure> {
        if !self.replied {
            return Ok(None);
        }
        if self.chosen && self.completion.finish.is_empty() {
            return Err(Failure::transient("the answer broke off before its end".into()));
        }
        if self.chosen && self.usage.is_none() {
            return Ok(None);
        }
        self.finish().map(Some)
    }

    pub(crate) fn finish_whole(mut self) -> Result<Completion, Failure> {
        self.completion.first_token_ms = None;
        self.finish()
    }

    fn finish(self) -> Result<Completion, Failure> {
        if !self.chosen {
            return Err(Failure::rejected("the endpoint sent no choices".into()));
        }
        let mut completion = self.completion;
        // Half a count is none: it would make answers look cheaper than they are.
        if let Some(usage) = self.usage.filter(|usage| usage.prompt_tokens > 0) {
            completion.tokens_in = usage.prompt_tokens;
            completion.tokens_out = usage.completion_tokens;
        }
        Ok(completion)
    }
}
