"""How many workers a training has, of how many CPUs: what of its config is `auto`, decided."""

from __future__ import annotations

from semievol_ray.config import ModelConfig, TrainingConfig
from semievol_ray.errors import UserError
from semievol_ray.machines import Machines, gib
from semievol_ray.model_files import Dimensions, Weights, dimensions, weights

# More threads than this do not help one worker's matrices of a batch.
_MOST_CPUS = 16
# Bytes of a trained parameter: AdamW's two moments and the master weight in float32, the gradient
# and the weight in 16 bits.
_OPTIMIZER, _GRADIENT, _WEIGHT = 12, 2, 2
_QUANTIZED = {"none": _WEIGHT, "8bit": 1, "4bit": 0.5}
# Examples a pass where nobody knows how large the model or its place is.
USUAL_MICRO_BATCH = 4
# Bytes of activations that the backward pass needs of a token, for each layer and hidden unit in 16
# bits, without the scores of attention, which are made anew; checkpointed, a layer keeps its input
# alone (Korthikanti et al., arXiv 2205.05198, Section 4).
_ACTIVATION, _CHECKPOINTED = 34, 2
# Of a word's logit at a token that is predicted: itself and its gradient in float32.
_LOGIT = 8
# A worker's process without its model, where its memory is the node's.
_PROCESS_BYTES = 2 << 30
# Of a node's or a GPU's memory: the rest is the process's own.
_USABLE = 0.95


def sized(
    config: TrainingConfig, model: ModelConfig, machines: Machines, *, gpus: bool
) -> TrainingConfig:
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
    precision = config.number_format
    if config.precision == "auto" and each and machines.gpus_without_bf16:
        precision = "fp16"
    found = config.model_copy(
        update={
            "workers": workers,
            "cpus_per_worker": cpus,
            "gpus_per_worker": each,
            "precision": precision,
        }
    )
    if config.micro_batch_size != "auto":
        return found
    micro = _micro_batch(found, workers, model, machines)
    return found.model_copy(update={"micro_batch_size": micro})


def words(config: TrainingConfig) -> str:
    """What was decided, in a few words."""
    each = "1 GPU" if config.gpus_per_worker else f"{config.cpus_per_worker:g} CPUs"
    each = "1 CPU" if each == "1 CPUs" else each
    return (
        f"{config.workers} x {each}, ZeRO-{config.zero_stage}, {config.number_format}, "
        f"micro-batch {config.micro_batch_size}"
    )


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


def activation_bytes(config: TrainingConfig, size: Dimensions) -> int:
    """About what one token of a pass keeps until the backward pass, in bytes."""
    wide = 2 if config.number_format == "fp32" else 1
    layer = _ACTIVATION * size.hidden * wide
    if config.gradient_checkpointing:
        kept = _CHECKPOINTED * size.hidden * wide * size.layers + layer
    else:
        kept = layer * size.layers
    return kept + _LOGIT * size.vocabulary


def _micro_batch(
    config: TrainingConfig, workers: int, model: ModelConfig, machines: Machines
) -> int:
    share = -(-config.global_batch_size // workers)
    size, wide = weights(model), dimensions(model)
    # Workers without GPUs share a node's memory, at worst all of them the same node's.
    of_node = (machines.node_memory - _PROCESS_BYTES) / workers
    memory = machines.gpu_memory if config.gpus_per_worker else of_node
    if size is None or wide is None or memory is None:
        return min(share, USUAL_MICRO_BATCH)
    room = _USABLE * memory - least_memory(config, size)
    of_an_example = activation_bytes(config, wide) * config.max_length
    return int(max(1, min(share, room // of_an_example)))


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
