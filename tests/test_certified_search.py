"""The native search of float rows and of points at length 1: values, the bounds of the codes, and that no grid changes an answer."""
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biasgen import backends
from biasgen.backends import _codes, cpu_backend
from biasgen.oracle import knn as oracle

pytestmark = pytest.mark.skipif(backends.load("cpu")[0] is None, reason="biasgen._cpu is not built")
LEVELS = cpu_backend._cpu.isa_levels() if cpu_backend._cpu else ()


def encode(level, rows, distance="sqeuclidean"):
    return _codes.encode(cpu_backend._cpu, level, rows, distance)


def exact_residual(row, center, unit, codes):
    """Squared length, as a fraction, of what the codes leave out."""
    rest = [
        Fraction(float(x)) - Fraction(float(c)) - Fraction(unit) * (int(code) - 128) for x, c, code in zip(row, center, codes, strict=True)
    ]
    return sum(r * r for r in rest)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_residuals_are_bounds(level, dtype, scale):
    rng = np.random.default_rng(0)
    rows = (scale * rng.normal(3, 1, (20, 37))).astype(dtype)
    rows[3, 5] = 1e3 * scale  # beyond the grid
    rows[4] = np.float64(np.float32(scale))  # on it, where the rounding is all that is left
    for found in (encode(level, rows), encode(level, rows[4:5])):
        for row, codes, residual in zip(found.rows, found.codes, found.residuals, strict=True):
            exact = exact_residual(row, found.center, found.unit, codes)
            assert exact <= Fraction(residual) ** 2
            assert residual**2 <= float(exact) * 1.0001 + (1e-10 * found.unit) ** 2


@pytest.mark.parametrize("level", LEVELS)
def test_residuals_cover_what_rounding_hides(level):
    """1 - 2^-60 rounds to 1, which is on the grid: the rest that is computed is 0, the true one is not."""
    rows, center, unit = np.ones((1, 3)), np.full(3, 2.0**-60), 1 / 64
    codes, residuals, _ = cpu_backend._cpu.encode(level, "sqeuclidean", rows, center, unit)
    assert codes.tolist() == [[192] * 3]
    assert 0 < exact_residual(rows[0], center, unit, codes[0]) <= Fraction(residuals[0]) ** 2


