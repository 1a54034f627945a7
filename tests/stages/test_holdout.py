"""Which labels are held out: the same share of each class, and always the same ones."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from semievol_ray import UserError
from semievol_ray.stages import holdout
from semievol_ray.stages.run_view import held_out_ids
from tests.stages import ingesting


def labels(counts: dict[str, int]) -> pa.Table:
    rows = [(f"{name}-{i}", name) for name, count in counts.items() for i in range(count)]
    return ingesting.labels([name for name, _ in rows], [answer for _, answer in rows])


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_every_class_gives_its_share(share: float) -> None:
    table = labels({"a": 100, "b": 40, "c": 10})
    held = Counter(name[0] for name in held_out_ids(table, share))
    assert sum(held.values()) == int(150 * share + 1e-9)
    assert all(abs(held[name] - n * share) <= 1 for name, n in (("a", 100), ("b", 40), ("c", 10)))


def test_the_order_of_the_rows_does_not_matter() -> None:
    table = labels({"a": 30, "b": 30})
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(60)))
    assert held_out_ids(table, 0.2) == held_out_ids(shuffled, 0.2)


def test_too_few_labels_are_one_line() -> None:
    config = SimpleNamespace(calibration=SimpleNamespace(share=0.2))
    context: Any = SimpleNamespace(
        config=config, labeled=labels({"a": 4}), held_out=set(), folder=lambda _: "f"
    )
    with pytest.raises(UserError, match=r"calibration.share \(0.2\) of 4 labels holds none out"):
        holdout.run(context, 1)
    assert held_out_ids(labels({"a": 4}), 0.2) == set()


def test_a_class_of_one_label_may_be_held_out_or_not() -> None:
    held = held_out_ids(labels({str(i): 1 for i in range(10)}), 0.2)
    assert len(held) == 2
