"""The triton backend without a GPU: interpreted against the oracle, compiled, and what it refuses."""
import importlib.util
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.host_reads import NoHostReads
from biasgen import _settings, backends
from biasgen.backends import triton_backend
from biasgen.ops import counts
from biasgen.ops._dispatch import choose
from biasgen.ops._prepared import prepare

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def triton():
    """Skips without Triton; fails where BIASGEN_REQUIRE_BACKENDS names it."""
    if importlib.util.find_spec("triton") is None:
        (pytest.fail if "triton" in _settings.required_backends() else pytest.skip)("triton is not installed here")


@pytest.fixture
def compiled(triton, monkeypatch):
    """compile_for; what it compiles is kept under build/."""
    monkeypatch.setenv("TRITON_CACHE_DIR", os.environ.get("TRITON_CACHE_DIR") or str(ROOT / "build/triton"))
    from biasgen.triton_kernels import ahead_of_time

    return ahead_of_time.compile_for


@pytest.mark.parametrize("op", ["search", "denoise", "measurements"])
def test_in_the_interpreter(triton, op):
    """In a process of its own: Triton chooses its interpreter when a kernel is defined."""
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", f"tests/interpreted/triton_{op}.py"]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", ["nearest 1, int8, 64 x 128", "nearest 16, two slices, 32 x 64", "list within, int8, 64 x 128"])
def test_searches_compile(compiled, name, capability):
    """To integer tensor-core products; tests/test_gpu_registers.py compiles every kernel, and counts."""
    product = "wgmma.mma_async" if capability == 90 and "64 x" in name else "mma.sync"
    assert re.search(rf"{re.escape(product)}\S*\.s32\.s8\.s8", compiled(name, capability).asm["ptx"])


@pytest.mark.parametrize("capability", [80, 90])
def test_the_denoiser_compiles_to_tensor_core_products(compiled, capability):
    """Of double precision, and of single precision in parts of 11 bits."""
    assert re.search(r"mma\.sync\S*\.f64\.f64\.f64\.f64", compiled("weigh, fp32", capability).asm["ptx"])
    assert re.search(r"mma\S*\.f32\.tf32\.tf32", compiled("mean, fp32", capability).asm["ptx"])


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", ["squared, fp32", "squared, fp64"])
def test_values_are_not_fused_and_keep_denormals(compiled, name, capability):
    ptx = compiled(name, capability).asm["ptx"]
    assert "mul.f64" in ptx or "mul.rn.f64" in ptx
    assert not re.search(r"fma\S*\.f64|\.ftz", ptx)


def test_every_variant_has_a_name(compiled):
    from biasgen.triton_kernels import ahead_of_time, nearest, within

    names = ahead_of_time.kernels()
    shapes = [(f"nearest {kept}, ", large, tile) for (kept, large), tiles in nearest.TILES.items() for tile in tiles]
    shapes += [("list within, " if listing else "count within, ", large, tile) for (listing, large), tile in within.TILES.items()]
    for start, large, tile in shapes:
        fitting = [name for name in names if name.startswith(start) and name.endswith(f"{tile.n} x {tile.m}")]
        rows = {name.removeprefix(start).rsplit(", ", 1)[0] for name in fitting}
        assert rows >= ({"two slices", "two slices, D <= 128", "tokens"} if large else {"int8", "int8, D <= 128"})


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("features", [1, 2, 30])
def test_limits_of_codes_hold_for_every_pair(triton, features, slices):
    """The codes of a pair at distance d lie within `far` for d, and beyond `near` for less than d."""
    from biasgen.backends._triton_slices import coded, encode

    random = torch.Generator().manual_seed(0)
    x, y = (torch.rand(rows, features, generator=random, dtype=torch.float64) + 5 for rows in (150, 200))
    x[0] = y[0]
    reference = coded(prepare(y), slices)
    query, codes = encode(x, reference.grid)
    apart = (whole(query)[:, None] - whole(reference.slices)).square().sum(-1)
    distances = (x[:, None] - y).square().sum(-1).sqrt()
    distances[0, 0] = 0
    gaps = []
    for j in (reference.multiplicity > 0).nonzero()[:, 0].tolist():
        near, far = reference.limits(distances[:, j] * (1 - 1e-12), codes.residual)
        assert (near < apart[:, j]).all()
        assert (far >= apart[:, j])[distances[:, j] > 0].all()
        assert (reference.limits(distances[:, j], codes.residual)[1] >= apart[:, j]).all()
        gaps.append((far - near) / apart[:, j])
    if features == 30:    # and they are no wider than the grid asks for
        assert torch.cat(gaps).median() < (0.2 if slices == 1 else 0.4 / 256)


def whole(slices):
    return 256 * slices.high.long() + slices.low if slices.low is not None else slices.high.long()


