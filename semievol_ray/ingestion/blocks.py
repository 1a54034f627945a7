"""Blocks: examples as they were read, with the keys by which repetitions are found.

A block is a file of rows and one of their keys, sorted into buckets, so that whoever looks for
repetitions among some keys reads those of every block and no others; and a third file of that kind,
of their bands (`similar.py`), where rows that are nearly alike are looked for too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol_ray.ingestion.similar import bands
from semievol_ray.schema import EXAMPLE
from semievol_ray.store import RunDirectory

# Keys are spread over buckets by their highest bits.
BUCKET_BITS = 8
BUCKETS = 1 << BUCKET_BITS

# A block ends with whichever it has first.
_MOST_ROWS, _MOST_BYTES = 1 << 18, 64 << 20
# Rows that are turned into Arrow at a time, and read at a time; fewer where they are long.
_STEP_ROWS, _STEP_CHARACTERS = 4096, 16 << 20

# An example, where it is from (which part of the split's files, and its row there), and what its
# question says, in 64 bits.
PLACED = pa.schema(
    [
        *EXAMPLE,
        pa.field("part", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("content", pa.uint64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Block:
    """The files of some consecutive rows of a split, by their names in the run."""

    name: str
    rows: int
    bytes: int

    @property
    def table(self) -> str:
        """Its rows, in the schema PLACED."""
        return f"{self.name}.parquet"

    @property
    def keys(self) -> str:
        """Its keys and the indices of their rows, as `key` and `index`: a batch a bucket."""
        return f"{self.name}.keys.arrow"

    @property
    def bands(self) -> str:
        """The keys of its rows' bands, the rows' indices and sketches: a batch a bucket."""
        return f"{self.name}.bands.arrow"


class BlockWriter:
    """Writes rows into blocks `<prefix>-<n>` of a run; with their bands for a similarity."""

    def __init__(self, run: RunDirectory, prefix: str, similarity: float | None = None) -> None:
        self.blocks: list[Block] = []
        self._run, self._prefix, self._similarity = run, prefix, similarity
        self._step: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []
        self._keys: list[int] = []
        self._bytes = self._characters = 0

    def add(
        self, example: Mapping[str, Any], *, part: int, row: int, content: int, key: int
    ) -> None:
        """One more row; two of one key are repetitions."""
        self._step.append({**example, "part": part, "row": row, "content": content})
        self._keys.append(key)
        said = (example["question"], example["context"], example["answer"])
        self._characters += sum(len(text) for text in (*said, *(example["options"] or ())) if text)
        if len(self._step) == _STEP_ROWS or self._characters >= _STEP_CHARACTERS:
            self._turn()
            if len(self._keys) >= _MOST_ROWS or self._bytes >= _MOST_BYTES:
                self.close()

    def close(self) -> None:
        """End the block that is open, if any."""
        self._turn()
        if not self._keys:
            return
        number = len(self.blocks)
        block = Block(f"{self._prefix}-{number:05d}", len(self._keys), self._bytes)
        table = pa.Table.from_batches(self._batches, PLACED)
        self._run.write_table(block.table, table, group_rows=_STEP_ROWS)
        keys = np.array(self._keys, np.uint64)
        index = np.arange(len(keys), dtype=np.uint32)
        self._run.write_batches(block.keys, bucketed({"key": keys, "index": index}))
        if self._similarity is not None:
            self._run.write_batches(block.bands, bucketed(bands(table, self._similarity)))
        self.blocks.append(block)
        self._batches, self._keys, self._bytes = [], [], 0

    def _turn(self) -> None:
        if self._step:
            batch = pa.RecordBatch.from_pylist(self._step, schema=PLACED)
            self._batches.append(batch)
            self._bytes += batch.nbytes
            self._step, self._characters = [], 0


def bucketed(columns: Mapping[str, npt.NDArray[Any]]) -> list[pa.RecordBatch]:
    """Columns with a `key` as a batch for each bucket."""
    buckets = columns["key"] >> np.uint64(64 - BUCKET_BITS)
    order = np.argsort(buckets, kind="stable")
    ends = np.searchsorted(buckets[order], np.arange(BUCKETS), side="right")
    table = pa.record_batch({name: values[order] for name, values in columns.items()})
    starts = [0, *ends[:-1].tolist()]
    return [table.slice(s, e - s) for s, e in zip(starts, ends.tolist(), strict=True)]
