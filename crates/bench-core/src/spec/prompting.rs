//! How arms prompt: templates, worked examples, reasoning, voting, and the language of answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Prompting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prompt {
    /// The user turn (Jinja text or `file://`); the eval set's when absent.
    pub template: Option<String>,
    /// The system turn (text or `file://`); the eval set's when absent.
    pub system: Option<String>,
    /// Worked examples, taken from the set's training rows, never from its eval or dev samples.
    pub num_fewshot: u32,
    /// Which examples.
    pub select: Select,
    /// In which order they stand.
    pub order: ExampleOrder,
    /// Reason first: asks for steps and then for a last line `Answer: …`, of which only the answer
    /// is scored; the whole text is kept in the records.
    pub chain_of_thought: bool,
    /// A regular expression whose last match is the final answer (its first group, or all of it);
    /// only that is scored. Where nothing matches, the last line is.
    pub final_answer: Option<String>,
    /// Ask several times and take the answer that most agree on (Wang et al. 2022).
    pub self_consistency: Option<SelfConsistency>,
    /// Ask several times and take the answer that a reward model finds best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_of: Option<BestOf>,
    /// User turns (Jinja text or `file://`) of which the best on the set's dev samples is used, in
    /// the place of `template`.
    pub candidates: Vec<String>,
    /// Lets a model write further candidates.
    pub propose: Option<Propose>,
    /// How the best candidate is found.
    pub tune: Option<Tune>,
}

/// Asking several times and taking the answer of the highest reward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BestOf {
    /// A name from `rewards`.
    pub reward: String,
    /// How often every question is asked, at least 2.
    #[serde(default = "BestOf::default_n")]
    pub n: u32,
    /// The temperature of these answers, more than 0.
    #[serde(default = "BestOf::default_temperature")]
    pub temperature: f64,
}

impl BestOf {
    fn default_n() -> u32 {
        4
    }

    fn default_temperature() -> f64 {
        0.7
    }
}

impl Prompt {
    /// How often a question is asked, and at which temperature where that is more than once.
    pub fn draws(&self) -> (u32, Option<f64>) {
        match (&self.best_of, &self.self_consistency) {
            (Some(best), _) => (best.n, Some(best.temperature)),
            (None, Some(vote)) => (vote.n, Some(vote.temperature)),
            (None, None) => (1, None),
        }
    }

    /// The final answer of a text that follows [`Prompt::REASONING`].
    pub const FINAL_ANSWER: &str = r"(?i)\banswer\b(?:\s+is\b\s*:?|\W{0,3}:)\s*(.+)";

    /// What `chain_of_thought` adds to the question's turn.
    pub const REASONING: &str =
        "Think step by step. Then give the answer alone on the last line, as `Answer: …`.";

    /// True when the prompt is chosen among several on dev samples.
    pub fn is_tuned(&self) -> bool {
        !self.candidates.is_empty() || self.propose.is_some() || self.tune.is_some()
    }

    /// The expression that finds the final answer, where answers have one.
    pub fn final_answer_pattern(&self) -> Option<&str> {
        self.final_answer.as_deref().or_else(|| self.chain_of_thought.then_some(Self::FINAL_ANSWER))
    }
}

/// How few-shot examples are chosen from the training rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The same for every sample, drawn with `run.seed`.
    #[default]
    Random,
    /// The first rows of the file.
    Fixed,
    /// The rows closest to the question by the experiment's embedder, closest last.
    Nearest,
    /// The same for every sample: the row nearest to the middle of all rows by the experiment's
    /// embedder, then again and again the row least like any that is chosen (farthest-first
    /// traversal, Gonzalez 1985).
    Diverse,
}

/// In which order examples stand before the question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExampleOrder {
    /// As `select` gives them.
    #[default]
    AsSelected,
    /// The other way round.
    Reversed,
    /// Shuffled for every sample with `run.seed`.
    Random,
    /// By likeness to the question, the most like it last.
    NearestLast,
}

/// Asking several times and voting.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SelfConsistency {
    /// How often every question is asked, at least 2.
    pub n: u32,
    /// The temperature of these samples, more than 0.
    pub temperature: f64,
}

impl Default for SelfConsistency {
    fn default() -> Self {
        Self { n: 5, temperature: 0.7 }
    }
}

/// The language that answers must belong to. The model cannot say anything else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Constraint {
    /// JSON that a schema accepts (a map, JSON text or `file://`).
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choices(Vec<String>),
    /// One of the sample's own `choices`.
    SampleChoices,
    /// A grammar in the Lark form of llguidance (text or `file://`), beginning at `start`. Local
    /// models only.
    Grammar(String),
    /// Any text: undoes the eval set's constraint for one arm.
    Free,
}

/// Choosing among prompts by successive halving on the set's dev samples: all candidates answer a
/// few samples, the better half of them more, and so on. The eval samples are never seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tune {
    /// The scorer that decides; the set's first when absent.
    pub metric: Option<String>,
    /// Answers to dev samples, at most, shared evenly by the rungs.
    pub budget: u32,
    /// Rounds of halving, at most.
    pub rungs: u32,
}

impl Default for Tune {
    fn default() -> Self {
        Self { metric: None, budget: 200, rungs: 3 }
    }
}

/// Letting a model write prompts: it writes instructions, and the first candidate's layout stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Propose {
    /// A name from `models`; the arm's own when absent.
    pub model: Option<String>,
    /// Prompts to write.
    pub n: u32,
    /// What they are made from.
    pub from: ProposeFrom,
}

impl Default for Propose {
    fn default() -> Self {
        Self { model: None, n: 4, from: ProposeFrom::default() }
    }
}

/// What a model makes prompts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProposeFrom {
    /// Training rows: which instruction was followed here (Honovich et al. 2022)?
    #[default]
    Induction,
    /// The first candidate's instruction, in other words.
    Paraphrase,
    /// Dev samples that the first candidate got wrong: a better instruction (Pryzant et al. 2023).
    Failures,
}

/// What is searched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The question.
    #[default]
    None,
    /// The question and a passage that might answer it, written by the model (Gao et al. 2022, in
    /// the form of Wang et al. 2023).
    Hyde,
    /// The question and other ways to ask it; the rankings are fused.
    MultiQuery,
    /// The question and the simpler ones it is made of; the rankings are fused.
    Decompose,
}

/// Which passages stand beside the gold ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Noise {
    /// Drawn at random with the run's seed.
    #[default]
    Random,
    /// The ones a search for the question ranks highest: the hardest to tell from gold.
    Retrieved,
}

/// Which figure of citations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CitationFigure {
    /// The harmonic mean of both.
    #[default]
    F1,
    /// The share of cited documents that are gold.
    Precision,
    /// The share of gold documents that are cited.
    Recall,
}

/// Fine-tuning on prompts with passages (RAFT, Zhang et al. 2024): every row is laid out as it will
/// be served, with its gold documents among distractors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Raft {
    /// The retrieving arm whose settings lay out training rows and answers; in a composition its
    /// retrieving part. Default settings when absent.
    pub rag: Option<String>,
    /// Passages beside the gold ones.
    pub distractors: u32,
    /// Share of the rows whose gold documents are left out, so that the model also learns to know.
    pub without_golden: f64,
    /// The field of the training rows that holds a reasoning to learn before the answer: a key of
    /// `meta`, or of the row itself. The arm then reasons when it is asked too, as with
    /// `chain_of_thought`, and only its final answer is scored. Without it, rows are learnt as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
}

impl Default for Raft {
    fn default() -> Self {
        Self { rag: None, distractors: 3, without_golden: 0.2, reasoning: None }
    }
}
