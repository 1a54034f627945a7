"""One row per example out of the responses and the justified answers: what every policy looks at.

Nothing here depends on other examples, so it runs shard by shard. A float is NaN where Arrow would
say null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray import _native

# The columns of a table of scored winners that are read.
SCORED = ["example_id", "tokens", "logprob"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Examples:
    """Columns of one length, examples in the order of their ids."""

    ids: pa.StringArray
    # Of the responses: the consensus and what it rests on (see `_native.consensus`).
    winner: pa.StringArray
    # As its surest vote has it; the winner itself where texts are not asked for.
    winner_text: pa.StringArray
    n_valid: pa.Int32Array
    agreement: Floats
    margin: Floats
    vote_entropy: Floats
    # Mean NLL of the winner under the warm model, else of its best vote; and of the first vote.
    winner_entropy: Floats
    first_entropy: Floats
    # Whether any response has tokens.
    responded: Mask
    # Of the justify stage: whether it ran, and what it gave.
    justified: Mask
    justified_answer: pa.StringArray
    justified_text: pa.StringArray
    justified_entropy: Floats
    justified_responded: Mask
    # list<float32>, of all the collaborators together; null where no collaborator has one.
    distribution: pa.ListArray | None

    def __len__(self) -> int:
        return len(self.ids)


def columns(*, options: bool, texts: bool, voters: bool = False) -> list[str]:
    """The columns of a response table that `examples_of` reads."""
    also = {"option_logprobs": options, "answer_text": texts, "collaborator": voters}
    wanted = [name for name, is_wanted in also.items() if is_wanted]
    return ["example_id", "answer", "tokens", "token_logprobs", *wanted]


def examples_of(
    responses: pa.Table,
    justified: pa.Table | None,
    scored: pa.Table | None,
    *,
    tolerance: float,
    classes: int | None,
    texts: bool,
    weights: Mapping[str, float] | None = None,
) -> Examples:
    """The examples of a table of responses.

    `classes` asks for the distribution over the options, of which there are at most that many: the
    mean over the collaborators, or their pool where they have `weights`; `texts` for the answers as
    they are written.
    Raises ValueError for a justified answer without responses, and for two of one example.
    """
    groups = _native.Groups(responses["example_id"])
    known = groups.examples(
        responses["answer"], responses["tokens"], responses["token_logprobs"], tolerance=tolerance
    )
    return Examples(
        ids=known["example_id"],
        winner=known["winner"],
        winner_text=(
            _strings(responses["answer_text"]).take(known["winner_row"])
            if texts
            else known["winner"]
        ),
        n_valid=known["n_valid"],
        agreement=_floats(known["agreement"]),
        margin=_floats(known["margin"]),
        vote_entropy=_floats(known["vote_entropy"]),
        winner_entropy=_scored(known["example_id"], _floats(known["winner_nll"]), scored),
        first_entropy=_floats(known["first_nll"]),
        responded=_mask(known["responded"]),
        distribution=_distribution(groups, responses, classes, weights),
        **_justified(groups, justified, texts),
    )


def _distribution(
    groups: _native.Groups,
    responses: pa.Table,
    classes: int | None,
    weights: Mapping[str, float] | None,
) -> pa.ListArray | None:
    if classes is None:
        return None
    options = responses["option_logprobs"]
    if weights is None:
        return _native.average_options(groups, options, classes)
    names = _strings(responses["collaborator"]).dictionary_encode()
    known = [weights.get(name, 0.0) for name in names.dictionary.to_pylist()]
    heard = pa.array(known, pa.float64()).take(names.indices)
    return _native.pool_options(groups, options, heard, classes)


def _scored(ids: pa.StringArray, otherwise: Floats, scored: pa.Table | None) -> Floats:
    """The entropy of each winner that was scored; of the others that of its best vote."""
    if scored is None or not scored.num_rows:
        return otherwise
    logprob, tokens = (scored[name].combine_chunks() for name in ("logprob", "tokens"))
    rows = pc.index_in(ids, _strings(scored["example_id"]))
    found = _floats(pc.negate(pc.divide(logprob, tokens)).take(rows))
    return np.where(np.isnan(found), otherwise, found)


def _justified(groups: _native.Groups, justified: pa.Table | None, texts: bool) -> dict[str, Any]:
    n = len(groups)
    if justified is None or justified.num_rows == 0:
        return {
            "justified": np.zeros(n, dtype=bool),
            "justified_answer": pa.nulls(n, pa.string()),
            "justified_text": pa.nulls(n, pa.string()),
            "justified_entropy": np.full(n, np.nan),
            "justified_responded": np.zeros(n, dtype=bool),
        }
    theirs = _native.Groups(justified["example_id"])
    if len(theirs) != justified.num_rows:
        raise ValueError("justified: an example has more than one row")
    try:
        rows = groups.rows_in(theirs)
    except ValueError as error:
        raise ValueError(f"justified: {error}") from None
    nll = _native.mean_nll(justified["token_logprobs"])
    spoken = theirs.any(justified["tokens"])
    # The groups of single rows are in the order of the ids, not of the rows.
    spoken_rows = np.empty(len(theirs), dtype=bool)
    spoken_rows[theirs.first_rows().to_numpy()] = _mask(spoken)
    answers = _strings(justified["answer"]).take(rows)
    return {
        "justified": _mask(rows.is_valid()),
        "justified_answer": answers,
        "justified_text": _strings(justified["answer_text"]).take(rows) if texts else answers,
        "justified_entropy": _floats(nll.take(rows)),
        "justified_responded": _mask(pa.array(spoken_rows).take(rows).fill_null(False)),
    }


def _strings(column: pa.ChunkedArray) -> pa.StringArray:
    # pyarrow casts views and dictionaries to strings, and takes rows of no view.
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return array if array.type == pa.string() else array.cast(pa.string())


def _mask(array: pa.Array) -> Mask:
    return array.to_numpy(zero_copy_only=False)


def _floats(array: pa.Array) -> Floats:
    return array.to_numpy(zero_copy_only=False)
