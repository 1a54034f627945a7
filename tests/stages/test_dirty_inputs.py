"""Files as people have them: each defect is one line, or a row put aside; never a guess."""

from __future__ import annotations

import csv
import datetime
import gzip
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray import SemiEvolError, UserError
from tests.stages.ingesting import Heard, ingest, write_csv, write_jsonl, write_parquet

COLUMNS = {"question": "text", "answer": "label"}
OPTIONS = COLUMNS | {"options": "options"}
CHOICE = {"kind": "multiple_choice"}
GOOD = {"text": "fine", "label": "a"}
# Without the time, which would be part of a test's name.
TORN_GZIP = gzip.compress(b"text,label\n" + b"x,a\n" * 999, mtime=0)[:-20]


@pytest.fixture
def labeled(tmp_path) -> Path:
    rows = [{"text": f"l{i}", "label": "ab"[i % 2]} for i in range(4)]
    return write_csv(tmp_path / "l.csv", rows)


# -- one line of JSONL -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"label": "a"}', "no field 'text'; it has label"),
        (b"{}", "no field 'text'; it has none"),
        (b'{"Text": "x"}', "no field 'text'; it has Text"),
        (rb'{"\ud800": "x"}', r"no field 'text'; it has \ud800"),
        (b'{"text": null}', "the question is empty"),
        (b'{"text": "  "}', "the question is empty"),
        (b'{"text": NaN}', "the question is empty"),
        (b'{"text": Infinity}', "text: an infinite number"),
        (rb'{"text": "\ud800 alone"}', "text: half a character (a lone surrogate)"),
        (b'{"text": "\xff"}', "not valid UTF-8"),
        (b'{"text": "\xed\xa0\x80"}', "not valid UTF-8"),
        (b'{"text": "x', "broken JSON"),
        (b'{"text": "x"} {"text": "y"}', "broken JSON: Extra data"),
        (b'{"text": "x",}', "broken JSON"),
        (b"{'text': 'x'}", "broken JSON"),
        (b'{"text": "x", "text": "y"}', "broken JSON: the key 'text' is there twice"),
        (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"text": ' + b"9" * 5_000 + b"}", "broken JSON: Exceeds the limit"),
        (b'{"text": {"en": "x", "de": "y"}}', "text: a nested value; name one of its fields"),
        (b'{"text": ["x"]}', "text: a list, and not one text"),
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"text,label", "broken JSON"),
        (b"\x00\x01\x02", "broken JSON"),
    ],
)
def test_a_broken_line_costs_itself_alone(tmp_path, labeled, line, reason) -> None:
    path = write_jsonl(tmp_path / "u.jsonl", GOOD, line, GOOD | {"text": "fine too"})
    run = ingest(tmp_path, labeled, path)
    assert run.examples("unlabeled")["question"].to_pylist() == ["fine", "fine too"]
    (found,) = run.quarantine().to_pylist()
    assert (found["file"], found["row"]) == (str(path), 2)
    assert reason in found["reason"] and "\n" not in found["reason"]


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (None, "the answer is empty"),
        (" ", "the answer is empty"),
        (math.nan, "the answer is empty"),
        (["a"], "label: a list, and not one text"),
        ({"a": 1}, "label: a nested value"),
        ("\udc80", "label: half a character"),
        (-math.inf, "label: an infinite number"),
    ],
)
def test_an_answer_that_is_none_is_no_label(tmp_path, label, reason) -> None:
    rows = [GOOD, GOOD | {"text": "bad", "label": label}, {"text": "worse"}]
    path = write_jsonl(tmp_path / "l.jsonl", *rows)
    unlabeled = write_jsonl(tmp_path / "u.jsonl", *[row | {"text": "u"} for row in rows])
    run = ingest(tmp_path, path, unlabeled)
    assert run.manifests[0].statistics["labels"] == ["a"]
    second, third = [row["reason"] for row in run.quarantine().to_pylist()][:2]
    assert reason in second and third == "no field 'label'; it has text"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (None, "expected a list of at least two options"),
        ([], "expected a list of at least two options"),
        (["one"], "expected a list of at least two options"),
        ("not JSON", "options: the options are not a JSON list"),
        ("[" * 100_000, "options: the options are not a JSON list"),
        (3, "expected a list of at least two options"),
        (["x", None], "options: option 2 is empty"),
        (["x", math.nan], "options: option 2 is empty"),
        (["x", {"y": "z"}], "options: a nested value"),
        (["x", ["y"]], "options: a list, and not one text"),
        (["x", "\ud800"], "options: half a character"),
        ({"text": ["x", "y"], "label": ["B", "A"]}, "the options' labels are not in order"),
        ({"A": "x", "B": None, "C": "z"}, "options: option 2 is empty"),
    ],
)
def test_options_are_texts_or_the_row_is_put_aside(tmp_path, options, reason) -> None:
    good = {"text": "fine", "options": ["x", "y"], "label": "A"}
    labeled = write_jsonl(tmp_path / "l.jsonl", good | {"text": "l"})
    bad = good | {"text": "bad", "options": options}
    unlabeled = write_jsonl(tmp_path / "u.jsonl", good, bad)
    run = ingest(tmp_path, labeled, unlabeled, columns=OPTIONS, task=CHOICE)
    (found,) = run.quarantine().to_pylist()
    assert found["row"] == 2 and reason in found["reason"]


