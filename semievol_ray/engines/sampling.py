"""Tokens drawn from logits, each request from a stream of its own.

`model.generate` draws a whole batch from one stream, so that a response would depend on its
neighbours. Penalties, temperature, min_p, top_k and top_p come in vLLM's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from semievol_ray.engines.candidates import Tokens, branches
from semievol_ray.engines.protocol import Sampling


def uniforms_of(seeds: Sequence[int], tokens: int) -> npt.NDArray[np.float64]:
    """All the randomness of some requests, in [0, 1): (requests, tokens)."""
    return np.stack([np.random.Generator(np.random.Philox(s)).random(tokens) for s in seeds])


class Sampler:
    """Draws the responses to one batch of prompts, one token of each at a time.

    `choices` are for each prompt the tokens of the texts that its response must be one of, their
    end included; null: it may be any.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        choices: Sequence[Sequence[Tokens]] | None,
        device: Any,
    ) -> None:
        import torch

        self._sampling, self._prompts, self._step = sampling, prompts, 0
        self._uniforms = torch.from_numpy(uniforms_of(seeds, sampling.max_tokens)).to(device)
        self._branches = None if choices is None else [branches(row) for row in choices]
        self._written: list[list[int]] = [[] for _ in prompts]

    def draw(self, logits: Any) -> Any:
        """The next token of each response [rows, vocabulary] -> [rows]."""
        logits = logits.float()
        if self._sampling.penalises:
            logits = self._penalised(logits)
        if self._branches is not None:
            logits = self._guided(logits)
        tokens = draw(logits, self._sampling, self._uniforms[:, self._step])
        self._step += 1
        for row, token in zip(self._written, tokens.tolist(), strict=True):
            row.append(token)
        return tokens

    def _penalised(self, logits: Any) -> Any:
        import torch

        sampling, counts = self._sampling, torch.zeros_like(logits)
        for row, written in enumerate(self._written):
            ids = torch.tensor(written, dtype=torch.long, device=logits.device)
            counts[row].scatter_add_(0, ids, torch.ones_like(ids, dtype=counts.dtype))
        seen = counts > 0
        for row, prompt in enumerate(self._prompts):
            seen[row, list(prompt)] = True
        factor = torch.where(logits > 0, 1 / sampling.repetition_penalty,
                             sampling.repetition_penalty)  # fmt: skip
        logits = torch.where(seen, logits * factor, logits)
        presence = sampling.presence_penalty * (counts > 0)
        return logits - sampling.frequency_penalty * counts - presence

    def _guided(self, logits: Any) -> Any:
        import torch

        allowed = torch.ones_like(logits, dtype=torch.bool)
        for row, written in enumerate(self._written):
            following = (self._branches or ())[row].get(tuple(written))
            if following is not None:  # else the response is over
                allowed[row] = False
                allowed[row, following] = True
        return logits.masked_fill(~allowed, -torch.inf)


def draw(logits: Any, sampling: Sampling, uniforms: Any) -> Any:
    """One token a row [rows, vocabulary] -> [rows], by inverting the cumulative distribution."""
    import torch

    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.max(dim=-1, keepdim=True).values
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    if sampling.top_p < 1 or sampling.top_k is not None:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        if sampling.top_k is not None:
            ordered[:, sampling.top_k :] = 0.0
        before = ordered.cumsum(dim=-1) - ordered
        total = ordered.sum(dim=-1, keepdim=True)
        ordered = ordered.masked_fill(before >= sampling.top_p * total, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(1, order, ordered)
    cumulative = probabilities.cumsum(dim=-1)
    wanted = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, wanted, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
