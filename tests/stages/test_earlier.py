"""What a run takes from the one that it continues, on a disk and in an object store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray import UserError, load_config, pipeline
from semievol_ray.results import Run
from semievol_ray.stages import evolve, warmup
from semievol_ray.stages.context import Context
from semievol_ray.stages.earlier import Earlier
from semievol_ray.stages.finetune import Target, training_table
from semievol_ray.stages.rendering import make_renderer
from semievol_ray.steps import Step
from semievol_ray.store import RunDirectory, StageLedger
from tests.stages.ingesting import write_csv
from tests.store.test_object_store import run_uri, server

__all__ = ["run_uri", "server"]  # fixtures

pytestmark = pytest.mark.usefixtures("ray_session")
MODEL = {"adapter_model.safetensors": b"weights", "adapter_config.json": b"{}"}


@pytest.fixture(params=["disk", "object store"])
def place(request, tmp_path: Path) -> Callable[[int], str]:
    """Where the runs are to lie, by their numbers."""
    if request.param == "disk":
        return lambda number: str(tmp_path / "runs" / str(number))
    uri = request.getfixturevalue("run_uri")
    return lambda number: uri.replace(tmp_path.name, f"{tmp_path.name}-{number}")


def config_of(
    run_dir: str,
    folder: Path,
    model: Path,
    labels: list[str | tuple[str, str]],
    rows: list[str],
    **more: Any,
):
    """Labels are named by their ids, or by those and their texts."""
    folder.mkdir(exist_ok=True)
    named = [i if isinstance(i, tuple) else (i, f"about {i}") for i in labels]
    given = [{"n": i, "text": text, "label": "ab"[n % 2]} for n, (i, text) in enumerate(named)]
    others = [{"n": i, "text": f"about {i}", "label": ""} for i in rows]
    columns = {"id": "n", "question": "text", "answer": "label"}
    data = {
        "labeled": str(write_csv(folder / "labeled.csv", given)),
        "unlabeled": str(write_csv(folder / "unlabeled.csv", others)),
        "columns": columns,
    }
    values = {"run_dir": run_dir, "model": {"name": str(model), "engine": "transformers"},
              "task": {"kind": "label"}, "data": data}  # fmt: skip
    return load_config(values | more)


def finished(config, trusted: list[str]) -> None:
    """A run that evolved a model from its labels and some pseudo-answers: all but the work."""
    run = RunDirectory(config.run_dir)
    pipeline.run(config, until="ingest")
    ledger = StageLedger(run)
    context = Context(config, run, ledger)
    for stage, number in ((warmup.STAGE, 1), (evolve.STAGE, 1)):
        step = Step.of(stage, config, number)
        begun = ledger.begin(step.name, step.settings, {}, stage.writes)
        for name, content in MODEL.items():
            run.write_bytes(f"{begun.folder}/model/{name}", step.name.encode() + content)
        outputs = {}
        for part, ids in (("labeled", ["l0", "l1"]), ("selected-1", trusted)):
            name = f"{begun.folder}/examples/{part}/shard-00000.parquet"
            outputs[name] = run.write_table(name, training_rows(context, ids))
        ledger.finish(step.name, outputs, (), {"kind": "adapter", "steps": 3}, 1.0)


def training_rows(context: Context, ids: list[str]) -> pa.Table:
    examples = [{"example_id": i, "question": f"about {i}"} for i in ids]
    rows = [(example, Target.hard("a")) for example in examples]
    return training_table(context.task, make_renderer(context), rows)


def test_model_rows_and_pseudo_answers_are_brought(place, tmp_path, tiny_model) -> None:
    first = config_of(place(1), tmp_path / "1", tiny_model, ["l0", "l1"], ["u0", "u1", "u2"])
    finished(first, trusted=["u0", "u1"])
    before = RunDirectory(first.run_dir).all_files("")
    # Since then a row was labelled, and two have come; and a label has the id of another row.
    rows = ["u0", "u1", "u2", "u3", "u4"]
    labels = ["l0", "l1", "u1", ("u0", "about something else")]
    second = config_of(place(2), tmp_path / "2", tiny_model, labels, rows, continues=first.run_dir)
    directory = pipeline.run(second, until="warmup")
    context = Context(second, directory, StageLedger(directory))
    (shard,) = context.shards("unlabeled")
    assert directory.read_table(shard)["example_id"].to_pylist() == ["u3", "u4"]
    warm = context.ledger.done("warmup")
    found = {name.rpartition("/")[2]: name for name in directory.all_files(f"{warm.folder}/model")}
    assert found.keys() == MODEL.keys() and set(found.values()) == set(warm.files)
    for name, content in MODEL.items():
        there = Path(directory.localise(f"run:{warm.folder}/model")) / name
        assert there.read_bytes() == b"round-1/evolve" + content
    written = Earlier.of(second).write_selected(context, "round-1/evolve/attempt-1")
    assert [rows for _, rows in written] == [1]
    assert directory.read_table(written[0][0]).equals(training_rows(context, ["u0"]))
    # Nothing of it has changed, and it need not be as it was for what was brought.
    assert RunDirectory(first.run_dir).all_files("") == before
    third = config_of(place(3), tmp_path / "3", tiny_model, labels, [*rows, "u5"],
                      continues=second.run_dir)  # fmt: skip
    with pytest.raises(UserError, match="has evolved no model yet"):
        pipeline.run(third, until="ingest")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"continues": "runs/none"}, "continues: runs/none: no run here"),
        (
            {"task": {"kind": "label", "instruction": "Otherwise."}},
            "its task.instruction is None, this run's 'Otherwise.'",
        ),
        ({"training": {"method": "full"}}, "it trained with method: lora, this run with full"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, tiny_model, changes, message) -> None:
    first = config_of(f"{tmp_path}/a", tmp_path / "1", tiny_model, ["l0", "l1"], ["u0"])
    finished(first, trusted=["u0"])
    second = config_of(f"{tmp_path}/b", tmp_path / "2", tiny_model, ["l0", "l1"], ["u0", "u1"],
                       **{"continues": first.run_dir, **changes})  # fmt: skip
    with pytest.raises(UserError, match=message):
        pipeline.run(second, until="ingest")


def test_a_test_set_that_it_may_have_learnt_from_is_refused(tmp_path, tiny_model) -> None:
    """By given ids: one that had no test set vouches for no row."""
    first = config_of(f"{tmp_path}/a", tmp_path / "1", tiny_model, ["l0", "l1"], ["u0"])
    finished(first, trusted=["u0"])
    second = config_of(f"{tmp_path}/b", tmp_path / "2", tiny_model, ["l0", "l1"], ["u1"],
                       continues=first.run_dir)  # fmt: skip
    values = second.model_dump(mode="json")
    values["data"]["test"] = str(
        write_csv(tmp_path / "test-0.csv", [{"n": "t0", "text": "about t0", "label": "a"}])
    )
    with pytest.raises(UserError, match="learnt from 1 rows of data.test, the first t0"):
        pipeline.run(load_config(values), until="ingest")


def test_of_more_test_rows_than_it_had_none_is_vouched_for(tmp_path, tiny_model) -> None:
    first = config_of(f"{tmp_path}/a", tmp_path / "1", tiny_model, ["l0", "l1"], ["u0", "u7"])
    values = first.model_dump(mode="json")
    test = [{"n": i, "text": f"about {i}", "label": "a"} for i in ("t0", "u7")]
    values["data"]["test"] = str(write_csv(tmp_path / "test-1.csv", test[:1]))
    finished(load_config(values), trusted=["u0"])
    second = config_of(f"{tmp_path}/b", tmp_path / "2", tiny_model, ["l0", "l1"], ["u1"],
                       continues=first.run_dir)  # fmt: skip
    values = second.model_dump(mode="json")
    values["data"]["test"] = str(write_csv(tmp_path / "test-2.csv", test))
    with pytest.raises(UserError, match="learnt from 1 rows of data.test, the first u7"):
        pipeline.run(load_config(values), until="ingest")


def test_by_contents_just_what_it_learnt_from_is_refused(tmp_path, tiny_model) -> None:
    def config(number: int, rows: list[str], test: list[str], **more: Any):
        given = config_of(str(tmp_path / f"run-{number}"), tmp_path / f"{number}", tiny_model,
                          ["l0", "l1"], rows, **more)  # fmt: skip
        values = given.model_dump(mode="json")
        values["data"]["columns"]["id"] = None
        tested = [{"n": i, "text": f"about {i}", "label": "a"} for i in test]
        values["data"]["test"] = str(write_csv(tmp_path / f"test-{number}.csv", tested))
        return load_config(values)

    first = config(1, ["u0", "u1"], ["t0"])
    pipeline.run(first, until="ingest")
    ids = dict(zip(*(Run(first.run_dir).examples("unlabeled")[n].to_pylist()
                     for n in ("question", "example_id")), strict=True))  # fmt: skip
    finished(first, trusted=[ids["about u0"]])
    # It had u1 and did not learn from it.
    pipeline.run(config(2, ["u2"], ["t1", "u1"], continues=first.run_dir), until="ingest")
    with pytest.raises(UserError, match="learnt from 1 rows of data.test"):
        pipeline.run(config(3, ["u2"], ["t1", "u0"], continues=first.run_dir), until="ingest")


def test_what_its_labels_chose_is_not_searched_for_again(tmp_path, tiny_model) -> None:
    auto = {"training": {"learning_rate": "auto", "epochs": "auto"}}
    first = config_of(f"{tmp_path}/a", tmp_path / "1", tiny_model, ["l0", "l1"], ["u0"], **auto)
    finished(first, trusted=["u0"])
    ledger, found = StageLedger(RunDirectory(first.run_dir)), {"chosen": {"epochs": 6.0}}
    ledger.begin("tune", {}, {})
    ledger.finish("tune", {}, (), found, 0.0)
    second = config_of(f"{tmp_path}/b", tmp_path / "2", tiny_model, ["l0", "l1"], ["u1"],
                       continues=first.run_dir, **auto)  # fmt: skip
    directory = pipeline.run(second, until="tune")
    assert StageLedger(directory).done("tune").statistics == found


def test_one_that_was_rolled_back_names_the_run_before_it(
    tmp_path, tiny_model, monkeypatch
) -> None:
    # Versions before 0.18 had a guard in runs that continue others, too.
    monkeypatch.setattr("semievol_ray.pipeline.check_asked", lambda *_: None)
    first = config_of(f"{tmp_path}/a", tmp_path / "1", tiny_model, ["l0", "l1"], ["u0"])
    finished(first, trusted=["u0"])
    guarded = {"iteration": {"guard": True}, "continues": first.run_dir}
    second = config_of(f"{tmp_path}/b", tmp_path / "2", tiny_model, ["l0", "l1"], ["u1"], **guarded)
    finished(second, trusted=["u1"])
    ledger = StageLedger(RunDirectory(second.run_dir))
    ledger.begin("round-1/guard", {}, {})
    ledger.finish("round-1/guard", {}, (), {"kept": False}, 0.0)
    third = config_of(f"{tmp_path}/c", tmp_path / "3", tiny_model, ["l0", "l1"], ["u2"],
                      continues=second.run_dir)  # fmt: skip
    with pytest.raises(UserError, match=f"was rolled back; continue the run .*: {first.run_dir}"):
        pipeline.run(third, until="ingest")
