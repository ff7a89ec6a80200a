"""What a backend is, with types: the contract between the ops and the modules that backends.ORDER
names. A module is checked against it by tests/test_backend_contract.py.

Every backend has what Backend lists, and of Ops the functions of the ops that its OPS names. The
ops check every argument before they call a backend. Tensors are contiguous, on one device, and the
answers lie there.
"""
from collections.abc import Callable
from typing import Any, NotRequired, Protocol, TypedDict

from torch import Tensor

from biasgen.results import TreePosterior


class Takes(TypedDict):
    """Which calls of one op a backend takes: names of element types, and of distances where the op
    has one. refuses(case) says why a call that these names allow is refused after all, or None."""

    dtypes: tuple[str, ...]
    distances: tuple[str, ...]
    refuses: NotRequired[Callable[[Any], str | None]]


class Backend(Protocol):
    """What every backend module has. DEVICES: torch device types of the tensors that it takes."""

    DEVICES: tuple[str, ...]
    OPS: dict[str, Takes]

    def probe(self) -> str | None:
        """Why this backend cannot run here, or None. Never raises, prints or builds anything."""


class Selective(Backend, Protocol):
    """A backend that takes only some devices of its types."""

    def device_refusal(self, device: Any) -> str | None:
        """Why it does not run on `device`, a torch.device or its name, or None. Never raises, prints
        or builds anything."""


class SelfTested(Backend, Protocol):
    """A backend whose kernels may be wrong on a device that nobody has tried."""

    def fault(self, op: str, device: Any) -> str | None:
        """What a self-test of the kernels of `op` found wrong on `device`, or None.

        It may build kernels. It is asked only where the caller has named no backend."""


class Rows(Protocol):
    """A reference of M rows as U distinct ones, in order of first appearance; ops/_prepared.py
    makes it.

    rows (U, F): uint8, int16 (the bits of tokens 0..65535), float32 or float64. multiplicity (U,),
    members (M,), offsets (U + 1,), all int64: how often each occurs, and where: the rows
    members[offsets[u] : offsets[u + 1]] are equal to row u. largest: number in the rows. packed:
    what a backend wants to keep with them, under keys of its own.
    """

    rows: Tensor
    multiplicity: Tensor
    members: Tensor
    offsets: Tensor
    distance: str
    largest: int | float
    views: tuple[str, ...]
    packed: dict[Any, Any]

    @property
    def integer(self) -> bool:
        """Whether the distances to these rows are integers (int64, else float64)."""

    @property
    def searched(self) -> "Rows":
        """The same rows, by the distance that orders them: squares instead of their roots."""

    def seen(self, query: Tensor) -> list[Tensor]:
        """Query rows (N, F) in each of the views."""


class Grammar(Protocol):
    """A grammar on a complete tree, on the CPU: biasgen.ops.tree.Tree has every field in words.

    nodes: how many each level has, from the root, 0 where BP_k leaves it out. packed: what a
    backend wants to keep with it, under keys of its own.
    """

    rules: Tensor
    weights: Tensor
    level_offsets: tuple[int, ...]
    root: Tensor
    channels: Tensor
    arity: int
    depth: int
    Q: int
    L: int
    factorized: int
    blocks: tuple[tuple[int, int], ...]
    nodes: tuple[int, ...]
    rule_counts: tuple[int, ...]
    packed: dict[Any, Any]

    @property
    def shared(self) -> bool:
        """Whether all levels have the same rules."""

    @property
    def draws(self) -> int:
        """Random numbers that a string takes."""

    @property
    def arrays(self) -> Any:
        """rules, weights, level_offsets, root and channels as NumPy arrays, by name."""


class Ops(Protocol):
    """The functions of the ops. Queries are (N, F), of the element type of the rows or a wider one.
    Values are distances, but squares for euclidean; int64 where prepared.integer, else float64, to
    the bit as docs/exactness.md defines them. max_memory: bytes for temporaries; None: the
    backend's own choice."""

    def isa(self) -> str | None:
        """The instruction set in use; None where there is no choice. With knn."""

    def knn(
        self, query: Tensor, prepared: Rows, k: int, max_memory: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The k nearest distinct rows of each query, 1 <= k <= min(U, 64), in one view.

        Returns values (N, k) and distinct rows (N, k) int64, by (value, row); tie_rows (N,) int64,
        distinct rows at the smallest value; tie_counts (N,) int64, the same with multiplicity.
        """

    def rows_within(
        self, query: Tensor, prepared: Rows, radius: Tensor, offsets: Tensor
    ) -> Tensor:
        """(P,) int64: the distinct rows of value <= radius (N,) of each query, ascending, query by
        query, in one view. With knn.

        offsets (N + 1,): where each query's rows begin, known beforehand from tie_rows; ValueError
        where the number of rows is another one.
        """

    def range_count(
        self, query: Tensor, prepared: Rows, radius: Tensor, max_memory: int | None = None
    ) -> Tensor:
        """(N,) int64: rows, with multiplicity, at distance <= radius (N,) float64 or int64."""

    def distance_histogram(
        self, query: Tensor, prepared: Rows, edges: Tensor, max_memory: int | None = None
    ) -> Tensor:
        """(B,) int64: pairs of a query and a row, with multiplicity, by their distance; edges
        (B + 1,) float64. All bins are half open but the last, which is closed."""

    def pairwise_distances(self, query: Tensor, prepared: Rows, out: Tensor) -> None:
        """Fills out (N, M) with the distances to all rows, in their own order, in every view the
        smallest."""

    def paired_distances(self, a: Tensor, b: Tensor, distance: str) -> Tensor:
        """(N,) distances between row i of a (N, F) and row i of b (N, F)."""

    def empirical_denoise(
        self,
        x_t: Tensor,
        prepared: Rows,
        scale: Tensor,
        sigma: Tensor,
        log_p: Tensor,
        max_memory: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x0_hat (B, D), log p(x_t) (B,), effective sample size (B,) and the probability that was
        dropped (B,), all float64.

        x_t (B, D) float32 or float64; scale, sigma (B,) and log_p (U,) float64, normalized.
        """

    def tree_posterior(self, evidence: Tensor, tree: Grammar, levels: str | None) -> TreePosterior:
        """What `levels` asks for, the tables of TreePosterior.flat, None for all else.

        evidence: log-fields (B, L, Q) float32 or float64, or tokens (B, L) int8 or int16, -1 where
        masked.
        """

    def tree_posterior_sample(
        self, evidence: Tensor, tree: Grammar, n: int, seed: int, numbers: Any
    ) -> Tensor:
        """(B, n, L) strings from the posteriors, -1 where the evidence is impossible. A backend
        draws from `seed` by itself, or takes the random numbers that `numbers` makes."""

    def tree_map(self, evidence: Tensor, tree: Grammar) -> tuple[Tensor, Tensor]:
        """Leaves (B, L) of the most probable derivations, -1 where the evidence is impossible, and
        their log-probabilities (B,) float64."""
