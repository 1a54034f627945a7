"""Locations in an object store: the same patterns, over a real S3-speaking server."""

from __future__ import annotations

import pytest
from pyarrow import fs

from semievol_ray import UserError
from semievol_ray.sources import find_files, read_rows, refuse_overlap
from tests.store.test_object_store import run_uri, server, uri

__all__ = ["run_uri", "server"]  # fixtures

KEYS = ["in/a.jsonl", "in/b[1].jsonl", "in/_SUCCESS", "in/old/z.jsonl", "in/lang=en/p.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("in/*.jsonl", ["in/a.jsonl", "in/b[1].jsonl"]),
        ("in/b[1].jsonl", ["in/b[1].jsonl"]),
        ("in/[a]*.jsonl", ["in/a.jsonl"]),
        ("in", ["in/a.jsonl", "in/b[1].jsonl", "in/lang=en/p.jsonl"]),
        ("in/**/*.jsonl", ["in/a.jsonl", "in/b[1].jsonl", "in/lang=en/p.jsonl", "in/old/z.jsonl"]),
    ],
)
def test_patterns_in_a_bucket(run_uri, server, tmp_path, pattern, named) -> None:
    filesystem, path = fs.FileSystem.from_uri(run_uri)
    for key in KEYS:
        with filesystem.open_output_stream(f"{path}/{key}") as sink:
            sink.write(f'{{"text": "{key}", "label": "a"}}\n'.encode())
    found = find_files(uri(server, f"{tmp_path.name}/{pattern}"), "data.labeled")
    assert [file.path.removeprefix(f"{path}/") for file in found] == sorted(named)
    assert [row.values["text"] for file in found for row in read_rows(file)] == sorted(named)
    with pytest.raises(UserError, match="lies inside the run directory|would also take what"):
        refuse_overlap(run_uri, "data.labeled", uri(server, f"{tmp_path.name}/{pattern}"), found)
