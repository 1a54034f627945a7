"""Reading is streaming: a file larger than the memory that reading may take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS, TEXT = 60_000, "some words of a passage " * 100  # 144 MB

# Peak memory of reading a file to its end, above what the imports take.
PROGRAM = """
import resource, sys
from semievol_ray.sources import find_files, read_rows
(source,) = find_files(sys.argv[1], "x")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(1 for _ in read_rows(source, ["text"]))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "csv.gz"])
def test_memory_is_bounded_whatever_the_file_is(tmp_path, kind) -> None:
    path = tmp_path / f"big.{kind}"
    write(path, kind)
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    rows, kibibytes = map(int, found.stdout.split())
    assert rows == ROWS
    assert kibibytes < 60_000, f"{kibibytes} KiB for a file of {ROWS * len(TEXT) >> 10} KiB"


def write(path: Path, kind: str) -> None:
    if kind == "parquet":
        # One row group, nothing to compress away: the worst that writers make.
        texts = [f"{i} {TEXT}" for i in range(ROWS)]
        pq.write_table(pa.table({"text": texts}), path, row_group_size=ROWS,
                       compression="none", use_dictionary=False)  # fmt: skip
        return
    with pa.output_stream(path) as sink:  # compresses by the suffix
        if "csv" in kind:
            sink.write(b"text\n")
        for i in range(ROWS):
            line = f'{{"text": "{i} {TEXT}"}}\n' if kind == "jsonl" else f"{i} {TEXT}\n"
            sink.write(line.encode())
