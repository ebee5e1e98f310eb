//! Generates and embeds through any OpenAI-compatible endpoint.
//!
//! Knows the chat-completions and embeddings protocols and when to try again; it does not know whose server it
//! talks to, nor where its key comes from.

mod embed;
mod failure;
mod wire;

pub use embed::EndpointEmbedder;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use async_trait::async_trait;
use bench_core::backend::{
    BackendError, BackendErrorKind, Completion, Constraint, Generator, Request,
};
use bench_core::chat::Message;
use bench_core::spec::Endpoint;
use futures::StreamExt;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::wire::{Collected, Reply};

const BACKEND: &str = "openai";
/// The first pause before another try; it doubles each time.
const BACKOFF: Duration = Duration::from_millis(500);
/// An endpoint that asks for a longer pause than this is given up.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Whether the protocol can hold an answer to a language.
///
/// # Errors
/// Regular expressions and grammars, which it does not know.
pub fn check_constraint(constraint: &Constraint) -> Result<(), BackendError> {
    let kind = match constraint {
        Constraint::JsonSchema(_) | Constraint::Choices(_) => return Ok(()),
        Constraint::Regex(_) => "regex",
        Constraint::Grammar(_) => "grammar",
    };
    let message = format!(
        "the OpenAI protocol has no `{kind}` constraint; use choices or a JSON schema, or a local model"
    );
    Err(BackendError::rejected(BACKEND, message))
}

/// A model behind an OpenAI-compatible chat-completions endpoint.
///
/// Answers are streamed, to know the time to the first token, until the endpoint proves not to
/// stream or not to count tokens in a stream; from then on they are asked for whole. Latency is
/// that of the try that succeeded. Token counts are the endpoint's own, 0 where it gives none: whoever
/// reads them takes 0 prompt tokens as unknown.
pub struct EndpointGenerator {
    id: String,
    model: String,
    /// `max_tokens`, which every server knows, or what replaced it at OpenAI itself.
    limit_key: &'static str,
    client: Client<OpenAIConfig>,
    key: String,
    timeout: Duration,
    max_retries: u32,
    backoff: Duration,
    streams: AtomicBool,
}

impl EndpointGenerator {
    /// Prepares to talk to `endpoint`; nothing is sent yet. `api_key` is sent as a bearer token
    /// and shown nowhere; without one, no `Authorization` header is sent.
    ///
    /// # Errors
    /// A base URL that is not HTTP, or a key that an HTTP header cannot carry.
    pub fn new(endpoint: &Endpoint, api_key: Option<String>) -> Result<Self, BackendError> {
        let url = address(&endpoint.base_url)?;
        let key = header_safe(api_key, endpoint.api_key_env.as_deref())?;
        let http = http()?;
        let base_url = endpoint.base_url.trim_end_matches('/');
        // The library's defaults would send the user's OpenAI key, organisation and project from
        // the environment to whatever server this is.
        let config = OpenAIConfig::new()
            .with_api_base(base_url)
            .with_api_key(key.clone())
            .with_org_id("")
            .with_project_id("");
        let keyless = key.is_empty();
        let transport = tower::service_fn(move |request: HttpRequestFactory| {
            let http = http.clone();
            async move { send(&http, &request, keyless).await }
        });
        Ok(Self {
            id: format!("{} at {base_url}", endpoint.model),
            model: endpoint.model.clone(),
            limit_key: match url.host_str() {
                Some("api.openai.com") => "max_completion_tokens",
                _ => "max_tokens",
            },
            client: Client::with_config(config).with_http_service(transport),
            key,
            timeout: Duration::from_secs(endpoint.timeout_seconds),
            max_retries: endpoint.max_retries,
            backoff: BACKOFF,
            streams: AtomicBool::new(true),
        })
    }

