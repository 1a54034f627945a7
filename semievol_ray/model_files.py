"""Models on disk and on the hub: is it there, its tokenizer, its adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semievol_ray.config import ModelConfig
from semievol_ray.errors import UserError


def check_model_exists(name: str) -> None:
    """Raise UserError for a path to a model that is not there; hub ids pass."""
    path = Path(name).expanduser()
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists()
    if not looks_local:
        return
    if not path.is_dir():
        raise UserError(f"model {name}: no such folder")
    if not (path / "config.json").is_file():
        raise UserError(f"model {name}: the folder holds no config.json")


def load_tokenizer(model: ModelConfig) -> Any:
    """The model's tokenizer, padding on the left. Raises UserError where it has none."""
    from transformers import AutoTokenizer

    check_model_exists(model.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.name, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"model {model.name}: tokenizer cannot be loaded: {reason}") from None
    tokenizer.padding_side = "left"
    return tokenizer


def check_adapter(folder: str) -> None:
    """Raise UserError for an adapter that is not there or whose weights are not safetensors."""
    if not (Path(folder) / "adapter_config.json").is_file():
        raise UserError(f"adapter {folder}: no adapter_config.json there")
    if not (Path(folder) / "adapter_model.safetensors").is_file():
        raise UserError(f"adapter {folder}: no adapter_model.safetensors (pickles are not loaded)")
