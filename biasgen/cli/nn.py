"""List the generated rows that lie nearest to training rows, with the training rows, and show them side by side."""
import argparse
import importlib.util
from pathlib import Path
from typing import Any

from biasgen.cli._sources import SOURCES, add_distance, add_views, in_views


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = SOURCES
    parser.add_argument("gen", type=Path, metavar="GEN", help="generated rows")
    parser.add_argument("train", type=Path, metavar="TRAIN", help="training rows, of the same shape, element type and value range")
    parser.add_argument("--top", type=int, default=50, help="pairs to list, the nearest first (default 50)")
    add_distance(parser)
    add_views(parser)
    parser.add_argument("--grid", type=Path, metavar="PNG", help="also draw the pairs, generated above training row: images only")


def run(arguments: argparse.Namespace) -> int:
    import numpy as np

    from biasgen.data.files import load_set
    from biasgen.data.hygiene import check_ranges
    from biasgen.metrics._sets import check_sets, prepared, rows_of, to_numpy
    from biasgen.ops.knn import knn

    if arguments.top < 1:
        raise ValueError(f"--top: want at least 1 pair, got {arguments.top}")
    if arguments.grid and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--grid: matplotlib is not installed: pip install 'biasgen[report]'")
    gen, train = load_set(arguments.gen, "gen"), load_set(arguments.train, "train")
    train = in_views(train, arguments.views, arguments.distance)
    distance = check_sets(arguments.distance, train=train, gen=gen)
    if distance != "hamming":     # symbols have no scale
        check_ranges(gen=gen, train=train, heldout=train)
    gen = rows_of(gen, "gen")
    if arguments.grid:
        from biasgen.report.grid import as_images, draw_pairs

        as_images(np.empty((0, *gen.shape[1:])))     # refused before the search
    reference = prepared(train, distance)
    found = knn(gen, reference)
    distances, indices, ties = (to_numpy(values) for values in (found.distances[:, 0], found.indices[:, 0], found.tie_counts))
    order = np.argsort(distances, kind="stable")[: arguments.top]
    views = "" if reference.views == ("identity",) else f"; views {', '.join(reference.views)}"
    print(f"{len(gen)} generated rows, {len(reference)} training rows ({reference.distinct} distinct); distance {distance}{views}\n")
    table = [("generated", "training", "distance", "ties")]
    table += [(str(i), str(indices[i]), f"{distances[i]:.9g}", str(ties[i])) for i in order]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print("\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table))
    if arguments.grid:
        titles = [f"{table_row[0]} / {table_row[1]}: {distances[i]:.4g}" for table_row, i in zip(table[1:], order, strict=True)]
        pairs = (_values(gen, order), _values(reference.rows, indices[order]))
        draw_pairs(*pairs, titles, arguments.grid, low=reference.low, high=reference.high)
        print(f"\nwritten: {arguments.grid}")
    return 0


def _values(rows: Any, index: Any) -> Any:
    """The chosen rows as a float array."""
    import numpy as np
    import torch

    return rows[torch.from_numpy(index)].float().cpu().numpy() if isinstance(rows, torch.Tensor) else rows[index].astype(np.float32)
