"""Attention over packed rows: each sequence by itself, the rest of the model over the row as one.

Only attention mixes tokens. So a packed row is unpacked just there, into one padded row a sequence,
and packed again after it: no token meets another sequence's, and the products between sequences,
which a mask over the whole row would compute and throw away, are never computed.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from semievol_ray.training.batches import MicroBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "semievol_packed"


@dataclass(frozen=True)
class _Unpacking:
    """Where the T tokens of a packed row go in S rows of W, and what they may see there."""

    taken: torch.Tensor  # int64 (S, W): the token at each place; any token where there is none
    places: torch.Tensor  # int64 (T,): the place of each token in the S * W
    mask: torch.Tensor | None  # bool (S, 1, W, W); None: every earlier token


# The pass that is being computed. Models hand a mask and little else on to their attention.
_current: _Unpacking | None = None


def can_pack(model: PreTrainedModel, max_length: int) -> bool:
    """Whether several sequences may share a row of this model without seeing one another.

    It takes positions as an input and lets its attention be replaced; it keeps no state along the
    row, and no window narrower than a sequence.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or max_length
    kinds = set(getattr(config, "layer_types", None) or ())
    return (
        "position_ids" in inspect.signature(model.forward).parameters
        and getattr(model, "_supports_attention_backend", False)
        and not getattr(model, "_is_stateful", False)
        and not getattr(config, "alibi", False)
        and config._attn_implementation == "sdpa"
        and kinds <= {"full_attention", "sliding_attention"}
        and window >= max_length
    )


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let the model attend within sequences; `enter_pass` says before each pass which they are."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)
    model.set_attn_implementation(NAME)


def enter_pass(batch: MicroBatch) -> None:
    """Set the sequences of the pass that comes next, for its forward and its backward."""
    global _current
    assert batch.segments is not None and batch.branches is not None
    _current = _unpacking(batch.segments[0], batch.branches[0])


def _unpacking(segments: torch.Tensor, branches: torch.Tensor) -> _Unpacking:
    lengths = torch.bincount(segments)
    width = int(lengths.max())
    starts = lengths.cumsum(0) - lengths
    column = torch.arange(len(segments), device=segments.device) - starts[segments]
    columns = torch.arange(width, device=segments.device)
    taken = (starts[:, None] + columns).clamp(max=len(segments) - 1)
    mask = None
    if int(branches.max()) > 1:
        branch = branches[taken]
        seen = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
        # A place sees itself, even one that holds no token of this sequence: no row is empty.
        mask = (seen & (columns[:, None] >= columns))[:, None]
    return _Unpacking(taken, segments * width + column, mask)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """`query` (1, heads, T, d), `key` and `value` alike; returns (1, T, heads, d)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    assert _current is not None, "enter_pass comes before a packed pass"
    if attention_mask is None:
        attention_mask = _current.mask
    rows = [x[0][:, _current.taken].transpose(0, 1) for x in (query, key, value)]
    q, k, v = rows
    output, _ = sdpa_attention_forward(module, q, k, v, attention_mask, **options)
    return output.flatten(0, 1)[_current.places][None], None
