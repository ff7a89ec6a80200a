"""The exact denoiser of a finite set of rows: their mean, weighted by how likely each became x_t."""
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from biasgen import distances
from biasgen._numbers import check_memory
from biasgen.backends._mode import exact_arithmetic, used_here
from biasgen.ops import _library
from biasgen.ops._dispatch import choose
from biasgen.ops._prepared import Prepared, of_rows, of_tensors, prepare
from biasgen.ops._rows import as_tensor, dtype_name
from biasgen.ops.knn import like
from biasgen.results import Denoised

LARGEST = 1e100  # number in x_t and rows; with it and these bounds of scale and sigma no square or quotient overflows
SMALLEST_LEVEL, LARGEST_LEVEL = 1e-20, 1e20
_CHECKED = "within LARGEST"  # in Prepared.packed


def empirical_denoise(
    x_t: Any,
    rows: Any,
    scale: Any,
    sigma: Any,
    *,
    log_weights: Any = None,
    backend: str | None = None,
    max_memory: int | None = None,
) -> Denoised:
    """E[x_0 | x_t] and log p(x_t) for x_t = scale x_0 + sigma eps, where x_0 is one of the rows and eps standard normal.

    Tokens are one-hot rows, which are nowhere stored.

    x0_hat is the mean of the rows under weights proportional to exp(log_weights[j] - |x_t - scale rows[j]|^2 / (2 sigma^2)). It is right
    to 1e-5 of the range of the rows at every level, and then rounded to the type of x_t; log p to 1e-9 (|log p| + D), and the effective
    sample size to a relative 1e-5. All hold while the nearest scaled row is within 1e5 sigma of x_t, of tokens 1e4 sigma (a noised row is
    within sqrt(D) sigma, about): beyond it float64 cannot tell the rows apart. With the cpu and triton backends a query's bits
    depend on the instruction set or device and the rows, not on the rest of the batch; those of the torch backend do. The gradient of log p
    by x_t is (scale x0_hat - x_t) / sigma^2; there is no other (see Raises).

    Args:
        x_t: (B, ...) float32 or float64 array or tensor, D numbers a row; (B, ..., Q) where rows are tokens.
        rows: (M, ...) float32 or float64 of the same trailing shape, or integer tokens below Q; prepared for this call, or anything with
            `.prepared` (a TrainingSet, an EmpiricalDenoiser), which is not prepared again. Equal rows count as often as they occur.
        scale: a number >= 0, or one a query, (B,). At 0 x_t says nothing and x0_hat is the mean of the rows.
        sigma: a number > 0, or one a query, (B,).
        log_weights: (M,) natural logarithms of the probabilities of the rows, unnormalized; -inf leaves a row out, and prepares the others
            for this call. None: all equal.
        backend: "triton" (not for tokens), "cpu", "torch"; None: BIASGEN_BACKEND, else the first that can.
        max_memory: bytes for the temporaries, about; 256 MiB by default. At least one row and one query are worked on. The cpu backend
            keeps M (D + 16) bytes more with what is prepared, of tokens nothing; a thread takes 256 D more for tokens. The triton backend
            keeps 2 M D bytes more once it has searched for a list.

    Returns:
        Denoised of x0_hat in shape and type of x_t, log p (B,) float64 in nats: density by Lebesgue measure; effective_sample_size and
        dropped (B,) float64, the latter below 1e-12. NumPy for NumPy queries, else tensors.

    Raises:
        TypeError: x_t or rows neither array nor tensor. ValueError: wrong type, shape, level, weights or backend; NaN, infinity or a
        number beyond 1e100 in x_t or rows, with its row. With a tensor that requires a gradient: ValueError for another argument than x_t;
        RuntimeError when x0_hat, the sample size or a gradient of log p is differentiated.

    Source: Vincent, A connection between score matching and denoising autoencoders, 2011; Biroli et al., arXiv 2402.18491.
    """
    if _library.wanted(x_t, rows, scale, sigma, log_weights):
        return Denoised(*_registered(*_tensors(x_t, rows, scale, sigma, log_weights), backend, max_memory))
    return _computed(x_t, _prepared(rows), scale, sigma, log_weights, backend, max_memory)


