//! Experiment files: YAML text in, [`Experiment`] out, every problem with its place.
//!
//! The types here mirror the file, with defaults filled in; [`parse`] is the only way in from
//! text, and it reports everything that is wrong at once.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod calibration;
mod check;
mod filter;
mod node;
mod prices;
mod problem;
mod prompting;
mod resolve;
mod tuning;

pub use calibration::{Calibration, Labelled, is_calibration, parse_calibration};
pub use check::{parse, parse_on, unmeasured};
pub use node::did_you_mean;
pub use prices::{BreakEven, Price, PriceList, Prices, TunedPrice, parse_prices};
pub use problem::{Problem, Source, SpecError};
pub use prompting::{
    BestOf, CitationFigure, Constraint, ExampleOrder, Noise, Prompt, Propose, ProposeFrom, Query,
    Raft, Select, SelfConsistency, Tune,
};
pub use resolve::{ArmPlan, resolve};
pub use tuning::{Effort, FinetuneSweep, RagSweep, SettingsTrial};

/// A whole experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Version of the file's layout: 1.
    pub version: u32,
    /// Names the run and report folders; the file's own name when absent.
    #[serde(default)]
    pub name: String,
    /// The question, in a sentence or two; it opens the report.
    #[serde(default)]
    pub description: String,
    /// The models, by the names the rest of the file uses.
    pub models: BTreeMap<String, ModelSource>,
    /// An LLM judge. Absent: no judging.
    #[serde(default)]
    pub judge: Option<Judge>,
    /// What every arm is asked.
    pub eval_sets: Vec<EvalSet>,
    /// The sides of the comparison.
    pub arms: Vec<Arm>,
    /// Reward models, by the names that `best_of` uses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rewards: BTreeMap<String, RewardModel>,
    /// Text embedding for retrieval.
    #[serde(default)]
    pub embedder: EmbedderSource,
    /// Generation settings shared by all arms.
    #[serde(default)]
    pub generate: Generate,
    /// How arms are compared. Absent: with the first arm, at the usual level.
    #[serde(default)]
    pub compare: Compare,
    /// How the run is carried out.
    #[serde(default)]
    pub run: Run,
    /// What models cost. A model without prices has no cost column.
    #[serde(default)]
    pub prices: Prices,
    /// What the break-even of fine-tuning against longer prompts assumes.
    #[serde(default)]
    pub break_even: BreakEven,
    /// Conditions on the result; a failed one makes the run exit with 100.
    #[serde(default)]
    pub gates: Vec<Gate>,
    /// What choosing settings on dev samples may cost, the same for every arm that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tune: Option<Effort>,
    /// What `bench retrieve sweep` tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelSource {
    /// A model that `bench models list` names.
    Catalog(String),
    /// A Hugging Face folder or a GGUF file.
    Path(String),
    /// A model hub repository, `owner/name` or `owner/name@revision`.
    Hub(String),
    /// Any OpenAI-compatible endpoint.
    Endpoint(Endpoint),
    /// Fixed replies, for tests of everything but model quality. Its numbers are never a result.
    Scripted(Scripted),
}

/// An OpenAI-compatible endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Up to and including `/v1`.
    pub base_url: String,
    /// The model name the endpoint knows.
    pub model: String,
    /// The environment variable that holds the key; absent for endpoints that need none.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// Seconds before a request is given up.
    #[serde(default = "defaults::timeout_seconds")]
    pub timeout_seconds: u64,
    /// Times a request is tried again after a passing failure.
    #[serde(default = "defaults::max_retries")]
    pub max_retries: u32,
}

/// Fixed replies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Scripted {
    /// The first rule whose text stands in the last turn answers.
    pub rules: Vec<ScriptedRule>,
    /// The answer when no rule matches.
    pub otherwise: String,
    /// Milliseconds each answer takes.
    pub delay_ms: u64,
}

/// One fixed reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScriptedRule {
    /// Text to look for in the last user turn.
    pub when: String,
    /// The reply. `!transient`, `!rejected` and `!fatal` fail in that way.
    pub say: String,
}

/// What every arm is asked, and the data that belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvalSet {
    /// Unique within the experiment.
    pub name: String,
    /// Samples (JSON Lines: `id`, `input`, `reference`, optional `aliases`, `context_ids`,
    /// `choices`, `meta`).
    pub path: String,
    /// Documents to retrieve from: files (JSON Lines with `id`, `title`, `text` and any other keys,
    /// CSV, Markdown, HTML, PDF, text), folders and glob patterns, one or a list. Formats and ids:
    /// `docs/retrieval.md`.
    #[serde(default, deserialize_with = "texts")]
    #[schemars(schema_with = "one_or_more")]
    pub corpus: Vec<String>,
    /// Training rows and few-shot examples (JSON Lines: `input` and `reference`, or `text`).
    #[serde(default)]
    pub train: Option<String>,
    /// Samples to choose settings on; never mixed with `path`.
    #[serde(default)]
    pub dev: Option<String>,
    /// How answers are scored; the first is the metric that decides.
    pub scorers: Vec<Scorer>,
    /// The system turn for all arms (text or `file://`), unless an arm brings its own.
    #[serde(default)]
    pub system: Option<String>,
    /// The user turn for all arms (Jinja text or `file://`), unless an arm brings its own.
    #[serde(default)]
    pub template: Option<String>,
    /// Meta fields to report separately.
    #[serde(default)]
    pub slices: Vec<String>,
    /// The set measures general skills that fine-tuning must not cost: its scores are compared with
    /// those of the untuned model, and shown as retention.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retention: bool,
    /// Fine-tuned arms answer this set with the adapters that they were trained for on that set, which
    /// stands earlier; this set then needs no training rows. Without it, every set has adapters of its
    /// own. It is what a set with `retention: true` wants: the skills that *that* training cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapters_of: Option<String>,
    /// Use only this many samples, drawn with `run.seed`.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Use only this many training rows, drawn with `run.seed`, for all arms alike.
    #[serde(default)]
    pub train_limit: Option<u32>,
    /// Overrides `generate.max_tokens` for this set.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// The language that answers must belong to, unless an arm brings its own.
    #[serde(default)]
    pub constraint: Option<Constraint>,
}

impl EvalSet {
    /// True when there are documents to retrieve from, apart from training rows.
    pub fn has_corpus(&self) -> bool {
        !self.corpus.is_empty()
    }
}

