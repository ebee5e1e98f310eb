use bench_core::backend::{Stage, Task};
use bench_core::record::Preference;
use bench_core::spec::Experiment;

use super::*;
use crate::load;
use crate::scripted::{Quiet, ScriptedBackends};

struct Folder(tempfile::TempDir);

const EXPERIMENT: &str = "version: 1
models:
  m: { scripted: { otherwise: none, rules: [{ when: blue, say: sky }, { when: refuse, say: '!rejected' }] } }
  j: { scripted: { otherwise: '{\"reason\": \"fine\", \"grade\": 5}' } }
judge: { model: j, rubric: '1 is wrong, 5 is right' }
eval_sets: [{ name: s, path: e.jsonl, train: t.jsonl, scorers: [exact_match] }]
arms:
  - { name: zero, model: m, strategy: prompt }
  - { name: few, model: m, strategy: { prompt: { num_fewshot: 1 } } }
  - { name: tuned, model: m, strategy: { finetune: { seeds: [0, 1] } } }
compare: { baseline: zero }
run: { runs: RUNS }
";

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write(
            "e.jsonl",
            "{\"id\":\"a\",\"input\":\"what is blue?\",\"reference\":\"sky\"}\n{\"id\":\"b\",\"input\":\"please refuse\",\"reference\":\"x\"}\n{\"id\":\"c\",\"input\":\"learnt\",\"reference\":\"yes\"}\n",
        );
        folder.write(
            "t.jsonl",
            "{\"input\":\"learnt\",\"reference\":\"yes\"}\n{\"input\":\"other\",\"reference\":\"no\"}\n",
        );
        let runs = folder.0.path().join("runs").display().to_string();
        folder.write("x.yaml", &EXPERIMENT.replace("RUNS", &runs));
        folder
    }

    fn write(&self, name: &str, text: &str) {
        fs_err::write(self.0.path().join(name), text).unwrap();
    }

    fn run(&self, options: &Options) -> Result<Finished, RunError> {
        let loaded = load(&self.0.path().join("x.yaml"), &|_| None, None).unwrap();
        run(&loaded, &ScriptedBackends, options, &Quiet, &Stop::default())
    }
}

fn find<'a>(finished: &'a Finished, arm: &str, sample: &str) -> &'a Record {
    let found = |record: &&Record| record.trial.arm == arm && record.trial.sample == sample;
    finished.records.iter().find(found).unwrap()
}

#[test]
fn every_trial_leaves_a_record_and_a_failed_one_says_why() {
    let finished = Folder::new().run(&Options::default()).unwrap();
    // Three samples for two plain arms and two training seeds.
    assert_eq!(finished.records.len(), 12);
    assert_eq!(find(&finished, "zero", "a").verdicts["exact_match"].value(), Some(1.0));
    assert_eq!(find(&finished, "tuned", "c").verdicts["exact_match"].value(), Some(1.0));
    assert_eq!(find(&finished, "zero", "c").verdicts["exact_match"].value(), Some(0.0));
    let Outcome::Failed { error } = &find(&finished, "zero", "b").outcome else {
        panic!("answered")
    };
    assert!(error.contains("told to refuse"), "{error}");
    assert_eq!(finished.failed, 4);
    assert!(find(&finished, "zero", "a").verdicts["judge"].value().is_some());
    assert!(finished.manifest.warnings.iter().any(|warning| warning.contains("scripted")));
}

#[test]
fn a_second_run_asks_nothing_and_gives_the_same_records() {
    let folder = Folder::new();
    let first = folder.run(&Options::default()).unwrap();
    let second = folder.run(&Options::default()).unwrap();
    assert!(first.answered_now > 0);
    assert_eq!(second.answered_now, 0);
    assert_eq!(first.records, second.records);
    assert_eq!(first.manifest, second.manifest);
}

