//! `citation`: do the numbers in brackets name passages that hold the answer?
//!
//! Measured against the sample's gold documents, not against what a model thinks of the passages.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use async_trait::async_trait;
use bench_core::backend::BackendError;
use bench_core::dataset::Sample;
use bench_core::record::{Retrieved, Verdict};
use bench_core::spec::CitationFigure;
use regex::Regex;

use super::{Scorer, wrong};

/// Precision, recall or F1 of the cited documents.
pub(super) struct Citation {
    pub(super) name: &'static str,
    pub(super) figure: CitationFigure,
}

#[async_trait]
impl Scorer for Citation {
    fn name(&self) -> &str {
        self.name
    }

    async fn score(&self, _: &Sample, _: &str) -> Result<Verdict, BackendError> {
        Ok(Verdict::unscored("the prompt shows no passage"))
    }

    async fn score_shown(
        &self,
        sample: &Sample,
        answer: &str,
        retrieved: &[Retrieved],
    ) -> Result<Verdict, BackendError> {
        Ok(score(self.figure, sample, answer, retrieved))
    }
}

fn score(
    figure: CitationFigure,
    sample: &Sample,
    answer: &str,
    retrieved: &[Retrieved],
) -> Verdict {
    if sample.context_ids.is_empty() {
        return Verdict::unscored("the sample names no gold document");
    }
    if retrieved.iter().all(|passage| passage.number.is_none()) {
        return Verdict::unscored("the prompt shows no passage");
    }
    let numbers = numbers(answer);
    if numbers.is_empty() {
        return wrong("the answer cites nothing");
    }
    let document = |number: u32| {
        let mut shown = retrieved.iter();
        shown.find(|one| one.number == Some(number)).map(|one| one.document.as_str())
    };
    // A number that no passage has is a citation of its own, and wrong.
    let invented = numbers.iter().filter(|number| document(**number).is_none()).count();
    let cited: BTreeSet<&str> = numbers.iter().filter_map(|number| document(*number)).collect();
    let gold: BTreeSet<&str> = sample.context_ids.iter().map(String::as_str).collect();
    let right = cited.intersection(&gold).count() as f64;
    let precision = right / (cited.len() + invented) as f64;
    let recall = right / gold.len() as f64;
    Verdict::scored(match figure {
        CitationFigure::Precision => precision,
        CitationFigure::Recall => recall,
        CitationFigure::F1 if right > 0.0 => 2.0 * precision * recall / (precision + recall),
        CitationFigure::F1 => 0.0,
    })
}

/// The different numbers that stand in square brackets: `[1]`, `[1, 3]`, `[1][3]`.
fn numbers(answer: &str) -> BTreeSet<u32> {
    static BRACKETS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\[\s*(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\s*\]").expect("the pattern is constant")
    });
    BRACKETS
        .captures_iter(answer)
        .flat_map(|found| found[1].split([',', ';']).map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|number| number.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> Vec<Retrieved> {
        let passage = |document: &str, number: Option<u32>| Retrieved {
            id: document.into(),
            document: document.into(),
            score: 1.0,
            in_prompt: number.is_some(),
            number,
        };
        vec![passage("a", Some(2)), passage("b", Some(1)), passage("c", None)]
    }

    fn sample(gold: &[&str]) -> Sample {
        Sample {
            context_ids: gold.iter().map(|id| (*id).to_owned()).collect(),
            ..Sample::default()
        }
    }

    #[track_caller]
    fn check(answer: &str, gold: &[&str], expect: (f64, f64, f64)) {
        let value = |figure| score(figure, &sample(gold), answer, &shown()).value().unwrap();
        let found = (
            value(CitationFigure::Precision),
            value(CitationFigure::Recall),
            value(CitationFigure::F1),
        );
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(
            close(found.0, expect.0) && close(found.1, expect.1) && close(found.2, expect.2),
            "{answer}: {found:?}"
        );
    }

    #[test]
    fn precision_and_recall_are_those_of_the_cited_documents() {
        check("Yes [2].", &["a"], (1.0, 1.0, 1.0));
        check("Yes [1][2].", &["a"], (0.5, 1.0, 2.0 / 3.0));
        check("Yes [2].", &["a", "b"], (1.0, 0.5, 2.0 / 3.0));
        check("Yes [1, 2].", &["a", "b"], (1.0, 1.0, 1.0));
        check("Yes [1].", &["a"], (0.0, 0.0, 0.0));
        check("Yes [2] [7].", &["a"], (0.5, 1.0, 2.0 / 3.0));
        check("Yes, in 1911.", &["a"], (0.0, 0.0, 0.0));
    }

    #[test]
    fn without_gold_or_passages_there_is_no_figure() {
        let figure = CitationFigure::F1;
        assert_eq!(score(figure, &sample(&[]), "[1]", &shown()).value(), None);
        assert_eq!(score(figure, &sample(&["a"]), "[1]", &[]).value(), None);
    }
}
