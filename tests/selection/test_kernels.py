"""The kernels through Python: every Arrow form that a column can have, and the written edges."""

from __future__ import annotations

import math

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray import selection

ROWS = [[-1.0, -3.0], None, [], [-0.5, None, -1.5], [-math.inf], [0.0]]
NLL = [2.0, None, None, 1.0, math.inf, 0.0]


@pytest.mark.parametrize("width", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("lists", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view])
def test_any_list_of_any_float(width, lists):
    array = pa.array(ROWS, lists(width))
    assert selection.mean_nll(array).to_pylist() == NLL
    assert selection.mean_nll(array[2:5]).to_pylist() == NLL[2:5]
    chunked = pa.chunked_array([array[:1], array[:0], array[1:]])
    assert selection.mean_nll(chunked).to_pylist() == NLL


def test_lists_of_one_size_and_of_no_type():
    array = pa.array([[-1.0, -2.0], None, [-3.0, -5.0]], pa.list_(pa.float32(), 2))
    assert selection.mean_nll(array).to_pylist() == [1.5, None, 4.0]
    assert selection.mean_nll(array[1:]).to_pylist() == [None, 4.0]
    assert selection.mean_nll(pa.nulls(2)).to_pylist() == [None, None]
    assert selection.mean_nll(pa.array([[], None], pa.list_(pa.null()))).to_pylist() == [None] * 2


def test_other_libraries_columns():
    frame = pl.DataFrame({"x": [[-1.0, -3.0], None, []]}, schema={"x": pl.List(pl.Float32)})
    assert selection.mean_nll(frame["x"]).to_pylist() == [2.0, None, None]
    table = duckdb.sql(
        "select [-1.0::float, -3.0::float] as x union all select null"
    ).to_arrow_table()
    assert sorted(selection.mean_nll(table["x"]).to_pylist(), key=str) == [2.0, None]
    texts = pl.Series(["B", None])
    assert selection.extract_answers(texts, kind="multiple_choice").to_pylist() == ["B", None]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
)
def test_any_string_type(kind):
    texts = pa.array(["x", "b", None, "a", "b", "", "zz"], pa.string()).cast(kind)[1:]
    got = selection.extract_answers(
        pa.chunked_array([texts[:2], texts[2:]]), kind="multiple_choice"
    )
    assert got.to_pylist() == ["B", None, "A", "B", None, None]
    # The second "b" is row 3 of the slice.
    hashes = [selection.hash_ids(texts[row : row + 1]).to_pylist() for row in (0, 3)]
    assert hashes[0] == hashes[1] == selection.hash_ids(pa.array(["b"])).to_pylist()


@given(
    st.lists(st.lists(st.floats(-50, 0, width=32), max_size=300), max_size=20),
    st.sampled_from(["mean_nll", "sum", "perplexity", "min", "first", "tail_mean_nll"]),
)
def test_scores_are_those_of_float64(rows, kind):
    got = selection.sequence_score(pa.array(rows, pa.list_(pa.float32())), kind=kind, tail=3)

    def want(x):
        if not x:
            return 0.0 if kind == "sum" else None
        mean = lambda values: -math.fsum(values) / len(values)  # noqa: E731
        return {
            "mean_nll": mean(x),
            "sum": math.fsum(x),
            "perplexity": math.exp(mean(x)),
            "min": min(x),
            "first": x[0],
            "tail_mean_nll": mean(x[-3:]),
        }[kind]

    # 1e-6 of the sum; the exponential of a mean of 50 magnifies it.
    tolerance = 1e-4 if kind == "perplexity" else 1e-6
    for row, value in zip(rows, got.to_pylist(), strict=True):
        expected = want(row)
        assert (value is None) == (expected is None)
        if value is not None:
            assert value == pytest.approx(expected, rel=tolerance, abs=1e-300)


@pytest.mark.parametrize("bad", [math.nan, 0.5, math.inf])
def test_what_is_no_logprob_is_refused_with_its_row(bad):
    rows = [[-1.0]] * 20_000
    rows[17_003] = [-1.0, bad]
    array = pa.array(rows, pa.list_(pa.float32()))
    with pytest.raises(ValueError, match="row 17003: "):
        selection.mean_nll(pa.chunked_array([array[:9_000], array[9_000:]]))


