"""A model's own chat template: the prompt before an answer, and how it ends an answer.

Both are read off the template itself: a conversation that ends with an assistant's answer is
rendered, and cut where that answer begins. So a prompt holds whatever the template writes before an
answer (a system prompt of its own, an empty thought, the channel of a final answer), and a model
that is trained and asked with it sees what its template shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import Any

from semievol_ray.errors import UserError

# Stands for an answer; no template has a rule of its own for it.
_ANSWER = "ANSWER-c0ffee"
_QUESTION = [{"role": "user", "content": "Q"}]
# What templates that tell a day are given where nobody asks which.
_SOME_DAY = "2025-01-01"


class ChatTemplate:
    """The template of one tokenizer; `options` are variables of it, as its model card names them.

    `day` (YYYY-MM-DD) is what templates that write today's date write: a run's prompts may not
    change at midnight. Raises UserError where the tokenizer has no template.
    """

    def __init__(
        self, tokenizer: Any, *, day: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self._tokenizer, self._options = tokenizer, options or {}
        self._day = date.fromisoformat(day or _SOME_DAY)
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "task.use_chat_template: always, but the tokenizer of "
                f"{tokenizer.name_or_path} has no chat template"
            )

    def before_answer(self, messages: Sequence[Mapping[str, object]]) -> str:
        """The prompt that an answer follows at once, without a thought.

        A space that the template writes before an answer is the answer's (`around`): tokenizers
        make one token of it and the first word.
        """
        return self._parts(messages)[0].rstrip(" ")

    def before_thought(self, messages: Sequence[Mapping[str, object]]) -> str:
        """The prompt that the model is to go on from as it likes: with a thought, if it has any."""
        return self._render(messages, add_generation_prompt=True, enable_thinking=True)

    @cached_property
    def around(self) -> tuple[str, str, str]:
        """Of a short conversation what is before its answer, the answer's space, what is after."""
        head, tail = self._parts(_QUESTION)
        before = head.rstrip(" ")
        return before, head[len(before) :], tail

    def _parts(self, messages: Sequence[Mapping[str, object]]) -> tuple[str, str]:
        answered = [*messages, {"role": "assistant", "content": _ANSWER}]
        text = self._render(answered, add_generation_prompt=False, enable_thinking=False)
        head, found, tail = text.rpartition(_ANSWER)
        if not found:
            raise self._refusal("it leaves out the assistant's answer")
        return head, tail

    def _render(self, messages: Sequence[Mapping[str, object]], **how: bool) -> str:
        import jinja2

        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                **({"strftime_now": self._day.strftime} | dict(self._options) | how),
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise self._refusal(" ".join(str(error).split())) from None
        return text

    def _refusal(self, reason: str) -> UserError:
        return UserError(
            f"{self._tokenizer.name_or_path}: its chat template does not render the prompts: "
            f"{reason}; see model.chat_template_kwargs, or set task.use_chat_template: never"
        )
