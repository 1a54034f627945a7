"""Examples to token ids: tokenised once, by all workers together, and kept as Arrow.

An answer is its tokens and the end-of-sequence token; it is never cut. A prompt that leaves it no
room loses tokens at its start, where the demonstrations are, and not at its end, where the
question is.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray.errors import UserError
from semievol_ray.schema import TRAINING
from semievol_ray.training.job import file_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

# Rows that one worker tokenises at a time; a part's content depends on nothing else.
PART_ROWS = 8192
# Bump when the token ids of the same text change.
FORMAT = 2

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


@dataclass(frozen=True)
class TokenizedExamples:
    """Token ids of n examples in flat arrays, zero-copy over Arrow where it is one chunk.

    Example i has the candidates `candidate_starts[i]:candidate_starts[i + 1]`; candidate c has the
    ids `candidate_ids[token_starts[c]:token_starts[c + 1]]`, the last of which is EOS; `weights`
    lie beside the ids.
    """

    prompt_ids: npt.NDArray[np.int32]
    prompt_starts: npt.NDArray[np.int64]
    candidate_ids: npt.NDArray[np.int32]
    token_starts: npt.NDArray[np.int64]
    candidate_starts: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    example_hash: npt.NDArray[np.uint64]
    truncated_rows: int
    dropped_rows: int

    def __len__(self) -> int:
        return len(self.prompt_starts) - 1

    def prompt(self, example: int) -> npt.NDArray[np.int32]:
        """Token ids of an example's prompt."""
        return self.prompt_ids[self.prompt_starts[example] : self.prompt_starts[example + 1]]

    def candidate(self, candidate: int) -> npt.NDArray[np.int32]:
        """Token ids of a candidate, EOS included; candidates are counted over all examples."""
        return self.candidate_ids[self.token_starts[candidate] : self.token_starts[candidate + 1]]

    def token_weights(self, candidate: int) -> npt.NDArray[np.float32]:
        """The weight of each token of a candidate in the loss."""
        return self.weights[self.token_starts[candidate] : self.token_starts[candidate + 1]]

    def candidates_of(self, example: int) -> range:
        """The numbers of an example's candidates."""
        return range(int(self.candidate_starts[example]), int(self.candidate_starts[example + 1]))

    def target_weight(self, examples: npt.NDArray[np.int64]) -> float:
        """Sum over the answer tokens of some examples of their weights: the loss's denominator."""
        total = 0.0
        for example in examples:
            unseen = 0 if len(self.prompt(example)) else 1
            for c in self.candidates_of(example):
                total += float(self.token_weights(c)[unseen:].sum(dtype=np.float64))
        return total

    def split(self, share: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Indices to train on and to hold out: the `share` whose seeded hash of the id is least."""
        everything = np.arange(len(self))
        if share == 0:
            return everything, everything[:0]
        salt = np.random.default_rng([seed, 0x5EED]).integers(0, 2**63, dtype=np.uint64)
        mixed = (self.example_hash ^ salt) * np.uint64(0x9E3779B97F4A7C15)
        held = np.sort(np.argsort(mixed, kind="stable")[: max(1, round(share * len(self)))])
        kept = np.setdiff1d(everything, held)
        if not len(kept):
            raise UserError(f"training.held_out: {share} of {len(self)} examples leaves none")
        return kept, held


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a rendered prompt, with the special tokens that the tokenizer opens a text with.

    A prompt that already opens with the beginning-of-sequence token, as many chat templates write
    it, gets no second one; a closing special token is not added.
    """
    return _encode_prompts(tokenizer, [prompt])[0]


def _encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[list[int]]:
    bos, eos_id = tokenizer.bos_token, tokenizer.eos_token_id
    closes = tokenizer("x").input_ids[-1] == eos_id
    encoded = tokenizer(prompts, return_attention_mask=False).input_ids
    opened = [i for i, prompt in enumerate(prompts) if bos and prompt.startswith(bos)]
    bare = _encode(tokenizer, [prompts[i] for i in opened])
    if closes:
        encoded = [ids[:-1] for ids in encoded]
    for i, ids in zip(opened, bare, strict=True):
        encoded[i] = ids
    return encoded


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False).input_ids


