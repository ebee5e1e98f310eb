//! `bench index`: building an experiment's indexes, looking at them, asking them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use bench_core::backend::{BackendError, Embedder, Passage, Progress};
use bench_core::retrieval::{Analysis as _, index_digest};
use bench_core::spec::{IndexBackend, Rag, Rerank};
use bench_retrieval::{English, ExactIndex, OpenError};
use bench_run::search::{self, Search};
use bench_run::{Backends, Loaded, LoadedSet};
use clap::{Args, Subcommand};
use miette::miette;

use crate::exit::Exit;
use crate::models;

/// What to do with indexes.
#[derive(Subcommand)]
pub(crate) enum IndexCommand {
    /// Build the indexes of all retrieving arms; what is there and right is only opened.
    Build {
        #[command(flatten)]
        which: Which,
    },
    /// Say what is built, of how much, where it lies, and what must be rebuilt. Builds nothing.
    Info {
        #[command(flatten)]
        which: Which,
    },
    /// Show what a question retrieves: scores, chunks and their text.
    Query {
        #[command(flatten)]
        which: Which,
        /// The question; without one, questions are read line by line.
        question: Option<String>,
        /// Passages to show; the arm's `top_k` when absent.
        #[arg(long)]
        top_k: Option<usize>,
    },
}

// Which indexes are meant. (A doc comment would become the help of every command that has these.)
#[derive(Args)]
pub(crate) struct Which {
    /// The experiment file.
    pub(crate) experiment: PathBuf,
    /// Only this eval set.
    #[arg(long)]
    set: Option<String>,
    /// Only this arm.
    #[arg(long)]
    arm: Option<String>,
}

impl IndexCommand {
    pub(crate) fn which(&self) -> &Which {
        match self {
            Self::Build { which } | Self::Info { which } | Self::Query { which, .. } => which,
        }
    }
}

/// A retrieving arm on an eval set.
struct Place<'a> {
    set: &'a LoadedSet,
    arm: &'a str,
    rag: &'a Rag,
}

pub(crate) fn run(
    command: &IndexCommand,
    loaded: &Loaded,
    backends: &dyn Backends,
    progress: &dyn Progress,
) -> miette::Result<Exit> {
    let places = places(loaded, command.which())?;
    let result = match command {
        IndexCommand::Build { .. } => build(&places, loaded, backends, progress),
        IndexCommand::Info { .. } => info(&places, loaded, backends, progress),
        IndexCommand::Query { question, top_k, .. } => {
            query(&places[0], question.as_deref(), *top_k, loaded, backends, progress)
        }
    };
    match result {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            anstream::eprintln!("{:?}", miette!("{}", error.chain()));
            Ok(Exit::Backend)
        }
    }
}

fn places<'a>(loaded: &'a Loaded, which: &Which) -> miette::Result<Vec<Place<'a>>> {
    let sets: Vec<&str> = loaded.sets.iter().map(|set| set.spec.name.as_str()).collect();
    let arms: Vec<&str> = loaded.plans.iter().map(|plan| plan.name.as_str()).collect();
    for (what, name, known) in [("eval set", &which.set, &sets), ("arm", &which.arm, &arms)] {
        if let Some(name) = name
            && !known.contains(&name.as_str())
        {
            let help = format!("there are: {}", known.join(", "));
            return Err(miette!(help = help, "there is no {what} `{name}`"));
        }
    }
    let wanted = |name: &str, wish: &Option<String>| wish.as_ref().is_none_or(|wish| wish == name);
    let mut places = Vec::new();
    for set in loaded.sets.iter().filter(|set| wanted(&set.spec.name, &which.set)) {
        for plan in loaded.plans.iter().filter(|plan| wanted(&plan.name, &which.arm)) {
            if let (Some(rag), true) = (&plan.rag, plan.sets.contains(&set.spec.name)) {
                places.push(Place { set, arm: &plan.name, rag });
            }
        }
    }
    if places.is_empty() {
        return Err(miette!(
            help = "an arm with the strategy `rag` has one",
            "no arm that was asked for has an index"
        ));
    }
    Ok(places)
}

fn put_together(
    place: &Place<'_>,
    loaded: &Loaded,
    backends: &dyn Backends,
    progress: &dyn Progress,
) -> Result<Search, BackendError> {
    let dense = place.rag.retriever.is_dense();
    let embedder: Option<Arc<dyn Embedder>> =
        dense.then(|| backends.embedder(&loaded.experiment.embedder, progress)).transpose()?;
    let documents = search::documents(place.set);
    let folder = search::folder(loaded);
    let name = &place.set.spec.name;
    search::search(name, &documents, place.rag, embedder, &folder, backends, progress)
}

