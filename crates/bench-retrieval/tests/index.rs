//! From a corpus to passages, through the traits.

use std::path::Path;
use std::sync::Arc;

use bench_core::backend::{BackendError, Embedder, IndexJob, Indexer, Purpose, Retriever};
use bench_core::dataset::Document;
use bench_core::spec::{Rag, Retrieval};
use bench_retrieval::{CachedEmbedder, ExactIndexer, HashingEmbedder};

const CORPUS: &[(&str, &str, &str)] = &[
    ("harbour", "Velm harbour", "The harbour of Velm was built in 1702. Its master is Ona Brill."),
    ("bridge", "Tarn bridge", "The bridge over the Tarn carries trams. It opened in 1911."),
    ("mill", "Old mill", "Wheat is ground in the old mill every autumn."),
    ("library", "", "The city library lends maps, lutes and lanterns to everyone."),
];

fn retrievals() -> [Retrieval; 4] {
    [
        Retrieval::Dense {},
        Retrieval::Bm25 { k1: 0.9, b: 0.4 },
        Retrieval::Hybrid { dense_weight: 0.7 },
        Retrieval::Rrf { k: 10.0 },
    ]
}

fn documents() -> Vec<Document> {
    let document = |(id, title, text): &(&str, &str, &str)| Document {
        id: (*id).into(),
        title: (*title).into(),
        text: (*text).into(),
        ..Document::default()
    };
    CORPUS.iter().map(document).collect()
}

fn job(folder: &Path, retriever: Retrieval) -> IndexJob {
    IndexJob {
        documents: Arc::new(documents()),
        settings: Rag { retriever, chunk_size: 12, ..Rag::default() },
        embedder: Some(Arc::new(HashingEmbedder::new(256))),
        reranker: None,
        folder: folder.to_owned(),
    }
}

fn build(job: &IndexJob) -> Result<Arc<dyn Retriever>, BackendError> {
    ExactIndexer.index(job, &mut |_, _| {})
}

#[test]
fn every_retriever_finds_the_passage() {
    for retrieval in retrievals() {
        let folder = tempfile::tempdir().unwrap();
        let retriever = build(&job(folder.path(), retrieval.clone())).unwrap();
        for (question, document) in [
            ("Who is the master of Velm's harbour?", "harbour"),
            ("When did the tram bridge open?", "bridge"),
            ("where can I borrow a lantern", "library"),
        ] {
            let found = retriever.retrieve(question, 2).unwrap();
            assert_eq!(found[0].document, document, "{retrieval:?}: {question}");
            assert!(found.len() <= 2 && found.is_sorted_by(|a, b| a.score >= b.score));
            assert!(found[0].id.starts_with(&format!("{document}#")));
        }
    }
}

#[test]
fn more_passages_than_there_are_is_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let retriever = build(&job(folder.path(), Retrieval::Dense {})).unwrap();
    let n_chunks = retriever.info().chunks as usize;
    assert_eq!(retriever.retrieve("harbour", 1000).unwrap().len(), n_chunks);
    assert!(retriever.retrieve("harbour", 0).unwrap().is_empty());
}

#[test]
fn an_empty_question_is_rejected_and_a_very_long_one_is_answered() {
    for retrieval in retrievals() {
        let folder = tempfile::tempdir().unwrap();
        let retriever = build(&job(folder.path(), retrieval)).unwrap();
        let error = retriever.retrieve(" \n", 3).unwrap_err();
        assert_eq!(error.chain(), "retrieval: rejected the request: the question is empty");
        let long = "and then the harbour of Velm ".repeat(1667);
        assert_eq!(retriever.retrieve(&long, 1).unwrap()[0].document, "harbour");
    }
}

#[test]
fn an_index_is_opened_again_and_rebuilt_when_anything_it_depends_on_changes() {
    let folder = tempfile::tempdir().unwrap();
    let first = job(folder.path(), Retrieval::Dense {});
    let built = build(&first).unwrap().info();
    assert!(built.seconds > 0.0 && built.documents == 4 && built.dimension == 256);
    let again = build(&first).unwrap().info();
    assert_eq!((again.seconds, &again.digest), (0.0, &built.digest));

    let mut asked_otherwise = first.clone();
    asked_otherwise.settings.retriever = Retrieval::Rrf { k: 2.0 };
    asked_otherwise.settings.top_k = 9;
    assert_eq!(build(&asked_otherwise).unwrap().info().digest, built.digest);

    let changes: [fn(&mut IndexJob); 4] = [
        |job| Arc::make_mut(&mut job.documents)[0].text.push('!'),
        |job| job.settings.chunk_size = 11,
        |job| job.settings.retriever = Retrieval::Bm25 { k1: 0.9, b: 0.4 },
        |job| job.embedder = Some(Arc::new(HashingEmbedder::new(128))),
    ];
    for change in changes {
        let mut changed = first.clone();
        change(&mut changed);
        let info = build(&changed).unwrap().info();
        assert!(info.seconds > 0.0 && info.digest != built.digest);
    }
}

#[test]
fn a_damaged_index_is_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), Retrieval::Hybrid { dense_weight: 0.5 });
    let found = build(&job).unwrap().retrieve("the old mill", 3).unwrap();
    for name in ["index.bin", "chunks.jsonl"] {
        let path = folder.path().join(name);
        let half = fs_err::read(&path).unwrap();
        fs_err::remove_file(&path).unwrap();
        fs_err::write(&path, &half[..half.len() / 2]).unwrap();
        let rebuilt = build(&job).unwrap();
        assert!(rebuilt.info().seconds > 0.0);
        assert_eq!(rebuilt.retrieve("the old mill", 3).unwrap(), found);
    }
}

