"""What every benchmark shares: interleaved timing, medians, and rows of one format.

A row is {claim, ours, peer, peer_name, unit, ratio, goal, met}; `ratio` is better when larger,
`met` is null where there is no goal.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One claim, measured against one peer in the same run."""

    claim: str
    ours: float
    peer: float | None
    peer_name: str
    unit: str
    ratio: float | None
    goal: float | None = None
    met: bool | None = None


def row(
    claim: str,
    ours: float,
    peer: float | None,
    peer_name: str,
    *,
    unit: str,
    goal: float | None = None,
    smaller_is_better: bool = False,
) -> Row:
    """A row with its ratio, which is better when larger, and whether it meets the goal."""
    ratio = None
    if peer is not None:
        ratio = peer / ours if smaller_is_better else ours / peer
    met = None if goal is None or ratio is None else ratio >= goal
    return Row(claim, ours, peer, peer_name, unit, ratio, goal, met)


def interleaved(
    sides: dict[str, Callable[[], Any]], *, repeats: int = 7, warm_up: int = 1
) -> dict[str, float]:
    """Median wall-clock seconds of each side.

    The sides take turns, so that a busy spell of the machine falls on all of them.
    """
    for _ in range(warm_up):
        for work in sides.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def arguments(
    description: str | None, add: Callable[[argparse.ArgumentParser], Any] | None = None
) -> argparse.Namespace:
    """The command line that all benchmarks have: `--json FILE`, and what `add` adds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    if add is not None:
        add(parser)
    return parser.parse_args()


def report(
    rows: Sequence[Row],
    *,
    repeats: int,
    packages: Sequence[str] = (),
    json_path: Path | None = None,
    notes: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
) -> None:
    """Prints the rows as a table, and writes them with machine, versions and date."""
    print_table(rows)
    for note in notes:
        print(f"note: {note}")
    if json_path is None:
        return
    document = {
        "benchmark": Path(sys.argv[0]).stem,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "repeats": repeats,
        "notes": list(notes),
        "rows": [asdict(r) for r in rows],
        **(details or {}),
    }
    json_path.parent.mkdir(parents=True, exist_ok=True)
    json_path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def print_table(rows: Sequence[Row]) -> None:
    """A table for people: one line for each row."""

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}"

    header = ("claim", "ours", "peer", "unit", "peer_name", "ratio", "goal", "met")
    lines = [
        (
            r.claim,
            number(r.ours),
            number(r.peer),
            r.unit,
            r.peer_name,
            number(r.ratio),
            number(r.goal),
            {True: "yes", False: "NO", None: "–"}[r.met],
        )
        for r in rows
    ]
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    for line in [header, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def machine() -> dict[str, Any]:
    """Processor, cores, memory, GPU (once torch is imported), and how busy the machine was."""
    info: dict[str, Any] = {
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        if names:
            info["processor"] = names[0].partition(":")[2].strip()
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        info["memory_bytes"] = int(meminfo.read_text().split()[1]) * 1024
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        info["gpu"] = sys.modules["torch"].cuda.get_device_name()
    return info
