//! The same corpus and the same questions on disk and on a server give the same passages. The
//! client is the real one and speaks gRPC to a test double in this process; where
//! `BENCH_QDRANT_URL` names a real server, the same questions go there too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod double;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use bench_core::backend::{BackendError, BackendErrorKind, IndexJob, Indexer, Retriever};
use bench_core::dataset::Document;
use bench_core::spec::{
    ChunkBy, Chunking, Expand, Filter, Mmr, Rag, Rerank, RerankerSource, Retrieval, Terms,
};
use bench_qdrant::{QdrantIndexer, QdrantServer};
use bench_retrieval::{English, ExactIndexer, HashingEmbedder, OverlapReranker};

use double::Double;

const N_DOCUMENTS: usize = 300;
const QUESTIONS: [&str; 5] = [
    "Who repaired the copper lantern?",
    "the slate bridges of winter",
    "amber, amber and more amber orchards",
    "What does document 17 say about the harbour?",
    "when is it that they were",
];

fn retrievals() -> [Retrieval; 4] {
    [
        Retrieval::Dense {},
        Retrieval::Bm25 { k1: 1.2, b: 0.75 },
        Retrieval::Hybrid { dense_weight: 0.7 },
        Retrieval::Rrf { k: 10.0 },
    ]
}

/// Documents of words drawn by their number, so that terms have many frequencies and lengths.
fn documents() -> Vec<Document> {
    const WORDS: [&str; 16] = [
        "copper", "lantern", "bridge", "slate", "winter", "amber", "orchard", "harbour", "repair",
        "river", "tide", "glass", "market", "bell", "salt", "library",
    ];
    let document = |n: usize| {
        let word = |i: usize| WORDS[(n * (i + 3) + i * i + n / 7) % WORDS.len()];
        let words: Vec<&str> = (0..8 + n % 23).map(word).collect();
        Document {
            id: format!("document {n}"),
            title: if n.is_multiple_of(3) {
                String::new()
            } else {
                format!("The {} of {n}", word(n))
            },
            text: format!("{} {n}.", words.join(" ")),
            meta: [
                ("year".to_owned(), (1900 + n % 50).into()),
                ("lang".to_owned(), if n.is_multiple_of(3) { "de" } else { "en" }.into()),
                ("tags".to_owned(), vec![word(1), word(2)].into()),
                ("weight in kg".to_owned(), (n as f64 / 8.0).into()),
                ("open".to_owned(), n.is_multiple_of(2).into()),
            ]
            .into(),
        }
    };
    (0..N_DOCUMENTS).map(document).collect()
}

fn job(folder: &Path, retriever: Retrieval) -> IndexJob {
    IndexJob {
        documents: Arc::new(documents()),
        settings: Rag { retriever, chunk_size: 20, ..Rag::default() },
        embedder: Some(Arc::new(HashingEmbedder::new(64))),
        reranker: Some(Arc::new(OverlapReranker)),
        folder: folder.to_owned(),
    }
}

fn indexer(url: &str, collection: Option<&str>) -> QdrantIndexer {
    let collection = collection.map(ToOwned::to_owned);
    QdrantIndexer::new(QdrantServer { collection, ..QdrantServer::at(url) }, Arc::new(English))
}

fn build(indexer: &dyn Indexer, job: &IndexJob) -> Result<Arc<dyn Retriever>, BackendError> {
    indexer.index(job, &mut |_, _| {})
}

