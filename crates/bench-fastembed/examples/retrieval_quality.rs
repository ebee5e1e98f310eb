//! How well each retriever finds the gold documents of a data set. Prints a line per retriever.
//!
//! `retrieval_quality <data folder> <rows.jsonl in it> <model folder> <libonnxruntime.so> <work
//! folder> [<row limit>]`; the data folder holds `corpus.jsonl`.

#![expect(clippy::print_stdout, reason = "a measuring program prints what it measured")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use bench_core::backend::{Embedder, IndexJob, Indexer};
use bench_core::dataset;
use bench_core::spec::{Rag, Retrieval};
use bench_fastembed::{OnnxEmbedder, Options};
use bench_retrieval::{CachedEmbedder, ExactIndexer, metrics};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, rows, model, runtime, work, limit @ ..] = arguments.as_slice() else {
        return Err("give a data folder, its rows, a model folder, a runtime and a folder".into());
    };
    let (data, model, work) = (Path::new(data), Path::new(model), Path::new(work));
    let bad_rows = |errors: Vec<dataset::RowError>| format!("{errors:?}");
    let documents = dataset::documents(&fs_err::read_to_string(data.join("corpus.jsonl"))?);
    let documents = documents.map_err(bad_rows)?;
    let samples = dataset::samples(&fs_err::read_to_string(data.join(rows))?).map_err(bad_rows)?;
    let limit = limit.first().map_or(Ok(usize::MAX), |limit| limit.parse())?;

    let (onnx, tokenizer) = (model.join("model.onnx"), model.join("tokenizer.json"));
    let runtime = Path::new(runtime);
    let minilm = OnnxEmbedder::open(&onnx, &tokenizer, runtime, &Options::default(), None)?;
    let embedder: Arc<dyn Embedder> = Arc::new(CachedEmbedder::new(Arc::new(minilm), work));

    let mut retrievals = vec![
        Retrieval::Dense {},
        Retrieval::Bm25 { k1: 0.9, b: 0.4 },
        Retrieval::Rrf { k: 10.0 },
        Retrieval::Rrf { k: 60.0 },
    ];
    retrievals
        .extend([0.3, 0.5, 0.6, 0.7, 0.8].map(|dense_weight| Retrieval::Hybrid { dense_weight }));
    for retriever in retrievals {
        let job = IndexJob {
            documents: documents.clone(),
            settings: Rag { retriever: retriever.clone(), ..Rag::default() },
            embedder: Some(Arc::clone(&embedder)),
            folder: work.join(if retriever.is_dense() { "dense" } else { "lexical" }),
        };
        let index = ExactIndexer.index(&job, &mut |_, _| {})?;
        let mut sums = [0.0; 4];
        let mut n = 0.0;
        for sample in samples.iter().filter(|s| !s.context_ids.is_empty()).take(limit) {
            let passages = index.retrieve(&sample.input, 30)?;
            let ranking = metrics::documents(&passages);
            let gold = metrics::binary(sample.context_ids.iter().map(String::as_str));
            let values = [
                metrics::hit(&ranking, &gold, 1),
                metrics::hit(&ranking, &gold, 5),
                metrics::reciprocal_rank(&ranking, &gold, 10),
                metrics::ndcg(&ranking, &gold, 10),
            ];
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value.unwrap_or(0.0));
            n += 1.0;
        }
        let [hit_1, hit_5, mrr, ndcg] = sums.map(|sum| sum / n);
        println!(
            "{retriever:?}: hit@1 {hit_1:.3} hit@5 {hit_5:.3} mrr@10 {mrr:.3} ndcg@10 {ndcg:.3} \
             ({n} questions, {} chunks)",
            index.info().chunks
        );
    }
    Ok(())
}
