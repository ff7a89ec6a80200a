"""Numbers about a generative model, one file each.

A *metric* is a function of a `Comparison`: samples of a model (gen) beside rows that it was trained
on (train) and rows of the same law that it never saw (heldout); with two models, those of its twin
(twin_gen, twin_train). It returns a `biasgen.results.Result`: the number, its interval, and what
the number would be without bias.

    from biasgen.metrics import register
    from biasgen.results import Result

    @register("farthest")               # needs=("gen", "train", "heldout") where nothing is said
    def measure(comparison, *, scale=1.0):
        \"\"\"Largest distance of a generated row to its nearest training row.\"\"\"
        return Result(scale * float(comparison.nearest_distances("gen", "train").max()))

The *Comparison* (comparison.py) checks its sets once and makes each search when a metric first asks
for it: comparison.nearest("gen", "train", k), and comparison.credit("gen") in the pool of train and
heldout. All metrics share what was found. What involves no samples outlives them, so that a monitor
prepares and searches its reference rows once.

The *registry* (registry.py) finds a metric by its name. It knows the files of this folder, what
`register` was called for, and the entry points of the group "biasgen.metrics" of installed packages
(an entry point is named as the metric, and loading it registers the metric). It is read by
biasgen.evaluate(metrics=), biasgen.BiasMonitor(metrics=) and `biasgen eval --metrics`; the first
two take names or {name: settings}. A function such as biasgen.nn_auc is a view of its metric: it
makes a Comparison and measures that one.

Registered here are
- train_affinity, near_affinity, near_copies, nn_divergence, nn_auc: the default for one model;
- nn_wasserstein, nn_ks: part of it for all distances but hamming;
- split_comparison: the default for two models, eight numbers;
- exact_copies, leakage: measured when they are asked for.

Numbers about a denoiser or its losses take the model itself and are plain functions: alignment,
bias_spectrum, excess, loss_decomposition, membership, optimal_loss, uturn_overlap. self_test says
whether train and heldout can be compared at all.
"""

from biasgen.metrics.registry import register

__all__ = ["register"]
