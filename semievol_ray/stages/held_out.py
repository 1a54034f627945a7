"""The labels that are held out, as shards that models and voters answer."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.retrieval import Retriever
from semievol_ray.stages.context import Context
from semievol_ray.stages.retrieve import demonstrations
from semievol_ray.store import layout

# What is written for it, within the folder of the stage that asks.
WRITES = ("labels/*", "neighbours/*")


def write_held_out(context: Context, folder: str) -> dict[str, int]:
    """The held-out labels as shards under a stage's folder, with their rows."""
    held = pa.array(sorted(context.held_out), pa.string())
    written = {}
    for shard in context.shards("labeled"):
        table = context.run.read_table(shard)
        table = table.filter(pc.is_in(table["example_id"], held))
        if len(table):
            name = layout.same_shard(shard, f"{folder}/labels")
            written[name] = context.run.write_table(name, table)
    return written


def write_neighbours(context: Context, folder: str, sources: dict[str, int], shots: int) -> str:
    """The demonstrations that each held-out label may be shown: their folder.

    An example is none of its own; the others that are held out may be among them, for being shown
    an answer is not being trained on it.
    """
    if shots:
        retriever = Retriever.build(context.labeled, context.config.retrieval, context.base)
        for source in sources:
            examples = context.run.read_table(source, ["example_id", "question", "context"])
            name = layout.same_shard(source, f"{folder}/neighbours")
            context.run.write_table(name, demonstrations(examples, retriever))
    return f"{folder}/neighbours"
