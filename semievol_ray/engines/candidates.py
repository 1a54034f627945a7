"""The candidate continuations of a prompt as a tree of the tokens that they begin with alike.

A beginning that several candidates share is computed once: 77 labels are then some hundred tokens
behind the prompt and not 77 continuations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = tuple[int, ...]


def branches(candidates: Sequence[Sequence[int]]) -> dict[Tokens, list[int]]:
    """Each distinct proper beginning of the candidates, and the tokens that may follow it.

    A beginning comes after its own beginnings; the first is the empty one.
    """
    found: dict[Tokens, list[int]] = {(): []}
    for tail in candidates:
        for at, token in enumerate(tail):
            following = found.setdefault(tuple(tail[:at]), [])
            if token not in following:
                following.append(token)
    return found


@dataclass(frozen=True)
class Tree:
    """The branches of one prompt's candidates in arrays: n nodes, c candidates of up to t tokens.

    A node is a non-empty beginning; number 0 stands for the prompt's end.
    """

    ids: npt.NDArray[np.int64]  # (n,): the last token of each beginning
    depths: npt.NDArray[np.int64]  # (n,): its length
    sees: npt.NDArray[np.bool_]  # (n, n): whether a node's beginning includes the other's
    predicted_by: npt.NDArray[np.int64]  # (c, t): node whose logits predict the token
    targets: npt.NDArray[np.int64]  # (c, t)
    real: npt.NDArray[np.bool_]  # (c, t)


@lru_cache(maxsize=256)
def tree_of(candidates: tuple[Tokens, ...]) -> Tree:
    """The tree of tokenised candidates, none of which is empty."""
    nodes = [begun for begun in branches(candidates) if begun]
    number = {(): 0} | {begun: i for i, begun in enumerate(nodes, start=1)}
    sees = np.zeros((len(nodes), len(nodes)), bool)
    for i, begun in enumerate(nodes):
        sees[i, [number[begun[:k]] - 1 for k in range(1, len(begun) + 1)]] = True
    shape = (len(candidates), max(map(len, candidates), default=0))
    predicted_by, targets = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    real = np.zeros(shape, bool)
    for row, tail in enumerate(candidates):
        predicted_by[row, : len(tail)] = [number[tail[:at]] for at in range(len(tail))]
        targets[row, : len(tail)] = tail
        real[row, : len(tail)] = True
    return Tree(
        ids=np.array([begun[-1] for begun in nodes], np.int64),
        depths=np.array([len(begun) for begun in nodes], np.int64),
        sees=sees,
        predicted_by=predicted_by,
        targets=targets,
        real=real,
    )


def stack(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Arrays of like dimensions, filled up with zeros to the largest and stacked."""
    shape = np.max([a.shape for a in arrays], axis=0)
    out = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for row, array in enumerate(arrays):
        place: tuple[Any, ...] = (row, *(slice(n) for n in array.shape))
        out[place] = array
    return out
