"""How many units of a stage are done: those that are kept, and of those in flight what is told."""

from __future__ import annotations

# Units of which an engine's answers are one each.
_OF_ENGINES = ("responses", "answers")


class Count:
    """Units done so far.

    What replicas have answered of shards in flight is not kept yet, and lost where one dies: a
    look at it, never more than the total and never going back.
    """

    def __init__(self, total: int | None, unit: str) -> None:
        self.total, self.unit = total, unit
        self.kept = self._answered = self._at_last_kept = self._shown = 0
        # Requests that replicas were seen to answer, whatever the unit is.
        self.answers = 0

    def keep(self, units: int) -> None:
        """Some units are done for good."""
        self.kept += units
        self._at_last_kept = self._answered

    def answer(self, answered: int) -> None:
        """Replicas have answered so many requests in all since they began."""
        if answered < self._answered:
            # Other replicas work now, and count from 0.
            self._at_last_kept = self._answered = 0
        self.answers += answered - self._answered
        self._answered = answered

    @property
    def counts_answers(self) -> bool:
        """Whether a unit is what an engine answers, one each."""
        return self.unit in _OF_ENGINES

    @property
    def done(self) -> int:
        """Units that are kept or, as far as is known, answered since the last that was."""
        found = self.kept
        if self.counts_answers and self.total is not None:
            found = min(self.total, self.kept + self._answered - self._at_last_kept)
        self._shown = max(self._shown, found)
        return self._shown
