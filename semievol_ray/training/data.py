"""Examples to token ids.

An answer is its tokens and those that end it (`Tokens.end`); it is never cut. A prompt that leaves
it no room loses tokens at its start, where the demonstrations are, and not at its end, where the
question is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol_ray.errors import UserError
from semievol_ray.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Bump when the token ids of the same text change.
FORMAT = 3

_TOKENS = pa.list_(pa.int32())
TOKENIZED = pa.schema(
    [
        pa.field("prompt", _TOKENS, nullable=False),
        pa.field("candidates", pa.list_(_TOKENS), nullable=False),
        # Of each token of each candidate: its own times the candidate's times the example's.
        pa.field("weights", pa.list_(pa.list_(pa.float32())), nullable=False),
        pa.field("example_hash", pa.uint64(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
    ]
)


def tokenize(rows: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> pa.RecordBatch:
    """Rows of the TRAINING schema as rows of TOKENIZED, in the same order.

    A candidate of weight 0 is left out, and so is a candidate that max_length cannot hold; a row
    that loses all its candidates stays, with none. Raises UserError where weights do not fit what
    they weigh.
    """
    examples = rows.drop_columns("prompt").to_pylist()
    for row in examples:
        _refuse_nulls(row)
    tokens = Tokens(tokenizer)
    chat = [bool(row["chat"]) for row in examples]
    prompts = tokens.prompts(rows["prompt"].to_pylist(), chat)
    answers = tokens.candidates([row["candidates"] for row in examples], chat, closed=True)
    out_prompts, out_candidates, out_weights, out_truncated = [], [], [], []
    for prompt, row, candidates in zip(prompts, examples, answers, strict=True):
        weights = _weights(row, candidates)
        # The first token of a text that has no prompt before it cannot be learnt.
        unseen = 0 if prompt else 1
        kept = [
            (ids, w)
            for ids, w in zip(candidates, weights, strict=True)
            if sum(w[unseen:]) > 0 and len(ids) < max_length
        ]
        # The last token is predicted, never read, so it takes no room.
        room = max_length + 1 - max((len(ids) for ids, _ in kept), default=0)
        out_truncated.append(bool(kept) and len(prompt) > room)
        out_prompts.append(_cut(prompt, room, tokenizer.bos_token_id))
        out_candidates.append([ids for ids, _ in kept])
        out_weights.append([w for _, w in kept])
    columns = [out_prompts, out_candidates, out_weights, _hashes(rows), out_truncated]
    return pa.RecordBatch.from_arrays(
        [pa.array(c, f.type) for c, f in zip(columns, TOKENIZED, strict=True)], schema=TOKENIZED
    )


def _refuse_nulls(row: Mapping[str, Any]) -> None:
    """Raise UserError where one of the row's lists holds a null."""
    for name in ("candidates", "candidate_weights", "token_weights"):
        values = row[name] or []
        if None in values or any(isinstance(v, list) and None in v for v in values):
            raise UserError(f"training example {row['example_id']}: a null in {name}")


def _weights(row: Mapping[str, Any], candidates: list[list[int]]) -> list[list[float]]:
    """The weight of each token of one row's candidates."""
    name, shares, each = row["example_id"], row["candidate_weights"], row["token_weights"]
    if len(candidates) != len(shares):
        raise UserError(
            f"training example {name}: {len(candidates)} candidates and {len(shares)} weights"
        )
    counts = [len(ids) for ids in candidates]
    if each is None:
        each = [[1.0] * count for count in counts]
    elif [len(weights) for weights in each] != counts:
        raise UserError(
            f"training example {name}: token_weights of {[len(w) for w in each]} tokens for "
            f"candidates of {counts}, the end of the text included"
        )
    if any(weight < 0 for weights in each for weight in weights):
        raise UserError(f"training example {name}: a token weight is negative")
    return [
        [share * row["weight"] * weight for weight in weights]
        for share, weights in zip(shares, each, strict=True)
    ]


def _cut(prompt: list[int], room: int, bos_id: int | None) -> list[int]:
    if len(prompt) <= room:
        return prompt
    if prompt[0] == bos_id and room > 1:
        return [bos_id, *prompt[len(prompt) - room + 1 :]]
    return prompt[len(prompt) - room :]


def _hashes(rows: pa.Table) -> npt.NDArray[np.uint64]:
    digests = (
        hashlib.blake2b(text.encode(), digest_size=8).digest()
        for text in rows["example_id"].to_pylist()
    )
    return np.frombuffer(b"".join(digests), dtype="<u8")
