"""Trained weights out of the engine and onto disk, as transformers and PEFT expect to find them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semievol_ray.config import given
from semievol_ray.training.job import TrainingJob, TrainingResult
from semievol_ray.training.world import World

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Weights = dict[str, "torch.Tensor"]


def gather_weights(model: Any, world: World, *, trainable_only: bool) -> Weights:
    """Parameters and stored buffers by name, whole, on the CPU of the first worker.

    Other workers get an empty dict, and must call it too. ZeRO-3's partitions are gathered one
    parameter at a time; optimizer state is never touched.
    """
    import deepspeed

    gathered: Weights = {}
    for name, parameter in model.named_parameters():
        if trainable_only and not parameter.requires_grad:
            continue
        partitioned = hasattr(parameter, "ds_id")
        with deepspeed.zero.GatheredParameters([parameter], enabled=partitioned):
            if world.is_first:
                gathered[name] = parameter.detach().cpu().clone()
    if world.is_first:
        # VeRA's projections are buffers of the adapter, which its layers share.
        stored = model.state_dict().keys()
        copies = {id(b): b.detach().cpu().clone() for b in model.buffers()}
        everywhere = model.named_buffers(remove_duplicate=False)
        gathered |= {name: copies[id(b)] for name, b in everywhere if name in stored}
    return gathered


def save_weights(
    model: Any,
    weights: Weights,
    tokenizer: PreTrainedTokenizerBase,
    job: TrainingJob,
    folder: Path,
) -> None:
    """Write the adapter, or the whole model, and the tokenizer to a folder, as safetensors."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    if job.config.method == "lora":
        model.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
    else:
        dtype = getattr(torch, job.dtype) if job.dtype != "auto" else None
        if dtype is not None:
            weights = {n: w.to(dtype) if w.is_floating_point() else w for n, w in weights.items()}
            model.config.dtype = dtype
        model.save_pretrained(str(folder), state_dict=weights, max_shard_size="5GB")
    tokenizer.save_pretrained(str(folder))


def write_model_card(folder: Path, job: TrainingJob, result: TrainingResult) -> None:
    """README.md with what the model was trained on and how, and what was measured."""
    c = job.config
    held_out = "none" if result.held_out_loss is None else f"{result.held_out_loss:.4f}"
    method: str = c.method
    if c.method == "lora":
        facts = c.lora.options
        if c.lora.variant in ("lora", "rslora", "dora"):
            facts = {"rank": c.lora.rank, "alpha": c.lora.alpha} | facts
        method = ", ".join([c.lora.variant, *(f"{k} {v}" for k, v in facts.items())])
    header = ["---", f"base_model: {job.base_name or job.base_model}"]
    if c.method == "lora":
        header += ["library_name: peft"]
    base = job.base_name or job.base_model
    rows = [
        ("base model", base + (f" at {job.revision}" if job.revision else "")),
        ("started from", str(job.adapter_from) if job.adapter_from else "the base model"),
        ("method", method),
        (
            "examples",
            f"{result.examples} ({result.truncated_rows} truncated, {result.dropped_rows} dropped)",
        ),
        ("tokens read", str(result.tokens)),
        ("optimizer steps", f"{result.steps} of {c.global_batch_size} examples"),
        ("learning rate", f"{c.learning_rate:g}, {c.schedule}, warm-up {c.warmup_ratio:g}"),
        ("longest example", f"{result.max_length} tokens"),
        ("precision", f"{c.number_format}, ZeRO-{c.zero_stage}, {given(c.workers, 1)} workers"),
        ("seed", str(job.seed)),
        ("mean training loss", f"{result.train_loss:.4f} nats a token"),
        ("held-out loss", held_out),
    ]
    lines = [*header, "---", "", f"# {job.output_dir.name}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def commit(partial: Path, target: Path) -> None:
    """Put a finished folder in its place at once; what was there before goes last.

    A folder that is not beside the target stays where it is, its files linked or copied: whoever is
    killed right after this finds it again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.partial")
    if partial != beside:
        # The rename at the end must not cross file systems.
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(partial, beside, copy_function=_link)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    beside.rename(target)
    shutil.rmtree(old, ignore_errors=True)