#[test]
fn a_changed_prompt_is_asked_again_and_the_rest_is_kept() {
    let folder = Folder::new();
    folder.run(&Options::default()).unwrap();
    let text = fs_err::read_to_string(folder.0.path().join("x.yaml")).unwrap();
    folder.write(
        "x.yaml",
        &text.replace(
            "name: zero, model: m, strategy: prompt",
            "name: zero, model: m, strategy: { prompt: { system: Be brief. } }",
        ),
    );
    assert_eq!(folder.run(&Options::default()).unwrap().answered_now, 3);
}

#[test]
fn failed_trials_are_tried_again_only_when_asked() {
    let folder = Folder::new();
    folder.run(&Options::default()).unwrap();
    assert_eq!(
        folder.run(&Options { retry_failed: true, ..Options::default() }).unwrap().answered_now,
        3
    );
}

#[test]
fn a_stopped_run_keeps_what_it_has_and_goes_on() {
    let folder = Folder::new();
    let loaded = load(&folder.0.path().join("x.yaml"), &|_| None, None).unwrap();
    let stop = Stop::default();
    assert!(!stop.request());
    let stopped = run(&loaded, &ScriptedBackends, &Options::default(), &Quiet, &stop).unwrap();
    assert_eq!((stopped.records.len(), stopped.missing), (0, 12));
    let said = |finished: &Finished| -> bool {
        finished.manifest.warnings.iter().any(|line| line.contains("with 0 of 12 trials answered"))
    };
    assert!(said(&stopped), "{:?}", stopped.manifest.warnings);
    assert_eq!(folder.run(&Options::default()).unwrap().missing, 0);
}

/// Asks to stop as soon as judging begins.
struct StopAtJudging(Stop);

impl Progress for StopAtJudging {
    fn begin(&self, stage: Stage, what: &str, total: u64) -> Box<dyn Task> {
        if stage == Stage::Judge {
            self.0.request();
        }
        Quiet.begin(stage, what, total)
    }

    fn say(&self, _: &str) {}
}

#[test]
fn judgements_missing_after_a_stop_are_counted_and_made_by_the_next_run() {
    let folder = Folder::new();
    let loaded = load(&folder.0.path().join("x.yaml"), &|_| None, None).unwrap();
    let stop = Stop::default();
    let progress = StopAtJudging(stop.clone());
    let stopped = run(&loaded, &ScriptedBackends, &Options::default(), &progress, &stop).unwrap();
    assert_eq!((stopped.records.len(), stopped.missing), (12, 0));
    assert!(stopped.unjudged > 0);
    let says = |finished: &Finished| {
        finished.manifest.warnings.iter().any(|line| line.contains("judgements are missing"))
    };
    assert!(says(&stopped));
    let finished = folder.run(&Options::default()).unwrap();
    assert_eq!(finished.unjudged, 0);
    assert!(!says(&finished));
    assert!(find(&finished, "zero", "a").verdicts["judge"].value().is_some());
}

#[test]
fn only_the_chosen_arms_run() {
    let options = Options { arms: vec!["few".into()], ..Options::default() };
    let finished = Folder::new().run(&options).unwrap();
    assert!(finished.records.iter().all(|record| record.trial.arm == "few"));
    let _: Experiment = finished.manifest.experiment;
}

#[test]
fn a_fatal_failure_stops_the_run_and_keeps_the_answers() {
    let folder = Folder::new();
    let text = fs_err::read_to_string(folder.0.path().join("x.yaml")).unwrap();
    folder.write("x.yaml", &text.replace("!rejected", "!fatal"));
    let error = folder.run(&Options { concurrency: Some(1), ..Options::default() }).unwrap_err();
    assert!(error.to_string().contains("told to stop"), "{error}");
    folder.write("x.yaml", &text);
}

/// Replaces a text of the experiment.
fn edit(folder: &Folder, from: &str, to: &str) {
    let text = fs_err::read_to_string(folder.0.path().join("x.yaml")).unwrap();
    assert!(text.contains(from), "{from}");
    folder.write("x.yaml", &text.replacen(from, to, 1));
}

