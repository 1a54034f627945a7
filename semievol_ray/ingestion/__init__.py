"""Reading a corpus in three passes, each of them tasks: `split.py` has their order.

    reading   parts of the user's files -> blocks of examples, repetitions among them
    repeats   the keys of all blocks, bucket by bucket -> which rows say what one before them said
    sharding  blocks without those rows -> shards, each of `shard_rows`

Which rows are kept, their ids, their order and their shards depend on the files alone, not on how
many tasks there are. What the tasks hand back does not grow with the rows, and no pass holds more
of them than a task's own: blocks lie in the run's folder until the shards are written.

Rows that an earlier run had (`known.py`) are left out by their keys too.
"""

from semievol_ray.ingestion.blocks import BUCKETS, Block
from semievol_ray.ingestion.examples import ExampleReader
from semievol_ray.ingestion.known import KnownKeys
from semievol_ray.ingestion.reading import Limit, Reader
from semievol_ray.ingestion.sharding import WrittenShards
from semievol_ray.ingestion.split import Split

__all__ = [
    "BUCKETS",
    "Block",
    "ExampleReader",
    "KnownKeys",
    "Limit",
    "Reader",
    "Split",
    "WrittenShards",
]
