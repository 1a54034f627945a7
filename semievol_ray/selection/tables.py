"""A table as a caller has it, as a pyarrow table: nothing below asks where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

Table = Any  # What `as_table` takes.


def as_table(name: str, data: Table, columns: Sequence[str]) -> pa.Table:
    """These columns of a table: pyarrow's (table, batch, reader), one that speaks Arrow's stream
    interface (polars, pandas, duckdb), a LazyFrame, or a mapping from names to columns.

    Raises ValueError, with the name of the argument, for anything else and for a missing column.
    """
    table = _table(name, data)
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        has = ", ".join(table.column_names)
        raise ValueError(f"{name}: no column {missing[0]!r}; its columns are {has}")
    return table.select(columns)


def _table(name: str, data: Table) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    if hasattr(data, "collect") and hasattr(data, "collect_schema"):
        data = data.collect()
    try:
        if hasattr(data, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(data).read_all()
        if hasattr(data, "to_arrow_table"):
            return data.to_arrow_table()
        if isinstance(data, pa.RecordBatch):
            return pa.Table.from_batches([data])
        if isinstance(data, Mapping):
            return pa.table(dict(data))
        if hasattr(data, "dtypes") and hasattr(data, "columns"):
            return pa.Table.from_pandas(data, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None
    kind = f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")
    raise ValueError(
        f"{name}: got a {kind}, wanted a table: of pyarrow, polars, pandas or duckdb, or a mapping "
        "from column names to columns"
    )
