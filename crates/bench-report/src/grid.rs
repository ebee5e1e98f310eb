//! A table for reading, and the templates that write it as Markdown and HTML.

use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use crate::ReportError;
use crate::text::{grouped, markdown, markdown_code};

/// Templates escape by the ending of their name; `grid.md` and `grid.html` hold the macros that all
/// pages share.
pub(crate) fn environment() -> Result<Environment<'static>, ReportError> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.set_auto_escape_callback(|name| {
        if name.contains(".html") { AutoEscape::Html } else { AutoEscape::None }
    });
    environment.add_filter("md", |text: String| markdown(&text));
    environment.add_filter("md_code", |text: String| markdown_code(&text));
    environment.add_template("grid.md", include_str!("templates/grid.md.j2"))?;
    environment.add_template("grid.html", include_str!("templates/grid.html.j2"))?;
    Ok(environment)
}

/// A table for reading.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Grid {
    pub(crate) title: String,
    pub(crate) note: String,
    pub(crate) columns: Vec<Head>,
    pub(crate) rows: Vec<Vec<Shown>>,
    /// Long: folded away until asked for.
    pub(crate) is_folded: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Head {
    pub(crate) name: String,
    pub(crate) is_number: bool,
    pub(crate) is_code: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    pub(crate) text: String,
    /// What the column sorts by, where it is not the text.
    pub(crate) sort: Option<f64>,
}

impl Grid {
    /// `>` before a name sets the column to the right, `` ` `` sets it as code.
    pub(crate) fn new(title: &str, note: impl Into<String>, columns: &[&str]) -> Self {
        let head = |name: &&str| Head {
            name: name.trim_start_matches(['>', '`']).to_owned(),
            is_number: name.starts_with('>'),
            is_code: name.starts_with('`'),
        };
        Self {
            title: title.to_owned(),
            note: note.into(),
            columns: columns.iter().map(head).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn folded(self) -> Self {
        Self { is_folded: true, ..self }
    }

    /// Without the columns from `first` on that say nothing in any row: they only widen the table.
    pub(crate) fn without_empty_columns(mut self, first: usize) -> Self {
        for column in (first..self.columns.len()).rev() {
            let says_nothing =
                self.rows.iter().all(|row| row[column].text == "–" || row[column].text == "0");
            if says_nothing {
                self.columns.remove(column);
                self.rows.iter_mut().for_each(|row| drop(row.remove(column)));
            }
        }
        self
    }
}

impl From<String> for Shown {
    fn from(text: String) -> Self {
        Self { text, sort: None }
    }
}

impl From<&str> for Shown {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<usize> for Shown {
    fn from(count: usize) -> Self {
        Self { text: grouped(count as i64), sort: Some(count as f64) }
    }
}

/// A figure written in some way and sorted by its value.
pub(crate) fn figure(value: Option<f64>, write: impl Fn(Option<f64>) -> String) -> Shown {
    Shown { text: write(value), sort: value }
}

/// A row of cells from values of any kind.
macro_rules! shown {
    ($($value:expr),* $(,)?) => { vec![$($crate::grid::Shown::from($value)),*] };
}
pub(crate) use shown;
