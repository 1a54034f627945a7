"""A Progress that takes times: when work began to come, how fast it came."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from semievol_ray.engines import FleetState
from semievol_ray.progress import Progress


@dataclass
class Lap:
    """One stage: seconds at which it began, was ready to work, and each unit was done."""

    began: float
    ready: float | None = None
    # (seconds, units done by then)
    marks: list[tuple[float, int]] = field(default_factory=list)
    ended: float | None = None

    @property
    def start_seconds(self) -> float:
        """Until replicas were there to work."""
        return 0.0 if self.ready is None else self.ready - self.began

    @property
    def unit_seconds(self) -> float:
        """Of a unit of a training, the first one left out: it warms up."""
        if len(self.marks) < 2:
            return 0.0
        (first, before), (last, after) = self.marks[0], self.marks[-1]
        return (last - first) / max(1, after - before)

    @property
    def work_seconds(self) -> float:
        """From when it was ready until its end."""
        return max(0.0, (self.ended or self.began) - self.began - self.start_seconds)


class Stopwatch:
    """Passes all on to another Progress, and keeps a Lap for each stage by its short name."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self.laps: dict[str, Lap] = {}

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """See Progress.start."""
        self.laps[stage] = Lap(time.monotonic())
        self._shown.start(stage, total, unit)

    def advance(self, stage: str, units: int, tokens: int = 0, note: str = "") -> None:
        """See Progress.advance."""
        lap = self.laps.get(stage)
        if lap is not None and units:
            done = lap.marks[-1][1] if lap.marks else 0
            lap.marks.append((time.monotonic(), done + units))
        self._shown.advance(stage, units, tokens, note)

    def fleet(self, stage: str, state: FleetState) -> None:
        """See Progress.fleet."""
        lap = self.laps.get(stage)
        if lap is not None and lap.ready is None and state.ready:
            lap.ready = time.monotonic()
        self._shown.fleet(stage, state)

    def say(self, stage: str, line: str) -> None:
        """See Progress.say."""
        self._shown.say(stage, line)

    def finish(self, stage: str, note: str) -> None:
        """See Progress.finish."""
        lap = self.laps.get(stage.rpartition("/")[2])
        if lap is not None and lap.ended is None:
            lap.ended = time.monotonic()
        self._shown.finish(stage, note)
