"""The rows of the table of distances that a test is about: a new distance enters every one of them."""
from biasgen.distances import DISTANCES


def taking(dtype):
    """Names of the distances of rows of this element type."""
    return [name for name, distance in DISTANCES.items() if dtype in distance.dtypes]


def integers(dtype="uint8"):
    """Names of those that are integers between such rows."""
    return [name for name in taking(dtype) if DISTANCES[name].integer]
