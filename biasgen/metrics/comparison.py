"""A Comparison: the sets of rows that metrics compare, and the searches that the metrics share."""

import copy
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from biasgen.metrics._sets import (
    Pool,
    check_sets,
    check_settings,
    pool_credit,
    prepared,
    rows_of,
    to_numpy,
    views_of,
)
from biasgen.metrics.registry import SETS
from biasgen.ops.knn import knn
from biasgen.results import Credit, Neighbours

_SAMPLES = {"gen", "twin_gen"}


class Comparison:
    """Samples of a model beside rows that it saw and rows that it did not see.

    A search is made when a metric first asks for it, and kept. What involves no samples is kept for
    other samples, too (with_samples): a monitor prepares and searches its reference rows once.

    Args, which are attributes as well, and None where they are not given:
        train (m, ...): rows that the model was trained on: array, tensor or TrainingSet.
        gen (n, ...): rows that it generated. heldout (h, ...): rows of the law of `train`.
        placebo: rows that it never saw, another model's training set.
        twin_gen, twin_train: samples and training rows of a second model.
        distance: name; None: the TrainingSet's own, else by element type.
        alpha: share of held-out rows that is allowed within the near-copy threshold.
        permutations, seed: of every null.

    All sets have one row shape and one element type. views: those of the first TrainingSet.

    Raises ValueError for settings that cannot be and for sets that do not agree, before any search.
    """

    def __init__(
        self,
        *,
        train: Any,
        gen: Any = None,
        heldout: Any = None,
        placebo: Any = None,
        twin_gen: Any = None,
        twin_train: Any = None,
        distance: str | None = None,
        alpha: float = 0.01,
        permutations: int = 999,
        seed: int = 0,
    ) -> None:
        check_settings(permutations=permutations, alpha=alpha)
        self.train, self.heldout, self.placebo = train, heldout, placebo
        self.gen, self.twin_gen, self.twin_train = gen, twin_gen, twin_train
        sets = {"train": train, "twin_train": twin_train, "gen": gen, "twin_gen": twin_gen}
        sets |= {"heldout": heldout, "placebo": placebo}
        self.distance = check_sets(distance, **sets)
        self.views = views_of(*sets.values())
        self.alpha, self.permutations, self.seed = alpha, permutations, seed
        self._of_references: dict[Hashable, Any] = {}
        self._of_samples: dict[Hashable, Any] = {}

    def with_samples(self, gen: Any, twin_gen: Any = None) -> "Comparison":
        """The same with other samples; what was found without samples is kept."""
        check_sets(self.distance, train=self.train, gen=gen, twin_gen=twin_gen)
        other = copy.copy(self)
        other.gen, other.twin_gen, other._of_samples = gen, twin_gen, {}
        return other

    @property
    def sets(self) -> dict[str, Any]:
        """{name: rows} of the sets that are given."""
        return {name: getattr(self, name) for name in SETS if getattr(self, name) is not None}

    @property
    def test(self) -> dict[str, int]:
        """The settings of a null: {"permutations", "seed"}."""
        return {"permutations": self.permutations, "seed": self.seed}

    @property
    def params(self) -> dict[str, Any]:
        """What every Result of samples says about its making: the distance, and `test`."""
        return {"distance": self.distance} | self.test

    def nearest(self, query: Any, reference: Any, k: int = 1) -> Neighbours:
        """biasgen.knn of two of the sets, by name or by their rows; NumPy arrays."""
        names = self._name(query, "query"), self._name(reference, "reference")

        def search() -> Neighbours:
            rows = rows_of(getattr(self, names[0]), names[0])
            found = knn(rows, self._prepared(names[1]), k, distance=self.distance)
            arrays = (to_numpy(part) for part in (found.distances, found.indices, found.tie_counts))
            return Neighbours(*arrays, stats=found.stats)

        return self._keep(("nearest", *names, k), search, names)

    def nearest_distances(self, query: Any, reference: Any) -> np.ndarray:
        """(N,) distance of each row of `query` to its nearest row of `reference`."""
        return self.nearest(query, reference).distances[:, 0]

    def pool(self, first: str = "train", second: str = "heldout") -> Pool:
        """The rows of two sets, first's first, prepared as one reference."""
        names = self._name(first, "first"), self._name(second, "second")

        def build() -> Pool:
            return Pool(*(getattr(self, name) for name in names), self.distance, self.views)

        return self._keep(("pool", *names), build, names)

    def credit(
        self,
        query: Any,
        reference: tuple[str, str] = ("train", "heldout"),
        within: float | None = None,
    ) -> Credit:
        """biasgen.nearest_credit of the rows of `query` in the pool of two sets; NumPy arrays.

        within: only the rows of `query` that have a row of the pool within this distance.
        """
        name = self._name(query, "query")

        def search() -> Credit:
            rows, pool = rows_of(getattr(self, name), name), self.pool(*reference)
            if within is None:
                return pool_credit(rows, pool, self.distance)
            whole = self.credit(name, reference)
            near = whole.distances <= within
            if near.all():
                return whole
            if not near.any():
                parts = {"distances": whole.distances[:0], "tie_counts": whole.tie_counts[:0]}
                return replace(whole, weights=np.zeros_like(whole.weights), **parts)
            chosen = (
                torch.from_numpy(near).to(rows.device) if isinstance(rows, torch.Tensor) else near
            )
            return pool_credit(rows[chosen], pool, self.distance)  # mostly few are searched again

        return self._keep(("credit", name, *reference, within), search, (name, *reference))

    def keep(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """compute(), once for these samples: what several metrics need beside searches."""
        return self._keep(("kept", key), compute, ("gen",))

    def _keep(self, key: Hashable, compute: Callable[[], Any], sets: tuple[str, ...]) -> Any:
        kept = self._of_references if _SAMPLES.isdisjoint(sets) else self._of_samples
        if key not in kept:
            kept[key] = compute()
        return kept[key]

    def _prepared(self, name: str) -> Any:
        def prepare() -> Any:
            return prepared(getattr(self, name), self.distance, self.views)

        return self._keep(("prepared", name), prepare, (name,))

    def _name(self, rows: Any, argument: str) -> str:
        if isinstance(rows, str):
            if rows in SETS and getattr(self, rows) is not None:
                return rows
            got = repr(rows)
        else:
            for name, given in self.sets.items():
                if rows is given:
                    return name
            got = f"another {type(rows).__name__}"
        wanted = ", ".join(self.sets)
        raise ValueError(f"{argument}: want one of the sets given, {wanted}, got {got}")