const ZERO: &str = "name: zero, model: m, strategy: prompt";

fn messages(folder: &Folder) -> Vec<String> {
    let error = load(&folder.0.path().join("x.yaml"), &|_| None, None).unwrap_err();
    let crate::load::LoadError::Wrong(error) = error else { panic!("another error") };
    error.problems().iter().map(ToString::to_string).collect()
}

#[test]
fn reasoning_is_kept_and_only_its_final_answer_is_scored() {
    let folder = Folder::new();
    edit(&folder, ZERO, "name: zero, model: m, strategy: { prompt: { chain_of_thought: true } }");
    edit(&folder, "say: sky", "say: \"Blue light scatters.\\nAnswer: sky\"");
    let finished = folder.run(&Options::default()).unwrap();
    let record = find(&finished, "zero", "a");
    assert!(record.prompt[0].content.ends_with("as `Answer: …`."), "{:?}", record.prompt);
    let answer = record.answer().unwrap();
    assert_eq!(answer.text, "sky");
    assert_eq!(answer.full_text.as_deref(), Some("Blue light scatters.\nAnswer: sky"));
    assert_eq!(record.verdicts["exact_match"].value(), Some(1.0));
    // One answer has no such line: it is counted.
    let warned =
        |warning: &String| warning.contains("arm `zero`: 1 without a final answer; the last line");
    assert!(finished.manifest.warnings.iter().any(warned), "{:?}", finished.manifest.warnings);
    // The other arms are asked and read as before.
    assert_eq!(find(&finished, "few", "a").verdicts["exact_match"].value(), Some(0.0));
}

#[test]
fn self_consistency_asks_n_times_and_counts_every_answer() {
    let folder = Folder::new();
    let voting = "name: zero, model: m, strategy: { prompt: { self_consistency: { n: 4 } } }";
    edit(&folder, ZERO, voting);
    let first = folder.run(&Options::default()).unwrap();
    let record = find(&first, "zero", "a");
    let answer = record.answer().unwrap();
    assert_eq!((answer.text.as_str(), record.calls.len()), ("sky", 4));
    assert_eq!((answer.tokens_in, answer.tokens_out), (12, 4));
    assert!(record.calls.iter().all(|call| call.text == "sky" && call.tokens_in == 3));
    assert!(find(&first, "few", "a").calls.is_empty());
    let second = folder.run(&Options::default()).unwrap();
    assert_eq!((second.answered_now, &second.records), (0, &first.records));
}

#[test]
fn an_answer_outside_its_language_is_refused() {
    let folder = Folder::new();
    edit(
        &folder,
        "train: t.jsonl, scorers",
        "train: t.jsonl, constraint: { choices: [sky, sea] }, scorers",
    );
    edit(&folder, "name: few, model: m,", "name: few, model: m, constraint: free,");
    let finished = folder.run(&Options::default()).unwrap();
    assert!(find(&finished, "zero", "a").answer().is_some());
    let Outcome::Failed { error } = &find(&finished, "zero", "c").outcome else {
        panic!("answered")
    };
    assert!(error.contains("`none` does not belong"), "{error}");
    assert!(find(&finished, "few", "c").answer().is_some());
    let warned = |warning: &String| warning.contains("forbids the right answer of 2 of 3");
    assert!(finished.manifest.warnings.iter().any(warned), "{:?}", finished.manifest.warnings);
}

