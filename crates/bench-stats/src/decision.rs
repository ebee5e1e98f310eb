//! The decision: which arm to use, how sure that is, and why the others lost.
//!
//! An arm wins only if, after Holm's correction, it is better than every other arm within the
//! constraints, or equivalent to it within the margin and cheaper. Otherwise there is no winner but
//! the number of samples that would make one. The probability of being best is told beside the
//! decision and never makes one: the best of six equal arms has it, too. From fewer than
//! [`FEWEST_UNITS`] samples neither that probability nor a number of further samples is told.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::Units,
    family::{ArmScores, Family, FamilyError, PairResult, check},
    interval::{Clusters, Options},
    paired::{Comparison, Verdict, holm},
    recipes::Recipe,
};

/// Independent samples (clusters, where samples share one) from which on a probability of being best
/// and a number of further samples are told. `n` units have `C(2n - 1, n)` different resamples (Hall
/// 1992, The Bootstrap and Edgeworth Expansion, appendix I): 3 for two, 126 for five, 92,378 for ten.
/// With fewer than ten, 10,000 draws repeat few patterns, and shares of them are no probabilities.
pub const FEWEST_UNITS: usize = 10;

/// What an arm costs, as measured. Exact figures: their own uncertainty is not in the decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmFigures {
    /// The arm's name.
    pub arm: String,
    /// Money per 1,000 answers.
    pub cost_per_1000: Option<f64>,
    /// 95th percentile of latency, in milliseconds.
    pub p95_latency_ms: Option<f64>,
    /// Money spent on training.
    pub training_cost: Option<f64>,
    /// Share of general skills kept, from 0 to 1.
    pub retention: Option<f64>,
}

/// A figure that an arm is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// The arm's mean score.
    Quality,
    /// See [`ArmFigures::cost_per_1000`].
    CostPer1000,
    /// See [`ArmFigures::p95_latency_ms`].
    P95LatencyMs,
    /// See [`ArmFigures::training_cost`].
    TrainingCost,
    /// See [`ArmFigures::retention`].
    Retention,
}

impl Figure {
    /// The figure in words.
    pub fn words(self) -> &'static str {
        match self {
            Figure::Quality => "quality",
            Figure::CostPer1000 => "cost per 1,000",
            Figure::P95LatencyMs => "p95 latency in ms",
            Figure::TrainingCost => "training cost",
            Figure::Retention => "retention",
        }
    }

    fn of(self, figures: &ArmFigures) -> Option<f64> {
        match self {
            Figure::Quality => None,
            Figure::CostPer1000 => figures.cost_per_1000,
            Figure::P95LatencyMs => figures.p95_latency_ms,
            Figure::TrainingCost => figures.training_cost,
            Figure::Retention => figures.retention,
        }
    }

    /// Whether less of it is better.
    fn is_cost(self) -> bool {
        matches!(self, Figure::CostPer1000 | Figure::P95LatencyMs | Figure::TrainingCost)
    }
}

/// A limit that an arm must keep to be eligible.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Constraint {
    /// The figure that is limited.
    pub figure: Figure,
    /// The limit.
    pub limit: Limit,
}

/// A limit from above or below.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The figure may not exceed this. For quality, the lower end of the interval may not.
    AtMost(f64),
    /// The figure must reach this. For quality, the lower end of the interval must.
    AtLeast(f64),
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Utility {
    /// Score that one unit of a figure is worth: a cost takes it off, retention adds it. Quality
    /// itself weighs 1. With weights, arms are compared by score less costs.
    pub weights: BTreeMap<Figure, f64>,
    /// Limits; an arm that breaks one cannot win.
    pub constraints: Vec<Constraint>,
    /// Among equivalent arms, the first of these figures that was measured for both and differs decides.
    pub prefer: Vec<Figure>,
}

impl Default for Utility {
    fn default() -> Self {
        Utility {
            weights: BTreeMap::new(),
            constraints: Vec::new(),
            prefer: vec![Figure::CostPer1000, Figure::P95LatencyMs, Figure::TrainingCost],
        }
    }
}

/// The decision of a run on its main scorer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The arm to use, if the statistics carry one.
    pub winner: Option<String>,
    /// The decision in one sentence.
    pub reason: String,
    /// Further samples after which an undecided run is likely decided; `None` when it is decided,
    /// when more samples would not decide it, or with fewer than [`FEWEST_UNITS`] samples.
    pub more_samples: Option<usize>,
    /// P(the arm is best) among the eligible arms, by joint paired bootstrap; ties are shared. Empty
    /// with fewer than [`FEWEST_UNITS`] joint samples.
    pub probability_best: BTreeMap<String, f64>,
    /// Samples behind `probability_best`: those scored in every eligible arm.
    pub joint_samples: usize,
    /// A sentence for each arm, in the order given.
    pub arms: Vec<ArmDecision>,
}

/// What became of one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmDecision {
    /// The arm's name.
    pub arm: String,
    /// Whether it kept all constraints and has scores.
    pub eligible: bool,
    /// Why it won, lost or remains open.
    pub sentence: String,
}

