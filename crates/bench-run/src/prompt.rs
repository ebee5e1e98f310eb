//! From a sample to the conversation an arm sends: examples, passages, template.

use std::sync::Arc;
use std::time::Instant;

use bench_core::backend::{BackendError, Embedder, Passage, Purpose, Retriever};
use bench_core::chat::Message;
use bench_core::dataset::{Document, Sample, TrainRow};
use bench_core::record::Retrieved;
use bench_core::spec::{Order, PassageSource, Prompt, Rag, Select};
use bench_core::template::{ContextPassage, Example, PromptTemplate};

use crate::backends::Counter;
use crate::load::draw;

/// Everything one arm needs to lay out prompts on one eval set.
pub struct Layout {
    /// The turns.
    pub template: PromptTemplate,
    /// The turns of a training row, for an arm that trains.
    pub training: Option<PromptTemplate>,
    /// Few-shot examples, when the arm shows any.
    pub fewshot: Option<Fewshot>,
    /// Passages, when the arm shows any.
    pub passages: Option<Passages>,
    /// Counts tokens for the passage budget.
    pub counter: Option<Arc<dyn Counter>>,
}

/// A conversation ready to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Laid {
    /// The turns.
    pub messages: Vec<Message>,
    /// What was retrieved for it, best first.
    pub retrieved: Vec<Retrieved>,
    /// Milliseconds of query embedding and search.
    pub retrieval_ms: f64,
}

impl Layout {
    /// The conversation for a sample.
    pub fn lay(&self, sample: &Sample) -> Result<Laid, BackendError> {
        let examples = match &self.fewshot {
            Some(fewshot) => fewshot.choose(sample)?,
            None => Vec::new(),
        };
        let started = Instant::now();
        let found = match &self.passages {
            Some(passages) => passages.find(sample)?,
            None => Vec::new(),
        };
        let retrieval_ms =
            if found.is_empty() { 0.0 } else { started.elapsed().as_secs_f64() * 1e3 };
        let (messages, kept) = self.fit(sample, &examples, &found)?;
        let retrieved = found
            .into_iter()
            .enumerate()
            .map(|(rank, passage)| Retrieved {
                id: passage.id,
                document: passage.document,
                score: passage.score,
                in_prompt: rank < kept,
            })
            .collect();
        Ok(Laid { messages, retrieved, retrieval_ms })
    }

    /// As many of the best passages as the budget allows, and the turns with them.
    fn fit(
        &self,
        sample: &Sample,
        examples: &[Example],
        found: &[Passage],
    ) -> Result<(Vec<Message>, usize), BackendError> {
        let budget = self.passages.as_ref().map_or(0, |passages| passages.settings.context_tokens);
        let turns = |kept: usize| self.turns(sample, examples, &found[..kept]);
        let mut kept = found.len();
        if let (true, Some(counter)) = (budget > 0, &self.counter) {
            let bare = counter.count(&turns(0)?)?;
            while kept > 0 && counter.count(&turns(kept)?)?.saturating_sub(bare) > budget {
                kept -= 1;
            }
        }
        Ok((turns(kept)?, kept))
    }

    fn turns(
        &self,
        sample: &Sample,
        examples: &[Example],
        passages: &[Passage],
    ) -> Result<Vec<Message>, BackendError> {
        let mut shown: Vec<ContextPassage> = passages
            .iter()
            .map(|passage| ContextPassage {
                id: passage.document.clone(),
                title: passage.title.clone(),
                text: passage.text.clone(),
            })
            .collect();
        let order =
            self.passages.as_ref().map_or(Order::BestFirst, |passages| passages.settings.order);
        if order == Order::BestLast {
            shown.reverse();
        }
        self.template
            .messages(sample, examples, &shown)
            .map_err(|error| BackendError::rejected("template", format!("{error:#}")))
    }

    /// The conversation a training row becomes: the training template, no examples, no passages.
    pub fn training_turns(&self, input: &str) -> Result<Vec<Message>, BackendError> {
        let sample = Sample { input: input.to_owned(), ..Sample::default() };
        self.training
            .as_ref()
            .unwrap_or(&self.template)
            .messages(&sample, &[], &[])
            .map_err(|error| BackendError::rejected("template", format!("{error:#}")))
    }
}

