"""Rows and queries that send the empirical denoiser down each of its paths."""
import numpy as np


def problem(seed, B, M, D, scale, sigma, dtype=np.float32):
    """Rows in ten clusters, some of them equal; queries: noised rows, rows themselves, points far off, turn by turn."""
    rng = np.random.default_rng(seed)
    rows = (rng.uniform(-1, 1, (10, D))[rng.integers(0, 10, M)] + 0.05 * rng.standard_normal((M, D))).astype(dtype)
    rows[M // 2 : M // 2 + M // 8] = rows[: M // 8]
    x = scale * rows[rng.integers(0, M, B)].astype(float)
    x[0::3] += sigma * rng.standard_normal(x[0::3].shape)
    x[2::3] += 3 * scale * rng.standard_normal(x[2::3].shape)
    return x.astype(dtype), rows
