"""One call for one model: its metrics, and whether the sets can be compared at all."""

import json
from dataclasses import dataclass
from typing import Any

from biasgen.data.hygiene import check_ranges, describe
from biasgen.metrics.comparison import Comparison
from biasgen.metrics.registry import choose, default_metrics, measure
from biasgen.metrics.self_test import self_test, warnings_of
from biasgen.results import SCHEMA, Result, json_safe


@dataclass(frozen=True)
class Report:
    """What evaluate found.

    metrics {name: Result}; sets {name: data.hygiene.describe of its rows}; params, with alpha and
    threshold where near_copies is among the metrics; self_tests {name: Result} of train against
    held-out rows, see self_test; warnings: a sentence for each of them that failed.
    """

    metrics: dict[str, Result]
    sets: dict[str, dict[str, Any]]
    params: dict[str, Any]
    self_tests: dict[str, Result]
    warnings: list[str]

    def to_json(self) -> str:
        """Strict JSON; numbers that are not finite are null.

        {"schema": 1, "params", "sets", "metrics", "self_tests", "warnings"}
        """
        names = ("params", "sets", "metrics", "self_tests", "warnings")
        return json.dumps(
            json_safe({"schema": SCHEMA} | {name: getattr(self, name) for name in names}), indent=1
        )

    def table(self) -> str:
        """Aligned text, one metric a line; below it what the self-test found."""
        rows = [("metric", "value", "95 % interval", "null mean", "null 95 %", "p", "held-out")]
        for name, result in self.metrics.items():
            interval = (
                "-" if result.ci is None else f"{_text(result.ci[0])} .. {_text(result.ci[1])}"
            )
            mean, q95 = (None, None) if result.null is None else (result.null.mean, result.null.q95)
            rows.append(
                (
                    name,
                    _text(result.value),
                    interval,
                    _text(mean),
                    _text(q95),
                    _text(result.p_value),
                    _text(result.heldout),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
                ]
            )
            for row in rows
        ]
        found = ", ".join(
            f"p = {test.p_value:.4f} ({name})" for name, test in self.self_tests.items()
        )
        passed = "self-test (train against held-out): " + (
            f"passed, {found}" if found else "not run, too few held-out rows"
        )
        return "\n".join([*lines, *(self.warnings or [passed])])


def evaluate(
    *,
    gen: Any,
    train: Any,
    heldout: Any,
    metrics: Any = None,
    alpha: float = 0.01,
    distance: str | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Report:
    """Metrics of one model's samples, its sets described, and train tested against heldout.

    Args:
        gen (n, ...), train (m, ...), heldout (h, ...): arrays, tensors or a TrainingSet, of one
            shape and element type.
        metrics: names of the registry (biasgen.metrics), {name: settings}, or function(gen=,
            train=, heldout=) -> {name: Result}. None: train_affinity, near_affinity (train_affinity
            with within=v, v being the threshold of near_copies), near_copies, nn_divergence, nn_auc
            and, for distances other than hamming, nn_wasserstein and nn_ks.
        alpha: of near_affinity and near_copies. distance: name; None: the TrainingSet's own, else
            by element type. permutations: of every null. seed: of the nulls and of the self-test.

    Returns:
        Report. Its metrics are the Results of the functions of these names at the same settings.

    Raises ValueError for sets that do not agree or, unless compared by hamming, cannot be on one
    scale (data.hygiene.check_ranges), and for metrics that cannot be measured on these sets;
    TypeError for one that returns no Result.
    """
    sets = {"gen": gen, "train": train, "heldout": heldout}
    settings = {"alpha": alpha, "distance": distance, "permutations": permutations, "seed": seed}
    comparison = Comparison(**sets, **settings)
    distance = comparison.distance
    chosen = choose(default_metrics(distance) if metrics is None else metrics, given=sets)
    if distance != "hamming":  # symbols have no scale, in uint8 neither
        check_ranges(**sets)
    found = measure(comparison, chosen)
    tests = self_test(train=train, heldout=heldout, distance=distance, seed=seed)
    described = {
        name: rows.description if hasattr(rows, "description") else describe(rows)
        for name, rows in sets.items()
    }
    copies = found["near_copies"].params if "near_copies" in found else {}
    params = comparison.params | copies | {"views": comparison.views}
    return Report(found, described, params, tests, warnings_of(tests))


def _text(number: float | None) -> str:
    return "-" if number is None else f"{number:.4f}"
