"""The second pass: which rows say what one before them said, or nearly.

Each task takes some buckets of the keys of all blocks, so all rows of a key meet in one task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.ingestion.blocks import BUCKETS, Block
from semievol_ray.ingestion.similar import alike, bands_of_row
from semievol_ray.store import RunDirectory

# Keys, places and their order take some 40 bytes a key.
_KEYS_A_TASK = 4 << 20

# Row `index` of block `number` as one number, which sorts as the rows were read.
_INDEX_BITS = np.uint64(32)
_INDEX_MASK = np.uint64((1 << 32) - 1)

# A row, by the number of its block and its index there.
Place = tuple[int, int]
Places = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Repeats:
    """How many rows of which blocks are repetitions, and where it is written which they are.

    `name` is an Arrow file with a batch of indices for each of those blocks, in their order.
    """

    name: str
    rows_of: dict[int, int]
    # Where ids are given: the first row with the id of one before it, and that one.
    twice: tuple[Place, Place] | None = None


@dataclass(frozen=True)
class RepeatFinder:
    """Finds repetitions among blocks. Picklable."""

    run: RunDirectory
    prefix: str
    blocks: Sequence[Block]
    # Whether an id is one that the user gave: then no two rows may have the same.
    ids_given: bool
    # Of rows that are nearly alike: from which similarity on, and what was read before.
    similarity: float | None = None
    earlier: Sequence[Block] = ()
    # Keys of rows that an earlier run had.
    known: Sequence[Block] = ()

    def tasks(self) -> list[range]:
        """The buckets of each task of `find`."""
        return _buckets_of_tasks(_rows(self.blocks) + _rows(self.known))

    def similar_tasks(self) -> list[range]:
        """The buckets of each task of `find_similar`."""
        assert self.similarity is not None
        rows = _rows(self.earlier) + _rows(self.blocks)
        return _buckets_of_tasks(rows * bands_of_row(self.similarity))

    def find(self, buckets: range) -> Repeats:
        """The rows whose key, in some of the buckets, is that of a row before them.

        Those that an earlier run had are not among them.
        """
        keys, places = self._gathered([b.keys for b in self.blocks], buckets)
        order = np.lexsort((places, keys["key"]))
        key, places = keys["key"][order], places[order]
        is_repeat = np.zeros(len(key), bool)
        is_repeat[1:] = key[1:] == key[:-1]
        is_repeat &= ~self._is_known(key, buckets)
        if self.ids_given:
            return self._given(is_repeat, places)
        return self._written(f"repeats-{buckets.start:03d}", np.sort(places[is_repeat]))

    def find_known(self, buckets: range) -> Repeats:
        """The rows whose key, in some of the buckets, is that of a row which an earlier run had."""
        keys, places = self._gathered([b.keys for b in self.blocks], buckets)
        known = self._is_known(keys["key"], buckets)
        return self._written(f"known-{buckets.start:03d}", np.sort(places[known]))

    def find_twins(self) -> Repeats:
        """Labels under given ids that repeat one before them, answer and weight too. They are few.

        Where a question has several answers all its rows stay: they tell how many say which.
        """
        names = ["content", "answer", "weight"]
        tables = [self.run.read_table(block.table, names) for block in self.blocks]
        places = [
            np.arange(len(table), dtype=np.uint64) | (np.uint64(number) << _INDEX_BITS)
            for number, table in enumerate(tables)
        ]
        rows = pa.concat_tables(tables).append_column("place", pa.array(np.concatenate(places)))
        distinct = ("count_distinct", pc.CountOptions(mode="all"))
        found = rows.group_by("content").aggregate(
            [("place", "min"), ("answer", *distinct), ("weight", *distinct)]
        )
        agreed = found.filter(
            (pc.field("answer_count_distinct") == 1) & (pc.field("weight_count_distinct") == 1)
        )
        of_agreed = pc.is_in(rows["content"], agreed["content"].combine_chunks())
        is_first = pc.is_in(rows["place"], agreed["place_min"].combine_chunks())
        repeats = rows.filter(pc.and_not(of_agreed, is_first))
        return self._written("twins", np.sort(repeats["place"].to_numpy()))

    def find_similar(self, buckets: range) -> Repeats:
        """The rows that are nearly alike to one before them with a band in some of the buckets.

        A row may be found in several of the buckets, and be an exact repetition too.
        """
        assert self.similarity is not None
        names = [block.bands for block in (*self.earlier, *self.blocks)]
        keys, places = self._gathered(names, buckets)
        order = np.lexsort((places, keys["key"]))
        key, low, high = (keys[name][order] for name in ("key", "low", "high"))
        similar = np.unique(places[order][alike(key, low, high, self.similarity)])
        # What was read before is no row of these blocks.
        first = np.uint64(len(self.earlier)) << _INDEX_BITS
        return self._written(f"similar-{buckets.start:03d}", similar[similar >= first] - first)

    def settle(self, exact: Sequence[Repeats], similar: Sequence[Repeats], block: int) -> Repeats:
        """The similar rows of a block, each once and without the exact repetitions."""
        rows = np.unique(repeated_rows(self.run, similar, block))
        rows = np.setdiff1d(rows, repeated_rows(self.run, exact, block), assume_unique=True)
        places = rows.astype(np.uint64) | (np.uint64(block) << _INDEX_BITS)
        return self._written(f"similar-of-{block:05d}", places)

    def _is_known(self, key: Places, buckets: range) -> npt.NDArray[np.bool_]:
        if not self.known:
            return np.zeros(len(key), bool)
        known, _ = self._gathered([block.keys for block in self.known], buckets)
        return np.isin(key, known["key"])

    def row(self, place: Place) -> dict[str, Any]:
        """A row of a block, in the schema PLACED."""
        block, index = place
        table = self.run.read_slice(self.blocks[block].table, index, index + 1)
        found: dict[str, Any] = table.to_pylist()[0]
        return found

    def _gathered(
        self, names: Sequence[str], buckets: range
    ) -> tuple[dict[str, npt.NDArray[np.uint64]], Places]:
        """The columns of some buckets of each block's file, and the places of their rows."""
        batches, numbers = [], []
        for number, name in enumerate(names):
            found = self.run.read_batches(name, buckets)
            batches += found
            numbers += [(number, len(batch)) for batch in found]
        table = pa.Table.from_batches(batches)
        columns = {name: table[name].to_numpy() for name in table.column_names if name != "index"}
        block = np.repeat(*map(np.array, zip(*numbers, strict=True))).astype(np.uint64)
        return columns, table["index"].to_numpy().astype(np.uint64) | (block << _INDEX_BITS)

    def _written(self, name: str, places: Places) -> Repeats:
        """Write down some places, which are in order."""
        numbers, starts = np.unique(places >> _INDEX_BITS, return_index=True)
        pieces = np.split((places & _INDEX_MASK).astype(np.uint32), starts[1:])
        name = f"{self.prefix}-{name}.arrow"
        if len(numbers):
            self.run.write_batches(name, [pa.record_batch({"index": piece}) for piece in pieces])
        rows = map(len, pieces)
        return Repeats(name, dict(zip(numbers.tolist(), rows, strict=False)))

    def _given(self, is_repeat: npt.NDArray[np.bool_], places: Places) -> Repeats:
        """Two different ids may have one key; the first two that are the same are an error."""
        repeats = np.flatnonzero(is_repeat)
        # Of each row, where those of its key begin.
        starts = np.maximum.accumulate(np.where(is_repeat, 0, np.arange(len(places))))
        for at in repeats[np.argsort(places[repeats])].tolist():
            second = _place(places[at])
            for first in map(_place, places[starts[at] : at]):
                if self.row(first)["example_id"] == self.row(second)["example_id"]:
                    return Repeats("", {}, twice=(second, first))
        return Repeats("", {})


def repeated_rows(run: RunDirectory, found: Sequence[Repeats], block: int) -> npt.NDArray[np.int64]:
    """The rows of a block that are repetitions by any of some findings, in order."""
    pieces = [np.empty(0, np.int64)]
    for repeats in found:
        if block in repeats.rows_of:
            number = list(repeats.rows_of).index(block)
            (batch,) = run.read_batches(repeats.name, [number])
            pieces.append(batch.column("index").to_numpy().astype(np.int64))
    return np.sort(np.concatenate(pieces))


def _place(place: np.uint64) -> Place:
    return int(place >> _INDEX_BITS), int(place & _INDEX_MASK)


def _rows(blocks: Sequence[Block]) -> int:
    return sum(block.rows for block in blocks)


def _buckets_of_tasks(keys: int) -> list[range]:
    tasks = min(BUCKETS, max(1, -(-keys // _KEYS_A_TASK)))
    size = -(-BUCKETS // tasks)
    return [range(start, min(start + size, BUCKETS)) for start in range(0, BUCKETS, size)]
