//! The operations of a decoder layer, each with its derivative, on slices of f32.
//!
//! A function that ends in `_backward` takes what its counterpart took or gave, and the derivative
//! of the loss to the result; it gives the derivatives to the inputs. There is no tape: a layer's
//! graph is fixed, so [`crate::step`] calls these in the right order.

pub(crate) mod attention;
pub(crate) mod loss;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod swiglu;

/// Rows that a thread works on at a time.
pub(crate) const ROWS: usize = 16;

/// Numbers that are summed side by side.
const LANES: usize = 16;

/// Runs `work` compiled for the widest vectors that the processor has. Closures small enough to be
/// inlined are vectorised anew.
#[inline]
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
        fn avx512<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw");
        let narrow = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        // SAFETY: called only where the processor has the features.
        #[expect(unsafe_code, reason = "calls code for a checked instruction set")]
        unsafe {
            if wide && narrow {
                return avx512(work);
            }
            if narrow {
                return avx2(work);
            }
        }
    }
    work()
}

/// The sum of `f` over pairs of elements, in a fixed order that vectors can follow.
#[inline(always)]
#[expect(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
pub(crate) fn sum_of(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f(*a, *b);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| f(*a, *b)).sum();
    sums.iter().sum::<f32>() + rest
}

/// The largest element.
#[inline(always)]
#[expect(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
pub(crate) fn largest(values: &[f32]) -> f32 {
    let (values, rest) = values.as_chunks::<LANES>();
    let mut most = [f32::NEG_INFINITY; LANES];
    for values in values {
        for (most, value) in most.iter_mut().zip(values) {
            *most = if *value > *most { *value } else { *most };
        }
    }
    most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// e to the power of `x`, within 2 units in the last place; 0 below -87.3.
///
/// The argument is split into a power of two and a rest within ±ln 2 / 2, whose exponential is a
/// polynomial of degree 6 (Cephes `expf`, coefficients by Moshier).
#[expect(clippy::excessive_precision, reason = "as published")]
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * 0.693_359_375 + n * 2.121_944_40e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.0e-1;
    let value = p * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.3 { 0.0 } else { value * power }
}

/// 1 / (1 + e^-x).
#[inline(always)]
#[expect(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests;
