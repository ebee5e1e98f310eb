//! The `bench` command: parse arguments, call the library, print, choose an exit code.

mod backends;
mod catalog;
mod compare;
mod doctor;
mod exit;
mod finetune;
mod index;
mod init;
mod judge;
mod models;
mod output;
mod plan;
mod progress;
mod sources;
mod status;
mod sweep;
mod view;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bench_core::manifest::TrainingEntry;
use bench_core::spec;
use bench_core::status::Ended;
use bench_run::{Loaded, Options, Stop};
use clap::{CommandFactory as _, Parser, Subcommand};
use miette::{IntoDiagnostic as _, miette};

use crate::backends::Real;
use crate::exit::Exit;
use crate::models::Cache;
use crate::sources::Needs;

/// Is a better prompt enough, do we need retrieval, or must we fine-tune? One declared experiment
/// answers.
///
/// Exit codes: 0 done, 100 a gate failed, 1 some trials failed or the output cannot be written, 2 the
/// experiment or the command is wrong, 3 a backend would not start, 130 interrupted.
#[derive(Parser)]
#[command(name = "bench", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a commented experiment with sample data that runs.
    Init {
        /// The folder to write into; it must not hold an experiment yet.
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Check an experiment and all its files; report everything that is wrong.
    Check {
        /// The experiment file.
        experiment: PathBuf,
    },
    /// Show what a run would do: trials, tokens, time, memory, the smallest difference it can find.
    Plan {
        /// The experiment file.
        experiment: PathBuf,
        /// At most this many samples per eval set.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
    },
    /// Train, index, answer, judge and write the report. Run again to go on where it stopped.
    Run {
        #[command(flatten)]
        run: RunArguments,
        /// Show the plan and stop.
        #[arg(long)]
        dry_run: bool,
    },
    /// Score and judge what was answered, without generating anything.
    Score {
        #[command(flatten)]
        run: RunArguments,
    },
    /// Make the report again from its records; needs no model.
    Report {
        /// A report folder, for example `reports/quickstart`.
        folder: PathBuf,
        /// Also put the verdicts and first charts into this page, between the lines
        /// `<!-- bench:begin NAME -->` and `<!-- bench:end -->`.
        #[arg(long)]
        splice: Option<PathBuf>,
        /// Take the costs from this list of prices instead of the experiment's; the report keeps it.
        #[arg(long)]
        prices: Option<PathBuf>,
    },
    /// Compare two runs, or a run with its committed report: what got better or worse on the same
    /// samples, which answers changed sides, what was changed. Ends with 100 when an arm got worse,
    /// with 2 when nothing can be compared.
    Compare(compare::CompareArguments),
    /// Measure judges, and draw answers for people to grade.
    Judge {
        #[command(subcommand)]
        command: JudgeCommand,
    },
    /// Show reports and running experiments in a browser, compare two reports, grade answers.
    View {
        /// A folder of reports, or one report's folder.
        #[arg(default_value = "reports")]
        reports: PathBuf,
        /// The folder of runs, for those that go on.
        #[arg(long, default_value = "runs")]
        runs: PathBuf,
        /// Where to listen; port 0 takes any that is free.
        #[arg(long, default_value = "127.0.0.1:8642")]
        listen: std::net::SocketAddr,
    },
    /// Train the adapters of the fine-tuned arms and nothing else; a run finds them.
    Train {
        /// The experiment file.
        experiment: PathBuf,
        /// Only this arm; may be given several times.
        #[arg(long = "arm")]
        arms: Vec<String>,
    },
    /// Fold an adapter into its base: a model folder that needs no adapter, checked against both.
    Merge {
        /// The adapter's folder, as `bench train` printed it.
        adapter: PathBuf,
        /// The folder to make.
        #[arg(long)]
        out: PathBuf,
        /// The base's folder, where it is not the one that the adapter names.
        #[arg(long)]
        base: Option<PathBuf>,
    },
    /// Write an adapter for other programs: PEFT files, a merged model folder, or a GGUF file.
    Export {
        /// The adapter's folder, or for GGUF also a model folder.
        source: PathBuf,
        /// What to write.
        #[arg(long, value_enum)]
        format: finetune::Format,
        /// Numeric type of the matrices of a GGUF file.
        #[arg(long, value_enum, default_value = "f32")]
        outtype: finetune::Outtype,
        /// The base's folder, where it is not the one that the adapter names; of PEFT files, what they
        /// are to name, for example a model of a hub.
        #[arg(long)]
        base: Option<PathBuf>,
        /// Where to write; beside the source when absent.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// The models and libraries in the cache.
    Models {
        #[command(subcommand)]
        command: ModelsCommand,
    },
    /// Indexes of an experiment's documents: build them, look at them, ask them.
    Index {
        #[command(subcommand)]
        command: index::IndexCommand,
    },
    /// Measure retrieval alone, without generating anything.
    Retrieve {
        #[command(subcommand)]
        command: RetrieveCommand,
    },
    /// Print the JSON Schema of experiment files, for editors.
    Schema,
    /// Look at this machine: processor, memory, disk, accelerator, libraries, models, keys.
    Doctor,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(clap::Args)]
struct RunArguments {
    /// The experiment file.
    experiment: PathBuf,
    /// Trials in flight at once.
    #[arg(short = 'j', long)]
    concurrency: Option<u32>,
    /// At most this many samples per eval set.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only this arm; may be given several times.
    #[arg(long = "arm")]
    arms: Vec<String>,
    /// Try failed trials again.
    #[arg(long)]
    retry_failed: bool,
    /// Answer again what has an answer.
    #[arg(long)]
    no_cache: bool,
}

#[derive(Subcommand)]
enum JudgeCommand {
    /// Measure judges on samples that people have judged, and write their report card.
    Calibrate {
        #[command(flatten)]
        arguments: judge::CalibrateArguments,
    },
    /// Print answers of a report, drawn at random, as rows for people to grade (`judge.labels`).
    Label {
        /// A report folder, for example `reports/quickstart`.
        report: PathBuf,
        /// Samples per eval set; every arm's answers to them are printed. With fewer than 100 the
        /// judge can be measured, but its scores are not corrected.
        #[arg(long, default_value_t = 100)]
        samples: u32,
        /// Seeds the drawing.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
}

#[derive(Subcommand)]
enum RetrieveCommand {
    /// Try the settings of `sweep` on the dev samples, choose the best there, compare it once with
    /// the baseline on the eval samples, and write tables and the chosen YAML into the report folder.
    Sweep {
        /// The experiment file.
        experiment: PathBuf,
        /// Only this eval set; may be given several times.
        #[arg(long = "set")]
        sets: Vec<String>,
        /// At most this many eval samples per set.
        #[arg(long)]
        limit: Option<u32>,
    },
}

#[derive(Subcommand)]
enum ModelsCommand {
    /// What the catalogue has, and what is in the cache.
    List,
    /// Get a model or library now.
    Pull {
        /// Names from `bench models list`.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Where a model lies, or would.
    Path {
        /// A name from `bench models list`.
        name: String,
    },
}

fn main() -> ExitCode {
    // A closed pipe (`bench schema | head`) is the reader's choice, not our failure.
    match execute(Cli::parse().command) {
        Ok(exit) => exit.into(),
        Err(report) => {
            anstream::eprintln!("{report:?}");
            Exit::Wrong.into()
        }
    }
}

fn execute(command: Command) -> miette::Result<Exit> {
    match command {
        Command::Init { folder } => init::write(&folder),
        Command::Check { experiment } => check(&experiment),
        Command::Plan { experiment, limit } => {
            let loaded = load(&experiment, limit, Needs::Arms(&[]))?;
            Ok(output::say(&plan::describe(&loaded, &Real::new(Cache::open()))))
        }
        Command::Run { run, dry_run: true } => {
            let mut loaded = load(&run.experiment, run.limit, Needs::Arms(&run.arms))?;
            known_arms(&loaded, &run.arms)?;
            if !run.arms.is_empty() {
                loaded.plans.retain(|plan| run.arms.contains(&plan.name));
            }
            Ok(output::say(&plan::describe(&loaded, &Real::new(Cache::open()))))
        }
        Command::Run { run: arguments, dry_run: false } => run(&arguments, false),
        Command::Score { run: arguments } => run(&arguments, true),
        Command::Report { folder, splice, prices } => {
            let exit = output::again(&folder, prices.as_deref())?;
            if let Some(page) = splice {
                output::splice(&folder, &page)?;
            }
            Ok(exit)
        }
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Judge { command: JudgeCommand::Calibrate { arguments } } => {
            judge::calibrate(&arguments)
        }
        Command::Judge { command: JudgeCommand::Label { report, samples, seed } } => {
            judge::label(&report, samples, seed)
        }
        Command::View { reports, runs, listen } => view::serve(&reports, &runs, listen),
        Command::Train { experiment, arms } => {
            finetune::train(&load(&experiment, None, Needs::Arms(&arms))?, &arms)
        }
        Command::Merge { adapter, out, base } => {
            finetune::merge_into(&adapter, base.as_deref(), &out)
        }
        Command::Export { source, format, outtype, base, out } => {
            finetune::export(&source, format, outtype, base.as_deref(), out.as_deref())
        }
        Command::Models { command } => models(&command),
        Command::Index { command } => {
            let loaded = load(&command.which().experiment, None, Needs::Retrieval)?;
            warn(&loaded);
            let backends = Real::new(Cache::open());
            index::run(&command, &loaded, &backends, progress::terminal().as_ref())
        }
        Command::Retrieve { command: RetrieveCommand::Sweep { experiment, sets, limit } } => {
            retrieve_sweep(&experiment, &sets, limit)
        }
        Command::Schema => {
            let text = serde_json::to_string_pretty(&spec::schema()).into_diagnostic()?;
            Ok(output::say(&format!("{text}\n")))
        }
        Command::Doctor => Ok(output::say(&doctor::examine(&Cache::open()))),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "bench", &mut script);
            Ok(output::say(&String::from_utf8_lossy(&script)))
        }
    }
}

fn load(experiment: &Path, limit: Option<u32>, needs: Needs<'_>) -> miette::Result<Loaded> {
    let environment = |name: &str| std::env::var(name).ok();
    let also = |experiment: &spec::Experiment, source: &spec::Source| {
        sources::problems(experiment, source, needs)
    };
    let corpora = &bench_retrieval::Files;
    Ok(bench_run::load_checked(experiment, &environment, limit, corpora, &also)?)
}

fn warn(loaded: &Loaded) {
    for warning in &loaded.warnings {
        anstream::eprintln!("warning: {warning}");
    }
}

fn retrieve_sweep(experiment: &Path, sets: &[String], limit: Option<u32>) -> miette::Result<Exit> {
    let loaded = load(experiment, limit, Needs::Retrieval)?;
    for set in sets {
        if !loaded.sets.iter().any(|known| known.spec.name == *set) {
            return Err(miette!("there is no eval set `{set}`"));
        }
    }
    warn(&loaded);
    let folder = PathBuf::from(&loaded.experiment.run.reports).join(&loaded.experiment.name);
    output::writable(&folder)?;
    let backends = Real::new(Cache::open());
    match sweep::sweep(&loaded, sets, &backends, progress::terminal().as_ref()) {
        Ok(swept) => {
            sweep::write(&folder, &swept).into_diagnostic()?;
            anstream::print!("{}\n{}", sweep::page(&swept), sweep::best_yaml(&swept));
            anstream::println!("written to {}", folder.display());
            Ok(Exit::Done)
        }
        Err(error) => {
            anstream::eprintln!("{:?}", miette!("{}", error.chain()));
            Ok(Exit::Backend)
        }
    }
}

/// `1 arm`, `2 arms`.
fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn check(experiment: &Path) -> miette::Result<Exit> {
    if fs_err::read_to_string(experiment).is_ok_and(|text| spec::is_calibration(&text)) {
        return judge::check(experiment);
    }
    let loaded = load(experiment, None, Needs::Arms(&[]))?;
    warn(&loaded);
    let samples: usize = loaded.sets.iter().map(|set| set.samples.len()).sum();
    anstream::println!(
        "{}: {}, {}, {}; nothing is wrong",
        experiment.display(),
        counted(loaded.sets.len(), "eval set"),
        counted(samples, "sample"),
        counted(loaded.experiment.arms.len(), "arm"),
    );
    Ok(Exit::Done)
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

pub(crate) fn remedy(error: &bench_run::RunError) -> &'static str {
    match error {
        bench_run::RunError::Store(bench_run::store::StoreError::Io { .. }) => {
            "make room there, or name another folder with `run: { runs: … }`; what was answered until now is kept"
        }
        bench_run::RunError::Trainings(_) => {
            "nothing was trained; mend all of it, then start again"
        }
        _ => {
            "what was trained and answered until now is kept; when the cause is gone, the same command goes on"
        }
    }
}

/// That all these arms are declared.
fn known_arms(loaded: &Loaded, arms: &[String]) -> miette::Result<()> {
    for arm in arms {
        let declared = &loaded.experiment.arms;
        if !declared.iter().any(|declared| declared.name == *arm) {
            let known: Vec<&str> = declared.iter().map(|arm| arm.name.as_str()).collect();
            return Err(miette!(
                help = format!("the arms are: {}", known.join(", ")),
                "there is no arm `{arm}`"
            ));
        }
    }
    Ok(())
}

fn run(arguments: &RunArguments, score_only: bool) -> miette::Result<Exit> {
    let loaded = load(&arguments.experiment, arguments.limit, Needs::Arms(&arguments.arms))?;
    known_arms(&loaded, &arguments.arms)?;
    if arguments.concurrency == Some(0) {
        return Err(miette!("-j 0 would run nothing; give at least 1"));
    }
    let experiment = &loaded.experiment;
    let folder = PathBuf::from(&experiment.run.reports).join(&experiment.name);
    output::writable(&folder)?;
    let options = Options {
        concurrency: arguments.concurrency,
        arms: arguments.arms.clone(),
        retry_failed: arguments.retry_failed,
        no_cache: arguments.no_cache,
        score_only,
        settled: Some(bench_report::settled),
        machine: doctor::machine(),
        program: format!("bench {}", env!("CARGO_PKG_VERSION")),
    };
    for warning in &loaded.warnings {
        anstream::eprintln!("warning: {warning}");
    }
    let stop = Stop::default();
    exit::on_interrupt(stop.clone(), "bench run", &arguments.experiment);
    let runs = PathBuf::from(&experiment.run.runs).join(&experiment.name);
    let progress = status::Watched::new(progress::terminal(), &runs);
    let backends = Real::new(Cache::open());
    let finished = match bench_run::run(&loaded, &backends, &options, &progress, &stop) {
        Ok(finished) => finished,
        Err(error) => {
            progress.end(Ended::Failed);
            anstream::eprintln!("{:?}", miette!(help = remedy(&error), "{}", chain(&error)));
            return Ok(match error {
                bench_run::RunError::Scorer { .. }
                | bench_run::RunError::SelfJudging { .. }
                | bench_run::RunError::Trainings(_) => Exit::Wrong,
                bench_run::RunError::Stopped => Exit::Interrupted,
                bench_run::RunError::Store(_)
                | bench_run::RunError::Backend(_)
                | bench_run::RunError::Parity { .. }
                | bench_run::RunError::Unproved { .. } => Exit::Backend,
            });
        }
    };
    let interrupted = finished.missing + finished.unjudged > 0;
    progress.end(if interrupted { Ended::Interrupted } else { Ended::Done });
    if finished.unjudged > 0 {
        anstream::eprintln!(
            "{} judgements are missing; go on with: bench run {}",
            finished.unjudged,
            arguments.experiment.display()
        );
    }
    if finished.missing > 0 {
        anstream::eprintln!(
            "{} of {} trials have no answer yet; go on with: bench run {}",
            finished.missing,
            finished.missing + finished.records.len(),
            arguments.experiment.display()
        );
    }
    if finished.records.is_empty() {
        if score_only {
            return Err(miette!(
                help = format!("bench run {}", arguments.experiment.display()),
                "nothing has been answered yet, so there is nothing to score"
            ));
        }
        return Ok(if interrupted { Exit::Interrupted } else { Exit::Done });
    }
    let gates = match output::write(&folder, &finished.manifest, &finished.records) {
        Ok(gates) => gates,
        Err(error) => {
            let error = error.wrap_err(format!("writing the report into `{}`", folder.display()));
            anstream::eprintln!(
                "{error:?}\nthe answers are kept; the same command writes the report"
            );
            return Ok(Exit::Backend);
        }
    };
    let trials = finished.records.len();
    anstream::println!(
        "{trials} trials ({} answered now), {} failed; report: {}",
        finished.answered_now,
        finished.failed,
        folder.join("report.md").display()
    );
    tell_troubles(&finished);
    Ok(if interrupted {
        Exit::Interrupted
    } else if !gates.is_empty() {
        for gate in &gates {
            anstream::eprintln!("gate failed: {gate}");
        }
        Exit::Gate
    } else if finished.failed > 0 {
        Exit::SomeFailed
    } else {
        Exit::Done
    })
}

/// What failed, with the reasons, and trainings that were not as declared.
fn tell_troubles(finished: &bench_run::Finished) {
    for failure in bench_report::failures(&finished.records) {
        anstream::eprintln!("{failure}");
    }
    for note in finished.manifest.training.iter().flat_map(TrainingEntry::notes) {
        anstream::eprintln!("warning: {note}");
    }
}

fn models(command: &ModelsCommand) -> miette::Result<Exit> {
    let cache = Cache::open();
    match command {
        ModelsCommand::List => {
            anstream::println!("cache: {}", cache.folder().display());
            for entry in catalog::CATALOG {
                let state = if cache.has(entry) {
                    format!("{:>7.1} MB", models::size_of(&cache.path(entry)) as f64 / 1e6)
                } else {
                    "   not here".into()
                };
                anstream::println!(
                    "{:<28} {state}  {} [{}]",
                    entry.name,
                    entry.what,
                    entry.licence
                );
            }
            Ok(Exit::Done)
        }
        ModelsCommand::Pull { names } => {
            let progress = progress::terminal();
            for name in names {
                match cache.pull(name, progress.as_ref()) {
                    Ok(path) => anstream::println!("{name}: {}", path.display()),
                    Err(error) => {
                        anstream::eprintln!("{:?}", miette!("{}", error.chain()));
                        return Ok(Exit::Backend);
                    }
                }
            }
            Ok(Exit::Done)
        }
        ModelsCommand::Path { name } => match catalog::find(name) {
            Some(entry) => {
                anstream::println!("{}", cache.path(entry).display());
                Ok(Exit::Done)
            }
            None => Err(miette!(
                help = "`bench models list` shows them",
                "the catalogue has no `{name}`"
            )),
        },
    }
}
