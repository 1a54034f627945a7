"""Parquet files, saved datasets and hub datasets: rows of typed columns.

Only the columns that are asked for are read. Where the schema names the classes of an integer
column, as the hub's files do, a cell is the name and not its index.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.sources.files import SourceFile
from semievol_ray.sources.parts import FilePart
from semievol_ray.sources.rows import BadRow, Row, flat

_BATCH_ROWS = 1024
# A column chunk is read in pieces: a row group can be larger than memory.
_BUFFER_BYTES = 8 << 20

Classes = dict[str, list[str]]


Rows = Generator[Row | BadRow, None, int]


def read_parquet(part: FilePart, columns: Collection[str] | None) -> Rows:
    """The rows of row groups of a Parquet file; returns how many they are."""
    source = part.file
    assert source.filesystem is not None
    with source.filesystem.open_input_file(source.path) as stream:
        file = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES)
        wanted = chosen(source, file.schema_arrow.names, columns)
        groups = range(part.start, file.num_row_groups if part.stop is None else part.stop)
        batches = file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=wanted)
        return (yield from _rows(source, file.schema_arrow, wanted, batches))


def read_saved_dataset(part: FilePart, columns: Collection[str] | None) -> Rows:
    """The rows of what `Dataset.save_to_disk` wrote: Arrow streams, named in `state.json`.

    Returns how many they are.
    """
    source = part.file
    assert source.filesystem is not None
    with source.filesystem.open_input_stream(f"{source.path}/state.json") as stream:
        state = json.loads(stream.read())
    number = 0
    for entry in state["_data_files"][part.start : part.stop]:
        path = f"{source.path}/{entry['filename']}"
        with source.filesystem.open_input_file(path) as stream:
            reader = pa.ipc.open_stream(stream)
            wanted = chosen(source, reader.schema.names, columns)
            number = yield from _rows(source, reader.schema, wanted, _pieces(reader), number)
    return number


def read_hub(source: SourceFile, columns: Collection[str] | None) -> Rows:
    """The rows of a dataset of the Hugging Face hub, streamed; returns how many they are."""
    import datasets

    name, configuration, revision, split = parse_hub(source.name)
    try:
        stream = datasets.load_dataset(
            name, configuration, revision=revision, split=split, streaming=True
        )
        features = stream.features or {}
        if features:
            wanted = chosen(source, list(features), columns)
            stream = stream.select_columns(wanted)
        classes = {
            key: list(feature.names)
            for key, feature in features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        names, number = tuple(features) or None, 0
        for number, values in enumerate(stream, start=1):
            yield Row(source.name, number, _with_names(dict(values), classes), names)
        return number
    except SemiEvolError:
        raise
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{source.name}: cannot be loaded: {flat(error)}") from None
    except Exception as error:  # of whichever of its network libraries
        raise SemiEvolError(f"{source.name}: cannot be loaded: {flat(error)}") from error


def parse_hub(name: str) -> tuple[str, str | None, str | None, str]:
    """Dataset, configuration, revision and split of `hf://dataset[:config][@revision]/split`.

    A revision may hold slashes (`refs/convert/parquet`). Raises UserError for another form.
    """
    where, _, split = name.removeprefix("hf://").rpartition("/")
    where, at, revision = where.partition("@")
    dataset, colon, configuration = where.partition(":")
    parts = [dataset, split, *([configuration] if colon else []), *([revision] if at else [])]
    if not all(parts):
        raise UserError(f"{name}: expected hf://dataset[:config][@revision]/split")
    return dataset, configuration or None, revision or None, split


def chosen(source: SourceFile, names: Sequence[str], columns: Collection[str] | None) -> list[str]:
    """Those of a table's columns that are asked for, themselves or by a field inside them.

    Raises UserError where one of them is there twice.
    """
    wanted = set(names)
    if columns is not None:
        wanted = {c if c in names else c.partition(".")[0] for c in columns}
    found = [name for name in names if name in wanted]
    for name in found:
        if found.count(name) > 1:
            raise UserError(f"{source.name}: two columns are named {name!r}; rename one")
    return found


def _rows(
    source: SourceFile,
    schema: pa.Schema,
    wanted: Sequence[str],
    batches: Iterable[pa.RecordBatch],
    number: int = 0,
) -> Rows:
    names, classes = tuple(schema.names), _classes(schema)
    for batch in batches:
        batch = _with_short_floats(batch.select(list(wanted)))
        for values in _values(batch):
            number += 1
            if isinstance(values, str):
                yield BadRow(source.name, number, values)
            else:
                yield Row(source.name, number, _with_names(values, classes), names)
    return number


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """Each row of a batch, or why it cannot be read: then each is tried by itself."""
    if batch.num_columns == 0:
        yield from ({} for _ in range(batch.num_rows))
        return
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError, pa.ArrowException):
        pass
    for i in range(batch.num_rows):
        try:
            yield batch.slice(i, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield "not valid UTF-8"
        except (ValueError, OverflowError, pa.ArrowException) as error:
            yield f"cannot be read: {flat(error)}"


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            yield batch.slice(start, _BATCH_ROWS)


def _with_short_floats(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Single-precision numbers as they are written: 0.1 and not 0.10000000149011612."""
    for i, field in enumerate(batch.schema):
        if pa.types.is_float16(field.type) or pa.types.is_float32(field.type):
            short = batch.column(i).cast(pa.float32()).cast(pa.string()).cast(pa.float64())
            batch = batch.set_column(i, field.name, short)
    return batch


def _classes(schema: pa.Schema) -> Classes:
    """The names of integer classes that `datasets` writes into a schema's metadata."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])
        features = found["info"]["features"].items()
        return {key: f["names"] for key, f in features if f.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _with_names(values: dict[str, Any], classes: Classes) -> dict[str, Any]:
    for column, names in classes.items():
        index = values.get(column)
        if isinstance(index, int):
            # Datasets write -1 where they keep the answer to themselves.
            values[column] = names[index] if 0 <= index < len(names) else None
    return values
