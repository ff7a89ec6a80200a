"""Triton kernels: searches by int8 tensor-core products, and the empirical denoiser, on an NVIDIA GPU; or in Triton's interpreter
(TRITON_INTERPRET=1) on the CPU."""
from functools import cache

import torch

from biasgen import _settings
from biasgen.backends._mode import exact_arithmetic, is_capturing
from biasgen.backends._values import square_root

DEVICES = ("cpu",) if _settings.triton_interpreted() else ("cuda",)
# The distances of the triton backend: of how many times a value the kernels find the squared distance
# of int8 rows, one-hot where they are tokens, at length 1 for cosine and correlation.
SQUARES = {"hamming": 2, "sqeuclidean": 1, "cosine": 2, "correlation": 2}
_SEARCH = {"dtypes": ("uint8", "int16", "float32", "float64"), "distances": tuple(SQUARES)}
OPS = {
    "knn": _SEARCH,
    "range_count": _SEARCH | {"distances": (*_SEARCH["distances"], "euclidean")},
    "empirical_denoise": {"dtypes": ("float32", "float64"), "distances": ("sqeuclidean",)},
}
MAX_MEMORY = 256 << 20  # bytes for pairs that one block of queries leaves open
QUERIES = 8192  # of a block whose rows are counted and listed
_NEAREST = 65_536  # of a block whose nearest rows are kept in registers: four times 528 programs at k = 64, and 130 MiB of results
_LEAST_CAPABILITY = 8, 0


def probe() -> str | None:
    """Why this backend cannot run, or None."""
    try:
        import biasgen.triton_kernels.nearest  # noqa: F401
    except ImportError as error:
        return f"triton cannot be imported ({error})"
    if "cpu" in DEVICES:
        return None
    return None if torch.cuda.is_available() else "no CUDA device"


def device_refusal(device):
    """Why this backend cannot run on tensors of `device` ("cuda" is the current one), or None."""
    if "cpu" in DEVICES:
        return None
    capability = torch.cuda.get_device_capability(torch.device(device))
    if capability >= _LEAST_CAPABILITY:
        return None
    of = "{}.{}".format(*capability)
    return (
        f"{device} has compute capability {of}, whose int8 products Triton does not compile;"
        " want 8.0 or newer"
    )


def isa() -> None:
    """No instruction set is chosen here."""


def knn(query, prepared, k, max_memory=None):
    """See _contract.Ops. Takes the rows once more as int8 (floats: one or two bytes a feature;
    one-hot tokens: a byte for each symbol of a position) and max_memory bytes for open pairs."""
    from biasgen.backends import _triton_floats, _triton_slices
    from biasgen.triton_kernels.nearest import nearest

    with exact_arithmetic(_elements(query, prepared), query.device):
        _check(query)
        if not prepared.integer:
            return _triton_floats.knn(query, prepared, k, max_memory or MAX_MEMORY)
        whole, reference = _triton_slices.integers(query, prepared)
        starts = range(0, len(query), _NEAREST)
        parts = [nearest(whole[at : at + _NEAREST], reference, _triton_slices.multiplicity(prepared), k) for at in starts]
        values, *found = (torch.cat(column) for column in zip(*parts, strict=True))
        return values // SQUARES[prepared.distance], *found


def rows_within(query, prepared, radius, offsets):
    """See _contract.Ops."""
    from biasgen.backends import _triton_floats

    with exact_arithmetic(_elements(query, prepared), query.device):
        _check(query)
        if prepared.integer:
            limit = radius * SQUARES[prepared.distance]
            rows = torch.cat([part.rows(slice(None)) for part in _within(query, prepared, torch.full_like(limit, -1), limit)])
        else:
            rows = _triton_floats.rows_within(query, prepared, radius, MAX_MEMORY)
    if len(rows) != int(offsets[-1]):
        raise ValueError("offsets: do not match the number of rows within the radius")
    return rows


def range_count(query, prepared, radius, max_memory=None):
    """See _contract.Ops. One view."""
    from biasgen.backends import _triton_floats

    with exact_arithmetic(_elements(query, prepared), query.device):
        _check(query)
        searched = prepared.searched
        if not searched.integer:
            return _triton_floats.range_count(query, prepared, radius.double(), max_memory or MAX_MEMORY)
        limit = _largest_value(radius.double(), prepared.distance) * SQUARES[searched.distance]
        return torch.cat([part.weights for part in _within(query, searched, limit, limit)])


def empirical_denoise(x_t, prepared, scale, sigma, log_p, max_memory=None):
    """See _contract.Ops. A query's bits do not depend on the others. Once a search is tried, the
    rows are kept once more in two bytes a feature."""
    from biasgen.backends import _triton_denoise

    with exact_arithmetic(_elements(x_t, prepared), x_t.device):
        _check(x_t, denoiser=True)
        return _triton_denoise.empirical_denoise(x_t, prepared, scale, sigma, log_p, max_memory or MAX_MEMORY)


def fault(op, device):
    """What the self-test found wrong with the kernels of `op` on `device` ("cuda" is the current
    one), or None. Run once in a process and device; not while a CUDA graph is captured, nor
    interpreted. Out of memory is no fault, and raised.
    """
    if "cpu" in DEVICES:
        return None
    device = torch.device(device)
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return None if is_capturing(device) else _fault(device, op == "empirical_denoise")


@cache
def _fault(device, denoiser):
    try:
        _self_test(device, denoiser)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a compiler raises what it likes
        return f"{type(error).__name__}: {error}"
    return None


def _check(query, denoiser=False):
    """The self-test of the query's device, before the first call on it; never while a CUDA graph is captured, nor interpreted."""
    if query.is_cuda and not is_capturing(query.device):
        _self_test(query.device, denoiser)


def _self_test(device, denoiser):
    from biasgen.backends import _triton_check

    _triton_check.check(device)
    if denoiser:
        _triton_check.check_denoiser(device)


def _elements(query, prepared):
    """No tensor of a search has more."""
    return max(query.numel(), prepared.rows.numel()) * 64


def _within(query, prepared, near, far):
    """Yield what lies within the limits of each block of queries, for integers."""
    from biasgen.backends import _triton_slices
    from biasgen.triton_kernels.within import Within

    whole, reference = _triton_slices.integers(query, prepared)
    for start in range(0, len(query), QUERIES):
        at = slice(start, start + QUERIES)
        yield Within(whole[at], reference, _triton_slices.multiplicity(prepared), near[at], far[at])


def _largest_value(radius, distance):
    """(n,) int64: the largest integer value whose distance is at most the radius (n,) float64."""
    if distance != "euclidean":
        return radius.clamp(-1, 2.0**53).floor().long()
    radius = radius.clamp(-1, 2.0**26)
    value = radius.square().floor()
    value -= (square_root(value) > radius).double()
    value += (square_root(value + 1) <= radius).double()
    return torch.where(radius < 0, -1, value).long()
