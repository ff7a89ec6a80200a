"""Random calls of every search: the oracle's answer, or one of the refusals that docs/exactness.md lists. --fuzz N makes N of them."""
from unittest import mock

import numpy as np
import torch

import biasgen
from biasgen import _settings, backends
from biasgen.backends import cpu_backend
from biasgen.distances import DISTANCES
from biasgen.oracle import knn as oracle

DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "bool", "complex64")
WIDE = ("uint16", "uint32", "int16", "int32", "int64")
# The kernels take 12, 24 or 48 rows (Hamming: 8, 32, 64, 256) and 4 or 8 queries at a time; bit planes lie in lanes of 16 and 64 positions.
FEATURES = (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 130)
COUNTS = (1, 2, 3, 4, 7, 8, 9, 11, 12, 13, 23, 24, 25, 33, 47, 48, 49, 63, 64, 65, 255, 256, 257)
SPECIAL = (-0.0, 0.0, 1.0, -1.0, 5e-324, 1e-160, 1e-38, 1e-45, 0.1, 255.0, 1e30, 1e149)
REFUSED = (np.nan, np.inf, -np.inf, 1e151)


def rows(rng, count, features, dtype):
    """(count, ...) array or tensor with copies, special values, odd strides; now and then a value that is refused."""
    integers = dtype not in ("float16", "bfloat16", "float32", "float64")
    values = rng.integers(0, rng.choice([2, 5, 120, 30_000] if dtype in WIDE else [2, 5, 120]), (count, features)).astype(np.float64)
    if not integers:
        values = values / rng.choice([1, 2, 3, 255]) + rng.choice([0, 0, -0.5, 20])
        spot = rng.random(values.shape) < rng.choice([0, 0.1, 0.5])
        limit = {"float16": 1e4, "float32": 1e38, "bfloat16": 1e38}.get(dtype, 1e150)
        values[spot] = rng.choice([x for x in SPECIAL if abs(x) < limit], spot.sum())
    if count:
        values = values[rng.integers(0, count, count)]
    if rng.random() < 0.05 and values.size:
        values[rng.integers(count), rng.integers(features)] = rng.choice([-1, 300, 70_000] if integers else REFUSED)
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "bfloat16":
            out = torch.from_numpy(values).bfloat16()
        elif dtype != "uint16" and rng.random() < 0.5:
            out = torch.from_numpy(values.astype(np.int64) if integers else values).to(getattr(torch, dtype))
        else:
            out = (values.astype(np.int64) if integers else values).astype(dtype)
    for change in rng.choice(list(STRIDES), rng.choice([0, 1, 2])):
        out = STRIDES[change](out)
    if rng.random() < 0.2 and features % 2 == 0 and values.size:
        out = out.reshape(count, 2, -1)
    return out


def widened(rows):
    """Every second element of something wider."""
    wide = torch.cat([rows, rows], 1) if isinstance(rows, torch.Tensor) else np.repeat(rows, 2, 1)
    return wide[:, : rows.shape[1]] if isinstance(rows, torch.Tensor) else wide[:, ::2]


def transposed(rows):
    """Columns lie together."""
    return rows.T.contiguous().T if isinstance(rows, torch.Tensor) else np.asfortranarray(rows)


def repeated(rows):
    """One row, at stride 0."""
    return rows[:1].expand(rows.shape) if isinstance(rows, torch.Tensor) else np.broadcast_to(rows[:1], rows.shape)


def backwards(rows):
    """Negative strides; torch has none."""
    if not isinstance(rows, torch.Tensor):
        return rows[::-1, ::-1]
    return torch.from_numpy(rows.numpy()[::-1].copy()) if rows.dtype in (torch.uint16, torch.uint32) else rows.flip(0)


def foreign(rows):
    """In the other byte order and not to be written; torch has a gradient instead."""
    if isinstance(rows, torch.Tensor):
        return rows.detach().requires_grad_() if rows.is_floating_point() else rows
    rows = rows.astype(rows.dtype.newbyteorder())
    rows.flags.writeable = False
    return rows


STRIDES = {change.__name__: change for change in (widened, transposed, repeated, backwards, foreign)}


def plain(values):
    """As the oracle takes them: float64, or the integers."""
    if isinstance(values, torch.Tensor):
        values = values.detach()
        values = values.double().numpy() if values.is_floating_point() or values.is_complex() else values.numpy()
    return values.astype(np.float64 if values.dtype.kind == "f" else values.dtype.newbyteorder("="))


def refusal(query, reference, distance, k):
    """Whether this call must be refused, by the list in docs/exactness.md."""
    names = [x.dtype.name if isinstance(x, np.ndarray) else str(x.dtype).removeprefix("torch.") for x in (query, reference)]
    if distance is None:
        distance = "sqeuclidean" if names[1] == "uint8" or "float" in names[1] else "hamming"
    for name, values in zip(names, (query, reference), strict=True):
        if name not in DISTANCES[distance].dtypes or 0 in values.shape:
            return True
        values = plain(values)
        inside = abs(values) <= 1e150 if "float" in name else (values.astype(int) >= 0) & (values.astype(int) <= 65_535)
        if not inside.all():
            return True
    floats = ["float" in name for name in names]
    return query.shape[1:] != reference.shape[1:] or floats[0] != floats[1] or not 1 <= k <= min(64, len(reference))


