"""knn and nearest_credit: memory, duplicates, expansion, errors; what must not matter is in test_promise.py."""
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import biasgen
from biasgen import _settings, backends
from biasgen.backends import cpu_backend, torch_backend
from biasgen.data.training_set import TrainingSet
from biasgen.distances import DISTANCES
from biasgen.ops._prepared import prepare
from biasgen.ops.knn import knn
from biasgen.ops.nearest_credit import nearest_credit
from biasgen.oracle import knn as oracle
from tests.table import integers

BACKENDS = [name for name in ("cpu", "torch") if backends.load(name)[0] or name in _settings.required_backends()]
NATIVE = pytest.mark.skipif("cpu" not in BACKENDS, reason="biasgen._cpu is not built")
OFFERED = [set(backends.load(name)[0].OPS["knn"]["distances"]) for name in BACKENDS]
SEARCHED = [name for name in integers() if all(name in offered for offered in OFFERED)]


@st.composite
def problems(draw):
    """(query, reference, k, distance) with few symbols, so that ties and duplicates are the rule."""
    features, symbols = draw(st.sampled_from([1, 3, 16, 20])), draw(st.integers(1, 4))
    rows = [
        hnp.arrays(np.uint8, st.tuples(st.integers(1, limit), st.just(features)), elements=st.integers(0, symbols)) for limit in (12, 90)
    ]
    query, reference = draw(rows[0]), draw(rows[1])
    return query, reference, draw(st.integers(1, min(64, len(reference)))), draw(st.sampled_from(SEARCHED))


def assert_same(one, other):
    for name in ("distances", "indices", "tie_counts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


@settings(deadline=None, max_examples=40)
@given(problem=problems(), max_memory=st.integers(1, 50_000))
def test_max_memory(problem, max_memory):
    query, reference, k, distance = problem
    small = knn(query, reference, k, distance=distance, backend="torch", max_memory=max_memory)
    assert_same(small, knn(query, reference, k, distance=distance, backend="torch"))
    credit = nearest_credit(query, reference, distance=distance, backend="torch")
    with mock.patch.object(torch_backend, "MAX_MEMORY", max_memory):
        np.testing.assert_array_equal(nearest_credit(query, reference, distance=distance, backend="torch").weights, credit.weights)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=40)
@given(problem=problems(), times=st.integers(2, 3))
def test_duplicated_reference(backend, problem, times):
    query, reference, _, distance = problem
    once = knn(query, reference, distance=distance, backend=backend)
    repeated = knn(query, np.tile(reference, (times, 1)), distance=distance, backend=backend)
    np.testing.assert_array_equal(repeated.distances, once.distances)
    np.testing.assert_array_equal(repeated.indices, once.indices)
    np.testing.assert_array_equal(repeated.tie_counts, times * once.tie_counts)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=60)
@given(problem=problems(), within=st.none() | st.integers(-1, 5))
def test_credit(backend, problem, within):
    query, reference, _, distance = problem
    credit = nearest_credit(query, reference, distance=distance, within=within, backend=backend)
    np.testing.assert_array_equal(credit.weights, oracle.nearest_credit(query, reference, distance, within))
    distances, _, tie_counts = oracle.knn(query, reference, 1, distance)
    np.testing.assert_array_equal(credit.distances, distances[:, 0])
    np.testing.assert_array_equal(credit.tie_counts, tie_counts)
    near = distances[:, 0] <= (np.inf if within is None else within)
    assert credit.weights.sum() == pytest.approx(near.sum())


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 60), st.integers(1, 3)), elements=st.integers(0, 2)))
def test_prepare_finds_distinct_rows_in_order_of_first_appearance(rows):
    prepared = prepare(rows, "hamming")
    first = {}
    for i, row in enumerate(rows.tolist()):
        first.setdefault(tuple(row), []).append(i)
    assert [tuple(row) for row in prepared.rows.tolist()] == list(first)
    assert prepared.multiplicity.tolist() == [len(where) for where in first.values()]
    groups = [prepared.members[a:b].tolist() for a, b in zip(prepared.offsets[:-1], prepared.offsets[1:], strict=True)]
    assert groups == list(first.values())
    assert (prepared.n, prepared.largest) == (len(rows), rows.max())


def test_many_neighbours_of_duplicated_rows():
    """Rows in full are assembled in blocks of queries: more queries than one block holds."""
    rng = np.random.default_rng(0)
    query, reference = rng.integers(0, 2, (600, 3)), rng.integers(0, 2, (80, 3))
    found = knn(query, reference, 64)
    np.testing.assert_array_equal(found.indices, oracle.knn(query, reference, 64, "hamming")[1])


