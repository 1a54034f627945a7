"""Attention over packed rows: each sequence by itself, the rest of the model over the row as one.

Only attention mixes tokens. Where flash attention takes sequences of any length side by side, it
gets the row as it is. Elsewhere the row is unpacked just there, into one padded row a sequence, and
packed again after it: no token meets another sequence's, and the products between sequences, which
a mask over the whole row would compute and throw away, are never computed. What all sequences of a
row open with stands in it once, and is unpacked in front of each.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from semievol_ray.model_files import obeys_positions
from semievol_ray.training.batches import MicroBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "semievol_packed"
# Flash attention's kernels know no larger heads.
_FLASH_HEAD_SIZE = 256
# Rows up to here are attended to by plain products on CPUs, in 16 bits: there torch's own attention
# and its way back take five times as long for rows of 70 tokens, and as long for rows of 400.
_SHORT = 256


@dataclass(frozen=True)
class _Unpacking:
    """Where the T tokens of a packed row go in S rows of W, and what they may see there."""

    taken: torch.Tensor  # int64 (S, W): the token at each place; any token where there is none
    places: torch.Tensor  # int64 (T,): a place of each token in the S * W
    bounds: torch.Tensor  # int32 (S + 1,): where in the T each sequence begins, and their end
    mask: torch.Tensor | None  # bool (S, 1, W, W); None: every earlier token
    shares: bool = False  # whether some tokens have a place in every row


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
        obeys_positions(model)
        and getattr(model, "_supports_attention_backend", False)
        and not getattr(model, "_is_stateful", False)
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
    _current = _unpacking(batch.segments[0], batch.branches[0], batch.opening)


def _unpacking(segments: torch.Tensor, branches: torch.Tensor, opening: int = 0) -> _Unpacking:
    lengths = torch.bincount(segments[opening:])
    width = opening + int(lengths.max())
    starts = lengths.cumsum(0) - lengths
    column = torch.arange(len(segments), device=segments.device) - starts[segments]
    # The opening has its places in the first row; its segment is the first one's.
    columns = torch.arange(width, device=segments.device)
    taken = (starts[:, None] + columns).clamp(max=len(segments) - 1)
    taken[:, :opening] = columns[:opening]
    mask = None
    if int(branches.max()) > 1:
        branch = branches[taken]
        seen = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
        # A place sees itself, even one that holds no token of this sequence: no row is empty.
        mask = (seen & (columns[:, None] >= columns))[:, None]
    bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    return _Unpacking(taken, segments * width + column, bounds, mask, opening > 0)


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
    if _flash_takes(query, value, options):
        return _flash(query, key, value, options.get("scaling")), None
    if attention_mask is None:
        attention_mask = _current.mask
    # The gradients of what is shared add up here, over all sequences: not in 16 bits.
    wide = torch.float32 if _current.shares else query.dtype
    q, k, v = (_rows(x[0].to(wide), _current.taken).to(x.dtype) for x in (query, key, value))
    if _products_take(query, options):
        output = _products(q, k, v, attention_mask, options.get("scaling"))
    else:
        output, _ = sdpa_attention_forward(module, q, k, v, attention_mask, **options)
    found = F.embedding(_current.places, output.flatten(0, 1).flatten(1))
    return found.view(1, -1, *output.shape[2:]), None


def _rows(x: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
    """Of (heads, T, d) the tokens `taken` (S, W): (S, heads, W, d)."""
    # A lookup of whole tokens: its way back is many times faster than indexing's.
    heads, tokens, size = x.shape
    found = F.embedding(taken, x.transpose(0, 1).reshape(tokens, heads * size))
    return found.view(*taken.shape, heads, size).transpose(1, 2)


def _products_take(query: torch.Tensor, options: dict[str, Any]) -> bool:
    assert _current is not None
    is_short = _current.taken.shape[1] <= _SHORT
    is_plain = query.dtype == torch.bfloat16 and not query.is_cuda
    return is_short and is_plain and not options.get("dropout")


def _products(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of `q` (S, heads, W, d) to `k` and `v` (S, groups, W, d): (S, W, heads, d)."""
    rows, heads, width, size = q.shape
    groups = k.shape[1]
    if mask is None:
        mask = torch.ones(width, width, dtype=torch.bool).tril()
    # The heads of a group are rows of one product.
    scores = q.reshape(rows, groups, -1, size) @ k.transpose(2, 3)
    scores = scores.mul_(size**-0.5 if scaling is None else scaling)
    scores = scores.view(rows, heads, width, width).masked_fill_(~mask, -torch.inf)
    seen = scores.softmax(-1).view(rows, groups, -1, width)
    return (seen @ v).view(rows, heads, width, size).transpose(1, 2)


def _flash_takes(query: torch.Tensor, value: torch.Tensor, options: dict[str, Any]) -> bool:
    """Whether torch's flash attention computes this pass: on a GPU since Ampere, in 16 bits."""
    assert _current is not None
    size = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and size <= _FLASH_HEAD_SIZE
        and size % 8 == 0
        and size == value.shape[-1]
        and _current.mask is None
        and not _current.shares
        and not options.get("dropout")
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and "window_size" in _varlen_parameters()
    )


@cache
def _varlen_parameters() -> frozenset[str]:
    """What torch's attention over sequences of any length takes; before 2.11 no window."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Causal attention within each sequence; returns (1, T, heads, d)."""
    from torch.nn.attention.varlen import varlen_attn

    assert _current is not None
    longest = _current.taken.shape[1]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    grouped: dict[str, Any] = {}
    if "enable_gqa" in _varlen_parameters():
        grouped["enable_gqa"] = True
    elif k.shape[1] < q.shape[1]:  # torch 2.11 wants a key for every query
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    bounds = _current.bounds
    output: Any = varlen_attn(
        q, k, v, bounds, bounds, longest, longest,
        scale=scaling, window_size=(-1, 0), **grouped,
    )  # fmt: skip
    return output[None]
