"""Every shape of a tile of the search, and what each part of a tile costs.

A later variant of the search gets a line in VARIANTS; then one run decides between all of them.
"""

from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import torch

from benchmarks.gpu import kernels
from benchmarks.gpu.folder import Folder
from benchmarks.gpu.records import rate
from biasgen.triton_kernels import _tile, nearest
from biasgen.triton_kernels._tile import Slices, Tile, padded

FEATURES = (64, 128, 768, 3072)
KEPT = (1, 16, 64)  # neighbors
# Not in use; no spills by Triton 3.6.0 for sm_90 in steps of 128 features. By neighbors kept.
CANDIDATES = {1: (Tile(64, 256), Tile(128, 128)), 16: (Tile(64, 256), Tile(128, 128)), 64: ()}
CANDIDATE_STEP = 128

Search = Callable[[Slices, Slices, torch.Tensor], object]


def slices(rows: int, features: int, device: str, seed: int) -> Slices:
    """Random rows of one slice, as uint8 rows become them."""
    random = torch.Generator(device).manual_seed(seed)
    codes = torch.randint(-128, 128, (rows, features), device=device, generator=random).to(
        torch.int8
    )
    return Slices(padded(codes), None, codes.int().square().sum(1))


def searched(
    kept: int, tile: Tile, step: int, query: Slices, reference: Slices, times: torch.Tensor
):
    """The `kept` nearest rows with this tile: nearest.nearest, and nothing is chosen."""
    with patch.object(nearest, "tile_for", lambda *_: tile), patch.object(_tile, "STEP", step):
        return nearest.nearest(query, reference, times, kept)


def shapes(kept: int, features: int) -> Iterator[tuple[str, Search]]:
    """(name, search) of the tiles in use, and of the candidates where there are several steps."""
    for tile in nearest.TILES[kept, False]:
        yield f"{tile.n} x {tile.m}", partial(searched, kept, tile, _tile.STEP)
    for tile in CANDIDATES[kept] if features > 2 * CANDIDATE_STEP else ():
        name = f"{tile.n} x {tile.m}, steps of {CANDIDATE_STEP}"
        yield name, partial(searched, kept, tile, CANDIDATE_STEP)


VARIANTS = {"tile": shapes}  # word: (kept, features) -> (name, search) of each


def chosen(kept: int, query: Slices, reference: Slices, times: torch.Tensor) -> dict:
    """The shape that the search takes here by itself, for rows as these."""
    seen, choose = [], nearest.tile_for
    with patch.object(nearest, "tile_for", lambda *given: seen.append(choose(*given)) or seen[0]):
        nearest.nearest(query, reference, times, kept)
    return {"note": f"the search takes {seen[0].n} x {seen[0].m}"}


def measure(
    folder: Folder, time: Callable, device: str, N: int, M: int, of: str, features=FEATURES
) -> None:
    """Time of every variant, and the shape chosen. time(work, device): milliseconds of a call."""
    for D in features:
        query, reference = slices(N, D, device, 0), slices(M, D, device, 1)
        times = torch.ones(M, dtype=torch.int32, device=device)
        for kept in KEPT:
            for word, variant in VARIANTS.items():
                for name, search in variant(kept, D):
                    work = partial(search, query, reference, times)
                    folder.once(
                        f"{word} {name}, D = {D}, k = {kept}",
                        lambda work=work, D=D: rate(
                            2e-12 * N * M * D, "TOP/s", time(work, device), of=of
                        ),
                    )
            if nearest.TILES[kept, False][1:]:
                shown = partial(chosen, kept, query, reference, times)
                folder.once(f"tile chosen, D = {D}, k = {kept}", shown)


def ablations(folder: Folder, time: Callable, device: str, N: int, M: int, D: int, of: str) -> None:
    """Products alone, with the minimum, with ties; the rest up to nearest 1 is the insertion."""
    query, reference = slices(N, D, device, 0), slices(M, D, device, 1)
    times = torch.ones(M, dtype=torch.int32, device=device)
    for tile in nearest.TILES[1, False]:
        works = {
            name: partial(kernels.part_of_search, part, query, reference, tile)
            for name, part in kernels.PARTS.items()
        }
        works["whole kernel and merge"] = partial(
            searched, 1, tile, _tile.STEP, query, reference, times
        )
        for name, work in works.items():
            folder.once(
                f"search, {name}: tile {tile.n} x {tile.m}, D = {D}",
                lambda work=work: rate(2e-12 * N * M * D, "TOP/s", time(work, device), of=of),
            )
