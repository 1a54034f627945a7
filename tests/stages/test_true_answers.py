"""True answers are taken as the file means them, or put aside."""

from __future__ import annotations

import pytest

from semievol_ray import UserError
from tests.stages.ingesting import ingest, write_jsonl


def test_options_that_a_row_calls_otherwise_are_known_by_its_own_marks(tmp_path) -> None:
    texts = ["Rome", "Paris", "Bonn"]
    rows = [
        {"text": "A, C, D", "options": {"label": ["A", "C", "D"], "text": texts}, "label": "C"},
        {"text": "a gap", "options": {"A": "Rome", "C": "Paris", "D": "Bonn"},
         "label": "D"},
        {"text": "F, G, H", "options": {"F": "Rome", "G": "Paris", "H": "Bonn"}, "label": "G"},
        {"text": "a list of pairs", "label": "B",
         "options": [{"label": m, "text": t} for m, t in zip("ABC", texts, strict=True)]},
        {"text": "by number", "options": {"label": ["1", "2", "3"], "text": texts}, "label": "3"},
        {"text": "two readings", "label": "C",
         "options": {"label": ["A", "C", "D"], "text": ["C", "x", "y"]}},
        {"text": "none of them", "options": {"A": "Rome", "C": "Paris"}, "label": "B"},
        {"text": "out of order", "options": {"label": ["B", "A"], "text": texts[:2]}, "label": "B"},
    ]  # fmt: skip
    labeled = write_jsonl(tmp_path / "l.jsonl", *rows)
    unlabeled = write_jsonl(tmp_path / "u.jsonl", {"text": "u", "options": texts})
    run = ingest(tmp_path, labeled, unlabeled, task={"kind": "multiple_choice"},
                 columns={"question": "text", "answer": "label", "options": "options"})  # fmt: skip
    assert run.examples("labeled")["answer"].to_pylist() == ["B", "C", "B", "B", "C", "B"]
    none, order = (row["reason"] for row in run.quarantine().to_pylist())
    assert none == "answer 'B' is none of the row's options A, C" and "not in order" in order


@pytest.mark.parametrize(
    ("answers", "mark", "kept"),
    [
        (["1,234.5", "14.1%", "$3", "-2", "5 apples", "so 2 + 3 = 5", "2+3 …\n#### 5"], ".", None),
        (["96,61", "1.234,56", "7"], ",", None),
        (
            ["-3.2 ( 3.2 )", "Q4: 5", "H2O: 18", "12 m2 of floor", "x^2 is 9", "5, that is 5"],
            ".",
            None,
        ),
        (["96,61", "1/2", "2020-01-05", "12 apples and 3 pears", "0,125", "7"], ".", ["7"]),
        (
            [
                "0,5",
                "5/5",
                "2020-05-05",
                "1 234 234",
                "5-5",
                "10:30",
                r"\boxed{\frac{7}{3}}",
                "so\n#### 1/2",
                "1,000,000",
                "$2,000,500",
                "7 (7)",
                "1{,}000",
                r"Step 3: \boxed{12}",
            ],
            ".",
            ["1,000,000", "$2,000,500", "7 (7)", "1{,}000", r"Step 3: \boxed{12}"],
        ),
    ],
)
def test_a_number_that_is_not_read_as_it_is_meant_is_put_aside(
    tmp_path, answers, mark, kept
) -> None:
    rows = [{"text": f"labelled {i}", "label": answer} for i, answer in enumerate(answers)]
    labeled = write_jsonl(tmp_path / "l.jsonl", *rows)
    unlabeled = write_jsonl(tmp_path / "u.jsonl", {"text": "u"})
    task = {"kind": "numeric", "decimal_mark": mark}
    run = ingest(tmp_path, labeled, unlabeled, task=task)
    assert run.examples("labeled")["answer"].to_pylist() == (kept or answers)
    if kept:
        reasons = [row["reason"] for row in run.quarantine().to_pylist()]
        assert "decimal_mark" in reasons[0] and "write it as one number" in reasons[1]


def test_the_decimal_mark_is_part_of_what_was_read(tmp_path) -> None:
    rows = [{"text": f"labelled {i}", "label": answer} for i, answer in enumerate(["96,61", "7"])]
    labeled = write_jsonl(tmp_path / "l.jsonl", *rows)
    unlabeled = write_jsonl(tmp_path / "u.jsonl", {"text": "u"})
    run = ingest(tmp_path, labeled, unlabeled, task={"kind": "numeric"})
    assert len(run.examples("labeled")) == 1
    task = {"kind": "numeric", "decimal_mark": ","}
    with pytest.raises(UserError, match="decimal_mark"):
        ingest(tmp_path, labeled, unlabeled, task=task)
    run = ingest(tmp_path, labeled, unlabeled, task=task, redo="ingest")
    assert len(run.examples("labeled")) == 2


def test_marks_that_are_no_letters_and_no_numbers_are_places(tmp_path) -> None:
    rows = [
        {"text": "named", "options": {"option1": "Rome", "option2": "Paris"}, "label": "B"},
        {"text": "floats", "options": {"label": [1.0, 2.0], "text": ["Rome", "Paris"]}, "label": 2},
        {"text": "no marks", "options": [{"text": "Rome"}, {"text": "Paris"}], "label": "A"},
        {"text": "from 2", "options": {"label": [2, 3], "text": ["Rome", "Paris"]}, "label": 3},
        {"text": "twice", "options": {"label": ["A", "A"], "text": ["x", "y"]}, "label": "A"},
    ]
    labeled = write_jsonl(tmp_path / "l.jsonl", *rows)
    unlabeled = write_jsonl(tmp_path / "u.jsonl", {"text": "u", "options": ["Rome", "Paris"]})
    columns = {"question": "text", "answer": "label", "options": "options"}
    run = ingest(tmp_path / "a", labeled, unlabeled, task={"kind": "multiple_choice"},
                 columns=columns)  # fmt: skip
    assert run.examples("labeled")["answer"].to_pylist() == ["B", "B", "A", "B"]
    # Of an open task options are shown, and its answers are no marks.
    run = ingest(tmp_path / "b", labeled, unlabeled, task={"kind": "text"}, columns=columns)
    assert run.examples("labeled")["answer"].to_pylist() == ["B", "2", "A", "3"]