def one_call(rng):
    """Make a random call; returns whether it was refused."""
    features, *counts = (0 if rng.random() < 0.02 else int(rng.choice(sizes)) for sizes in (FEATURES, COUNTS, COUNTS))
    counts[0] = min(counts[0], max(1, 500 // max(1, counts[1])))    # the oracle is slow
    dtype = str(rng.choice(DTYPES))
    dtypes = [dtype, str(rng.choice(DTYPES)) if rng.random() < 0.2 else dtype]
    query, reference = (rows(rng, count, features, name) for count, name in zip(counts, dtypes, strict=True))
    if rng.random() < 0.03 and query.ndim == 2:
        query = query[:, :-1]
    distance = None if rng.random() < 0.2 else str(rng.choice(list(DISTANCES)))
    k = int(rng.integers(0, 6)) if rng.random() < 0.1 else min(int(rng.choice([1, 2, 4, 16, 64])), max(1, len(reference)))
    backend = str(rng.choice([name for name in ("cpu", "torch") if backends.load(name)[0]]))
    used = distance or ("sqeuclidean" if "float" in dtypes[1] or dtypes[1] == "uint8" else "hamming")
    stored = {"float16": "float32", "bfloat16": "float32"}.get(dtypes[1], dtypes[1] if "float" in dtypes[1] else "uint8")
    if backends.refusal(backend, "knn", device="cpu", dtype=stored, distance=DISTANCES[used].ordered_by):
        backend = "torch"
    refused = refusal(query, reference, distance, k)
    try:
        max_memory = rng.choice([1, 3000, 1 << 20]).item()
        prepared = biasgen.TrainingSet(reference, distance) if not refused and rng.random() < 0.3 else reference
        found = biasgen.knn(query, prepared, k, distance=distance, backend=backend, max_memory=max_memory)
    except ValueError as error:
        if not refused or str(error).split(":")[0] not in ("query", "reference", "k"):
            raise
        return True
    assert not refused, f"answered {dtypes} {used} k={k}"
    check(rng, query, reference, prepared, found, k, used, backend)
    return False


def check(rng, query, reference, prepared, found, k, distance, backend):
    """`found` and what the other searches answer, against the oracle."""
    x, y = (plain(values) for values in (query, reference))
    expected = oracle.knn(x, y, k, distance)
    for name, wanted in zip(("distances", "indices", "tie_counts"), expected, strict=True):
        assert_equal(getattr(found, name), wanted, query, name)
    table = oracle.distances(x, y, distance)
    assert_equal(biasgen.pairwise_distances(query, prepared, distance=distance), table, query)
    radius = float(rng.choice(table.ravel()))
    assert_equal(biasgen.range_count(query, prepared, radius, distance=distance), (table <= radius).sum(1), query)
    edges = np.unique(rng.choice(table.ravel(), 5)).astype(np.float64)
    if len(edges) > 1:
        assert_equal(biasgen.distance_histogram(query, prepared, edges, distance=distance), np.histogram(table, edges)[0], query)
    credit = biasgen.nearest_credit(query, prepared, distance=distance, backend=backend)
    assert_equal(credit.weights, oracle.nearest_credit(x, y, distance), query)
    n = min(len(query), len(reference))
    paired = biasgen.paired_distances(query[:n], reference[:n], distance=distance)
    assert_equal(paired, np.diagonal(table)[:n], query)
    if 1 <= k < min(64, len(reference)) and len(reference) <= 24:
        found = biasgen.knn(reference, prepared, k, distance=distance, backend=backend, exclude_self=True)
        among = oracle.ordered(y, y, distance).astype(np.float64)
        np.fill_diagonal(among, np.inf)
        assert_equal(found.indices, np.argsort(among, axis=1, kind="stable")[:, :k], reference)
        assert_equal(found.tie_counts, (among == among.min(1, keepdims=True)).sum(1), reference)


def assert_equal(values, wanted, query, name=""):
    """To the bit, and of the kind of the query."""
    assert isinstance(values, torch.Tensor) == isinstance(query, torch.Tensor)
    assert np.asarray(values).dtype == wanted.dtype
    np.testing.assert_array_equal(np.asarray(values), wanted, name)


def test_random_calls(request, monkeypatch):
    calls = request.config.getoption("--fuzz")
    refused = 0
    for seed in range(calls):
        rng = np.random.default_rng(seed)
        if backends.load("cpu")[0]:
            monkeypatch.setenv("BIASGEN_CPU_ISA", str(rng.choice(cpu_backend._cpu.isa_levels())))
        try:
            with mock.patch.object(_settings, "_num_threads", int(rng.choice([1, 1, 1, 2]))):
                refused += one_call(rng)
        except Exception as error:
            raise AssertionError(f"call {seed}: {error}") from error
    assert 0.05 * calls < refused < 0.8 * calls
