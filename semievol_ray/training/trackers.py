"""Steps to TensorBoard, W&B or MLflow, through accelerate's trackers.

They are imported and fed on a thread of their own: none of them is worth a second of a training's
start, and a tracker that fails ends no training.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import threading
from typing import Any

from semievol_ray.training.job import Progress, TrainingJob

log = logging.getLogger(__name__)

_CLASSES = {"tensorboard": "TensorBoardTracker", "wandb": "WandBTracker", "mlflow": "MLflowTracker"}
_LOGGED = (
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "held_out_loss",
    "held_out_exact_match",
    "mfu",
    "memory_bytes",
)


class Trackers:
    """The trackers that a job names, fed in the background; only the first worker makes one."""

    def __init__(self, job: TrainingJob | None) -> None:
        self._names = job.config.trackers if job is not None else ()
        self._job = job
        self._steps: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="trackers", daemon=True)
        if self._names:
            self._thread.start()

    def log(self, progress: Progress) -> None:
        """Hand over one step; returns at once."""
        if self._names:
            self._steps.put(progress)

    def close(self) -> None:
        """Until every step is written."""
        if self._thread.is_alive():
            self._steps.put(None)
            self._thread.join()

    def _run(self) -> None:
        try:
            trackers = [self._make(name) for name in self._names]
        except Exception as error:
            log.warning("training.trackers: %s", error)
            return
        while (progress := self._steps.get()) is not None:
            values = {k: v for k in _LOGGED if (v := getattr(progress, k)) is not None}
            for tracker in trackers:
                tracker.log(values, step=progress.step)
        for tracker in trackers:
            tracker.finish()

    def _make(self, name: str) -> Any:
        from accelerate import PartialState, tracking

        PartialState()
        tracker_class = getattr(tracking, _CLASSES[name])
        assert self._job is not None
        folder = self._job.logs
        run_name = self._job.output_dir.name
        tracker = (
            tracker_class(run_name, logging_dir=str(folder))
            if tracker_class.requires_logging_directory
            else tracker_class(run_name)
        )
        tracker.start()
        tracker.store_init_configuration(_flat(dataclasses.asdict(self._job)))
        return tracker


def _flat(values: dict[str, Any]) -> dict[str, str]:
    settings = values.pop("config").model_dump(mode="json")
    return {k: str(v) for k, v in (values | settings).items()}