def test_a_nested_field_is_read_by_its_name(tmp_path) -> None:
    context = {"contexts": ["One passage.", "Another."], "meshes": ["Humans"]}
    row = {"text": "Does it?", "label": "yes", "context": context}
    path = write_jsonl(tmp_path / "l.jsonl", row)
    unlabeled = write_parquet(
        tmp_path / "u.parquet",
        {"text": ["Is it?"], "label": [None], "context": pa.array([context])},
    )
    columns = COLUMNS | {"context": "context.contexts"}
    run = ingest(tmp_path, path, unlabeled, columns=columns)
    assert run.examples("labeled")["context"].to_pylist() == ["One passage.\nAnother."]
    assert run.examples("unlabeled")["context"].to_pylist() == ["One passage.\nAnother."]
    with pytest.raises(UserError, match=r"context: a nested value; name one of its fields, as co"):
        ingest(tmp_path / "2", path, path, columns=COLUMNS | {"context": "context"})


def test_the_first_of_a_list_inside_a_column_is_an_answer(tmp_path) -> None:
    answers = [{"text": ["a", "b"], "at": [1, 2]}, {"text": [], "at": []}, {"text": None}, None]
    path = write_parquet(
        tmp_path / "l.parquet", {"text": [f"t {i}" for i in range(4)], "label": answers}
    )
    unlabeled = write_jsonl(tmp_path / "u.jsonl", {"text": "u"})
    columns = COLUMNS | {"answer": "label.text.0"}
    run = ingest(tmp_path, path, unlabeled, columns=columns, task={"kind": "text"})
    assert run.examples("labeled")["answer"].to_pylist() == ["a"]
    reasons = run.quarantine()["reason"].to_pylist()
    assert reasons[0] == "the answer is empty" and "no field 'label.text.0'" in reasons[2]
    with pytest.raises(UserError, match=r"label: a nested value; .* \(text\.0, at\.0\)"):
        ingest(tmp_path / "2", path, unlabeled, columns=COLUMNS)


def test_a_name_that_no_object_has_is_misspelt(tmp_path, labeled) -> None:
    path = write_jsonl(tmp_path / "u.jsonl", GOOD, GOOD | {"text": "x", "topic": "y"})
    columns = COLUMNS | {"subject": "topic"}
    labeled = write_jsonl(tmp_path / "l.jsonl", GOOD | {"text": "l", "topic": "z"})
    run = ingest(tmp_path, labeled, path, columns=columns)
    assert run.examples("unlabeled")["subject"].to_pylist() == [None, "y"]
    with pytest.raises(UserError, match=r"data\.columns\.subject: no row has a field 'tpoic'"):
        ingest(tmp_path / "2", labeled, path, columns=COLUMNS | {"subject": "tpoic"})


