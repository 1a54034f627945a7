"""As many pseudo-answers as can be had with an error that labels vouch for (Learn then Test).

Angelopoulos et al., "Learn then Test" (arXiv 2110.01052): thresholds are tested one after the
other, from the strictest on, each by an exact binomial tail on labels that no voter had seen; the
last one that passes holds its promise with the probability asked for, whatever the voters are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol_ray.selection.examples import Mask, examples_of
from semievol_ray.selection.judged import table_of
from semievol_ray.selection.policies.balanced import Balanced, common
from semievol_ray.selection.policies.policy import Decision, Facts, Passes, Shard

# Thresholds that are tried, from the strictest on: fixed before any label is looked at.
_GRID = 1 / (1 + np.exp(-np.linspace(12, -4, 65)))


@dataclass(frozen=True, kw_only=True)
class Risk(Balanced):
    """The plain mean's most probable options that score `score` or more; none where it is inf.

    With probability 1 - `delta` over the held-out labels, at most `alpha` of what is selected is
    wrong, where the corpus is drawn as the labels are. `percentile` says nothing to it.
    """

    calibrates = True
    promises = True
    options = frozenset({"alpha", "delta"})

    alpha: float
    delta: float
    # The least probability that is trusted.
    score: float
    # Held-out labels that it was found on.
    labels: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "delta"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} does not lie in (0, 1)")

    @classmethod
    def of(cls, settings: Mapping[str, Any], facts: Facts) -> Self:
        """See Policy.of."""
        alpha, delta = (_share(settings, *of) for of in (("alpha", 0.05), ("delta", 0.1)))
        known = common({**settings, "align_prior": False}, facts)
        open_to_all = cls(**known, alpha=alpha, delta=delta, score=0.0)
        scores, right = _held_out(open_to_all, facts)
        found = threshold(scores, right, alpha, delta)
        return cls(**known, alpha=alpha, delta=delta, score=found, labels=len(right))

    def statistics(self) -> dict[str, Any]:
        """See Policy.statistics."""
        return {"least_score": None if math.isinf(self.score) else self.score}

    def note(self) -> str | None:
        """See Policy.note."""
        promise = f"an error of {self.alpha:g} with probability {1 - self.delta:g}"
        if math.isinf(self.score):
            fewest = fewest_labels(self.alpha, self.delta)
            return (
                f"nothing is selected: {self.labels} held-out labels do not support {promise} "
                f"({fewest} of the surest, all right, are the fewest that could)"
            )
        return f"{promise} is supported by {self.labels} held-out labels from {self.score:.3f} on"

    def decide(self, passes: Passes) -> Decision:
        """See Policy.decide."""
        passes.note()
        return partial(_sure_enough, self)


def _share(settings: Mapping[str, Any], name: str, usual: float) -> float:
    given = settings.get(name, usual)
    try:
        return float(given)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: {given!r} is no number") from None


def threshold(scores: npt.ArrayLike, right: npt.ArrayLike, alpha: float, delta: float) -> float:
    """The least score at which the error is at most `alpha`, with probability 1 - `delta`.

    `scores` and `right` are of held-out examples, in any order. inf where no score promises that.
    """
    from scipy.stats import binom

    score, wrong = np.asarray(scores, dtype=np.float64), ~np.asarray(right, dtype=bool)
    fewest, found = fewest_labels(alpha, delta), math.inf
    for step in _GRID:
        above = score >= step
        n = int(above.sum())
        # Fewer could not pass whatever they are. How many there are says nothing of their answers.
        if n < fewest:
            continue
        if binom.cdf(int(wrong[above].sum()), n, alpha) > delta:
            break
        found = float(step)
    return found


def fewest_labels(alpha: float, delta: float) -> int:
    """Held-out labels, all of them answered rightly, below which no promise can be made."""
    return math.ceil(math.log(delta) / math.log(1 - alpha))


def _held_out(policy: Risk, facts: Facts) -> tuple[npt.NDArray[np.float64], Mask]:
    calibration = facts.calibration()
    examples = examples_of(
        calibration.responses,
        None,
        None,
        tolerance=0.0,
        classes=policy.most_options,
        texts=False,
    )
    judged = policy.judge(examples)
    pairs = zip(examples.ids.to_pylist(), judged.pseudo_answer.to_pylist(), strict=True)
    right = [calibration.gold[name] == said for name, said in pairs]
    return np.nan_to_num(judged.score), np.array(right, dtype=bool)


def _sure_enough(policy: Risk, shard: Shard) -> pa.Table:
    examples = shard()
    judged = policy.judge(examples)
    return table_of(examples, judged, judged.score >= policy.score, "too_risky")
