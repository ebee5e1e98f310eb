//! Runs that are going on, watched from outside: `progress.json` says what is being done, and every
//! line of `answers.jsonl` is an answer. A run folder is only ever read.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bench_core::record::Outcome;
use bench_core::status::{Ended, Status, Work};
use bench_core::text::printable;
use serde::{Deserialize, Serialize};

use crate::folder::{Folders, modified};

/// Answers kept for the page of one run.
const LATEST: usize = 12;
/// Characters of an answer that are shown while a run goes on.
const LONGEST: usize = 600;
/// A run that cannot be asked whether it lives, and has written nothing for so long, has stopped.
const SILENT: u64 = 300;
/// Files are looked at no more often than this.
const EVERY: Duration = Duration::from_millis(400);

/// A run as the page shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Live {
    pub(crate) name: String,
    pub(crate) state: State,
    /// What is being done, innermost last.
    pub(crate) doing: Vec<Doing>,
    pub(crate) done: Vec<Doing>,
    /// Distinct questions that have an answer or a failure.
    pub(crate) answered: usize,
    pub(crate) failed: usize,
    pub(crate) tokens_out: u64,
    pub(crate) judged: usize,
    /// When the report was last written, in seconds since 1970; 0 when there is none.
    pub(crate) report: u64,
    /// The last answers, the newest first.
    pub(crate) latest: Vec<Latest>,
}

/// What is known of a run's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Running,
    /// Ended with every trial answered.
    Done,
    /// Interrupted, failed or killed; it can be gone on with.
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Doing {
    #[serde(flatten)]
    work: Work,
    seconds_left: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Latest {
    is_failure: bool,
    text: String,
}

/// Remembers how far each file was read.
#[derive(Debug, Default)]
pub(crate) struct Watcher(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    looked: Option<Instant>,
    tails: BTreeMap<String, Tails>,
    runs: Vec<Live>,
}

#[derive(Debug, Default)]
struct Tails {
    answers: Tail,
    verdicts: Tail,
}

#[derive(Debug, Default)]
struct Tail {
    read: u64,
    keys: HashSet<String>,
    failed: HashSet<String>,
    tokens_out: u64,
    latest: VecDeque<Latest>,
}

#[derive(Deserialize)]
struct Line {
    key: String,
    value: serde_json::Value,
}

impl Watcher {
    /// Every run, in the order of names.
    pub(crate) fn look(&self, folders: &Folders) -> Vec<Live> {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.looked.is_none_or(|looked| looked.elapsed() >= EVERY) {
            let names = folders.runs();
            watched.tails.retain(|name, _| names.contains(name));
            let mut runs = Vec::new();
            for name in names {
                let Some(folder) = folders.run(&name) else { continue };
                let tails = watched.tails.entry(name.clone()).or_default();
                tails.answers.advance(&folder.join("answers.jsonl"));
                tails.verdicts.advance(&folder.join("verdicts.jsonl"));
                let report = folders.report(&name);
                let report = report.and_then(|report| modified(&report.join("report.html")));
                runs.push(live(name, &folder, tails, report));
            }
            watched.runs = runs;
            watched.looked = Some(Instant::now());
        }
        watched.runs.clone()
    }
}

fn live(name: String, folder: &Path, tails: &Tails, report: Option<SystemTime>) -> Live {
    let status: Status = fs_err::read(folder.join(Status::FILE))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let silent = modified(&folder.join("answers.jsonl"))
        .into_iter()
        .chain(modified(&folder.join(Status::FILE)))
        .filter_map(|time| SystemTime::now().duration_since(time).ok())
        .map(|age| age.as_secs())
        .min();
    let state = state(&status, is_alive(status.process), silent.unwrap_or(u64::MAX));
    let doing = |works: Vec<Work>| {
        let shown = works.into_iter().map(|work| Work {
            what: printable(&work.what),
            note: printable(&work.note),
            ..work
        });
        shown.map(|work| Doing { seconds_left: work.seconds_left(), work }).collect()
    };
    Live {
        name,
        state,
        doing: if state == State::Running { doing(status.doing) } else { Vec::new() },
        done: doing(status.done),
        answered: tails.answers.keys.len(),
        failed: tails.answers.failed.len(),
        tokens_out: tails.answers.tokens_out,
        judged: tails.verdicts.keys.len(),
        report: report
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .map_or(0, |time| time.as_secs()),
        latest: tails.answers.latest.iter().cloned().collect(),
    }
}

fn state(status: &Status, is_alive: Option<bool>, silent: u64) -> State {
    match status.ended {
        Some(Ended::Done) => State::Done,
        None if is_alive.unwrap_or(silent < SILENT) => State::Running,
        Some(Ended::Interrupted | Ended::Failed) | None => State::Stopped,
    }
}

/// Whether a process lives, where the system can be asked.
fn is_alive(process: u32) -> Option<bool> {
    let proc = Path::new("/proc");
    (process != 0 && proc.join("self").exists()).then(|| proc.join(process.to_string()).exists())
}

impl Tail {
    /// Reads the lines that were written since, up to the last whole one.
    fn advance(&mut self, path: &Path) {
        let Ok(mut file) = File::open(path) else { return };
        let length = file.metadata().map_or(0, |about| about.len());
        if length < self.read {
            // It was written anew.
            *self = Self::default();
        }
        if length == self.read || file.seek(SeekFrom::Start(self.read)).is_err() {
            return;
        }
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if line.last() != Some(&b'\n') {
                break;
            }
            self.read += line.len() as u64;
            if let Ok(line) = serde_json::from_slice(&line) {
                self.take(line);
            }
            line.clear();
        }
    }

    fn take(&mut self, Line { key, value }: Line) {
        let latest = match serde_json::from_value(value) {
            Ok(Outcome::Answered(answer)) => {
                self.tokens_out += u64::from(answer.tokens_out);
                self.failed.remove(&key);
                Latest { is_failure: false, text: short(&answer.text) }
            }
            Ok(Outcome::Failed { error }) => {
                self.failed.insert(key.clone());
                Latest { is_failure: true, text: short(&error) }
            }
            // A judgement, not an answer.
            Err(_) => {
                self.keys.insert(key);
                return;
            }
        };
        self.keys.insert(key);
        self.latest.push_front(latest);
        self.latest.truncate(LATEST);
    }
}

