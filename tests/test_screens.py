"""The screens of the torch backend: exact products whatever the kernel, bounds that hold, and no screen changes an answer."""
import os
import subprocess
import sys
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biasgen import TrainingSet, knn, nearest_credit, pairwise_distances, range_count
from biasgen.backends import _codes, _mode, _products, _screens, _search, _slices, _values
from biasgen.backends._mode import exact_arithmetic
from biasgen.ops._prepared import prepare, query_of
from biasgen.oracle import knn as oracle
from tests.hard_rows import hard_rows
from tests.table import taking

SLICED = (_screens.SliceScreen, _screens.DoubleSliceScreen)
DISTANCES = [name for name in taking("float32") if _values.VALUES[name].norm is None]


@pytest.fixture(params=SLICED, ids=["one slice", "two slices"])
def sliced(request, monkeypatch):
    """Every search of floats by these slices, however many pairs they leave open."""
    only(monkeypatch, request.param)
    return request.param


def only(monkeypatch, kind):
    monkeypatch.setattr(_search, "screens", lambda prepared, *_: [_screens.IntegerScreen if prepared.searched.integer else kind])
    monkeypatch.setattr(kind, "open_share", 1.0)


@pytest.mark.parametrize("product", _products.WAYS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 9, 1), (17, 8, 2), (5, 7, 1023), (33, 40, 1041), (20, 3, 5000)])
def test_every_product_is_exact(product, sizes):
    n, m, D = sizes
    generator = torch.Generator().manual_seed(D)
    x, y = (torch.randint(-128, 128, (rows, D), generator=generator).to(torch.int8) for rows in (n, m))
    x[0], y[0] = -128, -128
    x[-1], y[-1] = 127, 127  # 1041 of 127 * 127: the least odd sum beyond 2^24
    expected = x.long() @ y.long().T
    for precision in ("highest", "medium"):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            kept = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
            assert torch.equal(product(x, y).long(), expected)
            assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision) == kept
        finally:
            torch.set_float32_matmul_precision(before)


def test_long_rows_are_split(monkeypatch):
    """Sums of -128 * -128 beyond 2^31."""
    x = torch.full((2, 140_000), -128, dtype=torch.int8)
    assert _products.products(x, x[:1]).tolist() == [[140_000 << 14]] * 2
    rows = np.random.default_rng(0).integers(0, 256, (40, 100), dtype=np.uint8)
    monkeypatch.setattr(_products, "DEPTH", 24)
    monkeypatch.setattr(_screens, "DEPTH", 24)
    found = knn(rows[:5], rows, 7, backend="torch")
    np.testing.assert_array_equal(found.distances, oracle.knn(rows[:5], rows, 7, "sqeuclidean")[0])


def test_a_wrong_product_is_found(monkeypatch):
    def saturating(x, y):
        """As without VNNI: pairs of products are added in 16 bits. Random rows hardly ever show it."""
        terms = torch.nn.functional.pad(x.int()[:, None] * y.int(), (0, x.shape[1] % 2))
        return terms.unflatten(2, (-1, 2)).sum(3).clamp_(-32768, 32767).sum(2)

    def missing(x, y):
        raise RuntimeError("not here")

    cpu = torch.device("cpu")
    assert not _products.is_right(saturating, cpu)
    assert not _products.is_right(missing, cpu)
    monkeypatch.setattr(_products, "WAYS", (saturating, missing, _products.by_float64))
    assert _products.way.__wrapped__(cpu, True) is _products.by_float64


@pytest.mark.parametrize("isa", ["AVX2", "SSE41"])
def test_a_machine_whose_int8_product_saturates(isa):
    """oneDNN held to an instruction set without VNNI: pairs of products saturate at 16 bits, on some machines at least."""
    script = """
import numpy as np, torch
from biasgen import knn
from biasgen.backends import _products
from biasgen.oracle import knn as oracle
with torch.backends.mkldnn.flags(enabled=False):  # another kernel, which is right: it says nothing of the one below
    _products.way(torch.device("cpu"), torch.backends.mkldnn.enabled)
rows = np.where(np.random.default_rng(0).random((50, 300)) < 0.5, 0, 255).astype(np.uint8)
x = torch.from_numpy(rows) ^ 128
x = x.view(torch.int8)
right = torch.equal(_products.by_int8(x, x).long(), x.long() @ x.long().T)
for values in (rows, rows / np.float32(255)):
    found = knn(values[:9], values, 3, backend="torch")
    for actual, wanted in zip((found.distances, found.indices), oracle.knn(values[:9], values, 3, "sqeuclidean")):
        np.testing.assert_array_equal(actual, wanted)
assert right or _products.way(torch.device("cpu"), True) is _products.by_float32
print(right)
"""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    if done.stdout.strip() == "True":
        pytest.skip(f"torch._int_mm is right here with {isa}")


