//! The trials inside `report.html`, compact enough to travel with the page: columns rather than
//! rows, texts that occur twice kept once, and all of it deflated when it is large.
//!
//! What is cut or left out is said in the data, so that the page can say it too.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bench_core::chat::{Message, Role};
use bench_core::record::{Outcome, Record, Verdict};
use serde_json::{Map, Value, json};

use crate::ReportError;
use crate::evaluation::{Contender, Evaluation, JUDGE, SetResult};
use crate::text::{cut, printable};

/// Up to this many bytes of JSON stay readable in the page.
const PLAIN: usize = 150_000;
/// Deflated bytes that the trials may take; in the page they take a third more. With charts and
/// tables, a page of 5,000 trials stays under 2 MB.
const PACKED: usize = 1_050_000;
/// The trials that [`PACKED`] is meant for; more trials get more room.
const TRIALS: usize = 5_000;
/// Trials that a page can hold and stay quick. Of more, whole samples are left out, evenly.
const MOST_TRIALS: usize = 20_000;
/// Characters of an answer, a prompt's turn and an error that are tried first.
const LONGEST: usize = 16_000;

/// How much of the texts travels along.
#[derive(Clone, Copy)]
struct Room {
    /// Characters of one text.
    text: usize,
    /// Bytes of all prompts together.
    prompts: usize,
}

/// The content of the page's data element and its media type.
pub(crate) struct Embedded {
    pub(crate) media_type: &'static str,
    pub(crate) text: String,
}

/// Every sample with the trials of all arms, as the page's script reads it.
pub(crate) fn embedded(evaluation: &Evaluation<'_>) -> Result<Embedded, ReportError> {
    let trials: usize = contenders(evaluation).map(|c| c.trials.len()).sum();
    let kept = trials.min(MOST_TRIALS);
    let budget = PACKED * kept.max(TRIALS) / TRIALS;
    let mut room = Room { text: text_limit(evaluation, budget * 5), prompts: budget * 6 };
    loop {
        let json = serde_json::to_vec(&data(evaluation, room))?;
        if json.len() <= PLAIN {
            // `<` could end the script element that holds the data.
            let text = String::from_utf8_lossy(&json).replace('<', "\\u003c");
            return Ok(Embedded { media_type: "application/json", text });
        }
        let packed = miniz_oxide::deflate::compress_to_vec(&json, 7);
        if packed.len() <= budget || room.text <= 60 {
            return Ok(Embedded {
                media_type: "application/x-deflate",
                text: STANDARD.encode(packed),
            });
        }
        room = Room { text: room.text / 2, prompts: room.prompts / 3 };
    }
}

fn contenders<'e>(evaluation: &'e Evaluation<'_>) -> impl Iterator<Item = &'e Contender<'e>> {
    evaluation.sets.iter().flat_map(|set| &set.contenders)
}

/// The most characters per text with which all answers and questions together stay under `bytes`.
fn text_limit(evaluation: &Evaluation<'_>, bytes: usize) -> usize {
    let lengths: Vec<[usize; 2]> = contenders(evaluation)
        .flat_map(|contender| &contender.trials)
        .map(|r| [r.answer().map_or(0, |answer| answer.text.len()), r.input.len()])
        .collect();
    let total = |limit: usize| -> usize {
        lengths.iter().map(|[answer, input]| answer.min(&limit) + input.min(&limit) / 4).sum()
    };
    let mut limit = LONGEST;
    while limit > 60 && total(limit) > bytes {
        limit /= 2;
    }
    limit
}

