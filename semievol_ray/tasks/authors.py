"""ConvFinQA as the authors' released code scores it, so that figures can be laid beside theirs.

It is more lenient than `Task.correct` with numbers, and stricter with words.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

_ANSWER = re.compile(r"answer\s*:\s*(\S+)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?\.?\d+(?:,\d{3})*\.?\d*(?:[eE][-+]?\d+)?%*")
_RELATIVE_TOLERANCE = 1e-2


def convfinqa_correct(texts: Sequence[str | None], gold: Sequence[str]) -> list[bool]:
    """Whether any number of a response's first token is within 1 % of any number of the answer.

    The first token is that after "Answer:", which ends our prompts and which a model may write
    again. A word ("yes") holds no number: such a row is never right.
    """
    return [_is_right(text, answer) for text, answer in zip(texts, gold, strict=True)]


def _is_right(text: str | None, gold: str) -> bool:
    found = _ANSWER.search(text or "") or _ANSWER.search(f"Answer: {text or ''}")
    said = _numbers(found[1]) if found else []
    pairs = itertools.product(said, _numbers(gold))
    return any(math.isclose(a, b, rel_tol=_RELATIVE_TOLERANCE) for a, b in pairs)


def _numbers(text: str) -> list[float]:
    values = map(_value, _NUMBER.findall(text))
    return [value for value in values if value is not None]


def _value(number: str) -> float | None:
    digits = number.rstrip("%")
    try:
        value = float(digits.replace(",", "").rstrip("."))
    except ValueError:  # ".44.4"
        return None
    # Powers of 0.01 end in 0 where a model writes "%" for ever; those of 100 overflow.
    return value * 0.01 ** (len(number) - len(digits))
