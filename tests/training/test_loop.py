"""The loop in one process against plain PyTorch, and what it leaves on disk."""

from __future__ import annotations

import pytest
import torch

from semievol_ray.training import TrainingJob, TrainingResult
from tests.training.conftest import MakeJob, train_here
from tests.training.reference import Reference, train_reference


@pytest.fixture(scope="module")
def references() -> dict[str, Reference]:
    return {}


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_loss_gradients_and_weights_are_those_of_plain_pytorch(
    make_job: MakeJob, references: dict[str, Reference], method: str, stage: int, packing: bool
) -> None:
    job = make_job(method=method, zero_stage=stage, packing=packing)
    expected = references.setdefault(method, train_reference(job))
    result, seen = train_here(job)
    assert [p.loss for p in seen] == pytest.approx(expected.losses, abs=1e-5)
    norms = [p.grad_norm for p in seen if p.grad_norm is not None]
    assert stage == 0 or norms == pytest.approx(expected.grad_norms, rel=1e-4)
    trained = load(job, result)
    for name, parameter in expected.model.named_parameters():
        got = trained.get_parameter(name)
        assert torch.allclose(got, parameter, atol=2e-5), name


def load(job: TrainingJob, result: TrainingResult) -> torch.nn.Module:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    where = result.output_dir if result.kind == "full" else job.base_model
    base = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    if result.kind == "full":
        return base
    return PeftModel.from_pretrained(base, result.output_dir)
