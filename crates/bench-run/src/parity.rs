//! Do two programs that run the same model agree? The trainer and the server about an adapter, this
//! program's own decoder and the server about the base, and a server in fewer bits and f32.

use std::fmt::Write as _;

use bench_core::backend::{
    BackendError, Completion, Generator, Probe, ProbeRow, Progress, Request, Stage, TokenLogprob,
};
use bench_core::chat::Message;
use bench_core::manifest::{Agreement, ProofEntry};
use tokio::runtime::Runtime;

use crate::backends::{Backends, Place, ResolvedModel};
use crate::run::RunError;
use crate::store::Store;

/// What kernels may change.
#[derive(Clone, Copy)]
pub(crate) struct Tolerance {
    /// Largest difference of a row's mean negative log-likelihood, in nats.
    nll: f64,
    /// Two tokens whose log-probabilities are this close may change places, in nats.
    tie: f64,
    /// Share of tokens on which near ties are expected to fall the other way.
    flips: f64,
}

impl Tolerance {
    /// In bf16 a number has 8 bits. Measured where torch computes SmolLM2-135M-Instruct in bf16 and in f32,
    /// over 434 tokens that it wrote to the prompts of [`PROMPTS`]: 1.6 % of the likeliest tokens
    /// differ, between tokens up to 0.18 nats apart, and rows differ by up to 0.026 nats; with weights
    /// and activations rounded to 8-bit integers it was 46 % and 1.6 nats.
    pub(crate) fn of(dtype: &str) -> Self {
        match dtype {
            "bf16" => Self { nll: 5e-2, tie: 2.5e-1, flips: 0.02 },
            _ => Self { nll: 1e-2, tie: 1e-3, flips: 0.0 },
        }
    }

    /// Most tokens of so many that may differ: those expected, and three standard deviations.
    fn most_flips(self, tokens: u64) -> u64 {
        let expected = self.flips * tokens as f64;
        (expected + 3.0 * (expected * (1.0 - self.flips)).sqrt()) as u64
    }
}

/// Tokens that both wrote, and a line per answer that differs where there was no tie.
pub(crate) fn compare_written(
    ours: &[Completion],
    theirs: &[Completion],
    tolerance: Tolerance,
) -> (u64, String) {
    let (mut tokens, mut table) = (0, String::new());
    for (row, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let same = ours.logprobs.iter().zip(&theirs.logprobs);
        let same = same.take_while(|(a, b)| a.token == b.token).count();
        tokens += same as u64;
        let (a, b) = (ours.logprobs.get(same), theirs.logprobs.get(same));
        let tied = a.or(b).is_some_and(|one| match one.top.as_slice() {
            [first, second, ..] => first.1 - second.1 < tolerance.tie,
            _ => false,
        });
        if (a.is_some() || b.is_some()) && !tied {
            let name = |one: Option<&TokenLogprob>| {
                one.map_or_else(|| "the end".to_owned(), |one| format!("`{}`", one.token))
            };
            writeln!(
                table,
                "  row {row}, on the base model: token {same} is {} by our own decoder and {} by the server of the other arms",
                name(a),
                name(b)
            )
            .ok();
        }
    }
    (tokens, table)
}

