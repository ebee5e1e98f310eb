//! What is written and what is served, in a real Chromium, by `tests/browser/run.mjs`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Scratch;
use crate::view::View;

const INJECTIONS: &str = include_str!("injections.json");

/// The folder of the scripts, when everything that they need is there.
fn scripts(test: &str) -> Option<PathBuf> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/browser");
    let chromium = std::env::var("CHROMIUM").unwrap_or("/usr/bin/chromium".into());
    let has_node =
        Command::new("node").arg("--version").output().is_ok_and(|it| it.status.success());
    let missing = if !Path::new(&chromium).exists() {
        format!("no {chromium}")
    } else if !has_node {
        "no node".into()
    } else if !scripts.join("node_modules/playwright-core").exists() {
        "no node_modules: run `npm ci` in tests/browser".into()
    } else {
        return Some(scripts);
    };
    // Where it must run, a test that is skipped has failed.
    assert!(std::env::var_os("BENCH_BROWSER").is_none(), "{missing}");
    // Past the harness, which shows nothing of a test that passes.
    let _ = writeln!(std::io::stderr(), "skipped {test}: {missing}");
    None
}

/// A text in quotes that JSON and YAML read alike.
fn quoted(text: &str) -> String {
    let escaped = text.encode_utf16().map(|unit| match char::from_u32(u32::from(unit)) {
        Some(c @ (' ' | '!' | '#'..='[' | ']'..='~')) => c.to_string(),
        Some(_) | None => format!("\\u{unit:04x}"),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// Runs the experiment of [`Scratch`], and one whose model, questions and passages attack.
fn reports() -> Scratch {
    let scratch = Scratch::new();
    let injections: Vec<String> = serde_json::from_str(INJECTIONS).unwrap();
    let rows = injections.iter().map(|text| quoted(text)).enumerate().map(|(at, text)| {
        format!(
            "{{\"id\":\"i{at}\",\"input\":{text},\"reference\":{text},\"context_ids\":[\"d{at}\"],\"meta\":{{\"kind\":{text}}}}}\n"
        )
    });
    scratch.write("injections.jsonl", &rows.collect::<String>());
    let passages = injections
        .iter()
        .map(|text| quoted(text))
        .enumerate()
        .map(|(at, text)| format!("{{\"id\":\"d{at}\",\"title\":{text},\"text\":{text}}}\n"));
    scratch.write("passages.jsonl", &passages.collect::<String>());
    // The first rule that fits answers, and some of these texts hold others.
    let mut longest_first = injections.clone();
    longest_first.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let rule = |text: &String| format!("        - {{ when: {0}, say: {0} }}\n", quoted(text));
    let rules: String = longest_first.iter().map(rule).collect();
    scratch.write(
        "injections.yaml",
        &format!(
            "version: 1
description: {attack}
models:
  m:
    scripted:
      rules:
{rules}      otherwise: {attack}
embedder: hashing
eval_sets: [{{ name: facts, path: injections.jsonl, corpus: passages.jsonl, scorers: [exact_match], slices: [kind] }}]
arms: [{{ name: plain, model: m, strategy: prompt }}, {{ name: rag, model: m, strategy: {{ rag: {{ top_k: 1 }} }} }}]
compare: {{ baseline: plain }}
",
            attack = quoted(&injections.concat())
        ),
    );
    for experiment in ["x.yaml", "injections.yaml"] {
        let ran = scratch.bench(&["run", experiment]);
        assert_eq!(ran.code, Some(0), "{ran:#?}");
    }
    scratch
}

#[test]
fn a_person_can_read_filter_compare_and_grade_in_a_browser() {
    let Some(scripts) = scripts("a_person_can_read_filter_compare_and_grade_in_a_browser") else {
        return;
    };
    let scratch = reports();
    let view = View::start(&scratch, "127.0.0.1:0");
    let screens = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    let output = Command::new("node")
        .arg(scripts.join("run.mjs"))
        .arg(scratch.path().join("reports/x/report.html"))
        .arg(format!("http://{}", view.site))
        .arg(scripts.join("../injections.json"))
        .arg(&screens)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\npictures: {}", screens.display());
    let labels = String::from_utf8(scratch.read("reports/x/labels.jsonl")).unwrap();
    let labels = bench_core::label::read(&labels).unwrap();
    assert_eq!(labels.len(), 6, "{labels:#?}");
    assert_eq!(bench_core::label::standing(&labels).len(), 3);
    assert!(labels.iter().all(|label| label.grader == "Ann" && !label.answer.is_empty()));
}