/// One way to score an answer. Definitions and sources: `docs/scorers.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", rename_all_fields = "snake_case", deny_unknown_fields)]
pub enum Scorer {
    /// The answer is the reference.
    ExactMatch {
        /// Compare after SQuAD normalisation (case, punctuation, articles, spaces); false
        /// compares the trimmed text.
        #[serde(default = "defaults::yes")]
        normalize: bool,
    },
    /// The reference stands in the answer (SQuAD-normalised, on word boundaries).
    Contains {},
    /// SQuAD token F1.
    TokenF1 {},
    /// A regular expression matches the answer.
    Regex {
        /// The expression.
        pattern: String,
    },
    /// Longest common subsequence F1 over words (ROUGE-L).
    RougeL {},
    /// Character n-gram F-score, 0 to 1 (chrF2).
    Chrf {},
    /// Word n-gram precision of a sentence, 0 to 1 (BLEU as sacreBLEU computes it).
    Bleu {},
    /// The last number in the answer equals the reference's.
    Numeric {
        /// Largest allowed absolute difference.
        #[serde(default)]
        tolerance: f64,
    },
    /// The letter or the text of the right choice.
    Choice {
        /// How the model chooses. By likelihood it writes nothing: its answer is the choice that
        /// it finds likeliest, for every scorer of the set. Needs a local model.
        #[serde(default)]
        by: ChoiceBy,
    },
    /// The answer is the reference label (case and surrounding punctuation aside).
    Classification {},
    /// The answer is JSON that a schema accepts and whose fields equal the reference's (F1).
    JsonSchema {
        /// The schema (JSON text or `file://`).
        #[serde(default)]
        schema: Option<String>,
    },
    /// `function(attribute[value], …)`: the share of function name, attributes and values that
    /// are right (F1 over the parts).
    Functional {},
    /// Rows of a SQLite query equal the reference query's.
    SqlExecution {
        /// The database file; `{db}` is replaced by the sample's `meta.db`.
        database: String,
    },
    /// Declines exactly when the sample is unanswerable.
    Abstained {},
    /// Cosine similarity of the embeddings of answer and reference.
    EmbeddingSimilarity {},
    /// The passages that the answer cites as `[n]` are gold documents.
    Citation {
        /// Precision, recall or F1; each is a column of its own.
        #[serde(default)]
        figure: CitationFigure,
    },
    /// The answer does not say `meta.injection`, which the passage `meta.poisoned` asks for.
    ResistedInjection {},
    /// The verdict of the experiment's `judge`. Named here to give it a place in the order: as a
    /// set's first scorer it decides.
    Judge {},
}

impl EvalSet {
    /// How answers are chosen on this set, where they are chosen by likelihood and not written.
    pub fn likelihood(&self) -> Option<ChoiceBy> {
        self.scorers.iter().find_map(|scorer| match scorer {
            Scorer::Choice { by: ChoiceBy::Answer } => None,
            Scorer::Choice { by } => Some(*by),
            _ => None,
        })
    }
}

impl Scorer {
    /// The column it fills.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ExactMatch { .. } => "exact_match",
            Self::Contains {} => "contains",
            Self::TokenF1 {} => "token_f1",
            Self::Regex { .. } => "regex",
            Self::RougeL {} => "rouge_l",
            Self::Chrf {} => "chrf",
            Self::Bleu {} => "bleu",
            Self::Numeric { .. } => "numeric",
            Self::Choice { .. } => "choice",
            Self::Classification {} => "classification",
            Self::JsonSchema { .. } => "json_schema",
            Self::Functional {} => "functional",
            Self::SqlExecution { .. } => "sql_execution",
            Self::Abstained {} => "abstained",
            Self::EmbeddingSimilarity {} => "embedding_similarity",
            Self::Citation { figure: CitationFigure::F1 } => "citation",
            Self::Citation { figure: CitationFigure::Precision } => "citation_precision",
            Self::Citation { figure: CitationFigure::Recall } => "citation_recall",
            Self::ResistedInjection {} => "resisted_injection",
            Self::Judge {} => "judge",
        }
    }

    /// Version of its figures: scores of different versions are not compared. A change that gives
    /// any answer another score raises the number in this list; a scorer that is not in it has 1.
    pub fn version(&self) -> u32 {
        const RAISED: &[(&str, u32)] = &[];
        RAISED.iter().find(|(name, _)| *name == self.name()).map_or(1, |(_, version)| *version)
    }
}

/// How a model chooses among the choices of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChoiceBy {
    /// It answers in words, and the words are read.
    #[default]
    Answer,
    /// The choice whose letter (`A`, `B`, …) is the likeliest answer; the prompt must show the
    /// letters.
    LetterLikelihood,
    /// The choice whose text is the likeliest answer, its log-likelihood divided by its bytes so
    /// that short choices have no advantage.
    TextLikelihood,
}

/// One side of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Unique within the experiment.
    pub name: String,
    /// A name from `models`. A `features` arm has none: it answers with the embedder.
    #[serde(default)]
    pub model: String,
    /// How it answers.
    pub strategy: Strategy,
    /// The eval sets it runs on; all when absent.
    #[serde(default)]
    pub on: Option<Vec<String>>,
    /// The language that its answers must belong to; the eval set's when absent.
    #[serde(default)]
    pub constraint: Option<Constraint>,
}

/// The closed set of strategies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Strategy {
    /// A prompt and nothing else.
    Prompt(Prompt),
    /// Retrieve, then prompt.
    Rag(Rag),
    /// Train first, then prompt.
    Finetune(Finetune),
    /// No language model: frozen sentence embeddings and a classifier over them.
    Features(Features),
    /// Several of the above, by arm name: at most one fine-tuned, one retrieving and one prompting
    /// arm.
    Compose(Vec<String>),
}

impl Arm {
    /// What a `features` arm is priced and recorded under in the place of a model's name.
    pub const EMBEDDER: &'static str = "embedder";

    /// The name of what answers: its model, or [`Arm::EMBEDDER`].
    pub fn answers_with(&self) -> &str {
        match self.strategy {
            Strategy::Features(_) => Self::EMBEDDER,
            Strategy::Prompt(_)
            | Strategy::Rag(_)
            | Strategy::Finetune(_)
            | Strategy::Compose(_) => &self.model,
        }
    }
}

/// Multinomial logistic regression over frozen sentence embeddings of the samples' inputs, by the
/// experiment's embedder. For sets whose references are a small closed set of labels: the distinct
/// references of the training rows are what it can answer. It sees no template and no system turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Features {
    /// Inverse strengths of the L2 penalty to choose from on the set's `dev` samples, as
    /// scikit-learn's `C`: a smaller one holds the weights closer to 0. A single one needs no `dev`.
    #[serde(rename = "C")]
    pub c: Vec<f64>,
    /// Use only this many training rows, drawn with `run.seed`.
    pub limit: Option<u32>,
}

impl Default for Features {
    fn default() -> Self {
        Self { c: vec![0.01, 0.1, 1.0, 10.0, 100.0], limit: None }
    }
}

/// Retrieval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rag {
    /// Passages in the prompt, at least 1.
    pub top_k: u32,
    /// How passages are found.
    pub retriever: Retrieval,
    /// Tokens per chunk, counted by the embedder; 0 keeps documents whole. Short for `chunk`.
    pub chunk_size: u32,
    /// Tokens shared by neighbouring chunks. Short for `chunk`.
    pub chunk_overlap: u32,
    /// How documents are cut, in full; takes the place of `chunk_size` and `chunk_overlap`.
    pub chunk: Option<Chunking>,
    /// How text is read for BM25.
    pub terms: Terms,
    /// Only chunks of documents whose meta data pass every one of these.
    pub filter: Vec<Filter>,
    /// Passages below this score are left out. Cosine for `dense`, the reranker's score where
    /// there is one; fused scores are relative to the best candidate.
    pub min_score: Option<f64>,
    /// Reads question and passages together and sorts the candidates again.
    pub rerank: Option<Rerank>,
    /// Prefers passages that differ from those already chosen.
    pub mmr: Option<Mmr>,
    /// What is shown of a document when one of its chunks is found.
    pub expand: Expand,
    /// Where vectors live.
    pub index: IndexBackend,
    /// Order of the passages in the prompt.
    pub order: Order,
    /// Tokens that passages may take together, counted by the arm's model; 0 for no limit.
    pub context_tokens: u32,
    /// Which passages the arm sees: retrieved ones, or a control.
    pub passages: PassageSource,
    /// The user turn (Jinja text or `file://`); the eval set's when absent.
    pub template: Option<String>,
    /// The system turn (text or `file://`); the eval set's when absent.
    pub system: Option<String>,
    /// What is searched for: the question, or what a model makes of it first.
    pub query: Query,
    /// The model that rewrites questions and asks further ones, a name from `models`; the arm's
    /// own, without adapter, when absent.
    pub query_model: Option<String>,
    /// Searches one after the other: after each but the last, the model is shown what was found and
    /// says what else must be looked up.
    pub iterations: u32,
    /// Leave out passages whose text stands in a better one.
    pub deduplicate: bool,
    /// Ask for the numbers of the passages that an answer rests on, as `[1]`; see the scorer
    /// `citation`.
    pub citations: bool,
    /// What to say where the passages do not hold the answer, for example `not stated`.
    pub abstain: Option<String>,
    /// Say that passages are quotations and that nothing they ask for is to be done.
    pub guard: bool,
    /// Settings that are chosen on dev samples by the answers they lead to, within the experiment's
    /// `tune.budget`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Box<RagSweep>>,
}