/// A decision that cannot be prepared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecisionError {
    /// The scores do not fit together.
    #[error(transparent)]
    Scores(#[from] FamilyError),
    /// The utility uses a figure that the run does not have.
    #[error("arm `{arm}` has no {figure}: measure it, or take it out of the utility", figure = figure.words())]
    MissingFigure {
        /// The arm.
        arm: String,
        /// The figure that is missing.
        figure: Figure,
    },
    /// Quality is what the others are weighed against.
    #[error(
        "quality has a weight of its own: it always weighs 1, weigh the other figures against it"
    )]
    QualityWeighed,
    /// The family was not of all pairs of these arms.
    #[error("arms `{a}` and `{b}` are not in the family: analyse all pairs")]
    NotCompared {
        /// One arm.
        a: String,
        /// The other arm.
        b: String,
    },
}

/// Decides. `family` is [`crate::analyse`] of the same arms with all pairs; `figures` names each arm
/// that has any; `barred` says why this scorer may not decide (a judge under its floor), if so.
pub fn decide(
    arms: &[ArmScores],
    clusters: &Clusters,
    family: &Family,
    figures: &[ArmFigures],
    utility: &Utility,
    barred: Option<&str>,
    options: &Options,
) -> Result<Decision, DecisionError> {
    let recipes: Vec<Recipe> = arms.iter().map(Recipe::of).collect();
    decide_recipes(&recipes, clusters, family, figures, utility, barred, options)
}

/// As [`decide`], among arms that may have several training seeds. `family` is
/// [`crate::analyse_recipes`] of the same recipes. The probability of being best draws seeds as well as
/// samples: of `s` seeds it draws `s - 1` with replacement, which gives their mean the variance that it
/// has (McCarthy and Snowden 1985, Vital and Health Statistics 2:95); `s` of them would give it too
/// little. What single trainings find hard among these samples is then in both draws, so that the
/// probability is rather too modest.
pub fn decide_recipes(
    recipes: &[Recipe],
    clusters: &Clusters,
    family: &Family,
    figures: &[ArmFigures],
    utility: &Utility,
    barred: Option<&str>,
    options: &Options,
) -> Result<Decision, DecisionError> {
    let arms: &[ArmScores] = &recipes.iter().map(Recipe::mean).collect::<Vec<_>>();
    check(arms, clusters)?;
    if utility.weights.contains_key(&Figure::Quality) {
        return Err(DecisionError::QualityWeighed);
    }
    let contest =
        Contest { arms, recipes, family, figures, utility, options, unit: Unit::of(arms) };
    let mut sentences: Vec<Option<String>> =
        (0..arms.len()).map(|arm| contest.excluded(arm)).collect::<Result<_, _>>()?;
    let eligible: Vec<usize> = (0..arms.len()).filter(|&arm| sentences[arm].is_none()).collect();
    let offsets: Vec<f64> =
        (0..arms.len()).map(|arm| contest.offset(arm)).collect::<Result<_, _>>()?;
    if let Some((n, why)) = contest.too_few(&eligible, clusters) {
        let why = barred.map_or(why, str::to_owned);
        return Ok(contest.not_compared(&sentences, n, &why));
    }
    let duels = contest.duels(&eligible, &offsets)?;
    let (probability_best, joint_samples) = contest.probability_best(&eligible, &offsets, clusters);

    let carried = winner(&eligible, &duels);
    // An arm does not win because the others have no scores.
    let is_contested = arms.len() > 1
        && (eligible.len() > 1 || (0..arms.len()).all(|arm| contest.has_scores(arm)));
    let winner = carried.filter(|_| barred.is_none() && is_contested);
    let favourite = carried.or_else(|| favourite(&eligible, &duels));
    for &arm in &eligible {
        sentences[arm] = Some(match favourite {
            Some(best) if best != arm => contest.against(&duels[&(best, arm)], winner.is_some()),
            Some(_) if winner.is_some() => format!("{} wins", arms[arm].arm),
            Some(best) if eligible.iter().any(|&o| o != best && duels[&(best, o)].is_level()) => {
                format!("{} is among the best, but has not won", arms[arm].arm)
            }
            Some(_) if eligible.len() > 1 => format!("{} leads, but has not won", arms[arm].arm),
            _ => format!("{} has no other arm to be compared with", arms[arm].arm),
        });
    }
    let more_samples = favourite
        .filter(|_| carried.is_none())
        .and_then(|best| more_samples(best, &eligible, &duels));
    let reason = contest.reason(winner, favourite, &eligible, &duels, barred, more_samples);
    let eligible_arm = |arm| eligible.contains(&arm);
    let verdicts = arms.iter().zip(sentences).enumerate().map(|(i, (arm, sentence))| ArmDecision {
        arm: arm.arm.clone(),
        eligible: eligible_arm(i),
        sentence: sentence.unwrap_or_default(),
    });
    Ok(Decision {
        winner: winner.map(|arm| arms[arm].arm.clone()),
        reason,
        more_samples,
        probability_best,
        joint_samples,
        arms: verdicts.collect(),
    })
}

/// Scores from 0 to 1 are told in points of a hundred, others as they are.
#[derive(Clone, Copy)]
enum Unit {
    Points,
    Score,
}

impl Unit {
    fn of(arms: &[ArmScores]) -> Unit {
        let scores = |arm: &ArmScores| arm.scores.iter().flatten().all(|x| (0.0..=1.0).contains(x));
        if arms.iter().all(scores) { Unit::Points } else { Unit::Score }
    }

    fn number(self, x: f64) -> String {
        match self {
            // Adding zero turns -0.0 into 0.0.
            Unit::Points => format!("{:.1}", (x * 1000.0).round() / 10.0 + 0.0),
            Unit::Score => format!("{:.2}", (x * 100.0).round() / 100.0 + 0.0),
        }
    }

