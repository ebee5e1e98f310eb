//! What fine-tuning cost in general skills: scores of sets marked `retention`, as a share of what
//! the untuned model scores there.

use crate::evaluation::SetResult;

/// What one contender kept on one set.
pub(crate) struct Retained {
    pub(crate) contender: usize,
    /// Share of the baseline's score; 1 is all of it.
    pub(crate) share: f64,
    /// Ends of the interval: those of the paired difference, over the baseline's score.
    pub(crate) ends: [f64; 2],
}

/// Per contender other than the baseline; empty for a set that is not marked, and where the baseline
/// scores nothing, of which no share can be had.
pub(crate) fn retained(set: &SetResult<'_>) -> Vec<Retained> {
    let Some(metric) = set.primary().filter(|_| set.set.retention) else { return Vec::new() };
    let compared = metric.against_baseline.iter().enumerate();
    compared
        .filter_map(|(contender, comparison)| {
            let c = comparison.as_ref().filter(|c| c.mean_b > 0.0)?;
            let share = |difference: f64| (1.0 + difference / c.mean_b).max(0.0);
            Some(Retained {
                contender,
                share: share(c.difference),
                ends: [share(c.low), share(c.high)],
            })
        })
        .collect()
}
