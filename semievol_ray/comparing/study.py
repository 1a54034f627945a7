"""Accuracies over seeds: which test rows each model had right, paired tests, intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from semievol_ray.stages.statistics import paired_by_rows


@dataclass(frozen=True)
class Comparison:
    """One model against another over the same seeds and test rows. Differences are in points.

    `low` and `high` bound the mean difference over seeds (Student's t, 95 %), null for one seed.
    `p` is exact, of the test rows (`paired_by_rows`); with one seed it is McNemar's. It says
    whether the difference would hold for other rows, the interval whether for other seeds. Rows won
    and lost are counted under every seed.
    """

    first: str
    second: str
    differences: list[float]
    mean: float
    low: float | None
    high: float | None
    seeds_won: int
    only_first_right: int
    only_second_right: int
    p: float

    def line(self) -> str:
        """The comparison in one line."""
        interval = "" if self.low is None else f" [{self.low:+.1f}, {self.high:+.1f}]"
        return (
            f"{self.second} against {self.first}: {self.mean:+.1f} points{interval}, better on "
            f"{self.seeds_won} of {len(self.differences)} seeds, {self.only_second_right} rows won "
            f"and {self.only_first_right} lost, paired p = {self.p:.2g}"
        )


@dataclass
class Study:
    """Test rows that were right, by model and seed."""

    correct: dict[str, dict[int, list[bool]]] = field(default_factory=dict)

    def add(self, model: str, seed: int, correct: Sequence[bool]) -> None:
        """Keep one model's outcome under one seed; row i is the same row for every model."""
        self.correct.setdefault(model, {})[seed] = list(correct)

    def accuracies(self, model: str) -> list[float]:
        """In percent, by seed."""
        return [100 * statistics.fmean(rows) for _, rows in sorted(self.correct[model].items())]

    def compare(self, first: str, second: str) -> Comparison:
        """How much better the second is, over the seeds that both have."""
        seeds = sorted(self.correct[first].keys() & self.correct[second].keys())
        pairs = [(self.correct[first][s], self.correct[second][s]) for s in seeds]
        differences = [100 * (statistics.fmean(b) - statistics.fmean(a)) for a, b in pairs]
        lost = sum(a and not b for rows in pairs for a, b in zip(*rows, strict=True))
        won = sum(b and not a for rows in pairs for a, b in zip(*rows, strict=True))
        p = paired_by_rows(pairs)
        mean = statistics.fmean(differences)
        low = high = None
        if len(seeds) > 1:
            error = statistics.stdev(differences) / math.sqrt(len(seeds))
            from scipy.stats import t  # late: it takes a second

            half = float(t.ppf(0.975, len(seeds) - 1)) * error
            low, high = mean - half, mean + half
        better = sum(d > 0 for d in differences)
        return Comparison(first, second, differences, mean, low, high, better, lost, won, p)

    def table(self) -> str:
        """A line for each model: its mean accuracy, and each seed's."""
        width = max(map(len, self.correct))
        lines = []
        for model in self.correct:
            found = self.accuracies(model)
            each = "  ".join(f"{a:5.1f}" for a in found)
            lines.append(f"{model:<{width}}  {statistics.fmean(found):5.1f}   by seed: {each}")
        return "\n".join(lines)
