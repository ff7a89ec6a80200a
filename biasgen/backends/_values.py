"""The value of a distance to the bit, in plain torch (docs/exactness.md); runs inside exact_arithmetic.

To add a distance to the torch backend, add its row to VALUES: everything else here and in _screens
reads that table.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from biasgen import distances


def on_host(rows):
    """Rows on the CPU as NumPy has them: tokens beyond 255, which a tensor holds as the int16 of their bits, as uint16."""
    return rows.numpy().view(np.uint16) if rows.dtype == torch.int16 else rows.numpy()


def points(rows, distance):
    """What a distance compares, from rows (n, D): integer rows as they are where its values are
    integers; else float64, and for cosine and correlation at length 1."""
    if not rows.is_floating_point() and distances.get(distance).integer:
        return rows
    to_length_1 = VALUES[distance].to_length_1
    return to_length_1(rows.double()) if to_length_1 else rows.double()


def pair_values(x, y, distance):
    """(...) values between points x (..., D) and y (..., D) of shapes that broadcast: int64 for integer points, else float64.

    Euclidean: the square, which orders rows where many roots are equal; see rooted.
    """
    value = VALUES[distance]
    if not x.is_floating_point():
        return value.of_integers(x, y)
    total = lane_fold(x.shape[-1], lambda at: value.term(x[..., at] - y[..., at]), value.join)
    if value.to_length_1:
        total = torch.where(x.any(-1) != y.any(-1), 1.0, total / 2)
    return total


def values_in_place(x, y, distance):
    """pair_values of float64 points x (P, D), which are overwritten, and y (P, D)."""
    value = VALUES[distance]
    if value.to_length_1:
        return pair_values(x, y, distance)
    terms = value.term(x.sub_(y))
    return lane_fold(x.shape[1], lambda at: terms[:, at], value.join)


def lane_sum(D, terms):
    """(...) sums in the order that defines a value; terms(at) gives the terms (..., <= 16) float64 of a slice of the D positions."""
    return lane_fold(D, terms, torch.add)


def lane_fold(D, terms, join):
    """The same, joined by torch.add or, where 0 is below every term, torch.maximum."""
    lanes = torch.nn.functional.pad(terms(slice(0, 16)), (0, max(0, 16 - D)))
    for start in range(16, D, 16):
        chunk = terms(slice(start, start + 16))
        part = lanes[..., : chunk.shape[-1]]
        join(part, chunk, out=part)
    for width in (8, 4, 2, 1):
        lanes = join(lanes[..., :width], lanes[..., width : 2 * width])
    return lanes[..., 0]


def square_root(values):
    """Rounded correctly: torch's own is not on a CPU (MKL errs in the last bit of 1.2 % of long arrays, and never of short ones)."""
    return torch.from_numpy(np.sqrt(values.numpy())) if values.device.type == "cpu" else values.sqrt()


def rooted(values, distance):
    """The distances behind the values that order them: float64 roots for euclidean."""
    return square_root(values.double()) if VALUES[distance].root else values


@dataclass(frozen=True)
class Value:
    """How plain torch computes one distance.

    of_integers: (x, y) -> int64 values between integer rows; None where there are none.
    term: float64 differences -> what is joined, in place; None where only integers are compared.
    join: torch.add, or torch.maximum.
    norm: p where torch.cdist(p=p) bounds the values; None where a product of matrices does.
    to_length_1: float64 rows (n, D) -> points on the sphere, half of whose squared distance is the
    value; None where the rows themselves are compared. root: the distance is the root of the value.
    """

    of_integers: Callable | None = None
    term: Callable | None = None
    join: Callable = torch.add
    norm: float | None = None
    to_length_1: Callable | None = None
    root: bool = False


def _unequal(x, y):
    return (x != y).sum(-1)


def _sum_of(term):
    return lambda x, y: term(x.int() - y.int()).sum(-1)


def _greatest(x, y):
    return (x.int() - y.int()).abs_().amax(-1).long()


def _centered(rows):
    D = rows.shape[1]
    constant = rows.amin(1, keepdim=True) == rows.amax(1, keepdim=True)
    total = lane_sum(D, lambda at: rows[:, at])[:, None]
    mean = total / torch.full_like(total, D)  # by a plain number CUDA multiplies with the rounded 1 / D
    return torch.where(constant, 0.0, rows - mean)


def _normalized(rows):
    largest = rows.abs().amax(1, keepdim=True)
    scaled = rows / torch.where(largest == 0, 1.0, largest)
    length = square_root(lane_sum(rows.shape[1], lambda at: scaled[:, at].square()))[:, None]
    return scaled / torch.where(length == 0, 1.0, length)


_square, _absolute = torch.Tensor.square_, torch.Tensor.abs_
VALUES = {
    "hamming": Value(_unequal),
    "sqeuclidean": Value(_sum_of(_square), _square),
    "euclidean": Value(None, _square, root=True),
    "cosine": Value(None, _square, to_length_1=_normalized),
    "correlation": Value(None, _square, to_length_1=lambda rows: _normalized(_centered(rows))),
    "cityblock": Value(_sum_of(_absolute), _absolute, norm=1),
    "chebyshev": Value(_greatest, _absolute, torch.maximum, norm=torch.inf),
}
"""The distances of the torch backend."""
ON_SPHERE = tuple(name for name, value in VALUES.items() if value.to_length_1)
