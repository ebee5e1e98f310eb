//! The routes, and what each of them answers.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path as Segments, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use bench_core::label::{Kind, Label, standing};
use bench_core::record::TrialId;
use futures::stream::{self, Stream};
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::folder::{Folders, encoded, file, modified};
use crate::labels::{Labels, now};
use crate::live::{Live, Watcher};
use crate::pages::Pages;
use crate::{Library, Report, guard, summary};

/// Bytes of a request's body.
const BODY: usize = 16 * 1024;
/// How often a page hears of a run that goes on.
const TICK: Duration = Duration::from_secs(1);
/// Reports kept in memory.
const OPEN: usize = 4;

/// A server that listens and has not answered yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: App,
}

/// The server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken or not of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A page template is broken.
    #[error("a page could not be made")]
    Page(#[from] minijinja::Error),
}

#[derive(Clone)]
struct App(Arc<Inner>);

struct Inner {
    folders: Folders,
    library: Box<dyn Library>,
    pages: Pages,
    labels: Labels,
    watcher: Watcher,
    opened: Mutex<Vec<Opened>>,
}

/// A report in memory, and the state of the files it was read from.
struct Opened {
    folder: PathBuf,
    stamp: [Option<SystemTime>; 2],
    report: Arc<dyn Report>,
}

impl Server {
    /// Listens on an address; port 0 takes any that is free.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn bind(
        address: SocketAddr,
        folders: Folders,
        library: Box<dyn Library>,
    ) -> Result<Self, ServerError> {
        let wrong = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(wrong)?;
        let address = listener.local_addr().map_err(wrong)?;
        let app = App(Arc::new(Inner {
            folders,
            library,
            pages: Pages::new()?,
            labels: Labels::default(),
            watcher: Watcher::default(),
            opened: Mutex::default(),
        }));
        Ok(Self { listener, address, app })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the process ends.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(self) -> io::Result<()> {
        axum::serve(self.listener, router(self.app, self.address)).await
    }
}

fn router(app: App, address: SocketAddr) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/compare", get(compare))
        .route("/runs/{name}", get(slash))
        .route("/runs/{name}/", get(report))
        .route("/runs/{name}/live", get(live))
        .route("/runs/{name}/files/{*path}", get(report_file))
        .route("/assets/{name}", get(asset))
        .route("/api/runs", get(runs))
        .route("/api/events", get(events))
        .route("/api/runs/{name}/labels", get(labels).post(add_label))
        .fallback(|| async { Failure(StatusCode::NOT_FOUND, "there is no such page".into()) })
        .layer(DefaultBodyLimit::max(BODY))
        .layer(middleware::from_fn_with_state(
            app.clone(),
            move |app: State<App>, request: Request, next: Next| {
                guarded(app, address, request, next)
            },
        ))
        .with_state(app)
}

/// Turns strangers away, and says to the browser what pages may do.
async fn guarded(
    State(app): State<App>,
    address: SocketAddr,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match guard::admit(address, request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, why)) => Failure(status, why.into()).into_response(),
    };
    // A failure becomes a page here, so that a route can fail with a word.
    if let Some(Failure(status, why)) = response.extensions_mut().remove::<Failure>() {
        let page = app.0.pages.failure(status, &why);
        response = (status, Html(page.unwrap_or(why))).into_response();
    }
    guard::headers(response.headers_mut());
    response
}

/// A request that cannot be answered, and why.
#[derive(Clone, Debug)]
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.0, self.1.clone()).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<minijinja::Error> for Failure {
    fn from(error: minijinja::Error) -> Self {
        broken(error.to_string())
    }
}

fn missing(what: &str, name: &str) -> Failure {
    Failure(StatusCode::NOT_FOUND, format!("there is no {what} `{name}` here"))
}

fn broken(why: impl Into<String>) -> Failure {
    Failure(StatusCode::INTERNAL_SERVER_ERROR, why.into())
}

impl App {
    /// Moves work that reads files off the threads that answer.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let app = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&app)).await;
        done.map_err(|error| broken(error.to_string()))?
    }
}

