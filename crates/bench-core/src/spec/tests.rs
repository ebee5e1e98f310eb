use miette::Diagnostic as _;

use super::*;

const GOOD: &str = "version: 1
models: { small: { catalog: smollm2-135m-instruct }, other: { path: x } }
judge: { model: other, rubric: 'good is 5' }
eval_sets:
  - { name: facts, path: e.jsonl, corpus: c.jsonl, train: t.jsonl, scorers: [exact_match, { numeric: { tolerance: 0.5 } }] }
arms:
  - { name: zero, model: small, strategy: prompt }
  - { name: few, model: small, strategy: { prompt: { num_fewshot: 5 } } }
  - { name: rag, model: small, strategy: { rag: { top_k: 2 } } }
  - { name: lora, model: small, strategy: { finetune: { learning_rate: 2e-4, target_modules: all-linear } } }
  - { name: both, model: small, strategy: { compose: [lora, rag] } }
compare: { baseline: zero }
";

fn read(text: &str) -> Result<Experiment, Box<SpecError>> {
    parse("x.yaml", "x", text, &|_| None).map(|(experiment, _)| experiment)
}

fn problems(text: &str) -> Vec<String> {
    let error = read(text).unwrap_err();
    let line = |offset: usize| text[..offset].matches('\n').count() + 1;
    error
        .problems()
        .iter()
        .map(|problem| {
            let help = problem.help().map(|help| format!(" [{help}]")).unwrap_or_default();
            format!("{}: {}{help}", line(problem.span.offset()), problem.message)
        })
        .collect()
}

#[track_caller]
fn check_problem(from: &str, to: &str, expect: &str) {
    assert!(GOOD.contains(from), "{from}");
    assert_eq!(problems(&GOOD.replacen(from, to, 1)), [expect]);
}

#[test]
fn a_mix_shares_an_epoch_by_weight_and_temperature() {
    let mix = |temperature| super::Mix { weights: std::collections::BTreeMap::new(), temperature };
    let even = [(1.0, 100), (1.0, 300)];
    assert_eq!(mix(1.0).counts(&even, 400), [100, 300]);
    assert_eq!(mix(1e9).counts(&even, 400), [200, 200]);
    assert_eq!(mix(2.0).counts(&even, 400), [146, 254]);
    assert_eq!(mix(1.0).counts(&[(3.0, 100), (1.0, 300)], 400), [200, 200]);
    assert_eq!(mix(1.0).counts(&[(1.0, 1), (1.0, 1), (1.0, 1)], 5), [2, 2, 1]);
    assert_eq!(mix(1.0).counts(&[(1.0, 0), (1.0, 2)], 2), [0, 2]);
    assert_eq!(mix(1.0).counts(&[(1.0, 0)], 2), [0]);
}

#[test]
fn a_good_file_is_read_with_its_defaults() {
    let experiment = read(GOOD).unwrap();
    assert_eq!(experiment.name, "x");
    assert_eq!(experiment.eval_sets[0].scorers[0], Scorer::ExactMatch { normalize: true });
    assert_eq!(experiment.eval_sets[0].scorers[1], Scorer::Numeric { tolerance: 0.5 });
    let plans = resolve(&experiment);
    assert_eq!(plans[0].prompt, Prompt::default());
    assert_eq!(plans[4].finetune, plans[3].finetune);
    assert_eq!(plans[4].rag.as_ref().unwrap().top_k, 2);
    assert_eq!(plans[3].finetune.as_ref().unwrap().target_modules, ["all-linear"]);
}

#[test]
fn a_corpus_is_one_name_or_several() {
    let corpus = |to: &str| {
        let text = GOOD.replacen("corpus: c.jsonl", to, 1);
        read(&text).unwrap().eval_sets.remove(0).corpus
    };
    assert_eq!(corpus("corpus: docs/**/*.md"), ["docs/**/*.md"]);
    assert_eq!(corpus("corpus: [docs/, more.pdf]"), ["docs/", "more.pdf"]);
    assert!(corpus("corpus: null").is_empty());
    let set = r#"{"name": "s", "path": "p", "corpus": "c.jsonl", "scorers": []}"#;
    assert_eq!(serde_json::from_str::<EvalSet>(set).unwrap().corpus, ["c.jsonl"]);
}

