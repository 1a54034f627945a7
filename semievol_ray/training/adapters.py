"""PEFT adapters: a new one on a base model, one to train on, and the merge of one into its base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from semievol_ray.config import LoraConfig
from semievol_ray.model_files import check_adapter
from semievol_ray.training.export import commit
from semievol_ray.training.models import load_model, load_tokenizer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def add_adapter(
    model: PreTrainedModel, lora: LoraConfig, *, seed: int, base_model: str, revision: str | None
) -> PeftModel:
    """The model, frozen, with a new adapter whose initial weights depend on the seed alone."""
    import peft
    import torch

    targets = lora.target_modules
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=lora.variant == "rslora",
        use_dora=lora.variant == "dora",
        base_model_name_or_path=base_model,
        revision=revision,
    )
    torch.manual_seed(seed)
    return peft.get_peft_model(model, config, autocast_adapter_dtype=False)


def continue_adapter(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """The model, frozen, with a stored adapter that goes on training."""
    import peft

    check_adapter(str(adapter))
    return peft.PeftModel.from_pretrained(
        model, str(adapter), is_trainable=True, autocast_adapter_dtype=False
    )


def merge(
    base_model: str,
    adapter: Path,
    output_dir: Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write the base model with the adapter's change added to its weights, as safetensors.

    The change is computed in float32 and rounded once, to the dtype that the base is stored in.
    `output_dir` appears whole or not at all. Raises UserError if the model or the adapter is not
    there, or its weights are pickled.
    """
    import peft

    check_adapter(str(adapter))
    base = load_model(base_model, "auto", revision, trust_remote_code)
    model = peft.PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    partial = output_dir.with_name(f".{output_dir.name}.partial")
    model.save_pretrained(str(partial), max_shard_size="5GB")
    load_tokenizer(base_model, revision, trust_remote_code).save_pretrained(str(partial))
    commit(partial, output_dir)
    return output_dir
