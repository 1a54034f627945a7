"""Engine that only pretends: a seeded model of latency, response length and failure.

For planning fleets and for exercising everything around an engine without one. A request's
response is a function of its prompt and seed alone. Time is that of continuous batching: a request
takes the first of `slots` that falls free, in the order in which requests came, and holds it for
its tokens. `engine_options`:

    choices         texts that it answers with, drawn uniformly       (default A B C D)
    median_tokens   median of the lognormal response length           (default 1)
    sigma           shape of that lognormal                           (default 0: no spread)
    tokens_per_second   speed of one slot; 0 takes no time            (default 0)
    slots           requests that are answered at once                (default 256)
    failure_rate    share of requests refused with "engine_error"     (default 0)
    poison          a prompt that holds one of these texts kills the process (default none)
"""

from __future__ import annotations

import asyncio
import heapq
import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol_ray.config import ModelConfig
from semievol_ray.engines.protocol import (
    GENERATION,
    SCORES,
    Batch,
    Engine,
    EngineOptions,
    Replies,
    Request,
    Sampling,
)
from semievol_ray.errors import UserError

_DEFAULTS: dict[str, Any] = {
    "choices": ("A", "B", "C", "D"),
    "median_tokens": 1,
    "sigma": 0.0,
    "tokens_per_second": 0.0,
    "slots": 256,
    "failure_rate": 0.0,
    "poison": (),
}
# Which draw of a request's stream is for what; the tokens' own come last.
_FAILS, _CHOICE, _NORMAL, _SCORES, _TOKENS = 0, 1, 2, 1 << 20, 1 << 32


class SimulatedEngine(Engine):
    """See the module's docstring."""

    tokenizer = None

    def __init__(self, model: ModelConfig, options: EngineOptions) -> None:
        unknown = model.engine_options.keys() - _DEFAULTS.keys()
        if unknown:
            raise UserError(
                f"model.engine_options: the simulated engine has no {', '.join(sorted(unknown))}; "
                f"known: {', '.join(_DEFAULTS)}"
            )
        self.options = _DEFAULTS | model.engine_options
        self.max_model_len = model.max_model_len or 2**20
        self._free_at = [0.0] * self.options["slots"]

    async def answer(self, batch: Batch) -> Replies:
        """See Engine.answer."""
        sampling, candidates = batch.sampling, batch.candidates
        generated = None if sampling is None else await self._generate(batch.requests, sampling)
        scores = None if candidates is None else _score(batch.requests, candidates)
        return Replies(generated, scores)

    async def close(self) -> None:
        """See Engine.close."""

    async def _generate(self, requests: Sequence[Request], sampling: Sampling) -> pa.Table:
        options = self.options
        poison = options["poison"]
        if poison and any(text in r.prompt for r in requests for text in poison):
            os.kill(os.getpid(), signal.SIGKILL)
        seeds = np.array([r.seed for r in requests], np.uint64)
        prompt_tokens = np.array([len(r.prompt.split()) for r in requests], np.int32)
        too_long = prompt_tokens + sampling.needed_tokens > self.max_model_len
        most = np.minimum(self.max_model_len - prompt_tokens, sampling.max_tokens).clip(1)
        failed = too_long | (_uniform(seeds, _FAILS) < options["failure_rate"])
        radius = np.sqrt(-2 * np.log(_uniform(seeds, _NORMAL)))
        normal = radius * np.cos(2 * np.pi * _uniform(seeds, _NORMAL + 1))
        length = np.rint(options["median_tokens"] * np.exp(options["sigma"] * normal))
        tokens = np.where(failed, 0, length.clip(1, most)).astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(tokens)]).astype(np.int32)
        step = np.arange(offsets[-1], dtype=np.uint64) - np.repeat(offsets[:-1], tokens).astype(
            np.uint64
        )
        logprobs = np.log(_uniform(np.repeat(seeds, tokens), _TOKENS + step)).astype(np.float32)
        choice = (_uniform(seeds, _CHOICE) * len(options["choices"])).astype(np.int64)
        reason = np.where(tokens < most, "stop", "length")
        reason = np.where(too_long, "prompt_too_long", np.where(failed, "engine_error", reason))
        await self._pass_time(tokens)
        self.answered += len(requests)
        return pa.table(
            {
                "text": pa.array(options["choices"], pa.string()).take(
                    pa.array(choice, mask=failed)
                ),
                "finish_reason": pa.array(reason, pa.string()),
                "prompt_tokens": prompt_tokens,
                "tokens": tokens,
                "token_logprobs": pa.ListArray.from_arrays(
                    pa.array(offsets), pa.array(logprobs), mask=pa.array(failed)
                ),
                "rationale": pa.nulls(len(requests), pa.string()),
                "rationale_logprobs": pa.nulls(len(requests), SCORES),
            },
            schema=GENERATION,
        )

    async def _pass_time(self, tokens: npt.NDArray[np.int32]) -> None:
        """Wait until the slots have been through so many tokens, a request after the other."""
        speed = self.options["tokens_per_second"]
        if not speed or not len(tokens):
            return
        now = asyncio.get_running_loop().time()
        last = now
        for seconds in (tokens / speed).tolist():
            end = max(self._free_at[0], now) + seconds
            heapq.heapreplace(self._free_at, end)
            last = max(last, end)
        # In pieces, so that it can be seen to be at work.
        while (left := last - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, 0.5))
            self.beats += 1


def _score(requests: Sequence[Request], candidates: Sequence[Sequence[str]]) -> pa.Array:
    """Log-probabilities of a random distribution over each row's candidates, by its seed."""
    counts = np.array([len(row) for row in candidates], np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    seeds = np.repeat(np.array([r.seed for r in requests], np.uint64), counts)
    index = (np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)).astype(np.uint64)
    weights = _uniform(seeds, _SCORES + index)
    totals = np.add.reduceat(weights, offsets[:-1]) if len(weights) else weights
    scores = np.log(weights / np.repeat(totals, counts)).astype(np.float32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(scores)).cast(SCORES)


def _uniform(seeds: npt.NDArray[np.uint64], draw: Any) -> npt.NDArray[np.float64]:
    """In (0, 1]: SplitMix64 of each seed's stream at a draw's number."""
    with np.errstate(over="ignore"):
        x = seeds * np.uint64(0xD1342543DE82EF95) + np.asarray(draw, np.uint64)
        x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) + 1.0) / 2.0**53
