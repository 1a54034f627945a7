from __future__ import annotations

import time
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semievol_ray.selection import ambiguous_numbers, answers_equal, extract_answers

KINDS = ["multiple_choice", "label", "numeric", "text"]


def extract(texts, **how):
    return extract_answers(pa.array(texts, pa.string()), **how).to_pylist()


def test_each_kind_has_one_spelling():
    options = pa.array([["Paris", "London"]] * 4 + [["1", "2", "3"], None])
    texts = ["The answer is (b).", "paris", "C", None, "C) 3", "A"]
    assert extract(texts, kind="multiple_choice", options=options) == [
        "B",
        "A",
        None,
        None,
        "C",
        None,
    ]
    labels = ["positive", "neutral", "very positive"]
    texts = ["Very  Positive!", "It is neutral.", "neutral or positive", "", "The Positive"]
    assert extract(texts, kind="label", labels=labels) == [
        "very positive",
        "neutral",
        None,
        None,
        "positive",
    ]
    texts = ["$1,234.50", "45%", "(3.2)", "none", "first 3, then -4e2"]
    assert extract(texts, kind="numeric") == ["1234.5", "0.45", "-3.2", None, "-400"]
    assert extract(["The  End.", "…", ""], kind="text") == ["end", None, None]


@pytest.mark.parametrize(
    ("text", "mark", "number"),
    [
        ("45\u202f%", ".", "0.45"),
        ("1.234,5\u00a0%", ",", "12.345"),
        ("3×10⁵", ".", "300000"),
        ("10²", ".", "100"),
        ("42¹", ".", "42"),
        ("-US$5", ".", "-5"),
        ("-₩500", ".", "-500"),
        ("1,5", ",", "1.5"),
        ("1,5", ".", None),
        ("1.234,5", ".", None),
        ("f(5)", ".", None),
        ("sqrt(16)", ".", None),
        (r"so \boxed{42}, as 6 * 7", ".", "42"),
        ("6 * 7 = 42\n#### 42\nQ: 1 + 1?", ".", "42"),
    ],
)
def test_numbers_as_people_write_them(text, mark, number):
    assert extract([text], kind="numeric", decimal_mark=mark) == [number]
    # What is not read is counted.
    ambiguous = ambiguous_numbers([text], decimal_mark=mark).to_pylist()
    assert ambiguous == [number is None and "(" not in text]


def test_digits_of_every_script_are_read():
    digits = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) == "Nd"]
    # A newer Python may know scripts that the extension does not.
    known = [c for c in digits if extract([c], kind="numeric")[0] is not None]
    assert len(known) >= 650
    for c in known:
        assert extract([c], kind="numeric") == [str(unicodedata.decimal(c))], hex(ord(c))


def test_case_and_invisible_marks_do_not_split_votes():
    for spelling in (
        "Straße",
        "STRASSE",
        "strasse",
        "Stra\u00dfe\u200b",
        "\u202bSTRA\u1e9eE\u202c",
    ):
        assert extract([spelling], kind="text") == ["strasse"]
        assert extract([spelling], kind="label", labels=["Straße", "Weg"]) == ["Straße"]
    assert extract(["\u2066B\u2069", "B\ufeff"], kind="multiple_choice") == ["B", "B"]
    assert extract(["4\u200b2", "\u200e-5"], kind="numeric") == ["42", "-5"]
    same = answers_equal(["Straße", "a\u200db"], ["STRASSE", "AB"], kind="text")
    assert same.to_pylist() == [True, True]


# fmt: off
PIECES = [
    "A", "B)", "(C", "answer", " is ", "not ", "1,222", "10^", "²", "$", "- ", "\\boxed{", "####",
    " ", "(", "[", "*", "_", "\n", ".", "e\u0301", "\u0301", "the ", "ſ", "\u200b", "</think>",
]
# fmt: on


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from(PIECES) | st.text(min_size=1, max_size=3), min_size=1, max_size=4),
    st.sampled_from(KINDS),
)
def test_time_is_in_proportion_to_the_text(pieces, kind):
    piece = "".join(pieces)
    text = piece * (40_000 // len(piece.encode()) + 1)
    how = {"labels": ["yes", "no", "yes or no"]} if kind == "label" else {}
    if kind == "multiple_choice":
        how["options"] = pa.array([["Paris", "not Paris", "A", "42"]])
    start = time.perf_counter()
    extract([text], kind=kind, **how)
    # Quadratic, it would be minutes; linear, it is 40 ms at most.
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("piece", "pattern"),
    [("(", None), ("(", r"\(([^)]*)\)"), (" ", r"\s+([A-D])"), ("a", r"[a-z]+\d"), ("1,222", None)],
)
def test_long_texts_that_once_took_minutes(piece, pattern):
    start = time.perf_counter()
    for kind in ("multiple_choice", "numeric", "text"):
        extract([piece * 1_000_000], kind=kind, pattern=pattern)
    assert time.perf_counter() - start < 5


def test_a_pattern_narrows_the_text():
    pattern = r"(?i)answer\s*:\s*([^\n]+)"
    texts = ["Answer: 3\nanswer: 4 apples", "no marker 7", "Answer: none 5 \nAnswer: none"]
    assert extract(texts, kind="numeric", pattern=pattern) == ["4", "7", None]


@given(st.lists(st.none() | st.text(), max_size=5), st.sampled_from(KINDS))
def test_any_text_is_safe_and_an_answer_is_its_own_answer(texts, kind):
    how = {"labels": ["yes", "no", "İ maybe"]} if kind == "label" else {}
    once = extract(texts, kind=kind, **how)
    assert extract(once, kind=kind, **how) == once
    assert all(b is None for a, b in zip(texts, once, strict=True) if a is None)
    same = answers_equal(pa.array(once, pa.string()), pa.array(once, pa.string()), kind=kind)
    assert same.to_pylist() == [answer is not None for answer in once]


def test_equality():
    left = pa.array(["45%", "100", "100", None, "1e3"])
    right = pa.array(["0.45", "101", "102.1", None, "1,000"])
    equal = answers_equal(left, right, kind="numeric", relative_tolerance=0.01)
    assert equal.to_pylist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kind": "poem"}, "kind"),
        ({"kind": "numeric", "decimal_mark": ";"}, "decimal_mark"),
        ({"kind": "label"}, "needs labels"),
        ({"kind": "text", "labels": ["a"]}, "labels for label"),
        ({"kind": "text", "pattern": "("}, "pattern"),
        ({"kind": "label", "labels": ["yes", "Yes!"]}, "same after normalisation"),
        ({"kind": "multiple_choice", "options": pa.array([["a"]] * 2)}, "2 rows, texts has 1"),
    ],
)
def test_what_cannot_be_used_is_named(how, message):
    with pytest.raises(ValueError, match=message):
        extract(["x"], **how)
