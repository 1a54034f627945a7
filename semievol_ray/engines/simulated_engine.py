"""Engine that only pretends: a seeded model of latency, response length and failure.

For planning fleets and for exercising everything around an engine without one. A request's
response is a function of its prompt and seed alone. `engine_options`:

    choices         texts that it answers with, drawn uniformly       (default A B C D)
    median_tokens   median of the lognormal response length           (default 1)
    sigma           shape of that lognormal                           (default 0: no spread)
    tokens_per_second   speed of one request; 0 takes no time         (default 0)
    failure_rate    share of requests refused with "engine_error"     (default 0)
    poison          a prompt that holds one of these texts kills the process (default none)
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
from typing import Any

import pyarrow as pa

from semievol_ray.config import ModelConfig
from semievol_ray.engines.protocol import (
    GENERATION,
    SCORES,
    Engine,
    Request,
    Sampling,
    failed_generation,
)
from semievol_ray.errors import UserError

_DEFAULTS: dict[str, Any] = {
    "choices": ("A", "B", "C", "D"),
    "median_tokens": 1,
    "sigma": 0.0,
    "tokens_per_second": 0.0,
    "failure_rate": 0.0,
    "poison": (),
}


class SimulatedEngine(Engine):
    """See the module's docstring."""

    tokenizer = None

    def __init__(self, model: ModelConfig, **_: Any) -> None:
        unknown = model.engine_options.keys() - _DEFAULTS.keys()
        if unknown:
            raise UserError(
                f"model.engine_options: the simulated engine has no {', '.join(sorted(unknown))}; "
                f"known: {', '.join(_DEFAULTS)}"
            )
        self.options = _DEFAULTS | model.engine_options
        self.max_model_len = model.max_model_len or 2**20

    async def generate(
        self, requests: list[Request], sampling: Sampling, adapter: str | None = None
    ) -> pa.Table:
        """See Engine.generate."""
        rows = await asyncio.gather(*(self._generate(r, sampling) for r in requests))
        return pa.Table.from_pylist(rows, schema=GENERATION)

    async def score(
        self,
        requests: list[Request],
        candidates: list[list[str]],
        adapter: str | None = None,
        *,
        closed: bool = False,
    ) -> pa.Array:
        """See Engine.score: log-probabilities of a random distribution, seeded by the request."""
        rows = []
        for request, row in zip(requests, candidates, strict=True):
            dice = random.Random(f"score\0{request.seed}")
            weights = [dice.random() + 1e-3 for _ in row]
            rows.append([math.log(weight / sum(weights)) for weight in weights])
        return pa.array(rows, SCORES)

    async def close(self) -> None:
        """See Engine.close."""

    async def _generate(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        options = self.options
        if any(text in request.prompt for text in options["poison"]):
            os.kill(os.getpid(), signal.SIGKILL)
        dice = random.Random(request.seed)
        prompt_tokens = len(request.prompt.split())
        if prompt_tokens + sampling.max_tokens > self.max_model_len:
            return failed_generation("prompt_too_long", prompt_tokens)
        if dice.random() < options["failure_rate"]:
            return failed_generation("engine_error", prompt_tokens)
        length = options["median_tokens"] * math.exp(options["sigma"] * dice.gauss(0, 1))
        tokens = min(max(1, round(length)), sampling.max_tokens)
        if options["tokens_per_second"]:
            await asyncio.sleep(tokens / options["tokens_per_second"])
        return {
            "text": dice.choice(options["choices"]),
            "finish_reason": "stop" if tokens < sampling.max_tokens else "length",
            "prompt_tokens": prompt_tokens,
            "tokens": tokens,
            "token_logprobs": [math.log(dice.random() + 1e-9) for _ in range(tokens)],
        }