    fn body(&self, request: &Request) -> Result<Value, BackendError> {
        let mut body = json!({
            "model": self.model,
            "messages": request.messages,
            "temperature": request.temperature,
            // The protocol's seed is signed.
            "seed": request.seed & i64::MAX.unsigned_abs(),
        });
        body[self.limit_key] = request.max_tokens.into();
        if let Some(top_p) = request.top_p.filter(|_| request.temperature > 0.0) {
            body["top_p"] = top_p.into();
        }
        if !request.stop.is_empty() {
            body["stop"] = json!(request.stop);
        }
        if request.top_logprobs > 0 {
            body["logprobs"] = true.into();
            body["top_logprobs"] = request.top_logprobs.into();
        }
        let schema = match &request.constraint {
            None => return Ok(body),
            Some(Constraint::JsonSchema(schema)) => schema.clone(),
            Some(Constraint::Choices(choices)) => json!({
                "type": "object",
                "properties": { CHOICE: { "type": "string", "enum": choices } },
                "required": [CHOICE],
                "additionalProperties": false,
            }),
            Some(constraint @ (Constraint::Regex(_) | Constraint::Grammar(_))) => {
                return Err(check_constraint(constraint).err().unwrap_or_else(|| {
                    BackendError::rejected(BACKEND, "the constraint cannot be sent")
                }));
            }
        };
        body["response_format"] = json!({
            "type": "json_schema",
            "json_schema": { "name": "answer", "schema": schema, "strict": true },
        });
        Ok(body)
    }

    async fn attempt(&self, body: &Value) -> Result<Completion, Failure> {
        if self.streams.load(Ordering::Relaxed)
            && let Some(completion) = self.streamed(body).await?
        {
            return Ok(completion);
        }
        let completion = self.whole(body).await?;
        self.streams.store(false, Ordering::Relaxed);
        Ok(completion)
    }

    /// `None` where the endpoint does not stream, or does not count tokens when it does.
    async fn streamed(&self, body: &Value) -> Result<Option<Completion>, Failure> {
        let mut body = body.clone();
        body["stream"] = true.into();
        body["stream_options"] = json!({ "include_usage": true });
        let start = Instant::now();
        let mut chunks = self.client.chat().create_stream_byot::<_, Reply>(body).await?;
        let mut collected = Collected::default();
        while let Some(chunk) = chunks.next().await {
            collected.add(chunk?, start)?;
        }
        collected.finish_streamed()
    }

    async fn whole(&self, body: &Value) -> Result<Completion, Failure> {
        let start = Instant::now();
        let reply: Reply = self.client.chat().create_byot(body).await?;
        let mut collected = Collected::default();
        collected.add(reply, start)?;
        collected.finish_whole()
    }
}

#[async_trait]
impl Generator for EndpointGenerator {
    fn id(&self) -> &str {
        &self.id
    }

    fn count_tokens(&self, _messages: &[Message]) -> Result<Option<u32>, BackendError> {
        Ok(None)
    }

    async fn generate(&self, request: &Request) -> Result<Completion, BackendError> {
        let body = self.body(request)?;
        let patience = Patience {
            timeout: self.timeout,
            max_retries: self.max_retries,
            backoff: self.backoff,
        };
        let mut completion = patience
            .ask(|| self.attempt(&body))
            .await
            .map_err(|(failure, tries)| error(failure, tries, &self.key))?;
        hide_key(&mut completion.text, &self.key);
        choose(completion, request.constraint.as_ref())
            .map_err(|failure| error(failure, 0, &self.key))
    }
}

/// How long an endpoint is waited for, and how often asked again.
#[derive(Clone, Copy, Debug)]
struct Patience {
    timeout: Duration,
    max_retries: u32,
    /// The first pause before another try.
    backoff: Duration,
}

impl Patience {
    /// Tries until there is an answer or a failure that stays; with that, the tries before it.
    async fn ask<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, (Failure, u32)>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut tries = 0;
        loop {
            let failure = match tokio::time::timeout(self.timeout, attempt()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::transient(format!(
                    "no whole answer within {} s; raise `timeout_seconds` if the endpoint needs longer",
                    self.timeout.as_secs()
                )),
            };
            let pause = failure.retry_after.unwrap_or_else(|| backoff(self.backoff, tries));
            if failure.kind != BackendErrorKind::Transient
                || tries == self.max_retries
                || pause > LONGEST_PAUSE
            {
                return Err((failure, tries));
            }
            tokio::time::sleep(pause).await;
            tries += 1;
        }
    }
}

