//! What a broken, strange or hand-edited run gives: a page or a clear error, never a panic.

use std::io::Cursor;

use bench_core::record::{Outcome, Record};
use bench_report::{ReportError, build, read_figures, read_trials, rebuild, trials_parquet};
use polars::prelude::{ParquetReader, ParquetWriter, SerReader as _};

use super::synthetic::{four_arms, rich, run, two_arms};

#[test]
fn a_missing_column_is_named() {
    let (_, records) = run(&two_arms(), 3);
    let bytes = trials_parquet(&records).unwrap();
    for column in ["answer", "verdicts", "train_seed"] {
        let mut frame = ParquetReader::new(Cursor::new(&bytes)).finish().unwrap();
        frame.drop_in_place(column).unwrap();
        let mut less = Vec::new();
        let label = vec![("bench.trials".to_owned(), "1".to_owned())];
        ParquetWriter::new(&mut less)
            .with_key_value_metadata(Some(
                polars::io::parquet::write::KeyValueMetadata::from_static(label),
            ))
            .finish(&mut frame)
            .unwrap();
        let error = read_trials(&less).unwrap_err();
        assert!(matches!(error, ReportError::MissingColumn { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("no column `{column}`")), "{error}");
    }
}

#[test]
fn a_file_that_ends_early_is_refused() {
    let (_, records) = run(&two_arms(), 3);
    let bytes = trials_parquet(&records).unwrap();
    for length in [0, 3, bytes.len() / 2, bytes.len() - 1] {
        assert!(read_trials(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn answers_that_are_huge_or_strange_give_a_page() {
    let (manifest, mut records) = rich(&four_arms(), 8);
    let strange = [
        "א".repeat(500_000),
        "\u{202e}סוף \u{2067}rtl\u{2069} ".repeat(2000),
        "👩‍👩‍👧‍👦🏳️‍🌈".repeat(3000),
        "nul \0 bell \u{7} escape \u{1b}[2J\u{1b}]0;title\u{7} ".repeat(1000),
        "\r\n\t\u{85}\u{2028}\u{feff}".into(),
        "e\u{301}\u{301}\u{301}".repeat(1000),
        String::new(),
    ];
    for (record, text) in records.iter_mut().zip(strange.iter().cycle()) {
        if let Outcome::Answered(answer) = &mut record.outcome {
            answer.text.clone_from(text);
        }
    }
    let report = build(&manifest, &records).unwrap();
    for (path, bytes) in &report.files {
        let ending = path.rsplit('.').next().unwrap();
        if ["parquet", "png"].contains(&ending) {
            continue;
        }
        let content = std::str::from_utf8(bytes).unwrap();
        let acts = |c: char| {
            (c.is_control() && c != '\n' && c != '\t') || ('\u{202a}'..='\u{202e}').contains(&c)
        };
        assert_eq!(content.chars().find(|c| acts(*c)), None, "{path}");
        assert!(ending != "html" || bytes.len() < 4_000_000, "{path}: {}", bytes.len());
    }
    // Every answer is whole in the records.
    let trials = report.files.iter().find(|(path, _)| path == "tables/trials.parquet").unwrap();
    let kept: Vec<Record> = read_trials(&trials.1).unwrap();
    assert!(kept.iter().any(|r| r.answer().is_some_and(|a| a.text.len() == 1_000_000)));
}

#[test]
fn one_arm_or_one_sample_draws_no_misleading_picture() {
    let (manifest, records) = rich(&four_arms(), 6);
    let alone: Vec<Record> = records.iter().filter(|r| r.trial.arm == "lora").cloned().collect();
    let report = build(&manifest, &alone).unwrap();
    let has = |kind: &str| report.files.iter().any(|(path, _)| path.contains(kind));
    assert!(!has("differences") && !has("break_even.svg") && !has("retention.svg"));
    let one: Vec<Record> =
        records.iter().filter(|r| r.trial.sample.ends_with("-000")).cloned().collect();
    build(&manifest, &one).unwrap();
    build(&manifest, &[]).unwrap();
}

#[test]
fn the_report_of_figures_is_that_of_the_whole_records() {
    let (manifest, records) = rich(&four_arms(), 8);
    let whole = build(&manifest, &records).unwrap();
    let trials = whole.files.iter().find(|(path, _)| path == "tables/trials.parquet").unwrap();
    let again = rebuild(&manifest, &read_figures(trials.1.clone()).unwrap()).unwrap();
    let others: Vec<_> = whole.files.iter().filter(|file| file.0 != trials.0).collect();
    assert_eq!(others.len(), again.files.len());
    for (one, other) in others.iter().zip(&again.files) {
        assert!(*one == other, "{} differs", one.0);
    }
}
