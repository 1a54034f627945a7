"""What a comparison came to, as text, Markdown and JSON."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from semievol_ray.comparing.study import Comparison, Study
from semievol_ray.errors import SemiEvolError
from semievol_ray.stages.statistics import wilson_interval

# What others are compared with, and what their gain is a share of.
_SFT, _MOST = "sft", "all-labels"

# Accuracies of arXiv 2410.14745 (v2), in percent: vanilla, SFT, SemiEvol.
PUBLISHED = {
    "Llama-3.1-8B": {
        "mmlu": (66.4, 67.9, 68.8), "mmlu_pro": (47.1, 49.8, 50.3), "arc": (81.1, 81.8, 83.4),
        "fpb": (81.7, 96.2, 96.2), "usmle": (70.2, 70.8, 71.6), "pubmedqa": (73.5, 75.0, 76.0),
        "convfinqa": (51.1, 81.3, 82.4),
    },
    "GPT-4o-mini": {
        "mmlu": (77.4, 77.8, 79.9), "mmlu_pro": (57.8, 58.8, 60.8), "arc": (91.5, 90.3, 92.7),
        "fpb": (93.4, 98.0, 98.9), "usmle": (73.8, 77.5, 77.2), "pubmedqa": (77.5, 77.5, 79.5),
        "convfinqa": (63.9, 88.8, 89.2),
    },
}  # fmt: skip
_PUBLISHED_ARMS = {"vanilla": 0, "sft": 1, "paper": 2}


@dataclass(frozen=True)
class Cost:
    """What an arm's run took, with what it shares with others."""

    seconds: float
    tokens: int
    money: float


@dataclass
class Outcome:
    """Which test rows each arm had right, by seed, and what it took."""

    task: str | None = None
    study: Study = field(default_factory=Study)
    costs: dict[str, list[Cost]] = field(default_factory=dict)
    # Of the test rows, in the order of all that is kept.
    ids: list[str] | None = None

    def add(self, arm: str, seed: int, predictions: pa.Table, cost: Cost) -> None:
        """Keep an arm's predictions under a seed; all are over the same test rows."""
        ordered = predictions.sort_by("example_id")
        ids = ordered["example_id"].to_pylist()
        if self.ids is not None and ids != self.ids:
            raise SemiEvolError(f"arm {arm}, seed {seed}: its test rows are others")
        self.ids = ids
        self.study.add(arm, seed, ordered["correct"].to_pylist())
        self.costs.setdefault(arm, []).append(cost)

    def rows(self) -> list[dict[str, Any]]:
        """A row of the table for each arm."""
        return [self._row(arm) for arm in self.study.correct]

    def _row(self, arm: str) -> dict[str, Any]:
        found = self.study.correct[arm]
        accuracies = self.study.accuracies(arm)
        rows = len(self.ids or ())
        right = sum(map(sum, found.values())) / len(found)
        low, high = wilson_interval(right, rows, 0.95)
        costs = self.costs[arm]
        against = self._against(_SFT, arm)
        published = {
            model: figures[self.task][_PUBLISHED_ARMS[arm]]
            for model, figures in PUBLISHED.items()
            if self.task in figures and arm in _PUBLISHED_ARMS
        }
        return {
            "arm": arm,
            "accuracy": statistics.fmean(accuracies),
            "by_seed": accuracies,
            # Of the test rows: another test set. Of the seeds: see `against_sft`.
            "low": 100 * low,
            "high": 100 * high,
            "against_sft": None if against is None else asdict(against),
            "gap_share": self._gap_share(arm),
            "seconds": statistics.fmean(c.seconds for c in costs),
            "tokens": statistics.fmean(c.tokens for c in costs),
            "money": statistics.fmean(c.money for c in costs),
            "published": published,
        }

    def _against(self, first: str, second: str) -> Comparison | None:
        known = self.study.correct
        if first == second or first not in known or second not in known:
            return None
        if not known[first].keys() & known[second].keys():
            return None
        return self.study.compare(first, second)

    def _gap_share(self, arm: str) -> float | None:
        """The gain over SFT as a share of what all true labels gain; null where they gain none."""
        most, mine = self._against(_SFT, _MOST), self._against(_SFT, arm)
        if most is None or mine is None or most.mean <= 0 or arm == _MOST:
            return None
        return mine.mean / most.mean


def as_text(outcome: Outcome) -> str:
    """The table for a terminal."""
    header, rows = _cells(outcome)
    widths = [max(len(str(r[i])) for r in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)


def as_markdown(outcome: Outcome) -> str:
    """The same for a page."""
    header, rows = _cells(outcome)
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """All of it, with a digit for each test row: 1 is right."""
    right = {
        arm: {str(seed): "".join(str(int(x)) for x in rows) for seed, rows in found.items()}
        for arm, found in outcome.study.correct.items()
    }
    return {"task": outcome.task, "arms": outcome.rows(), "right": right}


def _cells(outcome: Outcome) -> tuple[list[str], list[list[str]]]:
    found = outcome.rows()
    seeds = max(len(row["by_seed"]) for row in found)
    header = ["arm", "accuracy", "interval", "against SFT", "won / lost", "paired p"]
    if seeds > 1:
        header += ["over seeds", "by seed"]
    gaps = any(row["gap_share"] is not None for row in found)
    published = any(row["published"] for row in found)
    header += [*(["of the gap"] if gaps else []), "time", "tokens", "cost"]
    header += ["published (8B, 4o-mini)"] if published else []
    return header, [_line(row, seeds, gaps, published) for row in found]


def _line(row: dict[str, Any], seeds: int, gaps: bool, published: bool) -> list[str]:
    against = row["against_sft"]
    cells = [row["arm"], f"{row['accuracy']:.1f}", f"{row['low']:.1f} – {row['high']:.1f}"]
    if against is None:
        cells += ["", "", ""]
    else:
        won, lost = against["only_second_right"], against["only_first_right"]
        cells += [f"{against['mean']:+.1f}", f"{won} / {lost}", f"{against['p']:.2g}"]
    if seeds > 1:
        over = ""
        if against is not None and against["low"] is not None:
            over = f"{against['low']:+.1f} to {against['high']:+.1f}"
        cells += [over, ", ".join(f"{a:.1f}" for a in row["by_seed"])]
    if gaps:
        cells.append("" if row["gap_share"] is None else f"{100 * row['gap_share']:.0f} %")
    cells += [f"{row['seconds']:,.0f} s", f"{row['tokens']:,.0f}", f"{row['money']:.2f}"]
    if published:
        cells.append(", ".join(f"{x:.1f}" for x in row["published"].values()))
    return cells
