"""Random calls of every search: the oracle's answer, or one of the refusals that docs/exactness.md lists. --fuzz N makes N of them."""
import numpy as np
import torch

import biasgen
from biasgen import backends
from biasgen.distances import DISTANCES
from biasgen.oracle import knn as oracle

DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "bool", "complex64")
WIDE = ("uint16", "uint32", "int16", "int32", "int64")
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
        elif rng.random() < 0.5:
            out = torch.from_numpy(values.astype(np.int64) if integers else values).to(getattr(torch, dtype))
        else:
            out = (values.astype(np.int64) if integers else values).astype(dtype)
    if rng.random() < 0.3:    # every second element of something wider
        wide = torch.cat([out, out], 1) if isinstance(out, torch.Tensor) else np.repeat(out, 2, 1)
        out = wide[:, :features] if isinstance(out, torch.Tensor) else wide[:, ::2]
    if rng.random() < 0.2 and features % 2 == 0 and values.size:
        out = out.reshape(count, 2, -1)
    return out


def plain(values):
    """As the oracle takes them: float64, or the integers."""
    if isinstance(values, torch.Tensor):
        values = values.double().numpy() if values.is_floating_point() or values.is_complex() else values.numpy()
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def refusal(query, reference, distance, k):
    """Whether this call must be refused, by the list in docs/exactness.md."""
    names = [str(x.dtype).removeprefix("torch.") for x in (query, reference)]
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
    features = int(rng.choice([0, 1, 2, 15, 16, 17, 31, 33, 64], p=[0.02, *[0.1225] * 8]))
    counts = [int(rng.choice([0, 1, 2, 3, 8, 33], p=[0.02, *[0.196] * 5])) for _ in range(2)]
    dtype = str(rng.choice(DTYPES))
    dtypes = [dtype, str(rng.choice(DTYPES)) if rng.random() < 0.2 else dtype]
    query, reference = (rows(rng, count, features, name) for count, name in zip(counts, dtypes, strict=True))
    if rng.random() < 0.03 and query.ndim == 2:
        query = query[:, :-1]
    distance = None if rng.random() < 0.2 else str(rng.choice(list(DISTANCES)))
    k = int(rng.integers(0, 6)) if rng.random() < 0.1 else min(int(rng.integers(1, 5)), max(1, len(reference)))
    backend = str(rng.choice([name for name in ("cpu", "torch") if backends.load(name)[0]]))
    used = distance or ("sqeuclidean" if "float" in dtypes[1] or dtypes[1] == "uint8" else "hamming")
    stored = {"float16": "float32", "bfloat16": "float32"}.get(dtypes[1], dtypes[1] if "float" in dtypes[1] else "uint8")
    if backends.refusal(backend, "knn", device="cpu", dtype=stored, distance=DISTANCES[used].ordered_by):
        backend = "torch"
    refused = refusal(query, reference, distance, k)
    try:
        max_memory = rng.choice([1, 3000, 1 << 20]).item()
        found = biasgen.knn(query, reference, k, distance=distance, backend=backend, max_memory=max_memory)
    except ValueError as error:
        if not refused or str(error).split(":")[0] not in ("query", "reference", "k"):
            raise
        return True
    assert not refused, f"answered {dtypes} {used} k={k}"
    x, y = (plain(values) for values in (query, reference))
    expected = oracle.knn(x, y, k, used)
    for name, wanted in zip(("distances", "indices", "tie_counts"), expected, strict=True):
        values = getattr(found, name)
        assert isinstance(values, torch.Tensor) == isinstance(query, torch.Tensor)
        np.testing.assert_array_equal(np.asarray(values), wanted, name)
        assert np.asarray(values).dtype == wanted.dtype
    table = oracle.distances(x, y, used)
    np.testing.assert_array_equal(np.asarray(biasgen.pairwise_distances(query, reference, distance=distance)), table)
    radius = float(rng.choice(table.ravel()))
    np.testing.assert_array_equal(np.asarray(biasgen.range_count(query, reference, radius, distance=distance)), (table <= radius).sum(1))
    credit = biasgen.nearest_credit(query, reference, distance=distance, backend=backend)
    np.testing.assert_array_equal(np.asarray(credit.weights), oracle.nearest_credit(x, y, used))
    return False


def test_random_calls(request):
    calls = request.config.getoption("--fuzz")
    refused = 0
    for seed in range(calls):
        try:
            refused += one_call(np.random.default_rng(seed))
        except Exception as error:
            raise AssertionError(f"call {seed}: {error}") from error
    assert 0.05 * calls < refused < 0.8 * calls
