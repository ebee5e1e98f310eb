//! `PiSSA` (Meng et al. 2024): the adapter starts as the weight's largest singular values and
//! vectors, which leave the frozen weight.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::adapter::{Group, Layout, normal};
use crate::matrix::{Into, Lhs, Rhs, Term, product};
use crate::merge::fold;
use crate::model::{Model, Slot};

/// Columns of the subspace beyond the rank, and rounds of iteration: PEFT's `pissa_niter_16`.
const OVERSAMPLING: usize = 10;
const ROUNDS: usize = 16;

/// Gives A and B of every adapted projection the weight's principal part, `scale * B · A`, and leaves
/// the rest in `model`.
pub(crate) fn take_out(model: &mut Model, layout: &Layout, parameters: &mut [f32], seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for layer in 0..model.config.layers {
        for group in Group::ALL {
            let place = layout.group(layer, group);
            for (i, (projection, b_place)) in place.members.iter().enumerate() {
                let (rows, columns) = projection.shape(&model.config);
                let rank = layout.rank;
                let slot = Slot::Weight(layer, *projection);
                let principal = principal(model.tensor(slot), [rows, columns], rank, &mut random);
                let a = &mut parameters[place.a.start + i * rank * columns..][..rank * columns];
                let scale = f64::from(layout.scale());
                for (k, (value, _, right)) in principal.iter().enumerate() {
                    let root = (value / scale).sqrt();
                    let row = a[k * columns..][..columns].iter_mut().zip(right);
                    row.for_each(|(a, right)| *a = (root * right) as f32);
                }
                let a = a.to_vec();
                let b = &mut parameters[b_place.clone()];
                for (k, (value, left, _)) in principal.iter().enumerate() {
                    let root = (value / scale).sqrt();
                    let column = b.iter_mut().skip(k).step_by(rank).zip(left);
                    column.for_each(|(b, left)| *b = (root * left) as f32);
                }
                let sizes = [rows, rank, columns];
                let rest = fold(model.tensor(slot), b, &a, sizes, -layout.scale());
                model.put(slot, &rest);
            }
        }
    }
}

/// The `rank` largest singular values of a matrix with their left and right vectors, by subspace
/// iteration from random directions (Halko, Martinsson and Tropp 2011).
fn principal(
    weight: &[f32],
    [rows, columns]: [usize; 2],
    rank: usize,
    random: &mut ChaCha8Rng,
) -> Vec<(f64, Vec<f64>, Vec<f64>)> {
    let width = (rank + OVERSAMPLING).min(rows).min(columns);
    // A basis is kept as its transpose: `width` rows.
    let mut right: Vec<Vec<f64>> =
        (0..width).map(|_| (0..columns).map(|_| f64::from(normal(random))).collect()).collect();
    orthonormal(&mut right);
    let by_columns = Rhs::Columns { data: weight, stride: columns };
    let by_rows = Rhs::Rows { data: weight, stride: columns };
    let mut left = times(&right, by_columns, rows);
    orthonormal(&mut left);
    for _ in 0..ROUNDS {
        right = times(&left, by_rows, columns);
        orthonormal(&mut right);
        left = times(&right, by_columns, rows);
        orthonormal(&mut left);
    }
    // With `left` orthonormal, the small matrix leftᵀ · W has W's singular values.
    let small = times(&left, by_rows, columns);
    let gram: Vec<Vec<f64>> =
        small.iter().map(|a| small.iter().map(|b| dot(a, b)).collect()).collect();
    let mut found = eigen(gram);
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(rank);
    let combine = |basis: &[Vec<f64>], shares: &[f64], size: usize| {
        let mut sum = vec![0.0; size];
        for (row, share) in basis.iter().zip(shares) {
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += share * value);
        }
        sum
    };
    let parts = found.into_iter().map(|(square, shares)| {
        let value = square.max(0.0).sqrt();
        let mut vector = combine(&small, &shares, columns);
        let inverse = if value > 0.0 { 1.0 / value } else { 0.0 };
        for element in &mut vector {
            *element *= inverse;
        }
        (value, combine(&left, &shares, rows), vector)
    });
    parts.collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Rows times a matrix of `columns` columns.