fn short(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn append(path: &Path, text: &str) {
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn answer(key: &str, text: &str) -> String {
        let answer =
            bench_core::record::Answer { text: text.into(), tokens_out: 3, ..Default::default() };
        let value = serde_json::to_string(&Outcome::Answered(answer)).unwrap();
        format!("{{\"key\":\"{key}\",\"value\":{value}}}\n")
    }

    #[test]
    fn lines_are_counted_as_they_come_and_a_torn_one_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let mut tail = Tail::default();
        tail.advance(&path);
        append(&path, &answer("a", "one\u{1b}[31m"));
        append(&path, "{\"key\":\"b\",\"value\":{\"failed\":{\"error\":\"no\"}}}\n");
        let last = answer("b", "two");
        append(&path, &last[..20]);
        tail.advance(&path);
        assert_eq!((tail.keys.len(), tail.failed.len(), tail.tokens_out), (2, 1, 3));
        assert_eq!(tail.latest[1].text, "one\u{fffd}[31m");
        append(&path, &last[20..]);
        tail.advance(&path);
        assert_eq!((tail.keys.len(), tail.failed.len(), tail.tokens_out), (2, 0, 6));
        assert!(!tail.latest[0].is_failure);
        fs_err::write(&path, answer("c", "new")).unwrap();
        tail.advance(&path);
        assert_eq!((tail.keys.len(), tail.tokens_out), (1, 3));
    }

    #[test]
    fn a_killed_run_has_stopped_and_a_silent_one_after_a_while() {
        let ended = |ended| Status { ended, ..Status::default() };
        assert_eq!(state(&ended(Some(Ended::Done)), Some(false), 0), State::Done);
        assert_eq!(state(&ended(Some(Ended::Failed)), Some(true), 0), State::Stopped);
        assert_eq!(state(&ended(None), Some(true), 9999), State::Running);
        assert_eq!(state(&ended(None), Some(false), 0), State::Stopped);
        assert_eq!(state(&ended(None), None, 3), State::Running);
        assert_eq!(state(&ended(None), None, SILENT), State::Stopped);
    }

    #[test]
    fn a_run_is_shown_with_what_it_does() {
        let root = tempfile::tempdir().unwrap();
        let run = root.path().join("runs/x");
        for folder in [&run, &root.path().join("reports")] {
            fs_err::create_dir_all(folder).unwrap();
        }
        append(&run.join("answers.jsonl"), &answer("a", "one"));
        append(
            &run.join("verdicts.jsonl"),
            "{\"key\":\"v\",\"value\":{\"scored\":{\"value\":1}}}\n",
        );
        let status = Status {
            process: std::process::id(),
            doing: vec![Work {
                stage: bench_core::backend::Stage::Generate,
                what: "rag".into(),
                done: 1,
                total: 4,
                note: "9 tokens/s".into(),
                began: 10,
                until: 20,
            }],
            ..Status::default()
        };
        fs_err::write(run.join(Status::FILE), serde_json::to_vec(&status).unwrap()).unwrap();
        let folders =
            Folders::new(&root.path().join("reports"), &root.path().join("runs")).unwrap();
        let runs = Watcher::default().look(&folders);
        assert_eq!(runs.len(), 1);
        let json = serde_json::to_value(&runs[0]).unwrap();
        assert_eq!(
            (&json["state"], &json["answered"], &json["judged"]),
            (&"running".into(), &1.into(), &1.into())
        );
        assert_eq!(json["doing"][0]["seconds_left"], 30);
        assert_eq!(json["doing"][0]["stage"], "generate");
    }
}