def adversarial():
    """What breaks a careless bound, by name."""
    rows = hard_rows()["normal"]
    return hard_rows() | {
        "identical": np.full((10_000, 5), 0.25, np.float32),
        "constant": np.repeat(np.arange(30, dtype=np.float32)[:, None] / 7, 20, 1),
        "all equally far": np.eye(40, dtype=np.float32),
        "offset": rows + 1000,
        "more than float32": 1 + rows.astype(np.float64) * 1e-13,
    }


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("case", adversarial())
def test_adversarial_rows(sliced, case, distance):
    data = adversarial()[case][: 10_000 if distance == "sqeuclidean" else 100]
    query = np.concatenate([data[:4], np.nextafter(data[:3], data.dtype.type(1)), 1.5 * data[:2], 0 * data[:1]]).astype(data.dtype)
    found = knn(query, data, 5, distance=distance, backend="torch")
    for actual, wanted in zip((found.distances, found.indices, found.tie_counts), oracle.knn(query, data, 5, distance), strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_a_copy_between_two_points_of_the_grid(sliced, monkeypatch):
    """x = y = 0.49 on a grid of 1 and another row at 0.0: codes say 0 for both, and without the clamp the copy may be lost."""
    unit = 1.0 if sliced.slices == 1 else 2.0**-8
    reference = np.array([[0.0, 0.0], [0.49 * unit, 0.49 * unit]])
    grid = _slices.Grid("sqeuclidean", sliced.slices, torch.zeros(2, dtype=torch.float64), unit, np.inf)
    monkeypatch.setattr(_screens, "grid_of", lambda *_: grid)
    found = knn(reference, reference, 2, backend="torch")
    assert found.indices.tolist() == [[0, 1], [1, 0]]
    assert found.distances[:, 0].tolist() == [0, 0]


@st.composite
def coded(draw):
    """(query, reference, distance, grid): near rows and copies on a grid that may fit badly or not at all."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, m, D = draw(st.integers(1, 9)), draw(st.integers(1, 50)), draw(st.sampled_from([1, 2, 5, 17, 40]))
    base = rng.normal(size=(draw(st.integers(1, 4)), D))
    spread = draw(st.sampled_from([0, 1e-7, 1e-3, 0.1, 1]))
    rows = base[rng.integers(0, len(base), n + m)] + spread * rng.normal(size=(n + m, D))
    rows = rows.astype(draw(st.sampled_from([np.float32, np.float64])))
    rows[rng.integers(0, n + m)] = draw(st.sampled_from([0, 1])) * rows[0]
    unit = float(np.float32(draw(st.sampled_from([1e-30, 1e-9, 1e-4, 0.02, 1, 50]))))
    center = torch.from_numpy(draw(st.sampled_from([0, 0.3, -100])) + rng.normal(size=D))
    distance = draw(st.sampled_from(("sqeuclidean", "cosine", "correlation")))
    return rows[:n], rows[n:], _slices.Grid(distance, draw(st.sampled_from([1, 2])), center, unit, draw(st.sampled_from([0.1, np.inf])))


@settings(deadline=None, max_examples=200)
@given(problem=coded(), depth=st.sampled_from([8, _products.DEPTH]), tile=st.sampled_from([1, 1000]), k=st.integers(1, 5))
def test_the_bounds_of_codes_hold(problem, depth, tile, k):
    assert_bounds(*problem, depth, tile, k)


def test_the_bounds_cover_the_rounding_of_keys():
    """Rows on the grid without a low slice: float32 sums of products of codes are all that is not exact."""
    rows = 256.0 * np.random.default_rng(0).integers(100, 126, (60, 3001))
    rows[:20] = rows[20:40] + 256.0 * (np.arange(3001) == 3)
    grid = _slices.Grid("sqeuclidean", 2, torch.zeros(3001, dtype=torch.float64), 1.0, np.inf)
    assert_bounds(rows[:20], rows[20:], grid, _products.DEPTH, 1 << 16, 3)


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_residuals_are_bounds(slices, scale):
    rng = np.random.default_rng(0)
    rows = scale * rng.normal(3, 1, (12, 37))
    rows[3, 5] = 1e3 * scale  # beyond the grid
    center, unit = _codes.grid(rows, 127 if slices == 1 else 32639)
    cases = [(rows, center, unit), (np.ones((1, 3)), np.full(3, 2.0**-60), 1 / 64)]  # 1 - 2^-60 rounds to 1, which is on the grid
    for values, middle, step in cases:
        grid = _slices.Grid("sqeuclidean", slices, torch.from_numpy(middle), step, np.inf)
        found = _slices.encode(torch.from_numpy(values), grid, 100)
        codes = found.high.long() if slices == 1 else 256 * found.high.long() + found.low.long()
        for row, code, residual in zip(values, codes.tolist(), found.residual.tolist(), strict=True):
            terms = [Fraction(float(x)) - Fraction(float(c)) - Fraction(step) * n for x, c, n in zip(row, middle, code, strict=True)]
            exact = sum(term * term for term in terms)
            assert 0 < exact <= Fraction(residual) ** 2
            assert residual**2 <= float(exact) * 1.0001 + (1e-10 * step) ** 2


def assert_bounds(query, reference, grid, depth, tile, k):
    prepared = prepare(reference, grid.distance)
    with mock.patch.object(_products, "DEPTH", depth), exact_arithmetic():
        x, y = (_slices.encode(rows, grid, tile) for rows in (query_of(query, prepared), prepared.rows))
        block = _slices.SliceBlock(x, y, grid, 0)
        values = torch.from_numpy(oracle.distances(query.astype(float), prepared.rows.double().numpy(), grid.distance))
        here = ~block.apart.expand_as(values)
        queries, columns = here.nonzero().unbind(1)
        assert (block.lower(queries, columns) <= values[queries, columns]).all()
        ordered = torch.where(here, values, torch.inf).sort(1).values
        uppers = block.uppers(k)
        assert (uppers >= ordered[:, : uppers.shape[1]]).all()
        for limit in (*values.unbind(1), values[:, 0] * (1 - 1e-12), torch.zeros(len(values)), torch.full((len(values),), torch.inf)):
            limit = limit.double()
            assert block.open(limit)[here & (values <= limit[:, None])].all()
            assert not block.inside(limit)[(values >= limit[:, None]) & (values < torch.inf)].any()
            assert not block.open(limit)[~here].any()


def image_like(rows, D):
    """Mixtures of smooth signals, (rows, D) float32."""
    rng = np.random.default_rng(0)
    smooth = rng.standard_normal((30, D)).cumsum(1) * 0.02
    share = rng.random((rows, 1))
    mixed = share * smooth[rng.integers(0, 30, rows)] + (1 - share) * smooth[rng.integers(0, 30, rows)]
    return (mixed + 0.01 * rng.standard_normal((rows, D))).astype(np.float32)


@pytest.mark.parametrize(("kind", "data", "most"), [(SLICED[0], "image-like", 20), (SLICED[1], "image-like", 3), (SLICED[1], "normal", 3)])
@pytest.mark.parametrize("outlier", [0, 1e6])
def test_codes_leave_few_pairs_open(monkeypatch, kind, data, most, outlier):
    """A screen does its work, also where one row ruins a common grid."""
    rows = image_like(800, 128) if data == "image-like" else np.random.default_rng(1).standard_normal((300, 2048)).astype(np.float32)
    rows[200, 7] += outlier
    only(monkeypatch, kind)
    asked = []
    values = _screens.FloatScreen.values
    monkeypatch.setattr(_screens.FloatScreen, "values", lambda self, q, r: asked.append(len(q)) or values(self, q, r))
    found = knn(rows[:20], rows[20:], backend="torch")
    assert sum(asked) <= 20 * most
    np.testing.assert_array_equal(found.indices, oracle.knn(rows[:20], rows[20:], 1, "sqeuclidean")[1])


def test_a_crowded_screen_gives_way(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(_screens, "SMALL", 0)
    seen = []
    for kind in (*SLICED, _screens.FloatScreen):
        blocks = kind.blocks
        monkeypatch.setattr(kind, "blocks", lambda self, blocks=blocks: seen.append(type(self)) or blocks(self))
    rows = rng.standard_normal((350, 2000)).astype(np.float32)
    knn(rows[:50], rows[50:], backend="torch")
    assert list(dict.fromkeys(seen)) == [*SLICED]
    seen.clear()
    equal = np.eye(200, dtype=np.float32)
    found = knn(np.zeros((3, 200), np.float32), equal, backend="torch")
    assert seen[-1] is _screens.FloatScreen
    assert found.tie_counts.tolist() == [200] * 3


@pytest.mark.parametrize("symbols", [1, 2, 100, 256])
def test_tokens_one_hot_or_compared(symbols):
    rng = np.random.default_rng(0)
    reference = rng.integers(0, symbols, (300, 9), dtype=np.uint8)
    query = rng.integers(0, min(256, symbols + 5), (40, 9), dtype=np.uint8)  # symbols that the reference lacks match nothing
    found = knn(query, reference, 3, distance="hamming", backend="torch")
    for actual, wanted in zip((found.distances, found.indices, found.tie_counts), oracle.knn(query, reference, 3, "hamming"), strict=True):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("distance", ["sqeuclidean", "euclidean", "cosine"])
def test_range_count_at_the_edge(sliced, dtype, distance):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 4, (40, 12)).astype(dtype)
    table = pairwise_distances(rows[:5], rows, distance=distance)
    for value in np.unique(table)[::9]:
        for radius in (value, np.nextafter(value, -1), np.nextafter(value, 9e9), -1.0, np.inf):
            np.testing.assert_array_equal(range_count(rows[:5], rows, radius, distance=distance), (table <= radius).sum(1))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_state_of_the_process(sliced, dtype):
    """autocast, default type, denormals, determinism, precision of products, inference mode, gradients: none of them matters."""
    rows = (np.random.default_rng(0).random((50, 70)) * 255).astype(dtype)
    tensors = [torch.from_numpy(part) for part in (rows[:9], rows)]
    train = TrainingSet(tensors[1])

    def answers(query):
        found, credit = knn(query, train, 3, backend="torch"), nearest_credit(query, train, backend="torch")
        return found.distances, found.indices, found.tie_counts, credit.weights, range_count(query, train, 7e5)

    def compare():
        for actual, wanted in zip(answers(tensors[0]), expected, strict=True):
            np.testing.assert_array_equal(actual.numpy(), wanted)

    expected = [values.numpy() for values in answers(tensors[0])]
    np.testing.assert_array_equal(expected[0], oracle.knn(rows[:9], rows, 3, "sqeuclidean")[0])
    train.prepared.packed.clear()
    with torch.inference_mode():
        compare()
    compare()  # what inference mode left behind is of use outside
    if dtype is np.float32:
        tensors[0].requires_grad_()
    before = torch.get_float32_matmul_precision()
    torch.set_deterministic_debug_mode("error")
    torch.set_float32_matmul_precision("medium")
    torch.set_flush_denormal(True)
    try:
        for default in (torch.float16, torch.float64):
            torch.set_default_dtype(default)
            train.prepared.packed.clear()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                for way in _products.WAYS:
                    with mock.patch.object(_products, "way", lambda *_, way=way: way):
                        compare()
                assert _products.way.__wrapped__(torch.device("cpu"), True) is _products.way(torch.device("cpu"), True)
    finally:
        torch.set_flush_denormal(False)
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(before)
        torch.set_deterministic_debug_mode("default")


class OnAnotherDevice(torch.Tensor):
    """A tensor that says it lies on a device without float64, where only moving it to the host is known to work."""

    device = property(lambda self: torch.device("mps"))

    def to(self, device):
        assert device == torch.device("cpu")
        return self.as_subclass(torch.Tensor)


def test_a_device_without_float64_is_searched_on_the_host():
    assert _mode.searched_on(torch.device("mps")) == torch.device("cpu")
    assert _mode.searched_on(torch.device("cpu")) == torch.device("cpu")
    rows = torch.from_numpy(image_like(50, 12))
    far = rows.as_subclass(OnAnotherDevice)
    expected = knn(rows, rows, 2, backend="torch")
    for query, reference in ((far, far), (far, rows), (far, TrainingSet(far))):
        found = knn(query, reference, 2, backend="torch")
        assert type(found.distances) is torch.Tensor
        assert found.stats["device"] == str(found.distances.device) == "cpu"
        assert torch.equal(found.distances, expected.distances)
    assert torch.equal(range_count(far, far, 1.0), range_count(rows, rows, 1.0))
    out = torch.empty((50, 50), dtype=torch.float64)
    assert torch.equal(pairwise_distances(far, far, out=out), pairwise_distances(rows, rows))


def test_max_memory_is_respected():
    """By the high-water mark of resident memory, in a process whose malloc gives 128 KiB and more back at once (search_memory.py)."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 17), "OMP_NUM_THREADS": "1"}
    script = os.path.join(os.path.dirname(__file__), "search_memory.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    peaks = [line.rsplit(maxsplit=2) for line in done.stdout.splitlines()]
    assert len(peaks) == 42
    assert [(case, budget, taken) for case, budget, taken in peaks if float(taken) > 1.25 * int(budget) + 8] == []
