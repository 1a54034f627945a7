"""One of several training workers without Ray: takes jobs on stdin, one a line, until it closes.

Started with the variables that torchrun sets. A request may ask for a copy of the checkpoints as
they lie on disk at a step: what a SIGKILL at that moment would leave.
"""

from __future__ import annotations

import base64
import pickle
import shutil
import sys
import time
from pathlib import Path

import torch

from semievol_ray.training import Progress, TrainingJob
from semievol_ray.training.loop import train_worker


def copy_checkpoints(job: TrainingJob, step: int, target: Path) -> None:
    folder = job.scratch_dir / "checkpoints"
    deadline = time.monotonic() + 60
    while not (folder / f"step-{step:08d}" / "manifest.json").exists():
        assert time.monotonic() < deadline, "the checkpoint is not written"
        time.sleep(0.01)
    shutil.copytree(folder, target)


def run(job: TrainingJob, copy_at: int | None, copy_to: Path | None) -> object:
    seen: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        if copy_at is not None and copy_to is not None and progress.step == copy_at + 1:
            copy_checkpoints(job, copy_at, copy_to)

    return train_worker(job, on_progress), seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    reply = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        try:
            answer = run(*pickle.loads(base64.b64decode(line)))
        except Exception as error:
            answer = error
        reply.write(base64.b64encode(pickle.dumps(answer)).decode() + "\n")
        reply.flush()
