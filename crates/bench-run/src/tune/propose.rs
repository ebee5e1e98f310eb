//! Prompts that a model writes: what it is asked for, and how its words become a prompt.
//!
//! A model writes an instruction and nothing else; where the instruction stands, and how question and
//! passages are laid out, stays as in the first prompt, so that no reply can lose a variable.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::LazyLock;

use bench_core::chat::Message;
use bench_core::dataset::Sample;
use bench_core::spec::ProposeFrom;
use bench_core::template::{Example, PromptTemplate};
use regex::Regex;

use crate::load::draw;

/// Upper bound on a proposal's tokens.
pub(super) const MAX_TOKENS: u32 = 160;

/// Proposals are drawn, so that they differ.
pub(super) const TEMPERATURE: f64 = 0.8;

/// Examples and failures that a request shows.
const SHOWN: usize = 5;

/// What to ask for one proposal; `None` where there is nothing to show.
pub(super) fn request(
    from: ProposeFrom,
    first: &PromptTemplate,
    rows: &[Example],
    failures: &[(&Sample, String)],
    seed: u64,
) -> Option<Vec<Message>> {
    let text = match from {
        // Honovich et al. 2022; the form of APE (Zhou et al. 2022).
        ProposeFrom::Induction => {
            let rows = draw(rows, SHOWN, seed, |index, _| format!("propose/{index}"));
            if rows.is_empty() {
                return None;
            }
            let mut text = String::from(
                "Someone was given one instruction and followed it on these inputs.\n\n",
            );
            for row in rows {
                write!(text, "Input: {}\nOutput: {}\n\n", row.input, row.reference).ok();
            }
            text.push_str("What was the instruction? Write it, and nothing else.");
            text
        }
        ProposeFrom::Paraphrase => {
            let old = instruction(first)?;
            format!(
                "Write this instruction anew: the same meaning, other words, as clear as you can. Write the instruction, and nothing else.\n\nInstruction: {old}"
            )
        }
        // After ProTeGi (Pryzant et al. 2023), criticism and rewriting in one request.
        ProposeFrom::Failures => {
            let shown =
                draw(failures, SHOWN, seed, |_, (sample, _)| format!("propose/{}", sample.id));
            if shown.is_empty() {
                return None;
            }
            let old = instruction(first).unwrap_or_else(|| "(none)".into());
            let mut text = format!(
                "An assistant works by this instruction:\n{old}\n\nIt went wrong here:\n\n"
            );
            for (sample, answer) in shown {
                let Sample { input, reference, .. } = sample;
                write!(text, "Input: {input}\nWanted: {reference}\nGiven: {answer}\n\n").ok();
            }
            text.push_str(
                "Write a better instruction that would have prevented these mistakes, without the answers themselves. Write the instruction, and nothing else.",
            );
            text
        }
    };
    Some(vec![Message::user(text)])
}

/// The first prompt with another instruction; `None` for a reply that holds none.
pub(super) fn prompt(first: &PromptTemplate, reply: &str) -> Option<PromptTemplate> {
    let mut text = bare(reply);
    while let Some((_, rest)) = text.split_once(':').filter(|(label, _)| is_label(label)) {
        text = bare(rest);
    }
    // One paragraph: what follows is talk.
    let text = text.split("\n\n").next().unwrap_or_default().trim();
    // The quotation mark that was opened before the label went.
    let text = match text.strip_suffix('"') {
        Some(rest) if !rest.matches('"').count().is_multiple_of(2) => text,
        Some(rest) => rest,
        None => text,
    };
    if !text.chars().any(char::is_alphabetic) || text.contains("endraw") {
        return None;
    }
    let text = if text.contains("{{") || text.contains("{%") || text.contains("{#") {
        format!("{{% raw %}}{text}{{% endraw %}}")
    } else {
        text.to_owned()
    };
    let mut prompt = first.clone();
    match (&first.system, place(&first.user)) {
        (Some(system), _) if place(system).is_some() => prompt.system = Some(text),
        (_, Some(place)) => prompt.user.replace_range(place, &text),
        (_, None) => prompt.user.insert_str(0, &format!("{text}\n\n")),
    }
    Some(prompt)
}

/// Without outer white space, quotes and marks of emphasis.
fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || "\"`*“”".contains(c))
}

/// Words of which models make labels before an instruction: `Sure! Here is the new instruction`.
const LABEL: &[&str] = &[
    "a",
    "an",
    "as",
    "be",
    "better",
    "clear",
    "clearer",
    "could",
    "follows",
    "following",
    "here",
    "improved",
    "instruction",
    "instructions",
    "is",
    "may",
    "might",
    "my",
    "new",
    "original",
    "possible",
    "prompt",
    "rephrased",
    "revised",
    "rewritten",
    "s",
    "sure",
    "task",
    "that",
    "the",
    "this",
    "was",
    "were",
    "would",
    "your",
];