#[test]
fn an_embedder_comes_from_one_place() {
    let embedder = |text: &str| format!("embedder: {text}\ncompare:");
    for good in [
        "{ onnx: { path: m, pooling: cls, query_prefix: 'query: ' } }",
        "{ onnx: { hub: o/n } }",
        "{ endpoint: { base_url: 'http://x/v1', model: e, dimension: 8 } }",
    ] {
        assert!(read(&GOOD.replacen("compare:", &embedder(good), 1)).is_ok(), "{good}");
    }
    for (text, expect) in [
        (
            "{ onnx: {} }",
            "an embedder comes from one place [give `path: FOLDER` or `hub: owner/name`]",
        ),
        (
            "{ onnx: { path: m, hub: o/n } }",
            "an embedder comes from one place [give `path: FOLDER` or `hub: owner/name`]",
        ),
        (
            "{ endpoint: { base_url: 'http://x/v1', model: e, dimension: 0 } }",
            "an embedder without numbers or without words [give the `dimension` that the model's card says; `max_length` is at least 8]",
        ),
    ] {
        let found = problems(&GOOD.replacen("compare:", &embedder(text), 1));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].ends_with(expect), "{text}: {found:?}");
    }
}

#[test]
fn retrieval_is_read_in_full() {
    let rag = |to: &str| {
        let text = GOOD.replacen("top_k: 2", to, 1);
        resolve(&read(&text).unwrap())[2].rag.clone().unwrap()
    };
    assert_eq!(rag("top_k: 2").chunking(), Chunking::default());
    assert_eq!(rag("chunk_size: 0").chunking().by, ChunkBy::Document);
    let full = rag(
        "chunk: { by: sentence, size: 90, overlap: 10 }, expand: { neighbours: 1 }, min_score: 0.2,
        filter: [{ field: year, gte: 1900 }, { field: lang, any: [en, de] }], mmr: { lambda: 0.7 },
        rerank: { model: overlap }, terms: { stem: false }",
    );
    assert_eq!(full.chunking(), Chunking { by: ChunkBy::Sentence, size: 90, overlap: 10 });
    assert_eq!(full.expand, Expand::Neighbours(1));
    assert_eq!(full.filter[1].any, ["en", "de"]);
    assert_eq!(full.rerank.unwrap().candidates, 30);
    assert!(full.terms.stop_words && !full.terms.stem);
    assert_eq!(rag("expand: parent").expand, Expand::Parent);
}

#[test]
fn retrieval_that_cannot_work_is_explained() {
    let check = |to: &str, expect: &str| check_problem("top_k: 2", to, expect);
    check(
        "retriever: bm25, mmr: {}",
        "9: `mmr` compares vectors, and `bm25` has none [choose `dense`, `hybrid` or `rrf`]",
    );
    check(
        "chunk: { size: 10, overlap: 10 }",
        "9: chunks of 10 tokens cannot overlap by 10 [give less than the size of a chunk]",
    );
    check(
        "filter: [{ field: year }]",
        "9: a filter without a condition [give one of: is, any, not, gt, gte, lt, lte]",
    );
    check(
        "filter: [{ field: year, is: 1.5 }]",
        "9: a filter cannot compare with `1.5` [use a text, a whole number or a truth value; gt, \
         gte, lt, lte for others]",
    );
}

#[test]
fn a_resolved_experiment_reads_back_from_json() {
    let experiment = read(GOOD).unwrap();
    let json = serde_json::to_string(&experiment).unwrap();
    assert_eq!(serde_json::from_str::<Experiment>(&json).unwrap(), experiment);
}

