//! Learning curves, from YAML to chart. The scripted trainer remembers the rows it learns, so that the
//! score of a size is the share of the questions among its rows.

use crate::Scratch;

const ROWS: usize = 12;

fn scratch(finetune: &str) -> Scratch {
    let scratch = Scratch::new();
    let rows = |what: &str| -> String {
        (0..ROWS)
            .map(|i| {
                format!(
                    "{{\"id\":\"{what}{i}\",\"input\":\"say {i}\",\"reference\":\"said {i}\"}}\n"
                )
            })
            .collect::<Vec<_>>()
            .concat()
    };
    scratch.write("eval.jsonl", &rows("e"));
    scratch.write("train.jsonl", &rows("t"));
    scratch.write(
        "x.yaml",
        &format!(
            "version: 1
models: {{ m: {{ scripted: {{ otherwise: no }} }} }}
eval_sets: [{{ name: forms, path: eval.jsonl, train: train.jsonl, scorers: [exact_match] }}]
arms:
  - {{ name: zero_shot, model: m, strategy: prompt }}
  - {{ name: lora, model: m, strategy: {{ finetune: {{ {finetune} }} }} }}
compare: {{ baseline: zero_shot }}
"
        ),
    );
    scratch
}

fn table(scratch: &Scratch, name: &str) -> Vec<Vec<String>> {
    let text = scratch.read(&format!("reports/x/tables/{name}.csv"));
    let text = String::from_utf8(text).unwrap();
    text.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

#[test]
fn an_arm_is_trained_and_asked_on_each_size() {
    let scratch = scratch("train_sizes: [3, 12, 6]");
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    // Two arms and two smaller sizes.
    assert!(ran.out.contains("48 trials (48 answered now), 0 failed"), "{}", ran.out);
    let curve: Vec<Vec<String>> = table(&scratch, "learning_curve");
    let of = |row: &Vec<String>| (row[1].clone(), row[3].clone(), row[6].clone());
    let expect = |rows: &str, value: &str| ("lora".to_owned(), rows.to_owned(), value.to_owned());
    assert_eq!(
        curve.iter().map(of).collect::<Vec<_>>(),
        [expect("3", "0.250000"), expect("6", "0.500000"), expect("12", "1.000000")]
    );
    // Every other table has the arm with the largest size, and nobody else.
    let arms: Vec<String> =
        table(&scratch, "summary").into_iter().map(|row| row[1].clone()).collect();
    assert_eq!(arms, ["zero_shot", "lora"]);
    let text = String::from_utf8(scratch.read("reports/x/report.md")).unwrap();
    assert!(text.contains("forms_learning_curve"), "{text}");
    assert!(!text.contains("no trials of"), "{text}");
    let trained: Vec<(String, String)> = table(&scratch, "training")
        .into_iter()
        .map(|row| (row[1].clone(), row[3].clone()))
        .collect();
    let entry = |arm: &str, rows: &str| (arm.to_owned(), rows.to_owned());
    assert_eq!(trained, [entry("lora", "12"), entry("lora@3", "3"), entry("lora@6", "6")]);
    // A second run finds everything, and the report is made again from its records.
    let before = scratch.files("reports/x");
    let again = scratch.bench(&["run", "x.yaml"]);
    assert!(again.out.contains("(0 answered now)"), "{}", again.out);
    assert!(before == scratch.files("reports/x"), "a file changed");
    assert_eq!(scratch.bench(&["report", "reports/x"]).code, Some(0));
    assert!(before == scratch.files("reports/x"), "a file changed");
}

#[test]
fn smaller_sizes_are_parts_of_larger_ones_for_every_seed() {
    let scratch = scratch("train_sizes: [3, 6, 12], seeds: [0, 1]");
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let mut remembered = std::collections::BTreeMap::new();
    let manifest: serde_json::Value =
        serde_json::from_slice(&scratch.read("reports/x/manifest.json")).unwrap();
    for entry in manifest["training"].as_array().unwrap() {
        let folder = entry["outcome"]["adapter"].as_str().unwrap();
        let memory =
            String::from_utf8(scratch.read(&format!("{folder}/scripted_adapter.json"))).unwrap();
        let learnt: std::collections::BTreeSet<usize> =
            (0..ROWS).filter(|i| memory.contains(&format!("\"said {i}\""))).collect();
        remembered
            .insert((entry["seed"].as_u64().unwrap(), entry["rows"].as_u64().unwrap()), learnt);
    }
    assert_eq!(remembered.len(), 6);
    for seed in [0, 1] {
        assert!(remembered[&(seed, 3)].is_subset(&remembered[&(seed, 6)]));
        assert!(remembered[&(seed, 6)].is_subset(&remembered[&(seed, 12)]));
    }
    assert_ne!(remembered[&(0, 3)], remembered[&(1, 3)], "another seed draws other rows");
    let curve = table(&scratch, "learning_curve");
    assert_eq!(curve.iter().map(|row| row[4].as_str()).collect::<Vec<_>>(), ["2", "2", "2"]);
}

#[test]
fn a_plan_counts_every_size() {
    let scratch = scratch("train_sizes: [3, 6, 12], num_epochs: 2");
    let ran = scratch.bench(&["plan", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.out.contains("48 trials"), "{}", ran.out);
    let tokens = |arm: &str| -> u32 {
        let line = ran.out.lines().find(|line| line.contains(&format!("| {arm} |"))).unwrap();
        line.split('|').nth(6).unwrap().trim().parse().unwrap()
    };
    assert_eq!(tokens("lora"), 2 * tokens("lora@6"));
    assert_eq!(tokens("lora"), 4 * tokens("lora@3"));
    // An arm is chosen with all its sizes.
    let ran = scratch.bench(&["run", "x.yaml", "--arm", "lora"]);
    assert!(ran.out.contains("36 trials"), "{ran:#?}");
}

#[test]
fn rows_must_suit_what_is_learnt_from_them() {
    for objective in ["dpo", "orpo", "kto"] {
        let finetune = format!("objective: {objective}, micro_batch_size: 4");
        let ran = scratch(&finetune).bench(&["check", "x.yaml"]);
        assert_eq!(ran.code, Some(2), "{ran:#?}");
        let expect = format!("`objective: {objective}` cannot learn 12 of 12 rows of");
        assert!(ran.err.contains(&expect), "{}", ran.err);
    }
}

#[test]
fn a_curve_cannot_have_more_rows_than_there_are() {
    let refused = |finetune: &str, expect: &str| {
        let ran = scratch(finetune).bench(&["check", "x.yaml"]);
        assert_eq!(ran.code, Some(2), "{ran:#?}");
        assert!(ran.err.contains(expect), "{}", ran.err);
    };
    refused(
        "train_sizes: [3, 13]",
        "`train_sizes` asks for 13 rows, and set `forms` has 12 training rows",
    );
    for wrong in ["train_sizes: [3, 3]", "train_sizes: [0, 3]", "train_sizes: [3, 6], limit: 6"] {
        refused(wrong, "`train_sizes` cannot train");
    }
}
