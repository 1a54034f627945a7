"""JSON lists: every object, wherever a piece of the file ends; or one line that says why not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from semievol_ray import UserError
from semievol_ray.sources import BadRow, cut, find_files, json_list, read_rows
from semievol_ray.sources import parts as parts_module

ROWS: list[dict[str, Any]] = [
    {"question": "Où ?", "options": ["a", "]"], "answer": "B"},
    {"question": 'a "quote", and }', "answer": 12345678901234567890},
    {"question": "x" * 50, "nested": {"deep": [[1.5e-3, None], {}]}, "answer": True},
    {},
]


def read(path: Path) -> list[Any]:
    (file,) = find_files(str(path), "data.labeled")
    found = read_rows(file)
    return [(r.number, r.reason if isinstance(r, BadRow) else r.values) for r in found]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("start", ["", "\ufeff", " \n\t"])
@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 1 << 20])
def test_objects_are_read_wherever_a_piece_ends(tmp_path, monkeypatch, indent, start, piece):
    monkeypatch.setattr(json_list, "_READ_CHARACTERS", piece)
    path = tmp_path / "a.json"
    written = start + json.dumps(ROWS, indent=indent, ensure_ascii=False) + "\n"
    path.write_text(written, encoding="utf-8")
    assert read(path) == list(enumerate(ROWS, start=1))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read(tmp_path / "b.json.gz") == list(enumerate(ROWS, start=1))


@pytest.mark.parametrize("piece", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    ("element", "reason"),
    [
        (b"12", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"[[1], 2]", "not a JSON object"),
        (b'{"a": 1, "a": {"b": 2}}', "the key 'a' is there twice"),
        (b'{"a": %s}' % (b"9" * 5000), "digits"),
        (b'{"a": "\xff"}', "not valid UTF-8"),
    ],
)
def test_an_element_that_is_no_row_costs_itself_alone(
    tmp_path, monkeypatch, piece, element, reason
):
    monkeypatch.setattr(json_list, "_READ_CHARACTERS", piece)
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"a": 1}, ' + element + b', {"a": 2}]')
    first, bad, last = read(path)
    assert (first, last) == ((1, {"a": 1}), (3, {"a": 2}))
    assert bad[0] == 2 and reason in bad[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a": 1}, {"a": 2', "element 2: broken JSON"),
        (b'[{"a": 1}', "element 1: the list is not closed; was the file cut off?"),
        (b'[{"a": 1},', "element 2: the list is not closed; was the file cut off?"),
        (b'[{"a": 1},]', "element 2: broken JSON"),
        (b'[{"a": 1} {"a": 2}]', "element 1: expected , or ], not '{'"),
        (b'[{"a": 1}] [{"a": 2}]', "element 1: text behind the end of the list"),
        (b"[" + b'{"a":' * 100_000, "element 1: broken JSON"),
        (b"[", "element 1: the list is not closed; was the file cut off?"),
    ],
)
def test_a_list_that_is_broken_is_one_line(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert message in str(caught.value) and "a.json: a JSON list" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_object_longer_than_any_row_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_list, "_READ_CHARACTERS", 16)
    monkeypatch.setattr(json_list, "LONGEST_CHARACTERS", 200)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"a": "x" * 10_000}, {"a": "y"}]))
    with pytest.raises(UserError, match="element 1: broken JSON"):
        read(path)


def test_a_list_is_read_in_one_piece_and_lines_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(parts_module, "_FEWEST_BYTES", 64)
    (tmp_path / "list.json").write_text(json.dumps(ROWS, indent=1))
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert len(cut(find_files(str(tmp_path / "list.json"), "x"))) == 1
    assert len(cut(find_files(str(tmp_path / "lines.json"), "x"))) > 1
