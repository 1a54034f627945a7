"""Thoughts and answers told apart, for every engine by the same rule.

An answer is what follows the last closing mark. A thought that is not closed has no answer behind
it, whatever options and numbers it names. A response without a mark is an answer as it is. Where it
begins with a mark, marks of other kinds are words of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

# How models mark a thought: Qwen3, R1 and most; Magistral; Seed-OSS; Kimi; OpenThinker; Command A;
# gpt-oss (harmony), whose answer is what it says in the final channel.
_MARKS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
# What prompts ask for: a thought where the response begins so, and elsewhere an explanation.
_PROMPTED = (
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
)
_TOKENS = (*(mark for pair in (*_MARKS, *_PROMPTED) for mark in pair), "<|channel|>")
# What harmony writes between the end of a thought and the mark of the answer.
_END_OF_MESSAGE = "<|end|>"


class Parted(NamedTuple):
    """A text in two: each part is null where there is none; `start` is where the answer begins."""

    thought: str | None
    answer: str | None
    start: int


def opens_thought(prompt: str) -> bool:
    """Whether a prompt ends with an open thought, as R1's template writes it."""
    return any(prompt.rstrip().endswith(opening) for opening, _ in _MARKS)


def part(text: str, *, opened: bool = False) -> Parted:
    """The thought and the answer of a raw text; `opened`: its prompt opened the thought."""
    marks = _MARKS if opened else _marks_of(text)
    at, closing = max((text.rfind(closing), closing) for _, closing in marks)
    starts = [text.rfind(opening) for opening, _ in marks]
    if at < 0 and max(starts) < 0 and not opened:
        return Parted(None, text, 0)
    if max(starts) > at or at < 0:
        return Parted(_bare(text), None, len(text))
    end = at + len(closing)
    start = end + len(text[end:]) - len(text[end:].lstrip())
    return Parted(_bare(text[:at]), text[start:], start)


def _marks_of(text: str) -> Sequence[tuple[str, str]]:
    """The marks that count in a response: those that it begins with, or all that models have."""
    begun = text.lstrip()
    for pair in (*_MARKS, *_PROMPTED):
        if begun.startswith(pair[0]):
            return (pair,)
    return _MARKS


def _bare(thought: str) -> str:
    for opening, _ in _marks_of(thought):
        thought = thought.replace(opening, "", 1)
    return thought.partition(_END_OF_MESSAGE)[0].strip()


@dataclass(frozen=True)
class Written:
    """One response as a model wrote it, in tokens: without the one that ended it.

    `tokens` counts that one too.
    """

    prompt: str
    ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: str
    prompt_tokens: int
    tokens: int
    # Where a stop string cut into a token: what is left of the text.
    text: str | None = None


class ResponseReader:
    """Token ids to GENERATION rows, under one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self._marks = {vocabulary[token] for token in _TOKENS if token in vocabulary}

    def rows(self, responses: Sequence[Written]) -> list[dict[str, Any]]:
        """The rows of some responses; a fast tokenizer decodes them on all its threads."""
        texts = self._tokenizer.batch_decode([r.ids for r in responses], skip_special_tokens=True)
        return [
            self._row(r, text if r.text is None else r.text)
            for r, text in zip(responses, texts, strict=True)
        ]

    def _row(self, written: Written, text: str) -> dict[str, Any]:
        opened = opens_thought(written.prompt)
        marked = not self._marks.isdisjoint(written.ids) or any(mark in text for mark in _TOKENS)
        if not (opened or marked):
            return _row(written, Parted(None, text, 0), 0)
        ids = written.ids
        parted = part(self._raw(ids), opened=opened)
        first = last_within(lambda n: len(self._raw(ids[:n])), len(ids), parted.start)
        if parted.answer is not None:
            answer = self._tokenizer.decode(ids[first:], skip_special_tokens=True).lstrip()
            parted = parted._replace(answer=answer)
        return _row(written, parted, first)

    def _raw(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text


def last_within(length: Callable[[int], int], tokens: int, start: int) -> int:
    """Number of the first token of an answer that begins at a character of the text.

    `length(n)` is that of the text of the first n tokens. A token that the answer begins in the
    middle of is the answer's: words bring their space along.
    """
    return bisect_right(range(tokens + 1), start, key=length) - 1


def _row(written: Written, parted: Parted, first: int) -> dict[str, Any]:
    """A GENERATION row; the answer's tokens begin with number `first`."""
    logprobs = list(written.logprobs)
    return {
        "text": parted.answer,
        "finish_reason": written.finish_reason,
        "prompt_tokens": written.prompt_tokens,
        "tokens": written.tokens,
        "token_logprobs": None if parted.answer is None else logprobs[first:],
        "rationale": parted.thought,
        "rationale_logprobs": None if parted.thought is None else logprobs[:first],
    }
