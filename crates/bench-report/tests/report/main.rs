//! A report as its readers get it, from records made up here.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bench_core::manifest::{Manifest, TuningEntry, TuningKind};
use bench_core::record::{Answer, CallKind, CallRecord, Outcome, Record, TokenBudget, Verdict};
use bench_report::{Report, ReportError, build, read_trials, trials_parquet};
use serde_json::{Value, json};

mod bad_input;
mod charts;
mod comparison;
mod decision;
mod judging;
mod scorers;
mod synthetic;
mod tools;

use synthetic::{four_arms, rich, run, twelve_arms, two_arms};

#[track_caller]
fn built(manifest: &Manifest, records: &[Record]) -> Report {
    build(manifest, records).unwrap()
}

#[track_caller]
fn text(report: &Report, path: &str) -> String {
    let file = report.files.iter().find(|(name, _)| name == path);
    String::from_utf8(file.unwrap_or_else(|| panic!("no {path}")).1.clone()).unwrap()
}

/// Leaves the report where a person can look at it.
fn keep(report: &Report, name: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    for (path, bytes) in &report.files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn the_page_of_two_arms_opens_with_the_verdict() {
    let (manifest, records) = run(&two_arms(), 24);
    let report = built(&manifest, &records);
    keep(&report, "two_arms");
    insta::assert_snapshot!("two_arms_report", text(&report, "report.md"));
    assert_eq!(report.decisions[0].decision.winner.as_deref(), Some("rag"));
    // The gate on the baseline is out of reach on both sets.
    assert_eq!(report.failed_gates.len(), 2, "{:?}", report.failed_gates);
}

#[test]
fn the_forest_plot_shows_what_the_table_says() {
    let (manifest, records) = run(&two_arms(), 24);
    insta::assert_snapshot!(
        "forest",
        text(&built(&manifest, &records), "charts/facts_differences.svg")
    );
}

#[test]
fn effects_seeds_and_break_even_are_told_where_the_arms_allow_it() {
    let (manifest, records) = run(&four_arms(), 20);
    let report = built(&manifest, &records);
    keep(&report, "four_arms");
    let page = text(&report, "report.md");
    for heading in [
        "What each technique adds",
        "Training seeds",
        "Break-even",
        "Fairness check",
        "lora (seed 1)",
    ] {
        assert!(page.contains(heading), "{heading} is missing");
    }
}

#[test]
fn equal_records_in_any_order_give_equal_bytes() {
    let (manifest, mut records) = run(&twelve_arms(), 12);
    let first = built(&manifest, &records);
    keep(&first, "twelve_arms");
    records.reverse();
    let second = built(&manifest, &records);
    for (one, other) in first.files.iter().zip(&second.files) {
        assert!(one == other, "{} differs", one.0);
    }
    let paths: BTreeSet<&String> = first.files.iter().map(|(path, _)| path).collect();
    assert_eq!(paths.len(), first.files.len());
}

#[test]
fn records_survive_parquet() {
    let (_, mut records) = run(&two_arms(), 3);
    records[0].outcome = Outcome::Failed { error: "cannot go on: \0 \u{1b}[31m".into() };
    records[1].trial.train_seed = u64::MAX;
    records[1].cluster = Some(String::new());
    records[2].outcome = Outcome::Answered(Answer {
        text: "שלום 👩‍👩‍👧 \0 ".repeat(50_000),
        latency_ms: 0.1 + 0.2,
        full_text: Some("Answer: 4".into()),
        ..Answer::default()
    });
    records[1].calls = vec![CallRecord {
        kind: CallKind::Sample,
        prompt: Vec::new(),
        text: "4".into(),
        tokens_in: 7,
        tokens_out: 1,
        latency_ms: 0.3,
        failed: false,
    }];
    records[2].budget = Some(TokenBudget { context: 7, ..TokenBudget::default() });
    records[2].verdicts = BTreeMap::from([
        ("judge".into(), Verdict::explained(1.0 / 3.0, Some("so".into()))),
        ("numeric".into(), Verdict::unscored("no number")),
    ]);
    let bytes = trials_parquet(&records).unwrap();
    assert_eq!(read_trials(&bytes).unwrap(), records);
    assert_eq!(read_trials(&trials_parquet(&[]).unwrap()).unwrap(), []);
}

#[test]
fn a_file_that_is_not_ours_is_refused_in_words() {
    assert!(matches!(read_trials(b"not parquet"), Err(ReportError::Table(_))));
    let (manifest, records) = run(&two_arms(), 2);
    let report = built(&manifest, &records);
    let (_, scores) =
        report.files.iter().find(|(path, _)| path == "tables/scores.parquet").unwrap();
    let error = read_trials(scores).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the file holds no trials of `bench`: give a `trials.parquet` of a report"
    );
}

