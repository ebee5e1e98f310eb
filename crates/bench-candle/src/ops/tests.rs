use candle_core::{D, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::attention::{Heads, attention, attention_backward};
use super::loss::{Scratch, predict};
use super::norm::{norm, norm_backward};
use super::rope::{Rotations, Turn};
use super::swiglu::{Activation, swiglu, swiglu_backward};
use super::{exp, largest, sum_of};

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| random.random_range(-1.5..1.5)).collect()
}

fn variable(data: &[f32], shape: (usize, usize)) -> Var {
    Var::from_slice(data, shape, &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The derivatives of the sum of `y * d` by candle.
fn derivatives<const N: usize>(y: &Tensor, d: &[f32], inputs: [&Var; N]) -> [Vec<f32>; N] {
    let d = Tensor::from_slice(d, y.shape(), &Device::Cpu).unwrap();
    let gradients = (y * d).unwrap().sum_all().unwrap().backward().unwrap();
    inputs.map(|input| numbers(gradients.get(input).unwrap()))
}

#[track_caller]
fn near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let tolerance = 2e-5 * expected.abs().max(1.0);
        assert!((found - expected).abs() < tolerance, "{i}: {found} is not {expected}");
    }
}

/// The slope of `f` along `way` at `x`, by central differences in f64 sums.
fn slope(x: &[f32], way: &[f32], f: impl Fn(&[f32]) -> f64) -> f64 {
    let step = 1e-2;
    let at = |step: f32| f(&x.iter().zip(way).map(|(x, w)| x + step * w).collect::<Vec<_>>());
    (at(step) - at(-step)) / (2.0 * f64::from(step))
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[track_caller]
fn is_slope(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-2 * expected.abs().max(1.0), "{found}, {expected}");
}