/// Worked examples from the training rows.
pub struct Fewshot {
    pool: Vec<Example>,
    count: usize,
    select: Chosen,
}

enum Chosen {
    /// The same for every sample.
    Same,
    /// The closest to the question.
    Nearest { vectors: Vec<Vec<f32>>, embedder: Arc<dyn Embedder> },
}

impl Fewshot {
    /// Chooses what can be chosen before the question is known.
    pub fn new(
        prompt: &Prompt,
        train: &[TrainRow],
        seed: u64,
        embedder: Option<Arc<dyn Embedder>>,
    ) -> Result<Self, BackendError> {
        let all = examples(train);
        let count = prompt.num_fewshot as usize;
        let (pool, select) = match prompt.select {
            Select::Fixed => (all.into_iter().take(count).collect(), Chosen::Same),
            Select::Random => {
                let drawn = draw(&all, count, seed, |index, _| index.to_string());
                (drawn.into_iter().cloned().collect(), Chosen::Same)
            }
            Select::Nearest => {
                let embedder = embedder.ok_or_else(|| {
                    BackendError::fatal("prompt", "nearest examples need an embedder")
                })?;
                let inputs: Vec<String> = all.iter().map(|example| example.input.clone()).collect();
                let vectors = embedder.embed(Purpose::Passage, &inputs)?;
                (all, Chosen::Nearest { vectors, embedder })
            }
        };
        Ok(Self { pool, count, select })
    }

    fn choose(&self, sample: &Sample) -> Result<Vec<Example>, BackendError> {
        let Chosen::Nearest { vectors, embedder } = &self.select else {
            return Ok(self.pool.clone());
        };
        let query = embedder.embed(Purpose::Query, std::slice::from_ref(&sample.input))?;
        let mut order: Vec<(f32, usize)> = vectors
            .iter()
            .enumerate()
            .filter(|(index, _)| self.pool[*index].input != sample.input)
            .map(|(index, vector)| (query[0].iter().zip(vector).map(|(a, b)| a * b).sum(), index))
            .collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        order.truncate(self.count);
        // The closest example stands nearest to the question.
        Ok(order.into_iter().rev().map(|(_, index)| self.pool[index].clone()).collect())
    }
}

/// The rows that show a question and its answer.
pub fn examples(train: &[TrainRow]) -> Vec<Example> {
    train
        .iter()
        .filter_map(|row| match row {
            TrainRow::Completion { input, reference } => {
                Some(Example { input: input.clone(), reference: reference.clone() })
            }
            TrainRow::Text(_) => None,
        })
        .collect()
}

/// Training rows as documents, for arms that retrieve on a set without a corpus.
pub fn as_documents(train: &[TrainRow]) -> Vec<Document> {
    train
        .iter()
        .enumerate()
        .map(|(index, row)| Document {
            id: format!("train-{index}"),
            title: String::new(),
            text: match row {
                TrainRow::Completion { input, reference } => format!("{input}\n{reference}"),
                TrainRow::Text(text) => text.clone(),
            },
        })
        .collect()
}

/// Where passages come from.
pub struct Passages {
    /// How to search.
    pub settings: Rag,
    /// The index.
    pub retriever: Arc<dyn Retriever>,
    /// The corpus behind it.
    pub documents: Arc<Vec<Document>>,
    /// Seeds the random control.
    pub seed: u64,
}

impl Passages {
    fn find(&self, sample: &Sample) -> Result<Vec<Passage>, BackendError> {
        let top_k = self.settings.top_k as usize;
        match self.settings.passages {
            PassageSource::Retrieved => {
                // A training row that is the question itself would be an answer key.
                let mut found = self.retriever.retrieve(&sample.input, top_k + 1)?;
                found.retain(|passage| {
                    !(passage.document.starts_with("train-")
                        && passage.text.lines().next() == Some(&sample.input))
                });
                found.truncate(top_k);
                Ok(found)
            }
            PassageSource::Oracle => {
                let gold = self
                    .documents
                    .iter()
                    .filter(|document| sample.context_ids.contains(&document.id));
                Ok(gold.map(whole).collect())
            }
            PassageSource::Random => {
                let drawn = draw(&self.documents, top_k, self.seed, |_, document| {
                    format!("{}/{}", sample.id, document.id)
                });
                Ok(drawn.into_iter().map(whole).collect())
            }
        }
    }
}

