"""biasgen: exact, fast measurement of biased generalization in diffusion models.

Names are resolved when first used: `import biasgen` loads neither torch nor a native module.
"""
import importlib

from biasgen._settings import set_num_threads
from biasgen._version import __version__

_HOME = {
    "AlignmentProbe": "biasgen.metrics.alignment",
    "BiasMonitor": "biasgen.monitor",
    "BiasStopping": "biasgen.monitor",
    "EmpiricalDenoiser": "biasgen.diffusion",
    "Level": "biasgen.diffusion",
    "Schedule": "biasgen.diffusion",
    "TrainingSet": "biasgen.data.training_set",
    "TreeDenoiser": "biasgen.trees",
    "TreeGrammar": "biasgen.trees",
    "alignment": "biasgen.metrics.alignment",
    "as_denoiser": "biasgen.diffusion",
    "bias_spectrum": "biasgen.metrics.bias_spectrum",
    "distance_histogram": "biasgen.ops.counts",
    "evaluate": "biasgen.metrics.evaluate",
    "knn": "biasgen.ops.knn",
    "leakage": "biasgen.metrics.leakage",
    "load_rows": "biasgen.data.files",
    "loss_decomposition": "biasgen.metrics.loss_decomposition",
    "membership": "biasgen.metrics.membership",
    "near_copies": "biasgen.metrics.near_copies",
    "nearest_credit": "biasgen.ops.nearest_credit",
    "nn_auc": "biasgen.metrics.nn_auc",
    "nn_divergence": "biasgen.metrics.nn_divergence",
    "nn_ks": "biasgen.metrics.nn_ks",
    "nn_wasserstein": "biasgen.metrics.nn_wasserstein",
    "paired_distances": "biasgen.ops.paired",
    "pairwise_distances": "biasgen.ops.pairwise",
    "range_count": "biasgen.ops.counts",
    "split_comparison": "biasgen.metrics.split_comparison",
    "train_affinity": "biasgen.metrics.train_affinity",
}

_MODULES = ("controls", "data", "diffusion", "metrics", "monitor", "statistics", "trees")

__all__ = ["__version__", "set_num_threads", *_HOME, *_MODULES]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"biasgen.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'biasgen' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
