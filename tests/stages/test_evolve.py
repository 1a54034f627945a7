"""What evolution is trained on: the selected rows alone, as sure as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray import UserError
from semievol_ray import ray_session as ray_session_module
from semievol_ray.schema import SELECTION
from semievol_ray.stages import evolve
from semievol_ray.stages.context import Context
from semievol_ray.stages.finetune import Target, training_table
from semievol_ray.stages.rendering import make_renderer
from semievol_ray.store import layout
from tests.stages.ingesting import ingested


def selected(example_id: str, answer: str, distribution: list[float], kept: bool) -> dict[str, Any]:
    blank = {field.name: None for field in SELECTION}
    return blank | {
        "example_id": example_id,
        "pseudo_answer": answer,
        "pseudo_answer_text": answer.upper(),
        "distribution": distribution,
        "n_valid": 1,
        "agreement": 1.0,
        "vote_entropy": 0.0,
        "margin": 1.0,
        "selected": kept,
        "reason": "selected" if kept else "outside_quota",
    }


@pytest.fixture
def context(tmp_path: Path, tiny_model: Path) -> Context:
    rows = "".join(f"u{i},question {i}\n" for i in range(5))
    values = {
        "model": {"name": str(tiny_model), "engine": "transformers"},
        "task": {"kind": "label", "labels": ["red", "blue"]},
        "data": {"shard_rows": 2},
    }
    labeled = "id,question,answer\nl,a label,red\n"
    found = ingested(tmp_path, values, labeled, "id,question\n" + rows)
    name = layout.round_stage(1, "select")
    folder = found.ledger.begin(name, {}, {}).folder
    # Of three shards one has nothing that is trusted.
    chosen = {"u0": ("red", True), "u1": ("blue", False), "u4": ("blue", True)}
    for source in found.shards("unlabeled"):
        ids = found.run.read_table(source)["example_id"].to_pylist()
        rows = [
            selected(i, chosen[i][0], [0.3, 0.7] if chosen[i][0] == "blue" else [0.8, 0.2],
                     chosen[i][1])
            for i in ids
            if i in chosen
        ]  # fmt: skip
        table = pa.Table.from_pylist(
            rows, schema=pa.schema([f.with_nullable(True) for f in SELECTION])
        )
        found.run.write_table(layout.same_shard(source, folder), table)
    return found


def trained_on(context: Context) -> dict[str, dict[str, float]]:
    """Each trained row's candidates with their weights."""
    written = list(evolve.write_selected(context, 1, "into"))
    assert [rows for _, rows in written] == [1, 1]
    rows = [row for name, _ in written for row in context.run.read_table(name).to_pylist()]
    return {
        row["example_id"]: dict(
            zip(map(str.strip, row["candidates"]), row["candidate_weights"], strict=True)
        )
        for row in rows
    }


def test_only_what_was_trusted_is_trained_on_as_it_is_written(context: Context) -> None:
    assert trained_on(context) == {"u0": {"RED": 1.0}, "u4": {"BLUE": 1.0}}


def test_soft_targets_keep_the_doubt(context: Context) -> None:
    soft = context.config.evolve.model_copy(update={"soft_targets": True})
    context.config = context.config.model_copy(update={"evolve": soft})
    found = trained_on(context)
    assert found["u0"] == pytest.approx({"red": 0.8, "blue": 0.2})
    assert found["u4"] == pytest.approx({"red": 0.3, "blue": 0.7})


@pytest.mark.usefixtures("ray_session")
def test_the_same_rows_from_tasks_of_ray(context: Context, monkeypatch) -> None:
    here = trained_on(context)
    monkeypatch.setattr(evolve, "TASK_ROWS", 1)
    monkeypatch.setattr(ray_session_module, "_FEWEST_FOR_RAY", 1)
    assert trained_on(context) == here


def test_nothing_to_train_on_is_one_line(context: Context) -> None:
    with pytest.raises(UserError, match="round 1: no pseudo-answer was selected"):
        evolve.raise_nothing_selected(context, 1)


def test_a_labelled_examples_weight_is_that_of_its_loss(context: Context) -> None:
    labels = context.run.read_table(next(iter(context.shards("labeled"))))
    weights = labels.schema.get_field_index("weight")
    weighed = labels.set_column(
        weights, labels.schema.field(weights), pa.array([0.25], pa.float32())
    )
    for table, expected in ((weighed, 0.25), (labels, 1.0), (labels.drop(["weight"]), 1.0)):
        rows = ((row, Target.hard(row["answer"])) for row in table.to_pylist())
        trained = training_table(context.task, make_renderer(context), rows)
        assert trained["weight"].to_pylist() == [expected]
