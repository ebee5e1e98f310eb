//! Passages: which documents stand before a question, found or given by a control.

use std::collections::BTreeMap;
use std::sync::Arc;

use bench_core::backend::{BackendError, Passage, Retriever};
use bench_core::dataset::{Document, Sample, TrainRow};
use bench_core::digest;
use bench_core::record::CallRecord;
use bench_core::spec::{Noise, Order, PassageSource, Raft, Rag, Rerank};
use bench_core::template::ContextPassage;

use super::query::{self, Replies, Step};
use super::rerank;
use crate::load::{draw, normal};

/// Training rows as documents, for arms that retrieve on a set without a corpus.
pub fn as_documents(train: &[TrainRow]) -> Vec<Document> {
    train
        .iter()
        .enumerate()
        .map(|(index, row)| Document {
            id: format!("train-{index}"),
            text: match row {
                TrainRow::Completion { input, reference } => format!("{input}\n{reference}"),
                TrainRow::Preference { input, chosen, .. } => format!("{input}\n{chosen}"),
                TrainRow::Labelled { input, completion, .. } => format!("{input}\n{completion}"),
                TrainRow::Text(text) => text.clone(),
            },
            ..Document::default()
        })
        .collect()
}

/// Where passages come from.
#[derive(Clone)]
pub struct Passages {
    /// How to search.
    pub settings: Rag,
    /// The index.
    pub retriever: Arc<dyn Retriever>,
    /// The corpus behind it.
    pub documents: Arc<Vec<Document>>,
    /// Seeds the controls.
    pub seed: u64,
}

/// Passages, best first, and what was asked to find them.
pub(super) type Found = (Vec<Passage>, Vec<CallRecord>);

/// Ranks are flattened by this much when rankings of several queries become one.
const FUSION: f64 = 10.0;

/// How deep the distractors of a training row are looked for.
const RAFT_DEPTH: usize = 50;

impl Passages {
    /// True when passages come from a search.
    pub fn searches(settings: &Rag) -> bool {
        match &settings.passages {
            PassageSource::Retrieved => true,
            PassageSource::OraclePlusNoise { noise, .. } => *noise == Noise::Retrieved,
            PassageSource::Oracle
            | PassageSource::Random
            | PassageSource::ClosedBook
            | PassageSource::WholeCorpus => false,
        }
    }

    pub(super) fn find(
        &self,
        sample: &Sample,
        replies: &Replies<'_>,
    ) -> Result<Step<Found>, BackendError> {
        let top_k = self.settings.top_k as usize;
        let passages = match &self.settings.passages {
            PassageSource::Retrieved => return self.search(sample, replies),
            PassageSource::ClosedBook => Vec::new(),
            PassageSource::WholeCorpus => self.documents.iter().map(whole).collect(),
            PassageSource::Oracle => self.gold(sample),
            PassageSource::OraclePlusNoise { distractors, golden_rank, noise } => {
                let mut passages = self.noise(sample, *distractors as usize, *noise)?;
                let gold = self.gold(sample);
                let at = match golden_rank {
                    Some(rank) => *rank as usize - 1,
                    None => self.lot(&sample.id, passages.len() + 1),
                };
                let at = at.min(passages.len());
                passages.splice(at..at, gold);
                passages
            }
            PassageSource::Random => self.noise_of_all(sample, top_k, |_| true),
        };
        Ok(Step::Done((passages, Vec::new())))
    }

