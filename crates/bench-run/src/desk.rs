//! Where calls are made: whatever is not answered yet is asked, one loaded model after the other,
//! and every answer is on disk before the next is waited for. What a call is for it does not know.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bench_core::backend::{
    BackendError, BackendErrorKind, Completion, Generator, Probe, Progress, Request, Served, Stage,
    TokenLogprob,
};
use bench_core::dataset::Sample;
use bench_core::digest;
use bench_core::manifest::ParityEntry;
use bench_core::record::{Answer, CallKind, Outcome};
use bench_core::spec::ChoiceBy;
use futures::stream::{self, StreamExt as _};
use tokio::runtime::Runtime;

use crate::answer::call_record;
use crate::backends::{Backends, Counter, Place, ResolvedModel};
use crate::features::Classifies;
use crate::likelihood;
use crate::prepare::{Adapter, add_seconds};
use crate::prompt::{Laid, Layout, Question, Step};
use crate::run::{Options, RunError, Stop, peak_memory_bytes};
use crate::store::Store;

/// One request to one model.
#[derive(Clone)]
pub(crate) struct Call<'a> {
    pub(crate) model: &'a ResolvedModel,
    pub(crate) adapter: Option<&'a Adapter>,
    pub(crate) request: Request,
    /// Digest of model, adapter and request: where the answer is kept.
    pub(crate) key: String,
    /// Prompt tokens where they can be counted: calls of like length are made together.
    pub(crate) tokens: u32,
    /// The arm, for messages.
    pub(crate) arm: &'a str,
    /// The eval set, for messages.
    pub(crate) set: &'a str,
    /// Milliseconds that finding passages for it took.
    pub(crate) retrieval_ms: f64,
    /// The texts to choose the likeliest of; without them the answer is written.
    pub(crate) choices: Option<(ChoiceBy, &'a [String])>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        model: &'a ResolvedModel,
        adapter: Option<&'a Adapter>,
        request: Request,
        counter: Option<&dyn Counter>,
        (set, arm): (&'a str, &'a str),
    ) -> Result<Self, BackendError> {
        let of_adapter = adapter.map_or("", |adapter| adapter.digest.as_str());
        let key = digest::of_json(&(&model.entry.digest, of_adapter, &request));
        let tokens = counter.map_or(Ok(0), |counter| counter.count(&request.messages))?;
        let (retrieval_ms, choices) = (0.0, None);
        Ok(Self { model, adapter, request, key, tokens, arm, set, retrieval_ms, choices })
    }

    /// The same call with an answer that is not written but chosen.
    pub(crate) fn choosing(mut self, by: ChoiceBy, choices: &'a [String]) -> Self {
        self.key = digest::of_json(&(&self.key, by, choices));
        self.choices = Some((by, choices));
        self
    }

    async fn answered_by(&self, generator: &dyn Generator) -> Result<Completion, BackendError> {
        match self.choices {
            None => generator.generate(&self.request).await,
            Some((by, choices)) => likelihood::choose(generator, &self.request, choices, by).await,
        }
    }
}

/// Makes calls and keeps what came back.
pub(crate) struct Desk<'a> {
    pub(crate) backends: &'a dyn Backends,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) stop: &'a Stop,
    pub(crate) options: &'a Options,
    pub(crate) store: Store,
    pub(crate) runtime: Runtime,
    /// Calls in flight at once.
    pub(crate) concurrency: usize,
    /// What was asked in this run: a call is never made twice in one, whatever the options say.
    pub(crate) asked: BTreeSet<String>,
}

/// A prompt to lay out.
pub(crate) struct LayJob<'a> {
    pub(crate) layout: &'a Layout,
    /// Says what must be said before the prompt can be laid out.
    pub(crate) asker: &'a ResolvedModel,
    /// Puts passages in order.
    pub(crate) sorter: &'a ResolvedModel,
    pub(crate) sample: &'a Sample,
    /// Eval set and arm, for messages.
    pub(crate) name: (&'a str, &'a str),
}

impl<'a> LayJob<'a> {
    fn call(&self, question: &Question) -> Result<Call<'a>, BackendError> {
        let request = Request {
            messages: question.messages.clone(),
            max_tokens: question.max_tokens,
            temperature: 0.0,
            top_p: None,
            seed: 0,
            stop: Vec::new(),
            constraint: question.constraint.clone(),
            top_logprobs: 0,
        };
        let model = match question.kind {
            CallKind::Rerank => self.sorter,
            CallKind::Sample | CallKind::Rewrite | CallKind::FollowUp | CallKind::Reward => {
                self.asker
            }
        };
        Call::new(model, None, request, None, self.name)
    }
}

