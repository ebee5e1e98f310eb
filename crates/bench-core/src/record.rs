//! What every trial leaves behind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::chat::Message;

/// One trial, whole: everything a table or a reader of the report asks about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Which trial.
    pub trial: TrialId,
    /// Content key of the answer: model, adapter, prompt, parameters and seed.
    pub key: String,
    /// What was asked, as in the eval set.
    pub input: String,
    /// The answers that are right, the reference first.
    pub references: Vec<String>,
    /// The label of samples that are not independent of this one.
    pub cluster: Option<String>,
    /// Meta fields that tables are sliced by.
    pub slices: BTreeMap<String, String>,
    /// The conversation sent.
    pub prompt: Vec<Message>,
    /// What was retrieved, best first; empty for arms without retrieval.
    pub retrieved: Vec<Retrieved>,
    /// Gold documents of the sample.
    pub gold: Vec<String>,
    /// How relevant documents are, where people graded them; `gold` are those above 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub qrels: BTreeMap<String, u32>,
    /// The answer, or why there is none.
    pub outcome: Outcome,
    /// One verdict per scorer, by scorer name. A judge's is `judge`, each juror's `judge/NAME`, each
    /// repeat's `judge#K` (from 1); a criterion's is `judge:CRITERION`, with jurors and repeats after it
    /// in the same way; people's is `human` and each person's `human/NAME`.
    pub verdicts: BTreeMap<String, Verdict>,
    /// What pairwise judges said of this answer beside other arms'; held by the first arm of a pair.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<PairVerdict>,
    /// The calls behind the answer, where it took more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallRecord>,
    /// What the parts of the prompt take, where tokens can be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<TokenBudget>,
    /// True when the sample says that the corpus does not hold its answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unanswerable: bool,
}

/// Tokens per part of a prompt, counted by the arm's own tokenizer: what each part adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBudget {
    /// System turn, the template's words and the model's own marks between turns.
    pub instructions: u32,
    /// Worked examples.
    pub examples: u32,
    /// Passages.
    pub context: u32,
    /// The question.
    pub question: u32,
    /// Kept free for the answer.
    pub answer: u32,
}

/// One of several calls behind an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallRecord {
    /// What for.
    pub kind: CallKind,
    /// The conversation sent, where it is not the record's prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompt: Vec<Message>,
    /// The text that came back, or the error.
    pub text: String,
    /// Tokens in the prompt.
    pub tokens_in: u32,
    /// Tokens generated.
    pub tokens_out: u32,
    /// Milliseconds of generation.
    pub latency_ms: f64,
    /// True when there is no answer and `text` says why, or when the answer could not be used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

/// What a call was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// One of the answers that are voted on.
    Sample,
    /// Rewriting the question before a search.
    Rewrite,
    /// Asking what else must be looked up.
    FollowUp,
    /// Putting passages in order.
    Rerank,
    /// A reward model's word on one of the answers; its text is the reward.
    Reward,
}

/// One judge's word on two arms' answers to a sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairVerdict {
    /// The arm whose answer stood second.
    pub against: String,
    /// The judge, by its name in the experiment.
    pub judge: String,
    /// Which answer it prefers.
    pub preference: Preference,
}

/// Which of two answers a judge prefers when asked in both orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// The first, in both orders.
    First,
    /// The second, in both orders.
    Second,
    /// Neither.
    Tie {
        /// False when the two orders disagreed.
        consistent: bool,
    },
    /// The judge could not decide.
    Unscored {
        /// Why.
        reason: String,
    },
}

impl Preference {
    /// What the first answer gets: 1, 0, or one half for a tie; `None` where the judge could not
    /// decide.
    pub fn value(&self) -> Option<f64> {
        match self {
            Self::First => Some(1.0),
            Self::Second => Some(0.0),
            Self::Tie { .. } => Some(0.5),
            Self::Unscored { .. } => None,
        }
    }
}

/// Identifies a trial within a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrialId {
    /// The eval set.
    pub set: String,
    /// The arm.
    pub arm: String,
    /// The sample.
    pub sample: String,
    /// Counted from 0; repeats differ in the sampling seed.
    pub repeat: u32,
    /// The training seed; 0 for arms that are not trained.
    pub train_seed: u64,
}

