"""The search through a tree of candidates finds what computing all of it would."""

from __future__ import annotations

import math
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semievol_ray.engines.candidates import Search, Tokens, tree_of

TAILS = st.lists(st.lists(st.integers(0, 3), max_size=6).map(tuple), min_size=1, max_size=12).map(
    tuple
)


def after(begun: Tokens, tokens: Tokens, steepness: float) -> list[float]:
    """log P, made up: of five tokens, four of which candidates are made of."""
    drawn = [zlib.crc32(bytes([*begun, 9, token])) / 2**32 for token in range(5)]
    odds = [math.exp(steepness * x) for x in drawn]
    return [math.log(odds[token] / sum(odds)) for token in tokens]


def logprob(tail: Tokens, steepness: float) -> float:
    return sum(after(tail[:k], (tail[k],), steepness)[0] for k in range(len(tail)))


def searched(
    tails: tuple[Tokens, ...], negligible: float, most: int | None, steepness: float
) -> tuple[list[float], int]:
    """The scores, and how many beginnings were computed for them."""
    tree = tree_of(tails)
    search, told = Search(tree, negligible), set()
    while wanted := search.wanted(most):
        assert most is None or len(wanted) <= most
        for node in wanted:
            begun = tree.beginnings[node]
            own = {tree.beginnings.index(begun[:k]) for k in range(len(begun))}
            assert node not in told and own <= told
            told.add(node)
            search.tell(node, after(begun, tree.following[node], steepness))
    return search.scores(), len(told)


def shared(tails: tuple[Tokens, ...], negligible: float, steepness: float) -> list[float]:
    """What the search should find, from log P of every candidate."""
    exact = [logprob(tail, steepness) for tail in tails]
    least = max(exact) + math.log(negligible)
    found = []
    for tail, own in zip(tails, exact, strict=True):
        begun = (tail[:k] for k in range(len(tail)))
        unlikely = next((b for b in begun if logprob(b, steepness) < least), None)
        if unlikely is not None:
            heirs = sum(other[: len(unlikely)] == unlikely != other for other in tails)
            own = logprob(unlikely, steepness) - math.log(heirs)
        found.append(own)
    return found


@settings(max_examples=300, deadline=None)
@given(
    TAILS,
    st.sampled_from([0.0, 1e-6, 1e-2, 0.5]),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([1.0, 10.0, 40.0]),
)
def test_what_counts_is_exact_and_the_rest_is_shared_out(
    tails, negligible, most, steepness
) -> None:
    found, told = searched(tails, negligible, most, steepness)
    if negligible:
        assert found == pytest.approx(shared(tails, negligible, steepness), abs=1e-9)
    else:
        assert found == pytest.approx([logprob(tail, steepness) for tail in tails], abs=1e-9)
        assert told == len(tree_of(tails).beginnings)


def test_of_many_candidates_few_beginnings_are_computed() -> None:
    tails = tuple((a, b, c, 3) for a in range(4) for b in range(4) for c in range(4))
    whole, all_of_them = searched(tails, 0.0, None, 40.0)
    found, few = searched(tails, 1e-6, None, 40.0)
    assert few < all_of_them / 2
    assert found.index(max(found)) == whole.index(max(whole))