#[test]
fn every_kind_of_mistake_is_placed_and_explained() {
    check_problem("top_k: 2", "topk: 2", "9: unknown key `topk` [did you mean `top_k`?]");
    check_problem("top_k: 2", "top_k: 0", "9: `top_k` is 0 [give at least 1]");
    check_problem(
        "top_k: 2",
        "top_k: two",
        "9: expected a whole number, 0 or more, found the text `two` [give a whole number, for example 3]",
    );
    check_problem(
        "name: few,",
        "name: zero,",
        "8: two arms are called `zero` [tables and charts are keyed by arm name]",
    );
    check_problem(
        "zero, model: small",
        "zero, model: smal",
        "7: there is no model `smal` [did you mean `small`?]",
    );
    check_problem(
        "exact_match, {",
        "exact_macth, {",
        "5: `exact_macth` is not known here [did you mean `exact_match`?]",
    );
    check_problem(
        "baseline: zero",
        "baseline: zreo",
        "12: there is no arm `zreo` [did you mean `zero`?]",
    );
    check_problem(
        "name: zero, model: small,",
        "name: zero,",
        "7: `model` is missing [add `model: …` here]",
    );
    check_problem(
        "[lora, rag]",
        "[lora, few, rug]",
        "11: there is no arm `rug` [did you mean `rag`?]",
    );
    check_problem(
        "model: other, rubric",
        "model: small, rubric",
        "3: the judge is the model of arm `zero` [judge with another model, or set `allow_self_judging: true` and every table says so]",
    );
    check_problem(
        "train: t.jsonl, ",
        "train: '${NOPE}', ",
        "5: the environment variable `NOPE` is not set [export NOPE=…]",
    );
    check_problem(
        "corpus: c.jsonl, ",
        "corpus: c.jsonl, slices: 3e, limit: -1, ",
        "5: expected a whole number, 0 or more, found `-1` [give a whole number, for example 3]",
    );
    check_problem(
        "version: 1",
        "version: 2",
        "1: version 2 of the file layout is not known [this program reads `version: 1`]",
    );
}

#[test]
fn every_required_key_that_is_missing_is_named() {
    let found = problems("version: 1\nmodels: { m: { endpoint: {} } }\narms: [{}]\n");
    let keys = ["eval_sets", "base_url", "model", "name", "strategy"];
    for key in keys {
        assert!(found.iter().any(|one| one.contains(&format!("`{key}` is missing"))), "{found:#?}");
    }
    assert_eq!(found.len(), keys.len(), "{found:#?}");
}

#[test]
fn the_required_keys_are_those_of_the_schema() {
    let schema = schema();
    for (name, keys) in super::node::REQUIRED {
        let of = if *name == "Experiment" { &schema } else { &schema["$defs"][name] };
        let mut required: Vec<&str> =
            of["required"].as_array().unwrap().iter().filter_map(|key| key.as_str()).collect();
        let mut keys = keys.to_vec();
        required.sort_unstable();
        keys.sort_unstable();
        assert_eq!(required, keys, "{name}");
    }
}

#[test]
fn an_experiment_s_name_is_a_folder_s() {
    for name in ["../../evil", "/tmp/abs", "a b"] {
        check_problem(
            "version: 1",
            &format!("version: 1\nname: '{name}'"),
            &format!(
                "2: `{name}` cannot name an experiment [use letters, digits, `_`, `-`, `+` and `.`]"
            ),
        );
    }
}

#[test]
fn the_yaml_library_s_words_are_for_programmers() {
    assert_eq!(
        problems("version: 1\nversion: 2\n"),
        ["2: the key `version` stands twice in one map [keep one of them]"]
    );
}

const JUDGE: &str = "judge: { model: other, rubric: 'good is 5' }";

#[track_caller]
fn check_judge(to: &str, expect: &str) {
    check_problem(JUDGE, &format!("judge: {{ {to}, rubric: 'good is 5' }}"), expect);
}

#[test]
fn a_judge_that_cannot_judge_is_refused_before_anything_is_spent() {
    check_judge("model: othr", "3: there is no model `othr` [did you mean `other`?]");
    check_judge(
        "judges: [other, small]",
        "3: the judge is the model of arm `zero` [judge with another model, or set `allow_self_judging: true` and every table says so]",
    );
    check_judge(
        "judges: []",
        "3: the judge has no model [give `model: …`, or `judges: [a, b, c]` for a jury]",
    );
    check_judge(
        "model: other, judges: [other]",
        "3: both `model` and `judges` are given [give `model: …`, or `judges: [a, b, c]` for a jury]",
    );
    check_judge(
        "model: other, grades: [5, 1]",
        "3: the grades are no scale [at least two, worst to best, for example [1, 2, 3, 4, 5]]",
    );
    check_judge(
        "model: other, repeats: 3",
        "3: a greedy judge says the same each time [give `temperature: 0.7`, or leave `repeats` out]",
    );
    check_judge(
        "model: other, min_judge_agreement: 80",
        "3: `judge.min_judge_agreement` is out of range [give 0 to 1]",
    );
    check_judge(
        "model: other, mode: pairwise, labels: l.jsonl",
        "3: labels are grades of single answers, and this judge compares two [measure it on labelled pairs with `bench judge calibrate`]",
    );
    check_judge(
        "model: other, sample: 0",
        "3: the judge judges nothing [leave `sample` out to judge all]",
    );
}