#[test]
fn a_constraint_that_cannot_be_met_is_an_error_before_the_run() {
    for (constraint, expect) in [
        ("regex: '('", "the constraint: regex parse error"),
        ("grammar: 'answer: /x/'", "no rule `start`"),
        ("json_schema: { type: nonsense }", "the schema does not compile"),
        ("json_schema: file://nope.json", "there is no file `nope.json`"),
        ("choices: []", "offers nothing to say"),
        ("choices: [a, a]", "names `a` twice"),
    ] {
        let folder = Folder::new();
        edit(&folder, ZERO, &format!("{ZERO}, constraint: {{ {constraint} }}"));
        let found = messages(&folder);
        assert!(found.iter().any(|message| message.contains(expect)), "{expect}: {found:?}");
    }
    let folder = Folder::new();
    edit(&folder, ZERO, &format!("{ZERO}, constraint: sample_choices"));
    assert!(messages(&folder)[0].contains("sample `a` has no `choices`"));
    // A back end that does not know the language says so, and nothing was asked.
    let folder = Folder::new();
    edit(&folder, ZERO, &format!("{ZERO}, constraint: {{ grammar: 'start: /x/' }}"));
    let error = folder.run(&Options::default()).unwrap_err().to_string();
    assert!(error.contains("arm `zero` on set `s`: scripted replies"), "{error}");
    let answers = folder.0.path().join("runs/x/answers.jsonl");
    assert_eq!(fs_err::read_to_string(answers).unwrap(), "");
}

#[test]
fn settings_that_contradict_each_other_are_named() {
    for (strategy, expect) in [
        ("prompt: { self_consistency: { n: 1 } }", "one answer needs no vote"),
        ("prompt: { self_consistency: { temperature: 0 } }", "all answers are the same one"),
        ("prompt: { final_answer: '(' }", "`final_answer` of arm `zero`: regex parse error"),
        ("prompt: { template: '{{ input }} {{ meta.unit }}' }", "does not fit sample `a`"),
    ] {
        let folder = Folder::new();
        edit(&folder, ZERO, &format!("name: zero, model: m, strategy: {{ {strategy} }}"));
        let found = messages(&folder);
        assert!(found.iter().any(|message| message.contains(expect)), "{expect}: {found:?}");
    }
    let folder = Folder::new();
    let reasoning = "name: zero, model: m, strategy: { prompt: { chain_of_thought: true } }";
    edit(&folder, ZERO, &format!("{reasoning}, constraint: {{ choices: [sky] }}"));
    assert!(messages(&folder)[0].contains("is to reason, but may only say a choice"));
}

#[test]
fn an_eval_question_is_never_an_example() {
    let folder = Folder::new();
    edit(&folder, "num_fewshot: 1", "num_fewshot: 2");
    folder.write(
        "t.jsonl",
        "{\"input\":\"Learnt\",\"reference\":\"yes\"}\n{\"input\":\"other\",\"reference\":\"no\"}\n",
    );
    let finished = folder.run(&Options::default()).unwrap();
    let prompt = &find(&finished, "few", "a").prompt;
    let shown: Vec<&str> = prompt.iter().map(|turn| turn.content.as_str()).collect();
    assert_eq!(shown, ["other", "no", "what is blue?"]);
    let warned = |warning: &String| warning.contains("asks for 2 examples, and 1");
    assert!(finished.manifest.warnings.iter().any(warned), "{:?}", finished.manifest.warnings);
}

mod passages;
/// The experiment with another judge, a second arm's answers and human grades.
fn judged(judge: &str) -> Folder {
    let folder = Folder::new();
    let runs = folder.0.path().join("runs").display().to_string();
    let models = "  k: { scripted: { otherwise: '{\"reason\": \"so\", \"grade\": 1}' } }
  pairs: { scripted: { otherwise: '{\"reason\": \"so\", \"better\": \"A\"}' } }
";
    let text = EXPERIMENT
        .replace(
            "judge: { model: j, rubric: '1 is wrong, 5 is right' }",
            &format!("judge: {judge}"),
        )
        .replace("judge: {", &format!("{models}judge: {{"))
        .replace("RUNS", &runs);
    folder.write("x.yaml", &text);
    folder
}

