"""One split of a corpus, from the user's files to its shards: the three passes in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from semievol_ray.errors import UserError
from semievol_ray.ingestion.blocks import Block
from semievol_ray.ingestion.examples import ExampleReader
from semievol_ray.ingestion.places import Places
from semievol_ray.ingestion.reading import PortionRead, Reader, numbered
from semievol_ray.ingestion.repeats import RepeatFinder, Repeats, repeated_rows
from semievol_ray.ingestion.sharding import ShardWriter, WrittenShards
from semievol_ray.sources import SourceFile, cut
from semievol_ray.sources.rows import flat

# A portion takes some six seconds: as many shards are usually as much work.
_SHARDS_WORTH = 3

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Split:
    """A split that is being read, and what it came to.

    `tasks(n)` gives a `map` for n pieces of work, over which the passes are made.
    """

    reader: Reader
    files: Sequence[SourceFile]
    tasks: Callable[[int], Callable[..., Iterable[Any]]]
    # What the splits before it came to: their blocks, their bad rows.
    earlier: Sequence[Block] = ()
    bad_before: int = 0
    # Repetitions that may still be named one by one.
    unlisted: int = 0
    # Keys of rows that an earlier run had.
    known: Sequence[Block] = ()

    blocks: list[Block] = field(default_factory=list)
    bad_rows: int = 0
    # Of these the first, in one line.
    first_bad: str = ""
    contaminated: int = 0
    already_labeled: int = 0
    repeated: int = 0
    nearly_repeated: int = 0
    had_before: int = 0

    def __post_init__(self) -> None:
        self._portions = cut(self.files)
        parts = [part for portion in self._portions for part in portion]
        self._places = Places(self.reader.split, parts)

    def read(self, advance: Callable[[int], None]) -> None:
        """The first pass; tells how many examples were found, as they are.

        Raises UserError as `Reader.read` does, for more bad rows than may be, and for a column
        that no row has.
        """
        objects, met = None, set[str]()
        # What a limit has counted stays in this process.
        apply = map if self.reader.limit else self.tasks(_SHARDS_WORTH * len(self._portions))
        work = apply(self.reader.read, numbered(self._portions))
        for read, portion in zip(work, numbered(self._portions), strict=True):
            # The user's files may be on this machine alone.
            found = read or self.reader.read(portion)
            if found is None:
                name = next(part.file.name for part in portion[2] if not part.is_here())
                raise UserError(
                    f"data.{self.reader.split}: {name}: changed while it was read; run again"
                )
            self._reject(found)
            self.blocks += found.blocks
            self.contaminated += found.contaminated
            self.already_labeled += found.already_labeled
            met |= found.met
            objects = objects or found.objects
            advance(found.rows)
            if self.reader.limit and not self.reader.limit.left:
                break
        if objects:
            names = ExampleReader(self.reader.columns, self.reader.task, self.reader.split)
            names.met = met
            names.check_objects(objects)

    def write(self, folder: str, shard_rows: int, *, similar: bool) -> WrittenShards:
        """The other two passes; `similar`: whether rows that are nearly alike are left out.

        Raises UserError for two rows of one given id.
        """
        if not self.blocks:
            return WrittenShards()
        finder = RepeatFinder(
            run=self.reader.run,
            prefix=f"{self.reader.folder}/{self.reader.split}",
            blocks=self.blocks,
            ids_given=self.reader.columns.id is not None,
            similarity=self.reader.similarity,
            earlier=self.earlier,
            known=self.known,
        )
        repeats = self._map(finder.find, finder.tasks())
        self._refuse_twice(finder, repeats)
        if finder.ids_given and self.reader.split == "labeled":
            repeats.append(finder.find_twins())
        self.repeated = _count(repeats)
        self._list(finder, repeats, "repeats an earlier example")
        if self.known:
            found = self._map(finder.find_known, finder.tasks())
            self.had_before = _count(found)
            repeats += found
        if similar:
            found = self._similar(finder, repeats)
            self.nearly_repeated = _count(found)
            self._list(finder, found, "is nearly an earlier example")
            repeats += found
        writer = ShardWriter(
            self.reader.run, folder, self.reader.split, shard_rows, self.blocks, repeats
        )
        written = WrittenShards(rows=writer.rows)
        for some in self._map(writer.write, writer.tasks()):
            written.merge(some)
        return written

    def quarantine(self) -> Iterator[dict[str, Any]]:
        """What was put aside, in the QUARANTINE schema and the order of the files."""
        return self._places.quarantine()

    def _reject(self, found: PortionRead) -> None:
        self._places.passed += found.passed
        for bad in found.bad:
            name, row = self._places.add(bad.part, bad.row, bad.reason)
            self.bad_rows += bad.rows
            self.first_bad = self.first_bad or f"{name}: row {row}: {flat(bad.reason)}"
            if self.bad_before + self.bad_rows > self.reader.max_bad_rows:
                raise UserError(
                    f"{name}: row {row}: {flat(bad.reason)}; with it more than "
                    f"data.max_bad_rows ({self.reader.max_bad_rows}) rows are unusable"
                )

    def _refuse_twice(self, finder: RepeatFinder, repeats: Sequence[Repeats]) -> None:
        twice = min((found.twice for found in repeats if found.twice), default=None)
        if twice is not None:
            rows = [finder.row(place) for place in twice]
            (second, number), (first, earlier) = (self._places.of(row) for row in rows)
            raise UserError(
                f"{second}: row {number}: id {rows[0]['example_id']!r} is already that of {first}, "
                f"row {earlier}"
            )

    def _similar(self, finder: RepeatFinder, exact: list[Repeats]) -> list[Repeats]:
        """Rows that are nearly alike to one before them, and not left out already."""
        found = self._map(finder.find_similar, finder.similar_tasks())
        blocks = sorted({block for some in found for block in some.rows_of})
        return self._map(partial(finder.settle, exact, found), blocks)

    def _list(self, finder: RepeatFinder, repeats: list[Repeats], reason: str) -> None:
        """Put the first of the repetitions aside by name."""
        for number in sorted({block for found in repeats for block in found.rows_of}):
            rows = repeated_rows(self.reader.run, repeats, number)[: self.unlisted]
            if not len(rows):
                return
            table = self.reader.run.read_table(finder.blocks[number].table, ["part", "row"])
            for row in table.take(pa.array(rows)).to_pylist():
                self._places.add(row["part"], row["row"], reason)
            self.unlisted -= len(rows)

    def _map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        return list(self.tasks(len(items))(function, items))


def _count(repeats: Sequence[Repeats]) -> int:
    return sum(sum(found.rows_of.values()) for found in repeats)