@exact_arithmetic()
def _computed(
    x_t: Any, prepared: Prepared, scale: Any, sigma: Any, log_weights: Any, backend: str | None, max_memory: int | None
) -> Denoised:
    query = float_rows(x_t, "x_t")
    shape, tokens = tuple(x_t.shape[1:]), prepared.distance == "hamming"
    if tokens:
        if shape[:-1] != prepared.shape or shape[-1] <= prepared.largest:
            wanted = ", ".join(map(str, (*prepared.shape, "Q")))
            raise ValueError(f"x_t: want rows of shape ({wanted}), Q > {prepared.largest}, for the tokens in rows, got {shape}")
    elif shape != prepared.shape:
        raise ValueError(f"x_t: want rows of shape {prepared.shape} as in rows, got {shape}")
    device = prepared.rows.device
    if isinstance(x_t, torch.Tensor) and x_t.device != device:
        raise ValueError(f"x_t: want a tensor on {device} as the rows, got {x_t.device}")
    levels = [_levels(scale, "scale", len(query), zero=True), _levels(sigma, "sigma", len(query), zero=False)]
    log_p, prepared = _log_probabilities(log_weights, prepared)
    check_memory(max_memory)
    dtype, kind = dtype_name(x_t, "x_t"), "hamming" if tokens else "sqeuclidean"
    _, module = choose(
        "empirical_denoise", device=device, dtype=dtype, distance=kind, backend=backend
    )
    tensors = [values.to(device) for values in (*levels, log_p)]
    used_here(prepared)
    x0_hat, *others = module.empirical_denoise(query.to(device), prepared, *tensors, max_memory)
    return Denoised(like(x_t, x0_hat.to(query.dtype).reshape(tuple(x_t.shape))), *(like(x_t, values) for values in others))


def _prepared(rows: Any) -> Prepared:
    """What `rows` was prepared as, or the preparation of an array or tensor; every number is checked once."""
    if not hasattr(rows, "prepared"):
        if dtype_name(rows, "rows") in distances.get("hamming").dtypes:
            return prepare(rows, "hamming", name="rows")
        flat = float_rows(rows, "rows")
        if not len(flat):
            raise ValueError(f"rows: want at least one row, got shape {tuple(rows.shape)}")
        return prepare(rows, "sqeuclidean", name="rows")
    prepared = rows.prepared
    if not isinstance(prepared, Prepared) or prepared.views != ("identity",):
        raise ValueError(f"rows: want a set in memory and without views, got {rows!r}")
    if prepared.distance != "hamming" and _CHECKED not in prepared.packed:
        float_rows(prepared.rows, "rows")
        prepared.packed[_CHECKED] = True
    return prepared


def float_rows(values: Any, name: str) -> torch.Tensor:
    """(n, ...) float32 or float64 array or tensor as a tensor (n, D), not copied where it is that already.

    TypeError for another kind of object; ValueError for another type, fewer than two dimensions, a row that is not finite or beyond 1e100.
    """
    dtype = dtype_name(values, name)
    if dtype not in ("float32", "float64"):
        raise ValueError(f"{name}: want float32 or float64, got {dtype}")
    shape = tuple(values.shape)
    if len(shape) < 2 or 0 in shape[1:]:
        raise ValueError(f"{name}: want shape (rows, ...) with at least one number a row, got shape {shape}")
    flat = as_tensor(values).detach().flatten(1)
    if len(flat):
        low, high = (float(value) for value in flat.aminmax())
        if not (low >= -LARGEST and high <= LARGEST):
            row, column = (~(flat.double().abs() <= LARGEST)).nonzero()[0].tolist()
            raise ValueError(f"{name}: want finite numbers, at most {LARGEST:g}, got {flat[row, column].item()} in row {row}")
    return flat


def _levels(value: Any, name: str, B: int, *, zero: bool) -> torch.Tensor:
    """(B,) float64."""
    values = _as_array(value)
    if values.dtype.kind not in "iuf" or values.shape not in ((), (B,)):
        raise ValueError(f"{name}: want a number, or one a query, ({B},), got {values.dtype} of shape {values.shape}")
    values = np.array(np.broadcast_to(values, (B,)), np.float64)
    wrong = np.flatnonzero(~((values >= SMALLEST_LEVEL) & (values <= LARGEST_LEVEL) | (values == 0) & zero))
    if len(wrong):
        accepted = f"{'0 or ' if zero else ''}{SMALLEST_LEVEL:g} .. {LARGEST_LEVEL:g}"
        raise ValueError(f"{name}: want {accepted}, got {values[wrong[0]]} for query {wrong[0]}")
    return torch.from_numpy(values)


