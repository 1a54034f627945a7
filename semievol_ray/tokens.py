"""Prompts and answers to token ids: the one rule, for training, scoring and generation alike.

- A prompt that a chat template rendered holds its special tokens already: none is added.
- A plain prompt gets the special tokens that the tokenizer opens a text with, and never the closing
  one that some add: an answer is to follow.
- An answer is tokenised as what follows a prompt, not as a text of its own: tokenizers that open a
  text with a space of their own would put it there.
- An answer ends as the chat template ends an assistant's turn, and a plain one with the tokenizer's
  end-of-sequence token. Training teaches that end, scores count it, generation stops at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from semievol_ray.chat_template import ChatTemplate

# An opening is worth computing once where that saves so much of the tokens: it is not free.
_WORTH_SHARING = 1 / 8


class _Seam(NamedTuple):
    """What stands around an answer: text before it, that text's ids, and the ids of the end."""

    before: str
    ids: list[int]
    end: list[int]


def shared_opening(
    prompts: Sequence[Sequence[int] | npt.NDArray[Any]], behind: Sequence[int] = ()
) -> int:
    """How many ids that all prompts begin with are worth computing once, for all of them.

    A system message and an instruction are most of a short prompt. Each prompt keeps its last id,
    which predicts an answer's first. `behind`: tokens that are computed behind each prompt. 0
    where it would save little.
    """
    most = min(map(len, prompts)) - 1
    if most < 1:
        return 0
    heads = np.array([prompt[:most] for prompt in prompts])
    differs = (heads != heads[0]).any(axis=0)
    same = int(differs.argmax()) if differs.any() else most
    saved, tokens = same * (len(prompts) - 1), sum(map(len, prompts)) + sum(behind)
    return same if saved >= _WORTH_SHARING * tokens else 0


class Tokens:
    """The rule under one tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def prompts(self, texts: Sequence[str], chat: Sequence[bool]) -> list[list[int]]:
        """Ids of prompts; `chat` says which of them a chat template rendered."""
        opening = self._opening
        return [
            ids if is_chat or ids[: len(opening)] == opening else [*opening, *ids]
            for ids, is_chat in zip(self._encode(texts), chat, strict=True)
        ]

    def answers(self, texts: Sequence[str], chat: Sequence[bool]) -> list[list[int]]:
        """Ids of answers, with the space before them where there is one, and without their end."""
        seams = [self._seam(is_chat) for is_chat in chat]
        both = self._encode([seam.before + text for seam, text in zip(seams, texts, strict=True)])
        return [
            ids[len(seam.ids) :]
            if ids[: len(seam.ids)] == seam.ids
            # The answer's beginning and what stands before it would be one token.
            else self._encode([text])[0]
            for ids, seam, text in zip(both, seams, texts, strict=True)
        ]

    def candidates(
        self, rows: Sequence[Sequence[str]], chat: Sequence[bool], closed: bool
    ) -> list[list[list[int]]]:
        """Ids of each row's answers, with their end where `closed`; most rows have the same."""
        distinct = sorted({(t, c) for row, c in zip(rows, chat, strict=True) for t in row})
        ids = self.answers([text for text, _ in distinct], [c for _, c in distinct])
        known = {
            key: [*found, *self.end(key[1])] if closed else found
            for key, found in zip(distinct, ids, strict=True)
        }
        return [[known[text, c] for text in row] for row, c in zip(rows, chat, strict=True)]

    def end(self, chat: bool) -> list[int]:
        """Ids that end an answer; nothing where the tokenizer has no end-of-sequence token."""
        return self._seam(chat).end

    def stops(self, chat: bool) -> set[int]:
        """Ids at which generation stops, besides those that the model's own config names."""
        return {i for i in (self.tokenizer.eos_token_id, *self.end(chat)[-1:]) if i is not None}

    def _seam(self, chat: bool) -> _Seam:
        return self._in_chat if chat else self._in_text

    @cached_property
    def _opening(self) -> list[int]:
        """The special tokens that the tokenizer opens a text with."""
        whole: list[int] = self.tokenizer("x").input_ids
        (bare,) = self._encode(["x"])
        starts = range(len(whole) - len(bare) + 1)
        at = next(i for i in starts if whole[i : i + len(bare)] == bare)
        return whole[:at]

    @cached_property
    def _in_text(self) -> _Seam:
        eos = self.tokenizer.eos_token_id
        # A new line: no tokenizer joins it to the words, or the space, behind it.
        return _Seam("\n", self._encode(["\n"])[0], [] if eos is None else [eos])

    @cached_property
    def _in_chat(self) -> _Seam:
        head, _, tail = ChatTemplate(self.tokenizer).around
        # From its last special token on: what is before has no part in how the answer is read.
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        before = head[max((head.rfind(s) for s in special), default=-1) :] if special else head
        ids, letter, whole = self._encode([before, "A", f"A{tail}"])
        after = whole[len(letter) :]
        marks = [i for i, token in enumerate(after) if token in self._special_ids]
        end = after[: marks[0] + 1] if marks else self._in_text.end
        return _Seam(before, ids, end)

    @cached_property
    def _special_ids(self) -> set[int]:
        return {*self.tokenizer.added_tokens_decoder, *self.tokenizer.all_special_ids}

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        found: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False
        ).input_ids
        return found
