from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.selection import answers_equal, extract_answers

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