    fn search(&self, sample: &Sample, replies: &Replies<'_>) -> Result<Step<Found>, BackendError> {
        let settings = &self.settings;
        let mut calls = Vec::new();
        let mut queries = vec![sample.input.clone()];
        if let Some(question) = query::rewriting(settings.query, &sample.input) {
            let Some(reply) = replies(&question) else { return Ok(Step::Ask(question)) };
            if !reply.failed {
                queries = query::queries(settings.query, &sample.input, &reply.text);
            }
            calls.push(CallRecord { prompt: question.messages, ..reply });
        }
        let mut rankings = Vec::with_capacity(queries.len());
        for query in &queries {
            rankings.push(self.retriever.retrieve(query, self.depth())?);
        }
        let top_k = settings.top_k as usize;
        let mut found = self.merge(sample, &rankings, top_k);
        for _ in 1..settings.iterations {
            let known: Vec<ContextPassage> = found.iter().map(context).collect();
            let question = query::follow_up(&sample.input, &known);
            let Some(reply) = replies(&question) else { return Ok(Step::Ask(question)) };
            let next = if reply.failed { None } else { query::next_query(&reply.text) };
            calls.push(CallRecord { prompt: question.messages, ..reply });
            let Some(next) = next else { break };
            rankings.push(self.retriever.retrieve(&next, self.depth())?);
            found = self.merge(sample, &rankings, top_k);
        }
        let Some(rerank) = self.listwise() else { return Ok(Step::Done((found, calls))) };
        let candidates = self.merge(sample, &rankings, top_k.max(rerank.candidates as usize));
        match sort(&sample.input, candidates, rerank, &mut calls, replies) {
            Step::Ask(question) => Ok(Step::Ask(question)),
            Step::Done(mut found) => {
                found.truncate(top_k);
                Ok(Step::Done((found, calls)))
            }
        }
    }

    /// How a chat model sorts what was found, where one does.
    fn listwise(&self) -> Option<&Rerank> {
        self.settings.rerank.as_ref().filter(|rerank| rerank.chat_model().is_some())
    }

    /// Passages to ask for, so that enough are left when some are dropped.
    fn depth(&self) -> usize {
        let candidates = self.listwise().map_or(0, |rerank| rerank.candidates);
        let wanted = self.settings.top_k.max(candidates) as usize;
        if self.settings.deduplicate { 2 * wanted + 1 } else { wanted + 1 }
    }

    /// The first `wanted` of one ranking of those of several queries, without what must not be shown.
    fn merge(&self, sample: &Sample, rankings: &[Vec<Passage>], wanted: usize) -> Vec<Passage> {
        let mut passages = match rankings {
            [one] => one.clone(),
            several => fuse(several),
        };
        passages.retain(|passage| !is_own_row(passage, &sample.input));
        if self.settings.deduplicate {
            passages = distinct(passages);
        }
        passages.truncate(wanted);
        passages
    }

    fn gold(&self, sample: &Sample) -> Vec<Passage> {
        let gold = self.documents.iter().filter(|one| sample.context_ids.contains(&one.id));
        gold.map(whole).collect()
    }

    fn noise(
        &self,
        sample: &Sample,
        count: usize,
        noise: Noise,
    ) -> Result<Vec<Passage>, BackendError> {
        let is_noise = |document: &str| !sample.context_ids.iter().any(|gold| gold == document);
        match noise {
            Noise::Random => Ok(self.noise_of_all(sample, count, is_noise)),
            Noise::Retrieved => {
                let depth = RAFT_DEPTH.max(2 * count);
                let mut found = self.retriever.retrieve(&sample.input, depth)?;
                found.retain(|passage| {
                    is_noise(&passage.document) && !is_own_row(passage, &sample.input)
                });
                let mut found = distinct(found);
                found.truncate(count);
                Ok(found)
            }
        }
    }

    fn noise_of_all(
        &self,
        sample: &Sample,
        count: usize,
        keep: impl Fn(&str) -> bool,
    ) -> Vec<Passage> {
        let kept: Vec<&Document> =
            self.documents.iter().filter(|document| keep(&document.id)).collect();
        let drawn =
            draw(&kept, count, self.seed, |_, document| format!("{}/{}", sample.id, document.id));
        drawn.into_iter().map(|document| whole(document)).collect()
    }

