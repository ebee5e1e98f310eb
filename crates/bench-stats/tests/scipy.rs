//! Every statistic against the figures of SciPy, statsmodels, scikit-learn, krippendorff and choix;
//! `fixtures/make_fixtures.py` writes them.

#![expect(clippy::unwrap_used, reason = "a test panics when a fact does not hold")]

use bench_stats::{
    Clusters, Method, Options, PairCount, Scale, Test, Weighting, acceleration, bca, bradley_terry,
    cohens_kappa, compare, estimate, expanded_critical, holm, krippendorff_alpha, mcnemar_exact,
    tost, wilson,
};
use serde_json::Value;

fn cases(key: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("fixtures/fixtures.json")).unwrap();
    let cases = all[key].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn numbers(case: &Value, key: &str) -> Vec<f64> {
    case[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap()
}

fn count(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap() as usize
}

#[track_caller]
fn close(ours: f64, theirs: f64, tolerance: f64) {
    assert!((ours - theirs).abs() <= tolerance, "ours {ours}, theirs {theirs}");
}

/// Aligned 0/1 scores with these counts.
fn answers(both: usize, a_only: usize, b_only: usize, n: usize) -> (Vec<f64>, Vec<f64>) {
    (0..n)
        .map(|i| {
            let a = i < both + a_only;
            let b = i < both || (both + a_only..both + a_only + b_only).contains(&i);
            (f64::from(u8::from(a)), f64::from(u8::from(b)))
        })
        .unzip()
}

#[test]
fn wilson_equals_statsmodels() {
    for case in cases("wilson") {
        let ours =
            wilson(count(&case, "successes"), count(&case, "n"), number(&case, "level")).unwrap();
        close(ours.low, number(&case, "low"), 1e-10);
        close(ours.high, number(&case, "high"), 1e-10);
    }
}

#[test]
fn mcnemar_equals_statsmodels() {
    for case in cases("mcnemar") {
        close(
            mcnemar_exact(count(&case, "a_only"), count(&case, "b_only")),
            number(&case, "p"),
            1e-10,
        );
    }
}

#[test]
fn two_runs_that_an_unpaired_test_cannot_tell_apart_differ_when_paired() {
    let all: Value = serde_json::from_str(include_str!("fixtures/fixtures.json")).unwrap();
    let case = &all["two_runs"];
    let n = count(case, "n");
    let (a, b) = answers(count(case, "both"), count(case, "a_only"), count(case, "b_only"), n);
    let ours = compare(&a, &b, &Clusters::none(), &Options::default()).unwrap();
    close(ours.p_value, number(case, "mcnemar_p"), 1e-10);
    close(ours.p_value, 0.008, 0.0005);

    // The z-test that we do not offer, worked here: pooled proportion, both arms as if independent.
    let pooled = f64::midpoint(ours.mean_a, ours.mean_b);
    let z = ours.difference / (2.0 * pooled * (1.0 - pooled) / n as f64).sqrt();
    let unpaired = statrs::function::erf::erfc(z / std::f64::consts::SQRT_2);
    close(unpaired, number(case, "unpaired_p"), 1e-10);
    close(unpaired, 0.080, 0.0005);
}

#[test]
fn exact_permutation_equals_scipy() {
    for case in cases("permutation") {
        let (a, b) = (numbers(&case, "a"), numbers(&case, "b"));
        let ours = compare(&a, &b, &Clusters::none(), &Options::default()).unwrap();
        assert_eq!(ours.test, Test::PermutationExact);
        close(ours.p_value, number(&case, "p"), 1e-10);
    }
}

#[test]
fn bca_of_the_same_replicates_equals_scipy() {
    for case in cases("bca") {
        let values = numbers(&case, "values");
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let z = 1.959_963_984_540_054;
        let (low, high) =
            bca(&numbers(&case, "replicates"), mean, acceleration(&values), z).unwrap();
        close(low, number(&case, "low"), 1e-9);
        close(high, number(&case, "high"), 1e-9);
    }
}

#[test]
fn bca_of_our_own_replicates_agrees_with_many_of_scipy_but_for_the_expansion() {
    for case in cases("bca") {
        // As scores from 0 to 1: beyond them are quantities, with another method.
        let scores: Vec<f64> = numbers(&case, "values").iter().map(|x| x / 10.0).collect();
        let options = Options { draws: 20_000, ..Options::default() };
        let ours = estimate(&scores, &Clusters::none(), &options).unwrap();
        assert_eq!(ours.method, Method::Bca);
        let widening = expanded_critical(scores.len(), 0.95) / 1.959_963_984_540_054;
        let theirs = (number(&case, "high_of_many") - number(&case, "low_of_many")) / 10.0;
        close((ours.high - ours.low) / (theirs * widening), 1.0, 0.03);
    }
}

#[test]
fn holm_equals_statsmodels() {
    for case in cases("holm") {
        for (ours, theirs) in
            holm(&numbers(&case, "p")).into_iter().zip(numbers(&case, "corrected"))
        {
            close(ours, theirs, 1e-12);
        }
    }
}

#[test]
fn tost_of_continuous_scores_equals_statsmodels() {
    for case in cases("tost") {
        let (a, b) = (numbers(&case, "a"), numbers(&case, "b"));
        let ours = compare(&a, &b, &Clusters::none(), &Options::default()).unwrap();
        close(tost(&ours, number(&case, "margin")), number(&case, "p"), 1e-9);
    }
}

#[test]
fn tango_interval_and_equivalence_equal_a_search_of_the_likelihood() {
    for case in cases("tango") {
        let (a, b) = answers(0, count(&case, "a_only"), count(&case, "b_only"), count(&case, "n"));
        let ours = compare(&a, &b, &Clusters::none(), &Options::default()).unwrap();
        close(ours.low, number(&case, "low"), 1e-6);
        close(ours.high, number(&case, "high"), 1e-6);
        close(tost(&ours, number(&case, "margin")), number(&case, "tost"), 1e-6);
    }
}

#[test]
fn kappa_equals_scikit_learn() {
    for case in cases("kappa") {
        let (a, b) = (numbers(&case, "a"), numbers(&case, "b"));
        for (weighting, key) in [
            (Weighting::Plain, "none"),
            (Weighting::Linear, "linear"),
            (Weighting::Quadratic, "quadratic"),
        ] {
            let ours =
                cohens_kappa(&a, &b, weighting, &Options { draws: 500, ..Options::default() })
                    .unwrap();
            close(ours.value, number(&case, key), 1e-10);
            assert!(ours.low < ours.value && ours.value < ours.high);
        }
    }
}

#[test]
fn alpha_equals_the_krippendorff_package() {
    for case in cases("alpha") {
        let row = |row: &Value| row.as_array().unwrap().iter().map(Value::as_f64).collect();
        let grades: Vec<Vec<Option<f64>>> =
            case["grades"].as_array().unwrap().iter().map(row).collect();
        for (scale, key) in [
            (Scale::Nominal, "nominal"),
            (Scale::Ordinal, "ordinal"),
            (Scale::Interval, "interval"),
        ] {
            let ours =
                krippendorff_alpha(&grades, scale, &Options { draws: 500, ..Options::default() })
                    .unwrap();
            close(ours.value, number(&case, key), 1e-10);
            assert!(ours.low < ours.value && ours.value < ours.high);
        }
    }
}

#[test]
fn bradley_terry_equals_choix_and_its_information() {
    for case in cases("bradley_terry") {
        let wins: Vec<Vec<f64>> = case["wins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect())
            .collect();
        let k = wins.len();
        let pair = |i: usize, j: usize| {
            let ties = usize::from(wins[i][j].fract() > 0.0);
            let whole = |x: f64| (x - ties as f64 / 2.0) as usize;
            PairCount {
                a: i.to_string(),
                b: j.to_string(),
                a_wins: whole(wins[i][j]),
                b_wins: whole(wins[j][i]),
                ties,
            }
        };
        let counts: Vec<PairCount> =
            (0..k).flat_map(|i| (i + 1..k).map(move |j| (i, j))).map(|(i, j)| pair(i, j)).collect();
        let ours = bradley_terry(&counts, 0.95).unwrap();
        let theirs = numbers(&case, "strength").into_iter().zip(numbers(&case, "standard_error"));
        for (ours, (strength, error)) in ours.iter().zip(theirs) {
            close(ours.strength, strength, 1e-6);
            close(ours.standard_error, error, 1e-6);
        }
    }
}

#[test]
fn quantiles_of_student_equal_scipy() {
    for case in cases("t_quantiles") {
        let (degrees, level, t) =
            (number(&case, "degrees"), number(&case, "level"), number(&case, "t"));
        let n = degrees as usize + 1;
        close(expanded_critical(n, level) / (n as f64 / degrees).sqrt() / t, 1.0, 1e-9);
    }
}
