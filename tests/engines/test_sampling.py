"""How tokens are drawn, against the definitions."""

from __future__ import annotations

import pytest
import torch

from semievol_ray.engines import Sampling
from semievol_ray.engines.sampling import Sampler, draw

P = torch.tensor([0.4, 0.3, 0.2, 0.1])


def drawn(**settings) -> dict[int, float]:
    """The share of each token among many draws from P."""
    uniforms = (torch.arange(1000) + 0.5) / 1000
    sampling = Sampling(**{"temperature": 1.0, "top_p": 1.0, "max_tokens": 1} | settings)
    tokens = draw(P.log().expand(1000, -1).contiguous(), sampling, uniforms)
    return {t: float((tokens == t).double().mean()) for t in range(4) if (tokens == t).any()}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3]),
        ({"top_k": 2}, [0, 1]),
        ({"top_p": 0.65}, [0, 1]),
        ({"min_p": 0.45}, [0, 1, 2]),
        # top_p is of what top_k leaves: 0.4 of 0.7 is more than half.
        ({"top_k": 2, "top_p": 0.55}, [0]),
    ],
)
def test_what_may_be_drawn_and_how_often(settings, kept) -> None:
    found = drawn(**settings)
    assert list(found) == kept
    total = sum(float(P[t]) for t in kept)
    assert found == pytest.approx({t: float(P[t]) / total for t in kept}, abs=0.01)


def test_penalties_are_vllms() -> None:
    """Repetition of prompt and response by a factor; frequency and presence of the response."""
    sampling = Sampling(0, 1, 8, presence_penalty=0.5, frequency_penalty=0.25,
                        repetition_penalty=2.0)  # fmt: skip
    sampler = Sampler(sampling, [[3]], [0], None, "cpu")
    logits = torch.tensor([[1.0, 0.9, -0.1, 3.0]])
    # Token 3 is in the prompt: 1.5, and first. Written once: 1.5 - 0.75 = 0.75. Then 0: 0.5 - 0.75;
    # then 1: 0.45 - 0.75. Then 3 again, at 0.75 still the best.
    assert [int(sampler.draw(logits.clone())) for _ in range(4)] == [3, 0, 1, 3]


def test_a_guided_response_is_one_of_the_choices_to_its_end() -> None:
    choices = [[(5, 6, 0), (5, 7, 0)], [(2, 0)]]
    sampler = Sampler(Sampling(1.0, 1, 4), [[1], [1]], [3, 4], choices, "cpu")
    logits = torch.zeros(2, 9)
    steps = torch.stack([sampler.draw(logits) for _ in range(3)], dim=1).tolist()
    assert tuple(steps[0]) in choices[0]
    assert steps[1][:2] == [2, 0]
