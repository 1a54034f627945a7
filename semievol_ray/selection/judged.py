"""What a policy says of each example by itself, and the table that comes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.schema import SELECTION
from semievol_ray.selection.examples import Examples, Floats, Mask

REASONS = (
    "selected",
    # No response of the example (or of its justification) has a token.
    "no_response",
    # There is text, but no answer in it.
    "unparsed",
    # There is an answer, but no logprobs that tell how sure the model was.
    "unscored",
    # upstream: the collaborators differ, and no justified answer decides.
    "unjustified",
    # Policies of distributions: there is none, or none of it on a class that the prior has.
    "no_distribution",
    "above_threshold",
    "outside_quota",
    # risk: below the score that keeps the error within its bound.
    "too_risky",
    # oracle: the true answer is another, or is not known.
    "wrong",
)
CODE = {reason: code for code, reason in enumerate(REASONS)}


@dataclass(frozen=True)
class Judged:
    """Each example's pseudo-answer under a policy, before it is compared with the others."""

    pseudo_answer: pa.Array
    # The same as its response has it.
    pseudo_text: pa.Array
    entropy: Floats
    # Larger is better; NaN where there is none.
    score: Floats
    # Code of one of REASONS: why the example cannot be selected, or "selected" where it can.
    reason: npt.NDArray[np.int8]
    # The examples that are compared with one another. The others that can be selected, are.
    ranked: Mask
    distribution: pa.Array | None = None
    # The predicted class, for quotas; -1 where there is none.
    predicted: npt.NDArray[np.int32] | None = None


def table_of(examples: Examples, judged: Judged, trusted: Mask, why_not: str) -> pa.Table:
    """The SELECTION table; ranked examples that are not `trusted` are out for `why_not`."""
    reason = judged.reason.copy()
    reason[judged.ranked & ~trusted] = CODE[why_not]
    n = len(examples)
    words = pa.DictionaryArray.from_arrays(pa.array(reason), pa.array(REASONS))
    distribution = judged.distribution
    if distribution is None:
        distribution = pa.nulls(n, SELECTION.field("distribution").type)
    return pa.table(
        {
            "example_id": examples.ids,
            "pseudo_answer": judged.pseudo_answer,
            "pseudo_answer_text": judged.pseudo_text,
            "entropy": _nullable(judged.entropy),
            "n_valid": examples.n_valid,
            "agreement": examples.agreement,
            "vote_entropy": examples.vote_entropy,
            "margin": examples.margin,
            "score": _nullable(judged.score),
            "selected": reason == CODE["selected"],
            "reason": words.cast(pa.string()),
            "distribution": distribution,
        },
        schema=SELECTION,
    )


def first_of(**masks: Mask) -> npt.NDArray[np.int8]:
    """The code of each example's first reason whose mask has it, "selected" where none has."""
    reason = np.full(len(next(iter(masks.values()))), CODE["selected"], dtype=np.int8)
    for name, mask in reversed(masks.items()):
        reason[mask] = CODE[name]
    return reason


def choose(mask: Mask, yes: pa.Array, no: pa.Array) -> pa.Array:
    """The values of `yes` where the mask is, those of `no` elsewhere."""
    if not mask.any():
        return no
    return yes if mask.all() else pc.if_else(pa.array(mask), yes, no)


def _nullable(values: Floats) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def valid(array: pa.Array) -> Mask:
    """Where an array holds something."""
    return array.is_valid().to_numpy(zero_copy_only=False)
