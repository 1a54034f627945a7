"""A file of a run is there whole or not at all, and a stage is never mixed of two settings."""

from __future__ import annotations

import errno
import pickle

import pyarrow as pa
import pytest

from semievol_ray import SemiEvolError, UserError
from semievol_ray.store import RunDirectory, StageLedger, digest, flatten

TABLE = pa.table({"x": [1, 2, 3]})


def test_the_same_table_gives_the_same_bytes(tmp_path) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    run.write_table("a/x.parquet", TABLE)
    run.write_table("a/y.parquet", TABLE)
    folder = tmp_path / "run" / "a"
    assert (folder / "x.parquet").read_bytes() == (folder / "y.parquet").read_bytes()
    assert run.read_table("a/x.parquet").equals(TABLE)
    assert run.files("a") == ["a/x.parquet", "a/y.parquet"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    run.write_table("x.parquet", TABLE)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SemiEvolError, match=r"x\.parquet: no space left; free some"):
        run.write_table("x.parquet", pa.table({"x": [9]}))
    assert run.read_table("x.parquet").equals(TABLE)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["x.parquet"]


def test_a_torn_file_is_not_a_shard(tmp_path) -> None:
    run = RunDirectory(str(tmp_path))
    run.write_table("x.parquet", TABLE)
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[:-5])
    assert run.row_count("x.parquet") is None
    assert run.row_count("none.parquet") is None


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path) -> None:
    run = RunDirectory(str(tmp_path))
    with pytest.raises(RuntimeError), run.new_folder("model") as folder:
        (folder / "weights").write_text("half")
        raise RuntimeError
    assert not run.exists("model")
    with run.new_folder("model") as folder:
        (folder / "weights").write_text("all")
    assert (run.local_folder("model") / "weights").read_text() == "all"


def test_an_unknown_uri_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="nonsense://x: cannot be opened"):
        RunDirectory("nonsense://x")


def test_a_worker_in_another_folder_sees_the_same_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory("runs/a")
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(run))
    assert copy.path == run.path == str(tmp_path / "runs" / "a")


def test_a_finished_stage_is_skipped_and_a_changed_one_refused(tmp_path) -> None:
    ledger = StageLedger(RunDirectory(str(tmp_path)))
    settings, inputs = {"selection.percentile": 50}, {"generate": "f00"}
    assert ledger.begin("round-1/select", settings, inputs) is None
    assert ledger.begin("round-1/select", settings, inputs) is None  # killed: goes on
    done = ledger.finish("round-1/select", {"x.parquet": 3}, {"kept": 1}, 2.0)
    assert ledger.begin("round-1/select", settings, inputs) == done
    with pytest.raises(UserError, match=r"selection.percentile was 50 and is now 40.*--redo sel"):
        ledger.begin("round-1/select", {"selection.percentile": 40}, inputs)
    with pytest.raises(UserError, match="its input generate has changed"):
        ledger.begin("round-1/select", settings, {"generate": "bad"})


def test_half_done_work_pins_its_settings(tmp_path) -> None:
    ledger = StageLedger(RunDirectory(str(tmp_path)))
    ledger.begin("warmup", {"seed": 0}, {})
    with pytest.raises(UserError, match="seed was 0 and is now 1"):
        ledger.begin("warmup", {"seed": 1}, {})


def test_fingerprints_do_not_depend_on_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert flatten({"a": {"b": 1, "c": {}}, "d": (1,)}) == {"a.b": 1, "a.c": {}, "d": [1]}
