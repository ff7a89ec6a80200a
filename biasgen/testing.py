"""Comparators of the tests and benchmarks, and the table of what is promised (docs/exactness.md)."""
from typing import Any

import numpy as np

TOLERANCES = {
    "marginals": {"relative": 1e-5, "smallest": 2.0**-126},  # entry by entry; what is smaller may be 0
    # The messages' float32 mantissas round 2^-25 a step, and equal leaves round alike: what adds up is a share of each leaf.
    "log_z": {"absolute": 1e-5, "absolute_per_leaf": 1e-7, "relative": 1e-7},
    "x0_hat": {"of_range": 1e-5},  # largest minus smallest number of the rows; then comes rounding to the type of x_t
    "log_density": {"relative": 1e-9, "per_number": 1e-9},  # its terms cancel: where it is near 0 each number of a row leaves a little
}
"""What the ops promise beyond bits; distances are equal to the bit and have no row."""


def assert_posterior_close(actual: Any, expected: Any) -> None:
    """AssertionError unless `actual` (TreePosterior) keeps the promise of tree_posterior against `expected`.

    expected: a TreePosterior or (marginals (B, L, Q), log_z (B,), impossible (B,)) in float64. The message names the worst entry.
    """
    if not isinstance(expected, tuple | list):
        expected = expected.marginals, expected.log_z, expected.impossible
    marginals, log_z, impossible = (np.asarray(x) for x in expected)
    got, got_log_z, got_impossible = (np.asarray(x) for x in (actual.marginals, actual.log_z, actual.impossible))
    assert got.dtype == np.float32, f"marginals: want float32, got {got.dtype}"
    assert got_log_z.dtype == np.float64, f"log_z: want float64, got {got_log_z.dtype}"
    assert got_impossible.dtype == bool, f"impossible: want bool, got {got_impossible.dtype}"
    assert got.shape == marginals.shape, f"marginals: want shape {marginals.shape}, got {got.shape}"
    assert got_log_z.shape == log_z.shape, f"log_z: want shape {log_z.shape}, got {got_log_z.shape}"
    np.testing.assert_array_equal(got_impossible, impossible, "impossible")

    relative, smallest = TOLERANCES["marginals"].values()
    got = got.astype(np.float64)
    error = abs(got - marginals)
    flushed = (got == 0) & (marginals < smallest * (1 + relative))
    subnormal = (got > 0) & (got < smallest)
    wrong = ~(error <= relative * marginals) & ~flushed | subnormal
    if wrong.any():
        at = tuple(np.argwhere(wrong)[np.argmax((error / np.maximum(marginals, smallest))[wrong])].tolist())
        raise AssertionError(f"marginals: {wrong.sum()} entries beyond {relative:g} relative, worst at {at}: {got[at]} for {marginals[at]}")

    possible = ~impossible
    assert (got_log_z[impossible] == -np.inf).all(), "log_z: want -inf where the evidence is impossible"
    error = abs(np.where(possible, got_log_z, 0) - np.where(possible, log_z, 0))
    wrong = ~(error <= _log_z_tolerance(marginals, np.where(possible, log_z, 0)))
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0].tolist())
        raise AssertionError(f"log_z: {wrong.sum()} samples beyond the promise, first {at}: {got_log_z[at]} for {log_z[at]}")


def posterior_errors(actual: Any, expected: Any) -> tuple[float, float]:
    """How far `actual` (TreePosterior) is from `expected`, both as for assert_posterior_close: worst relative error of a marginal, those
    below 2^-126 aside, and the worst error of log_z as a share of what is promised, impossible evidence aside. NaN where there is one."""
    marginals, log_z, impossible = (np.asarray(x) for x in expected[:3])
    kept = marginals >= 2 * TOLERANCES["marginals"]["smallest"]
    error = abs(np.asarray(actual.marginals, np.float64) - marginals)[kept] / marginals[kept]
    off = abs(np.asarray(actual.log_z)[~impossible] - log_z[~impossible]) / _log_z_tolerance(marginals, log_z[~impossible])
    return float(error.max(initial=0)), float(off.max(initial=0))


def _log_z_tolerance(marginals: np.ndarray, log_z: np.ndarray) -> np.ndarray:
    absolute, per_leaf, relative = TOLERANCES["log_z"].values()
    return max(absolute, per_leaf * marginals.shape[-2]) + relative * abs(log_z)


def assert_denoised_close(actual: Any, expected: Any, rows: Any) -> None:
    """AssertionError unless `actual` (Denoised, or x0_hat (B, ...), log_density (B,)) keeps the promise of empirical_denoise.

    expected: the same, right to float64. rows (M, ...): the data, for their range. x0_hat may be float32. The message names the worst
    query.
    """
    pairs = [pair if isinstance(pair, tuple | list) else (pair.x0_hat, pair.log_density) for pair in (actual, expected)]
    (got, got_density), (x0_hat, density) = ([np.asarray(x) for x in pair] for pair in pairs)
    assert got_density.dtype == np.float64, f"log_density: want float64, got {got_density.dtype}"
    assert got.shape == x0_hat.shape, f"x0_hat: want shape {x0_hat.shape}, got {got.shape}"
    assert got_density.shape == density.shape, f"log_density: want shape {density.shape}, got {got_density.shape}"
    rows = np.asarray(rows, np.float64)
    numbers = rows[0].size

    kind = np.finfo(got.dtype)
    rounding = np.maximum(kind.eps / 2 * abs(x0_hat), float(kind.smallest_subnormal) / 2)
    excess = (abs(got - x0_hat) - rounding).reshape(-1, numbers)
    wrong = ~(excess <= TOLERANCES["x0_hat"]["of_range"] * np.ptp(rows)).all(1)
    if wrong.any():
        b = np.argmax(np.where(wrong, excess.max(1), -1))
        worst = f"worst {b}: off by {excess[b].max():g}, range {np.ptp(rows):g}"
        raise AssertionError(f"x0_hat: {wrong.sum()} queries beyond the promise, {worst}")

    relative, per_number = TOLERANCES["log_density"].values()
    wrong = ~(abs(got_density - density) <= relative * abs(density) + per_number * numbers)
    if wrong.any():
        b = np.argwhere(wrong)[0, 0]
        raise AssertionError(f"log_density: {wrong.sum()} queries beyond the promise, first {b}: {got_density[b]} for {density[b]}")
