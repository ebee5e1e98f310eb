//! Measures the exact index on given vectors and prints a line of JSON. `benches/retrieval` runs it
//! beside other libraries on the same vectors.
//!
//! `index_speed <vectors.f32> <queries.f32> <dimension> <folder>`: files of little-endian numbers.
//! With `-` for the vectors, the index that is in the folder is opened and only searched.

#![expect(clippy::print_stdout, reason = "a measuring program prints what it measured")]

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use bench_core::retrieval::Chunk;
use bench_retrieval::{ExactIndex, Made};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vectors, queries, dimension, folder] = arguments.as_slice() else {
        return Err("give vectors, queries, dimension and folder".into());
    };
    let (dimension, folder) = (dimension.parse()?, Path::new(folder));
    let queries = read(queries, dimension)?;

    let mut build = None;
    if vectors != "-" {
        let vectors = read(vectors, dimension)?;
        let chunks: Vec<Chunk> = (0..vectors.len()).map(chunk).collect();
        let started = Instant::now();
        let made = Made { digest: "speed", settings: "speed", documents: &HashMap::new() };
        ExactIndex::write(folder, made, &chunks, &vectors)?;
        build = Some(started.elapsed().as_secs_f64());
    }
    let started = Instant::now();
    let index = ExactIndex::open(folder, "speed")?;
    let open = started.elapsed();

    let mut seconds = Vec::new();
    let mut found = Vec::new();
    for query in &queries {
        let started = Instant::now();
        let hits = index.search(query, 10);
        seconds.push(started.elapsed().as_secs_f64());
        found.push(hits.into_iter().map(|hit| hit.0).collect::<Vec<_>>());
    }
    seconds.sort_by(f64::total_cmp);
    let percentile = |share: f64| seconds[((seconds.len() - 1) as f64 * share).round() as usize];
    println!(
        "{}",
        serde_json::json!({
            "n": index.n_chunks(),
            "build_s": build,
            "open_s": open.as_secs_f64(),
            "p50_ms": percentile(0.5) * 1e3,
            "p99_ms": percentile(0.99) * 1e3,
            "found": found,
        })
    );
    Ok(())
}

fn read(path: &str, dimension: usize) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let bytes = fs_err::read(path)?;
    let number = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    let vector = |bytes: &[u8]| bytes.chunks_exact(4).map(number).collect();
    Ok(bytes.chunks_exact(dimension * 4).map(vector).collect())
}

fn chunk(n: usize) -> Chunk {
    Chunk {
        id: format!("d{n}#0"),
        document: format!("d{n}"),
        title: "A title of common length".into(),
        text: "About two hundred tokens of text stand in a chunk. ".repeat(16),
        of: 1,
        ..Chunk::default()
    }
}
