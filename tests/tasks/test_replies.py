"""Multiple choice on replies that a person has read: no wrong vote; null is the price.

`replies.txt` holds them. A reply that is read as another option than the person's, or as any where
the person saw none, is a wrong vote and fails; one that is not read only lowers the share.
"""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from semievol_ray.engines.thoughts import part
from semievol_ray.selection import extract_answers

PATH = Path(__file__).with_name("replies.txt")
# Of the replies that a person can read, this share is read at least.
FLOOR = 0.9


def replies():
    sets, rows = {"none": None}, []
    for line in PATH.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"# \[(\w+)\] (.+)", line):
            sets[found[1]] = found[2].split("; ")
        elif not line.startswith("#"):
            name, answer, text = (part.strip(" ") for part in line.split("|", 2))
            text = re.sub(r"\\n", "\n", text)
            rows.append((sets[name], None if answer == "-" else answer, text))
    return rows


def read(rows):
    """The parser's answers, of rows with and without options, thoughts left out."""
    found = []
    for options, _, text in rows:
        how = {} if options is None else {"options": pa.array([options])}
        found += extract_answers([part(text).answer], kind="multiple_choice", **how).to_pylist()
    return found


def test_no_reply_is_a_wrong_vote():
    rows = replies()
    assert len(rows) >= 300
    wrong = [
        (text, f"read as {got}, is {answer}")
        for (_, answer, text), got in zip(rows, read(rows), strict=True)
        if got not in (answer, None)
    ]
    assert not wrong


def test_most_replies_are_read():
    rows = [row for row in replies() if row[1] is not None]
    missed = [row[2] for row, got in zip(rows, read(rows), strict=True) if got is None]
    assert len(missed) <= (1 - FLOOR) * len(rows), missed


@pytest.mark.parametrize("wrap", ["\u200b{}", "{}\u200e", "\u202b{}\u202c", "\ufeff{}", " {} "])
def test_marks_that_nobody_sees_change_nothing(wrap):
    rows = replies()
    wrapped = [(options, answer, wrap.format(text)) for options, answer, text in rows]
    assert read(wrapped) == read(rows)