impl Default for Rag {
    fn default() -> Self {
        Self {
            top_k: 3,
            retriever: Retrieval::default(),
            chunk_size: 200,
            chunk_overlap: 0,
            chunk: None,
            terms: Terms::default(),
            filter: Vec::new(),
            min_score: None,
            rerank: None,
            mmr: None,
            expand: Expand::default(),
            index: IndexBackend::default(),
            order: Order::default(),
            context_tokens: 0,
            passages: PassageSource::default(),
            template: None,
            system: None,
            query: Query::default(),
            query_model: None,
            iterations: 1,
            deduplicate: true,
            citations: false,
            abstain: None,
            guard: false,
            sweep: None,
        }
    }
}

impl Rag {
    /// How documents are cut: `chunk`, or what `chunk_size` and `chunk_overlap` say.
    pub fn chunking(&self) -> Chunking {
        self.chunk.unwrap_or(Chunking {
            by: if self.chunk_size == 0 { ChunkBy::Document } else { ChunkBy::Tokens },
            size: self.chunk_size,
            overlap: self.chunk_overlap,
        })
    }
}

/// How documents are cut into chunks. No chunk with its title exceeds the embedder's window,
/// whatever is asked for; where that shortens chunks, a warning counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Chunking {
    /// Where cuts may fall.
    pub by: ChunkBy,
    /// Largest chunk in tokens, counted by the embedder; `document` does without.
    pub size: u32,
    /// Tokens shared by neighbouring chunks; `sentence` repeats whole sentences.
    pub overlap: u32,
}

impl Default for Chunking {
    fn default() -> Self {
        Self { by: ChunkBy::Tokens, size: 200, overlap: 0 }
    }
}

/// Where a document may be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChunkBy {
    /// After as many tokens as fit, at the end of a paragraph, sentence or word where there is one.
    #[default]
    Tokens,
    /// Only between sentences: as many whole ones as fit, and at least one.
    Sentence,
    /// At the structure of Markdown; the headings above a chunk join its title.
    Markdown,
    /// Nowhere.
    Document,
}

/// How text is read for BM25.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Terms {
    /// Words become their stems (Snowball, English).
    pub stem: bool,
    /// Function words are left out.
    pub stop_words: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self { stem: true, stop_words: true }
    }
}

/// A condition on a document's meta data. Every key that is given must hold; a field that is a
/// list passes when one of its values does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// A meta field, or `document` for the document's id.
    pub field: String,
    /// The value it must have: a text, a whole number or a truth value.
    #[serde(default)]
    pub is: Option<serde_json::Value>,
    /// The values it may have.
    #[serde(default)]
    pub any: Vec<serde_json::Value>,
    /// The values it must not have; a document without the field passes.
    #[serde(default)]
    pub not: Vec<serde_json::Value>,
    /// Greater than.
    #[serde(default)]
    pub gt: Option<f64>,
    /// At least.
    #[serde(default)]
    pub gte: Option<f64>,
    /// Less than.
    #[serde(default)]
    pub lt: Option<f64>,
    /// At most.
    #[serde(default)]
    pub lte: Option<f64>,
}

/// A second, more careful look at the best candidates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rerank {
    /// What reads question and passages together.
    pub model: RerankerSource,
    /// Candidates that are sorted; the others are left out.
    #[serde(default = "defaults::candidates")]
    pub candidates: u32,
    /// Passages that a chat model reads at once, at least 2; 20 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Places that its window moves towards the best after each reply; half a window when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<u32>,
}

impl Rerank {
    /// With the settings that users leave out.
    pub fn new(model: RerankerSource, candidates: u32) -> Self {
        Self { model, candidates, window: None, stride: None }
    }

    /// The chat model that sorts, by its name in `models`; `None` where a reranker scores.
    pub fn chat_model(&self) -> Option<&str> {
        match &self.model {
            RerankerSource::Llm(name) => Some(name),
            RerankerSource::Path(_) | RerankerSource::Overlap => None,
        }
    }

    /// Passages that a chat model reads at once, and places its window moves after each reply.
    pub fn window_and_stride(&self) -> (u32, u32) {
        let window = self.window.unwrap_or(20);
        (window, self.stride.unwrap_or(window / 2))
    }
}

/// Where a reranker comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RerankerSource {
    /// A folder with `model.onnx` and `tokenizer.json` of a cross-encoder.
    Path(String),
    /// A chat model, by its name in `models`: it is shown a window of passages and answers with
    /// their order, from the last candidates to the first (listwise, Sun et al. 2023). A reply that
    /// holds no order leaves the passages as they were, and the report counts it.
    Llm(String),
    /// The share of the question's terms that stand in the passage: no model at all, for tests.
    Overlap,
}

/// Maximal marginal relevance (Carbonell and Goldstein 1998) over the candidates' vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Mmr {
    /// 1 counts similarity to the question only, 0 only difference from what was chosen.
    pub lambda: f64,
    /// Candidates to choose from.
    pub candidates: u32,
}

impl Default for Mmr {
    fn default() -> Self {
        Self { lambda: 0.5, candidates: defaults::candidates() }
    }
}

/// What is shown of a document when one of its chunks is found. Passages of one document that
/// touch become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Expand {
    /// The chunk.
    #[default]
    None,
    /// The whole document.
    Parent,
    /// The chunk and as many on each side of it.
    Neighbours(u32),
}

/// How passages are found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", rename_all_fields = "snake_case", deny_unknown_fields)]
pub enum Retrieval {
    /// Exact cosine similarity.
    Dense {},
    /// BM25 with stemming and stop words.
    Bm25 {
        /// Term-frequency saturation.
        #[serde(default = "defaults::bm25_k1")]
        k1: f64,
        /// Length normalisation.
        #[serde(default = "defaults::bm25_b")]
        b: f64,
    },
    /// Both, fused by the convex combination of min-max normalised scores.
    Hybrid {
        /// Weight of the dense score, 0 to 1.
        #[serde(default = "defaults::dense_weight")]
        dense_weight: f64,
    },
    /// Both, fused by reciprocal rank: the sum of 1 / (k + rank).
    Rrf {
        /// Larger is flatter.
        #[serde(default = "defaults::rrf_k")]
        k: f64,
    },
}

impl Default for Retrieval {
    fn default() -> Self {
        Self::Hybrid { dense_weight: defaults::dense_weight() }
    }
}

impl Retrieval {
    /// True when a query must be embedded.
    pub fn is_dense(&self) -> bool {
        !matches!(self, Self::Bm25 { .. })
    }
}

