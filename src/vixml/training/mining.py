"""How many groups of queries negatives are mined from. The plan reads it too, so torch is not imported."""

from __future__ import annotations

import math

from vixml.config.run import Mining


def n_groups(mining: Mining, n_queries: int, epoch: int) -> int:
    """Return the number of groups of a clustering at ``epoch``.

    Example:
        >>> n_groups(Mining(), 294_805, 10), n_groups(Mining(groups="power-of-two"), 294_805, 10)
        (18426, 32768)
    """
    groups = math.ceil(n_queries / (mining.size * 2 ** sum(epoch >= at for at in mining.double_at)))
    return 1 << (groups - 1).bit_length() if mining.groups == "power-of-two" else groups
