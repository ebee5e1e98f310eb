//! The scorers through their public interface, against the figures of reference implementations
//! (`fixtures/score/figures.py`) and against facts worked by hand.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bench_core::backend::{
    BackendError, Completion, Constraint, Embedder, Generator, Purpose, Request, TokenLogprob,
};
use bench_core::chat::Message;
use bench_core::dataset::Sample;
use bench_core::record::Verdict;
use bench_core::spec::{Judge, Scorer as Spec, Shown};
use bench_core::template::ContextPassage;
use bench_run::score::report_card::{
    Count, order_consistency, prefers_longer, self_consistency, unscored,
};
use bench_run::score::{
    PairJudge, Preference, RubricJudge, Scorer, ScorerContext, abstention, build, functional,
};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/score").join(name)
}

fn spec(name: &str) -> Spec {
    serde_json::from_value(json!({ name: {} })).unwrap()
}

fn sample(reference: &str) -> Sample {
    Sample { id: "s".into(), input: "q".into(), reference: reference.into(), ..Sample::default() }
}

fn unanswerable() -> Sample {
    let mut sample = sample("not stated");
    sample.meta.insert("answerable".into(), json!(false));
    sample
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn verdict_in(spec: &Spec, context: &ScorerContext, sample: &Sample, answer: &str) -> Verdict {
    wait(build(spec, context).unwrap().score(sample, answer)).unwrap()
}

fn verdict(spec: &Spec, sample: &Sample, answer: &str) -> Verdict {
    verdict_in(spec, &ScorerContext::default(), sample, answer)
}

#[track_caller]
fn check(spec: &Spec, sample: &Sample, answer: &str, expect: f64) {
    let verdict = verdict(spec, sample, answer);
    let value = verdict.value().unwrap_or_else(|| panic!("{answer}: {verdict:?}"));
    assert!((value - expect).abs() < 1e-9, "{answer}: {verdict:?}, not {expect}");
}

#[track_caller]
fn check_unscored(verdict: &Verdict, reason: &str) {
    assert!(
        matches!(verdict, Verdict::Unscored { reason: why } if why.contains(reason)),
        "{verdict:?}"
    );
}

#[test]
fn text_scores_are_those_of_the_reference_implementations() {
    let figures = std::fs::read_to_string(fixture("figures.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&figures).unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let mut references: Vec<String> =
            serde_json::from_value(case["references"].clone()).unwrap();
        let mut sample = sample(&references.remove(0));
        sample.aliases = references;
        let answer = case["answer"].as_str().unwrap();
        for name in ["exact_match", "token_f1", "rouge_l"] {
            check(&spec(name), &sample, answer, case[name].as_f64().unwrap());
        }
        for name in ["chrf", "bleu"] {
            check(&spec(name), &sample, answer, case[name].as_f64().unwrap() / 100.0);
        }
    }
}

mod text {
    use super::*;

    #[test]
    fn exact_match_normalises_unless_told_not_to() {
        let raw = Spec::ExactMatch { normalize: false };
        check(&spec("exact_match"), &sample("Paris"), "the paris!", 1.0);
        check(&raw, &sample("Paris"), " Paris\n", 1.0);
        check(&raw, &sample("Paris"), "paris", 0.0);
    }

    #[test]
    fn a_reference_that_is_an_article_is_not_silence() {
        check(&spec("exact_match"), &sample("A"), "a", 1.0);
        check(&spec("exact_match"), &sample("A"), "", 0.0);
        check(&spec("exact_match"), &sample("A"), "the", 0.0);
        check(&spec("contains"), &sample("A"), "B", 0.0);
        check(&spec("token_f1"), &sample("A"), "", 0.0);
    }

    #[test]
    fn an_alias_is_as_right_as_the_reference() {
        let usa = Sample { aliases: vec!["USA".into()], ..sample("United States") };
        for name in ["exact_match", "contains", "token_f1", "rouge_l", "chrf", "classification"] {
            check(&spec(name), &usa, "USA", 1.0);
        }
    }

    #[test]
    fn contains_keeps_to_word_boundaries() {
        check(&spec("contains"), &sample("art"), "It is art.", 1.0);
        check(&spec("contains"), &sample("art"), "a party", 0.0);
        check(&spec("contains"), &sample("New York"), "In New  York, I think", 1.0);
        check(&spec("contains"), &sample("12"), "It took 112 days", 0.0);
    }

    #[test]
    fn an_empty_answer_is_wrong_and_scored() {
        let scorers =
            ["exact_match", "contains", "token_f1", "rouge_l", "chrf", "bleu", "classification"];
        for name in scorers.into_iter().chain(["numeric", "functional", "json_schema"]) {
            let reference = match name {
                "functional" => "f(a[b])",
                _ => "7",
            };
            check(&spec(name), &sample(reference), "", 0.0);
        }
    }

    #[test]
    fn a_reference_without_words_is_unscored_by_rouge() {
        check_unscored(&verdict(&spec("rouge_l"), &sample("?!"), "what"), "no word");
        check_unscored(&verdict(&spec("bleu"), &sample("<skipped>"), "what"), "no word");
    }

    #[test]
    fn the_expression_is_searched_for_in_the_answer() {
        let year = Spec::Regex { pattern: r"\b(19|20)\d\d\b".into() };
        check(&year, &sample("x"), "built in 1998.", 1.0);
        check(&year, &sample("x"), "built in 998", 0.0);
    }

    #[test]
    fn an_expression_that_does_not_compile_is_named() {
        let broken = Spec::Regex { pattern: "(".into() };
        let Err(error) = build(&broken, &ScorerContext::default()) else { panic!("it was built") };
        assert!(error.contains("`(`"), "{error}");
        assert_eq!(bench_run::score::check(&broken, &[sample("x")]).len(), 1);
    }

    #[test]
    fn a_label_sheds_case_and_what_stands_around_it() {
        check(&spec("classification"), &sample("card_arrival"), " **Card_Arrival**.", 1.0);
        check(&spec("classification"), &sample("card_arrival"), "card arrival", 0.0);
        check(&spec("classification"), &sample("c"), "c++", 0.0);
        check(&spec("classification"), &sample("yes"), "yes, I think", 0.0);
    }
}

mod abstaining {
    use super::*;

    #[test]
    fn declining_is_right_exactly_when_there_is_no_answer() {
        let abstained = spec("abstained");
        for declined in [
            "not stated",
            "Not stated.",
            "I don't know.",
            "I don’t know the answer",
            "Unknown",
            "N/A",
            "",
            "I'm sorry. I do not know.",
            "The answer cannot be found in the given text.",
            "The document does not mention his age.",
            "The context doesn't explicitly state this.",
            "There is no information about this.",
            "Unfortunately, it is not specified",
            "It is impossible to determine the date.",
            "I cannot find this in the text.",
            "The birth date is unknown.",
            "Section 3.2 does not state the rent.",
        ] {
            check(&abstained, &unanswerable(), declined, 1.0);
            check(&abstained, &sample("42"), declined, 0.0);
        }
        for attempted in [
            "42",
            "Coffee does not contain gluten.",
            "The unknown soldier",
            "It is 42. The source is not stated.",
            "The feature is not available on Linux.",
            "There is no evidence that it works.",
            "You cannot find peace by avoiding life.",
            "No.",
        ] {
            check(&abstained, &unanswerable(), attempted, 0.0);
            check(&abstained, &sample("42"), attempted, 1.0);
        }
    }

    #[test]
    fn an_answer_that_is_right_does_not_decline() {
        check(&spec("abstained"), &sample("unknown"), "Unknown.", 1.0);
    }

    #[test]
    fn the_sets_own_wording_counts_for_all_its_samples() {
        let own = Sample { reference: "keine Angabe".into(), ..unanswerable() };
        let context =
            ScorerContext { abstentions: abstention::phrases(&[own]), ..ScorerContext::default() };
        let verdict = verdict_in(&spec("abstained"), &context, &sample("42"), "Keine Angabe.");
        assert_eq!(verdict.value(), Some(0.0));
    }

    #[test]
    fn an_unanswerable_sample_is_answered_by_declining() {
        for name in ["contains", "token_f1", "numeric"] {
            check(&spec(name), &unanswerable(), "The text does not say how many.", 1.0);
            check(&spec(name), &unanswerable(), "7", 0.0);
        }
        check(&spec("exact_match"), &unanswerable(), "I don't know.", 1.0);
        check(&spec("exact_match"), &unanswerable(), "The text does not say how many.", 0.0);
    }

    #[test]
    fn declining_an_answerable_sample_is_wrong() {
        for name in ["exact_match", "contains", "token_f1", "numeric"] {
            check(&spec(name), &sample("7"), "not stated", 0.0);
        }
    }
}

mod numbers {
    use super::*;

    #[track_caller]
    fn check_within(tolerance: f64, reference: &str, answer: &str, right: bool) {
        let spec = Spec::Numeric { tolerance };
        check(&spec, &sample(reference), answer, f64::from(u8::from(right)));
    }

    #[test]
    fn the_last_number_decides() {
        check_within(0.0, "72", "48 + 24 = 72.", true);
        check_within(0.0, "72", "72 is 48 + 24", false);
        check_within(0.0, "1,200", "$1200.00", true);
        check_within(0.0, "5", "The steps are 3. #### 5\nChecked 2 times.", true);
    }

    #[test]
    fn a_percent_sign_on_one_side_is_forgiven() {
        check_within(0.0, "12", "12%", true);
        check_within(0.0, "0.12", "12 %", true);
        check_within(0.0, "12%", "0.12", true);
        check_within(0.0, "12%", "12", true);
        check_within(0.0, "0.12%", "12%", false);
    }

    #[test]
    fn the_tolerance_is_a_decimal_distance() {
        check_within(0.1, "0.2", "0.3", true);
        check_within(0.1, "0.2", "0.31", false);
        check_within(0.0, "1000000000", "1000000001", false);
    }

    #[test]
    fn references_without_a_number_are_found_before_the_run() {
        let numeric = Spec::Numeric { tolerance: 0.0 };
        let problems =
            bench_run::score::check(&numeric, &[sample("many"), sample("7"), unanswerable()]);
        assert_eq!(problems, ["sample `s`: the reference `many` holds no number"]);
    }

    #[test]
    fn a_negative_tolerance_is_refused() {
        let spec = Spec::Numeric { tolerance: -1.0 };
        assert!(build(&spec, &ScorerContext::default()).is_err());
    }
}

mod choosing {
    use super::*;

    fn organs(reference: &str) -> Sample {
        let choices = ["Gallbladder", "Kidney", "Liver", "A spleen"].map(String::from).to_vec();
        Sample { choices, ..sample(reference) }
    }

    #[test]
    fn letter_and_text_name_a_choice() {
        for answer in [
            "C",
            "c.",
            "(C)",
            "**C**",
            "C. Liver",
            "C because of the bile",
            "Liver",
            "liver.",
            "The answer is C.",
            "The answer is (C).",
            "Answer: C",
            "A) is wrong, B) is wrong. So the correct answer is C",
            "It is the liver, of course.",
            "Not the kidney. The answer is the liver",
            "I would take the last but one (C)",
            "Not the spleen; the answer is the liver",
            "The Answer is **C**: it makes bile",
        ] {
            check(&spec("choice"), &organs("C"), answer, 1.0);
            check(&spec("choice"), &organs("Liver"), answer, 1.0);
            check(&spec("choice"), &organs("B"), answer, 0.0);
        }
    }

    #[test]
    fn an_answer_that_names_none_or_several_is_wrong() {
        for answer in ["", "A thing in the body", "I cannot say", "Kidney or liver", "Z", "E."] {
            check(&spec("choice"), &organs("C"), answer, 0.0);
            check(&spec("choice"), &organs("A"), answer, 0.0);
        }
    }

    #[test]
    fn the_longer_of_two_nested_choices_is_meant() {
        let palate = Sample {
            choices: vec!["hard palate".into(), "hard palate and lip".into()],
            ..sample("B")
        };
        check(&spec("choice"), &palate, "Look at the hard palate and lip first.", 1.0);
    }

    #[test]
    fn punctuation_tells_numbers_and_formulas_apart() {
        let nanoseconds =
            Sample { choices: vec!["42 ns".into(), "4.2 ns".into()], ..sample("4.2 ns") };
        check(&spec("choice"), &nanoseconds, "The time is 4.2 ns.", 1.0);
        check(&spec("choice"), &nanoseconds, "The time is 42 ns.", 0.0);
        let rate = Sample { choices: vec!["r = k [A]".into(), "r = k".into()], ..sample("r = k") };
        check(&spec("choice"), &rate, "The correct answer is r = k", 1.0);
    }

    #[test]
    fn references_that_are_no_choice_are_found_before_the_run() {
        let problems =
            bench_run::score::check(&spec("choice"), &[organs("E"), sample("A"), organs("D")]);
        assert_eq!(
            problems,
            [
                "sample `s`: the reference `E` is neither a choice nor its letter",
                "sample `s`: `choices` holds 0; give 2 to 26",
            ]
        );
    }
}

mod structures {
    use super::*;

    #[test]
    fn json_is_scored_field_by_field() {
        let reference = sample(r#"{"name": "Ada", "born": 1815, "tags": ["x", "y"]}"#);
        let json = spec("json_schema");
        check(&json, &reference, r#"{"tags":["x","y"],"born":1815.0,"name":"Ada"}"#, 1.0);
        check(&json, &reference, "```json\n{\"name\": \"Ada\", \"born\": 1815}\n```", 2.0 / 3.0);
        check(&json, &reference, r#"{"name": "Ada", "born": "1815", "tags": ["x", "y"]}"#, 0.75);
        check(&json, &reference, r#"{"name": "Ada""#, 0.0);
        check(&json, &reference, "Ada", 0.0);
        check(&json, &sample(r#"{"a": "```b```"}"#), r#"{"a": "```b```"}"#, 1.0);
    }

    #[test]
    fn json_that_the_schema_refuses_is_worth_nothing_and_says_why() {
        let schema = r#"{"type": "object", "properties": {"born": {"type": "integer"}}}"#;
        let context =
            ScorerContext { schema_text: Some(schema.into()), ..ScorerContext::default() };
        let reference = sample(r#"{"born": 1815}"#);
        let good = verdict_in(&spec("json_schema"), &context, &reference, r#"{"born": 1815}"#);
        assert_eq!(good.value(), Some(1.0));
        let bad = verdict_in(&spec("json_schema"), &context, &reference, r#"{"born": "x"}"#);
        let Verdict::Scored { value, reason, .. } = bad else { panic!("unscored") };
        assert!(value == 0.0 && reason.unwrap().contains("/born"));
    }

    #[test]
    fn a_broken_or_remote_schema_is_refused() {
        for schema in ["{", r#"{"type": 5}"#, r#"{"$ref": "https://example.org/schema.json"}"#] {
            let context =
                ScorerContext { schema_text: Some(schema.into()), ..ScorerContext::default() };
            assert!(build(&spec("json_schema"), &context).is_err(), "{schema}");
        }
    }

    #[test]
    fn a_form_is_scored_by_its_parts() {
        let form = spec("functional");
        let reference = sample("inform(name[Tetris], genres[puzzle, arcade])");
        check(&form, &reference, "Inform( genres[ Arcade,  puzzle ],name[tetris] )", 1.0);
        check(&form, &reference, "The form is: inform(name[Tetris], genres[puzzle, arcade]).", 1.0);
        check(&form, &reference, "I chose (see below) inform(name[Tetris], genres[arcade])", 0.8);
        check(&form, &reference, "inform(name[Tetris])", 6.0 / 8.0);
        check(&form, &reference, "confirm(name[Tetris], genres[puzzle, arcade])", 0.8);
        check(&form, &reference, "inform(name[Tetris], genres[puzz", 0.0);
        check(&form, &reference, "Tetris is a puzzle", 0.0);
        check(&form, &sample("request(specifier[])"), "request(specifier)", 1.0);
        check(&form, &sample("f(a[x [y] (z)])"), "f(a[x [y] (z)])", 1.0);
    }

    #[test]
    fn the_parts_of_a_form_are_told_apart() {
        let reference = "inform(name[Tetris], genres[puzzle])";
        let parts = functional::parts(reference, "confirm(name[Tetris], genres[arcade])").unwrap();
        assert_eq!(
            (parts.function, parts.attributes, parts.values, parts.whole),
            (0.0, 1.0, 0.5, 0.0)
        );
        let whole = functional::parts(reference, reference).unwrap();
        assert_eq!((whole.function, whole.whole), (1.0, 1.0));
        assert_eq!(functional::parts(reference, "no"), Some(functional::Parts::default()));
        assert_eq!(functional::parts("no form", "f()"), None);
    }

    #[track_caller]
    fn check_parts(verdict: &Verdict, expect: &[(&str, f64)]) {
        let expect: BTreeMap<String, f64> =
            expect.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        assert_eq!(*verdict.parts(), expect, "{verdict:?}");
    }

    #[test]
    fn a_form_s_verdict_keeps_its_parts_those_of_the_best_accepted_answer() {
        let form = spec("functional");
        let mut reference = sample("inform(name[Tetris], genres[puzzle])");
        let answer = "confirm(name[Tetris], genres[arcade])";
        let of = |function, names, values, whole| {
            [
                ("function_name", function),
                ("attribute_names", names),
                ("attribute_values", values),
                ("whole_match", whole),
            ]
        };
        check_parts(&verdict(&form, &reference, answer), &of(0.0, 1.0, 0.5, 0.0));
        reference.aliases = vec![answer.into()];
        check_parts(&verdict(&form, &reference, answer), &of(1.0, 1.0, 1.0, 1.0));
        check_parts(&verdict(&form, &reference, "no form"), &of(0.0, 0.0, 0.0, 0.0));
        check_parts(&verdict(&form, &sample("words"), answer), &[]);
    }

    #[test]
    fn json_s_verdict_keeps_whether_it_is_valid_and_f1_of_every_field() {
        let reference = sample(r#"{"name": "Ada", "tags": ["x", "y"]}"#);
        let other = sample(r#"{"born": 1815}"#);
        let context = ScorerContext {
            schema_text: Some(r#"{"properties": {"name": {"type": "string"}}}"#.into()),
            json_fields: bench_run::score::json_fields(&[reference.clone(), other]),
            ..ScorerContext::default()
        };
        let told = |answer: &str| verdict_in(&spec("json_schema"), &context, &reference, answer);
        let of = |valid, all, whole, name, tags| {
            vec![
                ("valid", valid),
                ("field_f1", all),
                ("whole_match", whole),
                ("field_f1/name", name),
                ("field_f1/tags", tags),
            ]
        };
        let right = r#"{"name": "Ada", "tags": ["x", "y"]}"#;
        check_parts(&told(right), &of(1.0, 1.0, 1.0, 1.0, 1.0));
        check_parts(&told("Ada"), &of(0.0, 0.0, 0.0, 0.0, 0.0));
        // A schema that refuses the answer makes it worth nothing; its fields are still looked at.
        let refused = told(r#"{"name": 7, "tags": ["x", "y"]}"#);
        assert_eq!(refused.value(), Some(0.0));
        check_parts(&refused, &of(0.0, 2.0 / 3.0, 0.0, 0.0, 1.0));
        // A field of other references is a false alarm here; one of no reference has no row.
        let invented = told(r#"{"name": "Ada", "tags": ["x", "y"], "born": 1, "age": 2}"#);
        let mut expect = of(1.0, 0.75, 0.0, 1.0, 1.0);
        expect.push(("field_f1/born", 0.0));
        check_parts(&invented, &expect);
    }

    #[test]
    fn references_of_another_form_are_found_before_the_run() {
        for name in ["json_schema", "functional", "sql_execution"] {
            let spec = match name {
                "sql_execution" => Spec::SqlExecution { database: "x.sqlite".into() },
                _ => spec(name),
            };
            let problems = bench_run::score::check(&spec, &[sample("plain words")]);
            assert!(problems[0].starts_with("sample `s`: the reference"), "{problems:?}");
        }
    }

    #[test]
    fn no_answer_makes_a_parser_panic() {
        let odd =
            ["(", "f(", "f(a[", "f(a]", "[[", "{", "é(ü[ß])", "####", "```", "f(,)", "%", "-", "'"];
        let reference = Sample { choices: vec!["x".into(), "y".into()], ..sample("f(a[7])") };
        for answer in odd {
            for name in ["functional", "json_schema", "choice", "numeric", "abstained", "chrf"] {
                let _verdict = verdict(&spec(name), &reference, answer);
            }
        }
    }
}

mod sql {
    use super::*;

    struct Database {
        folder: tempfile::TempDir,
    }

    impl Database {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let connection = rusqlite::Connection::open(folder.path().join("shop.sqlite")).unwrap();
            connection
                .execute_batch(
                    "CREATE TABLE item (name TEXT, price REAL, stock INTEGER);
                     INSERT INTO item VALUES ('pen', 1.5, 3), ('cup', 4, 0), ('mug', 4.0, NULL);",
                )
                .unwrap();
            std::fs::write(
                folder.path().join("broken.sqlite"),
                "no database at all, but longer than its header would be",
            )
            .unwrap();
            Self { folder }
        }

        fn verdict(&self, database: &str, reference: &Sample, answer: &str) -> Verdict {
            let context =
                ScorerContext { folder: self.folder.path().to_owned(), ..ScorerContext::default() };
            let spec = Spec::SqlExecution { database: database.into() };
            verdict_in(&spec, &context, reference, answer)
        }

        #[track_caller]
        fn check(&self, reference: &str, answer: &str, expect: f64) {
            let verdict = self.verdict("shop.sqlite", &sample(reference), answer);
            assert_eq!(verdict.value(), Some(expect), "{answer}: {verdict:?}");
        }
    }

    #[test]
    fn rows_are_compared_as_a_multiset() {
        let shop = Database::new();
        let names = "SELECT name FROM item";
        shop.check(names, "select name from item order by name desc;", 1.0);
        shop.check(names, "Here it is:\n```sql\nSELECT name FROM item -- all\n```", 1.0);
        shop.check(names, "```SELECT name FROM item``` is\nit", 1.0);
        shop.check(names, "WITH x AS (SELECT name FROM item) SELECT * FROM x", 1.0);
        shop.check(names, "SELECT name FROM item UNION ALL SELECT 'pen'", 0.0);
        shop.check(names, "SELECT name FROM item WHERE stock > 0", 0.0);
        shop.check("SELECT stock FROM item", "SELECT stock * 1.0 FROM item", 1.0);
        shop.check("SELECT '4'", "SELECT 4", 0.0);
        shop.check("SELECT 0.1 + 0.2", "SELECT 0.3", 1.0);
    }

    #[test]
    fn order_counts_where_the_reference_or_the_sample_asks_for_it() {
        let shop = Database::new();
        let by_name = "SELECT name FROM item ORDER BY name";
        shop.check(by_name, "SELECT name FROM item ORDER BY name ASC", 1.0);
        shop.check(by_name, "SELECT name FROM item ORDER BY name DESC", 0.0);
        let mut unordered = sample(by_name);
        unordered.meta.insert("ordered".into(), json!(false));
        let answer = "SELECT name FROM item ORDER BY name DESC";
        assert_eq!(shop.verdict("shop.sqlite", &unordered, answer).value(), Some(1.0));
    }

    #[test]
    fn anything_but_one_select_is_wrong_and_never_run() {
        let shop = Database::new();
        let path = shop.folder.path().join("shop.sqlite");
        let before = std::fs::read(&path).unwrap();
        let target = shop.folder.path().join("made.sqlite");
        for answer in [
            "DELETE FROM item",
            "DROP TABLE item",
            "SELECT 1; DROP TABLE item",
            "SELECT 1; SELECT 2",
            "WITH x AS (SELECT 1) DELETE FROM item",
            "PRAGMA user_version = 7",
            "EXPLAIN SELECT 1",
            "VALUES (1)",
            "SELECT * FROM pragma_table_info('item')",
            "SELECT load_extension('x')",
            &format!("ATTACH '{}' AS made", target.display()),
            &format!("VACUUM INTO '{}'", target.display()),
            "BEGIN",
            "",
            "I cannot answer that",
        ] {
            shop.check("SELECT 1", answer, 0.0);
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(!target.exists());
    }

    #[test]
    fn a_query_without_end_is_stopped() {
        let shop = Database::new();
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) ";
        for tail in ["SELECT count(*) FROM n", "SELECT i FROM n"] {
            let verdict =
                shop.verdict("shop.sqlite", &sample("SELECT 1"), &format!("{endless}{tail}"));
            let Verdict::Scored { value, reason, .. } = verdict else { panic!("unscored") };
            assert!(value == 0.0 && reason.unwrap().contains("was stopped"));
        }
        shop.check("SELECT 1", "SELECT zeroblob(1000000000)", 0.0);
    }

    #[test]
    fn a_wrong_query_says_what_the_database_said() {
        let shop = Database::new();
        let verdict = shop.verdict("shop.sqlite", &sample("SELECT 1"), "SELECT colour FROM item");
        let Verdict::Scored { reason: Some(reason), .. } = verdict else { panic!("no reason") };
        assert!(reason.contains("no such column"), "{reason}");
    }

    #[test]
    fn a_missing_or_broken_database_leaves_the_sample_unscored() {
        let shop = Database::new();
        let one = sample("SELECT 1");
        check_unscored(&shop.verdict("absent.sqlite", &one, "SELECT 1"), "no such file");
        let named = sample("SELECT name FROM item");
        check_unscored(&shop.verdict("broken.sqlite", &named, "SELECT 1"), "not a database");
        check_unscored(&shop.verdict("{db}.sqlite", &one, "SELECT 1"), "meta.db");
        let gold = sample("SELECT gone FROM item");
        check_unscored(&shop.verdict("shop.sqlite", &gold, "SELECT 1"), "the reference query");
    }

    #[test]
    fn the_sample_names_its_database() {
        let shop = Database::new();
        let mut one = sample("SELECT count(*) FROM item");
        one.meta.insert("db".into(), json!("shop"));
        assert_eq!(shop.verdict("{db}.sqlite", &one, "SELECT 3").value(), Some(1.0));
    }

    #[test]
    fn a_folder_that_is_not_there_is_refused_at_once() {
        let spec = Spec::SqlExecution { database: "nowhere/{db}.sqlite".into() };
        let Err(error) = build(&spec, &ScorerContext::default()) else { panic!("it was built") };
        assert!(error.contains("nowhere/{db}.sqlite"), "{error}");
    }
}

mod similarity {
    use super::*;

    /// Counts the letters a, b and c.
    struct Letters;

    impl Embedder for Letters {
        fn id(&self) -> &'static str {
            "letters"
        }
        fn dimension(&self) -> usize {
            3
        }
        fn window(&self) -> usize {
            100
        }
        fn count_tokens(&self, text: &str) -> usize {
            text.len()
        }
        fn embed(&self, _: Purpose, texts: &[String]) -> Result<Vec<Vec<f32>>, BackendError> {
            if texts.iter().any(|text| text.contains("fatal")) {
                return Err(BackendError::fatal("letters", "gone"));
            }
            if texts.iter().any(|text| text.contains("rejected")) {
                return Err(BackendError::rejected("letters", "too long"));
            }
            let count = |text: &String, letter| text.matches(letter).count() as f32;
            Ok(texts.iter().map(|text| ['a', 'b', 'c'].map(|c| count(text, c)).to_vec()).collect())
        }
    }

    fn scorer() -> Box<dyn Scorer> {
        let context =
            ScorerContext { embedder: Some(Arc::new(Letters)), ..ScorerContext::default() };
        build(&spec("embedding_similarity"), &context).unwrap()
    }

    #[test]
    fn the_closest_accepted_answer_counts() {
        let either = Sample { aliases: vec!["ab".into()], ..sample("c") };
        let value = |answer: &str| wait(scorer().score(&either, answer)).unwrap().value().unwrap();
        assert!((value("aabb") - 1.0).abs() < 1e-9);
        assert!((value("a") - 0.5_f64.sqrt()).abs() < 1e-6);
        assert!(value(" ").abs() < 1e-9);
    }

    #[test]
    fn only_a_fatal_failure_stops_the_run() {
        assert!(wait(scorer().score(&sample("a"), "fatal")).is_err());
        let verdict = wait(scorer().score(&sample("a"), "rejected")).unwrap();
        check_unscored(&verdict, "too long");
        check_unscored(&wait(scorer().score(&sample("a"), "zzz")).unwrap(), "no direction");
    }

    #[test]
    fn it_needs_an_embedder() {
        assert!(build(&spec("embedding_similarity"), &ScorerContext::default()).is_err());
    }
}

mod judging {
    use super::*;

    /// Says what it is told to, in turn, and keeps what it was asked.
    #[derive(Default)]
    struct Told {
        replies: Vec<Completion>,
        asked: Mutex<Vec<Request>>,
    }

    #[async_trait]
    impl Generator for Told {
        fn id(&self) -> &'static str {
            "told"
        }
        fn count_tokens(&self, _: &[Message]) -> Result<Option<u32>, BackendError> {
            Ok(None)
        }
        async fn generate(&self, request: &Request) -> Result<Completion, BackendError> {
            let mut asked = self.asked.lock().unwrap();
            asked.push(request.clone());
            let reply = self.replies[(asked.len() - 1) % self.replies.len()].clone();
            match reply.text.as_str() {
                "!fatal" => Err(BackendError::fatal("told", "gone")),
                "!transient" => Err(BackendError::transient("told", "busy")),
                _ => Ok(reply),
            }
        }
    }

    fn reply(text: &str) -> Completion {
        Completion { text: text.into(), finish: "stop".into(), ..Completion::default() }
    }

    fn told(replies: &[&str]) -> Arc<Told> {
        let replies = replies.iter().map(|text| reply(text)).collect();
        Arc::new(Told { replies, ..Told::default() })
    }

    fn settings(grades: &[u32]) -> Judge {
        let spec = json!({ "model": "m", "rubric": "r", "grades": grades });
        serde_json::from_value(spec).unwrap()
    }

    const RUBRIC: &str = "1: wrong. 5: right.";

    fn judge(generator: &Arc<Told>) -> RubricJudge {
        let generator = Arc::clone(generator);
        RubricJudge::new(&settings(&[1, 2, 3, 4, 5]), RUBRIC.into(), generator)
    }

    fn judged(said: &str) -> Verdict {
        wait(judge(&told(&[said])).score(&sample("Paris"), "Lyon")).unwrap()
    }

    #[track_caller]
    fn check_grade(said: &str, value: f64, reason: &str) {
        let expect = Verdict::explained(value, Some(reason.into()));
        assert_eq!(judged(said), expect);
    }

    #[test]
    fn a_grade_is_its_place_on_the_scale() {
        check_grade(r#"{"reason": "right", "grade": 5}"#, 1.0, "5: right");
        check_grade(r#"{"reason": "wrong", "grade": 1}"#, 0.0, "1: wrong");
        check_grade("```json\n{\"reason\": \"so\", \"grade\": \"2\"}\n```", 0.25, "2: so");
        check_grade("<think>{grade 5?}</think> {\"grade\": 4}", 0.75, "4: ");
    }

    #[test]
    fn a_reply_without_a_grade_on_the_scale_is_unscored_and_shown() {
        let long = "word ".repeat(100);
        let wide = r#"{"reason": "x", "grade": 6}"#;
        let half = r#"{"reason": "x", "grade": 2.5}"#;
        for said in ["5", "Grade: 5", wide, half, r#"{"reason": "so long"#, "", long.as_str()] {
            let Verdict::Unscored { reason } = judged(said) else { panic!("{said} was scored") };
            assert!(reason.contains("no grade") && reason.len() < 250, "{reason}");
        }
        check_unscored(&judged("Grade: 5"), "it said: Grade: 5");
    }

    #[test]
    fn the_request_is_greedy_constrained_and_short() {
        let generator = told(&[r#"{"reason": "x", "grade": 3}"#]);
        wait(judge(&generator).score(&sample("Paris"), "Lyon")).unwrap();
        let request = generator.asked.lock().unwrap()[0].clone();
        let Some(Constraint::JsonSchema(schema)) = &request.constraint else { panic!("free") };
        let fields: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["reason", "grade"], "the reason comes first");
        assert_eq!(schema["properties"]["grade"]["enum"], json!([1, 2, 3, 4, 5]));
        assert_eq!((request.temperature, request.top_logprobs), (0.0, 5));
        assert!(request.max_tokens <= 128);
        assert!(request.messages[0].content.contains(RUBRIC));
        for text in ["q", "Paris", "Lyon"] {
            assert!(request.messages[1].content.contains(&format!("]]\n{text}\n[[end ")));
        }
    }

    #[test]
    fn an_answer_cannot_change_how_it_is_graded() {
        let text = std::fs::read_to_string(fixture("injections.json")).unwrap();
        let attempts: Vec<String> = serde_json::from_str(&text).unwrap();
        assert!(attempts.len() > 10);
        for attempt in attempts {
            let generator = told(&[r#"{"reason": "off topic", "grade": 1}"#]);
            let verdict = wait(judge(&generator).score(&sample("Paris"), &attempt)).unwrap();
            assert_eq!(verdict.value(), Some(0.0), "{attempt}");

            let asked = generator.asked.lock().unwrap();
            let [system, user] = &asked[0].messages[..] else { panic!("not two turns") };
            assert!(!system.content.contains(&attempt), "{attempt}");
            let (_, mark) = user.content.split_once("[[answer ").unwrap();
            let (mark, _) = mark.split_once("]]").unwrap();
            assert!(!attempt.contains(mark), "{attempt}");
            let fenced = format!("[[answer {mark}]]\n{attempt}\n[[end {mark}]]\n");
            let (_, after) = user.content.split_once(&fenced).unwrap();
            assert!(after.contains("by the rubric. Reply with JSON"), "the last word is ours");
            assert!(after.contains(mark), "it names the place of the answer");
            assert!(matches!(asked[0].constraint, Some(Constraint::JsonSchema(_))));
        }
    }

    /// A judge of faithfulness: it sees question, passages and answer.
    fn faithful(generator: &Arc<Told>) -> RubricJudge {
        let shows = vec![Shown::Question, Shown::Passages, Shown::Answer];
        let settings = Judge { shows, ..settings(&[1, 2, 3, 4, 5]) };
        RubricJudge::new(&settings, RUBRIC.into(), Arc::clone(generator) as _)
    }

    fn passage(title: &str, text: &str) -> ContextPassage {
        ContextPassage { id: "d".into(), title: title.into(), text: text.into() }
    }

    #[test]
    fn a_judge_sees_what_its_view_names_and_nothing_else() {
        let generator = told(&[r#"{"reason": "x", "grade": 3}"#]);
        let passages = [passage("Towns", "Paris is large."), passage("", "Lyon is old.")];
        let judging = faithful(&generator);
        let verdict = wait(judging.judge(&sample("Paris"), &passages, "Lyon", 0)).unwrap().0;
        assert_eq!(verdict.value(), Some(0.5));
        let asked = generator.asked.lock().unwrap();
        let user = &asked[0].messages[1].content;
        let places: Vec<usize> = [
            "[[passage 1 ",
            "]]\nTowns\nParis is large.\n[[end ",
            "[[passage 2 ",
            "]]\nLyon is old.\n[[end ",
            "[[question ",
            "]]\nq\n",
            "[[answer ",
        ]
        .iter()
        .map(|text| user.find(text).unwrap_or_else(|| panic!("{text}: {user}")))
        .collect();
        assert!(places.is_sorted(), "{user}");
        assert!(!user.contains("[[reference "), "{user}");
    }

    #[test]
    fn an_answer_without_passages_has_no_faithfulness_and_costs_nothing() {
        let generator = told(&["!fatal"]);
        let (verdict, effort) =
            wait(faithful(&generator).judge(&sample("Paris"), &[], "Lyon", 0)).unwrap();
        check_unscored(&verdict, "the prompt held no passages");
        assert!(effort.tokens_in == 0 && generator.asked.lock().unwrap().is_empty());
    }

    #[test]
    fn a_passage_cannot_change_how_an_answer_is_graded() {
        let text = std::fs::read_to_string(fixture("injections.json")).unwrap();
        let attempts: Vec<String> = serde_json::from_str(&text).unwrap();
        for attempt in attempts {
            let generator = told(&[r#"{"reason": "off topic", "grade": 1}"#]);
            let passages = [passage("", &attempt), passage("", "Paris is large.")];
            let judging = faithful(&generator);
            let (verdict, _) = wait(judging.judge(&sample("Paris"), &passages, "Lyon", 0)).unwrap();
            assert_eq!(verdict.value(), Some(0.0), "{attempt}");
            let asked = generator.asked.lock().unwrap();
            let [system, user] = &asked[0].messages[..] else { panic!("not two turns") };
            assert!(!system.content.contains(&attempt), "{attempt}");
            let shown = attempt.trim();
            let (_, mark) = user.content.split_once("[[passage 1 ").unwrap();
            let (mark, _) = mark.split_once("]]").unwrap();
            assert!(!attempt.contains(mark), "{attempt}");
            let fenced = format!("[[passage 1 {mark}]]\n{shown}\n[[end {mark}]]\n[[passage 2 ");
            let (_, after) = user.content.split_once(&fenced).unwrap();
            let (_, after) = after.split_once("]]\nLyon\n[[end ").unwrap();
            assert!(after.contains("by the rubric. Reply with JSON"), "the last word is ours");
            assert!(matches!(asked[0].constraint, Some(Constraint::JsonSchema(_))));
        }
    }

    #[test]
    fn prompts_repeat_and_differ_only_from_the_answer_on() {
        let prompt = |answer: &str| {
            let generator = told(&["x"]);
            wait(judge(&generator).score(&sample("Paris"), answer)).unwrap();
            let asked = generator.asked.lock().unwrap();
            asked[0].messages.clone()
        };
        assert_eq!(prompt("Lyon"), prompt("Lyon"));
        let (lyon, nice) = (prompt("Lyon"), prompt("Nice"));
        assert_eq!(lyon[0], nice[0]);
        let cut = |message: &Message| {
            let (shared, own) = message.content.split_once("[[answer ").unwrap();
            (shared.to_owned(), own[..12].to_owned())
        };
        let ((lyon, lyon_mark), (nice, nice_mark)) = (cut(&lyon[1]), cut(&nice[1]));
        assert_eq!(lyon, nice);
        assert_ne!(lyon_mark, nice_mark);
    }

    #[test]
    fn probabilities_of_the_grade_make_an_expected_grade() {
        let token = |text: &str, top: &[(&str, f64)]| TokenLogprob {
            token: text.into(),
            logprob: top.first().map_or(0.0, |(_, p)| p.ln()),
            top: top.iter().map(|(text, p)| ((*text).into(), p.ln())).collect(),
        };
        let text = r#"{"reason": "a grade 4", "grade": 4}"#;
        let with = |grade: TokenLogprob| {
            let start = token(r#"{"reason": "a grade 4", "grade":"#, &[]);
            let logprobs = vec![start, grade, token("}", &[])];
            let replies = vec![Completion { logprobs, ..reply(text) }];
            let generator = Arc::new(Told { replies, ..Told::default() });
            wait(judge(&generator).score(&sample("Paris"), "Lyon")).unwrap()
        };
        // (0.6 · 4 + 0.2 · 5 + 0.2 · 1) / 1.0 = 3.6, whatever else was possible.
        let verdict =
            with(token(" 4", &[(" 4", 0.5), ("4", 0.1), (" 5", 0.2), (" 1", 0.2), ("x", 0.3)]));
        let value = verdict.value().unwrap();
        assert!((value - 0.65).abs() < 1e-9, "{verdict:?}");
        // Without alternatives, and with a token that holds more than the grade, the grade counts.
        assert_eq!(with(token(" 4", &[])).value(), Some(0.75));
        let verdict = with(token(" 4 or", &[(" 4 or", 0.5), (" 5", 0.5)]));
        assert_eq!(verdict.value(), Some(0.75));
    }

    #[test]
    fn only_a_fatal_failure_stops_the_run() {
        assert!(wait(judge(&told(&["!fatal"])).score(&sample("x"), "y")).is_err());
        check_unscored(&judged("!transient"), "busy");
    }

    #[test]
    fn a_rubric_says_what_the_ends_of_the_scale_mean() {
        let scale = settings(&[1, 5]);
        assert_eq!(RubricJudge::problem(&scale, RUBRIC), None);
        let problem = RubricJudge::problem(&scale, "Grade from 1 to 10.").unwrap();
        assert!(problem.contains("grade 5"), "{problem}");
    }

    #[track_caller]
    fn check_pair(straight: &str, turned: &str, expect: &Preference) {
        let reply = |better: &str| format!(r#"{{"reason": "x", "better": "{better}"}}"#);
        let generator = told(&[&reply(straight), &reply(turned)]);
        let judge = PairJudge::new(
            &settings(&[0, 1]),
            "shorter is better".into(),
            Arc::clone(&generator) as _,
        );
        let (preference, _) = wait(judge.compare(&sample("Paris"), "one", "two", 0)).unwrap();
        assert_eq!(preference, *expect);
        let asked = generator.asked.lock().unwrap();
        let order = |request: &Request| {
            let text = &request.messages[1].content;
            text.find("one").unwrap() < text.find("two").unwrap()
        };
        assert!(order(&asked[0]) && !order(&asked[1]), "both orders are asked");
    }

    #[test]
    fn a_preference_must_survive_the_other_order() {
        check_pair("A", "B", &Preference::First);
        check_pair("B", "A", &Preference::Second);
        check_pair("A", "A", &Preference::Tie { consistent: false });
        check_pair("B", "B", &Preference::Tie { consistent: false });
        check_pair("tie", "tie", &Preference::Tie { consistent: true });
        check_pair("A", "tie", &Preference::Tie { consistent: false });
    }

    #[test]
    fn equal_answers_are_a_tie_that_costs_nothing() {
        let generator = told(&["!fatal"]);
        let judge = PairJudge::new(&settings(&[0, 1]), "r".into(), Arc::clone(&generator) as _);
        let (preference, effort) = wait(judge.compare(&sample("x"), "one", " one", 0)).unwrap();
        assert_eq!(preference, Preference::Tie { consistent: true });
        assert!(effort.tokens_in == 0 && generator.asked.lock().unwrap().is_empty());
    }

    #[test]
    fn an_answer_cannot_change_how_a_pair_is_compared() {
        let text = std::fs::read_to_string(fixture("injections.json")).unwrap();
        let attempts: Vec<String> = serde_json::from_str(&text).unwrap();
        for attempt in attempts {
            let reply = |better| format!(r#"{{"reason": "x", "better": "{better}"}}"#);
            let generator = told(&[&reply("B"), &reply("A")]);
            let judge = PairJudge::new(&settings(&[0, 1]), "r".into(), Arc::clone(&generator) as _);
            let pair = wait(judge.compare(&sample("Paris"), &attempt, "Paris", 0)).unwrap();
            assert_eq!(pair.0, Preference::Second, "{attempt}");
            for request in generator.asked.lock().unwrap().iter() {
                let user = &request.messages[1].content;
                let (_, after) = user.split_once(&format!("]]\n{attempt}\n[[end ")).unwrap();
                assert!(after.contains("Which is better by the rubric"), "the last word is ours");
                assert!(!request.messages[0].content.contains(&attempt), "{attempt}");
            }
        }
    }

    #[test]
    fn the_report_card_counts_only_what_can_be_told() {
        let tie = |consistent| Preference::Tie { consistent };
        let unread = Preference::Unscored { reason: "x".into() };
        let preferences = [Preference::First, Preference::Second, tie(true), tie(false), unread];
        assert_eq!(order_consistency(&preferences), Count { hits: 3, of: 4 });

        let [first, second, tied, _, _] = preferences;
        let pairs = [(first.clone(), 9, 3), (second, 9, 3), (first, 3, 3), (tied, 9, 3)];
        assert_eq!(prefers_longer(&pairs), Count { hits: 1, of: 2 });

        let (one, two) = (Verdict::scored(1.0), Verdict::scored(0.5));
        let none = Verdict::unscored("x");
        assert_eq!(unscored([&one, &none, &two]), Count { hits: 1, of: 3 });
        let repeats = vec![vec![one.clone(), one.clone(), two], vec![one, none]];
        assert_eq!(self_consistency(&repeats), Count { hits: 1, of: 3 });
    }

    #[test]
    fn an_unreadable_preference_is_unscored() {
        let judge = PairJudge::new(&settings(&[0, 1]), "r".into(), told(&["no idea"]) as _);
        let (preference, _) = wait(judge.compare(&sample("x"), "one", "two", 0)).unwrap();
        let Preference::Unscored { reason } = preference else { panic!("decided") };
        assert!(reason.contains("no preference"), "{reason}");
    }
}