    /// The passages of a training row: its gold documents among distractors that the retriever
    /// finds for it, in the retriever's order; a share of the rows has distractors alone. A gold
    /// document that was not found stands at a place drawn with the seed, whole.
    pub(super) fn raft(
        &self,
        row: usize,
        input: &str,
        gold: &[String],
        raft: &Raft,
    ) -> Result<Vec<Passage>, BackendError> {
        let distractors = raft.distractors as usize;
        let mut found = self.retriever.retrieve(input, RAFT_DEPTH.max(2 * distractors))?;
        found.retain(|passage| !is_own_row(passage, input));
        let found = distinct(found);
        let is_gold = |passage: &Passage| gold.contains(&passage.document);
        let lot = |what: &str| share(&digest::of_json(&(what, self.seed, row, input)));
        let without = gold.is_empty() || lot("without golden") < raft.without_golden;
        // As many passages with gold as without.
        let (mut room, mut seen) = (distractors + usize::from(without), Vec::new());
        let mut passages = Vec::new();
        for passage in found {
            if is_gold(&passage) {
                if !without && !seen.contains(&passage.document) {
                    seen.push(passage.document.clone());
                    passages.push(passage);
                }
            } else if room > 0 {
                room -= 1;
                passages.push(passage);
            }
        }
        if !without {
            let missing = self
                .documents
                .iter()
                .filter(|document| gold.contains(&document.id) && !seen.contains(&document.id));
            for document in missing {
                let at = (lot(&document.id) * (passages.len() + 1) as f64) as usize;
                passages.insert(at.min(passages.len()), whole(document));
            }
        }
        Ok(passages)
    }

    /// A number below `n`, drawn with the seed.
    fn lot(&self, id: &str, n: usize) -> usize {
        (share(&digest::of_json(&("golden rank", self.seed, id))) * n as f64) as usize
    }
}

/// Passages in the order that a chat model gives them, window after window; a window whose reply
/// holds no order stays as it is, and its call counts as failed.
fn sort(
    question: &str,
    mut passages: Vec<Passage>,
    rerank: &Rerank,
    calls: &mut Vec<CallRecord>,
    replies: &Replies<'_>,
) -> Step<Vec<Passage>> {
    let (size, stride) = rerank.window_and_stride();
    for window in rerank::windows(passages.len(), size as usize, stride as usize) {
        let question = rerank::question(question, &passages[window.clone()]);
        let Some(reply) = replies(&question) else { return Step::Ask(question) };
        let order = if reply.failed { None } else { rerank::order(&reply.text, window.len()) };
        let failed = order.is_none();
        if let Some(order) = order {
            let sorted: Vec<Passage> =
                order.into_iter().map(|at| passages[window.start + at].clone()).collect();
            passages[window].clone_from_slice(&sorted);
        }
        calls.push(CallRecord { prompt: question.messages, failed, ..reply });
    }
    Step::Done(passages)
}

/// A digest as a number from 0 to below 1.
fn share(digest: &str) -> f64 {
    let bits = u64::from_str_radix(digest.get(..13).unwrap_or_default(), 16).unwrap_or(0);
    bits as f64 / (1_u64 << 52) as f64
}

/// A training row that is the question itself would be an answer key.
fn is_own_row(passage: &Passage, question: &str) -> bool {
    passage.document.starts_with("train-") && passage.text.lines().next() == Some(question)
}

/// Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009) of the rankings of several queries;
/// ties go to the passage that an earlier query found, then to the better rank.
fn fuse(rankings: &[Vec<Passage>]) -> Vec<Passage> {
    let mut fused: Vec<Passage> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for ranking in rankings {
        for (rank, passage) in ranking.iter().enumerate() {
            let score = 1.0 / (FUSION + rank as f64 + 1.0);
            let place = *places.entry(&passage.id).or_insert_with(|| {
                fused.push(Passage { score: 0.0, ..passage.clone() });
                fused.len() - 1
            });
            fused[place].score += score;
        }
    }
    fused.sort_by(|a, b| b.score.total_cmp(&a.score));
    fused
}

/// Drops passages whose text, case and white space aside, stands in a better one.
fn distinct(passages: Vec<Passage>) -> Vec<Passage> {
    let mut texts: Vec<String> = Vec::with_capacity(passages.len());
    let mut kept = Vec::with_capacity(passages.len());
    for passage in passages {
        let text = normal(&passage.text);
        if !texts.iter().any(|other| other.contains(&text)) {
            texts.push(text);
            kept.push(passage);
        }
    }
    kept
}

/// Positions of `n` passages, best first, in the order in which a prompt shows them.
pub(super) fn arrange(n: usize, order: Order) -> Vec<usize> {
    let sides = || (0..n).step_by(2).chain((1..n).step_by(2).rev());
    match order {
        Order::BestFirst => (0..n).collect(),
        Order::BestLast => (0..n).rev().collect(),
        Order::Sides => sides().collect(),
        Order::Middle => sides().map(|rank| n - 1 - rank).collect(),
    }
}

