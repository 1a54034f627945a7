"""The third pass: blocks without their repetitions to shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.ingestion.blocks import Block
from semievol_ray.ingestion.repeats import Repeats, repeated_rows
from semievol_ray.schema import EXAMPLE
from semievol_ray.store import RunDirectory, layout

# What a task writes at a time: enough shards to pay for it.
_TASK_ROWS, _TASK_BYTES = 1 << 16, 64 << 20

_WITHHELD = ["example_id", "answer"]


@dataclass
class WrittenShards:
    """What some shards came to."""

    rows: int = 0
    outputs: dict[str, int] = field(default_factory=dict)
    # The longest example's shard, its row there, and its size in bytes.
    longest: tuple[str, int, int] = ("", 0, -1)
    most_options: int = 0
    # Of the labelled and the test set: they are few.
    answers: Counter[str] = field(default_factory=Counter)
    contents: list[int] = field(default_factory=list)

    def merge(self, other: WrittenShards) -> None:
        """Add what shards after these came to."""
        self.outputs |= other.outputs
        if other.longest[2] > self.longest[2]:
            self.longest = other.longest
        self.most_options = max(self.most_options, other.most_options)
        self.answers.update(other.answers)
        self.contents += other.contents


class ShardWriter:
    """Writes the shards of one split. Picklable."""

    def __init__(
        self,
        run: RunDirectory,
        folder: str,
        split: str,
        shard_rows: int,
        blocks: Sequence[Block],
        repeats: Sequence[Repeats],
    ) -> None:
        self.run, self.folder, self.split = run, folder, split
        self.shard_rows, self.blocks = shard_rows, blocks
        self.repeats = [found for found in repeats if found.rows_of]
        dropped = Counter[int]()
        for found in self.repeats:
            dropped.update(found.rows_of)
        kept = [block.rows - dropped[number] for number, block in enumerate(blocks)]
        # Where each block's rows begin among all that are kept.
        self.starts: npt.NDArray[np.int64] = np.cumsum([0, *kept])

    @property
    def rows(self) -> int:
        """Rows of the split, repetitions left out."""
        return int(self.starts[-1])

    def tasks(self) -> list[range]:
        """The shards that each task writes."""
        shards = -(-self.rows // self.shard_rows)
        row_bytes = sum(block.bytes for block in self.blocks) // max(1, self.rows)
        rows = min(_TASK_ROWS, _TASK_BYTES // max(1, row_bytes))
        size = max(1, rows // self.shard_rows)
        return [range(start, min(start + size, shards)) for start in range(0, shards, size)]

    def write(self, shards: range) -> WrittenShards:
        """Write some shards, and what they withhold."""
        start, stop = shards.start * self.shard_rows, shards.stop * self.shard_rows
        pieces = list(self._kept(start, min(stop, self.rows)))
        table = pa.concat_tables(pieces).combine_chunks()
        written = WrittenShards()
        for place, number in enumerate(shards):
            self._write(number, table.slice(place * self.shard_rows, self.shard_rows), written)
        if self.split != "unlabeled":
            written.contents = table["content"].to_pylist()
            written.answers.update(table["answer"].to_pylist())
        return written

    def _kept(self, start: int, stop: int) -> Iterator[pa.Table]:
        """The rows from `start` to `stop` of those that are kept."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        for number in range(first, len(self.blocks)):
            begin = int(self.starts[number])
            if begin >= stop:
                return
            dropped = repeated_rows(self.run, self.repeats, number)
            rows = np.delete(np.arange(self.blocks[number].rows), dropped)
            rows = rows[max(0, start - begin) : stop - begin]
            if len(rows):
                low, high = int(rows[0]), int(rows[-1]) + 1
                table = self.run.read_slice(self.blocks[number].table, low, high)
                yield table if len(table) == len(rows) else table.take(pa.array(rows - low))

    def _write(self, number: int, placed: pa.Table, written: WrittenShards) -> None:
        table, name = placed.select(EXAMPLE.names), layout.shard(number)
        target = f"{self.folder}/{self.split}/{name}"
        sizes = _text_bytes(table)
        row = int(np.argmax(sizes))
        if sizes[row] > written.longest[2]:
            written.longest = (target, row, int(sizes[row]))
        options = pc.max(pc.list_value_length(table["options"])).as_py() or 0
        written.most_options = max(written.most_options, options)
        if self.split == "unlabeled":
            withheld = table.select(_WITHHELD)
            if withheld["answer"].null_count < len(withheld):
                aside = f"{self.folder}/withheld/{name}"
                written.outputs[aside] = self.run.write_table(aside, withheld)
            answers = pa.nulls(len(table), pa.string())
            table = table.set_column(table.schema.get_field_index("answer"), "answer", answers)
        written.outputs[target] = self.run.write_table(target, table.cast(EXAMPLE))


def _text_bytes(table: pa.Table) -> npt.NDArray[np.int64]:
    """About what each example adds to a prompt; an option has a letter and a line of its own."""
    total = np.zeros(len(table), np.int64)
    for name in ("question", "context", "subject", "answer"):
        total += pc.fill_null(pc.binary_length(table[name]), 0).to_numpy()
    options = table["options"].combine_chunks()
    counts = pc.fill_null(pc.list_value_length(options), 0).to_numpy()
    lengths = pc.binary_length(pc.list_flatten(options)).to_numpy()
    ends = np.cumsum(counts)
    sums = np.concatenate([[0], np.cumsum(lengths)])
    total += sums[ends] - sums[ends - counts] + 8 * counts
    return total
