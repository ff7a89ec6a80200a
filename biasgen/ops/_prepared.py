"""The reference side of a search, prepared once: distinct rows, how often each occurs, and where."""
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakValueDictionary

import torch

from biasgen import distances
from biasgen.backends._mode import exact_arithmetic, used_here
from biasgen.ops._duplicates import groups
from biasgen.ops._rows import as_rows, dtype_name
from biasgen.ops._views import checked_views, seen

_WIDENED = 1 << 22  # tokens that are held in 32 bits at a time


@dataclass(frozen=True, eq=False)
class Prepared:
    """M rows as U distinct ones.

    rows (U, F) uint8, int16 (the bits of tokens beyond 255), float32 or float64: the distinct rows in order of first appearance; equal by
    value, so that -0.0 is 0.0.
    multiplicity (U,) int64. members (M,) int64: original indices, those of distinct row u ascending in
    members[offsets[u] : offsets[u + 1]]; offsets (U + 1,). distance: its name. shape: of one row. largest: the largest value in rows.
    views: the distance of a query is the smallest over them; backends look at all, but in knn and rows_within at one.
    packed: what backends keep, for the cpu backend's integers by bits a value; derived from rows, never saved.
    """

    rows: torch.Tensor
    multiplicity: torch.Tensor
    members: torch.Tensor
    offsets: torch.Tensor
    distance: str
    shape: tuple[int, ...]
    largest: int | float
    views: tuple[str, ...]
    packed: dict[Any, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of rows in full, M."""
        return len(self.members)

    @property
    def searched(self) -> "Prepared":
        """The same rows before the distance that orders them: the squares of euclidean, which stay apart where roots are equal."""
        return replace(self, distance=distances.get(self.distance).ordered_by)

    @property
    def integer(self) -> bool:
        """Whether distances to these rows are integers."""
        return not self.rows.is_floating_point() and distances.get(self.distance).integer

    @property
    def dtype(self) -> str:
        """Name of the element type of rows, as backends declare it."""
        return str(self.rows.dtype).removeprefix("torch.")

    @property
    def element(self) -> torch.dtype:
        """Element type of rows."""
        return self.rows.dtype

    @property
    def device(self) -> torch.device:
        """Where rows are."""
        return self.rows.device

    def serves(self, device: torch.device) -> bool:
        """Whether queries on `device` can be searched for."""
        return device == self.device

    def blocks(self, device: torch.device) -> Iterator[tuple[int, "Prepared"]]:
        """Yield (index of the first row, Prepared on the device of the query) of consecutive runs of the rows: all of them at once."""
        used_here(self)
        yield 0, self

    def seen(self, query: torch.Tensor) -> list[torch.Tensor]:
        """Query rows (N, F) in each of the views."""
        return seen(query, self.shape, self.views)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a copy, or one that was pickled."""
        self.__dict__.update(state)
        _KNOWN[self.rows.data_ptr()] = self


_KNOWN: WeakValueDictionary[int, Prepared] = WeakValueDictionary()     # by the address of their rows, while they live


def of_tensors(
    rows: torch.Tensor, multiplicity: torch.Tensor, members: torch.Tensor, offsets: torch.Tensor, distance: str, shape: tuple[int, ...]
) -> Prepared:
    """The Prepared that has these tensors, with what backends keep in it; else another one of them, without views."""
    known = _KNOWN.get(rows.data_ptr())
    wanted = rows.shape, rows.dtype, distance, shape, ("identity",)
    if known is not None and (known.rows.shape, known.element, known.distance, known.shape, known.views) == wanted:
        return known
    views, largest = ("identity",), _largest(rows)
    return Prepared(rows, multiplicity, members, offsets, distance, shape, largest, views)


@exact_arithmetic()
def prepare(rows: Any, distance: str | None = None, name: str = "reference", views: Any = ("identity",)) -> Prepared:
    """Find the distinct rows of (M, ...), by sorting: O(M log M). distance None: the default of the element type.

    Errors: see biasgen.ops._rows.as_rows and biasgen.ops._views.checked_views; ValueError for an unknown distance. They begin with `name`.
    """
    distance = distance_of(rows, distance, name)
    flat = as_rows(rows, name, distance)
    shape = tuple(rows.shape[1:])
    return of_rows(flat, distance, shape, checked_views(views, shape))


def distance_of(rows: Any, distance: str | None, name: str) -> str:
    """The name of `distance`, or of the default of the element type of rows."""
    return distances.get(distances.default(dtype_name(rows, name)) if distance is None else distance).name


def of_rows(flat: torch.Tensor, distance: str, shape: tuple[int, ...], views: tuple[str, ...], shared: bool = False) -> Prepared:
    """The preparation of rows (M, F) that as_rows has checked. shared: they need no copy, since nothing changes them while it is used."""
    with exact_arithmetic(flat.numel(), flat.device):
        first, members, multiplicity = groups(flat)
        prepared = Prepared(
            rows=flat if shared and len(first) == len(flat) else flat[first],
            multiplicity=multiplicity,
            members=members,
            offsets=torch.nn.functional.pad(multiplicity.cumsum(0), (1, 0)),
            distance=distance,
            shape=shape,
            largest=_largest(flat),
            views=views,
        )
    _KNOWN[prepared.rows.data_ptr()] = prepared
    return prepared


def query_of(query: Any, prepared: Any) -> torch.Tensor:
    """`query` (N, ...) as (N, F) beside the prepared rows: of their type or a wider one, never rounded.

    ValueError when shapes or devices differ, or one is of integers and the other of floats: their scales would differ, too.
    """
    rows = as_rows(query, "query", prepared.distance)
    if tuple(query.shape[1:]) != prepared.shape:
        raise ValueError(f"query: want rows of shape {prepared.shape} as in the reference, got {tuple(query.shape[1:])}")
    if rows.is_floating_point() != prepared.element.is_floating_point:
        kind = "floats" if prepared.element.is_floating_point else "uint8"
        raise ValueError(f"query: want {kind} as in the reference, got {dtype_name(query, 'query')}")
    device = rows.device if isinstance(query, torch.Tensor) else prepared.device
    if not prepared.serves(device):
        raise ValueError(f"query: want a tensor on {prepared.device} as the reference, got {query.device}")
    dtype = torch.promote_types(rows.dtype, prepared.element)
    if rows.dtype == dtype:
        return rows.to(device)
    with exact_arithmetic(rows.numel(), rows.device):
        return rows.to(device, dtype)


def _largest(rows: torch.Tensor) -> int | float:
    """The largest value in rows (M, F), found where they are."""
    if rows.dtype != torch.int16:
        return rows.amax().item()
    unsigned = [(part.int() & 0xFFFF).amax() for part in rows.flatten().split(_WIDENED)]
    return torch.stack(unsigned).amax().item()
