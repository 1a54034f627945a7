"""Base models and tokenizers from disk or the hub, from safetensors alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from semievol_ray.errors import UserError
from semievol_ray.model_files import check_model_exists
from semievol_ray.training.failures import line

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(
    name: str, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The base model's tokenizer. Raises UserError if there is none or it has no EOS token."""
    from transformers import AutoTokenizer

    check_model_exists(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision or "main", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: its tokenizer does not load: {line(error)}") from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name}: its tokenizer has no end-of-sequence token (eos_token)")
    return tokenizer


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
) -> PreTrainedModel:
    """The base model in `dtype`, on the CPU unless DeepSpeed partitions it while it is built."""
    from transformers import AutoModelForCausalLM

    check_model_exists(name)
    try:
        return AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=True,
            revision=revision or "main",
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: does not load: {line(error)}") from None
