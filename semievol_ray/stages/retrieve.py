"""Retrieve (in-context propagation): the k nearest labelled examples of every other example."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from semievol_ray.config import Config
from semievol_ray.model_files import model_identity
from semievol_ray.retrieval import Retriever
from semievol_ray.schema import DEMONSTRATIONS
from semievol_ray.stages.context import Context
from semievol_ray.stages.counts import Counts
from semievol_ray.stages.embedding import build_retriever, embedding_map
from semievol_ray.stages.shards import TALLIES, Shards
from semievol_ray.stages.stage import Outcome, Stage, retrieval_settings
from semievol_ray.store import RunDirectory


def run(context: Context, _: int) -> Outcome:
    """Write the shards of neighbours of the unlabelled and the test set."""
    config = context.config
    splits = [
        Shards(context.run, examples, f"{context.folder('retrieve')}/{split}")
        for split in ("unlabeled", "test")
        if (examples := context.shards(split))
    ]
    todo = [pair for shards in splits for pair in shards.missing]
    done = sum(len(shards.done) for shards in splits)
    context.progress.start("retrieve", done + len(todo), "shards")
    context.progress.advance("retrieve", done)
    if todo:
        retriever = build_retriever(context, context.labeled)
        apply = embedding_map(context, len(todo))
        for shards in splits:
            work = apply(partial(retrieve_shard, context.run, retriever), shards.missing)
            for _counts in shards.recording(work):
                context.progress.advance("retrieve", 1)
    outputs = {name: rows for shards in splits for name, rows in shards.outputs().items()}
    return Outcome(outputs, {"labeled_rows": len(context.labeled), "k": config.retrieval.k})


def _settings(config: Config, _: int) -> dict[str, Any]:
    retrieval = retrieval_settings(config)
    if config.retrieval.embedder == "model":
        retrieval["base"] = model_identity(config.model)
    return {"retrieval": retrieval}


STAGE = Stage(
    "retrieve",
    run,
    _settings,
    lambda config, number: ["ingest"],
    writes=("*/shard-*.parquet", f"*/{TALLIES}"),
    in_round=False,
)


def retrieve_shard(
    run: RunDirectory, retriever: Retriever, pair: tuple[str, str]
) -> tuple[str, Counts]:
    """Write the DEMONSTRATIONS table of a shard; its name and counts."""
    source, target = pair
    examples = run.read_table(source, ["example_id", "question", "context", "options"])
    return target, Counts(rows=run.write_table(target, demonstrations(examples, retriever)))


def demonstrations(examples: pa.Table, retriever: Retriever) -> pa.Table:
    """The DEMONSTRATIONS table of some examples, nearest first, never an example itself."""
    ids: Sequence[str] = examples["example_id"].to_pylist()
    found, similarities = retriever.nearest(examples)
    return pa.table(
        {"example_id": ids, "demonstration_ids": found, "similarities": similarities},
        schema=DEMONSTRATIONS,
    )