/// Lays out prompts, and asks what must be asked first. Gives the prompts, `None` where the run is
/// to stop before one is there, and the keys of what was asked for them, now or earlier.
pub(crate) fn lay_all(
    desk: &mut Desk<'_>,
    jobs: &[LayJob<'_>],
) -> Result<(Vec<Option<Laid>>, BTreeSet<String>), RunError> {
    let mut laid: Vec<Option<Laid>> = vec![None; jobs.len()];
    let mut keys = BTreeSet::new();
    loop {
        let mut calls = Vec::new();
        for (job, laid) in jobs.iter().zip(&mut laid).filter(|(_, laid)| laid.is_none()) {
            let replies = |question: &Question| {
                let key = job.call(question).ok()?.key;
                desk.outcome(&key).map(|outcome| call_record(question.kind, outcome))
            };
            match job.layout.lay(job.sample, &replies)? {
                Step::Done(done) => *laid = Some(done),
                Step::Ask(question) => calls.push(job.call(&question)?),
            }
        }
        keys.extend(calls.iter().map(|call| call.key.clone()));
        if calls.is_empty() || desk.ask(&calls)? == 0 {
            return Ok((laid, keys));
        }
    }
}

impl Desk<'_> {
    /// The outcome of a call, if it counts in this run.
    pub(crate) fn outcome(&self, key: &str) -> Option<&Outcome> {
        let outcome = self.store.answer(key)?;
        let counts = self.options.score_only
            || self.asked.contains(key)
            || match outcome {
                Outcome::Failed { .. } => !self.options.retry_failed,
                Outcome::Answered(_) => !self.options.no_cache,
            };
        counts.then_some(outcome)
    }

    /// Makes the calls that have no outcome, one loaded model after the other: memory holds one set
    /// of weights at a time, and no arm's latency is measured while another model computes. Gives
    /// the number of calls made; fewer than asked for where the run is to stop, none where it is to
    /// score only.
    pub(crate) fn ask(&mut self, calls: &[Call<'_>]) -> Result<usize, RunError> {
        if self.options.score_only {
            return Ok(0);
        }
        let mut groups: Vec<(String, Vec<&Call<'_>>)> = Vec::new();
        let mut seen = BTreeSet::new();
        for call in calls {
            if self.outcome(&call.key).is_some() || !seen.insert(&call.key) {
                continue;
            }
            let adapter = call.adapter.map_or("", |adapter| adapter.digest.as_str());
            let group = format!("{}/{adapter}", call.model.entry.digest);
            match groups.iter_mut().find(|(name, _)| *name == group) {
                Some((_, members)) => members.push(call),
                None => groups.push((group, vec![call])),
            }
        }
        let mut answered = 0;
        for (_, mut members) in groups {
            if self.stop.is_requested() {
                break;
            }
            // Prompts of one arm begin alike, and a backend may keep what it has read.
            members.sort_by_key(|call| (call.arm, call.tokens));
            let started = Instant::now();
            let first = members[0];
            let adapter = first.adapter.map(|adapter| adapter.folder.as_path());
            let generator = self.load(first.model, adapter)?;
            self.parity(first, generator.as_ref())?;
            answered += self.ask_one(&members, generator.as_ref())?;
            drop(generator);
            add_seconds(&mut self.store.state, "generate", started.elapsed().as_secs_f64());
            self.note_memory();
            self.store.save_state()?;
        }
        Ok(answered)
    }

    /// What answers: a model, or a classifier over embeddings.
    fn load(
        &self,
        model: &ResolvedModel,
        adapter: Option<&Path>,
    ) -> Result<Arc<dyn Generator>, BackendError> {
        match (&model.place, adapter) {
            (Place::Embedder(source), Some(folder)) => {
                let embedder = self.backends.embedder(source, self.progress)?;
                Ok(Arc::new(Classifies::open(folder, embedder)?))
            }
            _ => self.backends.load(model, adapter),
        }
    }

    fn ask_one(
        &mut self,
        members: &[&Call<'_>],
        generator: &dyn Generator,
    ) -> Result<usize, RunError> {
        let names: BTreeSet<&str> = members.iter().map(|call| call.arm).collect();
        let what = names.into_iter().collect::<Vec<_>>().join(", ");
        let task = self.progress.begin(Stage::Generate, &what, members.len() as u64);
        let stop = self.stop;
        let (store, runtime, asked) = (&mut self.store, &self.runtime, &mut self.asked);
        runtime.block_on(async {
            let pending = members.iter().take_while(|_| !stop.is_requested());
            let mut answers = stream::iter(pending)
                .map(|call| async move { (*call, call.answered_by(generator).await) })
                .buffer_unordered(self.concurrency);
            let (mut done, mut failed, mut tokens) = (0, 0, 0);
            let started = Instant::now();
            while let Some((call, result)) = answers.next().await {
                let outcome = match result {
                    Ok(completion) => {
                        tokens += u64::from(completion.tokens_out);
                        Outcome::Answered(Answer {
                            text: completion.text,
                            tokens_in: completion.tokens_in,
                            tokens_out: completion.tokens_out,
                            first_token_ms: completion.first_token_ms,
                            latency_ms: completion.latency_ms,
                            retrieval_ms: call.retrieval_ms,
                            finish: completion.finish,
                            cost_usd: None,
                            full_text: None,
                        })
                    }
                    Err(error) if error.kind == BackendErrorKind::Fatal => return Err(error.into()),
                    Err(error) => {
                        failed += 1;
                        Outcome::Failed { error: error.chain() }
                    }
                };
                store.put_answer(&call.key, outcome)?;
                asked.insert(call.key.clone());
                done += 1;
                let rate = tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
                let failures =
                    if failed > 0 { format!(", {failed} failed") } else { String::new() };
                task.advance(done as u64, &format!("{rate:.0} tokens/s{failures}"));
            }
            Ok(done)
        })
    }

    /// Before a fine-tuned arm answers: do trainer and server agree about its adapter?
    fn parity(&mut self, call: &Call<'_>, generator: &dyn Generator) -> Result<(), RunError> {
        let Some(adapter) = call.adapter else { return Ok(()) };
        if adapter.probes.is_empty() || self.store.state.parity.contains_key(&adapter.digest) {
            return Ok(());
        }
        let started = Instant::now();
        let task = self.progress.begin(Stage::Check, "trainer and server agree", 2);
        let Some(trainer) = &adapter.trainer else { return Ok(()) };
        let trained = trainer.probe(&adapter.base, Some(&adapter.folder), &adapter.probes)?;
        task.advance(1, "");
        let served = self.runtime.block_on(generator.probe(&adapter.probes))?;
        task.advance(2, "");
        let (entry, table) =
            compare_probes(&trained, &served, Tolerance::of(&call.model.entry.dtype));
        if !table.is_empty() {
            let (arm, set) = (call.arm.to_owned(), call.set.to_owned());
            return Err(RunError::Parity { arm, set, table });
        }
        let base_tokens = match adapter.served {
            Served::Decoder => self.base_agrees(call, adapter)?,
            Served::Adapter | Served::Merged | Served::Classifier | Served::Reward => None,
        };
        let set = call.set.to_owned();
        let entry = ParityEntry { set, seed: adapter.seed, base_tokens, ..entry };
        self.store.state.parity.insert(adapter.digest.clone(), entry);
        add_seconds(&mut self.store.state, "check", started.elapsed().as_secs_f64());
        Ok(self.store.save_state()?)
    }

    /// What our own decoder serves is fair beside the other arms only if it writes what their server
    /// writes where nothing was trained: the same prompts, greedily, on the base model. Gives the
    /// tokens that both wrote.
    fn base_agrees(&self, call: &Call<'_>, adapter: &Adapter) -> Result<Option<u64>, RunError> {
        let Some(own) = self.backends.decoder(call.model)? else { return Ok(None) };
        let requests: Vec<Request> = adapter
            .probes
            .iter()
            .take(BASE_ROWS)
            .map(|row| Request {
                messages: row.messages.clone(),
                max_tokens: BASE_TOKENS,
                temperature: 0.0,
                top_p: None,
                seed: 0,
                stop: Vec::new(),
                constraint: None,
                top_logprobs: 2,
            })
            .collect();
        let written = |generator: &dyn Generator| -> Result<Vec<Completion>, BackendError> {
            self.runtime.block_on(async {
                let mut written = Vec::new();
                for request in &requests {
                    written.push(generator.generate(request).await?);
                }
                Ok(written)
            })
        };
        let ours = written(own.as_ref())?;
        drop(own);
        let theirs = written(self.backends.load(call.model, None)?.as_ref())?;
        let (tokens, table) =
            compare_written(&ours, &theirs, Tolerance::of(&call.model.entry.dtype));
        if table.is_empty() {
            return Ok(Some(tokens));
        }
        let (arm, set) = (call.arm.to_owned(), call.set.to_owned());
        Err(RunError::Parity { arm, set, table })
    }

    pub(crate) fn note_memory(&mut self) {
        self.store.state.peak_memory_bytes =
            self.store.state.peak_memory_bytes.max(peak_memory_bytes());
    }
}

/// What kernels may change.
#[derive(Clone, Copy)]
struct Tolerance {
    /// Largest difference of a row's mean negative log-likelihood, in nats.
    nll: f64,
    /// Two tokens whose log-probabilities are this close may change places, in nats.
    tie: f64,
    /// Least share of all tokens on which both find the same likeliest one.
    top1: f64,
}

impl Tolerance {
    /// In bf16 a number has 8 bits: two kernels differ by more, and near ties fall either way.
    fn of(dtype: &str) -> Self {
        match dtype {
            "bf16" => Self { nll: 5e-2, tie: 1e-1, top1: 0.97 },
            _ => Self { nll: 1e-2, tie: 1e-3, top1: 1.0 },
        }
    }
}

/// Prompts, and tokens of each answer, on which two decoders of the base model must agree.
const BASE_ROWS: usize = 4;
const BASE_TOKENS: u32 = 16;

/// Tokens that both wrote, and a line per answer that differs where there was no tie.
fn compare_written(
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

/// Compares both sides row by row; the table is empty when they agree.
fn compare_probes(
    trained: &[Probe],
    served: &[Probe],
    tolerance: Tolerance,
) -> (ParityEntry, String) {
    let mut entry = ParityEntry {
        set: String::new(),
        seed: 0,
        rows: trained.len() as u64,
        tokens: 0,
        top1_agree: 0,
        max_nll_difference: 0.0,
        base_tokens: None,
    };
    let mut table = String::new();
    for (row, (ours, theirs)) in trained.iter().zip(served).enumerate() {
        if ours.token_ids != theirs.token_ids {
            let at =
                ours.token_ids.iter().zip(&theirs.token_ids).take_while(|(a, b)| a == b).count();
            writeln!(
                table,
                "  row {row}: token {at} is {:?} in training and {:?} in serving",
                ours.token_ids.get(at),
                theirs.token_ids.get(at)
            )
            .ok();
            continue;
        }
        let agree = ours.top1.iter().zip(&theirs.top1).filter(|(a, b)| a == b).count();
        let tokens = ours.top1.len();
        let difference = (ours.nll - theirs.nll).abs();
        entry.tokens += tokens as u64;
        entry.top1_agree += agree as u64;
        entry.max_nll_difference = entry.max_nll_difference.max(difference);
        let exact = tolerance.top1 >= 1.0;
        if exact && agree < tokens
            || theirs.top1.len() != tokens
            || difference.is_nan()
            || difference > tolerance.nll
        {
            writeln!(table,
                "  row {row}: likeliest token agrees on {agree} of {tokens}; loss {:.4} in training, {:.4} in serving",
                ours.nll, theirs.nll
            ).ok();
        }
    }
    let least = tolerance.top1 * entry.tokens as f64;
    if table.is_empty() && (entry.top1_agree as f64) < least {
        let ParityEntry { top1_agree, tokens, .. } = entry;
        let share = tolerance.top1 * 100.0;
        writeln!(table, "  likeliest token agrees on {top1_agree} of {tokens}, under {share:.0} %")
            .ok();
    }
    if trained.len() != served.len() {
        writeln!(table, "  {} rows in training, {} in serving", trained.len(), served.len()).ok();
    }
    (entry, table)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn in_bf16_a_near_tie_may_fall_either_way_and_another_adapter_is_still_seen() {
        let rows = |wrong: usize, nll: f64| -> Vec<Probe> {
            let top1 = |at: usize| u32::from(at < wrong);
            vec![Probe { token_ids: vec![1; 200], top1: (0..100).map(top1).collect(), nll }]
        };
        let said = |wrong, nll, dtype| {
            compare_probes(&rows(0, 0.5), &rows(wrong, nll), Tolerance::of(dtype)).1
        };
        assert!(said(1, 0.5, "f32").contains("agrees on 99 of 100"));
        assert_eq!(said(3, 0.54, "bf16"), "");
        assert!(said(4, 0.5, "bf16").contains("agrees on 96 of 100, under 97 %"));
        assert!(said(0, 0.56, "bf16").contains("0.5600 in serving"));
        assert!(said(0, f64::NAN, "bf16").contains("NaN"));
    }
}
