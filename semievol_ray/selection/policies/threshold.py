"""Policies of one threshold: what scores as well as a share of all the others is selected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from semievol_ray import _native
from semievol_ray.selection.examples import Floats, Mask
from semievol_ray.selection.judged import table_of
from semievol_ray.selection.policies.policy import Decision, Facts, Passes, Policy, Shard
from semievol_ray.selection.thresholds import Keys, keys_within, percentile_of, rising_bits


@dataclass(frozen=True, kw_only=True)
class ThresholdPolicy(Policy):
    """Keeps the examples whose cost, −score, is within a percentile of all that are ranked."""

    @classmethod
    def of(cls, settings: Mapping[str, Any], facts: Facts) -> Self:
        """See Policy.of."""
        return cls(percentile=settings["percentile"])

    def threshold(self, passes: Passes) -> float:
        """The highest cost that is selected."""
        noted = passes.ids is not None
        return percentile_of(
            lambda low, high: passes.noting(_costs, self, low, high, noted), self.percentile
        )

    def is_within(self, cost: Floats, threshold: float) -> Mask:
        """Which costs the threshold lets through."""
        return np.less_equal(cost, threshold)

    def decide(self, passes: Passes) -> Decision:
        """See Policy.decide."""
        return partial(_below_threshold, self, self.threshold(passes))


@dataclass(frozen=True, kw_only=True)
class EntropyPolicy(ThresholdPolicy):
    """A threshold of entropies, which may be taken of others: those of the labels.

    `labeled_entropies` are the model's own responses' to the labels, in nats; None: the percentile
    is over the examples that are ranked.
    """

    labels_may_decide = True
    labeled_entropies: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labeled_entropies is not None:
            known = tuple(x for x in map(float, self.labeled_entropies) if not np.isnan(x))
            if not known:
                raise ValueError(
                    "labeled_entropies: none of them is a number, so no threshold follows"
                )
            object.__setattr__(self, "labeled_entropies", known)

    @classmethod
    def of(cls, settings: Mapping[str, Any], facts: Facts) -> Self:
        """See Policy.of."""
        over: Literal["labeled", "unlabeled"] = settings.get("percentile_over", "unlabeled")
        entropies = None
        if over == "labeled":
            entropies = tuple(facts.labeled_entropies().drop_null().to_pylist())
        return cls(percentile=settings["percentile"], labeled_entropies=entropies)

    def threshold(self, passes: Passes) -> float:
        """See ThresholdPolicy.threshold."""
        if self.labeled_entropies is None:
            return super().threshold(passes)
        passes.note()
        keys = rising_bits(np.asarray(self.labeled_entropies))
        return percentile_of(lambda *window: [keys_within(keys, *window)], self.percentile)


def _costs(
    policy: ThresholdPolicy, low: int, high: int, noted: bool, shard: Shard
) -> tuple[Keys, Keys]:
    """The keys within a window, and on the first pass the hashes of the ids."""
    examples = shard()
    judged = policy.judge(examples)
    keys = keys_within(rising_bits(-judged.score[judged.ranked]), low, high)
    first = noted and low == 0 and high == (1 << 64) - 1
    return keys, _native.hash_ids(examples.ids).to_numpy() if first else np.empty(0, np.uint64)


def _below_threshold(policy: ThresholdPolicy, threshold: float, shard: Shard) -> pa.Table:
    examples = shard()
    judged = policy.judge(examples)
    trusted = policy.is_within(-judged.score, threshold)
    return table_of(examples, judged, trusted, "above_threshold")