/// What can be asked of an index besides a question, one or two at a time.
fn searches() -> Vec<Rag> {
    let filter = |field: &str| Filter { field: field.into(), ..Filter::default() };
    let filtered = |filter: Filter| Rag { filter: vec![filter], ..Rag::default() };
    let mmr = Some(Mmr { lambda: 0.4, candidates: 25 });
    let chunk = |by| Some(Chunking { by, size: 12, overlap: 4 });
    vec![
        filtered(Filter { is: Some("de".into()), ..filter("lang") }),
        filtered(Filter { any: vec!["amber".into(), "salt".into()], ..filter("tags") }),
        filtered(Filter { not: vec![1901.into(), 1902.into()], ..filter("year") }),
        filtered(Filter { gte: Some(1910.0), lt: Some(1915.0), ..filter("year") }),
        filtered(Filter { lte: Some(7.5), gt: Some(1.0), ..filter("weight in kg") }),
        filtered(Filter { is: Some(true.into()), ..filter("open") }),
        filtered(Filter { is: Some("document 17".into()), ..filter("document") }),
        filtered(Filter { is: Some("nowhere".into()), ..filter("lang") }),
        Rag { mmr: mmr.clone(), ..Rag::default() },
        Rag { mmr, filter: vec![Filter { gt: Some(1920.0), ..filter("year") }], ..Rag::default() },
        Rag { min_score: Some(0.4), ..Rag::default() },
        Rag { rerank: Some(Rerank::new(RerankerSource::Overlap, 20)), ..Rag::default() },
        Rag { expand: Expand::Parent, chunk: chunk(ChunkBy::Tokens), ..Rag::default() },
        Rag { expand: Expand::Neighbours(1), chunk: chunk(ChunkBy::Sentence), ..Rag::default() },
        Rag { terms: Terms { stem: false, stop_words: false }, ..Rag::default() },
    ]
}

/// Same passages in the same order; where scores tie, either order is right.
#[track_caller]
fn check_same(settings: &Rag, exact: &dyn Retriever, server: &dyn Retriever) {
    for question in QUESTIONS {
        let expect = exact.retrieve(question, 10).unwrap();
        let found = server.retrieve(question, 10).unwrap();
        assert_eq!(found.len(), expect.len(), "{settings:?}: {question}");
        for (found, expect) in found.iter().zip(&expect) {
            let near = (found.score - expect.score).abs() < 1e-4;
            assert!(near, "{settings:?}: {question}\n{found:?}\n{expect:?}");
        }
        let last = expect.last().map_or(0.0, |passage| passage.score);
        for passage in expect.iter().filter(|passage| passage.score > last + 1e-4) {
            let same = found.iter().find(|found| found.id == passage.id);
            let same = same.unwrap_or_else(|| panic!("{settings:?}: {question}: {passage:?}"));
            assert_eq!((&same.text, &same.title), (&passage.text, &passage.title));
        }
    }
}

/// The same passages as the exact index for every retriever and every setting of a search.
fn check_conformance(indexer: &dyn Indexer) {
    for retrieval in retrievals() {
        let folder = tempfile::tempdir().unwrap();
        let job = job(folder.path(), retrieval);
        let exact = build(&ExactIndexer, &job).unwrap();
        let server = build(indexer, &job).unwrap();
        assert_eq!(server.info().chunks, exact.info().chunks);
        check_same(&job.settings, exact.as_ref(), server.as_ref());
        drop(server); // an embedded index is open once
        let again = build(indexer, &job).unwrap();
        assert!(again.info().seconds == 0.0, "an index that is there is opened");
    }
    for settings in searches() {
        // The fused retriever asks both rankings of both indexes.
        for retriever in [Retrieval::Dense {}, Retrieval::Hybrid { dense_weight: 0.6 }] {
            let folder = tempfile::tempdir().unwrap();
            let settings = Rag { retriever, chunk_size: 20, ..settings.clone() };
            let job = IndexJob { settings, ..job(folder.path(), Retrieval::Dense {}) };
            let exact = build(&ExactIndexer, &job).unwrap();
            let server = build(indexer, &job).unwrap();
            check_same(&job.settings, exact.as_ref(), server.as_ref());
        }
    }
}

#[cfg(feature = "edge")]
fn embedded() -> bench_qdrant::EdgeIndexer {
    let graph = bench_qdrant::Graph { m: 16, ef_construct: 100, ef: 128 };
    bench_qdrant::EdgeIndexer::new(graph, Arc::new(English))
}