/// The layout, which `report.js` reads:
///
/// - `arms`: `[name shown, arm, training seed as text]`; `documents`: names; `lines`: text;
///   `turns`: `[role, lines]`, a prompt's turn being lines joined by line feeds;
///   `finishes`: why generation ended; `limit`: characters after which a text is cut;
/// - `sets`: `name`, `metrics`, `left_out` (samples), and two tables by column:
///   - `samples`: `id`, `input`, `references`, `gold` (documents), and `slices`, per field
///     `[field, values, value of each sample or -1]`;
///   - `trials`, ordered by sample: `sample`, `arm`, `repeat`, `answer` and `error` (one of them
///     null), `scores` (per metric a column, null where unscored), `unscored` (per metric, reason by
///     position), `reason` (the judge's), `finish`, `tokens_in`, `tokens_out`, `first_ms`,
///     `latency_ms`, `retrieval_ms`, `cost`, `passages` (`[document, in prompt, score]`), `prompt`
///     (turns; -1 where left out).
fn data(evaluation: &Evaluation<'_>, room: Room) -> Value {
    let mut shared = Shared { prompts_left: room.prompts, ..Shared::default() };
    let all: usize = contenders(evaluation).map(|c| c.trials.len()).sum();
    let mut arms: Vec<Value> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let mut sets = Vec::new();
    for set in &evaluation.sets {
        let own = set.contenders.iter().map(|contender| {
            *known.entry(contender.name.clone()).or_insert_with(|| {
                let arm = &evaluation.plans[contender.arm].name;
                let seed = contender.train_seed.to_string();
                arms.push(json!([printable(&contender.name), arm, seed]));
                arms.len() - 1
            })
        });
        let own: Vec<usize> = own.collect();
        sets.push(one_set(set, &own, all, room, &mut shared));
    }
    json!({
        "arms": arms,
        "documents": shared.documents.list,
        "lines": shared.lines.list,
        "turns": shared.turns,
        "finishes": shared.finishes.list,
        "limit": room.text,
        "sets": sets,
    })
}

fn one_set(
    set: &SetResult<'_>,
    arms: &[usize],
    all: usize,
    room: Room,
    shared: &mut Shared,
) -> Value {
    let metrics: Vec<&str> = set.metrics.iter().map(|metric| metric.name.as_str()).collect();
    let mut samples = Columns::default();
    let mut trials = Columns::default();
    let mut scores = vec![Vec::new(); metrics.len()];
    let mut unscored = vec![Map::new(); metrics.len()];
    let mut fields: BTreeMap<&str, (Index, Vec<i64>)> = BTreeMap::new();
    let (mut kept, mut left_out, mut rows) = (0_usize, 0, 0_usize);
    for (at, id) in set.samples.iter().enumerate() {
        // Of every `all` trials, MOST_TRIALS are kept, spread over the set.
        if all > MOST_TRIALS && (at + 1) * MOST_TRIALS / all == at * MOST_TRIALS / all {
            left_out += 1;
            continue;
        }
        let mut about: Option<&Record> = None;
        for (contender, arm) in set.contenders.iter().zip(arms) {
            for &record in contender.on(at) {
                about = about.or(Some(record));
                trial(record, &mut trials, room, shared);
                trials.push("sample", json!(kept));
                trials.push("arm", json!(arm));
                for (at, metric) in metrics.iter().enumerate() {
                    let verdict = record.verdicts.get(*metric);
                    let value = verdict.and_then(Verdict::value).filter(|value| value.is_finite());
                    scores[at].push(value.map(|value| (value * 1000.0).round() / 1000.0));
                    if let Some(Verdict::Unscored { reason }) = verdict {
                        let reason = cut(&printable(reason), room.text.min(200));
                        unscored[at].insert(rows.to_string(), reason.into());
                    }
                }
                rows += 1;
            }
        }
        let Some(record) = about else { continue };
        let short = |text: &String| cut(&printable(text), room.text);
        samples.push("id", json!(printable(id)));
        samples.push("input", json!(short(&record.input)));
        let right: Vec<String> = record.references.iter().take(5).map(short).collect();
        samples.push("references", json!(right));
        let gold = record.gold.iter().map(|id| shared.documents.of(&printable(id)));
        samples.push("gold", gold.collect::<Vec<_>>().into());
        for (field, value) in &record.slices {
            let (values, column) = fields.entry(field).or_default();
            column.resize(kept, -1);
            column.push(values.of(&printable(value)) as i64);
        }
        kept += 1;
    }
    let slices = fields.into_iter().map(|(field, (values, mut column))| {
        column.resize(kept, -1);
        json!([printable(field), values.list, column])
    });
    samples.0.insert("slices".into(), slices.collect());
    trials.0.insert("scores".into(), json!(scores));
    trials.0.insert("unscored".into(), json!(unscored));
    json!({
        "name": printable(&set.set.name),
        "metrics": metrics,
        "left_out": left_out,
        "samples": samples.0,
        "trials": trials.0,
    })
}

