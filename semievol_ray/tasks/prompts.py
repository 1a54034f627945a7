"""Messages to prompt text, through the model's chat template or as plain text.

How that text becomes token ids is `tokens.Tokens`' to say, in training and in generation alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from semievol_ray.chat_template import ChatTemplate
from semievol_ray.engines.protocol import Message
from semievol_ray.tokens import Tokens

# In the fingerprint of every stage that makes prompts or reads answers: whoever changes what this
# package makes of the same task raises it. tests/tasks/test_prompts_version.py notices.
PROMPTS_VERSION = 2
# In plain text: what follows an answer where another question does.
BETWEEN_TURNS = "\n\n"


class PromptRenderer:
    """Renders messages for one tokenizer; null: a model behind an endpoint, which has its own.

    `day` and `options` are what the chat template is given (`ChatTemplate`); with `thinks` the
    model is to think before it answers. Raises UserError for a chat template that is wanted and
    not there.
    """

    def __init__(
        self,
        tokenizer: Any,
        use_chat_template: str = "auto",
        *,
        day: str | None = None,
        options: Mapping[str, Any] | None = None,
        thinks: bool = False,
    ) -> None:
        has_template = bool(getattr(tokenizer, "chat_template", None))
        self.tokenizer, self.thinks, self.options = tokenizer, thinks, options or {}
        self.chat = tokenizer is not None and (
            use_chat_template == "always" or (use_chat_template == "auto" and has_template)
        )
        self._template = ChatTemplate(tokenizer, day=day, options=options) if self.chat else None

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt whose continuation is the assistant's next answer.

        Raises UserError, quoting the template, where it refuses the messages.
        """
        if self._template is None:
            return plain_text(messages)
        if self.thinks:
            return self._template.before_thought(messages)
        return self._template.before_answer(messages)

    def completion(self, answer: str) -> str:
        """An answer as it follows the prompt."""
        if self._template is None:
            return plain_completion(answer)
        _, space, _ = self._template.around
        return f"{space}{answer}"

    def count_tokens(self, prompt: str) -> int:
        """Length of a prompt in tokens, special ones included."""
        return len(Tokens(self.tokenizer).prompts([prompt], [self.chat])[0])


def plain_text(messages: Sequence[Message]) -> str:
    """Messages as text for a model without a chat template: answers follow questions on a line."""
    parts: list[str] = []
    for message in messages:
        if message["role"] == "assistant":
            parts[-1] += plain_completion(message["content"])
        else:
            parts.append(message["content"])
    return BETWEEN_TURNS.join(parts)


def plain_completion(answer: str) -> str:
    """What follows a plain prompt: a space separates it from the colon."""
    return f" {answer}"
