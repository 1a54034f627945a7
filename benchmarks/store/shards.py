"""Going on with a stage of 100,000 shards in a store where every call takes 20 ms.

Ours: `Shards`, which lists the folder once and reads the tallies that the stage wrote beside its
shards. The peer asks each shard for its rows, as `pyarrow.dataset` counts them, on 32 threads. The
store is the local disk behind calls that wait; a listing waits once for each 1,000 names, as S3's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from benchmarks.common.report import report, row
from semievol_ray.stages.counts import Counts
from semievol_ray.stages.shards import Shards
from semievol_ray.store import RunDirectory, layout

CALL_SECONDS = 0.02
NAMES_PER_PAGE = 1000
ROWS = 64
# Shards are links to one file: a file system allows so many, or twice as many.
_MOST_LINKS = 30_000
FOLDER = "round-1/generate/attempt-1"


class SlowStore(fs.FileSystemHandler):
    """The local disk; every call waits, and is counted."""

    def __init__(self) -> None:
        self.local = fs.LocalFileSystem()
        self.calls = 0

    def _wait(self, calls: int = 1) -> None:
        self.calls += calls
        time.sleep(CALL_SECONDS * calls)

    def get_type_name(self) -> str:
        return "slow"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        self._wait(len(paths))
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        found = self.local.get_file_info(selector)
        self._wait(1 + len(found) // NAMES_PER_PAGE)
        return found

    def open_input_stream(self, path: str) -> Any:
        self._wait()
        return self.local.open_input_stream(path, compression=None)

    def open_input_file(self, path: str) -> Any:
        self._wait()
        return self.local.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        self._wait()
        return self.local.open_output_stream(path, compression=None)

    def delete_file(self, path: str) -> None:
        self._wait()
        self.local.delete_file(path)

    def _unused(self, *_: Any) -> Any:
        raise NotImplementedError

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _unused
    move = copy_file = open_append_stream = _unused


def slow_run(folder: Path) -> tuple[RunDirectory, SlowStore]:
    run, store = RunDirectory(str(folder)), SlowStore()
    run.filesystem, run.is_local = fs.PyFileSystem(store), False
    return run, store


def write(folder: Path, shards: int) -> dict[str, int]:
    """A stage that was killed when all its shards were there, but its manifest was not."""
    run = RunDirectory(str(folder))
    schema = pa.schema([("example_id", pa.string()), ("tokens", pa.int32())])
    rows = pa.Table.from_pylist([{"example_id": "e", "tokens": 1}] * ROWS, schema=schema)
    names = [f"{FOLDER}/{layout.shard(number)}" for number in range(shards)]
    for number, name in enumerate(names):
        if number % _MOST_LINKS == 0:
            first = name
            run.write_table(first, rows)
        else:
            os.link(run.full_path(first), run.full_path(name))
    counts = asdict(Counts(rows=ROWS, tokens=ROWS))
    # A tally every five seconds of a stage that makes 200 shards a second.
    for number, start in enumerate(range(0, shards, 1000)):
        tally = dict.fromkeys(names[start : start + 1000], counts)
        run.write_json(f"{FOLDER}/tally-{number:05d}.json", tally)
    return {f"ingest/attempt-1/unlabeled/{layout.shard(n)}": ROWS for n in range(shards)}


def ours(folder: Path, sources: dict[str, int]) -> dict[str, float]:
    run, store = slow_run(folder)
    started = time.perf_counter()
    found = Shards(run, sources, FOLDER)
    assert not found.missing and found.total.rows == ROWS * len(sources)
    return {"seconds": time.perf_counter() - started, "calls": store.calls}


def peer(folder: Path, sources: dict[str, int]) -> dict[str, float]:
    run, store = slow_run(folder)
    form = ds.ParquetFileFormat()
    paths = [run.full_path(layout.same_shard(source, FOLDER)) for source in sources]

    def rows(path: str) -> int:
        return form.make_fragment(path, run.filesystem).count_rows()

    started = time.perf_counter()
    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(rows, paths)) == ROWS * len(sources)
    return {"seconds": time.perf_counter() - started, "calls": store.calls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows, details = [], {}
    for shards in (10_000, 100_000):
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root)
            sources = write(folder, shards)
            sides: dict[str, tuple[Callable[..., dict[str, float]], list[dict[str, float]]]] = {
                "ours": (ours, []), "peer": (peer, []),
            }  # fmt: skip
            for _ in range(options.repeats if shards == 10_000 else 1):
                for side, found in sides.values():
                    found.append(side(folder, sources))
        median = {
            name: statistics.median(f["seconds"] for f in found)
            for name, (_, found) in sides.items()
        }
        details[str(shards)] = {name: found for name, (_, found) in sides.items()}
        print(json.dumps({shards: details[str(shards)]}))
        rows.append(
            row(
                f"going on with a stage of {shards:,} shards, 20 ms a call",
                median["ours"],
                median["peer"],
                "rows of every shard by pyarrow.dataset, 32 threads",
                unit="s",
                smaller_is_better=True,
            )
        )
    report(rows, repeats=options.repeats, packages=("pyarrow",), json_path=options.json,
           details=details)  # fmt: skip


if __name__ == "__main__":
    main()
