//! `bench judge`: measuring judges, and drawing answers for people to grade.

use std::path::{Path, PathBuf};

use bench_core::digest;
use bench_core::judging::Measured;
use bench_core::record::Record;
use bench_run::store::write_atomically;
use bench_run::{Options, Stop};
use miette::{Context as _, IntoDiagnostic as _, miette};
use serde_json::json;

use crate::backends::Real;
use crate::exit::{self, Exit};
use crate::models::Cache;
use crate::{doctor, output, progress};

/// What a measurement may be told.
#[derive(clap::Args)]
pub(crate) struct CalibrateArguments {
    /// A calibration file, or the report folder of one: then the report is made again.
    pub(crate) path: PathBuf,
    /// Judgements in flight at once.
    #[arg(short = 'j', long)]
    pub(crate) concurrency: Option<u32>,
    /// At most this many samples.
    #[arg(long)]
    pub(crate) limit: Option<u32>,
    /// Ask again where a judge failed.
    #[arg(long)]
    pub(crate) retry_failed: bool,
}

/// `bench check` of a calibration file.
pub(crate) fn check(path: &Path) -> miette::Result<Exit> {
    let environment = |name: &str| std::env::var(name).ok();
    let loaded = bench_run::load_calibration(path, &environment, None)?;
    let judges = loaded.calibration.judge.names().len();
    Ok(output::say(&format!(
        "{}: {}, {}; nothing is wrong\n",
        path.display(),
        crate::counted(judges, "judge"),
        crate::counted(loaded.rows.len(), "labelled sample"),
    )))
}

/// Measures the judges of a calibration file and writes their report card.
pub(crate) fn calibrate(arguments: &CalibrateArguments) -> miette::Result<Exit> {
    if arguments.path.is_dir() {
        return again(&arguments.path);
    }
    if arguments.concurrency == Some(0) {
        return Err(miette!("-j 0 would ask nothing; give at least 1"));
    }
    let environment = |name: &str| std::env::var(name).ok();
    let loaded = bench_run::load_calibration(&arguments.path, &environment, arguments.limit)?;
    let run = &loaded.calibration.run;
    let folder = PathBuf::from(&run.reports).join("judges").join(&loaded.calibration.name);
    output::writable(&folder)?;
    let options = Options {
        concurrency: arguments.concurrency,
        retry_failed: arguments.retry_failed,
        machine: doctor::machine(),
        program: format!("bench {}", env!("CARGO_PKG_VERSION")),
        ..Options::default()
    };
    let stop = Stop::default();
    exit::on_interrupt(stop.clone(), "bench judge calibrate", &arguments.path);
    let progress = progress::terminal();
    let backends = Real::new(Cache::open());
    let measured =
        match bench_run::calibrate(&loaded, &backends, &options, progress.as_ref(), &stop) {
            Ok(measured) => measured,
            Err(error) => {
                let help = "what was judged until now is kept; the same command goes on";
                anstream::eprintln!("{:?}", miette!(help = help, "{error}"));
                return Ok(Exit::Backend);
            }
        };
    write(&folder, &measured)?;
    Ok(if measured.missing > 0 { Exit::Interrupted } else { Exit::Done })
}

fn again(folder: &Path) -> miette::Result<Exit> {
    let bytes =
        fs_err::read(folder.join("judgements.json")).into_diagnostic().wrap_err_with(|| {
            format!("`{}` is not the report folder of a measurement", folder.display())
        })?;
    let measured: Measured = serde_json::from_slice(&bytes)
        .into_diagnostic()
        .wrap_err("judgements.json is not of this program")?;
    write(folder, &measured)?;
    Ok(Exit::Done)
}

fn write(folder: &Path, measured: &Measured) -> miette::Result<()> {
    for (name, bytes) in bench_report::judge_report(measured).into_diagnostic()? {
        write_atomically(&folder.join(&name), &bytes).into_diagnostic()?;
        if name == "card.md" {
            anstream::print!("{}", String::from_utf8_lossy(&bytes));
        }
    }
    anstream::eprintln!("report card: {}", folder.join("card.md").display());
    Ok(())
}

/// Draws samples of a report at random and prints every arm's answers to them, to be graded:
/// the rows of `judge.labels`, with `grade` to be filled in.
pub(crate) fn label(report: &Path, samples: u32, seed: u64) -> miette::Result<Exit> {
    let path = report.join("tables/trials.parquet");
    let bytes = fs_err::read(&path)
        .into_diagnostic()
        .wrap_err_with(|| format!("`{}` is not a report folder", report.display()))?;
    let records = bench_report::read_trials(&bytes).into_diagnostic()?;
    for line in rows(&records, samples as usize, seed) {
        anstream::println!("{line}");
    }
    Ok(Exit::Done)
}

/// Rows in an order in which the arm cannot be guessed from the place.
fn rows(records: &[Record], samples: usize, seed: u64) -> Vec<String> {
    let drawn = |parts: &[&str]| digest::of_json(&(seed, parts));
    let mut order: Vec<(String, &str, &str)> = records
        .iter()
        .map(|record| {
            let (set, sample) = (record.trial.set.as_str(), record.trial.sample.as_str());
            (drawn(&[set, sample]), set, sample)
        })
        .collect();
    order.sort();
    order.dedup();
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut taken: Vec<(&str, usize)> = Vec::new();
    for (_, set, sample) in order {
        if !taken.iter().any(|(name, _)| *name == set) {
            taken.push((set, 0));
        }
        let Some((_, count)) = taken.iter_mut().find(|(name, _)| *name == set) else { continue };
        if *count == samples {
            continue;
        }
        *count += 1;
        let of = |record: &&Record| record.trial.set == set && record.trial.sample == sample;
        for record in records.iter().filter(of) {
            let Some(answer) = record.answer() else { continue };
            let trial = &record.trial;
            let row = json!({
                "set": set,
                "sample": sample,
                "arm": trial.arm,
                "repeat": trial.repeat,
                "train_seed": trial.train_seed,
                "input": record.input,
                "references": record.references,
                "answer": answer.text,
                "grade": null,
                "grader": null,
            });
            rows.push((drawn(&[set, sample, &trial.arm, "place"]), row.to_string()));
        }
    }
    rows.sort();
    rows.into_iter().map(|(_, row)| row).collect()
}