def test_offsets_beyond_two_to_the_31():
    # 2^31 + 8 values, of which only the pages that are read take memory.
    n = 2**31 + 8
    buffer = np.zeros(n, dtype=np.float16)
    buffer[-4:] = -1.0
    values = pa.Array.from_buffers(pa.float16(), n, [None, pa.py_buffer(buffer)])
    offsets = pa.array([0, 4, n - 4, n], pa.int64())
    array = pa.LargeListArray.from_arrays(offsets, values)
    assert selection.mean_nll(array[2:]).to_pylist() == [1.0]


def test_token_entropy_is_bounded():
    half = math.log(0.5)
    rows = [[[half, half], [0.0]], [[math.log(0.9)]], [], None]
    got = selection.token_entropy(
        pa.array(rows, pa.list_(pa.list_(pa.float32()))), vocabulary=2
    ).to_pylist()
    assert got[0]["low"] == pytest.approx(math.log(2) / 2, rel=1e-6)
    exact = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert got[1]["low"] == pytest.approx(exact, rel=1e-6) == got[1]["high"]
    assert got[2] == got[3] == {"low": None, "high": None}


def test_agreement_of_the_collaborators():
    ids = pa.array(["a", "a", "b", "b", "c", "c"])
    groups = selection.Groups(ids)
    got = selection.collaborator_agreement(
        groups, pa.array(["x", "y"] * 3), pa.array(["1", "1", "1", "2", None, "2"])
    )
    assert got["collaborators"] == ["x", "y"]
    assert got["both"] == [[2, 2], [2, 3]]
    assert got["agreement"][0] == [1.0, 0.5]
    with pytest.raises(ValueError, match='row 1: collaborator "x" has two rows'):
        selection.collaborator_agreement(groups, pa.array(["x"] * 6), pa.array(["1"] * 6))


def test_sixty_five_collaborators_and_many_classes():
    n = 65
    groups = selection.Groups(pa.array(["a"] * n))
    answers = pa.array([f"c{i % 40}" for i in range(n)])
    got = selection.consensus(groups, answers, pa.array(np.linspace(1, 2, n))).to_pylist()[0]
    assert got["winner"] == "c0" and got["n_valid"] == 65
    assert got["agreement"] == pytest.approx(2 / 65)
    weights = pa.array([0.0] * 64 + [1.0])
    heavy = selection.consensus(groups, answers, pa.nulls(n, pa.float64()), weights=weights)
    assert heavy.to_pylist()[0]["winner"] == "c24" and heavy["n_valid"].to_pylist() == [1]
    with pytest.raises(ValueError, match="row 3: -1 is not a weight"):
        selection.consensus(
            groups, answers, pa.nulls(n, pa.float64()), weights=pa.array([1.0] * 3 + [-1.0] * 62)
        )


def test_near_duplicates_of_shards_are_merged_by_appending():
    base = "the central bank raised its main rate by a quarter of a point on"
    texts = pa.array([f"{base} Monday", "something else entirely", f"{base} Monday.", None])
    whole = selection.minhash(texts)
    parts = pa.chunked_array([selection.minhash(texts[:2]), selection.minhash(texts[2:])])
    assert whole.equals(parts.combine_chunks())
    assert selection.near_duplicates(parts).to_pylist() == [0, 1, 0, 3]


def test_alignment_weights_of_the_prior():
    p = pa.array([[0.9, 0.1], [0.6, 0.4], None], pa.list_(pa.float32()))
    weights = selection.alignment_weights(p, [1, 1])
    aligned = selection.align_options(p, weights)
    values = np.array(aligned["distribution"].to_pylist()[:2])
    assert values.mean(axis=0) == pytest.approx([0.5, 0.5], abs=1e-6)
    assert aligned["class"].to_pylist() == [0, 1, None]
    with pytest.raises(ValueError, match="prior"):
        selection.alignment_weights(p, [-1, 1])
    with pytest.raises(ValueError, match="row 0: 2 options, but 1 classes"):
        selection.alignment_weights(p, [1])
