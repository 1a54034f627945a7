"""Who thinks, with how much room, and that what is trained is asked as it was trained."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa
import pytest

from semievol_ray import UserError, load_config
from semievol_ray.config import Collaborator, ModelConfig, TaskConfig
from semievol_ray.engines import GENERATION, Request, Sampling
from semievol_ray.engines.protocol import failed_generation
from semievol_ray.stages.answering import ResolvedCollaborator, make_request, renderer_for, respond
from semievol_ray.stages.finetune import Target, training_table
from semievol_ray.stages.rendering import make_renderer
from semievol_ray.stages.run_view import ModelRef
from semievol_ray.tasks import Task
from tests.tasks.chat_models import CHAT_MODELS, make_tokenizer

TASK = Task.from_config(TaskConfig(preset="mmlu", day="2026-03-09"))
EXAMPLE = {"example_id": "e", "question": "Which?", "options": ["Paris", "Rome"], "answer": "B"}
SAMPLING = Sampling(1.0, 1.0, 16)


def prompt(tokenizer, voter) -> str:
    engine = SimpleNamespace(tokenizer=tokenizer)
    return make_request(renderer_for(engine, TASK, voter), TASK.messages(EXAMPLE), 0).prompt


@pytest.mark.parametrize("name", CHAT_MODELS)
def test_training_and_generation_show_one_prompt(name, tmp_path, monkeypatch) -> None:
    tokenizer = make_tokenizer(name)
    base = ModelConfig(name="m", thinking_tokens=64, chat_template_kwargs={"a": "b"})
    monkeypatch.setattr("semievol_ray.stages.rendering.load_tokenizer", lambda *_: tokenizer)
    renderer = make_renderer(SimpleNamespace(task=TASK, base=base))
    taught = training_table(TASK, renderer, [(EXAMPLE, Target.hard("B"))]).to_pylist()[0]
    warm = ResolvedCollaborator.of("warm", ModelRef(base, "adapter"), 0, SAMPLING)
    assert prompt(tokenizer, warm) == taught["prompt"] and taught["chat"]
    assert not warm.thinks and warm.sampling == SAMPLING
    # A base model that does not think is asked in the same way.
    quiet = ResolvedCollaborator.of(
        "base", ModelRef(base), 0, SAMPLING, Collaborator(model="base", thinking_tokens=0)
    )
    assert prompt(tokenizer, quiet) == taught["prompt"]
    thinks = ResolvedCollaborator.of("base", ModelRef(base), 0, SAMPLING)
    assert thinks.thinks and thinks.sampling.max_tokens == 16 + 64
    if name in ("qwen3", "deepseek-r1-distill", "gpt-oss"):
        assert prompt(tokenizer, thinks) != taught["prompt"]


def test_a_collaborators_own_word_goes_before_its_models() -> None:
    base = ModelConfig(name="m", thinking_tokens=64, chat_template_kwargs={"effort": "low"})
    own = Collaborator(model="base", thinking_tokens=8, chat_template_kwargs={"effort": "high"})
    voter = ResolvedCollaborator.of("x", ModelRef(base), 0, SAMPLING, own)
    assert (voter.template_kwargs, voter.sampling.max_tokens) == ({"effort": "high"}, 24)
    tokenizer = make_tokenizer("gpt-oss")
    tokenizer.chat_template = tokenizer.chat_template.replace("reasoning_effort", "effort")
    assert "Reasoning: high" in prompt(tokenizer, voter)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"name": "m", "chat_template_kwargs": {"enable_thinking": True}}},
         "enable_thinking is true, and thinking_tokens is 0: a thought needs room"),
        ({"collaborators": [{"model": "base", "thinking_tokens": 9,
                             "chat_template_kwargs": {"enable_thinking": False}}]},
         "enable_thinking is false, and thinking_tokens is 9"),
        ({"collaborators": [{"model": "warm", "thinking_tokens": 9}]},
         "asked as it was trained, without a thought"),
    ],
)  # fmt: skip
def test_a_thought_without_room_and_a_warm_model_that_thinks_are_refused(values, message) -> None:
    given = {"run_dir": "r", "model": {"name": "m"}, "data": {"labeled": "a", "unlabeled": "b"}}
    with pytest.raises(UserError, match=message):
        load_config(given | values)


def test_only_what_follows_the_thought_is_a_vote() -> None:
    rows = [
        {"text": "B", "rationale": "A? The answer is A.", "rationale_logprobs": [-3.0, -2.0],
         "token_logprobs": [-0.5], "tokens": 3},
        {"text": None, "rationale": "The answer is A.", "rationale_logprobs": [-1.0], "tokens": 1},
    ]  # fmt: skip
    rows = [failed_generation("stop") | {"finish_reason": "stop"} | row for row in rows]
    examples = pa.table({"example_id": ["e", "f"], "options": [["Paris", "Rome"]] * 2})
    asked = [Request("?", 0), Request("?", 1)]
    table = respond(TASK, examples, "base", asked, pa.Table.from_pylist(rows, GENERATION), None)
    assert table["answer"].to_pylist() == ["B", None]
    assert table["token_logprobs"].to_pylist() == [[-0.5], None]
    assert table["rationale"].to_pylist() == [row["rationale"] for row in rows]
    assert table["rationale_logprobs"].to_pylist() == [[-3.0, -2.0], [-1.0]]
