"""The value of a distance to the bit, in plain torch (docs/exactness.md); runs inside exact_arithmetic."""
import numpy as np
import torch

from biasgen import distances

ON_SPHERE = ("cosine", "correlation")


def on_host(rows):
    """Rows on the CPU as NumPy has them: tokens beyond 255, which a tensor holds as the int16 of their bits, as uint16."""
    return rows.numpy().view(np.uint16) if rows.dtype == torch.int16 else rows.numpy()


def points(rows, distance):
    """What a distance compares, from rows (n, D): integer rows as they are where its values are integers; else float64, centered
    (correlation) and at length 1 (correlation, cosine)."""
    if not rows.is_floating_point() and distances.get(distance).integer:
        return rows
    rows = rows.double()
    D = rows.shape[1]
    if distance == "correlation":
        constant = rows.amin(1, keepdim=True) == rows.amax(1, keepdim=True)
        total = lane_sum(D, lambda at: rows[:, at])[:, None]
        mean = total / torch.full_like(total, D)  # by a plain number CUDA multiplies with the rounded 1 / D
        rows = torch.where(constant, 0.0, rows - mean)
    if distance in ON_SPHERE:
        largest = rows.abs().amax(1, keepdim=True)
        scaled = rows / torch.where(largest == 0, 1.0, largest)
        length = square_root(lane_sum(D, lambda at: scaled[:, at].square()))[:, None]
        rows = scaled / torch.where(length == 0, 1.0, length)
    return rows


def pair_values(x, y, distance):
    """(...) values between points x (..., D) and y (..., D) of shapes that broadcast: int64 for integer points, else float64.

    Euclidean: the square, which orders rows where many roots are equal; see rooted.
    """
    if distance == "hamming":
        return (x != y).sum(-1)
    if not x.is_floating_point():
        difference = x.int() - y.int()
        return (difference.abs_() if distance == "cityblock" else difference.square_()).sum(-1)
    term = torch.Tensor.abs_ if distance == "cityblock" else torch.Tensor.square_
    total = lane_sum(x.shape[-1], lambda at: term(x[..., at] - y[..., at]))
    if distance in ON_SPHERE:
        total = torch.where(x.any(-1) != y.any(-1), 1.0, total / 2)
    return total


def lane_sum(D, terms):
    """(...) sums in the order that defines a value; terms(at) gives the terms (..., <= 16) float64 of a slice of the D positions."""
    lanes = torch.nn.functional.pad(terms(slice(0, 16)), (0, max(0, 16 - D)))
    for start in range(16, D, 16):
        chunk = terms(slice(start, start + 16))
        lanes[..., : chunk.shape[-1]] += chunk
    for width in (8, 4, 2, 1):
        lanes = lanes[..., :width] + lanes[..., width : 2 * width]
    return lanes[..., 0]


def square_root(values):
    """Rounded correctly: torch's own is not on a CPU (MKL errs in the last bit of 1.2 % of long arrays, and never of short ones)."""
    return torch.from_numpy(np.sqrt(values.numpy())) if values.device.type == "cpu" else values.sqrt()


def rooted(values, distance):
    """The distances behind the values that order them: float64 roots for euclidean."""
    return square_root(values.double()) if distance == "euclidean" else values
