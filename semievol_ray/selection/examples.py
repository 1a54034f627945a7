"""One row per example out of the responses and the justified answers: what every policy looks at.

Nothing here depends on other examples, so it runs shard by shard. A float is NaN where Arrow would
say null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray import _native

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Examples:
    """Columns of one length, examples in the order of their ids."""

    ids: pa.StringArray
    # Of the responses: the consensus and what it rests on (see `_native.consensus`).
    winner: pa.StringArray
    n_valid: pa.Int32Array
    agreement: Floats
    margin: Floats
    vote_entropy: Floats
    # Mean NLL of the winner's best vote, and of the first vote.
    winner_entropy: Floats
    first_entropy: Floats
    # Whether any response has tokens.
    responded: Mask
    # Of the justify stage: whether it ran, and what it gave.
    justified: Mask
    justified_answer: pa.StringArray
    justified_entropy: Floats
    justified_responded: Mask
    # list<float32>, the mean over the collaborators; null where no collaborator has one.
    distribution: pa.ListArray | None

    def __len__(self) -> int:
        return len(self.ids)


def columns(*, closed: bool) -> list[str]:
    """The columns of a response table that `examples_of` reads."""
    return [
        "example_id",
        "answer",
        "tokens",
        "token_logprobs",
        *(["option_logprobs"] if closed else []),
    ]


def examples_of(
    responses: pa.Table,
    justified: pa.Table | None,
    *,
    tolerance: float,
    classes: int | None,
) -> Examples:
    """The examples of a table of responses.

    `classes` asks for the distribution over the options, of which there are at most that many.
    Raises ValueError for a justified answer without responses, and for two of one example.
    """
    groups = _native.Groups(responses["example_id"])
    nll = _native.mean_nll(responses["token_logprobs"])
    votes = _native.consensus(groups, responses["answer"], nll, tolerance=tolerance)
    ids = groups.ids()
    return Examples(
        ids=ids,
        winner=votes["winner"],
        n_valid=votes["n_valid"],
        agreement=_floats(votes["agreement"]),
        margin=_floats(votes["margin"]),
        vote_entropy=_floats(votes["vote_entropy"]),
        winner_entropy=_floats(votes["winner_nll"]),
        first_entropy=_floats(votes["first_nll"]),
        responded=_responded(groups, responses),
        distribution=None
        if classes is None
        else _native.average_options(groups, responses["option_logprobs"], classes),
        **_justified(ids, justified),
    )


def _responded(groups: _native.Groups, responses: pa.Table) -> Mask:
    tokens = responses["tokens"]
    # A zero of another type would have the column cast.
    spoken = pc.greater(tokens, pa.scalar(0, tokens.type))
    if pc.all(spoken).as_py():
        return np.ones(len(groups), dtype=bool)
    return groups.any(spoken).to_numpy(zero_copy_only=False)


def _justified(ids: pa.StringArray, justified: pa.Table | None) -> dict[str, Any]:
    n = len(ids)
    if justified is None or justified.num_rows == 0:
        return {
            "justified": np.zeros(n, dtype=bool),
            "justified_answer": pa.nulls(n, pa.string()),
            "justified_entropy": np.full(n, np.nan),
            "justified_responded": np.zeros(n, dtype=bool),
        }
    groups = _native.Groups(justified["example_id"])
    if len(groups) != justified.num_rows:
        raise ValueError("justified: an example has more than one row")
    # Both sides are sorted by id, so places are found by merging; pyarrow does it by hash.
    rows = pc.index_in(ids, value_set=_one_chunk(justified["example_id"]))
    found = rows.is_valid().to_numpy(zero_copy_only=False)
    if found.sum() != justified.num_rows:
        stray = pc.index_in(justified["example_id"], value_set=ids).is_null()
        name = justified["example_id"].filter(stray)[0].as_py()
        raise ValueError(f"justified: example {name!r} has no responses")
    nll = _native.mean_nll(justified["token_logprobs"])
    spoken = pc.greater(justified["tokens"], 0)
    return {
        "justified": found,
        "justified_answer": _one_chunk(justified["answer"].take(rows)),
        "justified_entropy": _floats(nll.take(rows)),
        "justified_responded": spoken.take(rows).fill_null(False).to_numpy(),
    }


def _one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.StringArray:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array if array.type == pa.string() else array.cast(pa.string())


def _floats(array: pa.Array) -> Floats:
    return array.to_numpy(zero_copy_only=False)
