//! What can go wrong at an endpoint, and whether trying again may help.

use std::time::Duration;

use async_openai::error::OpenAIError;
use bench_core::backend::BackendErrorKind;
use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde_json::Value;

/// One failed try.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) kind: BackendErrorKind,
    pub(crate) message: String,
    /// The pause that the endpoint asked for.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn transient(message: String) -> Self {
        Self { kind: BackendErrorKind::Transient, message, retry_after: None }
    }

    pub(crate) fn rejected(message: String) -> Self {
        Self { kind: BackendErrorKind::Rejected, message, retry_after: None }
    }

    pub(crate) async fn from_response(response: Response) -> Self {
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let body = response.text().await.unwrap_or_default();
        Self { retry_after, ..Self::from_status(status, &body) }
    }

    /// An error that the endpoint sends inside a successful response.
    pub(crate) fn from_error(error: &Value) -> Self {
        let status = error["code"].as_u64().and_then(|code| {
            StatusCode::from_u16(u16::try_from(code).ok()?).ok().filter(|code| code.as_u16() >= 400)
        });
        let body = error.to_string();
        match status {
            Some(status) => Self::from_status(status, &body),
            None => Self::rejected(format!("the endpoint reported: {}", words(&body))),
        }
    }

    fn from_status(status: StatusCode, body: &str) -> Self {
        let spent = body.contains("insufficient_quota");
        let (kind, remedy) = match status.as_u16() {
            401 | 403 => (
                BackendErrorKind::Fatal,
                "; check the key in the variable that `api_key_env` names",
            ),
            402 => (BackendErrorKind::Fatal, "; the account has no credit left"),
            429 if spent => (BackendErrorKind::Fatal, "; the account has no credit left"),
            404 => (BackendErrorKind::Rejected, "; check `base_url` and `model`"),
            408 | 425 | 429 | 500..=599 => (BackendErrorKind::Transient, ""),
            _ => (BackendErrorKind::Rejected, ""),
        };
        let message = format!("the endpoint answered {status}: {}{remedy}", words(body));
        Self { kind, message, retry_after: None }
    }
}

impl From<OpenAIError> for Failure {
    fn from(error: OpenAIError) -> Self {
        match error {
            OpenAIError::Boxed(error) => match error.downcast::<Self>() {
                Ok(failure) => *failure,
                Err(error) => Self::rejected(causes(error.as_ref())),
            },
            OpenAIError::Reqwest(error) if error.is_connect() => Self::transient(format!(
                "cannot connect; is the endpoint running, and `base_url` right? {}",
                causes(&error)
            )),
            OpenAIError::Reqwest(error) if error.is_builder() || error.is_redirect() => {
                Self::rejected(causes(&error))
            }
            OpenAIError::Reqwest(error) => Self::transient(causes(&error)),
            OpenAIError::StreamError(error) => {
                Self::transient(format!("the answer broke off: {error}"))
            }
            OpenAIError::JSONDeserialize(error, content) => Self::rejected(format!(
                "the endpoint sent something that is no chat completion ({error}): `{}`",
                excerpt(&content)
            )),
            error => Self::rejected(error.to_string()),
        }
    }
}

/// The message of an error body, or its beginning where it has no known shape.
fn words(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let error = value.get("error").unwrap_or(&value);
    let message = error["message"].as_str().or_else(|| error.as_str());
    excerpt(message.unwrap_or(body))
}

/// At most 300 characters, on one line.
pub(crate) fn excerpt(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// An error and all its causes in one line.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
