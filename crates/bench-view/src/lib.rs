//! `bench view`: reports and running experiments in a browser, and grades given there.
//!
//! An HTTP server for one person on one machine. It knows folders, not Parquet: whoever starts it
//! hands it a [`Library`] that reads reports and makes their pages. Nothing leaves the folders it
//! was given, no page of another origin can read or write, and what models wrote is only ever text.

mod folder;
mod guard;
mod labels;
mod live;
mod pages;
mod server;
mod summary;

pub use folder::{Folders, NotAFolder};
pub use server::{Server, ServerError};

use std::path::Path;
use std::sync::Arc;

use bench_core::record::TrialId;

/// Reads report folders. The server calls it where blocking is allowed.
pub trait Library: Send + Sync {
    /// Reads a report folder whole.
    ///
    /// # Errors
    /// In words, for the page that is shown instead.
    fn open(&self, folder: &Path) -> Result<Arc<dyn Report>, String>;

    /// The page of what changed between two reports, with links to `/assets/` for style and script.
    ///
    /// # Errors
    /// Why they cannot be compared on the same samples, in words: their means are then shown side by
    /// side.
    fn compare(&self, a: &Path, b: &Path) -> Result<String, String>;

    /// The style that [`Report::page`] links to as `/assets/report.css`.
    fn style(&self) -> &'static str;

    /// The script that [`Report::page`] links to as `/assets/report.js`.
    fn script(&self) -> &'static str;
}

/// A report that was read.
pub trait Report: Send + Sync {
    /// The report's page, with links to `/assets/` for style and script and `api` as the path under
    /// which the server answers questions about this report.
    ///
    /// # Errors
    /// In words, for the page that is shown instead.
    fn page(&self, api: &str) -> Result<String, String>;

    /// The answer of a trial; `None` where there is no such trial or it failed.
    fn answer(&self, trial: &TrialId) -> Option<&str>;
}