    fn amount(self, x: f64) -> String {
        match self {
            Unit::Points => format!("{} points", self.number(x)),
            Unit::Score => self.number(x),
        }
    }
}

/// One arm against another, said of the first.
struct Duel {
    arm: usize,
    other: usize,
    comparison: Comparison,
    /// Costs of the first arm less those of the other, in units of the score.
    handicap: f64,
    p: f64,
    verdict: Verdict,
    more_needed: Option<usize>,
    /// The figure on which the first arm is preferred, if they are equivalent.
    cheaper: Option<Figure>,
}

impl Duel {
    /// Whether the two differ by nothing at all, costs included.
    fn is_level(&self) -> bool {
        (self.comparison.difference - self.handicap).abs() < 1e-12
    }

    /// Independent samples behind the comparison.
    fn units(&self) -> usize {
        self.comparison.clusters.unwrap_or(self.comparison.n)
    }

    /// Further samples that would settle it, where there are enough to say so.
    fn advice(&self) -> Option<usize> {
        self.more_needed.filter(|_| self.units() >= FEWEST_UNITS)
    }

    fn is_won(&self) -> bool {
        match self.verdict {
            Verdict::Better => true,
            Verdict::Equivalent => self.cheaper.is_some(),
            Verdict::Worse | Verdict::Undecided => false,
        }
    }
}

type Duels = BTreeMap<(usize, usize), Duel>;

struct Contest<'a> {
    /// Means over training seeds.
    arms: &'a [ArmScores],
    recipes: &'a [Recipe],
    family: &'a Family,
    figures: &'a [ArmFigures],
    utility: &'a Utility,
    options: &'a Options,
    unit: Unit,
}

