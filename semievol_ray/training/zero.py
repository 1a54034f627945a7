"""DeepSpeed's configuration as a pure function of ours, and the optimizer that goes with it."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

from semievol_ray.config import TrainingConfig, given
from semievol_ray.errors import UserError
from semievol_ray.training.models import bitsandbytes

if TYPE_CHECKING:
    import torch
    from torch import nn

# Elements that ZeRO gathers or reduces at once: DeepSpeed's 5e8 takes gigabytes of buffers even
# for the smallest of models.
_BUCKET_ELEMENTS = 50_000_000


def deepspeed_config(config: TrainingConfig, *, gpu: bool) -> dict[str, Any]:
    """The dictionary that `deepspeed.initialize` takes.

    The batch size in it is nominal: the loop decides which backward pass ends a step, and the
    learning rate of every step.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "steps_per_print": None,
        "bf16": {"enabled": config.number_format == "bf16"},
        "fp16": {"enabled": config.number_format == "fp16", "initial_scale_power": 16},
        "data_types": _data_types(config),
        "zero_optimization": zero_config(config, gpu=gpu),
        # On a CPU torch's AdamW is as good as DeepSpeed's, which would have to be compiled first.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
    }


def zero_config(config: TrainingConfig, *, gpu: bool) -> dict[str, Any]:
    """The `zero_optimization` part: what is partitioned, what is off-loaded, and where to."""
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "contiguous_gradients": True,
        "overlap_comm": gpu and config.zero_stage >= 2,
        "reduce_bucket_size": _BUCKET_ELEMENTS,
        "allgather_bucket_size": _BUCKET_ELEMENTS,
    }
    if config.zero_stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": _BUCKET_ELEMENTS,
            "stage3_max_live_parameters": 1_000_000_000,
        }
    for what in ("optimizer", "parameters"):
        where = getattr(config, f"offload_{what}")
        if where != "none":
            key = "offload_param" if what == "parameters" else "offload_optimizer"
            zero[key] = {"device": where, "pin_memory": gpu}
            if where == "nvme":
                zero[key]["nvme_path"] = config.nvme_path
    return zero


def _data_types(config: TrainingConfig) -> dict[str, str]:
    # Sums of micro-batch gradients in float32; DeepSpeed has no such sum at stage 0.
    if config.zero_stage == 0 or config.number_format == "fp32":
        return {}
    return {"grad_accum_dtype": "fp32"}


def build_optimizer(
    model: nn.Module, config: TrainingConfig, *, gpu: bool
) -> torch.optim.Optimizer:
    """The job's over the trainable parameters; matrices decay, vectors (norms, biases) do not.

    A group's `rate_ratio` is what it learns at, in rates of the step: LoRA+ has another for the
    B matrices (arXiv 2402.12354).
    """
    import torch

    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix, is_b = _rank(parameter) > 1, ".lora_B." in name
            groups.setdefault((is_matrix, is_b), []).append(parameter)
    given = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if is_matrix else 0.0,
            "rate_ratio": config.lora.plus_ratio if is_b else 1.0,
        }
        for (is_matrix, is_b), parameters in groups.items()
    ]
    name = config.optimizer
    kind = getattr(bitsandbytes().optim if name.endswith("8bit") else torch.optim, name)
    if config.offload_optimizer != "none" and gpu and name == "AdamW":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        kind = DeepSpeedCPUAdam
    takes = inspect.signature(kind).parameters
    usual = {"betas": config.betas, "eps": config.epsilon, "fused": gpu}
    options = {key: value for key, value in usual.items() if key in takes}
    try:
        # The loop sets the rate of every step; 0 until then, for DeepSpeed takes a trial step.
        optimizer: torch.optim.Optimizer = kind(
            given, lr=0.0, **options, **config.optimizer_options
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"training.optimizer_options: {name} refuses them: {error}") from None
    return optimizer


def _rank(parameter: nn.Parameter) -> int:
    # ZeRO-3 leaves an empty tensor in place of a partitioned parameter.
    return len(getattr(parameter, "ds_shape", parameter.shape))


def learning_rate(config: TrainingConfig, step: int, total_steps: int) -> float:
    """Rate of the step-th of `total_steps` optimizer steps, 0-based.

    Linear warm-up over `warmup_steps`, or the first `warmup_ratio` of the steps, then the schedule:
    a half cosine or a straight line down to `min_learning_rate`, or constant.
    """
    warmup, peak = config.warmup_steps, given(config.learning_rate)
    if warmup is None:
        warmup = math.ceil(config.warmup_ratio * total_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return peak
    done = (step - warmup) / max(1, total_steps - warmup)
    left = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.min_learning_rate + (peak - config.min_learning_rate) * left
