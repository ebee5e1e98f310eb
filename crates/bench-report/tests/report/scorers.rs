//! What scorers say beside their one figure: labels, declining, parts.

use std::collections::BTreeMap;

use bench_core::manifest::Manifest;
use bench_core::record::{Outcome, Record, Verdict};
use bench_report::{Report, build, read_trials, trials_parquet};
use polars::prelude::{ParquetReader, SerReader as _};
use serde_json::json;

use super::synthetic::{run, twelve_arms, two_arms};
use super::{keep, text};

/// A run whose set `form` is scored by `scorers`, the other set left out.
fn scored(
    arms: &[super::synthetic::Arm],
    n: usize,
    scorers: serde_json::Value,
) -> (Manifest, Vec<Record>) {
    let (mut manifest, mut records) = run(arms, n);
    manifest.experiment.eval_sets.remove(0);
    manifest.experiment.eval_sets[0].scorers = serde_json::from_value(scorers).unwrap();
    manifest.experiment.gates.clear();
    records.retain(|record| record.trial.set == "form");
    for record in &mut records {
        record.verdicts.clear();
    }
    (manifest, records)
}

fn say(record: &mut Record, words: &str) {
    if let Outcome::Answered(answer) = &mut record.outcome {
        words.clone_into(&mut answer.text);
    }
}

/// The position of a record's sample.
fn place(record: &Record) -> usize {
    record.trial.sample.rsplit('-').next().unwrap().parse().unwrap()
}

/// Sample `i` has label `i % labels`; arm `zero_shot` says what `said` gives.
fn labelled(n: usize, labels: usize, said: impl Fn(usize) -> String) -> (Manifest, Vec<Record>) {
    let (manifest, mut records) = scored(&two_arms(), n, json!([{"classification": {}}]));
    for record in &mut records {
        let at = place(record);
        let gold = format!("label {}", at % labels);
        record.references = vec![gold.clone(), format!("alias {}", at % labels)];
        let words = if record.trial.arm == "rag" { gold.clone() } else { said(at) };
        say(record, &words);
        let right = record.references.contains(&words.trim_end_matches('.').to_lowercase());
        let verdict = Verdict::scored(f64::from(u8::from(right)));
        record.verdicts.insert("classification".into(), verdict);
    }
    (manifest, records)
}