#[test]
fn a_jury_leaves_every_member_s_verdict_and_one_of_all() {
    let folder = judged("{ judges: [j, k], rubric: '1 is wrong, 5 is right' }");
    let finished = folder.run(&Options::default()).unwrap();
    let verdicts = &find(&finished, "zero", "a").verdicts;
    assert_eq!(verdicts["judge/j"].value(), Some(1.0));
    assert_eq!(verdicts["judge/k"].value(), Some(0.0));
    assert_eq!(verdicts["judge"].value(), Some(0.5));
    let judging = &finished.manifest.judging;
    assert_eq!(judging.iter().map(|entry| entry.judge.as_str()).collect::<Vec<_>>(), ["j", "k"]);
    assert!(judging[0].judgements > 0 && judging[0].tokens_in > 0);
    let again = folder.run(&Options::default()).unwrap();
    assert_eq!((again.records, again.manifest), (finished.records, finished.manifest));
}

#[test]
fn a_judge_asked_several_times_leaves_every_verdict() {
    let folder =
        judged("{ model: j, rubric: '1 is wrong, 5 is right', repeats: 3, temperature: 0.7 }");
    let finished = folder.run(&Options::default()).unwrap();
    let verdicts = &find(&finished, "zero", "a").verdicts;
    let names: Vec<&str> = verdicts.keys().map(String::as_str).collect();
    assert_eq!(names, ["exact_match", "judge", "judge#1", "judge#2", "judge#3"]);
}

#[test]
fn a_preference_for_a_place_is_a_tie_that_is_not_consistent() {
    let folder = judged("{ model: pairs, mode: pairwise, rubric: better is right }");
    let finished = folder.run(&Options::default()).unwrap();
    // `zero` and `few` both say `sky`, which is not asked; the tuned arm says it too.
    let same = find(&finished, "zero", "a");
    assert_eq!(same.preferences.len(), 2);
    let tie = |consistent| Preference::Tie { consistent };
    assert_eq!(same.preferences[0].preference, tie(true));
    // On `c` only the tuned arm knows; a judge that always says `A` cannot tell.
    let other = find(&finished, "zero", "c");
    let against = other.preferences.iter().find(|pair| pair.against == "tuned").unwrap();
    assert_eq!((against.judge.as_str(), &against.preference), ("pairs", &tie(false)));
    assert_eq!(other.verdicts["judge"].value(), Some(0.5));
    assert!(find(&finished, "tuned", "c").preferences.is_empty(), "held by the first of a pair");
    let again = folder.run(&Options::default()).unwrap();
    assert_eq!((again.records, again.manifest), (finished.records, finished.manifest));
}

#[test]
fn people_s_grades_stand_beside_the_judge_s() {
    let folder = judged("{ model: j, rubric: '1 is wrong, 5 is right', labels: l.jsonl }");
    let row = |grader: &str, grade: u32| {
        format!(
            "{{\"arm\":\"zero\",\"sample\":\"a\",\"grade\":{grade},\"grader\":\"{grader}\",\"answer\":\"sky\"}}\n"
        )
    };
    let stale = "{\"arm\":\"zero\",\"sample\":\"c\",\"grade\":5,\"answer\":\"another\"}\n";
    folder.write("l.jsonl", &(row("ann", 5) + &row("bob", 3) + stale));
    let finished = folder.run(&Options::default()).unwrap();
    let verdicts = &find(&finished, "zero", "a").verdicts;
    assert_eq!(verdicts["human"].value(), Some(0.75));
    assert_eq!(verdicts["human/ann"].value(), Some(1.0));
    assert!(!find(&finished, "zero", "c").verdicts.contains_key("human"), "another answer");
    let said = finished.manifest.warnings.iter().find(|warning| warning.contains("label"));
    assert!(said.is_some_and(|warning| warning.contains("1 of 3")), "{said:?}");
}