#[test]
fn a_score_that_is_not_finite_is_no_score() {
    let (manifest, mut records) = run(&two_arms(), 4);
    records[0].verdicts.insert("contains".into(), Verdict::scored(f64::NAN));
    let error = trials_parquet(&records).unwrap_err().to_string();
    assert!(error.starts_with("`contains` gave a score that is not finite"), "{error}");
    assert!(build(&manifest, &records).is_err());
}

#[test]
fn records_of_another_experiment_or_twice_or_newer_are_refused_in_words() {
    let (mut manifest, records) = run(&two_arms(), 2);
    let mut twice = records.clone();
    twice.push(records[0].clone());
    let error = build(&manifest, &twice).unwrap_err().to_string();
    assert!(error.contains("is recorded twice"), "{error}");
    let mut other = records.clone();
    other[0].trial.arm = "stranger".into();
    let error = build(&manifest, &other).unwrap_err().to_string();
    assert!(error.contains("the arm `stranger`"), "{error}");
    manifest.format = 2;
    let error = build(&manifest, &records).unwrap_err().to_string();
    assert_eq!(error, "the records have format 2, and this program reads up to 1: use a newer one");
}

#[test]
fn a_poor_run_still_gives_a_page() {
    let (manifest, records) = run(&two_arms(), 6);
    // No record, one arm, a single sample.
    built(&manifest, &[]);
    let alone: Vec<Record> = records.iter().filter(|r| r.trial.arm == "rag").cloned().collect();
    let report = built(&manifest, &alone);
    assert!(text(&report, "report.md").contains("no trials of zero_shot"));
    assert_eq!(report.decisions[0].decision.winner, None);
    built(&manifest, &records[..1]);
    // No success.
    let mut failed = records.clone();
    for record in &mut failed {
        record.outcome = Outcome::Failed { error: "cannot go on".into() };
        record.verdicts.clear();
    }
    let report = built(&manifest, &failed);
    assert!(
        text(&report, "report.md").contains("all 12 trials failed"),
        "{}",
        text(&report, "report.md")
    );
    assert!(report.files.iter().all(|(path, _)| !path.contains("differences")));
    // Nothing scored.
    let mut unscored = records.clone();
    for record in &mut unscored {
        record.verdicts.values_mut().for_each(|verdict| *verdict = Verdict::unscored("no grade"));
    }
    let report = built(&manifest, &unscored);
    assert_eq!(report.decisions[0].decision.winner, None);
    assert_eq!(report.failed_gates.len(), 4);
    // Figures that are no figures.
    let mut broken = records;
    for record in &mut broken {
        if let Outcome::Answered(answer) = &mut record.outcome {
            answer.latency_ms = f64::NAN;
        }
    }
    built(&manifest, &broken);
}

