//! How the program ends: its exit codes, and what Ctrl-C does.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use bench_run::Stop;

/// Exit codes, as the help text and the README list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything was done.
    Done,
    /// Some trials failed; the report says which.
    SomeFailed,
    /// What was asked for could not be printed.
    Unprinted,
    /// The experiment or the command line is wrong.
    Wrong,
    /// A backend would not start, or stopped the run.
    Backend,
    /// A gate of the experiment failed.
    Gate,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::SomeFailed | Self::Unprinted => 1,
            Self::Wrong => 2,
            Self::Backend => 3,
            Self::Gate => 100,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The first Ctrl-C lets trials in flight finish; a second one, or one while training or indexing
/// (which go on from disk), ends the process.
pub(crate) fn on_interrupt(stop: Stop, command: &str, file: &Path) {
    let again = format!("go on with: {command} {}", file.display());
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        let asked = AtomicBool::new(false);
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                let waits = stop.request();
                if !waits || asked.swap(true, Ordering::SeqCst) {
                    anstream::eprintln!("\nstopped; {again}");
                    std::process::exit(i32::from(Exit::Interrupted.code()));
                }
                anstream::eprintln!(
                    "\nfinishing the trials in flight; press Ctrl-C again to stop at once"
                );
            }
        });
    });
}
