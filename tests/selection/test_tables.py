"""Tables of any library, and what is said of those that cannot be used."""

from __future__ import annotations

import math

import duckdb
import polars as pl
import pytest

from semievol_ray.schema import SELECTION
from semievol_ray.selection import select
from tests.selection.responses import (
    LETTERS,
    many_examples,
    response,
    run,
    settings_of,
    table,
)


def test_tables_of_any_library():
    rows, justified = many_examples()
    arrow = [table(rows), table(justified)]
    for policy in ("paper", "balanced"):
        want = select(*arrow, **settings_of(policy))
        for form in (
            pl.from_arrow,
            lambda t: pl.from_arrow(t).lazy(),
            lambda t: t.to_pandas(),
            lambda t: t.to_reader(),
            lambda t: t.to_pydict(),
            lambda t: {name: t[name] for name in t.column_names},
            lambda t: duckdb.from_arrow(t),
        ):
            assert select(*map(form, arrow), **settings_of(policy)).equals(want)
    with pytest.raises(ValueError, match="justified: example 'x' has no responses"):
        select(arrow[0], pl.from_arrow(table([response("x")])), **settings_of("paper"))


def test_what_is_no_table_is_named():
    for wrong, message in (
        (5, "responses: got a int, wanted a table"),
        ([1], "responses: got a list, wanted a table"),
        (None, "responses: got a NoneType, wanted a table"),
        ({"example_id": ["a"]}, "responses: no column 'answer'; its columns are example_id"),
        ({"example_id": ["a"], "answer": []}, "responses: "),
    ):
        with pytest.raises(ValueError, match=message):
            select(wrong, None, **settings_of("paper"))
    with pytest.raises(ValueError, match="justified: got a str, wanted a table"):
        select(table([response("a")]), "b", **settings_of("paper"))
    with pytest.raises(ValueError, match="labeled_entropies: none of them is a number"):
        run([response("a")], labeled_entropies=[math.nan])
    with pytest.raises(ValueError, match="labeled_entropies"):
        run([response("a")], labeled_entropies=[])


def test_an_empty_table_gives_an_empty_selection():
    for policy in ("paper", "upstream", "balanced"):
        got = run([], policy=policy, classes=LETTERS, prior=[1, 1, 1])
        assert got.num_rows == 0 and got.schema == SELECTION


def test_what_cannot_be_used_is_named():
    good = response("a")
    with pytest.raises(ValueError, match=r"row 1: 0\.5 is not a logprob"):
        run([good, response("b", "A", [0.5])])
    with pytest.raises(ValueError, match="'x' has no responses"):
        run([good], [response("x")])
    with pytest.raises(ValueError, match="more than one row"):
        run([good], [good, good])
    with pytest.raises(ValueError, match="3 classes, but a prior of 1"):
        run([good], policy="balanced", classes=LETTERS, prior=[1])
    with pytest.raises(ValueError, match="closed task"):
        run([good], policy="balanced", kind="text", classes=LETTERS, prior=[1, 1, 1])
    with pytest.raises(ValueError, match="percentile"):
        run([good], percentile=0)
    with pytest.raises(ValueError, match="kind"):
        run([good], kind="poem")
    with pytest.raises(ValueError, match="row 0: 3 options, but 2 classes"):
        run(
            [response("a", "A", [-1.0], [-1.0] * 3)],
            policy="balanced",
            classes=LETTERS[:2],
            prior=[1, 1],
        )