#[test]
fn what_models_write_is_text_everywhere() {
    let (mut manifest, mut records) = run(&two_arms(), 6);
    let attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)> <svg onload=alert(1)> ![x](http://evil.example/) | **b** `c` @someone \u{1b}[31m\0\u{202e}<!--";
    for record in &mut records {
        if let Outcome::Answered(answer) = &mut record.outcome {
            answer.text = attack.into();
        }
        record.input = attack.into();
        record.references = vec![attack.into()];
        record.gold = vec![attack.into()];
        record.slices = BTreeMap::from([("kind".into(), attack.into())]);
        record.prompt[1].content = attack.into();
        record.verdicts.insert("judge".into(), Verdict::explained(1.0, Some(attack.into())));
    }
    manifest.experiment.description = attack.into();
    manifest.experiment.name = attack.into();
    manifest.warnings = vec![attack.into()];
    manifest.experiment.arms[1].name = attack.into();
    manifest.experiment.gates.clear();
    for record in records.iter_mut().filter(|record| record.trial.arm == "rag") {
        record.trial.arm = attack.into();
    }
    let report = built(&manifest, &records);
    keep(&report, "attack");
    let html = text(&report, "report.html");
    assert_eq!(html.matches("<script").count(), 2);
    assert_eq!(html.matches("</script").count(), 2);
    for (path, bytes) in &report.files {
        let markup: &[&str] = match path.rsplit('.').next().unwrap() {
            "png" | "parquet" => continue,
            "md" => &["<img", "<svg", "<script", "![x]", "**b**", "http://evil", " @someone"],
            "html" => &["<img", "<svg onload", "<script>alert"],
            "svg" => &["<img", "<svg onload", "<script"],
            _ => &[],
        };
        let content = String::from_utf8(bytes.clone()).unwrap();
        assert!(!content.contains(['\u{1b}', '\0', '\u{202e}']), "{path}");
        for markup in markup {
            assert!(!content.contains(markup), "{markup} in {path}");
        }
    }
    let kept: Manifest = serde_json::from_str(&text(&report, "manifest.json")).unwrap();
    assert_eq!(kept, manifest);
    assert!(!text(&report, "report.md").contains("| **"));
}

#[test]
fn every_injection_is_text_in_markdown_and_html() {
    let injections: Vec<String> =
        serde_json::from_str(include_str!("../../../../tests/injections.json")).unwrap();
    let (manifest, mut records) = run(&two_arms(), injections.len());
    for record in &mut records {
        let at: usize = record.trial.sample.rsplit('-').next().unwrap().parse().unwrap();
        let attack = &injections[at];
        record.input.clone_from(attack);
        record.references = vec![attack.clone()];
        record.slices = BTreeMap::from([("kind".into(), attack.clone())]);
        record.gold = vec![attack.clone()];
        if let Outcome::Answered(answer) = &mut record.outcome {
            answer.text.clone_from(attack);
        }
    }
    let report = built(&manifest, &records);
    let html = text(&report, "report.html");
    let data = embedded(&html);
    let kept = &data["sets"][0]["trials"];
    for (sample, answer) in
        kept["sample"].as_array().unwrap().iter().zip(kept["answer"].as_array().unwrap())
    {
        let attack = &injections[sample.as_u64().unwrap() as usize];
        assert_eq!(answer.as_str().unwrap(), bench_core::text::printable(attack));
    }
    for attack in injections.iter().filter(|attack| attack.contains('<')) {
        assert!(!html.contains(attack), "{attack}");
    }
    // Markdown: nothing but our own elements, links and code.
    let mut page = text(&report, "report.md");
    for own in ["details", "summary", "code"] {
        page = page.replace(&format!("<{own}>"), "").replace(&format!("</{own}>"), "");
    }
    assert!(!page.contains('<'), "{page}");
    for link in page.split("](").skip(1) {
        let is_own = ["charts/", "tables", "report.html", "manifest.json"];
        assert!(is_own.iter().any(|own| link.starts_with(own)), "{link:.80}");
    }
    for act in ["```", "://", "javascript:", "\n> [!WARNING]", "**bold**", " @someone", " :tada:"] {
        assert!(!page.contains(act), "{act}");
    }
    assert!(page.chars().chain(html.chars()).all(|c| !bench_core::text::acts(c)));
}

/// What the page's script reads.
#[track_caller]
fn embedded(html: &str) -> Value {
    let (_, rest) = html.split_once("<script type=\"").unwrap();
    let (media_type, rest) = rest.split_once("\" id=\"data\">").unwrap();
    let text = rest.split_once("</script>").unwrap().0;
    if media_type == "application/json" {
        return serde_json::from_str(text).unwrap();
    }
    assert_eq!(media_type, "application/x-deflate");
    let packed = STANDARD.decode(text).unwrap();
    serde_json::from_slice(&miniz_oxide::inflate::decompress_to_vec(&packed).unwrap()).unwrap()
}

