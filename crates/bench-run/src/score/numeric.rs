//! `numeric`: the last number of an answer.

use std::sync::LazyLock;

use bench_core::dataset::Sample;
use bench_core::record::Verdict;
use regex::Regex;

use super::{abstention, judged, wrong};

pub(super) fn score(sample: &Sample, answer: &str, tolerance: f64) -> Verdict {
    if !sample.answerable() {
        return judged(abstention::declines(answer, sample.accepted()));
    }
    let Some(said) = last_number(answer) else { return wrong("the answer holds no number") };
    let mut accepted = sample.accepted().filter_map(last_number).peekable();
    if accepted.peek().is_none() {
        return Verdict::unscored("the reference holds no number");
    }
    judged(accepted.any(|accepted| said.equals(accepted, tolerance)))
}

pub(super) fn problem(sample: &Sample) -> Option<String> {
    let numbers = !sample.answerable() || sample.accepted().any(|text| last_number(text).is_some());
    (!numbers).then(|| format!("the reference `{}` holds no number", sample.reference))
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Number {
    value: f64,
    percent: bool,
}

impl Number {
    /// With a percent sign on one side only, `12%` equals both 12 and 0.12.
    fn equals(self, other: Self, tolerance: f64) -> bool {
        let near = |a: f64, b: f64| {
            // Decimal fractions have no exact binary form: 0.3 - 0.2 must be within 0.1.
            (a - b).abs() <= tolerance + 4.0 * f64::EPSILON * a.abs().max(b.abs())
        };
        near(self.value, other.value)
            || self.percent && !other.percent && near(self.value / 100.0, other.value)
            || other.percent && !self.percent && near(self.value, other.value / 100.0)
    }
}

/// The last number, or the first one after the last `####` (the form of GSM8K's solutions).
fn last_number(text: &str) -> Option<Number> {
    if let Some((_, conclusion)) = text.rsplit_once("####")
        && let Some(number) = numbers(conclusion).next()
    {
        return Some(number);
    }
    numbers(text).last()
}

fn numbers(text: &str) -> impl Iterator<Item = Number> {
    // Thousands are set apart by commas or by the spaces that do not break.
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
        let pattern = r"(?x)
            (?: \d{1,3} (?: [,\u{a0}\u{2009}\u{202f}] \d{3} )+ \b | \d+ ) (?: \.\d+ )?
            (?: [eE][+-]?\d+ )?
            | \.\d+";
        Regex::new(pattern).expect("the pattern is constant")
    });
    NUMBER.find_iter(text).filter_map(move |found| {
        let digits: String = found.as_str().chars().filter(char::is_ascii).collect();
        let value: f64 = digits.replace(',', "").parse().ok()?;
        let before = text[..found.start()].trim_end_matches(['$', '€', '£']);
        // A hyphen after a letter or digit joins (`covid-19`, `3-5`); elsewhere it negates.
        let negative = before
            .strip_suffix(['-', '−'])
            .is_some_and(|rest| !rest.chars().next_back().is_some_and(char::is_alphanumeric));
        let percent = text[found.end()..].trim_start_matches([' ', '\\']).starts_with('%');
        Some(Number { value: if negative { -value } else { value }, percent })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<f64>) {
        assert_eq!(last_number(text).map(|number| number.value), expect, "{text}");
    }

    #[test]
    fn the_last_number_is_read_in_its_usual_spellings() {
        check("From 3 to 42.", Some(42.0));
        check("$1,234,567.50 in all", Some(1_234_567.5));
        check("1\u{202f}234", Some(1234.0));
        check("it fell by -7", Some(-7.0));
        check("−7", Some(-7.0));
        check("-$7", Some(-7.0));
        check("3-5", Some(5.0));
        check("covid-19", Some(19.0));
        check("1,2,3", Some(3.0));
        check("12,3456", Some(3456.0));
        check("6.02e23", Some(6.02e23));
        check(".5", Some(0.5));
        check("none", None);
    }

    #[test]
    fn the_gsm8k_form_goes_before_later_numbers() {
        check("2 + 2 = 4\n#### 4\nI checked it 3 times", Some(4.0));
        check("#### done, 5", Some(5.0));
        check("5 ####", Some(5.0));
    }
}
