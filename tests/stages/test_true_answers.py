"""True answers are taken as the file means them, or put aside."""

from __future__ import annotations

import pytest

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
        {"text": "none of them", "options": {"A": "Rome", "C": "Paris"}, "label": "B"},
        {"text": "out of order", "options": {"label": ["B", "A"], "text": texts[:2]}, "label": "B"},
    ]  # fmt: skip
    labeled = write_jsonl(tmp_path / "l.jsonl", *rows)
    unlabeled = write_jsonl(tmp_path / "u.jsonl", {"text": "u", "options": texts})
    run = ingest(tmp_path, labeled, unlabeled, task={"kind": "multiple_choice"},
                 columns={"question": "text", "answer": "label", "options": "options"})  # fmt: skip
    assert run.examples("labeled")["answer"].to_pylist() == ["B", "C", "B", "B"]
    none, order = (row["reason"] for row in run.quarantine().to_pylist())
    assert none == "answer 'B' is none of the row's options A, C" and "not in order" in order


@pytest.mark.parametrize(
    ("answers", "mark", "kept"),
    [
        (["1,234.5", "14.1%", "$3", "-2", "5 apples", "so 2 + 3 = 5", "2+3 …\n#### 5"], ".", None),
        (["96,61", "1.234,56", "7"], ",", None),
        (["96,61", "1/2", "2020-01-05", "12 apples and 3 pears", "7"], ".", ["7"]),
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
        assert "decimal_mark" in reasons[0] and "is read as 2;" in reasons[1]