/// Who is compared, for messages.
pub(crate) type Sides = [&'static str; 2];

/// The trainer and the server of what it trained.
pub(crate) const TRAINED_AND_SERVED: Sides = ["in training", "in serving"];

/// The model in f32 and as it is served.
const EXACT_AND_SERVED: Sides = ["in f32", "as it is served"];

/// Compares both sides row by row; the table is empty when they agree.
pub(crate) fn compare_probes(
    ours: &[Probe],
    theirs: &[Probe],
    [here, there]: Sides,
    tolerance: Tolerance,
) -> (Agreement, String) {
    let mut found = Agreement { rows: ours.len() as u64, ..Agreement::default() };
    let mut table = String::new();
    for (row, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        if ours.token_ids != theirs.token_ids {
            let at =
                ours.token_ids.iter().zip(&theirs.token_ids).take_while(|(a, b)| a == b).count();
            writeln!(
                table,
                "  row {row}: token {at} is {:?} {here} and {:?} {there}",
                ours.token_ids.get(at),
                theirs.token_ids.get(at)
            )
            .ok();
            continue;
        }
        let agree = ours.top1.iter().zip(&theirs.top1).filter(|(a, b)| a == b).count();
        let tokens = ours.top1.len();
        let difference = (ours.nll - theirs.nll).abs();
        found.tokens += tokens as u64;
        found.top1_agree += agree as u64;
        found.max_nll_difference = found.max_nll_difference.max(difference);
        if tolerance.flips == 0.0 && agree < tokens
            || theirs.top1.len() != tokens
            || difference.is_nan()
            || difference > tolerance.nll
        {
            writeln!(table,
                "  row {row}: likeliest token agrees on {agree} of {tokens}; loss {:.4} {here}, {:.4} {there}",
                ours.nll, theirs.nll
            ).ok();
        }
    }
    let (tokens, agree) = (found.tokens, found.top1_agree);
    let most = tolerance.most_flips(tokens);
    if table.is_empty() && tokens - agree > most {
        writeln!(
            table,
            "  likeliest token agrees on {agree} of {tokens}; rounding alone changes at most {most}"
        )
        .ok();
    }
    if ours.len() != theirs.len() {
        writeln!(table, "  {} rows {here}, {} {there}", ours.len(), theirs.len()).ok();
    }
    (found, table)
}

/// What a model is asked before it may be served in fewer bits than f32: a little of what people ask.
const PROMPTS: [&str; 11] = [
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Translate into German: The train leaves at nine.",
    "List five fruits in alphabetical order, one per line.",
    "A shop sells 12 apples for 3 dollars. What do 20 apples cost? Show the steps.",
    "Turn this into JSON with the keys name, age and town: Ada is 36 and lives in Bath.",
    "Write a polite letter of two paragraphs that cancels a subscription.",
    "Summarise in one sentence: The committee met on Tuesday. It approved the budget, put off the vote on the new bridge, and thanked its treasurer, who leaves after nine years.",
    "Which is larger, the Moon or Mars? Give a reason.",
    "Continue the story: The lighthouse had been dark for years when, one night,",
];

/// Most tokens of each answer that is compared.
const PROOF_TOKENS: u32 = 48;

/// A prompt that a model must read from far back: so many lines of it.
fn long_prompt(lines: usize) -> String {
    const KEYS: [&str; 7] = ["brass", "steel", "bent", "small", "heavy", "red", "old"];
    let mut prompt = String::new();
    for (place, key) in (1..=lines).zip(KEYS.iter().cycle()) {
        writeln!(prompt, "Drawer {place}: the {key} key.").ok();
    }
    let asked = lines / 3 + 1;
    writeln!(prompt, "\nWhich key lies in drawer {asked}, and which in drawer {lines}?").ok();
    prompt
}

/// A local model that is not served in f32 answers only after a proof: what it writes to a dozen prompts
/// must be as likely, and its tokens the likeliest, where the trainer's passes run the same weights in
/// f32 on the processor. Once per model and numeric type; kept in the run folder.
pub(crate) fn prove(
    backends: &dyn Backends,
    model: &ResolvedModel,
    generator: &dyn Generator,
    (store, runtime, progress): (&mut Store, &Runtime, &dyn Progress),
) -> Result<(), RunError> {
    let (Place::Local(folder), entry) = (&model.place, &model.entry) else { return Ok(()) };
    if entry.dtype == "f32" || store.state.proofs.contains_key(&entry.digest) {
        return Ok(());
    }
    let task = progress.begin(Stage::Check, "the server agrees with f32", 3);
    let prompts = prompts(backends, model)?;
    let written = runtime.block_on(async {
        let mut rows = Vec::new();
        for messages in prompts {
            let request = Request {
                messages,
                max_tokens: PROOF_TOKENS,
                temperature: 0.0,
                top_p: None,
                seed: 0,
                stop: Vec::new(),
                constraint: None,
                top_logprobs: 0,
            };
            let completion = generator.generate(&request).await?.text;
            rows.push(ProbeRow { messages: request.messages, completion });
        }
        Ok::<_, BackendError>(rows)
    })?;
    task.advance(1, "");
    // A model may say nothing to one prompt; one that says nothing to any is not served right.
    let rows: Vec<ProbeRow> =
        written.into_iter().filter(|row| !row.completion.is_empty()).collect();
    let served = runtime.block_on(generator.probe(&rows))?;
    task.advance(2, "");
    let exact = backends.trainer(model)?.probe(folder, None, &rows)?;
    task.advance(3, "");
    let (agreement, mut table) =
        compare_probes(&exact, &served, EXACT_AND_SERVED, Tolerance::of(&entry.dtype));
    if rows.is_empty() {
        table.push_str("  it answers every prompt with nothing\n");
    }
    if !table.is_empty() {
        return Err(RunError::Unproved {
            model: entry.id.clone(),
            dtype: entry.dtype.clone(),
            table,
        });
    }
    let proof = ProofEntry { model: entry.id.clone(), dtype: entry.dtype.clone(), agreement };
    store.state.proofs.insert(entry.digest.clone(), proof);
    Ok(store.save_state()?)
}

/// The prompts of a proof that the model's window has room for.
fn prompts(
    backends: &dyn Backends,
    model: &ResolvedModel,
) -> Result<Vec<Vec<Message>>, BackendError> {
    let counter = backends.counter(model)?;
    let long = [60, 20].map(long_prompt);
    let mut fitting = Vec::new();
    for text in PROMPTS.into_iter().chain(long.iter().map(String::as_str)) {
        let messages = vec![Message::user(text)];
        let fits = match &counter {
            Some(counter) => counter.count(&messages)? + PROOF_TOKENS <= counter.context_window(),
            None => true,
        };
        if fits {
            fitting.push(messages);
        }
    }
    Ok(fitting)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use async_trait::async_trait;
    use bench_core::backend::{Constraint, Embedder, Indexer, ModelFolder, Trainer};
    use bench_core::manifest::ModelEntry;
    use bench_core::spec::{EmbedderSource, IndexBackend, ModelSource};

    use super::*;
    use crate::backends::Counter;
    use crate::load::load;
    use crate::run::{Finished, Options, Stop, run};
    use crate::scripted::{Quiet, ScriptedBackends, ScriptedTrainer};

    #[test]
    fn two_decoders_write_the_same_but_for_ties() {
        let said = |tokens: &[(&str, f64)]| Completion {
            logprobs: tokens
                .iter()
                .map(|(token, gap)| TokenLogprob {
                    token: (*token).into(),
                    logprob: -0.1,
                    top: vec![((*token).into(), -0.1), ("x".into(), -0.1 - gap)],
                })
                .collect(),
            ..Completion::default()
        };
        let ours = [said(&[("a", 1.0), ("b", 1.0)]), said(&[("a", 1.0), ("b", 1e-5)])];
        assert_eq!(compare_written(&ours, &ours, Tolerance::of("f32")), (4, String::new()));
        let tied = [ours[0].clone(), said(&[("a", 1.0), ("c", 1e-5)])];
        assert_eq!(compare_written(&ours, &tied, Tolerance::of("f32")), (3, String::new()));
        let other = [said(&[("a", 1.0), ("c", 1.0)]), said(&[("a", 1.0)])];
        let (tokens, table) = compare_written(&ours[..1], &other[..1], Tolerance::of("f32"));
        assert_eq!(tokens, 1);
        assert!(table.contains("token 1 is `b` by our own decoder and `c` by"), "{table}");
    }

    #[test]
    fn disagreement_between_trainer_and_server_is_shown_row_by_row() {
        let probe = |ids: &[u32], top1: &[u32], nll| Probe {
            token_ids: ids.into(),
            top1: top1.into(),
            nll,
        };
        let (entry, table) = compare_probes(
            &[probe(&[1, 2], &[3, 4], 0.5), probe(&[1], &[2], 0.1), probe(&[1], &[2], 0.1)],
            &[probe(&[1, 2], &[3, 4], 0.505), probe(&[9], &[2], 0.1), probe(&[1], &[5], 0.9)],
            TRAINED_AND_SERVED,
            Tolerance::of("f32"),
        );
        assert_eq!((entry.rows, entry.tokens, entry.top1_agree), (3, 3, 2));
        assert!(
            table.contains("row 1: token 0 is Some(1) in training and Some(9) in serving"),
            "{table}"
        );
        assert!(table.contains("row 2: likeliest token agrees on 0 of 1"), "{table}");
        assert!(!table.contains("row 0"), "{table}");
    }

    #[test]
    fn in_bf16_near_ties_may_fall_either_way_and_another_model_is_still_seen() {
        let rows = |wrong: usize, nll: f64| -> Vec<Probe> {
            let top1 = |at: usize| u32::from(at < wrong);
            vec![Probe { token_ids: vec![1; 200], top1: (0..100).map(top1).collect(), nll }]
        };
        let said = |wrong, nll, dtype| {
            let tolerance = Tolerance::of(dtype);
            compare_probes(&rows(0, 0.5), &rows(wrong, nll), EXACT_AND_SERVED, tolerance).1
        };
        assert!(said(1, 0.5, "f32").contains("agrees on 99 of 100; loss 0.5000 in f32"));
        // Two in a hundred, and three times the root of 1.96.
        assert_eq!(said(6, 0.54, "bf16"), "");
        assert!(
            said(7, 0.5, "bf16").contains("agrees on 93 of 100; rounding alone changes at most 6")
        );
        assert!(said(0, 0.56, "bf16").contains("0.5600 as it is served"));
        assert!(said(0, f64::NAN, "bf16").contains("NaN"));
    }

    /// Scripted models that are said to be served from a folder in bf16.
    #[derive(Clone, Copy)]
    struct LowBits {
        /// Nats by which everything is less likely than in f32.
        off: f64,
    }

    struct Rounded(LowBits);

    const SAYS: &str = "Paris";

    #[async_trait]
    impl Generator for Rounded {
        fn id(&self) -> &'static str {
            "rounded"
        }

        fn count_tokens(&self, _: &[Message]) -> Result<Option<u32>, BackendError> {
            Ok(None)
        }

        async fn generate(&self, _: &Request) -> Result<Completion, BackendError> {
            Ok(Completion { text: SAYS.into(), finish: "stop".into(), ..Completion::default() })
        }

        async fn probe(&self, rows: &[ProbeRow]) -> Result<Vec<Probe>, BackendError> {
            let folder = ModelFolder { path: "none".into(), digest: "none".into() };
            let mut probes = ScriptedTrainer.probe(&folder, None, rows)?;
            for probe in &mut probes {
                probe.nll += self.0.off;
            }
            Ok(probes)
        }
    }

    impl Backends for LowBits {
        fn resolve(
            &self,
            name: &str,
            source: &ModelSource,
            progress: &dyn Progress,
        ) -> Result<ResolvedModel, BackendError> {
            let found = ScriptedBackends.resolve(name, source, progress)?;
            let entry = ModelEntry { id: "small".into(), dtype: "bf16".into(), ..found.entry };
            let folder = ModelFolder { path: "none".into(), digest: entry.digest.clone() };
            Ok(ResolvedModel { entry, place: Place::Local(folder) })
        }

        fn load(
            &self,
            _: &ResolvedModel,
            _: Option<&Path>,
        ) -> Result<Arc<dyn Generator>, BackendError> {
            Ok(Arc::new(Rounded(*self)))
        }

        fn counter(&self, model: &ResolvedModel) -> Result<Option<Arc<dyn Counter>>, BackendError> {
            ScriptedBackends.counter(model)
        }

        fn check_constraint(
            &self,
            model: &ResolvedModel,
            constraint: &Constraint,
        ) -> Result<(), BackendError> {
            ScriptedBackends.check_constraint(model, constraint)
        }

        fn trainer(&self, model: &ResolvedModel) -> Result<Arc<dyn Trainer>, BackendError> {
            ScriptedBackends.trainer(model)
        }

        fn embedder(
            &self,
            source: &EmbedderSource,
            progress: &dyn Progress,
        ) -> Result<Arc<dyn Embedder>, BackendError> {
            ScriptedBackends.embedder(source, progress)
        }

        fn indexer(&self, backend: &IndexBackend) -> Result<Arc<dyn Indexer>, BackendError> {
            ScriptedBackends.indexer(backend)
        }
    }

    fn run_in(folder: &Path, backends: LowBits) -> Result<Finished, RunError> {
        let runs = folder.join("runs").display().to_string();
        let experiment = format!(
            "version: 1\nmodels: {{ m: {{ scripted: {{ otherwise: x }} }} }}\n\
             eval_sets: [{{ name: s, path: e.jsonl, scorers: [exact_match] }}]\n\
             arms: [{{ name: plain, model: m, strategy: {{ prompt: {{ template: '{{{{ input }}}}' }} }} }}]\n\
             compare: {{ baseline: plain }}\nrun: {{ runs: '{runs}' }}\n"
        );
        fs_err::write(folder.join("x.yaml"), experiment).unwrap();
        let row = "{\"id\":\"1\",\"input\":\"Where?\",\"reference\":\"Paris\"}\n";
        fs_err::write(folder.join("e.jsonl"), row).unwrap();
        let loaded = load(&folder.join("x.yaml"), &|_| None, None).unwrap();
        run(&loaded, &backends, &Options::default(), &Quiet, &Stop::default())
    }

    #[test]
    fn a_model_in_fewer_bits_is_compared_with_f32_before_it_answers() {
        let folder = tempfile::tempdir().unwrap();
        let finished = run_in(folder.path(), LowBits { off: 0.01 }).unwrap();
        assert_eq!(finished.records.len(), 1);
        let [proof] = finished.manifest.proofs.as_slice() else { panic!("no proof") };
        assert_eq!((proof.model.as_str(), proof.dtype.as_str()), ("small", "bf16"));
        assert_eq!(proof.agreement.rows, 13);
        assert_eq!(proof.agreement.tokens, 13 * SAYS.len() as u64);
        assert!((proof.agreement.max_nll_difference - 0.01).abs() < 1e-9);
        // It is on disk, so that a model is compared once.
        let state = fs_err::read_to_string(folder.path().join("runs/x/state.json"));
        assert!(state.unwrap().contains("\"proofs\""));
    }

    #[test]
    fn a_model_that_is_another_one_in_fewer_bits_does_not_answer() {
        let folder = tempfile::tempdir().unwrap();
        let error = run_in(folder.path(), LowBits { off: 0.3 }).unwrap_err().to_string();
        assert!(
            error.contains("`small`, served in bf16, does not answer as it does in f32"),
            "{error}"
        );
        assert!(
            error.contains("row 0: likeliest token agrees on 5 of 5; loss 0.0000 in f32, 0.3000")
        );
        let answers = fs_err::read_to_string(folder.path().join("runs/x/answers.jsonl"));
        assert_eq!(answers.unwrap(), "");
    }

    #[test]
    fn the_long_prompt_asks_for_lines_far_apart() {
        let prompt = long_prompt(20);
        assert!(prompt.starts_with("Drawer 1: the brass key.\nDrawer 2: the steel key."));
        assert!(prompt.contains("drawer 7, and which in drawer 20?"), "{prompt}");
    }
}
