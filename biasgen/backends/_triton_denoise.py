"""The empirical denoiser on the Triton kernels: which of three paths a query takes depends on itself and the rows alone.

The paths and when they serve are those of _denoise_paths, but that a search is tried with codes of 16 bits, and reaches as far as the
nearest of one row in eight says; what it finds is then cut to the band of the nearest row itself, so that no bit depends on it.
"""
import math
from dataclasses import dataclass, replace

import torch

from biasgen.backends import _denoise_paths as paths
from biasgen.backends import _triton_slices
from biasgen.backends._triton_floats import _Block
from biasgen.triton_kernels import denoise_dense, denoise_listed
from biasgen.triton_kernels.exact_values import squared

_QUERIES = 8192  # that are searched for together
_DENSE = 1024  # queries of one dense block
_PAIR = 96  # bytes of max_memory for each listed row
_LOG_ROOT_2_PI = math.log(2 * math.pi) / 2


@dataclass(frozen=True, eq=False)
class Reference:
    """center (D,) of the rows, squares (M,) of the distances from it, float64, and the largest distance."""

    center: torch.Tensor
    squares: torch.Tensor
    farthest: float


def reference_of(rows: torch.Tensor) -> Reference:
    """What `empirical_denoise` wants to know of rows (M, D)."""
    center = rows[:: -(-len(rows) // paths._CENTER_ROWS)].double().mean(0)
    parts = rows.split(max(1, (1 << 22) // rows.shape[1]))
    squares = torch.cat([_squares(part.double() - center) for part in parts])
    return Reference(center, squares, math.sqrt(float(squares.max())))


def empirical_denoise(x_t, prepared, scale, sigma, log_p, max_memory):
    """x0_hat (B, D), log density, effective sample size and dropped (B,) float64; see triton_backend."""
    prepared = replace(prepared, distance="sqeuclidean", views=("identity",))
    reference = _triton_slices.kept(prepared, "denoiser", lambda: reference_of(prepared.rows))
    B, D = x_t.shape
    out = [torch.empty((B, D), dtype=torch.float64, device=x_t.device), *torch.zeros((3, B), dtype=torch.float64, device=x_t.device)]
    step = max(1, min(_QUERIES, max_memory // (128 * D)))
    for start in range(0, B, step):
        at = slice(start, start + step)
        _Batch(prepared, reference, x_t[at].double(), scale[at], sigma[at], log_p, [values[at] for values in out], max_memory).denoise()
    return tuple(out)


class _Batch:
    """Queries x (n, D) that are worked on together. out: where their answers go."""

    def __init__(self, prepared, reference, x, scale, sigma, log_p, out, max_memory):
        self._prepared, self._rows, self._reference, self._memory = prepared, prepared.rows, reference, max_memory
        self._scale, self._sigma, self._log_p, self._out = scale, sigma, log_p, out
        self._tau = -math.log(paths.DROPPED) - float(log_p.min())
        self._shifted = _less_product(x, scale[:, None], reference.center)
        self._squares = _squares(self._shifted)
        self._points = x / scale[:, None]
        D = x.shape[1]
        # Of the quotients, and that of this sum itself.
        self._rests = _squares(self._points).sqrt() * (2.0**-53 * (1 + (D + 16) * 2.0**-52))
        self._bands = 2 * self._tau * (sigma / scale).square()
        self._left = torch.ones_like(scale, dtype=torch.bool)

    def denoise(self) -> None:
        D, M = self._shifted.shape[1], len(self._rows)
        # As in _denoise_paths: the products run over as many features, and then over the runs.
        roundings = (min(D, denoise_dense.RUN) + D / denoise_dense.RUN + 16) * 2.0**-53
        lengths = self._squares.sqrt() + self._scale * self._reference.farthest
        expanded = roundings * (lengths / self._sigma).square() <= min(1e-10 * D, 1e-6)
        searched = (self._rests.isfinite() & self._bands.isfinite()).nonzero()[:, 0]
        if M > 4 * paths._SAMPLE and len(searched):
            searched = searched[self._few(searched)]
        if len(searched):
            self._search(searched, min(M, max(paths._SAMPLE_LIST, min(M // paths._SHARE, paths._LONGEST))))
        for at in _parts(self._left & expanded, min(_DENSE, self._memory // (64 * D + 1024))):
            self._dense(at)
        for at in _parts(self._left & ~expanded, self._memory // (_PAIR * M)):
            self._direct(at)

    def _few(self, at):
        """(n,) whether few rows of a sample matter: elsewhere no search of all is tried."""
        step = len(self._rows) // paths._SAMPLE
        block = self._block(at)
        return block.within(self._reach(at, block.first_limit(1, step)), step=step).counts <= paths._SAMPLE_LIST

    def _search(self, at, most) -> None:
        """Answers the queries with at most `most` rows to look at."""
        block = self._block(at)
        within = block.within(self._reach(at, block.first_limit(1)))
        fits = within.counts + block.outlying <= most
        if not fits.all():
            if fits.any():
                self._search(at[fits], most)
            return
        for run, queries, rows, values in block.pairs(within, self._memory * 64 // _PAIR):
            nearest = _least(values, queries, run.stop - run.start)
            inside = values <= self._reach(at[run], nearest).square()[queries] * (1 + 2.0**-40)
            self._listed(at[run], queries[inside], rows[inside])

    def _block(self, at):
        return _Block(self._points[at], self._prepared, 2)

    def _reach(self, at, value):
        """(n,) the distance in which a row may matter when one has the squared distance `value`: both are off by what a quotient rounds
        away."""
        rest = self._rests[at]
        return ((value.sqrt() + rest).square() + self._bands[at]).sqrt() + rest

    def _listed(self, at, queries, rows) -> None:
        """Sums over pairs, query by query."""
        scale, sigma = self._scale[at], self._sigma[at]
        squares = denoise_listed.squares_of(self._shifted[at], scale, self._rows, self._reference.center, queries, rows)
        root = (1 / sigma)[queries]
        energies = squares * root * root / 2
        logits = self._log_p[rows] - energies
        nearest, top = _least(energies, queries, len(at)), -_least(-logits, queries, len(at))
        counts = torch.bincount(queries, minlength=len(at))
        starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        total, squares, sums = denoise_listed.weighted((logits - top[queries]).exp_(), self._rows, rows, starts)
        self._answer(at, sums / total[:, None], top + total.log(), total, squares)
        lost = (-self._tau - nearest - (top + total.log())).exp()
        self._out[3][at] = torch.where(counts == len(self._rows), 0.0, lost)

    def _direct(self, at) -> None:
        pairs = torch.arange(len(at) * len(self._rows), device=at.device)
        self._listed(at, pairs // len(self._rows), pairs % len(self._rows))

    def _dense(self, at) -> None:
        scale, sigma, reference = self._scale[at], self._sigma[at], self._reference
        variance = sigma.square()
        query = self._shifted[at] * (scale / variance)[:, None]
        operands = query, scale.square() / (2 * variance), self._rows, reference.center, reference.squares, self._log_p
        top, total, squares, sums = denoise_dense.weighted(*operands, self._memory // 2)
        log_total = top + total.log() - self._squares[at] / (2 * variance)
        self._answer(at, reference.center + sums / total[:, None], log_total, total, squares)

    def _answer(self, at, x0_hat, log_total, total, squares) -> None:
        self._out[0][at] = x0_hat
        self._out[1][at] = log_total - x0_hat.shape[1] * (self._sigma[at].log() + _LOG_ROOT_2_PI)
        self._out[2][at] = total.square() / squares
        self._left[at] = False


def _less_product(x, s, c):
    """x - s c, the product nowhere rounded (Dekker, 1971): 1e9 away from the origin that would cost 1e-7 a number."""
    product = s * c
    (s_high, s_low), (c_high, c_low) = _halves(s), _halves(c)
    return (x - product) - (((s_high * c_high - product) + s_high * c_low + s_low * c_high) + s_low * c_low)


def _halves(values):
    """Two numbers of 26 bits with this sum."""
    shifted = values * (2.0**27 + 1)
    high = shifted - (shifted - values)
    return high, values - high


def _squares(rows):
    """(n,) |row|^2 of (n, D) float64, over as many features in one go as the products. Not by torch, whose order depends on n."""
    numbers = torch.arange(len(rows), device=rows.device)
    parts = rows.split(denoise_dense.RUN, 1)
    return sum(squared(part.contiguous(), torch.zeros_like(part[:1]).contiguous(), numbers, torch.zeros_like(numbers)) for part in parts)


def _parts(chosen, size):
    """The numbers of the chosen (n,) queries, `size` of them at a time and one at least."""
    numbers = chosen.nonzero()[:, 0]
    return numbers.split(max(1, size)) if len(numbers) else ()


def _least(values, queries, n):
    """(n,) the smallest of the values (P,) of each query."""
    return torch.full((n,), torch.inf, dtype=torch.float64, device=values.device).scatter_reduce_(0, queries, values, "amin")
