"""The policy of the authors' released code: unanimous answers stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from semievol_ray.selection.examples import Examples, Floats, Mask
from semievol_ray.selection.judged import CODE, Judged, choose, first_of, valid
from semievol_ray.selection.policies.threshold import EntropyPolicy


@dataclass(frozen=True, kw_only=True)
class Upstream(EntropyPolicy):
    """Unanimous answers are selected, with the first one's entropy.

    Of the justified ones those with H < tau are, the percentile of H over the justified ones.
    """

    def is_within(self, cost: Floats, threshold: float) -> Mask:
        """The released code keeps H < tau, where Eq. 7 keeps H <= tau."""
        return np.less(cost, threshold)

    def judge(self, examples: Examples) -> Judged:
        """See Policy.judge."""
        unanimous = (examples.agreement == 1.0) & valid(examples.winner)
        asked = examples.justified & ~unanimous
        answer = choose(asked, examples.justified_answer, examples.winner)
        text = choose(asked, examples.justified_text, examples.winner_text)
        entropy = np.where(asked, examples.justified_entropy, examples.first_entropy)
        responded = np.where(asked, examples.justified_responded, examples.responded)
        reason = first_of(
            selected=unanimous,
            no_response=~responded,
            unjustified=~asked & valid(examples.winner),
            unparsed=~valid(answer),
            unscored=np.isnan(entropy),
        )
        undecided = reason == CODE["unjustified"]
        if undecided.any():
            nothing = pa.nulls(len(examples), pa.string())
            answer, text = choose(undecided, nothing, answer), choose(undecided, nothing, text)
            entropy = np.where(undecided, np.nan, entropy)
        ranked = (reason == CODE["selected"]) & ~unanimous
        return Judged(answer, text, entropy, -entropy, reason, ranked=ranked)
