"""The beginning of a user's file: its rows, its columns' names, and what a cell says.

A guess is no place to refuse a row: a cell that cannot be read says nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from semievol_ray.errors import UserError
from semievol_ray.sources import (
    MISSING,
    BadRow,
    Options,
    cell_options,
    cell_text,
    find_cell,
    find_files,
    read_rows,
)

# Files are often sorted by their labels: a few hundred rows may hold one of them.
MOST_ROWS = 10_000
_MOST_CHARACTERS = 1 << 26
_LISTED = 20

# A column's name, or those of columns that hold an option each.
Named = str | tuple[str, ...]


@dataclass(frozen=True)
class Looked:
    """The first rows of what a setting names; `is_whole`: there are no others."""

    where: str
    rows: Sequence[Mapping[str, Any]]
    is_whole: bool = True

    @cached_property
    def names(self) -> list[str]:
        """The columns; objects of a JSONL file may each leave out some of them."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def listed(self) -> str:
        """The columns' names for a message."""
        more = f", … ({len(self.names)} in all)" if len(self.names) > _LISTED else ""
        return ", ".join(map(repr, self.names[:_LISTED])) + more

    def cells(self, column: str) -> list[Any]:
        """Those of a column, or of a field inside one, that are there and not null."""
        found = (find_cell(row, column) for row in self.rows)
        return [cell for cell in found if cell is not MISSING and cell is not None]

    def has(self, column: str) -> bool:
        """Whether there is such a column, or a field inside one; its cells may all be null."""
        return any(find_cell(row, column) is not MISSING for row in self.rows)

    def says(self, column: str, *, joined: bool = False) -> bool:
        """Whether any row says something there."""
        return any(_said(row, column, joined) for row in self.rows)

    def texts(self, column: str, *, joined: bool = False) -> list[str]:
        """What each row says there; empty where it says nothing."""
        return [_said(row, column, joined) for row in self.rows]

    def options(self, columns: Named) -> list[Options]:
        """The options of each row; without a text where it has none."""
        if isinstance(columns, str):
            return [_options(row, columns) for row in self.rows]
        several = zip(*map(self.texts, columns), strict=True)
        return [Options([text for text in texts if text]) for texts in several]

    @property
    def extent(self) -> str:
        """How many rows these are, as a phrase."""
        return f"{'' if self.is_whole else 'the first '}{len(self.rows):,} rows"


def look(location: str, setting: str, most: int = MOST_ROWS) -> Looked:
    """The first rows of a file, glob or URI. Raises UserError where none can be read."""
    rows: list[Mapping[str, Any]] = []
    characters, bad = 0, None
    for row in itertools.chain.from_iterable(map(read_rows, find_files(location, setting))):
        if isinstance(row, BadRow):
            bad = bad or row
            continue
        if len(rows) == most or characters > _MOST_CHARACTERS:
            return Looked(location, rows, is_whole=False)
        rows.append(row.values)
        characters += sum(map(_size, row.values.values()))
    if not rows:
        because = f"; first: row {bad.number}: {bad.reason}" if bad else ""
        raise UserError(f"{setting}: {location}: no readable row{because}")
    return Looked(location, rows)


def texts_in(cell: Any, name: str) -> Iterator[str]:
    """The names of the cells in a nested one that hold no others; of a list the first."""
    if isinstance(cell, Mapping):
        for field, inner in cell.items():
            yield from texts_in(inner, f"{name}.{field}")
    elif isinstance(cell, list | tuple):
        for inner in cell[:1]:
            yield from texts_in(inner, f"{name}.0")
    else:
        yield name


def _size(cell: Any) -> int:
    """About how many characters or bytes a cell holds."""
    if isinstance(cell, str | bytes):
        return len(cell)
    if isinstance(cell, Mapping):
        return sum(map(_size, cell.values()))
    return sum(map(_size, cell)) if isinstance(cell, list | tuple) else 1


def _said(row: Mapping[str, Any], column: str, joined: bool) -> str:
    cell = find_cell(row, column)
    try:
        return "" if cell is MISSING else cell_text(cell, column, joined=joined) or ""
    except ValueError:
        return ""


def _options(row: Mapping[str, Any], column: str) -> Options:
    try:
        return cell_options(find_cell(row, column), column)
    except ValueError:
        return Options([])
