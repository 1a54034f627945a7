"""Foreign buffers that break Arrow's promises: one line that names column and row, never a crash.

Every test of this file ran into a segmentation fault, an endless kernel or a wrong answer where
nothing was checked, so a regression may take the process down.
"""

from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray import selection

BAD = [b"caf\xe9", b"\xff" * 20, b"A\xc3", b"\x80", b"\xed\xa0\x80 a lone surrogate"]
GOOD = ["A", None, "café", "a text of more than twelve bytes"]


def invalid(bad: bytes, kind: pa.DataType) -> pa.Array:
    """GOOD, with `bad` as the fifth text."""
    binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(kind)
    texts = [None if text is None else text.encode() for text in GOOD] + [bad]
    if binary is not None:
        return pa.array(texts, binary).view(kind)
    if kind == pa.string_view():
        return pa.array(texts, pa.binary_view()).view(kind)
    values = invalid(bad, pa.string())
    return pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3, 4], pa.int8()), values)


KINDS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
GROUPS = selection.Groups(["a", "b", "c", "d", "e"])
NLL = [1.0] * 5

TEXT_KERNELS = {
    "multiple_choice": lambda t: selection.extract_answers(t, kind="multiple_choice"),
    "label": lambda t: selection.extract_answers(t, kind="label", labels=["yes", "no"]),
    "numeric": lambda t: selection.extract_answers(t, kind="numeric"),
    "text": lambda t: selection.extract_answers(t, kind="text"),
    "pattern": lambda t: selection.extract_answers(t, kind="text", pattern="(.)$"),
    "equal left": lambda t: selection.answers_equal(t, [*GOOD, "x"], kind="text"),
    "equal right": lambda t: selection.answers_equal([*GOOD, "x"], t, kind="numeric"),
    "minhash": lambda t: selection.minhash(t),
    "consensus": lambda t: selection.consensus(GROUPS, t, NLL),
    "agreement": lambda t: selection.collaborator_agreement(GROUPS, ["x"] * 5, t),
    "collaborators": lambda t: selection.collaborator_agreement(GROUPS, t, ["x"] * 5),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("kernel", TEXT_KERNELS)
def test_text_that_is_no_utf8_is_refused_with_its_row(kernel, kind, bad):
    array = invalid(bad, kind)
    with pytest.raises(ValueError, match=r"^\w+: row 4: .*no UTF-8 at byte \d"):
        TEXT_KERNELS[kernel](array)
    if kind == pa.string_view():
        return  # pyarrow concatenates no views.
    chunks = pa.chunked_array([array[:1], array[1:4], array[4:]])
    with pytest.raises(ValueError, match=r"^\w+: row 4: .*no UTF-8"):
        TEXT_KERNELS[kernel](chunks)
    # The slice before it is whole.
    if not pa.types.is_dictionary(kind):
        assert selection.minhash(array[:4]).null_count == 1


def test_ids_and_options_are_checked_too():
    ids = pa.array([b"a", b"b\xff"], pa.binary()).view(pa.string())
    for kernel in (selection.Groups, selection.hash_ids):
        with pytest.raises(ValueError, match="example_ids: row 1: no UTF-8 at byte 1"):
            kernel(ids)
    options = pa.ListArray.from_arrays([0, 2, 3, 5], invalid(b"\xff", pa.string()))
    with pytest.raises(ValueError, match="options: row 2: value 4: no UTF-8"):
        selection.extract_answers(["A"] * 3, kind="multiple_choice", options=options)


def test_bytes_between_two_texts_may_not_be_parted():
    # "é" as a whole is UTF-8; its halves are not.
    array = pa.StringArray.from_buffers(
        2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer("é".encode())
    )
    with pytest.raises(ValueError, match="row 0: no UTF-8"):
        selection.minhash(array)


def test_what_lies_beneath_a_null_is_not_looked_at():
    valid = pa.py_buffer(b"\x05")
    offsets = pa.py_buffer(np.array([0, 1, 3, 4], np.int32))
    array = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"A\xff\xfeB"), valid)
    got = selection.extract_answers(array, kind="multiple_choice")
    assert got.to_pylist() == ["A", None, "B"]


@pytest.mark.parametrize(
    "offsets", [[0, 800_000, 5], [0, -1, 5], [-800_000, 2, 5], [2, 1, 5], [0, 5, -5]]
)
@pytest.mark.parametrize("width", [np.int32, np.int64])
def test_offsets_that_fall_are_refused(offsets, width):
    # pyarrow looks at the first and the last one, so they are made bad afterwards.
    written = np.array([0, 2, 5], width)
    buffers = [None, pa.py_buffer(written), pa.py_buffer(b"abcde")]
    kinds = (pa.string(), pa.list_(pa.float32()))
    if width is np.int64:
        kinds = (pa.large_string(), pa.large_list(pa.float32()))
    texts = pa.Array.from_buffers(kinds[0], 2, buffers)
    values = pa.array([-1.0] * 5, pa.float32())
    lists = pa.Array.from_buffers(kinds[1], 2, buffers[:2], children=[values])
    written[:] = offsets
    for kernel in (selection.minhash, selection.Groups, selection.hash_ids):
        with pytest.raises(ValueError, match=r"row [01]: offsets .* do not lie among"):
            kernel(texts)
    with pytest.raises(ValueError, match=r"row [01]: offsets .* do not lie among 5 values"):
        selection.mean_nll(lists)