/// Long answers and prompts that no dictionary makes small.
fn wordy(records: &mut [Record]) {
    let mut state = 1_u64;
    let mut words = |n: usize| -> String {
        let word = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!("{:x} ", (state >> 40) % 5000)
        };
        (0..n).map(word).collect()
    };
    for record in records {
        if let Outcome::Answered(answer) = &mut record.outcome {
            answer.text = format!("{} {}", answer.text, words(120));
        }
        record.prompt[1].content = words(400);
    }
}

#[test]
fn the_html_of_five_thousand_trials_stays_small_and_keeps_them_all() {
    let (manifest, mut records) = run(&two_arms(), 1250);
    wordy(&mut records);
    let html = text(&built(&manifest, &records), "report.html");
    assert!(records.len() == 5000 && html.len() < 2_000_000, "{} bytes", html.len());
    let data = embedded(&html);
    for set in data["sets"].as_array().unwrap() {
        assert_eq!(set["left_out"], 0);
        assert_eq!(set["samples"]["id"].as_array().unwrap().len(), 1250);
        for column in ["answer", "error", "tokens_in", "passages", "prompt", "reason"] {
            assert_eq!(set["trials"][column].as_array().unwrap().len(), 2500, "{column}");
        }
    }
    let limit = data["limit"].as_u64().unwrap() as usize;
    let answer = data["sets"][0]["trials"]["answer"][0].as_str().unwrap();
    assert!(answer.chars().count() <= limit + 1 && answer.ends_with('…'), "{limit}: {answer}");
}

#[test]
fn the_page_holds_what_a_small_run_answered_uncut() {
    let (manifest, mut records) = run(&four_arms(), 4);
    records[0].verdicts.insert("token_f1".into(), Verdict::unscored("no words"));
    records[0].slices.insert("length".into(), "short".into());
    if let Outcome::Answered(answer) = &mut records[0].outcome {
        answer.text = "a long answer, ".repeat(500);
    }
    let report = built(&manifest, &records);
    let data = embedded(&text(&report, "report.html"));
    let facts = &data["sets"][0];
    assert_eq!(facts["name"], "facts");
    assert_eq!(facts["trials"]["answer"][0], "a long answer, ".repeat(500));
    assert_eq!(facts["trials"]["unscored"][1]["0"], "no words");
    assert_eq!(facts["trials"]["scores"][1][0], Value::Null);
    assert_eq!(facts["samples"]["slices"][1], json!(["length", ["short"], [0, -1, -1, -1]]));
    // The arms of both training seeds, told apart.
    assert_eq!(data["arms"][3], json!(["lora (seed 1)", "lora", "1"]));
    // A prompt is put together again from its lines.
    let record = records.iter().find(|r| r.trial.arm == "rag").unwrap();
    let turn = facts["trials"]["prompt"][1][1].as_u64().unwrap() as usize;
    let lines = data["turns"][turn][1].as_array().unwrap().iter();
    let lines: Vec<&str> =
        lines.map(|l| data["lines"][l.as_u64().unwrap() as usize].as_str().unwrap()).collect();
    assert_eq!(lines.join("\n"), record.prompt[1].content);
}

#[test]
fn of_very_many_trials_samples_are_left_out_evenly_and_the_page_says_how_many() {
    let (manifest, mut records) = run(&two_arms(), 6000);
    for record in &mut records {
        record.prompt.clear();
        record.retrieved.clear();
    }
    let records: Vec<Record> =
        records.into_iter().filter(|record| record.trial.set == "form").collect();
    let records: Vec<Record> = (0..4_u32)
        .flat_map(|repeat| {
            records.iter().cloned().map(move |mut record| {
                record.trial.repeat = repeat;
                record
            })
        })
        .collect();
    let html = bench_report::served_page(&manifest, &records, "/api/runs/x").unwrap();
    let set = &embedded(&html)["sets"][1];
    let kept = set["samples"]["id"].as_array().unwrap();
    assert_eq!(records.len(), 48_000);
    assert_eq!(set["left_out"], 6000 - kept.len());
    assert_eq!(set["trials"]["answer"].as_array().unwrap().len(), kept.len() * 8);
    assert!((2490..=2500).contains(&kept.len()), "{}", kept.len());
    // Every second or third is kept, from one end to the other.
    let mut all: Vec<String> = (0..6000).map(|at| format!("form-{at:03}")).collect();
    all.sort();
    let places: Vec<usize> = kept
        .iter()
        .map(|id| all.binary_search(&id.as_str().unwrap().to_owned()).unwrap())
        .collect();
    assert!(places.windows(2).all(|pair| (1..=3).contains(&(pair[1] - pair[0]))));
    assert!(places[0] < 3 && places[places.len() - 1] > 5996);
}

