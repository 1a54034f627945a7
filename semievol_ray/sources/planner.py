"""How large a shard is, where the config leaves it open.

A shard is what a replica takes and what a death costs. At the end of a stage the replicas that are
done wait for those that are not, for the time of one shard on average: so a replica should get many
of them. Each one costs a file and a message: so not too many.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import pyarrow.parquet as pq
from pyarrow import fs

from semievol_ray.errors import UserError
from semievol_ray.sources import Row, SourceFile, read_rows
from semievol_ray.sources.files import LINE_SUFFIXES, PACKED_SUFFIXES, TABLE_SUFFIXES, is_json_list

# The wait at the end is about a thirty-second of the stage.
_SHARDS_A_REPLICA = 32
# An engine answers some hundreds of requests at once; two shards should fill it.
_FEWEST_ROWS, _MOST_ROWS = 256, 4096
_SAMPLE_BYTES, _SAMPLE_ROWS = 1 << 18, 256


def plan_shard_rows(rows: int | None, replicas: int) -> int:
    """Rows of a shard for so many rows over so many replicas: a power of two, 256 to 4096.

    `rows` null is a corpus of unknown size, and gets the largest.
    """
    if rows is None:
        return _MOST_ROWS
    fair = max(rows // (_SHARDS_A_REPLICA * replicas), 1)
    return min(max(1 << (fair.bit_length() - 1), _FEWEST_ROWS), _MOST_ROWS)


def estimate_rows(files: Sequence[SourceFile]) -> int | None:
    """About how many rows some files hold; null where that cannot be told without reading them.

    Parquet says it; of a text file it is the size over the mean line of its beginning.
    """
    try:
        return sum(map(_rows_of, files))
    except (_UnknownError, UserError, OSError, ValueError):
        return None  # reading the file will say what is wrong with it


class _UnknownError(Exception):
    pass


def _rows_of(file: SourceFile) -> int:
    if file.filesystem is None or file.path.lower().endswith(PACKED_SUFFIXES):
        raise _UnknownError
    info = file.filesystem.get_file_info(file.path)
    if info.type != fs.FileType.File or file.suffix not in (*TABLE_SUFFIXES, *LINE_SUFFIXES):
        raise _UnknownError
    if is_json_list(file):
        first = itertools.islice(read_rows(file), _SAMPLE_ROWS)
        sizes = [len(json.dumps(row.values)) for row in first if isinstance(row, Row)]
        return round(info.size * len(sizes) / max(sum(sizes), 1))
    with file.filesystem.open_input_file(file.path) as source:
        if file.suffix == ".parquet":
            rows: int = pq.ParquetFile(source).metadata.num_rows
            return rows
        sample = source.read(_SAMPLE_BYTES)
    lines = max(sample.count(b"\n"), 1)
    return round(info.size * lines / max(len(sample), 1))
