"""An engine of one's own: it says the first word of what it is asked."""

from __future__ import annotations

from semievol_ray.config import ModelConfig
from semievol_ray.engines import Batch, Engine, Replies
from semievol_ray.engines.protocol import EngineOptions, Row


class EchoEngine(Engine):
    """No weights, no tokenizer, no end."""

    tokenizer = None
    max_model_len = 1 << 20

    def __init__(self, model: ModelConfig, options: EngineOptions) -> None:
        self.prefix = model.engine_options.get("prefix", "")

    async def answer(self, batch: Batch) -> Replies:
        """See Engine.answer."""
        self.beats += len(batch.requests)
        return Replies.of(
            batch, map(self._reply, (r.messages[-1]["content"] for r in batch.requests))
        )

    def _reply(self, prompt: str) -> Row:
        said = {"text": self.prefix + prompt.split()[0], "finish_reason": "stop",
                "prompt_tokens": len(prompt.split()), "tokens": 1,
                "token_logprobs": [-1.0]}  # fmt: skip
        return said, None

    async def close(self) -> None:
        """See Engine.close."""
