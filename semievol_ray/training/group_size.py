"""How many workers a training has, of how many CPUs: what of its config is `auto`, decided."""

from __future__ import annotations

from semievol_ray.config import ModelConfig, TrainingConfig
from semievol_ray.errors import UserError
from semievol_ray.machines import Machines, gib
from semievol_ray.model_files import Weights, weights

# More threads than this do not help one worker's matrices of a batch.
_MOST_CPUS = 16
# Bytes of a trained parameter: AdamW's two moments and the master weight in float32, the gradient
# and the weight in 16 bits.
_OPTIMIZER, _GRADIENT, _WEIGHT = 12, 2, 2
_QUANTIZED = {"none": _WEIGHT, "8bit": 1, "4bit": 0.5}
# Of a node's or a GPU's memory: the rest is the process's own.
_USABLE = 0.95


def sized(config: TrainingConfig, machines: Machines, *, gpus: bool) -> TrainingConfig:
    """The config with nothing left `auto`; `gpus`: whether each worker has one."""
    each = config.gpus_per_worker
    if each is None:
        each = 1.0 if gpus else 0.0
    workers = config.workers
    if workers == "auto":
        room = int(machines.gpus // each) if each else 1
        workers = _dividing(config.global_batch_size, max(room, config.min_workers or 1))
    cpus = config.cpus_per_worker
    if cpus == "auto":
        alone = workers == 1 and not each
        cpus = float(max(1, int(min(machines.node_cpus, _MOST_CPUS)))) if alone else 1.0
    return config.model_copy(
        update={"workers": workers, "cpus_per_worker": cpus, "gpus_per_worker": each}
    )


def words(config: TrainingConfig) -> str:
    """What was decided, in a few words."""
    each = "1 GPU" if config.gpus_per_worker else f"{config.cpus_per_worker:g} CPUs"
    each = "1 CPU" if each == "1 CPUs" else each
    return f"{config.workers} x {each}, ZeRO-{config.zero_stage}, {config.precision}"


def check_fits(config: TrainingConfig, model: ModelConfig, machines: Machines) -> None:
    """Raise UserError where weights and optimizer alone are more than a worker's memory.

    Says nothing where a size is not known; what passes may still run out, of activations.
    """
    size = weights(model)
    room = machines.gpu_memory if config.gpus_per_worker else machines.node_memory
    if size is None or room is None or room == float("inf"):
        return
    needed = least_memory(config, size)
    if needed <= _USABLE * room:
        return
    where = "a GPU has" if config.gpus_per_worker else "a node has"
    raise UserError(
        f"training.method: {config.method} of {size.parameters / 1e9:.1f} billion parameters needs "
        f"{gib(needed)} a worker before any activation (ZeRO-{config.zero_stage}, "
        f"{config.workers} workers), and {where} {gib(room)}: {_advice(config)}"
    )


def least_memory(config: TrainingConfig, size: Weights) -> float:
    """Bytes of a worker's weights, gradients and optimizer, without activations.

    ZeRO-1 shares the optimizer's among the workers, ZeRO-2 the gradients too, ZeRO-3 the weights
    (Rajbhandari et al., arXiv 1910.02054, Figure 1).
    """
    assert config.workers != "auto"
    count, workers, stage = size.parameters, config.workers, config.zero_stage
    held = _QUANTIZED[config.quantization] * count
    parts = [held / (workers if stage == 3 else 1) * (config.offload_parameters == "none")]
    if config.method == "full":
        optimizer = _OPTIMIZER * count / (workers if stage >= 1 else 1)
        gradient = _GRADIENT * count / (workers if stage >= 2 else 1)
        on_gpu = config.offload_optimizer == "none" or not config.gpus_per_worker
        parts += [optimizer * on_gpu, gradient]
    return sum(parts)


def _advice(config: TrainingConfig) -> str:
    helps = []
    if config.method == "full":
        helps.append("training.method: lora")
    if config.quantization == "none" and config.method == "lora" and config.zero_stage < 3:
        helps.append("training.quantization: 4bit")
    if config.zero_stage < 3:
        helps.append("training.zero_stage: 3 with more workers")
    if config.offload_optimizer == "none" and config.method == "full":
        helps.append("training.offload_optimizer: cpu")
    return "; or ".join([*helps, "a smaller model"])


def _dividing(batch: int, most: int) -> int:
    """The largest number of workers that share a batch evenly."""
    return next(n for n in range(min(batch, most), 0, -1) if batch % n == 0)
