"""Option scores out of the most probable first tokens."""

from __future__ import annotations

import math

import pytest

from semievol_ray.engines.spellings import option_scores


def scores(top: dict[str, float], options: list[str]) -> list[float] | None:
    """Probabilities in, probabilities out."""
    found = option_scores([(token, math.log(p)) for token, p in top.items()], options)
    return None if found is None else [math.exp(score) for score in found]


def test_the_spellings_of_an_option_add_up() -> None:
    top = {"B": 0.90, " B": 0.08, "C": 0.015, "The": 0.004, "b": 0.0003}
    assert scores(top, ["A", "B", "C"]) == pytest.approx([0, 0.9803, 0.015])


def test_case_counts_where_options_differ_in_nothing_else() -> None:
    assert scores({"us": 0.7, " US": 0.2}, ["US", "us"]) == pytest.approx([0.2, 0.7])


def test_a_longer_option_is_counted_by_what_begins_it_alone() -> None:
    top = {" bill": 0.6, "sales": 0.3, "tech": 0.05, "\n": 0.04}
    assert scores(top, [" billing", " sales", " technical support"]) == pytest.approx(
        [0.6, 0.3, 0.05]
    )


def test_a_beginning_of_several_options_is_none_of_theirs() -> None:
    """And where it is the likeliest of all, nobody knows which option is."""
    options = ["card lost", "card arrival", "top up"]
    assert scores({"top": 0.6, "card": 0.3}, options) == pytest.approx([0, 0, 0.6])
    assert scores({"top": 0.01, "card": 0.9}, options) is None


def test_what_names_no_option_leaves_them_all_at_nothing() -> None:
    assert scores({"The": 0.9, "": 0.1}, ["A", "B"]) == [0, 0]