#[test]
fn a_judge_with_an_arm_s_weights_is_refused_under_any_name() {
    let folder = judged("{ model: twin, rubric: '1 is wrong, 5 is right' }");
    let text = fs_err::read_to_string(folder.0.path().join("x.yaml")).unwrap();
    let twin = "  twin: { scripted: { delay_ms: 1, otherwise: none, rules: [{ when: blue, say: sky }, { when: refuse, say: '!rejected' }] } }\n";
    folder.write("x.yaml", &text.replace("judge: {", &format!("{twin}judge: {{")));
    let error = folder.run(&Options::default()).unwrap_err();
    let RunError::SelfJudging { judge, arm } = &error else { panic!("{error}") };
    assert_eq!((judge.as_str(), arm.as_str()), ("twin", "zero"));
    assert!(error.to_string().contains("allow_self_judging"));
    let allowed = text
        .replace("judge: {", &format!("{twin}judge: {{"))
        .replace("model: twin,", "model: twin, allow_self_judging: true,");
    folder.write("x.yaml", &allowed);
    assert!(folder.run(&Options::default()).is_ok());
}

#[test]
fn choices_are_answered_by_likelihood_where_the_set_asks_for_it() {
    let folder = Folder::new();
    let text = fs_err::read_to_string(folder.0.path().join("x.yaml")).unwrap();
    let text = text.replace("scorers: [exact_match]", "scorers: [choice: { by: text_likelihood }]");
    folder.write("x.yaml", &text);
    folder.write(
        "e.jsonl",
        "{\"id\":\"a\",\"input\":\"what is blue?\",\"reference\":\"sky\",\"choices\":[\"sea\",\"sky\"]}\n",
    );
    let finished = folder.run(&Options::default()).unwrap();
    let record = find(&finished, "zero", "a");
    let answer = record.answer().unwrap();
    assert_eq!((answer.text.as_str(), answer.finish.as_str()), ("sky", "likelihood"));
    assert_eq!(record.verdicts["choice"].value(), Some(1.0));
}

#[test]
fn a_settled_set_is_asked_no_further_and_a_second_run_stops_there_too() {
    let folder = Folder::new();
    let text = fs_err::read_to_string(folder.0.path().join("x.yaml")).unwrap();
    folder.write("x.yaml", &text.replace("run: {", "run: { stop: { decided: true, first: 4 },"));
    let row = |i: usize| {
        format!("{{\"id\":\"s{i}\",\"input\":\"what is blue {i}?\",\"reference\":\"sky\"}}\n")
    };
    let rows: String = (0..40).map(row).collect();
    folder.write("e.jsonl", &rows);
    // Enough is known once nine samples have been answered by each of the four contenders.
    let settled: Settled = |_, _, records| (records.len() >= 36).then(|| "nine will do".into());
    let options = Options { settled: Some(settled), ..Options::default() };
    let finished = folder.run(&options).unwrap();
    assert_eq!(finished.records.len(), 36, "rounds end at 4, 6 and 9 samples");
    // Both training seeds of the scripted trainer make one adapter, whose answers are shared.
    assert_eq!((finished.missing, finished.answered_now), (0, 27));
    let stopped = &finished.manifest.stopped[0];
    assert_eq!((stopped.asked, stopped.samples), (9, 40));
    assert_eq!(stopped.because, "nine will do");
    let again = folder.run(&options).unwrap();
    assert_eq!(again.answered_now, 0);
    assert_eq!((again.records, again.manifest), (finished.records, finished.manifest));
    let never: Settled = |_, _, _| None;
    let all = folder.run(&Options { settled: Some(never), ..Options::default() }).unwrap();
    assert_eq!((all.records.len(), all.answered_now), (160, 93));
    assert!(all.manifest.stopped.is_empty());
}

