"""How many requests replicas have answered by now, within items too that are still in flight."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

# Each replica is asked about once a second, and a hundred of them at most.
_ASKED_A_SECOND = 100


class Answered:
    """Asks replicas for their counts, and waits for none of them."""

    def __init__(self) -> None:
        self._asked: dict[Any, int] = {}
        self._counts: dict[int, tuple[int, int]] = {}
        self._last_asked = 0.0

    def begin(self, replica: int, actor: Any) -> None:
        """A replica is ready, and has been given nothing yet: from what it tells now it counts."""
        self._asked[actor.answered.remote()] = replica

    def total(self, actors: Mapping[int, Any]) -> int:
        """What all replicas have answered since they began, as far as they have told."""
        import ray

        told, _ = (
            ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
            if self._asked
            else ([], [])
        )
        for reference in told:
            replica = self._asked.pop(reference)
            # The dead keep what they told last.
            with contextlib.suppress(ray.exceptions.RayError):
                count = ray.get(reference)
                first, _ = self._counts.get(replica, (count, count))
                self._counts[replica] = (first, count)
        now, busy = time.monotonic(), set(self._asked.values())
        if now - self._last_asked > max(1.0, len(actors) / _ASKED_A_SECOND):
            self._last_asked = now
            for replica, actor in actors.items():
                if replica in self._counts and replica not in busy:
                    self._asked[actor.answered.remote()] = replica
        return sum(last - first for first, last in self._counts.values())
