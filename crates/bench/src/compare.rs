//! `bench compare`: two report folders, or one against what Git has of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use bench_core::manifest::Manifest;
use bench_core::record::Record;
use bench_report::{Samples, Side, compare_runs};
use bench_run::store::write_atomically;
use miette::{Context as _, IntoDiagnostic as _, miette};

use crate::exit::Exit;
use crate::output;

#[derive(clap::Args)]
pub(crate) struct CompareArguments {
    /// The report folder before the change. Alone: the folder as it is now is compared with what is
    /// committed of it.
    before: PathBuf,
    /// The report folder after the change.
    after: Option<PathBuf>,
    /// The Git revision that a folder alone is compared with.
    #[arg(long, default_value = "HEAD", conflicts_with = "after")]
    revision: String,
    /// Write the Markdown here instead of printing it.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Also write a page with all flips.
    #[arg(long)]
    html: Option<PathBuf>,
    /// Where a data file was changed, compare the samples that are the same in both.
    #[arg(long)]
    common: bool,
}

pub(crate) fn run(arguments: &CompareArguments) -> miette::Result<Exit> {
    let CompareArguments { before, after, revision, out, html, common } = arguments;
    let folder = before.display().to_string();
    let (names, old, new) = match after {
        Some(after) => {
            ([folder, after.display().to_string()], output::read(before)?, output::read(after)?)
        }
        None => (
            [format!("{folder} at {revision}"), format!("{folder} now")],
            committed(before, revision)?,
            output::read(before)?,
        ),
    };
    let side = |at: usize| {
        let (manifest, records) = if at == 0 { &old } else { &new };
        Side { name: &names[at], manifest, records }
    };
    let samples = if *common { Samples::Common } else { Samples::OfEqualFiles };
    let comparison = compare_runs(side(0), side(1), samples).into_diagnostic()?;
    let markdown = comparison.markdown().into_diagnostic()?;
    output::step_summary(&markdown)?;
    match out {
        Some(path) => write(path, &markdown)?,
        None => anstream::print!("{markdown}"),
    }
    if let Some(path) = html {
        write(path, &comparison.html().into_diagnostic()?)?;
    }
    for why in &comparison.refused {
        anstream::eprintln!("not compared: {why}");
    }
    for arm in &comparison.worse {
        anstream::eprintln!("worse: {arm}");
    }
    Ok(match (comparison.is_comparable(), comparison.worse.is_empty()) {
        (false, _) => Exit::Wrong,
        (true, false) => Exit::Gate,
        (true, true) => Exit::Done,
    })
}

fn write(path: &Path, text: &str) -> miette::Result<()> {
    write_atomically(path, text.as_bytes())
        .into_diagnostic()
        .wrap_err_with(|| format!("`{}` cannot be written", path.display()))
}

/// The report as a Git revision has it.
fn committed(folder: &Path, revision: &str) -> miette::Result<(Manifest, Vec<Record>)> {
    if revision.starts_with('-') {
        return Err(miette!("`{revision}` is no Git revision"));
    }
    if !folder.is_dir() {
        return Err(miette!(
            help = "give the folder that holds report.md",
            "there is no folder `{}`",
            folder.display()
        ));
    }
    let (manifest, trials) = output::parse(&|name| {
        let shown = Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(["show", &format!("{revision}:./{name}")])
            .output()
            .into_diagnostic()
            .wrap_err("git does not start; give two report folders to compare without it")?;
        if shown.status.success() {
            return Ok(shown.stdout);
        }
        Err(miette!(
            help = "commit the report first, name another `--revision`, or give two report folders",
            "Git has no `{name}` of `{}` at {revision}: {}",
            folder.display(),
            String::from_utf8_lossy(&shown.stderr).trim()
        ))
    })?;
    Ok((manifest, bench_report::read_trials(&trials).into_diagnostic()?))
}