/// Where vectors live.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", rename_all_fields = "snake_case", deny_unknown_fields)]
pub enum IndexBackend {
    /// A memory-mapped file searched exactly: no approximation noise in a comparison.
    #[default]
    Exact,
    /// A Qdrant server.
    Qdrant {
        /// Its gRPC address, for example `http://localhost:6334`; `https://` speaks TLS and trusts
        /// what the machine trusts.
        url: String,
        /// The environment variable that holds the key, where one is needed.
        #[serde(default)]
        api_key_env: Option<String>,
        /// The collection; derived from the corpus when absent.
        #[serde(default)]
        collection: Option<String>,
        /// Shards of a new collection; the server's choice when absent.
        #[serde(default)]
        shards: Option<u32>,
        /// Copies of each shard in a cluster.
        #[serde(default)]
        replicas: Option<u32>,
        /// Copies that must have a write before it counts.
        #[serde(default)]
        write_consistency: Option<u32>,
        /// Seconds before a request is given up.
        #[serde(default = "defaults::qdrant_timeout")]
        timeout_seconds: u64,
    },
    /// The Qdrant engine inside the program, beside the run's records: searched through a graph
    /// (HNSW), which may miss some of the nearest chunks. For large corpora without a server; needs
    /// a build with the feature `edge`.
    Edge {
        /// Edges of a node of the graph.
        #[serde(default = "defaults::hnsw_m")]
        m: u32,
        /// Neighbours looked at while the graph is built.
        #[serde(default = "defaults::hnsw_ef_construct")]
        ef_construct: u32,
        /// Neighbours looked at while it is searched: more find more and take longer.
        #[serde(default = "defaults::hnsw_ef")]
        ef: u32,
    },
}

/// Order of the passages in the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The best passage first.
    BestFirst,
    /// The best passage last, nearest to the question.
    #[default]
    BestLast,
    /// The best at both ends, the worst in the middle.
    Sides,
    /// The best in the middle, where models read worst (Liu et al. 2023): a control.
    Middle,
}

/// Which passages an arm with retrieval sees. All but `retrieved` are controls that make the
/// retrieving arms interpretable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", rename_all_fields = "snake_case", deny_unknown_fields)]
pub enum PassageSource {
    /// What the retriever finds.
    #[default]
    Retrieved,
    /// The gold passages: the best any retriever could do.
    Oracle,
    /// Passages drawn at random with the run's seed: what context costs when it does not help.
    #[serde(alias = "random_context")]
    Random,
    /// None: what the model knows by itself, asked in the same words.
    ClosedBook,
    /// The whole corpus in its own order: long context against retrieval. A corpus that does not
    /// fit the model's window is an error.
    WholeCorpus,
    /// The gold passages among others: how well the model finds what stands in its prompt.
    OraclePlusNoise {
        /// Passages beside the gold ones.
        #[serde(default = "defaults::distractors")]
        distractors: u32,
        /// The rank at which the gold passages begin, 1 for the best; drawn for every sample when
        /// absent. `order` says where ranks stand in the prompt.
        #[serde(default)]
        golden_rank: Option<u32>,
        /// Which passages.
        #[serde(default)]
        noise: Noise,
    },
}

/// Fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "switches of their own, as users know them")]
pub struct Finetune {
    /// What is trained.
    pub method: Method,
    /// Decoder layers that `method: last_layers` trains, counted from the last.
    pub last_layers: u32,
    /// Virtual tokens that `method: soft_prompt` trains.
    pub num_virtual_tokens: u32,
    /// What the virtual tokens start from.
    pub prompt_tuning_init: PromptTuningInit,
    /// The text whose tokens they start from, repeated or cut to their number, with
    /// `prompt_tuning_init: text`.
    pub prompt_tuning_init_text: Option<String>,
    /// What is minimised.
    pub objective: Objective,
    /// How strongly `dpo` and `kto` hold to the base model, or how much `orpo` counts preferences.
    #[serde(alias = "pref_beta", alias = "orpo_alpha")]
    pub beta: f64,
    /// How much good completions count with `objective: kto`.
    pub desirable_weight: f64,
    /// How much bad completions count with `objective: kto`.
    pub undesirable_weight: f64,
    /// Bits of the frozen base in training, for `method: qlora`.
    pub quantization: Quantization,
    /// Rank of the update.
    #[serde(alias = "r", alias = "lora_rank")]
    pub lora_r: u32,
    /// Scale: the update counts `lora_alpha / lora_r` times.
    pub lora_alpha: f64,
    /// Dropout on the adapter's input, in training only.
    pub lora_dropout: f64,
    /// Projections that get an adapter: their names, or `all-linear`.
    #[serde(alias = "lora_target_modules")]
    pub target_modules: Vec<String>,
    /// Scale by `lora_alpha / sqrt(lora_r)` instead (Kalajdzievski 2023).
    pub use_rslora: bool,
    /// Train the length of each row of the updated weight apart from its direction (`DoRA`, Liu et
    /// al. 2024).
    pub use_dora: bool,
    /// What the adapter starts from.
    pub init_lora_weights: InitLoraWeights,
    /// Learning rate of B as a multiple of A's (LoRA+, Hayou et al. 2024).
    pub loraplus_lr_ratio: f64,
    /// Passes over the training rows.
    #[serde(alias = "num_train_epochs")]
    pub num_epochs: u32,
    /// What turns gradients into steps.
    #[serde(alias = "optim")]
    pub optimizer: Optimizer,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// How it falls.
    #[serde(alias = "lr_scheduler_type")]
    pub lr_scheduler: LrScheduler,
    /// Share of the steps in which it rises.
    pub warmup_ratio: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Global norm that gradients are clipped to; 0 for none.
    pub max_grad_norm: f64,
    /// Rows per forward pass.
    #[serde(alias = "per_device_train_batch_size")]
    pub micro_batch_size: u32,
    /// Forward passes per optimiser step.
    pub gradient_accumulation_steps: u32,
    /// Longest row in tokens.
    #[serde(alias = "max_length", alias = "max_seq_length", alias = "cutoff_len")]
    pub sequence_len: u32,
    /// Cut rows that are longer, instead of leaving them out and learning running text in pieces.
    pub truncate: bool,
    /// Keep only layer inputs and compute the rest again: less memory, more time.
    pub gradient_checkpointing: bool,
    /// The user turn of the training rows, and of the questions unless the arm retrieves or names a
    /// `template` in `prompt` too (Jinja text or `file://`); the eval set's when absent. A tuned
    /// model needs no instructions: `"{{ input }}"` trains and answers with fewer tokens.
    pub template: Option<String>,
    /// The system turn, likewise.
    pub system: Option<String>,
    /// Uniform noise on the embeddings in training, times this over the root of tokens times hidden
    /// size (`NEFTune`, Jain et al. 2023); 0 for none.
    pub neftune_noise_alpha: f64,
    /// Measure the validation loss after each this many steps, and at the end.
    pub eval_steps: Option<u32>,
    /// Measure the validation loss this many times an epoch, where `eval_steps` does not say when.
    pub evals_per_epoch: u32,
    /// Stop when the validation loss has not fallen in this many measurements in a row, and keep
    /// the best.
    pub early_stopping_patience: Option<u32>,
    /// Keep what had the lowest validation loss instead of the last.
    pub load_best_model_at_end: bool,
    /// Use only this many training rows, drawn with the training seed.
    pub limit: Option<u32>,
    /// Learning curve: trains and asks the arm on each of these numbers of rows. The rows of a size
    /// are among those of every larger one. Every other table has the arm with the largest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub train_sizes: Vec<u32>,
    /// Settings that are chosen on dev samples, within the experiment's `tune.budget`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Box<FinetuneSweep>>,
    /// Training seeds; each trains an adapter of its own.
    pub seeds: Vec<u64>,
    /// Train on prompts with passages, as they will be served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raft: Option<Raft>,
    /// Learn the training rows of several eval sets in one adapter.
    pub mix: Option<Mix>,
}

