//! `cargo run -p bench-datasets [folder]` writes the data sets, by default over the committed ones.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets")),
        PathBuf::from,
    );
    for file in bench_datasets::files() {
        let path = folder.join(file.path);
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        fs_err::write(path, file.content)?;
    }
    Ok(())
}
