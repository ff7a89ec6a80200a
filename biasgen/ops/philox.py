"""Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011), keyed by (seed, sample, step, purpose).

Key = (seed low, seed high); counter = (block, step, sample low, sample bits 32-47 | purpose << 16). Element e of a sample is word
e % 4 of block e // 4, so a number depends on its own coordinates alone: never on the batch it is drawn in, and no global generator
is read or moved.
"""
import numpy as np

from biasgen._numbers import is_whole
from biasgen.backends import cpu_backend

DATA, START, FORWARD, REVERSE, TIME, POSTERIOR = range(6)
"""Purposes: streams that must not meet although seed, sample and step are equal."""

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_BLOCK_BYTES = 1 << 20   # counters worked on at a time; the ten rounds then stay in the second-level cache


def words(seed: int, *, n: int, count: int, offset: int = 0, step: int = 0, purpose: int = DATA) -> np.ndarray:
    """(n, count) uint32: elements 0..count of samples offset..offset+n."""
    check(seed, n=n, offset=offset, step=step)
    blocks = -(-count // 4)
    out = np.empty((n, blocks, 4), np.uint32)
    rows = max(1, _BLOCK_BYTES // (32 * max(blocks, 1)))
    for start in range(0, n, rows):
        _fill(out[start : start + rows], seed, offset + start, step, purpose)
    return out.reshape(n, 4 * blocks)[:, :count]


def check(seed: int, *, n: int, offset: int = 0, step: int = 0) -> None:
    """ValueError unless these numbers exist."""
    if not is_whole(seed, 0) or seed >= 1 << 64:
        raise ValueError(f"seed: want an integer in [0, 2**64), got {seed}")
    if not is_whole(step, 0) or step >= 1 << 32:
        raise ValueError(f"step: want an integer in [0, 2**32), got {step}")
    if not is_whole(offset, 0) or offset + n > 1 << 48:
        raise ValueError(f"offset: samples {offset}..{offset + n} leave [0, 2**48)")


def uniforms(seed: int, **counters: int) -> np.ndarray:
    """(n, count) float64 in (0, 1): (word + 1/2) / 2**32. Arguments as for words."""
    return (words(seed, **counters) + 0.5) / 2.0**32


def normals(seed: int, *, n: int, count: int, offset: int = 0, step: int = 0, purpose: int = DATA) -> np.ndarray:
    """(n, count) float32, standard normal: Box-Muller on word pairs in float64, rounded. Arguments as for words."""
    check(seed, n=n, offset=offset, step=step)
    if cpu_backend.probe() is None:
        z = np.empty((n, -(-count // 4) * 4), np.float32)
        cpu_backend.normals(z, seed, offset, step, purpose)
        return z[:, :count]
    u = uniforms(seed, n=n, count=count + count % 2, offset=offset, step=step, purpose=purpose)
    radius, angle = np.sqrt(-2.0 * np.log(u[:, 0::2])), 2.0 * np.pi * u[:, 1::2]
    z = np.empty(u.shape, np.float32)
    z[:, 0::2] = radius * np.cos(angle)
    z[:, 1::2] = radius * np.sin(angle)
    return z[:, :count]


def _fill(out: np.ndarray, seed: int, first: int, step: int, purpose: int) -> None:
    n, blocks, _ = out.shape
    sample = np.arange(first, first + n, dtype=np.uint64)[:, None]
    shape = (n, blocks)
    c0 = np.broadcast_to(np.arange(blocks, dtype=np.uint64), shape)
    c1 = np.full(shape, step, np.uint64)
    c2 = np.broadcast_to(sample & _LOW, shape)
    c3 = np.broadcast_to((sample >> np.uint64(32)) | np.uint64(purpose << 16), shape)
    key0, key1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (product1 >> np.uint64(32)) ^ c1 ^ np.uint64(key0)
        c2 = (product0 >> np.uint64(32)) ^ c3 ^ np.uint64(key1)
        c1, c3 = product1 & _LOW, product0 & _LOW
        key0, key1 = (key0 + _KEY_STEPS[0]) & 0xFFFFFFFF, (key1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    for word, value in enumerate((c0, c1, c2, c3)):
        out[:, :, word] = value
