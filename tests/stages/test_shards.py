"""The shards of a stage: what is done is found by one listing, and no gap goes by as done."""

from __future__ import annotations

import pyarrow as pa
import pytest

from semievol_ray import SemiEvolError
from semievol_ray.schema import RESPONSE
from semievol_ray.stages import shards as shards_module
from semievol_ray.stages.counts import Counts, count_responses
from semievol_ray.stages.shards import Shards
from semievol_ray.store import RunDirectory

SOURCES = {f"ingest/attempt-1/unlabeled/shard-{i:05d}.parquet": 4 for i in range(6)}
FOLDER = "round-1/generate/attempt-1"


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


def responses(rows: int) -> pa.Table:
    row = {"example_id": "e", "collaborator": "c", "finish_reason": "stop", "prompt_tokens": 3,
           "tokens": 2, "seed": 1, "answer": "A"}  # fmt: skip
    return pa.Table.from_pylist([row] * rows, schema=RESPONSE)


def commit(run: RunDirectory, target: str, rows: int) -> Counts:
    table = responses(rows)
    run.write_table(target, table)
    return count_responses(table)


def opened(monkeypatch) -> list[str]:
    """Names of the shards that are opened from now on."""
    found: list[str] = []
    read = RunDirectory.read_table

    def noting(self, name, columns=None):
        found.append(name)
        return read(self, name, columns)

    monkeypatch.setattr(RunDirectory, "read_table", noting)
    return found


def test_going_on_opens_only_what_was_committed_after_the_last_tally(run, monkeypatch) -> None:
    first = Shards(run, SOURCES, FOLDER, responses=2)
    assert len(first.missing) == 6
    for _, target in first.missing[:3]:
        first.record(target, commit(run, target, 8))
    first.write_tally()
    late = first.missing[0][1]
    commit(run, late, 8)  # committed, and its driver killed before it could note that down
    names = opened(monkeypatch)
    again = Shards(run, SOURCES, FOLDER, responses=2)
    assert names == [late]
    assert len(again.done) == 4 and again.total == Counts(32, 64, 96)
    for _, target in again.missing:
        again.record(target, commit(run, target, 8))
    assert again.outputs() == {target: 8 for target in again.done}
    assert not [name for name in run.files(FOLDER) if "tally" in name]


def test_a_stage_that_wrote_less_than_it_should_is_not_done(run) -> None:
    shards = Shards(run, SOURCES, FOLDER, responses=2)
    (_, first), (_, second), *rest = shards.missing
    with pytest.raises(SemiEvolError, match=rf"{first}: 7 rows instead of 8"):
        shards.record(first, commit(run, first, 7))
    for _, target in rest:
        shards.record(target, commit(run, target, 8))
    shards.record(second, commit(run, second, 8))
    with pytest.raises(SemiEvolError, match=rf"{first}: is missing, and 0 more"):
        shards.outputs()
    # Found again on the disk, it is still not taken for whole.
    assert [target for _, target in Shards(run, SOURCES, FOLDER, responses=2).missing] == [first]


def test_settled_and_sparse_shards_have_fewer_rows_and_none_is_none_too_many(run) -> None:
    shards = Shards(run, SOURCES, FOLDER, responses=2)
    (_, settled), *_ = shards.missing
    run.write_table(settled, responses(0))
    shards.record(settled, Counts(rows=0, settled=4))
    sparse = Shards(run, SOURCES, "round-1/justify/attempt-1", responses=1, sparse=True)
    (_, target), *_ = sparse.missing
    run.write_table(target, responses(0))
    sparse.record(target, Counts(rows=0))
    with pytest.raises(SemiEvolError, match="5 rows for 4 examples"):
        sparse.record(target, Counts(rows=5))


def test_a_torn_shard_is_done_anew(run) -> None:
    target = Shards(run, SOURCES, FOLDER).missing[0][1]
    run.write_bytes(target, b"PAR1 and no more")
    assert target in {t for _, t in Shards(run, SOURCES, FOLDER).missing}


def test_tallies_are_written_now_and_then(run, monkeypatch) -> None:
    monkeypatch.setattr(shards_module, "_TALLY_EVERY_SECONDS", 0.0)
    shards = Shards(run, SOURCES, FOLDER, responses=2)
    for _, target in shards.missing:
        shards.record(target, commit(run, target, 8))
    assert len([name for name in run.files(FOLDER) if "tally" in name]) == 6
