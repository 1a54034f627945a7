"""Progress on the user's terminal: bars where it is one, plain lines where it is not."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from semievol_ray.engines import FleetState
from semievol_ray.progress.count import Count
from semievol_ray.progress.live import fleet_words

_PLAIN_EVERY_SECONDS = 10.0


class TerminalProgress:
    """Bars for an interactive terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bars = RichProgress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.tasks: dict[str, TaskID] = {}
        self.meters: dict[str, _Meter] = {}
        self.bars.start()

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """See Progress.start."""
        self.meters[stage] = _Meter(total, unit)
        self.tasks[stage] = self.bars.add_task(stage, total=total, unit=unit, rate="")

    def advance(self, stage: str, units: int, tokens: int = 0, note: str = "") -> None:
        """See Progress.advance."""
        if stage in self.tasks:
            meter = self.meters[stage]
            meter.add(units, tokens)
            done = meter.count.done
            self.bars.update(self.tasks[stage], completed=done, rate=note or meter.rate())

    def fleet(self, stage: str, state: FleetState) -> None:
        """See Progress.fleet."""
        if stage in self.tasks:
            meter = self.meters[stage]
            meter.look(state)
            self.bars.update(self.tasks[stage], completed=meter.count.done, rate=meter.rate())

    def say(self, stage: str, line: str) -> None:
        """See Progress.say."""
        self.console.print(f"{stage:<18} {line}", highlight=False, markup=False)

    def finish(self, stage: str, note: str) -> None:
        """See Progress.finish."""
        task = self.tasks.pop(stage.split("/")[-1], None)
        if task is not None:
            self.bars.remove_task(task)
        self.say(stage, note)

    def close(self) -> None:
        """Give the terminal back."""
        self.bars.stop()


class PlainProgress:
    """One line at a time, for logs and pipes; at most one in ten seconds for each stage."""

    def __init__(self) -> None:
        self.meters: dict[str, _Meter] = {}

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """See Progress.start."""
        self.meters[stage] = _Meter(total, unit)

    def advance(self, stage: str, units: int, tokens: int = 0, note: str = "") -> None:
        """See Progress.advance."""
        meter = self.meters.get(stage)
        if meter is None:
            return
        meter.add(units, tokens)
        self._tell(stage, meter, note)

    def fleet(self, stage: str, state: FleetState) -> None:
        """See Progress.fleet."""
        meter = self.meters.get(stage)
        if meter is not None:
            meter.look(state)
            if meter.count.done or meter.count.answers:
                self._tell(stage, meter)

    def _tell(self, stage: str, meter: _Meter, note: str = "") -> None:
        if meter.is_due():
            count = meter.count
            self._print(f"{stage}: {count.done}/{count.total or '?'} {count.unit}, "
                        f"{note or meter.rate()}{meter.remaining()}")  # fmt: skip

    def say(self, stage: str, line: str) -> None:
        """See Progress.say."""
        self._print(f"{stage}: {line}")

    def finish(self, stage: str, note: str) -> None:
        """See Progress.finish."""
        self.say(stage, note)

    def close(self) -> None:
        """Nothing to give back."""

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class _Meter:
    def __init__(self, total: int | None, unit: str) -> None:
        self.count = Count(total, unit)
        self.tokens = 0
        self.workers = ""
        self.started = self.printed = time.monotonic()

    def add(self, units: int, tokens: int) -> None:
        self.count.keep(units)
        self.tokens += tokens

    def look(self, state: FleetState) -> None:
        self.count.answer(state.answered)
        self.workers = fleet_words(state)

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self.printed < _PLAIN_EVERY_SECONDS:
            return False
        self.printed = now
        return True

    def rate(self) -> str:
        seconds = max(time.monotonic() - self.started, 1e-3)
        text = f"{self.count.done / seconds:,.1f} {self.count.unit}/s"
        if self.count.answers and not self.count.counts_answers:
            # The first shard may take a quarter of an hour: what is answered within it moves.
            text = f"{self.count.answers:,} answers, {self.count.answers / seconds:,.1f}/s"
        tokens = f"{self.tokens / seconds:,.0f} tokens/s" if self.tokens else ""
        return ", ".join(part for part in (text, tokens, self.workers) if part)

    def remaining(self) -> str:
        done, total = self.count.done, self.count.total
        if not total or not done:
            return ""
        seconds = (time.monotonic() - self.started) / done * (total - done)
        return f", {seconds:,.0f} s left"


def terminal_progress() -> TerminalProgress | PlainProgress:
    """Bars or lines, by whether the terminal is one."""
    return TerminalProgress() if sys.stderr.isatty() else PlainProgress()
