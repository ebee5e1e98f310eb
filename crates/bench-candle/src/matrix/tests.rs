use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| data[r * columns + c])).collect()
}

/// Every layout of both factors, on every kernel, against sums in f64.
#[track_caller]
fn check(rows: usize, columns: usize, depth: usize) {
    let (a, b) = (random(rows * depth, 1), random(depth * columns, 2));
    let stride = columns + 3;
    let before = random(rows * stride, 3);
    let mut expected = before.clone();
    for row in 0..rows {
        for column in 0..columns {
            let sum: f64 = (0..depth)
                .map(|k| f64::from(a[row * depth + k]) * f64::from(b[k * columns + column]))
                .sum();
            expected[row * stride + column] += sum as f32;
        }
    }
    let (a_t, b_t) = (transposed(&a, rows, depth), transposed(&b, depth, columns));
    for kernel in Kernel::available() {
        for right in
            [Rhs::Rows { data: &b, stride: columns }, Rhs::Columns { data: &b_t, stride: depth }]
        {
            for left in 0..3 {
                let mut lhs = Lhs { kernel, ..Lhs::default() };
                match left {
                    0 => lhs.pack(&a, rows, depth, depth),
                    1 => lhs.pack_rows(rows, depth, |row| &a[row * depth..][..depth]),
                    _ => lhs.pack_transposed(&a_t, rows, depth, rows),
                }
                for everywhere in [true, false] {
                    let mut out = before.clone();
                    // In two parts, as an adapter beside a weight.
                    let cut = depth / 3;
                    let rest = match right {
                        Rhs::Rows { data, stride } => {
                            Rhs::Rows { data: &data[cut * stride..], stride }
                        }
                        Rhs::Columns { data, stride } => {
                            Rhs::Columns { data: &data[cut..], stride }
                        }
                    };
                    let mut terms =
                        vec![Term { lhs: &lhs, from: cut, depth: depth - cut, rhs: rest }];
                    if cut > 0 {
                        terms.push(Term { lhs: &lhs, from: 0, depth: cut, rhs: right });
                    }
                    let product = if everywhere { product } else { product_here };
                    product(&terms, &mut out, columns, stride, Into::Add);
                    for (i, (out, expected)) in out.iter().zip(&expected).enumerate() {
                        let tolerance = 1e-5 * (depth as f32).sqrt();
                        assert!(
                            (out - expected).abs() < tolerance,
                            "{kernel:?} {i}: {out} {expected}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn products_are_right_in_every_shape_and_on_every_kernel() {
    for (rows, columns, depth) in [
        (1, 1, 1),
        (12, 32, 16),
        (13, 33, 17),
        (48, 64, 100),
        (50, 130, 800),
        (7, 200, 3),
        (100, 16, 40),
    ] {
        check(rows, columns, depth);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (a, b) = (random(70 * 900, 1), random(900 * 300, 2));
    let mut lhs = Lhs::default();
    lhs.pack(&a, 70, 900, 900);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut out = vec![0.0; 70 * 300];
        let rhs = Rhs::Rows { data: &b, stride: 300 };
        pool.install(|| product(&[Term::whole(&lhs, rhs)], &mut out, 300, 300, Into::Set));
        out
    };
    assert_eq!(run(1), run(3));
}