@pytest.mark.parametrize(
    ("symbols", "length", "tokens", "width"), [(6, 16, False, 128), (64, 500, False, 32_000), (65, 2, True, 2), (64, 517, True, 517)]
)
def test_tokens_become_one_hot_rows_where_they_fit(triton, symbols, length, tokens, width):
    from biasgen.backends._triton_slices import integers

    rows = torch.zeros(2, length, dtype=torch.uint8)
    rows[1, 1] = symbols - 1
    query, reference = integers(rows[:1], prepare(rows, "hamming"))
    assert (query.tokens, reference.tokens) == (tokens, tokens)
    assert reference.high.shape == (2, width)
    assert reference.norms.tolist() == [length] * 2


def test_what_is_kept_is_awaited_on_other_streams_but_not_under_capture(triton, monkeypatch):
    from biasgen.backends import _triton_slices

    class Stream:
        def __init__(self, name):
            self.name, self.awaited = name, []

        def record_event(self):
            return f"made on {self.name}"

        def wait_event(self, event):
            self.awaited.append(event)

    streams, capturing = [Stream("a"), Stream("b")], []
    prepared = SimpleNamespace(rows=SimpleNamespace(device=torch.device("cuda:1")), packed={})
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[0])
    monkeypatch.setattr(_triton_slices, "is_capturing", lambda device: bool(capturing))
    made = [_triton_slices.kept(prepared, "rows", object)]
    streams.reverse()
    made.append(_triton_slices.kept(prepared, "rows", object))
    assert streams[0].awaited == ["made on a"]
    capturing.append(True)
    made.append(_triton_slices.kept(prepared, "rows", object))
    assert streams[0].awaited == ["made on a"]
    assert made[0] is made[1] is made[2]
    with pytest.raises(RuntimeError, match=r"search once before$"):
        _triton_slices.kept(prepared, "others", object)


