"""The output layer and the loss as one, so that logits are computed a part at a time and not kept.

With a vocabulary of 128,000 the logits of 8,000 answer tokens are 4 GB in float32, and going back
as much again. Here a part of them exists at a time, and going back each is computed once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

# Logits that exist together: 128 MB of them in float32.
MOST_LOGITS = 1 << 25


@dataclass
class Answers:
    """The N answer tokens of a pass: where they are predicted, what they are, what they weigh.

    `right` is set by the pass: whether each is what the model finds most probable.
    """

    rows: torch.Tensor  # int64 (N,)
    columns: torch.Tensor  # int64 (N,), of the columns that the output layer is given
    targets: torch.Tensor  # int64 (N,)
    weights: torch.Tensor  # float32 (N,)
    loss: str = "nll"
    right: torch.Tensor | None = None  # bool (N,)

    def total(self, logits: torch.Tensor, part: slice = slice(None)) -> torch.Tensor:
        """The weighted loss of the answers of a part, whose logits these are, with their `right`.

        float32 (2, N'): the loss of each token, and 1 where it is the most probable one.
        """
        logits, targets = logits.float(), self.targets[part]
        nll = F.cross_entropy(logits, targets, reduction="none")
        right = logits.detach().argmax(-1) == targets
        if self.loss == "dft":
            nll = nll * (-nll.detach()).exp()
        return torch.stack([nll * self.weights[part], right.float()])


class AnswerHead:
    """Stands before an output layer: within `answering` that one's output is the loss itself.

    Models that do more to the logits than compute them cannot have it (the loop checks that).
    """

    def __init__(self, layer: nn.Linear) -> None:
        self._layer, self._logits = layer, layer.forward
        self._answers: Answers | None = None
        layer.forward = self  # type: ignore[method-assign, assignment]

    def remove(self) -> None:
        """Leave the layer as it was."""
        self._layer.forward = self._logits  # type: ignore[method-assign]

    @contextmanager
    def answering(self, answers: Answers) -> Iterator[None]:
        """While a pass is computed whose answers these are."""
        self._answers = answers
        try:
            yield
        finally:
            self._answers = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (…, V) of the states (…, H), or the scalar loss of the answers."""
        answers = self._answers
        if answers is None:
            found: torch.Tensor = self._logits(hidden)
            return found
        states = hidden[answers.rows, answers.columns]

        def of_part(some: torch.Tensor, part: slice) -> torch.Tensor:
            return answers.total(self._logits(some), part)

        size = max(1, MOST_LOGITS // len(self._layer.weight))
        if len(states) <= size:
            each = of_part(states, slice(None))
        else:
            parts = [slice(start, start + size) for start in range(0, len(states), size)]
            each = torch.cat(
                [
                    checkpoint(of_part, states[p], p, use_reentrant=False, preserve_rng_state=False)
                    for p in parts
                ],
                dim=1,
            )
        answers.right = each[1].detach() > 0
        return each[0].sum()
