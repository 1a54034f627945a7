"""Examples to token ids.

An answer is its tokens and those that end it (`Tokens.end`); it is never cut. Of a prompt that
leaves it no room both ends stay, the instruction at its start and the question at its end, and the
middle is cut. An answer that would leave its prompt less than half of the room is none to learn
from: what is left of the question no longer asks for it.
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

# Of a prompt that is cut, this share of the room is its start's: the instruction is the shorter.
_START_SHARE = 0.25

_TOKENS = pa.list_(pa.int32())
TOKENIZED = pa.schema(
    [
        pa.field("prompt", _TOKENS, nullable=False),
        pa.field("candidates", pa.list_(_TOKENS), nullable=False),
        # Of each token of each candidate: its own times the candidate's times the example's.
        pa.field("weights", pa.list_(pa.list_(pa.float32())), nullable=False),
        pa.field("example_hash", pa.uint64(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        # Of a row that has no candidate left because they are too long: who, and how long.
        pa.field("too_long_id", pa.string()),
        pa.field("too_long_tokens", pa.int32()),
    ]
)


def tokenize(rows: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> pa.RecordBatch:
    """Rows of the TRAINING schema as rows of TOKENIZED, in the same order.

    A candidate of weight 0 is left out, and so is a candidate that has no room; a row that loses
    all its candidates stays, with none. Raises UserError where weights do not fit what they weigh.
    """
    examples = rows.drop_columns("prompt").to_pylist()
    for row in examples:
        _refuse_nulls(row)
    tokens = Tokens(tokenizer)
    chat = [bool(row["chat"]) for row in examples]
    prompts = tokens.prompts(rows["prompt"].to_pylist(), chat)
    answers = tokens.candidates([row["candidates"] for row in examples], chat, closed=True)
    found = [
        _fit(row["example_id"], prompt, candidates, _weights(row, candidates), max_length)
        for row, prompt, candidates in zip(examples, prompts, answers, strict=True)
    ]
    hashes = pa.array(_hashes(rows), pa.uint64())
    columns = {name: [row[name] for row in found] for name in TOKENIZED.names if name in found[0]}
    arrays = [hashes if f.name == "example_hash" else pa.array(columns[f.name], f.type)
              for f in TOKENIZED]  # fmt: skip
    return pa.RecordBatch.from_arrays(arrays, schema=TOKENIZED)


def _fit(
    name: str,
    prompt: list[int],
    candidates: list[list[int]],
    weights: list[list[float]],
    max_length: int,
) -> dict[str, Any]:
    """The TOKENIZED row, but for its hash, of one example: what of it fits into max_length."""
    # The first token of a text that has no prompt before it cannot be learnt.
    unseen = 0 if prompt else 1
    weighty = [(ids, w) for ids, w in zip(candidates, weights, strict=True) if sum(w[unseen:]) > 0]
    # An answer's last token is predicted, never read, so it takes no room.
    room = max_length + 1 - max(1 + unseen, min(len(prompt), max_length // 2))
    kept = [(ids, w) for ids, w in weighty if len(ids) <= room]
    too_long = bool(weighty) and not kept
    left = max_length + 1 - max((len(ids) for ids, _ in kept), default=0)
    return {
        "prompt": _cut(prompt, left),
        "candidates": [ids for ids, _ in kept],
        "weights": [w for _, w in kept],
        "truncated": bool(kept) and len(prompt) > left,
        "too_long_id": name if too_long else None,
        "too_long_tokens": min(len(ids) for ids, _ in weighty) if too_long else None,
    }


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


def _cut(prompt: list[int], room: int) -> list[int]:
    if len(prompt) <= room:
        return prompt
    start = int(room * _START_SHARE)
    return [*prompt[:start], *prompt[len(prompt) - (room - start) :]]


def _hashes(rows: pa.Table) -> npt.NDArray[np.uint64]:
    digests = (
        hashlib.blake2b(text.encode(), digest_size=8).digest()
        for text in rows["example_id"].to_pylist()
    )
    return np.frombuffer(b"".join(digests), dtype="<u8")
