"""How long a fleet takes: the pool's own bookkeeping, on a clock that only pretends.

Which replica gets which shard is decided by `engines.fleet.Fleet`, as in a run; what is made up is
time. So a plan knows what the last shards cost, while most replicas have nothing left to do.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable

import numpy as np
import numpy.typing as npt

from semievol_ray.engines.fleet import Fleet

# The work of a row is spread about as an exponential's is: the standard deviation over the mean.
_SPREAD = 1.0
# As many shards of each replica are simulated; before them all replicas are busy for certain.
_SIMULATED = 64


def fleet_seconds(
    rows: int, row_seconds: float, *, shard_rows: int, replicas: int, start_seconds: float
) -> float:
    """Seconds until all rows are answered by replicas that take `row_seconds` a row each."""
    if not rows:
        return start_seconds
    shards = math.ceil(rows / shard_rows)
    sizes = np.full(shards, float(shard_rows))
    sizes[-1:] = rows - (shards - 1) * shard_rows
    ahead = max(0, shards - _SIMULATED * replicas)
    noise = np.random.default_rng(0).standard_normal(shards) * _SPREAD / np.sqrt(sizes)
    work = sizes * np.clip(1 + noise, 0.1, None)
    work *= rows * row_seconds / work.sum()  # all together it is what it is
    return float(start_seconds + work[:ahead].sum() / replicas + _last(work[ahead:], replicas))


def _last(work: npt.NDArray[np.float64], replicas: int) -> float:
    """Seconds until the last of some shards is done; `work` is what each takes alone."""
    alone: dict[Hashable, float] = dict(enumerate(work.tolist()))
    fleet = Fleet(alone, max_deaths=0)
    for _ in range(replicas):
        fleet.became_ready(fleet.start())
    busy: dict[int, _Replica] = {replica: _Replica() for replica in fleet.ready}
    # When the next shard of a replica is done; what is out of date is passed over.
    due: list[tuple[float, int, int]] = []
    now = 0.0
    while True:
        given = set()
        while assignment := fleet.next_assignment():
            replica, shard = assignment
            busy[replica].takes(shard, alone[shard], now)
            given.add(replica)
        for replica in given:
            heapq.heappush(due, (busy[replica].done_at(), busy[replica].version, replica))
        while due and due[0][1] != busy[due[0][2]].version:
            heapq.heappop(due)
        if not due:
            return now
        now, _, replica = heapq.heappop(due)
        fleet.completed(replica, busy[replica].completes(now))
        if busy[replica].left:
            heapq.heappush(due, (busy[replica].done_at(), busy[replica].version, replica))


class _Replica:
    """Shares its speed evenly among the shards that it holds."""

    def __init__(self) -> None:
        self.left: dict[Hashable, float] = {}
        self.version = 0
        self._clock = 0.0

    def takes(self, shard: Hashable, work: float, now: float) -> None:
        """Begin a shard."""
        self._advance(now)
        self.left[shard] = work

    def completes(self, now: float) -> Hashable:
        """End the shard that has least left to do."""
        self._advance(now)
        shard = min(self.left, key=lambda item: self.left[item])
        del self.left[shard]
        return shard

    def done_at(self) -> float:
        """When the next shard is done, if nothing else comes."""
        return self._clock + min(self.left.values()) * len(self.left)

    def _advance(self, now: float) -> None:
        done = (now - self._clock) / max(1, len(self.left))
        self.left = {shard: work - done for shard, work in self.left.items()}
        self._clock = now
        self.version += 1
