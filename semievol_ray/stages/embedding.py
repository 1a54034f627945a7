"""What embeds examples: in this process, or in tasks where a model does it.

A model that embeds would stay in this process, and in the memory of a GPU that it was not given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pyarrow as pa

from semievol_ray.config import ModelConfig, RetrievalConfig
from semievol_ray.ray_session import shard_map
from semievol_ray.retrieval import Retriever
from semievol_ray.stages.context import Context

# Of a task that holds the base model for its hidden states.
_GPUS = 1.0


def embedding_map(context: Context, items: int) -> Callable[..., Iterable[Any]]:
    """`shard_map` for functions that embed; engines must have been released."""
    embedder = context.config.retrieval.embedder
    return shard_map(
        context.config.ray,
        items,
        always_ray=embedder in ("model", "sentence-transformers"),
        gpus=_GPUS if embedder == "model" and context.has_gpus else 0.0,
    )


def build_retriever(context: Context, labeled: pa.Table) -> Retriever:
    """The index of some labelled examples."""
    build = partial(_build, context.config.retrieval, context.base)
    (retriever,) = embedding_map(context, 1)(build, [labeled])
    return retriever


def nearest_others(context: Context, labeled: pa.Table, k: int) -> list[list[str]]:
    """Ids of each labelled example's k nearest others, nearest first."""
    settings = context.config.retrieval.model_copy(update={"k": k})
    find = partial(_nearest_others, settings, context.base)
    (near,) = embedding_map(context, 1)(find, [labeled])
    return near


def _build(settings: RetrievalConfig, base: ModelConfig, labeled: pa.Table) -> Retriever:
    return Retriever.build(labeled, settings, base)


def _nearest_others(
    settings: RetrievalConfig, base: ModelConfig, labeled: pa.Table
) -> list[list[str]]:
    near, _ = Retriever.build(labeled, settings, base).nearest(labeled)
    return near