# -- typed columns ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "read"),
    [
        (pa.array([b"plain", "grün".encode()]), ["plain", "grün"]),
        (pa.array([b"plain", b"\xff\xfe"]), ["plain", "text: bytes that are not UTF-8 text"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array(["x", None]), ["x", "the question is empty"]),
        (pa.array([1.0, 2.5]), ["1", "2.5"]),
        (pa.array([1.0, math.nan]), ["1", "the question is empty"]),
        (pa.array([0.1, 3.0], pa.float32()), ["0.1", "3"]),
        (pa.array([2**60, -1]), [str(2**60), "-1"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array([datetime.date(2024, 2, 29), None]), ["2024-02-29", "the question is empty"]),
        (pa.array([datetime.timedelta(n) for n in (1, 2)]), ["text: a value of the type"] * 2),
        (pa.array([10**18, 0], pa.timestamp("us")), ["cannot be read", "1970-01-01T00:00:00"]),
        (pa.array([["x"], ["y"]]), ["text: a list, and not one text"] * 2),
        (pa.array([{"en": "x"}, {"en": "y"}]), ["text: a nested value; name one of"] * 2),
    ],
)  # fmt: skip
def test_typed_columns_are_read_rightly_or_refused(tmp_path, labeled, values, read) -> None:
    path = write_parquet(tmp_path / "u.parquet", {"text": values, "label": ["a", "b"]})
    extra = write_jsonl(tmp_path / "x.jsonl", GOOD)
    run = ingest(tmp_path, labeled, [path, extra])
    good = run.examples("unlabeled")["question"].to_pylist()[:-1]
    bad = {row["row"]: row["reason"] for row in run.quarantine().to_pylist()}
    assert len(good) + len(bad) == 2
    for number, wanted in enumerate(read, start=1):
        found = bad[number] if number in bad else good.pop(0)
        assert found == wanted or (number in bad and wanted in found)


def test_strings_that_are_no_utf8_cost_their_rows(tmp_path, labeled) -> None:
    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"),
                         pa.py_buffer(b"a\xffc")],
    )  # fmt: skip
    path = write_parquet(tmp_path / "u.parquet", {"text": texts, "label": ["a", "b", "a"]})
    run = ingest(tmp_path, labeled, path)
    assert run.examples("unlabeled")["question"].to_pylist() == ["a", "c"]
    assert run.quarantine().to_pylist()[0]["reason"] == "not valid UTF-8"


def test_class_names_stand_for_their_numbers(tmp_path, labeled) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["x", "y", "z"], "label": [1, 0, -1]}, features)
    rows.to_parquet(tmp_path / "l.parquet")
    rows.save_to_disk(tmp_path / "saved")
    for labels in (tmp_path / "l.parquet", tmp_path / "saved"):
        run = ingest(tmp_path / f"of-{labels.name}", labels, labeled)
        assert run.examples("labeled")["answer"].to_pylist() == ["yes", "no"]
        assert run.quarantine().to_pylist()[0]["reason"] == "the answer is empty"


def test_an_image_that_nobody_asked_for_is_not_read(tmp_path, labeled) -> None:
    """The broken column would end the run if its pages were touched."""
    path = write_parquet(
        tmp_path / "u.parquet",
        {"text": ["x", "y"], "image": [b"\0" * 200_000] * 2, "label": ["a", "b"]},
    )
    column = pq.read_metadata(path).row_group(0).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * min(column.total_compressed_size, 64))
    with pytest.raises((OSError, pa.ArrowException)):
        pq.read_table(path)
    run = ingest(tmp_path, labeled, path)
    assert run.examples("unlabeled")["question"].to_pylist() == ["x", "y"]


# -- CSV -------------------------------------------------------------------------------------------


def test_an_open_quote_costs_every_line_that_it_swallows(tmp_path, labeled) -> None:
    lines = [f"row {i},a" for i in range(501)]
    lines[4] = '"row 4,a'
    path = tmp_path / "u.csv"
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    with pytest.raises(UserError, match=r"u\.csv: row 5: lines 6 to 502: a quote is opened and ne"):
        ingest(tmp_path, labeled, path)
    run = ingest(tmp_path, labeled, path, max_bad_rows=500)
    assert run.manifests[0].statistics["bad_rows"] == 497
    assert run.manifests[0].statistics["rows"]["unlabeled"] == 4