impl Contest<'_> {
    fn figure(&self, arm: usize, figure: Figure) -> Option<f64> {
        self.figures
            .iter()
            .find(|figures| figures.arm == self.arms[arm].arm)
            .and_then(|f| figure.of(f))
    }

    fn measured(&self, arm: usize, figure: Figure) -> Result<f64, DecisionError> {
        self.figure(arm, figure)
            .ok_or_else(|| DecisionError::MissingFigure { arm: self.arms[arm].arm.clone(), figure })
    }

    fn has_scores(&self, arm: usize) -> bool {
        self.arms[arm].scores.iter().flatten().count() > 1
    }

    /// Why the arm cannot win at all.
    fn excluded(&self, arm: usize) -> Result<Option<String>, DecisionError> {
        let name = &self.arms[arm].arm;
        if !self.has_scores(arm) {
            return Ok(Some(format!("{name} is out: it has fewer than two scored samples")));
        }
        for Constraint { figure, limit } in &self.utility.constraints {
            let (value, words) = match figure {
                Figure::Quality => {
                    let mean = self.family.means.iter().find(|mean| mean.arm == *name);
                    let estimate = mean.and_then(|mean| mean.estimate.as_ref());
                    (
                        estimate.map_or(f64::NEG_INFINITY, |e| e.low),
                        "lower end of the quality interval",
                    )
                }
                other => (self.measured(arm, *other)?, other.words()),
            };
            let (broken, side, bound) = match *limit {
                Limit::AtMost(bound) => (value > bound, "over", bound),
                Limit::AtLeast(bound) => (value < bound, "under", bound),
            };
            if broken {
                return Ok(Some(format!(
                    "{name} is out: its {words} is {}, {side} the limit of {}",
                    plain(value),
                    plain(bound)
                )));
            }
        }
        Ok(None)
    }

    /// Where two eligible arms share too few scored samples to be compared: how many the fewest
    /// share, and that in words.
    fn too_few(&self, eligible: &[usize], clusters: &Clusters) -> Option<(usize, String)> {
        let pairs = eligible
            .iter()
            .enumerate()
            .flat_map(move |(at, &i)| eligible[at + 1..].iter().map(move |&j| (i, j)));
        let shared = |(i, j): (usize, usize)| {
            let [a, b] = [i, j].map(|arm| &self.arms[arm]);
            let names = [&a.arm, &b.arm];
            let is_bare = |pair: &PairResult| {
                (names == [&pair.a, &pair.b] || names == [&pair.b, &pair.a])
                    && pair.comparison.is_none()
            };
            // A pair that is not in the family at all is the caller's mistake, told elsewhere.
            if !self.family.pairs.iter().any(is_bare) {
                return None;
            }
            let both = a.scores.iter().zip(&b.scores).enumerate();
            let kept: Vec<usize> = both
                .filter(|(_, (a, b))| a.is_some() && b.is_some())
                .map(|(sample, _)| sample)
                .collect();
            let units = clusters.select(&kept).sum_rows(vec![vec![1.0]; kept.len()]).len();
            Some((i, j, kept.len(), units))
        };
        let (i, j, count, units) =
            pairs.filter_map(shared).min_by_key(|&(_, _, count, units)| (units, count))?;
        let (samples, wanted) = match (count, units) {
            (0, _) => ("no scored sample".to_owned(), "two samples"),
            (1, _) => ("one scored sample".to_owned(), "two samples"),
            (_, 1) => (format!("{count} scored samples, all of one cluster"), "two clusters"),
            _ => (format!("{count} scored samples"), "two that differ"),
        };
        let [a, b] = [i, j].map(|arm| &self.arms[arm].arm);
        Some((
            count,
            format!(
                "{a} and {b} share {samples}, and a comparison takes at least {wanted}; more samples are needed"
            ),
        ))
    }

    /// The decision where arms cannot be compared. `sentences` are those of the arms that are out.
    fn not_compared(&self, sentences: &[Option<String>], n: usize, why: &str) -> Decision {
        let verdicts = self.arms.iter().zip(sentences).map(|(arm, out)| ArmDecision {
            arm: arm.arm.clone(),
            eligible: out.is_none(),
            sentence: out
                .clone()
                .unwrap_or_else(|| format!("{} has too few samples to be compared on", arm.arm)),
        });
        Decision {
            winner: None,
            reason: format!("undecided: {why}"),
            more_samples: None,
            probability_best: BTreeMap::new(),
            joint_samples: n,
            arms: verdicts.collect(),
        }
    }

    /// Why there is no arm to choose among.
    fn nobody(&self) -> String {
        let most = self.arms.iter().map(|arm| arm.scores.iter().flatten().count()).max();
        match most.unwrap_or(0) {
            0 => "no answer has a score".to_owned(),
            1 => "no arm has more than one scored sample, and a comparison takes at least two; more samples are needed".to_owned(),
            _ => "no arm keeps the constraints".to_owned(),
        }
    }

    /// What the arm's costs take off its score.
    fn offset(&self, arm: usize) -> Result<f64, DecisionError> {
        self.utility.weights.iter().try_fold(0.0, |sum, (&figure, weight)| {
            let worth = weight * self.measured(arm, figure)?;
            Ok(if figure.is_cost() { sum + worth } else { sum - worth })
        })
    }

    /// Every eligible arm against every other, both ways round.
    fn duels(&self, eligible: &[usize], offsets: &[f64]) -> Result<Duels, DecisionError> {
        let mut pairs = Vec::new();
        for (at, &i) in eligible.iter().enumerate() {
            for &j in &eligible[at + 1..] {
                pairs.push((i, j, self.comparison(i, j)?));
            }
        }
        let weighed = !self.utility.weights.is_empty();
        let p_weighed = holm(
            &pairs
                .iter()
                .map(|(i, j, c)| c.p_value_against(offsets[*i] - offsets[*j]))
                .collect::<Vec<_>>(),
        );
        let family = pairs.len();
        let mut duels = Duels::new();
        for ((i, j, comparison), p_weighed) in pairs.into_iter().zip(p_weighed) {
            let handicap = offsets[i] - offsets[j];
            let net = comparison.difference - handicap;
            let (p, verdict, more_needed) = if !weighed {
                (comparison.p_holm, comparison.verdict, comparison.more_needed)
            } else if p_weighed < self.options.alpha {
                (p_weighed, if net > 0.0 { Verdict::Better } else { Verdict::Worse }, None)
            } else {
                let needed = comparison.samples_to_differ(net, family, self.options);
                (
                    p_weighed,
                    Verdict::Undecided,
                    needed.map(|n| n.saturating_sub(comparison.n).max(1)),
                )
            };
            let swapped = comparison.swapped();
            let back = match verdict {
                Verdict::Better => Verdict::Worse,
                Verdict::Worse => Verdict::Better,
                Verdict::Equivalent | Verdict::Undecided => verdict,
            };
            let duel = |arm, other, comparison, handicap, verdict| Duel {
                arm,
                other,
                comparison,
                handicap,
                p,
                verdict,
                more_needed,
                cheaper: self.cheaper(arm, other),
            };
            duels.insert((i, j), duel(i, j, comparison, handicap, verdict));
            duels.insert((j, i), duel(j, i, swapped, -handicap, back));
        }
        Ok(duels)
    }

    fn comparison(&self, i: usize, j: usize) -> Result<Comparison, DecisionError> {
        let [a, b] = [i, j].map(|arm| &self.arms[arm].arm);
        self.family
            .pairs
            .iter()
            .find_map(|pair| {
                let found = pair.comparison.as_ref();
                if (&pair.a, &pair.b) == (a, b) {
                    found.cloned()
                } else if (&pair.a, &pair.b) == (b, a) {
                    found.map(Comparison::swapped)
                } else {
                    None
                }
            })
            .ok_or_else(|| DecisionError::NotCompared { a: a.clone(), b: b.clone() })
    }

    /// The figure on which `arm` is preferred to an equivalent `other`.
    fn cheaper(&self, arm: usize, other: usize) -> Option<Figure> {
        self.utility.prefer.iter().find_map(|&figure| {
            let (mine, theirs) = (self.figure(arm, figure)?, self.figure(other, figure)?);
            let better = if figure.is_cost() { mine < theirs } else { mine > theirs };
            ((mine - theirs).abs() > 0.0).then_some(better.then_some(figure))
        })?
    }

    /// P(best) among the eligible arms on the samples that all of them were scored on.
    fn probability_best(
        &self,
        eligible: &[usize],
        offsets: &[f64],
        clusters: &Clusters,
    ) -> (BTreeMap<String, f64>, usize) {
        // By name, so that the order of declaration changes no figure.
        let mut order = eligible.to_vec();
        order.sort_by_key(|&arm| &self.arms[arm].arm);
        let samples = 0..self.arms.first().map_or(0, |arm| arm.scores.len());
        let row = |sample: usize| -> Option<Vec<f64>> {
            let seeds = order.iter().flat_map(|&arm| &self.recipes[arm].seeds);
            seeds.map(|seed| seed[sample]).chain([Some(1.0)]).collect()
        };
        let (kept, rows): (Vec<usize>, Vec<Vec<f64>>) =
            samples.filter_map(|sample| Some((sample, row(sample)?))).unzip();
        let n = rows.len();
        if n == 0 || order.is_empty() {
            return (BTreeMap::new(), 0);
        }
        let rows = clusters.select(&kept).sum_rows(rows);
        if rows.len() < FEWEST_UNITS {
            return (BTreeMap::new(), n);
        }
        let units = Units::new(rows);
        let mut shares = vec![0.0; order.len()];
        let columns: usize = order.iter().map(|&arm| self.recipes[arm].seeds.len()).sum();
        // A seed of its own: trainings are not drawn as samples are.
        let trainings = ChaCha8Rng::seed_from_u64(self.options.seed ^ 0x7472_6169_6E69_6E67);
        for (draw, row) in units.resample(self.options.draws, self.options.seed).rows().enumerate()
        {
            let count = row[columns];
            let mut trainings = trainings.clone();
            trainings.set_stream(draw as u64);
            let mut left = row;
            let net: Vec<f64> = order
                .iter()
                .map(|&arm| {
                    let (own, others) = left.split_at(self.recipes[arm].seeds.len());
                    left = others;
                    retrained(own, &mut trainings) / count - offsets[arm]
                })
                .collect();
            let best = net.iter().copied().fold(f64::NEG_INFINITY, f64::max) - 1e-12;
            let tied = net.iter().filter(|&&x| x >= best).count() as f64;
            for (share, x) in shares.iter_mut().zip(net) {
                *share += if x >= best { 1.0 / tied } else { 0.0 };
            }
        }
        let names = order.iter().map(|&arm| self.arms[arm].arm.clone());
        (
            names
                .zip(shares.into_iter().map(|share| share / self.options.draws.max(1) as f64))
                .collect(),
            n,
        )
    }

    fn reason(
        &self,
        winner: Option<usize>,
        favourite: Option<usize>,
        eligible: &[usize],
        duels: &Duels,
        barred: Option<&str>,
        more_samples: Option<usize>,
    ) -> String {
        let Some(best) = favourite else {
            return format!("undecided: {}", barred.map_or_else(|| self.nobody(), str::to_owned));
        };
        let name = &self.arms[best].arm;
        if let Some(why) = barred {
            return format!("undecided: {why}");
        }
        if self.arms.len() == 1 {
            return format!("undecided: {name} is the only arm, so there is nothing to compare");
        }
        let mut rivals: Vec<&Duel> =
            eligible.iter().filter(|&&arm| arm != best).map(|&arm| &duels[&(best, arm)]).collect();
        rivals.sort_by(|x, y| x.comparison.difference.total_cmp(&y.comparison.difference));
        let Some(closest) = rivals.first() else {
            return if winner.is_some() {
                format!("use {name}: it is the only arm that keeps the constraints")
            } else {
                format!(
                    "undecided: {name} is the only arm in the running that has more than one scored sample, so there is nothing to compare"
                )
            };
        };
        if winner.is_some() {
            return format!("use {name}: {}", self.against(closest, true));
        }
        let open = || rivals.iter().filter(|duel| !duel.is_won());
        let names = |duels: &[&&Duel]| -> String {
            let names: Vec<&str> =
                duels.iter().map(|duel| self.arms[duel.other].arm.as_str()).collect();
            names.join(", ")
        };
        let (level, behind): (Vec<&&Duel>, Vec<&&Duel>) = open().partition(|duel| duel.is_level());
        let units = open().map(|duel| duel.units()).min().unwrap_or_default();
        let advice = match more_samples {
            Some(n) if behind.is_empty() => {
                format!("about {} more samples would show whether they are equivalent", grouped(n))
            }
            Some(n) => format!("about {} more samples would tell", grouped(n)),
            None if open().all(|duel| duel.verdict == Verdict::Equivalent) => {
                let margin = self.unit.amount(self.options.margin.unwrap_or_default());
                format!(
                    "they are equivalent within {margin}, and no cost or latency tells them apart"
                )
            }
            None if units < FEWEST_UNITS => {
                let what =
                    if closest.comparison.clusters.is_some() { "clusters" } else { "samples" };
                format!("{units} {what} are too few to say how many more would tell")
            }
            None if open().any(|duel| duel.comparison.crossed.is_some()) => {
                "more samples alone are not likely to tell, more training seeds may".to_owned()
            }
            None => "more samples alone are not likely to tell".to_owned(),
        };
        if level.is_empty() {
            return format!(
                "undecided: {name} leads, but not surely over {}; {advice}",
                names(&behind)
            );
        }
        let what = if self.utility.weights.is_empty() {
            format!("the same score, {}", self.unit.amount(level[0].comparison.mean_a))
        } else {
            "the same score after costs".to_owned()
        };
        let lead = if behind.is_empty() {
            String::new()
        } else {
            format!("; they lead, but not surely over {}", names(&behind))
        };
        format!("undecided: {name} and {} are tied with {what}{lead}; {advice}", names(&level))
    }

    /// One duel in words, said of the arm that is ahead.
    fn against(&self, duel: &Duel, decided: bool) -> String {
        let [arm, other] = [duel.arm, duel.other].map(|arm| &self.arms[arm].arm);
        let Comparison { difference, low, high, level, .. } = duel.comparison;
        let [net, low, high] = [difference, low, high].map(|x| x - duel.handicap);
        let costs = if self.utility.weights.is_empty() { "" } else { " after costs" };
        let interval = |low, high| {
            let level = plain(level * 100.0);
            format!("({level} % interval {} to {})", self.unit.number(low), self.unit.number(high))
        };
        match (duel.verdict, duel.cheaper) {
            (Verdict::Better, _) => {
                format!(
                    "{arm} beats {other} by {}{costs} {}",
                    self.unit.amount(net),
                    interval(low, high)
                )
            }
            (Verdict::Worse, _) => {
                format!(
                    "{other} beats {arm} by {}{costs} {}",
                    self.unit.amount(-net),
                    interval(-high, -low)
                )
            }
            (Verdict::Equivalent, figure) => {
                let margin = self.unit.amount(self.options.margin.unwrap_or_default());
                let same = format!(
                    "{arm} and {other} are equivalent within {margin} {}",
                    interval(low, high)
                );
                let Some(figure) = figure else {
                    return format!("{same}, and {arm} is not the cheaper one");
                };
                let [mine, theirs] = [duel.arm, duel.other]
                    .map(|arm| plain(self.figure(arm, figure).unwrap_or_default()));
                format!(
                    "{same}, and {arm} has the better {}: {mine} against {theirs}",
                    figure.words()
                )
            }
            (Verdict::Undecided, _) => {
                let more = duel.advice().filter(|_| !decided).map_or_else(String::new, |n| {
                    format!("; about {} more samples would tell", grouped(n))
                });
                let p = if duel.p < 0.001 {
                    "p < 0.001".to_owned()
                } else {
                    format!("p = {:.3}", duel.p)
                };
                if duel.is_level() {
                    let more = duel.advice().filter(|_| !decided).map_or_else(String::new, |n| {
                        format!(
                            "; about {} more samples would show whether they are equivalent",
                            grouped(n)
                        )
                    });
                    return format!(
                        "{arm} and {other} are tied{costs}: a difference of {} {}{more}",
                        self.unit.amount(0.0),
                        interval(low, high)
                    );
                }
                format!(
                    "{arm} against {other} is undecided{costs}: {} {}, {p} after Holm{more}",
                    self.unit.amount(net),
                    interval(low, high)
                )
            }
        }
    }
}

