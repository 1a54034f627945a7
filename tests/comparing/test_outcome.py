"""The table of a comparison against counting by hand, and which arms a task has."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs

from semievol_ray.cli import main
from semievol_ray.comparing import sharing
from semievol_ray.comparing.arms import ARMS
from semievol_ray.comparing.compare import (
    beside,
    checked,
    compare,
    folder_of,
    usual,
    with_references,
)
from semievol_ray.comparing.compare import config_of as arm_config
from semievol_ray.comparing.outcome import Cost, Outcome, as_json, as_markdown, as_text
from semievol_ray.config import Config
from semievol_ray.config_file import load_config
from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.pipeline import steps
from semievol_ray.results import Run
from semievol_ray.stages.evaluate import references
from semievol_ray.store import RunDirectory, StageLedger, longer_uri
from tests.report.making import make_run


def config_with(kind: str = "label", **sections: Any) -> Config:
    values: dict[str, Any] = {"run_dir": "r", "model": {"name": "m"}, "task": {"kind": kind}}
    values["data"] = {"labeled": "l", "unlabeled": "u", "test": "t"}
    return load_config(values | sections)


def predictions(right: str, ids: str = "abcdefghij") -> pa.Table:
    rows = list(zip(ids, (digit == "1" for digit in right), strict=True))
    # In whatever order the shards have them.
    return pa.table(
        {"example_id": [i for i, _ in rows[::-1]], "correct": [c for _, c in rows[::-1]]}
    )


@pytest.fixture
def outcome() -> Outcome:
    found = Outcome(task="fpb")
    cost = Cost(60.0, 1000, 0.5)
    for seed, (sft, paper, most) in enumerate(
        [("1111100000", "1111111000", "1111111110"), ("1111000000", "1110110000", "1111111100")]
    ):
        for arm, right in (("sft", sft), ("paper", paper), ("all-labels", most)):
            found.add(arm, seed, predictions(right), cost)
    return found


def test_each_arm_against_sft_by_hand(outcome: Outcome) -> None:
    sft, paper, most = outcome.rows()
    assert sft["against_sft"] is None and sft["accuracy"] == pytest.approx(45)
    against = paper["against_sft"]
    assert paper["by_seed"] == pytest.approx([70, 50])
    assert against["differences"] == pytest.approx([20, 10]) and against["mean"] == pytest.approx(
        15
    )
    assert (against["only_second_right"], against["only_first_right"]) == (4, 1)
    # Student's t of one degree of freedom: 12.706 standard errors of 5.
    assert against["high"] - against["mean"] == pytest.approx(12.706 * 5, rel=1e-3)
    # All labels gain 40 points on either seed.
    assert most["against_sft"]["mean"] == pytest.approx(40)
    assert paper["gap_share"] == pytest.approx(15 / 40) and most["gap_share"] is None
    assert paper["published"] == {"Llama-3.1-8B": 96.2, "GPT-4o-mini": 98.9}


def test_the_table_says_it_in_every_form(outcome: Outcome) -> None:
    text = as_text(outcome).splitlines()
    assert len(text) == 4 and text[0].startswith("arm") and "37 %" in text[2]
    columns = {line.index(" 1,000 ") for line in text[1:]}
    assert len(columns) == 1
    page = as_markdown(outcome).splitlines()
    assert all(line.count("|") == page[0].count("|") for line in page)
    document = as_json(outcome)
    assert document["right"]["paper"]["1"] == "1110110000"
    assert [row["arm"] for row in document["arms"]] == ["sft", "paper", "all-labels"]


def test_other_test_rows_are_refused(outcome: Outcome) -> None:
    with pytest.raises(SemiEvolError, match="its test rows are others"):
        outcome.add("paper", 2, predictions("1111100000", "abcdefghiX"), Cost(1, 1, 0))


def test_one_seed_has_no_interval_over_seeds() -> None:
    found = Outcome()
    for arm, right in (("sft", "1100000000"), ("config", "1111000000")):
        found.add(arm, 0, predictions(right), Cost(1, 1, 0))
    assert "over seeds" not in as_text(found) and "published" not in as_text(found)
    assert found.rows()[1]["against_sft"]["low"] is None


@pytest.mark.parametrize("name", [n for n, arm in ARMS.items() if arm.changes is not None])
def test_every_arm_that_is_a_run_is_a_config(name: str) -> None:
    found = arm_config(config_with(), ARMS[name], 7, "elsewhere")
    assert (found.run_dir, found.seed) == ("elsewhere", 7)
    assert steps(found)


def test_an_arm_without_warm_voters_has_none() -> None:
    found = arm_config(config_with(), ARMS["no-iwp"], 0, "x")
    # Its pseudo-answers are scored by the warm model, which the arm says.
    assert "round-1/score" in [step.name for step in steps(found)]
    assert "still the warm model's" in ARMS["no-iwp"].says
    assert [(c.model, c.shots) for c in found.collaborators] == [("base", n) for n in range(4)]
    assert [c.shots for c in arm_config(config_with(), ARMS["no-icp"], 0, "x").collaborators] == [
        0
    ] * 4
    assert len(arm_config(config_with(), ARMS["no-cl"], 0, "x").collaborators) == 1


def test_another_policys_options_do_not_follow_into_an_arm() -> None:
    config = config_with(selection={"policy": "risk", "options": {"alpha": 0.1}})
    assert arm_config(config, ARMS["paper"], 0, "x").selection.options == {}
    assert arm_config(config, ARMS["config"], 0, "x").selection.options == {"alpha": 0.1}


def test_how_many_rows_one_policy_trusts_is_not_how_many_another_should() -> None:
    config = config_with("label", selection={"policy": "stacked", "percentile": 100},
                       evolve={"soft_targets": True})  # fmt: skip
    paper = arm_config(config, ARMS["paper"], 0, "r")
    assert paper.selection.percentile == 50 and not paper.evolve.soft_targets
    balanced = arm_config(config, ARMS["balanced"], 0, "r")
    assert balanced.selection.percentile == 50 and balanced.evolve.soft_targets
    same = arm_config(config, ARMS["stacked"], 0, "r")
    assert same.selection.percentile == 100 and same.evolve.soft_targets


def test_arms_lie_in_the_store_and_not_in_its_parameters() -> None:
    config = config_with("label", run_dir="s3://b/runs/x?region=eu&scheme=http")
    assert folder_of(config) == "s3://b/runs/x-compare?region=eu&scheme=http"
    assert longer_uri("runs/what?/", "/seed-0") == "runs/what?/seed-0"


def test_a_copy_that_was_cut_short_counts_for_nothing(tmp_path: Path, monkeypatch) -> None:
    donor = make_run(tmp_path / "made").run
    config = load_config(
        donor.config().model_dump(mode="json") | {"run_dir": str(tmp_path / "own")}
    )
    copied, whole = [], fs.copy_files

    def interrupted(source: str, *more: Any, **options: Any) -> None:
        if source.endswith("/manifests"):
            raise KeyboardInterrupt
        copied.append(source)
        whole(source, *more, **options)

    monkeypatch.setattr(sharing.fs, "copy_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sharing.begin_from([donor.directory], config)
    target = RunDirectory(str(tmp_path / "own"))
    assert copied and not StageLedger(target).all()
    monkeypatch.setattr(sharing.fs, "copy_files", whole)
    sharing.begin_from([donor.directory], config)
    assert sharing.steps_done(target, config) == sharing.steps_done(donor.directory, config) >= 1
    assert Run(target.uri).examples("unlabeled").equals(donor.examples("unlabeled"))


def test_the_usual_arms_are_those_that_the_task_has() -> None:
    assert usual(config_with("numeric")) == ["vanilla", "sft", "config", "paper"]
    assert "tfidf-lr" in usual(config_with()) and "balanced" in usual(config_with())


@pytest.mark.parametrize(
    ("arms", "kind", "message"),
    [
        (["papr"], "label", "'papr' is none; there are config, vanilla"),
        (["balanced"], "numeric", "balanced is for tasks of the kind label or multiple_choice"),
        (["embedder-lr"], "label", "embedder-lr is tfidf-lr where"),
    ],
)
def test_an_arm_that_cannot_be_had_is_one_line(arms, kind: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        checked(config_with(kind), arms)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_embedders_own_reference_is_asked_where_the_embedder_is() -> None:
    where = {"embedder": "openai", "model": "m", "base_url": "http://e/v1", "api_key_env": "E_KEY"}
    config = with_references(config_with(retrieval=where), ["embedder-lr"])
    (reference,) = config.evaluation.references
    assert reference.model_dump() == where
    (probe,) = references(config).values()
    assert probe.base.engine_options == where


def test_work_that_fails_does_not_take_others_with_it() -> None:
    def work(name: str) -> str:
        if name == "b":
            raise UserError("b fails")
        return name.upper()

    found = beside({name: partial(work, name) for name in "abcd"}, 2)
    assert [f.exception() is None and f.result() for f in found.values()] == ["A", False, "C", "D"]


def test_without_a_test_set_nothing_is_compared(tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("run_dir: r\nmodel: {name: m}\ntask: {kind: label}\n"
                    "data: {labeled: l, unlabeled: u}\n")  # fmt: skip
    assert main(["compare", str(path)]) == 2
    assert "data.test" in capsys.readouterr().err


def test_a_run_that_continues_another_has_no_arms() -> None:
    data = {"labeled": "l.csv", "unlabeled": "u.csv", "test": "t.csv"}
    config = load_config(
        {"run_dir": "runs/b", "continues": "runs/a", "model": {"name": "m"}, "data": data}
    )
    with pytest.raises(UserError, match="leave `continues` out"):
        compare(config)
