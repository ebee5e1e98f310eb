//! Examples as token ids, in the order in which they are seen.

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
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    pub(crate) too_long: usize,
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

    fn ids(&self, text: &str) -> Result<Vec<u32>, TrainError> {
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
        let template =
            self.template.as_ref().map_err(|error| TrainError::Template(error.clone()))?;
        let prompt = template.render(&row.messages);
        let prompt = prompt.map_err(|error| TrainError::Template(format!("{error:#}")))?;
        let mut tokens = self.ids(&prompt)?;
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
            TrainExample::Completion { messages, completion } => {
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
                TrainExample::Completion { completion: text, .. } | TrainExample::Text(text) => {
                    vec![text]
                }
                TrainExample::Preference { chosen, rejected, .. } => vec![chosen, rejected],
            };
            if texts.iter().any(|text| text.trim().is_empty()) {
                return Err(TrainError::EmptyCompletion { what, row: index + 1 });
            }
            let preference = matches!(example, TrainExample::Preference { .. });
            let wants = settings.objective != Objective::Sft && what == TRAINING_ROW;
            if preference != wants {
                let objective = settings.objective.name();
                let other = if wants { "sft" } else { "dpo" };
                return Err(TrainError::Objective { objective, row: index + 1, other });
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
}
