"""Where a worker trains is decided once, by its job, and its state lies there too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from semievol_ray.errors import UserError
from semievol_ray.training.checkpoint import _part_groups
from semievol_ray.training.world import joined, uses_gpu


def test_a_job_without_gpus_keeps_off_those_of_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    assert uses_gpu(None) and uses_gpu(1.0) and not uses_gpu(0.0)
    with joined(tmp_path / "deepspeed.log", 60, gpus_per_worker=0.0) as world:
        assert world.device == torch.device("cpu")
        assert torch.distributed.get_backend() == "gloo"


def test_a_gpu_that_cannot_be_had_is_one_line_and_no_training_on_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not uses_gpu(None)
    with pytest.raises(UserError, match=r"gpus_per_worker: 1, but this worker sees no GPU"):
        uses_gpu(1.0)


@pytest.mark.parametrize("fused", [True, False])
def test_steps_lie_where_the_optimizer_counts_them(fused: bool) -> None:
    # Two groups with one step between them, as DeepSpeed leaves them.
    parameters = [torch.zeros(4, device="meta") for _ in range(2)]
    step = torch.tensor(3.0)
    groups: list[dict[str, Any]] = [{"params": [p], "fused": fused} for p in parameters]
    state = {p: {"step": step} for p in parameters}
    inner = SimpleNamespace(state=state, param_groups=groups)
    outer: Any = SimpleNamespace(optimizer=inner, param_groups=[{}, {}])
    _part_groups(outer, [0.1, 0.0])
    first, second = (state[p]["step"] for p in parameters)
    assert first is not second and first is not step
    assert {first.device.type, second.device.type} == {"meta" if fused else "cpu"}
    assert [group["weight_decay"] for group in outer.param_groups] == [0.1, 0.0]
