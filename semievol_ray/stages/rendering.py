"""How models are asked: a renderer of prompts, and messages as requests and candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from semievol_ray.engines import Batch, Message, Request
from semievol_ray.errors import UserError
from semievol_ray.model_files import load_tokenizer
from semievol_ray.tasks import PromptRenderer, Task

if TYPE_CHECKING:
    from semievol_ray.stages.run_view import RunView

# Of the best option's probability: what is less likely moves no probability by more than this.
_NEGLIGIBLE = 1e-4


def make_renderer(view: RunView) -> PromptRenderer:
    """The renderer of the base model's own tokenizer, for training as for generation."""
    if not view.base.is_local:
        raise UserError(
            f"model.engine: a model behind the {view.base.engine} engine cannot be fine-tuned; "
            "name it under `models` and let it collaborate, beside a local base model"
        )
    task = view.task
    return PromptRenderer(
        load_tokenizer(view.base.name, view.base.revision, view.base.trust_remote_code),
        task.use_chat_template,
        day=task.day,
        options=view.base.chat_template_kwargs,
    )


def make_request(renderer: PromptRenderer, messages: list[Message], seed: int) -> Request:
    """Messages as a request to be continued."""
    return Request(
        renderer.render(messages),
        seed,
        tuple(messages),
        chat=renderer.chat,
        options=renderer.options,
    )


def scored(
    batch: Batch,
    renderer: PromptRenderer,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    *,
    exactly: bool = False,
) -> Batch:
    """The batch with the answers of a closed task as candidates.

    Unless `exactly`, what is too unlikely to count is known roughly.
    """
    candidates = [[renderer.completion(c) for c in task.candidates(row)] for row in rows]
    # One label may begin another ("card", "card lost"): there the end of the text counts too.
    negligible = 0.0 if exactly else _NEGLIGIBLE
    closed = task.kind == "label"
    return replace(batch, candidates=candidates, closed=closed, negligible=negligible)
