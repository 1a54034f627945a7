"""Chat requests to an OpenAI-compatible endpoint, through its official client.

The client obeys Retry-After and backs off with jitter; how many requests are in flight and how fast
they follow is bounded here. What a request comes to all the same is the reply, or the reason why
there is none: that costs its row. Only where so many fail in a row that the endpoint must be
down, or so many are refused for one reason and a plain question is too, is it an error.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from typing import Any

from semievol_ray.config import ModelConfig
from semievol_ray.credentials import resolve
from semievol_ray.engines.negotiation import Negotiation
from semievol_ray.engines.pace import Pace
from semievol_ray.engines.protocol import PASSING, EngineOptions, Message
from semievol_ray.engines.reply import NoReply, Reply, read_reply
from semievol_ray.errors import SemiEvolError, UserError

_RETRIES = 6
# So many requests without an answer, and none with one between them: the endpoint is down.
_FAILURES_IN_A_ROW = 16
# So many refusals in the same words, and no reply between them: is it the rows' fault? A filter of
# contents may have met its rows one after another, or an account may be empty.
_REFUSALS_IN_A_ROW = 16
_PLAIN_QUESTION: list[Message] = [{"role": "user", "content": "Say OK."}]

_TOO_LONG = re.compile(r"context[ _](length|window)|too long|input tokens", re.IGNORECASE)


class Failure(str):
    """Why a request has no reply, as `finish_reason` says it."""


class Endpoint:
    """One model at one address."""

    def __init__(self, model: ModelConfig, options: EngineOptions) -> None:
        import openai

        if model.base_url is None:
            raise UserError(f"model {model.name}: the openai engine needs model.base_url")
        self.name = model.name
        self.where = model.base_url
        self.negotiation = Negotiation(f"{self.where}: {self.name}")
        self.replies = 0
        self._client = openai.AsyncOpenAI(
            base_url=model.base_url,
            # Local servers ask for no key, but the client insists on one.
            api_key=os.environ.get(model.api_key_env) or "none",
            max_retries=_RETRIES,
            timeout=options.request_timeout_seconds,
        )
        self._options = resolve(model.engine_options, "model.engine_options")
        self._slots = asyncio.Semaphore(options.max_concurrency)
        self._pace = Pace(options.requests_per_minute)
        self._failed_in_a_row = 0
        self._refused_in_a_row = 0
        self._refusal = ""
        self._doubt = asyncio.Lock()
        # What a plain question came to that was asked in doubt.
        self._refuses_all = False

    async def ask(self, messages: list[Message], parameters: Mapping[str, Any]) -> Reply | Failure:
        """One reply, or why there is none.

        Raises UserError for what no request will get past, and SemiEvolError where the endpoint is
        down.
        """
        import openai

        wanted = {k: v for k, v in parameters.items() if k not in self._options}
        while True:
            sent = self.negotiation.agreed(wanted)
            try:
                reply = await self._send(messages, sent)
            except openai.AuthenticationError:
                raise UserError(f"{self.where}: the endpoint refuses the API key") from None
            except openai.NotFoundError:
                raise UserError(f"{self.where}: the endpoint has no model {self.name!r}") from None
            except (
                openai.BadRequestError,
                openai.UnprocessableEntityError,
                openai.PermissionDeniedError,
            ) as error:
                # Others may have learned meanwhile what this request did not know.
                if self.negotiation.agreed(wanted) != sent or self._learns(sent, error):
                    continue
                forbidden = isinstance(error, openai.PermissionDeniedError)
                if forbidden and not await self._takes_the_key(sent):
                    raise UserError(f"{self.where}: the endpoint refuses the API key") from None
                return await self._refused(_words(error), sent)
            except openai.APIConnectionError:
                return self._failed("the endpoint does not answer")
            except openai.APIStatusError as error:
                return self._failed(f"HTTP {error.status_code} after retries")
            except (openai.OpenAIError, NoReply) as error:
                return self._failed(" ".join(str(error).split())[:200])
            self._failed_in_a_row = self._refused_in_a_row = 0
            self.negotiation.took(sent)
            return reply

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _send(self, messages: list[Message], sent: Mapping[str, Any]) -> Reply:
        options = dict(self._options)
        body = {**sent, **options.pop("extra_body", {})}
        asked: Any = messages
        async with self._slots:
            await self._pace.turn()
            raw = await self._client.chat.completions.with_raw_response.create(
                model=self.name, messages=asked, extra_body=body, **options
            )
            self.replies += 1
        tokens = 0
        try:
            reply = read_reply(raw.http_response.content)
            tokens = (reply.prompt_tokens or 0) + (reply.response_tokens or 0)
        finally:
            self._pace.heard(raw.headers, tokens)
        return reply

    def _learns(self, sent: Mapping[str, Any], error: Any) -> bool:
        blamed = error.body.get("param") if isinstance(error.body, dict) else None
        return self.negotiation.refused(sent, blamed, _words(error)) is not None

    async def _refused(self, words: str, sent: Mapping[str, Any]) -> Failure:
        if _TOO_LONG.search(words):
            # The row's own fault, however many of a shard have it and are told so in one wording.
            return Failure("prompt_too_long")
        self._refused_in_a_row = self._refused_in_a_row + 1 if words == self._refusal else 1
        self._refusal = words
        async with self._doubt:
            # Those that waited here for the question's end may have been acquitted by it.
            if self._refused_in_a_row >= _REFUSALS_IN_A_ROW:
                if not await self._answers_a_plain_question(sent):
                    raise UserError(
                        f"{self.where}: {self.name} has refused {self._refused_in_a_row} requests "
                        f"in a row and says: {words}"
                    )
                self._refused_in_a_row = 0
        return Failure("engine_error")

    async def _takes_the_key(self, sent: Mapping[str, Any]) -> bool:
        async with self._doubt:
            return self.replies > 0 or await self._answers_a_plain_question(sent)

    async def _answers_a_plain_question(self, sent: Mapping[str, Any]) -> bool:
        """Whether some questions are refused, and not all that is asked with these parameters."""
        import openai

        if not self._refuses_all:
            try:
                await self._send(_PLAIN_QUESTION, sent)
            except (openai.OpenAIError, NoReply):
                self._refuses_all = True
        return not self._refuses_all

    def _failed(self, reason: str) -> Failure:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _FAILURES_IN_A_ROW:
            raise SemiEvolError(
                f"{self.where}: {reason}, {self._failed_in_a_row} times in a row; what was "
                "answered is kept: run again to go on"
            )
        return Failure(PASSING)


def _words(error: Any) -> str:
    """What an endpoint says of a request that it refuses, in one line."""
    body = error.body
    said = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(said or body or error.message).split())[:300]
