//! All arms of a run on one scorer: a mean for each arm and a comparison for each pair, corrected
//! together.

use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{Sums, Units},
    interval::{Clusters, Estimate, Options, estimate_with, is_binary},
    paired::{Comparison, assess, conclude},
};

/// An arm's scores on every sample of the run, in the same order for all arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmScores {
    /// The arm's name.
    pub arm: String,
    /// A score per sample; `None` where it is unscored.
    pub scores: Vec<Option<f64>>,
}

/// Which pairs are compared; they are the family that Holm corrects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairs {
    /// Every arm with every later one.
    All,
    /// Every other arm with this one.
    Against(String),
    /// These pairs, by name; the verdict is said of the first.
    Of(Vec<(String, String)>),
}

/// Means and comparisons of one scorer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Family {
    /// One per arm, in the order given.
    pub means: Vec<ArmMean>,
    /// One per pair; the first arm of a pair is the one that comes first, or the one that is not the
    /// baseline.
    pub pairs: Vec<PairResult>,
}

/// The mean of one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmMean {
    /// The arm's name.
    pub arm: String,
    /// Samples without a score.
    pub unscored: usize,
    /// The mean; `None` where the scores do not allow one, see [`crate::estimate`].
    pub estimate: Option<Estimate>,
}

/// The comparison of one pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairResult {
    /// The first arm, of whom the verdict is said.
    pub a: String,
    /// The second arm.
    pub b: String,
    /// `None` when fewer than two samples are scored in both.
    pub comparison: Option<Comparison>,
}

/// Scores that cannot be analysed together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FamilyError {
    /// Arms must have been scored on the same samples.
    #[error(
        "arm `{arm}` has {found} samples where the others have {expected}: give every arm a score or `None` per sample"
    )]
    SampleCount {
        /// The arm that differs.
        arm: String,
        /// Its samples.
        found: usize,
        /// The samples of the first arm.
        expected: usize,
    },
    /// A cluster label is needed for every sample.
    #[error("{found} cluster labels for {expected} samples: give every sample a label or none")]
    ClusterCount {
        /// Labels given.
        found: usize,
        /// Samples given.
        expected: usize,
    },
    /// A score that is infinite or not a number.
    #[error("arm `{arm}` has a score that is not finite at sample {sample}: leave it unscored")]
    NotFinite {
        /// The arm.
        arm: String,
        /// Position of the sample, from 0.
        sample: usize,
    },
    /// Tables are keyed by arm.
    #[error("two arms are called `{0}`: rename one")]
    DuplicateArm(String),
    /// The baseline is not among the arms.
    #[error("no arm is called `{0}`: name one of the arms as the baseline")]
    UnknownArm(String),
}

/// Analyses all arms on one scorer. Resamples are shared, so they are paired and joint; a pair uses
/// the samples that both of its arms were scored on.
pub fn analyse(
    arms: &[ArmScores],
    clusters: &Clusters,
    pairs: &Pairs,
    options: &Options,
) -> Result<Family, FamilyError> {
    check(arms, clusters)?;
    let chosen: Vec<(usize, usize)> = match pairs {
        Pairs::All => {
            (0..arms.len()).flat_map(|i| (i + 1..arms.len()).map(move |j| (i, j))).collect()
        }
        Pairs::Against(baseline) => {
            let at = position(arms, baseline)?;
            (0..arms.len()).filter(|&i| i != at).map(|i| (i, at)).collect()
        }
        Pairs::Of(named) => named
            .iter()
            .map(|(a, b)| Ok((position(arms, a)?, position(arms, b)?)))
            .collect::<Result<_, FamilyError>>()?,
    };
    let joint = Joint::new(arms, &chosen, clusters, options);
    let means = (0..arms.len()).map(|arm| joint.mean(arm)).collect();
    let found: Vec<Option<Comparison>> = chosen.iter().map(|&(i, j)| joint.compare(i, j)).collect();
    let mut tested: Vec<Comparison> = found.iter().flatten().cloned().collect();
    conclude(&mut tested, options);
    let mut tested = tested.into_iter();
    let pairs = chosen
        .iter()
        .zip(found)
        .map(|(&(i, j), found)| PairResult {
            a: arms[i].arm.clone(),
            b: arms[j].arm.clone(),
            comparison: found.and_then(|_| tested.next()),
        })
        .collect();
    Ok(Family { means, pairs })
}

