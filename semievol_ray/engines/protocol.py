"""The one verb of an LLM engine, in Arrow terms: a batch of prompts, answered.

An engine answers every request: one that it cannot serve comes back as a row with a reason in
`finish_reason`, never as an exception, so that one bad row costs itself alone. An exception out
of an engine means that the engine itself is broken; EngineDied, that another replica should go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypedDict

import pyarrow as pa

from semievol_ray.config import GenerationConfig, given

# prompt_too_long: the prompt leaves no room for an answer. engine_error: the engine refused it.
# engine_crash: the engine died of it. request_failed: an endpoint gave no answer after retries.
FAILED = ("prompt_too_long", "engine_error", "engine_crash", "request_failed")
# The finish reason of a response that its limit ended.
CUT_OFF = "length"
# What may be otherwise the next time.
PASSING = "request_failed"

GENERATION = pa.schema(
    [
        # The answer; null where a thought was never closed.
        pa.field("text", pa.string()),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        # Of the thought and the answer together.
        pa.field("tokens", pa.int32(), nullable=False),
        # log P of each token of the answer under the model itself: before temperature. The token
        # that ends a turn or a text is none of the answer's own; `tokens` counts it. An answer that
        # is empty has an empty list, and so no mean; null where the engine tells no logprobs.
        pa.field("token_logprobs", pa.list_(pa.float32())),
        # What the model thought before it answered, and log P of that with its marks.
        pa.field("rationale", pa.string()),
        pa.field("rationale_logprobs", pa.list_(pa.float32())),
    ]
)
# In the fingerprint of every stage that asks an engine: whoever changes what a row of GENERATION or
# SCORES holds for the same request raises it. (Not for `Batch.negligible`: it moves no
# probability by more than 1e-4, and answers that are paid for would be bought again.)
REPLIES_VERSION = 3

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

    `question` is what is asked without the task's wording, and `classes` what the answers to a
    closed task are called: what a classifier looks at.
    `chat`: it was rendered by the model's chat template, and is not plain text. `options`:
    variables of the chat template, for an endpoint that renders the messages itself.
    """

    prompt: str
    seed: int
    messages: tuple[Message, ...] = ()
    question: str = ""
    classes: tuple[str, ...] = ()
    chat: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampling:
    """How a response is drawn. Temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_tokens: int
    top_k: int | None = None  # null: all
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    # A response ends before the first of these texts.
    stop: tuple[str, ...] = ()
    # A prompt that leaves room for fewer is too long; null: for fewer than `max_tokens`. Not in the
    # names of paid replies: an endpoint is not told.
    least_tokens: int | None = field(default=None, repr=False)

    @property
    def needed_tokens(self) -> int:
        """The room that a response must have; it ends where there is none left."""
        return self.max_tokens if self.least_tokens is None else self.least_tokens

    @property
    def penalises(self) -> bool:
        """Whether what was written before counts against a token."""
        plain = (self.presence_penalty, self.frequency_penalty, self.repetition_penalty)
        return plain != (0.0, 0.0, 1.0)


# One request's GENERATION row and scores; each is null where it was not asked for.
Row = tuple[dict[str, Any] | None, list[float] | None]


@dataclass(frozen=True)
class Batch:
    """What one call asks: each prompt is continued, its candidates are scored, or both."""

    requests: Sequence[Request]
    # How the responses are drawn; null: nothing is generated.
    sampling: Sampling | None = None
    # For each request texts that may follow its prompt; null: nothing is scored.
    candidates: Sequence[Sequence[str]] | None = None
    # For each request the texts that its response must be one of; null: any will do. It bounds how
    # tokens are drawn: here logprobs stay the model's own, over all of its vocabulary, so that an
    # option which it hardly considers shows it. (An endpoint's are as it gives them: vLLM's server
    # gives those over what the grammar allows, which are far nearer to 0.)
    choices: Sequence[Sequence[str]] | None = None
    # The folder of the LoRA adapter that answers; null: the base model does.
    adapter: str | None = None
    # Whether a score counts the end-of-text token: needed where one candidate begins another.
    closed: bool = False
    # Candidates whose common beginning is less likely than this times the best of their row may be
    # given equal shares of it: of many an engine then computes a few. 0: each is known exactly.
    negligible: float = 0.0

    def part(self, rows: Sequence[int]) -> Batch:
        """Some of its requests, asked in the same way."""
        candidates, choices = self.candidates, self.choices
        return replace(
            self,
            requests=[self.requests[i] for i in rows],
            candidates=None if candidates is None else [candidates[i] for i in rows],
            choices=None if choices is None else [choices[i] for i in rows],
        )

    def failed(self, reason: str) -> Row:
        """What a request comes to that gets no reply."""
        return None if self.sampling is None else failed_generation(reason), None


@dataclass(frozen=True)
class Replies:
    """What a batch comes to, in the order of its requests."""

    # In the GENERATION schema; null where the batch has no sampling.
    generated: pa.Table | None
    # SCORES: log P of each candidate given its prompt, and null for a request that could not be
    # scored. Null in all where the batch has no candidates.
    scores: pa.Array | None

    @classmethod
    def of(cls, batch: Batch, rows: Iterable[Row]) -> Replies:
        """From a row for each of a batch's requests."""
        found = list(rows)
        generated = [row for row, _ in found]
        scores = [row for _, row in found]
        return cls(
            pa.Table.from_pylist(generated, GENERATION) if batch.sampling is not None else None,
            pa.array(scores, SCORES) if batch.candidates is not None else None,
        )

    def rows(self) -> list[Row]:
        """A row for each request."""
        count = max(len(part) for part in (self.generated, self.scores) if part is not None)
        generated = [None] * count if self.generated is None else self.generated.to_pylist()
        scores = [None] * count if self.scores is None else self.scores.to_pylist()
        return list(zip(generated, scores, strict=True))


