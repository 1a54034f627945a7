"""Collaborators that can write nothing but an option."""

from __future__ import annotations

import asyncio

import pytest

from semievol_ray import UserError, load_config, pipeline
from semievol_ray.config import ModelConfig, TaskConfig
from semievol_ray.engines import Request, Sampling
from semievol_ray.engines.transformers_engine import TransformersEngine
from semievol_ray.stages.answering import ResolvedCollaborator, ShardJob, ask
from semievol_ray.stages.asked_of_task import check_asked
from semievol_ray.store import RunDirectory
from semievol_ray.tasks import Task
from tests.engines.asking import options
from tests.stages.ingesting import ingest, write_jsonl

LABELS = ["returns", "technical", "billing"]


@pytest.mark.parametrize("scored", [False, True])
def test_every_response_of_a_guided_voter_is_a_label(tiny_model, tmp_path, scored) -> None:
    model = ModelConfig(name=str(tiny_model), engine="transformers")
    task = Task.from_config(TaskConfig(kind="label"), LABELS)
    rows = [{"question": f"parcel {i}", "options": None} for i in range(12)]
    requests = [Request(f"nonsense {i}\nQuite free:", i) for i in range(12)]

    def answers(guided: bool) -> list[str]:
        voter = ResolvedCollaborator("v", model, None, 0, Sampling(1.0, 1.0, 12), guided=guided)
        job = ShardJob(RunDirectory(str(tmp_path)), task, (voter,), 0, score_options=scored)
        engine = TransformersEngine(model, options())
        generated, scores = asyncio.run(ask(engine, job, voter, rows, requests))
        assert (scores is not None) == scored
        return [text.strip() for text in generated["text"].to_pylist()]

    assert set(answers(True)) <= set(LABELS)
    assert not set(answers(False)) <= set(LABELS), "they would all have been labels anyway"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"collaborators": [{"guided": True}]}, "guided needs a closed-answer task, not text"),
        ({"collaborators": [{"model": "probe"}]}, "probe needs a closed-answer task, not text"),
        (
            {"task": {"kind": "label"}, "collaborators": [{"model": "probe"}],
             "generation": {"score_options": False}},
            "probe needs generation.score_options",
        ),
        ({"collaborators": [{"model": "base", "pmi": True}]}, "pmi needs a closed-answer task"),
        (
            {"task": {"kind": "label"}, "collaborators": [{"model": "base", "pmi": True}],
             "generation": {"score_options": False}},
            "pmi needs generation.score_options",
        ),
        ({"selection": {"policy": "stacked"}}, "policy: stacked needs a closed-answer task"),
        (
            {"task": {"kind": "label"}, "selection": {"policy": "risk"},
             "generation": {"score_options": False}},
            "policy: risk needs generation.score_options",
        ),
        (
            {"task": {"kind": "label"}, "selection": {"policy": "risk"},
             "iteration": {"rounds": 2}},
            "risk promises of the voters that answered the held-out labels",
        ),
    ],
)  # fmt: skip
def test_what_needs_options_is_refused_before_anything_is_paid_for(
    tmp_path, sections, said
) -> None:
    row = {"text": "a", "label": "b"}
    files = (write_jsonl(tmp_path / "l.jsonl", row), write_jsonl(tmp_path / "u.jsonl", row))
    with pytest.raises(UserError, match=said):
        ingest(tmp_path, *files, **({"task": {"kind": "text"}} | sections))


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"variant": "dora"}, "variant: dora is served by the engine transformers alone"),
        ({"options": {"use_dora": True}}, "options: use_dora is served by"),
        ({"options": {"init_lora_weights": "pissa"}}, "pissa gives no adapter of the stored base"),
    ],
)
def test_an_adapter_that_is_not_served_is_refused_before_it_is_trained(
    tmp_path, monkeypatch, lora, said
) -> None:
    row = {"text": "a", "label": "b"}
    labeled = write_jsonl(tmp_path / "l.jsonl", row)
    files = labeled, write_jsonl(tmp_path / "u.jsonl", {"text": "another"})
    sections = {"task": {"kind": "text"}, "training": {"lora": lora}}
    monkeypatch.setattr("semievol_ray.engines.importlib.util.find_spec", lambda name: name)
    with pytest.raises(UserError, match=said):
        ingest(tmp_path, *files, **sections)
    if "pissa" not in said:
        monkeypatch.setattr("semievol_ray.engines.importlib.util.find_spec", lambda name: None)
        ingest(tmp_path, *files, **sections)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"selection": {"policy": "risk"}}, "it takes iteration.rounds: 1, and no continues"),
        ({"iteration": {"guard": True}}, "the model that this run continues from has learnt"),
    ],
)
def test_what_an_earlier_run_taught_is_judged_by_no_label(sections, said) -> None:
    task = {"kind": "label", "labels": ["a", "b"]}
    config = load_config(
        {"run_dir": "run", "continues": "earlier", "model": {"name": "m"}, "task": task,
         "data": {"labeled": "l.csv", "unlabeled": "u.csv"}} | sections
    )  # fmt: skip
    with pytest.raises(UserError, match=said):
        check_asked(config, Task.from_config(config.task))


def test_a_run_that_has_read_its_files_is_held_to_what_it_asks_later(tmp_path) -> None:
    labeled = write_jsonl(tmp_path / "l.jsonl", {"text": "a", "label": "b"})
    unlabeled = write_jsonl(tmp_path / "u.jsonl", {"text": "another"})
    run = ingest(tmp_path, labeled, unlabeled, task={"kind": "label", "labels": ["b", "c"]})
    asked = run.config(("selection.policy=risk", "iteration.rounds=2"))
    with pytest.raises(UserError, match="risk promises of the voters"):
        pipeline.run(asked, until="warmup")
