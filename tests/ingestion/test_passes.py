"""Ingest's three passes: the same corpus, however it is cut and whoever reads it."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray import UserError, ray_session
from semievol_ray.ingestion import blocks, examples, reading, repeats, sharding
from semievol_ray.results import Run
from semievol_ray.schema import EXAMPLE
from semievol_ray.sources import find_files, parts
from semievol_ray.stages import evolve, warmup
from semievol_ray.stages import ingest as stage
from semievol_ray.steps import Step
from semievol_ray.store import RunDirectory, StageLedger
from tests.stages.ingesting import ingest, write_csv, write_jsonl

COLUMNS = {"question": "text", "answer": "label"}
BLOCKS = "ingest/attempt-1/blocks"


@pytest.fixture
def in_small_pieces(monkeypatch) -> None:
    """Many parts, blocks, tasks for the keys and tasks for the shards, all in this process."""
    monkeypatch.setattr(ray_session, "_FEWEST_FOR_RAY", 1 << 30)
    monkeypatch.setattr(parts, "_FEWEST_BYTES", 900)
    monkeypatch.setattr(parts, "_MOST_PARTS", 1 << 30)
    monkeypatch.setattr(parts, "_LOOK_BYTES", 7)
    monkeypatch.setattr(blocks, "_STEP_ROWS", 16)
    monkeypatch.setattr(blocks, "_MOST_ROWS", 64)
    monkeypatch.setattr(repeats, "_KEYS_A_TASK", 100)
    monkeypatch.setattr(sharding, "_TASK_ROWS", 150)


@pytest.fixture
def corpus(tmp_path) -> dict[str, Any]:
    """Files of every kind with every defect, which repeat each other."""
    draw = random.Random(7)
    write_dirty(tmp_path / "l.jsonl", draw, 400, 100)
    write_dirty(tmp_path / "t.jsonl", draw, 800, 200)
    folder = tmp_path / "u"
    folder.mkdir()
    write_dirty(folder / "0.jsonl", draw, 2000, 900)
    write_dirty(folder / "1.jsonl", draw, 2000, 10)
    write_dirty(folder / "2.jsonl.gz", draw, 2000, 200)
    rows = [row(draw, 2000) for _ in range(900)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "3.parquet", row_group_size=70)
    write_csv(folder / "4.csv", [row(draw, 2000) for _ in range(200)])
    return {"labeled": tmp_path / "l.jsonl", "unlabeled": folder, "test": tmp_path / "t.jsonl"}


def row(draw: random.Random, different: int) -> dict[str, str]:
    return {"text": f"t{draw.randrange(different)} ü", "label": draw.choice("abc")}


def write_dirty(path: Path, draw: random.Random, different: int, rows: int) -> None:
    lines = []
    for _ in range(rows):
        dirt = [b"", b'{"text": ', b'{"text": "\xff"}', b'{"text": ""}']
        good = json.dumps(row(draw, different), ensure_ascii=False).encode()
        line = draw.choices([good, *dirt], [0.93, 0.04, 0.01, 0.01, 0.01])[0]
        lines.append(line + draw.choices([b"", b"\r"], [0.9, 0.1])[0])
    content = b"\n".join(lines)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def made(run: Run) -> tuple[dict[str, Any], list[Any]]:
    """All that ingest made, and what it says of it."""
    found = run.manifests[0]
    tables = {n: run.directory.read_table(n).to_pylist() for n in found.outputs}
    return tables, [v for k, v in found.statistics.items() if k != "source_files"]


def test_rows_that_are_known_and_nearly_alike_are_left_out_once(tmp_path, in_small_pieces) -> None:
    draw = random.Random(3)
    words = [f"word{draw.randrange(500)}" for _ in range(40)]
    texts = [" ".join([*words[:39], f"end{i}"]) for i in range(30)]
    texts += [" ".join(f"other{draw.randrange(500)}" for _ in range(40)) for _ in range(30)]
    labeled = write_csv(tmp_path / "l.csv", [{"text": "a label", "label": "a"}])
    corpus, data = tmp_path / "u.csv", {"shard_rows": 7, "near_duplicates": 0.8}
    write_csv(corpus, [{"text": text, "label": ""} for text in texts[:40]])
    first = ingest(tmp_path, labeled, corpus, run_dir=str(tmp_path / "1"), **data)
    assert len(first.examples("unlabeled")) == 11
    evolved(first)
    write_csv(corpus, [{"text": text, "label": ""} for text in texts])
    second = ingest(
        tmp_path, labeled, corpus, run_dir=str(tmp_path / "2"), continues=first.uri, **data
    )
    assert sorted(second.examples("unlabeled")["question"].to_pylist()) == sorted(texts[40:])
    found = second.manifests[0].statistics
    assert (found["rows_had_before"], found["nearly_repeated_rows"]) == (11, 29)


@pytest.mark.parametrize("given", [False, True], ids=["contents", "given ids"])
def test_rows_that_earlier_runs_had_are_left_out(tmp_path, in_small_pieces, given) -> None:
    draw, folder = random.Random(5), tmp_path / "u"
    folder.mkdir()
    labeled = write_csv(tmp_path / "l.csv", [{"n": "l", "text": "a label", "label": "a"}])
    texts = [f"t{draw.randrange(600)}" for _ in range(900)]
    rows = [{"n": f"u{i}", "text": text, "label": ""} for i, text in enumerate(texts)]
    columns = COLUMNS | ({"id": "n"} if given else {})
    data = {"labeled": labeled, "unlabeled": folder, "columns": columns, "shard_rows": 37}
    had: set[str] = set()
    earlier, before = None, 0
    for number, end in enumerate((300, 700, 900)):
        write_csv(folder / "corpus.csv", rows[:end])
        run = ingest(tmp_path, run_dir=str(tmp_path / f"{number}"), continues=earlier, **data)
        now = run.examples("unlabeled")["example_id"].to_pylist()
        assert len(set(now)) == len(now) and had.isdisjoint(now)
        # All that the corpus holds by now, each once, and those that are new in their order.
        kind = "n" if given else "text"
        assert len(had) + len(now) == len({row[kind] for row in rows[:end]})
        if given:
            assert now == [row["n"] for row in rows[len(had) : end]]
        found = run.manifests[0].statistics
        known = {row[kind] for row in rows[:before]}
        assert found.get("rows_had_before", 0) == sum(row[kind] in known for row in rows[:end])
        assert len(run.quarantine()) == sum(found["repeated_rows"].values())
        had |= set(now)
        earlier, before = run.uri, end
        evolved(run)


def evolved(run: Run) -> None:
    """As far as another run sees, it has evolved a model."""
    ledger = StageLedger(run.directory)
    for step in (Step.of(warmup.STAGE, run.config(), 1), Step.of(evolve.STAGE, run.config(), 1)):
        ledger.begin(step.name, step.settings, {})
        ledger.finish(step.name, {}, (), {}, 0.0)


@pytest.mark.parametrize("limit", [None, 600])
def test_the_same_however_it_is_cut(corpus, tmp_path, limit, request) -> None:
    whole = ingest(tmp_path / "1", **corpus, shard_rows=37, max_unlabeled_rows=limit)
    request.getfixturevalue("in_small_pieces")
    cut = ingest(tmp_path / "2", **corpus, shard_rows=37, max_unlabeled_rows=limit)
    tables, said = made(whole)
    assert made(cut) == (tables, said)
    shards = [len(t) for n, t in tables.items() if "/unlabeled/" in n]
    assert set(shards[:-1]) == {37} and (sum(shards) == limit or limit is None)
    reasons = {row["reason"].split(":")[0] for row in whole.quarantine().to_pylist()}
    assert reasons >= {"broken JSON", "not valid UTF-8", "repeats an earlier example"}
    # What was between is gone.
    assert not cut.directory.all_files(BLOCKS)


def test_every_row_is_an_example_or_accounted_for(corpus, tmp_path, in_small_pieces) -> None:
    run = ingest(tmp_path, **corpus)
    said = run.manifests[0].statistics
    with gzip.open(corpus["unlabeled"] / "2.jsonl.gz") as packed:
        lines = packed.read().splitlines()
    for name in ("0.jsonl", "1.jsonl"):
        lines += (corpus["unlabeled"] / name).read_bytes().splitlines()
    read = sum(1 for line in lines if line.strip()) + 900 + 200
    lost = said["bad_rows_of"]["unlabeled"] + said["repeated_rows"]["unlabeled"]
    lost += said["contaminated_rows"]["unlabeled"] + said["already_labeled_rows"]
    assert said["rows"]["unlabeled"] + lost == read
    # Each bad line is named by the number it has in its file.
    numbered = (corpus["unlabeled"] / "0.jsonl").read_bytes().splitlines()
    broken = [n for n, line in enumerate(numbered, 1) if line.rstrip() == b'{"text":']
    named = [
        q["row"]
        for q in run.quarantine().to_pylist()
        if q["file"].endswith("/0.jsonl") and q["reason"].startswith("broken JSON")
    ]
    assert named == broken and len(broken) > 3


@pytest.mark.usefixtures("ray_session")
def test_the_same_from_tasks_of_ray(corpus, tmp_path, monkeypatch) -> None:
    here = ingest(tmp_path / "1", **corpus, shard_rows=37)
    # As `in_small_pieces`, but for what is decided in the tasks themselves.
    monkeypatch.setattr(parts, "_FEWEST_BYTES", 5_000)
    monkeypatch.setattr(parts, "_MOST_PARTS", 1 << 30)
    monkeypatch.setattr(repeats, "_KEYS_A_TASK", 100)
    monkeypatch.setattr(sharding, "_TASK_ROWS", 150)
    there = ingest(tmp_path / "2", **corpus, shard_rows=37)
    assert made(there) == made(here)


def test_two_ids_of_one_key_are_two_ids(tmp_path, monkeypatch, in_small_pieces) -> None:
    rows = [{"text": f"t{i}", "label": "a", "key": f"id-{i}"} for i in range(90)]
    labeled = write_csv(tmp_path / "l.csv", [{"text": "l", "label": "a", "key": "k"}])
    columns = COLUMNS | {"id": "key"}
    # As if 64 bits were 4.
    monkeypatch.setattr(reading, "text_hash", lambda text: examples.text_hash(text) % 16 << 60)
    run = ingest(tmp_path / "1", labeled, write_csv(tmp_path / "u.csv", rows), columns=columns)
    assert run.examples("unlabeled")["example_id"].to_pylist() == [row["key"] for row in rows]
    rows += [rows[70] | {"text": "x"}, rows[7] | {"text": "y"}]
    twice = write_csv(tmp_path / "v.csv", rows)
    with pytest.raises(UserError, match=r"row 91: id 'id-70' is already that of .*, row 71"):
        ingest(tmp_path / "2", labeled, twice, columns=columns)
    # What the try that failed had read goes with the next one.
    run = ingest(tmp_path / "2", labeled, tmp_path / "u.csv", columns=columns)
    assert not [name for name in run.directory.all_files("ingest") if "/blocks/" in name]


def test_long_rows_make_blocks_of_few(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(blocks, "_STEP_CHARACTERS", 2_000)
    monkeypatch.setattr(blocks, "_MOST_BYTES", 5_000)
    run = RunDirectory(str(tmp_path / "run"))
    writer = blocks.BlockWriter(run, "blocks/part-0")
    texts = [f"{i} " + "x" * 1_000 for i in range(30)]
    for i, text in enumerate(texts):
        example = dict.fromkeys(EXAMPLE.names) | {"example_id": str(i), "question": text}
        writer.add(example, part=0, row=i, content=i, key=i)
    writer.close()
    assert [block.rows for block in writer.blocks] == [6] * 5
    tables = [run.read_table(block.table) for block in writer.blocks]
    assert pa.concat_tables(tables)["question"].to_pylist() == texts


def test_nearly_the_same_is_left_out_where_it_is_asked(tmp_path, in_small_pieces) -> None:
    draw = random.Random(3)
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"]
    different = [" ".join(draw.choices(words, k=30)) for _ in range(200)]
    near = [text.replace(text.split()[7], "other", 1) for text in different[:50]]
    far = [" ".join([*text.split()[:8], *draw.choices(words, k=22)]) for text in different[:50]]
    # Without a word there is nothing to be alike in.
    wordless = ["?!", "…", "!"]

    def file(name: str, texts: list[str]) -> Path:
        rows = [{"text": text, "label": "a"} for text in texts]
        return write_jsonl(tmp_path / name, *rows)

    files = {
        "labeled": file("l.jsonl", different[:5]),
        "test": file("t.jsonl", different[5:10]),
        "unlabeled": file("u.jsonl", [*different[10:], *wordless, *near, *far, *different[10:20]]),
    }
    run = ingest(tmp_path / "1", **files, near_duplicates=0.7)
    said = run.manifests[0].statistics
    kept = run.examples("unlabeled")["question"].to_pylist()
    assert said["repeated_rows"]["unlabeled"] == 10  # of which none counts as nearly the same
    # Nothing is left out that is not alike, of what is alike nearly all: the labels' and the test
    # set's likes too.
    assert set(different[10:] + wordless + far) <= set(kept)
    assert len(set(near) & set(kept)) <= 2
    assert said["nearly_repeated_rows"] + len(kept) == 190 + 3 + 100
    near_rows = [q for q in run.quarantine().to_pylist() if "nearly" in q["reason"]]
    assert len(near_rows) == said["nearly_repeated_rows"]
    assert {row["row"] for row in near_rows} <= set(range(194, 244))
    unasked = ingest(tmp_path / "2", **files).manifests[0].statistics
    assert unasked["rows"]["unlabeled"] == 293 and "nearly_repeated_rows" not in unasked


def test_files_that_only_the_driver_sees_are_read_by_it(corpus, tmp_path, monkeypatch) -> None:
    """As tasks on another node answer, where the data are not in a place that all nodes mount."""
    here = ingest(tmp_path / "1", **corpus)

    def elsewhere(function, items):
        return (None if function.__name__ == "read" else function(item) for item in items)

    monkeypatch.setattr(stage, "shard_map", lambda config, tasks: elsewhere)
    assert made(ingest(tmp_path / "2", **corpus)) == made(here)
    monkeypatch.setattr(parts.FilePart, "is_here", lambda part: part.file.suffix != ".parquet")
    with pytest.raises(UserError, match=r"3\.parquet: changed while it was read; run again"):
        ingest(tmp_path / "3", **corpus)


def test_a_file_that_is_another_one_here_is_not_read(tmp_path) -> None:
    path = write_jsonl(tmp_path / "u.jsonl", {"text": "x"})
    ((part,),) = parts.cut(find_files(str(path), "x"))
    assert part.is_here()
    write_jsonl(tmp_path / "u.jsonl", {"text": "xy"})
    assert not part.is_here()
    path.unlink()
    assert not part.is_here()
