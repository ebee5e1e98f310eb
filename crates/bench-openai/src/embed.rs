//! Embeds through the embeddings protocol.

use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

use async_openai::error::OpenAIError;
use bench_core::backend::{BackendError, Embedder, Purpose};
use bench_core::digest;
use bench_core::retrieval::normalise;
use bench_core::spec;
use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use crate::failure::{Failure, excerpt};
use crate::{BACKOFF, Patience, address, error, fatal, header_safe, http};

/// Texts in one request: what the smallest limits of servers allow.
const BATCH: usize = 32;

/// Characters that are counted as one token, because the endpoint's tokenizer is not at hand. English
/// has more than four, so that a chunk counted in this way is rather too short than too long.
const CHARACTERS_PER_TOKEN: usize = 3;

/// An embedding model behind an OpenAI-compatible endpoint.
///
/// Requests run on a thread of their own, so that callers may themselves be on a runtime.
pub struct EndpointEmbedder {
    id: String,
    url: Url,
    settings: spec::EndpointEmbedder,
    key: String,
    http: reqwest::Client,
    patience: Patience,
    runtime: Option<Runtime>,
}

/// What an endpoint sends, reading no more of it than we use.
#[derive(Deserialize)]
struct Reply {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    index: usize,
    embedding: Vec<f32>,
}

impl EndpointEmbedder {
    /// Prepares to talk to the endpoint; nothing is sent yet. `api_key` is sent as a bearer token
    /// and shown nowhere.
    ///
    /// # Errors
    /// A base URL that is not HTTP, or a key that an HTTP header cannot carry.
    pub fn new(
        settings: &spec::EndpointEmbedder,
        api_key: Option<String>,
    ) -> Result<Self, BackendError> {
        let mut url = address(&settings.base_url)?;
        let path = format!("{}/embeddings", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let key = header_safe(api_key, settings.api_key_env.as_deref())?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("embeddings")
            .enable_all()
            .build()
            .map_err(|error| fatal(format!("cannot start a thread: {error}")))?;
        let spec::EndpointEmbedder {
            base_url, model, dimension, query_prefix, passage_prefix, ..
        } = settings;
        let id = digest::of_json(&(
            "endpoint",
            base_url.trim_end_matches('/'),
            model,
            dimension,
            query_prefix,
            passage_prefix,
        ));
        let patience = Patience {
            timeout: Duration::from_secs(settings.timeout_seconds),
            max_retries: settings.max_retries,
            backoff: BACKOFF,
        };
        let (settings, runtime) = (settings.clone(), Some(runtime));
        Ok(Self { id, url, settings, key, http: http()?, patience, runtime })
    }

    /// Waits less between tries, for tests.
    #[cfg(test)]
    pub(crate) fn hasty(mut self) -> Self {
        self.patience.backoff = Duration::from_millis(1);
        self
    }

    fn ask(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, BackendError> {
        let (sender, receiver) = mpsc::channel();
        let (http, url, key) = (self.http.clone(), self.url.clone(), self.key.clone());
        let (patience, dimension) = (self.patience, self.settings.dimension as usize);
        let body = json!({
            "model": self.settings.model,
            "input": texts,
            "encoding_format": "float",
        });
        let work = async move {
            let body = body.to_string();
            let attempt = || post(&http, &url, &key, &body, texts.len(), dimension);
            let answer = patience.ask(attempt).await;
            let answer = answer.map_err(|(failure, tries)| error(failure, tries, &key));
            // A caller that no longer waits needs no answer.
            let _ = sender.send(answer);
        };
        let Some(runtime) = &self.runtime else {
            return Err(fatal("the embedder is shut down".into()));
        };
        runtime.spawn(work);
        receiver.recv().map_err(|error| fatal(error.to_string()))?
    }
}

async fn post(
    http: &reqwest::Client,
    url: &Url,
    key: &str,
    body: &str,
    n_texts: usize,
    dimension: usize,
) -> Result<Vec<Vec<f32>>, Failure> {
    let mut request =
        http.post(url.clone()).header(CONTENT_TYPE, "application/json").body(body.to_owned());
    if !key.is_empty() {
        request = request.bearer_auth(key);
    }
    let lost = |error| Failure::from(OpenAIError::Reqwest(error));
    let response = request.send().await.map_err(lost)?;
    if !response.status().is_success() {
        return Err(Failure::from_response(response).await);
    }
    let text = response.text().await.map_err(lost)?;
    let reply: Reply = serde_json::from_str(&text).map_err(|error| {
        Failure::rejected(format!(
            "the endpoint sent something that is no list of embeddings ({error}): `{}`",
            excerpt(&text)
        ))
    })?;
    let mut vectors = vec![Vec::new(); n_texts];
    for item in reply.data {
        let Some(vector) = vectors.get_mut(item.index) else {
            let message = format!(
                "the endpoint sent an embedding of text {}, and was given {n_texts}",
                item.index
            );
            return Err(Failure::rejected(message));
        };
        *vector = item.embedding;
    }
    if let Some(wrong) = vectors.iter().find(|vector| vector.len() != dimension) {
        let message = match wrong.len() {
            0 => "the endpoint left out the embedding of a text".into(),
            n => {
                format!("the endpoint gives {n} numbers per text and `dimension` says {dimension}")
            }
        };
        return Err(Failure::rejected(message));
    }
    Ok(vectors)
}

impl Embedder for EndpointEmbedder {
    fn id(&self) -> &str {
        &self.id
    }

    fn dimension(&self) -> usize {
        self.settings.dimension as usize
    }

    /// What the settings say the model reads, prefixes taken off.
    fn window(&self) -> usize {
        let prefix = |prefix: &String| self.count_tokens(prefix);
        let prefixes =
            prefix(&self.settings.query_prefix).max(prefix(&self.settings.passage_prefix));
        (self.settings.max_length as usize).saturating_sub(prefixes)
    }

    fn count_tokens(&self, text: &str) -> usize {
        text.chars().count().div_ceil(CHARACTERS_PER_TOKEN)
    }

    fn embed(&self, purpose: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
        let prefix = match purpose {
            Purpose::Query => &self.settings.query_prefix,
            Purpose::Passage => &self.settings.passage_prefix,
        };
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in texts.chunks(BATCH) {
            vectors.extend(self.ask(batch.iter().map(|text| format!("{prefix}{text}")).collect())?);
        }
        for vector in &mut vectors {
            normalise(vector);
        }
        Ok(vectors)
    }
}

impl Drop for EndpointEmbedder {
    /// Without waiting, because a caller's runtime allows none.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for EndpointEmbedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointEmbedder").field("id", &self.id).finish_non_exhaustive()
    }
}
