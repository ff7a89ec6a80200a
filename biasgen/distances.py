"""The table of distances. Pure data: imports nothing of biasgen. Names are SciPy's."""
from dataclasses import dataclass

FLOATS = ("float64", "float32", "float16", "bfloat16")
TOKENS = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64")
LARGEST_TOKEN = 65_535
"""Tokens are 0 .. this in every element type: two bytes, at most 16 bit planes."""


@dataclass(frozen=True)
class Distance:
    """name; domain: which rows it takes, in words; dtypes: names of the accepted element types.

    integer: between integer rows it is an integer (int64), else a float64. ordered_by: the distance that neighbours are ordered by.
    """

    name: str
    domain: str
    dtypes: tuple[str, ...]
    integer: bool
    ordered_by: str


DISTANCES = {
    d.name: d
    for d in (
        Distance("hamming", f"integer tokens 0..{LARGEST_TOKEN}", TOKENS, integer=True, ordered_by="hamming"),
        Distance("sqeuclidean", "uint8 or float rows", ("uint8", *FLOATS), integer=True, ordered_by="sqeuclidean"),
        Distance("euclidean", "uint8 or float rows", ("uint8", *FLOATS), integer=False, ordered_by="sqeuclidean"),
        Distance("cosine", "uint8 or float rows", ("uint8", *FLOATS), integer=False, ordered_by="cosine"),
        Distance("correlation", "uint8 or float rows", ("uint8", *FLOATS), integer=False, ordered_by="correlation"),
        Distance("cityblock", "uint8 or float rows", ("uint8", *FLOATS), integer=True, ordered_by="cityblock"),
        Distance("chebyshev", "uint8 or float rows", ("uint8", *FLOATS), integer=True, ordered_by="chebyshev"),
    )
}
HINTS = {
    "l2": "'l2' is squared in some libraries and not in others: say 'sqeuclidean' or 'euclidean'",
    "l1": "say 'cityblock'",
    "manhattan": "say 'cityblock'",
    "linf": "say 'chebyshev'",
    "max": "say 'chebyshev'",
    "pearson": "say 'correlation'",
}


def get(name: str) -> Distance:
    """The distance called `name`; ValueError names what is known."""
    if name in DISTANCES:
        return DISTANCES[name]
    hint = f" ({HINTS[name]})" if name in HINTS else ""
    raise ValueError(f"distance: unknown {name!r}; known: {', '.join(DISTANCES)}{hint}")


def default(dtype_name: str) -> str:
    """Distance taken when none is named: sqeuclidean for uint8 (images) and floats, hamming for every other type (tokens)."""
    return "sqeuclidean" if dtype_name == "uint8" or dtype_name in FLOATS else "hamming"
