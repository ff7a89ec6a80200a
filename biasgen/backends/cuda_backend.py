"""Native CUDA kernels of biasgen._cuda, built only with BIASGEN_CUDA=ON."""
from biasgen.backends import _cuda_trees

try:
    from biasgen import _cuda
except ImportError:
    _cuda = None

DEVICES = ("cuda",)
OPS = {
    "tree_posterior": {"dtypes": ("float32", "float64"), "distances": (), "refuses": _cuda_trees.refusal},
    "tree_posterior_sample": {"dtypes": ("float32", "float64"), "distances": (), "refuses": _cuda_trees.refusal},
}


def probe() -> str | None:
    """Why this backend cannot run, or None."""
    return "_cuda is not built (BIASGEN_CUDA=ON)" if _cuda is None else _cuda.probe()


def tree_posterior(evidence, tree, levels):
    """Exact leaf marginals of what refusal lets through: see _cuda_trees."""
    return _cuda_trees.tree_posterior(_cuda, evidence, tree)


def tree_posterior_sample(evidence, tree, n, seed, numbers):
    """Strings from the posterior: see _cuda_trees. Numbers come from seed, in the kernel."""
    return _cuda_trees.tree_posterior_sample(_cuda, evidence, tree, n, seed)


def tree_trajectory(tree, levels, **arguments):
    """Whole reverse trajectories of the paper's grammar: see _cuda_trees."""
    return _cuda_trees.tree_trajectory(_cuda, tree, levels, **arguments)


def tree_sample(tree, n, **arguments):
    """Strings of a grammar: see _cuda_trees."""
    return _cuda_trees.tree_sample(_cuda, tree, n, **arguments)
