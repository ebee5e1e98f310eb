//! How far a judge can be trusted, as counts: what it does with a repeat, another order, a longer
//! answer. Intervals, and agreement with people, are the statistics' business.

use bench_core::record::{Preference, Verdict};

/// How many of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Those of which it is true.
    pub hits: usize,
    /// Those that can tell.
    pub of: usize,
}

impl Count {
    fn of(cases: impl Iterator<Item = bool>) -> Self {
        cases.fold(Self::default(), |count, hit| Self {
            hits: count.hits + usize::from(hit),
            of: count.of + 1,
        })
    }
}

/// Verdicts without a figure: failed requests and replies that could not be read.
pub fn unscored<'a>(verdicts: impl IntoIterator<Item = &'a Verdict>) -> Count {
    Count::of(verdicts.into_iter().map(|verdict| verdict.value().is_none()))
}

/// Equal figures among all pairs of repeats of one judgement; each item holds one judgement's
/// repeats. Pairs with an unscored verdict cannot tell.
pub fn self_consistency(judgements: &[Vec<Verdict>]) -> Count {
    let values = judgements.iter().map(|repeats| repeats.iter().filter_map(Verdict::value));
    Count::of(values.flat_map(|values| {
        let values: Vec<f64> = values.collect();
        let places = (0..values.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
        let equal = |(one, other): (usize, usize)| (values[one] - values[other]).abs() < 1e-9;
        places.map(equal).collect::<Vec<_>>()
    }))
}

/// Preferences that survive the other order, among those that could be read.
pub fn order_consistency(preferences: &[Preference]) -> Count {
    Count::of(preferences.iter().filter_map(|preference| match preference {
        Preference::First | Preference::Second => Some(true),
        Preference::Tie { consistent } => Some(*consistent),
        Preference::Unscored { .. } => None,
    }))
}

/// Preferences for the longer answer, among decided pairs of different lengths: each item holds a
/// preference and both answers' lengths in one unit.
pub fn prefers_longer(pairs: &[(Preference, usize, usize)]) -> Count {
    let decided = pairs.iter().filter(|(_, first, second)| first != second);
    Count::of(decided.filter_map(|(preference, first, second)| match preference {
        Preference::First => Some(first > second),
        Preference::Second => Some(second > first),
        Preference::Tie { .. } | Preference::Unscored { .. } => None,
    }))
}
