//! `bench view`: hands the server what it needs to read reports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bench_core::manifest::Manifest;
use bench_core::record::{Record, TrialId};
use bench_report::{Samples, Side, compare_runs};
use bench_view::{Folders, Library, Report, Server};
use miette::{IntoDiagnostic as _, miette};

use crate::exit::Exit;
use crate::output;

/// Serves reports until Ctrl-C.
pub(crate) fn serve(reports: &Path, runs: &Path, address: SocketAddr) -> miette::Result<Exit> {
    let folders = Folders::new(reports, runs).into_diagnostic()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .into_diagnostic()?;
    runtime.block_on(async {
        let server = Server::bind(address, folders, Box::new(Reports)).await.map_err(|error| {
            miette!(
                help = "give another address: --listen 127.0.0.1:0 takes any free port",
                "{error}"
            )
        })?;
        let address = server.address();
        if !address.ip().is_loopback() {
            anstream::eprintln!(
                "warning: {address} is not a loopback address: whoever can reach it can read the reports and add labels"
            );
        }
        anstream::println!("{}: http://{address}/ (Ctrl-C ends it)", reports.display());
        tokio::select! {
            ended = server.run() => ended.into_diagnostic(),
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })?;
    Ok(Exit::Done)
}

struct Reports;

impl Library for Reports {
    fn open(&self, folder: &Path) -> Result<Arc<dyn Report>, String> {
        let (manifest, records) = output::read(folder).map_err(|error| format!("{error:#}"))?;
        let by_trial = records.iter().enumerate().map(|(at, r)| (r.trial.clone(), at)).collect();
        Ok(Arc::new(Read { manifest, records, by_trial, page: OnceLock::new() }))
    }

    fn compare(&self, a: &Path, b: &Path) -> Result<String, String> {
        let read = |folder: &Path| output::read(folder).map_err(|error| format!("{error:#}"));
        let name =
            |folder: &Path| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (names, old, new) = ([name(a), name(b)], read(a)?, read(b)?);
        let side = |name, (manifest, records)| Side { name, manifest, records };
        let before = side(&names[0], (&old.0, &old.1));
        let after = side(&names[1], (&new.0, &new.1));
        let comparison = compare_runs(before, after, Samples::OfEqualFiles)
            .map_err(|error| error.to_string())?;
        if !comparison.is_comparable() {
            return Err(comparison.refused.join("; "));
        }
        comparison.served().map_err(|error| error.to_string())
    }

    fn style(&self) -> &'static str {
        bench_report::STYLE
    }

    fn script(&self) -> &'static str {
        bench_report::SCRIPT
    }
}

/// A report in memory.
struct Read {
    manifest: Manifest,
    records: Vec<Record>,
    by_trial: BTreeMap<TrialId, usize>,
    /// Made when first asked for.
    page: OnceLock<Result<String, String>>,
}

impl Report for Read {
    fn page(&self, api: &str) -> Result<String, String> {
        let make = || {
            let page = bench_report::served_page(&self.manifest, &self.records, api);
            page.map_err(|error| error.to_string())
        };
        self.page.get_or_init(make).clone()
    }

    fn answer(&self, trial: &TrialId) -> Option<&str> {
        let record = &self.records[*self.by_trial.get(trial)?];
        Some(&record.answer()?.text)
    }
}