def test_a_quote_that_a_later_one_closes_is_seen(tmp_path, labeled) -> None:
    path = tmp_path / "u.csv"
    path.write_text('text,label\nfine,a\n"open,a\nlost,a\nso "he" said,b\nfine too,a\n')
    run = ingest(tmp_path, labeled, path)
    assert run.examples("unlabeled")["question"].to_pylist() == ["fine", "fine too"]
    assert run.manifests[0].statistics["bad_rows"] == 3
    (found,) = run.quarantine().to_pylist()
    assert found["row"] == 2 and "lines 3 to 5: text after a closing quote" in found["reason"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x", "1 fields, and not the 2 of the header"),
        ("x,y,z", "3 fields, and not the 2 of the header"),
        ('"x" y,z', "text after a closing quote"),
        (" ,a", "the question is empty"),
        ('"",a', "the question is empty"),
        ("\udcff,a", "not valid UTF-8"),
    ],
)
def test_a_broken_csv_row_costs_itself_alone(tmp_path, labeled, line, reason) -> None:
    path = tmp_path / "u.csv"
    text = f'text,label\n\nfine,a\n{line}\n"two\nlines, with ""quotes""",b\n'
    path.write_bytes(text.encode(errors="surrogateescape"))
    run = ingest(tmp_path, labeled, path)
    questions = run.examples("unlabeled")["question"].to_pylist()
    assert questions == ["fine", 'two\nlines, with "quotes"']
    (found,) = run.quarantine().to_pylist()
    assert found["row"] == 2 and reason in found["reason"]


# -- whole files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("u.csv", b"", "no usable row"),
        ("u.csv", b"text,label\n", "no usable row"),
        ("u.csv", "text,label\nx,a\n".encode("utf-16"), "the header is not UTF-8"),
        ("u.csv", "text,label\nx,a\n".encode("utf-16-le"), "the header is not UTF-8"),
        ("u.csv", b"text;label\nx;a\n", "no column 'text'; it has text;label"),
        ("u.csv", b"text,text,label\nx,y,a\n", "two columns are named 'text'; rename one"),
        ("u.csv", b'"text,label\nx,a\n', "the header cannot be read"),
        ("u.csv", b"Text,label\nx,a\n", "no column 'text'; it has Text, label"),
        ("u.csv", b"x,y\nbad\n1,2\n", "no column 'text'; it has x, y"),
        ("u.tsv", b"text,label\nx,a\n", "no column 'text'"),
        ("u.csv.gz", b"text,label\nx,a\n", "cannot be read"),
        ("u.csv.gz", TORN_GZIP, "cannot be read"),
        ("u.csv.bz2", b"BZh9", "u.csv.bz2"),
        ("u.parquet", b"", "cannot be read"),
        ("u.parquet", b"text,label\nx,a\n", "cannot be read"),
        ("u.parquet", b"PAR1" + b"\xff" * 40 + b"\x20\0\0\0PAR1", "cannot be read"),
        ("u.json", b"[]", "no usable row"),
        ("u.json", b'[{"text": "x"}', "the list is not closed; was the file cut off?"),
        ("u.json", b'[{"text": "x"}, {"text": ]', "element 2: broken JSON"),
        ("u.json", b'{\n"text": "x"\n}', "row 1: broken JSON"),
        ("u.jsonl", b"", "no usable row"),
        ("u.jsonl", b'{"question": "x"}\n', "row 1: no field 'text'; it has question"),
        ("u.txt", b"x\n", "unknown kind of file '.txt'"),
        ("u", b"x\n", "unknown kind of file 'without a suffix'"),
        ("u.xlsx", b"PK", "unknown kind of file '.xlsx'"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, labeled, name, content, message) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        ingest(tmp_path, labeled, path)
    assert message in str(caught.value) and name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_quotes_of_a_tab_separated_file_are_text_where_each_line_is_a_row(tmp_path) -> None:
    # GLUE's are written without quoting, others as a CSV is.
    plain = ['"I like it , said he .', 'and so do you . "', '"fine" film', "bad film"]
    file = tmp_path / "l.tsv"
    file.write_text("text\tlabel\n" + "".join(f"{t}\t{'ab'[i % 2]}\n" for i, t in enumerate(plain)))
    quoted = ["with\ta tab", 'a "word"', "two\nlines", "other"]
    with (tmp_path / "u.tsv").open("w", newline="") as sink:
        csv.writer(sink, delimiter="\t").writerows([["text"], *([text] for text in quoted)])
    again = tmp_path / "t.tsv"
    again.write_text('"text"\t"label"\n"a ""word"", once more"\t"a"\nnone\tb\n')
    run = ingest(tmp_path, file, tmp_path / "u.tsv", again)
    found = {split: run.examples(split)["question"].to_pylist() for split in
             ("labeled", "unlabeled", "test")}  # fmt: skip
    assert found == {"labeled": plain, "unlabeled": quoted,
                     "test": ['a "word", once more', "none"]}  # fmt: skip
    assert not len(run.quarantine())


