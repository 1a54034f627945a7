"""What the replicas do and how the fleet is, as Ray metrics: each node exports them to Prometheus.

Every metric has the tag `model`. Rows, tokens and failures are counted where they are made, in the
replica; replicas, shards, deaths and retries by the driver.
"""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.engines.fleet import FleetState
from semievol_ray.engines.protocol import FAILED, Batch, Engine, Replies

_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]


class MeteredEngine(Engine):
    """An engine whose calls are counted and timed."""

    def __init__(self, engine: Engine, model: str) -> None:
        from ray.util.metrics import Counter, Histogram

        self.tokenizer, self.max_model_len = engine.tokenizer, engine.max_model_len
        self.charges = engine.charges
        self._engine = engine

        def metric(kind: Any, name: str, text: str, **options: Any) -> Any:
            made = kind(f"semievol_{name}", description=text, tag_keys=("model",), **options)
            return made.set_default_tags({"model": model})

        self._rows = metric(Counter, "responses", "responses written")
        self._failed = metric(Counter, "failed_responses", "requests without a response")
        self._tokens = metric(Counter, "tokens", "tokens of responses")
        self._prompt_tokens = metric(Counter, "prompt_tokens", "tokens of prompts")
        self._seconds = metric(
            Histogram, "call_seconds", "seconds from a call to its last row", boundaries=_SECONDS
        )

    async def answer(self, batch: Batch) -> Replies:
        """See Engine.answer."""
        started = time.monotonic()
        replies = await self._engine.answer(batch)
        self._seconds.observe(time.monotonic() - started)
        if replies.generated is not None:
            self._count(replies.generated)
        return replies

    @property
    def answered(self) -> int:  # type: ignore[override]
        """See Engine.answered."""
        return self._engine.answered

    def pulse(self) -> int:
        """See Engine.pulse."""
        return self._engine.pulse()

    def notes(self) -> tuple[str, ...]:
        """See Engine.notes."""
        return self._engine.notes()

    async def close(self) -> None:
        """See Engine.close."""
        await self._engine.close()

    def _count(self, table: pa.Table) -> None:
        failed = pc.sum(pc.is_in(table["finish_reason"], pa.array(FAILED))).as_py() or 0
        # A counter takes no zero.
        for counter, count in (
            (self._rows, len(table) - failed),
            (self._failed, failed),
            (self._tokens, pc.sum(table["tokens"]).as_py() or 0),
            (self._prompt_tokens, pc.sum(table["prompt_tokens"]).as_py() or 0),
        ):
            if count:
                counter.inc(count)


class FleetMetrics:
    """The fleet of one model, as gauges of the driver."""

    def __init__(self, model: str) -> None:
        from ray.util.metrics import Gauge

        def gauge(name: str, text: str, *tags: str) -> Any:
            made = Gauge(f"semievol_{name}", description=text, tag_keys=("model", *tags))
            return made.set_default_tags({"model": model})

        self._replicas = gauge("replicas", "replicas that live", "state")
        self._shards = gauge("shards", "shards that are not done", "state")
        self._deaths = gauge("replica_deaths", "replicas that died in this stage")
        self._retries = gauge("shard_retries", "shards given out again in this stage")

    def show(self, state: FleetState) -> None:
        """Set every gauge."""
        self._replicas.set(state.ready, {"state": "ready"})
        self._replicas.set(state.starting, {"state": "starting"})
        self._shards.set(state.waiting, {"state": "waiting"})
        self._shards.set(state.in_flight, {"state": "in_flight"})
        self._deaths.set(state.deaths)
        self._retries.set(state.retries)
