"""The candidate continuations of a prompt as a tree of the tokens that they begin with alike.

A beginning that several candidates share is computed once: 77 labels are then some hundred tokens
behind the prompt and not 77 continuations. And where a beginning is unlikely already, what goes on
from it need not be computed at all: of those hundreds a model that knows its labels needs a few.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

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
    """The branches of one prompt's candidates by number: 0 is the empty one, the prompt's end."""

    candidates: tuple[Tokens, ...]
    beginnings: tuple[Tokens, ...]
    # For each of them the tokens that may follow; the beginnings that it makes with each, -1 where
    # it makes none; and the candidates that end with each.
    following: tuple[tuple[int, ...], ...]
    children: tuple[tuple[int, ...], ...]
    ends: tuple[tuple[tuple[int, ...], ...], ...]
    sees: npt.NDArray[np.bool_]  # (n, n): whether a beginning includes the other


@lru_cache(maxsize=256)
def tree_of(candidates: tuple[Tokens, ...]) -> Tree:
    """The tree of tokenised candidates."""
    following = {begun: tuple(tokens) for begun, tokens in branches(candidates).items()}
    number = {begun: i for i, begun in enumerate(following)}
    ending: dict[Tokens, tuple[int, ...]] = {}
    for i, tail in enumerate(candidates):
        ending[tail] = (*ending.get(tail, ()), i)
    sees = np.zeros((len(number), len(number)), bool)
    for begun, i in number.items():
        sees[i, [number[begun[:k]] for k in range(len(begun) + 1)]] = True
    made = [[(*begun, token) for token in tokens] for begun, tokens in following.items()]
    return Tree(
        candidates,
        tuple(following),
        tuple(following.values()),
        tuple(tuple(number.get(begun, -1) for begun in row) for row in made),
        tuple(tuple(ending.get(begun, ()) for begun in row) for row in made),
        sees,
    )


class Search:
    """log P of one prompt's candidates, from as few beginnings as it takes: the likeliest first.

    A candidate is no likelier than its beginning. So a beginning whose probability is below
    `negligible` times the best candidate's is not gone on from: those that begin with it are given
    equal shares of it.
    """

    def __init__(self, tree: Tree, negligible: float = 0.0) -> None:
        self.tree = tree
        self._margin = math.log(negligible) if negligible else -math.inf
        self._logprobs = {0: 0.0}  # of beginnings
        self._open = {0}  # those of them of which it is not known what may follow
        self._scores = {i: 0.0 for i, tail in enumerate(tree.candidates) if not tail}
        self._best = max(self._scores.values(), default=-math.inf)

    def wanted(self, most: int | None = None) -> list[int]:
        """Beginnings to be computed next, at most so many, each after its own; none: it is done."""
        found: list[int] = []
        known = sorted((-self._logprobs[node], node) for node in self._open)
        if known:
            least = max(self._best, -known[0][0]) + self._margin
            for cost, node in known:
                if -cost >= least:
                    found += self._with_what_follows(node)
        return found[:most]

    def tell(self, node: int, logprobs: Sequence[float]) -> None:
        """log P of the tokens that may follow a beginning, in the order of `Tree.following`."""
        self._open.discard(node)
        tree, so_far = self.tree, self._logprobs[node]
        rows = zip(tree.children[node], tree.ends[node], logprobs, strict=True)
        for child, ends, logprob in rows:
            total = so_far + logprob
            for candidate in ends:
                self._scores[candidate] = total
                self._best = max(self._best, total)
            if child >= 0:
                self._logprobs[child] = total
                self._open.add(child)

    def scores(self) -> list[float]:
        """log P of each candidate, where nothing is wanted any more."""
        found = dict(self._scores)
        self._share(0, found)
        return [found[candidate] for candidate in range(len(self.tree.candidates))]

    def _share(self, node: int, found: dict[int, float]) -> None:
        """Share out what is negligible, whether or not it was computed before that was known."""
        tree = self.tree
        if not self._logprobs[node] >= self._best + self._margin:
            begun = tree.beginnings[node]
            heirs = [
                i
                for i, tail in enumerate(tree.candidates)
                if tail[: len(begun)] == begun and tail != begun
            ]
            found |= dict.fromkeys(heirs, self._logprobs[node] - math.log(len(heirs)))
            return
        for child in tree.children[node]:
            if child >= 0:
                self._share(child, found)

    def _with_what_follows(self, node: int) -> Iterator[int]:
        """It, and what is computed after it whatever it says: it does not branch, or all counts."""
        yield node
        if self._margin == -math.inf or len(self.tree.following[node]) == 1:
            for child in self.tree.children[node]:
                if child >= 0:
                    yield from self._with_what_follows(child)
