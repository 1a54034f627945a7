"""Token ids on disk: written once, by whichever worker, and read in the order of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray.errors import UserError
from semievol_ray.model_files import load_tokenizer
from semievol_ray.schema import TRAINING
from semievol_ray.training import data, token_cache
from semievol_ray.training.token_cache import TokenizedExamples
from tests.training.conftest import MakeJob, Workers, make_row, write_rows


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(str(tiny_model))


def test_the_cache_is_another_for_other_rows_lengths_and_tokenizers(
    tokenizer: Any, tmp_path: Path
) -> None:
    one = write_rows(tmp_path / "one.parquet", [make_row(1, soft=False)])
    two = write_rows(tmp_path / "two.parquet", [make_row(2, soft=False)])
    fingerprint = token_cache.fingerprint
    names = [fingerprint([one], tokenizer, 10), fingerprint([two], tokenizer, 10)]
    names.append(fingerprint([one], tokenizer, 11))
    other = load_tokenizer(tokenizer.name_or_path)
    assert fingerprint([one], other, 10) == names[0]
    other.add_tokens(["<new>"])
    names.append(fingerprint([one], other, 10))
    assert len(set(names)) == 4


def test_parts_are_written_once_and_read_in_order(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files, row groups smaller and larger than a part; one row's answer has no room."""
    monkeypatch.setattr(token_cache, "PART_ROWS", 3)
    rows = [make_row(i, soft=True) for i in range(13)]
    rows[6] |= {"candidates": ["x" * 200], "candidate_weights": [1.0], "token_weights": None}
    table = pa.Table.from_pylist(rows, schema=TRAINING)
    pq.write_table(table[:5], tmp_path / "small.parquet", row_group_size=2)
    pq.write_table(table[5:], tmp_path / "large.parquet", row_group_size=7)
    parts = token_cache.plan_parts([tmp_path / "small.parquet", tmp_path / "large.parquet"])
    assert [part[2:] for part in parts] == [(0, 0), (1, 0), (2, 0), (0, 0), (0, 1), (0, 2), (1, 0)]
    folder = tmp_path / "tokens"
    for worker in (1, 0):
        token_cache.write_parts(folder, parts[worker::2], tokenizer, 100)
    written = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    token_cache.write_parts(folder, parts, tokenizer, 100)
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == written
    found = token_cache.load_parts(folder, len(parts))
    whole = TokenizedExamples([data.tokenize(table, tokenizer, 100)])
    assert len(found) == len(whole) == 12 and found.dropped_rows == whole.dropped_rows == 1
    for example in range(12):
        assert found.prompt(example).tolist() == whole.prompt(example).tolist()
        pairs = zip(found.candidates_of(example), whole.candidates_of(example), strict=True)
        for ours, wanted in pairs:
            assert found.candidate(ours).tolist() == whole.candidate(wanted).tolist()
            assert found.token_weights(ours).tolist() == whole.token_weights(wanted).tolist()
    for ours, wanted in zip(found.split(0.3, 1), whole.split(0.3, 1), strict=True):
        assert ours.tolist() == wanted.tolist()


def test_a_file_need_not_weigh_tokens_and_may_number_its_examples(
    tokenizer: Any, tmp_path: Path
) -> None:
    rows = pa.Table.from_pylist([make_row(1, soft=False)], schema=TRAINING)
    numbered = rows.set_column(0, "example_id", pa.array([7]))
    pq.write_table(numbered.drop_columns("token_weights"), tmp_path / "rows.parquet")
    parts = token_cache.plan_parts([tmp_path / "rows.parquet"])
    token_cache.write_parts(tmp_path, parts, tokenizer, 100)
    found = token_cache.load_parts(tmp_path, 1)
    assert set(found.token_weights(0).tolist()) == {1.0}


def test_a_file_of_another_schema_or_of_no_row_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"other\.parquet: not a table of training examples"):
        token_cache.plan_parts([tmp_path / "other.parquet"])
    with pytest.raises(UserError, match=r"none\.parquet: no such file"):
        token_cache.plan_parts([tmp_path / "none.parquet"])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"torn\.parquet: not a table of training examples"):
        token_cache.plan_parts([tmp_path / "torn.parquet"])
    pq.write_table(TRAINING.empty_table(), tmp_path / "empty.parquet")
    with pytest.raises(UserError, match="there is no training example in"):
        token_cache.plan_parts([tmp_path / "empty.parquet"])


def test_a_row_that_one_worker_refuses_ends_the_training_of_all(
    make_job: MakeJob, two_workers: Workers, tmp_path: Path
) -> None:
    bad = make_row(1, soft=False) | {"candidate_weights": [0.5, 0.5]}
    file = write_rows(tmp_path / "rows.parquet", [make_row(0, soft=False), bad])
    with pytest.raises(UserError, match="example-1: 1 candidates and 2 weights"):
        two_workers.train(make_job(file))