def test_views_and_keys_that_point_to_nothing_are_refused():
    view = np.array([20, 0, 7, 0], np.int32)  # 20 bytes from buffer 7 on
    array = pa.Array.from_buffers(
        pa.string_view(), 1, [None, pa.py_buffer(view), pa.py_buffer(b"x" * 30)]
    )
    with pytest.raises(ValueError, match="row 0: a text of 20 bytes .* is not in buffer 7"):
        selection.minhash(array)
    view = np.array([20, 0, 0, 11], np.int32)  # of 30 bytes the last 19
    array = pa.Array.from_buffers(
        pa.string_view(), 1, [None, pa.py_buffer(view), pa.py_buffer(b"x" * 30)]
    )
    with pytest.raises(ValueError, match="row 0: a text of 20 bytes from 11"):
        selection.minhash(array)
    for key in (2, -1):
        keys = pa.array([0, key], pa.int8())
        array = pa.DictionaryArray.from_arrays(keys, pa.array(["a", "b"]), safe=False)
        with pytest.raises(ValueError, match=f"row 1: key {key} into a dictionary of 2 values"):
            selection.minhash(array)
    for start, size in ((0, 9), (4, 2), (-1, 1), (1, -1)):
        array = pa.ListViewArray.from_arrays(
            pa.array([0, start], pa.int32()), pa.array([1, size], pa.int32()), pa.array([-1.0] * 5)
        )
        with pytest.raises(ValueError, match="row 1: a list of .* does not lie among 5 values"):
            selection.mean_nll(array)


def test_a_parquet_file_with_such_bytes_is_refused(tmp_path):
    path = tmp_path / "bad.parquet"
    table = pa.table({"text": pa.array([b"ok", b"caf\xe9"], pa.binary())})
    # pyarrow writes and reads such a STRING column without complaint.
    pq.write_table(table.set_column(0, "text", table["text"].chunk(0).view(pa.string())), path)
    texts = pq.read_table(path)["text"]
    assert texts.type == pa.string()
    with pytest.raises(ValueError, match="texts: row 1: no UTF-8 at byte 3"):
        selection.extract_answers(texts, kind="text")


@given(
    st.lists(st.none() | st.binary(max_size=20), min_size=1, max_size=6),
    st.sampled_from(KINDS[:3]),
    st.integers(0, 3),
)
def test_utf8_is_what_python_says(rows, kind, cut):
    binary = {KINDS[0]: pa.binary(), KINDS[1]: pa.large_binary()}.get(kind, pa.binary_view())
    array = pa.array(rows, binary).view(kind)[cut:]

    def is_text(row):
        try:
            return row is None or row.decode() is not None
        except UnicodeDecodeError:
            return False

    bad = [i for i, row in enumerate(rows[cut:]) if not is_text(row)]
    if bad:
        with pytest.raises(ValueError, match=f"texts: row {bad[0]}: no UTF-8"):
            selection.extract_answers(array, kind="text")
    else:
        selection.extract_answers(array, kind="text")


def test_columns_of_any_library():
    logprobs = [[-1.0, -3.0], None, []]
    want = [2.0, None, None]
    for column in (
        logprobs,
        pd.Series(logprobs),
        pl.Series(logprobs, dtype=pl.List(pl.Float32)),
        duckdb.sql("select * from (values ([-1.0, -3.0]::float[]), (null), ([]))")
        .to_arrow_table()
        .column(0),
    ):
        assert selection.mean_nll(column).to_pylist() == want
    assert selection.mean_nll([np.array([-1.0, -3.0], np.float32)]).to_pylist() == [2.0]
    for texts in (["B", None], np.array(["B", None], object), pd.Series(["B", None])):
        got = selection.extract_answers(texts, kind="multiple_choice").to_pylist()
        assert got == ["B", None]


def test_numbers_and_ids_of_any_width():
    groups = selection.Groups(np.array([10, 9, 9], np.int64))
    assert groups.ids().to_pylist() == ["10", "9"]
    want = selection.consensus(groups, ["a", "a", "b"], [0.5, 1.0, 0.25], weights=[1.0, 2.0, 3.0])
    for width in (pa.float16(), pa.float32(), pa.float64()):
        nll = pa.array([0.5, 1.0, 0.25], pa.float64()).cast(width)
        for weights in (pa.array([1, 2, 3], pa.uint8()), [1, 2, 3], np.array([1, 2, 3])):
            got = selection.consensus(groups, ["a", "a", "b"], nll, weights=weights)
            assert got.equals(want)
    assert selection.hash_ids([7]).equals(selection.hash_ids(["7"]))


@pytest.mark.parametrize("wrong", [5, object(), [object()], {"a": 1}])
def test_an_error_names_the_argument_the_type_got_and_the_one_wanted(wrong):
    kind = type(wrong).__name__
    with pytest.raises(ValueError, match=f"logprobs: (got a {kind}, wanted|expected lists)"):
        selection.mean_nll(wrong)
    with pytest.raises(ValueError, match="texts: expected texts, got Int64"):
        selection.extract_answers([1], kind="text")
    with pytest.raises(ValueError, match="nll: expected numbers, got Utf8"):
        selection.consensus(GROUPS, ["x"] * 5, ["x"] * 5)


def test_polars_expressions_by_map_batches():
    frame = pl.DataFrame({"text": ["Answer: B", "none"], "logprobs": [[-1.0, -3.0], []]})
    got = frame.lazy().with_columns(
        answer=pl.col("text").map_batches(
            lambda s: pl.from_arrow(selection.extract_answers(s, kind="multiple_choice")),
            return_dtype=pl.String,
        ),
        nll=pl.col("logprobs").map_batches(
            lambda s: pl.from_arrow(selection.mean_nll(s)), return_dtype=pl.Float64
        ),
    )
    assert got.collect()["answer"].to_list() == ["B", None]
    assert got.collect()["nll"].to_list() == [2.0, None]
