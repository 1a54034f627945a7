"""What an endpoint sent, read once: the record that all the rest is made of.

Endpoints are many, and odd in their own ways. Whatever comes is either a Reply, in which every
value has its type, its range and its UTF-8, or NoReply. What is a reply's text decides that; what
is odd beside the text (logprobs, usage, reasons) is left out as if it had not been sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

# A probability of 1 comes out above it by rounding; more than this is no logprob.
_ROUNDING = 1e-3
# No token is drawn that has no probability; less than this no float32 holds either.
_LEAST = -3e38
_MOST_TOKENS = 2**31 - 1
_DIGITS = re.compile(r"[0-9]{1,10}")


# What others call "length"; and what ends an answer before its end.
_CUT_OFF = {"model_length": "length", "max_tokens": "length"}
_BROKEN_OFF = ("error", "abort", "cancelled", "content_filter", "insufficient_system_resource")


class NoReply(Exception):
    """There is no answer in what came. `words`: what the endpoint says instead."""

    def __init__(self, reason: str, words: Any = None) -> None:
        super().__init__(reason)
        self.words = words


class NotTheApi(NoReply):
    """What came is a page, and no JSON."""


class Token(NamedTuple):
    """One token that was written."""

    text: str
    raw: bytes
    logprob: float


@dataclass(frozen=True)
class Reply:
    """The first choice of a completion."""

    content: str
    # What the server parted from the content.
    thought: str | None
    finish_reason: str | None
    # Null where there are none, or one cannot be read: a part of them is no answer's.
    tokens: tuple[Token, ...] | None
    # The most probable first tokens, each with its logprob.
    top: tuple[tuple[str, float], ...]
    # Null where the server does not count them.
    prompt_tokens: int | None
    response_tokens: int | None


def read_reply(body: bytes) -> Reply:
    """The reply in the body of a response. Raises NoReply, and nothing else."""
    text = body.decode("utf-8-sig", "replace").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        if text.startswith("<"):
            raise NotTheApi("a page and no JSON") from None
        raise NoReply("a reply that is no JSON", text or None) from None
    reply = _mapping(found)
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        raise NoReply("a reply without choices", reply.get("error"))
    choice, message = choices[0], None
    if isinstance(choice, Mapping):
        message = {} if choice.get("message") is None else choice["message"]
    if not isinstance(message, Mapping):
        raise NoReply("a choice without a message")
    content = _text(message.get("content"))
    if content is None:
        raise NoReply("a message whose content is no text")
    thoughts = [_thought(message.get(name)) for name in ("reasoning_content", "reasoning")]
    usage, reason = _mapping(reply.get("usage")), choice.get("finish_reason")
    if choice.get("error"):
        raise NoReply("an error in the place of an answer", choice["error"])
    reason = _CUT_OFF.get(reason, reason) if isinstance(reason, str) else None
    if reason in _BROKEN_OFF:
        raise NoReply(f"an answer that was broken off ({reason})")
    prompt_tokens, whole = _count(usage.get("prompt_tokens")), _count(usage.get("total_tokens"))
    # Some leave the tokens of thoughts out of those of the completion.
    beside = max(whole - prompt_tokens, 0) if whole is not None and prompt_tokens else None
    counts = [n for n in (_count(usage.get("completion_tokens")), beside) if n is not None]
    written = _mapping(choice.get("logprobs")).get("content")
    tokens = _tokens(written)
    return Reply(
        content,
        next(filter(None, thoughts), None) or _thought_in(message.get("content")),
        utf8(reason) if reason is not None else None,
        tokens if tokens and all(token.logprob > _LEAST for token in tokens) else None,
        _top(written),
        prompt_tokens,
        max(counts, default=None),
    )


def utf8(text: str) -> str:
    """A text that can be written: halves of surrogates, which JSON can spell, are replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _text(content: Any) -> str | None:
    """A content's text: one, or the texts of its parts; null where it is neither."""
    if content is None:
        return ""
    if isinstance(content, str):
        return utf8(content)
    if not isinstance(content, list):
        return None
    parts = [part if isinstance(part, str) else _mapping(part).get("text") for part in content]
    texts = [utf8(part) for part in parts if isinstance(part, str)]
    return "".join(texts) if texts or not parts or _thought_in(content) else None


def _thought(said: Any) -> str | None:
    return _text(said) or None


def _thought_in(content: Any) -> str | None:
    """The thought among the parts of a content, as Magistral's endpoint has it."""
    parts = content if isinstance(content, list) else []
    return "".join(_text(_mapping(part).get("thinking")) or "" for part in parts) or None


def _tokens(content: Any) -> tuple[Token, ...] | None:
    if not isinstance(content, list) or not content:
        return None
    found = [_token(entry) for entry in content]
    known = tuple(token for token in found if token is not None)
    return known if len(known) == len(found) else None


def _token(entry: Any) -> Token | None:
    entry = _mapping(entry)
    text, logprob, raw = entry.get("token"), _logprob(entry.get("logprob")), entry.get("bytes")
    if not isinstance(text, str) or logprob is None:
        return None
    text = utf8(text)
    if not isinstance(raw, list) or not raw or not all(_is_byte(value) for value in raw):
        return Token(text, text.encode(), logprob)
    return Token(text, bytes(raw), logprob)


def _top(content: Any) -> tuple[tuple[str, float], ...]:
    first = content[0] if isinstance(content, list) and content else None
    top = _mapping(first).get("top_logprobs")
    found = _tokens(top) or ()
    return tuple((token.text, token.logprob) for token in found)


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value < 256


def _logprob(value: Any) -> float | None:
    number = _number(value)
    return min(number, 0.0) if number is not None and number <= _ROUNDING else None


def _count(value: Any) -> int | None:
    """A number of tokens; some servers write it as a text."""
    number = _number(int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value)
    return int(number) if number is not None and 0 <= number <= _MOST_TOKENS else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
