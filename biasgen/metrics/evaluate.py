"""One call for one model: every metric that needs samples, on one set of searches."""
import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from biasgen.metrics._sets import (
    check_sets,
    check_settings,
    near_credit,
    nearest_distances,
    pool_credit,
    pooled,
    prepared,
    rows_of,
    to_numpy,
)
from biasgen.metrics.near_copies import near_share, near_threshold
from biasgen.metrics.nn_divergence import divergence, largest_distance
from biasgen.metrics.train_affinity import affinity
from biasgen.results import SCHEMA, Result, json_safe

_ALPHA = 0.01     # near_copies' default


@dataclass(frozen=True)
class Report:
    """metrics {name: Result}; sets {name: {"n", "distinct", "dtype", "sha256"}}, the hash over the rows' bytes in C order; params."""

    metrics: dict[str, Result]
    sets: dict[str, dict[str, Any]]
    params: dict[str, Any]

    def to_json(self) -> str:
        """{"schema": 1, "params", "sets", "metrics"} as strict JSON; numbers that are not finite are null."""
        return json.dumps(json_safe({"schema": SCHEMA, "params": self.params, "sets": self.sets, "metrics": self.metrics}), indent=1)

    def table(self) -> str:
        """Aligned text, one metric a line."""
        rows = [("metric", "value", "95 % interval", "null mean", "null 95 %", "p", "held-out")]
        for name, result in self.metrics.items():
            interval = "-" if result.ci is None else f"{_text(result.ci[0])} .. {_text(result.ci[1])}"
            mean, q95 = (None, None) if result.null is None else (result.null.mean, result.null.q95)
            rows.append((name, _text(result.value), interval, _text(mean), _text(q95), _text(result.p_value), _text(result.heldout)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]) for row in rows]
        return "\n".join(lines)


def evaluate(*, gen: Any, train: Any, heldout: Any, distance: str | None = None, permutations: int = 999, seed: int = 0) -> Report:
    """one_model's metrics with a description of the sets and settings, for the record. Arguments and errors as there."""
    metrics = one_model(gen=gen, train=train, heldout=heldout, distance=distance, permutations=permutations, seed=seed)
    sets = {"gen": gen, "train": train, "heldout": heldout}
    return Report(metrics, {name: _describe(rows, name) for name, rows in sets.items()}, metrics["near_copies"].params)


def one_model(
    *, gen: Any, train: Any, heldout: Any, distance: str | None = None, permutations: int = 999, seed: int = 0
) -> dict[str, Result]:
    """Affinity, near affinity, near-copies and NN divergence of one model, by name.

    gen (n, ...), train (m, ...), heldout (h, ...): arrays, tensors or a TrainingSet, of one shape and element type. The Results are those
    of train_affinity (without and with within=v), near_copies and nn_divergence at the same settings, v being near_copies' threshold;
    the searches are shared. Raises ValueError for sets that do not agree, before any search.
    """
    check_settings(permutations=permutations)
    distance = check_sets(distance, train=train, gen=gen, heldout=heldout)
    train = prepared(train, distance)
    to_train = {name: nearest_distances(rows, train, distance) for name, rows in (("gen", gen), ("heldout", heldout))}
    v = near_threshold(to_train["heldout"], _ALPHA)
    pool = prepared(pooled(train, heldout), distance)
    credit = pool_credit(gen, pool, distance)

    m = len(train)
    test = {"permutations": permutations, "seed": seed}
    params = {"distance": distance} | test
    copies = {"alpha": _ALPHA, "threshold": v}
    kl = divergence([(to_train["gen"], to_train["heldout"])], largest=largest_distance(gen, distance), **test)
    near = affinity(near_credit(gen, pool, distance, credit, v), n_train=m, **test, params=params | {"within": v})
    return {
        "train_affinity": affinity(credit, n_train=m, **test, params=params | {"within": None}),
        "near_affinity": near,
        "near_copies": near_share(
            to_train["gen"], to_train["heldout"], v, placebo=None, p_value=near.p_value, n_train=m, params=params | copies
        ),
        "nn_divergence": replace(kl, n_train=m, params=kl.params | params | {"compat": None}),
    }


def _describe(rows: Any, name: str) -> dict[str, Any]:
    array = np.ascontiguousarray(to_numpy(rows_of(rows, name)))
    flat = array.reshape(len(array), -1)
    as_bytes = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1])))
    return {
        "n": len(array),
        "distinct": len(np.unique(as_bytes)),
        "dtype": str(array.dtype),
        "sha256": hashlib.sha256(array.data).hexdigest(),
    }


def _text(number: float | None) -> str:
    return "-" if number is None else f"{number:.4f}"
