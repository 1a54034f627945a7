"""How sure one may be of an accuracy, and of a difference between two."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def wilson_interval(correct: float, rows: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a proportion: honest for few rows and near 0 and 1.

    `correct` may be a mean over several seeds. Seeds that share their test rows are no more rows.
    """
    # Late, here and below: SciPy takes a second, and every command and worker imports the stages.
    from scipy.stats import norm

    z, p = float(norm.ppf((1 + confidence) / 2)), correct / rows
    middle, spread = p + z * z / (2 * rows), p * (1 - p) / rows + z * z / (4 * rows * rows)
    half, whole = z * spread**0.5, 1 + z * z / rows
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)


def paired_interval(
    first: Sequence[bool], second: Sequence[bool], confidence: float
) -> tuple[float, float, float]:
    """(low, difference, high): what the second has right above the first, over the same rows.

    Agresti and Min's adjusted Wald interval (Statistics in Medicine 24, 2005): half a count more in
    each cell keeps it honest for few rows.
    """
    from scipy.stats import norm

    won = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    b, c, n = won + 0.5, lost + 0.5, len(first) + 2
    centre = (b - c) / n
    half = float(norm.ppf((1 + confidence) / 2)) * (((b + c) - (b - c) ** 2 / n) ** 0.5) / n
    return max(-1.0, centre - half), (won - lost) / len(first), min(1.0, centre + half)


# Models whose difference is no more significant than this are as good as each other.
SIGNIFICANCE = 0.05


def mcnemar_exact(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int, float]:
    """Rows that only the first, and only the second, has right; McNemar's exact two-sided p.

    The models answer the same rows, so the test is paired: only rows they differ on count.
    """
    return _mcnemar(first, second, "two-sided")


def paired_by_rows(pairs: Sequence[tuple[Sequence[bool], Sequence[bool]]]) -> float:
    """Exact two-sided p of a paired comparison of two models under several seeds.

    A randomisation test by test row: where the models are alike, any row's answers might as well be
    the other model's, under all seeds together, for they ask the same row. With one seed it is
    McNemar's exact test; counting the rows of all seeds as if they were as many takes the same row
    for new evidence each time.
    """
    from scipy.stats import binom

    gains = [[b - a for a, b in zip(first, second, strict=True)] for first, second in pairs]
    sums = [sum(row) for row in itertools.zip_longest(*gains, fillvalue=0)]
    chances: npt.NDArray[np.float64] = np.ones(1)
    for gain, rows in sorted(Counter(abs(x) for x in sums if x).items()):
        # So many rows, each of which adds its gain or takes it away.
        of_these = np.zeros(2 * gain * rows + 1)
        of_these[:: 2 * gain] = binom.pmf(np.arange(rows + 1), rows, 0.5)
        chances = np.asarray(np.convolve(chances, of_these), np.float64)
    away = np.abs(np.arange(len(chances)) - len(chances) // 2)
    return min(1.0, float(chances[away >= abs(sum(sums))].sum()))


def mcnemar_worse(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int, float]:
    """The same with the one-sided p: how often chance alone makes the second look as bad."""
    return _mcnemar(first, second, "less")


def _mcnemar(
    first: Sequence[bool], second: Sequence[bool], alternative: str
) -> tuple[int, int, float]:
    from scipy.stats import binomtest

    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    differing = only_first + only_second
    found = binomtest(only_second, differing, 0.5, alternative) if differing else None
    return only_first, only_second, 1.0 if found is None else float(found.pvalue)
