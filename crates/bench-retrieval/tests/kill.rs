//! `kill -9` at twenty moments: what was embedded stays, and an index is whole or absent.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bench_core::backend::{Embedder, IndexJob, Indexer, Purpose};
use bench_core::dataset::Document;
use bench_core::spec::{Rag, Retrieval};
use bench_retrieval::{CachedEmbedder, ExactIndexer, HashingEmbedder};

/// Set in the child: the folder it works in until it is killed.
const FOLDER: &str = "BENCH_TEST_KILLED_IN";

fn texts(round: usize) -> Vec<String> {
    (0..50).map(|n| format!("text {n} of round {round}")).collect()
}

fn cached(folder: &Path) -> CachedEmbedder {
    CachedEmbedder::new(Arc::new(HashingEmbedder::new(64)), &folder.join("embeddings"))
}

fn job(folder: &Path, round: usize) -> IndexJob {
    let document = |(n, text)| Document { id: format!("d{n}"), text, ..Document::default() };
    IndexJob {
        documents: Arc::new(texts(round).into_iter().enumerate().map(document).collect()),
        settings: Rag { retriever: Retrieval::Dense {}, ..Rag::default() },
        embedder: Some(Arc::new(cached(folder))),
        folder: folder.join("index"),
        reranker: None,
    }
}

/// Not a test by itself: the work that the other test kills.
#[test]
fn work_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    for round in 0.. {
        ExactIndexer.index(&job(folder, round), &mut |_, _| {}).unwrap();
    }
}

#[test]
fn killed_at_any_moment_nothing_is_lost_and_nothing_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let program = std::env::current_exe().unwrap();
    let plain = HashingEmbedder::new(64);
    for (last_round, moment) in (0..20).enumerate() {
        let mut child = Command::new(&program)
            .args(["--exact", "work_until_killed", "--nocapture"])
            .env(FOLDER, folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(15 + 13 * moment));
        child.kill().unwrap();
        child.wait().unwrap();

        // What the cache gives is what the embedder gives, for texts it had and for new ones.
        for round in [0, last_round, 10_000 + moment as usize] {
            let found = cached(folder).embed(Purpose::Passage, &texts(round)).unwrap();
            assert_eq!(found, plain.embed(Purpose::Passage, &texts(round)).unwrap());
        }
        // The index is opened or rebuilt, and answers.
        let index = ExactIndexer.index(&job(folder, last_round), &mut |_, _| {}).unwrap();
        let question = format!("text 7 of round {last_round}");
        assert_eq!(index.retrieve(&question, 1).unwrap()[0].document, "d7");
    }
}
