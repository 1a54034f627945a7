"""Where a worker trains is decided once, by its job."""

from __future__ import annotations

import subprocess
import sys
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


HOLDS_AND_GIVES_BACK = """
import gc
from pathlib import Path
import torch
from semievol_ray.training.ray_train import give_back_memory

class Circle:
    def __init__(self):
        self.me, self.held = self, [torch.ones(25_000) for _ in range(2_000)]

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

gc.disable()
before = resident()
Circle()
held = resident() - before
give_back_memory()
print(held, resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells what is resident")
def test_what_a_training_held_goes_back_to_the_machine() -> None:
    """In a process of its own, whose memory no other test has used."""
    command = [sys.executable, "-c", HOLDS_AND_GIVES_BACK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    held, left = map(int, done.stdout.split())
    assert held > 190e6 and left < held / 4