def test_default_distance_and_stats():
    tokens = np.array([[0, 3], [5, 3]], np.int64)
    assert knn(tokens, tokens[:1]).distances.tolist() == [[0], [1]]
    pixels = tokens.astype(np.uint8)
    assert knn(pixels, pixels[:1]).distances.tolist() == [[0], [25]]
    found = biasgen.knn(tokens, tokens[[0, 0, 1]], backend="torch")
    assert found.stats == {"backend": "torch", "isa": None, "device": "cpu", "distinct": 2}
    assert found.tie_counts.tolist() == [2, 1]


def test_read_only_and_foreign_byte_order():
    rows = np.arange(12, dtype=">i4").reshape(4, 3)
    rows.flags.writeable = False
    np.testing.assert_array_equal(knn(rows, rows).indices[:, 0], range(4))


def test_one_row_backwards():
    """Contiguous to NumPy, for whom the stride of a single row is nothing; torch refuses it."""
    rows = np.arange(6.0).reshape(1, 6)[::-1]
    assert knn(rows, rows[::-1]).distances.tolist() == [[0]]


ROWS = np.zeros((4, 3), np.int64)


@pytest.mark.parametrize("call", [knn, nearest_credit])
@pytest.mark.parametrize(
    ("query", "reference", "options", "error", "message"),
    [
        (ROWS.tolist(), ROWS, {}, TypeError, "query: want a NumPy array or a torch tensor, got list"),
        (ROWS, None, {}, TypeError, "reference: want a NumPy array or a torch tensor, got NoneType"),
        (ROWS.astype(np.float32), ROWS, {}, ValueError, r"query: hamming takes .*int64.*, got float32"),
        (ROWS, ROWS.astype(np.float64), {}, ValueError, r"query: sqeuclidean takes uint8 or float rows .*, got int64"),
        (ROWS > 0, ROWS, {}, ValueError, r"query: hamming takes .*, got bool"),
        (ROWS, ROWS, {"distance": "sqeuclidean"}, ValueError, r"reference: sqeuclidean takes .*uint8.*, got int64"),
        (ROWS[:0], ROWS, {}, ValueError, r"query: want at least one row.*\(0, 3\)"),
        (ROWS, ROWS[:, :0], {}, ValueError, r"reference: want at least one row.*\(4, 0\)"),
        (ROWS[0], ROWS, {}, ValueError, r"query: want .*shape \(rows, ...\).*\(3,\)"),
        (ROWS[:, :2], ROWS, {}, ValueError, r"query: want rows of shape \(3,\) as in the reference, got \(2,\)"),
        (np.zeros((2, 3, 1), int), ROWS, {}, ValueError, r"query: want rows of shape \(3,\).*got \(3, 1\)"),
        (np.where(np.arange(4)[:, None] == 2, -1, ROWS), ROWS, {}, ValueError, r"query: want tokens in 0..65535, got -1 in row 2"),
        (ROWS, np.diag([0, 0, 65_536]), {}, ValueError, r"reference: want tokens in 0..65535, got 65536 in row 2"),
        (ROWS, ROWS.astype(np.uint32) - np.uint32(1), {}, ValueError, r"reference: want tokens in 0..65535, got 4294967295 in row 0"),
        (ROWS, ROWS + 2**40, {}, ValueError, r"reference: want tokens in 0..65535, got 1099511627776 in row 0"),
        (ROWS.astype(np.uint64), ROWS, {}, ValueError, r"query: hamming takes integer tokens 0..65535 .*, got uint64"),
        (ROWS.astype(np.int8) - 1, ROWS, {}, ValueError, r"query: want tokens in 0..65535, got -1 in row 0"),
        (ROWS, ROWS, {"distance": "l2"}, ValueError, r"distance: unknown 'l2'; known: hamming, sqeuclidean, .*say 'sqeuclidean'"),
        (ROWS, ROWS, {"distance": "l1"}, ValueError, r"distance: unknown 'l1'; known: .* \(say 'cityblock'\)$"),
        (ROWS, ROWS, {"distance": "taxi"}, ValueError, f"distance: unknown 'taxi'; known: {', '.join(DISTANCES)}$"),
        (ROWS.astype(np.uint8), ROWS.astype(np.float32), {}, ValueError, "query: want floats as in the reference, got uint8"),
        (ROWS.astype(np.float32), ROWS.astype(np.uint8), {}, ValueError, "query: want uint8 as in the reference, got float32"),
        (ROWS / [1, 1, np.nan], ROWS + 0.5, {}, ValueError, r"query: want finite numbers of at most 1e\+150, got nan in row 0"),
        (ROWS + 0.5, np.diag([0, 0, -np.inf]), {}, ValueError, r"reference: want finite .*, got -inf in row 2"),
        (ROWS + 0.5, np.diag([1, 1, -1e151]), {}, ValueError, r"reference: want finite .*, got -1e\+151 in row 2"),
        (ROWS + 0j, ROWS + 0j, {}, ValueError, r"reference: hamming takes integer tokens .*, got complex128"),
        (ROWS, ROWS, {"backend": "abacus"}, ValueError, r"backend: none can run knn here; abacus: no such backend"),
        (ROWS, ROWS, {"backend": "cuda"}, ValueError, r"backend: none can run knn here; cuda: "),
        (ROWS, TrainingSet(ROWS), {"distance": "sqeuclidean"}, ValueError, r"distance: want 'hamming', which .*got 'sqeuclidean'"),
    ],
)
def test_errors(call, query, reference, options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call(query, reference, **options)


@pytest.mark.parametrize("k", [0, -1, 5, 1.0, True, None])
def test_k(k):
    with pytest.raises(ValueError, match=r"^k: want a whole number in 1\.\.4 \(4 reference rows\), got "):
        knn(ROWS, ROWS, k)


def test_k_beyond_64():
    with pytest.raises(ValueError, match=r"^k: want a whole number in 1\.\.64 \(100 reference rows\), got 65"):
        knn(ROWS, np.zeros((100, 3), int), 65)


@pytest.mark.parametrize("max_memory", [0, -5, 1.5])
def test_max_memory_errors(max_memory):
    with pytest.raises(ValueError, match=r"^max_memory: want a positive number of bytes"):
        knn(ROWS, ROWS, max_memory=max_memory)


@pytest.mark.parametrize("within", [float("nan"), "near"])
def test_within_errors(within):
    with pytest.raises(ValueError, match=r"^within: want a distance or None"):
        nearest_credit(ROWS, ROWS, within=within)


@pytest.mark.parametrize("name", ["BIASGEN_BACKEND", "backend"])
def test_asked_backend_never_falls_back(name, monkeypatch):
    if name == "backend":
        assert knn(ROWS, ROWS, backend="torch").stats["backend"] == "torch"
        return
    monkeypatch.setenv(name, "torch")
    assert knn(ROWS, ROWS).stats["backend"] == "torch"


@NATIVE
def test_forced_instruction_set(monkeypatch):
    monkeypatch.setenv("BIASGEN_CPU_ISA", "baseline")
    assert knn(ROWS, ROWS, backend="cpu").stats["isa"] == "baseline"
    monkeypatch.setenv("BIASGEN_CPU_ISA", "avx1024")
    with pytest.raises(ValueError, match=r"^BIASGEN_CPU_ISA: 'avx1024' cannot run here; this machine has baseline"):
        knn(ROWS, ROWS, backend="cpu")


@NATIVE
@pytest.mark.parametrize("bits", [3, 8, 12, 16])
@pytest.mark.parametrize("features", [5, 16, 100])
def test_packed_rows_serve_every_instruction_set(bits, features):
    native = cpu_backend._cpu
    rows = np.random.default_rng(0).integers(0, 2**bits, (77, features)).astype(np.uint8 if bits <= 8 else np.uint16)
    packed = [native.pack_reference(isa, rows, bits) for isa in native.isa_levels()]
    for other in packed[1:]:
        np.testing.assert_array_equal(other, packed[0])


@NATIVE
def test_tokens_take_two_bytes_at_most():
    """Queries and rows in full, and no more planes than the largest token has bits."""
    rows = np.random.default_rng(0).integers(0, 3000, (50, 64))
    prepared = prepare(rows, "hamming")
    assert (prepared.dtype, prepared.largest) == ("int16", rows.max())
    assert prepare(rows % 256, "hamming").dtype == "uint8"
    knn(rows, TrainingSet(rows))
    cpu_backend.knn(prepared.rows, prepared, 1)
    assert [(bits, packed.nbytes) for bits, packed in prepared.packed.items()] == [(12, 56 * 64 * 12 // 8)]
    far = np.where(rows < 1500, 0, 32_768).astype(np.uint16)    # negative as int16, and else small
    found = knn(far[:5], far, 3, distance="hamming")
    np.testing.assert_array_equal(found.distances, oracle.knn(far[:5], far, 3, "hamming")[0])
    assert (prepare(far, "hamming").dtype, prepare(far // 32_768, "hamming").dtype) == ("int16", "uint8")
    big = prepare(rows + 62_000, "hamming")
    assert (big.dtype, big.largest) == ("int16", rows.max() + 62_000)


@NATIVE
def test_packed_tokens_are_bit_planes():
    """The documented layout: lane [panel][word][bit][row], bit l of a lane = that bit of the symbol at position l."""
    rows = np.random.default_rng(0).integers(0, 8, (40, 16)).astype(np.uint8)
    lanes = cpu_backend._cpu.pack_reference("baseline", rows, 3).view("<u2").reshape(2, 3, 32)
    planes = (rows[:, None, :] >> np.arange(3)[:, None] & 1) @ (1 << np.arange(16))
    np.testing.assert_array_equal(lanes.swapaxes(1, 2).reshape(64, 3)[:40], planes)
    assert not lanes[1, :, 8:].any()


@NATIVE
def test_native_boundary():
    """Wrong arrays are refused, and rows that do not fit are never written."""
    native, rows = cpu_backend._cpu, np.zeros((3, 5), np.uint8)
    packed = native.pack_reference("baseline", rows, 1)
    ones, zeros, out = np.ones(3, np.int64), np.zeros(3, np.int64), np.full(8, -7)
    with pytest.raises(ValueError, match=r"^offsets: do not match"):
        native.rows_within("baseline", "hamming", rows, packed, 3, 1, zeros, np.array([1, 2, 3, 4]), out)
    assert out.tolist() == [-7, 0, 0, 0, -7, -7, -7, -7]
    with pytest.raises(ValueError, match=r"^offsets: want ascending"):
        native.rows_within("baseline", "hamming", rows, packed, 3, 1, zeros, np.array([0, 2, 1, 4]), out)
    with pytest.raises(ValueError, match=r"^reference: not what pack_reference makes"):
        native.rows_within("baseline", "hamming", rows, packed[1:], 3, 1, zeros, np.arange(4), out)
    with pytest.raises(ValueError, match=r"^bits: want 1..8, 12 or 16"):
        native.pack_reference("baseline", rows, 9)
    with pytest.raises(ValueError, match=r"^isa: 'mmx' cannot run here"):
        native.pack_reference("mmx", rows, 1)
    with pytest.raises(ValueError, match=r"^reference: want M rows of the query's width"):
        native.rows_within("baseline", "sqeuclidean", rows, rows[:, :4].copy(), 3, 8, zeros, np.arange(4), out)
    two = np.zeros((3, 2), np.int64)
    with pytest.raises(ValueError, match=r"^tie_rows: want a contiguous \(N,\)"):
        native.knn("baseline", "hamming", rows, packed, 3, 1, ones, two, two.copy(), zeros[:2], zeros)
    with pytest.raises(ValueError, match=r"^rows: want .* uint8 or uint16"):
        native.pack_reference("baseline", rows.astype(np.float32), 1)
    with pytest.raises(ValueError, match=r"^query: want uint8, sqeuclidean has no uint16"):
        native.rows_within("baseline", "sqeuclidean", rows.astype(np.uint16), rows, 3, 8, zeros, np.arange(4), out)


def test_autocast_does_not_matter():
    rows = np.random.default_rng(0).integers(0, 256, (50, 3072)).astype(np.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = knn(rows[:9], rows, 3, backend="torch")
    np.testing.assert_array_equal(found.distances, oracle.knn(rows[:9], rows, 3, "sqeuclidean")[0])


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=60)
@given(problem=problems())
def test_a_row_is_not_its_own_neighbour(backend, problem):
    _, rows, k, distance = problem
    rows = np.concatenate([rows, rows[:1]])
    k = min(k, len(rows) - 1, 63)
    table = oracle.distances(rows, rows, distance)
    np.fill_diagonal(table, np.iinfo(np.int64).max)
    indices = np.argsort(table, axis=1, kind="stable")[:, :k]
    found = knn(rows, rows, k, distance=distance, exclude_self=True, backend=backend)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.distances, np.take_along_axis(table, indices, 1))
    np.testing.assert_array_equal(found.tie_counts, (table == table.min(1, keepdims=True)).sum(1))


def test_exclude_self_behind_many_copies():
    """Row 99 comes after more copies of itself than neighbours are asked for."""
    found = knn(np.zeros((100, 2)), np.zeros((100, 2)), 3, exclude_self=True)
    assert found.indices[[0, 1, 99]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 2]]
    assert (found.tie_counts == 99).all()


@pytest.mark.parametrize(
    ("query", "k", "message"),
    [
        (ROWS[:3], 1, "query: want the 4 rows of the reference with exclude_self, got 3"),
        (np.eye(4, 3, dtype=np.int64), 1, "query: want the rows of the reference with exclude_self, row 0 differs"),
        (ROWS, 4, r"k: want a whole number in 1\.\.3 \(4 reference rows\), got 4"),
    ],
)
def test_exclude_self_errors(query, k, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        knn(query, ROWS, k, exclude_self=True)


def test_progress_counts_the_queries_and_changes_nothing():
    rows = np.random.default_rng(0).integers(0, 5, (9000, 3))
    done = []
    bar = mock.Mock(update=done.append)
    assert_same(knn(rows, rows[:50], 2, progress=bar), knn(rows, rows[:50], 2))
    assert done == [4096, 8192, 9000]
