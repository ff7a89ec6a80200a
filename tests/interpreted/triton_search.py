"""The Triton kernels and backend against the oracle, to the bit. tests/test_triton_backend.py runs this file in Triton's interpreter, in a
process of its own; on a GPU the same tests run the compiled kernels."""
import importlib

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks.gpu import sweep
from benchmarks.host_reads import NoHostReads
from biasgen import TrainingSet, backends, knn, nearest_credit, range_count, train_affinity
from biasgen.backends import _triton_check, _triton_floats, _triton_slices, triton_backend
from biasgen.experiments.tree import demo
from biasgen.ops._prepared import prepare, query_of
from biasgen.oracle import knn as oracle
from biasgen.report.records import read_record
from biasgen.triton_kernels import _tile, nearest, within
from biasgen.triton_kernels.exact_values import squared
from tests.triton_launches import watch

DEVICE = triton_backend.DEVICES[0]
ON_HOST = pytest.mark.skipif(DEVICE != "cpu", reason="arrays lie on the host, where compiled kernels do not run")


def on_device(*arrays):
    return [torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE) for array in arrays]


def assert_search_equals_oracle(query, reference, distance, ks=(1, 5)):
    x, y = on_device(query, reference)
    for k in ks:
        k = min(k, len(reference))
        found = knn(x, y, k, distance=distance, backend="triton")
        assert found.stats["backend"] == "triton"
        right = oracle.knn(query, reference, k, distance)
        for actual, wanted in zip((found.distances, found.indices, found.tie_counts), right, strict=True):
            assert str(actual.dtype) == f"torch.{wanted.dtype}"
            np.testing.assert_array_equal(actual.cpu().numpy(), wanted)
    credit = nearest_credit(x, y, distance=distance, backend="triton")
    np.testing.assert_array_equal(credit.weights.cpu().numpy(), oracle.nearest_credit(query, reference, distance))


def sliced(codes, two):
    high = (codes + 128) >> 8 if two else codes
    low = _tile.padded((codes - 256 * high).to(torch.int8)) if two else None
    return _tile.Slices(_tile.padded(high.to(torch.int8)), low, codes.square().sum(1))


# What rows the kernels are compiled for, as ahead_of_time names it: features, two slices, tokens,
# and the depth that is patched so that few features reach it.
KINDS = {
    "int8": (140, False, False, None),
    "int8, D <= 128": (100, False, False, None),
    "int8, D > 32 768": (150, False, False, 128),
    "two slices": (150, True, False, 128),
    "two slices, D <= 128": (20, True, False, None),
    "tokens": (7, False, True, None),
}
LARGE = {kind: bool(two or tokens or depth) for kind, (_, two, tokens, depth) in KINDS.items()}
NEAREST = {
    f"nearest {kept}, {kind}, {tile.n} x {tile.m}": (kind, kept, tile)
    for kind in KINDS
    for (kept, large), tiles in nearest.TILES.items()
    if large == LARGE[kind]
    for tile in tiles
}
WITHIN = {
    f"{verb} within, {kind}, {tile.n} x {tile.m}": kind
    for kind in KINDS
    for verb, tile in (
        ("count", within.TILES[False, LARGE[kind]]), ("list", within.TILES[True, LARGE[kind]])
    )
}
CASES = {*NEAREST, *WITHIN, "squared, fp32", "squared, fp64"}