#[track_caller]
fn rows(report: &Report, table: &str) -> Vec<Vec<String>> {
    let csv = text(report, &format!("tables/{table}.csv"));
    csv.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

#[test]
fn labels_give_accuracy_macro_f1_and_a_confusion_matrix() {
    // Of label 0 two thirds are right; label 1 is always taken for 0, once by its alias; label 2 is
    // never said: its answers are no label.
    let (manifest, records) = labelled(12, 3, |at| match at {
        1 => "Alias 0.".into(),
        0 | 3 => "Label 0.".into(),
        _ if at % 3 == 2 => "I would say label 2".into(),
        6 => "label 1".into(),
        _ => "label 0".into(),
    });
    let report = build(&manifest, &records).unwrap();
    keep(&report, "labels");
    let found = rows(&report, "classification");
    // The baseline: 3 of 12. F1 of label 0 is 2 * 3 / (4 + 7), of the others 0.
    let expect = |at: usize, value: f64| {
        let ours: f64 = found[0][at].parse().unwrap();
        assert!((ours - value).abs() < 1e-6, "{:?}", found[0]);
    };
    assert_eq!(&found[0][1..4], ["zero_shot", "12", "3"]);
    expect(4, 0.25);
    expect(7, 6.0 / 11.0 / 3.0);
    assert_eq!(&found[0][10..], ["4", "0"]);
    let low: f64 = found[0][8].parse().unwrap();
    assert!(low < 6.0 / 33.0 && found[0][9].parse::<f64>().unwrap() > 6.0 / 33.0);
    assert_eq!(&found[1][7..10], ["1.000000", "1.000000", "1.000000"]);
    let cells = rows(&report, "confusion");
    let of = |gold: &str, said: &str| {
        let row = cells.iter().find(|r| r[1] == "zero_shot" && r[2] == gold && r[3] == said);
        row.map_or("0".into(), |row| row[4].clone())
    };
    assert_eq!(
        [of("label 0", "label 0"), of("label 1", "label 0"), of("label 2", "")],
        ["3", "4", "4"]
    );
    let labels = rows(&report, "labels");
    assert_eq!(&labels[1][2..], ["label 1", "4", "1.000000", "0.000000", "0.000000", "0.000000"]);
    assert_eq!(&labels[2][4..], ["0.000000", "", "0.000000", "0.000000"]);
    let page = text(&report, "report.md");
    for words in [
        "### Classification",
        "The set has 3 labels",
        "Confusion matrix of zero_shot",
        "| label 1 | 4 | 0 | 0 | 0 | 0.000 | 0.000 | 0.000 |",
        "charts/form_confusion.svg",
    ] {
        assert!(page.contains(words), "`{words}` is not in {page}");
    }
    assert!(!page.contains("Most confused labels"), "three labels need no list");
    let html = text(&report, "report.html");
    assert!(html.contains("Confusion matrices, rows the gold labels"));
    // The same table for Polars.
    let parquet = report.files.iter().find(|(path, _)| path == "tables/classification.parquet");
    let frame = ParquetReader::new(std::io::Cursor::new(&parquet.unwrap().1)).finish().unwrap();
    assert_eq!(frame.shape(), (2, 12));
    insta::assert_snapshot!("confusion", text(&report, "charts/form_confusion.svg"));
}

#[test]
fn of_many_labels_the_most_confused_are_shown_and_all_are_in_the_file() {
    // Label 7 is taken for 8 and label 60 for no label; all others are right.
    let (manifest, records) = labelled(154, 77, |at| match at % 77 {
        7 => "label 8".into(),
        60 => "dunno".into(),
        other => format!("label {other}"),
    });
    let report = build(&manifest, &records).unwrap();
    keep(&report, "many_labels");
    let page = text(&report, "report.md");
    for words in [
        "The set has 77 labels",
        "Shown are the 10 of 77 labels",
        "Most confused labels",
        "| zero_shot | label 60 | no known label | 2 | 1.000 |",
        "| zero_shot | label 7 | label 8 | 2 | 1.000 |",
    ] {
        assert!(page.contains(words), "`{words}` is not in {page}");
    }
    assert_eq!(rows(&report, "confusion").len(), 2 * 77);
    assert_eq!(rows(&report, "labels").len(), 2 * 77);
    let chart = text(&report, "charts/form_confusion.svg");
    assert!(chart.contains("of the 10 labels with the most errors"), "{chart}");
}

#[test]
fn an_unscored_label_is_no_wrong_one_and_no_label_no_table() {
    let (manifest, mut records) = labelled(8, 2, |_| "label 0".into());
    for record in records.iter_mut().filter(|r| r.trial.arm == "zero_shot" && place(r) > 3) {
        record.verdicts.insert("classification".into(), Verdict::unscored("no reference"));
    }
    let report = build(&manifest, &records).unwrap();
    let found = rows(&report, "classification");
    assert_eq!((&*found[0][2], &*found[0][4], &*found[0][11]), ("4", "0.500000", "4"));
    for record in &mut records {
        record.verdicts.insert("classification".into(), Verdict::unscored("no reference"));
    }
    let report = build(&manifest, &records).unwrap();
    assert!(report.files.iter().all(|(path, _)| !path.contains("classification")));
    // Twelve arms have one picture, of the six with the highest accuracy.
    let (manifest, mut records) = scored(&twelve_arms(), 12, json!([{"classification": {}}]));
    for record in &mut records {
        record.references = vec![format!("label {}", place(record) % 3)];
        say(record, "label 0");
        let right = f64::from(u8::from(place(record).is_multiple_of(3)));
        record.verdicts.insert("classification".into(), Verdict::scored(right));
    }
    let report = build(&manifest, &records).unwrap();
    let chart = text(&report, "charts/form_confusion.svg");
    assert_eq!(chart.matches("4 of 12 answers on the diagonal").count(), 6);
}

#[test]
fn declining_gives_coverage_risk_and_the_share_of_traps_declined() {
    let scorers = json!([{"abstained": {}}, {"citation": {"figure": "f1"}}, {"contains": {}}]);
    let (manifest, mut records) = scored(&two_arms(), 20, scorers);
    for record in &mut records {
        let at = place(record);
        record.unanswerable = at >= 15;
        // Of 15 answerable samples 10 are answered, of which 4 wrongly and one unscored; of 5 traps 3
        // are declined.
        let as_it_should = if at >= 15 { at < 18 } else { at < 10 };
        record
            .verdicts
            .insert("abstained".into(), Verdict::scored(f64::from(u8::from(as_it_should))));
        let verdict = match at {
            9 => Verdict::unscored("no word"),
            _ => Verdict::scored(f64::from(u8::from(at < 5))),
        };
        record.verdicts.insert("contains".into(), verdict);
        record.verdicts.insert("citation".into(), Verdict::scored(1.0));
    }
    let report = build(&manifest, &records).unwrap();
    let found = rows(&report, "abstained");
    let row = |at: usize| found[at][2..6].join(" ");
    assert_eq!(row(0), "coverage abstained 15 0.666667");
    assert_eq!(row(1), "risk contains 9 0.444444");
    assert_eq!(row(2), "declined abstained 5 0.600000");
    assert!(found.iter().all(|row| row[8] == "wilson"), "{found:?}");
    let page = text(&report, "report.md");
    assert!(page.contains("Declining to answer"), "{page}");
    assert!(page.contains("by contains, under 0.5"), "{page}");
    // Without a sample of a kind there is no figure, and it is not zero.
    for record in &mut records {
        record.unanswerable = false;
        record.verdicts.remove("contains");
        record.verdicts.remove("citation");
    }
    let mut alone = manifest;
    alone.experiment.eval_sets[0].scorers =
        serde_json::from_value(json!([{"abstained": {}}])).unwrap();
    let report = build(&alone, &records).unwrap();
    let found = rows(&report, "abstained");
    assert_eq!(found[1][2..6].join(","), "risk,,0,");
    assert_eq!(found[2][2..6].join(","), "declined,abstained,0,");
    assert!(text(&report, "report.md").contains("so there is no risk"));
}

#[test]
fn parts_of_scores_have_a_table_and_records_without_them_none() {
    let scorers = json!([{"functional": {}}, {"json_schema": {}}]);
    let (manifest, mut records) = scored(&two_arms(), 10, scorers);
    for record in &mut records {
        record.verdicts.insert("functional".into(), Verdict::scored(0.5));
        record.verdicts.insert("json_schema".into(), Verdict::unscored("no JSON"));
    }
    let old = build(&manifest, &records).unwrap();
    assert!(old.files.iter().all(|(path, _)| !path.contains("parts")));
    assert!(!text(&old, "report.md").contains("Parts of scores"));
    for record in &mut records {
        let at = place(record);
        let parts = |all: &[(&str, f64)]| -> BTreeMap<String, f64> {
            all.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        let whole = f64::from(u8::from(at < 4));
        record.verdicts.insert(
            "functional".into(),
            Verdict::scored(0.5).with_parts(parts(&[
                ("attribute_names", 0.75),
                ("function_name", 1.0),
                ("whole_match", whole),
            ])),
        );
        let mut fields = vec![("valid", 1.0), ("field_f1", whole)];
        if at < 2 {
            fields.push(("field_f1/born", whole));
        }
        record
            .verdicts
            .insert("json_schema".into(), Verdict::scored(whole).with_parts(parts(&fields)));
    }
    // They survive the file.
    assert_eq!(read_trials(&trials_parquet(&records).unwrap()).unwrap(), records);
    let report = build(&manifest, &records).unwrap();
    keep(&report, "parts");
    let found = rows(&report, "parts");
    let told: Vec<String> = found
        .iter()
        .filter(|row| row[3] == "zero_shot")
        .map(|row| format!("{} {} {} {}", row[1], row[2], row[4], row[5]))
        .collect();
    assert_eq!(
        told,
        [
            "functional function_name 10 1.000000",
            "functional attribute_names 10 0.750000",
            "functional whole_match 10 0.400000",
            "json_schema valid 10 1.000000",
            "json_schema field_f1 10 0.400000",
            "json_schema field_f1/born 2 1.000000",
        ]
    );
    let page = text(&report, "report.md");
    for words in [
        "### Parts of scores",
        "| functional | whole match | zero_shot | 10 | 0.400 |",
        "field born",
    ] {
        assert!(page.contains(words), "`{words}` is not in {page}");
    }
    // A part that is no number would not come back from the file.
    let broken = Verdict::scored(1.0).with_parts(BTreeMap::from([("valid".into(), f64::NAN)]));
    records[0].verdicts.insert("json_schema".into(), broken);
    assert!(trials_parquet(&records).is_err());
}

#[test]
fn the_columns_of_these_tables_are_those_documented() {
    let documented = include_str!("../../../../docs/tables.md");
    let (manifest, mut records) = labelled(8, 2, |_| "label 0".into());
    for record in &mut records {
        let parts = BTreeMap::from([("valid".to_owned(), 1.0)]);
        record.verdicts.insert("abstained".into(), Verdict::scored(1.0).with_parts(parts));
    }
    let report = build(&manifest, &records).unwrap();
    for name in ["classification", "labels", "confusion", "abstained", "parts"] {
        let section = documented.split(&format!("## {name}.csv\n")).nth(1);
        let section = section.unwrap_or_else(|| panic!("{name} is not documented"));
        let section = section.split("\n## ").next().unwrap();
        let columns: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let table = text(&report, &format!("tables/{name}.csv"));
        assert_eq!(table.lines().next().unwrap(), columns.join(","), "{name}");
    }
}