def test_a_tab_separated_file_is_quoted_unless_a_quote_is_not_closed(tmp_path) -> None:
    # One column, and quotes that are needed late.
    (tmp_path / "one.tsv").write_text('text\n"more\nlines"\nother\n')
    late = "".join(f"t{i}\ta\n" for i in range(1200)) + '"two\nlines"\tb\n'
    (tmp_path / "late.tsv").write_text("text\tlabel\n" + late)
    run = ingest(tmp_path / "1", tmp_path / "late.tsv", tmp_path / "one.tsv")
    assert run.examples("unlabeled")["question"].to_pylist() == ["more\nlines", "other"]
    assert len(run.examples("labeled")) == 1201 and not len(run.quarantine())
    # Where a ragged line hides that lines are rows, what a quote would merge is put aside.
    glue = '"I like it , said he .\ta\n\nand so do you . "\tb\n'
    (tmp_path / "r.tsv").write_text(f"text\tlabel\nragged\n{glue}c\tb\n")
    run = ingest(tmp_path / "2", tmp_path / "r.tsv", tmp_path / "one.tsv")
    assert run.examples("labeled")["question"].to_pylist() == ["c"]
    _, merged = run.quarantine()["reason"].to_pylist()
    assert merged.startswith("lines 3 to 5: a quote is opened in one row")
    # One line in a hundred does not.
    many = "".join(f"t{i}\ta\n" for i in range(200))
    (tmp_path / "m.tsv").write_text(f"text\tlabel\nragged\n{glue}{many}")
    run = ingest(tmp_path / "3", tmp_path / "m.tsv", tmp_path / "one.tsv")
    assert run.examples("labeled")["question"].to_pylist()[:2] == [
        '"I like it , said he .', 'and so do you . "',
    ]  # fmt: skip
    assert len(run.quarantine()) == 1


def test_a_torn_parquet_file_is_one_line(tmp_path, labeled) -> None:
    whole = write_parquet(tmp_path / "w.parquet", {"text": ["x"] * 9, "label": ["a"] * 9})
    torn = whole.read_bytes()
    for size in (len(torn) // 2, len(torn) - 3):
        path = tmp_path / "u.parquet"
        path.write_bytes(torn[:size])
        with pytest.raises(UserError, match=r"u\.parquet: cannot be read") as caught:
            ingest(tmp_path, labeled, path)
        assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer_is_one_line(tmp_path, labeled) -> None:
    with pytest.raises(SemiEvolError, match=r"hf://nobody/nothing/train: cannot be loaded") as e:
        ingest(tmp_path, labeled, "hf://nobody/nothing/train")
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match=r"expected hf://dataset\[:config\]\[@revision\]/split"):
        ingest(tmp_path / "2", labeled, "hf://nothing")


@pytest.mark.parametrize("value", [3, [], [3], {"a": "b"}, "", [""]])
def test_a_location_is_a_path_or_a_list_of_paths(tmp_path, labeled, value) -> None:
    from semievol_ray import load_config

    values = {"run_dir": "r", "model": {"name": "m"}, "data": {"labeled": "l", "unlabeled": value}}
    with pytest.raises(UserError, match=r"data\.unlabeled: expected a path, or a list of paths"):
        load_config(values)


@pytest.mark.parametrize("first", ['["a", "b"]', "a", '{"a": "b"}'])
def test_a_column_of_lists_of_texts_is_said_and_taken(tmp_path, first) -> None:
    answers = [first, *(json.dumps([f"a {i}", "b"]) for i in range(3))]
    rows = [{"text": f"t {i}", "label": answer} for i, answer in enumerate(answers)]
    labeled = write_jsonl(tmp_path / "l.jsonl", *rows)
    unlabeled = write_jsonl(tmp_path / "u.jsonl", {"text": "u"})
    heard = Heard()
    run = ingest(tmp_path, labeled, unlabeled, task={"kind": "text"}, progress=heard)
    said = [line for line in heard.lines if "labeled: the answers are JSON lists of texts" in line]
    assert len(said) == (first[0] == "[")
    assert run.examples("labeled")["answer"].to_pylist() == answers
