"""What a model takes of its GPUs' memory, told before vLLM is started.

vLLM says so after minutes of loading, and not why. What is told here is a lower bound, weights and
the KV cache of one sequence: what is refused could not have started.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semievol_ray.errors import UserError

_GIB = 2**30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOATS = ("F32", "BF16", "F16")


@dataclass(frozen=True)
class Footprint:
    """What a model takes, in bytes: its weights, and the KV cache of one token."""

    weights: int
    cache_of_a_token: int


def memory_share(gpus_per_replica: float, default: float) -> float | None:
    """`gpu_memory_utilization` of a replica with a part of a GPU; null where it has it alone."""
    return gpus_per_replica * default if 0 < gpus_per_replica < 1 else None


def footprint(folder: Path, dtype: str) -> Footprint:
    """What the model in a folder takes, loaded as `dtype` ("auto": as vLLM does on GPUs).

    Layers without a cache that grows with the sequence count nothing.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    text: dict[str, Any] = config.get("text_config") or config
    if dtype == "auto":
        stored = str(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype"))
        dtype = "bfloat16" if stored == "float32" else stored  # vLLM halves what is of 4 bytes
    size = _BYTES.get(dtype, 2)
    quantized = config.get("quantization_config") is not None
    weights = sum(
        _weight_bytes(file, None if quantized else size) for file in folder.glob("*.safetensors")
    )
    return Footprint(weights, _cache_of_a_token(text) * size)


def check_fits(
    name: str,
    taken: Footprint,
    *,
    tokens: int,
    gpu_bytes: int,
    utilization: float,
    gpus: int = 1,
) -> None:
    """Raise UserError, with the arithmetic, for a model that its GPUs cannot hold.

    `tokens` is the longest sequence; `gpu_bytes` the memory of each of `gpus` GPUs, of which a
    replica has the share `utilization`.
    """
    cache = taken.cache_of_a_token * tokens
    room = int(gpu_bytes * utilization * gpus)
    if taken.weights + cache <= room:
        return
    fitting = (room - taken.weights) // max(taken.cache_of_a_token, 1)
    shorter = f"lower model.max_model_len to {fitting} or less, or " if fitting > 0 else ""
    raise UserError(
        f"model {name}: weights of {_gib(taken.weights)} and the KV cache of one sequence of "
        f"{tokens} tokens, {_gib(cache)}, do not fit into {_gib(room)} ({gpus} x "
        f"{_gib(gpu_bytes)} x {utilization:.2f}); {shorter}raise generation.tensor_parallel or "
        "generation.gpus_per_replica"
    )


def _weight_bytes(file: Path, size: int | None) -> int:
    """Bytes of a safetensors file's tensors, floats at `size` bytes each (null: as they are)."""
    with file.open("rb") as source:
        header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
    header.pop("__metadata__", None)
    total = 0
    for tensor in header.values():
        start, end = tensor["data_offsets"]
        is_float = size is not None and tensor["dtype"] in _FLOATS
        total += math.prod(tensor["shape"]) * (size or 0) if is_float else end - start
    return total


def _cache_of_a_token(text: dict[str, Any]) -> int:
    """Numbers that the KV cache keeps of one token, over all layers."""
    layers = text.get("num_hidden_layers", 0)
    if text.get("layer_types"):
        layers = text["layer_types"].count("full_attention")
    if text.get("kv_lora_rank"):  # latent attention keeps one vector for all its heads
        return int(layers * (text["kv_lora_rank"] + text.get("qk_rope_head_dim", 0)))
    heads = text.get("num_attention_heads", 0)
    width = text.get("head_dim") or (text.get("hidden_size", 0) // heads if heads else 0)
    return int(2 * layers * (text.get("num_key_value_heads") or heads) * width)


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