impl Inner {
    fn folder(&self, name: &str) -> Result<PathBuf, Failure> {
        self.folders.report(name).ok_or_else(|| missing("report", name))
    }

    /// A report, read again only when its files have changed.
    fn open(&self, folder: &Path) -> Result<Arc<dyn Report>, Failure> {
        let stamp =
            ["manifest.json", "tables/trials.parquet"].map(|name| modified(&folder.join(name)));
        let lock = || self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |opened: &&Opened| opened.folder == folder && opened.stamp == stamp;
        if let Some(opened) = lock().iter().find(same) {
            return Ok(Arc::clone(&opened.report));
        }
        let report = self.library.open(folder).map_err(broken)?;
        let mut opened = lock();
        opened.retain(|opened| opened.folder != folder);
        opened.insert(0, Opened { folder: folder.to_owned(), stamp, report: Arc::clone(&report) });
        opened.truncate(OPEN);
        Ok(report)
    }
}

async fn index(State(app): State<App>) -> Result<Html<String>, Failure> {
    app.blocking(|app| Ok(Html(app.pages.index(&app.folders, &app.watcher.look(&app.folders))?)))
        .await
}

async fn slash(Segments(name): Segments<String>) -> Redirect {
    Redirect::permanent(&format!("/runs/{}/", encoded(&name)))
}

async fn report(
    State(app): State<App>,
    Segments(name): Segments<String>,
) -> Result<Response, Failure> {
    let page = app.blocking(move |app| {
        let report = app.open(&app.folder(&name)?)?;
        report.page(&format!("/api/runs/{}", encoded(&name))).map_err(broken)
    });
    let policy = HeaderValue::from_static(guard::REPORT_POLICY);
    Ok(([(header::CONTENT_SECURITY_POLICY, policy)], Html(page.await?)).into_response())
}

async fn live(
    State(app): State<App>,
    Segments(name): Segments<String>,
) -> Result<Html<String>, Failure> {
    app.blocking(move |app| {
        let runs = app.watcher.look(&app.folders);
        let run = runs.iter().find(|run| run.name == name).ok_or_else(|| missing("run", &name))?;
        Ok(Html(app.pages.live(run, app.folders.report(&name).is_some())?))
    })
    .await
}

async fn report_file(
    State(app): State<App>,
    Segments((name, path)): Segments<(String, String)>,
) -> Result<Response, Failure> {
    app.blocking(move |app| {
        let path = file(&app.folder(&name)?, &path).ok_or_else(|| missing("file", &path))?;
        let kind = match path.extension().and_then(|extension| extension.to_str()) {
            Some("html") => "text/html; charset=utf-8",
            Some("svg") => "image/svg+xml",
            Some("png") => "image/png",
            Some("md" | "csv" | "json" | "jsonl" | "xml" | "txt") => "text/plain; charset=utf-8",
            Some(_) | None => "application/octet-stream",
        };
        let bytes = fs_err::read(path).map_err(|error| broken(error.to_string()))?;
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(guard::FILE_POLICY)),
        ];
        Ok((headers, Body::from(bytes)).into_response())
    })
    .await
}

async fn asset(
    State(app): State<App>,
    Segments(name): Segments<String>,
) -> Result<Response, Failure> {
    const STYLE: &str = "text/css; charset=utf-8";
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let (kind, text) = match name.as_str() {
        "report.css" => (STYLE, app.0.library.style()),
        "report.js" => (SCRIPT, app.0.library.script()),
        "view.css" => (STYLE, include_str!("assets/view.css")),
        "live.js" => (SCRIPT, include_str!("assets/live.js")),
        "grade.js" => (SCRIPT, include_str!("assets/grade.js")),
        _ => return Err(missing("asset", &name)),
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response())
}

#[derive(Deserialize)]
struct Two {
    #[serde(default)]
    a: String,
    #[serde(default)]
    b: String,
}

