"""Rows of the user's files, one at a time, each with the place it came from.

A row that cannot be read comes out as a BadRow and not as an exception: one broken line costs
itself alone. What makes a whole file unreadable is a UserError.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from semievol_ray.errors import UserError
from semievol_ray.sources.files import LINE_SUFFIXES, SourceFile, is_json_list, is_saved_dataset
from semievol_ray.sources.json_list import read_json_list
from semievol_ray.sources.lines import read_csv, read_jsonl
from semievol_ray.sources.parts import FilePart
from semievol_ray.sources.rows import BadRow, Row
from semievol_ray.sources.tables import Rows, read_hub, read_parquet, read_saved_dataset


def read_rows(source: SourceFile, columns: Collection[str] | None = None) -> Iterator[Row | BadRow]:
    """The rows of a file, streamed, with the columns of its Hive partitions.

    `columns` are all that will be asked of a row (`context.contexts` needs `context`); null is
    every one. Raises UserError where the file itself cannot be read, SemiEvolError where a store
    or the hub does not answer.
    """
    yield from read_part(FilePart(source), columns)


def read_part(part: FilePart, columns: Collection[str] | None = None) -> Rows:
    """`read_rows` of a part of a file, whose rows are numbered from its start.

    Returns, as a generator does, how many rows (lines, of JSONL) it has, the empty ones too.
    """
    with part.file.readable():
        return (yield from _with_partitions(_read(part, columns), part.file.partitions))


def _with_partitions(rows: Rows, partitions: Mapping[str, str | None]) -> Rows:
    if not partitions:
        return (yield from rows)
    while True:
        try:
            row = next(rows)
        except StopIteration as end:
            return int(end.value)
        if isinstance(row, Row):
            # What the file itself says is nearer than what its folder says.
            known = None if row.columns is None else (*row.columns, *partitions)
            row = replace(row, values={**partitions, **row.values}, columns=known)
        yield row


def _read(part: FilePart, columns: Collection[str] | None) -> Rows:
    source = part.file
    if source.filesystem is None:
        return read_hub(source, columns)
    if is_saved_dataset(source.filesystem, source.path):
        return read_saved_dataset(part, columns)
    if source.suffix == ".parquet":
        return read_parquet(part, columns)
    if source.suffix in (".csv", ".tsv"):
        return read_csv(source, columns)
    if is_json_list(source):
        return read_json_list(source)
    if source.suffix in LINE_SUFFIXES:
        return read_jsonl(part)
    raise UserError(
        f"{source.name}: unknown kind of file {source.suffix or 'without a suffix'!r}; "
        "expected .parquet, .csv, .tsv, .jsonl or .json"
    )
