"""How long a response may be: by the labels, and never more than the model's window allows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from semievol_ray.config_file import load_config
from semievol_ray.engines import Sampling
from semievol_ray.progress import Silent
from semievol_ray.stages import generate, ingest
from semievol_ray.stages.context import Context
from semievol_ray.stages.counts import Counts, may_be_lost, tell_cut_off, tell_dropped, tell_lost
from semievol_ray.stages.limits import fit_window, response_tokens
from semievol_ray.stages.run_view import ModelRef
from semievol_ray.store import RunDirectory, StageLedger

LONG = "the committee of the regional water board decided to wait another year"


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def finish(self, stage: str, note: str) -> None:
        self.lines.append(f"{stage}: {note}")


def context_of(
    tmp_path: Path, model: dict[str, Any], task: dict[str, Any], *answers: str
) -> Context:
    (tmp_path / "labeled.csv").write_text(
        "question,answer\n" + "".join(f"question {i},{a}\n" for i, a in enumerate(answers))
    )
    (tmp_path / "unlabeled.csv").write_text("question\nwhat else\n")
    data = {name: str(tmp_path / f"{name}.csv") for name in ("labeled", "unlabeled")}
    run_dir = str(tmp_path / "run")
    config = load_config({"run_dir": run_dir, "model": model, "task": task, "data": data})
    run = RunDirectory(run_dir)
    context = Context(config, run, StageLedger(run), Told())
    context.ledger.begin("ingest", {}, {})
    done = ingest.run(context, 1)
    context.ledger.finish("ingest", done.outputs, (), done.statistics, 0)
    return context


def test_a_limit_follows_from_the_longest_labelled_answer(tmp_path, tiny_model) -> None:
    from transformers import AutoTokenizer

    model = {"name": str(tiny_model), "engine": "transformers"}
    context = context_of(tmp_path, model, {"kind": "text"}, "yes", LONG)
    longest = len(AutoTokenizer.from_pretrained(tiny_model)(LONG)["input_ids"]) + 1
    warm = ModelRef(context.base, "run:warmup/attempt-1/model")
    assert response_tokens(context, warm, "auto") == 2 * longest > 16
    # One that never saw the labels says more than the answer.
    assert response_tokens(context, ModelRef(context.base), "auto") == 2 * longest + 256
    assert response_tokens(context, warm, 5) == 5


def test_every_voter_is_asked_as_it_is_configured(tmp_path, tiny_model) -> None:
    model = {"name": str(tiny_model), "engine": "transformers"}
    context = context_of(tmp_path, model, {"kind": "text"}, "yes", LONG)
    asked = generate.voters(context, lambda name: ModelRef(context.base, name))
    assert [voter.shots for voter in asked] == [0, 1, 2, 3]
    assert {voter.sampling.temperature for voter in asked} == {1.0}
    # A response of theirs has all the room that it may take.
    assert all(v.sampling.needed_tokens == v.sampling.max_tokens for v in asked)
    assert context.turn_end == "\n\n"


def test_short_answers_have_room_all_the_same(tmp_path) -> None:
    model = {"name": "sim", "engine": "simulated"}
    context = context_of(tmp_path, model, {"kind": "label", "labels": ["A", "B"]}, "A", "B")
    full = context.base.model_copy(update={"name": "run:round-1/evolve/attempt-1/model"})
    assert response_tokens(context, ModelRef(full), "auto") == 16


def test_a_response_takes_half_of_the_window_at_most() -> None:
    engine: Any = SimpleNamespace(max_model_len=512)
    assert fit_window(Sampling(0.0, 1.0, 1000), engine) == Sampling(0.0, 1.0, 256)
    assert fit_window(Sampling(0.0, 1.0, 16), engine) == Sampling(0.0, 1.0, 16)


@pytest.mark.parametrize(("cut_off", "warned"), [(0, False), (1, False), (2, True)])
def test_many_responses_that_are_cut_off_are_said(tmp_path, cut_off, warned) -> None:
    context: Any = SimpleNamespace(progress=Told())
    tell_cut_off(
        context.progress, "generate", Counts(rows=100, cut_off=cut_off), "generation.max_tokens"
    )
    said = [line for line in context.progress.lines if "2.0%" in line and "generation.max" in line]
    assert len(said) == len(context.progress.lines) == warned
    tell_cut_off(context.progress, "generate", Counts(), "generation.max_tokens")


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (Counts(rows=1000, unparsed=100), []),
        (Counts(rows=1000, failed=1), ["1 of 1,000 requests stayed without an answer"]),
        (Counts(rows=1000, unparsed=101), ["10.1% of the replies hold no answer"]),
        (Counts(rows=10, failed=5, unparsed=2), ["5 of 10 requests", "20.0% of the replies"]),
        (Counts(), []),
    ],
)
def test_answers_that_are_lost_are_said(counts, said) -> None:
    told = Told()
    tell_lost(told, "generate", counts, "warm")
    assert len(told.lines) == bool(said)
    assert all(part in told.lines[0] for part in ["generate: warning: warm: ", *said] if said)


def test_demonstrations_without_room_are_said() -> None:
    told = Told()
    tell_dropped(told, "generate", Counts(rows=9))
    assert told.lines == []
    tell_dropped(told, "generate", Counts(rows=9, dropped_demonstrations=1200))
    (line,) = told.lines
    assert "warning: 1,200 demonstrations found no room" in line


def test_a_voter_that_loses_its_answers_is_not_hidden_by_the_others() -> None:
    assert may_be_lost(Counts(rows=400, unparsed=11), voters=4)
    assert not may_be_lost(Counts(rows=400, unparsed=10), voters=4)
