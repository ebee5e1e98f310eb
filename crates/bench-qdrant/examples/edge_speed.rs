//! Measures the embedded index on given vectors and prints a line of JSON, as `index_speed` of
//! `bench-retrieval` does for the exact one. `benches/retrieval` runs both on the same vectors.
//!
//! `edge_speed <vectors.f32> <queries.f32> <dimension> <folder>`: files of little-endian numbers. An
//! index that is in the folder already is opened.

#![expect(clippy::print_stdout, reason = "a measuring program prints what it measured")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bench_core::backend::{BackendError, Embedder, IndexJob, Indexer as _, Purpose};
use bench_core::dataset::Document;
use bench_core::spec::{Rag, Retrieval};
use bench_qdrant::{EdgeIndexer, Graph};
use bench_retrieval::English;

/// Gives the vectors of a file: a text is the number of its row.
struct Given {
    passages: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
    dimension: usize,
}

impl Embedder for Given {
    fn id(&self) -> &'static str {
        "given"
    }

    fn dimension(&self) -> usize {
        self.dimension
    }

    fn window(&self) -> usize {
        256
    }

    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn embed(&self, purpose: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
        let rows = match purpose {
            Purpose::Query => &self.queries,
            Purpose::Passage => &self.passages,
        };
        let row = |text: &String| {
            let number = text.split_whitespace().next().and_then(|word| word.parse::<usize>().ok());
            let row = number.and_then(|number| rows.get(number));
            row.cloned().ok_or_else(|| BackendError::fatal("given", format!("no row `{text}`")))
        };
        texts.iter().map(row).collect()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vectors, queries, dimension, folder] = arguments.as_slice() else {
        return Err("give vectors, queries, dimension and folder".into());
    };
    let dimension = dimension.parse()?;
    let given = Given {
        passages: read(vectors, dimension)?,
        queries: read(queries, dimension)?,
        dimension,
    };
    let n_queries = given.queries.len();
    let words = "About two hundred tokens of text stand in a chunk. ".repeat(16);
    let document = |n: usize| Document {
        id: n.to_string(),
        text: format!("{n} {words}"),
        ..Document::default()
    };
    let job = IndexJob {
        documents: Arc::new((0..given.passages.len()).map(document).collect()),
        settings: Rag { retriever: Retrieval::Dense {}, chunk_size: 0, ..Rag::default() },
        embedder: Some(Arc::new(given)),
        folder: Path::new(folder).to_owned(),
        ..IndexJob::default()
    };
    let indexer = EdgeIndexer::new(Graph { m: 16, ef_construct: 100, ef: 128 }, Arc::new(English));
    let started = Instant::now();
    let built = indexer.index(&job, &mut |_, _| {})?;
    let build = started.elapsed().as_secs_f64();
    let n = built.info().chunks;
    drop(built);
    let started = Instant::now();
    let index = indexer.index(&job, &mut |_, _| {})?;
    let open = started.elapsed().as_secs_f64();

    let (mut seconds, mut found) = (Vec::new(), Vec::new());
    for query in 0..n_queries {
        let started = Instant::now();
        let passages = index.retrieve(&query.to_string(), 10)?;
        seconds.push(started.elapsed().as_secs_f64());
        let ids: Result<Vec<u32>, _> =
            passages.iter().map(|passage| passage.document.parse::<u32>()).collect();
        found.push(ids?);
    }
    seconds.sort_by(f64::total_cmp);
    let percentile = |share: f64| seconds[((seconds.len() - 1) as f64 * share).round() as usize];
    println!(
        "{}",
        serde_json::json!({
            "n": n,
            "build_s": build,
            "open_s": open,
            "p50_ms": percentile(0.5) * 1e3,
            "p99_ms": percentile(0.99) * 1e3,
            "found": found,
        })
    );
    Ok(())
}

fn read(path: &str, dimension: usize) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let number = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    let vector = |bytes: &[u8]| bytes.chunks_exact(4).map(number).collect();
    Ok(bytes.chunks_exact(dimension * 4).map(vector).collect())
}
