"""Exact products of int8 matrices in plain torch: torch._int_mm where it is right, else float32 in short sums, else float64."""
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch.nn.functional import pad

DEPTH = 33_024  # of one int32 sum: 2^31 / 255^2, a multiple of 8; longer ones are split
_SHORT = 1024  # terms of at most 2^14 whose sums are all integers up to 2^24: exact in float32
_LEAST_ROWS, _MULTIPLE = 17, 8  # what torch._int_mm asks for on CUDA


def products(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(n, m) dot products of the rows of x (n, D) and y (m, D), int8: int32, or int64 where D is beyond DEPTH. Takes 8 n m bytes."""
    product = way(x.device, torch.backends.mkldnn.enabled)
    if x.shape[1] <= DEPTH:
        return product(x, y)
    total = torch.zeros((len(x), len(y)), dtype=torch.int64, device=x.device)
    for a, b in zip(x.split(DEPTH, 1), y.split(DEPTH, 1), strict=True):
        total += product(a, b)
    return total


@cache
def way(device: torch.device, mkldnn: bool):
    """The first of WAYS that passes the self-test on this device; mkldnn: whether torch.backends.mkldnn is enabled, which changes kernels.

    torch._int_mm goes wrong without a message on a CPU without VNNI, where pairs of products saturate at 16 bits.
    """
    return next(product for product in WAYS if is_right(product, device))


def is_right(product, device: torch.device) -> bool:
    """Whether `product` equals exact arithmetic on the extremes and on random rows, for even and odd sizes."""
    generator = torch.Generator("cpu").manual_seed(0)
    for n, m, D in ((1, 1, 1), (2, 3, 1), (18, 24, 7), (130, 150, 64), (40, 33, 257), (130, 150, 3075)):
        x, y = (torch.randint(-128, 128, (rows, D), generator=generator, dtype=torch.int16, device="cpu").to(torch.int8) for rows in (n, m))
        for a, b in ((x, y), *((torch.full_like(x, low), torch.full_like(y, high)) for low in (-128, 127) for high in (-128, 127))):
            truth = (a.double() @ b.double().T).long()  # integers far below 2^53
            try:
                found = product(a.to(device), b.to(device)).cpu().long()
            except (RuntimeError, NotImplementedError):
                return False
            if not torch.equal(found, truth):
                return False
    return True


def by_int8(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """By torch._int_mm, its rules on sizes met with zeros everywhere: a CPU, which has none, errs where rows are one number long."""
    n, m, deeper = len(x), len(y), -x.shape[1] % _MULTIPLE
    if deeper or n < _LEAST_ROWS:
        x = pad(x, (0, deeper, 0, max(0, _LEAST_ROWS - n)))
    if deeper or m % _MULTIPLE:
        y = pad(y, (0, deeper, 0, -m % _MULTIPLE))
    return torch._int_mm(x.contiguous(), y.contiguous().T)[:n, :m]


def by_float32(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """By float32 products of at most 1024 terms, whose sums are exact in any order."""
    total = torch.zeros((len(x), len(y)), dtype=torch.int32, device=x.device)
    with _full_float32():
        for a, b in zip(x.split(_SHORT, 1), y.split(_SHORT, 1), strict=True):
            total += (a.float() @ b.float().T).to(torch.int32)
    return total


def by_float64(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """By a float64 product, which is exact for integers in any order."""
    return (x.double() @ y.double().T).to(torch.int32)


WAYS = (by_int8, by_float32, by_float64)


@contextmanager
def _full_float32() -> Iterator[None]:
    """No TF32 and no bfloat16 inside float32 products; restored on exit."""
    backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
