"""Controls, for measuring what another policy's choice is worth: by chance, and by the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import pyarrow as pa

from semievol_ray import _native
from semievol_ray.selection.examples import Examples, Floats
from semievol_ray.selection.judged import CODE, Judged, table_of
from semievol_ray.selection.policies.paper import Paper
from semievol_ray.selection.policies.policy import Decision, Facts, Passes, Shard
from semievol_ray.selection.policies.threshold import ThresholdPolicy


@dataclass(frozen=True, kw_only=True)
class Random(ThresholdPolicy):
    """The paper's pseudo-answers; which are kept is a matter of the hashes of their ids."""

    def judge(self, examples: Examples) -> Judged:
        """See Policy.judge."""
        hashes = _native.hash_ids(examples.ids).to_numpy().astype(np.float64)
        return _scored(examples, hashes / 2.0**64)


@dataclass(frozen=True, kw_only=True)
class Oracle(ThresholdPolicy):
    """The paper's pseudo-answers, all those that are right: what no policy can do better than.

    `answers` are the true ones by id, and numbers within the relative `tolerance` are the same. It
    ranks nothing, and `percentile` says nothing to it.
    """

    answers: tuple[tuple[str, str], ...]
    tolerance: float = 0.0

    @classmethod
    def of(cls, settings: Mapping[str, Any], facts: Facts) -> Self:
        """See Policy.of."""
        answers = tuple(facts.true_answers().items())
        return cls(percentile=settings["percentile"], answers=answers, tolerance=facts.tolerance)

    def judge(self, examples: Examples) -> Judged:
        """See Policy.judge."""
        return _scored(examples, np.ones(len(examples)))

    def decide(self, passes: Passes) -> Decision:
        """See Policy.decide."""
        passes.note()
        return partial(_right, self, dict(self.answers))


def _scored(examples: Examples, score: Floats) -> Judged:
    """The paper's judgement under other scores; an answer without logprobs counts as well."""
    found = Paper().judge(examples)
    reason = np.where(found.reason == CODE["unscored"], CODE["selected"], found.reason)
    ranked = reason == CODE["selected"]
    return replace(
        found, score=np.where(ranked, score, np.nan), reason=reason.astype(np.int8), ranked=ranked
    )


def _right(policy: Oracle, answers: Mapping[str, str], shard: Shard) -> pa.Table:
    examples = shard()
    judged = policy.judge(examples)
    truth = pa.array([answers.get(name) for name in examples.ids.to_pylist()], pa.string())
    kind = "numeric" if policy.tolerance else "text"
    right = _native.answers_equal(
        judged.pseudo_answer, truth, kind=kind, relative_tolerance=policy.tolerance
    )
    return table_of(examples, judged, pa.array(right).to_numpy(zero_copy_only=False), "wrong")
