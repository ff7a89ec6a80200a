"""The screens of several views of one block of queries as one screen: everything is the smallest over the views, element by element."""
from functools import reduce

import torch


class Smallest:
    """What _search.Screen has, for the smallest of the distances that `screens` have."""

    def __init__(self, screens):
        self._screens = screens
        self.x, self.blocks = screens[0].x, screens[0].blocks

    def bounds(self, y):
        """(lower, upper), both (n, m); of integers the same tensor."""
        bounds = [screen.bounds(y) for screen in self._screens]
        lower = reduce(torch.minimum, [pair[0] for pair in bounds])
        exact = bounds[0][0] is bounds[0][1]
        return lower, lower if exact else reduce(torch.minimum, [pair[1] for pair in bounds])

    def values(self, queries, rows):
        """(P,) values of the pairs (queries[p], rows[p]), to the bit."""
        return reduce(torch.minimum, [screen.values(queries, rows) for screen in self._screens])

    def table(self, y):
        """(n, m) values, to the bit."""
        return reduce(torch.minimum, [screen.table(y) for screen in self._screens])
