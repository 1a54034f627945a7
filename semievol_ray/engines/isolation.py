"""An engine under suspicion: finds the requests that kill it, and lives without them.

A work item whose replicas died twice is done again behind this wrapper. It lets few requests at a
time to the engine and writes down which, before; who comes after its death reads that, looks more
closely at those, and knows which one kills when there was only one, twice: a single death may have
been a machine's. Each death leaves a sixteenth: of a shard of 4096 rows the one that kills is found
in four, costs itself alone, and is never asked again. What the others answer is what they always
do: a request's seed is its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator

from semievol_ray.engines.protocol import Batch, Engine, Replies, Request
from semievol_ray.store import RunDirectory

_PARTS = 16


class IsolatingEngine(Engine):
    """An engine whose requests in flight are always written down in a journal of the run."""

    def __init__(self, engine: Engine, run: RunDirectory, journal: str) -> None:
        self.tokenizer, self.max_model_len = engine.tokenizer, engine.max_model_len
        self.charges = engine.charges
        self._engine, self._run, self._journal = engine, run, journal
        self._one_at_a_time = asyncio.Lock()
        found: dict[str, list[str]] = run.read_json(journal) or {}
        died_with = found.get("in_flight", [])
        before = found.get("died_alone", [])
        alone = died_with if len(died_with) == 1 else []
        self._killers = {*found.get("killers", []), *(key for key in alone if key in before)}
        self._died_alone = sorted({*before, *alone} - self._killers)
        self._suspects = set(died_with) - self._killers

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
        others = [i for i, key in enumerate(keys) if key not in self._suspects | self._killers]
        for indices in (suspects, others):
            size = max(1, -(-len(indices) // _PARTS))
            for start in range(0, len(indices), size):
                yield indices[start : start + size]

    def _write(self, in_flight: list[str]) -> None:
        self._run.write_json(
            self._journal,
            {
                "killers": sorted(self._killers),
                "died_alone": self._died_alone,
                "in_flight": in_flight,
            },
        )


def _key(request: Request) -> str:
    # Not the adapter: its folder is another one on every machine, and each seed is one voter's.
    text = f"{request.seed}\0{request.prompt}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
