"""The labels that are held out, as shards that models and voters answer."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.stages.context import Context
from semievol_ray.stages.embedding import build_retriever, embedding_map
from semievol_ray.stages.retrieve import retrieve_shard
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
        # What embeds in tasks needs the places of the replicas.
        context.release_engines()
        retriever = build_retriever(context, context.labeled)
        pairs = [(name, layout.same_shard(name, f"{folder}/neighbours")) for name in sources]
        write = partial(retrieve_shard, context.run, retriever)
        list(embedding_map(context, len(pairs))(write, pairs))
    return f"{folder}/neighbours"
