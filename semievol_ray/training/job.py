"""What a training is given and what it gives back.

Paths are local, or on a file system that every worker has mounted: workers on several machines
need `output_dir` and `scratch_dir` shared, as Ray Train itself does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semievol_ray.config import TrainingConfig
from semievol_ray.touches import of_result


@dataclass(frozen=True)
class TrainingJob:
    """One fine-tuning, complete: the same job always gives the same weights on the same workers.

    `base_model` and `adapter_from` may be references of a run (`Depot.localised`). `examples` are
    Parquet files in the TRAINING schema. `validation`, in the same schema, is
    measured and never trained on; where it is empty, the share `config.held_out` of `examples`
    takes its place. `output_dir` appears whole or not at all; `scratch_dir` holds checkpoints,
    the token cache, logs and metrics of this job alone.
    """

    base_model: str
    examples: tuple[Path, ...]
    output_dir: Path
    scratch_dir: Path
    config: TrainingConfig
    adapter_from: Path | None = None
    validation: tuple[Path, ...] = ()
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False
    seed: int = 0
    log_dir: Path | None = None
    # What the model is called in its card, and the training in its checkpoints, where a path says
    # something of one machine alone.
    base_name: str | None = None
    identity: str | None = None
    wait_seconds: float = 1800.0

    @property
    def logs(self) -> Path:
        """Where logs, metrics and the trackers' files go."""
        return self.log_dir or self.scratch_dir / "logs"


@dataclass(frozen=True)
class TrainingResult:
    """What was trained. Losses are mean negative log-likelihoods of an answer token, in nats.

    An exact match is a held-out answer that greedy decoding writes token for token, its end too.
    `max_length` is the config's, or that of the model's positions where they are fewer.
    """

    output_dir: Path
    kind: Literal["adapter", "full"]
    steps: int
    examples: int
    tokens: int
    train_loss: float
    held_out_loss: float | None
    held_out_exact_match: float | None
    best_held_out_loss: float | None
    best_held_out_exact_match: float | None
    stopped_early: bool
    truncated_rows: int
    dropped_rows: int
    max_length: int
    seconds: float


@dataclass(frozen=True)
class Progress:
    """One optimizer step, as the caller sees it while the training runs."""

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    grad_norm: float | None
    tokens_per_second: float
    held_out_loss: float | None = None
    held_out_exact_match: float | None = None
    mfu: float | None = None
    memory_bytes: int = 0
    eta_seconds: float = 0.0


def fingerprint(job: TrainingJob) -> str:
    """Names the training that a checkpoint belongs to: its model, its data, its settings.

    The number of workers, how ZeRO partitions them and what else only changes how it is computed
    are not part of it: a checkpoint is gone on with under others.
    """
    named = [job.base_model, job.revision, str(job.adapter_from)]
    facts = {
        "config": of_result(job.config),
        "from": named if job.identity is None else job.identity,
        "examples": [file_digest(p) for p in (*job.examples, *job.validation)],
        "seed": job.seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


OnProgress = Callable[[Progress], None]
# Told in one line that workers died, and that the training goes on.
OnRestart = Callable[[str], None]
