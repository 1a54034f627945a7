"""Tokens drawn from logits, each request from a stream of its own.

`model.generate` draws a whole batch from one stream, so that a response would depend on its
neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from semievol_ray.engines.protocol import Sampling


def uniforms_of(seeds: Sequence[int], tokens: int) -> npt.NDArray[np.float64]:
    """All the randomness of some requests, in [0, 1): (requests, tokens)."""
    return np.stack([np.random.Generator(np.random.Philox(s)).random(tokens) for s in seeds])


def draw(logprobs: Any, sampling: Sampling, uniforms: Any) -> Any:
    """One token a row [rows, vocabulary] -> [rows], by inverting the cumulative distribution."""
    import torch

    if sampling.temperature == 0:
        return logprobs.argmax(dim=-1)
    probabilities = torch.softmax(logprobs.double() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        ordered = ordered.masked_fill(before >= sampling.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(1, order, ordered)
    cumulative = probabilities.cumsum(dim=-1)
    wanted = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, wanted, right=True)[:, 0].clamp(
        max=logprobs.shape[-1] - 1
    )
