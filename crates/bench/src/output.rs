//! Reports on disk: written whole, and made again from their own records.

use std::path::Path;

use bench_core::manifest::Manifest;
use bench_core::record::Record;
use bench_run::store::write_atomically;
use miette::{Context as _, IntoDiagnostic as _, miette};

use crate::exit::Exit;

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
    let report = bench_report::build(manifest, records).into_diagnostic()?;
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
    Ok(report.failed_gates)
}

/// What a report was made from: its `manifest.json` and `tables/trials.parquet`.
pub(crate) fn read(folder: &Path) -> miette::Result<(Manifest, Vec<Record>)> {
    let read = |name: &str| {
        fs_err::read(folder.join(name)).into_diagnostic().wrap_err_with(|| {
            format!(
                "`{}` is not a report folder; give the folder that holds report.md",
                folder.display()
            )
        })
    };
    let manifest = read("manifest.json")?;
    let format =
        serde_json::from_slice::<serde_json::Value>(&manifest).into_diagnostic()?["format"].clone();
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
    let records = bench_report::read_trials(&read("tables/trials.parquet")?).into_diagnostic()?;
    Ok((manifest, records))
}

/// `bench report`: the same files from what the report was made from.
pub(crate) fn again(folder: &Path) -> miette::Result<Exit> {
    let (manifest, records) = read(folder)?;
    let gates = write(folder, &manifest, &records)?;
    anstream::println!("{} trials; report: {}", records.len(), folder.join("report.md").display());
    for gate in &gates {
        anstream::eprintln!("gate failed: {gate}");
    }
    Ok(if gates.is_empty() { Exit::Done } else { Exit::Gate })
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
        } else if wants_chart && line.starts_with("![") {
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
        let report = "# x\n\n> [!IMPORTANT]\n> **a: use rag.**\n\n## a\n\n![f](charts/f.svg)\n\n![g](charts/g.svg)\n";
        let text = excerpt(report, Path::new("reports/x"));
        assert_eq!(text, "> [!IMPORTANT]\n> **a: use rag.**\n\n![f](reports/x/charts/f.svg)\n");
        assert_eq!(between("1<b>old<e>2", "<b>", "<e>", "new").as_deref(), Some("1<b>new<e>2"));
        assert_eq!(between("nothing", "<b>", "<e>", "new"), None);
    }
}
