"""Chat requests to an OpenAI-compatible endpoint, through its official client.

How many requests are in flight, how fast they follow and how often each is tried is bounded here.
What a request comes to all the same is the reply, or the reason why there is none: that costs its
row. Only where so many fail in a row, or are refused in the same words, and a plain question has no
answer either, is it an error. What an endpoint says is shown in one line, without our secrets.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from semievol_ray.config import ModelConfig
from semievol_ray.credentials import api_key, redact, resolve, values_referred
from semievol_ray.engines.negotiation import Negotiation
from semievol_ray.engines.pace import Pace
from semievol_ray.engines.protocol import PASSING, EngineOptions, Message
from semievol_ray.engines.reply import NoReply, NotTheApi, Reply, read_reply
from semievol_ray.engines.retries import Retries, is_out_of_quota, passes
from semievol_ray.errors import SemiEvolError, UserError

# So many requests without an answer, and none with one between them: is the endpoint down? It may
# be the rows that it fails at, which come to their end after all others.
_FAILURES_IN_A_ROW = 16
# So many refusals in the same words, and no reply between them: is it the rows' fault? A filter of
# contents may have met its rows one after another, or an account may be empty.
_REFUSALS_IN_A_ROW = 16
_PLAIN_QUESTION: list[Message] = [{"role": "user", "content": "Say OK."}]

# What an endpoint may refuse for a parameter's sake.
_NEGOTIABLE = (400, 403, 422)
_NO_API = "it does not speak the API; is base_url right (…/v1)?"
_KEPT = "what was answered is kept: run again to go on"

# What is shorter hides nothing, and is in many words.
_SHORTEST_SECRET = 4
_LONGEST_WORDS = 300
_MARKUP = re.compile(r"<[^>]*>")
# Statuses that one machine of many may answer with amid others that are well.
_ODD = (401, 404, 405)
# The number of a request in what is said of it.
_NUMBER = re.compile(r"\b(?=[\w-]*\d)[\w-]{8,}\b")
_TOO_LONG = re.compile(r"context[ _](length|window|size)|too long|input tokens", re.IGNORECASE)


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
        key = api_key(model.api_key_env)
        secrets = {key, *values_referred(model.engine_options)}
        # One may begin with another.
        self._secrets = sorted((s for s in secrets if len(s) >= _SHORTEST_SECRET), key=len)[::-1]
        self._client = openai.AsyncOpenAI(
            base_url=model.base_url,
            # Local servers ask for no key, but the client insists on one.
            api_key=key or "none",
            max_retries=0,
            timeout=options.request_timeout_seconds,
        )
        self._timeout_seconds = options.request_timeout_seconds
        self._options = resolve(model.engine_options, "model.engine_options")
        self._slots = asyncio.Semaphore(options.max_concurrency)
        self._pace = Pace(options.requests_per_minute)
        self._failed_in_a_row = 0
        self._refused_in_a_row = 0
        self._refusal = ""
        # Whether anything has been answered; how many of the run's own requests, and how many late.
        self._is_known = False
        self._answers = self._late_answers = 0
        # Why no more is asked.
        self._end: SemiEvolError | None = None
        self._doubt = asyncio.Lock()
        # What a plain question came to that was asked in doubt.
        self._refuses_all = False

    async def ask(self, messages: list[Message], parameters: Mapping[str, Any]) -> Reply | Failure:
        """One reply, or why there is none.

        Raises UserError for what no request will get past, and SemiEvolError where the endpoint is
        down; then for all that come later, too.
        """
        if self._end is None:
            try:
                return await self._asked(messages, parameters)
            except SemiEvolError as error:
                self._end = self._end or error
        # Not within the block: what the client raised may hold the key.
        raise type(self._end)(str(self._end))

    async def _asked(
        self, messages: list[Message], parameters: Mapping[str, Any]
    ) -> Reply | Failure:
        import openai

        wanted = {k: v for k, v in parameters.items() if k not in self._options}
        while True:
            sent = self.negotiation.agreed(wanted)
            try:
                reply = await self._send(messages, sent)
            except (openai.APITimeoutError, TimeoutError):
                return await self._late(sent)
            except openai.APIConnectionError:
                return await self._failed(sent, "the endpoint does not answer")
            except openai.APIStatusError as error:
                if error.status_code in _NEGOTIABLE and (
                    # Others may have learned meanwhile what this request did not know.
                    self.negotiation.agreed(wanted) != sent or self._learns(sent, error)
                ):
                    continue
                return await self._turned_down(error, sent)
            except NotTheApi as error:
                if not await self._is_one(sent):
                    raise UserError(f"{self.where}: {_NO_API}") from None
                return await self._failed(sent, str(error))
            except NoReply as error:
                return await self._failed(sent, str(error), self.said(error.words))
            except openai.OpenAIError as error:
                return await self._failed(sent, "no reply", self.said(str(error)))
            self._answers += 1
            self._failed_in_a_row = self._refused_in_a_row = 0
            self.negotiation.took(sent)
            return reply

    def said(self, found: Any) -> str:
        """What an endpoint says, or is found to, in one line and without secrets."""
        text = redact(_words_of(found) or str(found or ""), self._secrets)
        if text.lstrip().startswith("<"):
            text = _MARKUP.sub(" ", text)
        shown = "".join(mark if mark.isprintable() else " " for mark in text)
        return " ".join(shown.split())[:_LONGEST_WORDS]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _send(self, messages: list[Message], sent: Mapping[str, Any]) -> Reply:
        import openai

        options = dict(self._options)
        body = {**sent, **options.pop("extra_body", {})}
        asked: Any = messages
        retries = Retries()
        async with self._slots:
            while True:
                await self._pace.turn()
                if self._end is not None:
                    raise self._end
                try:
                    # The client's own timeout begins anew with every byte.
                    async with asyncio.timeout(self._timeout_seconds):
                        raw = await self._client.chat.completions.with_raw_response.create(
                            model=self.name, messages=asked, extra_body=body, **options
                        )
                    self.replies += 1
                    return self._read(raw)
                except NotTheApi:
                    raise
                except (openai.APIError, TimeoutError, NoReply) as error:
                    wait = retries.wait_after(error)
                    if wait is None:
                        raise
                    if getattr(error, "status_code", None) == 429:
                        self._pace.pause(wait)
                await asyncio.sleep(wait)

    def _read(self, raw: Any) -> Reply:
        tokens = 0
        try:
            reply = read_reply(raw.http_response.content)
            self._is_known = True
            tokens = (reply.prompt_tokens or 0) + (reply.response_tokens or 0)
        finally:
            self._pace.heard(raw.headers, tokens)
        return reply

    def _learns(self, sent: Mapping[str, Any], error: Any) -> bool:
        blamed = error.body.get("param") if isinstance(error.body, dict) else None
        return self.negotiation.refused(sent, blamed, self.said(error.body)) is not None

    async def _turned_down(self, error: Any, sent: Mapping[str, Any]) -> Failure:
        """What an error of HTTP costs. Raises UserError for one that all requests will meet."""
        status, words = error.status_code, self.said(error.body)
        if passes(error):
            return await self._failed(sent, f"HTTP {status} after retries", words)
        what = None
        if status in _ODD and self._answers and await self._answers_in_doubt(sent):
            return await self._refused(words or f"HTTP {status}", sent)
        if status == 401 or (status == 403 and not await self._is_one(sent)):
            what = "the endpoint refuses the API key"
        elif status == 405 or (status == 404 and not _is_of_the_api(error)):
            what, words = f"HTTP {status} ({words or 'no words'}): {_NO_API}", ""
        elif status == 404:
            what = f"the endpoint has no model {self.name!r}"
        elif status == 402 or is_out_of_quota(error):
            what = f"HTTP {status}: the account is empty"
        if what is not None:
            raise UserError(f"{self.where}: {what}{_quoted(words)}") from None
        return await self._refused(words or f"HTTP {status}", sent)

    async def _refused(self, words: str, sent: Mapping[str, Any]) -> Failure:
        if _TOO_LONG.search(words):
            # The row's own fault, however many of a shard have it and are told so in one wording.
            return Failure("prompt_too_long")
        # The same but for the request's own number.
        wording = _NUMBER.sub("#", words)
        self._refused_in_a_row = self._refused_in_a_row + 1 if wording == self._refusal else 1
        self._refusal = wording
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

    async def _is_one(self, sent: Mapping[str, Any]) -> bool:
        """Whether it is an endpoint at all, and ours: one that has answered something is."""
        async with self._doubt:
            return self._is_known or await self._answers_a_plain_question(sent)

    async def _answers_in_doubt(self, sent: Mapping[str, Any]) -> bool:
        async with self._doubt:
            return await self._answers_a_plain_question(sent)

    async def _answers_a_plain_question(self, sent: Mapping[str, Any]) -> bool:
        """Whether some questions are refused, and not all that is asked with these parameters."""
        import openai

        if not self._refuses_all:
            try:
                await self._send(_PLAIN_QUESTION, sent)
            except (openai.OpenAIError, TimeoutError, NoReply):
                self._refuses_all = True
        return not self._refuses_all

    async def _late(self, sent: Mapping[str, Any]) -> Failure:
        reason = (
            f"no answer within generation.request_timeout_seconds ({self._timeout_seconds:g}; "
            "raise it where answers take longer)"
        )
        # Each is paid for: where most are late, that a short answer is not acquits nobody.
        self._late_answers += 1
        few = self._late_answers <= self._answers
        return await self._failed(sent, reason, may_be_the_rows=few)

    async def _failed(
        self,
        sent: Mapping[str, Any],
        reason: str,
        words: str = "",
        *,
        may_be_the_rows: bool = True,
    ) -> Failure:
        self._failed_in_a_row += 1
        async with self._doubt:
            count = self._failed_in_a_row
            if count >= _FAILURES_IN_A_ROW:
                if not (may_be_the_rows and await self._answers_a_plain_question(sent)):
                    raise SemiEvolError(
                        f"{self.where}: {reason}, {count} times in a row{_quoted(words)}; {_KEPT}"
                    )
                self._failed_in_a_row = 0
        return Failure(PASSING)


def _is_of_the_api(error: Any) -> bool:
    """Whether it is the API that says so: web servers send a page, or their own default."""
    said = error.body if isinstance(error.body, str) else _words_of(error.body)
    is_json = "json" in error.response.headers.get("content-type", "") and said[:1] != "<"
    return is_json and said.strip().casefold() not in ("", "not found", "method not allowed")


def _words_of(body: Any) -> str:
    """What an error says: OpenAI's `message`, FastAPI's `detail`, Google's list of errors."""
    if isinstance(body, list):
        return next(filter(None, map(_words_of, body)), "")
    if isinstance(body, Mapping):
        said = (body.get(name) for name in ("message", "error", "detail"))
        return next(filter(None, (s if isinstance(s, str) else _words_of(s) for s in said)), "")
    return ""


def _quoted(words: str) -> str:
    return f", and says: {words}" if words else ""