fn build(
    places: &[Place<'_>],
    loaded: &Loaded,
    backends: &dyn Backends,
    progress: &dyn Progress,
) -> Result<(), BackendError> {
    let mut seen = BTreeSet::new();
    for place in places {
        let search = put_together(place, loaded, backends, progress)?;
        if !seen.insert(search.key.clone()) {
            continue;
        }
        let info = search.open(backends, progress)?.info();
        let built = if info.seconds > 0.0 {
            format!("built in {:.1} s, {} documents new", info.seconds, info.documents_new)
        } else {
            "was there".into()
        };
        anstream::println!(
            "set {}, arm {}: {} documents, {} chunks, {} numbers per vector; {built}; {}",
            place.set.spec.name,
            place.arm,
            info.documents,
            info.chunks,
            info.dimension,
            at(&search)
        );
    }
    Ok(())
}

/// Where the index of a search lies.
fn at(search: &Search) -> String {
    match &search.job.settings.index {
        IndexBackend::Exact | IndexBackend::Edge { .. } => search.job.folder.display().to_string(),
        IndexBackend::Qdrant { url, .. } => url.clone(),
    }
}

fn info(
    places: &[Place<'_>],
    loaded: &Loaded,
    backends: &dyn Backends,
    progress: &dyn Progress,
) -> Result<(), BackendError> {
    for place in places {
        let search = put_together(place, loaded, backends, progress)?;
        let state = match &search.job.settings.index {
            IndexBackend::Qdrant { .. } => {
                "on a server; `bench index build` opens or builds it".into()
            }
            IndexBackend::Edge { .. } => {
                "in the embedded engine; `bench index build` opens or builds it".into()
            }
            IndexBackend::Exact => {
                let digest = index_digest(&search.job, English.id());
                let rebuild = "`bench index build` rebuilds it";
                match ExactIndex::open(&search.job.folder, &digest) {
                    Ok(index) => format!(
                        "{} chunks, {} numbers per vector, {:.1} MB",
                        index.n_chunks(),
                        index.dimension(),
                        models::size_of(&search.job.folder) as f64 / 1e6
                    ),
                    Err(OpenError::Io(_)) => "not built; `bench index build` builds it".into(),
                    Err(error) => format!("{error}; {rebuild}"),
                }
            }
        };
        anstream::println!(
            "set {}, arm {}, embedder {}: {state}; {}",
            place.set.spec.name,
            place.arm,
            search.embedder.get(..12).unwrap_or(&search.embedder),
            at(&search)
        );
    }
    Ok(())
}

fn query(
    place: &Place<'_>,
    question: Option<&str>,
    top_k: Option<usize>,
    loaded: &Loaded,
    backends: &dyn Backends,
    progress: &dyn Progress,
) -> Result<(), BackendError> {
    let search = put_together(place, loaded, backends, progress)?;
    let retriever = search.open(backends, progress)?;
    if let Some(model) = place.rag.rerank.as_ref().and_then(Rerank::chat_model) {
        progress.say(&format!("before `{model}` sorts the passages, which it does in a run only"));
    }
    let top_k = top_k.unwrap_or(place.rag.top_k as usize);
    let answer = |question: &str| -> Result<(), BackendError> {
        anstream::print!("{}", shown(&retriever.retrieve(question, top_k)?));
        Ok(())
    };
    if let Some(question) = question {
        return answer(question);
    }
    let input = std::io::stdin();
    let watched = input.is_terminal();
    let prompt = || {
        if watched {
            anstream::eprint!("{} ({})> ", place.set.spec.name, place.arm);
            // A prompt that cannot be shown stops nobody from asking.
            std::io::stderr().flush().ok();
        }
    };
    prompt();
    for line in input.lock().lines() {
        let line = line.map_err(|error| BackendError::fatal("stdin", error))?;
        if !line.trim().is_empty() {
            answer(&line)?;
        }
        prompt();
    }
    Ok(())
}

/// Passages for a reader: rank, score, where it is from, and the text below.
fn shown(passages: &[Passage]) -> String {
    if passages.is_empty() {
        return "nothing was found\n".into();
    }
    let mut text = String::new();
    for (rank, passage) in (1..).zip(passages) {
        let title =
            if passage.title.is_empty() { String::new() } else { format!("  {}", passage.title) };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{rank:>2}. {:.4}  {}{title}", passage.score, passage.id);
        for line in passage.text.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passage_is_shown_with_rank_score_and_text() {
        let passage = Passage {
            id: "d#0".into(),
            document: "d".into(),
            title: "T".into(),
            text: "one\ntwo".into(),
            score: 0.5,
        };
        assert_eq!(shown(&[passage]), " 1. 0.5000  d#0  T\n    one\n    two\n");
        assert_eq!(shown(&[]), "nothing was found\n");
    }
}
