//! Examples as token ids, in the order in which they are seen.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use bench_core::backend::{ProbeRow, TrainExample};
use bench_core::chat::{ChatTemplate, Message};
use bench_core::spec::{Finetune, Objective};
use fs_err as fs;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
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
    /// Of each example that is kept, whether its completion was found good; empty where that is not
    /// known.
    pub(crate) labels: Vec<bool>,
}

/// A model's tokenizer and chat template: the one path from text to ids.
pub(crate) struct Encoder {
    tokenizer: Tokenizer,
    template: Result<ChatTemplate, String>,
    bos_token: String,
    eos_token: String,
    vocabulary: usize,
}

impl Encoder {
    /// Reads the tokenizer of a Hugging Face folder, for a model of `vocabulary` tokens.
    pub(crate) fn open(folder: &Path, vocabulary: usize) -> Result<Self, TrainError> {
        let path = folder.join("tokenizer.json");
        let tokenizer = Tokenizer::from_bytes(fs::read(&path)?)
            .map_err(|error| TrainError::Unreadable { path, what: error.to_string() })?;
        let config = fs::read_to_string(folder.join("tokenizer_config.json"))?;
        let jinja = folder.join("chat_template.jinja");
        let jinja = jinja.exists().then(|| fs::read_to_string(&jinja)).transpose()?;
        let template = ChatTemplate::from_folder(&config, jinja.as_deref());
        // Running text needs the two tokens even where there is no template.
        let plain = ChatTemplate::from_folder(&config, Some("")).map_err(TrainError::Template)?;
        let ChatTemplate { bos_token, eos_token, .. } = plain;
        Ok(Self { tokenizer, template, bos_token, eos_token, vocabulary })
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
        let added = self.tokenizer.get_added_tokens_decoder();
        added.into_iter().map(|(id, token)| (id, token.content)).collect()
    }

    /// The token that ends a turn, where the tokenizer has it.
    pub(crate) fn turn_end(&self) -> Option<u32> {
        self.tokenizer.token_to_id(&self.eos_token)
    }

    pub(crate) fn ids(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        let encoding = self.tokenizer.encode_fast(text, false);
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
            TrainExample::Text(text) => {
                let text = format!("{}{text}{}", self.bos_token, self.eos_token);
                Ok(vec![Row { tokens: self.ids(&text)?, prompt: 0 }])
            }
            TrainExample::Preference { messages, chosen, rejected } => {
                Ok(vec![row(messages, chosen)?, row(messages, rejected)?])
            }
        }
    }

    /// Encodes examples, cutting or leaving out those longer than `sequence_len`.
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
            let mut fits = true;
            for row in &mut found {
                shortest = shortest.min(row.tokens.len());
                longest = longest.max(row.tokens.len());
                if row.tokens.len() > most && settings.truncate {
                    row.tokens.truncate(most);
                }
                // A row cut within its prompt has nothing left to learn.
                fits &= row.tokens.len() <= most && row.tokens.len() > row.prompt.max(1);
            }
            if fits {
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
        if rows.rows.is_empty() && !examples.is_empty() {
            let sequence_len = settings.sequence_len;
            return Err(TrainError::AllTooLong { rows: examples.len(), sequence_len, shortest });
        }
        let (too_long, of) = (rows.too_long, examples.len());
        if what == TRAINING_ROW && too_long > of / MOST_TOO_LONG && !settings.truncate {
            let sequence_len = settings.sequence_len;
            return Err(TrainError::TooLong { too_long, rows: of, sequence_len, longest });
        }
        Ok(rows)
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