def read_examples(paths: Sequence[Path]) -> pa.Table:
    """The rows of Parquet files in the TRAINING schema.

    Raises UserError where a file is missing, is not in that schema, or there is no row at all.
    """
    tables = []
    for path in paths:
        try:
            there = set(pq.read_schema(path).names)
            wanted = [f.name for f in TRAINING if f.name in there or not f.nullable]
            # A column that may be null need not be there.
            table = pa.concat_tables(
                [TRAINING.empty_table(), pq.read_table(path, columns=wanted)],
                promote_options="default",
            )
            tables.append(table.cast(TRAINING))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file of training examples") from None
        except (pa.ArrowInvalid, pa.ArrowKeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: not a table of training examples: {reason}") from None
    table = pa.concat_tables(tables) if tables else TRAINING.empty_table()
    if not table.num_rows:
        raise UserError("there is no training example in " + ", ".join(map(str, paths)))
    return table


def tokenize(rows: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> pa.RecordBatch:
    """Rows of the TRAINING schema as rows of TOKENIZED, in the same order.

    A candidate of weight 0 is left out, and so is a candidate that max_length cannot hold; a row
    that loses all its candidates stays, with none. Raises UserError where weights do not fit what
    they weigh.
    """
    eos = tokenizer.eos_token_id
    prompts = _encode_prompts(tokenizer, rows["prompt"].to_pylist())
    texts = [text for row_texts in rows["candidates"].to_pylist() for text in row_texts]
    flat = iter(_encode(tokenizer, texts))
    out_prompts, out_candidates, out_weights, out_truncated = [], [], [], []
    for prompt, row in zip(prompts, rows.drop_columns("prompt").to_pylist(), strict=True):
        candidates = [[*next(flat), eos] for _ in row["candidates"]]
        weights = _weights(row, candidates)
        # The first token of a text that has no prompt before it cannot be learnt.
        unseen = 0 if prompt else 1
        kept = [
            (ids, w)
            for ids, w in zip(candidates, weights, strict=True)
            if sum(w[unseen:]) > 0 and len(ids) < max_length
        ]
        # EOS is predicted, never read, so it takes no room.
        room = max_length + 1 - max((len(ids) for ids, _ in kept), default=0)
        out_truncated.append(bool(kept) and len(prompt) > room)
        out_prompts.append(_cut(prompt, room, tokenizer.bos_token_id))
        out_candidates.append([ids for ids, _ in kept])
        out_weights.append([w for _, w in kept])
    columns = [out_prompts, out_candidates, out_weights, _hashes(rows), out_truncated]
    return pa.RecordBatch.from_arrays(
        [pa.array(c, f.type) for c, f in zip(columns, TOKENIZED, strict=True)], schema=TOKENIZED
    )


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


def fingerprint(paths: Sequence[Path], tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """Names the token ids of these files under this tokenizer: any change of either changes it."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(file_digest(path).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = sorted((k, str(v)) for k, v in tokenizer.special_tokens_map.items())
    facts: list[Any] = [
        FORMAT,
        max_length,
        vocabulary,
        special,
        tokenizer.init_kwargs.get("add_bos_token"),
    ]
    digest.update(json.dumps(facts, default=str).encode())
    return digest.hexdigest()[:32]


def write_part(
    folder: Path, part: int, rows: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> None:
    """Tokenise the part-th PART_ROWS rows into `folder`, unless that was done before."""
    target = _part_path(folder, part)
    if target.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    batch = tokenize(rows.slice(part * PART_ROWS, PART_ROWS), tokenizer, max_length)
    partial = target.with_suffix(".partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, TOKENIZED) as writer:
        writer.write_batch(batch)
    partial.rename(target)


def count_parts(rows: pa.Table) -> int:
    """How many parts the rows are tokenised in."""
    return -(-rows.num_rows // PART_ROWS)


def load_parts(folder: Path, parts: int) -> TokenizedExamples:
    """The tokenised rows, memory-mapped. Raises UserError if no answer fits max_length."""
    tables = [
        pa.ipc.open_file(pa.memory_map(str(_part_path(folder, part)))).read_all()
        for part in range(parts)
    ]
    return from_table(pa.concat_tables(tables))


def from_table(table: pa.Table) -> TokenizedExamples:
    """Flat arrays of a TOKENIZED table, less its rows that have no candidate left."""
    rows = table.num_rows
    table = table.combine_chunks()
    fits = pa.compute.greater(pa.compute.list_value_length(table["candidates"]), 0)
    table = table.filter(fits).combine_chunks()
    if not table.num_rows:
        raise UserError(f"training.max_length: none of the {rows} answers fits; raise it")
    if rows > table.num_rows:
        log.warning("%d of %d rows have an answer longer than max_length", rows - len(table), rows)
    prompts, candidates, weights = (
        table[name].combine_chunks() for name in ("prompt", "candidates", "weights")
    )
    answers = candidates.flatten()
    return TokenizedExamples(
        prompt_ids=prompts.flatten().to_numpy(),
        prompt_starts=_starts(prompts),
        candidate_ids=answers.flatten().to_numpy(),
        token_starts=_starts(answers),
        candidate_starts=_starts(candidates),
        weights=weights.flatten().flatten().to_numpy(),
        example_hash=table["example_hash"].to_numpy(),
        truncated_rows=pa.compute.sum(table["truncated"]).as_py(),
        dropped_rows=rows - table.num_rows,
    )


def _starts(lists: pa.ListArray) -> npt.NDArray[np.int64]:
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0]


def _part_path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:06d}.arrow"
