"""What is tried where the labels are asked for a training's settings, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray import UserError
from semievol_ray.config import ModelConfig, TrainingConfig, TuningConfig, given
from semievol_ray.config_file import load_config
from semievol_ray.pipeline import steps
from semievol_ray.progress import Silent
from semievol_ray.stages import tune
from semievol_ray.stages.run_view import RunView, held_out_ids, label_folds
from semievol_ray.stages.stage import Outcome
from semievol_ray.stages.tune import Try, epochs_of, folds_of, rates_of, search
from semievol_ray.store import RunDirectory, StageLedger
from semievol_ray.touches import of_result
from semievol_ray.training import Diverged
from semievol_ray.training.batches import total_steps
from tests.stages.ingesting import Heard, labels

AUTO = TrainingConfig(learning_rate="auto", epochs="auto")


def config_with(**sections: Any):
    values = {"run_dir": "r", "model": {"name": "m"}, "data": {"labeled": "a", "unlabeled": "b"}}
    return load_config(values | sections)


def tried(right: dict[tuple[float, float], float]) -> tuple[Try, list[tuple[float, float]]]:
    """Search where each setting has so many right; the settings in the order they were tried."""
    rates = sorted({rate for rate, _ in right})
    epochs = sorted({number for _, number in right})

    def measure(rate: float, number: float) -> Try:
        return Try(rate, number, right[rate, number], loss=1.0)

    best, tries = search(measure, rates, epochs)
    return best, [(t.learning_rate, t.epochs) for t in tries]


def test_the_best_rate_gets_more_epochs_while_they_help() -> None:
    right = {(1, 3): 0.5, (2, 3): 0.7, (3, 3): 0.6, (2, 6): 0.8, (2, 12): 0.8, (2, 24): 0.9}
    right |= {(rate, n): 0.0 for rate in (1, 3) for n in (6, 12, 24)}
    best, order = tried(right)
    assert order == [(1, 3), (2, 3), (3, 3), (2, 6), (2, 12)]
    assert (best.learning_rate, best.epochs) == (2, 6)


def test_a_longer_training_that_harms_ends_the_search() -> None:
    best, order = tried({(1, 3): 0.9, (1, 6): 0.8, (1, 12): 1.0})
    assert order == [(1, 3), (1, 6)] and best.epochs == 3


def test_among_as_many_right_answers_the_likelier_ones_count() -> None:
    first = Try(1, 3, 0.5, loss=1.0)
    assert replace(first, loss=0.5).score > first.score > replace(first, exact_match=0.4).score
    assert replace(first, exact_match=0.0, loss=9.0).score > Try(1, 3, 0.0, None).score


@pytest.mark.parametrize(
    ("labels", "settings", "folds"),
    [(24, {}, 3), (250, {}, 2), (452, {}, 2), (500, {}, 1), (10_000, {}, 1), (24, {"folds": 1}, 1)],
)
def test_few_labels_are_judged_by_several_folds(labels: int, settings, folds: int) -> None:
    assert folds_of(labels, TuningConfig(**settings)) == folds


def test_what_is_given_is_not_tried() -> None:
    tuning = TuningConfig()
    assert len(rates_of(AUTO, tuning)) == 3 and epochs_of(AUTO, tuning) == [3, 6, 12, 24]
    given = TrainingConfig(learning_rate=1e-3, epochs="auto")
    assert rates_of(given, tuning) == (1e-3,) and len(epochs_of(given, tuning)) == 4
    assert epochs_of(TrainingConfig(learning_rate="auto"), tuning) == [2]
    few = TuningConfig(first_epochs=2, most_epochs=7, learning_rates=(0.5,))
    assert rates_of(AUTO, few) == (0.5,) and epochs_of(AUTO, few) == [2, 4]


def test_folds_hold_the_same_share_of_each_class_and_no_label_twice() -> None:
    labeled = labels([f"e{i}" for i in range(100)], ["a"] * 60 + ["b"] * 40)
    folds = label_folds(labeled, 0.2, 3)
    assert len(frozenset().union(*folds)) == 60 == sum(map(len, folds))
    answers = dict(zip(*(labeled[c].to_pylist() for c in ("example_id", "answer")), strict=True))
    assert all(sum(answers[name] == "a" for name in fold) == 12 for fold in folds)
    assert held_out_ids(labeled, 0.2) == set(folds[0])


def test_labels_that_ask_the_same_are_in_one_fold() -> None:
    table = labels([f"e{i}" for i in range(100)], ["a"] * 60 + ["b"] * 40)
    twins = {f"e{i}" for i in range(40, 80)}
    asked = [f"of {i % 10}" if f"e{i}" in twins else f"own {i}" for i in range(100)]
    asks_the_same = table.set_column(1, table.schema.field("question"), pa.array(asked))
    folds = label_folds(asks_the_same, 0.2, 3)
    for fold in folds:
        judged = {asked[int(name[1:])] for name in fold}
        assert fold == {f"e{i}" for i in range(100) if asked[i] in judged}
    assert len(frozenset().union(*folds)) == sum(map(len, folds))
    # The other labels are where they are without them.
    before = label_folds(table, 0.2, 3)
    assert [fold - twins for fold in folds] == [fold - twins for fold in before]


def test_a_run_has_the_stage_only_where_something_is_left_to_the_labels() -> None:
    def names(**sections: Any) -> list[str]:
        return [step.name for step in steps(config_with(**sections))]

    assert "tune" not in names()
    auto = {"training": {"learning_rate": "auto"}}
    assert names(**auto)[:3] == ["ingest", "tune", "warmup"]
    given = {"warmup": {"training": {"learning_rate": 1e-3}}}
    assert "tune" not in names(**auto, **given)
    found = {step.name: step.inputs for step in steps(config_with(**auto))}
    assert "tune" in found["warmup"] and "tune" in found["round-1/evolve"]
    # Nothing of it is in the fingerprints of runs that leave nothing to the labels.
    assert of_result(TrainingConfig())["learning_rate"] == 1e-4


def view_of(tmp_path, **sections: Any) -> RunView:
    """A run whose labels were found to need rate 3e-4 and 12 epochs; there are 100."""
    config = config_with(run_dir=str(tmp_path / "run"), **sections)
    run = RunDirectory(config.run_dir)
    run.mark()
    view = RunView(config, run, StageLedger(run))
    view.ledger.begin("tune", {}, {}, ("*",))
    chosen = {"learning_rate": 3e-4, "epochs": 12.0}
    view.ledger.finish("tune", {}, (), {"chosen": chosen}, 1.0)
    view.__dict__["labeled"] = pa.table({"example_id": [str(i) for i in range(100)]})
    return view


@pytest.mark.parametrize(
    ("examples", "epochs"),
    [(None, 12), (104, 12), (208, 6), (312, 4), (416, 3), (10**6, 3)],
)
def test_an_evolution_takes_the_labels_steps_and_three_epochs_at_least(
    tmp_path, examples: int | None, epochs: float
) -> None:
    view = view_of(tmp_path, training={"learning_rate": "auto", "epochs": "auto"})
    found = view.training_for("evolve", examples)
    assert (found.learning_rate, found.epochs) == (3e-4, epochs)
    assert view.training_for("warmup", examples).epochs == 12


@pytest.mark.parametrize(("batch", "examples"), [(64, 10), (64, 70), (8, 200), (8, 101)])
def test_an_evolution_takes_as_many_steps_where_batches_are_not_full(
    tmp_path, batch: int, examples: int
) -> None:
    training = {"learning_rate": "auto", "epochs": "auto", "global_batch_size": batch}
    view = view_of(tmp_path, training=training)
    epochs = given(view.training_for("evolve", examples).epochs)
    assert total_steps(examples, batch, epochs) == total_steps(100, batch, 12.0)


def test_an_evolution_of_larger_batches_takes_as_many_of_them(tmp_path) -> None:
    view = view_of(
        tmp_path,
        training={"learning_rate": "auto", "epochs": "auto"},
        evolve={"training": {"global_batch_size": 32}},
    )
    epochs = given(view.training_for("evolve", 200).epochs)
    assert total_steps(200, 32, epochs) == total_steps(100, 8, 12.0)


def test_what_one_stage_is_given_stays(tmp_path) -> None:
    view = view_of(
        tmp_path,
        training={"learning_rate": "auto", "epochs": "auto"},
        evolve={"training": {"epochs": 5}},
    )
    found = view.training_for("evolve", 400)
    assert (found.learning_rate, found.epochs) == (3e-4, 5)


def test_an_evolution_left_open_takes_what_the_warm_up_is_given(tmp_path) -> None:
    view = view_of(
        tmp_path,
        training={"learning_rate": 1e-3, "epochs": 4},
        evolve={"training": {"learning_rate": "auto", "epochs": "auto"}},
    )
    found = view.training_for("evolve", 200)
    assert (found.learning_rate, found.epochs) == (1e-3, 3)


@pytest.mark.parametrize(
    ("tuning", "said"),
    [
        ({"most_epochs": 1}, "most_epochs (1) is less than first_epochs (3)"),
        ({"folds": 6}, "6 folds of 0.2 are more than all labels"),
        ({"share": 0}, "tuning.share"),
        ({"learning_rates": []}, "tuning.learning_rates"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(tuning, said: str) -> None:
    with pytest.raises(UserError) as refused:
        config_with(tuning=tuning)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_folds_count_by_their_labels_and_what_diverges_is_worst(monkeypatch) -> None:
    def finetune(*_: Any, training: TrainingConfig, validation: list[str], **more: Any) -> Outcome:
        if training.learning_rate == 9:
            raise Diverged("the loss is nan")
        right, loss = {"a": (1.0, 0.1), "b": (0.5, 0.3)}[validation[0]]
        return Outcome({}, {"held_out_exact_match": right, "held_out_loss": loss})

    monkeypatch.setattr(tune, "finetune", finetune)
    context: Any = SimpleNamespace(
        config=config_with(),
        base=ModelConfig(name="m"),
        progress=Silent(),
        identity=lambda folder: folder,
        run=SimpleNamespace(delete_owned=lambda *_: None),
    )
    judge = tune._Judge(context, "tune", [tune._Fold([], ["a"], 30), tune._Fold([], ["b"], 10)])
    found = judge(1, 3)
    assert found.exact_match == pytest.approx(0.875) and found.loss == pytest.approx(0.15)
    assert judge(9, 3) == Try(9, 3, 0.0, None)


def test_labels_that_judge_later_choose_nothing(tmp_path, monkeypatch) -> None:
    learnt: list[frozenset[str]] = []

    def write_labeled(context: Any, place: str, without: frozenset[str], **_: Any) -> list[str]:
        learnt.append(ids - without)
        return []

    monkeypatch.setattr(tune, "write_labeled", write_labeled)
    monkeypatch.setattr(tune, "search", lambda *_: (best := Try(1, 3, 0.5, 1.0), [best]))
    view = view_of(
        tmp_path,
        training={"learning_rate": "auto"},
        tuning={"folds": 2},
        iteration={"guard": True},
    )
    ids = frozenset(f"e{i}" for i in range(50))
    labeled = labels(sorted(ids), ["a"] * 50)
    context: Any = SimpleNamespace(
        config=view.config, labeled=labeled, held_out=held_out_ids(labeled, 0.2),
        folder=lambda name: name, progress=Silent(), run=SimpleNamespace(),
    )  # fmt: skip
    outcome = tune.run(context, 1)
    assert len(context.held_out) == 10 and outcome.statistics["judged"] == 16
    assert not any(part & context.held_out for part in learnt)
    trained, judged = learnt[0], learnt[1]
    assert len(trained) == 32 and len(judged) == 8 and not trained & judged


@pytest.mark.parametrize("right", [0.0, 0.1])
def test_a_search_without_a_right_answer_says_so(tmp_path, monkeypatch, right: float) -> None:
    monkeypatch.setattr(tune, "write_labeled", lambda *_, **__: [])
    monkeypatch.setattr(
        tune._Judge, "__call__", lambda _, rate, number: Try(rate, number, right, 1 / number)
    )
    view, heard = view_of(tmp_path, training={"epochs": "auto"}), Heard()
    labeled = labels([f"e{i}" for i in range(50)], ["a"] * 50)
    context: Any = SimpleNamespace(
        config=view.config, labeled=labeled, held_out=frozenset(),
        folder=lambda name: name, progress=heard, run=SimpleNamespace(),
    )  # fmt: skip
    outcome = tune.run(context, 1)
    assert outcome.statistics["chosen"]["epochs"] == 24
    said = [line for line in heard.lines if "no setting has a single held-out label right" in line]
    assert len(said) == (right == 0)


@pytest.mark.parametrize(("right", "told"), [(0.5, True), (0.56, True), (0.7, False)])
def test_a_model_that_has_learnt_no_more_than_the_most_frequent_answer_is_told(
    tmp_path, monkeypatch, right: float, told: bool
) -> None:
    monkeypatch.setattr(tune, "write_labeled", lambda *_, **__: [])
    monkeypatch.setattr(
        tune._Judge, "__call__", lambda _, rate, number: Try(rate, number, right, 1 / number)
    )
    view, heard = view_of(tmp_path, training={"epochs": "auto"}), Heard()
    answers = ["a"] * 100 + ["b"] * 60 + ["c"] * 40
    labeled = labels([f"e{i}" for i in range(200)], answers)
    context: Any = SimpleNamespace(
        config=view.config, labeled=labeled, held_out=frozenset(),
        folder=lambda name: name, progress=heard, run=SimpleNamespace(),
    )  # fmt: skip
    tune.run(context, 1)
    said = [line for line in heard.lines if "the answer 'a' to every question would have" in line]
    assert len(said) == told and all("50.0 %" in line for line in said)
