"""How sure one may be of an accuracy, and of a difference between two."""

from __future__ import annotations

from collections.abc import Sequence


def wilson_interval(correct: int, rows: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a proportion: honest for few rows and near 0 and 1."""
    # Late, here and below: SciPy takes a second, and every command and worker imports the stages.
    from scipy.stats import binomtest

    found = binomtest(correct, rows).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


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
