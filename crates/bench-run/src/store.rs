//! What a run has paid for, on disk: one line per answer and per judgement, appended as it is
//! made, keyed by content.
//!
//! A line is written by one call and read back whole or not at all: a line cut short by a crash
//! is removed when the folder is opened again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use bench_core::backend::IndexInfo;
use bench_core::manifest::{JudgingEntry, ParityEntry, ProofEntry};
use bench_core::record::{Outcome, Preference, Verdict};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// An open run folder. One process at a time.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    answers: Log<Outcome>,
    verdicts: Log<Verdict>,
    preferences: Log<Preference>,
    /// What the stages before answering left behind.
    pub state: State,
    _lock: File,
}

/// Facts about finished stages, so that a repeated run reports what the first one measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Seconds per stage, all attempts added up.
    pub seconds: BTreeMap<String, f64>,
    /// The largest resident memory seen, in bytes.
    pub peak_memory_bytes: u64,
    /// Indexes by digest, as they were when built.
    pub indexes: BTreeMap<String, IndexInfo>,
    /// Fairness checks by adapter digest.
    pub parity: BTreeMap<String, ParityEntry>,
    /// Comparisons with f32 by model digest.
    pub proofs: BTreeMap<String, ProofEntry>,
    /// Trials that diverged in training, by the adapter that they did not make.
    pub diverged: BTreeSet<String>,
    /// What each judge took, by its name.
    pub judging: BTreeMap<String, JudgingEntry>,
    /// Joules of each training, by the digest of what it made.
    pub energy: BTreeMap<String, f64>,
}

/// The run folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds it.
    #[error("another run is using `{0}`; wait for it, or stop it")]
    Busy(String),
    /// Reading or writing failed.
    #[error("cannot use the run folder `{folder}`")]
    Io {
        /// The folder.
        folder: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Store {
    /// Opens a run folder, making it if need be.
    ///
    /// # Errors
    /// When another process has it open, or it cannot be read or written.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let shown = folder.display().to_string();
        let io = |source| StoreError::Io { folder: shown.clone(), source };
        fs_err::create_dir_all(folder).map_err(io)?;
        let lock = File::create(folder.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::Busy(shown)),
            Err(std::fs::TryLockError::Error(error)) => return Err(io(error)),
        }
        Ok(Self {
            answers: Log::open(&folder.join("answers.jsonl")).map_err(io)?,
            verdicts: Log::open(&folder.join("verdicts.jsonl")).map_err(io)?,
            preferences: Log::open(&folder.join("preferences.jsonl")).map_err(io)?,
            state: read_state(&folder.join("state.json")),
            folder: folder.to_owned(),
            _lock: lock,
        })
    }

    /// The outcome under a key.
    pub fn answer(&self, key: &str) -> Option<&Outcome> {
        self.answers.entries.get(key)
    }

    /// Keeps an outcome; on disk when this returns.
    pub fn put_answer(&mut self, key: &str, outcome: Outcome) -> Result<(), StoreError> {
        let written = self.answers.append(key, outcome);
        written
            .map_err(|source| StoreError::Io { folder: self.folder.display().to_string(), source })
    }

    /// The judgement under a key.
    pub fn verdict(&self, key: &str) -> Option<&Verdict> {
        self.verdicts.entries.get(key)
    }

    /// Keeps a judgement; on disk when this returns.
    pub fn put_verdict(&mut self, key: &str, verdict: Verdict) -> Result<(), StoreError> {
        let written = self.verdicts.append(key, verdict);
        written
            .map_err(|source| StoreError::Io { folder: self.folder.display().to_string(), source })
    }

    /// The preference under a key.
    pub fn preference(&self, key: &str) -> Option<&Preference> {
        self.preferences.entries.get(key)
    }

    /// Keeps a preference; on disk when this returns.
    pub fn put_preference(&mut self, key: &str, preference: Preference) -> Result<(), StoreError> {
        let written = self.preferences.append(key, preference);
        written
            .map_err(|source| StoreError::Io { folder: self.folder.display().to_string(), source })
    }

    /// Writes [`Store::state`], whole or not at all.
    pub fn save_state(&self) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec_pretty(&self.state).unwrap_or_default();
        write_atomically(&self.folder.join("state.json"), &bytes)
            .map_err(|source| StoreError::Io { folder: self.folder.display().to_string(), source })
    }
}

/// Writes a file so that readers see the old content or the new, never a part.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    let written = fs_err::write(&temporary, bytes).and_then(|()| fs_err::rename(&temporary, path));
    if written.is_err() {
        fs_err::remove_file(&temporary).ok();
    }
    written
}

fn read_state(path: &Path) -> State {
    fs_err::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// An append-only file of keyed values; the last value of a key counts.
#[derive(Debug)]
struct Log<T> {
    file: File,
    entries: BTreeMap<String, T>,
}

#[derive(Serialize)]
struct LineOut<'a, T> {
    key: &'a str,
    value: &'a T,
}

#[derive(Deserialize)]
struct Line<T> {
    key: String,
    value: T,
}

impl<T: Serialize + DeserializeOwned> Log<T> {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let mut entries = BTreeMap::new();
        let mut whole = 0;
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.last() != Some(&b'\n') {
                break;
            }
            // A line that is whole but does not parse was not written by this program: it is left
            // in place and not used.
            if let Ok(Line { key, value }) = serde_json::from_slice::<Line<T>>(&line) {
                entries.insert(key, value);
            }
            whole += line.len() as u64;
            line.clear();
        }
        file.set_len(whole)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file, entries })
    }

    fn append(&mut self, key: &str, value: T) -> io::Result<()> {
        let mut line = serde_json::to_vec(&LineOut { key, value: &value })?;
        line.push(b'\n');
        let before = self.file.metadata()?.len();
        if let Err(error) = self.file.write_all(&line) {
            // A full disk may have taken a part: what was whole before stays whole.
            self.file.set_len(before).ok();
            return Err(error);
        }
        self.entries.insert(key.to_owned(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: &str) -> Outcome {
        Outcome::Failed { error: error.into() }
    }

    #[test]
    fn what_was_put_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        store.put_answer("k", failed("one")).unwrap();
        store.put_answer("k", failed("two")).unwrap();
        store.put_verdict("v", Verdict::scored(0.5)).unwrap();
        store.state.peak_memory_bytes = 7;
        store.save_state().unwrap();
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.answer("k"), Some(&failed("two")));
        assert_eq!(store.verdict("v"), Some(&Verdict::scored(0.5)));
        assert_eq!(store.state.peak_memory_bytes, 7);
    }

    #[test]
    fn a_line_cut_short_is_removed_and_the_rest_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        store.put_answer("k", failed("one")).unwrap();
        drop(store);
        let path = folder.path().join("answers.jsonl");
        let whole = fs_err::read(&path).unwrap();
        for cut in 1..whole.len() {
            let mut torn = whole.clone();
            torn.extend_from_slice(&whole[..cut]);
            fs_err::write(&path, &torn).unwrap();
            let mut store = Store::open(folder.path()).unwrap();
            assert_eq!(store.answer("k"), Some(&failed("one")));
            store.put_answer("l", failed("two")).unwrap();
            drop(store);
            assert_eq!(Store::open(folder.path()).unwrap().answer("l"), Some(&failed("two")));
        }
    }

    #[test]
    fn two_runs_cannot_use_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Store::open(folder.path()).unwrap();
        assert!(matches!(Store::open(folder.path()), Err(StoreError::Busy(_))));
    }
}
