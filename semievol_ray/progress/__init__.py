"""Where a stage tells how far it is."""

from __future__ import annotations

from typing import Protocol

from semievol_ray.engines import FleetState


class Progress(Protocol):
    """Where a stage tells how far it is."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """A stage begins; `total` units are to be done."""

    def advance(self, stage: str, units: int, tokens: int = 0, note: str = "") -> None:
        """Some units are done."""

    def fleet(self, stage: str, state: FleetState) -> None:
        """How the replicas that work for a stage are; called every few seconds at least."""

    def say(self, stage: str, line: str) -> None:
        """Something that whoever watches should read, amid a stage."""

    def finish(self, stage: str, note: str) -> None:
        """A stage is over."""


class Silent:
    """The progress of a run that nobody watches."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """See Progress.start."""

    def advance(self, stage: str, units: int, tokens: int = 0, note: str = "") -> None:
        """See Progress.advance."""

    def fleet(self, stage: str, state: FleetState) -> None:
        """See Progress.fleet."""

    def say(self, stage: str, line: str) -> None:
        """See Progress.say."""

    def finish(self, stage: str, note: str) -> None:
        """See Progress.finish."""
