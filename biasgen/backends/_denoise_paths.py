"""The empirical denoiser on the native kernels: which of three paths a query takes depends on itself and the rows alone.

*listed*: where noise is low few rows matter, and one certified search finds them. *dense*: two products of matrices over all rows, where
the rounding of squares expanded in double is proven harmless. *direct*: every row by its difference, where neither will do.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from biasgen.backends import _codes
from biasgen.backends._blocks import num_threads, run_blocks

DROPPED = 1e-12  # probability of all rows together that a search leaves out, at most
_CENTER_ROWS = 4096
_SAMPLE, _SAMPLE_LIST = 256, 64  # rows, evenly spaced: where half a list of them matter, no search of all rows is tried
_FEW, _TRIED = 128, 3  # a search may leave this part of the rows open, or so many: with more, two products take less time
_SHARE, _LONGEST = 8, 1024  # a list holds this part of the rows or 64, and this many at most
_DENSE, _LISTED, _LEAST = 256, 1024, 64  # queries of one unit of work: sums of _DENSE x 3072 stay in the third cache
_TOGETHER = 16  # queries whose tokens are looked up at once
_SLOW = 1 << 28  # queries times tokens that keep a thread busy for some 30 ms with AVX-512
_RUN = 512  # features that the products add up in one go (csrc/cpu/empirical_denoise.h)


@dataclass(frozen=True, eq=False)
class Reference:
    """rows (M, D) float32 or float64, their center (D,), squares (M,) of the distances from it and the largest distance; sample: codes of
    some rows; codes: returns those of all, which only a search needs."""

    rows: np.ndarray
    center: np.ndarray
    squares: np.ndarray
    farthest: float
    sample: _codes.Codes | None
    codes: Callable[[], _codes.Codes]


def reference_of(native, isa: str, rows: np.ndarray, codes: Callable[[], _codes.Codes]) -> Reference:
    """What `empirical_denoise` wants to know of rows (M, D), contiguous. Takes 8 M bytes."""
    M = len(rows)
    center = rows[:: -(-M // _CENTER_ROWS)].mean(0, dtype=np.float64)
    squares = native.denoise_squares(isa, rows, center)
    sample = _codes.encode(native, isa, np.ascontiguousarray(rows[:: M // _SAMPLE]), "sqeuclidean") if M > 4 * _SAMPLE else None
    return Reference(rows, center, squares, math.sqrt(squares.max()), sample, codes)


def empirical_denoise(native, isa, reference, x, scale, sigma, log_p, max_memory):
    """[x0_hat (B, D), log density, effective sample size, dropped (B,)] float64 of x (B, D), scale, sigma (B,), log_p (M,) float64."""
    B, D = x.shape
    out = [np.empty((B, D)), np.empty(B), np.empty(B), np.zeros(B)]
    step = max(1, max_memory // (64 * D))  # what is searched for, and copies of the queries that share a path
    for start in range(0, B, step):
        at = slice(start, start + step)
        _Batch(native, isa, reference, (x[at], scale[at], sigma[at]), log_p, [a[at] for a in out], max_memory // num_threads()).denoise()
    return out


def of_tokens(native, isa, tokens, x, scale, sigma, log_p):
    """The same of tokens (M, L) uint8 or the int16 of uint16, x (B, L Q), on one path for all queries, which drops nothing."""
    B, D = x.shape
    out = [np.empty((B, D)), np.empty(B), np.empty(B), np.zeros(B)]
    turns = -(-B // (num_threads() * _DENSE))  # of each thread; all as long, so that they end together
    block = _TOGETHER * max(1, -(-B // (num_threads() * turns * _TOGETHER)))

    def work(start, stop):
        at = slice(start, stop)
        native.denoise_tokens(isa, tokens, log_p, x[at], scale[at], sigma[at], *(a[at] for a in out[:3]))

    run_blocks(work, B, block, slow=min(B, block) * tokens.size >= _SLOW)
    return out


class _Batch:
    """Queries (x, scale, sigma) that are worked on together. out: where their answers go; memory: bytes for the scratch of a thread."""

    def __init__(self, native, isa, reference, queries, log_p, out, memory):
        self._native, self._isa, self._reference, self._memory = native, isa, reference, memory
        self._queries, self._out = queries, out
        self._operands = reference.rows, reference.center, reference.squares, log_p
        self._tau = -math.log(DROPPED) - float(log_p.min())
        N, D = queries[0].shape
        self._query, self._rests, self._squares = np.empty((N, D), reference.rows.dtype), np.empty(N), np.empty(N)
        self._blocks(np.arange(N), _LISTED, 1, self._prepare)

    def denoise(self) -> None:
        _, scale, sigma = self._queries
        D, sample = self._reference.rows.shape[1], self._reference.sample
        with np.errstate(all="ignore"):
            self._bands = 2 * self._tau * np.square(sigma / scale)
            # Of |x'|^2, |y'|^2 and the product together, for any order of summation within a run (Higham, Accuracy and Stability of
            # Numerical Algorithms, section 3.1), and of x' and y' themselves.
            roundings = (min(D, _RUN) + D / _RUN + 16) * 2.0**-53
            error = roundings * np.square((np.sqrt(self._squares) + scale * self._reference.farthest) / sigma)
        self._left = np.ones(len(sigma), bool)
        searched = np.isfinite(self._rests) & np.isfinite(self._bands)
        if sample is not None:
            few = np.zeros(len(sigma), bool)
            self._blocks(np.flatnonzero(searched), _LISTED, 16 * _SAMPLE_LIST, partial(self._try, sample, few))
            searched &= few
        if searched.any():
            codes = self._reference.codes()
            most = min(len(codes.rows), max(_SAMPLE_LIST, min(len(codes.rows) // _SHARE, _LONGEST)))
            self._blocks(np.flatnonzero(searched), _LISTED, 40 * most, partial(self._listed, codes, most))
        expanded = error <= min(1e-10 * D, 1e-6)
        self._blocks(np.flatnonzero(self._left & expanded), _DENSE, 20 * D + 1200, self._dense)
        self._blocks(np.flatnonzero(self._left & ~expanded), 1, 1, self._direct)

    def _blocks(self, queries, most, bytes_each, work) -> None:
        """Calls work(numbers of the queries of a block); at least _LEAST of them where the memory allows, at most `most`."""
        size = min(most, max(_LEAST, -(-len(queries) // num_threads())), self._memory // bytes_each)
        run_blocks(lambda start, stop: work(queries[start:stop]), len(queries), max(1, size))

    def _prepare(self, at) -> None:
        x, scale, _ = (a[at] for a in self._queries)
        found = np.empty((len(at), x.shape[1]), self._query.dtype), np.empty(len(at)), np.empty(len(at))
        self._native.denoise_search(self._isa, self._reference.center, x, scale, *found)
        self._query[at], self._rests[at], self._squares[at] = found

    def _search(self, codes, at, capacity):
        """Lists of the rows that matter (n, capacity) and their lengths, -1 where that does not suffice."""
        tries = max(_FEW, len(codes.rows) // _TRIED)
        return self._native.floats_band(self._isa, self._query[at], *codes.operands, self._rests[at], self._bands[at], capacity, tries)

    def _try(self, sample, few, at) -> None:
        few[at] = self._search(sample, at, _SAMPLE_LIST)[1] >= 0

    def _listed(self, codes, most, at) -> None:
        lists, counts = self._search(codes, at, most)
        found = counts >= 0
        if found.any():
            self._sum_lists(at[found], lists[found], counts[found])

    def _direct(self, at) -> None:
        M = len(self._reference.rows)
        self._sum_lists(at, np.arange(M)[None], np.array([M]))

    def _sum_lists(self, at, lists, counts) -> None:
        found = self._empty(len(at), 4)
        self._native.denoise_listed(self._isa, *self._operands, *(a[at] for a in self._queries), lists, counts, self._tau, *found)
        self._answer(at, found)

    def _dense(self, at) -> None:
        found = self._empty(len(at), 3)
        self._native.denoise_dense(self._isa, *self._operands, *(a[at] for a in self._queries), *found)
        self._answer(at, found)

    def _empty(self, n, parts):
        return [np.empty((n, self._reference.rows.shape[1])), *(np.empty(n) for _ in range(parts - 1))]

    def _answer(self, at, found) -> None:
        for whole, part in zip(self._out, found, strict=False):  # the products drop nothing
            whole[at] = part
        self._left[at] = False
