"""The registry of metrics: their names, what each needs, and the one way in which they are run."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from numbers import Real
from pathlib import Path
from typing import Any

from biasgen.results import Result

GROUP = "biasgen.metrics"
"""Entry points of this group are metrics of installed packages, each under the metric's name."""
SETS = ("gen", "train", "heldout", "placebo", "twin_gen", "twin_train")
"""The sets of rows that a Comparison may hold."""
ONE_MODEL = ("train_affinity", "near_affinity", "near_copies", "nn_divergence", "nn_auc")
"""What is measured of one model unless other metrics are asked for."""
MANY_VALUES = ("nn_wasserstein", "nn_ks")
"""As well, for distances of many values: all but hamming, whose few values have a bin each."""

MetricFunction = Callable[..., Result | dict[str, Result]]
"""function(comparison, **settings)."""
Chosen = list[tuple[str, Callable[[Any], Any]]]
"""Metrics that are ready to run: the name of each, and a function of the Comparison alone."""


@dataclass(frozen=True)
class Metric:
    """A function of a Comparison, its name and signature, and the sets that it needs."""

    name: str
    function: MetricFunction
    needs: tuple[str, ...]
    signature: inspect.Signature


_METRICS: dict[str, Metric] = {}


def register(
    name: str, needs: Iterable[str] = ("gen", "train", "heldout")
) -> Callable[[MetricFunction], MetricFunction]:
    """Decorator that makes function(comparison, **settings) the metric `name`.

    Args:
        name: an identifier. evaluate, the monitor, the command line and the JSON call it so.
        needs: the sets without which it is not run: some of "gen", "train", "heldout", "placebo",
            "twin_gen", "twin_train".

    The function gets a Comparison (biasgen.metrics.comparison) and, by keyword, its settings. It
    returns a Result, which is recorded under `name`, or {name: Result}. It is returned unchanged.

    Raises ValueError for a name or a set that cannot be, and for a name that another module has
    registered; the same module may register it again, as a notebook does.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"name: want an identifier, got {name!r}")
    needs = tuple(needs)
    unknown = [entry for entry in needs if entry not in SETS]
    if unknown:
        raise ValueError(
            f"needs: want some of {', '.join(SETS)}, got {', '.join(map(repr, unknown))}"
        )

    def add(function: MetricFunction) -> MetricFunction:
        other = _METRICS.get(name)
        if other is not None and _home(other.function) != _home(function):
            raise ValueError(
                f"name: {name!r} is a metric of both {_home(other.function)} and {_home(function)}"
            )
        _METRICS[name] = Metric(name, function, needs, inspect.signature(function))
        return function

    return add


def known() -> list[str]:
    """The names of all metrics, those of installed packages included, sorted."""
    _load_own()
    return sorted({*_METRICS, *(point.name for point in entry_points(group=GROUP))})


def find(name: str) -> Metric:
    """The metric of this name. ValueError, with all names, if there is none."""
    _load_own()
    if name not in _METRICS:
        for point in entry_points(group=GROUP, name=name):
            point.load()
            if name not in _METRICS:
                raise ValueError(
                    f"metrics: entry point {name!r} ({point.value}) does not register {name!r}"
                )
    if name not in _METRICS:
        raise ValueError(f"metrics: unknown {name!r}, want some of {', '.join(known())}")
    return _METRICS[name]


def default_metrics(distance: str, *, twins: bool = False) -> tuple[str, ...]:
    """The names that are measured where none are asked for: of one model, or of two.

    A metric is not among them because it is installed: a report must not depend on that.
    """
    if twins:
        return ("split_comparison",)
    return ONE_MODEL if distance == "hamming" else ONE_MODEL + MANY_VALUES


def choose(metrics: Any, *, given: Iterable[str], beside: Iterable[str] = ()) -> Chosen:
    """What the argument `metrics` of evaluate and of the monitor asks for, checked before any work.

    Args:
        metrics: names, {name: settings}, or function(gen=, train=, ...) -> {name: Result}, which is
            called with the sets that are given.
        given: names of the sets that the Comparison will hold.
        beside: names that come first, with the settings that `metrics` has for them.

    Raises ValueError for a name that is unknown, a metric that needs a set that is not given, or
    settings that it does not take; TypeError for another type.
    """
    if callable(metrics):
        name = getattr(metrics, "__name__", type(metrics).__name__)
        return [*choose(beside, given=given), (name, lambda comparison: metrics(**comparison.sets))]
    wanted = {name: {} for name in beside} | _settings(metrics)
    return [(name, _ready(find(name), settings, set(given))) for name, settings in wanted.items()]


def measure(comparison: Any, chosen: Chosen) -> dict[str, Result]:
    """{name: Result} of the chosen metrics of a Comparison, in their order.

    Raises TypeError for a metric that returns anything but a Result or {name: Result}, and
    ValueError for one that returns a name a second time. Both errors name the metric.
    """
    found: dict[str, Result] = {}
    for name, function in chosen:
        results = function(comparison)
        results = _checked(name, {name: results} if isinstance(results, Result) else results)
        twice = sorted(found.keys() & results.keys())
        if twice:
            raise ValueError(
                f"metrics: {name!r} returned {', '.join(twice)}, which another metric returned"
            )
        found |= results
    return found


def _settings(metrics: Any) -> dict[str, Mapping[str, Any]]:
    if isinstance(metrics, Mapping):
        wanted = dict(metrics)
    else:
        names = [metrics] if isinstance(metrics, str) else metrics
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise TypeError(
                f"metrics: want names, {{name: settings}} or a function, got {metrics!r}"
            )
        wanted = {name: {} for name in names}
    for name, settings in wanted.items():
        if not isinstance(settings, Mapping):
            raise TypeError(f"metrics: want a dict of settings of {name!r}, got {settings!r}")
    return wanted


def _ready(metric: Metric, settings: Mapping[str, Any], given: set[str]) -> Callable[[Any], Any]:
    missing = [name for name in metric.needs if name not in given]
    if missing:
        raise ValueError(f"metrics: {metric.name!r} needs {' and '.join(missing)}, not given here")
    try:
        metric.signature.bind(None, **settings)
    except TypeError as error:
        raise ValueError(f"metrics: settings of {metric.name!r}: {error}") from None
    return partial(metric.function, **settings)


def _checked(name: str, results: Any) -> Mapping[str, Result]:
    wanted = "want a Result or {name: Result}"
    if not isinstance(results, Mapping):
        raise TypeError(f"metrics: {name!r} returned {type(results).__name__}, {wanted}")
    for key, result in results.items():
        if not isinstance(key, str) or not isinstance(result, Result):
            raise TypeError(
                f"metrics: {name!r} returned {type(result).__name__} for {key!r}, {wanted}"
            )
        if not isinstance(result.value, Real):
            kind = type(result.value).__name__
            raise TypeError(
                f"metrics: {name!r} returned a Result whose value is {kind}, want a number"
            )
    return results


@cache
def _load_own() -> None:
    """Import every file of this folder: each registers its metric."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"biasgen.metrics.{module.name}")


def _home(function: Any) -> str:
    return getattr(function, "__module__", None) or type(function).__module__
