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
    shown: Vec<Shown>,
    problems: Vec<Problem>,
}

/// A problem as it is printed.
#[derive(Debug)]
struct Shown {
    problem: Problem,
    /// An excerpt in the place of the file, where the line is too long to print.
    source_code: Option<NamedSource<String>>,
}

/// Bytes of a line, and of a message, beyond which an excerpt is printed.
const LONGEST: usize = 400;

/// Bytes on each side of the place in an excerpt.
const AROUND: usize = 40;

impl Shown {
    fn new(name: &str, text: &str, problem: &Problem) -> Self {
        let mut problem = problem.clone();
        if problem.message.len() > 4 * LONGEST {
            problem.message.truncate(boundary(&problem.message, 4 * LONGEST));
            problem.message.push('…');
        }
        let at = boundary(text, problem.span.offset());
        let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
        let end = text[at..].find('\n').map_or(text.len(), |len| at + len);
        if end - start <= LONGEST {
            return Self { problem, source_code: None };
        }
        let from = boundary(text, at.saturating_sub(AROUND).max(start));
        let to = boundary(text, (at + 2 * AROUND).min(end));
        // Empty lines above keep the line's number.
        let above = "\n".repeat(text[..start].matches('\n').count());
        let excerpt = format!("{above}…{}…", &text[from..to]);
        let offset = above.len() + '…'.len_utf8() + at - from;
        problem.span = (offset, problem.span.len().min(to - at)).into();
        Self { problem, source_code: Some(NamedSource::new(name, excerpt)) }
    }
}

/// The last place at or before `at` that does not split a character.
fn boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.problem, f)
    }
}

impl std::error::Error for Shown {}

impl Diagnostic for Shown {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.problem.help()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.problem.labels()
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source_code.as_ref().map(|source| source as &dyn miette::SourceCode)
    }
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
        let mut once: Vec<Problem> = Vec::with_capacity(problems.len());
        for problem in problems {
            if !once.contains(&problem) {
                once.push(problem);
            }
        }
        let shown = |problem| Shown::new(&self.name, &self.text, problem);
        SpecError {
            source_code: NamedSource::new(&self.name, self.text.clone()),
            shown: once.iter().map(shown).collect(),
            problems: once,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_printed_in_part() {
        let text = format!("version: 1\nname: é{}!{}\n", "x".repeat(100_000), "y".repeat(100_000));
        let at = text.find('!').unwrap();
        let problem = Problem {
            message: "m".repeat(100_000),
            label: "here".into(),
            help: None,
            span: (at, 100_000).into(),
        };
        let error = Source::new("x.yaml", &text, None).error(vec![problem.clone(), problem]);
        assert_eq!((error.problems().len(), error.problems()[0].span.offset()), (1, at));
        let mut printed = String::new();
        miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor())
            .render_report(&mut printed, &error)
            .unwrap();
        assert!(printed.len() < 10_000 && printed.contains("x!y"), "{printed}");
        assert!(printed.contains("2 │"), "{printed}");
    }
}
