"""Where a response ends that runs into a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def cut(tokenizer: Any, ids: Sequence[int], stop: Sequence[str]) -> tuple[str, int] | None:
    """The text before the first stop string, and of how many tokens it is made.

    Null where no stop string is in it. A token that lies across the cut belongs to the text.
    """
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    ends = [at for at in map(text.find, stop) if at >= 0]
    if not ends:
        return None
    kept, count = text[: min(ends)], 0
    while len(tokenizer.decode(ids[:count], skip_special_tokens=True)) < len(kept):
        count += 1
    return kept, count
