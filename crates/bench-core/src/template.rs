//! Prompt templates: the user's own words around a sample, in Jinja.
//!
//! A template is the text of the user turn; `system` is an optional turn before it. Variables:
//! `input` (the question), `context` (retrieved text, already laid out, or empty), `passages` (the
//! list behind it: `id`, `title`, `text`, `score`), `examples` (few-shot: `input`, `reference`),
//! `choices` and `meta`. A template that does not mention `examples` gets them as earlier turns.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde::Serialize;

use crate::chat::Message;
use crate::dataset::Sample;

/// The variables a template may use.
pub const VARIABLES: &[&str] = &["input", "context", "passages", "examples", "choices", "meta"];

/// A prompt that can be laid out for any sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptTemplate {
    /// The system turn, a template too.
    pub system: Option<String>,
    /// The user turn.
    pub user: String,
    /// Plain text at the end of the question's turn: what settings such as `chain_of_thought` ask
    /// for. Empty where there is none.
    pub closing: String,
}

/// A worked example shown before the question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// What was asked.
    pub input: String,
    /// The answer that was right.
    pub reference: String,
}

/// A passage as a template sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ContextPassage {
    /// The document or chunk it came from.
    pub id: String,
    /// The document's title, or empty.
    pub title: String,
    /// The text.
    pub text: String,
}

impl PromptTemplate {
    /// The default user turn: context when there is some, then the question.
    pub const DEFAULT: &str = "{% if context %}{{ context }}\n\n{% endif %}{{ input }}";

    /// The question and nothing else.
    pub const BARE: &str = "{{ input }}";

    /// Compiles both parts and names every variable that no sample could fill.
    ///
    /// # Errors
    /// The first Jinja error, with its line.
    pub fn unknown_variables(&self) -> Result<Vec<String>, Error> {
        let mut unknown = BTreeSet::new();
        for source in self.system.iter().chain([&self.user]) {
            unknown.extend(unknown_variables(source)?);
        }
        Ok(unknown.into_iter().collect())
    }

    /// True when the template lays out `variable` itself.
    pub fn mentions(&self, variable: &str) -> bool {
        let environment = environment();
        self.system.iter().chain([&self.user]).any(|source| {
            environment
                .template_from_str(source)
                .is_ok_and(|template| template.undeclared_variables(false).contains(variable))
        })
    }

    /// The turns for one sample.
    ///
    /// # Errors
    /// A template that fails on this sample.
    pub fn messages(
        &self,
        sample: &Sample,
        examples: &[Example],
        passages: &[ContextPassage],
    ) -> Result<Vec<Message>, Error> {
        let values = |input: &str, passages: &[ContextPassage], examples: &[Example]| {
            minijinja::context! {
                input => input,
                context => layout(passages),
                passages => passages,
                examples => examples,
                choices => sample.choices,
                meta => sample.meta,
            }
        };
        let mut messages = Vec::with_capacity(2 + 2 * examples.len());
        let shown = values(&sample.input, passages, examples);
        if let Some(system) = &self.system {
            messages.push(Message::system(render(system, &shown)?));
        }
        if !self.mentions("examples") {
            for example in examples {
                let earlier = values(&example.input, &[], &[]);
                messages.push(Message::user(render(&self.user, &earlier)?));
                messages.push(Message::assistant(example.reference.clone()));
            }
        }
        let mut question = render(&self.user, &shown)?;
        if !self.closing.is_empty() {
            question.push_str("\n\n");
            question.push_str(&self.closing);
        }
        messages.push(Message::user(question));
        Ok(messages)
    }
}

/// Compiles one template and names every variable that no sample could fill, in order; functions of
/// the language, such as `range`, are none.
///
/// # Errors
/// The first Jinja error, with its line.
pub fn unknown_variables(source: &str) -> Result<BTreeSet<String>, Error> {
    let environment = environment();
    let names = environment.template_from_str(source)?.undeclared_variables(false);
    let is_global = |name: &str| environment.globals().any(|(global, _)| global == name);
    let unknown = |name: &String| !VARIABLES.contains(&name.as_str()) && !is_global(name);
    Ok(names.into_iter().filter(unknown).collect())
}