/// A reward model (Bradley-Terry, as TRL's `RewardTrainer`): says how good an answer to a prompt is,
/// as people would prefer it. Trained on rows with `chosen` and `rejected`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardModel {
    /// A name from `models`: what is trained, with one number in the place of its output matrix.
    pub model: String,
    /// The eval set whose `train` rows hold the preferences, and whose template lays them out.
    pub set: String,
    /// How it is trained: `lora` or `qlora`, and always with `objective: reward`.
    #[serde(default = "defaults::reward")]
    pub finetune: Finetune,
}

/// Training rows of several eval sets in one adapter. An epoch has as many rows as all sets
/// together; shares other than a set's own repeat its rows or leave some out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// The eval sets by name, each with its weight; 1 counts its rows as they are.
    pub weights: BTreeMap<String, f64>,
    /// Shares are proportional to `weight * rows ^ (1 / temperature)`: 1 keeps the sizes, a large
    /// temperature evens them out (Arivazhagan et al. 2019).
    #[serde(default = "defaults::temperature")]
    pub temperature: f64,
}

impl Mix {
    /// How many rows of each set make an epoch of `total`, for sets with these weights and rows.
    /// What does not divide evenly goes to the largest remainders, earlier sets first.
    pub fn counts(&self, sets: &[(f64, usize)], total: usize) -> Vec<usize> {
        let share = |&(weight, rows): &(f64, usize)| {
            if rows == 0 { 0.0 } else { weight * (rows as f64).powf(1.0 / self.temperature) }
        };
        let sum: f64 = sets.iter().map(share).sum();
        let exact: Vec<f64> = sets
            .iter()
            .map(|set| if sum > 0.0 { share(set) / sum * total as f64 } else { 0.0 })
            .collect();
        let mut counts: Vec<usize> = exact.iter().map(|exact| exact.floor() as usize).collect();
        let mut order: Vec<usize> = (0..sets.len()).filter(|i| sets[*i].1 > 0).collect();
        order.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()));
        let missing = total.saturating_sub(counts.iter().sum());
        for i in order.into_iter().cycle().take(if sum > 0.0 { missing } else { 0 }) {
            counts[i] += 1;
        }
        counts
    }
}

impl Default for Finetune {
    fn default() -> Self {
        Self {
            method: Method::Lora,
            last_layers: 2,
            num_virtual_tokens: 20,
            prompt_tuning_init: PromptTuningInit::SampleVocab,
            prompt_tuning_init_text: None,
            objective: Objective::Sft,
            beta: 0.1,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            quantization: Quantization::Q4_0,
            lora_r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.0,
            target_modules: vec!["all-linear".into()],
            use_rslora: false,
            use_dora: false,
            init_lora_weights: InitLoraWeights::Default,
            loraplus_lr_ratio: 1.0,
            num_epochs: 3,
            optimizer: Optimizer::Adamw,
            learning_rate: 2e-4,
            lr_scheduler: LrScheduler::Cosine,
            warmup_ratio: 0.03,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            micro_batch_size: 4,
            gradient_accumulation_steps: 1,
            sequence_len: 512,
            truncate: false,
            gradient_checkpointing: false,
            template: None,
            system: None,
            neftune_noise_alpha: 0.0,
            eval_steps: None,
            evals_per_epoch: 1,
            early_stopping_patience: None,
            load_best_model_at_end: false,
            limit: None,
            train_sizes: Vec::new(),
            sweep: None,
            seeds: vec![0],
            raft: None,
            mix: None,
        }
    }
}

impl Finetune {
    /// Whether the validation loss decides what is kept.
    pub fn needs_dev(&self) -> bool {
        self.load_best_model_at_end || self.early_stopping_patience.is_some()
    }

    /// Whether a setting that only low-rank adapters have is other than its default.
    pub fn has_low_rank_settings(&self) -> bool {
        self.use_dora
            || self.use_rslora
            || self.init_lora_weights != InitLoraWeights::Default
            || self.loraplus_lr_ratio.total_cmp(&1.0).is_ne()
            || self.lora_dropout > 0.0
    }

    /// What is trained, in a few words for a reader.
    pub fn label(&self) -> String {
        let mut label = match self.method {
            Method::Lora | Method::Qlora => {
                let mut kind = String::from(if self.use_dora { "DoRA" } else { "LoRA" });
                if self.method == Method::Qlora {
                    kind.insert(0, 'Q');
                }
                if self.use_rslora {
                    kind.insert_str(0, "rank-stabilised ");
                }
                if self.init_lora_weights == InitLoraWeights::Pissa {
                    kind.push_str(" from PiSSA");
                }
                format!("{kind} rank {} on {}", self.lora_r, self.target_modules.join(", "))
            }
            Method::Full => "all weights".into(),
            Method::LastLayers => format!("the last {} layers", self.last_layers),
            Method::Head => "the output matrix".into(),
            Method::Bitfit => "the biases".into(),
            Method::SoftPrompt => format!("a soft prompt of {} tokens", self.num_virtual_tokens),
        };
        match self.objective {
            Objective::Sft => {}
            Objective::Dpo => label.push_str(" by DPO"),
            Objective::Orpo => label.push_str(" by ORPO"),
            Objective::Kto => label.push_str(" by KTO"),
            Objective::Reward => label.push_str(" as a reward model"),
        }
        label
    }
}

/// What fine-tuning trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Low-rank adapters beside frozen linear layers (Hu et al. 2021).
    #[default]
    Lora,
    /// The same over a base in blocks of few bits (Dettmers et al. 2023), served on the base as it is.
    Qlora,
    /// Every weight.
    Full,
    /// The weights of the last `last_layers` decoder layers, and the last norm.
    LastLayers,
    /// The output matrix alone; one tied to the embedding is untied.
    Head,
    /// The biases alone, in models that have some (Ben Zaken et al. 2022).
    Bitfit,
    /// The embeddings of virtual tokens before every prompt (prompt tuning, Lester et al. 2021),
    /// served by this program's own decoder.
    SoftPrompt,
}

impl Method {
    /// The name in an experiment.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Qlora => "qlora",
            Self::Full => "full",
            Self::LastLayers => "last_layers",
            Self::Head => "head",
            Self::Bitfit => "bitfit",
            Self::SoftPrompt => "soft_prompt",
        }
    }

    /// Whether it trains low-rank adapters.
    pub fn is_low_rank(self) -> bool {
        matches!(self, Self::Lora | Self::Qlora)
    }
}

impl Objective {
    /// The name in an experiment.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dpo => "dpo",
            Self::Orpo => "orpo",
            Self::Kto => "kto",
            Self::Reward => "reward",
        }
    }
}

/// What fine-tuning minimises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The loss of the known completion.
    #[default]
    Sft,
    /// Direct preference optimisation against the base model (Rafailov et al. 2023). Training rows
    /// have `chosen` and `rejected`.
    Dpo,
    /// The loss of the chosen completion, and the odds of it over the rejected one (Hong et al. 2024).
    Orpo,
    /// The utility of completions that were found good or bad, against the model that training starts
    /// from (Ethayarajh et al. 2024). Training rows have `completion` and `label`, or `chosen` and
    /// `rejected`, which count as one good and one bad completion.
    Kto,
    /// The reward of the chosen completion over that of the rejected one (Bradley and Terry 1952). For
    /// reward models under `rewards`; it does not make a model that answers.
    Reward,
}

