"""Virtual replicas: many simulated engines in few processes, under the pool that is real.

A host actor holds any number of them. To the pool each is an actor of its own: it is started,
loads, takes shards, dies on the way with what it holds, and is replaced under another number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.engines import Batch, Replies
from semievol_ray.engines.protocol import EngineOptions
from semievol_ray.engines.replica import Done
from semievol_ray.engines.simulated_engine import SimulatedEngine

LOAD_SECONDS = 5.0


@dataclass(frozen=True)
class Call:
    """One engine call: who, from when to when (Unix seconds), and the slots' seconds in it."""

    replica: int
    start: float
    end: float
    work: float


class Recorder(SimulatedEngine):
    """A simulated engine that writes its calls down."""

    def __init__(self, model: ModelConfig, number: int, calls: list[Call]) -> None:
        super().__init__(model, EngineOptions.of(GenerationConfig()))
        self._number, self._calls = number, calls

    async def answer(self, batch: Batch) -> Replies:
        """See Engine.answer."""
        start = time.time()
        replies = await super().answer(batch)
        assert replies.generated is not None
        speed = self.options["tokens_per_second"]
        work = replies.generated["tokens"].to_numpy().sum() / speed if speed else 0.0
        self._calls.append(Call(self._number, start, time.time(), float(work)))
        return replies


class _Host:
    """Some of the virtual replicas, in one process."""

    def __init__(self, model: ModelConfig, dies_after: Mapping[int, float]) -> None:
        self.model, self.dies_after = model, dies_after
        self.engines: dict[int, Recorder] = {}
        self.deaths: dict[int, asyncio.Future[None]] = {}
        self.calls: list[Call] = []

    async def ready(self, number: int) -> str:
        """Load: the engine is there after some seconds, and its death is set."""
        if number not in self.engines:
            if self.model.engine_options.get("tokens_per_second"):
                await asyncio.sleep(LOAD_SECONDS)
            self.engines[number] = Recorder(self.model, number, self.calls)
            death = self.deaths[number] = asyncio.get_running_loop().create_future()
            if number in self.dies_after:
                asyncio.get_running_loop().call_later(
                    self.dies_after[number], death.set_result, None
                )
        return "virtual"

    async def pulse(self, number: int) -> int:
        """See Engine.pulse."""
        return len(self.calls)

    async def answered(self, number: int) -> int:
        """See Engine.answered."""
        return self.engines[number].answered

    async def run(self, number: int, work: Any, *arguments: Any) -> Any:
        """`work`, unless the replica dies before it is done: then as Ray reports a death."""
        task = asyncio.ensure_future(work(self.engines[number], *arguments))
        await asyncio.wait({task, self.deaths[number]}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return Done(task.result(), ())
        task.cancel()
        raise ray.exceptions.ActorDiedError

    async def close(self, number: int) -> None:
        """Nothing: the hosts outlive the pool."""

    async def report(self) -> list[Call]:
        """Every call that was finished."""
        return self.calls


# Ray's own types do not know the options of an actor.
Host: Any = ray.remote(num_cpus=0, max_concurrency=2000)(_Host)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Hosts:
    """Starts virtual replicas, on each of some hosts in turn: a pool's `start_replica`."""

    hosts: Sequence[Any]

    def __call__(self, number: int, avoided: Collection[str]) -> _Seat:
        """The replica of a number."""
        return _Seat(_Handle(self.hosts[number % len(self.hosts)], number))


@dataclass
class _Seat:
    actor: Any

    def end(self) -> None:
        """Nothing: a host holds others too."""


class _Handle:
    """An actor's handle: `handle.method.remote(...)`."""

    def __init__(self, host: Any, number: int) -> None:
        self._host, self._number = host, number

    def __getattr__(self, name: str) -> Any:
        return _Method(getattr(self._host, name), self._number)


@dataclass(frozen=True)
class _Method:
    method: Any
    number: int

    def remote(self, *arguments: Any) -> Any:
        """Call it, as the replica of this number."""
        return self.method.remote(self.number, *arguments)
