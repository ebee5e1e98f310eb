//! Reports on disk: written whole, and made again from their own records.

use std::io::Write as _;
use std::path::Path;

use bench_core::manifest::Manifest;
use bench_core::record::{Outcome, Record};
use bench_core::{digest, spec};
use bench_report::Report;
use bench_run::store::write_atomically;
use miette::{Context as _, IntoDiagnostic as _, miette};

use crate::exit::Exit;

/// Prints what a command was asked for. A reader that has seen enough (`| head`) closes the pipe, which
/// is no failure; a disk that is full is one.
pub(crate) fn say(text: &str) -> Exit {
    let mut out = anstream::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let help = "make room where the output goes, or send it elsewhere";
            anstream::eprintln!(
                "{:?}",
                miette!(help = help, "the output cannot be written: {error}")
            );
            Exit::Unprinted
        }
        Ok(()) | Err(_) => Exit::Done,
    }
}

/// Fails before anything is spent when the report could not be written.
pub(crate) fn writable(folder: &Path) -> miette::Result<()> {
    let probe = folder.join(".writable");
    fs_err::create_dir_all(folder)
        .and_then(|()| fs_err::write(&probe, b""))
        .and_then(|()| fs_err::remove_file(&probe))
        .into_diagnostic()
        .wrap_err_with(|| format!("the report folder `{}` cannot be written", folder.display()))
}

/// Writes the report and returns the gates that failed.
pub(crate) fn write(
    folder: &Path,
    manifest: &Manifest,
    records: &[Record],
) -> miette::Result<Vec<String>> {
    if !bench_report::is_large(records.len()) {
        return put(folder, bench_report::build(manifest, records).into_diagnostic()?);
    }
    // As `bench report` makes it, with a part of the prompts.
    let trials = bench_report::trials_parquet(records).into_diagnostic()?;
    fs_err::create_dir_all(folder.join("tables")).into_diagnostic()?;
    write_atomically(&folder.join("tables/trials.parquet"), &trials).into_diagnostic()?;
    let figures = bench_report::read_figures(trials).into_diagnostic()?;
    put(folder, bench_report::rebuild(manifest, &figures).into_diagnostic()?)
}

fn put(folder: &Path, report: Report) -> miette::Result<Vec<String>> {
    step_summary(&report.summary)?;
    for (name, bytes) in &report.files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent).into_diagnostic()?;
        }
        // What did not change is not touched.
        if fs_err::read(&path).is_ok_and(|old| old == *bytes) {
            continue;
        }
        write_atomically(&path, bytes).into_diagnostic()?;
    }
    without_stale_charts(folder, &report)?;
    Ok(report.failed_gates)
}

/// Charts of what the report no longer has (an arm, a price) would mislead whoever finds them.
fn without_stale_charts(folder: &Path, report: &Report) -> miette::Result<()> {
    let Ok(entries) = fs_err::read_dir(folder.join("charts")) else { return Ok(()) };
    for entry in entries {
        let path = entry.into_diagnostic()?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_chart = path.extension().is_some_and(|end| end == "svg" || end == "png");
        if is_chart && !report.files.iter().any(|(file, _)| *file == format!("charts/{name}")) {
            fs_err::remove_file(&path).into_diagnostic()?;
        }
    }
    Ok(())
}

/// `bench report`: the same files from `manifest.json` and `tables/trials.parquet`.
pub(crate) fn again(folder: &Path, prices: Option<&Path>) -> miette::Result<Exit> {
    let (mut manifest, trials) = read_parts(folder)?;
    let (report, n_trials) = match prices {
        None => {
            let records = named(folder, bench_report::read_figures(trials))?;
            (bench_report::rebuild(&manifest, &records).into_diagnostic()?, records.len())
        }
        Some(prices) => {
            let mut records = named(folder, bench_report::read_trials(&trials))?;
            reprice(&mut manifest, &mut records, prices)?;
            (bench_report::build(&manifest, &records).into_diagnostic()?, records.len())
        }
    };
    let gates = put(folder, report)?;
    anstream::println!("{n_trials} trials; report: {}", folder.join("report.md").display());
    for gate in &gates {
        anstream::eprintln!("gate failed: {gate}");
    }
    Ok(if gates.is_empty() { Exit::Done } else { Exit::Gate })
}

/// Puts other prices into a run.
fn reprice(manifest: &mut Manifest, records: &mut [Record], path: &Path) -> miette::Result<()> {
    let name = path.display().to_string();
    let text = fs_err::read_to_string(path)
        .into_diagnostic()
        .wrap_err_with(|| format!("the prices `{name}` cannot be read"))?;
    let list = spec::parse_prices(&name, &text).map_err(|error| miette::Report::new(*error))?;
    manifest.experiment.prices = spec::Prices::List(list);
    manifest.files.insert(name, digest::of_bytes(text.as_bytes()));
    let plans = spec::resolve(&manifest.experiment);
    let in_flight = f64::from(manifest.experiment.run.max_concurrency.max(1));
    for record in records {
        let plan = plans.iter().find(|plan| plan.name == record.trial.arm);
        if let Outcome::Answered(answer) = &mut record.outcome {
            let prices = &manifest.experiment.prices;
            answer.cost_usd =
                plan.and_then(|plan| prices.of_trial(plan, answer, &record.calls, in_flight));
        }
    }
    Ok(())
}

