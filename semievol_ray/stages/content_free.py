"""Options by how much likelier the question makes them, and not by how likely they are.

A short or common name is likely whatever is asked, and wins too often where a model that was not
trained to say the options compares them by log P. What it says of them without a question is taken
from what it says with one: pointwise mutual information (Holtzman et al., arXiv 2104.08315), over
the content-free questions of contextual calibration (Zhao et al., arXiv 2102.09690). It costs three
prompts a shard where all examples have the same options, and three more for each other set of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semievol_ray.engines import SCORES, Batch, Engine
from semievol_ray.stages.rendering import make_request, scored
from semievol_ray.tasks import PromptRenderer, Task

_QUESTIONS = ("N/A", "[MASK]", "")

_Logprobs = NDArray[np.float64]


async def without_their_priors(
    engine: Engine,
    renderer: PromptRenderer,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    scores: pa.Array,
    adapter: str | None = None,
) -> pa.Array:
    """Scores of each row's options less those without a question, as log-probabilities again.

    `scores` and what is returned are SCORES: lists of log P in nats, null where there are none. A
    prompt without a question shows no demonstrations.
    """
    # The options are part of a multiple-choice prompt; those of a label task are always the same.
    sets = {tuple(row["options"] or ()): row for row in rows}
    bare: list[dict[str, Any]] = [
        {**row, "question": q, "context": None} for row in sets.values() for q in _QUESTIONS
    ]
    requests = [make_request(renderer, task.messages(row), seed=0) for row in bare]
    batch = scored(Batch(requests, adapter=adapter), renderer, task, bare, exactly=True)
    replies = (await engine.answer(batch)).scores
    assert replies is not None  # there are candidates
    said = replies.to_pylist()
    count = len(_QUESTIONS)
    priors = {
        options: _mean(said[at * count : (at + 1) * count]) for at, options in enumerate(sets)
    }
    found = [
        None if own is None else _less(np.array(own), priors[tuple(row["options"] or ())])
        for own, row in zip(scores.to_pylist(), rows, strict=True)
    ]
    return pa.array(found, SCORES)


def _mean(said: Sequence[Sequence[float] | None]) -> _Logprobs | None:
    """Log of the mean probabilities; null where nothing was said."""
    known = [np.array(row) for row in said if row is not None]
    return np.logaddexp.reduce(known) - np.log(len(known)) if known else None


def _less(own: _Logprobs, prior: _Logprobs | None) -> list[float]:
    if prior is None:
        return own.tolist()
    # What has no chance without a question keeps its own: an endpoint tells of the first few alone.
    gain = np.where(np.isfinite(prior), own - np.where(np.isfinite(prior), prior, 0.0), own)
    total = np.logaddexp.reduce(gain)
    return (gain - total).tolist() if np.isfinite(total) else own.tolist()
