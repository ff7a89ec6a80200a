"""A self-test of the Triton kernels on the device that is to run them, once in a process: they were proved on none (docs/gpu.md)."""
from functools import cache

import torch

from biasgen.backends._values import pair_values
from biasgen.triton_kernels import _tile, denoise_dense, denoise_listed
from biasgen.triton_kernels._tile import Slices, padded
from biasgen.triton_kernels.exact_values import squared
from biasgen.triton_kernels.nearest import nearest
from biasgen.triton_kernels.within import Within


@cache
def check(device: torch.device) -> None:
    """RuntimeError where a search, with ties, extremes and sizes off by one from a block, is not
    right to the bit on this device. Each kind of rows that the kernels tell apart is searched once.
    """
    _check(_codes(70, 1, 65, 270), 1, device)  # queries that stay on the chip
    _check(_codes(130, 127, 65, 129), 16, device)
    _check(_codes(130, 127 * 257, 3, 129), 64, device)  # two slices
    _check(_codes(20, 127 * 257, 65, 129), 1, device)  # the same on the chip
    _check(_codes(_tile._DEPTH + 1, 127, 3, 65), 1, device)  # int64 sums
    _check(_codes(9, 1, 33, 65), 16, device, tokens=True)


def _check(rows, k, device, tokens=False):
    """Searches rows (queries, reference), integers, for the k nearest and for those in limits."""
    x, y = (part.to(device) for part in rows)
    multiplicity = 1 + torch.arange(len(y), dtype=torch.int32, device=device) % 3
    different = x[:, None] - y
    distances = 2 * (different != 0).sum(-1) if tokens else different.square().sum(-1)
    query, reference = ((_tokens if tokens else _sliced)(part) for part in (x, y))
    order = distances.argsort(dim=1, stable=True)[:, :k]
    ties = distances == distances.amin(1, keepdim=True)
    counted = ties.sum(1), (ties * multiplicity).sum(1)
    wanted = [distances.gather(1, order), order, *counted]
    found = [*nearest(query, reference, multiplicity, k)]
    ordered = distances.sort(1).values
    near, far = ordered[:, len(y) // 13], ordered[:, len(y) // 3]
    within = Within(query, reference, multiplicity, near, far)
    opened = (distances > near[:, None]) & (distances <= far[:, None])
    inside = (distances <= near[:, None]) * multiplicity
    wanted += [inside.sum(1), opened.sum(1), opened.nonzero()[:, 1]]
    found += [within.weights, within.counts, within.rows(slice(None))]
    if not tokens:
        x, y = x.double() / 7, (y / 3).float()
        pairs = opened.nonzero().unbind(1)
        wanted.append(pair_values(x[pairs[0]], y.double()[pairs[1]], "sqeuclidean"))
        found.append(squared(x, y, *pairs))
    if not all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)):
        raise _wrong(device)


@cache
def check_denoiser(device: torch.device) -> None:
    """RuntimeError where the sums of the empirical denoiser, over panels and over lists, are not right on this device."""
    random = torch.Generator("cpu").manual_seed(0)
    for N, M, D, dtype in ((65, 130, 40, torch.float32), (3, 70, 530, torch.float64)):
        x, y = (
            torch.rand(n, D, generator=random, dtype=torch.float64, device="cpu").to(device, dtype)
            for n in (N, M)
        )
        log_p, x = torch.linspace(-30, 0, M, dtype=torch.float64, device=device), x.double()
        center, factor, scale = y[:9].double().mean(0), torch.full_like(x[:, 0], 0.5), torch.full_like(x[:, 0], 0.7)
        offset = y.double() - center
        squares = offset.square().sum(1)
        top, *found = denoise_dense.weighted(x, factor, y, center, squares, log_p, 1 << 24)
        weights = (x @ offset.T - squares / 2 + log_p - top[:, None]).exp()
        _compare(found, weights, offset, 6e-6, device)

        x, weights, pairs = x[:3], weights[:3], torch.arange(3 * M, device=device)
        found = denoise_listed.squares_of(x, scale, y, center, pairs // M, pairs % M)
        if not torch.allclose(found, (x[:, None] - 0.7 * offset).square().sum(2).flatten(), rtol=1e-12, atol=0):
            raise _wrong(device)
        found = denoise_listed.weighted(weights.flatten(), y, pairs % M, torch.arange(4, device=device) * M)
        _compare(found, weights, y.double(), 1e-12, device)


def _compare(found, weights, y, tolerance, device):
    total, squares, sums = found
    close = all(torch.allclose(a, b, rtol=1e-11, atol=0) for a, b in ((total, weights.sum(1)), (squares, weights.square().sum(1))))
    if not close or ((sums - weights @ y).abs() > tolerance * total[:, None] * y.abs().amax()).any():
        raise _wrong(device)


def _wrong(device):
    return RuntimeError(f"backend: the Triton kernels give wrong answers on {device}; use backend='torch', and please report it")


def _codes(features, largest, *sizes):
    """(rows, features) int64 of -largest .. largest for each size, the extremes among them, some
    rows equal."""
    random, found = torch.Generator("cpu").manual_seed(features), []
    for rows in sizes:
        span = -largest, largest + 1
        codes = torch.randint(*span, (rows, features), generator=random, device="cpu")
        codes[1], codes[2] = largest, -largest
        codes[rows // 2 :: 3] = codes[0].clone()
        found.append(codes)
    return found


def _tokens(codes):
    norms = torch.full((len(codes),), codes.shape[1], dtype=torch.int64, device=codes.device)
    return Slices(codes.to(torch.int8), None, norms, tokens=True)


def _sliced(codes):
    """As one slice where that is enough, else as two."""
    two = bool(codes.abs().amax() > 128)
    high = (codes + 128) >> 8 if two else codes
    low = padded((codes - 256 * high).to(torch.int8)) if two else None
    return Slices(padded(high.to(torch.int8)), low, codes.square().sum(1))