/// The run that a report folder holds.
pub(crate) fn read(folder: &Path) -> miette::Result<(Manifest, Vec<Record>)> {
    let (manifest, trials) = read_parts(folder)?;
    Ok((manifest, named(folder, bench_report::read_trials(&trials))?))
}

/// What is wrong with a file of trials, with its name.
fn named<T>(folder: &Path, read: Result<T, bench_report::ReportError>) -> miette::Result<T> {
    let path = folder.join("tables/trials.parquet");
    read.into_diagnostic().wrap_err_with(|| format!("`{}` cannot be used", path.display()))
}

/// Manifest and `trials.parquet` of a report folder.
fn read_parts(folder: &Path) -> miette::Result<(Manifest, Vec<u8>)> {
    parse(&|name| {
        fs_err::read(folder.join(name)).into_diagnostic().wrap_err_with(|| {
            format!(
                "`{}` is not a report folder; give the folder that holds report.md",
                folder.display()
            )
        })
    })
}

/// `manifest.json` and `tables/trials.parquet`, wherever they are kept.
pub(crate) fn parse(
    read: &dyn Fn(&str) -> miette::Result<Vec<u8>>,
) -> miette::Result<(Manifest, Vec<u8>)> {
    let manifest = read("manifest.json")?;
    let format = serde_json::from_slice::<serde_json::Value>(&manifest)
        .into_diagnostic()
        .wrap_err("manifest.json is not JSON")?["format"]
        .clone();
    if format.as_u64().is_none_or(|format| format > u64::from(Manifest::FORMAT)) {
        return Err(miette!(
            help = "use the program version that wrote it",
            "manifest.json has format {format}, this program reads up to {}",
            Manifest::FORMAT
        ));
    }
    let manifest: Manifest = serde_json::from_slice(&manifest)
        .into_diagnostic()
        .wrap_err("manifest.json is not a manifest of this program")?;
    Ok((manifest, read("tables/trials.parquet")?))
}

/// Adds to the summary of a step where continuous integration gives a file for it.
pub(crate) fn step_summary(markdown: &str) -> miette::Result<()> {
    let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let mut file = fs_err::OpenOptions::new()
        .create(true)
        .append(true)
        .open(Path::new(&path))
        .into_diagnostic()
        .wrap_err("the file that GITHUB_STEP_SUMMARY names cannot be written")?;
    writeln!(file, "{markdown}").into_diagnostic()
}

/// Rewrites what stands in `page` between `<!-- bench:begin NAME -->` and `<!-- bench:end -->`, NAME
/// being the report folder's name: the verdicts and the first chart of every eval set.
pub(crate) fn splice(folder: &Path, page: &Path) -> miette::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let report = fs_err::read_to_string(folder.join("report.md")).into_diagnostic()?;
    let old = fs_err::read_to_string(page).into_diagnostic()?;
    let begin = format!("<!-- bench:begin {name} -->\n");
    let new = between(&old, &begin, "<!-- bench:end -->", &excerpt(&report, folder)).ok_or_else(
        || {
            miette!(
                help = format!(
                    "put these two lines where the report belongs:\n{begin}<!-- bench:end -->"
                ),
                "`{}` has no place for report `{name}`",
                page.display()
            )
        },
    )?;
    if new != old {
        write_atomically(page, new.as_bytes()).into_diagnostic()?;
    }
    Ok(())
}

fn between(text: &str, begin: &str, end: &str, content: &str) -> Option<String> {
    let from = text.find(begin)? + begin.len();
    let to = text[from..].find(end)? + from;
    Some(format!("{}{content}{}", &text[..from], &text[to..]))
}

/// The alert with the verdicts, and the first chart after each set's heading.
fn excerpt(report: &str, folder: &Path) -> String {
    let alert = report.lines().skip_while(|line| !line.starts_with("> [!IMPORTANT]"));
    let mut lines: Vec<String> =
        alert.take_while(|line| line.starts_with('>')).map(str::to_owned).collect();
    let mut wants_chart = false;
    for line in report.lines() {
        if line.starts_with("## ") {
            wants_chart = true;
        } else if wants_chart && line.starts_with("![") && !line.ends_with("_training_loss.svg)") {
            lines.push(String::new());
            lines.push(line.replace("](", &format!("]({}/", folder.display())));
            wants_chart = false;
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_gets_the_verdicts_and_one_chart_a_set() {
        let report = "# x\n\n> [!IMPORTANT]\n> **a: use rag.**\n\n## a\n\n![f](charts/f.svg)\n\n![g](charts/g.svg)\n\n## Training\n\n![t](charts/a_training_loss.svg)\n";
        let text = excerpt(report, Path::new("reports/x"));
        assert_eq!(text, "> [!IMPORTANT]\n> **a: use rag.**\n\n![f](reports/x/charts/f.svg)\n");
        assert_eq!(between("1<b>old<e>2", "<b>", "<e>", "new").as_deref(), Some("1<b>new<e>2"));
        assert_eq!(between("nothing", "<b>", "<e>", "new"), None);
    }
}
