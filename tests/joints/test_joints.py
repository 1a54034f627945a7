"""What CONTRIBUTING.md promises: an engine, a stage (and in tests/selection a policy) of one's own
is a file and a line of a table, and nothing else of the package changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from semievol_ray import UserError, config, pipeline
from semievol_ray.config_file import load_config
from semievol_ray.engines import EnginePool, Sampling
from semievol_ray.results import Run
from semievol_ray.stages import ingest
from semievol_ray.stages.answering import ResolvedCollaborator, ShardJob, answer_shard
from semievol_ray.stages.run_view import ModelRef
from semievol_ray.store import RunDirectory
from semievol_ray.tasks import Task
from tests.joints import longest_stage


def write(path: Path, rows: list[str]) -> str:
    path.write_text("question,answer\n" + "".join(f"{row},red\n" for row in rows))
    return str(path)


@pytest.fixture
def values(tmp_path) -> dict:
    return {
        "run_dir": str(tmp_path / "run"),
        "model": {"name": "any", "engine": "simulated"},
        "task": {
            "kind": "label",
            "labels": ["red", "blue"],
            "instruction": "",
            "question_template": "{{ question }}",
        },
        "data": {
            "labeled": write(tmp_path / "labeled.csv", ["one"]),
            "unlabeled": write(tmp_path / "unlabeled.csv", ["blue sky", "red", "red sun sets"]),
            "shard_rows": 2,
        },
    }


def test_a_stage_is_a_file_and_a_line(values, monkeypatch) -> None:
    monkeypatch.setattr(pipeline, "FIRST", (ingest.STAGE,))
    monkeypatch.setattr(pipeline, "EACH_ROUND", (longest_stage.STAGE,))
    monkeypatch.setattr(pipeline, "LAST", ())
    checked = load_config(values)
    for _ in range(2):  # the second time it stands
        pipeline.run(checked)
    run = Run(checked.run_dir)
    done = {m.stage: m for m in run.manifests}["round-1/longest"]
    assert done.state == "done" and done.statistics == {"shards": 2}
    found = [run.directory.read_table(name)["question"].to_pylist() for name in done.outputs]
    assert found == [["blue sky"], ["red sun sets"]]


@pytest.mark.e2e
def test_an_engine_is_a_file_and_a_line(values, monkeypatch, ray_session) -> None:
    with pytest.raises(UserError, match="unknown engine 'echo'; known: auto, vllm"):
        load_config(values | {"model": {"name": "any", "engine": "echo"}})
    monkeypatch.setitem(config.ENGINES, "echo", "tests.joints.echo_engine:EchoEngine")
    model = {"name": "any", "engine": "echo", "engine_options": {"prefix": "Label: "}}
    checked = load_config(values | {"model": model})
    directory = pipeline.run(checked, until="ingest")
    task = Task.from_config(checked.task)
    voter = ResolvedCollaborator.of("echo", ModelRef(checked.model), 0, Sampling(0.0, 1.0, 8))
    job = ShardJob(RunDirectory(directory.uri), task, (voter,), 0, score_options=False)
    sources = Run(checked.run_dir).manifests[0].outputs
    pairs = [(name, f"echoed/{i}.parquet") for i, name in enumerate(sources) if "unlabeled" in name]
    pool = EnginePool(checked.model, checked.generation, directory)
    try:
        for _ in pool.map(answer_shard, pairs, job):
            pass
    finally:
        pool.close()
    rows = [row for _, target in pairs for row in directory.read_table(target).to_pylist()]
    assert sorted((row["text"], row["answer"]) for row in rows) == [
        ("Label: blue", "blue"), ("Label: red", "red"), ("Label: red", "red"),
    ]  # fmt: skip
