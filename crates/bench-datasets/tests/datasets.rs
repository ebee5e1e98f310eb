//! What the data sets promise, checked on the committed files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use serde_json::Value;

fn read(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets");
    fs_err::read_to_string(folder.join(file)).unwrap()
}

fn rows(file: &str) -> Vec<Value> {
    read(file).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_else(|| panic!("no text `{key}` in {row}"))
}

fn texts<'a>(row: &'a Value, key: &str) -> Vec<&'a str> {
    row[key].as_array().into_iter().flatten().map(|value| value.as_str().unwrap()).collect()
}

/// Letters and digits in lower case, one space between words, one at either end.
fn normalised(text: &str) -> String {
    let words = text.to_lowercase().replace(|c: char| !c.is_alphanumeric(), " ");
    format!(" {} ", words.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn contains_words(text: &str, words: &str) -> bool {
    normalised(text).contains(&normalised(words))
}

/// Whether the text is the pattern with something in the place of each `<slot>`.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let mut literals =
        pattern.split('<').map(|part| part.split_once('>').map_or(part, |(_, rest)| rest));
    let first = literals.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut literals: Vec<&str> = literals.collect();
    let Some(last) = literals.pop() else { return rest.is_empty() };
    for literal in literals {
        let Some((_, after)) = rest.split_once(literal) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[test]
fn a_pattern_matches_the_sentences_made_from_it_and_no_other() {
    assert!(matches("When was the <entity> built?", "When was the Haskel Bridge built?"));
    assert!(matches("<day>, wake me at <time>.", "On Friday, wake me at 7 am."));
    assert!(!matches("When was the <entity> built?", "When was the Haskel Bridge finished?"));
    assert!(!matches("Wake me at <time>.", "Please wake me at 7 am."));
}

#[test]
fn the_committed_files_are_what_the_generator_makes() {
    for file in bench_datasets::files() {
        assert!(
            read(&file.path) == file.content,
            "datasets/{} differs; run `cargo run -p bench-datasets`",
            file.path
        );
    }
}

#[test]
fn ids_are_unique_over_all_files_of_a_data_set() {
    let meridian = ["eval", "dev", "train", "corpus"].map(|s| format!("meridian/{s}.jsonl"));
    let commands = ["eval", "dev", "train"].map(|s| format!("commands/{s}.jsonl"));
    for files in [meridian.as_slice(), &commands] {
        let mut seen = HashSet::new();
        for row in files.iter().flat_map(|file| rows(file)) {
            assert!(seen.insert(text(&row, "id").to_owned()), "{row}");
        }
    }
}

#[test]
fn no_question_or_sentence_is_asked_twice_in_any_split() {
    for set in ["meridian", "commands"] {
        let mut seen = HashMap::new();
        for split in ["eval", "dev", "train"] {
            for row in rows(&format!("{set}/{split}.jsonl")) {
                let Some(input) = row["input"].as_str() else { continue };
                let before = seen.insert(normalised(input), split);
                assert!(before.is_none(), "{set}: `{input}` is in {split} and in {before:?}");
            }
        }
    }
}

/// A pattern belongs to its own input (so it is the true one) and to no input of train.
#[test]
fn no_pattern_of_eval_or_dev_occurs_in_train() {
    for set in ["meridian", "commands"] {
        let train = rows(&format!("{set}/train.jsonl"));
        let inputs: Vec<&str> = train.iter().filter_map(|row| row["input"].as_str()).collect();
        for row in ["eval", "dev"].iter().flat_map(|s| rows(&format!("{set}/{s}.jsonl"))) {
            let pattern = text(&row["meta"], "pattern");
            assert!(matches(pattern, text(&row, "input")), "{row}");
            let leak = inputs.iter().find(|input| matches(pattern, input));
            assert!(leak.is_none(), "{set}: `{pattern}` is the pattern of {leak:?}");
        }
    }
}

mod meridian {
    use super::*;

    const NOT_STATED: &str = "not stated";

    struct Document {
        title: String,
        text: String,
    }

    fn corpus() -> BTreeMap<String, Document> {
        let document = |row: &Value| Document {
            title: text(row, "title").to_owned(),
            text: text(row, "text").to_owned(),
        };
        let rows = rows("meridian/corpus.jsonl");
        rows.iter().map(|row| (text(row, "id").to_owned(), document(row))).collect()
    }

    fn questions(split: &str, kind: &str) -> Vec<Value> {
        let mut rows = rows(&format!("meridian/{split}.jsonl"));
        rows.retain(|row| row["meta"]["kind"] == kind);
        rows
    }

    /// By document: attribute and value of each fact.
    fn facts() -> BTreeMap<String, BTreeMap<String, String>> {
        let mut facts: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for row in rows("meridian/facts.jsonl") {
            let told = facts.entry(text(&row, "document").to_owned()).or_default();
            let value = text(&row, "value").to_owned();
            assert!(told.insert(text(&row, "attribute").to_owned(), value).is_none(), "{row}");
        }
        facts
    }

    #[test]
    fn there_are_80_documents_of_80_to_200_words_and_300_facts() {
        let corpus = corpus();
        assert!(corpus.len() >= 80);
        for (id, document) in &corpus {
            let n_words = document.text.split_whitespace().count();
            assert!((80..=200).contains(&n_words), "{id} has {n_words} words");
        }
        assert!(facts().values().map(BTreeMap::len).sum::<usize>() >= 300);
    }

    #[test]
    fn a_document_names_its_entity_and_tells_four_to_six_facts_and_is_fully_written() {
        let (corpus, facts) = (corpus(), facts());
        assert!(corpus.keys().eq(facts.keys()));
        for (id, Document { title, text }) in &corpus {
            assert!((4..=6).contains(&facts[id].len()), "{id}");
            assert!(contains_words(text, title), "{id} does not name `{title}`");
            assert!(!text.contains(['{', '}', '<', '>']), "{id}: {text}");
            for value in facts[id].values() {
                assert!(contains_words(text, value), "{id} does not tell `{value}`");
            }
        }
    }

    #[test]
    fn no_name_is_part_of_another() {
        let titles: Vec<_> = corpus().into_values().map(|document| document.title).collect();
        for (n, title) in titles.iter().enumerate() {
            let inside = titles
                .iter()
                .skip(n + 1)
                .find(|t| contains_words(t, title) || contains_words(title, t));
            assert!(inside.is_none(), "`{title}` and {inside:?}");
        }
    }

    #[test]
    fn eval_has_200_questions_and_dev_60_of_the_promised_kinds() {
        for (split, counts) in [("eval", [140, 40, 20]), ("dev", [42, 12, 6])] {
            let kinds = ["single_passage", "two_passages", "unanswerable"];
            assert_eq!(kinds.map(|kind| questions(split, kind).len()), counts, "{split}");
        }
    }

    #[test]
    fn a_question_names_its_entity_in_full_and_no_other() {
        let corpus = corpus();
        for row in ["eval", "dev"].iter().flat_map(|split| rows(&format!("meridian/{split}.jsonl")))
        {
            let (input, entity) = (text(&row, "input"), text(&row["meta"], "entity"));
            assert!(contains_words(input, entity), "{row}");
            let other =
                corpus.values().find(|d| d.title != entity && contains_words(input, &d.title));
            assert!(other.is_none(), "{row}");
        }
    }

    #[test]
    fn the_gold_passage_of_a_question_holds_its_answer() {
        let (corpus, facts) = (corpus(), facts());
        for row in ["eval", "dev"].iter().flat_map(|split| questions(split, "single_passage")) {
            let [gold] = texts(&row, "context_ids")[..] else { panic!("{row}") };
            let answer = text(&row, "reference");
            assert_eq!(corpus[gold].title, text(&row["meta"], "entity"));
            assert!(contains_words(&corpus[gold].text, answer), "{row}");
            assert_eq!(facts[gold][text(&row["meta"], "attribute")], answer);
        }
    }

    #[test]
    fn a_two_passage_question_needs_both_passages() {
        let (corpus, facts) = (corpus(), facts());
        for row in ["eval", "dev"].iter().flat_map(|split| questions(split, "two_passages")) {
            let [first, second] = texts(&row, "context_ids")[..] else { panic!("{row}") };
            let (link, attribute) = text(&row["meta"], "attribute").split_once('.').unwrap();
            let answer = text(&row, "reference");
            assert_eq!(facts[first][link], corpus[second].title, "{row}");
            assert_eq!(facts[second][attribute], answer, "{row}");
            assert!(contains_words(&corpus[second].text, answer), "{row}");
            assert!(!contains_words(&corpus[first].text, answer), "{row}");
            assert!(!contains_words(text(&row, "input"), &corpus[second].title), "{row}");
        }
    }

    #[test]
    fn no_document_tells_what_an_unanswerable_question_asks() {
        let (corpus, facts) = (corpus(), facts());
        for row in ["eval", "dev"].iter().flat_map(|split| questions(split, "unanswerable")) {
            let meta = &row["meta"];
            assert_eq!(text(&row, "reference"), NOT_STATED);
            assert_eq!(meta["answerable"], false);
            assert!(row.get("context_ids").is_none());
            let entity = text(meta, "entity");
            let terms = texts(meta, "absent");
            if terms.is_empty() {
                let named = corpus.iter().find(|(_, d)| contains_words(&d.text, entity));
                assert!(named.is_none(), "{row}");
            } else {
                let id = text(meta, "cluster");
                assert_eq!(corpus[id].title, entity);
                assert!(!facts[id].contains_key(text(meta, "attribute")));
                let hint = terms
                    .iter()
                    .find(|term| corpus.values().any(|d| contains_words(&d.text, term)));
                assert!(hint.is_none(), "{row}: {hint:?}");
            }
        }
    }

    #[test]
    fn dev_asks_for_other_facts_than_eval() {
        let asked = |split: &str| -> BTreeSet<_> {
            let rows = ["single_passage", "two_passages"]
                .into_iter()
                .flat_map(|kind| questions(split, kind));
            rows.map(|row| {
                let gold = (*texts(&row, "context_ids").last().unwrap()).to_owned();
                let attribute = text(&row["meta"], "attribute");
                (gold, attribute.rsplit('.').next().unwrap().to_owned())
            })
            .collect()
        };
        let (eval, dev) = (asked("eval"), asked("dev"));
        assert!(eval.is_disjoint(&dev));
        assert_eq!((eval.len(), dev.len()), (180, 54), "no fact is asked for twice");
    }

    /// The document of the one entity that a training question names.
    fn asked_about<'a>(input: &str, titles: &'a [(String, String)]) -> &'a str {
        let words = normalised(input);
        let mut named = titles.iter().filter(|(_, title)| words.contains(title));
        let (Some((id, _)), None) = (named.next(), named.next()) else { panic!("`{input}`") };
        id
    }

    #[test]
    fn train_asks_for_every_fact_in_two_wordings_and_nothing_that_needs_two_passages() {
        let (corpus, facts) = (corpus(), facts());
        let title = |(id, d): (&String, &Document)| (id.clone(), normalised(&d.title));
        let titles: Vec<_> = corpus.iter().map(title).collect();
        let mut asked: HashMap<(String, String), HashSet<String>> = HashMap::new();
        for row in rows("meridian/train.jsonl").iter().filter(|row| row.get("input").is_some()) {
            let (input, answer) = (text(row, "input"), text(row, "reference"));
            let id = asked_about(input, &titles);
            // An answer from the document of the one entity named cannot need a second document.
            let own = facts[id].values().any(|value| value == answer);
            assert!(own || answer == NOT_STATED, "{row}");
            let wordings = asked.entry((id.to_owned(), answer.to_owned())).or_default();
            wordings.insert(normalised(input));
        }
        for (id, told) in &facts {
            for value in told.values() {
                let wordings = asked.get(&(id.clone(), value.clone())).map_or(0, HashSet::len);
                assert!(wordings >= 2, "{id}: {value}");
            }
        }
    }

    #[test]
    fn train_holds_every_document() {
        let train: HashSet<_> = rows("meridian/train.jsonl")
            .iter()
            .filter_map(|row| row["text"].as_str().map(str::to_owned))
            .collect();
        let corpus: HashSet<_> = corpus().into_values().map(|document| document.text).collect();
        assert_eq!(train, corpus);
    }

    #[test]
    fn documents_do_not_speak_in_the_words_of_the_questions() {
        const RUN: usize = 5;
        let corpus: Vec<_> = corpus().into_values().map(|d| normalised(&d.text)).collect();
        for row in ["eval", "dev"].iter().flat_map(|split| rows(&format!("meridian/{split}.jsonl")))
        {
            for part in text(&row["meta"], "pattern").split("<entity>").map(normalised) {
                let words: Vec<&str> = part.split_whitespace().collect();
                for run in words.windows(RUN) {
                    let run = format!(" {} ", run.join(" "));
                    assert!(!corpus.iter().any(|text| text.contains(&run)), "`{run}` of {row}");
                }
            }
        }
    }

    #[test]
    fn twelve_documents_have_a_near_double_that_differs_in_one_attribute_and_eval_asks_for_some() {
        let (corpus, facts) = (corpus(), facts());
        let mut differing = BTreeSet::new();
        for (first, a) in &facts {
            for (second, b) in
                facts.range(first.clone()..).skip(1).filter(|(_, b)| b.keys().eq(a.keys()))
            {
                let different: Vec<_> = a.keys().filter(|key| a[*key] != b[*key]).collect();
                let words = |id| corpus[id].title.split(' ').collect::<HashSet<_>>();
                if let [key] = different[..] {
                    assert!(!words(first).is_disjoint(&words(second)), "{first}, {second}");
                    differing.extend([(first.clone(), key.clone()), (second.clone(), key.clone())]);
                }
            }
        }
        assert!(differing.len() >= 24, "{differing:?}");
        let singles = questions("eval", "single_passage");
        let asked = singles.iter().filter(|row| {
            let fact = (
                texts(row, "context_ids")[0].to_owned(),
                text(&row["meta"], "attribute").to_owned(),
            );
            differing.contains(&fact)
        });
        assert!(asked.count() >= 5);
    }

    #[test]
    fn an_office_is_held_by_different_people_in_different_places() {
        for office in ["harbourmaster", "master", "keeper"] {
            let holders: Vec<_> =
                facts().into_values().filter_map(|mut f| f.remove(office)).collect();
            assert!(holders.len() >= 8, "{office}");
            // Twins share what they do not differ in.
            assert!(holders.iter().collect::<HashSet<_>>().len() + 1 >= holders.len(), "{office}");
        }
    }
}

mod commands {
    use super::*;

    /// Function and `(attribute, value)` pairs of a form.
    fn parse(form: &str) -> (&str, Vec<(&str, &str)>) {
        let (function, rest) = form.split_once('(').unwrap();
        let inside = rest.strip_suffix(')').unwrap();
        let pairs = inside.split("], ").map(|pair| {
            let (attribute, value) = pair.split_once('[').unwrap();
            (attribute, value.trim_end_matches(']'))
        });
        (function, pairs.collect())
    }

    fn composition(row: &Value) -> (String, BTreeSet<String>) {
        let (function, pairs) = parse(text(row, "reference"));
        (
            function.to_owned(),
            pairs.into_iter().map(|(attribute, _)| attribute.to_owned()).collect(),
        )
    }

    fn split(name: &str) -> Vec<Value> {
        rows(&format!("commands/{name}.jsonl"))
    }

    #[test]
    fn there_are_1000_train_200_dev_and_200_eval_sentences() {
        assert_eq!(["train", "dev", "eval"].map(|name| split(name).len()), [1000, 200, 200]);
    }

    #[test]
    fn there_are_nine_functions_and_fourteen_attributes_and_train_has_all_of_them() {
        let used = |name: &str| -> BTreeSet<(String, String)> {
            let all = split(name).iter().map(composition).collect::<Vec<_>>();
            all.into_iter()
                .flat_map(|(f, attributes)| attributes.into_iter().map(move |a| (f.clone(), a)))
                .collect()
        };
        let train = used("train");
        assert!(train.iter().map(|(function, _)| function).collect::<BTreeSet<_>>().len() >= 9);
        assert!(train.iter().map(|(_, attribute)| attribute).collect::<BTreeSet<_>>().len() >= 14);
        assert!(used("eval").is_subset(&train) && used("dev").is_subset(&train));
    }

    #[test]
    fn attributes_stand_in_the_order_that_the_readme_states() {
        let readme = read("commands/README.md");
        for row in ["train", "dev", "eval"].iter().flat_map(|name| split(name)) {
            let (function, pairs) = parse(text(&row, "reference"));
            let start = format!("- `{function}(");
            let signature = readme.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
            let order: Vec<&str> = signature.trim_end_matches(")`").split(", ").collect();
            let places: Vec<_> =
                pairs.iter().map(|(a, _)| order.iter().position(|o| o == a).unwrap()).collect();
            assert!(places.is_sorted_by(|a, b| a < b), "{row}");
            assert!(
                pairs.iter().all(|(_, v)| !v.is_empty() && !v.contains(['[', ']', '<', '>'])),
                "{row}"
            );
        }
    }

    #[test]
    fn meta_agrees_with_the_form() {
        for row in ["dev", "eval"].iter().flat_map(|name| split(name)) {
            let (function, attributes) = composition(&row);
            assert_eq!(text(&row["meta"], "function"), function);
            let named: BTreeSet<_> =
                texts(&row["meta"], "attributes").into_iter().map(str::to_owned).collect();
            assert_eq!(named, attributes);
        }
    }

    #[test]
    fn the_unseen_compositions_are_unseen_and_make_up_nearly_half() {
        let train: BTreeSet<_> = split("train").iter().map(composition).collect();
        for name in ["dev", "eval"] {
            let rows = split(name);
            for row in &rows {
                let seen = row["meta"]["composition"] == "seen";
                assert_eq!(train.contains(&composition(row)), seen, "{row}");
            }
            let unseen = rows.iter().filter(|row| row["meta"]["composition"] == "unseen").count();
            assert!((90..=110).contains(&unseen), "{name}: {unseen}");
        }
    }

    #[test]
    fn sentences_often_name_attributes_in_another_order_than_the_form() {
        let eval = split("eval");
        let other = eval.iter().filter(|row| {
            let pattern = text(&row["meta"], "pattern");
            let attributes = texts(&row["meta"], "attributes");
            let places: Vec<_> =
                attributes.iter().map(|a| pattern.find(&format!("<{a}>")).unwrap()).collect();
            !places.is_sorted()
        });
        assert!(other.count() >= 50);
    }

    /// Digits, marks and every four letters counted as a token each, which is more than tokenizers
    /// of the size in use need.
    #[test]
    fn a_form_is_at_most_40_tokens_long() {
        for row in ["train", "dev", "eval"].iter().flat_map(|name| split(name)) {
            let form = text(&row, "reference").replace("], ", "]");
            let words = form.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_uppercase());
            let n_letters: usize = words.map(|word| word.len().div_ceil(7)).sum();
            let n_others = form.chars().filter(|c| !c.is_ascii_alphabetic() && *c != ' ').count();
            assert!(n_letters + n_others <= 40, "{} in {row}", n_letters + n_others);
        }
    }
}
