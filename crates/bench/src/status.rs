//! Keeps `progress.json` in the run folder, for whoever watches a run from another process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bench_core::backend::{Progress, Stage, Task};
use bench_core::status::{Ended, Status, Work};
use bench_run::store::write_atomically;

/// The file is written no more often than this, except when a stage begins or ends.
const EVERY: Duration = Duration::from_millis(500);

/// Shows progress as another does, and writes it down.
pub(crate) struct Watched {
    shown: Arc<dyn Progress>,
    kept: Arc<Mutex<Kept>>,
}

struct Kept {
    path: PathBuf,
    status: Status,
    /// Numbers of the works in [`Status::doing`], in its order.
    numbers: Vec<u64>,
    next: u64,
    written: Option<Instant>,
}

impl Watched {
    /// Progress of a run in this folder. Nothing is written before something begins, because the
    /// folder may belong to another process until then.
    pub(crate) fn new(shown: Arc<dyn Progress>, run: &Path) -> Self {
        let now = now();
        let status = Status {
            format: Status::FORMAT,
            process: std::process::id(),
            started: now,
            updated: now,
            ..Status::default()
        };
        let path = run.join(Status::FILE);
        let kept = Kept { path, status, numbers: Vec::new(), next: 0, written: None };
        Self { shown, kept: Arc::new(Mutex::new(kept)) }
    }

    /// Writes down how the run ended. A run that found everything done adds nothing to what an
    /// earlier one has written but that it is done.
    pub(crate) fn end(&self, ended: Ended) {
        with(&self.kept, |kept| {
            if kept.next == 0 {
                let earlier = fs_err::read(&kept.path).ok();
                match earlier.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
                    Some(earlier) if ended == Ended::Done => kept.status = earlier,
                    Some(_) | None => return,
                }
            }
            kept.status.ended = Some(ended);
            kept.write();
        });
    }
}

fn with<T>(kept: &Mutex<Kept>, act: impl FnOnce(&mut Kept) -> T) -> T {
    act(&mut kept.lock().unwrap_or_else(PoisonError::into_inner))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl Kept {
    /// A run must not end because nobody could have watched it: errors are passed over.
    fn write(&mut self) {
        let now = now();
        self.status.updated = now;
        for work in &mut self.status.doing {
            work.until = now;
        }
        if let Ok(bytes) = serde_json::to_vec_pretty(&self.status) {
            write_atomically(&self.path, &bytes).ok();
        }
        self.written = Some(Instant::now());
    }
}

impl Progress for Watched {
    fn begin(&self, stage: Stage, what: &str, total: u64) -> Box<dyn Task> {
        let shown = self.shown.begin(stage, what, total);
        let number = with(&self.kept, |kept| {
            let now = now();
            kept.status.doing.push(Work {
                stage,
                what: what.to_owned(),
                done: 0,
                total,
                note: String::new(),
                began: now,
                until: now,
            });
            kept.numbers.push(kept.next);
            kept.next += 1;
            kept.write();
            kept.next - 1
        });
        Box::new(One { shown, kept: Arc::clone(&self.kept), number })
    }

    fn say(&self, line: &str) {
        self.shown.say(line);
    }
}

struct One {
    shown: Box<dyn Task>,
    kept: Arc<Mutex<Kept>>,
    number: u64,
}

impl Task for One {
    fn advance(&self, done: u64, note: &str) {
        self.shown.advance(done, note);
        with(&self.kept, |kept| {
            let at = kept.numbers.iter().position(|number| *number == self.number);
            if let Some(work) = at.and_then(|at| kept.status.doing.get_mut(at)) {
                work.done = done;
                note.clone_into(&mut work.note);
            }
            if kept.written.is_none_or(|written| written.elapsed() >= EVERY) {
                kept.write();
            }
        });
    }
}

impl Drop for One {
    fn drop(&mut self) {
        with(&self.kept, |kept| {
            if let Some(at) = kept.numbers.iter().position(|number| *number == self.number) {
                kept.numbers.remove(at);
                let mut work = kept.status.doing.remove(at);
                work.until = now();
                kept.status.done.push(work);
                kept.write();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent;

    impl Progress for Silent {
        fn begin(&self, _: Stage, _: &str, _: u64) -> Box<dyn Task> {
            Box::new(Self)
        }

        fn say(&self, _: &str) {}
    }

    impl Task for Silent {
        fn advance(&self, _: u64, _: &str) {}
    }

    fn read(path: &Path) -> Status {
        serde_json::from_slice(&fs_err::read(path.join(Status::FILE)).unwrap()).unwrap()
    }

    #[test]
    fn what_is_done_is_written_down_as_it_happens() {
        let folder = tempfile::tempdir().unwrap();
        let watched = Watched::new(Arc::new(Silent), folder.path());
        assert!(!folder.path().join(Status::FILE).exists());
        let outer = watched.begin(Stage::Train, "lora", 3);
        let inner = watched.begin(Stage::Pull, "a model", 0);
        assert_eq!(read(folder.path()).doing.len(), 2);
        drop(inner);
        outer.advance(2, "loss 1.5");
        drop(outer);
        watched.end(Ended::Done);
        let status = read(folder.path());
        assert_eq!(status.ended, Some(Ended::Done));
        assert!(status.doing.is_empty());
        assert_eq!((status.done[1].done, status.done[1].note.as_str()), (2, "loss 1.5"));
        // A run that has nothing to do leaves what the first one wrote.
        Watched::new(Arc::new(Silent), folder.path()).end(Ended::Done);
        assert_eq!(read(folder.path()).done, status.done);
    }

    #[test]
    fn a_folder_that_is_not_there_stops_nothing() {
        let watched = Watched::new(Arc::new(Silent), Path::new("/nowhere/at/all"));
        watched.begin(Stage::Index, "x", 1).advance(1, "");
        watched.end(Ended::Failed);
    }
}
