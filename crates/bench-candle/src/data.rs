//! Examples as token ids, in the order in which they are seen.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bench_core::backend::{ProbeRow, TrainExample};
use bench_core::chat::{self, ChatTemplate, Message};
use bench_core::spec::{Finetune, Objective};
use fs_err as fs;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::TrainError;

/// One training row in this many may be left out because it is too long.
const MOST_TOO_LONG: usize = 20;

/// What errors call the rows that are learnt.
pub(crate) const TRAINING_ROW: &str = "training row";

/// One example as token ids; tokens from `prompt` on carry loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt: usize,
}

impl Row {
    /// Tokens that carry loss: nothing predicts the first token.
    pub(crate) fn targets(&self) -> usize {
        self.tokens.len() - self.prompt.max(1)
    }
}

/// Rows that fit, and how many did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "rows are what it is about")]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    pub(crate) too_long: usize,
    /// Rows whose end is not learnt.
    pub(crate) cut: usize,
    /// Of each example that is kept, whether its completion was found good; empty where that is not
    /// known.
    pub(crate) labels: Vec<bool>,
}

/// A model's tokenizer and chat template: the one path from text to ids.
pub(crate) struct Encoder {
    tokenizer: Tokenizer,
    template: Result<ChatTemplate, String>,
    eos_token: String,
    vocabulary: usize,
}

fn special(tokenizer: &Tokenizer) -> BTreeMap<u32, String> {
    let added = tokenizer.get_added_tokens_decoder();
    added.into_iter().map(|(id, token)| (id, token.content)).collect()
}