fn position(arms: &[ArmScores], name: &str) -> Result<usize, FamilyError> {
    let at = arms.iter().position(|arm| arm.arm == name);
    at.ok_or_else(|| FamilyError::UnknownArm(name.to_owned()))
}

pub(crate) fn check(arms: &[ArmScores], clusters: &Clusters) -> Result<(), FamilyError> {
    let expected = arms.first().map_or(0, |arm| arm.scores.len());
    for (i, arm) in arms.iter().enumerate() {
        if arm.scores.len() != expected {
            let found = arm.scores.len();
            return Err(FamilyError::SampleCount { arm: arm.arm.clone(), found, expected });
        }
        if let Some(sample) =
            arm.scores.iter().position(|score| score.is_some_and(|x| !x.is_finite()))
        {
            return Err(FamilyError::NotFinite { arm: arm.arm.clone(), sample });
        }
        if arms[..i].iter().any(|other| other.arm == arm.arm) {
            return Err(FamilyError::DuplicateArm(arm.arm.clone()));
        }
    }
    match clusters.len() {
        Some(found) if found != expected => Err(FamilyError::ClusterCount { found, expected }),
        _ => Ok(()),
    }
}

/// The shared resamples: which columns stand for what, and their sums in every draw.
struct Joint<'a> {
    arms: &'a [ArmScores],
    clusters: &'a Clusters,
    options: &'a Options,
    /// Arms by name, so that the order they are declared in changes no figure.
    rank: Vec<usize>,
    columns: Vec<Column>,
    resampled: Option<Sums>,
    flipped: Option<Sums>,
}

/// A column of the resampled table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    /// The arm's score, 0 where unscored.
    Score(usize),
    /// 1 where the arm is scored.
    Scored(usize),
    /// The difference of two arms, 0 unless both are scored.
    Difference(usize, usize),
    /// 1 where both are scored.
    Both(usize, usize),
}

impl<'a> Joint<'a> {
    fn new(
        arms: &'a [ArmScores],
        chosen: &[(usize, usize)],
        clusters: &'a Clusters,
        options: &'a Options,
    ) -> Joint<'a> {
        let mut order: Vec<usize> = (0..arms.len()).collect();
        order.sort_by_key(|&i| &arms[i].arm);
        let mut rank = vec![0; arms.len()];
        order.iter().enumerate().for_each(|(r, &i)| rank[i] = r);

