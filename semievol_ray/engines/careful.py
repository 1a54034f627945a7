"""An engine under suspicion: finds the requests that kill it, and lives without them.

A work item whose replicas died twice is done again behind this wrapper. It lets few requests at a
time to the engine and writes down which, before; who comes after its death reads that, looks more
closely at those, and knows the culprit when there was only one. Each death leaves a sixteenth: of
a shard of 4096 rows the one that kills is found in three, costs itself alone, and is never asked
again. What the others answer is what they always do: a request's seed is its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pyarrow as pa

from semievol_ray.engines.protocol import (
    GENERATION,
    SCORES,
    Engine,
    Request,
    Sampling,
    failed_generation,
)
from semievol_ray.store import RunDirectory

Result = TypeVar("Result")

_PARTS = 16


class CarefulEngine(Engine):
    """An engine whose requests in flight are always written down in a journal of the run."""

    def __init__(self, engine: Engine, run: RunDirectory, journal: str) -> None:
        self.tokenizer, self.max_model_len = engine.tokenizer, engine.max_model_len
        self.charges = engine.charges
        self._engine, self._run, self._journal = engine, run, journal
        self._one_at_a_time = asyncio.Lock()
        found: dict[str, list[str]] = run.read_json(journal) or {}
        died_with = found.get("in_flight", [])
        self._culprits = {*found.get("culprits", []), *(died_with if len(died_with) == 1 else ())}
        self._suspects = set(died_with) - self._culprits

    async def generate(
        self, requests: list[Request], sampling: Sampling, adapter: str | None = None
    ) -> pa.Table:
        """See Engine.generate; a request that kills the engine fails with "engine_crash"."""

        async def ask(indices: list[int]) -> list[dict[str, Any]]:
            asked = [requests[i] for i in indices]
            return (await self._engine.generate(asked, sampling, adapter)).to_pylist()

        rows = await self._ask_apart(requests, ask, failed_generation("engine_crash"))
        return pa.Table.from_pylist(rows, schema=GENERATION)

    async def score(
        self,
        requests: list[Request],
        candidates: list[list[str]],
        adapter: str | None = None,
        *,
        closed: bool = False,
    ) -> pa.Array:
        """See Engine.score; a request that kills the engine has no score."""

        async def ask(indices: list[int]) -> list[Any]:
            found = await self._engine.score(
                [requests[i] for i in indices],
                [candidates[i] for i in indices],
                adapter,
                closed=closed,
            )
            return found.to_pylist()

        return pa.array(await self._ask_apart(requests, ask, None), SCORES)

    async def close(self) -> None:
        """See Engine.close."""
        await self._engine.close()

    async def _ask_apart(
        self,
        requests: list[Request],
        ask: Callable[[list[int]], Awaitable[list[Result]]],
        failed: Result,
    ) -> list[Result]:
        keys = [_key(request) for request in requests]
        answers = [failed] * len(requests)
        async with self._one_at_a_time:
            for group in self._groups(keys):
                self._write([keys[i] for i in group])
                for index, answer in zip(group, await ask(group), strict=True):
                    answers[index] = answer
            self._write([])
        return answers

    def _groups(self, keys: list[str]) -> Iterator[list[int]]:
        suspects = [i for i, key in enumerate(keys) if key in self._suspects]
        others = [i for i, key in enumerate(keys) if key not in self._suspects | self._culprits]
        for indices in (suspects, others):
            size = max(1, -(-len(indices) // _PARTS))
            for start in range(0, len(indices), size):
                yield indices[start : start + size]

    def _write(self, in_flight: list[str]) -> None:
        self._run.write_json(
            self._journal, {"culprits": sorted(self._culprits), "in_flight": in_flight}
        )


def _key(request: Request) -> str:
    # Not the adapter: its folder is another one on every machine, and each seed is one voter's.
    text = f"{request.seed}\0{request.prompt}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
