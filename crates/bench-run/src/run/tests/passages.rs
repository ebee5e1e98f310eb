//! Arms that answer from passages, from an experiment file to records.

use bench_core::record::{CallKind, Outcome};

use super::*;

/// The model reads what stands in its prompt: a rule's words are those of a passage.
const EXPERIMENT: &str = "version: 1
models:
  m:
    scripted:
      otherwise: none
      rules:
        - { when: Write the one short search query, say: 'Ada born' }
        - { when: other ways, say: \"Whose town?\\nWhich mayor?\" }
        - { when: born in Ashlode, say: 'Ashlode [1]' }
  w: { scripted: { otherwise: 'Ada was born in Ashlode' } }
eval_sets: [{ name: s, path: e.jsonl, corpus: c.jsonl, train: t.jsonl, scorers: [contains, { citation: { figure: precision } }] }]
arms:
  - { name: rag, model: m, strategy: { rag: { retriever: bm25, top_k: 1 } } }
  - { name: two_hops, model: m, strategy: { rag: { retriever: bm25, top_k: 2, iterations: 2, order: best_first } } }
  - { name: hyde, model: m, strategy: { rag: { retriever: bm25, top_k: 1, query: hyde, query_model: w } } }
  - { name: several, model: m, strategy: { rag: { retriever: bm25, top_k: 1, query: multi_query } } }
  - { name: closed, model: m, strategy: { rag: { passages: closed_book } } }
  - { name: whole, model: m, strategy: { rag: { passages: whole_corpus, citations: true, abstain: not stated, guard: true } } }
  - { name: raft, model: m, strategy: { finetune: { raft: { rag: rag, distractors: 1, without_golden: 0 } } } }
compare: { baseline: rag }
prices: { date: 2026-11-21, models: { m: { input: 1000000 }, w: { input: 3000000 } } }
run: { runs: RUNS }
";

fn folder() -> Folder {
    let folder = Folder(tempfile::tempdir().unwrap());
    folder.write(
        "e.jsonl",
        "{\"id\":\"a\",\"input\":\"In which place was the mayor of Brindal born?\",\"reference\":\"Ashlode\",\"context_ids\":[\"ada\"]}\n{\"id\":\"b\",\"input\":\"Who sings in Brindal?\",\"reference\":\"not stated\",\"meta\":{\"answerable\":false}}\n",
    );
    folder.write(
        "c.jsonl",
        "{\"id\":\"ada\",\"text\":\"Ada was born in Ashlode.\"}\n{\"id\":\"mayor\",\"text\":\"The mayor of Brindal is Ada.\"}\n{\"id\":\"river\",\"text\":\"A river runs.\"}\n",
    );
    folder.write(
        "t.jsonl",
        "{\"input\":\"Where was Ada born?\",\"reference\":\"Ashlode\",\"context_ids\":[\"ada\"]}\n",
    );
    let runs = folder.0.path().join("runs").display().to_string();
    folder.write("x.yaml", &EXPERIMENT.replace("RUNS", &runs));
    folder
}

fn documents(record: &Record) -> Vec<&str> {
    record.retrieved.iter().map(|passage| passage.document.as_str()).collect()
}

#[test]
fn a_second_search_finds_what_the_first_passage_names() {
    let finished = folder().run(&Options::default()).unwrap();
    let one = find(&finished, "rag", "a");
    assert_eq!(documents(one), ["mayor"]);
    assert_eq!(one.verdicts["contains"].value(), Some(0.0));
    let two = find(&finished, "two_hops", "a");
    assert_eq!(documents(two), ["mayor", "ada"]);
    assert_eq!(two.verdicts["contains"].value(), Some(1.0));
    // The answer cites passage 1, which names nobody's birthplace.
    assert_eq!(two.verdicts["citation_precision"].value(), Some(0.0));
    assert_eq!(two.calls.len(), 1);
    assert_eq!((two.calls[0].kind, two.calls[0].text.as_str()), (CallKind::FollowUp, "Ada born"));
    let answer = two.answer().unwrap();
    assert!(answer.tokens_in > two.calls[0].tokens_in && answer.tokens_out == 4);
}

#[test]
fn a_rewritten_question_is_searched_and_its_call_is_priced() {
    let finished = folder().run(&Options::default()).unwrap();
    let hyde = find(&finished, "hyde", "a");
    assert_eq!(documents(hyde), ["ada"]);
    assert_eq!(hyde.calls[0].kind, CallKind::Rewrite);
    // The other model's tokens are at its own price.
    let (all, other) = (hyde.answer().unwrap().tokens_in, hyde.calls[0].tokens_in);
    let cost = hyde.answer().unwrap().cost_usd.unwrap();
    assert!((cost - f64::from(all - other) - 3.0 * f64::from(other)).abs() < 1e-9, "{cost}");
    assert_eq!(documents(find(&finished, "several", "a")), ["mayor"]);
}

/// With an arm whose passages model `w` sorts.
fn sorting(says: &str) -> Folder {
    let folder = folder();
    edit(
        &folder,
        "  - { name: closed,",
        "  - { name: sorted, model: m, strategy: { rag: { retriever: bm25, top_k: 1, rerank: { model: { llm: w }, candidates: 3 } } } }\n  - { name: closed,",
    );
    edit(&folder, "otherwise: 'Ada was born in Ashlode'", &format!("otherwise: '{says}'"));
    folder
}

#[test]
fn a_chat_model_sorts_passages_and_its_call_is_priced() {
    let folder = sorting("{\"ranking\": [2, 1]}");
    let finished = folder.run(&Options::default()).unwrap();
    let sorted = find(&finished, "sorted", "a");
    assert_eq!(documents(sorted), ["ada"]);
    assert_eq!(sorted.verdicts["contains"].value(), Some(1.0));
    assert_eq!((sorted.calls.len(), sorted.calls[0].kind), (1, CallKind::Rerank));
    assert!(!sorted.calls[0].failed);
    let (all, other) = (sorted.answer().unwrap().tokens_in, sorted.calls[0].tokens_in);
    let cost = sorted.answer().unwrap().cost_usd.unwrap();
    assert!((cost - f64::from(all - other) - 3.0 * f64::from(other)).abs() < 1e-9, "{cost}");
    assert_eq!(documents(find(&finished, "sorted", "b")), ["mayor"]);
    assert!(!finished.manifest.warnings.iter().any(|warning| warning.contains("sort passages")));
    assert_eq!(folder.run(&Options::default()).unwrap().answered_now, 0);
}

#[test]
fn a_reply_without_an_order_keeps_the_search_s_and_is_counted() {
    let finished = sorting("the second one").run(&Options::default()).unwrap();
    let sorted = find(&finished, "sorted", "a");
    assert_eq!(documents(sorted), ["mayor"]);
    assert!(sorted.calls[0].failed && matches!(sorted.outcome, Outcome::Answered(_)));
    let warning = "set `s`, arm `sorted`: 2 of 2 replies that were to sort passages hold no order; those passages stayed as the search ranked them";
    assert!(finished.manifest.warnings.contains(&warning.to_owned()));
}

#[test]
fn controls_are_ordinary_arms() {
    let finished = folder().run(&Options::default()).unwrap();
    let closed = find(&finished, "closed", "a");
    assert!(closed.retrieved.is_empty());
    assert_eq!(closed.prompt[0].content, closed.input);
    let whole = find(&finished, "whole", "a");
    assert_eq!(documents(whole), ["ada", "mayor", "river"]);
    assert_eq!(whole.retrieved[1].number, Some(2));
    let prompt = &whole.prompt[0].content;
    assert!(prompt.contains("as [1].\nIf the passages do not hold the answer, say only: not stated\nThe passages are quotations."), "{prompt}");
    assert!(find(&finished, "whole", "b").unanswerable);
}

#[test]
fn an_arm_trained_with_passages_is_asked_as_it_was_trained() {
    let folder = folder();
    // The scripted trainer remembers rows: an eval question with the same passages meets its row.
    folder.write(
        "e.jsonl",
        "{\"id\":\"a\",\"input\":\"Where was Ada born, say?\",\"reference\":\"x\",\"context_ids\":[\"ada\"]}\n",
    );
    folder.write(
        "t.jsonl",
        "{\"input\":\"Where was Ada born, say?\",\"reference\":\"learnt\",\"context_ids\":[\"ada\"]}\n",
    );
    edit(&folder, "top_k: 1 } } }\n  - { name: two_hops", "top_k: 2 } } }\n  - { name: two_hops");
    let finished = folder.run(&Options::default()).unwrap();
    let raft = find(&finished, "raft", "a");
    assert_eq!(documents(raft), ["ada", "mayor"]);
    assert_eq!(raft.answer().unwrap().text, "learnt");
}

/// With a judge of faithfulness and of relevance beside its own rubric: it grades by what it is shown.
fn judged(more: &str) -> Folder {
    let folder = folder();
    let judge = format!(
        "  j:
    scripted:
      otherwise: '{{\"reason\": \"no\", \"grade\": 0}}'
      rules:
        - {{ when: 'Ada was born in Ashlode.', say: '{{\"reason\": \"it stands there\", \"grade\": 4}}' }}
        - {{ when: its mayor is Ada, say: '{{\"reason\": \"it stands there\", \"grade\": 4}}' }}
        - {{ when: reference, say: '{{\"reason\": \"so\", \"grade\": 1}}' }}
  k: {{ scripted: {{ otherwise: '{{\"reason\": \"never\", \"grade\": 0}}' }} }}
judge:
  {more}
  rubric: 0 is wrong, 1 is right
  grades: [0, 1]
  criteria:
    faithfulness: {{ rubric: '0 is none, 4 is all', grades: [0, 2, 4], shows: [question, passages, answer] }}
    answer_relevance: {{ rubric: '0 is beside it, 1 is to it', shows: [question, answer] }}
eval_sets:"
    );
    edit(&folder, "eval_sets:", &judge);
    folder
}

#[test]
fn a_judge_grades_every_criterion_by_what_it_is_shown() {
    let folder = judged("model: j");
    let finished = folder.run(&Options::default()).unwrap();
    let value = |arm: &str, name: &str| find(&finished, arm, "a").verdicts[name].value();
    // The passages reach the judge as the arm had them: `rag` found another one.
    assert_eq!(value("two_hops", "judge:faithfulness"), Some(1.0));
    assert_eq!(value("whole", "judge:faithfulness"), Some(1.0));
    assert_eq!(value("rag", "judge:faithfulness"), Some(0.0));
    // The reference reaches the judge's own rubric and no criterion that does not name it.
    for arm in ["rag", "two_hops", "closed"] {
        assert_eq!(value(arm, "judge"), Some(1.0), "{arm}");
        assert_eq!(value(arm, "judge:answer_relevance"), Some(0.0), "{arm}");
    }
    let closed = &find(&finished, "closed", "a").verdicts["judge:faithfulness"];
    assert_eq!(*closed, Verdict::unscored("the prompt held no passages"));
    let again = folder.run(&Options { score_only: true, ..Options::default() }).unwrap();
    assert_eq!((again.answered_now, again.unjudged), (0, 0));
    assert_eq!(
        (again.records, &again.manifest.judging),
        (finished.records, &finished.manifest.judging)
    );
}

#[test]
fn other_passages_are_another_judgement() {
    let folder = judged("model: j");
    let before = folder.run(&Options::default()).unwrap();
    // The same question and the same answer (`none`), to other words in the prompt.
    let text = fs_err::read_to_string(folder.0.path().join("c.jsonl")).unwrap();
    let other = "The mayor of Brindal: its mayor is Ada.";
    folder.write("c.jsonl", &text.replace("The mayor of Brindal is Ada.", other));
    let after = folder.run(&Options::default()).unwrap();
    let answer = |finished: &Finished| find(finished, "rag", "a").answer().unwrap().text.clone();
    assert_eq!(answer(&before), answer(&after));
    let of =
        |finished: &Finished| find(finished, "rag", "a").verdicts["judge:faithfulness"].value();
    assert_eq!((of(&before), of(&after)), (Some(0.0), Some(1.0)));
    assert!(after.manifest.judging[0].judgements > before.manifest.judging[0].judgements);
}

#[test]
fn a_jury_grades_criteria_too_under_names_that_no_juror_has() {
    let finished = judged("judges: [j, k]").run(&Options::default()).unwrap();
    let verdicts = &find(&finished, "two_hops", "a").verdicts;
    let names: Vec<&str> =
        verdicts.keys().map(String::as_str).filter(|name| name.starts_with("judge")).collect();
    assert_eq!(
        names,
        [
            "judge",
            "judge/j",
            "judge/k",
            "judge:answer_relevance",
            "judge:answer_relevance/j",
            "judge:answer_relevance/k",
            "judge:faithfulness",
            "judge:faithfulness/j",
            "judge:faithfulness/k",
        ]
    );
    assert_eq!(verdicts["judge:faithfulness"].value(), Some(0.5));
    let closed = &find(&finished, "closed", "a").verdicts;
    assert!(!closed.contains_key("judge:faithfulness/j"));
}

#[test]
fn a_rubric_of_a_criterion_says_what_its_grades_mean() {
    let folder = judged("model: j");
    edit(&folder, "'0 is none, 4 is all'", "be fair");
    assert!(messages(&folder)[0].contains("does not say what grade 0 means"));
}

#[test]
fn everything_that_was_said_is_kept() {
    let folder = folder();
    let first = folder.run(&Options::default()).unwrap();
    let second = folder.run(&Options::default()).unwrap();
    assert!(first.answered_now > 0);
    assert_eq!((second.answered_now, second.missing), (0, 0));
    assert_eq!(first.records, second.records);
    let scored = folder.run(&Options { score_only: true, ..Options::default() }).unwrap();
    assert_eq!(scored.records, first.records);
}

#[test]
fn scoring_alone_leaves_out_what_was_never_asked() {
    let options = Options { score_only: true, ..Options::default() };
    let finished = folder().run(&options).unwrap();
    assert_eq!((finished.records.len(), finished.missing), (0, 14));
}

#[test]
fn a_rewriting_that_fails_leaves_the_question_and_says_so() {
    let folder = folder();
    edit(&folder, "otherwise: 'Ada was born in Ashlode'", "otherwise: '!rejected'");
    let finished = folder.run(&Options::default()).unwrap();
    let hyde = find(&finished, "hyde", "a");
    assert!(matches!(hyde.outcome, Outcome::Answered(_)));
    assert!(hyde.calls[0].failed && hyde.calls[0].text.contains("told to refuse"));
    assert_eq!(documents(hyde), ["mayor"]);
}

/// With a `raft` arm that learns the reasoning in `why`.
fn reasoning(train: &str) -> Folder {
    let folder = folder();
    edit(&folder, "without_golden: 0 }", "without_golden: 0, reasoning: why }");
    // The scripted trainer remembers rows: an eval question with the same passages meets its row.
    folder.write(
        "e.jsonl",
        "{\"id\":\"a\",\"input\":\"Where was Ada born, say?\",\"reference\":\"Ashlode\",\"context_ids\":[\"ada\"]}\n",
    );
    folder.write("t.jsonl", train);
    edit(&folder, "top_k: 1 } } }\n  - { name: two_hops", "top_k: 2 } } }\n  - { name: two_hops");
    folder
}

#[test]
fn an_arm_that_learns_to_reason_is_asked_to_and_scored_by_its_answer() {
    let row = "{\"input\":\"Where was Ada born, say?\",\"reference\":\"Ashlode\",\"context_ids\":[\"ada\"],\"meta\":{\"why\":\"Passage 1 names her town.\"}}\n";
    let finished = reasoning(row).run(&Options::default()).unwrap();
    let raft = find(&finished, "raft", "a");
    assert!(raft.prompt[0].content.ends_with("as `Answer: …`."), "{:?}", raft.prompt);
    let answer = raft.answer().unwrap();
    assert_eq!(answer.text, "Ashlode");
    assert_eq!(answer.full_text.as_deref(), Some("Passage 1 names her town.\nAnswer: Ashlode"));
    assert_eq!(raft.verdicts["contains"].value(), Some(1.0));
}

#[test]
fn reasoning_to_learn_is_looked_for_before_anything_is_trained() {
    let row = |reference: &str, more: &str| {
        format!(
            "{{\"input\":\"Where?\",\"reference\":\"{reference}\",\"context_ids\":[\"ada\"]{more}}}\n"
        )
    };
    let why = ",\"why\":\"So it is.\"";
    assert!(load(&reasoning(&row("x", why)).0.path().join("x.yaml"), &|_| None, None).is_ok());
    let some = row("x", why) + &row("y", "") + &row("one\\ntwo", why);
    let found = messages(&reasoning(&some));
    assert_eq!(
        found,
        [
            "arm `raft` learns the reasoning in `why`, and 1 of 3 training rows of set `s` (`Where?` is one) have none",
            "arm `raft` is scored by what `final_answer` finds, and for 1 of 3 training rows of set `s` (`Where?` is one) that is not the reference",
        ]
    );
}

#[test]
fn training_with_passages_needs_rows_that_name_theirs() {
    let folder = folder();
    folder.write("t.jsonl", "{\"input\":\"q\",\"reference\":\"r\"}\n");
    assert!(messages(&folder)[0].contains("no training row of set `s` names its gold documents"));
    folder.write("t.jsonl", "{\"input\":\"q\",\"reference\":\"r\",\"context_ids\":[\"nope\"]}\n");
    assert!(messages(&folder)[0].contains("names gold document `nope`, which the corpus lacks"));
}
