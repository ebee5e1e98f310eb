//! What a report's `decision.json` and `tables/summary.csv` say, for the index and for two reports
//! side by side. Files that are missing or edited give less, never an error.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

/// The decision on one eval set.
#[derive(Debug, Serialize)]
pub(crate) struct Decided {
    pub(crate) set: String,
    pub(crate) winner: Option<String>,
    pub(crate) reason: String,
}

/// The decisions of a report.
pub(crate) fn decisions(report: &Path) -> Vec<Decided> {
    let file: Value = fs_err::read(report.join("decision.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let sets = file["sets"].as_array().into_iter().flatten();
    sets.map(|set| {
        let reason = set["decision"]["reason"].as_str().unwrap_or_default();
        Decided {
            set: text(&set["set"]).unwrap_or_default(),
            winner: text(&set["decision"]["winner"]),
            // The reason opens with "use X: " or "undecided: ", which is the headline here.
            reason: reason.split_once(": ").map_or(reason, |(_, rest)| rest).to_owned(),
        }
    })
    .collect()
}

/// One arm's mean on one metric of one set, in two reports.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) set: String,
    pub(crate) metric: String,
    pub(crate) arm: String,
    pub(crate) a: Option<Mean>,
    pub(crate) b: Option<Mean>,
}

impl Row {
    /// The second mean less the first.
    pub(crate) fn difference(&self) -> Option<f64> {
        Some(self.b.as_ref()?.value? - self.a.as_ref()?.value?)
    }
}

/// A mean with its interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Mean {
    pub(crate) n: String,
    pub(crate) value: Option<f64>,
    pub(crate) low: Option<f64>,
    pub(crate) high: Option<f64>,
}

/// Every set, metric and arm that either report has, in the first one's order.
pub(crate) fn beside(a: &Path, b: &Path) -> Vec<Row> {
    let [a, b] = [a, b].map(means);
    let mut rows: Vec<Row> = Vec::new();
    let mut of_b: BTreeMap<&[String; 3], &Mean> = b.iter().map(|(key, m)| (key, m)).collect();
    for (key, mean) in &a {
        let [set, metric, arm] = key.clone();
        let other = of_b.remove(key).cloned();
        rows.push(Row { set, metric, arm, a: Some(mean.clone()), b: other });
    }
    for (key, mean) in b.iter().filter(|(key, _)| of_b.contains_key(key)) {
        let [set, metric, arm] = key.clone();
        rows.push(Row { set, metric, arm, a: None, b: Some(mean.clone()) });
    }
    rows
}

/// By set, metric and arm, in the file's order.
fn means(report: &Path) -> Vec<([String; 3], Mean)> {
    let Ok(text) = fs_err::read_to_string(report.join("tables/summary.csv")) else {
        return Vec::new();
    };
    let mut rows = csv(&text).into_iter();
    let head = rows.next().unwrap_or_default();
    let column = |name: &str| head.iter().position(|column| column == name);
    let columns = ["set", "metric", "arm"].map(column);
    let [Some(set), Some(metric), Some(arm)] = columns else { return Vec::new() };
    rows.filter(|row| row.len() == head.len())
        .map(|row| {
            let text = |name: &str| column(name).map(|at| row[at].clone()).unwrap_or_default();
            let figure = |name: &str| text(name).parse().ok();
            let key = [set, metric, arm].map(|at| row[at].clone());
            let mean = Mean {
                n: text("n"),
                value: figure("value"),
                low: figure("ci_low"),
                high: figure("ci_high"),
            };
            (key, mean)
        })
        .collect()
}

/// CSV with quotes (RFC 4180), by row.
fn csv(text: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let (mut row, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\r' if !quoted && chars.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            c => cell.push(c),
        }
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(summary: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs_err::create_dir(folder.path().join("tables")).unwrap();
        fs_err::write(folder.path().join("tables/summary.csv"), summary).unwrap();
        folder
    }

    #[test]
    fn quotes_and_line_feeds_in_cells_are_read() {
        let rows = csv("a,b\r\n\"x,\"\"y\"\"\n\",2\n3");
        assert_eq!(rows, [vec!["a", "b"], vec!["x,\"y\"\n", "2"], vec!["3"]]);
    }

    #[test]
    fn two_reports_are_joined_by_set_metric_and_arm() {
        let a = report("set,arm,metric,n,value\ns,x,m,4,0.25\ns,y,m,4,\n");
        let b = report("set,metric,arm,n,value\ns,m,x,4,0.75\ns,m,z,4,1\n");
        let rows = beside(a.path(), b.path());
        let shown: Vec<(&str, Option<f64>)> =
            rows.iter().map(|row| (row.arm.as_str(), row.difference())).collect();
        assert_eq!(shown, [("x", Some(0.5)), ("y", None), ("z", None)]);
        assert!(rows[1].a.is_some() && rows[1].b.is_none() && rows[2].a.is_none());
    }

    #[test]
    fn a_folder_without_tables_gives_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(beside(folder.path(), report("nonsense").path()), []);
        assert!(decisions(folder.path()).is_empty());
    }
}
