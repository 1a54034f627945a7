"""Engine over any OpenAI-compatible endpoint.

Option scores come from the top logprobs of the first token (see `spellings.option_scores`), so they
reach only what the server ranks among its top 20, and count no end of the text.
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa

from semievol_ray.config import ModelConfig
from semievol_ray.engines.endpoint import Endpoint, Failure
from semievol_ray.engines.protocol import (
    GENERATION,
    SCORES,
    Batch,
    Engine,
    EngineOptions,
    Message,
    Replies,
    Request,
    Sampling,
    failed_generation,
)
from semievol_ray.engines.reply import Reply, Token
from semievol_ray.engines.spellings import option_scores
from semievol_ray.engines.thoughts import Parted, last_within, part
from semievol_ray.errors import UserError

_TOP: dict[str, Any] = {"logprobs": True, "top_logprobs": 20}
# So many replies without logprobs, and none with them: the endpoint gives none.
_MUTE_REPLIES = 3
# Where a server does not count its tokens, so many bytes of UTF-8 are taken for one: English has
# about four characters a token, scripts of longer characters have fewer. A budget then holds
# roughly, and not at all for thoughts that are not shown.
_BYTES_A_TOKEN = 4

_Reply = Reply | Failure
_Tokens = Sequence[Token]


class OpenAIEngine(Engine):
    """A model behind an endpoint; it has no adapters and no tokenizer here."""

    tokenizer = None
    charges = True

    def __init__(self, model: ModelConfig, options: EngineOptions) -> None:
        self.endpoint = Endpoint(model, options)
        self.max_model_len = model.max_model_len or 2**20
        self._mute_replies: int | None = 0  # null once there was one with logprobs
        self._estimates = False

    async def answer(self, batch: Batch) -> Replies:
        """See Engine.answer: one request a row, whose first token gives the scores as well.

        An option outside the server's top logprobs scores -inf.
        """
        choices: Sequence[Sequence[str] | None] = batch.choices or [None] * len(batch.requests)
        replies = await asyncio.gather(
            *(self._reply(r, batch, c) for r, c in zip(batch.requests, choices, strict=True))
        )
        tokens = [self._tokens(reply) for reply in replies]
        generated, scores = None, None
        if batch.sampling is not None:
            self._estimates |= any(map(_is_uncounted, replies))
            rows = map(_row, batch.requests, replies, tokens)
            generated = pa.Table.from_pylist(list(rows), GENERATION)
        if batch.candidates is not None:
            if self._is_mute:
                raise self._no_scores()
            scores = pa.array(list(map(_scores, replies, batch.candidates)), SCORES)
        return Replies(generated, scores)

    def pulse(self) -> int:
        """See Engine.pulse."""
        return self.endpoint.replies

    def notes(self) -> tuple[str, ...]:
        """See Engine.notes."""
        notes = list(self.endpoint.negotiation.notes)
        if self._is_mute:
            notes.append(f"{self._who} returns no logprobs: its responses have no entropy")
        if self._estimates:
            notes.append(
                f"{self._who} does not say how many tokens it reads and writes (usage): tokens and "
                f"cost are estimates, a token for {_BYTES_A_TOKEN} characters"
            )
        return tuple(notes)

    async def close(self) -> None:
        """See Engine.close."""
        await self.endpoint.close()

    async def _reply(self, request: Request, batch: Batch, choices: Sequence[str] | None) -> _Reply:
        parameters: dict[str, Any] = {"temperature": 0.0, "max_tokens": 1}
        if batch.sampling is not None:
            parameters = {
                "temperature": batch.sampling.temperature,
                "top_p": batch.sampling.top_p,
                "max_tokens": batch.sampling.max_tokens,
                "seed": request.seed,
                "logprobs": True,
                **_changes(batch.sampling),
            }
        if choices is not None:
            # As vLLM's server has it; one that does not know it says so.
            parameters["structured_outputs"] = {"choice": list(choices)}
        if batch.candidates is not None:
            parameters |= _TOP
        if request.options:
            # As vLLM's server and others take them.
            parameters["chat_template_kwargs"] = dict(request.options)
        reply = await self.endpoint.ask(_messages(request), parameters)
        if batch.candidates is not None and self.endpoint.negotiation.lacks(_TOP):
            raise self._no_scores()
        if choices is not None and not isinstance(reply, Failure):
            self._check_guided(reply, choices)
        self.answered += 1
        return reply

    def _check_guided(self, reply: Reply, choices: Sequence[str]) -> None:
        """Raise UserError for a server that passes over what it does not know."""
        text, ended = reply.content.strip(), reply.finish_reason == "stop"
        if ended and text and text not in {choice.strip() for choice in choices}:
            said = self.endpoint.said(text)[:40]
            raise UserError(
                f"{self._who} answers {said!r}, which is none of the options: it knows no "
                "structured_outputs; set guided: false for the collaborators that it answers for"
            )

    def _tokens(self, reply: _Reply) -> _Tokens | None:
        """A reply's tokens with their logprobs; null where it has none."""
        if isinstance(reply, Failure):
            return None
        if reply.tokens or not reply.content:
            self._mute_replies = None if reply.tokens else self._mute_replies
            return reply.tokens or ()
        if self._mute_replies is not None:
            self._mute_replies += 1
        return None

    @property
    def _is_mute(self) -> bool:
        return self._mute_replies is not None and self._mute_replies >= _MUTE_REPLIES

    def _no_scores(self) -> UserError:
        return UserError(
            f"{self._who} returns no logprobs, which option scores need; set "
            "generation.score_options to false, and evaluation.closed_answers to generate"
        )

    @property
    def _who(self) -> str:
        return f"{self.endpoint.where}: {self.endpoint.name}"