/// A retrieved passage, as a record keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrieved {
    /// The chunk.
    pub id: String,
    /// The document it was cut from.
    pub document: String,
    /// The retriever's score.
    pub score: f64,
    /// True when it stood in the prompt; false when the budget left it out.
    pub in_prompt: bool,
    /// The number it carries in the prompt, from 1, where it stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
}

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There is an answer, possibly empty.
    Answered(Answer),
    /// There is none.
    Failed {
        /// The chain of causes, in words.
        error: String,
    },
}

/// An answer and what it took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Tokens in the prompt; 0 where nobody counted them (or a classifier read no prompt), and then
    /// those generated are unknown too.
    pub tokens_in: u32,
    /// Tokens generated.
    pub tokens_out: u32,
    /// Milliseconds to the first token, when the backend streams.
    pub first_token_ms: Option<f64>,
    /// Milliseconds of generation.
    pub latency_ms: f64,
    /// Milliseconds of query embedding and search; 0 without retrieval.
    pub retrieval_ms: f64,
    /// Why generation ended.
    pub finish: String,
    /// US dollars by the experiment's price list; `None` where it names no price, or the tokens that
    /// it prices are unknown.
    pub cost_usd: Option<f64>,
    /// All that was generated, where `text` is only the final answer in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_text: Option<String>,
}

/// What a scorer says of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A figure; 1 is best unless the scorer's documentation says otherwise.
    Scored {
        /// The figure.
        value: f64,
        /// The scorer's grounds, where it gives them (a judge does).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// What of the answer is right, by the name of the part, each between 0 and 1; empty for
        /// scorers that tell no parts apart, and in records of earlier versions.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        parts: BTreeMap<String, f64>,
    },
    /// The scorer could not decide. Excluded from means and counted beside them.
    Unscored {
        /// Why.
        reason: String,
    },
}

impl Verdict {
    /// A figure without grounds.
    pub fn scored(value: f64) -> Self {
        Self::explained(value, None)
    }

    /// A figure with the scorer's grounds, where it gives them.
    pub fn explained(value: f64, reason: Option<String>) -> Self {
        Self::Scored { value, reason, parts: BTreeMap::new() }
    }

    /// The same, telling what of the answer is right; an unscored verdict stays as it is.
    #[must_use]
    pub fn with_parts(self, parts: BTreeMap<String, f64>) -> Self {
        match self {
            Self::Scored { value, reason, .. } => Self::Scored { value, reason, parts },
            unscored @ Self::Unscored { .. } => unscored,
        }
    }

    /// No figure, and why.
    pub fn unscored(reason: impl Into<String>) -> Self {
        Self::Unscored { reason: reason.into() }
    }

    /// The figure, if there is one.
    pub fn value(&self) -> Option<f64> {
        match self {
            Self::Scored { value, .. } => Some(*value),
            Self::Unscored { .. } => None,
        }
    }

    /// What of the answer is right, by part; empty where no parts are told.
    pub fn parts(&self) -> &BTreeMap<String, f64> {
        static NONE: BTreeMap<String, f64> = BTreeMap::new();
        match self {
            Self::Scored { parts, .. } => parts,
            Self::Unscored { .. } => &NONE,
        }
    }
}

impl Record {
    /// The answer, if there is one.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Answered(answer) => Some(answer),
            Outcome::Failed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_without_parts_reads_and_writes_as_it_always_did() {
        let old = r#"{"scored":{"value":0.5,"reason":"so"}}"#;
        let verdict: Verdict = serde_json::from_str(old).unwrap();
        assert_eq!(verdict, Verdict::explained(0.5, Some("so".into())));
        assert_eq!(serde_json::to_string(&verdict).unwrap(), old);
        let parts = BTreeMap::from([("valid".to_owned(), 1.0)]);
        let verdict = verdict.with_parts(parts.clone());
        let text = serde_json::to_string(&verdict).unwrap();
        assert_eq!(text, r#"{"scored":{"value":0.5,"reason":"so","parts":{"valid":1.0}}}"#);
        assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap().parts(), &parts);
        let unscored = Verdict::unscored("why").with_parts(parts);
        assert_eq!((unscored.parts().len(), unscored.value()), (0, None));
    }
}