/// Refuses a tokenizer that cannot be that of the model beside it.
fn check_tokenizer(folder: &Path, tokenizer: &Tokenizer) -> Result<(), TrainError> {
    let read = |name: &str| -> Value {
        let text = fs::read(folder.join(name)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    };
    let (config, generation) = (read("config.json"), read("generation_config.json"));
    let tokens = tokenizer.get_vocab_size(true);
    match chat::foreign_tokenizer(&config, &generation, &special(tokenizer), tokens) {
        Some(what) => Err(TrainError::Tokenizer { folder: folder.into(), what }),
        None => Ok(()),
    }
}

/// Refuses an adapter that came with a tokenizer of its own that is not the base's: its tokens would be
/// other words.
pub(crate) fn same_tokenizer(base: &Path, adapter: &Path) -> Result<(), TrainError> {
    let own = adapter.join("tokenizer.json");
    if !own.exists() {
        return Ok(());
    }
    let vocabulary = |path: PathBuf| {
        let tokenizer = Tokenizer::from_bytes(fs::read(&path)?)
            .map_err(|error| TrainError::Unreadable { path, what: error.to_string() })?;
        Ok::<_, TrainError>(tokenizer.get_vocab(true))
    };
    match chat::differing_token(&vocabulary(base.join("tokenizer.json"))?, &vocabulary(own)?) {
        Some(what) => {
            let what = format!("it was trained with another tokenizer than its base has ({what})");
            Err(TrainError::Adapter { folder: adapter.into(), what })
        }
        None => Ok(()),
    }
}

impl Encoder {
    /// Reads the tokenizer of a Hugging Face folder, for a model of `vocabulary` tokens.
    pub(crate) fn open(folder: &Path, vocabulary: usize) -> Result<Self, TrainError> {
        let path = folder.join("tokenizer.json");
        let mut tokenizer = Tokenizer::from_bytes(fs::read(&path)?).map_err(|error| {
            TrainError::Unreadable { path: path.clone(), what: error.to_string() }
        })?;
        // Some folders say how to batch for training; nothing may be cut or filled up silently.
        tokenizer
            .with_padding(None)
            .with_truncation(None)
            .map_err(|error| TrainError::Unreadable { path, what: error.to_string() })?;
        check_tokenizer(folder, &tokenizer)?;
        let config = fs::read_to_string(folder.join("tokenizer_config.json"))?;
        let jinja = folder.join("chat_template.jinja");
        let jinja = jinja.exists().then(|| fs::read_to_string(&jinja)).transpose()?;
        let template = ChatTemplate::from_folder(&config, jinja.as_deref());
        let template = template.map(|template| template.with_turn_end(&special(&tokenizer)));
        // Running text has an end even where there is no template.
        let plain = ChatTemplate::from_folder(&config, Some("")).map_err(TrainError::Template)?;
        let eos_token = plain.eos_token;
        Ok(Self { tokenizer, template, eos_token, vocabulary })
    }

    /// The ids of a conversation as the chat template lays it out.
    pub(crate) fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>, TrainError> {
        let template =
            self.template.as_ref().map_err(|error| TrainError::Template(error.clone()))?;
        let prompt = template.render(messages);
        self.ids(&prompt.map_err(|error| TrainError::Template(format!("{error:#}")))?)
    }

    /// The text of tokens, without special ones.
    pub(crate) fn text(&self, tokens: &[u32]) -> Result<String, String> {
        self.tokenizer.decode(tokens, true).map_err(|error| error.to_string())
    }

    /// The text of one token, special or not.
    pub(crate) fn name(&self, token: u32) -> Result<String, String> {
        self.tokenizer.decode(&[token], false).map_err(|error| error.to_string())
    }

    /// The special tokens by id.
    pub(crate) fn special(&self) -> BTreeMap<u32, String> {
        special(&self.tokenizer)
    }

    /// The tokens that end a turn and a sequence, where the tokenizer has them.
    pub(crate) fn ends(&self) -> Vec<u32> {
        let turn_end = self.template.as_ref().map_or("", |template| template.turn_end.as_str());
        let ends = [turn_end, self.eos_token.as_str()];
        ends.into_iter().filter_map(|end| self.tokenizer.token_to_id(end)).collect()
    }

    pub(crate) fn ids(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        self.encode(text, false)
    }

    /// Running text: what the tokenizer itself puts around a text, and the end of a sequence.
    fn running(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        let mut ids = self.encode(text, true)?;
        let end = self.tokenizer.token_to_id(&self.eos_token);
        ids.extend(end.filter(|end| ids.last() != Some(end)));
        Ok(ids)
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TrainError> {
        let encoding = self.tokenizer.encode_fast(text, add_special_tokens);
        let encoding = encoding.map_err(|error| TrainError::Template(error.to_string()))?;
        let ids = encoding.get_ids().to_vec();
        match ids.iter().find(|id| **id as usize >= self.vocabulary) {
            Some(token) => Err(TrainError::Token { token: *token, vocabulary: self.vocabulary }),
            None => Ok(ids),
        }
    }

    /// Prompt and completion, tokenised apart so that the prompt's ids are those of serving.
    pub(crate) fn probe_row(&self, row: &ProbeRow) -> Result<Row, TrainError> {
        let mut tokens = self.prompt(&row.messages)?;
        let template =
            self.template.as_ref().map_err(|error| TrainError::Template(error.clone()))?;
        let prompt = tokens.len();
        tokens.append(&mut self.ids(&template.completion(&row.completion))?);
        Ok(Row { tokens, prompt })
    }

    /// The rows of an example: one, or the chosen and the rejected one of a preference.
    fn example(&self, example: &TrainExample) -> Result<Vec<Row>, TrainError> {
        let row = |messages: &[Message], completion: &str| {
            let (messages, completion) = (messages.to_vec(), completion.to_owned());
            self.probe_row(&ProbeRow { messages, completion })
        };
        match example {
            TrainExample::Completion { messages, completion }
            | TrainExample::Labelled { messages, completion, .. } => {
                Ok(vec![row(messages, completion)?])
            }
            TrainExample::Text(text) => Ok(vec![Row { tokens: self.running(text)?, prompt: 0 }]),
            TrainExample::Preference { messages, chosen, rejected } => {
                Ok(vec![row(messages, chosen)?, row(messages, rejected)?])
            }
        }
    }

    /// Encodes examples. Those longer than `sequence_len` are cut where that is asked for; else running text
    /// is learnt in pieces, and other rows are left out.
    pub(crate) fn rows(
        &self,
        what: &'static str,
        examples: &[TrainExample],
        settings: &Finetune,
    ) -> Result<Rows, TrainError> {
        let most = settings.sequence_len as usize;
        let mut rows = Rows::default();
        let (mut shortest, mut longest) = (usize::MAX, 0);
        for (index, example) in examples.iter().enumerate() {
            let texts = match example {
                TrainExample::Completion { completion: text, .. }
                | TrainExample::Labelled { completion: text, .. }
                | TrainExample::Text(text) => vec![text],
                TrainExample::Preference { chosen, rejected, .. } => vec![chosen, rejected],
            };
            if texts.iter().any(|text| text.trim().is_empty()) {
                let asked = beginning(example);
                return Err(TrainError::EmptyCompletion { what, row: index + 1, asked });
            }
            let suits = match example {
                TrainExample::Completion { .. } | TrainExample::Text(_) => Objective::Sft,
                TrainExample::Preference { .. } => Objective::Dpo,
                TrainExample::Labelled { .. } => Objective::Kto,
            };
            let wants = match settings.objective {
                _ if what != TRAINING_ROW => Objective::Sft,
                Objective::Dpo | Objective::Orpo | Objective::Reward => Objective::Dpo,
                other @ (Objective::Sft | Objective::Kto) => other,
            };
            if suits != wants {
                let objective = settings.objective.name();
                let other = suits.name();
                let (row, asked) = (index + 1, beginning(example));
                return Err(TrainError::Objective { objective, row, asked, other });
            }
            let mut found = self.example(example)?;
            if let (TrainExample::Text(_), [row], false) =
                (example, found.as_slice(), settings.truncate)
            {
                found = pieces(&row.tokens, most);
            }
            let (mut fits, mut cut) = (true, false);
            for row in &mut found {
                shortest = shortest.min(row.tokens.len());
                longest = longest.max(row.tokens.len());
                if row.tokens.len() > most && settings.truncate {
                    row.tokens.truncate(most);
                    cut = true;
                }
                // A row cut within its prompt has nothing left to learn.
                fits &= row.tokens.len() <= most && row.tokens.len() > row.prompt.max(1);
            }
            if fits {
                rows.cut += usize::from(cut);
                if let TrainExample::Labelled { messages, label, .. } = example {
                    rows.labels.push(*label);
                    // The same prompt with the completion of the row before: what the reference
                    // point is measured on.
                    let before = &examples[(index + examples.len() - 1) % examples.len()];
                    if let TrainExample::Labelled { completion, .. } = before {
                        let (messages, completion) = (messages.clone(), completion.clone());
                        let mut row = self.probe_row(&ProbeRow { messages, completion })?;
                        row.tokens.truncate(most);
                        found.push(row);
                    }
                }
                rows.rows.append(&mut found);
            } else {
                rows.too_long += 1;
            }
        }
        let sequence_len = settings.sequence_len;
        let (too_long, of) = (rows.too_long, examples.len());
        let remedy = if settings.truncate {
            "; their prompts alone fill it: raise it"
        } else {
            ": raise it, or set `truncate: true`"
        };
        if rows.rows.is_empty() && of > 0 {
            return Err(TrainError::AllTooLong { what, rows: of, sequence_len, shortest, remedy });
        }
        if what == TRAINING_ROW && too_long > of / MOST_TOO_LONG {
            return Err(TrainError::TooLong { too_long, rows: of, sequence_len, longest, remedy });
        }
        Ok(rows)
    }
}

/// A running text in pieces of at most `most` tokens. Each begins with the last token of the one before, so
/// that every token but the first is learnt.
fn pieces(tokens: &[u32], most: usize) -> Vec<Row> {
    let mut pieces = Vec::new();
    let mut from = 0;
    loop {
        let to = tokens.len().min(from + most);
        pieces.push(Row { tokens: tokens[from..to].to_vec(), prompt: 0 });
        if to == tokens.len() {
            return pieces;
        }
        from = to - 1;
    }
}

/// The order of `n` rows in an epoch; the same for the same seed, wherever a run begins.
pub(crate) fn order(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(epoch + 1);
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut random);
    order
}

/// How an example begins, in brackets, to be found by: rows are counted after they were drawn from
/// their file. Nothing for an empty one.
fn beginning(example: &TrainExample) -> String {
    let text = match example {
        TrainExample::Text(text) => text,
        TrainExample::Completion { messages, .. }
        | TrainExample::Labelled { messages, .. }
        | TrainExample::Preference { messages, .. } => {
            messages.last().map_or("", |message| &message.content)
        }
    };
    let line: Vec<&str> = text.split_whitespace().collect();
    let line = line.join(" ");
    match line.char_indices().nth(60) {
        None if line.is_empty() => String::new(),
        None => format!(" (`{line}`)"),
        Some((end, _)) => format!(" (`{}…`)", &line[..end]),
    }
}

/// Rows one after the other, without padding. They do not see each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) tokens: Vec<u32>,
    /// Position within the row.
    pub(crate) positions: Vec<u32>,
    pub(crate) segments: Vec<Range<usize>>,
    /// Tokens whose successor carries loss.
    pub(crate) sources: Vec<usize>,
    /// Those successors.
    pub(crate) targets: Vec<u32>,
    /// What a token's dropout depends on: its row's place in the run and its own in the row, and not
    /// on how rows share a batch.
    pub(crate) keys: Vec<u64>,
}

