"""When a round is rolled back, when rounds end, and which model counts then."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

from semievol_ray.config_file import load_config
from semievol_ray.schema import SELECTION
from semievol_ray.stages import evaluate, guard, select
from semievol_ray.stages.context import Context
from semievol_ray.stages.statistics import mcnemar_worse
from semievol_ray.store import RunDirectory, StageLedger, layout


def test_only_what_is_lost_beyond_chance_rolls_a_round_back() -> None:
    before = [True] * 60 + [False] * 30
    # Nine lost and one won of ten: a coin that falls so or worse once in 93 times.
    after = [False] * 9 + [True] * 52 + [False] * 29
    lost, won, p = mcnemar_worse(before, after)
    assert (lost, won) == (9, 1) and p == pytest.approx((1 + 10) / 2**10)
    verdict = guard.judge(before, after)
    assert not verdict["kept"]
    assert (verdict["labels"], verdict["right_before"], verdict["right_after"]) == (90, 60, 52)
    # Eight of ten come of chance once in 18 times; as many won as lost, and none at all, are none.
    assert guard.judge(before, [False] * 8 + [True] * 54 + [False] * 28)["kept"]
    assert guard.judge(before, after[::-1])["kept"] is (
        mcnemar_worse(before, after[::-1])[2] > 0.05
    )
    assert guard.judge(before, before)["p_worse"] == 1.0
    # Better by however much is no worse.
    assert mcnemar_worse(after, before)[2] == pytest.approx(
        sum(math.comb(10, k) for k in range(10)) / 2**10
    )


@pytest.fixture
def context(tmp_path: Path) -> Context:
    values = {
        "run_dir": str(tmp_path / "run"),
        "model": {"name": "any", "engine": "simulated"},
        "task": {"kind": "label", "labels": ["red", "blue"]},
        "data": {name: str(tmp_path / f"{name}.csv") for name in ("labeled", "unlabeled", "test")},
        "iteration": {"rounds": 3, "guard": True, "mode": "relabel"},
    }
    directory = RunDirectory(values["run_dir"])
    return Context(load_config(values), directory, StageLedger(directory))


def finish(context: Context, stage: str, **statistics: bool) -> None:
    context.ledger.begin(stage, {}, {})
    context.ledger.finish(stage, {}, [], statistics, 0.0)


def test_the_model_that_counts_is_the_last_that_the_guard_let_pass(context: Context) -> None:
    finish(context, "warmup")
    finish(context, "round-1/evolve")
    assert context.accepted_round(3) == 0, "its guard has not spoken"
    finish(context, "round-1/guard", kept=True)
    finish(context, "round-2/evolve")
    assert context.accepted_round(3) == 1
    finish(context, "round-2/guard", kept=False)
    assert context.accepted_round(3) == 1
    found = {name: model.adapter for name, model in evaluate.models(context, 3).items()}
    of = {stage: context.trained(stage).adapter for stage in ("round-1/evolve", "round-2/evolve")}
    assert found == {
        "SemiEvol round 2 rolled back": of["round-2/evolve"],
        "SemiEvol": of["round-1/evolve"],
    }


def test_without_a_guard_the_last_round_counts(context: Context) -> None:
    iteration = context.config.iteration.model_copy(update={"guard": False})
    context.config = context.config.model_copy(update={"iteration": iteration})
    for stage in ("warmup", "round-1/evolve", "round-2/evolve"):
        finish(context, stage)
    assert context.accepted_round(2) == 2
    assert list(evaluate.models(context, 2)) == ["SemiEvol round 1", "SemiEvol"]


def test_rows_that_change_are_those_selected_anew_or_otherwise(context: Context) -> None:
    def write(number: int, chosen: dict[str, tuple[str, bool]]) -> str:
        name = layout.round_stage(number, "select")
        folder = context.ledger.begin(name, {}, {}).folder
        blank = {field.name: None for field in SELECTION}
        rows = [
            blank | {"example_id": i, "pseudo_answer": answer, "selected": kept}
            for i, (answer, kept) in chosen.items()
        ]
        schema = pa.schema([field.with_nullable(True) for field in SELECTION])
        shard = f"{folder}/{layout.shard(0)}"
        context.run.write_table(shard, pa.Table.from_pylist(rows, schema=schema))
        return shard

    before = {"same": ("red", True), "other": ("red", True), "left": ("red", False)}
    first = write(1, before | {"gone": ("red", True)})
    after = {"same": ("red", True), "other": ("blue", True), "left": ("red", True)}
    target = write(2, after | {"gone": ("red", False), "new": ("blue", True)})
    assert select.changed_rows(context.run, first.rpartition("/")[0], target) == 3
