"""Pieces of a state: read back from however many files, wherever they were cut."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from semievol_ray.errors import SemiEvolError
from semievol_ray.training.pieces import Stored, loss_scale, set_loss_scale


def write(folder: Path, cuts: list[int], size: int) -> list[Path]:
    """The numbers below `size`, cut there, a file each."""
    paths, bounds = [], [0, *sorted(cuts), size]
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        paths.append(folder / f"rank-{number}.safetensors")
        tensors = {f"a|b.weight|weight|{start}": torch.arange(start, end)}
        save_file(tensors | {"a|b.weight|step|": torch.tensor(7.0)}, paths[-1])
    return paths


@settings(max_examples=40, deadline=None)
@given(data=st.data(), size=st.integers(1, 40))
def test_any_part_of_a_parameter_is_read_from_any_pieces(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, size: int
) -> None:
    cuts = data.draw(st.lists(st.integers(0, size), max_size=4))
    start = data.draw(st.integers(0, size))
    length = data.draw(st.integers(0, size - start))
    with Stored(write(tmp_path_factory.mktemp("pieces"), cuts, size)) as stored:
        found = stored.read("a|b.weight", "weight", start, length)
        assert found.tolist() == list(range(start, start + length))
        assert stored.number("a|b.weight", "step") == 7


@pytest.mark.parametrize(("lost", "at"), [(0, 0), (1, 4), (2, 8)])
def test_what_the_files_lack_is_named(tmp_path: Path, lost: int, at: int) -> None:
    paths = write(tmp_path, [4, 8], 10)
    with Stored(p for i, p in enumerate(paths) if i != lost) as stored:
        with pytest.raises(SemiEvolError, match=rf"lacks a\|b.weight \(weight\) from element {at}"):
            stored.read("a|b.weight", "weight", 0, 10)
        with pytest.raises(SemiEvolError, match=r"lacks other \(step\)"):
            stored.number("other", "step")


@pytest.mark.parametrize("scaler", ["loss_scaler", "loss_scale_config"])
def test_in_fp16_the_scale_of_the_loss_goes_on(scaler: str) -> None:
    def engine(**numbers: Any) -> Any:
        optimizer = SimpleNamespace(**{scaler: SimpleNamespace(**numbers)})
        return SimpleNamespace(optimizer=optimizer, fp16_enabled=lambda: True)

    known = {"cur_scale": 1024.0, "cur_iter": 9, "last_overflow_iter": 3}
    fresh = engine(cur_scale=65536, cur_iter=0, last_overflow_iter=-1)
    set_loss_scale(fresh, loss_scale(engine(**known, scale_window=1000)))
    assert loss_scale(fresh) == known
