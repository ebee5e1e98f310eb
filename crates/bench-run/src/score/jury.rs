//! From several verdicts on one answer to one: repeats of a judge, and a jury.

use bench_core::record::{Preference, Verdict};
use bench_core::spec::{Combine, Judge};

/// One judge's verdict from its repeats: the mean of those that have a figure. Unscored when none
/// has, with the first reason.
pub fn repeated(repeats: &[Verdict]) -> Verdict {
    let values: Vec<f64> = repeats.iter().filter_map(Verdict::value).collect();
    match repeats {
        [one] => one.clone(),
        _ if values.is_empty() => unscored(repeats),
        _ => Verdict::explained(mean(&values), reason(&repeats[0])),
    }
}

/// A jury's verdict from its members', those without a figure left out. Unscored when none has one.
pub fn combined(judge: &Judge, verdicts: &[(&str, Verdict)]) -> Verdict {
    if let [(_, only)] = verdicts {
        return only.clone();
    }
    let values: Vec<f64> = verdicts.iter().filter_map(|(_, verdict)| verdict.value()).collect();
    if values.is_empty() {
        return unscored(&verdicts.iter().map(|(_, verdict)| verdict.clone()).collect::<Vec<_>>());
    }
    let value = match judge.combine {
        Combine::Mean => mean(&values),
        Combine::Majority => {
            let grades: Vec<u32> =
                values.iter().filter_map(|&value| judge.nearest(value)).collect();
            most(&grades).map_or_else(|| median(&values), |grade| judge.place(f64::from(grade)))
        }
    };
    let said = |(name, verdict): &(&str, Verdict)| {
        let said = match verdict {
            Verdict::Scored { value, reason, .. } => {
                reason.clone().unwrap_or_else(|| format!("{value:.2}"))
            }
            Verdict::Unscored { reason } => format!("undecided: {reason}"),
        };
        format!("{name}: {said}")
    };
    let reason = verdicts.iter().map(said).collect::<Vec<_>>().join("; ");
    Verdict::explained(value, Some(reason))
}

/// What the first of two answers gets from a jury, 0 to 1; `None` when no member could decide.
pub fn preferred(combine: Combine, preferences: &[Preference]) -> Option<f64> {
    let values: Vec<f64> = preferences.iter().filter_map(Preference::value).collect();
    if values.is_empty() {
        return None;
    }
    Some(match combine {
        Combine::Mean => mean(&values),
        Combine::Majority => {
            let votes: Vec<i32> = values.iter().map(|value| (value * 2.0) as i32).collect();
            most(&votes).map_or(0.5, |vote| f64::from(vote) / 2.0)
        }
    })
}

/// The value that stands more often than any other.
fn most<T: Copy + PartialEq>(values: &[T]) -> Option<T> {
    let count = |value: T| values.iter().filter(|other| **other == value).count();
    let best = values.iter().copied().max_by_key(|&value| count(value))?;
    let rival = values.iter().any(|&other| other != best && count(other) == count(best));
    (!rival).then_some(best)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) }
}

fn unscored(verdicts: &[Verdict]) -> Verdict {
    let reason = verdicts.iter().find_map(reason);
    Verdict::unscored(reason.unwrap_or_else(|| "no judge was asked".into()))
}

fn reason(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Scored { reason, .. } => reason.clone(),
        Verdict::Unscored { reason } => Some(reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(combine: &str) -> Judge {
        let text = serde_json::json!({
            "judges": ["a", "b", "c"], "rubric": "r", "grades": [0, 1, 2], "combine": combine
        });
        serde_json::from_value(text).unwrap()
    }

    #[track_caller]
    fn check(combine: &str, values: [Option<f64>; 3], expect: Option<f64>) {
        let verdict = |value: Option<f64>| {
            value.map_or_else(|| Verdict::unscored("no grade"), Verdict::scored)
        };
        let [a, b, c] = values.map(verdict);
        let combined = combined(&judge(combine), &[("a", a), ("b", b), ("c", c)]);
        assert_eq!(combined.value(), expect, "{combined:?}");
    }

    #[test]
    fn a_jury_takes_the_mean_or_the_majority_of_those_who_decided() {
        check("mean", [Some(0.0), Some(0.5), Some(1.0)], Some(0.5));
        check("mean", [Some(0.0), None, Some(1.0)], Some(0.5));
        check("majority", [Some(1.0), Some(0.9), Some(0.0)], Some(1.0));
        check("majority", [Some(1.0), Some(0.5), Some(0.0)], Some(0.5));
        check("majority", [Some(1.0), None, Some(0.0)], Some(0.5));
        check("mean", [None, None, None], None);
    }

    #[test]
    fn a_jury_s_reason_says_who_said_what() {
        let said = [("a", Verdict::scored(1.0)), ("b", Verdict::unscored("busy"))];
        let Verdict::Scored { reason, .. } = combined(&judge("mean"), &said) else { panic!() };
        assert_eq!(reason.as_deref(), Some("a: 1.00; b: undecided: busy"));
    }

    #[test]
    fn a_preference_needs_a_majority() {
        use Preference::{First, Second, Tie};
        let tie = Tie { consistent: false };
        let preferred = |preferences: &[Preference]| preferred(Combine::Majority, preferences);
        assert_eq!(preferred(&[First, First, Second]), Some(1.0));
        assert_eq!(preferred(&[First, Second]), Some(0.5));
        assert_eq!(preferred(&[Second, tie.clone(), tie]), Some(0.5));
        assert_eq!(preferred(&[Preference::Unscored { reason: "x".into() }]), None);
    }

    #[test]
    fn repeats_of_one_judge_are_averaged() {
        let values = [Verdict::scored(1.0), Verdict::unscored("x"), Verdict::scored(0.0)];
        assert_eq!(repeated(&values).value(), Some(0.5));
        assert_eq!(repeated(&values[1..2]), Verdict::unscored("x"));
    }
}
