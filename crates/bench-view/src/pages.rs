//! The server's own pages: the index, a run that goes on, two reports side by side.

use axum::http::StatusCode;
use bench_core::text::printable;
use minijinja::{AutoEscape, Environment, Error, context};

use crate::folder::{Folders, encoded, modified};
use crate::labels::{Labels, rfc3339};
use crate::live::{Live, State};
use crate::summary::{self, Mean, Row};

/// The templates, read once.
pub(crate) struct Pages(Environment<'static>);

impl Pages {
    pub(crate) fn new() -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.add_filter("path", |text: String| encoded(&text));
        for (name, source) in [
            ("base", include_str!("templates/base.html.j2")),
            ("index", include_str!("templates/index.html.j2")),
            ("live", include_str!("templates/live.html.j2")),
            ("beside", include_str!("templates/beside.html.j2")),
            ("failure", include_str!("templates/failure.html.j2")),
        ] {
            environment.add_template(name, source)?;
        }
        Ok(Self(environment))
    }

    fn render(&self, name: &str, context: minijinja::Value) -> Result<String, Error> {
        // Once for all that a page holds, so that no field can be forgotten.
        Ok(printable(&self.0.get_template(name)?.render(context)?))
    }

    /// All reports and all runs.
    pub(crate) fn index(&self, folders: &Folders, runs: &[Live]) -> Result<String, Error> {
        let names = folders.reports();
        let reports: Vec<minijinja::Value> = names
            .iter()
            .filter_map(|name| {
                let folder = folders.report(name)?;
                let written = modified(&folder.join("manifest.json"))
                    .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
                    .map(|time| rfc3339(time.as_secs()));
                let labels = match Labels::of(&folder) {
                    Ok(labels) => bench_core::label::standing(&labels).len().to_string(),
                    Err(error) => error.to_string(),
                };
                Some(context! {
                    name,
                    decided => summary::decisions(&folder),
                    written,
                    labels,
                })
            })
            .collect();
        self.render("index", context! { reports, names, runs })
    }

    /// A run that goes on, or has ended.
    pub(crate) fn live(&self, run: &Live, has_report: bool) -> Result<String, Error> {
        self.render("live", context! { run, has_report, is_running => run.state == State::Running })
    }

    /// The means of two reports that cannot be compared on the same samples.
    pub(crate) fn beside(
        &self,
        [a, b]: [&str; 2],
        names: &[String],
        refused: &str,
        rows: &[Row],
    ) -> Result<String, Error> {
        let rows: Vec<minijinja::Value> = rows
            .iter()
            .map(|row| {
                let means = [&row.a, &row.b].map(|mean| shown(mean.as_ref()));
                let difference =
                    row.difference().map_or("–".into(), |x| format!("{:+.3}", x + 0.0));
                context! { set => row.set, metric => row.metric, arm => row.arm, means, difference }
            })
            .collect();
        self.render("beside", context! { a, b, names, refused, rows })
    }

    /// What is shown instead of a page.
    pub(crate) fn failure(&self, status: StatusCode, why: &str) -> Result<String, Error> {
        let title = status.canonical_reason().unwrap_or("Failed");
        self.render("failure", context! { title, why })
    }
}

/// A mean as a cell of a table.
fn shown(mean: Option<&Mean>) -> minijinja::Value {
    let Some(Mean { n, value: Some(value), low, high }) = mean else {
        return context! { text => "–" };
    };
    let interval = low.zip(*high).map(|(low, high)| format!("({low:.3} to {high:.3}), n = {n}"));
    context! { value, text => format!("{value:.3}"), interval }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injections() -> Vec<String> {
        serde_json::from_str(include_str!("../../../tests/injections.json")).unwrap()
    }

    #[track_caller]
    fn check(page: &str) {
        for attack in injections().iter().filter(|attack| attack.contains('<')) {
            assert!(!page.contains(attack), "{attack:?} in {page}");
        }
        assert!(page.chars().all(|c| !bench_core::text::acts(c)), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    }

    #[test]
    fn what_others_wrote_is_text_on_every_page() {
        let pages = Pages::new().unwrap();
        let attack = injections().concat();
        check(&pages.failure(StatusCode::NOT_FOUND, &attack).unwrap());
        let [set, metric, arm] = [attack.clone(), attack.clone(), attack.clone()];
        let row = Row { set, metric, arm, a: None, b: None };
        let names = [attack.clone()];
        check(&pages.beside([&attack, &attack], &names, &attack, &[row]).unwrap());
        let root = tempfile::tempdir().unwrap();
        let report = root.path().join("reports/a");
        fs_err::create_dir_all(&report).unwrap();
        fs_err::write(report.join("manifest.json"), "{}").unwrap();
        let decision = serde_json::json!({"sets": [{"set": attack, "decision": {"winner": attack, "reason": attack}}]});
        fs_err::write(report.join("decision.json"), decision.to_string()).unwrap();
        let folders = Folders::new(&root.path().join("reports"), root.path()).unwrap();
        check(&pages.index(&folders, &[]).unwrap());
    }
}
