"""Models on disk and on the hub, and the library that loads them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import Any

from semievol_ray.config import ModelConfig
from semievol_ray.errors import UserError
from semievol_ray.store.fingerprint import model_fingerprint


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


def model_identity(model: ModelConfig) -> dict[str, str | None]:
    """What tells one model from another: of a folder its content, of a hub or endpoint the name.

    Raises UserError for a path to a model that is not there.
    """
    if not model.is_local:
        return {"name": model.name}
    check_model_exists(model.name)
    folder = Path(model.name).expanduser()
    if folder.is_dir():
        return {"folder": _fingerprint(folder.resolve(), _newest(folder))}
    return {"name": model.name, "revision": model.revision}


def _newest(folder: Path) -> int:
    return max((p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()), default=0)


@lru_cache
def _fingerprint(folder: Path, _newest_ns: int) -> str:
    return model_fingerprint(folder)


def import_transformers() -> None:
    """Import transformers' models without scikit-learn and SciPy: a seventh of what it takes.

    For processes of ours alone: assisted generation, which learns its threshold with scikit-learn,
    keeps a fixed one afterwards. Whoever else asks for the two finds them.
    """
    import transformers.utils as utils

    kept = (utils.is_sklearn_available, utils.is_scipy_available)
    utils.is_sklearn_available = utils.is_scipy_available = _never
    try:
        # What a lazy module holds back is imported here too: the first model would bring it.
        import transformers.generation.utils
        import transformers.modeling_utils  # noqa: F401
    finally:
        utils.is_sklearn_available, utils.is_scipy_available = kept


def _never() -> bool:
    return False


def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The model's tokenizer. Raises UserError where it has none."""
    check_model_exists(name)
    import_transformers()
    from transformers import AutoTokenizer

    try:
        # Beside vLLM transformers would read Mistral's own files, which hold no chat template.
        return AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=trust_remote_code, mistral_format=False
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"model {name}: its tokenizer does not load: {reason}") from None


def load_causal_lm(name: str, **options: Any) -> Any:
    """A causal LM of transformers, of safetensors alone, that attends as its config says."""
    import_transformers()
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, **options)
    config = model.config.get_text_config()
    caps = getattr(config, "attn_logit_softcapping", None) is not None
    if caps and config._attn_implementation == "sdpa":
        # Torch's attention, the default, leaves a cap on the scores (Gemma 2) out without a word.
        model.set_attn_implementation("eager")
    return model


def positions(config: Any) -> int | None:
    """How many tokens a model's text may have, by its config; null where that sets no limit."""
    text = config.get_text_config()
    # What MPT calls it has no other name.
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
    if not limit or limit < 0:
        return None
    # YaRN reaches further, and its config may still hold what the model was pre-trained with.
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") != "yarn":
        return int(limit)
    reach = (rope.get("original_max_position_embeddings") or 0) * (rope.get("factor") or 0)
    return max(int(limit), int(reach))


def obeys_positions(model: Any) -> bool:
    """Whether a token stands where `position_ids` says, and not where it lies in its row.

    ALiBi counts places of the row whatever it is told (MPT, Bloom, some of Falcon).
    """
    config = model.config.get_text_config()
    attention = getattr(config, "attn_config", None) or {}
    held = attention if isinstance(attention, dict) else vars(attention)
    alibi = getattr(config, "alibi", False) or held.get("alibi", False)
    return "position_ids" in signature(model.forward).parameters and not alibi


def check_adapter(folder: str) -> None:
    """Raise UserError for an adapter that is not there or whose weights are not safetensors."""
    if not (Path(folder) / "adapter_config.json").is_file():
        raise UserError(f"adapter {folder}: no adapter_config.json there")
    if not (Path(folder) / "adapter_model.safetensors").is_file():
        raise UserError(f"adapter {folder}: no adapter_model.safetensors (pickles are not loaded)")


@dataclass(frozen=True)
class Weights:
    """How large a model is."""

    parameters: int
    bytes: int


@dataclass(frozen=True)
class Dimensions:
    """What activations are as large as."""

    hidden: int
    layers: int
    vocabulary: int


def weights(model: ModelConfig) -> Weights | None:
    """The size of a model's weights by the headers of its files; null where they are not here.

    Of a hub id the files count that an earlier download left.
    """
    folder = _folder(model)
    return None if folder is None else _weights(folder.resolve(), _newest(folder))


def dimensions(model: ModelConfig) -> Dimensions | None:
    """What a model's config says of its width and depth; null where it is not here, or says none.

    Of a model of several kinds of input it is the text's.
    """
    folder = _folder(model)
    try:
        if folder is None:
            return None
        config = json.loads((folder / "config.json").read_text())
        text = config.get("text_config") or config
        names = ("hidden_size", "num_hidden_layers", "vocab_size")
        return Dimensions(*(int(text[name]) for name in names))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # loading it will say what is wrong


def _folder(model: ModelConfig) -> Path | None:
    """Where a model's files are on this machine."""
    folder = Path(model.name).expanduser()
    return folder if folder.is_dir() else _downloaded(model)


def _downloaded(model: ModelConfig) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


@lru_cache
def _weights(folder: Path, _newest_ns: int) -> Weights | None:
    parameters = size = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        except (OSError, ValueError, OverflowError, MemoryError):
            return None  # loading it will say what is wrong
        for name, tensor in header.items():
            if name != "__metadata__":
                parameters += math.prod(tensor["shape"])
                begin, end = tensor["data_offsets"]
                size += end - begin
    return Weights(parameters, size) if parameters else None
