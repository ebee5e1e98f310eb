//! Imports a GGUF file: `cargo run --release -p bench-candle --example import_gguf -- MODEL.gguf FOLDER`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::{path::Path, process::ExitCode, time::Instant};

use bench_candle::import::gguf_to_folder;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [gguf, folder] = arguments.as_slice() else {
        eprintln!("usage: import_gguf MODEL.gguf FOLDER");
        return ExitCode::from(2);
    };
    let start = Instant::now();
    match gguf_to_folder(Path::new(gguf), Path::new(folder), &mut |done, total| {
        eprint!("\r{done}/{total} tensors");
    }) {
        Ok(imported) => {
            println!("\n{imported:#?}\n{:.1} s", start.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\n{error}");
            ExitCode::FAILURE
        }
    }
}
