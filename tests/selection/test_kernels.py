"""The kernels through Python: every Arrow form that a column can have, and the written edges."""

from __future__ import annotations

import math
import os

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray import selection
from semievol_ray.selection import thresholds

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


def test_more_than_two_to_the_31_values():
    # Zeros that were never written to take no memory, also when they are read.
    length = 1024
    n = 2**31 + length
    buffer = np.zeros(n, dtype=np.float16)
    buffer[-length:] = -1.0
    values = pa.Array.from_buffers(pa.float16(), n, [None, pa.py_buffer(buffer)])
    offsets = pa.array(np.arange(0, n + 1, length))
    array = pa.LargeListArray.from_arrays(offsets, values)
    nll = selection.mean_nll(array).to_numpy()
    assert nll[-1] == 1.0 and not nll[:-1].any()
    assert selection.mean_nll(array[-1:]).to_pylist() == [1.0]


@pytest.mark.skipif(
    os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 4 << 30,
    reason="takes 2.5 GB of memory",
)
def test_ten_million_classes():
    n = 10_000_000
    # As many answers in one example, and two votes for one of them.
    numbers = np.arange(n)
    numbers[-1] = 7
    answers = pa.array(numbers).cast(pa.string())
    groups = selection.Groups(pa.DictionaryArray.from_arrays(np.zeros(n, np.int8), ["one"]))
    got = selection.consensus(groups, answers, pa.array(np.ones(n))).to_pylist()[0]
    assert got["winner"] == "7" and got["n_valid"] == n
    assert got["agreement"] == 2 / n and got["margin"] == pytest.approx(1 / n)
    assert got["vote_entropy"] == pytest.approx(math.log(n) - 2 / n * math.log(2), rel=1e-9)
    # As many options in one distribution, and as many quotas.
    even = pa.FixedSizeListArray.from_arrays(np.full(n, 1 / n, np.float32), n)
    aligned = selection.align_options(even, selection.alignment_weights(even, [1.0] * n))
    assert aligned["probability"][0].as_py() == pytest.approx(1 / n, rel=1e-6)
    keys = thresholds.class_keys(np.arange(n, dtype=np.int32), np.ones(n))
    last, room, among = thresholds.quotas(lambda _: [keys[n // 2 :], keys[: n // 2]], 50.0)
    assert (last == keys).all() and (room == 1).all() and (among == 1).all()


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


def test_token_entropy_of_two_parallel_lists_is_that_of_nested_ones():
    rng = np.random.default_rng(0)
    rows = [None, []]
    rows += [[np.log(rng.dirichlet(np.ones(8))[:k]).tolist() for k in (1, 3, 8)] for _ in range(20)]
    nested = pa.array(rows, pa.list_(pa.list_(pa.float32())))
    flat = pa.array(
        [row and [x for token in row for x in token] for row in rows], nested.type.value_type
    )
    places = [row and [7 * i for i, token in enumerate(row) for _ in token] for row in rows]
    want = selection.token_entropy(nested, vocabulary=8)
    for width in (pa.int32(), pa.int64(), pa.uint32()):
        positions = pa.array(places, pa.large_list(width))
        positions = pa.chunked_array([positions[:3], positions[3:]])
        assert selection.token_entropy(flat, vocabulary=8, positions=positions).equals(want)

    def of(logprobs, positions):
        logprobs = pa.array([logprobs], pa.list_(pa.float32()))
        return selection.token_entropy(logprobs, vocabulary=2, positions=pa.array([positions]))

    with pytest.raises(ValueError, match="row 0: 1 logprobs, but 2 positions"):
        of([-1.0], [0, 1])
    with pytest.raises(ValueError, match="row 0: position 0 comes after a later one"):
        of([-1.0, -1.0], [1, 0])
    with pytest.raises(ValueError, match="expected lists of integers"):
        of([-1.0], ["x"])


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
