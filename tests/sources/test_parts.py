"""Parts of files: each row in exactly one of them, and numbered from its start."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray.sources import cut, find_files, read_part, read_rows
from semievol_ray.sources import parts as parts_module


@pytest.mark.parametrize("size", [1, 7, 50, 333, 10_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines(tmp_path, monkeypatch, size, end) -> None:
    lines = [json.dumps({"text": "é" * (i % 40), "n": i}, ensure_ascii=False) for i in range(60)]
    lines[10] = lines[11] = lines[-1] = ""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + end.join(line.encode() for line in lines))
    assert_read_once(path, monkeypatch, size)


@pytest.mark.parametrize("size", [1, 500, 1_000_000])
def test_row_groups(tmp_path, monkeypatch, size) -> None:
    table = pa.table({"text": [f"row {i}" for i in range(500)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=40)
    assert_read_once(tmp_path / "a.parquet", monkeypatch, size)


def test_files_of_a_saved_dataset(tmp_path, monkeypatch) -> None:
    import datasets

    data = datasets.Dataset.from_dict({"text": [f"row {i}" for i in range(50)]})
    data.save_to_disk(tmp_path / "saved", num_shards=4)
    assert len(assert_read_once(tmp_path / "saved", monkeypatch, 10)) == 4


def test_small_files_are_read_together(tmp_path) -> None:
    for i in range(9):
        (tmp_path / f"{i}.csv").write_text("text\nx\n")
    (portion,) = cut(find_files(str(tmp_path), "x"))
    assert [part.file.path[-5:] for part in portion] == [f"{i}.csv" for i in range(9)]


def test_what_cannot_be_looked_into_is_left_to_its_reader(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(parts_module, "_FEWEST_BYTES", 4)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    ((part,),) = cut(find_files(str(tmp_path / "a.parquet"), "x"))
    assert (part.start, part.stop) == (0, None)


def assert_read_once(path: Path, monkeypatch, size: int) -> list:
    """The parts of a file, which together hold what the file does."""
    monkeypatch.setattr(parts_module, "_FEWEST_BYTES", size)
    monkeypatch.setattr(parts_module, "_MOST_PARTS", 1 << 30)
    (file,) = find_files(str(path), "x")
    found, before = [], 0
    parts = [part for portion in cut([file]) for part in portion]
    for part in parts:
        rows = read_part(part)
        while True:
            try:
                row = next(rows)
            except StopIteration as end:
                before += end.value
                break
            found.append((row.number + before, row.values))
    assert found == [(row.number, row.values) for row in read_rows(file)]
    return parts