def problem(monkeypatch, kind, n, m):
    """Queries and reference as Slices on the device, and all distances (n, m) int64: with ties."""
    features, two, tokens, depth = KINDS[kind]
    if depth:
        monkeypatch.setattr(_tile, "_DEPTH", depth)
    largest = (127 * 257 if depth else 300) if two else 127 if features > 100 else 1
    random = torch.Generator().manual_seed(n)
    x, y = (
        torch.randint(-largest - 1, largest + 1, (rows, features), generator=random)
        for rows in (n, m)
    )
    y[m // 2 :: 2] = y[0].clone()
    if tokens:
        norms = [torch.full((len(rows),), features, device=DEVICE) for rows in (x, y)]
        made = [
            _tile.Slices(rows.to(DEVICE, torch.int8), None, norm, tokens=True)
            for rows, norm in zip((x, y), norms, strict=True)
        ]
        return *made, 2 * (x[:, None] != y).sum(-1)
    distances = (x[:, None] - y).square().sum(-1)
    return *(sliced(rows.to(DEVICE), two) for rows in (x, y)), distances


@pytest.mark.parametrize("name", NEAREST)
def test_nearest(monkeypatch, name):
    """Against all distances in int64: ties, multiplicities, shares, sizes off by one from a tile."""
    kind, kept, tile = NEAREST[name]
    k = {1: 1, 16: 7, 64: 64}[kept]
    monkeypatch.setattr(nearest, "_SHARE", 2 * tile.m - 1)  # two shares, the first of two tiles
    monkeypatch.setattr(nearest, "tile_for", lambda *_: tile)
    launched = watch(monkeypatch)
    sizes = (1, k), (tile.n + 1 if kept == 1 else 3, 2 * tile.m + 14)  # more take the time of many
    for n, m in sizes[kept > 16 :]:
        query, reference, distances = problem(monkeypatch, kind, n, m)
        multiplicity = 1 + torch.arange(m, dtype=torch.int32) % 3
        order = distances.argsort(dim=1, stable=True)[:, :k]
        ties = distances == distances.amin(1, keepdim=True)
        wanted = distances.gather(1, order), order, ties.sum(1), (ties * multiplicity).sum(1)
        found = nearest.nearest(query, reference, multiplicity.to(DEVICE), k)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, wanted, strict=True))
    assert launched == {name}


