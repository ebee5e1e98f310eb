//! Intervals, paired tests, power and the decision. Pure: no file, clock, environment or socket, and
//! no randomness but from the seed it is given.
//!
//! [`analyse`] takes all arms of a run on one scorer to means and corrected paired comparisons,
//! [`decide`] takes those to a winner or to "undecided, about N more samples".

pub mod agreement;
mod bootstrap;
pub mod bradley_terry;
pub mod classification;
pub mod corrected;
pub mod decision;
mod distribution;
pub mod factorial;
pub mod family;
pub mod interval;
pub mod paired;
pub mod power;
pub mod recipes;
pub mod sequential;
pub mod variance;

pub use agreement::{
    Scale, Weighting, cohens_kappa, cohens_kappa_clustered, krippendorff_alpha,
    krippendorff_alpha_clustered, percent_agreement,
};
pub use bootstrap::{Coefficient, acceleration, bca, expanded_critical};
pub use bradley_terry::{BradleyTerryError, PairCount, Strength, bradley_terry};
pub use classification::{LabelScore, Labelled, MacroF1, label_scores, macro_f1};
pub use corrected::{
    Confusion, Corrected, LEAST_GRADED_LABELS, LEAST_LABELS, NoCorrection, least_labels, ppi_mean,
    rogan_gladen,
};
pub use decision::{
    ArmDecision, ArmFigures, Constraint, Decision, DecisionError, Figure, Limit, Utility, decide,
    decide_recipes,
};
pub use factorial::{Cells, Factorial, factorial};
pub use family::{ArmMean, ArmScores, Family, FamilyError, PairResult, Pairs, analyse};
pub use interval::{Clusters, Estimate, Method, Options, estimate, quantile_interval, wilson};
pub use paired::{Comparison, Test, Verdict, compare, holm, mcnemar_exact, tost};
pub use power::{
    Spread, minimum_detectable_difference, samples_for_difference, samples_for_equivalence,
};
pub use recipes::{Crossed, Part, Recipe, analyse_recipes};
pub use sequential::{ConfidenceSequence, StopRule};
pub use variance::{Component, Components, SeedComparison, Source, compare_seeds, components};
