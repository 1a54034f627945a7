"""The same reading and exact deduplication, with what a user would take instead.

Neither checks a row, numbers what it leaves out, keeps the order, or cuts shards of one size.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from datatrove.data import Document


def with_ray_data(corpus: Path, into: Path, cpus: int) -> int:
    """Read, hash, shuffle by hash, keep the first of each; returns the rows that are left."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    data = ray.data.read_json(str(corpus), lines=True)
    data = data.map_batches(_with_ids, batch_format="pyarrow")
    data = data.repartition(2 * cpus, keys=["id"])
    data = data.map_batches(_first_of_each, batch_format="pyarrow", batch_size=None)
    data.write_parquet(str(into))
    return _rows_of(into, "*.parquet")


def with_datatrove(corpus: Path, into: Path, cpus: int) -> int:
    """Its exact deduplication in three steps, the corpus read by the first and the third."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        ExactDedupConfig,
        ExactDedupFilter,
        ExactDedupSignature,
        ExactFindDedups,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import ParquetWriter
    from loguru import logger

    logger.remove()
    config = ExactDedupConfig(content_getter=content)
    files = len(list(corpus.iterdir()))
    reader = JsonlReader(str(corpus))
    signatures, repeats = str(into / "signatures"), str(into / "repeats")
    steps = [
        ([reader, ExactDedupSignature(signatures, config, finder_workers=cpus)], files),
        ([ExactFindDedups(signatures, repeats, config, lines_to_buffer=1000)], cpus),
        ([reader, ExactDedupFilter(repeats, config), ParquetWriter(str(into / "rows"))], files),
    ]
    for number, (pipeline, tasks) in enumerate(steps):
        logs = str(into / f"logs-{number}")
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=cpus, logging_dir=logs).run()
    return _rows_of(into / "rows", "*.parquet")


def content(document: Document) -> bytes:
    """What two documents must share to be one."""
    return document.text.encode()


def _with_ids(table: pa.Table) -> pa.Table:
    texts = table["text"].to_pylist()
    ids = [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]
    return table.append_column("id", pa.array(ids))


def _first_of_each(table: pa.Table) -> pa.Table:
    if not len(table):
        return table
    numbered = table.append_column("n", pa.array(range(len(table))))
    firsts = numbered.group_by("id").aggregate([("n", "min")])
    return table.take(firsts["n_min"].cast(pa.int64()).take(pc.sort_indices(firsts["n_min"])))


def _rows_of(folder: Path, pattern: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in folder.glob(pattern))
