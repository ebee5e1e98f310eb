//! Intervals, paired tests, power and the decision. Pure: no file, clock, environment or socket, and
//! no randomness but from the seed it is given.
//!
//! [`analyse`] takes all arms of a run on one scorer to means and corrected paired comparisons,
//! [`decide`] takes those to a winner or to "undecided, about N more samples".

mod bootstrap;
pub mod decision;
mod distribution;
pub mod family;
pub mod interval;
pub mod paired;
pub mod power;

pub use bootstrap::{acceleration, bca, expanded_critical};
pub use decision::{
    ArmDecision, ArmFigures, Constraint, Decision, DecisionError, Figure, Limit, Utility, decide,
};
pub use family::{ArmMean, ArmScores, Family, FamilyError, PairResult, Pairs, analyse};
pub use interval::{Clusters, Estimate, Method, Options, estimate, wilson};
pub use paired::{Comparison, Test, Verdict, compare, holm, mcnemar_exact, tost};
pub use power::{
    Spread, minimum_detectable_difference, samples_for_difference, samples_for_equivalence,
};
