"""Where a worker trains is decided once, by its job."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semievol_ray.errors import UserError
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
