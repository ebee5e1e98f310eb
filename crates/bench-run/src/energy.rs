//! Energy that the processor says it took: Linux's counters of running average power (RAPL).

use std::path::{Path, PathBuf};

/// Where Linux shows the counters.
const FOLDER: &str = "/sys/class/powercap";

/// Counters of the processor's packages, read at one moment. They count everything that runs on the
/// machine.
pub(crate) struct Meter {
    /// Folder, microjoules, and the number at which the counter begins again.
    packages: Vec<(PathBuf, u64, u64)>,
}

impl Meter {
    /// Starts to measure; finds nothing on machines that do not tell, or tell only their owner.
    pub(crate) fn start() -> Self {
        Self::of(Path::new(FOLDER))
    }

    fn of(folder: &Path) -> Self {
        let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
        let packages = entries
            .map(|entry| entry.path())
            .filter(|path| number(&path.join("energy_uj")).is_some() && is_package(path))
            .filter_map(|path| {
                let now = number(&path.join("energy_uj"))?;
                let most = number(&path.join("max_energy_range_uj"))?;
                Some((path, now, most))
            })
            .collect();
        Self { packages }
    }

    /// Joules since the start, all packages together; `None` where the machine does not tell. A
    /// counter that has begun again once is understood, more than once it is not.
    pub(crate) fn joules(&self) -> Option<f64> {
        let mut sum = 0;
        for (path, before, most) in &self.packages {
            let now = number(&path.join("energy_uj"))?;
            sum += if now >= *before { now - before } else { most.checked_sub(*before)? + now };
        }
        (!self.packages.is_empty()).then_some(sum as f64 / 1e6)
    }
}

/// Whether the counter is of a whole package: `package-0`, whose name is that of no part.
fn is_package(path: &Path) -> bool {
    let name = fs_err::read_to_string(path.join("name")).unwrap_or_default();
    name.starts_with("package")
}

fn number(path: &Path) -> Option<u64> {
    fs_err::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(folder: &Path, name: &str, energy: u64) {
        let at = folder.join(name.replace('/', "-"));
        fs_err::create_dir_all(&at).unwrap();
        fs_err::write(at.join("name"), format!("{name}\n")).unwrap();
        fs_err::write(at.join("energy_uj"), format!("{energy}\n")).unwrap();
        fs_err::write(at.join("max_energy_range_uj"), "10000000\n").unwrap();
    }

    #[test]
    fn packages_are_added_up_and_counters_begin_again() {
        let folder = tempfile::tempdir().unwrap();
        package(folder.path(), "package-0", 9_000_000);
        package(folder.path(), "package-1", 1_000_000);
        // A part of a package is in the package already.
        package(folder.path(), "core", 0);
        let meter = Meter::of(folder.path());
        package(folder.path(), "package-0", 500_000);
        package(folder.path(), "package-1", 3_000_000);
        package(folder.path(), "core", 7_000_000);
        assert_eq!(meter.joules(), Some(1.5 + 2.0));
    }

    #[test]
    fn a_machine_that_does_not_tell_has_no_figure() {
        assert_eq!(Meter::of(Path::new("no such folder")).joules(), None);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Meter::of(folder.path()).joules(), None);
    }
}
