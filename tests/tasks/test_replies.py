"""Closed answers in replies that a person has read: no wrong vote; null is the price.

`replies.txt` holds those to multiple choice, `label_replies.txt` those to questions with labels. A
reply that is read as another answer than the person's, or as any where the person saw none, is a
wrong vote and fails; one that is not read only lowers the share.
"""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from semievol_ray.engines.thoughts import part
from semievol_ray.selection import extract_answers

# The files, with the kind of their questions and how many replies they have at least.
FILES = {"replies.txt": ("multiple_choice", 300), "label_replies.txt": ("label", 130)}
# Of the replies that a person can read, this share is read at least.
FLOOR = 0.9

of_each_file = pytest.mark.parametrize("name", FILES)


def replies(name):
    sets, rows = {"none": None}, []
    for line in Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines():
        if found := re.match(r"# \[(\w+)\] (.+)", line):
            sets[found[1]] = found[2].split("; ")
        elif not line.startswith("#"):
            of, answer, text = (part.strip(" ") for part in line.split("|", 2))
            text = re.sub(r"\\n", "\n", text)
            rows.append((sets[of], None if answer == "-" else answer, text))
    return rows


def read(name, rows):
    """The parser's answers, of rows with and without options, thoughts left out."""
    kind, _ = FILES[name]
    found = []
    for closed, _, text in rows:
        how = {"labels": closed} if kind == "label" else {}
        if kind == "multiple_choice" and closed is not None:
            how = {"options": pa.array([closed])}
        found += extract_answers([part(text).answer], kind=kind, **how).to_pylist()
    return found


@of_each_file
def test_no_reply_is_a_wrong_vote(name):
    rows = replies(name)
    assert len(rows) >= FILES[name][1]
    wrong = [
        (text, f"read as {got}, is {answer}")
        for (_, answer, text), got in zip(rows, read(name, rows), strict=True)
        if got not in (answer, None)
    ]
    assert not wrong


@of_each_file
def test_most_replies_are_read(name):
    rows = [row for row in replies(name) if row[1] is not None]
    missed = [row[2] for row, got in zip(rows, read(name, rows), strict=True) if got is None]
    assert len(missed) <= (1 - FLOOR) * len(rows), missed


@of_each_file
@pytest.mark.parametrize("wrap", ["\u200b{}", "{}\u200e", "\u202b{}\u202c", "\ufeff{}", " {} "])
def test_marks_that_nobody_sees_change_nothing(name, wrap):
    rows = replies(name)
    wrapped = [(closed, answer, wrap.format(text)) for closed, answer, text in rows]
    assert read(name, wrapped) == read(name, rows)
