"""PEFT adapters: a new one on a base model, one to train on, and the merge of one into its base."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semievol_ray.config import LoraConfig
from semievol_ray.errors import UserError
from semievol_ray.model_files import check_adapter, load_tokenizer
from semievol_ray.training.export import commit
from semievol_ray.training.failures import line
from semievol_ray.training.models import load_model

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


def add_adapter(
    model: PreTrainedModel, lora: LoraConfig, *, seed: int, base_model: str, revision: str | None
) -> PeftModel:
    """The model, frozen, with a new adapter whose initial weights depend on the seed alone."""
    import peft
    import torch

    try:
        config = _peft_config(lora)(
            task_type="CAUSAL_LM", base_model_name_or_path=base_model, revision=revision
        )
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"training.lora: peft refuses this {lora.variant}: {line(error)}") from None


def _peft_config(lora: LoraConfig) -> partial[PeftConfig]:
    if lora.changed_base is not None:
        raise UserError(lora.changed_base)
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    settings: dict[str, Any] = {}
    if lora.variant != "ln_tuning":
        targets = lora.target_modules
        settings["target_modules"] = targets if isinstance(targets, str) else list(targets)
    name = lora.variant
    if name in ("lora", "rslora", "dora"):
        settings |= {
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "use_rslora": name == "rslora",
            "use_dora": name == "dora",
        }
        name = "lora"
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name.upper())]
    return partial(kind, **(settings | lora.options))


def continue_adapter(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """The model, frozen, with a stored adapter that goes on training."""
    import peft

    check_adapter(str(adapter))
    return peft.PeftModel.from_pretrained(
        model, str(adapter), is_trainable=True, autocast_adapter_dtype=False
    )


def merge(
    adapter: Path,
    output_dir: Path,
    *,
    base_model: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write the base model with the adapter's change added to its weights, as safetensors.

    The base is the one that the adapter names, unless another is given. The change is computed in
    float32 and rounded once, to the dtype that the base is stored in. `output_dir` appears whole
    or not at all. Raises UserError if it is there already, if the model or the adapter is not
    there or its weights are pickled, or if they do not fit one another.
    """
    check_adapter(str(adapter))
    if output_dir.exists():
        raise UserError(f"{output_dir}: already there; name a folder that is not")
    if base_model is None:
        base_model, revision = _base_of(adapter)
    import peft

    base = load_model(base_model, "auto", revision, trust_remote_code)
    try:
        model = peft.PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{adapter}: does not fit {base_model}: {line(error)}") from None
    partial = output_dir.with_name(f".{output_dir.name}.partial")
    model.save_pretrained(str(partial), max_shard_size="5GB")
    load_tokenizer(base_model, revision, trust_remote_code).save_pretrained(str(partial))
    commit(partial, output_dir)
    return output_dir


def _base_of(adapter: Path) -> tuple[str, str | None]:
    file = adapter / "adapter_config.json"
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        base = facts["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str):
        raise UserError(f"{file}: names no base model; give it")
    return base, facts.get("revision")
