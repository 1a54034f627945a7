"""Engine over any OpenAI-compatible endpoint, through its official client.

The client obeys Retry-After and backs off with jitter; the number of requests in flight and their
rate are bounded here. A request that gets no answer all the same costs its row; only where so many
fail in a row that the endpoint must be down is it an error. Option scores come from the top
logprobs of the first token, so they reach only options of one token that the server ranks among
its top 20.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from semievol_ray.config import ModelConfig
from semievol_ray.credentials import resolve
from semievol_ray.engines.protocol import (
    GENERATION,
    PASSING,
    SCORES,
    Batch,
    Engine,
    EngineOptions,
    Replies,
    Request,
    failed_generation,
)
from semievol_ray.engines.thoughts import Parted, last_within, part
from semievol_ray.errors import SemiEvolError, UserError

_TOP: dict[str, Any] = {"logprobs": True, "top_logprobs": 20}
_RETRIES = 6
# So many requests without an answer, and none with one between them: the endpoint is down.
_FAILURES_IN_A_ROW = 16
# So many replies without logprobs, and none with them: the endpoint gives none.
_MUTE_REPLIES = 3


class _Failure(str):
    """Why a request has no reply, as `finish_reason` says it."""


class OpenAIEngine(Engine):
    """A model behind an endpoint; it has no adapters and no tokenizer here."""

    tokenizer = None
    charges = True

    def __init__(self, model: ModelConfig, options: EngineOptions) -> None:
        import openai

        if model.base_url is None:
            raise UserError(f"model {model.name}: the openai engine needs model.base_url")
        self.client = openai.AsyncOpenAI(
            base_url=model.base_url,
            # Local servers ask for no key, but the client insists on one.
            api_key=os.environ.get(model.api_key_env) or "none",
            max_retries=_RETRIES,
            timeout=options.request_timeout_seconds,
        )
        self.name = model.name
        self.where = model.base_url
        self.max_model_len = model.max_model_len or 2**20
        self.options = resolve(model.engine_options, "model.engine_options")
        self.slots = asyncio.Semaphore(options.max_concurrency)
        rate = options.requests_per_minute
        self._gap_seconds = 60 / rate if rate else 0.0
        self._next_at = 0.0
        self._failed_in_a_row = 0
        self._mute_replies: int | None = 0  # null once there was one with logprobs

    async def answer(self, batch: Batch) -> Replies:
        """See Engine.answer: one request a row, whose first token gives the scores as well.

        An option outside the server's top logprobs scores -inf.
        """
        candidates = batch.candidates
        replies = await asyncio.gather(*(self._reply(r, batch) for r in batch.requests))
        scores = None
        if candidates is not None:
            found = [
                self._scores(reply, row) for reply, row in zip(replies, candidates, strict=True)
            ]
            scores = pa.array(found, SCORES)
        generated = None
        if batch.sampling is not None:
            generated = pa.Table.from_pylist([_row(reply) for reply in replies], GENERATION)
        return Replies(generated, scores)

    async def close(self) -> None:
        """See Engine.close."""
        await self.client.close()

    async def _reply(self, request: Request, batch: Batch) -> Any:
        top = {} if batch.candidates is None else _TOP
        if batch.sampling is None:
            return await self._ask(request, temperature=0.0, max_tokens=1, **top)
        return await self._ask(
            request,
            temperature=batch.sampling.temperature,
            top_p=batch.sampling.top_p,
            max_tokens=batch.sampling.max_tokens,
            seed=request.seed,
            **({"logprobs": True} | top),
        )

    def _scores(self, reply: Any, candidates: Sequence[str]) -> list[float] | None:
        if isinstance(reply, _Failure):
            return None
        first = reply.choices[0].logprobs
        if first is None or not first.content:
            if self._mute_replies is not None:
                self._mute_replies += 1
                if self._mute_replies >= _MUTE_REPLIES:
                    raise UserError(
                        f"{self.where}: {self.name} returns no logprobs, which option scores need; "
                        "set generation.score_options to false"
                    )
            return None
        self._mute_replies = None
        found = {top.token.strip(): top.logprob for top in first.content[0].top_logprobs}
        return [found.get(candidate.strip(), -math.inf) for candidate in candidates]

    async def _turn(self) -> None:
        """Wait until the rate allows one more request."""
        now = asyncio.get_running_loop().time()
        self._next_at = max(self._next_at, now) + self._gap_seconds
        await asyncio.sleep(self._next_at - self._gap_seconds - now)

    async def _ask(self, request: Request, **parameters: Any) -> Any:
        """One reply, or why there is none.

        Raises UserError for what no request will get past, and SemiEvolError where the endpoint is
        down.
        """
        import openai

        messages: Any = list(request.messages) or [{"role": "user", "content": request.prompt}]
        try:
            async with self.slots:
                await self._turn()
                reply = await self.client.chat.completions.create(
                    model=self.name,
                    messages=messages,
                    **self._options(request, parameters),
                )
                self.beats += 1
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            return _Failure("engine_error")
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            raise UserError(f"{self.where}: the endpoint refuses the API key") from None
        except openai.NotFoundError:
            raise UserError(f"{self.where}: the endpoint has no model {self.name!r}") from None
        except openai.APIConnectionError:
            return self._failed("the endpoint does not answer")
        except openai.APIStatusError as error:
            return self._failed(f"HTTP {error.status_code} after retries")
        except openai.OpenAIError as error:
            return self._failed(" ".join(str(error).split())[:200])
        if not getattr(reply, "choices", None):
            return self._failed("a reply without choices")
        self._failed_in_a_row = 0
        return reply

    def _options(self, request: Request, parameters: dict[str, Any]) -> dict[str, Any]:
        """What a request asks for: the config's own options last."""
        options = parameters | self.options
        if request.options:
            # As vLLM's server and others take them.
            ours = {"chat_template_kwargs": dict(request.options)}
            options["extra_body"] = ours | options.get("extra_body", {})
        return options

    def _failed(self, reason: str) -> _Failure:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _FAILURES_IN_A_ROW:
            raise SemiEvolError(
                f"{self.where}: {reason}, {self._failed_in_a_row} times in a row; what was "
                "answered is kept: run again to go on"
            )
        return _Failure(PASSING)