def _log_probabilities(log_weights: Any, prepared: Prepared) -> tuple[torch.Tensor, Prepared]:
    """Normalized log-weights of the distinct rows that can occur, float64, and these rows."""
    if log_weights is None:
        return prepared.multiplicity.double().log() - math.log(prepared.n), prepared
    weights, M = _as_array(log_weights), prepared.n
    if weights.dtype.kind not in "iuf" or weights.shape != (M,):
        raise ValueError(f"log_weights: want ({M},) numbers, one a row, got {weights.dtype} of shape {weights.shape}")
    wrong = np.flatnonzero(np.isnan(weights) | (weights == np.inf))
    if len(wrong):
        raise ValueError(f"log_weights: want numbers below +inf, got {weights[wrong[0]]} in row {wrong[0]}")
    members, offsets = _as_array(prepared.members), _as_array(prepared.offsets)
    found = torch.from_numpy(np.logaddexp.reduceat(weights.astype(np.float64)[members], offsets[:-1]))
    kept = found > -math.inf
    if not kept.any():
        raise ValueError("log_weights: want at least one row above -inf, got none")
    if not kept.all():
        rows = prepared.rows[kept.to(prepared.rows.device)]
        prepared, found = of_rows(rows, prepared.distance, prepared.shape, prepared.views), found[kept]
    return found - found.logsumexp(0), prepared


def _as_array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _tensors(x_t: Any, rows: Any, scale: Any, sigma: Any, log_weights: Any) -> tuple[Any, ...]:
    """The same arguments as tensors, None and numbers: those of _run, which checks them; torch.compile can read this where rows has
    `.prepared`."""
    if isinstance(rows, torch.Tensor) and rows.requires_grad:
        raise ValueError("rows: no gradient by it is computed, got a tensor that requires one; detach() it")
    prepared = rows.prepared if hasattr(rows, "prepared") else _prepared(rows)
    if not isinstance(prepared, Prepared) or prepared.views != ("identity",):
        prepared = _prepared(rows)     # which refuses it
    levels = [
        value
        if isinstance(value, torch.Tensor)
        else torch.as_tensor(value, dtype=torch.float64, device="cpu")
        for value in (scale, sigma)
    ]
    weights = None if log_weights is None else _library.as_tensor(log_weights)
    parts = prepared.rows, prepared.multiplicity, prepared.members, prepared.offsets, prepared.distance, prepared.shape
    return _library.as_tensor(x_t), *parts, *levels, weights


def _run(
    x_t: torch.Tensor,
    rows: torch.Tensor,
    multiplicity: torch.Tensor,
    members: torch.Tensor,
    offsets: torch.Tensor,
    distance: str,
    shape: list[int],
    scale: torch.Tensor,
    sigma: torch.Tensor,
    log_weights: torch.Tensor | None,
    backend: str | None,
    max_memory: int | None,
) -> list[torch.Tensor]:
    prepared = _prepared(_Set(of_tensors(rows, multiplicity, members, offsets, distance, tuple(shape))))
    found = _computed(x_t, prepared, scale, sigma, log_weights, backend, max_memory)
    # In some backends these are rows of one table; outputs of an op share no memory.
    return [
        found.x0_hat,
        found.log_density.clone(),
        found.effective_sample_size.clone(),
        found.dropped.clone(),
    ]


@dataclass(frozen=True)
class _Set:
    prepared: Prepared


def _shapes(x_t: torch.Tensor, *_: Any) -> list[torch.Tensor]:
    return [
        x_t.new_empty(x_t.shape),
        *(x_t.new_empty(x_t.shape[:1], dtype=torch.float64) for _ in range(3)),
    ]


def _gradient(by_log_p: torch.Tensor, x_t: torch.Tensor, x0_hat: torch.Tensor, scale: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    by_log_p, scale, sigma = (v.to(x_t.device, torch.float64).reshape(-1, *[1] * (x_t.ndim - 1)) for v in (by_log_p, scale, sigma))
    return (by_log_p * (scale * x0_hat.double() - x_t.double()) / (sigma * sigma)).to(x_t.dtype)


_registered = _library.register(
    "empirical_denoise",
    _run,
    _shapes,
    value=1,
    keep=lambda arguments, outputs: (arguments[0], outputs[0], *arguments[7:9]),
    gradient=_gradient,
)