@dataclass(frozen=True)
class EngineOptions:
    """How an engine runs: what its model's config does not say."""

    batch_rows: int  # that a call of the model holds
    threads: int
    # The highest rank of the adapters that will be asked for; null: there are none.
    adapter_rank: int | None
    tensor_parallel: int
    pipeline_parallel: int
    # Of an endpoint: for this engine alone.
    max_concurrency: int
    requests_per_minute: float | None
    request_timeout_seconds: float
    gpus_per_replica: float = 0.0
    # Tokens of the longest prompt with its response, at most; null: as many as the model takes.
    window: int | None = None
    # Questions with the names of their classes, and others of the corpus, for an engine that is
    # fitted to them.
    labels: Sequence[tuple[str, str]] = ()
    corpus: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        config: GenerationConfig,
        adapter_rank: int | None = None,
        labels: Sequence[tuple[str, str]] = (),
        window: int | None = None,
        corpus: Sequence[str] = (),
    ) -> EngineOptions:
        """Of each of the replicas that a config asks for."""
        rate = config.requests_per_minute
        return cls(
            batch_rows=config.batch_rows,
            threads=max(1, int(given(config.cpus_per_replica, 1.0))),
            adapter_rank=adapter_rank,
            tensor_parallel=given(config.tensor_parallel, 1),
            pipeline_parallel=config.pipeline_parallel,
            max_concurrency=config.max_concurrency,
            requests_per_minute=None if rate is None else rate / given(config.replicas.max, 1),
            request_timeout_seconds=config.request_timeout_seconds,
            gpus_per_replica=config.gpus_per_replica or 0.0,
            window=window,
            labels=labels,
            corpus=corpus,
        )


class Engine(Protocol):
    """One loaded base model, and any number of LoRA adapters over it, named by their folder."""

    tokenizer: Any  # null where the model is behind an endpoint
    max_model_len: int
    # Whether a reply costs money: it is then kept as soon as it is there.
    charges: bool = False
    beats: int = 0
    # Requests that it has answered so far, of calls too that are not over yet.
    answered: int = 0

    async def answer(self, batch: Batch) -> Replies:
        """The replies to a batch; a prompt that is continued and scored is computed once."""
        ...

    def pulse(self) -> int:
        """A number that rises with every reply, or token of one: what rises is at work."""
        return self.beats

    def notes(self) -> tuple[str, ...]:
        """What whoever runs it should know of its replies by now, a line each."""
        return ()

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
