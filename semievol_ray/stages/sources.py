"""Rows of the user's files, one at a time, each with the place it came from.

A row that cannot be read comes out as a BadRow and not as an exception: one broken line costs
itself alone. What makes a whole file unreadable is a UserError.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from semievol_ray.errors import UserError
from semievol_ray.store import file_fingerprint
from semievol_ray.store.run_directory import open_uri

_PARQUET_BATCH_ROWS = 4096


@dataclass(frozen=True)
class Row:
    """A readable row; `number` is 1-based and counts data rows (lines, for JSONL)."""

    file: str
    number: int
    values: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read, and why."""

    file: str
    number: int
    reason: str


@dataclass(frozen=True)
class SourceFile:
    """One file behind a path, glob or URI; `filesystem` is null for a Hugging Face dataset."""

    name: str
    filesystem: fs.FileSystem | None
    path: str

    def fingerprint(self, known: Mapping[str, Any] | None = None) -> str:
        """Changes when the file's content does; of a hub dataset it is the name.

        `known` are `state`s by file name: one that has not been touched is not read again.
        """
        if self.filesystem is None:
            return self.path
        path = self.path
        if self.filesystem.get_file_info(path).type == fs.FileType.Directory:
            path = f"{path}/state.json"
        info = self.filesystem.get_file_info(path)
        before = (known or {}).get(self.name)
        if before is not None and before[:2] == [info.size, info.mtime_ns]:
            return str(before[2])
        key = (self.filesystem.type_name, path, info.size, info.mtime_ns)
        if key not in _CONTENTS:
            _CONTENTS[key] = file_fingerprint(self.filesystem, path)
        return _CONTENTS[key]

    def state(self) -> list[Any]:
        """Size, modification time and fingerprint, to be kept for `fingerprint`."""
        if self.filesystem is None:
            return [0, 0, self.path]
        info = self.filesystem.get_file_info(self.path)
        return [info.size, info.mtime_ns, self.fingerprint()]


# Of files that this process has read: ingest asks twice.
_CONTENTS: dict[tuple[str, str, int, int], str] = {}


def find_files(location: str, setting: str) -> list[SourceFile]:
    """The files behind a path, a glob, a folder, a URI or `hf://dataset[:config]/split`.

    Raises UserError, naming the setting, where there is none.
    """
    if location.startswith("hf://"):
        return [SourceFile(location, None, location.removeprefix("hf://"))]
    filesystem, path = open_uri(location)
    if any(character in path for character in "*?["):
        root = path[: min(path.index(c) for c in "*?[" if c in path)].rpartition("/")[0]
        selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
        found = [
            i.path
            for i in filesystem.get_file_info(selector)
            if i.type == fs.FileType.File and fnmatch.fnmatchcase(i.path, path)
        ]
    else:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.Directory and not _is_saved_dataset(filesystem, path):
            inside = filesystem.get_file_info(fs.FileSelector(path))
            found = [i.path for i in inside if i.type == fs.FileType.File]
        else:
            found = [] if info.type == fs.FileType.NotFound else [path]
    if not found:
        raise UserError(f"{setting}: {location}: no such file")
    prefix = "" if "://" not in location else location.partition("://")[0] + "://"
    return [SourceFile(prefix + p, filesystem, p) for p in sorted(found)]


def read_rows(source: SourceFile) -> Iterator[Row | BadRow]:
    """The rows of a file, streamed. Raises UserError where the file itself cannot be read."""
    try:
        if source.filesystem is None:
            yield from _read_hub(source)
            return
        if _is_saved_dataset(source.filesystem, source.path):
            yield from _read_saved_dataset(source)
            return
        stem = source.path.removesuffix(".gz").removesuffix(".zst").removesuffix(".bz2")
        suffix = Path(stem).suffix.lower()
        if suffix == ".parquet":
            yield from _read_parquet(source)
        elif suffix in (".csv", ".tsv"):
            yield from _read_csv(source, "\t" if suffix == ".tsv" else ",")
        elif suffix in (".jsonl", ".ndjson", ".json"):
            yield from _read_jsonl(source)
        else:
            raise UserError(
                f"{source.name}: unknown kind of file {suffix or 'without a suffix'!r}; "
                "expected .parquet, .csv, .tsv or .jsonl"
            )
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{source.name}: cannot be read: {_flat(error)}") from None


def _read_parquet(source: SourceFile) -> Iterator[Row]:
    assert source.filesystem is not None
    number = 0
    with source.filesystem.open_input_file(source.path) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(_PARQUET_BATCH_ROWS):
            for values in batch.to_pylist():
                number += 1
                yield Row(source.name, number, values)


def _read_csv(source: SourceFile, delimiter: str) -> Iterator[Row | BadRow]:
    csv.field_size_limit(sys.maxsize)
    with _open_text(source, newline="") as stream:
        reader = csv.DictReader(stream, delimiter=delimiter)
        number = 0
        try:
            for values in reader:
                number += 1
                if None in values or None in values.values():
                    fields = len(reader.fieldnames or ())
                    yield BadRow(source.name, number, f"not the {fields} fields of the header")
                elif not all(_is_unicode(text) for text in values.values()):
                    yield BadRow(source.name, number, "not valid UTF-8")
                else:
                    yield Row(source.name, number, dict(values))
        except csv.Error as error:
            raise UserError(f"{source.name}: row {number + 1}: {error}") from None


def _read_jsonl(source: SourceFile) -> Iterator[Row | BadRow]:
    with _open_text(source) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            if not _is_unicode(line):
                yield BadRow(source.name, number, "not valid UTF-8")
                continue
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                yield BadRow(source.name, number, f"broken JSON: {error.msg}")
                continue
            if isinstance(values, dict):
                yield Row(source.name, number, values)
            else:
                yield BadRow(source.name, number, "not a JSON object")


def _read_hub(source: SourceFile) -> Iterator[Row]:
    import datasets

    name, slash, split = source.path.rpartition("/")
    if not slash:
        raise UserError(f"{source.name}: expected hf://dataset[:config]/split")
    name, _, configuration = name.partition(":")
    try:
        stream = datasets.load_dataset(name, configuration or None, split=split, streaming=True)
        for number, values in enumerate(stream, start=1):
            yield Row(source.name, number, dict(values))
    except (OSError, ValueError) as error:
        raise UserError(f"{source.name}: cannot be loaded: {_flat(error)}") from None


def _read_saved_dataset(source: SourceFile) -> Iterator[Row]:
    import datasets

    try:
        saved = datasets.load_from_disk(source.path)
    except (OSError, ValueError) as error:
        raise UserError(f"{source.name}: cannot be loaded: {_flat(error)}") from None
    for number, values in enumerate(saved, start=1):
        yield Row(source.name, number, dict(values))


def _is_saved_dataset(filesystem: fs.FileSystem, path: str) -> bool:
    return filesystem.get_file_info(f"{path}/state.json").type == fs.FileType.File


def _open_text(source: SourceFile, newline: str | None = None) -> io.TextIOWrapper:
    assert source.filesystem is not None
    stream = source.filesystem.open_input_stream(source.path)  # decompresses by the suffix
    # Undecodable bytes survive as surrogates: the row that holds them is told apart later.
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _flat(error: BaseException) -> str:
    return " ".join(str(error).split())
