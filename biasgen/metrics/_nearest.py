"""Nearest distances of generated rows against those of held-out rows, by any test of two samples."""
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from biasgen.metrics._sets import check_sets, check_settings, nearest_distances, prepared, views_of
from biasgen.results import Result


def compare(
    test: Callable[..., Result],
    *,
    gen: Any,
    train: Any,
    heldout: Any,
    placebo: Any,
    distance: str | None,
    permutations: int,
    seed: int,
) -> Result:
    """test(pairs, permutations=, seed=) of d1(gen; train) and d1(heldout; train), as a metric's Result.

    per_sample is d1(gen; train); placebo is the value against the rows of `placebo` in place of train's.
    """
    check_settings(permutations=permutations)
    distance = check_sets(distance, train=train, gen=gen, heldout=heldout, placebo=placebo)
    settings = {"permutations": permutations, "seed": seed}

    def against(reference: Any) -> Result:
        reference = prepared(reference, distance, views_of(train, gen, heldout, placebo))
        pair = (nearest_distances(gen, reference, distance), nearest_distances(heldout, reference, distance))
        return replace(test([pair], **settings), per_sample=pair[0])

    result = against(train)
    return replace(
        result,
        placebo=None if placebo is None else against(placebo).value,
        n_train=len(train),
        params=result.params | {"distance": distance} | settings,
    )
