//! Facts that hold for any scores.

#![expect(clippy::unwrap_used, reason = "a test panics when a fact does not hold")]

use bench_stats::{
    ArmScores, Clusters, Comparison, Family, FamilyError, Method, Options, Pairs, Test, Verdict,
    analyse, compare, estimate,
};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

fn options() -> Options {
    Options { draws: 500, margin: Some(0.1), ..Options::default() }
}

/// Scores of some kind, with some unscored, for `arms` arms.
fn table(
    rng: &mut ChaCha8Rng,
    arms: usize,
    n: usize,
    binary: bool,
    unscored: f64,
) -> Vec<ArmScores> {
    (0..arms)
        .map(|arm| ArmScores {
            arm: format!("arm_{arm}"),
            scores: (0..n)
                .map(|_| {
                    let x: f64 = rng.random::<f64>().powf(1.0 + arm as f64 / 4.0);
                    let score = if binary { x.round() } else { x };
                    (rng.random::<f64>() >= unscored).then_some(score)
                })
                .collect(),
        })
        .collect()
}

fn analysed(arms: &[ArmScores], clusters: &Clusters) -> Family {
    analyse(arms, clusters, &Pairs::All, &options()).unwrap()
}

#[track_caller]
fn same(x: &Comparison, y: &Comparison) {
    let figures = |c: &Comparison| {
        let corrected = [c.p_holm, c.equivalence_p.unwrap(), c.equivalence_p_holm.unwrap()];
        [c.mean_a, c.mean_b, c.difference, c.standard_error, c.low, c.high, c.p_value]
            .into_iter()
            .chain(corrected)
    };
    for (x, y) in figures(x).zip(figures(y)) {
        assert!((x - y).abs() < 1e-9, "{x} {y}");
    }
    assert_eq!((x.n, x.test, x.verdict, x.method), (y.n, y.test, y.verdict, y.method));
}

#[test]
fn shuffling_samples_changes_nothing() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for round in 0..16 {
        let unscored = if round % 4 < 2 { 0.0 } else { 0.1 };
        let arms = table(&mut rng, 3, 60, round % 2 == 0, unscored);
        let labels: Vec<usize> = (0..60).map(|i| if round < 8 { i } else { i / 3 }).collect();
        let mut order: Vec<usize> = (0..60).collect();
        order.shuffle(&mut rng);
        let shuffled: Vec<ArmScores> = arms
            .iter()
            .map(|arm| ArmScores {
                arm: arm.arm.clone(),
                scores: order.iter().map(|&i| arm.scores[i]).collect(),
            })
            .collect();
        let before = analysed(&arms, &Clusters::from_labels(&labels));
        let after = analysed(&shuffled, &Clusters::from_labels(order.iter().map(|&i| labels[i])));
        for (x, y) in before.pairs.iter().zip(&after.pairs) {
            same(x.comparison.as_ref().unwrap(), y.comparison.as_ref().unwrap());
        }
        for (x, y) in before.means.iter().zip(&after.means) {
            let [x, y] = [x, y].map(|mean| mean.estimate.as_ref().unwrap());
            assert!((x.low - y.low).abs() < 1e-9 && (x.high - y.high).abs() < 1e-9);
        }
    }
}

#[test]
fn swapping_arms_flips_the_sign_and_nothing_else() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for round in 0..16 {
        let arms = table(&mut rng, 2, 50, round % 2 == 0, 0.0);
        let [a, b] = [0, 1].map(|i| arms[i].scores.iter().copied().flatten().collect::<Vec<f64>>());
        let clusters = if round < 8 {
            Clusters::none()
        } else {
            Clusters::from_labels((0..50).map(|i| i / 2))
        };
        let one = compare(&a, &b, &clusters, &options()).unwrap();
        let other = compare(&b, &a, &clusters, &options()).unwrap();
        same(&one, &other.swapped());
        assert_eq!((one.a_only, one.b_only), (other.b_only, other.a_only));
    }
}

