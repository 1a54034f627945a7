"""Which files a location names: what is meant, all of it, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray import UserError
from semievol_ray.sources import find_files, read_rows, refuse_overlap
from semievol_ray.sources.tables import parse_hub
from tests.stages.ingesting import ingest, write_csv, write_jsonl

TREE = [
    "g/a.jsonl", "g/b.jsonl", "g/old/z.jsonl", "g/.hidden.jsonl", "g/_SUCCESS", "g/_metadata",
    "g/.part-0.crc", "g/_delta_log/0.json", "g/lang=en/0.jsonl", "g/lang=de/x=1/0.jsonl",
    "g/lang=de/_temporary/0.jsonl", "br[1].jsonl", "br1.jsonl", "d[1]/c.jsonl", "_named.jsonl",
    "g/README.md", "g/LICENSE", "g/licence.txt", "g/dataset_infos.json",
]  # fmt: skip
PARTITIONS = ["g/lang=de/x=1/0.jsonl", "g/lang=en/0.jsonl"]


@pytest.fixture
def tree(tmp_path) -> Path:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"name": name}) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("g/*.jsonl", ["g/a.jsonl", "g/b.jsonl"]),
        ("g/?.jsonl", ["g/a.jsonl", "g/b.jsonl"]),
        ("g/[!a].jsonl", ["g/b.jsonl"]),
        ("*/*.jsonl", ["d[1]/c.jsonl", "g/a.jsonl", "g/b.jsonl"]),
        ("*/old/*.jsonl", ["g/old/z.jsonl"]),
        ("g/*", ["g/a.jsonl", "g/b.jsonl", *PARTITIONS]),
        ("g/lang=*", PARTITIONS),
        ("g/lang=en/*", ["g/lang=en/0.jsonl"]),
        ("g/**/*.jsonl", ["g/a.jsonl", "g/b.jsonl", *PARTITIONS, "g/old/z.jsonl"]),
        ("g/**", ["g/a.jsonl", "g/b.jsonl", *PARTITIONS, "g/old/z.jsonl"]),
        ("g", ["g/a.jsonl", "g/b.jsonl", *PARTITIONS]),
        ("g/", ["g/a.jsonl", "g/b.jsonl", *PARTITIONS]),
        ("g/lang=de", ["g/lang=de/x=1/0.jsonl"]),
        ("g/.hidden.jsonl", ["g/.hidden.jsonl"]),
        ("g/.h*.jsonl", ["g/.hidden.jsonl"]),
        ("br[1].jsonl", ["br[1].jsonl"]),
        ("br[1-2].jsonl", ["br1.jsonl"]),
        ("d[1]/*.jsonl", ["d[1]/c.jsonl"]),
        ("_*.jsonl", ["_named.jsonl"]),
        ("g/README.md", ["g/README.md"]),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_location_takes_what_it_says(tree, location, named, scheme) -> None:
    if scheme and "?" in location:
        pytest.skip("in a URI a question mark begins the options")
    found = find_files(f"{scheme}{tree}/{location}", "data.labeled")
    assert [os.path.relpath(f.path, tree) for f in found] == sorted(named)


@pytest.mark.parametrize(
    "location", ["none.jsonl", "g/*.csv", "no/**/*.jsonl", "g/old", "q[1].csv"]
)
def test_nothing_found_is_said(tree, location) -> None:
    if location == "g/old":
        (tree / "g/old/z.jsonl").unlink()
    with pytest.raises(UserError, match=r"data\.labeled: .*: no such file"):
        find_files(f"{tree}/{location}", "data.labeled")


def test_several_locations_name_each_file_once(tree) -> None:
    names = [f"{tree}/{n}" for n in ("g/b.jsonl", "g/*.jsonl", "br1.jsonl")]
    found = [os.path.relpath(f.path, tree) for f in find_files(names, "x")]
    assert found == ["g/b.jsonl", "g/a.jsonl", "br1.jsonl"]


def test_a_partition_is_a_column(tmp_path) -> None:
    rows = [{"text": f"t{i}", "label": "a"} for i in range(2)]
    for folder, row in zip(("lang=en", "lang=d%20e", "lang=__HIVE_DEFAULT_PARTITION__"),
                           [*rows, {"text": "t2", "label": "b"}], strict=True):  # fmt: skip
        (tmp_path / "u" / folder).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "u" / folder / "part-0.parquet")
    write_jsonl(tmp_path / "l.jsonl", {"text": "l", "label": "a", "lang": "en"})
    columns = {"question": "text", "answer": "label", "subject": "lang"}
    run = ingest(tmp_path, tmp_path / "l.jsonl", tmp_path / "u", columns=columns)
    found = run.examples("unlabeled").sort_by("question")
    assert found["subject"].to_pylist() == ["en", "d e", None]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hf://arc/test", ("arc", None, None, "test")),
        ("hf://ai/arc/test", ("ai/arc", None, None, "test")),
        ("hf://ai/arc:easy/test", ("ai/arc", "easy", None, "test")),
        ("hf://ai/arc@3fae/train[:9]", ("ai/arc", None, "3fae", "train[:9]")),
        ("hf://ai/arc:easy@refs/pr/2/x", ("ai/arc", "easy", "refs/pr/2", "x")),
    ],
)
def test_a_hub_dataset_has_a_configuration_and_a_revision(name, parts) -> None:
    assert parse_hub(name) == parts


@pytest.mark.parametrize(
    "name", ["hf://arc", "hf:///x", "hf://arc/", "hf://arc:/x", "hf://arc@/x", "hf://@a/x"]
)
def test_half_a_hub_name_is_refused(name) -> None:
    with pytest.raises(UserError, match=r"expected hf://dataset\[:config\]\[@revision\]/split"):
        parse_hub(name)


def test_a_dataset_is_streamed_by_its_hub_name(tmp_path) -> None:
    """The same loader serves the hub and a folder laid out like a dataset of it."""
    (tmp_path / "data").mkdir()
    write_csv(
        tmp_path / "data" / "test.csv", [{"text": "x", "pad": "p"}, {"text": "y", "pad": "q"}]
    )
    (source,) = find_files(f"hf://{tmp_path}/test", "data.test")
    found = list(read_rows(source, ["text"]))
    assert [row.values["text"] for row in found] == ["x", "y"]


# -- the run directory -----------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    write_csv(tmp_path / "data" / "l.csv", [{"text": "l", "label": "a"}])
    write_csv(tmp_path / "data" / "u.csv", [{"text": "u", "label": "a"}])
    return tmp_path / "data"


@pytest.mark.parametrize("run_dir", ["{}", "{}/.", "{}/data", "{}/data/../data", "{}/link"])
def test_an_input_in_the_run_directory_is_refused(corpus, tmp_path, run_dir) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"data\.labeled: .*l\.csv lies inside the run directory"):
        check(run_dir.format(tmp_path), corpus / "l.csv")


def test_an_input_that_was_put_into_a_run_is_refused_and_left_alone(corpus, tmp_path) -> None:
    ingest(tmp_path, corpus / "l.csv", corpus / "u.csv")
    mine = tmp_path / "run" / "mine.csv"
    mine.write_bytes((corpus / "l.csv").read_bytes())
    for redo in (None, "ingest"):
        with pytest.raises(UserError, match=r"data\.labeled: .*mine\.csv lies inside the run"):
            ingest(tmp_path, mine, corpus / "u.csv", redo=redo)
        assert mine.read_bytes() == (corpus / "l.csv").read_bytes()


@pytest.mark.parametrize(
    ("pattern", "refused"),
    [
        ("data/**/*.parquet", True),
        ("data/**", True),
        ("data/r*/ingest/*/unlabeled/*", True),
        ("**/*.json", True),
        ("data/**/*.csv", False),
        ("data/*", False),
        ("data", False),
    ],
)
def test_a_pattern_that_would_take_the_runs_own_files_is_refused(
    corpus, tmp_path, pattern, refused
) -> None:
    """Before the run has written any: the second ingest would read what the first one wrote."""
    for name in ("x.json", "p.parquet", "r0/ingest/y/unlabeled/z.csv"):
        (corpus / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus / name).write_text("")
    if refused:
        with pytest.raises(UserError, match="would also take what the run writes into"):
            check(f"{corpus}/run", f"{tmp_path}/{pattern}")
    else:
        check(f"{corpus}/run", f"{tmp_path}/{pattern}")


def check(run_dir: str, location: object) -> None:
    found = find_files(str(location), "data.labeled")
    refuse_overlap(run_dir, "data.labeled", str(location), found)
