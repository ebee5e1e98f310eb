//! From a sample to the conversation an arm sends: examples, passages, template.

use std::sync::Arc;
use std::time::Instant;

use bench_core::backend::{BackendError, Passage};
use bench_core::chat::Message;
use bench_core::dataset::Sample;
use bench_core::record::{CallRecord, Retrieved, TokenBudget};
use bench_core::spec::{Order, PassageSource, Raft};
use bench_core::template::{ContextPassage, Example, PromptTemplate};

use regex::Regex;

use self::passages::{arrange, context};
use crate::answer::reasoned;
use crate::backends::Counter;

mod fewshot;
mod passages;
mod query;
mod rerank;

pub use fewshot::{Fewshot, asked, examples, needs_embedder};
pub use passages::{Passages, as_documents};
pub use query::{Question, Replies, Step};
pub(crate) use rerank::permutation;

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
    /// Tokens kept free for the answer.
    pub max_tokens: u32,
    /// What the answer of an example begins with, so that it ends like the answer asked for.
    pub lead: &'static str,
    /// Finds the final answer in what the arm says, where only that is scored.
    pub final_answer: Option<Regex>,
}

/// A conversation ready to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Laid {
    /// The turns.
    pub messages: Vec<Message>,
    /// What was retrieved for it, best first.
    pub retrieved: Vec<Retrieved>,
    /// The passages that stand in it, in their order there.
    pub shown: Arc<[ContextPassage]>,
    /// What was asked to find it.
    pub calls: Vec<CallRecord>,
    /// Milliseconds of query embedding and search.
    pub retrieval_ms: f64,
    /// What its parts take, where tokens can be counted.
    pub budget: Option<TokenBudget>,
}

impl Layout {
    /// The conversation for a sample, or what a model must say first.
    ///
    /// # Errors
    /// A template that does not fit the sample, an embedder or an index that fails.
    pub fn lay(&self, sample: &Sample, replies: &Replies<'_>) -> Result<Step<Laid>, BackendError> {
        let started = Instant::now();
        let (found, calls) = match &self.passages {
            Some(passages) => match passages.find(sample, replies)? {
                Step::Done(found) => found,
                Step::Ask(question) => return Ok(Step::Ask(question)),
            },
            None => (Vec::new(), Vec::new()),
        };
        let retrieval_ms =
            if found.is_empty() { 0.0 } else { started.elapsed().as_secs_f64() * 1e3 };
        let examples = self.examples(sample)?;
        let (messages, kept) = self.fit(sample, &examples, &found)?;
        let budget = self.budget(sample, &examples, &found[..kept], &messages)?;
        let mut numbers = vec![None; found.len()];
        let mut shown = Vec::with_capacity(kept);
        for (place, rank) in arrange(kept, self.order()).into_iter().enumerate() {
            numbers[rank] = Some(place as u32 + 1);
            shown.push(context(&found[rank]));
        }
        let retrieved = found
            .into_iter()
            .zip(numbers)
            .map(|(passage, number)| Retrieved {
                id: passage.id,
                document: passage.document,
                score: passage.score,
                in_prompt: number.is_some(),
                number,
            })
            .collect();
        let shown = shown.into();
        Ok(Step::Done(Laid { messages, retrieved, shown, calls, retrieval_ms, budget }))
    }

    fn examples(&self, sample: &Sample) -> Result<Vec<Example>, BackendError> {
        let Some(fewshot) = &self.fewshot else { return Ok(Vec::new()) };
        let mut examples = fewshot.choose(sample)?;
        for example in &mut examples {
            if !example.reference.contains(self.lead) {
                example.reference.insert_str(0, self.lead);
            }
        }
        Ok(examples)
    }

