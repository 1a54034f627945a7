"""Messages to prompt text, through the model's chat template or as plain text.

One rule holds everywhere: `tokenizer(prompt)` with its usual special tokens gives exactly what
the model is shown, in training and in generation alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semievol_ray.engines.protocol import Message

# In the fingerprint of every stage that makes prompts or reads answers: whoever changes what this
# package makes of the same task raises it. tests/tasks/test_prompts_version.py notices.
PROMPTS_VERSION = 1


class PromptRenderer:
    """Renders messages for one tokenizer."""

    def __init__(self, tokenizer: Any, use_chat_template: str = "auto") -> None:
        has_template = bool(getattr(tokenizer, "chat_template", None))
        self.tokenizer = tokenizer
        self.chat = use_chat_template == "always" or (use_chat_template == "auto" and has_template)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt whose continuation is the assistant's next answer."""
        if not self.chat:
            return plain_text(messages)
        text: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        # The template writes the BOS token that the tokenizer then adds again.
        bos = self.tokenizer.bos_token
        if bos and text.startswith(bos) and self._adds_bos():
            text = text.removeprefix(bos)
        return text

    def count_tokens(self, prompt: str) -> int:
        """Length of a prompt in tokens, special ones included."""
        return len(self.tokenizer(prompt)["input_ids"])

    def _adds_bos(self) -> bool:
        ids = self.tokenizer("")["input_ids"]
        return bool(ids) and ids[0] == self.tokenizer.bos_token_id


def plain_text(messages: Sequence[Message]) -> str:
    """Messages as text for a model without a chat template: answers follow questions on a line."""
    parts: list[str] = []
    for message in messages:
        if message["role"] == "assistant":
            parts[-1] += completion_text(message["content"], chat=False)
        else:
            parts.append(message["content"])
    return "\n\n".join(parts)


def completion_text(answer: str, *, chat: bool) -> str:
    """What follows the prompt: after plain text a space separates it from the colon."""
    return answer if chat else f" {answer}"