fn trial(record: &Record, trials: &mut Columns, room: Room, shared: &mut Shared) {
    // The judge's grounds, those of its criteria after their names.
    let reasons = record.verdicts.iter().filter_map(|(name, verdict)| {
        let rest = name.strip_prefix(JUDGE)?;
        let criterion = rest.strip_prefix(':');
        if name.contains(['/', '#']) || !rest.is_empty() && criterion.is_none() {
            return None;
        }
        let reason = match verdict {
            Verdict::Scored { reason, .. } => reason.as_deref()?,
            Verdict::Unscored { reason } => reason.as_str(),
        };
        Some(criterion.map_or_else(|| reason.to_owned(), |name| format!("{name}: {reason}")))
    });
    let reasons: Vec<String> = reasons.collect();
    let reason = (!reasons.is_empty()).then(|| reasons.join("\n"));
    let reason = reason.as_deref();
    let passages = record.retrieved.iter().map(|passage| {
        let document = shared.documents.of(&printable(&passage.document));
        let score = Some(passage.score).filter(|score| score.is_finite());
        let score = score.map(|score| (score * 1000.0).round() / 1000.0);
        json!([document, u8::from(passage.in_prompt), score])
    });
    let passages: Value = passages.collect();
    let prompt: Vec<i64> = record.prompt.iter().map(|turn| shared.turn(turn, room.text)).collect();
    let (answer, error) = match &record.outcome {
        Outcome::Answered(answer) => (Some(answer), None),
        Outcome::Failed { error } => (None, Some(cut(&printable(error), room.text.min(1000)))),
    };
    let tenths = |ms: f64| ms.is_finite().then(|| (ms * 10.0).round() / 10.0);
    trials.push("repeat", json!(record.trial.repeat));
    trials.push("answer", json!(answer.map(|a| cut(&printable(&a.text), room.text))));
    trials.push("error", json!(error));
    trials.push("reason", json!(reason.map(|r| cut(&printable(r), room.text.min(1000)))));
    trials.push("finish", json!(answer.map(|a| shared.finishes.of(&printable(&a.finish)))));
    trials.push("tokens_in", json!(answer.map(|a| a.tokens_in)));
    trials.push("tokens_out", json!(answer.map(|a| a.tokens_out)));
    trials.push("first_ms", json!(answer.and_then(|a| tenths(a.first_token_ms?))));
    trials.push("latency_ms", json!(answer.and_then(|a| tenths(a.latency_ms))));
    trials.push("retrieval_ms", json!(answer.and_then(|a| tenths(a.retrieval_ms))));
    let cost = answer.and_then(|a| a.cost_usd).filter(|cost| cost.is_finite());
    trials.push("cost", json!(cost.map(|cost| (cost * 1e9).round() / 1e9)));
    trials.push("passages", passages);
    trials.push("prompt", json!(prompt));
}

/// A table by column, in the order in which columns were first named.
#[derive(Default)]
struct Columns(Map<String, Value>);

impl Columns {
    fn push(&mut self, name: &str, value: Value) {
        match self.0.get_mut(name) {
            Some(Value::Array(column)) => column.push(value),
            Some(_) | None => {
                self.0.insert(name.to_owned(), Value::Array(vec![value]));
            }
        }
    }
}

/// Texts that occur often, each kept once.
#[derive(Default)]
struct Index {
    known: BTreeMap<String, usize>,
    list: Vec<String>,
}

impl Index {
    fn of(&mut self, text: &str) -> usize {
        if let Some(at) = self.known.get(text) {
            return *at;
        }
        self.known.insert(text.to_owned(), self.list.len());
        self.list.push(text.to_owned());
        self.list.len() - 1
    }
}

/// What the trials of all sets share.
#[derive(Default)]
struct Shared {
    documents: Index,
    finishes: Index,
    /// Prompts repeat each other's passages and examples, line by line.
    lines: Index,
    turns: Vec<Value>,
    known: BTreeMap<(&'static str, String), i64>,
    prompts_left: usize,
}

impl Shared {
    /// The position of a prompt's turn; -1 where it was left out.
    fn turn(&mut self, turn: &Message, limit: usize) -> i64 {
        let role = match turn.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let key = (role, cut(&printable(&turn.content), limit.max(2000)));
        if let Some(at) = self.known.get(&key) {
            return *at;
        }
        let new: usize = key
            .1
            .split('\n')
            .filter(|line| !self.lines.known.contains_key(*line))
            .map(str::len)
            .sum();
        let size = new + 4 * key.1.split('\n').count();
        if size > self.prompts_left {
            return -1;
        }
        self.prompts_left -= size;
        let lines: Vec<usize> = key.1.split('\n').map(|line| self.lines.of(line)).collect();
        self.turns.push(json!([role, lines]));
        let at = self.turns.len() as i64 - 1;
        self.known.insert(key, at);
        at
    }
}
