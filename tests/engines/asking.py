"""What tests ask of an engine, in one line each."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from semievol_ray.config import GenerationConfig
from semievol_ray.engines import Batch, Engine, EngineOptions, Request, Sampling


def options(adapter_rank: int | None = None, **settings: object) -> EngineOptions:
    """Those of a replica under `generation` with some settings."""
    return EngineOptions.of(GenerationConfig(**settings), adapter_rank)


async def generate(
    engine: Engine, requests: Sequence[Request], sampling: Sampling, adapter: str | None = None
) -> pa.Table:
    """The GENERATION table of some requests."""
    return (await engine.answer(Batch(requests, sampling, adapter=adapter))).generated


async def score_all(
    engine: Engine,
    requests: Sequence[Request],
    candidates: Sequence[Sequence[str]],
    adapter: str | None = None,
    *,
    closed: bool = False,
) -> pa.Array:
    """log P of each request's candidates."""
    batch = Batch(requests, candidates=candidates, adapter=adapter, closed=closed)
    return (await engine.answer(batch)).scores
