"""Responses as they are kept: what votes, and what is trained on."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray.config import ModelConfig, TaskConfig
from semievol_ray.engines import GENERATION, Request, Sampling
from semievol_ray.stages.answering import ResolvedCollaborator, ending_its_turn, respond
from semievol_ray.stages.counts import count_responses
from semievol_ray.stages.evolve import target_of
from semievol_ray.stages.predictions import _argmax
from semievol_ray.stages.run_view import ModelRef
from semievol_ray.tasks import PromptRenderer, Task
from tests.tasks.chat_models import make_tokenizer


def responses(config: dict[str, Any], said: list[tuple[str | None, str]]) -> pa.Table:
    task = Task.from_config(TaskConfig(**config))
    examples = pa.table(
        {
            "example_id": [f"e{i}" for i in range(len(said))],
            "options": pa.array([["yes", "no"]] * len(said), pa.list_(pa.string())),
        }
    )
    written = pa.Table.from_pylist(
        [
            {"text": text, "finish_reason": reason, "prompt_tokens": 5, "tokens": 2,
             "token_logprobs": [-0.1, -0.2]}
            for text, reason in said
        ],
        schema=GENERATION,
    )  # fmt: skip
    requests = [Request("?", seed) for seed in range(len(said))]
    return respond(task, examples, "warm", requests, written, None)


def test_in_plain_text_a_response_ends_where_the_next_example_would_begin(tiny_model) -> None:
    model = ModelRef(ModelConfig(name=str(tiny_model)))
    sampling = Sampling(1.0, 1.0, 9, stop=("###",))
    plain, chat = (PromptRenderer(make_tokenizer("smollm2"), use) for use in ("never", "always"))
    job: Any = SimpleNamespace(turn_end="\n\n")

    def stops(shots: int, renderer: PromptRenderer, job: Any = job, **more: Any) -> tuple[str, ...]:
        voter = replace(ResolvedCollaborator.of("base", model, shots, sampling), **more)
        return ending_its_turn(job, voter, renderer).sampling.stop

    assert stops(2, plain) == ("###", "\n\n")
    # Nothing is shown; a chat has ends of its own; an endpoint's template is its own affair.
    assert stops(0, plain) == stops(2, chat) == stops(2, PromptRenderer(None)) == ("###",)
    # A thought has blank lines, and so may an answer.
    assert stops(2, plain, thinks=True) == ("###",)
    assert stops(2, plain, SimpleNamespace(turn_end=None)) == ("###",)


def test_a_thought_has_room_beside_the_least_that_an_answer_needs(tiny_model) -> None:
    model = ModelRef(ModelConfig(name=str(tiny_model), thinking_tokens=50))
    voter = ResolvedCollaborator.of("base", model, 0, Sampling(0, 1, 100, least_tokens=16))
    assert (voter.sampling.max_tokens, voter.sampling.needed_tokens) == (150, 66)


@pytest.mark.parametrize(
    ("config", "text", "votes_as", "trained_on"),
    [
        ({"kind": "text"}, " The United States.\n", "united states", "The United States."),
        ({"kind": "text"}, "Line one,\nline two", "line one line two", "Line one,\nline two"),
        ({"kind": "numeric"}, "The change is 14.1%.", "0.141", "14.1%"),
        ({"kind": "numeric"}, "5 million dollars", "5", "5 million dollars"),
        ({"kind": "numeric", "decimal_mark": ","}, "es sind 3,50 €", "3.5", "3,50"),
        ({"kind": "text", "answer_pattern": "Answer: (.*)"}, "So. Answer: A Cat", "cat", "A Cat"),
        ({"kind": "multiple_choice"}, "It is (b).", "B", "B"),
        ({"kind": "label", "labels": ["Yes", "No"]}, "no, never", "No", "No"),
        ({"kind": "numeric"}, "none at all", None, None),
    ],
)
def test_votes_are_canonical_and_training_is_verbatim(
    config: dict[str, Any], text: str, votes_as: str | None, trained_on: str | None
) -> None:
    (row,) = responses(config, [(text, "stop")]).to_pylist()
    assert (row["answer"], row["answer_text"]) == (votes_as, trained_on)


def test_an_open_answer_that_was_cut_off_is_no_vote() -> None:
    for config, text in (({"kind": "text"}, "the United"), ({"kind": "numeric"}, "it is 12")):
        table = responses(config, [(text, "length"), (text, "stop"), (None, "engine_error")])
        assert table["answer"].is_valid().to_pylist() == [False, True, False]
        assert table["answer_text"].is_valid().to_pylist() == [False, True, False]
        counts = count_responses(table)
        assert (counts.cut_off, counts.failed, counts.unparsed) == (1, 1, 1)


def test_an_option_named_before_the_cut_is_a_vote() -> None:
    table = responses({"kind": "multiple_choice"}, [("B, because of the", "length")])
    assert table["answer"].to_pylist() == ["B"]


def test_evolution_trains_on_the_answer_as_written() -> None:
    selected = {"pseudo_answer": "0.141", "pseudo_answer_text": "14.1%", "distribution": None}
    target = target_of(None, {}, selected, soft=False)  # type: ignore[arg-type]
    assert target.candidates == ["14.1%"]


def test_no_option_is_made_up_where_none_is_known() -> None:
    assert _argmax([-2.0, -1.0]) == 1
    assert _argmax([-float("inf")] * 2) is None and _argmax(None) is None