#[test]
fn what_a_judge_is_shown_and_grades_by_is_checked() {
    check_judge(
        "model: other, shows: [question]",
        "3: the judge is not shown what it judges [add `answer` to `shows`]",
    );
    let by = |criteria: &str, expect: &str| {
        check_judge(&format!("model: other, criteria: {{ {criteria} }}"), expect);
    };
    by(
        "a/b: { rubric: 1 to 5 }",
        "3: a criterion is called `a/b` [letters, digits, `_` and `-`, for example `faithfulness`]",
    );
    by("a: { rubric: '' }", "3: the rubric is empty [say what each grade means]");
    by(
        "a: { rubric: r, grades: [2] }",
        "3: the grades are no scale [at least two, worst to best, for example [1, 2, 3, 4, 5]]",
    );
    by(
        "a: { rubric: r, shows: [question] }",
        "3: the judge is not shown what it judges [add `answer` to `shows`]",
    );
    let all = "shows: [question, passages, answer]";
    let mut closed = GOOD.replace("rubric: 'good is 5'", &format!("rubric: 'good is 5', {all}"));
    assert_eq!(read(&closed).unwrap().judge.unwrap().shows.len(), 3);
    assert_eq!(
        problems(&closed.replace("[exact_match,", "[judge, exact_match,")),
        [
            "5: set `facts` is decided by how answers stand to their passages, and arm `zero` has none [put another scorer first, or this rubric under `judge.criteria`]"
        ]
    );
    assert_eq!(
        problems(&closed.replace("model: other,", "model: other, mode: pairwise,")),
        [
            "3: a pairwise judge is shown no passages: those of two arms differ [take `mode: rubric`, or leave `passages` out]"
        ]
    );
    closed = closed
        .replace("  - { name: both, model: small, strategy: { compose: [lora, rag] } }\n", "");
    let rag = "  - { name: rag, model: small, strategy: { rag: { top_k: 2 } } }\n";
    assert_eq!(
        problems(&closed.replace(rag, "")),
        ["3: the judge is shown passages, and no arm has any [add an arm that retrieves]"]
    );
}

#[test]
fn a_pairwise_judge_needs_two_arms() {
    let arms = GOOD.find("  - { name: few").unwrap()..GOOD.find("compare:").unwrap();
    let mut text = GOOD.to_owned();
    text.replace_range(arms, "");
    let text = text.replace("model: other, rubric", "model: other, mode: pairwise, rubric");
    assert_eq!(
        problems(&text),
        [
            "3: a pairwise judge needs two arms, and set `facts` has one or none [add an arm, or take `mode: rubric`]"
        ]
    );
}

#[test]
fn a_scorer_that_is_the_judge_needs_one() {
    let text = GOOD.replace("[exact_match,", "[judge, exact_match,");
    assert_eq!(read(&text).unwrap().eval_sets[0].scorers[0], Scorer::Judge {});
    assert_eq!(
        problems(&text.replace(&format!("{JUDGE}\n"), "")),
        [
            "4: set `facts` is scored by a judge that is not declared [declare it: `judge: { model: …, rubric: file://… }`]"
        ]
    );
}

#[test]
fn a_limit_on_a_cost_that_is_not_measured_is_refused() {
    check_problem(
        "baseline: zero }",
        "baseline: zero, constraints: { max_cost_per_1000: 1 } }",
        "12: the cost is limited, and this run does not measure it: no prices for small [give `prices: { date: …, models: { MODEL: { input: …, output: … } } }`, or drop the limit]",
    );
}

