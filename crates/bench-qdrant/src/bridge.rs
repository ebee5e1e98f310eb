//! From synchronous callers to the asynchronous client, with retries.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use bench_core::backend::BackendError;
use qdrant_client::{Qdrant, QdrantError};
use tokio::runtime::{Builder, Runtime};
use tonic::Code;

use crate::{BACKEND, fatal};

/// Waits between attempts; the sum is how long a server may be away.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// A client and the one thread its requests run on. Callers wait on a channel, so they may
/// themselves be on another runtime's threads.
pub(crate) struct Bridge {
    client: Qdrant,
    url: String,
    runtime: Option<Runtime>,
}

impl Bridge {
    pub(crate) fn new(client: Qdrant, url: &str) -> Result<Self, BackendError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("qdrant")
            .enable_all()
            .build()
            .map_err(|error| BackendError::fatal(BACKEND, error))?;
        Ok(Self { client, url: url.to_owned(), runtime: Some(runtime) })
    }

    /// Makes a request, and makes it again while the server is away or overloaded.
    pub(crate) fn ask<T, F, R>(&self, request: R) -> Result<T, BackendError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, QdrantError>> + Send + 'static,
        R: Fn(Qdrant) -> F + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel();
        let client = self.client.clone();
        let work = async move {
            let mut answer = request(client.clone()).await;
            for pause in PAUSES {
                let Err(error) = &answer else { break };
                if !passing(error) {
                    break;
                }
                tokio::time::sleep(pause).await;
                answer = request(client.clone()).await;
            }
            // A caller that no longer waits needs no answer.
            let _ = sender.send(answer);
        };
        let Some(runtime) = &self.runtime else { return Err(fatal("is shut down".into())) };
        runtime.spawn(work);
        let answer = receiver.recv().map_err(|error| BackendError::fatal(BACKEND, error))?;
        answer.map_err(|error| explain(&self.url, &error))
    }
}

impl Drop for Bridge {
    /// Without waiting, because a caller's runtime allows none.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What the runner should do about a failure, in words without the client's debugging output.
pub(crate) fn explain(url: &str, error: &QdrantError) -> BackendError {
    let Some(status) = status(error) else {
        return BackendError::fatal(BACKEND, format!("`{url}`: {error}"));
    };
    let message = status.message();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => fatal(format!(
            "`{url}` refuses the key ({message}); put it into the variable that `api_key_env` names"
        )),
        _ if passing(error) => {
            let message = format!("no answer from `{url}` ({}: {message})", status.code());
            BackendError::transient(BACKEND, message)
        }
        code => fatal(format!("`{url}`: {code}: {message}")),
    }
}

/// True when the same request may succeed a moment later. A lost connection shows as one of the
/// last three.
fn passing(error: &QdrantError) -> bool {
    use Code::{
        Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown,
    };
    let lost = |code| matches!(code, Internal | Unknown | Cancelled);
    let busy = |code| matches!(code, Unavailable | DeadlineExceeded | ResourceExhausted | Aborted);
    status(error).map(tonic::Status::code).is_some_and(|code| busy(code) || lost(code))
}

pub(crate) fn already_exists(error: &QdrantError) -> bool {
    status(error).is_some_and(|status| status.code() == Code::AlreadyExists)
}

fn status(error: &QdrantError) -> Option<&tonic::Status> {
    match error {
        QdrantError::ResponseError { status }
        | QdrantError::ResourceExhaustedError { status, .. } => Some(status),
        _ => None,
    }
}
