"""Shard sizes: many shards a replica, none absurdly small, whatever the files are."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray.sources import find_files
from semievol_ray.sources.planner import estimate_rows, plan_shard_rows


@pytest.mark.parametrize(
    ("rows", "replicas", "planned"),
    [(None, 8, 4096), (10, 1, 256), (9_000_000, 256, 1024), (10**8, 1, 4096), (40_000, 2, 512)],
)
def test_a_replica_gets_many_shards(rows, replicas, planned) -> None:
    assert plan_shard_rows(rows, replicas) == planned
    if planned not in (256, 4096):
        assert 32 <= rows / planned / replicas <= 64


def test_rows_are_estimated_without_reading_the_files(tmp_path) -> None:
    rows = [{"question": f"number {i:06} asks for this and that"} for i in range(20_000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert estimate_rows(find_files(str(tmp_path / "a.jsonl"), "x")) == pytest.approx(
        20_000, rel=0.01
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    assert estimate_rows(find_files(str(tmp_path / "b.parquet"), "x")) == 20_000
    (tmp_path / "a.json").write_text(json.dumps(rows))
    found = estimate_rows(find_files(str(tmp_path / "a.json"), "x"))
    assert found == pytest.approx(20_000, rel=0.05)
    (tmp_path / "b.json").write_text("[1, ")
    assert estimate_rows(find_files(str(tmp_path / "b.json"), "x")) is None
    (tmp_path / "c.csv.gz").write_bytes(b"")
    assert estimate_rows(find_files(str(tmp_path / "c.csv.gz"), "x")) is None
    (tmp_path / "d.parquet").write_text("this is no Parquet")
    assert estimate_rows(find_files(str(tmp_path / "d.parquet"), "x")) is None
