"""Kernels on a device at sizes that no emulation reaches. python -m benchmarks.gpu.sweep

Searches are equal to the CPU's to the bit, denoisers keep their promise; the torch backend, too.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from benchmarks import duplicates
from benchmarks.gpu.folder import Folder
from biasgen import knn, range_count
from biasgen.data.training_set import TrainingSet
from biasgen.ops.empirical_denoise import empirical_denoise
from biasgen.testing import assert_denoised_close

Entry = tuple[str, str, int, int]
# distance, element type, features, k. Features: on the chip, off by one from a step, as CIFAR,
# beyond int32.
SEARCHED: tuple[Entry, ...] = (
    ("sqeuclidean", "uint8", 64, 1),
    ("sqeuclidean", "uint8", 129, 16),
    ("sqeuclidean", "uint8", 3072, 64),
    ("sqeuclidean", "uint8", 33_000, 1),
    ("hamming", "uint8", 16, 16),
    ("hamming", "int16", 40, 5),
    ("sqeuclidean", "float32", 3072, 1),
    ("sqeuclidean", "float64", 100, 16),
    ("cosine", "float32", 500, 5),
    ("correlation", "uint8", 300, 1),
    ("euclidean", "uint8", 77, 3),
)
DENOISED = (("float32", 3072), ("float32", 129), ("float64", 40))  # element type, features
SIGMAS = (1e-3, 0.03, 0.3, 1.0, 30.0)
LARGEST = 1 << 26  # elements of a reference: what the CPU makes and searches in about a second


def rows_of(dtype: str, distance: str, rows: int, features: int, seed: int) -> torch.Tensor:
    """Smooth images or tokens on the CPU.

    A third are copies of others, a third of these with one number changed.
    """
    random = torch.Generator().manual_seed(seed)
    if distance == "hamming":
        whole = torch.randint(
            0, 6 if dtype == "uint8" else 60_000, (rows, features), generator=random
        ).to(torch.int32)
    else:
        coarse = torch.rand(rows, 1, max(1, features // 16), generator=random)
        smooth = torch.nn.functional.interpolate(coarse, features, mode="linear")[:, 0]
        whole = (255 * smooth + 10 * torch.randn(rows, features, generator=random)).clamp(0, 255)
    whole = (
        whole.to(torch.uint8)
        if dtype == "uint8"
        else whole
        if distance == "hamming"
        else whole.to(getattr(torch, dtype)) / 255
    )
    whole[1::3] = whole[: len(whole[1::3])].clone()
    at = torch.arange(1, rows, 9)
    whole[at, at % features] = whole[at, (at + 1) % features]
    return whole


def searches(
    device: str, backend: str, N: int, M: int, entries: Sequence[Entry] = SEARCHED
) -> Iterator[str]:
    """Yield what was equal: knn and counts of each entry, by `backend` and by the cpu backend."""
    for distance, dtype, features, k in entries:
        m = max(k, min(M, LARGEST // features))
        reference, query = (
            rows_of(dtype, distance, rows, features, k) for rows in (m, N)
        )  # copies across the sets, too
        query[::2] = reference[torch.arange(len(query[::2])) % m]
        theirs, ours = TrainingSet(reference, distance), TrainingSet(reference.to(device), distance)
        found, right = (
            knn(query.to(device), ours, k, backend=backend),
            knn(query, theirs, k, backend="cpu"),
        )
        assert found.stats["backend"] == backend
        what = f"{distance}, {dtype}, {len(query)} x {m} x {features}, k = {k}"
        for part in ("distances", "indices", "tie_counts"):
            assert torch.equal(getattr(found, part).cpu(), getattr(right, part)), (
                f"{what}: {part} differ"
            )
        radius = float(right.distances[:, -1].double().median())
        counts = range_count(query[:30].to(device), ours, radius)
        assert torch.equal(counts.cpu(), range_count(query[:30], theirs, radius)), (
            f"{what}: counts differ"
        )
        yield f"{what}: equal"


def denoisers(
    device: str, backend: str, B: int, M: int, entries: Sequence[tuple[str, int]] = DENOISED
) -> Iterator[str]:
    """Yield what kept the promise at every level, against float64 on the CPU."""
    for dtype, features in entries:
        rows = rows_of(dtype, "sqeuclidean", M, features, features)
        noise = torch.randn(
            B, features, generator=torch.Generator().manual_seed(features), dtype=rows.dtype
        )
        clean, theirs, ours = (
            rows[torch.arange(B) * 7 % M],
            TrainingSet(rows),
            TrainingSet(rows.to(device)),
        )
        for sigma in SIGMAS:
            x_t = 0.8 * clean + sigma * noise
            found = empirical_denoise(x_t.to(device), ours, 0.8, sigma, backend=backend)
            right = empirical_denoise(x_t, theirs, 0.8, sigma, backend="torch")
            assert_denoised_close(
                (found.x0_hat.cpu(), found.log_density.cpu()),
                (right.x0_hat, right.log_density),
                rows,
            )
        what = f"empirical denoiser, {dtype}, {B} x {M} x {features}"
        yield f"{what}: promised at {len(SIGMAS)} levels"


def run(
    folder: Folder, device: str, backend: str, sizes: tuple[int, int], denoised: tuple[int, int]
) -> None:
    """Every entry of its own; sizes: queries and rows of the searches, and of the denoisers."""
    for entry in SEARCHED:
        check = partial(searches, device, backend, *sizes, entries=[entry])
        folder.once(f"{backend}: {entry}", lambda check=check: next(check()))
    for entry in DENOISED:
        check = partial(denoisers, device, backend, *denoised, entries=[entry])
        folder.once(f"{backend}: {entry}", lambda check=check: next(check()))


def preparation(device: str, M: int, F: int) -> str:
    """Equal rows found on the device as on the host, where copies and near-copies abound."""
    return duplicates.line(torch.from_numpy(duplicates.near_duplicates(M, F)).to(device))


def main() -> None:
    folder = Folder.of_step()
    for M, F in ((1_000_000, 64), (50_000, 3072)):
        folder.once(f"preparation, {M} x {F}", partial(preparation, "cuda", M, F))
    run(folder, "cuda", "triton", (3000, 60_000), (70, 20_000))
    run(folder, "cuda", "torch", (300, 20_000), (20, 5000))
    sys.exit(folder.failures > 0)


if __name__ == "__main__":
    main()
