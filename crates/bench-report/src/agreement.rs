//! How far an LLM judge says what the deciding scorer says, answer by answer.

use bench_stats::{Estimate, Options, wilson};

use crate::evaluation::{HUMAN, RIGHT, SetResult};
use crate::judging::is_judge;

/// Judged answers that the deciding scorer scored too.
pub(crate) struct Agreement {
    /// The scorer.
    pub(crate) scorer: String,
    /// Per contender: the judge says right, wrong; in each the scorer says right, wrong.
    pub(crate) counts: Vec<[[usize; 2]; 2]>,
    /// Share of the answers on which both agree, over all contenders.
    pub(crate) estimate: Option<Estimate>,
}

impl Agreement {
    /// `None` where nothing was judged, or the judge decides itself and no other scorer is there.
    pub(crate) fn of(set: &SetResult<'_>, options: &Options) -> Option<Self> {
        let judge = set.metrics.iter().find(|metric| is_judge(&metric.name))?;
        let scorer =
            set.metrics.iter().find(|metric| !is_judge(&metric.name) && metric.name != HUMAN)?;
        let counts: Vec<[[usize; 2]; 2]> = judge
            .scores
            .iter()
            .zip(&scorer.scores)
            .map(|(judged, scored)| {
                let mut counts = [[0; 2]; 2];
                for (judged, scored) in judged.scores.iter().zip(&scored.scores) {
                    if let (Some(judged), Some(scored)) = (judged, scored) {
                        counts[usize::from(*judged < RIGHT)][usize::from(*scored < RIGHT)] += 1;
                    }
                }
                counts
            })
            .collect();
        let mut agreement = Self { scorer: scorer.name.clone(), counts, estimate: None };
        let total = agreement.total();
        let n = total.iter().flatten().sum();
        agreement.estimate = wilson(total[0][0] + total[1][1], n, options.level);
        (n > 0).then_some(agreement)
    }

    /// Over all contenders.
    pub(crate) fn total(&self) -> [[usize; 2]; 2] {
        let mut total = [[0; 2]; 2];
        for counts in &self.counts {
            for (sums, row) in total.iter_mut().zip(counts) {
                for (sum, count) in sums.iter_mut().zip(row) {
                    *sum += count;
                }
            }
        }
        total
    }

    /// Share of one contender's answers on which both agree.
    pub(crate) fn of_contender(&self, contender: usize, options: &Options) -> Option<Estimate> {
        let [[both, _], [_, neither]] = self.counts[contender];
        wilson(both + neither, self.counts[contender].iter().flatten().sum(), options.level)
    }
}