#[test]
fn the_exponential_is_right_to_two_units_in_the_last_place() {
    for i in -870_000..=880_000 {
        let x = i as f32 * 1e-4;
        let expected = f64::from(x).exp();
        let error = (f64::from(exp(x)) - expected).abs() / expected;
        assert!(error < 2.5e-7, "{x}: {error}");
    }
    let bits = |values: [f32; 3]| values.map(f32::to_bits);
    assert_eq!(bits([exp(0.0), exp(-100.0), exp(f32::NEG_INFINITY)]), bits([1.0, 0.0, 0.0]));
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn sums_and_maxima_see_every_element() {
    let values: Vec<f32> = (1..=37).map(|i| i as f32).collect();
    near(&[sum_of(&values, &values, |a, _| a)], &[703.0]);
    for i in 0..37 {
        let mut values = vec![-2.0; 37];
        values[i] = -1.0;
        near(&[largest(&values)], &[-1.0]);
    }
}

#[test]
fn norm_is_that_of_primitives_and_of_finite_differences() {
    let (rows, size, epsilon) = (3, 37, 1e-5);
    let (x, w, d) = (random(rows * size, 1), random(size, 2), random(rows * size, 3));
    let mut y = vec![0.0; x.len()];
    norm(&x, &w, epsilon, &mut y);
    let mut dx = vec![1.0; x.len()];
    norm_backward(&d, &x, &w, epsilon, &mut dx);
    for dx in &mut dx {
        *dx -= 1.0;
    }
    let v = variable(&x, (rows, size));
    let mean = (v.sqr().unwrap().mean_keepdim(D::Minus1).unwrap() + f64::from(epsilon)).unwrap();
    let expected = v.broadcast_div(&mean.sqrt().unwrap()).unwrap();
    let expected =
        expected.broadcast_mul(&Tensor::new(w.as_slice(), &Device::Cpu).unwrap()).unwrap();
    near(&y, &numbers(&expected));
    near(&dx, &derivatives(&expected, &d, [&v])[0]);
    let way = random(x.len(), 4);
    let along = slope(&x, &way, |x| {
        let mut y = vec![0.0; x.len()];
        norm(x, &w, epsilon, &mut y);
        dot(&y, &d)
    });
    is_slope(dot(&dx, &way), along);
}

#[test]
fn a_turn_backward_undoes_a_turn_forward_and_keeps_lengths() {
    let rotations = Rotations::new(&[1.0, 0.1, 0.01], 9);
    let before = random(2 * 14, 1);
    let mut rows = before.clone();
    rotations.turn(&mut rows, 14, 2, &[3, 8], Turn::Forward);
    assert!((dot(&rows, &rows) - dot(&before, &before)).abs() < 1e-4);
    assert_eq!(rows[12..14], before[12..14], "what follows the heads stays");
    let (sin, cos) = 3f32.sin_cos();
    near(&rows[..1], &[before[0] * cos - before[3] * sin]);
    rotations.turn(&mut rows, 14, 2, &[3, 8], Turn::Backward);
    near(&rows, &before);
}

#[test]
fn the_gated_unit_is_that_of_primitives_and_of_finite_differences() {
    let (rows, size) = (3, 21);
    let (x, d) = (random(rows * 2 * size, 1), random(rows * size, 2));
    for activation in [Activation::Silu, Activation::Gelu] {
        let mut y = vec![0.0; rows * size];
        swiglu(activation, &x, size, &mut y);
        let (mut value, mut dx) = (d.clone(), vec![0.0; x.len()]);
        swiglu_backward(activation, &x, size, &mut value, &mut dx);
        assert_eq!(value, y, "the way back gives the value again");
        let v = variable(&x, (rows, 2 * size));
        let part = |from| v.narrow(1, from, size).unwrap();
        let gate = match activation {
            Activation::Silu => part(0).silu().unwrap(),
            Activation::Gelu => part(0).gelu().unwrap(),
        };
        let expected = (gate * part(size)).unwrap();
        near(&y, &numbers(&expected));
        near(&dx, &derivatives(&expected, &d, [&v])[0]);
        let way = random(x.len(), 4);
        let along = slope(&x, &way, |x| {
            let mut y = vec![0.0; d.len()];
            swiglu(activation, x, size, &mut y);
            dot(&y, &d)
        });
        is_slope(dot(&dx, &way), along);
    }
}

#[test]
fn attention_is_that_of_primitives_and_of_finite_differences() {
    // The last one is long enough to be shared out among threads.
    let lengths = [vec![1], vec![5, 70, 3], vec![300]];
    let windows = [None, Some(1), Some(7), Some(100)];
    for (lengths, window) in lengths.iter().flat_map(|l| windows.map(|window| (l, window))) {
        let scale = 0.3;
        let heads = Heads { query_heads: 4, key_heads: 2, head: 8, scale, window };
        let n: usize = lengths.iter().sum();
        let mut segments = Vec::new();
        for length in lengths {
            let start = segments.last().map_or(0, |last: &std::ops::Range<usize>| last.end);
            segments.push(start..start + length);
        }
        let (qkv, d) = (random(n * 64, 1), random(n * 32, 2));
        let run = |qkv: &[f32]| {
            let (mut out, mut log_sums) = (vec![0.0; n * 32], vec![0.0; n * 4]);
            attention(qkv, &segments, heads, &mut out, &mut log_sums);
            (out, log_sums)
        };
        let (out, log_sums) = run(&qkv);
        let mut d_qkv = vec![f32::NAN; qkv.len()];
        attention_backward(&qkv, &segments, heads, &out, &log_sums, &d, &mut d_qkv);

        let v = variable(&qkv, (n, 64));
        let segment_of = |token: usize| segments.iter().position(|s| s.contains(&token));
        let mask: Vec<f32> = (0..n * n)
            .map(|i| (i / n, i % n))
            .map(|(query, key)| {
                let near = window.is_none_or(|window| key + window > query);
                key <= query && near && segment_of(query) == segment_of(key)
            })
            .map(|seen| if seen { 0.0 } else { f32::NEG_INFINITY })
            .collect();
        let mask = Tensor::from_vec(mask, (n, n), &Device::Cpu).unwrap();
        let outputs: Vec<Tensor> = (0..4)
            .map(|head| {
                let part = |from| v.narrow(1, from, 8).unwrap().contiguous().unwrap();
                let (q, k, v) = (part(head * 8), part(32 + head / 2 * 8), part(48 + head / 2 * 8));
                let scores = (q.matmul(&k.t().unwrap()).unwrap() * f64::from(scale)).unwrap();
                let shares =
                    candle_nn::ops::softmax(&(scores + &mask).unwrap(), D::Minus1).unwrap();
                shares.matmul(&v).unwrap()
            })
            .collect();
        let expected = Tensor::cat(&outputs, 1).unwrap();
        near(&out, &numbers(&expected));
        near(&d_qkv, &derivatives(&expected, &d, [&v])[0]);
        let way = random(qkv.len(), 4);
        is_slope(dot(&d_qkv, &way), slope(&qkv, &way, |qkv| dot(&run(qkv).0, &d)));
    }
}

#[test]
fn the_loss_is_that_of_primitives_and_of_finite_differences() {
    // More rows than have their logits at a time.
    let (rows, size, vocabulary) = (300, 8, 40);
    let (x, head) = (random(rows * size, 1), random(vocabulary * size, 2));
    let targets: Vec<u32> = (0..rows as u32).map(|i| i * 7 % 40).collect();
    let mut scratch = Scratch::default();
    let mut dx = x.clone();
    let predictions = predict(&mut dx, &head, size, &targets, Some(0.25), &mut scratch);
    let plain = predict(&mut x.clone(), &head, size, &targets, None, &mut scratch);
    let v = variable(&x, (rows, size));
    let head_t = Tensor::from_slice(&head, (vocabulary, size), &Device::Cpu).unwrap().t().unwrap();
    let logits = v.matmul(&head_t).unwrap();
    let shares = candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap();
    let index = Tensor::new(targets.as_slice(), &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    let expected = shares.gather(&index, 1).unwrap().neg().unwrap();
    let losses: Vec<f32> = predictions.iter().map(|prediction| prediction.loss).collect();
    near(&losses, &numbers(&expected));
    near(&dx, &derivatives(&expected, &vec![0.25; rows], [&v])[0]);
    let top: Vec<u32> = logits.argmax(1).unwrap().to_vec1().unwrap();
    for ((found, plain), top) in predictions.iter().zip(&plain).zip(top) {
        assert_eq!((found.top, plain.top), (top, top));
        near(&[found.loss], &[plain.loss]);
    }
    let way = random(x.len(), 4);
    let along = slope(&x, &way, |x| {
        let predictions =
            predict(&mut x.to_vec(), &head, size, &targets, None, &mut Scratch::default());
        predictions.iter().map(|prediction| 0.25 * f64::from(prediction.loss)).sum()
    });
    is_slope(dot(&dx, &way), along);
}