@pytest.mark.parametrize("kind", KINDS)
def test_within(monkeypatch, kind):
    """The same of rows within limits; some have multiplicity 0, some lists are of some queries."""
    monkeypatch.setattr(within, "_COUNTS", 140)  # two shares of many queries
    launched, rows = watch(monkeypatch), within.TILES[False, LARGE[kind]].m
    for n, m in ((1, 1), (3, 129), (33 if LARGE[kind] else 65, 2 * rows + 22)):
        query, reference, distances = problem(monkeypatch, kind, n, m)
        multiplicity = 1 + torch.arange(m, dtype=torch.int32) % 3
        multiplicity[::4] = 0
        near, far = (distances.double().quantile(q, dim=1).long() for q in (0.1, 0.4))
        near[0] = -1
        limits = near.to(DEVICE), far.to(DEVICE)
        part = within.Within(query, reference, multiplicity.to(DEVICE), *limits)
        opened = (distances > near[:, None]) & (distances <= far[:, None]) & (multiplicity > 0)
        inside = (distances <= near[:, None]) * multiplicity
        assert torch.equal(part.weights.cpu(), inside.sum(1))
        assert torch.equal(part.counts.cpu(), opened.sum(1))
        for at in (slice(None), slice(n // 2, None)):
            assert torch.equal(part.rows(at).cpu(), opened[at].nonzero()[:, 1])
    assert launched == {name for name in WITHIN if WITHIN[name] == kind}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_of_pairs(monkeypatch, dtype):
    launched = watch(monkeypatch)
    rng = np.random.default_rng(0)
    for features in (1, 15, 16, 17, 100):
        x, y = rng.normal(size=(4, features)), rng.normal(size=(7, features)).astype(dtype)
        y[0] *= dtype(1e-42 if dtype is np.float32 else 1e-160)
        queries, rows = rng.integers(0, 4, 70), rng.integers(0, 7, 70)
        wanted = [oracle.value(x[q], y[r].astype(np.float64), "sqeuclidean") for q, r in zip(queries, rows, strict=True)]
        np.testing.assert_array_equal(squared(*on_device(x, y, queries, rows)).cpu().numpy(), wanted)
    assert launched == {f"squared, fp{8 * y.itemsize}"}
    x[:] = 0    # denormals alone
    assert squared(*on_device(x, y, np.array([0]), np.array([0])))[0] == oracle.value(x[0], y[0].astype(np.float64), "sqeuclidean")


@pytest.mark.parametrize(
    ("distance", "features", "symbols", "sizes", "ks"),
    [
        ("sqeuclidean", 3, 3, (65, 129), (1, 3, 16, 64)),
        ("sqeuclidean", 200, 256, (5, 63), (1, 16)),
        ("euclidean", 5, 40, (4, 100), (3,)),
        ("hamming", 16, 6, (3, 300), (1, 3, 16, 64)),
        ("hamming", 2, 2, (1, 1), (1,)),
        ("hamming", 7, 250, (4, 70), (1, 5)),     # more symbols than one-hot rows are made for
        ("hamming", 700, 50, (2, 20), (2,)),      # longer than one-hot rows are made for
        ("hamming", 9, 60_000, (3, 70), (1, 5)),  # 16 bits, half of them negative numbers there
    ],
)
def test_integers(distance, features, symbols, sizes, ks):
    rng = np.random.default_rng(0)
    query, reference = (rng.integers(0, symbols, (rows, features)).astype(np.uint8 if symbols <= 256 else np.int64) for rows in sizes)
    query[0, 0] = symbols - 1
    query[-1] = reference[-1]
    reference[len(reference) // 2 :: 3] = reference[0]
    assert_search_equals_oracle(query, reference, distance, ks)


def test_beyond_int32():
    """Neither the distance nor the key of 50 001 differences of 255 fits in int32; the depth is split."""
    reference = np.zeros((3, 50_001), np.uint8)
    reference[1] = 255
    reference[2, 0] = 1
    found = knn(*on_device(255 - reference[:2], reference), 3, backend="triton")
    np.testing.assert_array_equal(found.distances.cpu().numpy(), oracle.knn(255 - reference[:2], reference, 3, "sqeuclidean")[0])


def awkward_rows(rng, sizes, features, dtype):
    """Copies, near-copies, scaled copies, zero and constant rows, both zeros, an outlier."""
    query, reference = (np.rint(rng.normal(30, 10, (rows, features)).clip(0, 255)).astype(dtype) for rows in sizes)
    reference[::5] = 7
    reference[2::7] = 0
    query[::2] = reference[rng.integers(0, len(reference), len(query[::2]))]
    query[3:4] = 2 * reference[-1:]
    if dtype != "uint8":
        reference[4::9] = -reference[4::9] * (rng.random(features) < 0.5)
        reference[1] *= 1e6
        reference[10:13] = np.nextafter(reference[9], reference.dtype.type(99))
        query[1] = reference[9]
    return query, reference


@pytest.mark.parametrize("distance", ["sqeuclidean", "euclidean", "cosine", "correlation"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_awkward_rows(distance, dtype, monkeypatch):
    for features, slices in ((17, 1), (130, 2)):
        monkeypatch.setattr(_triton_floats, "OPEN", 64 if slices == 1 else -1000)
        monkeypatch.setattr(_triton_floats, "TRIAL", 2)
        monkeypatch.setattr(_triton_floats, "SAMPLE", 8)
        query, reference = awkward_rows(np.random.default_rng(features), (5, 90), features, dtype)
        assert_search_equals_oracle(query, reference, distance, (1, 7))
        prepared = prepare(on_device(reference)[0], distance).searched
        triton_backend.knn(query_of(on_device(query)[0], prepared), prepared, 1)
        if not prepared.integer:
            assert (("triton", (prepared.distance, 2)) in prepared.packed) == (slices == 2)


@pytest.mark.parametrize("slices", [1, 2])
def test_hard_data(slices, monkeypatch):
    """An offset that cancels, rows one float32 ulp apart, exact halves of the grid, denormals, underflow, huge numbers."""
    if slices == 2:
        monkeypatch.setattr(_triton_floats, "OPEN", -1000)
        monkeypatch.setattr(_triton_floats, "TRIAL", 1)
    rows = np.random.default_rng(0).normal(size=(40, 20)).astype(np.float32)
    ulp = np.repeat(rows[:1], 40, 0)
    ulp[np.arange(20), np.arange(20)] = np.nextafter(ulp[0], np.float32(9))
    cases = [rows + 20, ulp, np.where(rows > 0, np.float32(0.49), np.float32(-0.0)), rows * np.float32(1e-41)]
    cases += [rows.astype(np.float64) * 1e-161, rows.astype(np.float64) * 1e149]
    for data in cases:
        query = np.concatenate([data[:3], np.nextafter(data[:2], data.dtype.type(1))])
        assert_search_equals_oracle(query, data, "sqeuclidean", (3,))


def test_near_copies_by_one_grey_level():
    rng = np.random.default_rng(0)
    grey = np.clip(rng.normal(230, 10, (60, 1024)), 0, 255).astype(np.uint8)
    grey[1::2] = grey[::2]
    grey[np.arange(1, 60, 2), rng.integers(0, 1024, 30)] ^= 1
    changed = grey[::3].copy()
    changed[np.arange(20), rng.integers(0, 1024, 20)] ^= 1
    for scale in (np.uint8(1), np.float32(1 / 255)):
        found = knn(*on_device(changed * scale, grey * scale), backend="triton")
        np.testing.assert_array_equal(found.indices[:, 0].cpu(), (changed[:, None] != grey).sum(-1).argmin(1))


def test_pairs_in_runs_are_the_same():
    rng = np.random.default_rng(1)
    query, reference = (rng.normal(size=(rows, 12)).astype(np.float32) for rows in (9, 200))
    reference[50:60] *= 100    # outlying
    x, y = on_device(query, reference)
    whole, cut = (knn(x, y, 4, backend="triton", max_memory=size) for size in (None, 64 * 37))
    for name in ("distances", "indices", "tie_counts"):
        assert torch.equal(getattr(whole, name), getattr(cut, name))
    np.testing.assert_array_equal(whole.indices.cpu(), oracle.knn(query, reference, 4, "sqeuclidean")[1])


def test_an_outlying_row_ties_with_another():
    reference = np.zeros((60, 2), np.float32)
    reference[1:, 1] = np.arange(59) / 100
    reference[0] = 100, 0    # off the grid; as far from (50, 0) as row 1
    query = np.array([[50, 0], [50, 0.07]], np.float32)
    assert_search_equals_oracle(query, reference, "sqeuclidean", (1, 2, 3))
    prepared = prepare(on_device(reference)[0])
    near = torch.tensor([2500.0, 2500.0], dtype=torch.float64, device=DEVICE)
    rows = triton_backend.rows_within(on_device(query)[0], prepared, near, torch.tensor([0, 2, 3]))
    assert rows.tolist() == [0, 1, 8]
    assert _triton_slices.coded(prepared, 1).outlying.tolist() == [0]


@pytest.mark.parametrize("distance", ["sqeuclidean", "euclidean", "hamming", "cosine"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_range_count(distance, dtype):
    if distance == "hamming" and dtype != "uint8":
        return
    query, reference = awkward_rows(np.random.default_rng(2), (6, 80), 21, dtype)
    query[5] = 0
    table = oracle.distances(query, reference, distance)
    x, y = on_device(query, reference)
    prepared = prepare(y, distance)
    for radius in [-1.0, 0.0, 0.9, *np.unique(table)[::97].tolist(), np.inf]:    # equal to a distance: <= counts it
        limits = torch.full((6,), radius, dtype=torch.float64, device=DEVICE)
        found = triton_backend.range_count(query_of(x, prepared), prepared, limits)
        np.testing.assert_array_equal(found.cpu().numpy(), (table <= radius).sum(1))


@ON_HOST
def test_one_switch_runs_the_same_measurement(monkeypatch):
    """Tokens and images, ties and duplicates: the numbers of every backend are equal."""
    rng = np.random.default_rng(0)
    tokens = {name: rng.integers(0, 3, (rows, 8)) for name, rows in (("gen", 30), ("train", 60), ("heldout", 60))}
    images = {name: rng.normal(size=(len(rows), 3, 4)).astype(np.float32) for name, rows in tokens.items()}
    images["gen"][:10] = images["train"][:10]
    for sets in (tokens, images):
        results = []
        for backend in ("cpu", "torch", "triton"):
            monkeypatch.setenv("BIASGEN_BACKEND", backend)
            result = train_affinity(**sets, permutations=49)
            results.append((float(result), result.ci, result.p_value, result.null.mean, result.null.q95))
        assert results[0] == results[1] == results[2]


@ON_HOST
def test_the_demo_measures_the_same_on_every_backend(monkeypatch, tmp_path):
    """Two networks of its own, trained for some steps; all that comes of neighbours, in every evaluation, to the bit."""
    monkeypatch.setitem(demo.SCALES, "toy", demo.Scale(40, 120, 8, 8, (1, 3), 60, 2))
    searched, records = [], []
    for backend in ("cpu", "torch", "triton"):
        monkeypatch.setattr(backends, "ORDER", (backend, "cpu", "torch", "triton"))  # trees have no Triton kernels: no switch alone does
        module = backends.load(backend)[0]
        knn = module.knn
        monkeypatch.setattr(module, "knn", lambda *inputs, name=backend, knn=knn: searched.append(name) or knn(*inputs))
        verdict = demo.run(scale="toy", record=tmp_path / backend)
        _, evaluations, onset = read_record(tmp_path / backend)
        metrics = [evaluation["metrics"] for evaluation in evaluations]
        for found in metrics:
            for by_trees in ("null", "excess"):  # how many copies are expected, which belief propagation says
                del found["exact_copies"][by_trees]
        records.append((verdict, metrics, onset))
    assert records[0] == records[1] == records[2]
    assert len(records[0][1]) == 2
    assert set(records[0][1][0]) > {"own_share", "kl_own", "near_copies", "exact_copies", "twin_distance"}
    assert len({searched.count(backend) for backend in ("cpu", "torch", "triton")}) == 1


def test_views_and_tokens_of_two_widths():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 3, 4, 4)).astype(np.float32)
    query = images[:6, :, :, ::-1] + np.float32(0.01)
    tokens = np.array([[300, 200, 1], [1, 2, 200]]), rng.choice([1, 2, 200], (50, 3)).astype(np.uint8)
    for x, y, options in ((query, images, {"views": ("identity", "hflip")}), (*tokens, {"distance": "hamming"})):
        x, y = on_device(x, y)
        found = knn(x, TrainingSet(y, **options), 3, backend="triton")
        wanted = knn(x.cpu(), TrainingSet(y.cpu(), **options), 3, backend="torch")
        for name in ("distances", "indices", "tie_counts"):
            assert torch.equal(getattr(found, name).cpu(), getattr(wanted, name))
    images, train = on_device(query, images)
    found = range_count(images, TrainingSet(train, views=("identity", "hflip")), 1.0)
    assert found.tolist() == [1] * 6


def test_the_self_test_launches_every_kind(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr(_tile, "_DEPTH", 192)  # 32 768 take the interpreter half a minute
    launched = watch(monkeypatch)
    _triton_check.check.__wrapped__(torch.device(DEVICE))
    kinds = {(verb.split()[0], kind) for verb, kind in map(parts_of, launched)}
    every = {(verb, kind) for verb in ("nearest", "count", "list") for kind in KINDS}
    assert kinds == every | {("squared", "")}


def parts_of(name):
    """("nearest 1", "int8, D <= 128") of "nearest 1, int8, D <= 128, 64 x 128"."""
    verb, *kind = name.split(", ")
    return verb, ", ".join(kind[:-1])


def test_the_self_test_finds_a_wrong_kernel(monkeypatch):
    right = {"nearest": nearest.nearest, "Within": within.Within, "squared": squared}

    class Wrong(within.Within):
        def rows(self, at):
            return super().rows(at).flip(0)

    broken = {
        "nearest": lambda query, reference, multiplicity, k: right["nearest"](query, reference, multiplicity.roll(1), k),
        "Within": Wrong,
        "squared": lambda *pairs: right["squared"](*pairs) * (1 + 2.0**-52),
    }
    for name, wrong in broken.items():
        monkeypatch.setattr(_triton_check, name, wrong)
        with pytest.raises(RuntimeError, match=r"^backend: the Triton kernels give wrong answers on "):
            _triton_check.check.__wrapped__(torch.device(DEVICE))
        monkeypatch.setattr(_triton_check, name, right[name])


def test_refuses_more_rows_than_int32_numbers(monkeypatch):
    monkeypatch.setattr(_triton_slices, "MAX_ROWS", 3)
    with pytest.raises(ValueError, match=r"^reference: the triton backend takes up to 3 rows, got 4$"):
        knn(*on_device(np.zeros((1, 2), np.uint8), np.zeros((4, 2), np.uint8)), backend="triton")


def test_nothing_that_a_graph_captures_is_read_on_the_host(monkeypatch):
    """Neither of uint8 nor of token searches, with ties, duplicates, several blocks; what is made once must be there before."""
    launch = nearest._launch

    def unwatched(*arguments):
        with _disable_current_modes():
            return launch(*arguments)

    rng = np.random.default_rng(0)
    images, tokens = rng.integers(0, 256, (90, 40), dtype=np.uint8), rng.integers(0, 3, (90, 8), dtype=np.uint8)
    for rows, distance in ((images, "sqeuclidean"), (images, "euclidean"), (tokens, "hamming")):
        rows[50:60] = rows[:10]
        query = rows[::2] ^ (rng.random(rows[::2].shape) < 0.1)    # tokens beyond those of the reference, too
        x, train = on_device(query)[0], TrainingSet(on_device(rows)[0], distance)
        wanted = oracle.knn(query, rows, 3, distance)
        with monkeypatch.context() as patched:
            for module in (_triton_slices, triton_backend, importlib.import_module("biasgen.ops.knn")):
                patched.setattr(module, "is_capturing", lambda device: True)
            patched.setattr(triton_backend, "_NEAREST", 20)
            if DEVICE == "cpu":
                # On the CPU alone torch's threads are looked at, by a tensor there.
                patched.setattr(torch, "get_num_threads", lambda: 1)
            with pytest.raises(RuntimeError, match=r"^reference: its int8 rows are made by the first search, which cannot be captured"):
                knn(x, train, 3, backend="triton")
            patched.setattr(_triton_slices, "is_capturing", lambda device: False)
            knn(x, train, 3, backend="triton")
            patched.setattr(_triton_slices, "is_capturing", lambda device: True)
            patched.setattr(nearest, "_launch", unwatched)
            with NoHostReads():
                found = knn(x, train, 3, backend="triton")
        for actual, right in zip((found.distances, found.indices, found.tie_counts), wanted, strict=True):
            np.testing.assert_array_equal(actual.cpu().numpy(), right)


def test_what_a_graph_cannot_capture_is_refused(monkeypatch):
    module = importlib.import_module("biasgen.ops.knn")
    monkeypatch.setattr(module, "is_capturing", lambda device: True)
    (rows,) = on_device(np.arange(60, dtype=np.uint8).reshape(20, 3, 1))
    train, floats = TrainingSet(rows), TrainingSet(rows.float())
    for query, reference, options in (
        (rows.float(), floats, {}), (rows, rows, {}), (rows, train, {"exclude_self": True}),
        (rows.long(), TrainingSet(rows, "hamming"), {}),
        (rows, TrainingSet(rows, "cosine"), {}), (rows, TrainingSet(rows, views=("identity", "hflip")), {}),
        (rows, train, {"backend": "torch"}),
    ):
        with pytest.raises(ValueError, match=r"^query: want uint8 rows, by hamming .* while a CUDA graph is captured"):
            knn(query, reference, **({"backend": "triton"} | options))
    assert knn(rows, train, backend="triton").distances.sum() == 0


def test_the_sweep_of_make_gpu_check():
    assert len([*sweep.searches(DEVICE, "triton", 3, 70)]) == len(sweep.SEARCHED)
