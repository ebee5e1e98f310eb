//! Precision, recall, F1 and macro-F1 against scikit-learn; `fixtures/make_classification.py` writes
//! the figures.

use bench_stats::{Clusters, Labelled, Options, label_scores, macro_f1};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    labels: usize,
    gold: Vec<usize>,
    predicted: Vec<i64>,
    accuracy: f64,
    macro_f1: f64,
    precision: Vec<f64>,
    recall: Vec<f64>,
    f1: Vec<f64>,
    support: Vec<usize>,
}

#[track_caller]
fn close(ours: f64, theirs: f64) {
    assert!((ours - theirs).abs() <= 1e-12, "ours {ours}, theirs {theirs}");
}

#[test]
fn every_figure_equals_that_of_scikit_learn() {
    let fixture: Fixture =
        serde_json::from_str(include_str!("fixtures/classification.json")).unwrap();
    assert_eq!(fixture.cases.len(), 5);
    let options = Options { draws: 500, ..Options::default() };
    for case in fixture.cases {
        let said = case.predicted.iter().map(|&label| usize::try_from(label).ok());
        let samples: Vec<Labelled> = case
            .gold
            .iter()
            .zip(said)
            .map(|(&gold, said)| Labelled { gold, predicted: vec![said] })
            .collect();
        let ours = macro_f1(&samples, &Clusters::none(), &options).unwrap();
        close(ours.value, case.macro_f1);
        let right = samples.iter().filter(|s| s.predicted == [Some(s.gold)]).count();
        close(right as f64 / samples.len() as f64, case.accuracy);
        for (at, score) in label_scores(&samples, case.labels).into_iter().enumerate() {
            assert_eq!(score.support, case.support[at]);
            // Theirs is 0 where there is nothing to divide by.
            close(score.precision.unwrap_or(0.0), case.precision[at]);
            close(score.recall.unwrap_or(0.0), case.recall[at]);
            close(score.f1.unwrap_or(0.0), case.f1[at]);
        }
    }
}