/// The mean of one fewer of an arm's seeds than there are, drawn with replacement.
fn retrained(seeds: &[f64], random: &mut ChaCha8Rng) -> f64 {
    if let [only] = seeds {
        return *only;
    }
    let drawn = seeds.len() - 1;
    let mut draw = || {
        let word: u32 = random.random();
        seeds[((u64::from(word) * seeds.len() as u64) >> 32) as usize]
    };
    (0..drawn).map(|_| draw()).sum::<f64>() / drawn as f64
}

/// The arm that the statistics carry.
fn winner(eligible: &[usize], duels: &Duels) -> Option<usize> {
    let beats_all = |&&arm: &&usize| {
        eligible.iter().filter(|&&other| other != arm).all(|&other| duels[&(arm, other)].is_won())
    };
    eligible.iter().find(beats_all).copied()
}

/// The arm that would win if more samples bore out what was seen: the one ahead, or a cheaper
/// equivalent of it.
fn favourite(eligible: &[usize], duels: &Duels) -> Option<usize> {
    let net = |duel: &Duel| duel.comparison.difference - duel.handicap;
    let behind =
        |arm: usize| eligible.iter().filter(|&&o| o != arm && net(&duels[&(arm, o)]) < 0.0).count();
    let ahead = eligible.iter().copied().min_by_key(|&arm| behind(arm))?;
    let cheaper = eligible.iter().copied().find(|&arm| {
        arm != ahead
            && duels[&(arm, ahead)].verdict == Verdict::Equivalent
            && duels[&(arm, ahead)].is_won()
    });
    Some(cheaper.unwrap_or(ahead))
}