fn whole(document: &Document) -> Passage {
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
    use bench_core::backend::IndexInfo;

    struct Fixed(Vec<Passage>);

    impl Retriever for Fixed {
        fn retrieve(&self, _: &str, top_k: usize) -> Result<Vec<Passage>, BackendError> {
            Ok(self.0.iter().take(top_k).cloned().collect())
        }

        fn info(&self) -> IndexInfo {
            IndexInfo::default()
        }
    }

    struct Words;

    impl Counter for Words {
        fn count(&self, messages: &[Message]) -> Result<u32, BackendError> {
            Ok(messages.iter().map(|turn| turn.content.split_whitespace().count() as u32).sum())
        }

        fn context_window(&self) -> u32 {
            100
        }
    }

    fn document(id: &str, text: &str) -> Document {
        Document { id: id.into(), title: String::new(), text: text.into() }
    }

    fn layout(settings: Rag) -> Layout {
        let documents = vec![document("a", "one two three"), document("b", "four five six")];
        Layout {
            template: PromptTemplate { system: None, user: PromptTemplate::DEFAULT.into() },
            training: None,
            fewshot: None,
            passages: Some(Passages {
                settings,
                retriever: Arc::new(Fixed(documents.iter().map(whole).collect())),
                documents: Arc::new(documents),
                seed: 0,
            }),
            counter: Some(Arc::new(Words)),
        }
    }

    fn sample() -> Sample {
        Sample {
            id: "s".into(),
            input: "why?".into(),
            context_ids: vec!["b".into()],
            ..Sample::default()
        }
    }

    #[test]
    fn the_best_passage_stands_where_it_was_asked_to() {
        let last = layout(Rag::default()).lay(&sample()).unwrap();
        assert_eq!(last.messages[0].content, "[1] four five six\n\n[2] one two three\n\nwhy?");
        let first =
            layout(Rag { order: Order::BestFirst, ..Rag::default() }).lay(&sample()).unwrap();
        assert_eq!(first.messages[0].content, "[1] one two three\n\n[2] four five six\n\nwhy?");
    }

    #[test]
    fn the_budget_drops_the_worst_passages_and_says_so() {
        let laid = layout(Rag { context_tokens: 4, ..Rag::default() }).lay(&sample()).unwrap();
        assert_eq!(laid.messages[0].content, "[1] one two three\n\nwhy?");
        assert_eq!(
            laid.retrieved.iter().map(|passage| passage.in_prompt).collect::<Vec<_>>(),
            [true, false]
        );
    }

    #[test]
    fn the_oracle_sees_the_gold_passages_only() {
        let laid = layout(Rag { passages: PassageSource::Oracle, ..Rag::default() })
            .lay(&sample())
            .unwrap();
        assert_eq!(laid.messages[0].content, "[1] four five six\n\nwhy?");
    }

    #[test]
    fn few_shot_examples_are_the_same_for_every_sample_unless_nearest() {
        let train: Vec<TrainRow> = (0..9)
            .map(|n| TrainRow::Completion { input: format!("q{n}"), reference: format!("r{n}") })
            .collect();
        let prompt = Prompt { num_fewshot: 3, ..Prompt::default() };
        let fewshot = Fewshot::new(&prompt, &train, 1, None).unwrap();
        assert_eq!(fewshot.choose(&sample()).unwrap().len(), 3);
        assert_eq!(fewshot.choose(&sample()).unwrap(), fewshot.choose(&Sample::default()).unwrap());
        let nearest = Prompt { select: Select::Nearest, ..prompt };
        assert!(Fewshot::new(&nearest, &train, 1, None).is_err());
    }
}
