"""When a pool that shows no result is only slow, and when it stands still."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

_ANSWER_SECONDS = 5.0


class Watchdog:
    """Tells work that is slow from work that stands still.

    A shard at a slow endpoint takes hours. So before patience is over, replicas are asked for
    their pulse: any reply, or token of one, since the last time is progress.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._last_progress = self._last_look = time.monotonic()
        self._pulses: dict[int, int] = {}

    def progressed(self) -> None:
        """An item or a replica is done."""
        self._last_progress = time.monotonic()

    def is_worried(self) -> bool:
        """Whether it is time to ask: several times before patience is over."""
        now = time.monotonic()
        worried = now - self._last_look > self._patience_seconds / 8
        if worried:
            self._last_look = now
        return worried

    def listen(self, actors: Mapping[int, Any]) -> None:
        """Ask the replicas for their pulse; who does not answer has none."""
        import ray

        asked = {actor.pulse.remote(): replica for replica, actor in actors.items()}
        answered, _ = (
            ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
            if (asked)
            else ([], [])
        )
        for reference in answered:
            with contextlib.suppress(ray.exceptions.RayError):
                pulse = ray.get(reference)
                if pulse != self._pulses.get(asked[reference], 0):
                    self._pulses[asked[reference]] = pulse
                    self.progressed()

    def is_out_of_patience(self) -> bool:
        """Whether nothing has moved for too long."""
        return time.monotonic() - self._last_progress > self._patience_seconds
