//! What is done with a report once it is there: other prices, a block in a page, a summary for
//! continuous integration, a comparison; and folders that somebody edited.

use crate::{Ran, Scratch};

const REPORT: &str = "reports/x";

/// An experiment that has run.
fn reported() -> Scratch {
    let scratch = Scratch::new();
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    scratch
}

fn text(scratch: &Scratch, name: &str) -> String {
    String::from_utf8(scratch.read(name)).unwrap()
}

/// The command fails in words that hold all of `words`, and without a panic.
#[track_caller]
fn refused(ran: &Ran, words: &[&str]) {
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    let flat = ran.err.replace(['│', '\n'], " ");
    let flat = flat.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(flat.contains(word), "`{word}` is not in: {flat}");
    }
    assert!(!flat.contains("panicked"), "{flat}");
}

#[test]
fn other_prices_change_the_costs_and_stay_with_the_report() {
    let scratch = reported();
    assert!(!text(&scratch, "reports/x/report.md").contains("USD per 1,000"));
    scratch.write(
        "prices.yaml",
        "date: 2026-11-21\nmodels:\n  m: { input: 10, output: 20, gpu_hour: 5 }\n",
    );
    let ran = scratch.bench(&["report", REPORT, "--prices", "prices.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let page = text(&scratch, "reports/x/report.md");
    for words in ["USD per 1,000", "## Files", "prices.yaml", "quality_cost.svg"] {
        assert!(page.contains(words.trim_start_matches("## ")), "{words}");
    }
    let costs = text(&scratch, "reports/x/tables/costs.csv");
    let head: Vec<&str> = costs.lines().next().unwrap().split(',').collect();
    let row: Vec<&str> = costs.lines().nth(1).unwrap().split(',').collect();
    let cell = |name: &str| -> f64 {
        row[head.iter().position(|column| *column == name).unwrap()].parse().unwrap()
    };
    let expect = cell("tokens_in") * 10.0 / 1e3 + cell("tokens_out") * 20.0 / 1e3;
    assert!((cell("cost_per_1000_usd") - expect).abs() < 1e-6, "{costs}");
    // The report keeps them: made again without the option, no byte changes.
    let before = scratch.files(REPORT);
    assert_eq!(scratch.bench(&["report", REPORT]).code, Some(0));
    assert!(before == scratch.files(REPORT), "a file changed");
}

#[test]
fn prices_that_are_wrong_are_placed_and_change_nothing() {
    let scratch = reported();
    let before = scratch.files(REPORT);
    scratch.write("prices.yaml", "models:\n  m: { inptu: 10 }\n");
    let ran = scratch.bench(&["report", REPORT, "--prices", "prices.yaml"]);
    refused(&ran, &["prices.yaml", "inptu", "input"]);
    let ran = scratch.bench(&["report", REPORT, "--prices", "nowhere.yaml"]);
    refused(&ran, &["nowhere.yaml"]);
    assert!(before == scratch.files(REPORT), "a file changed");
}

#[test]
fn a_step_of_continuous_integration_gets_verdicts_gates_and_comparison() {
    let scratch = Scratch::new();
    scratch.edit(
        "compare:",
        "gates: [{ set: facts, metric: contains, arm: zero_shot, ci_lower: '>= 0.99' }]\ncompare:",
    );
    scratch.write("summary.md", "# before\n");
    let run = |arguments: &[&str]| {
        let mut command = scratch.command(arguments);
        command.env("GITHUB_STEP_SUMMARY", scratch.path().join("summary.md"));
        Ran::from(command.output().unwrap())
    };
    assert_eq!(run(&["run", "x.yaml"]).code, Some(100));
    let summary = text(&scratch, "summary.md");
    // It is added to what other steps wrote.
    assert!(summary.starts_with("# before\n### x\n"), "{summary}");
    for words in
        ["> [!IMPORTANT]", "**facts: ", "#### Gates", "failed: the lower bound is", "| contains |"]
    {
        assert!(summary.contains(words), "{words} is not in {summary}");
    }
    assert!(!summary.contains("]("), "a summary has no relative pictures: {summary}");
    let ran = run(&["compare", REPORT, REPORT]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let more = text(&scratch, "summary.md");
    assert!(more.starts_with(&summary) && more.len() > summary.len(), "{more}");
    // Empty is as good as absent.
    let mut command = scratch.command(&["report", REPORT]);
    let ran = Ran::from(command.env("GITHUB_STEP_SUMMARY", "").output().unwrap());
    assert_eq!(ran.code, Some(100), "{ran:#?}");
    // A file that cannot be written is named by its variable.
    let mut command = scratch.command(&["report", REPORT]);
    let ran = Ran::from(command.env("GITHUB_STEP_SUMMARY", "no/such/file").output().unwrap());
    refused(&ran, &["GITHUB_STEP_SUMMARY"]);
}

#[test]
fn a_failed_gate_is_a_failed_case_of_junit() {
    let scratch = Scratch::new();
    scratch.edit(
        "compare:",
        "gates: [{ set: facts, metric: contains, arm: zero_shot, ci_lower: '>= 0.99' }, { set: facts, metric: tokens_in, arm: rag, ci_upper: '<= 1000' }]\ncompare:",
    );
    assert_eq!(scratch.bench(&["run", "x.yaml"]).code, Some(100));
    let junit = text(&scratch, "reports/x/junit.xml");
    assert!(junit.contains("failures=\"1\""), "{junit}");
    assert!(junit.contains("the lower bound is"), "{junit}");
}

#[test]
fn the_block_of_a_page_is_rewritten_and_nothing_else() {
    let scratch = reported();
    scratch.write(
        "PAGE.md",
        "# mine\n\n<!-- bench:begin x -->\nold\n<!-- bench:end -->\n\n<!-- bench:begin y -->\nother\n<!-- bench:end -->\n",
    );
    let splice = || scratch.bench(&["report", REPORT, "--splice", "PAGE.md"]);
    assert_eq!(splice().code, Some(0));
    let page = text(&scratch, "PAGE.md");
    assert!(page.starts_with("# mine\n\n<!-- bench:begin x -->\n> [!IMPORTANT]\n"), "{page}");
    assert!(page.ends_with("<!-- bench:begin y -->\nother\n<!-- bench:end -->\n"), "{page}");
    assert!(page.contains("](reports/x/charts/facts_differences.svg)"), "{page}");
    assert!(!page.contains("old"), "{page}");
    assert_eq!(splice().code, Some(0));
    assert_eq!(text(&scratch, "PAGE.md"), page);
    scratch.write("PAGE.md", "# no block\n");
    refused(&splice(), &["has no place for report `x`", "<!-- bench:begin x -->"]);
}

#[test]
fn two_runs_are_compared_on_the_same_samples_or_the_reason_is_given() {
    let scratch = reported();
    let copy = |to: &str| {
        for (path, bytes) in scratch.files(REPORT) {
            let below = path.strip_prefix(scratch.path().join(REPORT)).unwrap();
            let path = scratch.path().join("reports").join(to).join(below);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    };
    copy("before");
    // The model forgets the rivers: every arm gets worse on a third of the facts.
    scratch.edit("say: Ashlode", "say: nothing");
    assert_eq!(scratch.bench(&["run", "x.yaml"]).code, Some(0));
    let ran = scratch.bench(&["compare", "reports/before", REPORT]);
    assert!(matches!(ran.code, Some(0 | 100)), "{ran:#?}");
    for words in ["facts", "lost", "rules"] {
        assert!(ran.out.contains(words), "{words} is not in {}", ran.out);
    }
    // Another question under the same id cannot be paired.
    let eval = text(&scratch, "eval.jsonl").replace("Who guards", "Who keeps");
    scratch.write("eval.jsonl", &eval);
    assert_eq!(scratch.bench(&["run", "x.yaml"]).code, Some(0));
    let ran = scratch.bench(&["compare", "reports/before", REPORT]);
    for words in ["not compared: facts: the samples are not the same", "--common"] {
        assert!(ran.err.contains(words), "{words} is not in {}", ran.err);
    }
    assert!(!ran.out.contains("#### facts"), "{}", ran.out);
    let ran = scratch.bench(&["compare", "reports/before", REPORT, "--common"]);
    assert!(matches!(ran.code, Some(0 | 100)), "{ran:#?}");
}

#[test]
fn a_folder_edited_by_hand_gives_the_report_of_its_records_or_a_clear_error() {
    let scratch = reported();
    let whole = scratch.files(REPORT);
    let restore = || whole.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    let report = || scratch.bench(&["report", REPORT]);
    // What is made from the records is made again.
    for name in ["report.md", "tables/summary.csv", "charts/facts_differences.svg"] {
        scratch.write(&format!("{REPORT}/{name}"), "edited");
    }
    std::fs::remove_file(scratch.path().join(REPORT).join("tables/scores.parquet")).unwrap();
    assert_eq!(report().code, Some(0));
    assert!(whole == scratch.files(REPORT), "a file is not as it was");
    // The records themselves.
    let manifest = text(&scratch, "reports/x/manifest.json");
    let edit = |from: &str, to: &str| {
        assert!(manifest.contains(from), "{from}");
        scratch.write("reports/x/manifest.json", &manifest.replace(from, to));
        report()
    };
    refused(
        &edit("\"format\": 1", "\"format\": 2"),
        &["format 2", "up to 1", "the program version that wrote it"],
    );
    refused(&edit("\"name\": \"rag\"", "\"name\": \"rug\""), &["the arm `rag`"]);
    refused(&edit("{", "["), &["manifest.json is not JSON"]);
    restore();
    let trials = scratch.read("reports/x/tables/trials.parquet");
    let table = scratch.path().join("reports/x/tables/trials.parquet");
    for (bytes, words) in [
        (&trials[..trials.len() / 2], "trials.parquet"),
        (&b""[..], "trials.parquet"),
        (&scratch.read("reports/x/tables/scores.parquet")[..], "holds no trials of `bench`"),
    ] {
        std::fs::write(&table, bytes).unwrap();
        refused(&report(), &[words]);
        refused(&scratch.bench(&["compare", REPORT, REPORT]), &[words]);
    }
    std::fs::remove_file(&table).unwrap();
    refused(&report(), &["not a report folder"]);
}

/// Runs the one-set experiment of `arms`, whose model says `answer`, and gives the pages.
fn strange(arms: &str, answer: &str, samples: usize) -> (Ran, String, String) {
    let scratch = Scratch::new();
    let line = |at: usize| {
        format!("{{\"id\":\"s{at}\",\"input\":\"question {at}\",\"reference\":\"right\"}}\n")
    };
    scratch.write("few.jsonl", &(0..samples).map(line).collect::<String>());
    scratch.write("answer.json", answer);
    scratch.write(
        "strange.yaml",
        &format!(
            "version: 1\nmodels: {{ m: {{ scripted: {{ otherwise: {answer} }} }} }}\neval_sets: [{{ name: facts, path: few.jsonl, scorers: [contains] }}]\narms: {arms}\ncompare: {{ baseline: zero_shot }}\n"
        ),
    );
    let ran = scratch.bench(&["run", "strange.yaml"]);
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    let page = |name: &str| text(&scratch, &format!("reports/strange/{name}"));
    let pages = (page("report.md"), page("report.html"));
    (ran, pages.0, pages.1)
}

const TWO: &str = "[{ name: zero_shot, model: m, strategy: prompt }, { name: other, model: m, strategy: { prompt: { system: be brief } } }]";

#[test]
fn one_arm_gives_a_page_without_a_comparison() {
    let one = "[{ name: zero_shot, model: m, strategy: prompt }]";
    let (ran, md, _) = strange(one, "right", 6);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(!md.contains("differences.svg") && !md.contains("beats"), "{md}");
    assert!(md.contains("1.000"), "{md}");
}

#[test]
fn a_run_in_which_nothing_succeeds_says_so_before_any_number() {
    let (ran, md, _) = strange(TWO, "'!rejected'", 6);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let (head, _) = md.split_once("## Arms").unwrap();
    assert!(head.contains("all 12 trials failed"), "{md}");
    assert!(head.contains("**facts: undecided.**"), "{md}");
    for picture in ["differences.svg", "quality_", "latency.svg"] {
        assert!(!md.contains(picture), "a picture of nothing: {md}");
    }
}

#[test]
fn answers_of_a_megabyte_or_of_strange_characters_give_a_page() {
    let long = format!("\"{}\"", "right ".repeat(170_000));
    let (ran, md, html) = strange(TWO, &long, 4);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(md.len() < 200_000 && html.len() < 2_000_000, "{} {}", md.len(), html.len());
    for answer in [
        "\"\\u202eסוף\\u202c right\"",
        "\"👩‍👩‍👧‍👦 right 🏳️‍🌈\"",
        "\"nul \\0 bell \\a right\"",
        "\"\\e[2J\\e]0;title\\a right\"",
    ] {
        let (ran, md, html) = strange(TWO, answer, 4);
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        let acts = |c: char| c.is_control() && c != '\n' && c != '\t';
        for page in [&md, &html, &ran.out, &ran.err] {
            assert_eq!(page.chars().find(|c| acts(*c) || *c == '\u{202e}'), None, "{answer}");
        }
        assert!(md.contains("1.000"), "{md}");
    }
}
