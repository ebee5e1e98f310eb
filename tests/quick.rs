//! A whole experiment, from YAML to report.

use std::io::Write as _;

use crate::Scratch;

const REPORT: &str = "reports/x";

#[test]
fn one_command_makes_the_whole_report() {
    let scratch = Scratch::new();
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.out.contains("90 trials (90 answered now), 0 failed"), "{}", ran.out);
    for name in [
        "report.md",
        "report.html",
        "decision.json",
        "manifest.json",
        "tables/trials.parquet",
        "tables/scores.parquet",
        "tables/summary.csv",
        "tables/pairs.csv",
    ] {
        assert!(!scratch.read(&format!("{REPORT}/{name}")).is_empty(), "{name}");
    }
    let charts = scratch.files(&format!("{REPORT}/charts"));
    assert!(charts.iter().any(|(path, _)| path.extension().is_some_and(|it| it == "svg")));
    assert!(charts.iter().any(|(path, _)| path.extension().is_some_and(|it| it == "png")));
    let text = String::from_utf8(scratch.read(&format!("{REPORT}/report.md"))).unwrap();
    for part in ["facts", "forms", "zero_shot", "lora_rag", "scripted"] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn a_second_run_answers_nothing_and_changes_no_byte() {
    let scratch = Scratch::new();
    scratch.bench(&["run", "x.yaml"]);
    let before = scratch.files(REPORT);
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert!(ran.out.contains("(0 answered now)"), "{}", ran.out);
    assert!(before == scratch.files(REPORT), "a file changed");
}

#[test]
fn the_report_is_made_again_from_its_records_alone() {
    let scratch = Scratch::new();
    scratch.bench(&["run", "x.yaml"]);
    let before = scratch.files(REPORT);
    for (path, _) in &before {
        let kept = path.ends_with("manifest.json") || path.ends_with("tables/trials.parquet");
        if !kept {
            std::fs::remove_file(path).unwrap();
        }
    }
    std::fs::remove_dir_all(scratch.path().join("runs")).unwrap();
    let ran = scratch.bench(&["report", REPORT]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(before == scratch.files(REPORT), "a file changed");
}

#[test]
fn a_failed_gate_exits_with_100() {
    let scratch = Scratch::new();
    scratch.edit(
        "compare:",
        "gates: [{ set: facts, metric: contains, arm: zero_shot, ci_lower: '>= 0.99' }]\ncompare:",
    );
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(100), "{ran:#?}");
    assert!(ran.err.contains("gate failed"), "{}", ran.err);
    assert_eq!(scratch.bench(&["report", REPORT]).code, Some(100));
}

#[test]
fn failed_trials_are_records_and_exit_with_1() {
    let scratch = Scratch::new();
    scratch.edit("say: Brindal", "say: '!rejected'");
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let text = String::from_utf8(scratch.read(&format!("{REPORT}/report.md"))).unwrap();
    assert!(text.contains("fail"), "{text}");
}

#[test]
fn the_plan_loads_nothing_and_names_what_can_be_found() {
    let scratch = Scratch::new();
    for arguments in [&["plan", "x.yaml"][..], &["run", "x.yaml", "--dry-run"]] {
        let ran = scratch.bench(arguments);
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        assert!(ran.out.contains("90 trials"), "{}", ran.out);
        assert!(ran.out.contains("smallest difference"), "{}", ran.out);
        // The judge grades 4 samples of five arms; a sampled grade is one judgement.
        assert!(ran.out.contains("| facts | j | 20 |"), "{}", ran.out);
        assert!(ran.out.contains("90 trials and 20 judgements"), "{}", ran.out);
        assert!(!scratch.path().join("runs").exists());
    }
    scratch.edit("compare:", "run: { stop: { decided: true, first: 5 } }\ncompare:");
    scratch.edit("grades: [0, 1], sample: 4", "mode: pairwise, pairs_per_sample: 3, sample: 4");
    let ran = scratch.bench(&["plan", "x.yaml"]);
    assert!(ran.out.contains("| facts | j | 24 |"), "{}", ran.out);
    assert!(ran.out.contains("no further once the comparison is decided"), "{}", ran.out);
    assert!(ran.out.contains("- facts: looks after 5, 7, 10, 12 samples"), "{}", ran.out);
}

#[test]
fn limit_and_arm_narrow_a_run() {
    let scratch = Scratch::new();
    let ran = scratch.bench(&["run", "x.yaml", "--limit", "2", "--arm", "rag"]);
    assert!(ran.out.contains("4 trials"), "{ran:#?}");
    let report = String::from_utf8(scratch.read(&format!("{REPORT}/report.md"))).unwrap();
    for said in ["was limited to 2 of", "no trials of", "this report is partial"] {
        assert!(report.contains(said), "{said}: {report}");
    }
    assert!(!report.contains("the only arm") && !report.contains("The chance that"), "{report}");
}

#[test]
fn scoring_alone_answers_nothing() {
    let scratch = Scratch::new();
    let ran = scratch.bench(&["score", "x.yaml"]);
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    scratch.bench(&["run", "x.yaml"]);
    let ran = scratch.bench(&["score", "x.yaml"]);
    assert!(ran.out.contains("(0 answered now)"), "{ran:#?}");
}

#[test]
fn init_writes_an_experiment_that_checks() {
    let scratch = Scratch::new();
    assert_eq!(scratch.bench(&["init", "task"]).code, Some(0));
    let ran = scratch.bench(&["check", "task/experiment.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let text = std::fs::read_to_string(scratch.path().join("task/experiment.yaml")).unwrap();
    assert!(text.contains("name: \"task\""), "reports of two tasks must lie apart: {text}");
    let again = scratch.bench(&["init", "task"]);
    assert_eq!(again.code, Some(2), "{again:#?}");
    assert!(again.err.contains("already there"), "{}", again.err);
}

#[test]
fn the_commands_that_only_tell_do_tell() {
    let scratch = Scratch::new();
    assert!(scratch.bench(&["schema"]).out.contains("eval_sets"));
    let doctor = scratch.bench(&["doctor"]).out;
    for word in ["processor", "memory", "smollm2-135m-instruct", "OPENAI_API_KEY"] {
        assert!(doctor.contains(word), "{doctor}");
    }
    assert!(scratch.bench(&["models", "list"]).out.contains("not here"));
    assert!(scratch.bench(&["models", "path", "minilm"]).out.contains("minilm"));
    assert!(scratch.bench(&["completions", "bash"]).out.contains("complete"));
}

#[test]
fn the_committed_schema_is_the_program_s_own() {
    let committed =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/experiment.schema.json");
    let committed = std::fs::read_to_string(committed).unwrap();
    assert!(Scratch::new().bench(&["schema"]).out == committed, "make it again: `bench schema`");
}

#[test]
fn the_committed_experiments_check() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    for entry in std::fs::read_dir(format!("{root}/experiments")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let scratch = Scratch::new();
            let mut command = scratch.command(&["check", &path.display().to_string()]);
            // The public evaluation sets are not part of the project; without them those
            // experiments can only be checked for shape.
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains("${BENCH_DATA}") && std::env::var_os("BENCH_DATA").is_none() {
                let why = "not checked, BENCH_DATA is not set";
                let _ = writeln!(std::io::stderr(), "{}: {why}", path.display());
                continue;
            }
            let output = command.current_dir(root).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
