"""What the verbs take as rows, in words, and the distance and views that these are searched in."""
import argparse
from typing import Any

from biasgen.distances import DISTANCES

SOURCES = (
    "Rows: .npy, .npz, .pt, .pth, .safetensors, a .biasgen file of TrainingSet.save, or a folder of images of one size. "
    "Where a file holds several arrays name one: samples.npz:images."
)


def add_distance(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(DISTANCES)
    default = "default: hamming for integer types other than uint8, else sqeuclidean"
    parser.add_argument("--distance", help=f"{known}; {default}")


def add_views(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--views",
        type=lambda text: tuple(text.split(",")),
        metavar="LIST",
        help="identity,hflip for a model trained with random horizontal flips of images; default: as saved, else identity",
    )


def in_views(train: Any, views: tuple[str, ...] | None, distance: str | None) -> Any:
    """`train` as load_set gave it, to be searched in these views; None: in its own."""
    from biasgen.data.training_set import TrainingSet
    from biasgen.metrics._sets import rows_of

    if views is None:
        return train
    if isinstance(train, TrainingSet):
        if set(views) != set(train.views):
            raise ValueError(f"--views: want {','.join(train.views)}, which the training set was saved with, got {','.join(views)}")
        return train
    return TrainingSet(rows_of(train, "train"), distance, views)
