//! Corpora from files: text, Markdown, HTML, PDF, JSON Lines, CSV, in folders and by patterns.
//!
//! A file named by itself must be readable. In a folder or pattern, a file that holds no text (an
//! image, a damaged or locked PDF) is skipped, named and counted; a bad row in a table is an error,
//! because somebody meant it to be a document. Ids are paths below the folder or below what stands
//! before a pattern's first wildcard, so they are the same on every machine.

mod html;
mod markdown;
mod pdf;
mod table;
mod text;

pub(crate) use markdown::headings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bench_core::backend::{Corpus, CorpusName, CorpusReader};
use bench_core::dataset::{self, Document};
use bench_core::digest;
use rayon::prelude::*;
use serde_json::Value;

/// Reads corpora from the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files;

impl CorpusReader for Files {
    fn read(&self, names: &[CorpusName]) -> Result<Corpus, Vec<String>> {
        let mut files = Vec::new();
        let mut problems = Vec::new();
        for name in names {
            match find(name) {
                Ok(found) => files.extend(found),
                Err(problem) => problems.push(problem),
            }
        }
        let contents: Vec<Result<Content, Failure>> = files.par_iter().map(open).collect();
        let mut corpus = Corpus::default();
        let mut digests = Vec::new();
        let mut owners = BTreeMap::<String, &Found>::new();
        for (file, content) in files.iter().zip(contents) {
            match content {
                Ok(content) => {
                    digests.push((&file.id, content.digest));
                    for document in content.documents {
                        if let Some(other) = owners.insert(document.id.clone(), file) {
                            problems.push(twice(&document.id, other, file));
                        }
                        corpus.documents.push(document);
                    }
                }
                Err(Failure::NotText(reason)) if !file.named => {
                    corpus.skipped.push((file.shown.clone(), reason));
                }
                Err(Failure::NotText(reason)) => {
                    problems.push(format!("`{}` cannot be read: {reason}", file.shown));
                }
                Err(Failure::Rows(rows)) => {
                    problems.extend(rows.into_iter().map(|row| format!("{}, {row}", file.shown)));
                }
            }
        }
        if problems.is_empty() && corpus.documents.is_empty() {
            let names: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
            problems.push(format!(
                "the corpus `{}` holds no document ({} files skipped)",
                names.join(", "),
                corpus.skipped.len()
            ));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        corpus.digest = digest::of_json(&digests);
        Ok(corpus)
    }
}

fn twice(id: &str, first: &Found, second: &Found) -> String {
    if first.shown == second.shown {
        return format!("`{}`: two documents have the id `{id}`", first.shown);
    }
    format!("`{}` and `{}`: two documents have the id `{id}`", first.shown, second.shown)
}

/// A file of a corpus.
struct Found {
    path: PathBuf,
    /// Its path below the corpus, with `/`: the id of the document it is.
    id: String,
    /// As a person would name it.
    shown: String,
    /// Named by itself, not found in a folder or by a pattern.
    named: bool,
}

/// The files behind a name, in the order of their paths.
fn find(name: &CorpusName) -> Result<Vec<Found>, String> {
    let path = name.root.join(&name.name);
    let found = |base: &Path, path: PathBuf, named: bool| {
        let below = path.strip_prefix(base).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        let shown = path.strip_prefix(&name.root).unwrap_or(&path).display().to_string();
        Found { id: below, shown, named, path }
    };
    if path.is_file() {
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        return Ok(vec![found(&base, path, true)]);
    }
    let (base, paths) = if path.is_dir() {
        let mut paths = Vec::new();
        walk(&path, &mut paths).map_err(|error| error.to_string())?;
        (path, paths)
    } else if name.name.contains(['*', '?', '[']) {
        let options = glob::MatchOptions {
            require_literal_leading_dot: true,
            require_literal_separator: true,
            case_sensitive: true,
        };
        // Wildcards in the folder of the experiment itself are letters.
        let root = glob::Pattern::escape(&name.root.to_string_lossy());
        let pattern = if name.root.as_os_str().is_empty() {
            name.name.clone()
        } else {
            format!("{root}/{}", name.name)
        };
        let paths = glob::glob_with(&pattern, options)
            .map_err(|error| format!("`{}` is no pattern: {error}", name.name))?;
        let fixed = name.name.split(['*', '?', '[']).next().unwrap_or_default();
        let base = name.root.join(fixed.rsplit_once('/').map_or("", |(folder, _)| folder));
        (base, paths.filter_map(Result::ok).filter(|path| path.is_file()).collect())
    } else {
        return Err(format!("there is no file or folder `{}`", name.name));
    };
    if paths.is_empty() {
        return Err(format!("`{}` matches no file", name.name));
    }
    let mut files: Vec<Found> = paths.into_iter().map(|path| found(&base, path, false)).collect();
    files.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(files)
}

/// Every file below a folder, but for hidden ones. A linked folder is not entered: it may lead back.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else if entry.path().is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// What a file holds.
struct Content {
    documents: Vec<Document>,
    digest: String,
}

/// Why a file gives no documents.
enum Failure {
    /// There is no text in it that we can reach.
    NotText(String),
    /// It is a table with bad rows.
    Rows(Vec<String>),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::NotText(error.to_string())
    }
}

fn open(file: &Found) -> Result<Content, Failure> {
    let extension = file.path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if extension == "pdf" {
        let bytes = fs_err::read(&file.path)?;
        let text = pdf::text(&bytes).map_err(Failure::NotText)?;
        let digest = digest::of_bytes(&bytes);
        return whole(file, "pdf", Page { text, ..Page::default() }, digest);
    }
    let (text, digest) = text::read(&file.path)?;
    match extension.as_str() {
        "jsonl" | "ndjson" => {
            let rows = |errors: Vec<dataset::RowError>| {
                Failure::Rows(errors.iter().map(ToString::to_string).collect())
            };
            Ok(Content { documents: dataset::documents(&text).map_err(rows)?, digest })
        }
        "csv" => table::read(&text, b',', &file.id, digest),
        "tsv" => table::read(&text, b'\t', &file.id, digest),
        "md" | "markdown" => whole(file, "markdown", markdown::page(text), digest),
        "html" | "htm" | "xhtml" => {
            whole(file, "html", html::page(&text).map_err(Failure::NotText)?, digest)
        }
        _ => whole(file, "text", Page { text, ..Page::default() }, digest),
    }
}

/// The text of a file that is one document.
#[derive(Default)]
struct Page {
    title: String,
    text: String,
    meta: BTreeMap<String, Value>,
}

fn whole(file: &Found, format: &str, page: Page, digest: String) -> Result<Content, Failure> {
    if page.text.trim().is_empty() {
        let reason = if format == "pdf" { "holds no text; is it a scan?" } else { "holds no text" };
        return Err(Failure::NotText(reason.into()));
    }
    let mut meta = page.meta;
    meta.insert("format".into(), format.into());
    meta.insert("path".into(), file.id.as_str().into());
    let document = Document { id: file.id.clone(), title: page.title, text: page.text, meta };
    Ok(Content { documents: vec![document], digest })
}

/// A cell or a front-matter value: a number or truth value where it is written as one.
fn value(text: &str) -> Value {
    let text = text.trim();
    match serde_json::from_str::<Value>(text) {
        // `1e3` and `1.50` are numbers too, but not written as we would write them back.
        Ok(parsed @ (Value::Number(_) | Value::Bool(_))) => {
            let written = parsed.to_string();
            if written == text { parsed } else { text.into() }
        }
        _ => text.into(),
    }
}
