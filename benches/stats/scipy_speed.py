"""Times SciPy on the work that `cargo run --release -p bench-stats --example speed` does, one call of
each kind, and multiplies by the number of calls: 3 continuous scorers x (8 means + 28 pairs) bootstrapped
and 84 pairs permuted, 10,000 samples and 10,000 draws each.

    pip install scipy && python scipy_speed.py
"""
import time

import numpy as np
from scipy import stats

SAMPLES, DRAWS = 10_000, 10_000
rng = np.random.default_rng(1)
a, b = rng.random(SAMPLES), rng.random(SAMPLES)


def timed(call):
    start = time.process_time()
    call()
    return time.process_time() - start


bootstrap = timed(lambda: stats.bootstrap((a,), np.mean, n_resamples=DRAWS, method="BCa", batch=100, rng=rng))
permutation = timed(lambda: stats.permutation_test(
    (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True,
    n_resamples=DRAWS, batch=100, rng=rng))
print("| SciPy | CPU seconds a call | calls | CPU seconds |\n|---|---|---|---|")
print(f"| bootstrap, BCa | {bootstrap:.2f} | 108 | {108 * bootstrap:.0f} |")
print(f"| permutation_test | {permutation:.2f} | 84 | {84 * permutation:.0f} |")
