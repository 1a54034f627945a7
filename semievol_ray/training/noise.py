"""NEFTune: uniform noise on the embeddings that a model is trained on (arXiv 2310.05914)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from semievol_ray.training.batches import MicroBatch

if TYPE_CHECKING:
    from torch import nn


class EmbeddingNoise:
    """Adds to each embedded token, in training alone, noise of up to alpha / sqrt(L d).

    L are the tokens of the token's own sequence, d the size of its embedding. `enter_pass` says
    before each pass what the sequences are. The noise comes from torch's generator, which the loop
    seeds at every step.
    """

    def __init__(self, embeddings: nn.Module, alpha: float) -> None:
        self._alpha = alpha
        self._lengths = torch.ones(1)
        embeddings.register_forward_hook(self._add)

    def enter_pass(self, batch: MicroBatch) -> None:
        """Set the sequences of the pass that comes next."""
        if batch.segments is not None:
            self._lengths = torch.bincount(batch.segments[0])[batch.segments]
        else:
            assert batch.attention_mask is not None, "a padded pass has a mask"
            self._lengths = batch.attention_mask.sum(1, keepdim=True).clamp(min=1)

    def _add(self, module: nn.Module, _: Any, embedded: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return embedded
        most = self._alpha / (self._lengths * embedded.shape[-1]).sqrt()
        return embedded + torch.empty_like(embedded).uniform_(-1, 1) * most[..., None].to(embedded)
