"""Isolation of poison requests: which of them kill an engine is found, and they are left out.

A work item whose replicas died twice is done again behind this wrapper. It lets few requests at a
time to the engine and records which, before; the next replica reads the record, divides those
further, and knows the poison when an engine died of one request alone, twice: a single death may
have been a machine's. Each death leaves a sixteenth: of a shard of 4096 rows the poison is found in
four, costs itself alone, and is never asked again. What the others answer is what they always do: a
request's seed is its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator

from semievol_ray.engines.protocol import Batch, Engine, Replies, Request
from semievol_ray.store import RunDirectory

_PARTS = 16


class IsolatingEngine(Engine):
    """An engine whose requests in flight are always on record in the run."""

    def __init__(self, engine: Engine, run: RunDirectory, record: str) -> None:
        self.tokenizer, self.max_model_len = engine.tokenizer, engine.max_model_len
        self.charges = engine.charges
        self._engine, self._run, self._record = engine, run, record
        self._one_at_a_time = asyncio.Lock()
        before: dict[str, list[str]] = run.read_json(record) or {}
        died_with = before.get("in_flight", [])
        died_alone = before.get("died_alone", [])
        alone = died_with if len(died_with) == 1 else []
        self._poison = {*before.get("poison", []), *(key for key in alone if key in died_alone)}
        self._died_alone = sorted({*died_alone, *alone} - self._poison)
        self._suspects = set(died_with) - self._poison

    async def answer(self, batch: Batch) -> Replies:
        """See Engine.answer; a request that kills the engine fails with "engine_crash"."""
        keys = [_key(request) for request in batch.requests]
        rows = [batch.failed("engine_crash")] * len(keys)
        async with self._one_at_a_time:
            for group in self._groups(keys):
                self._write([keys[i] for i in group])
                replies = await self._engine.answer(batch.part(group))
                for index, row in zip(group, replies.rows(), strict=True):
                    rows[index] = row
            self._write([])
        return Replies.of(batch, rows)

    async def close(self) -> None:
        """See Engine.close."""
        await self._engine.close()

    def _groups(self, keys: list[str]) -> Iterator[list[int]]:
        suspects = [i for i, key in enumerate(keys) if key in self._suspects]
        others = [i for i, key in enumerate(keys) if key not in self._suspects | self._poison]
        for indices in (suspects, others):
            size = max(1, -(-len(indices) // _PARTS))
            for start in range(0, len(indices), size):
                yield indices[start : start + size]

    def _write(self, in_flight: list[str]) -> None:
        self._run.write_json(
            self._record,
            {
                "poison": sorted(self._poison),
                "died_alone": self._died_alone,
                "in_flight": in_flight,
            },
        )


def _key(request: Request) -> str:
    # Not the adapter: its folder is another one on every machine, and each seed is one voter's.
    text = f"{request.seed}\0{request.prompt}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
