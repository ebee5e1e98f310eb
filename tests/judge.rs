//! Judges from YAML to report: a jury, people's labels, measuring, stopping early.

use crate::Scratch;

const CALIBRATION: &str = "version: 1
description: Can they tell rivers?
models:
  fair: { scripted: { otherwise: '{\"reason\": \"no\", \"grade\": 0}', rules: [{ when: \"\\nAshlode\\n[[end\", say: '{\"reason\": \"yes\", \"grade\": 1}' }] } }
  kind: { scripted: { otherwise: '{\"reason\": \"yes\", \"grade\": 1}' } }
judge: { judges: [fair, kind], rubric: 'Grade 1: right. Grade 0: wrong.', grades: [0, 1] }
labelled: { path: labelled.jsonl, people: votes, labels: { right: 1, wrong: 0 } }
";

fn labelled(scratch: &Scratch) {
    let row = |i: usize| {
        let (answer, label) =
            if i.is_multiple_of(2) { ("Ashlode", "right") } else { ("Brindal", "wrong") };
        format!(
            "{{\"id\":\"s{i}\",\"input\":\"Which river {i}?\",\"reference\":\"{label}\",\"meta\":{{\"response\":\"{answer}\",\"votes\":[\"{label}\",\"right\"]}}}}\n"
        )
    };
    scratch.write("labelled.jsonl", &(0..20).map(row).collect::<String>());
    scratch.write("j.yaml", CALIBRATION);
}

#[test]
fn judges_are_measured_and_the_card_says_what_they_are_worth() {
    let scratch = Scratch::new();
    labelled(&scratch);
    let ran = scratch.bench(&["judge", "calibrate", "j.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    for words in [
        "Can they tell rivers?",
        "A scripted backend judged: these figures are not a measurement.",
        "**fair** agrees with people on 100 %",
        "**kind** agrees with people on 50 %",
        "it tells nothing apart",
        "| figure | fair | kind | jury |",
    ] {
        assert!(ran.out.contains(words), "`{words}` is not in {}", ran.out);
    }
    let files = scratch.files("reports/judges/j");
    assert_eq!(files.len(), 3);
    let again = scratch.bench(&["judge", "calibrate", "j.yaml"]);
    assert_eq!((again.code, &again.out), (Some(0), &ran.out));
    let from_records = scratch.bench(&["judge", "calibrate", "reports/judges/j"]);
    assert_eq!((from_records.code, &from_records.out), (Some(0), &ran.out));
    assert_eq!(scratch.files("reports/judges/j"), files);
}

#[test]
fn a_calibration_file_is_checked_as_what_it_is() {
    let scratch = Scratch::new();
    labelled(&scratch);
    let ran = scratch.bench(&["check", "j.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.out.contains("2 judges, 20 labelled samples; nothing is wrong"), "{}", ran.out);
    scratch
        .write("j.yaml", &CALIBRATION.replacen("judges: [fair, kind]", "judges: [fair, kin]", 1));
    let ran = scratch.bench(&["check", "j.yaml"]);
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    assert!(ran.err.contains("there is no model `kin`") && !ran.err.contains("eval_sets"));
}

#[test]
fn a_calibration_that_cannot_work_is_explained_before_anything_is_judged() {
    for (from, to, words) in [
        ("judges: [fair, kind]", "judges: [fair, kin]", "there is no model `kin`"),
        ("people: votes", "people: vote", "there is no `meta.vote`"),
        ("wrong: 0 }", "wrong: 7 }", "label `wrong` is grade 7"),
        ("path: labelled.jsonl", "path: nope.jsonl", "there is no file `nope.jsonl`"),
        ("'Grade 1: right. Grade 0: wrong.'", "be fair", "does not say what grade"),
    ] {
        let scratch = Scratch::new();
        labelled(&scratch);
        assert!(CALIBRATION.contains(from), "{from}");
        scratch.write("j.yaml", &CALIBRATION.replacen(from, to, 1));
        let ran = scratch.bench(&["judge", "calibrate", "j.yaml"]);
        assert_eq!(ran.code, Some(2), "{ran:#?}");
        assert!(ran.err.contains(words), "`{words}` is not in {}", ran.err);
        assert!(!scratch.path().join("runs").exists(), "something was spent");
    }
}

#[test]
fn answers_are_drawn_labelled_and_counted() {
    let scratch = Scratch::new();
    scratch.edit("sample: 4, on: [facts]", "on: [facts]");
    assert_eq!(scratch.bench(&["run", "x.yaml"]).code, Some(0));
    let drawn = scratch.bench(&["judge", "label", "reports/x", "--samples", "6"]);
    assert_eq!(drawn.code, Some(0), "{drawn:#?}");
    // Six samples of each of two sets; five arms.
    assert_eq!(drawn.out.lines().count(), 60, "{}", drawn.out);
    let again = scratch.bench(&["judge", "label", "reports/x", "--samples", "6"]);
    assert_eq!(drawn.out, again.out);
    let graded: String = drawn
        .out
        .lines()
        .filter(|line| line.contains("\"set\":\"facts\""))
        .map(|line| line.replace("\"grade\":null", "\"grade\":0") + "\n")
        .collect();
    scratch.write("labels.jsonl", &graded);
    scratch.edit("on: [facts]", "on: [facts], labels: labels.jsonl");
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert!(ran.out.contains("(0 answered now)"), "{ran:#?}");
    let page = String::from_utf8(scratch.read("reports/x/report.md")).unwrap();
    for words in ["Judge report card", "6 labels are too few: 100 are the least", "| human | rag |"]
    {
        assert!(page.contains(words), "`{words}` is not in the page");
    }
}

#[test]
fn a_clear_lead_ends_the_run_and_it_stays_ended() {
    let scratch = Scratch::new();
    let row = |i: usize| {
        format!(
            "{{\"id\":\"f{i}\",\"input\":\"Say where the river runs {i}\",\"reference\":\"Ashlode\"}}\n"
        )
    };
    scratch.write("many.jsonl", &(0..300).map(row).collect::<String>());
    scratch.write(
        "y.yaml",
        "version: 1
models:
  knows: { scripted: { otherwise: Ashlode } }
  other: { scripted: { otherwise: Brindal } }
eval_sets: [{ name: many, path: many.jsonl, scorers: [exact_match] }]
arms:
  - { name: knows, model: knows, strategy: prompt }
  - { name: other, model: other, strategy: prompt }
compare: { baseline: other }
run: { stop: { decided: true } }
",
    );
    let ran = scratch.bench(&["run", "y.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let page = String::from_utf8(scratch.read("reports/y/report.md")).unwrap();
    assert!(page.contains("of 300 samples: knows is surely better than every other arm"), "{page}");
    assert!(page.contains("use knows"), "{page}");
    let manifest = scratch.read("reports/y/manifest.json");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let asked = manifest["stopped"][0]["asked"].as_u64().unwrap();
    assert!(asked < 60, "{asked}");
    let before = scratch.files("reports/y");
    let again = scratch.bench(&["run", "y.yaml"]);
    assert!(again.out.contains("(0 answered now)"), "{again:#?}");
    assert_eq!(scratch.files("reports/y"), before);
}