/// True for words before a colon that only announce an instruction.
fn is_label(before: &str) -> bool {
    let words: Vec<String> = before
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let announces = |word: &String| word.starts_with("instruction") || word == "prompt";
    words.iter().any(announces) && words.iter().all(|word| LABEL.contains(&word.as_str()))
}

/// The instruction of a prompt: its system turn, or the longest run of plain words in its user
/// turn.
fn instruction(prompt: &PromptTemplate) -> Option<String> {
    let system = prompt.system.as_deref().filter(|system| place(system).is_some());
    match system {
        Some(system) => Some(system.trim().to_owned()),
        None => place(&prompt.user).map(|place| prompt.user[place].to_owned()),
    }
}

/// Where the longest run of plain text with a word of it stands between Jinja's marks, outer white
/// space aside.
fn place(template: &str) -> Option<Range<usize>> {
    static MARKS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?s)\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}").expect("the pattern is constant")
    });
    let mut plain = Vec::new();
    let mut from = 0;
    for mark in MARKS.find_iter(template) {
        plain.push(from..mark.start());
        from = mark.end();
    }
    plain.push(from..template.len());
    plain
        .into_iter()
        .map(|range| {
            let text = &template[range.clone()];
            let start = range.start + text.len() - text.trim_start().len();
            start..start + text.trim().len()
        })
        .filter(|range| template[range.clone()].split_whitespace().count() > 2)
        .max_by_key(|range| (range.len(), std::cmp::Reverse(range.start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(system: Option<&str>, user: &str) -> PromptTemplate {
        PromptTemplate {
            system: system.map(str::to_owned),
            user: user.into(),
            ..PromptTemplate::default()
        }
    }

    const ASK: &str =
        "{% if context %}{{ context }}\n\n{% endif %}Answer in one word.\nQuestion: {{ input }}";

    #[track_caller]
    fn check(first: &PromptTemplate, reply: &str, system: Option<&str>, user: &str) {
        assert_eq!(prompt(first, reply).unwrap(), template(system, user));
    }

    #[test]
    fn a_new_instruction_takes_the_old_one_s_place_and_every_variable_stays() {
        let with_system = template(Some("You answer questions."), "{{ input }}");
        check(&with_system, "\"Be exact.\"", Some("Be exact."), "{{ input }}");
        let plain = template(None, "{{ input }}");
        check(&plain, "Instruction: Be exact.\n\nSure!", None, "Be exact.\n\n{{ input }}");
        for reply in [
            "The instruction is: Be exact.",
            "Sure! Here's the new instruction:\n\n\"Be exact.\"\n\nIt is better because of this.",
            "**Instruction:** Be exact.",
            "Instruction: The instruction was: Be exact.",
        ] {
            check(&with_system, reply, Some("Be exact."), "{{ input }}");
        }
        // A colon within an instruction belongs to it.
        let colon = "Follow the instruction below: answer in one word.";
        check(&with_system, colon, Some(colon), "{{ input }}");
        let first = template(None, ASK);
        let changed = prompt(&first, "Say it in a word: {{ input }}").unwrap();
        assert_eq!(
            changed.user,
            "{% if context %}{{ context }}\n\n{% endif %}{% raw %}Say it in a word: {{ input }}{% endraw %} {{ input }}"
        );
        for nothing in ["", "…", "{% endraw %} x"] {
            assert_eq!(prompt(&first, nothing), None);
        }
    }

    #[test]
    fn the_instruction_is_found_between_the_variables() {
        assert_eq!(instruction(&template(None, ASK)).unwrap(), "Answer in one word.\nQuestion:");
        assert_eq!(instruction(&template(None, "{{ input }}")), None);
        assert_eq!(
            instruction(&template(Some("Be brief and kind."), ASK)).unwrap(),
            "Be brief and kind."
        );
    }

    #[test]
    fn a_request_shows_what_it_is_made_from() {
        let first = template(None, ASK);
        let rows = [Example { input: "1+1".into(), reference: "2".into() }];
        let text = |from, failures: &[(&Sample, String)]| {
            request(from, &first, &rows, failures, 0).map(|turns| turns[0].content.clone())
        };
        assert!(text(ProposeFrom::Induction, &[]).unwrap().contains("Input: 1+1\nOutput: 2"));
        assert!(text(ProposeFrom::Paraphrase, &[]).unwrap().ends_with("one word.\nQuestion:"));
        assert_eq!(text(ProposeFrom::Failures, &[]), None);
        let sample = Sample { input: "why".into(), reference: "so".into(), ..Sample::default() };
        let shown = text(ProposeFrom::Failures, &[(&sample, "no".into())]).unwrap();
        assert!(shown.contains("Input: why\nWanted: so\nGiven: no"), "{shown}");
    }
}
