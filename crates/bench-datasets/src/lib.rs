//! Makes the project's own data: `meridian`, facts about an invented place, and `commands`,
//! sentences with a functional form. Everything follows from one seed, so the committed files can
//! be compared with what the program makes now.

mod commands;
mod meridian;

use std::fmt::Write as _;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The seed of all data sets.
pub const SEED: u64 = 20_260_101;

/// A file of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where it belongs, below the folder of all data sets, with `/` between parts.
    pub path: String,
    /// Its text.
    pub content: String,
}

/// Every file of every data set, in a fixed order.
pub fn files() -> Vec<File> {
    let datasets = [meridian::dataset(), commands::dataset()];
    let index = File { path: "README.md".into(), content: index(&datasets) };
    datasets.iter().flat_map(Dataset::files).chain([index]).collect()
}

struct Dataset {
    name: &'static str,
    purpose: &'static str,
    tables: Vec<Table>,
    /// What its README says beside the common parts, in Markdown.
    notes: String,
}

/// Rows of one JSON Lines file.
struct Table {
    name: &'static str,
    /// What a row is, for the README.
    holds: &'static str,
    rows: Vec<Value>,
}

impl Dataset {
    fn files(&self) -> Vec<File> {
        let place = |name: &str| format!("{}/{name}", self.name);
        let mut files: Vec<_> = self
            .tables
            .iter()
            .map(|table| File { path: place(&table.file_name()), content: table.lines() })
            .collect();
        files.push(File { path: place("README.md"), content: self.readme() });
        files
    }

    fn readme(&self) -> String {
        let mut text = format!(
            "# {}\n\n{}\n\n\
             Made from seed {SEED} by `cargo run -p bench-datasets`, which writes this file too. \
             Its sentences come from the templates in `crates/bench-datasets`; nothing is taken from another source. \
             Licence: [CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/).\n\n\
             ## Files\n\nUTF-8 JSON Lines.\n\n| file | rows | a row is | SHA-256 |\n|---|---:|---|---|\n",
            self.name, self.purpose
        );
        for table in &self.tables {
            let digest = format!("{:x}", Sha256::digest(table.lines()));
            push(
                &mut text,
                format_args!(
                    "| `{}` | {} | {} | `{digest}` |\n",
                    table.file_name(),
                    table.rows.len(),
                    table.holds
                ),
            );
        }
        push(&mut text, format_args!("\n{}\n## Examples\n", self.notes));
        for table in &self.tables {
            push(
                &mut text,
                format_args!("\n`{}`:\n\n```json\n{}\n```\n", table.file_name(), table.rows[0]),
            );
        }
        text
    }
}

impl Table {
    fn file_name(&self) -> String {
        format!("{}.jsonl", self.name)
    }

    fn lines(&self) -> String {
        self.rows.iter().map(|row| row.to_string() + "\n").collect()
    }
}

fn index(datasets: &[Dataset]) -> String {
    let mut text = String::from(
        "# Data sets\n\nOur own small data, free of anybody's rights and of leakage between splits: a test \
         checks both what is promised here and that the files are what `cargo run -p bench-datasets` \
         makes.\n\n| data set | teaches | rows |\n|---|---|---|\n",
    );
    for dataset in datasets {
        let rows: Vec<_> =
            dataset.tables.iter().map(|t| format!("{} {}", t.rows.len(), t.name)).collect();
        push(
            &mut text,
            format_args!(
                "| [{0}]({0}/README.md) | {1} | {2} |\n",
                dataset.name,
                dataset.purpose,
                rows.join(", ")
            ),
        );
    }
    // Made by a script of its own, from texts that stand in it.
    text.push_str(
        "| [poisoned](poisoned/README.md) | How often passages that give instructions are obeyed. | 24 eval, 48 corpus |\n",
    );
    text
}

fn push(text: &mut String, arguments: std::fmt::Arguments) {
    text.write_fmt(arguments).expect("writing to a string does not fail");
}

/// An independent source of chance for one stage, so that a change in one leaves the others alone.
fn random(stage: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    rng.set_stream(stage);
    rng
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The English word of a number up to twelve.
fn number_word(number: u32) -> Option<&'static str> {
    const WORDS: [&str; 13] = [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
        "eleven", "twelve",
    ];
    WORDS.get(number as usize).copied()
}
