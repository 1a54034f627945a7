"""Rows that an earlier run had: their keys, kept as those of blocks are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semievol_ray.ingestion.blocks import Block, bucketed
from semievol_ray.ingestion.examples import text_hash
from semievol_ray.store import RunDirectory


@dataclass(frozen=True)
class KnownKeys:
    """Writes the keys of some of an earlier run's shards into a run. Picklable."""

    earlier: RunDirectory
    run: RunDirectory
    folder: str
    ids_given: bool

    def __call__(self, numbered: tuple[int, Sequence[str]]) -> Block:
        """A block that has keys and no rows."""
        number, shards = numbered
        tables = (self.earlier.read_table(name, ["example_id"]) for name in shards)
        ids = [example_id for table in tables for example_id in table["example_id"].to_pylist()]
        # As `Reader` makes them: an id that nobody gave is the content's hash.
        key_of = text_hash if self.ids_given else lambda example_id: int(example_id, 16)
        keys = np.array([key_of(example_id) for example_id in ids], np.uint64)
        block = Block(f"{self.folder}/{number:05d}", len(keys), 0)
        index = np.arange(len(keys), dtype=np.uint32)
        self.run.write_batches(block.keys, bucketed({"key": keys, "index": index}))
        return block