fn times(rows: &[Vec<f64>], rhs: Rhs<'_>, columns: usize) -> Vec<Vec<f64>> {
    let depth = rows[0].len();
    let numbers: Vec<f32> = rows.iter().flatten().map(|value| *value as f32).collect();
    let mut lhs = Lhs::default();
    lhs.pack(&numbers, rows.len(), depth, depth);
    let mut out = vec![0.0; rows.len() * columns];
    product(&[Term::whole(&lhs, rhs)], &mut out, columns, columns, Into::Set);
    out.chunks_exact(columns).map(|row| row.iter().copied().map(f64::from).collect()).collect()
}

/// Makes rows orthonormal (modified Gram-Schmidt, twice).
fn orthonormal(rows: &mut [Vec<f64>]) {
    for i in 0..rows.len() {
        let (before, rest) = rows.split_at_mut(i);
        let row = &mut rest[0];
        for _ in 0..2 {
            for other in before.iter() {
                let share = dot(row, other);
                row.iter_mut().zip(other).for_each(|(value, other)| *value -= share * other);
            }
        }
        let length = dot(row, row).sqrt();
        let inverse = if length > 0.0 { 1.0 / length } else { 0.0 };
        for value in row.iter_mut() {
            *value *= inverse;
        }
    }
}

/// Eigenvalues and vectors of a small symmetric matrix (Jacobi's method).
fn eigen(mut matrix: Vec<Vec<f64>>) -> Vec<(f64, Vec<f64>)> {
    let n = matrix.len();
    let mut vectors: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| if i == j { 1.0 } else { 0.0 }).collect()).collect();
    for _ in 0..60 {
        let off: f64 = (0..n)
            .flat_map(|i| (0..i).map(move |j| (i, j)))
            .map(|(i, j)| matrix[i][j] * matrix[i][j])
            .sum();
        let size: f64 = (0..n).map(|i| matrix[i][i] * matrix[i][i]).sum();
        if off <= 1e-28 * size {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if matrix[p][q] == 0.0 {
                    continue;
                }
                let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in &mut matrix {
                    let (a, b) = (row[p], row[q]);
                    (row[p], row[q]) = (c * a - s * b, s * a + c * b);
                }
                for k in 0..n {
                    let (a, b) = (matrix[p][k], matrix[q][k]);
                    (matrix[p][k], matrix[q][k]) = (c * a - s * b, s * a + c * b);
                    let (a, b) = (vectors[p][k], vectors[q][k]);
                    (vectors[p][k], vectors[q][k]) = (c * a - s * b, s * a + c * b);
                }
            }
        }
    }
    (0..n).map(|i| (matrix[i][i], vectors[i].clone())).collect()
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn the_principal_part_of_a_matrix_of_known_values_is_found() {
        let (rows, columns) = (20, 14);
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut basis = |n: usize, size: usize| {
            let mut rows: Vec<Vec<f64>> = (0..n)
                .map(|_| (0..size).map(|_| random.random_range(-1.0..1.0)).collect())
                .collect();
            orthonormal(&mut rows);
            rows
        };
        let values = [9.0, 7.0, 4.0, 2.0, 1.0, 0.5];
        let (left, right) = (basis(6, rows), basis(6, columns));
        let weight: Vec<f32> = (0..rows * columns)
            .map(|i| {
                let parts = values.iter().zip(&left).zip(&right);
                let sum: f64 = parts.map(|((v, l), r)| v * l[i / columns] * r[i % columns]).sum();
                sum as f32
            })
            .collect();
        let found = principal(&weight, [rows, columns], 3, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(found.len(), 3);
        for (i, (value, l, r)) in found.iter().enumerate() {
            assert!((value - values[i]).abs() < 1e-4, "{value}");
            // A pair of vectors may have both signs turned.
            assert!((dot(l, &left[i]) * dot(r, &right[i]) - 1.0).abs() < 1e-4);
        }
    }
}
