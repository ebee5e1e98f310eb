//! Our measures equal `pytrec_eval`'s on rankings that `fixtures/metrics.py` drew.

use std::collections::BTreeMap;

use bench_core::metrics;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    ranking: Vec<String>,
    grades: BTreeMap<String, u32>,
    expect: BTreeMap<String, f64>,
}

#[test]
fn measures_equal_those_of_pytrec_eval() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("fixtures/metrics.json")).unwrap();
    assert_eq!(cases.len(), 40);
    for (n, case) in cases.iter().enumerate() {
        let ranking: Vec<&str> = case.ranking.iter().map(String::as_str).collect();
        let grades = case.grades.iter().map(|(id, grade)| (id.as_str(), *grade)).collect();
        for (name, expect) in &case.expect {
            let (measure, k) = name.split_once('@').unwrap();
            let measure = match measure {
                "recall" => metrics::recall,
                "precision" => metrics::precision,
                "hit" => metrics::hit,
                "ndcg" => metrics::ndcg,
                "average_precision" => metrics::average_precision,
                "reciprocal_rank" => metrics::reciprocal_rank,
                other => panic!("no measure `{other}`"),
            };
            let value = measure(&ranking, &grades, k.parse().unwrap()).unwrap();
            assert!((value - expect).abs() < 1e-9, "case {n}, {name}: {value} is not {expect}");
        }
    }
}
