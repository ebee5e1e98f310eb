//! `bench init`: an experiment to start from, with data small enough to read.

use std::path::Path;

use miette::{Context as _, IntoDiagnostic as _, miette};

use crate::exit::Exit;

const FILES: &[(&str, &str)] = &[
    ("experiment.yaml", include_str!("init/experiment.yaml")),
    ("data/eval.jsonl", include_str!("init/eval.jsonl")),
    ("data/train.jsonl", include_str!("init/train.jsonl")),
    ("data/corpus.jsonl", include_str!("init/corpus.jsonl")),
    ("prompts/answer.j2", include_str!("init/answer.j2")),
];

/// The experiment with the folder's name, so that the reports of two of them lie apart.
fn named(text: &str, folder: &Path) -> String {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let name: String = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .collect();
    if name.chars().any(|c| c.is_ascii_alphanumeric()) {
        text.replacen("\nversion: 1\n", &format!("\nversion: 1\nname: \"{name}\"\n"), 1)
    } else {
        text.to_owned()
    }
}

/// Writes the starting files; never over existing ones.
pub(crate) fn write(folder: &Path) -> miette::Result<Exit> {
    if let Some((name, _)) = FILES.iter().find(|(name, _)| folder.join(name).exists()) {
        return Err(miette!(
            help = "give the name of a new folder: bench init FOLDER",
            "`{}` is already there",
            folder.join(name).display()
        ));
    }
    for (name, text) in FILES {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs_err::create_dir_all(parent)
            .and_then(|()| fs_err::write(&path, named(text, folder)))
            .into_diagnostic()
            .wrap_err("writing the starting files")?;
        anstream::println!("wrote {}", path.display());
    }
    anstream::println!("next: bench run {}", folder.join("experiment.yaml").display());
    Ok(Exit::Done)
}
