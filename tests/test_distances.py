"""The table of distances: a row that no backend has finished is refused by all of them, and each backend offers what it has."""
import subprocess
import sys

import numpy as np
import pytest

from biasgen import backends
from biasgen.distances import DISTANCES

UNFINISHED = """
import numpy as np
from biasgen import distances
row = {"integer": True, "ordered_by": "unfinished", "dtypes": ("uint8", "int64", *distances.FLOATS)}
distances.DISTANCES["unfinished"] = distances.Distance("unfinished", "rows", **row)
import biasgen
from biasgen import backends

query, reference = np.arange(12).reshape(3, 4), np.arange(20).reshape(5, 4)
calls = {
    "nearest_credit": (), "distance_histogram": ([0.0, 9.0],), "range_count": (3.0,), "pairwise_distances": (), "knn": (2,),
}
for dtype in ("uint8", "float32", "float64"):
    rows = query.astype(dtype), reference.astype(dtype)
    asked = [(name, rows, more, {}) for name, more in calls.items()] + [("paired_distances", (rows[0], rows[0]), (), {})]
    asked += [("knn", rows, (), {"backend": name}) for name in backends.ORDER]
    for name, given, more, backend in asked:
        try:
            answer = getattr(biasgen, name)(*given, *more, distance="unfinished", **backend)
        except ValueError as error:
            assert str(error).startswith("backend: none can run "), error
        else:
            print(f"{name} of {dtype} {backend} answered {answer}")
"""


def test_a_row_alone_is_refused_by_every_backend():
    """In a process of its own: the row is there before any backend is."""
    run = subprocess.run([sys.executable, "-c", UNFINISHED], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (0, ""), run.stdout + run.stderr


def test_what_a_backend_offers_is_read_off_its_table():
    from biasgen.backends import _values, cpu_backend, torch_backend, triton_backend

    assert torch_backend.OPS["knn"]["distances"] == tuple(_values.VALUES) == tuple(DISTANCES)
    assert cpu_backend.OPS["knn"]["distances"] == tuple(cpu_backend.SEARCHES)
    assert triton_backend.OPS["knn"]["distances"] == tuple(triton_backend.SQUARES)


@pytest.mark.parametrize("search", ["knn", "encode"])
def test_native_kernels_refuse_an_unknown_name(search):
    native = backends.load("cpu")[0]
    if native is None:
        pytest.skip("biasgen._cpu is not built")
    rows = np.zeros((2, 3), np.uint8)
    more = {"knn": (rows, 2, 8, *[np.zeros(2, np.int64)] * 5), "encode": (np.zeros(3), 1.0)}
    with pytest.raises(ValueError, match=r"^distance: want one of '.* here, got 'unfinished'$"):
        getattr(native._cpu, search)("baseline", "unfinished", rows, *more[search])


@pytest.mark.parametrize("name", ["cityblock", "chebyshev"])
def test_triton_refuses_with_a_sentence(monkeypatch, name):
    """As where it can run: an interpreter or a device decides nothing here."""
    from biasgen.backends import triton_backend

    monkeypatch.setattr(backends, "load", lambda name: (triton_backend, None))
    call = {"device": triton_backend.DEVICES[0], "dtype": "float32", "distance": name}
    monkeypatch.delattr(triton_backend, "device_refusal", raising=False)
    offered = "hamming, sqeuclidean, cosine, correlation"
    assert backends.refusal("triton", "knn", **call) == f"knn takes {offered}, got {name}"
