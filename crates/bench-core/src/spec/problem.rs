//! Problems with an experiment file, and where they are.

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceSpan};

use super::node::Node;

/// One thing wrong with an experiment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What stands beside the place.
    pub label: String,
    /// What to do.
    pub help: Option<String>,
    /// Where, in bytes.
    pub span: SourceSpan,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn std::fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new_with_span(Some(self.label.clone()), self.span);
        Some(Box::new(std::iter::once(label)))
    }
}

/// An experiment file that cannot be run: everything that is wrong with it.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{} cannot be run: {} {}", source_code.name(), problems.len(), if problems.len() == 1 { "problem" } else { "problems" })]
pub struct SpecError {
    #[source_code]
    source_code: NamedSource<String>,
    #[related]
    problems: Vec<Problem>,
}

impl SpecError {
    /// The problems, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

/// The text of an experiment file, to point into.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
    root: Option<Node>,
}

impl Source {
    pub(super) fn new(name: &str, text: &str, root: Option<Node>) -> Self {
        Self { name: name.to_owned(), text: text.to_owned(), root }
    }

    /// A problem at the place that `path` leads to: keys and list positions from the top, for
    /// example `["arms", "2", "name"]`. As much of the path as exists is followed.
    pub fn problem(
        &self,
        path: &[&str],
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) -> Problem {
        let help = help.into();
        Problem {
            message: message.into(),
            label: label.into(),
            help: (!help.is_empty()).then_some(help),
            span: self.root.as_ref().map_or((0, 0).into(), |root| root.at(path).span),
        }
    }

    /// Whether the file itself says something at `path`, rather than leaving a default.
    pub(super) fn says(&self, path: &[&str]) -> bool {
        let Some((key, parent)) = path.split_last() else { return true };
        let parent = self.root.as_ref().map(|root| root.at(parent));
        parent.is_some_and(|parent| parent.has(key))
    }

    /// All of them as one error, in the order of the file.
    pub fn error(&self, mut problems: Vec<Problem>) -> SpecError {
        problems.sort_by_key(|problem| problem.span.offset());
        problems.dedup();
        SpecError { source_code: NamedSource::new(&self.name, self.text.clone()), problems }
    }
}
