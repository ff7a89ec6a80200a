"""What benchmarks/gpu times gives right answers: every tile, the parts of the search, reads of L2.

tests/test_triton_backend.py runs this file in Triton's interpreter; on a GPU the same tests compile
the kernels that are timed afterwards, in eight processes, so that the measurements need not.
"""

import pytest
import torch

from benchmarks.gpu import kernels, tiles
from biasgen.backends import triton_backend
from biasgen.triton_kernels import nearest
from biasgen.triton_kernels._tile import Tile

DEVICE = triton_backend.DEVICES[0]
# The interpreter runs the same lines for 128 features as for 64, and for 3072 as for 768.
FEATURES = (64, 768) if DEVICE == "cpu" else tiles.FEATURES
SEARCHES = [
    (features, kept, name, search)
    for features in FEATURES
    for kept in tiles.KEPT
    for variant in tiles.VARIANTS.values()
    for name, search in variant(kept, features)
]


def products(query, reference):
    return query.high.long().cpu() @ reference.high.long().cpu().T


@pytest.mark.parametrize(("features", "kept", "name", "search"), SEARCHES)
def test_what_is_timed_finds_the_nearest(features, kept, name, search):
    M = 70 if kept == 64 else 130
    query, reference = tiles.slices(3, features, DEVICE, 0), tiles.slices(M, features, DEVICE, 1)
    times = 1 + torch.arange(M, dtype=torch.int32, device=DEVICE) % 3
    distances, rows, tie_rows, tie_counts = search(query, reference, times)
    keys = reference.norms.cpu() - 2 * products(query, reference)
    order = keys.argsort(dim=1, stable=True)[:, :kept]
    assert torch.equal(rows.cpu(), order)
    assert torch.equal(distances.cpu(), keys.gather(1, order) + query.norms.cpu()[:, None])
    ties = keys == keys.amin(1, keepdim=True)
    assert torch.equal(tie_rows.cpu(), ties.sum(1))
    assert torch.equal(tie_counts.cpu(), (ties * times.cpu()).sum(1))


@pytest.mark.parametrize("tile", nearest.TILES[1, False])
def test_parts_of_the_search(tile, monkeypatch):
    monkeypatch.setattr(nearest, "_SHARE", 128)
    query, reference = tiles.slices(5, 192, DEVICE, 0), tiles.slices(256, 192, DEVICE, 1)
    reference.high[200:] = reference.high[:56].clone()
    reference.norms[200:] = reference.norms[:56].clone()
    table = products(query, reference).unflatten(1, (2, -1))  # of two shares
    keys = reference.norms.cpu().unflatten(0, (2, -1)) - 2 * table
    found, ties = zip(
        *(kernels.part_of_search(part, query, reference, tile) for part in kernels.PARTS.values()),
        strict=True,
    )
    assert torch.equal(found[0].cpu().long(), table.unflatten(2, (-1, tile.m)).sum(2).amin(2))
    for part in found[1:]:
        assert torch.equal(part.cpu().long(), keys.amin(2))
    assert torch.equal(ties[2].cpu().long(), (keys == keys.amin(2, keepdim=True)).sum(2))


def test_the_search_says_which_shape_it_takes():
    query, reference = tiles.slices(3, 64, DEVICE, 0), tiles.slices(130, 64, DEVICE, 1)
    times = torch.ones(130, dtype=torch.int32, device=DEVICE)
    assert tiles.chosen(1, query, reference, times) == {"note": "the search takes 64 x 128"}
    assert nearest.TILES[1, False][0] == Tile(64, 128)


def test_reads_reach_every_element_as_often_as_they_should():
    source = torch.arange(5 * 4096, dtype=torch.int32, device=DEVICE) % 7
    sums = kernels.read(source, times=3, programs=3)
    assert int(sums.long().sum()) == 3 * int(source.long().sum())
    assert (sums > 0).all()
