"""The training objective: weighted negative log-likelihood of the answer tokens.

    loss = sum over answer tokens of w * -log P(token | what it may see)  /  sum of w

taken over the whole global batch, w being the example's weight times its candidate's. With hard
targets of weight 1 this is the usual token mean; a soft target adds w(c) * NLL(c) for each of its
candidates c. Numerator and denominator are sums, so the number of workers, the micro-batches and
the packing change nothing but the order of additions.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from semievol_ray.training.attention import enter_pass
from semievol_ray.training.batches import MicroBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def keeps_logits(model: PreTrainedModel) -> bool:
    """Whether the model computes its logits only where it is asked to."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def weighted_nll_sum(
    model: nn.Module, batch: MicroBatch, *, keep_logits: bool, loss: str = "nll"
) -> torch.Tensor:
    """Sum of w * NLL over the N answer tokens of a pass: float32 scalar, in nats.

    With the loss "dft" each term is also multiplied with its token's probability, a constant to the
    gradient: what the model finds improbable teaches it less (arXiv 2508.05629, eq. 9).
    `model` is a causal LM or anything that wraps one. With `keep_logits` it is asked for the logits
    of the columns that predict an answer token alone: most of the vocabulary projection is saved.
    """
    columns, which = torch.unique(batch.columns, return_inverse=True)
    if batch.segments is not None:
        enter_pass(batch)
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        **({"logits_to_keep": columns} if keep_logits else {}),
    )
    logits = output.logits[batch.rows, which if keep_logits else batch.columns].float()
    nll = F.cross_entropy(logits, batch.targets, reduction="none")
    if loss == "dft":
        nll = nll * (-nll.detach()).exp()
    return (nll * batch.weights).sum()