#[test]
fn the_order_of_arms_in_a_family_changes_no_figure() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let arms = table(&mut rng, 4, 50, false, 0.05);
    let reversed: Vec<ArmScores> = arms.iter().rev().cloned().collect();
    let [one, other] = [&arms, &reversed].map(|arms| analysed(arms, &Clusters::none()));
    for x in &one.pairs {
        let y = other.pairs.iter().find(|y| y.a == x.b && y.b == x.a).unwrap();
        same(x.comparison.as_ref().unwrap(), &y.comparison.as_ref().unwrap().swapped());
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let arms = table(&mut ChaCha8Rng::seed_from_u64(4), 3, 200, false, 0.05);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| analysed(&arms, &Clusters::none()))
    };
    assert_eq!(with(1), with(5));
}

#[test]
fn a_pair_in_a_family_agrees_with_the_pair_alone_but_for_the_correction() {
    let arms = table(&mut ChaCha8Rng::seed_from_u64(5), 4, 120, false, 0.0);
    let options = Options { draws: 20_000, ..options() };
    let family = analyse(&arms, &Clusters::none(), &Pairs::All, &options).unwrap();
    let [a, b] = [0, 3].map(|i| arms[i].scores.iter().copied().flatten().collect::<Vec<f64>>());
    let alone = compare(&a, &b, &Clusters::none(), &options).unwrap();
    let found = family
        .pairs
        .iter()
        .find(|p| p.a == "arm_0" && p.b == "arm_3")
        .unwrap()
        .comparison
        .as_ref()
        .unwrap();
    assert!((found.low - alone.low).abs() < 0.004 && (found.high - alone.high).abs() < 0.004);
    assert!((found.p_value - alone.p_value).abs() < 0.01);
    assert!(found.p_holm >= found.p_value && (alone.p_holm - alone.p_value).abs() < 1e-15);
}

#[test]
fn unscored_samples_are_left_out_of_means_and_of_pairs() {
    let scores = |values: &[Option<f64>]| values.to_vec();
    let arms = [
        ArmScores { arm: "a".into(), scores: scores(&[Some(1.0), Some(1.0), None, Some(0.0)]) },
        ArmScores { arm: "b".into(), scores: scores(&[None, Some(0.0), Some(1.0), Some(0.0)]) },
    ];
    let family = analysed(&arms, &Clusters::none());
    assert_eq!((family.means[0].unscored, family.means[0].estimate.as_ref().unwrap().n), (1, 3));
    let comparison = family.pairs[0].comparison.as_ref().unwrap();
    assert_eq!((comparison.n, comparison.a_only, comparison.b_only), (2, Some(1), Some(0)));
}

#[test]
fn equal_scores_have_an_interval_without_width_that_says_so() {
    let ours = estimate(&[0.5; 10], &Clusters::none(), &options()).unwrap();
    assert_eq!(
        (ours.low.to_bits(), ours.high.to_bits(), ours.method),
        (0.5_f64.to_bits(), 0.5_f64.to_bits(), Method::Constant)
    );
}

#[test]
fn one_score_that_is_neither_right_nor_wrong_has_no_interval() {
    assert_eq!(estimate(&[0.5], &Clusters::none(), &options()), None);
    assert_eq!(estimate(&[], &Clusters::none(), &options()), None);
    assert_eq!(estimate(&[f64::NAN, 0.3], &Clusters::none(), &options()), None);
    assert_eq!(compare(&[1.0], &[0.0], &Clusters::none(), &options()), None);
    assert_eq!(compare(&[0.1, 0.2, 0.3], &[0.1, 0.2], &Clusters::none(), &options()), None);
}

#[test]
fn arms_that_never_differ_are_equivalent_only_when_enough_samples_say_so() {
    let outcome = |n: usize| {
        let a: Vec<f64> = (0..n).map(|i| (i % 7) as f64 / 7.0).collect();
        compare(&a, &a, &Clusters::none(), &options()).unwrap()
    };
    assert_eq!(
        (outcome(10).verdict, outcome(100).verdict),
        (Verdict::Undecided, Verdict::Equivalent)
    );
    assert_eq!(
        (outcome(10).p_value.to_bits(), outcome(10).test),
        (1.0_f64.to_bits(), Test::PermutationExact)
    );
}

