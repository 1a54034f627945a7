"""Soft targets: what is uncertain stays uncertain, however many classes there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.stages.finetune import Target

CLASSES = [f"class {i}" for i in range(150)]


def test_the_least_certain_row_of_many_classes_is_not_made_sure() -> None:
    target = Target.soft(CLASSES[:77], [0.4, *[0.6 / 76] * 76])
    assert target.candidates[0] == "class 0" and target.weights[0] == 0.4
    assert len(target.candidates) >= 76 and sum(target.weights) == pytest.approx(0.99, abs=0.01)


def test_a_flat_distribution_does_not_vanish() -> None:
    target = Target.soft(CLASSES, [1 / 150] * 150)
    assert len(target.candidates) >= 148 and max(target.weights) == pytest.approx(1 / 150)


def test_what_is_sure_is_one_candidate() -> None:
    assert Target.soft(["A", "B", "C"], [0.001, 0.995, 0.004]) == Target(["B"], [0.995])


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=120))
def test_99_percent_of_the_mass_in_as_few_candidates_as_can_be(weights: list[float]) -> None:
    p = (np.array(weights) / sum(weights)).tolist()
    target = Target.soft(CLASSES[: len(p)], p)
    assert sum(target.weights) >= 0.99 - 1e-9
    assert sum(sorted(p, reverse=True)[: len(target.weights) - 1]) < 0.99
    assert all(
        p[CLASSES.index(c)] == w for c, w in zip(target.candidates, target.weights, strict=True)
    )