/// What virtual tokens start from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptTuningInit {
    /// The embeddings of tokens drawn from the vocabulary with the training seed.
    #[default]
    SampleVocab,
    /// The embeddings of the tokens of `prompt_tuning_init_text`.
    Text,
    /// Numbers of the standard normal distribution.
    Random,
}

/// Bits of a frozen base, in GGUF's formats or mistral.rs' own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// 4.5 bits a weight.
    #[default]
    Q4_0,
    /// 5.5 bits a weight.
    Q5_0,
    /// 8.5 bits a weight.
    Q8_0,
    /// 4 bits and two numbers for 64 weights: half-quadratic quantisation (Badri and Shaji 2023), by
    /// mistral.rs.
    Hqq4,
    /// The same with 8 bits.
    Hqq8,
}

/// What a low-rank adapter starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitLoraWeights {
    /// A uniform, B zero.
    #[default]
    Default,
    /// A normal, B zero.
    Gaussian,
    /// The weight's largest singular values, taken out of the base (`PiSSA`, Meng et al. 2024).
    Pissa,
}

/// What turns gradients into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// `AdamW` with moments in f32.
    #[default]
    #[serde(alias = "adamw_torch")]
    Adamw,
    /// `AdamW` with moments in blocks of 8 bits (Dettmers et al. 2022).
    #[serde(alias = "adamw_bnb_8bit")]
    #[serde(rename = "adamw_8bit")]
    Adamw8bit,
}

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// Half a cosine down to 0.
    #[default]
    Cosine,
    /// A straight line down to 0.
    Linear,
    /// Not at all.
    Constant,
}

/// Text embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EmbedderSource {
    /// An embedder that `bench models list` names.
    Catalog(String),
    /// A folder with `model.onnx` and `tokenizer.json`, used as all-MiniLM-L6-v2 is.
    Path(String),
    /// The same with the settings that its model was trained with.
    Onnx(OnnxEmbedder),
    /// A model behind an OpenAI-compatible endpoint.
    Endpoint(EndpointEmbedder),
    /// Words hashed into a vector: no model at all, for tests.
    Hashing,
}

impl Default for EmbedderSource {
    fn default() -> Self {
        Self::Catalog("minilm".into())
    }
}

/// An embedding model in ONNX format, from a folder or from the model hub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnnxEmbedder {
    /// A folder with `model.onnx` and `tokenizer.json`. Give this or `hub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A repository of the model hub with an export to ONNX, `owner/name` or `owner/name@revision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// Tokens read per text, special ones included.
    #[serde(default = "defaults::embedder_length")]
    pub max_length: u32,
    /// How token vectors become one. The wrong choice raises no error and loses much quality.
    #[serde(default)]
    pub pooling: Pooling,
    /// Put before a question, for example `query: `.
    #[serde(default)]
    pub query_prefix: String,
    /// Put before a passage, for example `passage: `.
    #[serde(default)]
    pub passage_prefix: String,
}

/// How token vectors become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean: the sentence-transformers and E5 families.
    #[default]
    Mean,
    /// The first one: the BGE and Arctic families.
    Cls,
}

/// An embedding model behind an OpenAI-compatible endpoint. Its vectors are remembered on disk as
/// those of local models are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointEmbedder {
    /// Up to and including `/v1`.
    pub base_url: String,
    /// The model name the endpoint knows.
    pub model: String,
    /// Numbers per vector, as the model's card says.
    pub dimension: u32,
    /// Tokens that the model reads per text; counted as three characters each, because the
    /// endpoint's tokenizer is not at hand.
    #[serde(default = "defaults::endpoint_length")]
    pub max_length: u32,
    /// Put before a question.
    #[serde(default)]
    pub query_prefix: String,
    /// Put before a passage.
    #[serde(default)]
    pub passage_prefix: String,
    /// The environment variable that holds the key; absent for endpoints that need none.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// Seconds before a request is given up.
    #[serde(default = "defaults::timeout_seconds")]
    pub timeout_seconds: u64,
    /// Times a request is tried again after a passing failure.
    #[serde(default = "defaults::max_retries")]
    pub max_retries: u32,
}

/// An LLM judge or a jury of several, by a rubric. A judge that cannot be had is an error; no other
/// model takes its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Judge {
    /// A name from `models`; another model than the arms'. Give this or `judges`.
    #[serde(default)]
    pub model: String,
    /// A jury: several names from `models`.
    #[serde(default)]
    pub judges: Vec<String>,
    /// How a jury's verdicts become one.
    #[serde(default)]
    pub combine: Combine,
    /// Whether answers are graded one by one or compared two by two.
    #[serde(default)]
    pub mode: JudgeMode,
    /// The rubric (text or `file://`): what each grade means, or what makes an answer better.
    pub rubric: String,
    /// The grades, worst to best.
    #[serde(default = "defaults::grades")]
    pub grades: Vec<u32>,
    /// Compare only this many pairs of arms on each sample, drawn with `run.seed`; all when absent.
    #[serde(default)]
    pub pairs_per_sample: Option<u32>,
    /// Times each answer is judged; more than once shows how far the judge agrees with itself and
    /// needs a `temperature`. The verdict is the mean.
    #[serde(default = "defaults::once")]
    pub repeats: NonZeroU32,
    /// Sampling temperature of the judge; 0 is greedy.
    #[serde(default)]
    pub temperature: f64,
    /// Judge only this many samples per set, drawn with `run.seed`; all when absent.
    #[serde(default)]
    pub sample: Option<u32>,
    /// The eval sets to judge; all when absent.
    #[serde(default)]
    pub on: Option<Vec<String>>,
    /// Grades that people gave to answers of this run (JSON Lines: `set`, `arm`, `sample`, `grade`,
    /// optional `grader`, `answer`), on a random subset. The report then shows how far the judge
    /// can be trusted, and corrected scores.
    #[serde(default)]
    pub labels: Option<String>,
    /// The judge's verdicts against people's, counted on other samples; corrects the judge's share
    /// of right answers where `labels` do not. A grade in the upper half of the scale is right.
    #[serde(default)]
    pub confusion: Option<Confusion>,
    /// Least share of grades on which judge and people must agree (0 to 1): the lower end of the 95 %
    /// interval of that share must reach it. Below it, or where it is not known, the judge's scores
    /// are shown and never decide.
    #[serde(default)]
    pub min_judge_agreement: Option<f64>,
    /// Accept a judge that is one of the arms' models. Every table then says so.
    #[serde(default)]
    pub allow_self_judging: bool,
    /// What the judge is shown of a trial, the answer among it. `passages` are those that stood in the
    /// arm's prompt: an answer to a prompt without any is unscored.
    #[serde(default = "defaults::shows", skip_serializing_if = "shows_the_usual")]
    pub shows: Vec<Shown>,
    /// Further criteria, each with a rubric and a score of its own: `faithfulness` fills the column
    /// `judge:faithfulness`. They are shown and never decide; that is `rubric`'s.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub criteria: BTreeMap<String, Criterion>,
}

