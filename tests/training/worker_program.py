"""One of several training workers without Ray: answers requests on stdin, one a line, until it
closes.

Started with the variables that torchrun sets. A request is the name of a function below and its
arguments.
"""

from __future__ import annotations

import base64
import importlib
import os
import pickle
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from semievol_ray.training import Progress, TrainingJob
from semievol_ray.training.loop import _Training, train_worker
from semievol_ray.training.world import joined


def copy_checkpoints(job: TrainingJob, step: int, target: Path) -> None:
    folder = job.scratch_dir / "checkpoints"
    deadline = time.monotonic() + 60
    while not (folder / f"step-{step:08d}" / "manifest.json").exists():
        assert time.monotonic() < deadline, "the checkpoint is not written"
        time.sleep(0.01)
    shutil.copytree(folder, target)


def run(job: TrainingJob, copy_at: int | None = None, copy_to: Path | None = None) -> object:
    """Train; copy the checkpoints that lie on disk at a step: what a SIGKILL then would leave."""
    seen: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        if copy_at is not None and copy_to is not None and progress.step == copy_at + 1:
            copy_checkpoints(job, copy_at, copy_to)

    return train_worker(job, on_progress), seen


def gradients(job: TrainingJob) -> dict[str, torch.Tensor]:
    """The whole gradients of the first step, before they are clipped."""
    from deepspeed.utils import safe_get_full_grad

    found: dict[str, Any] = {}
    with joined(job.scratch_dir / "deepspeed.log", 1800) as world:
        training = _Training(job, world, lambda _: None)
        engine = training.model.engine

        def collect() -> None:
            for name, parameter in engine.module.named_parameters():
                if parameter.requires_grad:
                    found[name] = safe_get_full_grad(parameter).clone()

        engine.step = collect
        training.take_step(1.0)
        engine.destroy()
    return found


def dft_gradients(job: TrainingJob) -> dict[str, torch.Tensor]:
    """The same, of the loss whose every token weighs as much as it is probable."""
    from semievol_ray.training import head

    def scaled(logits: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        logprobs = torch.log_softmax(logits, dim=-1)[torch.arange(len(targets)), targets]
        return -logprobs * logprobs.detach().exp()

    plain = head.F.cross_entropy
    head.F.cross_entropy = scaled
    try:
        return gradients(job)
    finally:
        head.F.cross_entropy = plain


def first_step(job: TrainingJob) -> dict[str, float]:
    """How far the first step moves each trained tensor, as its largest change."""
    with joined(job.scratch_dir / "deepspeed.log", 1800) as world:
        training = _Training(job, world, lambda _: None)
        module = training.model.engine.module
        before = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
        training.take_step(1e-3)
        after = dict(module.named_parameters())
        moved = {n: float((after[n].detach() - p).abs().max()) for n, p in before.items()}
        training.model.engine.destroy()
    return moved


def buffers(job: TrainingJob) -> dict[str, torch.Tensor]:
    """What the model holds besides its parameters, ready for the first step."""
    with joined(job.scratch_dir / "deepspeed.log", 1800) as world:
        engine = _Training(job, world, lambda _: None).model.engine
        found = {name: buffer.clone() for name, buffer in engine.module.named_buffers()}
        engine.destroy()
    return found


def lose_worker(job: TrainingJob, pid: int, signal: int) -> object:
    """Train; the first worker sends another process a signal after the second step."""

    def on_progress(progress: Progress) -> None:
        if progress.step == 2:
            os.kill(pid, signal)

    return train_worker(job, on_progress)


def limited(job: TrainingJob, rank: int, what: str, limit: int) -> object:
    """Train; the worker of that rank has no more of a resource, beyond what it holds now."""
    if os.environ["RANK"] == str(rank):
        kind = getattr(resource, f"RLIMIT_{what}")
        if what == "AS":
            import deepspeed  # noqa: F401

            limit += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(kind, (limit, resource.RLIM_INFINITY))
    return run(job)


def fail(job: TrainingJob, rank: int, module: str, name: str) -> object:
    """Train; in the worker of that rank a function fails."""
    place, function = importlib.import_module(module), None

    def failing(*_: Any, **__: Any) -> None:
        raise OSError(f"{name} fails")

    if os.environ["RANK"] == str(rank):
        function = getattr(place, name)
        setattr(place, name, failing)
    try:
        return run(job)
    finally:
        if function is not None:
            setattr(place, name, function)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if os.environ["GROUP"] == "given":
        torch.distributed.init_process_group("gloo")
    reply = sys.stdout
    sys.stdout = sys.stderr
    for request in sys.stdin:
        try:
            function, arguments = pickle.loads(base64.b64decode(request))
            answer = globals()[function](*arguments)
        except Exception as error:
            answer = error
        reply.write(base64.b64encode(pickle.dumps(answer)).decode() + "\n")
        reply.flush()
