//! The folders that are shown, and the one way into them: by names that were found there, never by
//! a path that a request holds.

use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

/// Where reports and runs lie.
#[derive(Clone, Debug)]
pub struct Folders {
    reports: PathBuf,
    runs: PathBuf,
    /// The only report that is shown, where one was asked for.
    only: Option<String>,
}

/// The folder that was asked for holds nothing that can be shown.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no folder: give a folder of reports, or one report's folder")]
pub struct NotAFolder(String);

impl Folders {
    /// The reports under `reports`, which may also be a single report's folder, and the run folders
    /// under `runs`, which need not exist.
    ///
    /// # Errors
    /// When `reports` is no folder.
    pub fn new(reports: &Path, runs: &Path) -> Result<Self, NotAFolder> {
        let wrong = || NotAFolder(reports.display().to_string());
        let whole = fs_err::canonicalize(reports).map_err(|_| wrong())?;
        if !whole.is_dir() {
            return Err(wrong());
        }
        let runs = fs_err::canonicalize(runs).unwrap_or_else(|_| runs.to_owned());
        if whole.join("manifest.json").is_file() {
            let name = whole.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            let parent = whole.parent().map(Path::to_owned);
            let (Some(name), Some(parent)) = (name, parent) else { return Err(wrong()) };
            return Ok(Self { reports: parent, runs, only: Some(name) });
        }
        Ok(Self { reports: whole, runs, only: None })
    }

    /// Names of the reports, in order.
    pub(crate) fn reports(&self) -> Vec<String> {
        let names = names(&self.reports).into_iter();
        names.filter(|name| self.report(name).is_some()).collect()
    }

    /// Names of the runs that have been started, in order.
    pub(crate) fn runs(&self) -> Vec<String> {
        let names = names(&self.runs).into_iter();
        names.filter(|name| self.is_shown(name) && self.run(name).is_some()).collect()
    }

    /// The folder of a report.
    pub(crate) fn report(&self, name: &str) -> Option<PathBuf> {
        if !self.is_shown(name) {
            return None;
        }
        child(&self.reports, name).filter(|folder| folder.join("manifest.json").is_file())
    }

    /// The folder of a run.
    pub(crate) fn run(&self, name: &str) -> Option<PathBuf> {
        child(&self.runs, name).filter(|folder| folder.join("answers.jsonl").is_file())
    }

    fn is_shown(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

/// A file of a report, unless the path leads out of the report's folder.
pub(crate) fn file(report: &Path, path: &str) -> Option<PathBuf> {
    if path.contains(['\\', '\0']) {
        return None;
    }
    let path = Path::new(path);
    let is_plain = path.components().all(|part| match part {
        Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => {
            false
        }
    });
    let whole = fs_err::canonicalize(report.join(path)).ok()?;
    (is_plain && whole.starts_with(report) && whole.is_file()).then_some(whole)
}

/// The folder of that name in `parent`, unless it is a link that leads out of it.
fn child(parent: &Path, name: &str) -> Option<PathBuf> {
    names(parent).iter().find(|known| *known == name)?;
    let parent = fs_err::canonicalize(parent).ok()?;
    let whole = fs_err::canonicalize(parent.join(name)).ok()?;
    (whole.starts_with(&parent) && whole != parent && whole.is_dir()).then_some(whole)
}

/// Names in a folder that are text and not hidden, in order.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// When a file was last written.
pub(crate) fn modified(path: &Path) -> Option<SystemTime> {
    fs_err::metadata(path).ok()?.modified().ok()
}

/// A name as a part of a path in an address.
pub(crate) fn encoded(name: &str) -> String {
    use std::fmt::Write as _;

    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Folders) {
        let root = tempfile::tempdir().unwrap();
        for name in ["reports/a/charts", "reports/.hidden", "reports/empty", "secret", "runs/a"] {
            fs_err::create_dir_all(root.path().join(name)).unwrap();
        }
        for name in [
            "reports/a/manifest.json",
            "reports/a/charts/x.svg",
            "reports/.hidden/manifest.json",
            "reports/a/.part",
            "secret/manifest.json",
            "runs/a/answers.jsonl",
        ] {
            fs_err::write(root.path().join(name), "{}").unwrap();
        }
        let folders =
            Folders::new(&root.path().join("reports"), &root.path().join("runs")).unwrap();
        (root, folders)
    }

    #[test]
    fn reports_are_the_folders_with_a_manifest() {
        let (root, folders) = scratch();
        assert_eq!(folders.reports(), ["a"]);
        assert_eq!(folders.runs(), ["a"]);
        let one = Folders::new(&root.path().join("reports/a"), Path::new("nowhere")).unwrap();
        assert_eq!((one.reports(), one.runs()), (vec!["a".into()], vec![]));
        assert!(Folders::new(&root.path().join("nowhere"), Path::new("runs")).is_err());
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let (_root, folders) = scratch();
        for name in ["..", ".", "", "../secret", "a/..", "/etc", ".hidden", "empty", "a/", "a\0"] {
            assert_eq!(folders.report(name), None, "{name}");
            assert_eq!(folders.run(name), None, "{name}");
        }
    }

    #[test]
    fn no_path_leads_out_of_a_report() {
        let (_root, folders) = scratch();
        let report = folders.report("a").unwrap();
        assert!(file(&report, "charts/x.svg").is_some());
        for path in [
            "..",
            "../a/manifest.json",
            "../../secret/manifest.json",
            "/etc/passwd",
            "charts/../../../secret/manifest.json",
            "charts",
            "",
            ".part",
            "..\\..\\secret\\manifest.json",
            "manifest.json\0",
        ] {
            assert_eq!(file(&report, path), None, "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn no_link_leads_out_either() {
        let (root, folders) = scratch();
        let secret = root.path().join("secret");
        std::os::unix::fs::symlink(&secret, root.path().join("reports/link")).unwrap();
        std::os::unix::fs::symlink(&secret, root.path().join("reports/a/link")).unwrap();
        std::os::unix::fs::symlink(
            secret.join("manifest.json"),
            root.path().join("reports/a/charts/y.svg"),
        )
        .unwrap();
        assert_eq!(folders.report("link"), None);
        assert_eq!(folders.reports(), ["a"]);
        let report = folders.report("a").unwrap();
        assert_eq!(file(&report, "link/manifest.json"), None);
        assert_eq!(file(&report, "charts/y.svg"), None);
    }

    #[test]
    fn names_are_encoded_for_addresses() {
        assert_eq!(encoded("a b/ü?"), "a%20b%2F%C3%BC%3F");
    }
}
