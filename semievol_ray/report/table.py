"""A table of the page, and how figures are written in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semievol_ray.stages.statistics import wilson_interval


@dataclass(frozen=True)
class Table:
    """A table of the page: the first column names its rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    # Shares in [0, 1] that are drawn as bars behind the last column.
    bars: Sequence[float] | None = None


def share(found: Mapping[str, Any]) -> str:
    """An accuracy in percent."""
    return f"{100 * found['accuracy']:.1f}\u00a0%"


def interval(found: Mapping[str, Any]) -> str:
    """Its interval in percent."""
    return f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"


def part_of(part: int, whole: int) -> str:
    """A part in percent of a whole; nothing where that is none."""
    return f"{100 * part / whole:.1f}\u00a0%" if whole else ""


def wilson(right: int, rows: int) -> str:
    """Wilson's interval of 95 % of a share, in percent."""
    low, high = wilson_interval(right, rows, 0.95)
    return f"{100 * low:.1f} to {100 * high:.1f}"