/// A passage as a template sees it.
pub(super) fn context(passage: &Passage) -> ContextPassage {
    ContextPassage {
        id: passage.document.clone(),
        title: passage.title.clone(),
        text: passage.text.clone(),
    }
}

pub(super) fn whole(document: &Document) -> Passage {
    Passage {
        id: document.id.clone(),
        document: document.id.clone(),
        title: document.title.clone(),
        text: document.text.clone(),
        score: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::query::Question;
    use crate::scripted::TermOverlap;
    use bench_core::record::CallKind;
    use bench_core::spec::{Query, RerankerSource};

    const CORPUS: &[(&str, &str)] = &[
        ("mayor", "The mayor of Brindal is Ada."),
        ("ada", "Ada was born in Ashlode."),
        ("ada2", "ada was born in  Ashlode."),
        ("town", "Brindal is a town."),
        ("river", "A river runs."),
    ];

    fn passages(settings: Rag) -> Passages {
        let documents: Vec<Document> = CORPUS
            .iter()
            .map(|(id, text)| Document {
                id: (*id).into(),
                text: (*text).into(),
                ..Document::default()
            })
            .collect();
        Passages {
            settings,
            retriever: Arc::new(TermOverlap::new(&documents)),
            documents: Arc::new(documents),
            seed: 7,
        }
    }

    fn sample(input: &str, gold: &[&str]) -> Sample {
        Sample {
            id: "s".into(),
            input: input.into(),
            context_ids: gold.iter().map(|id| (*id).to_owned()).collect(),
            ..Sample::default()
        }
    }

    fn reply(text: &str) -> CallRecord {
        CallRecord {
            kind: CallKind::Rewrite,
            prompt: Vec::new(),
            text: text.into(),
            tokens_in: 1,
            tokens_out: 1,
            latency_ms: 1.0,
            failed: text == "!",
        }
    }

    #[track_caller]
    fn check(settings: Rag, sample: &Sample, say: &str, expect: &[&str]) {
        let replies = |_: &Question| Some(reply(say));
        let found = passages(settings).find(sample, &replies).unwrap();
        let Step::Done((found, _)) = found else { panic!("asks") };
        assert_eq!(found.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), expect);
    }

    fn top(top_k: u32) -> Rag {
        Rag { top_k, ..Rag::default() }
    }

    #[test]
    fn copies_of_a_better_passage_are_dropped_and_replaced() {
        let question = sample("Where was Ada born, in Brindal?", &[]);
        check(top(3), &question, "", &["ada", "mayor", "town"]);
        let with_copies = Rag { deduplicate: false, ..top(3) };
        check(with_copies, &question, "", &["ada", "ada2", "mayor"]);
    }

    #[test]
    fn a_rewritten_question_searches_with_every_query() {
        let question = sample("river?", &[]);
        check(top(2), &question, "", &["river"]);
        let several = Rag { query: Query::MultiQuery, ..top(2) };
        check(several.clone(), &question, "which town", &["river", "town"]);
        // A rewriting that failed leaves the question.
        check(several, &question, "!", &["river"]);
        let hyde = Rag { query: Query::Hyde, ..top(1) };
        check(hyde, &question, "Ada was born in Ashlode", &["ada"]);
    }

    #[test]
    fn a_chat_model_sorts_candidates_window_by_window() {
        let llm = |candidates, window, stride| Rerank {
            window: Some(window),
            stride: Some(stride),
            ..Rerank::new(RerankerSource::Llm("w".into()), candidates)
        };
        let sorted = |rerank| Rag { rerank: Some(rerank), deduplicate: false, ..top(2) };
        let question = sample("Where was Ada born, in Brindal?", &[]);
        // The search gives ada, ada2, mayor, town.
        let last_first = "{\"ranking\": [2, 1]}";
        check(sorted(llm(4, 2, 1)), &question, last_first, &["town", "ada"]);
        check(sorted(llm(3, 20, 10)), &question, "[3] > [1]", &["mayor", "ada"]);
        // A reply without an order, and a call that failed, leave what the search found.
        for nothing in ["I cannot tell.", "!"] {
            check(sorted(llm(4, 2, 1)), &question, nothing, &["ada", "ada2"]);
        }
        let replies = |_: &Question| Some(reply("I cannot tell."));
        let found = passages(sorted(llm(4, 2, 1))).find(&question, &replies).unwrap();
        let Step::Done((_, calls)) = found else { panic!("asks") };
        assert_eq!(calls.len(), 3);
        assert!(calls.iter().all(|call| call.failed && call.text == "I cannot tell."));
    }

    #[test]
    fn what_must_be_asked_first_is_asked_first() {
        let arm = passages(Rag { query: Query::Decompose, ..top(1) });
        let Step::Ask(question) = arm.find(&sample("river?", &[]), &|_| None).unwrap() else {
            panic!("did not ask")
        };
        assert_eq!(question.kind, CallKind::Rewrite);
    }

    #[test]
    fn a_second_hop_finds_what_the_first_one_names() {
        let question = sample("Which place does the mayor of Brindal come from?", &["mayor"]);
        check(top(2), &question, "", &["mayor", "town"]);
        let two_hops = Rag { iterations: 2, ..top(2) };
        check(two_hops.clone(), &question, "Ada Ashlode", &["mayor", "ada"]);
        check(two_hops, &question, "DONE", &["mayor", "town"]);
    }

    #[test]
    fn controls_show_what_they_promise() {
        let control = |passages: PassageSource| Rag { passages, ..top(2) };
        let question = sample("Where was Ada born?", &["ada"]);
        check(control(PassageSource::ClosedBook), &question, "", &[]);
        check(control(PassageSource::Oracle), &question, "", &["ada"]);
        let all: Vec<&str> = CORPUS.iter().map(|(id, _)| *id).collect();
        check(control(PassageSource::WholeCorpus), &question, "", &all);
        let noisy = |golden_rank, noise| {
            control(PassageSource::OraclePlusNoise { distractors: 2, golden_rank, noise })
        };
        check(noisy(Some(1), Noise::Retrieved), &question, "", &["ada", "ada2", "mayor"]);
        check(noisy(Some(3), Noise::Retrieved), &question, "", &["ada2", "mayor", "ada"]);
        let Step::Done((found, _)) =
            passages(noisy(None, Noise::Random)).find(&question, &|_| None).unwrap()
        else {
            panic!("asks")
        };
        assert_eq!(found.len(), 3);
        assert_eq!(found.iter().filter(|one| one.id == "ada").count(), 1);
    }

    #[test]
    fn orders_put_the_best_where_they_say() {
        assert_eq!(arrange(5, Order::BestFirst), [0, 1, 2, 3, 4]);
        assert_eq!(arrange(5, Order::BestLast), [4, 3, 2, 1, 0]);
        assert_eq!(arrange(5, Order::Sides), [0, 2, 4, 3, 1]);
        assert_eq!(arrange(5, Order::Middle), [4, 2, 0, 1, 3]);
        assert_eq!(arrange(0, Order::Sides), [0_usize; 0]);
    }

    #[test]
    fn a_training_row_gets_gold_and_distractors_in_the_retriever_s_order() {
        let arm = passages(top(3));
        let raft = Raft { distractors: 2, without_golden: 0.0, ..Raft::default() };
        let gold = ["town".to_owned()];
        let shown = |raft: &Raft, gold: &[String]| -> Vec<String> {
            let found = arm.raft(0, "Where was Ada born, in Brindal?", gold, raft).unwrap();
            found.into_iter().map(|one| one.id).collect()
        };
        assert_eq!(shown(&raft, &gold), ["ada", "mayor", "town"]);
        // A gold document that no search finds stands somewhere, too.
        let far = shown(&raft, &["river".to_owned()]);
        assert!(far.len() == 3 && far.contains(&"river".to_owned()), "{far:?}");
        let never = Raft { without_golden: 1.0, ..raft.clone() };
        assert_eq!(shown(&never, &["ada".to_owned()]), ["mayor", "town"]);
        // A row that names no gold document gets what the retriever finds.
        assert_eq!(shown(&raft, &[]), ["ada", "mayor", "town"]);
    }
}