async fn compare(State(app): State<App>, Query(two): Query<Two>) -> Result<Html<String>, Failure> {
    app.blocking(move |app| {
        let (a, b) = (app.folder(&two.a)?, app.folder(&two.b)?);
        let refused = match app.library.compare(&a, &b) {
            Ok(page) => return Ok(Html(page)),
            Err(why) => why,
        };
        let (rows, names) = (summary::beside(&a, &b), app.folders.reports());
        Ok(Html(app.pages.beside([&two.a, &two.b], &names, &refused, &rows)?))
    })
    .await
}

async fn runs(State(app): State<App>) -> Result<Json<Vec<Live>>, Failure> {
    app.blocking(|app| Ok(Json(app.watcher.look(&app.folders)))).await
}

#[derive(Deserialize)]
struct Which {
    run: Option<String>,
}

/// The state of all runs, or of one with its latest answers, whenever it has changed.
async fn events(
    State(app): State<App>,
    Query(which): Query<Which>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let which = Arc::new(which.run);
    let changes = stream::unfold((app, which, String::new()), |(app, which, last)| async move {
        let mut is_first = last.is_empty();
        loop {
            if !is_first {
                tokio::time::sleep(TICK).await;
            }
            is_first = false;
            let wanted = Arc::clone(&which);
            let seen = app.blocking(move |app| Ok(seen(app, wanted.as_deref()))).await;
            let now = seen.unwrap_or_default();
            if !now.is_empty() && now != last {
                let event = Event::default().event("runs").data(&now);
                return Some((Ok(event), (app, which, now)));
            }
        }
    });
    Sse::new(changes).keep_alive(KeepAlive::default())
}

fn seen(app: &Inner, wanted: Option<&str>) -> String {
    let mut runs = app.watcher.look(&app.folders);
    match wanted {
        Some(name) => runs.retain(|run| run.name == name),
        None => runs.iter_mut().for_each(|run| run.latest.clear()),
    }
    serde_json::to_string(&runs).unwrap_or_default()
}

async fn labels(
    State(app): State<App>,
    Segments(name): Segments<String>,
) -> Result<Json<Vec<Label>>, Failure> {
    app.blocking(move |app| {
        let labels = Labels::of(&app.folder(&name)?).map_err(|error| broken(error.to_string()))?;
        Ok(Json(standing(&labels).into_iter().cloned().collect()))
    })
    .await
}

/// What a page sends. The training seeds are text because they may be larger than a number of
/// JavaScript.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    set: String,
    sample: String,
    arm: String,
    #[serde(default)]
    repeat: u32,
    #[serde(default)]
    train_seed: String,
    kind: Kind,
    against: Option<String>,
    #[serde(default)]
    against_seed: String,
    value: Option<f64>,
    #[serde(default)]
    grader: String,
}

async fn add_label(
    State(app): State<App>,
    Segments(name): Segments<String>,
    Json(given): Json<Given>,
) -> Result<Json<Label>, Failure> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure(StatusCode::UNPROCESSABLE_ENTITY, format!("not a label: {why}"))
    };
    let seed = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u64>() };
    let label = Label {
        set: given.set,
        sample: given.sample,
        arm: given.arm,
        repeat: given.repeat,
        train_seed: seed(&given.train_seed).map_err(|error| wrong(&error))?,
        kind: given.kind,
        against: given.against,
        against_seed: seed(&given.against_seed).map_err(|error| wrong(&error))?,
        value: given.value,
        grader: given.grader.trim().chars().take(80).collect(),
        answer: String::new(),
        time: now(),
    };
    label.check().map_err(|error| wrong(&error))?;
    app.blocking(move |app| {
        let folder = app.folder(&name)?;
        let report = app.open(&folder)?;
        let trial = label.trial();
        let answer = |trial: &TrialId| {
            report.answer(trial).ok_or_else(|| missing("answer to label", &trial.sample))
        };
        if let Some(arm) = &label.against {
            let (arm, train_seed) = (arm.clone(), label.against_seed);
            answer(&TrialId { arm, train_seed, ..trial.clone() })?;
        }
        let label = Label { answer: answer(&trial)?.to_owned(), ..label };
        app.labels.append(&folder, &label).map_err(|error| broken(error.to_string()))?;
        Ok(Json(label))
    })
    .await
}

#[cfg(test)]
mod tests;