#[test]
fn what_is_limited_or_weighed_must_be_measured() {
    check_problem(
        "baseline: zero }",
        "baseline: zero, weights: { cost_per_1000: 0.01 } }",
        "12: the cost is weighed, and this run does not measure it: no prices for small [give `prices: { date: …, models: { MODEL: { input: …, output: … } } }`, or drop the limit]",
    );
    check_problem(
        "baseline: zero }",
        "baseline: zero, constraints: { max_training_cost: 5 } }",
        "12: the cost of training is limited, and this run does not measure it: no price of an hour for small [give `prices: { date: …, models: { MODEL: { gpu_hour: … } } }` (or `machine_hour`), or drop it]",
    );
    check_problem(
        "baseline: zero }",
        "baseline: zero, constraints: { min_retention: 0.95 } }",
        "12: retention is limited, and this run does not measure that of arm `lora` as trained for set `facts` [add a set of general questions with `retention: true` and the same `train`, or drop it]",
    );
    check_problem(
        "baseline: zero }",
        "baseline: zero, weights: { p95_latency_ms: -1 } }",
        "12: `compare.weights.p95_latency_ms` is out of range [give 0 or more]",
    );
    check_problem(
        "compare: { baseline: zero }",
        "run: { stop: { decided: true } }\ncompare: { baseline: zero, weights: { p95_latency_ms: 0.001 } }",
        "13: a run that stops early compares scores, and here costs are weighed in [use `compare.constraints` instead, or leave `run.stop` out]",
    );
    let retention = "eval_sets:
  - { name: skills, path: g.jsonl, train: t.jsonl, retention: true, scorers: [choice], corpus: c.jsonl }";
    let text = GOOD.replacen("eval_sets:", retention, 1).replacen(
        "baseline: zero }",
        "baseline: zero, constraints: { min_retention: 0.95, min_quality: 0.5, max_p95_latency_ms: 900 } }",
        1,
    );
    let experiment = read(&text).unwrap();
    assert_eq!(experiment.compare.constraints.min_retention, Some(0.95));
    assert!(experiment.compare.weights.is_empty());
}

#[test]
fn a_margin_without_a_metric_is_refused() {
    check_problem(
        "scorers: [exact_match, { numeric: { tolerance: 0.5 } }]",
        "scorers: []",
        "5: eval set `facts` has no scorer, so that the margin 0.02 is of no metric [for example `scorers: [exact_match]`]",
    );
}

#[test]
fn a_run_that_stops_early_says_when() {
    check_problem(
        "compare:",
        "run: { stop: { first: 5 } }\ncompare:",
        "12: the run is told to stop, and not when [for example `stop: { half_width: 0.03 }` or `stop: { decided: true }`]",
    );
    check_problem(
        "compare:",
        "run: { stop: { half_width: 3 } }\ncompare:",
        "12: `run.stop.half_width` is out of range [more than 0, less than 0.5, for example 0.03]",
    );
}

#[test]
fn choices_by_likelihood_need_a_local_model() {
    let text = GOOD
        .replace("[exact_match,", "[choice: { by: letter_likelihood },")
        .replace("{ path: x }", "{ endpoint: { base_url: 'http://x/v1', model: x } }")
        .replace("name: zero, model: small", "name: zero, model: other")
        .replace(JUDGE, "description: ''");
    assert_eq!(
        problems(&text),
        [
            "7: set `facts` scores choices by likelihood, and the model of arm `zero` is behind an endpoint [take a local model, give the arm `on: [other sets]`, or score `choice: { by: answer }`]"
        ]
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = GOOD
        .replace("top_k: 2", "topk: 2")
        .replace("name: few,", "name: zero,")
        .replace("learning_rate: 2e-4", "learning_rate: -1, seeds: []");
    let found = problems(&text);
    assert_eq!(found.len(), 4, "{found:#?}");
}

#[test]
fn a_set_without_training_rows_cannot_be_tuned_on() {
    let found = problems(&GOOD.replace("train: t.jsonl, ", ""));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with("8: arm `few`: few-shot examples need training rows"),
        "{found:#?}"
    );
}

#[test]
fn a_name_that_looks_like_a_truth_value_is_a_name() {
    let experiment = read(&GOOD.replace("zero", "n")).unwrap();
    assert_eq!(experiment.compare.baseline, "n");
}

#[test]
fn differences_are_taken_to_the_first_arm_unless_said() {
    for (text, alpha) in [
        (GOOD.replace("compare: { baseline: zero }", "compare: { alpha: 0.1 }"), 0.1),
        (GOOD.replace("compare: { baseline: zero }", ""), 0.05),
    ] {
        let compare = read(&text).unwrap().compare;
        assert_eq!((compare.baseline.as_str(), compare.alpha), ("zero", alpha));
    }
}

