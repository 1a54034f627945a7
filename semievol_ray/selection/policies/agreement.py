"""Self-consistency: what most voters say, kept where enough of them say it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semievol_ray.selection.examples import Examples
from semievol_ray.selection.judged import CODE, Judged, first_of, valid
from semievol_ray.selection.policies.threshold import ThresholdPolicy


@dataclass(frozen=True, kw_only=True)
class Agreement(ThresholdPolicy):
    """The consensus, with the share of the votes that it has as its score.

    With few voters many examples score the same, and all that score as the last one are in.
    """

    def judge(self, examples: Examples) -> Judged:
        """See Policy.judge."""
        known = valid(examples.winner)
        reason = first_of(no_response=~examples.responded, unparsed=~known)
        return Judged(
            examples.winner,
            examples.winner_text,
            examples.winner_entropy,
            np.where(known, examples.agreement, np.nan),
            reason,
            ranked=reason == CODE["selected"],
        )
