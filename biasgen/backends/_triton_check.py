"""A self-test of the Triton kernels on the device that is to run them, once in a process: they were proved on none (docs/gpu.md)."""
from functools import cache

import torch

from biasgen.backends._values import pair_values
from biasgen.triton_kernels import denoise_dense, denoise_listed
from biasgen.triton_kernels._tile import Slices, padded
from biasgen.triton_kernels.exact_values import squared
from biasgen.triton_kernels.nearest import nearest
from biasgen.triton_kernels.within import Within


@cache
def check(device: torch.device) -> None:
    """RuntimeError where a search, with ties, extremes and sizes off by one from a block, is not right to the bit on this device."""
    for features, two, largest, k in ((70, False, 1, 1), (130, False, 127, 16), (130, True, 127 * 257, 64), (20, False, 1, 64)):
        query, reference = (_codes(features, rows, largest).to(device) for rows in (65, 270))
        multiplicity = 1 + torch.arange(270, dtype=torch.int32, device=device) % 3
        distances = (query[:, None] - reference).square().sum(-1)
        order = distances.argsort(dim=1, stable=True)[:, :k]
        ties = distances == distances.amin(1, keepdim=True)
        wanted = [distances.gather(1, order), order, ties.sum(1), (ties * multiplicity).sum(1)]
        found = [*nearest(_sliced(query, two), _sliced(reference, two), multiplicity, k)]
        near, far = distances.sort(1).values[:, 20], distances.sort(1).values[:, 90]
        within = Within(_sliced(query, two), _sliced(reference, two), multiplicity, near, far)
        opened = (distances > near[:, None]) & (distances <= far[:, None])
        wanted += [((distances <= near[:, None]) * multiplicity).sum(1), opened.sum(1), opened.nonzero()[:, 1]]
        found += [within.weights, within.counts, within.rows(slice(None))]
        x, y = query.double() / 7, (reference / 3).float()
        queries, rows = opened.nonzero().unbind(1)
        wanted.append(pair_values(x[queries], y.double()[rows], "sqeuclidean"))
        found.append(squared(x, y, queries, rows))
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


def _codes(features, rows, largest):
    """(rows, features) int64 of -largest .. largest, the extremes among them, some rows equal."""
    random = torch.Generator("cpu").manual_seed(features)
    span = -largest, largest + 1
    codes = torch.randint(*span, (rows, features), generator=random, device="cpu")
    codes[1], codes[2] = largest, -largest
    codes[rows // 2 :: 3] = codes[0].clone()
    return codes


def _sliced(codes, two):
    high = (codes + 128) >> 8 if two else codes
    return Slices(padded(high.to(torch.int8)), padded((codes - 256 * high).to(torch.int8)) if two else None, codes.square().sum(1))
