"""Launches of the Triton kernels without a GPU: Triton's own path up to the driver, which is a
stand-in. Every variant is launched, under every setting that tests patch, as it is compiled ahead
of time, and is compiled once."""
import importlib.util
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from biasgen import _settings

if importlib.util.find_spec("triton") is None:
    assert "triton" not in _settings.required_backends()
    pytest.skip("triton is not installed here", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget

from biasgen.triton_kernels import (
    _tile,
    ahead_of_time,
    denoise_dense,
    denoise_listed,
    exact_values,
    nearest,
    within,
)
from tests.interpreted import triton_denoise, triton_search
from tests.triton_launches import variants, watch

QUERIES, ROWS = 66, 300


class Driver:
    """Of a GPU with compute capability 9.0 that runs nothing."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


def key(source):
    """Everything on which a compilation depends: kernel, types, constants, multiples of 16."""
    known = [(at, str(value)) for at, value in source.attrs.items() if value]
    parts = source.signature.items(), source.constants.items(), known
    return source.fn.__name__, *(tuple(sorted(part)) for part in parts)


@pytest.fixture
def sources(monkeypatch):
    """What is compiled, by `key`."""
    seen = []

    def compiled(source, **_):
        source.hash()  # as triton.compile does, which finds the globals
        seen.append(key(source))
        nothing = {"function": None, "packed_metadata": None}
        return SimpleNamespace(launch_metadata=lambda *_: None, run=lambda *_: None, **nothing)

    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    monkeypatch.setattr(triton.compiler, "compile", compiled)
    for kernel, *_ in variants().values():
        monkeypatch.setattr(kernel, "device_caches", defaultdict(kernel.create_binder))
    return seen


def slices(rows, features, two, tokens):
    high = torch.zeros((rows, features), dtype=torch.int8)
    norms = torch.zeros(rows, dtype=torch.int64)
    return _tile.Slices(high, high.clone() if two else None, norms, tokens)


def search(features, two=False, tokens=False):
    """Launches the search kernels for rows of this kind."""
    query, reference = (slices(rows, features, two, tokens) for rows in (QUERIES, ROWS))
    times = torch.ones(ROWS, dtype=torch.int32)
    for (kept, large), tiles in nearest.TILES.items():
        if large == reference.large:
            for tile in tiles:
                nearest._launch(query, reference, times, kept, tile)
    limit = torch.zeros(QUERIES, dtype=torch.int64)
    part = within.Within(query, reference, times, limit, limit)
    part._counts.fill_(1)
    for start in range(5):  # whatever the address of a slice
        part.rows(slice(start, None))


def denoise(dtype, n, features=32):
    """Launches what the denoiser launches, and values of pairs, for n queries."""
    x = torch.zeros((n, features), dtype=torch.float64)
    rows = torch.zeros((70, features), dtype=dtype)
    number, column, center = torch.zeros(n, dtype=torch.int64), x[:, 0].contiguous(), x[0].clone()
    starts, prior = torch.zeros(n + 1, dtype=torch.int64), torch.zeros(70, dtype=torch.float64)
    for start in (0, 1):
        moved = x.flatten()[start:][: features * (n - 1)].view(-1, features)
        exact_values.squared(moved, rows, number[start:], number[start:])
    denoise_dense.weighted(x, column, rows, center, prior, prior, 1 << 20)
    denoise_listed.squares_of(x, column, rows, center, number, number)
    denoise_listed.weighted(column, rows, number, starts)


def launch_all():
    for tokens, two, features in ((0, 0, 192), (0, 0, 128), (0, 1, 192), (0, 1, 128), (1, 0, 10)):
        search(features, bool(two), bool(tokens))
    search((_tile._DEPTH // 64 + 1) * 64)
    for dtype in (torch.float32, torch.float64):
        for n in (7, 8):
            denoise(dtype, n)


def test_every_variant_is_launched_as_it_is_compiled_ahead_of_time(sources, monkeypatch):
    names = watch(monkeypatch)
    launch_all()
    assert names == set(variants())
    assert set(sources) == {key(ahead_of_time.source(name)) for name in variants()}


def test_neither_an_address_nor_a_number_of_queries_is_another_variant(sources):
    """Of rows, limits and lists that begin anywhere: Triton would stop in a search to compile."""
    launch_all()
    assert len(sources) == len(variants())


def test_every_variant_has_a_conformance_case():
    """Each of which asserts that it launches the variant after which it is named."""
    assert set(variants()) == triton_search.CASES | triton_denoise.CASES


def test_another_depth_is_another_variant(sources, monkeypatch):
    """Of a process that has launched the kernels at the usual depth, as tests that patch it do."""
    launch_all()
    usual = [*sources]
    sources.clear()
    monkeypatch.setattr(_tile, "_DEPTH", type(_tile._DEPTH)(128))
    launch_all()
    assert {name for name, *_ in sources} == {"_nearest_kernel", "_within_kernel"}
    assert not set(usual) & set(sources)
