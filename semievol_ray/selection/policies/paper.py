"""The paper's policy: the entropy of the justified answer against a percentile of all (Eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semievol_ray.selection.examples import Examples
from semievol_ray.selection.judged import CODE, Judged, choose, first_of, valid
from semievol_ray.selection.policies.threshold import EntropyPolicy


@dataclass(frozen=True, kw_only=True)
class Paper(EntropyPolicy):
    """The pseudo-answer is the justified one, or the consensus where nothing was justified.

    Selected where its entropy H <= tau, the percentile of H over all that have one.
    """

    ranks_by_entropy = True

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
