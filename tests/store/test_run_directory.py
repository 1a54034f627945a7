"""A file of a run is there whole or not at all, and a stage is never mixed of two settings."""

from __future__ import annotations

import errno
import pickle

import pyarrow as pa
import pytest

from semievol_ray import SemiEvolError, UserError
from semievol_ray.store import RunDirectory, digest, flatten, layout, model_fingerprint

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


@pytest.mark.parametrize("group_rows", [1, 7, 100])
def test_a_slice_is_what_the_whole_table_has_there(tmp_path, group_rows) -> None:
    run, table = RunDirectory(str(tmp_path)), pa.table({"n": range(60)})
    run.write_table("t.parquet", table, group_rows)
    for start, stop in ((0, 60), (0, 1), (6, 8), (7, 14), (59, 60), (13, 55)):
        assert run.read_slice("t.parquet", start, stop).equals(table.slice(start, stop - start))
    batches = table.to_batches(max_chunksize=20)
    run.write_batches("t.arrow", batches)
    assert run.read_batches("t.arrow", [2, 0]) == [batches[2], batches[0]]


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


def test_fingerprints_do_not_depend_on_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert flatten({"a": {"b": 1, "c": {}}, "d": (1,)}) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_a_folder_that_holds_files_is_no_run_directory(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labeled.csv").write_text("the user's own")
    run = RunDirectory(str(tmp_path))
    with pytest.raises(UserError, match="holds 'data' and is no run directory"):
        run.check_claimable()
    # An empty one is, also where the file system put something there itself.
    (tmp_path / "new" / "lost+found").mkdir(parents=True)
    fresh = RunDirectory(str(tmp_path / "new"))
    fresh.check_claimable()
    fresh.mark()
    (tmp_path / "new" / "notes.txt").write_text("beside it")
    fresh.check_claimable()


def test_only_owned_files_are_deleted(tmp_path) -> None:
    run = RunDirectory(str(tmp_path))
    folder = "round-1/select/attempt-1"
    ours = ["shard-00000.parquet", "tally-00000.json", ".shard-00001.parquet.0a1b2c3d"]
    theirs = ["notes.txt", "deep/er/shard-list.csv", "shard-00000.parquet.bak"]
    for name in (*ours, *theirs, "named.json"):
        run.write_bytes(f"{folder}/{name}", b"x")
    patterns = ("shard-*.parquet", "tally-*.json")
    run.delete_owned(folder, [f"{folder}/named.json"], patterns)
    left = {name.removeprefix(f"{folder}/") for name in run.all_files(folder)}
    assert left == set(theirs)
    # Where nothing of others is left, the folder goes too.
    run.write_bytes("warmup/attempt-1/model/weights", b"x")
    run.delete_owned("warmup/attempt-1", (), ("model/*",))
    assert not run.exists("warmup/attempt-1")


def test_a_reference_means_the_same_everywhere(tmp_path) -> None:
    run = RunDirectory(str(tmp_path))
    run.write_bytes("warmup/attempt-1/model/config.json", b"{}")
    reference = layout.reference("warmup/attempt-1/model")
    assert run.localise(reference) == str(tmp_path / "warmup" / "attempt-1" / "model")
    assert run.localise("hub/model") == "hub/model" and run.localise("/a/path") == "/a/path"


def test_a_worker_that_does_not_see_the_run_says_so(tmp_path) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    run.check_visible()  # nobody has marked it: nothing is known
    run.mark()
    elsewhere = pickle.loads(pickle.dumps(run))
    elsewhere.check_visible()
    (tmp_path / "run" / layout.MARKER).unlink()
    with pytest.raises(UserError, match="is not there on .*object store"):
        elsewhere.check_visible()


def test_a_models_fingerprint_is_its_content(tmp_path) -> None:
    def write(folder, weights: bytes):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "config.json").write_text("{}")
        (tmp_path / folder / "model.safetensors").write_bytes(weights)
        return model_fingerprint(tmp_path / folder)

    weights = bytearray(40 << 20)
    first = write("a", weights)
    assert write("b", weights) == first, "a model that was moved is the same"
    weights[7::4096] = b"\x01" * len(weights[7::4096])  # as training does: everywhere a little
    assert write("a", weights) != first, "weights changed in place are another model"
    assert write("b", weights[:-1]) not in (first, write("a", weights))


@pytest.mark.parametrize("name", ["../victim/x", "a/../../x", "/etc/passwd", ".."])
def test_no_name_leaves_the_run(tmp_path, name) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    calls = [
        run.read_json,
        run.delete_file,
        run.exists,
        run.all_files,
        run.row_count,
        lambda n: run.write_bytes(n, b""),
        lambda n: run.delete_owned(n, ["x"], ("*",)),
    ]
    for call in calls:
        with pytest.raises(UserError, match="is no name of a file in a run"):
            call(name)


def test_what_lies_behind_a_link_is_not_deleted(tmp_path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "x.parquet").write_bytes(b"mine")
    run = RunDirectory(str(tmp_path / "run"))
    run.write_table("stage/attempt-1/y.parquet", TABLE)
    (tmp_path / "run" / "stage" / "attempt-1" / "model").symlink_to(tmp_path / "victim")
    run.delete_owned("stage/attempt-1", ["stage/attempt-1/model/x.parquet"], ("*",))
    assert (tmp_path / "victim" / "x.parquet").exists()
    assert not run.exists("stage/attempt-1/y.parquet")


def test_a_run_that_is_itself_behind_a_link_is_one_as_any(tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    run = RunDirectory(str(tmp_path / "run"))
    run.write_table("stage/attempt-1/y.parquet", TABLE)
    run.delete_owned("stage/attempt-1", [], ("*.parquet",))
    assert not run.exists("stage/attempt-1/y.parquet")