def _row(reply: Any) -> dict[str, Any]:
    """The GENERATION row of a reply, or of a request without one."""
    if isinstance(reply, _Failure):
        return failed_generation(str(reply))
    choice = reply.choices[0]
    content = choice.logprobs.content if choice.logprobs else None
    parted = _parted(choice.message)
    taken = [t.logprob for t in content or ()]
    first = _first([t.token for t in content or ()], parted)
    # Null, and not a guess, where the server gives none: selection says what it needs.
    known = first is not None and bool(content)
    return {
        "text": parted.answer,
        "finish_reason": choice.finish_reason or "stop",
        "prompt_tokens": reply.usage.prompt_tokens if reply.usage else 0,
        "tokens": reply.usage.completion_tokens if reply.usage else 0,
        "token_logprobs": taken[first:] if known and parted.answer is not None else None,
        "rationale": parted.thought,
        "rationale_logprobs": taken[:first] if known and parted.thought is not None else None,
    }


def _parted(message: Any) -> Parted:
    """The thought and the answer: as the server parted them, under the names that there are."""
    said = message.content or ""
    for name in ("reasoning_content", "reasoning"):
        if thought := getattr(message, name, None):
            return Parted(str(thought).strip(), said.lstrip() or None, 0)
    return part(said)


def _first(tokens: list[str], parted: Parted) -> int | None:
    """Number of the answer's first token among those with logprobs; null where it is not found.

    Servers give the logprobs of the thought and the answer, or of the answer alone.
    """
    if parted.thought is None:
        return 0
    if parted.answer is None:
        return len(tokens)
    text = "".join(tokens)
    whole = part(text, opened=True)
    start = whole.start
    if whole.answer is None:
        start = len(text) - len(text.lstrip())
        if not text.startswith(parted.answer, start):
            return None
    ends = list(itertools.accumulate(map(len, tokens), initial=0))
    return last_within(ends.__getitem__, len(tokens), start)