/// Samples until the last open duel of an arm is likely settled.
fn more_samples(best: usize, eligible: &[usize], duels: &Duels) -> Option<usize> {
    let open = eligible.iter().filter(|&&arm| arm != best).map(|&arm| &duels[&(best, arm)]);
    open.filter(|duel| !duel.is_won())
        .map(Duel::advice)
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .max()
}

/// At most three decimals, without trailing zeros.
fn plain(x: f64) -> String {
    let text = format!("{x:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// 12345 as "12,345".
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::family::{Pairs, analyse};

    /// Arms that are right with these probabilities on samples of shared difficulty.
    fn simulated(n: usize, arms: &[(&str, f64)]) -> Vec<ArmScores> {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let hard: Vec<f64> = (0..n).map(|_| rng.random()).collect();
        let mut score =
            |p: f64, hard: f64| f64::from(u8::from(0.5 * hard + 0.5 * rng.random::<f64>() < p));
        arms.iter()
            .map(|&(arm, p)| ArmScores {
                arm: arm.to_owned(),
                scores: hard.iter().map(|&hard| Some(score(p, hard))).collect(),
            })
            .collect()
    }

    fn costs(figures: &[(&str, f64)]) -> Vec<ArmFigures> {
        let of = |&(arm, cost): &(&str, f64)| ArmFigures {
            arm: arm.to_owned(),
            cost_per_1000: Some(cost),
            ..ArmFigures::default()
        };
        figures.iter().map(of).collect()
    }

    #[track_caller]
    fn decided(
        arms: &[ArmScores],
        figures: &[ArmFigures],
        utility: &Utility,
        margin: Option<f64>,
    ) -> Decision {
        let options = Options { draws: 2000, margin, ..Options::default() };
        let family = analyse(arms, &Clusters::none(), &Pairs::All, &options).unwrap();
        decide(arms, &Clusters::none(), &family, figures, utility, None, &options).unwrap()
    }

    #[test]
    fn a_clear_lead_wins_and_the_others_are_told_why_they_lost() {
        let arms = simulated(300, &[("base", 0.4), ("few_shot", 0.5), ("rag", 0.75)]);
        let decision = decided(&arms, &[], &Utility::default(), None);
        assert_eq!(decision.winner.as_deref(), Some("rag"));
        assert!(
            decision.reason.starts_with("use rag: rag beats few_shot by "),
            "{}",
            decision.reason
        );
        assert!(
            decision.arms[0].sentence.contains("points (95 % interval "),
            "{}",
            decision.arms[0].sentence
        );
        assert!(decision.probability_best["rag"] > 0.999);
        assert_eq!(decision.joint_samples, 300);
    }

    #[test]
    fn a_small_lead_is_undecided_and_says_how_many_samples_it_wants() {
        // Ten samples that only rag gets right, five that only base does: p = 0.30.
        let scores = |right: &dyn Fn(usize) -> bool| {
            (0..60).map(|i| Some(f64::from(u8::from(right(i))))).collect()
        };
        let arms = [
            ArmScores { arm: "base".to_owned(), scores: scores(&|i| i < 35) },
            ArmScores { arm: "rag".to_owned(), scores: scores(&|i| !(30..50).contains(&i)) },
        ];
        let decision = decided(&arms, &[], &Utility::default(), None);
        assert_eq!(decision.winner, None);
        let more = decision.more_samples.unwrap();
        assert!(
            decision.reason.contains(&format!("about {} more samples", grouped(more))),
            "{}",
            decision.reason
        );
    }

    #[test]
    fn the_cheaper_of_two_equivalent_arms_wins() {
        let mut arms = simulated(600, &[("rag", 0.7)]);
        arms.push(ArmScores { arm: "lora".to_owned(), ..arms[0].clone() });
        let figures = costs(&[("rag", 2.0), ("lora", 1.0)]);
        let decision = decided(&arms, &figures, &Utility::default(), Some(0.05));
        assert_eq!(decision.winner.as_deref(), Some("lora"));
        assert!(
            decision.reason.ends_with("lora has the better cost per 1,000: 1 against 2"),
            "{}",
            decision.reason
        );
        let unpriced = decided(&arms, &[], &Utility::default(), Some(0.05));
        assert_eq!((unpriced.winner, unpriced.more_samples), (None, None));
        let without_margin = decided(&arms, &figures, &Utility::default(), None);
        assert_eq!(without_margin.winner, None);
    }

    #[test]
    fn an_arm_over_a_limit_cannot_win() {
        let arms = simulated(300, &[("base", 0.4), ("rag", 0.75)]);
        let limit = Constraint { figure: Figure::CostPer1000, limit: Limit::AtMost(3.0) };
        let utility = Utility { constraints: vec![limit], ..Utility::default() };
        let decision = decided(&arms, &costs(&[("base", 1.0), ("rag", 4.0)]), &utility, None);
        assert_eq!(decision.winner.as_deref(), Some("base"));
        assert_eq!(
            decision.arms[1].sentence,
            "rag is out: its cost per 1,000 is 4, over the limit of 3"
        );
    }

    #[test]
    fn a_weight_on_cost_can_turn_the_decision() {
        let arms = simulated(400, &[("base", 0.5), ("rag", 0.7)]);
        let figures = costs(&[("base", 1.0), ("rag", 6.0)]);
        let weighed = |weight| {
            let weights = BTreeMap::from([(Figure::CostPer1000, weight)]);
            decided(&arms, &figures, &Utility { weights, ..Utility::default() }, None)
        };
        assert_eq!(weighed(0.001).winner.as_deref(), Some("rag"));
        assert_eq!(weighed(0.1).winner.as_deref(), Some("base"));
    }

    #[test]
    fn equal_perfect_arms_that_differ_in_cost_are_not_told_apart_by_twenty_samples() {
        let arms = simulated(20, &[("base", 2.0), ("rag", 2.0)]);
        let weights = BTreeMap::from([(Figure::CostPer1000, 0.01)]);
        let utility = Utility { weights, ..Utility::default() };
        assert_eq!(
            decided(&arms, &costs(&[("base", 1.0), ("rag", 6.0)]), &utility, None).winner,
            None
        );
    }

    #[test]
    fn a_barred_scorer_never_decides() {
        let arms = simulated(300, &[("base", 0.4), ("rag", 0.75)]);
        let options = Options { draws: 200, ..Options::default() };
        let family = analyse(&arms, &Clusters::none(), &Pairs::All, &options).unwrap();
        let why = Some("the judge agrees with people on 61 % of samples, under its floor of 80 %");
        let decision =
            decide(&arms, &Clusters::none(), &family, &[], &Utility::default(), why, &options)
                .unwrap();
        assert_eq!(decision.winner, None);
        assert!(decision.reason.starts_with("undecided: the judge agrees"), "{}", decision.reason);
    }

    #[test]
    fn a_constraint_on_a_figure_that_was_not_measured_is_an_error() {
        let arms = simulated(30, &[("base", 0.4), ("rag", 0.75)]);
        let limit = Constraint { figure: Figure::P95LatencyMs, limit: Limit::AtMost(3.0) };
        let utility = Utility { constraints: vec![limit], ..Utility::default() };
        let options = Options { draws: 200, ..Options::default() };
        let family = analyse(&arms, &Clusters::none(), &Pairs::All, &options).unwrap();
        let error =
            decide(&arms, &Clusters::none(), &family, &[], &utility, None, &options).unwrap_err();
        assert_eq!(
            error.to_string(),
            "arm `base` has no p95 latency in ms: measure it, or take it out of the utility"
        );
    }

    #[test]
    fn one_arm_or_none_with_scores_is_no_contest() {
        let alone = decided(&simulated(30, &[("base", 0.4)]), &[], &Utility::default(), None);
        assert_eq!(alone.winner, None);
        let unscored = vec![ArmScores { arm: "base".to_owned(), scores: vec![None; 5] }];
        let decision = decided(&unscored, &[], &Utility::default(), None);
        assert_eq!(
            (decision.winner, decision.reason.as_str()),
            (None, "undecided: no answer has a score")
        );
    }

    fn scored(arm: &str, scores: &[f64]) -> ArmScores {
        ArmScores { arm: arm.to_owned(), scores: scores.iter().copied().map(Some).collect() }
    }

    #[test]
    fn too_few_samples_are_said_to_be_too_few() {
        let one = decided(&[scored("base", &[1.0])], &[], &Utility::default(), None);
        assert_eq!(
            one.reason,
            "undecided: no arm has more than one scored sample, and a comparison takes at least two; more samples are needed"
        );
        // Two samples of one document.
        let arms = [scored("base", &[1.0, 0.0]), scored("rag", &[1.0, 1.0])];
        let clusters = Clusters::from_labels([7, 7]);
        let options = Options { draws: 200, ..Options::default() };
        let family = analyse(&arms, &clusters, &Pairs::All, &options).unwrap();
        let decision =
            decide(&arms, &clusters, &family, &[], &Utility::default(), None, &options).unwrap();
        assert_eq!(
            decision.reason,
            "undecided: base and rag share 2 scored samples, all of one cluster, and a comparison takes at least two clusters; more samples are needed"
        );
        assert_eq!((decision.winner, decision.joint_samples, decision.arms.len()), (None, 2, 2));
    }

    #[test]
    fn a_handful_of_samples_gives_neither_a_probability_nor_advice() {
        let arms = [scored("base", &[0.0, 0.0]), scored("rag", &[1.0, 1.0])];
        let decision = decided(&arms, &[], &Utility::default(), None);
        assert_eq!(
            decision.reason,
            "undecided: rag leads, but not surely over base; 2 samples are too few to say how many more would tell"
        );
        assert!(decision.probability_best.is_empty());
        assert_eq!((decision.more_samples, decision.joint_samples), (None, 2));
        assert!(!decision.arms.iter().any(|arm| arm.sentence.contains("more samples")));
    }

    #[test]
    fn nobody_wins_because_the_others_were_not_scored() {
        let unscored = ArmScores { arm: "base".to_owned(), scores: vec![None; 20] };
        let arms = [unscored, scored("rag", &[1.0; 20])];
        let decision = decided(&arms, &[], &Utility::default(), None);
        assert_eq!(decision.winner, None);
        assert!(
            decision.reason.starts_with("undecided: rag is the only arm"),
            "{}",
            decision.reason
        );
    }

    #[test]
    fn equal_scores_are_a_tie() {
        let arms = [scored("zs", &[1.0; 40]), scored("zt", &[1.0; 40])];
        let decision = decided(&arms, &[], &Utility::default(), Some(0.02));
        let more = decision.more_samples.unwrap();
        assert_eq!(
            decision.reason,
            format!(
                "undecided: zs and zt are tied with the same score, 100.0 points; about {} more samples would show whether they are equivalent",
                grouped(more)
            )
        );
        assert_eq!(decision.arms[0].sentence, "zs is among the best, but has not won");
        assert!(
            decision.arms[1].sentence.starts_with("zs and zt are tied: a difference of 0.0 points"),
            "{}",
            decision.arms[1].sentence
        );
        let weak = [
            arms[0].clone(),
            arms[1].clone(),
            scored("rag", &[[1.0; 39].as_slice(), &[0.0]].concat()),
        ];
        let decision = decided(&weak, &[], &Utility::default(), None);
        assert!(
            decision.reason.starts_with(
                "undecided: zs and zt are tied with the same score, 100.0 points; they lead, but not surely over rag; "
            ),
            "{}",
            decision.reason
        );
    }

    #[test]
    fn the_order_of_arms_changes_no_figure() {
        let arms = simulated(80, &[("base", 0.4), ("few_shot", 0.5), ("rag", 0.55)]);
        let reversed: Vec<ArmScores> = arms.iter().rev().cloned().collect();
        let [one, other] =
            [&arms, &reversed].map(|arms| decided(arms, &[], &Utility::default(), None));
        assert_eq!(one.probability_best, other.probability_best);
        assert_eq!(one.winner, other.winner);
    }
}
