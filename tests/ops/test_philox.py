"""Counter-based random numbers: published answers, independence from batching, the law of the normals."""
import numpy as np
import pytest
from scipy import stats

from biasgen.backends import cpu_backend
from biasgen.ops import philox

GOLDEN_WORDS = [   # the first row also from a scalar implementation in plain integers
    [2125917566, 1030440701, 2665667919, 2930511981, 3290476108, 1612244101],
    [2479139890, 1554554457, 4105526114, 3146098594, 2541450652, 3116403039],
]
GOLDEN_NORMALS = [-0.515500546, -0.299198836, 0.290182203, 0.293859929, -1.35120761]


def test_published_answer():
    # Random123's known-answer file, philox4x32-10, counter 0, key 0
    assert [hex(w) for w in philox.words(0, n=1, count=4)[0]] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


def test_golden_values():
    keyed = philox.words((7 << 32) | 5, n=2, count=6, offset=(1 << 40) + 3, step=9, purpose=philox.REVERSE)
    assert keyed.tolist() == GOLDEN_WORDS
    z = philox.normals(11, n=1, count=5, offset=2, step=3, purpose=philox.START)
    np.testing.assert_array_max_ulp(z[0], np.float32(GOLDEN_NORMALS), maxulp=4)


@pytest.mark.parametrize("purpose", [philox.DATA, philox.REVERSE])
def test_numbers_do_not_depend_on_the_batch(purpose):
    whole = philox.words(3, n=5000, count=97, step=4, purpose=purpose)
    part = philox.words(3, n=11, count=97, offset=4321, step=4, purpose=purpose)
    np.testing.assert_array_equal(whole[4321:4332], part)
    np.testing.assert_array_equal(whole[:, :10], philox.words(3, n=5000, count=10, step=4, purpose=purpose))


def test_streams_differ():
    streams = [
        philox.words(seed, n=1, count=8, offset=offset, step=step, purpose=purpose).tobytes()
        for seed in (0, 1, 1 << 32)
        for offset in (0, 1, 1 << 32)
        for step in (0, 1)
        for purpose in (philox.DATA, philox.START, philox.FORWARD)
    ]
    assert len(set(streams)) == len(streams)


def test_normals_are_normal():
    z = philox.normals(1, n=2000, count=97).ravel()
    assert stats.kstest(z, "norm").pvalue > 0.01
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 4 / np.sqrt(len(z))


@pytest.mark.skipif(cpu_backend.probe() is not None, reason="no native module")
@pytest.mark.parametrize("count", [1, 2, 97, 256])
def test_native_normals_are_those_of_numpy(monkeypatch, count):
    """The same doubles but for their last bits, which a float32 shows once in some 10^8; every level the same bits."""
    arguments = {"n": 2000, "count": count, "offset": (1 << 40) - 5, "step": 7, "purpose": philox.REVERSE}
    native = []
    for level in cpu_backend._cpu.isa_levels():
        monkeypatch.setenv("BIASGEN_CPU_ISA", level)
        native.append(philox.normals((9 << 32) | 3, **arguments))
        assert native[-1].shape == (2000, count)
        np.testing.assert_array_equal(native[-1], native[0])
        assert philox.normals(0, n=0, count=count).shape == (0, count)
    monkeypatch.setattr(cpu_backend, "probe", lambda: "not today")
    plain = philox.normals((9 << 32) | 3, **arguments)
    np.testing.assert_array_max_ulp(native[0], plain, maxulp=1)
    assert (native[0] != plain).sum() <= 1
    if count == 256:
        assert abs(plain).min() < 1e-5
        assert abs(plain).max() > 4.5


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"seed": -1}, "seed"), ({"seed": 1 << 64}, "seed"), ({"step": 1 << 32}, "step"), ({"offset": 1 << 48}, "offset")],
)
def test_bad_counters(arguments, name):
    for function in (philox.words, philox.normals):
        with pytest.raises(ValueError, match=f"^{name}: "):
            function(**({"seed": 0, "n": 1, "count": 1} | arguments))
