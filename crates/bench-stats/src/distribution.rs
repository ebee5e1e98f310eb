//! Quantiles and tail areas of the few distributions the tests stand on.

use statrs::{
    distribution::{ContinuousCDF, Normal, StudentsT},
    function::{
        beta::{beta_reg, inv_beta_reg},
        gamma::ln_gamma,
    },
};

/// `P(Z <= z)` of the standard normal.
pub(crate) fn normal_cdf(z: f64) -> f64 {
    Normal::standard().cdf(z)
}

/// The standard normal quantile; `p` outside of 0 to 1 is taken as the end that it is near.
pub(crate) fn normal_quantile(p: f64) -> f64 {
    Normal::standard().inverse_cdf(inside(p))
}

/// The two-sided normal critical value of a confidence level, 1.96 for 0.95.
pub(crate) fn critical(level: f64) -> f64 {
    normal_quantile(f64::midpoint(1.0, level))
}

/// `P(T <= t)` of Student's t. Beyond 10^7 degrees of freedom it is the normal.
pub(crate) fn t_cdf(t: f64, degrees: f64) -> f64 {
    student(degrees).map_or_else(|| normal_cdf(t), |student| student.cdf(t))
}

/// The two-sided critical value of Student's t for a confidence level.
pub(crate) fn t_critical(level: f64, degrees: f64) -> f64 {
    let p = inside(f64::midpoint(1.0, level));
    student(degrees).map_or_else(|| normal_quantile(p), |student| student.inverse_cdf(p))
}

/// Keeps a probability where quantiles are finite, so that no declared level can panic.
fn inside(p: f64) -> f64 {
    p.clamp(1e-15, 1.0 - 1e-15)
}

fn student(degrees: f64) -> Option<StudentsT> {
    (degrees < 1e7).then(|| StudentsT::new(0.0, 1.0, degrees).ok()).flatten()
}

/// The quantile of a Beta(`a`, `b`), `a` and `b` above 0.
pub(crate) fn beta_quantile(p: f64, a: f64, b: f64) -> f64 {
    inv_beta_reg(a, b, inside(p))
}

/// `P(X <= k)` for `X ~ Binomial(n, p)`.
pub(crate) fn binomial_cdf(k: i64, n: i64, p: f64) -> f64 {
    if k < 0 {
        0.0
    } else if k >= n {
        1.0
    } else {
        beta_reg((n - k) as f64, k as f64 + 1.0, 1.0 - p)
    }
}

/// `P(X = k)` for `X ~ Binomial(n, p)`, `0 < p < 1`.
pub(crate) fn binomial_pmf(k: i64, n: i64, p: f64) -> f64 {
    let [k, n] = [k as f64, n as f64];
    let choose = ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0);
    (choose + k * p.ln() + (n - k) * (-p).ln_1p()).exp()
}
