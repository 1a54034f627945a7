"""The training objective: weighted negative log-likelihood of the answer tokens.

    loss = sum over answer tokens of w * -log P(token | what it may see)  /  sum of w

taken over the whole global batch, w being the example's weight times its candidate's. With hard
targets of weight 1 this is the usual token mean; a soft target adds w(c) * NLL(c) for each of its
candidates c. Numerator and denominator are sums, so the number of workers, the micro-batches and
the packing change nothing but the order of additions.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from semievol_ray.training.attention import enter_pass
from semievol_ray.training.batches import MicroBatch
from semievol_ray.training.head import AnswerHead, Answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PassLoss(NamedTuple):
    """Of the N answer tokens of a pass."""

    # Sum of w * NLL, in nats: a float32 scalar.
    total: torch.Tensor
    # Whether each token is what the model finds most probable: bool (N,).
    right: torch.Tensor


def keeps_logits(model: PreTrainedModel) -> bool:
    """Whether the model computes its logits only where it is asked to."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def pass_loss(
    model: nn.Module,
    batch: MicroBatch,
    *,
    keep_logits: bool,
    head: AnswerHead | None = None,
    loss: str = "nll",
) -> PassLoss:
    """The loss of one pass.

    With the loss "dft" each term is also multiplied with its token's probability, a constant to the
    gradient: what the model finds improbable teaches it less (arXiv 2508.05629, eq. 9).
    `model` is a causal LM or anything that wraps one. With `keep_logits` it is asked for the logits
    of the columns that predict an answer token alone: most of the vocabulary projection is saved.
    With its `head`, which needs that, they are never there all at once.
    """
    columns, which = torch.unique(batch.columns, return_inverse=True)
    places = which if keep_logits else batch.columns
    answers = Answers(batch.rows, places, batch.targets, batch.weights, loss)
    if batch.segments is not None:
        enter_pass(batch)
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
        "use_cache": False,
        **({"logits_to_keep": columns} if keep_logits else {}),
    }
    if head is not None:
        with head.answering(answers):
            total = model(**inputs).logits
        assert answers.right is not None, "the model asks its output layer for the logits"
        return PassLoss(total, answers.right)
    logits = model(**inputs).logits
    each = answers.total(logits[batch.rows, places])
    return PassLoss(each[0].sum(), each[1].detach() > 0)