    /// What each part adds: the prompt is laid out again without passages, then without examples,
    /// then without the question.
    fn budget(
        &self,
        sample: &Sample,
        examples: &[Example],
        passages: &[Passage],
        messages: &[Message],
    ) -> Result<Option<TokenBudget>, BackendError> {
        let Some(counter) = &self.counter else { return Ok(None) };
        let silent = Sample { input: String::new(), ..sample.clone() };
        let all = counter.count(messages)?;
        let without_context = match passages {
            [] => all,
            _ => counter.count(&self.turns(sample, examples, &[])?)?,
        };
        let without_examples = match examples {
            [] => without_context,
            _ => counter.count(&self.turns(sample, &[], &[])?)?,
        };
        let instructions = counter.count(&self.turns(&silent, &[], &[])?)?;
        Ok(Some(TokenBudget {
            instructions,
            examples: without_context.saturating_sub(without_examples),
            context: all.saturating_sub(without_context),
            question: without_examples.saturating_sub(instructions),
            answer: self.max_tokens,
        }))
    }

    /// Examples that leave no room for question and answer are a mistake in the experiment, not a
    /// failed trial.
    ///
    /// # Errors
    /// Names the sample and every part's tokens.
    pub fn check_examples(&self, arm: &str, sample: &Sample) -> Result<(), BackendError> {
        let (Some(counter), Some(_)) = (&self.counter, &self.fewshot) else { return Ok(()) };
        let window = counter.context_window();
        let examples = self.examples(sample)?;
        let all = counter.count(&self.turns(sample, &examples, &[])?)?;
        let rest = counter.count(&self.turns(sample, &[], &[])?)?;
        if all + self.max_tokens <= window || rest + self.max_tokens > window {
            return Ok(());
        }
        let message = format!(
            "arm `{arm}`: {} examples of {} tokens do not fit the context window of {window} beside sample `{}` ({rest}) and its answer ({}); show fewer or shorter examples, or lower `max_tokens`",
            examples.len(),
            all - rest,
            sample.id,
            self.max_tokens
        );
        Err(BackendError::fatal("prompt", message))
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
        if budget > 0 {
            let size = |kept: usize| {
                let turns = turns(kept)?;
                // Where nobody counts, four characters are a token.
                let guess = || {
                    let characters = turns.iter().map(|turn| turn.content.chars().count());
                    Ok(characters.sum::<usize>().div_ceil(4) as u32)
                };
                self.counter.as_ref().map_or_else(guess, |counter| counter.count(&turns))
            };
            let bare = size(0)?;
            while kept > 0 && size(kept)?.saturating_sub(bare) > budget {
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
        let shown: Vec<ContextPassage> = arrange(passages.len(), self.order())
            .into_iter()
            .map(|rank| context(&passages[rank]))
            .collect();
        self.template
            .messages(sample, examples, &shown)
            .map_err(|error| BackendError::rejected("template", format!("{error:#}")))
    }

    /// Where ranks stand; a whole corpus stands in its own order.
    fn order(&self) -> Order {
        match &self.passages {
            Some(Passages { settings, .. }) if settings.passages != PassageSource::WholeCorpus => {
                settings.order
            }
            _ => Order::BestFirst,
        }
    }

    /// The conversation a training row becomes: the training template, no examples, no passages.
    ///
    /// # Errors
    /// A template that does not fit the row.
    pub fn training_turns(&self, input: &str) -> Result<Vec<Message>, BackendError> {
        let sample = Sample { input: input.to_owned(), ..Sample::default() };
        self.training
            .as_ref()
            .unwrap_or(&self.template)
            .messages(&sample, &[], &[])
            .map_err(|error| BackendError::rejected("template", format!("{error:#}")))
    }

    /// The conversation a training row becomes with passages: laid out by the code that serves
    /// prompts, with the same order, budget and words. `row` is the row's place in the file.
    ///
    /// # Errors
    /// As [`Layout::lay`].
    pub fn raft_turns(
        &self,
        row: usize,
        input: &str,
        gold: &[String],
        raft: &Raft,
    ) -> Result<Vec<Message>, BackendError> {
        let found = match &self.passages {
            Some(passages) => passages.raft(row, input, gold, raft)?,
            None => Vec::new(),
        };
        let sample = Sample { input: input.to_owned(), ..Sample::default() };
        Ok(self.fit(&sample, &[], &found)?.0)
    }

    /// What a training row teaches to say: its reference, after a reasoning where one is learnt.
    /// `None` where the two do not fit the form in which the arm answers.
    pub fn completion(&self, reasoning: &str, reference: &str) -> Option<String> {
        reasoned(reasoning, reference, self.final_answer.as_ref()?)
    }

    /// A whole corpus that leaves no room for the answer is a mistake in the experiment, not a
    /// failed trial.
    ///
    /// # Errors
    /// Names the tokens of corpus, window and answer.
    pub fn check_corpus(&self, arm: &str, samples: &[Sample]) -> Result<(), BackendError> {
        let Some(passages) = &self.passages else { return Ok(()) };
        let longest = samples.iter().max_by_key(|sample| sample.input.len());
        let (Some(sample), Some(counter), PassageSource::WholeCorpus) =
            (longest, &self.counter, &passages.settings.passages)
        else {
            return Ok(());
        };
        let Step::Done(laid) = self.lay(sample, &|_| None)? else { return Ok(()) };
        let window = counter.context_window();
        let prompt = counter.count(&laid.messages)?;
        if prompt + self.max_tokens <= window {
            return Ok(());
        }
        let message = format!(
            "arm `{arm}`: the whole corpus ({} documents) makes a prompt of {prompt} tokens; with {} for the answer that is more than the context window of {window}; retrieve instead, or use a model with a longer window",
            passages.documents.len(),
            self.max_tokens
        );
        Err(BackendError::fatal("prompt", message))
    }
}

#[cfg(test)]
mod tests {
    use super::passages::whole;
    use super::*;
    use bench_core::backend::{IndexInfo, ProbeRow, Retriever};
    use bench_core::dataset::{Document, TrainRow};
    use bench_core::spec::{Prompt, Rag, Select};

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

        fn token_ids(&self, _: &ProbeRow) -> Result<Vec<u32>, BackendError> {
            Ok(Vec::new())
        }

        fn context_window(&self) -> u32 {
            100
        }
    }

    fn document(id: &str, text: &str) -> Document {
        Document { id: id.into(), text: text.into(), ..Document::default() }
    }

    fn layout(settings: Rag) -> Layout {
        let documents = vec![document("a", "one two three"), document("b", "four five six")];
        Layout {
            template: PromptTemplate {
                user: PromptTemplate::DEFAULT.into(),
                ..PromptTemplate::default()
            },
            training: None,
            fewshot: None,
            passages: Some(Passages {
                settings,
                retriever: Arc::new(Fixed(documents.iter().map(whole).collect())),
                documents: Arc::new(documents),
                seed: 0,
            }),
            counter: Some(Arc::new(Words)),
            max_tokens: 10,
            lead: "",
            final_answer: None,
        }
    }

    fn lay(layout: &Layout) -> Laid {
        let Step::Done(laid) = layout.lay(&sample(), &|_| None).unwrap() else { panic!("asks") };
        laid
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
        let last = lay(&layout(Rag::default()));
        assert_eq!(last.messages[0].content, "[1] four five six\n\n[2] one two three\n\nwhy?");
        let first = lay(&layout(Rag { order: Order::BestFirst, ..Rag::default() }));
        assert_eq!(first.messages[0].content, "[1] one two three\n\n[2] four five six\n\nwhy?");
    }

    #[test]
    fn the_budget_drops_the_worst_passages_and_says_so() {
        let laid = lay(&layout(Rag { context_tokens: 4, ..Rag::default() }));
        assert_eq!(laid.messages[0].content, "[1] one two three\n\nwhy?");
        let shown: Vec<&str> = laid.shown.iter().map(|passage| passage.text.as_str()).collect();
        assert_eq!(shown, ["one two three"], "what a judge is shown is what stood there");
        assert_eq!(
            laid.retrieved.iter().map(|passage| passage.in_prompt).collect::<Vec<_>>(),
            [true, false]
        );
    }

    #[test]
    fn the_oracle_sees_the_gold_passages_only() {
        let laid = lay(&layout(Rag { passages: PassageSource::Oracle, ..Rag::default() }));
        assert_eq!(laid.messages[0].content, "[1] four five six\n\nwhy?");
    }

    fn with_examples(count: u32, words: usize) -> Layout {
        let train: Vec<TrainRow> = (0..9)
            .map(|n| TrainRow::Completion {
                input: format!("q{n}"),
                reference: vec!["r"; words].join(" "),
            })
            .collect();
        let prompt = Prompt { num_fewshot: count, select: Select::Fixed, ..Prompt::default() };
        let fewshot = Fewshot::new(&prompt, &train, 1, None, &asked([])).unwrap();
        Layout { fewshot: Some(fewshot), ..layout(Rag { top_k: 1, ..Rag::default() }) }
    }

    #[test]
    fn every_part_of_a_prompt_is_counted() {
        let mut layout = with_examples(2, 3);
        layout.template.system = Some("be very brief".into());
        let budget = lay(&layout).budget.unwrap();
        // A passage is `[1]` and three words; an example a question and three words.
        let expect =
            TokenBudget { instructions: 3, examples: 8, context: 4, question: 1, answer: 10 };
        assert_eq!(budget, expect);
    }

    #[test]
    fn examples_that_fill_the_window_are_an_error_with_every_number() {
        assert!(with_examples(9, 8).check_examples("few", &sample()).is_ok());
        let error = with_examples(9, 10).check_examples("few", &sample()).unwrap_err();
        assert_eq!(
            error.source.to_string(),
            "arm `few`: 9 examples of 99 tokens do not fit the context window of 100 beside sample `s` (1) and its answer (10); show fewer or shorter examples, or lower `max_tokens`"
        );
        // A question that does not fit by itself is not the examples' fault.
        let long = Sample { input: "why ".repeat(95), ..sample() };
        assert!(with_examples(9, 10).check_examples("few", &long).is_ok());
    }

    #[test]
    fn examples_answer_in_the_form_that_is_asked_for() {
        let layout = Layout { lead: "Answer: ", ..with_examples(1, 1) };
        assert_eq!(lay(&layout).messages[1].content, "Answer: r");
    }

    #[test]
    fn a_passage_is_recorded_with_the_number_it_carries() {
        let laid = lay(&layout(Rag { order: Order::BestLast, ..Rag::default() }));
        assert_eq!(laid.messages[0].content, "[1] four five six\n\n[2] one two three\n\nwhy?");
        let numbers: Vec<(&str, Option<u32>)> =
            laid.retrieved.iter().map(|one| (one.document.as_str(), one.number)).collect();
        assert_eq!(numbers, [("a", Some(2)), ("b", Some(1))]);
        let cut = lay(&layout(Rag { context_tokens: 4, ..Rag::default() }));
        assert_eq!(cut.retrieved[1].number, None);
    }

    #[test]
    fn training_rows_with_passages_look_exactly_like_served_prompts() {
        for order in [Order::BestFirst, Order::BestLast, Order::Sides] {
            let mut layout = layout(Rag { order, top_k: 2, ..Rag::default() });
            layout.template.system = Some("Be brief.".into());
            layout.template.closing = "Cite.".into();
            // The retriever finds both documents; `b` is gold, `a` the one distractor.
            let raft = Raft { distractors: 1, without_golden: 0.0, ..Raft::default() };
            let row = layout.raft_turns(0, "why?", &["b".to_owned()], &raft).unwrap();
            assert_eq!(row, lay(&layout).messages, "{order:?}");
        }
    }

    #[test]
    fn a_corpus_that_does_not_fit_is_an_error_with_every_number() {
        let whole = Rag { passages: PassageSource::WholeCorpus, ..Rag::default() };
        let mut layout = layout(whole);
        assert!(layout.check_corpus("all", &[sample()]).is_ok());
        assert_eq!(
            lay(&layout).messages[0].content,
            "[1] one two three\n\n[2] four five six\n\nwhy?"
        );
        layout.max_tokens = 95;
        let error = layout.check_corpus("all", &[sample()]).unwrap_err().source.to_string();
        assert!(error.contains("(2 documents) makes a prompt of 9 tokens; with 95"), "{error}");
    }
}
