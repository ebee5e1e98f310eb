//! Prints the JSON Schema of experiment files, as `bench schema` does, without building a backend:
//! `cargo run -p bench-core --example schema > experiments/experiment.schema.json`.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let schema = bench_core::spec::schema();
    writeln!(std::io::stdout(), "{schema:#}")
}
