"""Nearest distances of generated against held-out rows, by any test of two samples."""

from collections.abc import Callable
from dataclasses import replace

from biasgen.metrics.comparison import Comparison
from biasgen.results import Result


def compare(comparison: Comparison, test: Callable[..., Result]) -> Result:
    """The Result of test(pairs, permutations=, seed=), of d1(gen; train) and d1(heldout; train).

    per_sample is d1(gen; train); placebo is the value against the rows of `placebo` in place of
    train's.
    """

    def against(reference: str) -> Result:
        gen, heldout = (
            comparison.nearest_distances(rows, reference) for rows in ("gen", "heldout")
        )
        return replace(test([(gen, heldout)], **comparison.test), per_sample=gen)

    result = against("train")
    return replace(
        result,
        placebo=None if comparison.placebo is None else against("placebo").value,
        n_train=len(comparison.train),
        params=result.params | comparison.params,
    )
