"""Sizes of a clustering: groups of queries, and Lloyd steps. The plan reads them too, so torch is not imported."""

from __future__ import annotations

import math

from vixml.config.run import Mining

ITERATIONS = 6  # Lloyd steps per level; the objective of a small group hardly changes after four
# A large group settles later: it may take more steps, until fewer than one point in a thousand changes sides. Below 5,000 points
# that is a handful, and whether more steps help is luck: on made-up clusters, from -1 to 4 % of the objective.
MORE, SETTLED = 24, 1000
LARGE = 5 * SETTLED


def n_groups(mining: Mining, n_queries: int, epoch: int) -> int:
    """Return the number of groups of a clustering at ``epoch``.

    Example:
        >>> n_groups(Mining(), 294_805, 10), n_groups(Mining(groups="power-of-two"), 294_805, 10)
        (18426, 32768)
    """
    groups = math.ceil(n_queries / (mining.size * 2 ** sum(epoch >= at for at in mining.double_at)))
    return 1 << (groups - 1).bit_length() if mining.groups == "power-of-two" else groups