#[test]
fn broken_yaml_is_pointed_at() {
    let found = problems("version: 1\nmodels: [\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("the file must be YAML"), "{found:#?}");
}

#[test]
fn a_problem_is_shown_with_its_line() {
    let error = read(&GOOD.replace("top_k: 2", "topk: 2")).unwrap_err();
    let mut out = String::new();
    miette::NarratableReportHandler::new().render_report(&mut out, error.as_ref()).unwrap();
    assert!(out.contains("x.yaml cannot be run: 1 problem"), "{out}");
    assert!(out.contains("label at line 9"), "{out}");
}

#[test]
fn a_gate_reads_its_condition() {
    let bound = |text: &str| Bound::parse(text).map(|b| (b.value, b.is_inclusive, b.is_lower));
    assert_eq!(bound(">= 0.5"), Some((0.5, true, true)));
    assert_eq!(bound("> -1"), Some((-1.0, false, true)));
    assert_eq!(bound("<=800"), Some((800.0, true, false)));
    assert_eq!([bound("0"), bound("> NaN"), bound(">= inf"), bound("")], [None; 4]);
    let at_most = Bound::parse("<= 2").unwrap();
    assert!(at_most.is_met(2.0) && !at_most.is_met(2.1) && !at_most.is_met(f64::NAN));
}

#[test]
fn a_gate_demands_something_that_can_be_measured() {
    let gate = |gate: &str| problems(&format!("{GOOD}gates: [{{ arm: zero, {gate} }}]\n"));
    let good = "gates: [{ arm: zero, metric: latency_p95_ms, ci_upper: \"<= 800\" }]\n";
    assert_eq!(read(&format!("{GOOD}{good}")).unwrap().gates.len(), 1);
    for (text, expect) in [
        ("metric: latency_p95_ms", "the gate demands nothing"),
        ("metric: latency_p95_ms, ci_upper: \">= 800\"", "`>= 800` is no condition"),
        ("metric: latency_p95_ms, vs: few, ci_upper: \"<= 8\"", "is not compared with another"),
        ("metric: retention, ci_lower: \">= 0.9\"", "no set measures retention"),
    ] {
        let found = gate(text);
        assert!(found.iter().any(|problem| problem.contains(expect)), "{text}: {found:?}");
    }
    let unjudged = GOOD.replace(&format!("{JUDGE}\n"), "");
    let agreement = "gates: [{ arm: zero, metric: judge_agreement, ci_lower: \">= 0.9\" }]\n";
    let found = problems(&format!("{unjudged}{agreement}"));
    assert!(found.iter().any(|problem| problem.contains("there is no judge")), "{found:?}");
}

#[test]
fn a_set_borrows_adapters_of_an_earlier_set_with_the_same_arms() {
    let with = |more: &str| {
        GOOD.replace(
            "arms:\n",
            &format!("  - {{ name: skills, path: k.jsonl, scorers: [exact_match], retention: true, {more} }}\narms:\n"),
        )
        .replace("name: few, model", "name: few, on: [facts], model")
        .replace("name: rag, model", "name: rag, on: [facts], model")
        .replace("name: both, model", "name: both, on: [facts], model")
    };
    let good = with("adapters_of: facts");
    assert_eq!(read(&good).unwrap().eval_sets[1].adapters_of.as_deref(), Some("facts"));
    for (text, expect) in [
        (with("limit: 4"), "fine-tuning need training rows, and set `skills` has none"),
        (with("adapters_of: skills"), "set `skills` borrows the adapters of `skills`"),
        (with("adapters_of: nowhere"), "name a set that stands earlier"),
        (
            good.replace("name: lora, model", "name: lora, on: [skills], model"),
            "arm `lora` answers set `skills` and is not trained on `facts`",
        ),
    ] {
        let found = problems(&text);
        assert!(found.iter().any(|problem| problem.contains(expect)), "{expect}: {found:?}");
    }
}

#[test]
fn prices_are_inline_or_a_file_and_break_even_is_in_range() {
    let with = |text: &str| format!("{GOOD}{text}\n");
    let experiment = read(&with("prices: file://prices.yaml")).unwrap();
    assert_eq!(experiment.prices, Prices::File("prices.yaml".into()));
    let experiment =
        read(&with("prices: { date: 2026-11-21, models: { small: { input: 1 } } }")).unwrap();
    assert_eq!(experiment.prices.of("small", true).map(|price| price.input), Some(1.0));
    for (text, expect) in [
        ("prices: prices.yaml", "is no list of prices"),
        ("prices: { date: 2026-11-21, models: { mm: {} } }", "there is no model `mm`"),
        ("prices: { models: { small: {} } }", "the prices have no date"),
        ("prices: { date: 2026-11-21, model: { m: {} } }", "unknown field `model`"),
        ("break_even: { price_fall_percent: 100 }", "`break_even.price_fall_percent` is out"),
        ("break_even: { retrain_weeks: 0 }", "`break_even.retrain_weeks` is out of range"),
    ] {
        let found = problems(&with(text));
        assert!(found.iter().any(|problem| problem.contains(expect)), "{text}: {found:?}");
    }
}

#[test]
fn the_schema_names_every_key() {
    let schema = schema().to_string();
    for key in ["eval_sets", "num_fewshot", "lora_alpha", "api_key_env", "token_f1"] {
        assert!(schema.contains(key), "{key}");
    }
}

#[test]
fn an_arm_trained_with_passages_is_served_with_them() {
    let lora = "finetune: { learning_rate: 2e-4, target_modules: all-linear }";
    assert!(GOOD.contains(lora));
    let raft = |settings: &str| {
        let finetune = format!("finetune: {{ raft: {{ {settings} }} }}");
        read(&GOOD.replace(lora, &finetune)).map(|experiment| resolve(&experiment))
    };
    let plans = raft("rag: rag, distractors: 2").unwrap();
    assert_eq!(plans[3].rag, plans[2].rag);
    assert_eq!(plans[4].rag, plans[2].rag);
    assert_eq!(raft("distractors: 2").unwrap()[3].rag, Some(Rag::default()));
    // Who learns to reason is asked to, in a composition too.
    let asks = |settings: &str| {
        raft(settings).unwrap()[3..].iter().all(|plan| plan.prompt.chain_of_thought)
    };
    assert!(asks("reasoning: why") && !asks("distractors: 2"));
    let finetune = |raft: &str| GOOD.replace(lora, &format!("finetune: {{ raft: {{ {raft} }} }}"));
    assert_eq!(
        problems(&finetune("rag: few")),
        ["10: there is no retrieving arm `few` [one of: rag]"]
    );
    assert_eq!(
        problems(&finetune("reasoning: ''")),
        [
            "10: `reasoning` names no field [name the field of the training rows that holds it, or leave it out]"
        ]
    );
    assert_eq!(
        problems(&finetune("without_golden: 2")),
        ["10: `without_golden` is a share of the rows [give 0 to 1, for example 0.2]"]
    );
}

#[test]
fn mistakes_of_tuning_and_retrieving_are_placed() {
    let prompt = |settings: &str| {
        problems(&GOOD.replace("{ num_fewshot: 5 }", &format!("{{ {settings} }}")))
    };
    assert_eq!(
        prompt("candidates: [a, b]"),
        [
            "8: arm `few` chooses its prompt on dev samples, and set `facts` has none [give the set `dev: …jsonl`, samples that are not those of `path`]"
        ]
    );
    let with_dev = |settings: &str| {
        let text = GOOD.replace("path: e.jsonl", "path: e.jsonl, dev: d.jsonl");
        problems(&text.replace("{ num_fewshot: 5 }", &format!("{{ {settings} }}")))
    };
    assert_eq!(
        with_dev("tune: { metric: exact_macth }"),
        [
            "8: there is only one prompt to choose [give at least two `candidates`, or `propose: { n: 4 }`]",
            "8: there is no scorer `exact_macth` [did you mean `exact_match`?]",
        ]
    );
    assert_eq!(
        with_dev("candidates: [a, b], tune: { budget: 1 }"),
        ["8: a budget of 1 answers for 2 prompts [give at least 20]"]
    );
    check_problem(
        "top_k: 2",
        "iterations: 0",
        "9: `iterations` is 0 [give 1, or 2 for questions that need two searches]",
    );
    check_problem(
        "top_k: 2",
        "query_model: smal",
        "9: there is no model `smal` [did you mean `small`?]",
    );
    check_problem(
        "top_k: 2",
        "rerank: { model: { llm: smal } }",
        "9: there is no model `smal` [did you mean `small`?]",
    );
    check_problem(
        "top_k: 2",
        "rerank: { model: { llm: small }, window: 4, stride: 4 }",
        "9: a window of 4 that moves by 4 [`window` is at least 2, `stride` from 1 to less than `window`]",
    );
    check_problem(
        "top_k: 2",
        "rerank: { model: overlap, window: 4 }",
        "9: this reranker reads one passage at a time [`window` and `stride` are for `model: { llm: … }`]",
    );
    check_problem(
        "top_k: 2",
        "passages: whole_corpus, context_tokens: 9",
        "9: the whole corpus has no token budget [leave it out]",
    );
}

#[test]
fn controls_are_read_by_name() {
    let passages = |text: &str| {
        let experiment = read(&GOOD.replace("top_k: 2", &format!("passages: {text}"))).unwrap();
        resolve(&experiment)[2].rag.clone().unwrap().passages
    };
    assert_eq!(passages("random_context"), PassageSource::Random);
    assert_eq!(passages("closed_book"), PassageSource::ClosedBook);
    assert_eq!(
        passages("{ oracle_plus_noise: { golden_rank: 2, noise: retrieved } }"),
        PassageSource::OraclePlusNoise {
            distractors: 3,
            golden_rank: Some(2),
            noise: Noise::Retrieved
        }
    );
}

#[test]
fn a_learning_curve_is_the_arm_and_its_smaller_sizes() {
    let lora = "finetune: { learning_rate: 2e-4, target_modules: all-linear }";
    let text = GOOD.replace(lora, "finetune: { train_sizes: [300, 30, 100] }");
    let plans = resolve(&read(&text).unwrap());
    let sizes: Vec<(&str, &str, Option<u32>)> = plans
        .iter()
        .filter_map(|plan| Some((plan.name.as_str(), plan.arm(), plan.finetune.as_ref()?.limit)))
        .collect();
    assert_eq!(
        sizes,
        [
            ("lora", "lora", Some(300)),
            ("both", "both", Some(300)),
            ("lora@30", "lora", Some(30)),
            ("lora@100", "lora", Some(100)),
        ]
    );
}

#[test]
fn mistakes_of_a_sweep_are_placed() {
    let lora = "finetune: { learning_rate: 2e-4, target_modules: all-linear }";
    let text = |budget: &str, finetune: &str| {
        let text = GOOD.replace("path: e.jsonl", "path: e.jsonl, dev: d.jsonl");
        let text = text.replace(lora, &format!("finetune: {{ {finetune} }}"));
        format!("{text}{budget}")
    };
    let tune = |budget: &str, finetune: &str| problems(&text(budget, finetune));
    let good = "sweep: { learning_rate: [1.0e-4, 1.0e-3] }";
    let budget = "tune: { budget: 1000 }\n";
    assert!(read(&text(budget, good)).is_ok());
    let found = |budget: &str, finetune: &str, expect: &str| {
        let found = tune(budget, finetune);
        assert!(found.iter().any(|problem| problem.contains(expect)), "{found:?}");
    };
    found("", good, "a sweep needs the experiment's `tune`");
    found(budget, "sweep: { lora_r: [8] }", "there is nothing to choose");
    found(
        budget,
        "sweep: { lora_r: [0, 8] }",
        "`lora_r` of the sweep has a value that cannot train",
    );
    found(
        budget,
        "train_sizes: [3, 4], sweep: { lora_r: [4, 8] }",
        "`sweep` does not go with `train_sizes`",
    );
    found(budget, "num_epochs: 1", "no arm has anything to choose");
    found("tune: { budget: 0 }\n", good, "a budget of 0 tries nothing");
    let no_dev = GOOD.replace(lora, &format!("finetune: {{ {good} }}"));
    let no_dev = problems(&format!("{no_dev}{budget}"));
    assert!(
        no_dev.iter().any(|problem| problem.contains("chooses its settings on dev samples")),
        "{no_dev:?}"
    );
}

#[test]
fn a_scale_needs_a_rank() {
    let lora = "finetune: { learning_rate: 2e-4, target_modules: all-linear }";
    let text = |finetune: &str| GOOD.replace(lora, &format!("finetune: {{ {finetune} }}"));
    let alone = problems(&text("lora_alpha: 8"));
    assert!(alone[0].contains("`lora_alpha` without `lora_r`"), "{alone:?}");
    for good in ["lora_alpha: 8, lora_r: 4", "lora_alpha: 8, r: 4", "lora_r: 4"] {
        assert!(read(&text(good)).is_ok(), "{good}");
    }
}