def search(level, query, codes, k, distance="sqeuclidean"):
    n, m = len(query), len(codes.rows)
    out = np.empty((n, k)), np.empty((n, k), np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    cpu_backend._cpu.knn_floats(level, distance, query, *codes.operands, np.arange(1, m + 1), *out)
    return out


@st.composite
def grids(draw):
    """(query, Codes, distance): near rows, parallel ones, copies and zeros on a grid that may fit badly or not at all, with any rows called
    outliers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, m, features = draw(st.integers(1, 12)), draw(st.integers(1, 120)), draw(st.sampled_from([1, 2, 5, 17, 40]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    base = rng.normal(size=(draw(st.integers(1, 4)), features))
    spread = draw(st.sampled_from([0, 1e-7, 1e-3, 0.1, 1]))
    rows = (base[rng.integers(0, len(base), n + m)] + spread * rng.normal(size=(n + m, features))).astype(dtype)
    rows[rng.integers(0, n + m)] = rows[0]
    distance = draw(st.sampled_from(["sqeuclidean", "cosine", "correlation"]))
    if distance != "sqeuclidean":
        rows[rng.random(n + m) < 0.2] *= draw(st.sampled_from([0, 1e-37, 0.5, 3, 1e37]))
        rows += rows.dtype.type(draw(st.sampled_from([0, 1e3])))
        if draw(st.booleans()):
            rows = (rows.clip(-1, 1) * 100 + 128).astype(np.uint8)
    unit = float(np.float32(draw(st.sampled_from([1e-30, 1e-9, 1e-3, 0.02, 1, 50]))))
    center = draw(st.sampled_from([0, 0.3, -100])) + rng.normal(size=features)
    codes, residuals, scalings = cpu_backend._cpu.encode("baseline", distance, rows[n:], center, unit)
    usual = float(np.quantile(np.nan_to_num(residuals, posinf=0), draw(st.sampled_from([0, 0.5, 1]))))
    outlying = np.flatnonzero(residuals > usual)
    return rows[:n], _codes.Codes(rows[n:], center, unit, codes, residuals, scalings, usual, outlying), distance


@pytest.mark.parametrize("level", LEVELS)
@settings(deadline=None, max_examples=150)
@given(problem=grids(), k=st.integers(1, 5))
def test_no_grid_changes_an_answer(level, problem, k):
    query, codes, distance = problem
    k = min(k, len(codes.rows))
    values, rows, tie_rows, tie_counts = search(level, query, codes, k, distance)
    table = oracle.distances(query.astype(float), codes.rows.astype(float), distance)
    order = np.argsort(table, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_array_equal(values, np.take_along_axis(table, order, 1))
    ties = table == table.min(1, keepdims=True)
    np.testing.assert_array_equal(tie_rows, ties.sum(1))
    np.testing.assert_array_equal(tie_counts, ties @ np.arange(1, len(codes.rows) + 1))

    radius = values[:, -1].copy()
    inside = table <= radius[:, None]
    offsets = np.concatenate(([0], inside.sum(1).cumsum()))
    found = np.empty(offsets[-1], np.int64)
    cpu_backend._cpu.floats_within(level, distance, query, *codes.operands, radius, offsets, found)
    np.testing.assert_array_equal(found, np.nonzero(inside)[1])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("distance", ["sqeuclidean", "cosine", "correlation"])
def test_codes_are_what_rules_out(level, distance):
    """A row whose codes put it far away is not looked at: the screen does its work."""
    rows = np.random.default_rng(0).normal(size=(200, 64))
    codes = encode(level, rows, distance)
    assert 150 not in codes.outlying
    assert search(level, rows[150:151], codes, 1, distance)[1] == 150
    codes.codes[150] = 255 - codes.codes[150]
    assert search(level, rows[150:151], codes, 1, distance)[1] != 150


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("distance", ["cosine", "correlation"])
def test_the_rough_bound_lies_below_the_value(level, dtype, distance):
    """Outliers alone, each a few roundings from the nearest: what the codes cannot tell apart, the rough bound must not rule out."""
    rng = np.random.default_rng(0)
    base = rng.integers(1, 200, 1000)
    steps = rng.integers(0, 2, (60, 1000)) * (1 if dtype == np.uint8 else np.finfo(dtype).eps)
    rows = (base + steps * (1 if dtype == np.uint8 else base)).astype(dtype)
    rows[0] = base + 1 if distance == "correlation" else base
    codes = encode(level, rows[20:], distance)
    codes = replace(codes, usual_residual=-1.0, outlying=np.arange(40))
    found = search(level, rows[:20], codes, 3, distance)
    table = oracle.distances(rows[:20], rows[20:], distance)
    order = np.argsort(table, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(found[1], order)
    np.testing.assert_array_equal(found[0], np.take_along_axis(table, order, 1))


@pytest.mark.parametrize("level", LEVELS)
def test_no_rough_bound_where_its_factor_is_a_denormal(level):
    """Parallel rows near the largest float: 1 / (largest length) has few bits in single precision."""
    rng = np.random.default_rng(0)
    rows = (rng.uniform(-3e38, 3e38, 4096) * rng.uniform(0.5, 1, (40, 1))).astype(np.float32)
    codes = encode(level, rows[8:], "cosine")
    assert (codes.scalings[:, 3] == 0).all()
    codes = replace(codes, usual_residual=-1.0, outlying=np.arange(32))
    table = oracle.distances(rows[:8].astype(float), rows[8:].astype(float), "cosine")
    np.testing.assert_array_equal(search(level, rows[:8], codes, 3, "cosine")[1], np.argsort(table, axis=1, kind="stable")[:, :3])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_scalings_are_the_definition(level, dtype):
    """Mean and length in the lane order, one division after the other; a constant row is the zero row, whatever its mean rounds to."""
    rng = np.random.default_rng(0)
    for features in (1, 15, 16, 17, 100, 1000):
        rows = (rng.normal(size=(6, features)) * 40 + 128).clip(0, 255).astype(dtype)
        rows[1], rows[2] = (51, 0) if dtype == np.uint8 else (0.3, 0)
        for distance in ("cosine", "correlation"):
            scalings = encode(level, rows, distance).scalings
            for row, (mean, largest, length, inverse) in zip(rows.astype(float), scalings, strict=True):
                x = oracle.centered(row) if distance == "correlation" else row
                if not x.any():
                    assert (mean, largest, length, inverse) == (0, 0, 0, 0)
                    continue
                assert mean == (oracle.lane_sum(row) / features if distance == "correlation" else 0)
                assert largest == abs(x).max()
                np.testing.assert_array_equal((row - mean) / largest / length, oracle.normalized(x))
                assert inverse == pytest.approx(1 / (largest * length))


def test_a_few_far_values_do_not_ruin_the_grid():
    rows = np.random.default_rng(0).normal(size=(5000, 64))
    usual = encode(LEVELS[-1], rows)
    rows[::100, 0] = 1e6
    found = encode(LEVELS[-1], rows)
    assert set(range(0, 5000, 100)) <= set(found.outlying.tolist())
    assert len(found.outlying) < 350
    assert found.unit < 2 * usual.unit


def test_native_boundary():
    native, rows, center = cpu_backend._cpu, np.zeros((3, 2)), np.zeros(2)
    with pytest.raises(ValueError, match=r"^unit: want a number in 1e-100\.\.1e160"):
        native.encode("baseline", "sqeuclidean", rows, center, 0.0)
    with pytest.raises(ValueError, match=r"^center: want a contiguous \(features,\)"):
        native.encode("baseline", "sqeuclidean", rows, np.zeros(3), 1.0)
    with pytest.raises(ValueError, match=r"^query: want float32 or float64"):
        native.encode("baseline", "sqeuclidean", rows.astype(np.uint8), center, 1.0)
    with pytest.raises(ValueError, match=r"^distance: want one of 'sqeuclidean', 'cosine', 'correlation' here, got 'hamming'"):
        native.encode("baseline", "hamming", rows, center, 1.0)
    found = native.encode("baseline", "cosine", rows, center, 1.0)
    assert (found[1] == np.inf).all()
    assert found[2].shape == (3, 4)
    with pytest.raises(ValueError, match=r"^scalings: want those of the reference"):
        search("baseline", rows, _codes.Codes(rows, center, 1.0, *found, 0.0, np.array([2])), 1)
    codes = _codes.Codes(rows, center, 1.0, *native.encode("baseline", "sqeuclidean", rows, center, 1.0), 0.0, np.array([3]))
    with pytest.raises(ValueError, match=r"^outlying: want .* reference rows"):
        search("baseline", rows, codes, 1)