#[cfg(feature = "edge")]
#[test]
fn the_embedded_engine_finds_what_the_exact_index_finds() {
    check_conformance(&embedded());
}

#[cfg(feature = "edge")]
#[test]
fn an_embedded_index_follows_its_corpus_and_half_of_one_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), Retrieval::Hybrid { dense_weight: 0.5 });
    let first = build(&embedded(), &job).unwrap();
    assert_eq!(first.info().documents_new, N_DOCUMENTS as u64);
    drop(first);

    // What a killed build leaves: a new shard without its mark, beside the old one.
    std::fs::create_dir_all(folder.path().join("edge.new/segments/half")).unwrap();
    assert_eq!(build(&embedded(), &job).unwrap().info().documents_new, 0);
    std::fs::remove_file(folder.path().join("edge/bench.json")).unwrap();
    assert_eq!(build(&embedded(), &job).unwrap().info().documents_new, N_DOCUMENTS as u64);

    let mut changed = documents();
    changed[0].text = "A lighthouse stands on the cape.".into();
    job.documents = Arc::new(changed);
    let index = build(&embedded(), &job).unwrap();
    assert_eq!(index.retrieve("the lighthouse", 1).unwrap()[0].document, "document 0");
    assert!(!folder.path().join("edge.new").exists());
}

#[test]
fn filters_keep_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), Retrieval::Hybrid { dense_weight: 0.5 });
    let year = Filter { field: "year".into(), gte: Some(1910.0), ..Filter::default() };
    let lang = Filter { field: "lang".into(), is: Some("en".into()), ..Filter::default() };
    job.settings.filter = vec![year, lang];
    let found = build(&ExactIndexer, &job).unwrap().retrieve(QUESTIONS[0], 50).unwrap();
    assert_eq!(found.len(), 50);
    for passage in found {
        let n: usize = passage.document.strip_prefix("document ").unwrap().parse().unwrap();
        assert!(n % 50 >= 10 && !n.is_multiple_of(3), "{n}");
    }
}

#[test]
fn a_new_collection_is_laid_out_as_asked() {
    let (double, url) = Double::start();
    let folder = tempfile::tempdir().unwrap();
    let server = QdrantServer {
        collection: Some("cluster".into()),
        shards: Some(6),
        replicas: Some(2),
        write_consistency: Some(1),
        ..QdrantServer::at(&url)
    };
    let indexer = QdrantIndexer::new(server, Arc::new(English));
    build(&indexer, &job(folder.path(), Retrieval::Dense {})).unwrap();
    assert_eq!(double.layout("cluster"), [Some(6), Some(2), Some(1)]);
}

#[test]
fn a_server_finds_what_the_exact_index_finds() {
    check_conformance(&indexer(&Double::start().1, None));
}

#[test]
fn a_real_server_finds_what_the_exact_index_finds() {
    match std::env::var("BENCH_QDRANT_URL") {
        Ok(url) => check_conformance(&indexer(&url, None)),
        Err(_) => {
            // Past the harness, which shows nothing of a test that passes.
            let _ = writeln!(
                std::io::stderr(),
                "skipped a_real_server_finds_what_the_exact_index_finds: BENCH_QDRANT_URL names no server"
            );
        }
    }
}

#[test]
fn a_server_with_a_key_is_asked_with_it_and_says_who_refused_without_naming_it() {
    const KEY: &str = "key-of-the-test";
    let (_, url) = Double::locked(Some(KEY));
    let open = |api_key: Option<&str>| {
        let folder = tempfile::tempdir().unwrap();
        let api_key = api_key.map(ToOwned::to_owned);
        let server = QdrantServer { api_key, ..QdrantServer::at(&url) };
        let job = job(folder.path(), Retrieval::Dense {});
        build(&QdrantIndexer::new(server, Arc::new(English)), &job)
    };
    assert_eq!(open(Some(KEY)).unwrap().info().documents, N_DOCUMENTS as u64);
    for wrong in [None, Some("another-key")] {
        let error = open(wrong).err().unwrap().chain();
        assert!(error.contains(&url) && error.contains("refuses the key"), "{error}");
        assert!(error.contains("`api_key_env`") && !error.contains("another-key"), "{error}");
    }
}

