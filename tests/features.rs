//! Arms that classify sentence embeddings, from YAML to report.

use serde_json::Value;

use crate::Scratch;

/// Two labels that words tell apart, and a set of free texts.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    let row = |i: usize| {
        let (words, label) = if i.is_multiple_of(2) {
            ("lovely warm bread", "praise")
        } else {
            ("cold stale soup", "blame")
        };
        (format!("visit {i}: {words}"), label)
    };
    let samples = |name: &str, range: std::ops::Range<usize>| {
        let lines: String = range
            .map(row)
            .enumerate()
            .map(|(i, (input, label))| {
                format!("{{\"id\":\"{name}{i}\",\"input\":\"{input}\",\"reference\":\"{label}\"}}")
                    + "\n"
            })
            .collect();
        scratch.write(&format!("{name}.jsonl"), &lines);
    };
    samples("train_labels", 0..20);
    samples("dev_labels", 20..28);
    samples("eval_labels", 30..42);
    scratch.write(
        "x.yaml",
        "version: 1
models: { m: { scripted: { otherwise: praise } } }
embedder: hashing
prices: { date: 2026-11-21, models: { m: { input: 1, output: 1 }, embedder: { machine_hour: 0.36 } } }
eval_sets:
  - { name: labels, path: eval_labels.jsonl, train: train_labels.jsonl, dev: dev_labels.jsonl, scorers: [classification], system: Be brief., template: 'Label this: {{ input }}', constraint: { choices: [praise, blame] } }
arms:
  - { name: zero_shot, model: m, strategy: prompt }
  - { name: features, strategy: { features: { C: [0.01, 10] } } }
compare: { baseline: zero_shot }
",
    );
    scratch
}

#[test]
fn alone_it_needs_no_model_and_any_other_arm_does() {
    let scratch = scratch();
    scratch.edit("models: { m: { scripted: { otherwise: praise } } }", "models: {}");
    scratch.edit("models: { m: { input: 1, output: 1 }, embedder", "models: { embedder");
    let missing = scratch.bench(&["check", "x.yaml"]);
    assert_eq!(missing.code, Some(2), "{missing:#?}");
    assert!(missing.err.contains("no model is declared"), "{}", missing.err);
    scratch.edit("  - { name: zero_shot, model: m, strategy: prompt }\n", "");
    scratch.edit("baseline: zero_shot", "baseline: features");
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(!ran.err.contains("scripted"), "{}", ran.err);
}

#[test]
fn embeddings_are_classified_and_the_report_decides() {
    let scratch = scratch();
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.out.contains("24 trials (24 answered now), 0 failed"), "{}", ran.out);
    let manifest: Value = serde_json::from_slice(&scratch.read("reports/x/manifest.json")).unwrap();
    let training = &manifest["training"][0];
    assert_eq!(training["outcome"]["served"], "classifier");
    assert_eq!((&training["arms"][0], &training["rows"]), (&"features".into(), &20.into()));
    assert_eq!(training["classifier"]["labels"], 2);
    assert_eq!(training["classifier"]["tried"].as_array().unwrap().len(), 2);
    assert_eq!(training["classifier"]["tried"][1]["accuracy"], 1.0);
    assert_eq!(manifest["models"]["embedder"]["id"], "hashing");
    let decision = String::from_utf8(scratch.read("reports/x/decision.json")).unwrap();
    assert!(decision.contains("features"), "{decision}");
    let summary = String::from_utf8(scratch.read("reports/x/tables/summary.csv")).unwrap();
    let header: Vec<&str> = summary.lines().next().unwrap().split(',').collect();
    let row = summary.lines().find(|line| line.contains("features")).unwrap();
    let row: Vec<&str> = row.split(',').collect();
    let cell = |name: &str| {
        let place = header.iter().position(|column| *column == name);
        row[place.unwrap_or_else(|| panic!("no `{name}` in {header:?}"))]
    };
    assert!((cell("value").parse::<f64>().unwrap() - 1.0).abs() < 1e-9, "{summary}");
    for tokens in ["tokens_in", "tokens_out"] {
        assert!(cell(tokens).parse::<f64>().unwrap().abs() < 1e-9, "{summary}");
    }

    // The second run fits and asks nothing, and the report is the same.
    let before = scratch.files("reports/x");
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert!(ran.out.contains("(0 answered now)"), "{}", ran.out);
    assert!(before == scratch.files("reports/x"), "a file changed");
    assert_eq!(scratch.bench(&["report", "reports/x"]).code, Some(0));
}

#[test]
fn it_is_fitted_alone_and_planned() {
    let scratch = scratch();
    let ran = scratch.bench(&["plan", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let ran = scratch.bench(&["train", "x.yaml", "--arm", "features"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.out.contains("features on labels: 20 rows, 2 labels"), "{}", ran.out);
}

#[track_caller]
fn refused(from: &str, to: &str, words: &[&str]) {
    let scratch = scratch();
    scratch.edit(from, to);
    let ran = scratch.bench(&["check", "x.yaml"]);
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    let flat = ran.err.replace(['│', '\n'], " ");
    let flat = flat.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(flat.contains(word), "`{word}` is not in: {flat}");
    }
}

#[test]
fn mistakes_are_explained() {
    refused(
        "train: train_labels.jsonl",
        "train: train.jsonl",
        &[
            "6 training rows have 6 different references",
            "no small closed set of labels",
            "run it on sets",
        ],
    );
    refused("dev: dev_labels.jsonl, ", "", &["chooses its penalty on dev samples", "`C: [1]`"]);
    refused("C: [0.01, 10]", "C: [0]", &["`C` cannot fit", "numbers above 0"]);
    refused(
        "name: features, ",
        "name: features, model: m, ",
        &["with the embedder, not with a model"],
    );
    refused("zero_shot, model: m", "zero_shot", &["`model` is missing"]);
    refused(
        "compare: {",
        "  - { name: both, model: m, strategy: { compose: [zero_shot, features] } }\ncompare: {",
        &["no language model to compose with"],
    );
}
