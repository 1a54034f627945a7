"""The three policies: which pseudo-answer an example has, and how sure it is.

Nothing here looks at other examples, so that shards can be handled apart: `engine.py` finds the
thresholds from the scores of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray import _native
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
    # balanced: no distribution over the options, or none of it on a class that the prior has.
    "no_distribution",
    "above_threshold",
    "outside_quota",
)
_CODE = {reason: code for code, reason in enumerate(REASONS)}


@dataclass(frozen=True)
class Judged:
    """Each example's pseudo-answer under a policy, before it is compared with the others."""

    pseudo_answer: pa.Array
    # The same as its response has it.
    pseudo_text: pa.Array
    entropy: Floats
    # Larger is better; NaN where there is none.
    score: Floats
    # Index into REASONS: why the example cannot be selected, or "selected" where it can.
    reason: npt.NDArray[np.int8]
    # The examples whose scores make the threshold. The others that can be selected, are.
    ranked: Mask
    distribution: pa.Array | None = None
    # The predicted class, for quotas; -1 where there is none.
    predicted: npt.NDArray[np.int32] | None = None


def judge_paper(examples: Examples) -> Judged:
    """The justified answer with its entropy; the consensus where none was asked for (Eq. 5, 6)."""
    asked = examples.justified
    answer = _choose(asked, examples.justified_answer, examples.winner)
    text = _choose(asked, examples.justified_text, examples.winner_text)
    entropy = np.where(asked, examples.justified_entropy, examples.winner_entropy)
    responded = np.where(asked, examples.justified_responded, examples.responded)
    reason = _first_of(no_response=~responded, unparsed=~_valid(answer), unscored=np.isnan(entropy))
    return Judged(answer, text, entropy, -entropy, reason, ranked=reason == _CODE["selected"])


def judge_upstream(examples: Examples) -> Judged:
    """Unanimous answers stand, with the first one's entropy; the others are what was justified."""
    unanimous = (examples.agreement == 1.0) & _valid(examples.winner)
    asked = examples.justified & ~unanimous
    answer = _choose(asked, examples.justified_answer, examples.winner)
    text = _choose(asked, examples.justified_text, examples.winner_text)
    entropy = np.where(asked, examples.justified_entropy, examples.first_entropy)
    responded = np.where(asked, examples.justified_responded, examples.responded)
    voted = _valid(examples.winner)
    reason = _first_of(
        selected=unanimous,
        no_response=~responded,
        unjustified=~asked & voted,
        unparsed=~_valid(answer),
        unscored=np.isnan(entropy),
    )
    undecided = reason == _CODE["unjustified"]
    if undecided.any():
        nothing = pa.nulls(len(examples), pa.string())
        answer, text = _choose(undecided, nothing, answer), _choose(undecided, nothing, text)
        entropy = np.where(undecided, np.nan, entropy)
    ranked = (reason == _CODE["selected"]) & ~unanimous
    return Judged(answer, text, entropy, -entropy, reason, ranked=ranked)


def judge_balanced(examples: Examples, classes: tuple[str, ...], weights: list[float]) -> Judged:
    """The most probable option of the averaged and aligned distributions.

    The entropy is that of the justified answer or of the consensus, where they say the same.
    """
    assert examples.distribution is not None
    aligned = _native.align_options(examples.distribution, weights)
    predicted = aligned["class"].fill_null(-1).to_numpy()
    answer = pa.array(classes, pa.string()).take(aligned["class"])
    agrees = pc.equal(answer, examples.justified_answer).fill_null(False)
    consents = pc.equal(answer, examples.winner).fill_null(False)
    entropy = np.where(
        agrees.to_numpy(zero_copy_only=False),
        examples.justified_entropy,
        np.where(consents.to_numpy(zero_copy_only=False), examples.winner_entropy, np.nan),
    )
    known = predicted >= 0
    reason = _first_of(
        selected=known, no_response=~examples.responded, no_distribution=np.ones_like(known)
    )
    return Judged(
        answer,
        answer,
        entropy,
        aligned["probability"].to_numpy(zero_copy_only=False).astype(np.float64),
        reason,
        ranked=known,
        distribution=aligned["distribution"],
        predicted=predicted,
    )


def table_of(examples: Examples, judged: Judged, trusted: Mask, why_not: str) -> pa.Table:
    """The SELECTION table; ranked examples that are not `trusted` are out for `why_not`."""
    reason = judged.reason.copy()
    reason[judged.ranked & ~trusted] = _CODE[why_not]
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
            "selected": reason == _CODE["selected"],
            "reason": words.cast(pa.string()),
            "distribution": distribution,
        },
        schema=SELECTION,
    )


def _first_of(**masks: Mask) -> npt.NDArray[np.int8]:
    """The code of each example's first reason whose mask has it, "selected" where none has."""
    reason = np.full(len(next(iter(masks.values()))), _CODE["selected"], dtype=np.int8)
    for name, mask in reversed(masks.items()):
        reason[mask] = _CODE[name]
    return reason


def _choose(mask: Mask, yes: pa.Array, no: pa.Array) -> pa.Array:
    if not mask.any():
        return no
    return yes if mask.all() else pc.if_else(pa.array(mask), yes, no)


def _nullable(values: Floats) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _valid(array: pa.Array) -> Mask:
    return array.is_valid().to_numpy(zero_copy_only=False)
