"""Flash attention over packed rows, by what torch's takes; the kernel itself needs a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import varlen

from semievol_ray.training import attention


def reference(q, k, v, bounds, scale) -> torch.Tensor:
    """Causal attention of each sequence by itself; as many heads of keys as of queries."""
    assert q.shape == k.shape == v.shape
    found = []
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        rows = [x[start:stop].transpose(0, 1) for x in (q, k, v)]
        found.append(
            torch.nn.functional.scaled_dot_product_attention(*rows, is_causal=True, scale=scale)
        )
    return torch.cat([x.transpose(0, 1) for x in found])


@pytest.mark.parametrize("branches", [[0] * 9, [0, 0, 1, 1, 2, 0, 1, 2, 2]])
def test_plain_products_are_attention(branches: list[int]) -> None:
    torch.manual_seed(0)
    segments = torch.tensor([0] * 5 + [1] * 4)
    current = attention._unpacking(segments, torch.tensor(branches))
    q, k, v = (torch.randn(2, heads, 5, 16, requires_grad=True) for heads in (6, 2, 2))
    found = attention._products(q, k, v, current.mask, 0.3)
    whole = (x.repeat_interleave(3, dim=1) for x in (k, v))
    mask = {"is_causal": True} if current.mask is None else {"attn_mask": current.mask}
    expected = torch.nn.functional.scaled_dot_product_attention(q, *whole, scale=0.3, **mask)
    assert torch.allclose(found.transpose(1, 2), expected, atol=1e-5)


def of_torch_2_11(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    assert window_size == (-1, 0)
    return reference(q, k, v, cu_seq_q, scale)


def of_torch_2_13(
    q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    assert window_size == (-1, 0) and enable_gqa and k.shape[1] < q.shape[1]
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    return reference(q, k, v, cu_seq_q, scale)


@pytest.mark.parametrize("takes", [of_torch_2_11, of_torch_2_13])
def test_grouped_keys_go_where_torch_takes_them(monkeypatch, takes: Any) -> None:
    torch.manual_seed(0)
    segments = torch.tensor([0] * 5 + [1] * 3)
    current = attention._unpacking(segments, torch.zeros_like(segments))
    monkeypatch.setattr(attention, "_current", current)
    monkeypatch.setattr(varlen, "varlen_attn", takes)
    attention._varlen_parameters.cache_clear()
    q, k, v = (torch.randn(1, heads, 8, 16) for heads in (6, 2, 2))
    found = attention._flash(q, k, v, 0.3)
    attention._varlen_parameters.cache_clear()
    whole = [x[0].transpose(0, 1) for x in (q, *(y.repeat_interleave(3, dim=1) for y in (k, v)))]
    assert torch.allclose(found[0], reference(*whole, current.bounds, 0.3), atol=1e-5)