#[test]
fn a_server_that_is_away_for_a_moment_costs_nothing() {
    let (double, url) = Double::start();
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), Retrieval::Dense {});
    double.allow_upserts(2);
    let returns = double.clone();
    let back = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(400));
        returns.allow_upserts(i64::MAX);
    });
    let info = build(&indexer(&url, None), &job).unwrap().info();
    back.join().unwrap();
    assert_eq!(double.n_points(&double.names()[0]), info.chunks as usize);
}

#[test]
fn a_build_that_was_interrupted_goes_on_without_duplicates() {
    let (double, url) = Double::start();
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), Retrieval::Hybrid { dense_weight: 0.7 });
    double.allow_upserts(3);
    let error = build(&indexer(&url, None), &job).err().unwrap();
    assert_eq!(error.kind, BackendErrorKind::Transient);
    assert!(error.chain().contains(&format!("no answer from `{url}`")), "{}", error.chain());
    let name = double.names().remove(0);
    assert_eq!(double.n_points(&name), 1 + 2 * 128);

    double.allow_upserts(i64::MAX);
    let server = build(&indexer(&url, None), &job).unwrap();
    assert_eq!(double.names(), std::slice::from_ref(&name));
    assert_eq!(double.n_points(&name), server.info().chunks as usize);
    let batches = (server.info().chunks - (1 + 128)).div_ceil(128);
    assert_eq!(double.n_upserts(), 3 + batches, "only the batch under way is sent again");
    let exact = build(&ExactIndexer, &job).unwrap();
    check_same(&job.settings, exact.as_ref(), server.as_ref());
}

#[test]
fn a_named_collection_follows_its_corpus_and_a_foreign_one_is_refused() {
    let (double, url) = Double::start();
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), Retrieval::Dense {});
    let named = indexer(&url, Some("meridian"));
    let before = build(&named, &job).unwrap().info();
    Arc::make_mut(&mut job.documents).truncate(50);
    let after = build(&named, &job).unwrap().info();
    assert_eq!(double.names(), ["meridian"]);
    assert_eq!(double.n_points("meridian"), after.chunks as usize);
    assert!(after.chunks < before.chunks && after.digest != before.digest);

    double.forget_owner("meridian");
    let error = build(&named, &job).err().unwrap().chain();
    assert!(error.contains("collection `meridian` holds something that bench did not write"));
    assert_eq!(double.n_points("meridian"), after.chunks as usize, "and it is left alone");
}

#[test]
fn a_collection_that_vanishes_is_named() {
    let (double, url) = Double::start();
    let folder = tempfile::tempdir().unwrap();
    let server =
        build(&indexer(&url, Some("gone")), &job(folder.path(), Retrieval::Dense {})).unwrap();
    double.drop_collection("gone");
    let error = server.retrieve("anything", 3).unwrap_err().chain();
    assert!(error.contains("Collection `gone` doesn't exist!"), "{error}");
}

#[test]
fn an_address_without_a_server_and_no_address_at_all_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), Retrieval::Dense {});
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = build(&indexer(&url, None), &job).err().unwrap();
    assert_eq!(error.kind, BackendErrorKind::Transient);
    assert!(error.chain().contains(&format!("no answer from `{url}`")), "{}", error.chain());
    assert!(build(&indexer("not an address", None), &job).is_err());
}

#[test]
fn it_can_be_used_inside_a_runtime() {
    let (_double, url) = Double::start();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async move {
        let folder = tempfile::tempdir().unwrap();
        let job = job(folder.path(), Retrieval::Dense {});
        let server = build(&indexer(&url, None), &job).unwrap();
        assert_eq!(server.retrieve("copper lantern", 3).unwrap().len(), 3);
    });
}
