"""What docs/exactness.md promises of a search to the bit: the oracle's answer in every setting, and what order and splits may change."""
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import biasgen
from biasgen import _settings, backends
from biasgen.backends import _screens, cpu_backend, torch_backend
from biasgen.distances import DISTANCES
from biasgen.oracle import knn as oracle

LEVELS = cpu_backend._cpu.isa_levels() if backends.load("cpu")[0] else ()
if not LEVELS:
    assert "cpu" not in _settings.required_backends()


@dataclass(frozen=True)
class Setting:
    """level: of the cpu backend, or "torch". The others are what a caller or his process may have set."""

    level: str
    threads: int = 1
    block: int = 1024
    max_memory: int = 1 << 28
    flush: bool = False
    autocast: bool = False
    dtype: torch.dtype = torch.float32
    prepared: bool = False

    @contextmanager
    def applied(self):
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(_settings, "_num_threads", self.threads))
            stack.enter_context(mock.patch.dict("os.environ", {} if self.level == "torch" else {"BIASGEN_CPU_ISA": self.level}))
            for block in ("HAMMING_BLOCK", "QUERY_BLOCK"):
                stack.enter_context(mock.patch.object(cpu_backend, block, self.block))
            stack.enter_context(mock.patch.object(cpu_backend, "LEAST_BLOCK", 1))
            stack.enter_context(mock.patch.object(torch_backend, "MAX_MEMORY", self.max_memory))
            stack.enter_context(mock.patch.object(_screens, "_QUERIES", self.block))
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast))
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(self.dtype)
            stack.callback(torch.set_flush_denormal, False)
            torch.set_flush_denormal(self.flush)
            yield
            assert bool(torch.full((1,), 5e-324, dtype=torch.float64) == 0) == self.flush, "the caller's mode must come back"
            assert torch.get_default_dtype() == self.dtype
            assert torch.is_autocast_enabled("cpu") == self.autocast


SETTINGS = st.builds(
    Setting,
    level=st.sampled_from(["torch", *LEVELS]),
    threads=st.integers(1, 3),
    block=st.integers(1, 9),
    max_memory=st.sampled_from([1, 5000, 1 << 28]),
    flush=st.booleans(),
    autocast=st.booleans(),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    prepared=st.booleans(),
)
PLAIN = Setting("torch")


@dataclass(frozen=True)
class Problem:
    """radius: a distance that occurs; edges: (B + 1,) of bins, all of them distances that occur."""

    query: np.ndarray
    reference: np.ndarray
    k: int
    distance: str
    radius: float
    edges: np.ndarray


