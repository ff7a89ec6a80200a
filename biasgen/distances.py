"""The table of distances. Pure data: imports nothing of biasgen. Names are SciPy's."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Distance:
    """name; domain: which rows it takes, in words; dtypes: names of the accepted element types; integer: values are integers."""

    name: str
    domain: str
    dtypes: tuple[str, ...]
    integer: bool


DISTANCES = {
    d.name: d
    for d in (
        Distance("hamming", "integer tokens 0..255", ("uint8", "int8", "int16", "int32", "int64"), integer=True),
        Distance("sqeuclidean", "uint8 rows", ("uint8",), integer=True),
    )
}


def get(name: str) -> Distance:
    """The distance called `name`; ValueError names what is known."""
    if name in DISTANCES:
        return DISTANCES[name]
    hint = " ('l2' is squared in some libraries and not in others: say 'sqeuclidean')" if name == "l2" else ""
    raise ValueError(f"distance: unknown {name!r}; known: {', '.join(DISTANCES)}{hint}")


def default(dtype_name: str) -> str:
    """Distance taken when none is named: sqeuclidean for uint8 (images), hamming for every other integer type (tokens)."""
    return "sqeuclidean" if dtype_name == "uint8" else "hamming"