/// What a template stumbled over, in one line. `source` is the template's text.
pub fn explain(error: &Error, source: &str) -> String {
    let place = error.range().and_then(|range| source.get(range)).map(str::trim);
    let what = match (error.kind(), place.filter(|place| !place.is_empty())) {
        (ErrorKind::UndefinedError, Some(place)) => format!("`{place}` is undefined"),
        (kind, _) => {
            error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}"))
        }
    };
    let line = error.line().filter(|_| source.trim_end().contains('\n'));
    line.map_or_else(|| what.clone(), |line| format!("line {line}: {what}"))
}

/// Passages as text, numbered so that an answer can cite `[1]`.
fn layout(passages: &[ContextPassage]) -> String {
    let mut text = String::new();
    for (index, passage) in passages.iter().enumerate() {
        if index > 0 {
            text.push_str("\n\n");
        }
        write!(text, "[{}] ", index + 1).ok();
        if !passage.title.is_empty() {
            text.push_str(&passage.title);
            text.push_str(": ");
        }
        text.push_str(&passage.text);
    }
    text
}

fn render(source: &str, values: &Value) -> Result<String, Error> {
    environment().render_str(source, values).map(|text| text.trim_end().to_owned())
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(user: &str) -> PromptTemplate {
        PromptTemplate { user: user.into(), ..PromptTemplate::default() }
    }

    fn sample(input: &str) -> Sample {
        Sample { input: input.into(), ..Sample::default() }
    }

    fn example() -> Example {
        Example { input: "1+1?".into(), reference: "2".into() }
    }

    #[test]
    fn examples_become_earlier_turns_unless_the_template_lays_them_out() {
        let turns = prompt("Q: {{ input }}").messages(&sample("2+2?"), &[example()], &[]).unwrap();
        let texts: Vec<&str> = turns.iter().map(|turn| turn.content.as_str()).collect();
        assert_eq!(texts, ["Q: 1+1?", "2", "Q: 2+2?"]);

        let inline = prompt(
            "{% for e in examples %}{{ e.input }} {{ e.reference }}\n{% endfor %}{{ input }}",
        );
        let turns = inline.messages(&sample("2+2?"), &[example()], &[]).unwrap();
        assert_eq!(turns, [Message::user("1+1? 2\n2+2?")]);
    }

    #[test]
    fn the_closing_stands_in_the_question_s_turn_alone() {
        let prompt = PromptTemplate { closing: "Be brief.".into(), ..prompt("{{ input }}") };
        let turns = prompt.messages(&sample("2+2?"), &[example()], &[]).unwrap();
        let texts: Vec<&str> = turns.iter().map(|turn| turn.content.as_str()).collect();
        assert_eq!(texts, ["1+1?", "2", "2+2?\n\nBe brief."]);
    }

    #[test]
    fn context_is_numbered_and_titled() {
        let passage =
            ContextPassage { id: "d".into(), title: "Bridges".into(), text: "Old.".into() };
        let turns =
            prompt(PromptTemplate::DEFAULT).messages(&sample("How old?"), &[], &[passage]).unwrap();
        assert_eq!(turns, [Message::user("[1] Bridges: Old.\n\nHow old?")]);
    }

    #[test]
    fn an_unknown_variable_is_named_before_anything_runs() {
        assert_eq!(prompt("{{ question }} {{ input }}").unknown_variables().unwrap(), ["question"]);
        assert!(prompt("{% if %}").unknown_variables().is_err());
    }

    #[test]
    fn functions_of_the_language_are_known() {
        let ranges = "{% for i in range(3) %}{{ i }}{% endfor %}{{ input }}";
        assert!(prompt(ranges).unknown_variables().unwrap().is_empty());
        assert_eq!(prompt("{{ rnage(3) }}").unknown_variables().unwrap(), ["rnage"]);
    }

    #[test]
    fn an_error_is_one_line_with_its_place() {
        let source = "a\n{{ meta.unit }}";
        let error = prompt(source).messages(&sample("q"), &[], &[]).unwrap_err();
        let said = explain(&error, source);
        assert!(said.starts_with("line 2: `") && said.contains("unit` is undefined"), "{said}");
        let error = prompt("{% if %}").unknown_variables().unwrap_err();
        let said = explain(&error, "{% if %}");
        assert!(said.starts_with("syntax error: ") && !said.contains('\n'), "{said}");
    }

    #[test]
    fn braces_in_a_sample_are_text() {
        let turns = prompt("{{ input }}").messages(&sample("{{ 1 }}"), &[], &[]).unwrap();
        assert_eq!(turns, [Message::user("{{ 1 }}")]);
    }
}
