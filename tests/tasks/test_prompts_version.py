"""Work that was done under other prompts is not gone on with: their version is in fingerprints."""

from __future__ import annotations

from semievol_ray.config import TaskConfig
from semievol_ray.store import digest
from semievol_ray.tasks import PROMPTS_VERSION, TASK_PRESETS, PromptRenderer, Task
from semievol_ray.tasks.prompts import plain_completion
from tests.tasks.chat_models import CHAT_MODELS, make_tokenizer

EXAMPLE = {"example_id": "e", "question": "Which one?", "context": "A page.", "subject": "s",
           "options": ["one", "two", "three"], "answer": "B"}  # fmt: skip
SHOWN = EXAMPLE | {"example_id": "f", "question": "And this?", "answer": "C"}

# What the version stands for. Whoever changes a prompt raises PROMPTS_VERSION and this with it.
KNOWN = {2: "45381c49cae4e43e"}


def prompts() -> list[object]:
    found: list[object] = []
    kinds = [TaskConfig(kind=k) for k in ("multiple_choice", "label", "numeric", "text")]
    for config in [*kinds, *(TaskConfig(preset=name) for name in TASK_PRESETS)]:
        task = Task.from_config(config, ["A", "B", "C"])
        found.append(task.messages(EXAMPLE, [SHOWN]))
        found.append(task.justify_messages(EXAMPLE, ["A", "B", "B"]))
    for name in CHAT_MODELS:
        renderer = PromptRenderer(make_tokenizer(name), day="2026-03-09")
        found += [renderer.render(found[0]), renderer.completion("B")]
    return [*found, plain_completion("B")]


def test_a_changed_prompt_has_a_new_version() -> None:
    assert KNOWN.get(PROMPTS_VERSION) == digest(prompts()), (
        "the prompts have changed: raise PROMPTS_VERSION in semievol_ray/tasks/prompts.py, "
        f"and note {digest(prompts())} for it here"
    )
