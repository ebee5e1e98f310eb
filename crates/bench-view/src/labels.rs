//! The `labels.jsonl` of a report: appended a line at a time, never rewritten.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bench_core::label::{Label, LabelError, read};

/// The file's name in a report's folder.
const NAME: &str = "labels.jsonl";

/// Writes labels, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Labels(Mutex<()>);

/// Labels could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabelsError {
    #[error("cannot use `{NAME}`: {0}")]
    Io(#[from] std::io::Error),
    #[error("`{NAME}`, {0}")]
    Format(#[from] LabelError),
    #[error("`{NAME}` is a link; make it a file of the report's folder")]
    Link,
}

impl Labels {
    /// All labels of a report, in the order they were given.
    pub(crate) fn of(report: &Path) -> Result<Vec<Label>, LabelsError> {
        let path = path(report)?;
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs_err::read_to_string(path)?;
        // A line that is being written now, or was torn by a crash, is not there yet.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let torn = read(&text[whole..]).unwrap_or_default();
        let mut labels = read(&text[..whole])?;
        labels.extend(torn);
        Ok(labels)
    }

    /// Appends a label with one write; on disk when this returns.
    pub(crate) fn append(&self, report: &Path, label: &Label) -> Result<(), LabelsError> {
        let _one = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = File::options().read(true).append(true).create(true).open(path(report)?)?;
        let mut line = Vec::new();
        if !ends_a_line(&mut file)? {
            line.push(b'\n');
        }
        serde_json::to_writer(&mut line, label).map_err(std::io::Error::from)?;
        line.push(b'\n');
        file.write_all(&line)?;
        file.sync_data()?;
        Ok(())
    }
}

fn path(report: &Path) -> Result<PathBuf, LabelsError> {
    let path = report.join(NAME);
    match fs_err::symlink_metadata(&path) {
        Ok(about) if !about.is_file() => Err(LabelsError::Link),
        Ok(_) | Err(_) => Ok(path),
    }
}

/// Whether the next byte starts a line. A last line that a crash tore is removed; one that a person
/// wrote without a line feed is kept.
fn ends_a_line(file: &mut File) -> std::io::Result<bool> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole == text.len() {
        return Ok(true);
    }
    let is_label = std::str::from_utf8(&text[whole..]).is_ok_and(|line| read(line).is_ok());
    if !is_label {
        file.set_len(whole as u64)?;
    }
    Ok(!is_label)
}

/// Now, as RFC 3339 in UTC.
pub(crate) fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    rfc3339(seconds)
}

/// Seconds since 1970 as RFC 3339. The calendar is the one that repeats every 400 years, counted
/// from a first of March, so that the leap day is the last of its year.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(value: f64) -> Label {
        let line = format!(
            r#"{{"set":"s","sample":"1","arm":"a","kind":"rating","value":{value},"grader":"ann\n"}}"#
        );
        read(&line).unwrap().remove(0)
    }

    #[test]
    fn what_was_appended_is_read_again_in_order() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Labels::of(folder.path()).unwrap(), []);
        let labels = Labels::default();
        labels.append(folder.path(), &label(1.0)).unwrap();
        labels.append(folder.path(), &label(5.0)).unwrap();
        assert_eq!(Labels::of(folder.path()).unwrap(), [label(1.0), label(5.0)]);
    }

    #[test]
    fn a_torn_line_is_removed_and_an_unfinished_one_of_a_person_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let whole = serde_json::to_string(&label(2.0)).unwrap();
        for (last, kept) in [(&whole[..20], 1), (&whole[..], 2)] {
            fs_err::write(&path, format!("{whole}\n{last}")).unwrap();
            assert_eq!(Labels::of(folder.path()).unwrap().len(), kept);
            Labels::default().append(folder.path(), &label(3.0)).unwrap();
            let labels = Labels::of(folder.path()).unwrap();
            assert_eq!((labels.len(), labels.last()), (kept + 1, Some(&label(3.0))));
        }
    }

    #[test]
    fn a_line_that_is_no_label_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join(NAME), "{}\n").unwrap();
        let error = Labels::of(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("`labels.jsonl`, line 1 is not a label"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("elsewhere");
        fs_err::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, folder.path().join(NAME)).unwrap();
        let error = Labels::default().append(folder.path(), &label(1.0)).unwrap_err();
        assert!(matches!(error, LabelsError::Link));
        assert_eq!(fs_err::read(&target).unwrap(), b"");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From `date -u -d @SECONDS +%FT%TZ`.
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_271_696), "2026-11-21T14:34:56Z");
        assert_eq!(rfc3339(4_107_542_399), "2100-02-28T23:59:59Z");
    }
}