#[test]
fn a_lexical_index_needs_no_embedder_and_a_dense_one_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), Retrieval::Bm25 { k1: 0.9, b: 0.4 });
    job.embedder = None;
    assert_eq!(build(&job).unwrap().info().dimension, 0);
    job.settings.retriever = Retrieval::Dense {};
    let error = build(&job).err().unwrap().chain();
    assert_eq!(
        error,
        "retrieval: cannot go on: this retriever needs an embedder, or choose `bm25`"
    );
}

#[test]
fn a_changed_document_embeds_only_itself() {
    /// Fails when it is asked for anything but the new sentence.
    struct Only(HashingEmbedder);
    impl Embedder for Only {
        fn id(&self) -> &str {
            self.0.id()
        }
        fn dimension(&self) -> usize {
            self.0.dimension()
        }
        fn window(&self) -> usize {
            self.0.window()
        }
        fn count_tokens(&self, text: &str) -> usize {
            self.0.count_tokens(text)
        }
        fn embed(&self, purpose: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
            assert_eq!(texts, ["Old mill: The old mill burnt down."]);
            self.0.embed(purpose, texts)
        }
    }
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut job = job(folder.path(), Retrieval::Dense {});
    job.embedder =
        Some(Arc::new(CachedEmbedder::new(Arc::new(HashingEmbedder::new(256)), cache.path())));
    build(&job).unwrap();
    Arc::make_mut(&mut job.documents)[2].text = "The old mill burnt down.".into();
    let only = Arc::new(Only(HashingEmbedder::new(256)));
    job.embedder = Some(Arc::new(CachedEmbedder::new(only, cache.path())));
    let mut last = (0, 0);
    ExactIndexer.index(&job, &mut |done, total| last = (done, total)).unwrap();
    assert!(last.0 == last.1 && last.1 > 4, "{last:?}");
}

#[test]
fn a_build_takes_over_what_did_not_change_and_forgets_what_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), Retrieval::Hybrid { dense_weight: 0.5 });
    assert_eq!(build(&job).unwrap().info().documents_new, 4);
    let documents = Arc::make_mut(&mut job.documents);
    documents[1].text = "The ferry over the Tarn carries goats.".into();
    documents.remove(0);
    documents.push(Document {
        id: "well".into(),
        text: "The well is deep.".into(),
        ..Document::default()
    });
    let changed = build(&job).unwrap();
    assert_eq!((changed.info().documents_new, changed.info().documents), (2, 4));
    assert_eq!(build(&job).unwrap().info().documents_new, 0);

    // The same as if it had been built from nothing.
    let fresh_folder = tempfile::tempdir().unwrap();
    let fresh = IndexJob { folder: fresh_folder.path().into(), ..job.clone() };
    let fresh = build(&fresh).unwrap();
    for question in ["harbour master of Velm", "goats on the ferry", "a deep well", "lanterns"] {
        let found = changed.retrieve(question, 10).unwrap();
        assert_eq!(found, fresh.retrieve(question, 10).unwrap());
        assert!(found.iter().all(|passage| passage.document != "harbour"));
    }
    // Another cut takes nothing over.
    job.settings.chunk_size = 6;
    assert_eq!(build(&job).unwrap().info().documents_new, 4);
}

#[test]
fn documents_beyond_the_window_are_counted() {
    struct Narrow(HashingEmbedder);
    impl Embedder for Narrow {
        fn id(&self) -> &'static str {
            "narrow"
        }
        fn dimension(&self) -> usize {
            self.0.dimension()
        }
        fn window(&self) -> usize {
            12
        }
        fn count_tokens(&self, text: &str) -> usize {
            self.0.count_tokens(text)
        }
        fn embed(&self, purpose: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
            assert!(texts.iter().all(|text| self.count_tokens(text) <= 12), "{texts:?}");
            self.0.embed(purpose, texts)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), Retrieval::Dense {});
    job.embedder = Some(Arc::new(Narrow(HashingEmbedder::new(16))));
    job.settings.chunk_size = 0;
    assert_eq!(build(&job).unwrap().info().cut_to_window, 2);
    job.settings.chunk_size = 8;
    assert_eq!(build(&job).unwrap().info().cut_to_window, 0);
}

#[test]
fn an_embedder_that_breaks_its_promise_is_named() {
    struct Broken(Vec<f32>);
    impl Embedder for Broken {
        fn id(&self) -> &'static str {
            "broken"
        }
        fn dimension(&self) -> usize {
            3
        }
        fn window(&self) -> usize {
            100
        }
        fn count_tokens(&self, text: &str) -> usize {
            text.len() / 4
        }
        fn embed(&self, _: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
            Ok(vec![self.0.clone(); texts.len()])
        }
    }
    for (vector, expect) in [
        (vec![1.0; 4], "embedder `broken` gave 4 numbers where it promised 3"),
        (vec![f32::NAN; 3], "embedder `broken` gave a vector that holds no number"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut job = job(folder.path(), Retrieval::Dense {});
        job.embedder = Some(Arc::new(Broken(vector)));
        assert_eq!(build(&job).err().unwrap().source.to_string(), expect);
    }
}