def _messages(request: Request) -> list[Message]:
    return list(request.messages) or [{"role": "user", "content": request.prompt}]


def _row(request: Request, reply: _Reply, tokens: _Tokens | None) -> dict[str, Any]:
    """The GENERATION row of a reply, or of a request without one."""
    if isinstance(reply, Failure):
        return failed_generation(str(reply))
    parted = _parted(reply)
    answer = parted.answer
    if tokens and answer is not None:
        tokens = _until_its_end(answer, tokens)
    # Null, and not a guess, where the server gives none: selection says what it needs.
    taken = [token.logprob for token in tokens or ()]
    first = None if tokens is None else _first([token.text for token in tokens], parted)
    known = first is not None
    asked = (message["content"] for message in _messages(request))
    return {
        "text": answer,
        "finish_reason": reply.finish_reason or "stop",
        "prompt_tokens": reply.prompt_tokens or _estimated(*asked),
        "tokens": reply.response_tokens or _estimated(reply.thought or "", reply.content),
        "token_logprobs": taken[first:] if known and answer is not None else None,
        "rationale": parted.thought,
        "rationale_logprobs": taken[:first] if known and parted.thought is not None else None,
    }


def _is_uncounted(reply: _Reply) -> bool:
    """Whether a reply comes without the numbers of its tokens; no prompt has none."""
    return not isinstance(reply, Failure) and not (
        reply.prompt_tokens and (reply.response_tokens or not reply.content)
    )


def _estimated(*texts: str) -> int:
    """Tokens of some texts, about."""
    return -(-sum(len(text.encode()) for text in texts) // _BYTES_A_TOKEN)


def _parted(reply: Reply) -> Parted:
    """The thought and the answer: as the server parted them, or as they are marked."""
    if reply.thought is None:
        return part(reply.content)
    return Parted(reply.thought.strip(), reply.content.lstrip() or None, 0)


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


def _scores(reply: _Reply, candidates: Sequence[str]) -> list[float] | None:
    if isinstance(reply, Failure) or not reply.top:
        return None
    return option_scores(reply.top, candidates)


def _until_its_end(answer: str, tokens: _Tokens) -> _Tokens:
    """The tokens up to the end of an answer: some servers list what ends the turn as well."""
    parts = [token.raw for token in tokens]
    whole, said = b"".join(parts), answer.encode()
    at = 0
    if not whole.startswith(said):
        said = said.strip()
        at = whole.rfind(said)
    if at < 0:
        return tokens
    ends = list(itertools.accumulate(map(len, parts), initial=0))
    return tokens[: bisect_left(ends, at + len(said))]


def _changes(sampling: Sampling) -> dict[str, Any]:
    """What is asked beyond the usual: a server that does not know it may refuse it."""
    plain = Sampling(
        sampling.temperature,
        sampling.top_p,
        sampling.max_tokens,
        least_tokens=sampling.least_tokens,
    )
    changed = {
        field.name: getattr(sampling, field.name)
        for field in fields(sampling)
        if getattr(sampling, field.name) != getattr(plain, field.name)
    }
    return changed | ({"stop": list(sampling.stop)} if sampling.stop else {})
