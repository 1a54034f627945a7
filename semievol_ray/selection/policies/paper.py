"""The paper's policy: the entropy of the justified answer against a percentile of all (Eq. 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from semievol_ray.selection.examples import Examples
from semievol_ray.selection.judged import CODE, Judged, choose, first_of, valid
from semievol_ray.selection.policies.policy import Facts, Passes
from semievol_ray.selection.policies.threshold import ThresholdPolicy
from semievol_ray.selection.thresholds import keys_within, percentile_of, rising_bits


@dataclass(frozen=True, kw_only=True)
class Paper(ThresholdPolicy):
    """The pseudo-answer is the justified one, or the consensus where nothing was justified.

    Selected where its entropy H <= tau, the percentile of H over all that have one; or over
    `labeled_entropies`, where these are given.
    """

    ranks_by_entropy = True

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

    def judge(self, examples: Examples) -> Judged:
        """See Policy.judge (Eq. 5, 6)."""
        asked = examples.justified
        answer = choose(asked, examples.justified_answer, examples.winner)
        text = choose(asked, examples.justified_text, examples.winner_text)
        entropy = np.where(asked, examples.justified_entropy, examples.winner_entropy)
        responded = np.where(asked, examples.justified_responded, examples.responded)
        reason = first_of(
            no_response=~responded, unparsed=~valid(answer), unscored=np.isnan(entropy)
        )
        return Judged(answer, text, entropy, -entropy, reason, ranked=reason == CODE["selected"])