/// One thing that a judge grades answers by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// The rubric (text or `file://`): what each grade means.
    pub rubric: String,
    /// The grades, worst to best; the judge's when absent.
    #[serde(default)]
    pub grades: Option<Vec<u32>>,
    /// What the judge is shown of a trial, as under `judge`. Faithfulness wants
    /// `[question, passages, answer]`, answer relevance `[question, answer]`.
    #[serde(default = "defaults::shows")]
    pub shows: Vec<Shown>,
}

/// A part of a trial that a judge may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// What was asked.
    Question,
    /// The answers that are right.
    Reference,
    /// The passages that stood in the arm's prompt, in its order.
    Passages,
    /// The answer to judge.
    Answer,
}

fn shows_the_usual(shows: &Vec<Shown>) -> bool {
    *shows == defaults::shows()
}

impl Judge {
    /// The judge as it grades by one of its criteria.
    #[must_use]
    pub fn by(&self, criterion: &Criterion) -> Self {
        Self {
            rubric: criterion.rubric.clone(),
            grades: criterion.grades.clone().unwrap_or_else(|| self.grades.clone()),
            shows: criterion.shows.clone(),
            criteria: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// The name under which the verdicts by a criterion are recorded.
    pub fn column(criterion: &str) -> String {
        format!("judge:{criterion}")
    }

    /// Whether it sees what experiments without `shows` show it: question, reference and answer.
    pub fn shows_the_usual(&self) -> bool {
        shows_the_usual(&self.shows)
    }

    /// Whether it grades answers by the passages that they were given.
    pub fn needs_passages(&self) -> bool {
        self.shows.contains(&Shown::Passages)
    }

    /// The judges' names in `models`: one, or the jury.
    pub fn names(&self) -> Vec<&str> {
        if self.judges.is_empty() {
            vec![self.model.as_str()]
        } else {
            self.judges.iter().map(String::as_str).collect()
        }
    }

    /// A grade's place between the worst and the best, 0 to 1.
    pub fn place(&self, grade: f64) -> f64 {
        match (self.grades.first(), self.grades.last()) {
            (Some(&worst), Some(&best)) if best > worst => {
                (grade - f64::from(worst)) / f64::from(best - worst)
            }
            _ => grade,
        }
    }

    /// The grade nearest to a place between the worst and the best; the worse of two.
    pub fn nearest(&self, place: f64) -> Option<u32> {
        let distance = |grade: u32| (self.place(f64::from(grade)) - place).abs();
        self.grades.iter().copied().min_by(|&a, &b| distance(a).total_cmp(&distance(b)))
    }
}

/// How a jury's verdicts become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// Their mean.
    #[default]
    Mean,
    /// The grade or preference that most of them give; the median where no grade has most, a tie
    /// where no preference has.
    Majority,
}

/// What a judge is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JudgeMode {
    /// A grade for each answer by itself.
    #[default]
    Rubric,
    /// Which of two arms' answers is better, in both orders.
    Pairwise,
}

/// A judge's verdicts beside people's, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Confusion {
    /// Right, and the judge says so.
    pub true_positive: u32,
    /// Right, and the judge says wrong.
    pub false_negative: u32,
    /// Wrong, and the judge says so.
    pub true_negative: u32,
    /// Wrong, and the judge says right.
    pub false_positive: u32,
}

impl Confusion {
    /// The share of verdicts on which judge and people agree; `None` without any.
    pub fn agreement(&self) -> Option<f64> {
        let right = f64::from(self.true_positive) + f64::from(self.true_negative);
        let wrong = f64::from(self.false_positive) + f64::from(self.false_negative);
        (right + wrong > 0.0).then(|| right / (right + wrong))
    }
}

/// Generation settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Generate {
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus sampling mass, when sampling.
    pub top_p: Option<f64>,
    /// Upper bound on generated tokens.
    pub max_tokens: u32,
    /// Sampling seed.
    pub seed: u64,
    /// Generation ends before any of these.
    pub stop: Vec<String>,
}

impl Default for Generate {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: None, max_tokens: 256, seed: 0, stop: Vec::new() }
    }
}

/// How arms are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compare {
    /// The arm that differences are taken to. Absent: the first one.
    #[serde(default)]
    pub baseline: String,
    /// Rate of false differences accepted over the whole family of comparisons.
    #[serde(default = "defaults::alpha")]
    pub alpha: f64,
    /// Correction for several comparisons.
    #[serde(default)]
    pub correction: Correction,
    /// Differences below this do not matter (0 to 1): the bound of the equivalence test.
    #[serde(default = "defaults::margin")]
    pub margin: f64,
    /// What the winner must satisfy besides quality.
    #[serde(default)]
    pub constraints: Constraints,
    /// What a unit of the other figures is worth in score. With weights, arms are compared by their
    /// score less their costs, and none is called equivalent.
    #[serde(default, skip_serializing_if = "Weights::is_empty")]
    pub weights: Weights,
}

impl Default for Compare {
    fn default() -> Self {
        Self {
            baseline: String::new(),
            alpha: defaults::alpha(),
            correction: Correction::default(),
            margin: defaults::margin(),
            constraints: Constraints::default(),
            weights: Weights::default(),
        }
    }
}

/// Correction for several comparisons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// Holm's step-down procedure (1979).
    #[default]
    Holm,
    /// None.
    None,
}

/// What the winner must satisfy besides quality.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Constraints {
    /// Largest cost of 1,000 answers in US dollars.
    pub max_cost_per_1000: Option<f64>,
    /// Largest 95th-percentile latency in milliseconds.
    pub max_p95_latency_ms: Option<f64>,
    /// Least score: the lower end of the arm's interval must reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_quality: Option<f64>,
    /// Largest cost of training an arm in US dollars; what is not trained costs nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_training_cost: Option<f64>,
    /// Least share of the base model's score that a fine-tuned arm keeps on sets with
    /// `retention: true` and the same `train`; an arm that is not fine-tuned keeps all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_retention: Option<f64>,
}

/// What a unit of a figure is worth, in units of the score (0 to 1): `cost_per_1000: 0.01` gives up
/// one point of score for a dollar less per 1,000 answers. Score itself weighs 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Of a US dollar per 1,000 answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_per_1000: Option<f64>,
    /// Of a millisecond of the 95th percentile of latency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95_latency_ms: Option<f64>,
    /// Of a US dollar of training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training_cost: Option<f64>,
    /// Of keeping all of the base model's general skills, measured as for `min_retention`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<f64>,
}

impl Weights {
    /// Whether nothing but the score counts.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How the run is carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Run {
    /// Trials in flight at once.
    pub max_concurrency: u32,
    /// Repeats per sample; they differ in the sampling seed.
    pub epochs: NonZeroU32,
    /// Seeds the drawing of samples and examples.
    pub seed: u64,
    /// When to stop asking; all samples are asked when absent.
    pub stop: Option<StopWhen>,
    /// Where reports are written.
    pub reports: String,
    /// Where records, adapters and indexes are kept.
    pub runs: String,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            max_concurrency: 8,
            epochs: NonZeroU32::MIN,
            seed: 0,
            stop: None,
            reports: "reports".into(),
            runs: "runs".into(),
        }
    }
}

/// When a set has told enough. Samples are asked in random order, in rounds; after each round every
/// arm's scores on the deciding metric go into confidence sequences, which hold at every look, and a
/// set whose condition is met is asked no further. The decision then rests on the same sequences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopWhen {
    /// Stop when every arm's mean is known to within this.
    pub half_width: Option<f64>,
    /// Stop when the comparison is decided: one arm is surely better than every other, or every
    /// pair is surely different or surely within the margin.
    pub decided: bool,
    /// Samples of the first round; each later round is half as large again as all before it.
    pub first: u32,
}

