"""A stage's work stands, is gone on with, refused or dropped; and no attempt meets another."""

from __future__ import annotations

import dataclasses

import pytest

from semievol_ray import SemiEvolError, UserError
from semievol_ray.store import RunDirectory, StageLedger, check_unchanged

SETTINGS, INPUTS = {"selection.percentile": 50}, {"round-2/generate": "f00"}
STAGE, WRITES = "round-2/select", ("shard-*.parquet",)


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


def test_a_stage_that_was_killed_is_gone_on_with(run) -> None:
    begun = StageLedger(run).begin(STAGE, SETTINGS, INPUTS, WRITES)
    again = StageLedger(run).begin(STAGE, SETTINGS, INPUTS, WRITES)
    assert again == begun and begun.folder == "round-2/select/attempt-1"
    done = StageLedger(run).finish(STAGE, {"x.parquet": 3}, (), {"kept": 1}, 2.0)
    assert StageLedger(run).done(STAGE) == done
    assert done.fingerprint == begun.fingerprint, "those after it may begin before it is done"


def test_what_a_killed_write_left_goes_when_its_stage_is_gone_on_with(run) -> None:
    folder = StageLedger(run).begin(STAGE, SETTINGS, INPUTS, WRITES).folder
    kept = [f"{folder}/shard-00000.parquet", f"{folder}/.hidden", f"{folder}/notes.txt"]
    left = f"{folder}/.shard-00001.parquet.0a1b2c3d"
    for name in (*kept, left):
        run.write_bytes(name, b"x")
    ledger = StageLedger(run)
    ledger.begin(STAGE, SETTINGS, INPUTS, WRITES)
    assert sorted(run.all_files(folder)) == sorted(kept)
    # Its own tasks may be amid one from then on.
    run.write_bytes(left, b"x")
    ledger.begin(STAGE, SETTINGS, INPUTS, WRITES)
    assert left in run.all_files(folder)


def test_what_changed_is_named_and_the_stage_in_full(run) -> None:
    ledger = StageLedger(run)
    begun = ledger.begin(STAGE, SETTINGS, INPUTS)
    check_unchanged(begun, SETTINGS, INPUTS)
    wanted = r"selection.percentile was 50 and is now 40.*--redo round-2/select$"
    with pytest.raises(UserError, match=wanted):
        check_unchanged(begun, {"selection.percentile": 40}, INPUTS)
    with pytest.raises(UserError, match="its input round-2/generate has changed"):
        check_unchanged(begun, SETTINGS, {"round-2/generate": "bad"})


def test_half_done_work_is_not_gone_on_with_under_another_torch(run) -> None:
    ledger = StageLedger(run)
    begun = ledger.begin(STAGE, SETTINGS, INPUTS)
    older = dataclasses.replace(begun, versions=begun.versions | {"torch": "1.0"})
    with pytest.raises(UserError, match="package torch was '1.0' and is now"):
        check_unchanged(older, SETTINGS, INPUTS)
    check_unchanged(dataclasses.replace(older, state="done"), SETTINGS, INPUTS)


def test_another_attempt_has_its_own_files_and_fingerprint(run) -> None:
    ledger = StageLedger(run)
    first = ledger.begin(STAGE, SETTINGS, INPUTS, WRITES)
    ledger.drop(STAGE)
    assert ledger.get(STAGE) is None and StageLedger(run).get(STAGE) is None
    second = StageLedger(run).begin(STAGE, SETTINGS, INPUTS, WRITES)
    assert second.folder == "round-2/select/attempt-2"
    assert second.fingerprint != first.fingerprint, "what was made from the first is stale"


def test_files_whose_manifest_is_gone_belong_to_no_stage(run) -> None:
    """A process that everybody has forgotten may still write; nobody takes its files for his."""
    run.write_bytes("round-2/select/attempt-7/shard-00000.parquet", b"of other settings")
    assert StageLedger(run).begin(STAGE, SETTINGS, INPUTS).attempt == 8


def test_a_sweep_that_is_killed_is_finished_by_the_next(run, monkeypatch) -> None:
    ledger = StageLedger(run)
    folder = ledger.begin(STAGE, SETTINGS, INPUTS, WRITES).folder
    names = [f"{folder}/shard-{i:05d}.parquet" for i in range(4)]
    for name in names:
        run.write_bytes(name, b"x")
    ledger.finish(STAGE, dict.fromkeys(names, 1), (), {}, 0)
    ledger.drop(STAGE)
    deleted = []

    def delete(name: str) -> None:
        if len(deleted) == 2:
            raise KeyboardInterrupt
        deleted.append(name)
        RunDirectory.delete_file(run, name)

    monkeypatch.setattr(run, "delete_file", delete)
    with pytest.raises(KeyboardInterrupt):
        ledger.sweep()
    again = RunDirectory(run.uri)
    assert len(again.all_files(folder)) == 2
    StageLedger(again).sweep()
    assert not again.exists(folder)
    StageLedger(again).sweep()


def test_a_run_of_another_version_and_a_damaged_manifest_are_one_line(run) -> None:
    run.write_json("manifests/ingest.json", {"stage": "ingest", "state": "done"})
    with pytest.raises(UserError, match=r"ingest.json: no manifest of this version"):
        StageLedger(run).all()
    run.write_bytes("manifests/ingest.json", b"{")
    with pytest.raises(SemiEvolError, match=r"ingest.json: is damaged"):
        StageLedger(run).all()


def test_who_lost_the_lease_closes_no_stage(run) -> None:
    begun = StageLedger(run).begin(STAGE, SETTINGS, INPUTS)

    def lost() -> None:
        raise SemiEvolError("another has taken over")

    ledger = StageLedger(run, lost)
    for write in (lambda: ledger.finish(STAGE, {}, (), {}, 0), lambda: ledger.drop(STAGE)):
        with pytest.raises(SemiEvolError, match="taken over"):
            write()
    assert StageLedger(run).get(STAGE) == begun
