"""Every example lies in one shard: one that lies in two would be voted on twice.

Ids are compared by their hashes, 8 bytes for each, in the memory that `thresholds` allows; only of
equal hashes are the ids themselves looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from semievol_ray.selection import thresholds
from semievol_ray.selection.thresholds import Keys

# As many ids as an error message looks for.
_LOOKED_AT = 1000


class Distinct:
    """Takes the hashes of each shard's ids along on a pass that is made anyway."""

    def __init__(self) -> None:
        self._total = 0
        self._kept: list[Keys] = []

    def note(self, hashes: Keys) -> None:
        """The hashes of one shard's examples."""
        self._total += len(hashes)
        self._kept.append(hashes)
        if self._total > thresholds.MOST_KEYS:
            self._kept = []

    def noting(self, parts: Iterable[tuple[Keys, Keys]]) -> Iterator[Keys]:
        """The first of each pair, as it comes; the second, hashes of ids, is noted."""
        for keys, hashes in parts:
            self.note(hashes)
            yield keys

    def check(
        self,
        hashes: Callable[[int, int], Iterable[Keys]],
        ids: Callable[[Keys], Iterable[list[str]]],
    ) -> None:
        """Raise ValueError where an example lies in two shards.

        `hashes(low, high)` gives those within a window of each shard: asked for where there were
        too many to keep. `ids(hashes)` gives the ids of each shard that have one of these hashes.
        """
        twice = np.concatenate([_twice(window) for window in self._windows(hashes)])
        if not len(twice):
            return
        shard_of: dict[str, int] = {}
        for shard, names in enumerate(ids(twice[:_LOOKED_AT])):
            for name in names:
                if name in shard_of:
                    raise ValueError(
                        f"example {name!r} lies in the shards {shard_of[name]} and {shard} "
                        "(counted from 0): all rows of an example belong into one"
                    )
                shard_of[name] = shard

    def _windows(self, hashes: Callable[[int, int], Iterable[Keys]]) -> Iterator[list[Keys]]:
        if self._total <= thresholds.MOST_KEYS:
            yield self._kept
            return
        # Hashes spread evenly; twice as many windows as must be leave room for chance.
        count = 2 * (self._total // max(thresholds.MOST_KEYS, 1) + 1)
        width = (1 << 64) // count + 1
        for low in range(0, 1 << 64, width):
            yield list(hashes(low, min(low + width, 1 << 64) - 1))


def _twice(parts: list[Keys]) -> Keys:
    keys = np.concatenate([np.empty(0, np.uint64), *parts])
    keys.sort()
    return np.unique(keys[1:][keys[1:] == keys[:-1]])