impl Default for StopWhen {
    fn default() -> Self {
        Self { half_width: None, decided: false, first: 20 }
    }
}

/// A condition on the result, on an interval's bound rather than on a mean. A gate that nothing could
/// be measured for has failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// The eval set; all when absent.
    #[serde(default)]
    pub set: Option<String>,
    /// A scorer's name, or one of `latency_p50_ms`, `latency_p95_ms`, `cost_per_1000_usd`,
    /// `tokens_in`, `tokens_out`, `failed` (share of the trials), `training_cost_usd`, `retention`
    /// (share of the base model's score that is left on sets with `retention: true`) and
    /// `judge_agreement` (share of the answers on which the judge and the deciding scorer agree).
    pub metric: String,
    /// The arm.
    pub arm: String,
    /// Compare with this arm: the bound is of the difference. For scorers only.
    #[serde(default)]
    pub vs: Option<String>,
    /// Condition on the interval's lower bound, for example `">= 0"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci_lower: Option<String>,
    /// Condition on the interval's upper bound, for example `"<= 800"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci_upper: Option<String>,
}

/// A parsed condition on an interval's bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The number compared with.
    pub value: f64,
    /// Whether it may be met exactly.
    pub is_inclusive: bool,
    /// `>` or `>=` rather than `<` or `<=`.
    pub is_lower: bool,
}

impl Bound {
    /// Reads `>= 0`, `> 0.5`, `<= 800` or `< 0.1`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (is_lower, rest) = match text.strip_prefix('>') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('<')?),
        };
        let (is_inclusive, number) = match rest.strip_prefix('=') {
            Some(number) => (true, number),
            None => (false, rest),
        };
        let value: f64 = number.trim().parse().ok()?;
        value.is_finite().then_some(Self { value, is_inclusive, is_lower })
    }

    /// Whether a figure meets the condition.
    pub fn is_met(&self, figure: f64) -> bool {
        let [low, high] = if self.is_lower { [self.value, figure] } else { [figure, self.value] };
        if self.is_inclusive { low <= high } else { low < high }
    }
}

impl Gate {
    /// Metrics that are no scorers.
    pub const FIGURES: [&'static str; 9] = [
        "latency_p50_ms",
        "latency_p95_ms",
        "cost_per_1000_usd",
        "tokens_in",
        "tokens_out",
        "failed",
        "training_cost_usd",
        "retention",
        "judge_agreement",
    ];
}

/// Settings of retrieval to try on the `dev` samples, without generating anything: every
/// combination of the lists. The best is chosen on `dev` alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sweep {
    /// How passages are found.
    pub retriever: Vec<Retrieval>,
    /// How documents are cut.
    pub chunk: Vec<Chunking>,
    /// How text is read for BM25.
    pub terms: Vec<Terms>,
    /// Passages shown; the fewest that find nearly as much as the most are chosen.
    pub top_k: Vec<u32>,
    /// Rerankers; each combination is tried without one too.
    pub rerank: Vec<Rerank>,
    /// What chooses: `ndcg`, `recall`, `precision`, `hit`, `mrr` or `map` at a depth, for example
    /// `ndcg@10`.
    pub metric: String,
    /// Use only this many dev samples per set, drawn with `run.seed`.
    pub limit: Option<u32>,
    /// What the best setting is compared with on the samples of `path`: plain BM25 over whole
    /// documents when absent.
    pub baseline: Option<Rag>,
}

impl Default for Sweep {
    fn default() -> Self {
        let rrf = Retrieval::Rrf { k: defaults::rrf_k() };
        let bm25 = Retrieval::Bm25 { k1: defaults::bm25_k1(), b: defaults::bm25_b() };
        Self {
            retriever: vec![Retrieval::Dense {}, bm25, Retrieval::default(), rrf],
            chunk: vec![Chunking::default()],
            terms: vec![Terms::default()],
            top_k: vec![1, 3, 5, 10],
            rerank: Vec::new(),
            metric: "ndcg@10".into(),
            limit: None,
            baseline: None,
        }
    }
}

impl Sweep {
    /// The metric's name and depth.
    pub fn metric(&self) -> Option<(&str, usize)> {
        let (name, depth) = self.metric.split_once('@')?;
        let depth = depth.parse().ok().filter(|depth| (1..=100).contains(depth))?;
        let known = ["ndcg", "recall", "precision", "hit", "mrr", "map"].contains(&name);
        known.then_some((name, depth))
    }

    /// What the best setting is compared with: BM25 as textbooks have it, without stems and stop
    /// words, over whole documents, unless the experiment says otherwise.
    pub fn baseline(&self) -> Rag {
        self.baseline.clone().unwrap_or_else(|| Rag {
            retriever: Retrieval::Bm25 { k1: 1.2, b: 0.75 },
            chunk: Some(Chunking { by: ChunkBy::Document, size: 0, overlap: 0 }),
            terms: Terms { stem: false, stop_words: false },
            ..Rag::default()
        })
    }
}

mod defaults {
    use std::num::NonZeroU32;

    pub(super) fn reward() -> super::Finetune {
        super::Finetune { objective: super::Objective::Reward, ..super::Finetune::default() }
    }

    pub(super) fn temperature() -> f64 {
        1.0
    }
    pub(super) fn candidates() -> u32 {
        30
    }
    pub(super) fn embedder_length() -> u32 {
        256
    }
    pub(super) fn endpoint_length() -> u32 {
        512
    }
    pub(super) fn qdrant_timeout() -> u64 {
        60
    }
    pub(super) fn hnsw_m() -> u32 {
        16
    }
    pub(super) fn hnsw_ef_construct() -> u32 {
        100
    }
    pub(super) fn hnsw_ef() -> u32 {
        128
    }
    pub(super) fn yes() -> bool {
        true
    }
    pub(super) fn timeout_seconds() -> u64 {
        120
    }
    pub(super) fn max_retries() -> u32 {
        4
    }
    pub(super) fn bm25_k1() -> f64 {
        0.9
    }
    pub(super) fn bm25_b() -> f64 {
        0.4
    }
    pub(super) fn dense_weight() -> f64 {
        0.5
    }
    pub(super) fn distractors() -> u32 {
        3
    }
    pub(super) fn rrf_k() -> f64 {
        10.0
    }
    pub(super) fn once() -> NonZeroU32 {
        NonZeroU32::MIN
    }
    pub(super) fn shows() -> Vec<super::Shown> {
        vec![super::Shown::Question, super::Shown::Reference, super::Shown::Answer]
    }
    pub(super) fn grades() -> Vec<u32> {
        vec![1, 2, 3, 4, 5]
    }
    pub(super) fn alpha() -> f64 {
        0.05
    }
    pub(super) fn margin() -> f64 {
        0.02
    }
}

/// Reads nothing, a text or a list of texts.
fn texts<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Texts;
    impl<'de> serde::de::Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_unit<E>(self) -> Result<Vec<String>, E> {
            Ok(Vec::new())
        }

        fn visit_str<E>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut list: A,
        ) -> Result<Vec<String>, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }
    deserializer.deserialize_any(Texts)
}

/// A text, or a list of texts.
fn one_or_more(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let text = || schemars::json_schema!({ "type": "string" });
    schemars::json_schema!({ "anyOf": [text(), { "type": "array", "items": text() }] })
}

/// The JSON Schema of an experiment file, for editors.
pub fn schema() -> serde_json::Value {
    serde_json::to_value(schemars::schema_for!(Experiment)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
