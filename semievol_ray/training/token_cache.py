"""Token ids on disk: tokenised once, by all workers together, and read where they lie.

The examples' files are cut into parts, which become Arrow files: each worker writes its share, and
all map them into memory. A training set need not fit there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray.config import TrainingConfig
from semievol_ray.errors import UserError
from semievol_ray.schema import TRAINING
from semievol_ray.training.data import FORMAT, TOKENIZED, tokenize
from semievol_ray.training.job import file_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Rows that one worker tokenises at a time.
PART_ROWS = 8192


@dataclass(frozen=True)
class _Chunk:
    """The rows of one TOKENIZED batch that have a candidate left, as views of its buffers.

    Row r has the candidates `candidate_starts[r]:candidate_starts[r + 1]`; candidate c has the ids
    `candidate_ids[token_starts[c]:token_starts[c + 1]]`, and `weights` lie beside them.
    """

    rows: npt.NDArray[np.int64]
    prompt_ids: npt.NDArray[np.int32]
    prompt_starts: npt.NDArray[np.int32]
    candidate_ids: npt.NDArray[np.int32]
    token_starts: npt.NDArray[np.int32]
    candidate_starts: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    hashes: npt.NDArray[np.uint64]
    truncated: int
    dropped: int
    too_long: int
    # Tokens and id of the longest of those answers.
    longest: tuple[int, str]

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> _Chunk:
        prompts, candidates = batch.column("prompt"), batch.column("candidates")
        answers = candidates.values
        candidate_starts = candidates.offsets.to_numpy()
        rows = np.flatnonzero(np.diff(candidate_starts))
        lengths = batch.column("too_long_tokens").drop_null().to_pylist()
        ids = batch.column("too_long_id").drop_null().to_pylist()
        return cls(
            rows=rows,
            prompt_ids=prompts.values.to_numpy(),
            prompt_starts=prompts.offsets.to_numpy(),
            candidate_ids=answers.values.to_numpy(),
            token_starts=answers.offsets.to_numpy(),
            candidate_starts=candidate_starts,
            weights=batch.column("weights").values.values.to_numpy(),
            hashes=batch.column("example_hash").to_numpy(),
            truncated=batch.column("truncated").true_count,
            dropped=len(batch) - len(rows),
            too_long=len(ids),
            longest=max(zip(lengths, ids, strict=True), default=(0, "")),
        )


class TokenizedExamples:
    """Token ids of n examples. Examples and their candidates are counted over all the chunks."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._chunks = [_Chunk.of(batch) for batch in batches]
        self._first_examples = _running(len(c.rows) for c in self._chunks)
        self._first_candidates = _running(len(c.token_starts) - 1 for c in self._chunks)
        self.truncated_rows = sum(c.truncated for c in self._chunks)
        self.dropped_rows = sum(c.dropped for c in self._chunks)

    def check_dropped(self, config: TrainingConfig, max_length: int) -> None:
        """Raise UserError where there is no example, or too many answers are too long.

        `max_length` is what they were cut to: the config's, or the model's positions.
        """
        too_long = sum(c.too_long for c in self._chunks)
        rows = len(self) + self.dropped_rows
        if len(self) and too_long <= config.max_dropped * rows:
            return
        if not too_long:
            raise UserError(f"none of the {rows} training examples has an answer of any weight")
        tokens, name = max(c.longest for c in self._chunks)
        limit, remedy = str(max_length), "raise it, or"
        if max_length < config.max_length:
            limit, remedy = f"{max_length} by the model's positions", "take another model, or raise"
        raise UserError(
            f"training.max_length: {too_long} of {rows} answers are too long for it "
            f"({limit}, of which a prompt keeps half): that of example {name} has "
            f"{tokens} tokens; {remedy} training.max_dropped ({config.max_dropped:g}) to train "
            "without them"
        )

    def __len__(self) -> int:
        return self._first_examples[-1]

    def prompt(self, example: int) -> npt.NDArray[np.int32]:
        """Token ids of an example's prompt."""
        chunk, row, _ = self._row(example)
        return chunk.prompt_ids[chunk.prompt_starts[row] : chunk.prompt_starts[row + 1]]

    def candidates_of(self, example: int) -> range:
        """The numbers of an example's candidates."""
        chunk, row, first = self._row(example)
        start, end = chunk.candidate_starts[row : row + 2].tolist()
        return range(first + start, first + end)

    def candidate(self, candidate: int) -> npt.NDArray[np.int32]:
        """Token ids of a candidate; the last ones are its end."""
        chunk, tokens = self._tokens(candidate)
        return chunk.candidate_ids[tokens]

    def token_weights(self, candidate: int) -> npt.NDArray[np.float32]:
        """The weight of each token of a candidate in the loss."""
        chunk, tokens = self._tokens(candidate)
        return chunk.weights[tokens]

    def target_weight(self, examples: npt.NDArray[np.int64]) -> float:
        """Sum over the answer tokens of some examples of their weights: the loss's denominator."""
        total = 0.0
        for example in examples.tolist():
            unseen = 0 if len(self.prompt(example)) else 1
            for c in self.candidates_of(example):
                total += float(self.token_weights(c)[unseen:].sum(dtype=np.float64))
        return total

    def split(self, share: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Indices to train on and to hold out: the `share` whose seeded hash of the id is least."""
        everything = np.arange(len(self))
        if share == 0:
            return everything, everything[:0]
        hashes = np.concatenate([c.hashes[c.rows] for c in self._chunks])
        salt = np.random.default_rng([seed, 0x5EED]).integers(0, 2**63, dtype=np.uint64)
        mixed = (hashes ^ salt) * np.uint64(0x9E3779B97F4A7C15)
        held = np.sort(np.argsort(mixed, kind="stable")[: max(1, round(share * len(self)))])
        kept = np.setdiff1d(everything, held)
        if not len(kept):
            raise UserError(f"training.held_out: {share} of {len(self)} examples leaves none")
        return kept, held

    def _row(self, example: int) -> tuple[_Chunk, int, int]:
        """Its chunk, its row there, and the number of the chunk's first candidate."""
        at = bisect_right(self._first_examples, example) - 1
        chunk = self._chunks[at]
        return (
            chunk,
            int(chunk.rows[example - self._first_examples[at]]),
            self._first_candidates[at],
        )

    def _tokens(self, candidate: int) -> tuple[_Chunk, slice]:
        at = bisect_right(self._first_candidates, candidate) - 1
        chunk = self._chunks[at]
        number = candidate - self._first_candidates[at]
        return chunk, slice(*chunk.token_starts[number : number + 2].tolist())


def _running(counts: Iterable[int]) -> list[int]:
    return list(itertools.accumulate(counts, initial=0))


class Part(NamedTuple):
    """A piece of work: PART_ROWS rows of a row group, or what is left of it."""

    number: int
    path: Path
    group: int
    batch: int


def plan_parts(paths: Sequence[Path]) -> list[Part]:
    """The rows of Parquet files in the TRAINING schema, as pieces of work in their order.

    Raises UserError where a file is missing or not in that schema, or there is no row at all.
    """
    places = (
        (path, group, batch)
        for path in paths
        for metadata in (_open(path).metadata,)
        for group in range(metadata.num_row_groups)
        for batch in range(-(-metadata.row_group(group).num_rows // PART_ROWS))
    )
    parts = [Part(number, *place) for number, place in enumerate(places)]
    if not parts:
        raise UserError("there is no training example in " + ", ".join(map(str, paths)))
    return parts


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
        _conform(file.schema_arrow.empty_table())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of training examples") from None
    except (pa.ArrowException, KeyError, OSError) as error:
        raise _not_examples(path, error) from None
    return file


def _not_examples(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: not a table of training examples: {' '.join(str(error).split())}")


def _conform(table: pa.Table) -> pa.Table:
    """A table's columns of the TRAINING schema; one that may be null need not be there."""
    columns = [
        pa.nulls(len(table), field.type)
        if field.nullable and field.name not in table.column_names
        else table[field.name]
        for field in TRAINING
    ]
    return pa.table(columns, names=TRAINING.names).cast(TRAINING)


def _read(path: Path, group: int) -> Iterator[pa.Table]:
    """The batches of a row group, PART_ROWS rows each but for the last."""
    try:
        for batch in _open(path).iter_batches(PART_ROWS, row_groups=[group]):
            yield _conform(pa.Table.from_batches([batch]))
    except (pa.ArrowException, KeyError, OSError) as error:
        raise _not_examples(path, error) from None


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
        PART_ROWS,
        max_length,
        vocabulary,
        special,
        tokenizer.init_kwargs.get("add_bos_token"),
        tokenizer.init_kwargs.get("add_eos_token"),
        getattr(tokenizer, "chat_template", None),
    ]
    digest.update(json.dumps(facts, default=str).encode())
    return digest.hexdigest()[:32]


def write_parts(
    folder: Path, parts: Sequence[Part], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> None:
    """Tokenise parts into `folder`, but for those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = [part for part in parts if not _part_path(folder, part.number).exists()]
    for (path, group), members in itertools.groupby(todo, key=lambda part: (part.path, part.group)):
        wanted = {part.batch: _part_path(folder, part.number) for part in members}
        for number, rows in enumerate(_read(path, group)):
            if number in wanted:
                _write(wanted[number], tokenize(rows, tokenizer, max_length))


def _write(target: Path, batch: pa.RecordBatch) -> None:
    partial = target.with_suffix(".partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, TOKENIZED) as writer:
        writer.write_batch(batch)
    partial.rename(target)


def load_parts(folder: Path, parts: int) -> TokenizedExamples:
    """The tokenised rows, memory-mapped."""
    # One after the other: a file stays open for as long as its reader lives, and not its buffers.
    return TokenizedExamples(
        pa.ipc.open_file(pa.memory_map(str(_part_path(folder, part)))).get_batch(0)
        for part in range(parts)
    )


def _part_path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:06d}.arrow"
