//! Is there room on the disk for what is about to be written?

use std::path::Path;

use bench_core::backend::BackendError;

use crate::fatal;

/// Bytes that a folder, which need not be there yet, can take; `None` where the system does not
/// say.
pub(crate) fn free(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists());
    // A relative path ends in nothing, which is the working folder.
    let there = there.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Refuses to begin what would not fit.
pub(crate) fn check(folder: &Path, needed: u64, free: Option<u64>) -> Result<(), BackendError> {
    let Some(free) = free.filter(|free| *free < needed) else { return Ok(()) };
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    Err(fatal(format!(
        "the index in `{}` needs about {} MB and the disk has {} MB left; free some, or set \
         `run: {{ runs: … }}` to a folder on another disk",
        folder.display(),
        megabytes(needed),
        free / 1_000_000
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_has_the_room_of_what_is_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let above = free(folder.path()).unwrap();
        let below = free(&folder.path().join("not/there")).unwrap();
        // Others write to this disk meanwhile.
        assert!(above > 0 && below > above / 2 && below < above.saturating_mul(2));
        assert!(free(Path::new("not/there")).unwrap() > 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let folder = Path::new("runs/x");
        assert!(check(folder, 100, Some(100)).is_ok());
        assert!(check(folder, 100, None).is_ok());
        let error = check(folder, 2_000_001, Some(1_999_999)).unwrap_err().chain();
        assert!(error.contains("`runs/x` needs about 3 MB and the disk has 1 MB left"), "{error}");
    }
}
