"""What a classifier is fitted to: all labels, all but those held out, or what was selected too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from semievol_ray import pipeline
from semievol_ray.config_file import load_config
from semievol_ray.schema import SELECTION
from semievol_ray.selection import hash_ids
from semievol_ray.stages.context import Context
from semievol_ray.stages.known_answers import (
    _drawn,
    from_selections,
    known_answers,
    some_questions,
)
from semievol_ray.stages.run_view import RunView
from semievol_ray.store import StageLedger, layout

ROWS = 200
LABELS = [("a label", "red"), ("another", "blue"), ("a third", "red"), ("a fourth", "blue")]


@pytest.fixture
def values(tmp_path: Path) -> dict:
    labels = "".join(f"l{i},{text},{answer}\n" for i, (text, answer) in enumerate(LABELS))
    (tmp_path / "labeled.csv").write_text("id,question,answer\n" + labels)
    rows = "".join(f"u{i},question {i}\n" for i in range(ROWS))
    (tmp_path / "unlabeled.csv").write_text("id,question\n" + rows)
    return {
        "run_dir": str(tmp_path / "run"),
        "model": {"name": "any", "engine": "simulated"},
        "task": {"kind": "label", "labels": ["red", "blue"]},
        "data": {
            "labeled": str(tmp_path / "labeled.csv"),
            "unlabeled": str(tmp_path / "unlabeled.csv"),
            "columns": {"id": "id"},
            "shard_rows": 64,
        },
        "calibration": {"share": 0.5},
        "iteration": {"rounds": 3, "mode": "relabel", "refit": True},
        "collaborators": [{"model": "probe"}, {"model": "warm"}],
    }


def begun(values: dict) -> Context:
    """A run whose two first rounds selected even rows as red, and every third one as blue."""
    directory = pipeline.run(load_config(values), until="ingest")
    context = Context(load_config(values), directory, StageLedger(directory))
    for number, step, answer in ((1, 2, "red"), (2, 3, "blue")):
        name = layout.round_stage(number, "select")
        folder = context.ledger.begin(name, {}, {}).folder
        outputs, count = {}, 0
        for source in context.shards("unlabeled"):
            ids = directory.read_table(source)["example_id"].to_pylist()
            blank = {field.name: None for field in SELECTION}
            rows = [
                blank
                | {
                    "example_id": i,
                    "pseudo_answer": answer,
                    "selected": int(i[1:]) % step == 0,
                }
                for i in ids
            ]
            schema = pa.schema([field.with_nullable(True) for field in SELECTION])
            target = layout.same_shard(source, folder)
            outputs[target] = directory.write_table(target, pa.Table.from_pylist(rows, schema))
            count += sum(row["selected"] for row in rows)
        context.ledger.finish(name, outputs, [], {"reasons": {"selected": count}}, 0.0)
    return context


def expected(step: int, answer: str) -> list[tuple[str, str]]:
    return [(f"question {i}", answer) for i in range(0, ROWS, step)]


def test_a_later_round_shows_a_classifier_what_the_one_before_selected(values) -> None:
    context = begun(values)
    assert known_answers(context, context.model("probe", 1).base) == LABELS
    held_out = known_answers(context, context.held_out_model("probe").base)
    assert len(held_out) == 2 and set(held_out) < set(LABELS)
    second = known_answers(context, context.model("probe", 2).base)
    assert sorted(second) == sorted(LABELS + expected(2, "red"))
    third = known_answers(context, context.model("probe", 3).base)
    assert sorted(third) == sorted(LABELS + expected(3, "blue"))


def test_what_was_mined_before_stays(values) -> None:
    values["iteration"]["mode"] = "mine"
    context = begun(values)
    third = known_answers(context, context.model("probe", 3).base)
    assert len(third) == len(LABELS) + len({i for i in range(ROWS) if not (i % 2 and i % 3)})


def test_unless_asked_for_a_classifier_knows_the_labels_alone(values) -> None:
    values["iteration"]["refit"] = False
    context = begun(values)
    assert known_answers(context, context.model("probe", 3).base) == LABELS


def test_of_many_rows_a_part_is_drawn(values) -> None:
    context = begun(values)
    drawn = from_selections(context, [1], most=30)
    assert 15 <= len(drawn) <= 50 and set(drawn) < set(expected(2, "red"))
    assert drawn == from_selections(context, [1], most=30)


def test_what_was_selected_by_its_hash_is_drawn_anew() -> None:
    ids = pa.array([f"e{i}" for i in range(2000)])
    hashes = hash_ids(ids).to_numpy()
    for half in (hashes > np.median(hashes), hashes < np.median(hashes)):
        selected = pa.table({"example_id": ids.filter(pa.array(half))})
        assert 60 < pc.sum(_drawn(selected, 0.1)).as_py() < 140


def test_what_learns_from_the_corpus_is_shown_a_part_of_it(values, monkeypatch) -> None:
    values["collaborators"].append({"model": "propagation"})
    context = begun(values)
    asked = context.model("propagation", 2).base
    everything = [f"question {i}" for i in range(ROWS)]
    assert sorted(some_questions(context, asked)) == sorted(everything)
    assert some_questions(context, context.model("probe", 2).base) == []
    fitted = asked.model_copy(update={"name": layout.reference("round-1/classifiers/x")})
    assert some_questions(context, fitted) == []
    monkeypatch.setattr("semievol_ray.stages.known_answers.MOST_QUESTIONS", 50)
    drawn = some_questions(context, asked)
    assert 30 <= len(drawn) <= 70 and set(drawn) < set(everything)
    assert drawn == some_questions(context, asked)
    # Of some of the shards alone: every other one of the four.
    monkeypatch.setattr("semievol_ray.stages.known_answers._MOST_SHARDS", 2)
    monkeypatch.setattr("semievol_ray.stages.known_answers.MOST_QUESTIONS", ROWS)
    shards = [*context.shards("unlabeled")][::2]
    tables = [context.run.read_table(name)["question"].to_pylist() for name in shards]
    assert some_questions(context, asked) == [text for table in tables for text in table]


def test_labels_that_a_model_was_trained_without_stay_held_out() -> None:
    labeled = pa.table({"example_id": ["a", "b", "c"], "answer": ["x", "y", "x"]})
    learnt = "holdout/attempt-1/examples/labeled/shard-00000.parquet"
    done = SimpleNamespace(state="done", outputs={learnt: 2})
    view: Any = SimpleNamespace(
        labeled=labeled,
        ledger=SimpleNamespace(get=lambda name: done if name == "holdout" else None),
        run=SimpleNamespace(read_table=lambda *_: labeled.slice(0, 2)),
    )
    # Whatever a later version would draw.
    assert RunView.held_out.func(view) == {"c"}
