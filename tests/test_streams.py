"""What is kept between calls and was made on one CUDA stream may be read on another, and dropped
while that one still runs: torch's allocator must know. A stand-in for a tensor on a GPU notes it."""
import importlib.util
from types import SimpleNamespace

import pytest
import torch

from biasgen import _settings
from biasgen.backends import _cuda_trees, _slices
from biasgen.ops._prepared import Prepared

STREAM = object()
TRITON = importlib.util.find_spec("triton") is not None
if not TRITON:
    assert "triton" not in _settings.required_backends()


class OnGpu(torch.Tensor):
    """A tensor of no numbers that says it is on a GPU, and to whom its memory was promised."""

    @staticmethod
    def __new__(cls):
        return torch.Tensor._make_wrapper_subclass(cls, (3,), device="cuda:1")

    def __init__(self):
        self.streams = []

    def record_stream(self, stream):
        self.streams.append(stream)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func}: nothing is computed here")


@pytest.fixture(autouse=True)
def stream(monkeypatch):
    current = {torch.device("cuda:1"): STREAM}
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[device])


def prepared(**packed):
    parts = (OnGpu() for _ in range(4))
    return Prepared(*parts, "sqeuclidean", (3,), 0, ("identity",), packed)


def test_the_rows_of_a_set():
    rows = prepared()
    for _ in rows.blocks(torch.device("cuda:1")):
        pass
    tensors = rows.rows, rows.multiplicity, rows.members, rows.offsets
    assert [tensor.streams for tensor in tensors] == [[STREAM]] * 4


def test_the_rows_of_a_denoiser(monkeypatch):
    op = importlib.import_module("biasgen.ops.empirical_denoise")
    rows, called = prepared(), []


    def denoised(*_):
        called.extend(rows.rows.streams)
        return [torch.ones(1, 3)] * 4

    module = SimpleNamespace(empirical_denoise=denoised)
    monkeypatch.setattr(op, "choose", lambda *_, **__: ("triton", module))
    monkeypatch.setattr(op, "_log_probabilities", lambda *_: (torch.zeros(3), rows))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    rows.packed[op._CHECKED] = True
    op.empirical_denoise(torch.ones(1, 3).numpy(), SimpleNamespace(prepared=rows), 1.0, 1.0)
    assert called == [STREAM]


def test_the_grid_of_rows():
    rows = prepared()
    grid = rows.packed["grid", "sqeuclidean", 1] = _slices.Grid("sqeuclidean", 1, OnGpu(), 1.0, 1.0)
    assert _slices.grid_of(rows, 1, 1, 1) is grid
    assert grid.center.streams == [STREAM]


@pytest.mark.skipif(not TRITON, reason="triton is not installed here")
def test_the_int8_rows():
    from biasgen.backends import _triton_slices
    from biasgen.triton_kernels._tile import Slices

    rows, slices = prepared(), Slices(OnGpu(), None, OnGpu())
    grid = _slices.Grid("sqeuclidean", 1, OnGpu(), 1.0, 1.0)
    coded = _triton_slices.Coded(grid, slices, OnGpu(), OnGpu(), OnGpu())
    rows.packed["triton", "key"] = coded, None
    assert _triton_slices.kept(rows, "key", pytest.fail) is coded
    tensors = (grid.center, slices.high, slices.norms, coded.multiplicity, coded.outlying)
    assert [tensor.streams for tensor in tensors] == [[STREAM]] * 5


def test_a_grammar(monkeypatch):
    constant = OnGpu()
    monkeypatch.setattr(_cuda_trees, "is_capturing", lambda device: False)
    monkeypatch.setattr(_cuda_trees, "_copied", lambda *_: constant)
    assert _cuda_trees._constant(b"grammar", torch.device("cuda:1")) is constant
    assert constant.streams == [STREAM]