/// Some endpoints repeat the key, in errors or in what they say.
fn hide_key(text: &mut String, key: &str) {
    if !key.is_empty() && text.contains(key) {
        *text = text.replace(key, "[key]");
    }
}

/// The one place where words of an endpoint become an error: some endpoints repeat the key.
fn error(failure: Failure, tries: u32, key: &str) -> BackendError {
    let mut message = failure.message;
    hide_key(&mut message, key);
    if tries > 0 {
        message = format!("{message} (tried {} times)", tries + 1);
    }
    BackendError { backend: BACKEND, kind: failure.kind, source: message.into() }
}

fn fatal(message: String) -> BackendError {
    BackendError::fatal(BACKEND, message)
}

/// A base URL that can be talked to and holds no secret.
fn address(base_url: &str) -> Result<reqwest::Url, BackendError> {
    let mut url = reqwest::Url::parse(base_url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| {
            fatal("`base_url` is not an HTTP address; write it up to and including `/v1`, for example `http://localhost:8000/v1`".into())
        })?;
    if !url.username().is_empty() || url.password().is_some() {
        // Setting either fails only on URLs without a host, which HTTP ones have.
        let _ = (url.set_username(""), url.set_password(None));
        return Err(fatal(format!(
            "`base_url` holds a user name or password; write `{url}` and put the key into the variable that `api_key_env` names"
        )));
    }
    if url.query().is_some() || url.fragment().is_some() {
        url.set_query(None);
        url.set_fragment(None);
        return Err(fatal(format!(
            "`base_url` goes on after a `?` or `#`, and paths are put behind it; write `{url}` and put a key into the variable that `api_key_env` names"
        )));
    }
    Ok(url)
}

/// A key that a header can carry; empty where there is none.
fn header_safe(api_key: Option<String>, from: Option<&str>) -> Result<String, BackendError> {
    let key = api_key.unwrap_or_default().trim().to_owned();
    if HeaderValue::from_str(&key).is_err() {
        let from = from.unwrap_or("api_key_env");
        return Err(fatal(format!(
            "the key in `{from}` holds characters that an HTTP header cannot carry; set it again"
        )));
    }
    Ok(key)
}

fn http() -> Result<reqwest::Client, BackendError> {
    let client = reqwest::Client::builder().build();
    client.map_err(|error| fatal(format!("cannot set up HTTP: {}", failure::causes(&error))))
}

impl fmt::Debug for EndpointGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointGenerator").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The one property of the object that a choice is wrapped in, as strict schemas want an object.
const CHOICE: &str = "choice";

fn choose(
    mut completion: Completion,
    constraint: Option<&Constraint>,
) -> Result<Completion, Failure> {
    let Some(Constraint::Choices(choices)) = constraint else { return Ok(completion) };
    let choice = serde_json::from_str::<Value>(&completion.text)
        .ok()
        .and_then(|object| object[CHOICE].as_str().map(str::to_owned))
        .filter(|choice| choices.contains(choice))
        .ok_or_else(|| {
            Failure::rejected(format!(
                "the endpoint ignored the JSON schema that offers the choices; it said `{}`",
                failure::excerpt(&completion.text)
            ))
        })?;
    completion.text = choice;
    Ok(completion)
}

async fn send(
    http: &reqwest::Client,
    request: &HttpRequestFactory,
    keyless: bool,
) -> Result<reqwest::Response, OpenAIError> {
    let mut request = request.build().await?;
    if keyless {
        request.headers_mut().remove(AUTHORIZATION);
    } else if let Some(value) = request.headers_mut().get_mut(AUTHORIZATION) {
        value.set_sensitive(true);
    }
    let response = http.execute(request).await?;
    if response.status().is_success() {
        return Ok(response);
    }
    Err(OpenAIError::Boxed(Box::new(Failure::from_response(response).await)))
}

/// Half fixed and half random, so that many waiting trials do not come back at once.
fn backoff(first: Duration, tries: u32) -> Duration {
    let full =
        first.saturating_mul(1_u32.checked_shl(tries).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
    // A fresh `RandomState` is the standard library's source of randomness.
    let random = RandomState::new().hash_one(tries) as f64 / u64::MAX as f64;
    full.mul_f64(0.5 + 0.5 * random)
}

#[cfg(test)]
mod tests;