impl Batch {
    /// Each row comes with a number that is unique in the run.
    pub(crate) fn new<'a>(rows: impl IntoIterator<Item = (&'a Row, u64)>) -> Self {
        let mut batch = Self::default();
        for (row, key) in rows {
            let start = batch.tokens.len();
            let n = row.tokens.len();
            batch.tokens.extend(&row.tokens);
            batch.positions.extend(0..n as u32);
            batch.segments.push(start..start + n);
            for target in row.prompt.max(1)..n {
                batch.sources.push(start + target - 1);
                batch.targets.push(row.tokens[target]);
            }
            batch.keys.extend((0..n as u64).map(|position| (key << 24) | position));
        }
        batch
    }
    /// Tokens that come after `seen` others of the same row. They predict nothing.
    pub(crate) fn following(tokens: &[u32], seen: u32) -> Self {
        Self {
            tokens: tokens.to_vec(),
            positions: (seen..).take(tokens.len()).collect(),
            segments: std::iter::once(0..tokens.len()).collect(),
            keys: vec![0; tokens.len()],
            ..Self::default()
        }
    }

    /// The same rows, of which only the last token counts: what a reward is made of.
    pub(crate) fn ends(mut self) -> Self {
        self.sources = self.segments.iter().map(|segment| segment.end - 1).collect();
        self.targets = vec![0; self.sources.len()];
        self
    }

    /// The same rows, each behind `n` virtual tokens, whose ids begin at `first`.
    pub(crate) fn behind(&self, n: usize, first: u32) -> Self {
        let mut batch = Self { targets: self.targets.clone(), ..Self::default() };
        let mut sources = self.sources.iter().peekable();
        for segment in &self.segments {
            let start = batch.tokens.len();
            let shift = start + n - segment.start;
            batch.tokens.extend((first..).take(n));
            batch.tokens.extend(&self.tokens[segment.clone()]);
            batch.positions.extend(0..n as u32);
            let positions = &self.positions[segment.clone()];
            batch.positions.extend(positions.iter().map(|position| position + n as u32));
            batch.keys.extend(std::iter::repeat_n(0, n));
            batch.keys.extend(&self.keys[segment.clone()]);
            batch.segments.push(start..start + n + segment.len());
            while let Some(source) = sources.next_if(|source| **source < segment.end) {
                batch.sources.push(source + shift);
            }
        }
        batch
    }
}
