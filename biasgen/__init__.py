"""biasgen: exact, fast measurement of biased generalization in diffusion models.

Names are resolved when first used: `import biasgen` loads neither torch nor a native module.
"""
import importlib

from biasgen._settings import set_num_threads
from biasgen._version import __version__

_HOME = {
    "BiasMonitor": "biasgen.monitor",
    "Level": "biasgen.diffusion",
    "Schedule": "biasgen.diffusion",
    "TrainingSet": "biasgen.data.training_set",
    "TreeDenoiser": "biasgen.trees",
    "TreeGrammar": "biasgen.trees",
    "evaluate": "biasgen.metrics.evaluate",
    "knn": "biasgen.ops.knn",
    "near_copies": "biasgen.metrics.near_copies",
    "nearest_credit": "biasgen.ops.nearest_credit",
    "nn_divergence": "biasgen.metrics.nn_divergence",
    "split_comparison": "biasgen.metrics.split_comparison",
    "train_affinity": "biasgen.metrics.train_affinity",
}

__all__ = ["__version__", "set_num_threads", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'biasgen' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
