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


def test_a_schedule_ends_at_its_least_rate() -> None:
    for schedule in ("cosine", "linear"):
        config = TrainingConfig(
            learning_rate=1.0, min_learning_rate=0.1, warmup_steps=5, schedule=schedule
        )
        rates = [zero.learning_rate(config, step, 100) for step in range(101)]
        assert rates[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
        assert rates[100] == pytest.approx(0.1) and min(rates[6:]) == rates[100]
    with pytest.raises(ValueError, match="min_learning_rate .* exceeds learning_rate"):
        TrainingConfig(learning_rate=1e-4, min_learning_rate=1e-3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"zero_stage": 0, "offload_optimizer": "cpu"}, "offload_optimizer needs zero_stage: 1"),
        (
            {"zero_stage": 2, "offload_optimizer": "nvme", "nvme_path": "/fast"},
            "offload_optimizer: nvme needs zero_stage: 3",
        ),
        ({"zero_stage": 2, "offload_parameters": "cpu"}, "offload_parameters needs zero_stage: 3"),
        ({"zero_stage": 3, "offload_parameters": "nvme"}, "off-load to nvme needs nvme_path"),
        ({"betas": [0.9, 1.0]}, "betas: .* do not lie in"),
    ],
)
def test_what_deepspeed_does_not_do_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainingConfig(**settings)


def test_lora_plus_teaches_b_faster() -> None:
    import torch

    class Adapter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(4, 2, bias=False)})
            self.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(2, 4, bias=False)})

    model = torch.nn.ModuleDict({"layer": Adapter()})
    config = TrainingConfig(lora={"plus_ratio": 16}, betas=(0.8, 0.95), epsilon=1e-6)
    optimizer = zero.build_optimizer(model, config, gpu=False)
    ratios = {id(p): g["rate_ratio"] for g in optimizer.param_groups for p in g["params"]}
    found = {name: ratios[id(p)] for name, p in model.named_parameters()}
    assert found == {"layer.lora_A.default.weight": 1.0, "layer.lora_B.default.weight": 16.0}
    assert optimizer.defaults["betas"] == (0.8, 0.95) and optimizer.defaults["eps"] == 1e-6


def test_matrices_decay_and_vectors_do_not() -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    optimizer = zero.build_optimizer(model, TrainingConfig(weight_decay=0.1), gpu=False)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert [decays[id(p)] for p in model.parameters()] == [0.1, 0.0, 0.0, 0.0]
