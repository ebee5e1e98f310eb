//! A judge's verdicts beside people's: what a report card is made from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::manifest::{JudgingEntry, Machine, ModelEntry};
use crate::spec::Calibration;

/// Why a judge that grades answers by their passages gives no grade where there were none. That is
/// no failure: nothing is asked, and asking again changes nothing.
pub const NO_PASSAGES: &str = "the prompt held no passages";

/// One judge's work on samples, labelled or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgedItems {
    /// The judge's name.
    pub judge: String,
    /// One per sample, or per pair of answers to it.
    pub items: Vec<JudgedItem>,
    /// Per pair of answers that differ in length and of which one was preferred: whether the longer.
    pub longer: Vec<bool>,
    /// What it took.
    pub took: JudgingEntry,
    /// US dollars in all, where the judge has a price.
    pub cost_usd: Option<f64>,
    /// True when two answers were compared: values are then 1 for the first, 0 for the second and
    /// one half for a tie. Else they are grades.
    pub is_pairwise: bool,
}

/// What a judge and people say of one sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgedItem {
    /// The sample, for the reader.
    pub id: String,
    /// The judge's value per repeat; `None` where its reply could not be read.
    pub judge: Vec<Option<f64>>,
    /// What people say together.
    pub label: Option<f64>,
    /// What each person says, person by person in the same order for all samples.
    pub people: Vec<Option<f64>>,
    /// Whether both orders of a comparison gave the same, per repeat that could be read.
    pub consistent: Vec<bool>,
}

/// All that a measurement of judges left behind: its report is made from this alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Version of this layout.
    pub format: u32,
    /// Version of the program that asked the judges.
    pub program: String,
    /// The file as it was understood.
    pub calibration: Calibration,
    /// Digest of each data and text file, by the path as written.
    pub files: BTreeMap<String, String>,
    /// The judges' models, by name.
    pub models: BTreeMap<String, ModelEntry>,
    /// Where it ran.
    pub machine: Machine,
    /// One per judge, then one of all where there are several.
    pub judges: Vec<JudgedItems>,
    /// Samples that have not been judged, because the run was stopped.
    pub missing: u64,
}

impl Measured {
    /// The layout this program writes.
    pub const FORMAT: u32 = 1;
}
