"""Replies that cost money are written down as they come, and never asked for twice.

A shard is committed whole or not at all, and of an endpoint it may take an hour. So what it answers
is kept in parts beside the shard (`replies/<shard>/…`): a shard that is begun again, after a crash
or a refusal, asks only for what is missing. The parts go when the shard is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pyarrow as pa

from semievol_ray.engines.protocol import GENERATION, PASSING, SCORES, Engine, Request, Sampling
from semievol_ray.store import RunDirectory

FOLDER = "replies"

_PART = pa.schema([pa.field("key", pa.string()), *GENERATION, pa.field("scores", SCORES)])
_PART_EVERY_SECONDS = 10.0

_Reply = dict[str, Any]


@contextlib.contextmanager
def keeping_paid_replies(engine: Engine, run: RunDirectory, target: str) -> Iterator[Engine]:
    """The engine, for the making of one shard; one that charges for replies keeps them."""
    if not engine.charges:
        yield engine
        return
    folder, _, shard = target.rpartition("/")
    replies = PaidReplies(engine, run, f"{folder}/{FOLDER}/{shard.removesuffix('.parquet')}")
    try:
        yield replies
    except BaseException:
        replies.write()
        raise
    replies.remove()


class PaidReplies(Engine):
    """An engine whose replies are kept in a folder, and taken from there first."""

    def __init__(self, engine: Engine, run: RunDirectory, folder: str) -> None:
        self.tokenizer, self.max_model_len = engine.tokenizer, engine.max_model_len
        self._engine, self._run, self._folder = engine, run, folder
        self._known: dict[str, _Reply] = {}
        self._new: list[_Reply] = []
        self._written = time.monotonic()
        for name in run.files(folder, ".parquet"):
            self._known |= {row["key"]: row for row in run.read_table(name).to_pylist()}

    async def generate(
        self, requests: list[Request], sampling: Sampling, adapter: str | None = None
    ) -> pa.Table:
        """See Engine.generate."""

        async def ask(rows: list[int]) -> list[_Reply]:
            asked = [requests[i] for i in rows]
            return (await self._engine.generate(asked, sampling, adapter)).to_pylist()

        replies = await self._ask(["generate", sampling, adapter], requests, ask)
        return _table(replies)

    async def score(
        self,
        requests: list[Request],
        candidates: list[list[str]],
        adapter: str | None = None,
        *,
        closed: bool = False,
    ) -> pa.Array:
        """See Engine.score."""

        async def ask(rows: list[int]) -> list[_Reply]:
            found = await self._engine.score(
                [requests[i] for i in rows], [candidates[i] for i in rows], adapter, closed=closed
            )
            return [{"finish_reason": "", "prompt_tokens": 0, "tokens": 0, "scores": scores}
                    for scores in found.to_pylist()]  # fmt: skip

        replies = await self._ask(["score", adapter, closed], requests, ask)
        return pa.array([reply["scores"] for reply in replies], SCORES)

    async def answer(
        self,
        requests: list[Request],
        sampling: Sampling,
        candidates: list[list[str]],
        adapter: str | None = None,
        *,
        closed: bool = False,
    ) -> tuple[pa.Table, pa.Array]:
        """See Engine.answer."""

        async def ask(rows: list[int]) -> list[_Reply]:
            table, scores = await self._engine.answer(
                [requests[i] for i in rows],
                sampling,
                [candidates[i] for i in rows],
                adapter,
                closed=closed,
            )
            return table.append_column("scores", scores).to_pylist()

        replies = await self._ask(["answer", sampling, adapter, closed], requests, ask)
        return _table(replies), pa.array([reply["scores"] for reply in replies], SCORES)

    async def close(self) -> None:
        """See Engine.close."""
        await self._engine.close()

    def write(self) -> None:
        """Commit what came since the last time."""
        if self._new:
            part = pa.Table.from_pylist(self._new, schema=_PART)
            self._run.write_table(f"{self._folder}/part-{uuid.uuid4().hex}.parquet", part)
            self._new = []
        self._written = time.monotonic()

    def remove(self) -> None:
        """The shard is committed: its parts are of no more use."""
        for name in self._run.files(self._folder, ".parquet"):
            self._run.delete_file(name)

    async def _ask(
        self,
        how: list[Any],
        requests: list[Request],
        ask: Callable[[list[int]], Awaitable[list[_Reply]]],
    ) -> list[_Reply]:
        keys = [_key(how, request) for request in requests]
        missing = [i for i, key in enumerate(keys) if key not in self._known]

        async def call(row: int) -> None:
            (reply,) = await ask([row])
            kept = {"key": keys[row], "scores": None} | reply
            self._known[keys[row]] = kept
            if kept["finish_reason"] != PASSING:
                self._new.append(kept)
            if time.monotonic() - self._written > _PART_EVERY_SECONDS:
                self.write()

        # One call a row, and all of them come to their end: one that fails costs no other's reply.
        ends = await asyncio.gather(*map(call, missing), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return [self._known[key] for key in keys]


def _table(replies: list[_Reply]) -> pa.Table:
    columns = [
        pa.array([reply[field.name] for reply in replies], field.type) for field in GENERATION
    ]
    return pa.Table.from_arrays(columns, schema=GENERATION)


def _key(how: list[Any], request: Request) -> str:
    text = f"{how}\0{sorted(request.options.items())}\0{request.seed}\0{request.prompt}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
