"""`live.json`: what a run is doing right now, for whoever asks from another terminal.

Written by the driver every few seconds and left behind by a crash: its time says how old it is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from semievol_ray.engines import FleetState
from semievol_ray.errors import SemiEvolError
from semievol_ray.progress import Progress
from semievol_ray.progress.count import Count
from semievol_ray.store import RunDirectory, layout

_EVERY_SECONDS = 5.0


class LiveProgress:
    """A Progress that keeps `live.json` and passes everything on.

    `guard` is called while replicas work, and raises where another driver has taken the run over.
    """

    def __init__(
        self, run: RunDirectory, shown: Progress, guard: Callable[[], None] | None = None
    ) -> None:
        self._run, self._shown, self._guard = run, shown, guard
        self._values: dict[str, Any] = {}
        self._count = Count(None, "")
        self._written = 0.0

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """See Progress.start."""
        self._count = Count(total, unit)
        self._values = {
            "stage": stage,
            "unit": unit,
            "total": total,
            "done": 0,
            "tokens": 0,
            "started": time.time(),
        }
        self._write(at_once=True)
        self._shown.start(stage, total, unit)

    def advance(self, stage: str, units: int, tokens: int = 0, note: str = "") -> None:
        """See Progress.advance."""
        if stage == self._values.get("stage"):
            self._count.keep(units)
            self._values["done"] = self._count.done
            self._values["tokens"] += tokens
            self._write()
        self._shown.advance(stage, units, tokens, note)

    def fleet(self, stage: str, state: FleetState) -> None:
        """See Progress.fleet."""
        if self._guard is not None:
            self._guard()
        if stage == self._values.get("stage"):
            self._count.answer(state.answered)
            self._values["done"] = self._count.done
            self._values["answers"] = self._count.answers
            self._values["fleet"] = asdict(state)
            self._write()
        self._shown.fleet(stage, state)

    def say(self, stage: str, line: str) -> None:
        """See Progress.say."""
        self._shown.say(stage, line)

    def finish(self, stage: str, note: str) -> None:
        """See Progress.finish."""
        if self._values:
            self._values = {}
            self._run.delete_file(layout.LIVE)
        self._shown.finish(stage, note)

    def _write(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._written > _EVERY_SECONDS:
            self._written = now
            # Nobody's work fails because nobody could be told of it.
            with contextlib.suppress(SemiEvolError):
                self._run.write_json(layout.LIVE, self._values | {"at": time.time()})


def live_line(values: dict[str, Any], now: float) -> str:
    """What `live.json` says, in one line."""
    seconds = max(values["at"] - values["started"], 1e-3)
    done, total = values["done"], values["total"]
    rate = done / seconds
    parts = [f"{values['stage']}: {done:,}/{total:,} {values['unit']}" if total is not None
             else f"{values['stage']}: {done:,} {values['unit']}"]  # fmt: skip
    answers = values.get("answers", 0)
    if answers and not Count(total, values["unit"]).counts_answers:
        parts.append(f"{answers:,} answers, {answers / seconds:,.1f}/s")
    elif rate:
        parts.append(f"{rate:,.1f} {values['unit']}/s")
    if values["tokens"]:
        parts.append(f"{values['tokens'] / seconds:,.0f} tokens/s")
    if total and rate and done < total:
        parts.append(f"{(total - done) / rate:,.0f} s left")
    if "fleet" in values:
        parts.append(fleet_words(FleetState(**values["fleet"])))
    return ", ".join(parts) + f"; seen {max(0.0, now - values['at']):,.0f} s ago"


def fleet_words(state: FleetState) -> str:
    """A fleet in a few words; what is zero and no news is left out."""
    words = [f"{state.ready} replicas"]
    news = ((state.starting, "starting"), (state.deaths, "died"), (state.retries, "retries"))
    return ", ".join([*words, *(f"{count} {name}" for count, name in news if count)])
