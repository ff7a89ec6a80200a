"""Cut one set of rows at random into training, held-out and test rows, so that they come from one pipeline."""
import argparse
from pathlib import Path

from biasgen.cli._sources import SOURCES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = SOURCES
    parser.add_argument("data", type=Path, metavar="DATA", help="all rows (N, ...), preprocessed as the model will see them")
    parser.add_argument("--train", type=size, required=True, help="rows to train on: a number, or a share such as 0.5")
    parser.add_argument("--heldout", type=size, required=True, help="rows that nulls and stopping compare with")
    parser.add_argument("--test", type=size, help="rows that only the final report sees; default: none")
    parser.add_argument("--seed", type=int, default=0, help="of the partition (default 0)")
    parser.add_argument("--out", type=Path, default=Path("split"), help="folder of the .npy files and split.json (default split)")
    repeats = parser.add_mutually_exclusive_group()
    repeats.add_argument("--distinct", action="store_true", help="keep one of equal rows before the partition: all sets alike")
    repeats.add_argument(
        "--disjoint",
        action="store_true",
        help="remove held-out and test rows that occur in train: for losses only, nearest-neighbor statistics refuse such rows",
    )


def run(arguments: argparse.Namespace) -> int:
    from biasgen.data.split import write_split

    sizes = {name: getattr(arguments, name) for name in ("train", "heldout", "test") if getattr(arguments, name) is not None}
    options = {name: getattr(arguments, name) for name in ("seed", "distinct", "disjoint")}
    record = write_split(arguments.data, arguments.out, sizes, **options)
    source = record["source"]
    print(f"{source['name']}: {source['n']} rows ({source['distinct']} distinct) of {source['dtype']} {source['shape'][1:]}")
    for name, entry in record["sets"].items():
        mark = "; filtered by content, for losses only" if entry["filtered_by_content"] else ""
        numbers = f"{entry['low']:g} .. {entry['high']:g}, mean {entry['mean']:.4g}"
        print(f"{arguments.out / name}.npy: {entry['n']} rows ({entry['distinct']} distinct), values {numbers}{mark}")
    return 0


def size(text: str) -> int | float:
    return int(text) if text.lstrip("+-").isdigit() else float(text)
