"""Retrieve (in-context propagation): the k nearest labelled examples of every other example."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyarrow as pa

from semievol_ray.ray_session import shard_map
from semievol_ray.retrieval import Retriever
from semievol_ray.schema import DEMONSTRATIONS
from semievol_ray.stages.context import Context, Outcome
from semievol_ray.store import RunDirectory


def run(context: Context) -> Outcome:
    """Write `retrieve/<split>/shard-*.parquet` for the unlabelled and the test set."""
    config = context.config
    pairs = [
        (name, name.replace("data/", "retrieve/", 1))
        for split in ("unlabeled", "test")
        for name in context.shards(split)
    ]
    todo = list(context.missing(pairs))
    context.progress.start("retrieve", len(pairs), "shards")
    context.progress.advance("retrieve", len(pairs) - len(todo))
    if todo:
        retriever = Retriever.build(context.labeled, config.retrieval, context.base)
        # A model that embeds would stay in this process, and in its GPU's memory.
        heavy = config.retrieval.embedder in ("model", "sentence-transformers")
        apply = shard_map(config.ray, len(todo), always_ray=heavy)
        for _ in apply(partial(_retrieve_shard, context.run, retriever), todo):
            context.progress.advance("retrieve", 1)
    outputs = {target: context.run.row_count(target) or 0 for _, target in pairs}
    return Outcome(outputs, {"labeled_rows": len(context.labeled), "k": config.retrieval.k})


def _retrieve_shard(run: RunDirectory, retriever: Retriever, pair: tuple[str, str]) -> int:
    source, target = pair
    examples = run.read_table(source, ["example_id", "question", "context"])
    return run.write_table(target, demonstrations(examples, retriever))


def demonstrations(examples: pa.Table, retriever: Retriever) -> pa.Table:
    """The DEMONSTRATIONS table of some examples, nearest first, never an example itself."""
    ids: Sequence[str] = examples["example_id"].to_pylist()
    found, similarities = retriever.nearest(examples)
    return pa.table(
        {"example_id": ids, "demonstration_ids": found, "similarities": similarities},
        schema=DEMONSTRATIONS,
    )