        let complete: Vec<bool> =
            arms.iter().map(|arm| arm.scores.iter().all(Option::is_some)).collect();
        let binary: Vec<bool> = arms
            .iter()
            .map(|arm| is_binary(&arm.scores.iter().copied().flatten().collect::<Vec<_>>()))
            .collect();
        // Scores of 0 and 1 have closed forms; with clusters only the sign flips are needed.
        let mut columns = Vec::new();
        let mut need = |column| {
            if !columns.contains(&column) {
                columns.push(column);
            }
        };
        for &arm in order.iter().filter(|&&arm| !binary[arm]) {
            need(Column::Score(arm));
            if !complete[arm] {
                need(Column::Scored(arm));
            }
        }
        let mut ordered: Vec<_> =
            chosen.iter().map(|&(i, j)| if rank[i] < rank[j] { (i, j) } else { (j, i) }).collect();
        ordered.sort_by_key(|&(i, j)| (rank[i], rank[j]));
        for (i, j) in ordered {
            if binary[i] && binary[j] && !clusters.is_some() {
                continue;
            }
            if complete[i] && complete[j] {
                need(Column::Score(i));
                need(Column::Score(j));
            } else {
                need(Column::Difference(i, j));
                need(Column::Both(i, j));
            }
        }
        let rows = (0..arms.first().map_or(0, |arm| arm.scores.len()))
            .map(|sample| columns.iter().map(|column| column.value(arms, sample)).collect())
            .collect();
        let units = (!columns.is_empty()).then(|| Units::new(clusters.sum_rows(rows)));
        // Clustered intervals need no bootstrap.
        let resampled = units
            .as_ref()
            .filter(|_| !clusters.is_some())
            .map(|units| units.resample(options.draws, options.seed));
        let flipped = units.map(|units| units.flip_signs(options.draws, options.seed));
        Joint { arms, clusters, options, rank, columns, resampled, flipped }
    }

    fn mean(&self, arm: usize) -> ArmMean {
        let ArmScores { arm: name, scores } = &self.arms[arm];
        let kept: Vec<usize> = (0..scores.len()).filter(|&i| scores[i].is_some()).collect();
        let values: Vec<f64> = scores.iter().copied().flatten().collect();
        let estimate = estimate_with(&values, &self.clusters.select(&kept), self.options, || {
            let count = self.find(Column::Scored(arm));
            self.replicates(self.find(Column::Score(arm)), None, count, &values)
        });
        ArmMean { arm: name.clone(), unscored: scores.len() - values.len(), estimate }
    }

    fn compare(&self, i: usize, j: usize) -> Option<Comparison> {
        if self.rank[i] > self.rank[j] {
            return self.compare(j, i).map(|comparison| comparison.swapped());
        }
        let scores = self.arms[i].scores.iter().zip(&self.arms[j].scores);
        let both: Vec<(usize, f64, f64)> = scores
            .enumerate()
            .filter_map(|(sample, (a, b))| Some((sample, (*a)?, (*b)?)))
            .collect();
        let a: Vec<f64> = both.iter().map(|&(_, a, _)| a).collect();
        let b: Vec<f64> = both.iter().map(|&(_, _, b)| b).collect();
        let clusters =
            self.clusters.select(&both.iter().map(|&(sample, ..)| sample).collect::<Vec<_>>());
        let (top, minus, count) = match self.find(Column::Difference(i, j)) {
            Some(own) => (Some(own), None, self.find(Column::Both(i, j))),
            None => (self.find(Column::Score(i)), self.find(Column::Score(j)), None),
        };
        assess(
            &a,
            &b,
            &clusters,
            self.options,
            || {
                let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
                self.replicates(top, minus, count, &differences)
            },
            || sums(self.flipped.as_ref(), |row| difference(row, top, minus)),
        )
    }

    fn find(&self, column: Column) -> Option<usize> {
        self.columns.iter().position(|&other| other == column)
    }

    /// Resampled means of a column, or of the difference of two; `values` are what is averaged.
    fn replicates(
        &self,
        top: Option<usize>,
        minus: Option<usize>,
        count: Option<usize>,
        values: &[f64],
    ) -> Vec<f64> {
        let n = values.len() as f64;
        if self.resampled.is_none() {
            // All samples share clusters, those scored here do not.
            let own = Units::from_column(values).resample(self.options.draws, self.options.seed);
            return sums(Some(&own), |row| row[0] / n);
        }
        sums(self.resampled.as_ref(), |row| {
            difference(row, top, minus) / count.map_or(n, |count| row[count].max(1.0))
        })
    }
}

fn sums(sums: Option<&Sums>, of: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    sums.into_iter().flat_map(Sums::rows).map(of).collect()
}

fn difference(row: &[f64], top: Option<usize>, minus: Option<usize>) -> f64 {
    top.map_or(0.0, |top| row[top]) - minus.map_or(0.0, |minus| row[minus])
}

impl Column {
    fn value(self, arms: &[ArmScores], sample: usize) -> f64 {
        let score = |arm: usize| arms[arm].scores[sample];
        match self {
            Column::Score(arm) => score(arm).unwrap_or(0.0),
            Column::Scored(arm) => f64::from(u8::from(score(arm).is_some())),
            Column::Difference(i, j) => score(i).zip(score(j)).map_or(0.0, |(a, b)| a - b),
            Column::Both(i, j) => f64::from(u8::from(score(i).is_some() && score(j).is_some())),
        }
    }
}