@st.composite
def problems(draw):
    """Few values and copies, so that ties are the rule; differences in the last bits; what a process that flushes denormals would lose."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    distance = draw(st.sampled_from(list(DISTANCES)))
    dtype = np.dtype(draw(st.sampled_from([name for name in DISTANCES[distance].dtypes if name != "bfloat16"])))
    features, size = draw(st.sampled_from([1, 3, 16, 17, 37])), draw(st.sampled_from([1, 2, 11, 12, 13, 24, 47, 48, 49, 65]))
    if dtype.kind != "f":
        reference = rng.integers(0, draw(st.sampled_from([2, 5, 128])), (size, features)).astype(dtype)
    elif draw(st.booleans()):
        least = np.finfo(dtype).smallest_subnormal
        scale = draw(st.sampled_from([1 / 4, float(least), 1e-150 if dtype == np.float64 else 1 / 8]))
        reference = (rng.integers(-2, 3, (size, features)) * scale).astype(dtype)
    else:
        reference = (rng.normal(5, 1, features) * (1 + rng.integers(0, 3, (size, features)) * np.finfo(dtype).eps)).astype(dtype)
    query = reference[rng.integers(0, size, draw(st.sampled_from([1, 2, 5, 8, 9, 10, 17, 33])))]
    if size > 1:
        query[::3] = query[::3][:, rng.permutation(features)]
    table = oracle.distances(query, reference, distance)
    radius, edges = rng.choice(table.ravel()), np.unique(rng.choice(table.ravel(), 4))
    edges = edges.astype(np.float64) if len(edges) > 1 else np.array([0.0, float(radius) + 1])
    return Problem(query, reference, draw(st.integers(1, min(size, 64))), distance, float(radius), edges)


def answers(problem, setting):
    """Everything that is promised, by name: one row a query unless the name begins with a capital letter."""
    query, distance = problem.query, {"distance": problem.distance}
    with setting.applied():
        reference = biasgen.TrainingSet(problem.reference, problem.distance) if setting.prepared else problem.reference
        dtype = {"f2": "float32"}.get(query.dtype.str[1:], query.dtype.name if query.dtype.kind == "f" else "uint8")
        backend = "torch" if setting.level == "torch" else "cpu"
        if backends.refusal(backend, "knn", device="cpu", dtype=dtype, distance=DISTANCES[problem.distance].ordered_by):
            backend = None
        found = biasgen.knn(query, reference, problem.k, backend=backend, max_memory=setting.max_memory, **distance)
        assert backend in (None, found.stats["backend"])
        credit = biasgen.nearest_credit(query, reference, backend=backend, **distance)
        return {
            "distances": found.distances,
            "indices": found.indices,
            "tie_counts": found.tie_counts,
            "Weights": credit.weights,
            "counts": biasgen.range_count(query, reference, problem.radius, **distance),
            "Histogram": biasgen.distance_histogram(query, reference, problem.edges, **distance),
            "table": biasgen.pairwise_distances(query, reference, **distance),
            "paired": biasgen.paired_distances(query, np.resize(problem.reference, query.shape), **distance),
        }


def expected(problem):
    """The same from the oracle."""
    query, reference, distance = problem.query, problem.reference, problem.distance
    table = oracle.distances(query, reference, distance)
    distances, indices, tie_counts = oracle.knn(query, reference, problem.k, distance)
    rows = np.resize(reference, query.shape)
    return {
        "distances": distances,
        "indices": indices,
        "tie_counts": tie_counts,
        "Weights": oracle.nearest_credit(query, reference, distance),
        "counts": (table <= problem.radius).sum(1),
        "Histogram": np.histogram(table, problem.edges)[0],
        "table": table,
        "paired": np.array([oracle.distances(x[None], y[None], distance)[0, 0] for x, y in zip(query, rows, strict=True)]),
    }


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values, name)
        if values.dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(found[name]), np.signbit(values), name)


def only(problem, **changes):
    """The problem with other fields."""
    return Problem(**(vars(problem) | changes))


@settings(deadline=None, max_examples=120)
@given(problem=problems(), setting=SETTINGS)
def test_the_setting_changes_nothing(problem, setting):
    assert_same(answers(problem, setting), expected(problem))


@settings(deadline=None, max_examples=30)
@given(problem=problems(), setting=SETTINGS, data=st.data())
def test_order_and_split_of_the_queries(problem, setting, data):
    whole = answers(problem, PLAIN)
    rows = {name: values for name, values in whole.items() if name.islower() and name != "paired"}
    order = np.array(data.draw(st.permutations(range(len(problem.query)))))
    shuffled = answers(only(problem, query=problem.query[order]), setting)
    assert_same({name: shuffled[name] for name in rows}, {name: values[order] for name, values in rows.items()})
    np.testing.assert_array_equal(shuffled["Histogram"], whole["Histogram"])

    cut = data.draw(st.integers(1, len(problem.query)))
    parts = [answers(only(problem, query=part), setting) for part in (problem.query[:cut], problem.query[cut:]) if len(part)]
    assert_same({name: np.concatenate([part[name] for part in parts]) for name in rows}, rows)
    np.testing.assert_array_equal(sum(part["Histogram"] for part in parts), whole["Histogram"])


@settings(deadline=None, max_examples=30)
@given(problem=problems(), setting=SETTINGS, data=st.data())
def test_order_of_the_reference(problem, setting, data):
    """Distances, ties and each row's credit stay; among ties the index is the lowest in the new order."""
    whole = answers(problem, PLAIN)
    order = np.array(data.draw(st.permutations(range(len(problem.reference)))))
    shuffled = answers(only(problem, reference=problem.reference[order]), setting)
    same = ("distances", "tie_counts", "counts", "Histogram")
    assert_same({name: shuffled[name] for name in same}, {name: whole[name] for name in same})
    np.testing.assert_array_equal(shuffled["Weights"], whole["Weights"][order])
    np.testing.assert_array_equal(shuffled["table"], whole["table"][:, order])
    ordered = oracle.ordered(problem.query, problem.reference, problem.distance)[:, order]
    np.testing.assert_array_equal(shuffled["indices"], np.argsort(ordered, axis=1, kind="stable")[:, : problem.k])


@settings(deadline=None, max_examples=30)
@given(problem=problems(), setting=SETTINGS, data=st.data())
def test_split_of_the_reference(problem, setting, data):
    """Parts merged by (distance, index), as a sharded search does; their counts add up."""
    if problem.distance == "euclidean":    # is ordered by the square, which the answer does not hold
        problem = only(problem, distance="sqeuclidean", radius=problem.radius**2)
    whole = answers(problem, PLAIN)
    cut = data.draw(st.integers(1, len(problem.reference)))
    split = [part for part in (problem.reference[:cut], problem.reference[cut:]) if len(part)]
    parts = [answers(only(problem, reference=part, k=min(problem.k, len(part))), setting) for part in split]
    distances = np.concatenate([part["distances"] for part in parts], 1)
    indices = np.concatenate([part["indices"] + i * cut for i, part in enumerate(parts)], 1)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : problem.k]
    smallest = np.stack([part["distances"][:, 0] for part in parts])
    merged = {
        "distances": np.take_along_axis(distances, nearest, 1),
        "indices": np.take_along_axis(indices, nearest, 1),
        "tie_counts": (np.stack([part["tie_counts"] for part in parts]) * (smallest == smallest.min(0))).sum(0),
        "counts": sum(part["counts"] for part in parts),
        "Histogram": sum(part["Histogram"] for part in parts),
        "table": np.concatenate([part["table"] for part in parts], 1),
    }
    assert_same(merged, {name: whole[name] for name in merged})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("distance", ["sqeuclidean", "euclidean"])
def test_pool_threads_keep_denormals(level, distance):
    """Threads of the pool start in the caller's mode, which flushes: rows whose differences are denormals, in many blocks."""
    rng = np.random.default_rng(0)
    query, reference = (rng.integers(-3, 4, (rows, 20)).astype(np.float32) * np.float32(1e-45) for rows in (64, 50))
    problem = Problem(query, reference, 3, distance, 0.0, np.array([0.0, 1.0]))
    assert len(np.unique(expected(problem)["distances"])) > 3
    assert_same(answers(problem, Setting(level, threads=3, block=4, flush=True)), expected(problem))