#[test]
fn equal_answers_in_clusters_leave_a_difference_as_open_as_that_many_samples() {
    let clusters = Clusters::from_labels((0..80).map(|at| at / 2));
    let same = compare(&[1.0; 80], &[1.0; 80], &clusters, &options()).unwrap();
    // Tango's end without a discordant sample is z^2 / (n + z^2), here with t of 39 degrees.
    let squared = 2.022_690_92_f64.powi(2);
    assert!((same.high - squared / (40.0 + squared)).abs() < 1e-6, "{same:?}");
    assert!((same.low + same.high).abs() < 1e-9, "{same:?}");
    assert_eq!((same.clusters, same.method), (Some(40), Method::Tango));
    let apart = compare(&[1.0; 80], &[0.0; 80], &clusters, &options()).unwrap();
    assert!(apart.low < 1.0 && apart.low > 0.8 && apart.high > 0.999, "{apart:?}");
}

#[test]
fn clusters_widen_the_interval_of_answers_that_go_together() {
    let values: Vec<f64> = (0..120).map(|i| f64::from(u8::from((i / 10) % 3 == 0))).collect();
    let alone = estimate(&values, &Clusters::none(), &options()).unwrap();
    let together =
        estimate(&values, &Clusters::from_labels((0..120).map(|i| i / 10)), &options()).unwrap();
    assert_eq!((alone.clusters, together.clusters), (None, Some(12)));
    assert!(together.high - together.low > 2.0 * (alone.high - alone.low));
}

#[test]
fn scores_that_do_not_fit_together_are_named() {
    let arm = |name: &str, scores: &[Option<f64>]| ArmScores {
        arm: name.into(),
        scores: scores.to_vec(),
    };
    let message = |arms: &[ArmScores], clusters: &Clusters, pairs: &Pairs| -> String {
        let error: FamilyError = analyse(arms, clusters, pairs, &options()).unwrap_err();
        error.to_string()
    };
    let two = [arm("a", &[Some(1.0)]), arm("b", &[])];
    assert!(
        message(&two, &Clusters::none(), &Pairs::All)
            .starts_with("arm `b` has 0 samples where the others have 1")
    );
    let twice = [arm("a", &[Some(1.0)]), arm("a", &[Some(1.0)])];
    assert_eq!(
        message(&twice, &Clusters::none(), &Pairs::All),
        "two arms are called `a`: rename one"
    );
    let infinite = [arm("a", &[Some(f64::INFINITY)])];
    assert!(message(&infinite, &Clusters::none(), &Pairs::All).contains("not finite at sample 0"));
    let fine = [arm("a", &[Some(1.0)])];
    assert!(
        message(&fine, &Clusters::from_labels([1, 1]), &Pairs::All)
            .starts_with("2 cluster labels for 1 samples")
    );
    assert!(
        message(&fine, &Clusters::none(), &Pairs::Against("z".into()))
            .starts_with("no arm is called `z`")
    );
}

#[test]
fn a_quantile_lies_between_the_order_statistics_that_the_binomial_gives() {
    // Ranks from exact binomial sums in Python (math.comb).
    for (n, share, low, high) in [
        (100, 0.5, Some(40.0), Some(61.0)),
        (20, 0.5, Some(6.0), Some(15.0)),
        (200, 0.95, Some(184.0), Some(197.0)),
        (72, 0.95, Some(64.0), Some(72.0)),
        (40, 0.95, Some(35.0), None),
        (0, 0.5, None, None),
    ] {
        let sorted: Vec<f64> = (1..=n).map(f64::from).collect();
        assert_eq!(
            bench_stats::quantile_interval(&sorted, share, 0.95),
            [low, high],
            "{n} {share}"
        );
    }
}

#[test]
fn the_interval_of_a_mean_of_shares_stays_between_0_and_1() {
    // Recall of two gold documents on samples that share documents.
    let values: Vec<f64> = (0..36).map(|at| if at % 18 == 0 { 0.5 } else { 1.0 }).collect();
    let clusters = Clusters::from_labels((0..36).map(|at| at / 3));
    let estimate = bench_stats::estimate(&values, &clusters, &options()).unwrap();
    assert_eq!(estimate.method, bench_stats::Method::WilsonClustered);
    assert!(estimate.low > 0.7 && estimate.low < estimate.mean, "{estimate:?}");
    assert!(estimate.high > estimate.mean && estimate.high <= 1.0, "{estimate:?}");
}
