//! Measures embedding and prints a line of JSON. `benches/retrieval` runs it beside Python on the
//! same model, runtime and texts.
//!
//! `embed_speed <folder with model.onnx, tokenizer.json> <libonnxruntime.so> <texts.json>`

#![expect(clippy::print_stdout, reason = "a measuring program prints what it measured")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use bench_core::backend::{Embedder, Purpose};
use bench_fastembed::{OnnxEmbedder, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, runtime, texts] = arguments.as_slice() else {
        return Err("give a model folder, a runtime and texts".into());
    };
    let folder = Path::new(folder);
    let texts: Vec<String> = serde_json::from_slice(&fs_err::read(texts)?)?;
    let (onnx, tokenizer) = (folder.join("model.onnx"), folder.join("tokenizer.json"));

    let started = Instant::now();
    let model =
        OnnxEmbedder::open(&onnx, &tokenizer, Path::new(runtime), &Options::default(), None)?;
    let open = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let vectors = model.embed(Purpose::Passage, &texts)?;
    println!(
        "{}",
        serde_json::json!({
            "open_s": open,
            "embed_s": started.elapsed().as_secs_f64(),
            "n": vectors.len(),
            "first": vectors.first(),
        })
    );
    Ok(())
}
