"""The two verbs of an LLM engine, in Arrow terms.

An engine answers every request: one that it cannot serve comes back as a row with a reason in
`finish_reason`, never as an exception, so that one bad row costs itself alone. An exception out
of an engine means that the engine itself is broken; EngineDied, that another replica should go on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict

import pyarrow as pa

# prompt_too_long: the prompt leaves no room for an answer. engine_error: the engine refused it.
# engine_crash: the engine died of it. request_failed: an endpoint gave no answer after retries.
FAILED = ("prompt_too_long", "engine_error", "engine_crash", "request_failed")
# The finish reason of a response that its limit ended.
CUT_OFF = "length"
# What may be otherwise the next time: not kept where replies are.
PASSING = "request_failed"

GENERATION = pa.schema(
    [
        # The answer; null where a thought was never closed.
        pa.field("text", pa.string()),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        # Of the thought and the answer together.
        pa.field("tokens", pa.int32(), nullable=False),
        # log P of each token of the answer under the model itself: before temperature.
        pa.field("token_logprobs", pa.list_(pa.float32())),
        # What the model thought before it answered, and log P of that with its marks.
        pa.field("rationale", pa.string()),
        pa.field("rationale_logprobs", pa.list_(pa.float32())),
    ]
)

SCORES = pa.list_(pa.float32())


class EngineDied(Exception):
    """The engine's own process is gone; its replica is of no more use."""


class Message(TypedDict):
    """One turn of a chat."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Request:
    """One prompt to be continued; `messages` are what `prompt` was rendered from.

    `chat`: it was rendered by the model's chat template, and is not plain text. `options`:
    variables of the chat template, for an endpoint that renders the messages itself.
    """

    prompt: str
    seed: int
    messages: tuple[Message, ...] = ()
    chat: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampling:
    """How a response is drawn. Temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_tokens: int


class Engine(Protocol):
    """One loaded base model, and any number of LoRA adapters over it, named by their folder."""

    tokenizer: Any  # null where the model is behind an endpoint
    max_model_len: int
    # Whether a reply costs money: it is then kept as soon as it is there.
    charges: bool = False
    beats: int = 0

    async def generate(
        self, requests: list[Request], sampling: Sampling, adapter: str | None = None
    ) -> pa.Table:
        """Responses in the GENERATION schema, in the order of the requests."""
        ...

    async def score(
        self,
        requests: list[Request],
        candidates: list[list[str]],
        adapter: str | None = None,
        *,
        closed: bool = False,
    ) -> pa.Array:
        """log P of each candidate continuation given its prompt; list<float32>, row by row.

        `closed` counts the end of the answer too: needed where one candidate begins another.
        A row that cannot be scored is null.
        """
        ...

    async def answer(
        self,
        requests: list[Request],
        sampling: Sampling,
        candidates: list[list[str]],
        adapter: str | None = None,
        *,
        closed: bool = False,
    ) -> tuple[pa.Table, pa.Array]:
        """Both verbs over the same prompts, for engines that can compute a prompt for both."""
        return await asyncio.gather(
            self.generate(requests, sampling, adapter),
            self.score(requests, candidates, adapter, closed=closed),
        )

    def pulse(self) -> int:
        """A number that rises with every reply, or token of one: what rises is at work."""
        return self.beats

    async def close(self) -> None:
        """Free the engine's processes and memory."""
        ...


def request_seed(run_seed: int, example_id: str, collaborator: str) -> int:
    """A request's seed, in [0, 2^31): a function of these three alone.

    So a response depends neither on the batch nor on the replica nor on retries.
    """
    key = f"{run_seed}\0{example_id}\0{collaborator}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest()) & 0x7FFFFFFF


def failed_generation(reason: str, prompt_tokens: int = 0) -> dict[str, Any]:
    """The GENERATION row of a request that got no response."""
    return {
        "text": None,
        "finish_reason": reason,
        "prompt_tokens": prompt_tokens,
        "tokens": 0,
        "token_logprobs": None,
        "rationale": None,
        "rationale_logprobs": None,
    }
