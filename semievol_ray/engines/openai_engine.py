"""Engine over any OpenAI-compatible endpoint, through its official client.

The client obeys Retry-After and backs off with jitter; the number of requests in flight is
bounded here. Option scores come from the top logprobs of the first token, so they reach only
options of one token that the server ranks among its top 20.
"""

from __future__ import annotations

import asyncio
import math
import os
from typing import Any

import pyarrow as pa

from semievol_ray.config import ModelConfig
from semievol_ray.engines.protocol import (
    GENERATION,
    SCORES,
    Engine,
    Request,
    Sampling,
    failed_generation,
)
from semievol_ray.errors import SemiEvolError, UserError

_TOP_LOGPROBS = 20
_RETRIES = 6


class OpenAIEngine(Engine):
    """A model behind an endpoint; it has no adapters and no tokenizer here."""

    tokenizer = None

    def __init__(
        self,
        model: ModelConfig,
        *,
        max_concurrency: int = 32,
        request_timeout_seconds: float = 120,
        **_: Any,
    ) -> None:
        import openai

        if model.base_url is None:
            raise UserError(f"model {model.name}: the openai engine needs model.base_url")
        self.client = openai.AsyncOpenAI(
            base_url=model.base_url,
            # Local servers ask for no key, but the client insists on one.
            api_key=os.environ.get(model.api_key_env) or "none",
            max_retries=_RETRIES,
            timeout=request_timeout_seconds,
        )
        self.name = model.name
        self.where = model.base_url
        self.max_model_len = model.max_model_len or 2**20
        self.options = model.engine_options
        self.slots = asyncio.Semaphore(max_concurrency)

    async def generate(
        self, requests: list[Request], sampling: Sampling, adapter: str | None = None
    ) -> pa.Table:
        """See Engine.generate."""
        rows = await asyncio.gather(*(self._generate(r, sampling) for r in requests))
        return pa.Table.from_pylist(rows, schema=GENERATION)

    async def score(
        self,
        requests: list[Request],
        candidates: list[list[str]],
        adapter: str | None = None,
        *,
        closed: bool = False,
    ) -> pa.Array:
        """See Engine.score; an option outside the server's top logprobs scores -inf."""
        rows = await asyncio.gather(
            *(self._score(r, row) for r, row in zip(requests, candidates, strict=True))
        )
        return pa.array(rows, SCORES)

    async def close(self) -> None:
        """See Engine.close."""
        await self.client.close()

    async def _generate(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        reply = await self._ask(
            request,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=request.seed,
            logprobs=True,
        )
        if reply is None:
            return failed_generation("engine_error")
        choice = reply.choices[0]
        content = choice.logprobs.content if choice.logprobs else None
        return {
            "text": choice.message.content or "",
            "finish_reason": choice.finish_reason or "stop",
            "prompt_tokens": reply.usage.prompt_tokens if reply.usage else 0,
            "tokens": reply.usage.completion_tokens if reply.usage else 0,
            # Null, and not a guess, where the server gives none: selection says what it needs.
            "token_logprobs": [t.logprob for t in content] if content else None,
        }

    async def _score(self, request: Request, candidates: list[str]) -> list[float] | None:
        reply = await self._ask(
            request, temperature=0.0, max_tokens=1, logprobs=True, top_logprobs=_TOP_LOGPROBS
        )
        if reply is None:
            return None
        first = reply.choices[0].logprobs
        if first is None or not first.content:
            raise UserError(
                f"{self.where}: {self.name} returns no logprobs, which option scores need; "
                "set generation.score_options to false"
            )
        found = {top.token.strip(): top.logprob for top in first.content[0].top_logprobs}
        return [found.get(candidate.strip(), -math.inf) for candidate in candidates]

    async def _ask(self, request: Request, **parameters: Any) -> Any:
        """One reply; null where the server refuses this very request."""
        import openai

        messages: Any = list(request.messages) or [{"role": "user", "content": request.prompt}]
        try:
            async with self.slots:
                return await self.client.chat.completions.create(
                    model=self.name, messages=messages, **(parameters | self.options)
                )
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            return None
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            raise UserError(f"{self.where}: the endpoint refuses the API key") from None
        except openai.NotFoundError:
            raise UserError(f"{self.where}: the endpoint has no model {self.name!r}") from None
        except openai.APIConnectionError:
            raise SemiEvolError(f"{self.where}: the endpoint does not answer") from None
        except openai.APIStatusError as error:
            raise SemiEvolError(f"{self.where}: HTTP {error.status_code} after retries") from None
