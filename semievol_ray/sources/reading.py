"""Rows of the user's files, one at a time, each with the place it came from.

A row that cannot be read comes out as a BadRow and not as an exception: one broken line costs
itself alone. What makes a whole file unreadable is a UserError.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from semievol_ray.errors import UserError
from semievol_ray.sources.files import LINE_SUFFIXES, SourceFile, is_saved_dataset
from semievol_ray.sources.lines import read_csv, read_jsonl
from semievol_ray.sources.rows import BadRow, Row
from semievol_ray.sources.tables import read_hub, read_parquet, read_saved_dataset


def read_rows(source: SourceFile, columns: Collection[str] | None = None) -> Iterator[Row | BadRow]:
    """The rows of a file, streamed, with the columns of its Hive partitions.

    `columns` are all that will be asked of a row (`context.contexts` needs `context`); null is
    every one. Raises UserError where the file itself cannot be read, SemiEvolError where a store
    or the hub does not answer.
    """
    partitions = source.partitions
    with source.readable():
        for row in _read(source, columns):
            if partitions and isinstance(row, Row):
                # What the file itself says is nearer than what its folder says.
                known = None if row.columns is None else (*row.columns, *partitions)
                row = replace(row, values={**partitions, **row.values}, columns=known)
            yield row


def _read(source: SourceFile, columns: Collection[str] | None) -> Iterator[Row | BadRow]:
    if source.filesystem is None:
        return read_hub(source, columns)
    if is_saved_dataset(source.filesystem, source.path):
        return read_saved_dataset(source, columns)
    if source.suffix == ".parquet":
        return read_parquet(source, columns)
    if source.suffix in (".csv", ".tsv"):
        return read_csv(source, columns)
    if source.suffix in LINE_SUFFIXES:
        return read_jsonl(source)
    raise UserError(
        f"{source.name}: unknown kind of file {source.suffix or 'without a suffix'!r}; "
        "expected .parquet, .csv, .tsv or .jsonl"
    )
