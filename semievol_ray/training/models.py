"""Base models from disk or the hub, from safetensors alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from semievol_ray.errors import UserError
from semievol_ray.model_files import check_model_exists, load_causal_lm
from semievol_ray.training.failures import line

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def load_config(
    name: str, revision: str | None = None, trust_remote_code: bool = False
) -> PretrainedConfig:
    """The base model's config. Raises UserError if there is none."""
    from transformers import AutoConfig

    check_model_exists(name)
    try:
        return AutoConfig.from_pretrained(
            name, revision=revision or "main", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: its config does not load: {line(error)}") from None


def load_model(
    name: str,
    dtype: torch.dtype | str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    *,
    quantization: str = "none",
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """The base model in `dtype`, on the CPU unless DeepSpeed partitions it while it is built.

    Quantized, its linear layers but the last are held in 4 or 8 bits, on `device`, and compute in
    `dtype`.
    """
    check_model_exists(name)
    kept = {} if quantization == "none" else _quantized(quantization, dtype, device)
    try:
        model: PreTrainedModel = load_causal_lm(
            name,
            dtype=dtype,
            revision=revision or "main",
            trust_remote_code=trust_remote_code,
            **kept,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: does not load: {line(error)}") from None
    return model


def _quantized(bits: str, dtype: torch.dtype | str, device: torch.device | str) -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    bitsandbytes()
    # NormalFloat4, its scales quantized too (arXiv 2305.14314); or LLM.int8 (arXiv 2208.07339).
    config = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        if bits == "4bit"
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    return {"quantization_config": config, "device_map": {"": device}}


def bitsandbytes() -> Any:
    """The library of what is kept in 8 and 4 bits. Raises UserError where it is not installed."""
    try:
        import bitsandbytes
    except ImportError:
        raise UserError(
            "training.optimizer and training.quantization in 8 or 4 bits need bitsandbytes: "
            "pip install 'semievol_ray[bitsandbytes]'"
        ) from None
    return bitsandbytes
