"""How the base model, and what is trained from it, is asked: in training as in generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from semievol_ray.errors import UserError
from semievol_ray.model_files import load_tokenizer
from semievol_ray.tasks import PromptRenderer

if TYPE_CHECKING:
    from semievol_ray.stages.run_view import RunView


def make_renderer(view: RunView) -> PromptRenderer:
    """The renderer of the base model's own tokenizer."""
    if not view.base.is_local:
        raise UserError(
            f"model.engine: a model behind the {view.base.engine} engine cannot be fine-tuned; "
            "name it under `models` and let it collaborate, beside a local base model"
        )
    task = view.task
    return PromptRenderer(
        load_tokenizer(view.base),
        task.use_chat_template,
        day=task.day,
        options=view.base.chat_template_kwargs,
    )
