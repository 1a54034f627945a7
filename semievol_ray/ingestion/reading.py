"""The first pass: parts of the user's files to blocks of examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from semievol_ray.config import Columns
from semievol_ray.ingestion.blocks import Block, BlockWriter
from semievol_ray.ingestion.examples import ExampleReader, content_hash, text_hash
from semievol_ray.sources import BadRow, FilePart, Row, read_part
from semievol_ray.sources.rows import flat
from semievol_ray.store import RunDirectory
from semievol_ray.tasks import AnswerForm, Task

# Parts that one task reads: its number, that of its first part, and the parts.
Portion = tuple[int, int, Sequence[FilePart]]


@dataclass(frozen=True)
class BadPlace:
    """What was read and is no example: a part of the split's files, and its row there."""

    part: int
    row: int
    reason: str
    rows: int = 1


@dataclass
class PortionRead:
    """What became of a portion."""

    blocks: list[Block] = field(default_factory=list)
    bad: list[BadPlace] = field(default_factory=list)
    # Of each part, how many rows it has.
    passed: list[int] = field(default_factory=list)
    contaminated: int = 0
    already_labeled: int = 0
    # The columns that were met, and the first file whose rows have keys of their own.
    met: set[str] = field(default_factory=set)
    objects: str | None = None

    @property
    def rows(self) -> int:
        """Examples that were found, repetitions among them."""
        return sum(block.rows for block in self.blocks)


@dataclass
class Limit:
    """How many different examples more are wanted, and the keys of those there are.

    `known` are the keys, in order, of rows that do not count.

    It remembers: portions that share one are read one after another, in one process.
    """

    left: int
    seen: set[int] = field(default_factory=set)
    known: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    def takes(self, key: int) -> None:
        """Count an example, unless there was one of its key."""
        at = np.searchsorted(self.known, np.uint64(key))
        if key not in self.seen and not (at < len(self.known) and self.known[at] == key):
            self.seen.add(key)
            self.left -= 1


def numbered(portions: Sequence[Sequence[FilePart]]) -> Iterator[Portion]:
    """Portions with their numbers, as `Reader.read` takes them."""
    first = 0
    for number, parts in enumerate(portions):
        yield number, first, parts
        first += len(parts)


@dataclass(frozen=True)
class Reader:
    """Reads portions of one split. Picklable."""

    run: RunDirectory
    folder: str
    columns: Columns
    task: Task
    split: str
    form: AnswerForm
    # The closed set, where answers outside it are none.
    labels: tuple[str, ...] | None
    max_bad_rows: int
    # What the test set and the labels say, as `content_hash`.
    test: frozenset[int] = frozenset()
    labeled: frozenset[int] = frozenset()
    limit: Limit | None = None
    # From which similarity on rows are nearly alike; null: nobody asks.
    similarity: float | None = None

    def read(self, portion: Portion) -> PortionRead | None:
        """Write the portion's blocks; null where this machine does not see its files.

        Raises UserError for a table without one of the columns, and as `read_part` does. More bad
        rows than are allowed end it early: so many are handed back, and one.
        """
        number, first, parts = portion
        if not all(part.is_here() for part in parts):
            return None
        examples = ExampleReader(self.columns, self.task, self.split, self.form)
        prefix = f"{self.folder}/{self.split}-{number:05d}"
        writer = BlockWriter(self.run, prefix, self.similarity)
        found = PortionRead()
        for place, part in enumerate(parts, start=first):
            if not self._read_part(place, part, examples, writer, found):
                break
        writer.close()
        found.blocks = writer.blocks
        found.met = examples.met
        return found

    def _read_part(
        self,
        place: int,
        part: FilePart,
        examples: ExampleReader,
        writer: BlockWriter,
        found: PortionRead,
    ) -> bool:
        """Read one part; whether there is more to read after it."""
        rows, known = read_part(part, examples.names.values()), False
        while self.limit is None or self.limit.left > 0:
            try:
                row = next(rows)
            except StopIteration as end:
                found.passed.append(end.value)
                return True
            if isinstance(row, BadRow):
                found.bad.append(BadPlace(place, row.number, row.reason, row.rows))
            else:
                if not known:
                    self._check(row, examples, found)
                    known = True
                try:
                    self._place(place, row, examples.example(row, self.labels), writer, found)
                    continue
                except ValueError as error:
                    found.bad.append(BadPlace(place, row.number, flat(error)))
            if sum(bad.rows for bad in found.bad) > self.max_bad_rows:
                return False
        return False

    def _check(self, row: Row, examples: ExampleReader, found: PortionRead) -> None:
        if row.columns is not None:
            examples.check_table(row)
        elif found.objects is None:
            found.objects = row.file

    def _place(
        self,
        place: int,
        row: Row,
        example: dict[str, Any],
        writer: BlockWriter,
        found: PortionRead,
    ) -> None:
        given = self.columns.id is not None
        # An id that nobody gave is the content's hash.
        content = content_hash(example) if given else int(example["example_id"], 16)
        if content in self.test:
            found.contaminated += 1
            return
        if content in self.labeled:
            found.already_labeled += 1
            return
        key = text_hash(example["example_id"]) if given else content
        if self.limit is not None:
            self.limit.takes(key)
        writer.add(example, part=place, row=row.number, content=content, key=key)
