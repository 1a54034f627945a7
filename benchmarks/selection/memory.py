"""Selection over more responses than fit into memory: its peak memory, and its time.

Writes Parquet shards of distinct examples, four responses each, and selects over them in a process
of its own, whose peak resident memory is what counts. `--rows 100_000_000` takes 10 GB of disk.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from benchmarks.common.report import Row, arguments, report, row
from semievol_ray import selection
from semievol_ray.selection.policies import Paper

ROWS = 10_000_000
SHARD_ROWS = 200_000
MEAN_TOKENS = 31
N = 4
LIMIT_GIB = 1.0


def main() -> None:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--rows", type=int, default=ROWS, help="responses in all")

    args = arguments(__doc__, add)
    shards = -(-args.rows // SHARD_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{shard:05}.parquet") for shard in range(shards)]
        for shard, path in enumerate(paths):
            pq.write_table(responses(shard), path)
        written = sum(Path(path).stat().st_size for path in paths)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            kept, seconds, peak_bytes = pool.apply(select, (paths,))
    examples = shards * SHARD_ROWS // N
    assert abs(kept / examples - 0.5) < 0.1, "half of what has an answer"
    million = shards * SHARD_ROWS / 1e6
    print(f"kept {kept} of {examples} examples; the shards take {written / 1e9:.1f} GB")
    claim = f"selection over {million:.0f} M responses in {shards} Parquet shards"
    rows: list[Row] = [
        row(
            f"{claim}: peak memory",
            peak_bytes / 2**30,
            LIMIT_GIB,
            "the limit",
            unit="GiB",
            goal=1.0,
            smaller_is_better=True,
        ),
        row(f"{claim}: time", seconds, None, "–", unit="s"),
    ]
    report(
        rows,
        repeats=1,
        packages=["pyarrow", "numpy"],
        json_path=args.json,
        notes=[
            f"mean length {MEAN_TOKENS}, {N} responses for each example, policy paper",
            "peak memory is the resident memory of the whole selecting process",
        ],
    )


def responses(shard: int) -> pa.Table:
    """The columns that selection reads, of the examples of one shard."""
    rng = np.random.default_rng(shard)
    offsets = np.zeros(SHARD_ROWS + 1, np.int32)
    offsets[1:] = np.cumsum(rng.poisson(MEAN_TOKENS, SHARD_ROWS).clip(1))
    # Of 256 values, so that a hundred million rows fit on a disk.
    values = -rng.integers(1, 257, offsets[-1], dtype=np.uint16).astype(np.float32) / 64
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
    names = pa.array([f"example-{shard:05}-{i:06}" for i in range(SHARD_ROWS // N)])
    letters = pa.array([*"ABCD" * 3, None])
    return pa.table(
        {
            "example_id": names.take(pa.array(np.repeat(np.arange(SHARD_ROWS // N), N))),
            "answer": letters.take(pa.array(rng.integers(0, len(letters), SHARD_ROWS))),
            "tokens": lists.value_lengths(),
            "token_logprobs": lists,
        }
    )


def select(paths: list[str]) -> tuple[int, float, int]:
    """How many examples were selected, in how many seconds, at which peak memory in bytes."""
    start = time.perf_counter()
    tables = selection.select_shards(
        paths,
        None,
        filesystem=pafs.LocalFileSystem(),
        policy=Paper(percentile=50.0),
        kind="multiple_choice",
    )
    kept = sum(pc.sum(table["selected"]).as_py() for table in tables)
    seconds = time.perf_counter() - start
    return kept, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
