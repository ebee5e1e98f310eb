//! Every chart, at few and many arms, light and dark.

use std::path::Path;

use bench_core::manifest::Manifest;
use bench_core::record::{Outcome, PairVerdict, Preference, Record, Verdict};
use bench_core::spec::Prices;
use bench_report::build;
use serde_json::json;

use super::synthetic::{Arm, arm, curve_arms, four_arms, rich, run, twelve_arms, two_arms};

/// Snapshots the charts of some kinds, and leaves all of them, light and dark, where a person can
/// look at them.
fn check(name: &str, (manifest, records): &(Manifest, Vec<Record>), kinds: &[&str]) {
    let report = build(manifest, records).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("charts").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let mut left: Vec<&str> = kinds.to_vec();
    for (path, bytes) in &report.files {
        let Some(stem) = path.strip_prefix("charts/").and_then(|p| p.strip_suffix(".svg")) else {
            continue;
        };
        let svg = std::str::from_utf8(bytes).unwrap();
        std::fs::write(folder.join(format!("{stem}.svg")), svg).unwrap();
        std::fs::write(folder.join(format!("{stem}.png")), png(svg)).unwrap();
        std::fs::write(folder.join(format!("{stem}_dark.png")), png(&dark(svg))).unwrap();
        if let Some(at) = left.iter().position(|kind| stem == *kind) {
            left.remove(at);
            insta::assert_snapshot!(format!("{name}_{stem}"), svg);
        }
    }
    assert!(left.is_empty(), "no chart {left:?}");
}

/// What a reader on a dark page sees: the colours that the picture's own style gives.
fn dark(svg: &str) -> String {
    let (head, rest) = svg.split_once("<style>").unwrap();
    let (style, mut body) =
        rest.split_once("</style>").map(|(style, body)| (style, body.to_owned())).unwrap();
    let rules = style.split("[fill=\"").skip(1);
    for rule in rules {
        let light = &rule[..7];
        let dark = &rule[rule.find("{fill:").unwrap() + 6..rule.find('}').unwrap()];
        body = body.replace(&format!("\"{light}\""), &format!("\"{dark}\""));
    }
    format!("{head}{body}")
}

fn png(svg: &str) -> Vec<u8> {
    use resvg::tiny_skia::{Pixmap, Transform};
    let mut options = resvg::usvg::Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    let tree = resvg::usvg::Tree::from_str(svg, &options).unwrap();
    let size = tree.size();
    let mut pixels = Pixmap::new(size.width() as u32, size.height() as u32).unwrap();
    resvg::render(&tree, Transform::identity(), &mut pixels.as_mut());
    pixels.encode_png().unwrap()
}

const KINDS: [&str; 11] = [
    "facts_differences",
    "facts_quality_latency",
    "facts_quality_cost",
    "facts_outcomes",
    "facts_slices",
    "facts_recall",
    "facts_ndcg",
    "facts_latency",
    "facts_tokens",
    "facts_judge_confusion",
    "skills_retention",
];

#[test]
fn two_arms_fill_every_chart() {
    check("two", &rich(&two_arms(), 24), &KINDS);
    let tuned = [two_arms().remove(1), arm("lora", serde_json::json!({"finetune": {}}), 0.6)];
    let mut tuned = rich(&tuned, 24);
    tuned.0.experiment.compare.baseline = "rag".into();
    check("two_tuned", &tuned, &["facts_training_loss", "facts_break_even", "skills_retention"]);
}

#[test]
fn four_arms_with_seeds_can_be_told_apart() {
    check("four", &rich(&four_arms(), 40), &["facts_break_even"]);
}

#[test]
fn twelve_arms_with_long_names_stay_readable() {
    let tuned = ["facts_training_loss", "facts_break_even"];
    check("twelve", &rich(&twelve_arms(), 40), &[&KINDS[..], &tuned].concat());
}

#[test]
fn a_learning_curve_has_a_band_and_a_law() {
    let two = curve_arms(&["lora"], &[100, 400]);
    check("two_sizes", &rich(&two, 40), &["facts_learning_curve"]);
    let many =
        ["lora_rank_8_on_all_linear_layers", "lora_rank_16", "lora_rank_32_with_a_long_name"];
    let many = curve_arms(&many, &[50, 100, 400, 1600]);
    check("twelve_sizes", &rich(&many, 60), &["facts_learning_curve"]);
}

/// A run without any price.
fn unpriced(arms: &[Arm], n: usize) -> (Manifest, Vec<Record>) {
    let (mut manifest, mut records) = run(arms, n);
    manifest.experiment.prices = Prices::default();
    for record in &mut records {
        if let Outcome::Answered(answer) = &mut record.outcome {
            answer.cost_usd = None;
        }
    }
    (manifest, records)
}

#[test]
fn without_prices_quality_stands_against_tokens() {
    check("two_unpriced", &unpriced(&two_arms(), 24), &["facts_quality_tokens"]);
    check("twelve_unpriced", &unpriced(&twelve_arms(), 40), &["facts_quality_tokens"]);
}

/// A jury that people graded too; every juror errs a little more than the one before.
fn jury(jurors: &[&str], n: usize) -> (Manifest, Vec<Record>) {
    let (mut manifest, mut records) = run(&two_arms(), n);
    records.retain(|record| record.trial.set == "facts");
    let judge = json!({ "judges": jurors, "rubric": "r", "grades": [0, 1] });
    manifest.experiment.judge = serde_json::from_value(judge).unwrap();
    for (at, record) in records.iter_mut().enumerate() {
        let right = record.verdicts["contains"].value().unwrap();
        for (juror, name) in jurors.iter().enumerate() {
            let errs = (at * 7 + juror * 3) % 20 <= juror;
            let says = if errs { 1.0 - right } else { right };
            record.verdicts.insert(format!("judge/{name}"), Verdict::scored(says));
        }
        record.verdicts.insert("judge".into(), Verdict::scored(right));
        record.verdicts.insert("human".into(), Verdict::scored(right));
    }
    (manifest, records)
}

#[test]
fn judges_are_held_against_people_and_against_themselves() {
    check("two_jurors", &jury(&["one", "two"], 40), &["facts_judge_consistency"]);
    let many: Vec<&str> = (0..12)
        .map(|at| &*format!("judge_of_{at}_billion_parameters_with_a_long_name").leak())
        .collect();
    check("twelve_jurors", &jury(&many, 40), &["facts_judge_consistency"]);
    // One judge in both orders.
    let (mut manifest, mut records) = jury(&["one", "two"], 40);
    let judge = json!({ "model": "grader", "mode": "pairwise", "rubric": "r" });
    manifest.experiment.judge = serde_json::from_value(judge).unwrap();
    for record in &mut records {
        record.verdicts.retain(|name, _| !name.starts_with("judge") && name != "human");
    }
    for (at, record) in records.iter_mut().filter(|r| r.trial.arm == "zero_shot").enumerate() {
        let preference = match at % 8 {
            0 => Preference::First,
            1 => Preference::Tie { consistent: false },
            _ => Preference::Second,
        };
        record.preferences =
            vec![PairVerdict { against: "rag".into(), judge: "grader".into(), preference }];
    }
    check("two_orders", &(manifest, records), &["facts_judge_consistency"]);
}
