"""Scores of options where an engine tells no more than the most probable first tokens.

An option is spelt in several ways (`B`, ` B`, `b`), each a token of its own: their probabilities
add up. An option of several tokens is counted by the tokens that begin it and no other option;
what it counts is then at least its own probability, for the token may also go on otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np


def option_scores(top: Iterable[tuple[str, float]], options: Sequence[str]) -> list[float] | None:
    """log P of each option from some tokens, each with its logprob; -inf where none spells it.

    Case counts only where options differ in nothing else. Null where tokens that begin several
    options weigh more than any option does: which one is meant is then not known.
    """
    spelt = [option.strip() for option in options]
    folded = [option.casefold() for option in spelt]
    fold = len(set(folded)) == len(set(spelt))
    names = folded if fold else spelt
    found: list[list[float]] = [[] for _ in options]
    unclear: list[float] = []
    for token, logprob in top:
        text = token.strip().casefold() if fold else token.strip()
        begun = [index for index, name in enumerate(names) if text and name.startswith(text)]
        if len(begun) == 1:
            found[begun[0]].append(logprob)
        elif begun:
            unclear.append(logprob)
    scores = [_log_sum(logprobs) for logprobs in found]
    return None if unclear and _log_sum(unclear) > max(scores) else scores


def _log_sum(logprobs: Sequence[float]) -> float:
    return min(float(np.logaddexp.reduce(logprobs)), 0.0) if logprobs else -math.inf