def test_a_block_shape_is_timed_once_and_only_where_that_is_safe(triton, monkeypatch):
    from biasgen.triton_kernels import _tune
    from biasgen.triton_kernels._tile import Slices, Tile

    def rows(n, device):
        high = torch.zeros((n, 16), dtype=torch.int8, device="meta")
        return Slices(Placed(high, device), None, torch.zeros(n, device="meta"))

    class Placed:   # a tensor that says it is on a device which this machine lacks
        def __init__(self, tensor, device):
            self.tensor, self.device, self.shape = tensor, torch.device(device), tensor.shape

        def __len__(self):
            return len(self.tensor)

        def __getitem__(self, at):
            return Placed(self.tensor[at], self.device)

    tiles, tried, current, clock = (Tile(1, 1), Tile(2, 2), Tile(3, 3)), [], [], [0.0]

    def launch(query, reference, tile):
        assert current == [query.high.device], "timed elsewhere"
        if (len(query), len(reference), tile.n) not in tried[-1:]:  # else once more
            tried.append((len(query), len(reference), tile.n))
        clock[0] += {1: 3.0, 2: 1.0, 3: 2.0}[tile.n]

    @contextmanager
    def guard(device):
        current.append(device)
        yield
        current.pop()

    class Event:
        def __init__(self, enable_timing):
            self.time = None

        def record(self):
            assert current, "on the stream of another device"
            self.time = clock[0]

        def elapsed_time(self, end):
            return end.time - self.time

    monkeypatch.setattr(torch.cuda, "device", guard)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=list))
    monkeypatch.setattr(_tune, "_chosen", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    large, small = 1 << 20, 1000
    for n, m, device in ((large, small, "cuda:0"), (small, large, "cuda:0"), (large, large, "cpu")):
        assert _tune.tile_for(("key",), tiles, rows(n, device), rows(m, device), launch) == tiles[0]
    assert _tune.tile_for(("key",), tiles[2:], rows(large, "cuda:0"), rows(large, "cuda:0"), launch) == tiles[2]
    assert tried == []
    for _ in range(2):
        assert _tune.tile_for(("key",), tiles, rows(large, "cuda:0"), rows(large, "cuda:0"), launch) == tiles[1]
        assert tried == [(16_384, 65_536, n) for n in (1, 2, 3)]
    _tune.tile_for(("key",), tiles, rows(large, "cuda:1"), rows(large, "cuda:1"), launch)
    assert len(tried) == 6
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert _tune.tile_for(("other",), tiles, rows(large, "cuda:0"), rows(large, "cuda:0"), launch) == tiles[0]
    assert _tune.tile_for(("key",), tiles, rows(large, "cuda:0"), rows(large, "cuda:0"), launch) == tiles[1]
    assert len(tried) == 6


def test_probe_says_why_it_cannot_run(triton, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert triton_backend.probe() == "no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert triton_backend.probe() is None
    monkeypatch.setitem(sys.modules, "biasgen.triton_kernels.nearest", None)
    assert triton_backend.probe().startswith("triton cannot be imported (")


def test_an_old_device_is_refused_for_its_own_tensors_only(triton, monkeypatch):
    capabilities = {None: (8, 0), 0: (9, 0), 1: (7, 5)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_capability",
        lambda device: capabilities[getattr(device, "index", device)],
    )  # fmt: skip
    backends.load.cache_clear()
    monkeypatch.setattr(triton_backend, "fault", lambda *_: None)
    monkeypatch.setattr(triton_backend, "DEVICES", ("cuda",))
    call = {"dtype": "uint8", "distance": "hamming"}
    try:
        for device in ("cuda", "cuda:0", torch.device("cuda", 0)):
            assert choose("knn", device=device, **call)[0] == "triton"
        for device in ("cuda:1", torch.device("cuda", 1)):
            assert choose("knn", device=device, **call)[0] == "torch"
        with pytest.raises(ValueError, match=r"triton: cuda:1 has compute capability 7.5, whose"):
            choose("knn", device="cuda:1", backend="triton", **call)
    finally:
        backends.load.cache_clear()


@pytest.mark.parametrize(
    ("device", "views", "backend"), [("cuda", 1, None), ("cuda", 2, "torch"), ("cpu", 1, "torch"), ("cpu", 2, "torch")]
)
def test_counts_of_several_views_stay_with_torch(monkeypatch, device, views, backend):
    asked = []
    monkeypatch.setattr(counts, "choose", lambda op, **arguments: asked.append(arguments["backend"]) or (op, None))
    prepared = prepare(torch.zeros(2, 3, 4), views=("identity", "hflip")[:views])
    counts._module("range_count", SimpleNamespace(device=torch.device(device)), prepared)
    assert asked == [backend]


def test_a_call_on_the_cpu_does_not_probe(monkeypatch):
    """A probe may start CUDA, after which a forked worker could not use it."""
    backends.load.cache_clear()
    monkeypatch.setattr(triton_backend, "probe", lambda: pytest.fail("probed"))
    arguments = {"device": "cpu", "dtype": "uint8", "distance": "hamming"}
    assert backends.refusal("triton", "knn", **arguments) == "takes tensors on cuda, got cpu"
    monkeypatch.undo()
    backends.load.cache_clear()


def test_kernels_that_fail_their_self_test_are_passed_over_but_not_where_they_were_asked_for(monkeypatch):
    monkeypatch.setattr(backends, "ORDER", ("torch", "cpu"))
    monkeypatch.delenv("BIASGEN_BACKEND", raising=False)
    call = {"device": "cpu", "dtype": "float32"}
    found = {"knn": "wrong", "tree_posterior": None}
    of_op = lambda op, device: found[op]  # noqa: E731
    monkeypatch.setattr(backends.load("torch")[0], "fault", of_op, raising=False)
    assert choose("tree_posterior", **call)[0] == "torch"
    with pytest.warns(RuntimeWarning, match=r"^backend: torch is passed over for knn: wrong$"):
        assert choose("knn", **call)[0] == "cpu"
    assert choose("knn", backend="torch", **call)[0] == "torch"
    monkeypatch.setattr(backends, "ORDER", ("torch",))
    with (
        pytest.warns(RuntimeWarning, match="passed over"),
        pytest.raises(ValueError, match=r"^backend: none can run knn here; torch: wrong$"),
    ):
        choose("knn", **call)


def test_the_self_test_runs_once_on_a_device_and_not_under_capture(triton, monkeypatch):
    from biasgen.backends import _triton_check

    ran, capturing = [], [True]

    def wrong(device):
        ran.append(("denoiser", device.index))
        raise RuntimeError("sums differ")

    monkeypatch.setattr(triton_backend, "DEVICES", ("cuda",))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(triton_backend, "is_capturing", lambda device: capturing[0])
    monkeypatch.setattr(_triton_check, "check", lambda device: ran.append(("search", device.index)))
    monkeypatch.setattr(_triton_check, "check_denoiser", wrong)
    triton_backend._fault.cache_clear()
    try:
        assert triton_backend.fault("knn", "cuda") is None
        assert ran == []
        capturing[0] = False
        for _ in range(2):
            assert triton_backend.fault("knn", "cuda") is None
            assert triton_backend.fault("range_count", torch.device("cuda:1")) is None
            assert triton_backend.fault("empirical_denoise", "cuda:1") == "RuntimeError: sums differ"
        assert ran == [("search", 1), ("search", 1), ("denoiser", 1)]
        triton_backend.fault("knn", "cuda:0")
        assert ran[3:] == [("search", 0)]
    finally:
        triton_backend._fault.cache_clear()


def test_no_thread_of_the_host_is_looked_at(triton, monkeypatch):
    """Only work on the CPU could be on one; a CUDA graph may not read what says so."""
    from biasgen.backends import _triton_floats

    large = torch.empty((1 << 20, 1 << 10), device="meta")
    monkeypatch.setattr(_triton_floats, "knn", lambda *_: "found")
    with NoHostReads():
        found = triton_backend.knn(large, SimpleNamespace(rows=large, integer=False), 1)
    assert found == "found"
