"""The screens of several views of one block of queries as one screen: everything is the smallest over the views, element by element."""
from functools import reduce

import torch

from biasgen.backends._screens import FloatBlock, IntegerBlock


class Smallest:
    """What a screen of _screens has, for the smallest of the distances that those of `kind` have: one a view of the query (n, D)."""

    open_share = 1.0

    def __init__(self, kind, query, prepared, max_memory):
        views = prepared.seen(query)
        self._screens = [kind(view, prepared, max_memory // len(views)) for view in views]
        self.n, self.exact = len(query), kind.exact

    def blocks(self):
        for blocks in zip(*(screen.blocks() for screen in self._screens), strict=True):
            lower, upper = (reduce(torch.minimum, bounds) for bounds in zip(*(block.bounds() for block in blocks), strict=True))
            numbers = blocks[0].rows(torch.arange(lower.shape[1], device=lower.device))
            yield IntegerBlock(lower, torch.zeros_like(lower[:, 0]), blocks[0].first) if self.exact else FloatBlock(lower, upper, numbers)

    def values(self, queries, rows):
        """(P,) values of the pairs (queries[p], rows[p]), to the bit."""
        return reduce(torch.minimum, [screen.values(queries, rows) for screen in self._screens])

    def tables(self):
        """Yield (first row, values to the bit (n, m))."""
        for tables in zip(*(screen.tables() for screen in self._screens), strict=True):
            yield tables[0][0], reduce(torch.minimum, [table for _, table in tables])
