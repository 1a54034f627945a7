"""Replies that cost money are written down as they come, and never asked for twice.

A shard is committed whole or not at all, and of an endpoint it may take an hour. So what it answers
is kept in parts beside the shard (`replies/<shard>/…`): a shard that is begun again, after a crash
or a refusal, asks only for what is missing. The parts go when the shard is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from semievol_ray.engines.protocol import (
    FAILED,
    GENERATION,
    SCORES,
    Batch,
    Engine,
    Replies,
    Request,
    Row,
    failed_generation,
)
from semievol_ray.store import RunDirectory

FOLDER = "replies"

_PART = pa.schema([pa.field("key", pa.string()), *GENERATION, pa.field("scores", SCORES)])
_PART_EVERY_SECONDS = 10.0

# In the place of what was not generated.
_NOTHING = failed_generation("")


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
        self._known: dict[str, Row] = {}
        self._new: list[dict[str, Any]] = []
        for name in run.files(folder, ".parquet"):
            for row in run.read_table(name).to_pylist():
                self._known[row.pop("key")] = (row, row.pop("scores"))

    async def answer(self, batch: Batch) -> Replies:
        """See Engine.answer."""
        # What the texts of candidates and choices are, follows from the prompt.
        parts = (batch.candidates is not None, batch.choices is not None)
        how = [batch.sampling, parts, batch.adapter, batch.closed]
        keys = [_key(how, request) for request in batch.requests]

        async def call(at: int) -> None:
            (row,) = (await self._engine.answer(batch.part([at]))).rows()
            self._keep(keys[at], row)

        # One call a row, and all of them come to their end: one that fails costs no other's reply.
        missing = [i for i, key in enumerate(keys) if key not in self._known]
        writing = asyncio.create_task(self._write_now_and_then())
        try:
            ends = await asyncio.gather(*map(call, missing), return_exceptions=True)
        finally:
            writing.cancel()
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return Replies.of(batch, [self._known[key] for key in keys])

    async def close(self) -> None:
        """See Engine.close."""
        await self._engine.close()

    def write(self) -> None:
        """Commit what came since the last time."""
        if self._new:
            part = pa.Table.from_pylist(self._new, schema=_PART)
            self._run.write_table(f"{self._folder}/part-{uuid.uuid4().hex}.parquet", part)
            self._new = []

    def remove(self) -> None:
        """The shard is committed: its parts are of no more use."""
        for name in self._run.files(self._folder, ".parquet"):
            self._run.delete_file(name)

    def _keep(self, key: str, row: Row) -> None:
        self._known[key] = row
        generated, scores = row
        # A refusal costs nothing, and may be otherwise under another configuration.
        if generated is None or generated["finish_reason"] not in FAILED:
            self._new.append({"key": key, "scores": scores} | (generated or _NOTHING))

    async def _write_now_and_then(self) -> None:
        # Not only as replies come: the endpoint may have stalled.
        while True:
            await asyncio.sleep(_PART_EVERY_SECONDS)
            self.write()


def _key(how: list[Any], request: Request) -> str:
    text = f"{how}\0{sorted(request.options.items())}\0{request.seed}\0{request.prompt}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