#[test]
fn one_adapter_learns_several_sets_and_is_reported_for_each() {
    let folder = Folder::new();
    folder.write("e2.jsonl", "{\"id\":\"d\",\"input\":\"other\",\"reference\":\"no\"}\n");
    folder.write("t2.jsonl", "{\"input\":\"other\",\"reference\":\"no\"}\n");
    let yaml = fs_err::read_to_string(folder.0.path().join("x.yaml")).unwrap();
    let yaml = yaml
        .replace(
            "scorers: [exact_match] }]",
            "scorers: [exact_match] }, { name: s2, path: e2.jsonl, train: t2.jsonl, scorers: [exact_match] }]",
        )
        .replace("seeds: [0, 1]", "mix: { weights: { s: 1, s2: 1 } }");
    folder.write("x.yaml", &yaml);
    let finished = folder.run(&Options::default()).unwrap();
    for sample in ["c", "d"] {
        assert_eq!(find(&finished, "tuned", sample).verdicts["exact_match"].value(), Some(1.0));
    }
    let training = &finished.manifest.training;
    let sets: Vec<&str> = training.iter().map(|entry| entry.set.as_str()).collect();
    assert_eq!(sets, ["s", "s2"]);
    assert_eq!(training[0].outcome.digest, training[1].outcome.digest);
    assert_eq!((training[0].rows, training[1].rows), (3, 3));
    assert!(training.iter().all(|entry| entry.arms == ["tuned"]));
}

#[test]
fn a_set_can_be_answered_with_the_adapters_of_another() {
    let folder = Folder::new();
    folder.write("e2.jsonl", "{\"id\":\"d\",\"input\":\"other\",\"reference\":\"no\"}\n");
    let yaml = fs_err::read_to_string(folder.0.path().join("x.yaml")).unwrap();
    let yaml = yaml.replace("name: few, model", "name: few, on: [s], model").replace(
        "scorers: [exact_match] }]",
        "scorers: [exact_match] }, { name: skills, path: e2.jsonl, template: 'In general: {{ input }}', scorers: [exact_match], retention: true, adapters_of: s }]",
    );
    folder.write("x.yaml", &yaml);
    let finished = folder.run(&Options::default()).unwrap();
    let training = &finished.manifest.training;
    let sets: Vec<(&str, u64)> =
        training.iter().map(|entry| (entry.set.as_str(), entry.seed)).collect();
    assert_eq!(sets, [("s", 0), ("s", 1), ("skills", 0), ("skills", 1)]);
    // Nothing was trained again: rows, digest and folder are those of the set that lends.
    for (lent, borrowed) in [(0, 2), (1, 3)] {
        assert_eq!(training[lent].outcome, training[borrowed].outcome);
        assert_eq!(training[borrowed].arms, ["tuned"]);
    }
    let asked = finished.records.iter().filter(|r| r.trial.set == "skills");
    let tuned: Vec<u64> =
        asked.filter(|r| r.trial.arm == "tuned").map(|r| r.trial.train_seed).collect();
    assert_eq!(tuned, [0, 1]);
}

#[test]
fn training_alone_leaves_adapters_that_a_run_finds() {
    let folder = Folder::new();
    let loaded = load(&folder.0.path().join("x.yaml"), &|_| None, None).unwrap();
    let trained = crate::train(&loaded, &ScriptedBackends, &[], &Quiet).unwrap();
    // One arm, two seeds.
    assert_eq!(trained.iter().map(|entry| entry.seed).collect::<Vec<_>>(), [0, 1]);
    assert!(trained.iter().all(|entry| entry.arms == ["tuned"]));
    assert!(trained.iter().all(|entry| entry.outcome.adapter.is_dir()));
    let none = crate::train(&loaded, &ScriptedBackends, &["zero".into()], &Quiet).unwrap();
    assert!(none.is_empty());
    let finished = folder.run(&Options::default()).unwrap();
    let outcomes = |entries: &[bench_core::manifest::TrainingEntry]| {
        entries.iter().map(|entry| entry.outcome.digest.clone()).collect::<Vec<_>>()
    };
    assert_eq!(outcomes(&finished.manifest.training), outcomes(&trained));
}
