"""DeepSpeed's configuration and the learning rate, as pure functions."""

from __future__ import annotations

from typing import Any

import pytest

from semievol_ray.config import TrainingConfig
from semievol_ray.training import zero


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_stage_and_precision_reach_deepspeed(stage: Any) -> None:
    config = TrainingConfig(zero_stage=stage, precision="bf16", max_grad_norm=0.5)
    found = zero.deepspeed_config(config, gpu=False)
    assert found["zero_optimization"]["stage"] == stage
    assert (found["bf16"]["enabled"], found["fp16"]["enabled"]) == (True, False)
    assert found["gradient_clipping"] == 0.5


def test_offload_names_its_device_and_path() -> None:
    config = TrainingConfig(
        zero_stage=3, offload_optimizer="cpu", offload_parameters="nvme", nvme_path="/fast"
    )
    found = zero.zero_config(config, gpu=True)
    assert found["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert found["offload_param"]["nvme_path"] == "/fast"


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_climbs_to_its_peak_and_then_follows_its_schedule(schedule: Any) -> None:
    config = TrainingConfig(learning_rate=1.0, warmup_ratio=0.1, schedule=schedule)
    rates = [zero.learning_rate(config, step, 100) for step in range(100)]
    assert rates[:11] == sorted(rates[:11]) and rates[0] > 0 and rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == {"cosine": pytest.approx(0.5), "linear": 0.5, "constant": 1.0}[schedule]


def test_matrices_decay_and_vectors_do_not() -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    optimizer = zero.build_optimizer(model, TrainingConfig(weight_decay=0.1), gpu=False)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert [decays[id(p)] for p in model.parameters()] == [0.1, 0.0, 0.0, 0.0]
