//! What a run is doing: the `progress.json` of its run folder, written by the run and read by
//! whoever watches it. Knows no file and no clock.

use serde::{Deserialize, Serialize};

use crate::backend::Stage;

/// The whole file. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of this layout.
    pub format: u32,
    /// The process that runs.
    pub process: u32,
    /// When it started.
    pub started: u64,
    /// When this was written.
    pub updated: u64,
    /// What is being done, the outermost first.
    pub doing: Vec<Work>,
    /// What has been done, in order.
    pub done: Vec<Work>,
    /// How it ended; `None` while it runs, or when it was killed.
    pub ended: Option<Ended>,
}

/// One piece of long work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Its stage.
    pub stage: Stage,
    /// Of what, for example the names of arms.
    pub what: String,
    /// Units done.
    pub done: u64,
    /// Units in all; 0 when unknown.
    pub total: u64,
    /// What is shown beside, for example the loss.
    pub note: String,
    /// When it began.
    pub began: u64,
    /// When it ended, or when this was written.
    pub until: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Every trial has an outcome.
    Done,
    /// It was asked to stop.
    Interrupted,
    /// A backend stopped it.
    Failed,
}

impl Status {
    /// The layout this program writes.
    pub const FORMAT: u32 = 1;
    /// The file's name in a run folder.
    pub const FILE: &str = "progress.json";
}

impl Work {
    /// Seconds until it is done, if it goes on as until now.
    pub fn seconds_left(&self) -> Option<u64> {
        if self.done == 0 || self.total < self.done {
            return None;
        }
        let took = self.until.saturating_sub(self.began) as f64;
        Some((took / self.done as f64 * (self.total - self.done) as f64).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_time_taken() {
        let work = |done, total| Work {
            stage: Stage::Generate,
            what: "rag".into(),
            done,
            total,
            note: String::new(),
            began: 100,
            until: 130,
        };
        assert_eq!(work(10, 40).seconds_left(), Some(90));
        assert_eq!(work(40, 40).seconds_left(), Some(0));
        assert_eq!(work(0, 40).seconds_left(), None);
        assert_eq!(work(5, 0).seconds_left(), None);
    }

    #[test]
    fn a_file_of_less_is_read() {
        let status: Status = serde_json::from_str(r#"{"format":1,"ended":"done"}"#).unwrap();
        assert_eq!((status.ended, status.doing.len()), (Some(Ended::Done), 0));
    }
}