#[test]
fn the_page_of_a_server_has_no_script_and_no_style_in_it() {
    let (manifest, records) = run(&two_arms(), 3);
    let html = bench_report::served_page(&manifest, &records, "/api/runs/a%20b").unwrap();
    assert!(html.contains("<meta name=\"bench-view\" content=\"&#x2f;api&#x2f;runs&#x2f;a%20b\">"));
    assert!(!html.contains("--ink:") && !html.contains("<script>"));
    assert_eq!(html.matches("<script src=\"/assets/").count(), 2);
    let file = text(&built(&manifest, &records), "report.html");
    assert!(!file.contains("src=") && !file.contains("<link"));
}

#[test]
fn a_chosen_prompt_is_shown_with_all_that_were_tried() {
    let (manifest, records) = rich(&four_arms(), 6);
    let report = built(&manifest, &records);
    let page = text(&report, "report.md");
    for words in ["Tried on dev samples", "took 32 calls", "Name the keeper. {{ input }}", "(20)"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(page.contains("What prompts are made of"));
    let tuning = text(&report, "tables/tuning.csv");
    let rows: Vec<&str> = tuning.lines().filter(|line| line.contains(",contains,")).collect();
    assert_eq!(rows.len(), 3, "{tuning}");
    assert!(rows[2].contains(",1,induction,1,2,20,0.625000,"), "{}", rows[2]);
    let budgets = text(&report, "tables/budgets.csv");
    assert!(budgets.contains(",instructions,12.000000"), "{budgets}");
}

#[test]
fn unequal_effort_is_said_beside_the_comparison() {
    let (mut manifest, records) = rich(&four_arms(), 6);
    let of = |arm: &str, kind, budget, trained| TuningEntry {
        arm: arm.into(),
        kind,
        budget,
        tokens_trained: trained,
        ..manifest.tuning[0].clone()
    };
    let names: Vec<String> = manifest.experiment.arms.iter().map(|arm| arm.name.clone()).collect();
    let mut entry = of(&names[1], TuningKind::Finetune, Some(9000), 500);
    entry.candidates[0].settings = "learning_rate 0.0001".into();
    entry.candidates[1].settings = "learning_rate 0.001".into();
    entry.candidates[1].rungs[1].rows = Some(60);
    manifest.tuning = vec![entry.clone()];
    let report = build(&manifest, &records).unwrap();
    let page = text(&report, "report.md");
    // 900 prompt tokens, 120 answer tokens, and 500 that were trained on.
    for words in [
        "Unequal effort",
        format!("{} none", names[0]).as_str(),
        format!("{} 2,520 of 9,000", names[1]).as_str(),
        "chosen on dev of facts: learning_rate 0.001",
        "(20; 60 rows)",
    ] {
        assert!(page.contains(words), "{words}");
    }
    let effort = text(&report, "tables/effort.csv");
    assert!(
        effort.contains(&format!("{},finetune,2,32,900,120,500,2520,9000", names[1])),
        "{effort}"
    );
    // The same budget for all is no inequality, however much of it each has used.
    manifest.tuning = names
        .iter()
        .zip([10, 500, 100, 0])
        .map(|(arm, tokens_trained)| TuningEntry {
            arm: arm.clone(),
            tokens_trained,
            ..entry.clone()
        })
        .collect();
    let page = text(&build(&manifest, &records).unwrap(), "report.md");
    assert!(page.contains("with the same budget of 9,000 token passes"));
    assert!(!page.contains("Unequal effort"));
}

#[test]
fn the_columns_are_those_documented() {
    let documented = include_str!("../../../../docs/tables.md");
    let mut arms = four_arms();
    arms.extend(synthetic::curve_arms(&["tuned"], &[50, 100, 400]).split_off(1));
    let (manifest, records) = rich(&arms, 6);
    let report = built(&manifest, &records);
    let csv = report.files.iter().filter(|(path, _)| path.rsplit('.').next() == Some("csv"));
    for (path, bytes) in csv {
        let content = std::str::from_utf8(bytes).unwrap();
        let name = path.trim_start_matches("tables/");
        let section = documented.split(&format!("## {name}\n")).nth(1);
        let section = section.unwrap_or_else(|| panic!("{name} is not documented"));
        let section = section.split("\n## ").next().unwrap();
        let columns: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        assert_eq!(content.lines().next().unwrap(), columns.join(","), "{name}");
        assert!(content.lines().count() > 1, "{name} has no row to look at");
    }
}

#[test]
fn a_cost_gate_without_prices_asks_for_prices() {
    let (mut manifest, mut records) = run(&two_arms(), 12);
    manifest.experiment.prices = bench_core::spec::Prices::default();
    manifest.experiment.gates = serde_json::from_value(
        json!([{"metric": "cost_per_1000_usd", "arm": "rag", "ci_upper": "<= 1"}]),
    )
    .unwrap();
    for record in &mut records {
        if let Outcome::Answered(answer) = &mut record.outcome {
            answer.cost_usd = None;
        }
    }
    let failed = built(&manifest, &records).failed_gates;
    assert!(failed[0].contains("has no price for the model `small`"), "{failed:?}");
}

#[test]
fn tokens_that_nobody_counted_are_unknown() {
    let (manifest, mut records) = run(&two_arms(), 12);
    for record in records.iter_mut().filter(|record| record.trial.arm == "rag") {
        if let Outcome::Answered(answer) = &mut record.outcome {
            (answer.tokens_in, answer.tokens_out, answer.cost_usd) = (0, 0, None);
        }
    }
    let page = text(&built(&manifest, &records), "report.md");
    assert!(page.contains("the endpoint counted no tokens for"), "{page}");
}

#[test]
fn a_report_of_a_part_says_so_and_names_no_winner() {
    let (manifest, records) = run(&two_arms(), 40);
    let whole = built(&manifest, &records);
    assert!(text(&whole, "report.md").contains("The chance that"));
    let mut alone = records.clone();
    alone.retain(|record| record.trial.arm == "rag");
    let mut unfinished = records;
    let last = unfinished.iter().rposition(|record| record.trial.arm == "zero_shot").unwrap();
    unfinished.remove(last);
    for (records, why) in [(alone, "no trials of zero_shot"), (unfinished, "zero_shot has")] {
        let report = built(&manifest, &records);
        let page = text(&report, "report.md");
        assert!(page.contains("this report is partial"), "{page}");
        let decision = &report.decisions.last().unwrap().decision;
        assert!(decision.reason.contains(why), "{}", decision.reason);
        assert!(decision.winner.is_none() && decision.probability_best.is_empty());
    }
}

#[test]
fn failures_come_with_their_reasons() {
    let (manifest, mut records) = run(&two_arms(), 12);
    for record in &mut records[..2] {
        record.outcome = Outcome::Failed { error: "the endpoint is busy".into() };
        record.verdicts.clear();
    }
    let failures = bench_report::failures(&records);
    let start = format!("2 of {} trials failed: 2 × “the endpoint is busy”", records.len());
    assert!(failures[0].starts_with(&start), "{failures:?}");
    assert!(failures[0].contains("--retry-failed"), "{failures:?}");
    let page = text(&built(&manifest, &records), "report.md");
    assert!(page.contains("2 × “the endpoint is busy”"), "{page}");
    for record in &mut records[2..5] {
        record.verdicts.insert("judge".into(), Verdict::unscored("no grade"));
    }
    let failures = bench_report::failures(&records);
    assert!(failures[1].starts_with("3 of 3 judgements failed: 3 × “no grade”"), "{failures:?}");
}
