"""A small run of the real thing, beside the one that is planned: what it took is what follows.

It reads the config's own files, but only so many unlabelled rows, and trains a few steps. Its
folder is taken away afterwards.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from semievol_ray import pipeline
from semievol_ray.config import Config, TrainingConfig
from semievol_ray.config_file import load_config
from semievol_ray.engines import resolve_engine
from semievol_ray.model_files import weights
from semievol_ray.planning.stopwatch import Lap, Stopwatch
from semievol_ray.progress import Progress, Silent
from semievol_ray.results import Run
from semievol_ray.store import RunDirectory, longer_uri
from semievol_ray.validation import merge

# Enough steps that one of them says how long the others take.
_STEPS = 8
# A step takes as long at any rate.
_ANY_RATE = 1e-4
_LABELLING = ("generate", "justify", "score")


@dataclass(frozen=True)
class Measured:
    """What a probe took, on one replica and on the training's own workers."""

    labels: int
    rows: int
    voters: int
    # Of a fine-tuning: until its first step, and each step after it.
    training_start: float
    step_seconds: float
    # Of a replica: until it answers; then a row's voters, its justification and its score together.
    replica_start: float
    row_seconds: float
    selected_share: float
    row_tokens: float
    row_cost: float
    row_bytes: float
    model_bytes: int


def probe(config: Config, rows: int, progress: Progress | None = None) -> Measured:
    """Run a config up to its evolution on so many unlabelled rows.

    Raises what a run raises: what would stop it, stops its probe.
    """
    small = longer_uri(config.run_dir, f"-plan-{uuid.uuid4().hex[:8]}")
    watch = Stopwatch(progress or Silent())
    try:
        values = _smaller(config, small, rows)
        run = Run(pipeline.run(load_config(values), until="ingest").uri)
        found = run.manifests[0].statistics["rows"]
        config_now = load_config(_few_steps(values, config, found["labeled"], found["unlabeled"]))
        run = Run(pipeline.run(config_now, progress=watch, until="evolve").uri)
        return _measured(run, watch.laps, found)
    finally:
        _remove(RunDirectory(small))


def _smaller(config: Config, run_dir: str, rows: int) -> dict[str, Any]:
    values: dict[str, Any] = config.model_dump(mode="json")
    changes: dict[str, Any] = {
        "run_dir": run_dir,
        # A warm-up of its own takes as long a step as the evolution.
        "continues": None,
        "data": {"max_unlabeled_rows": rows, "shard_rows": max(1, rows // 4), "test": None},
        # One replica, so that its speed is one replica's.
        "generation": {"replicas": {"min": 1, "max": 1}},
        "iteration": {"rounds": 1, "guard": False},
        "evaluation": {"references": []},
    }
    return merge(values, changes)


def _few_steps(values: dict[str, Any], config: Config, labels: int, rows: int) -> dict[str, Any]:
    def few(examples: int, training: TrainingConfig) -> dict[str, Any]:
        few: dict[str, Any] = {
            "epochs": max(1e-6, _STEPS * training.global_batch_size / max(1, examples))
        }
        if training.learning_rate == "auto":
            few["learning_rate"] = _ANY_RATE
        return {"training": few}

    warm, evolved = config.training_for("warmup"), config.training_for("evolve")
    return merge(
        values,
        {
            # Nothing is tried here.
            "tuning": {"learning_rates": None},
            "warmup": few(labels, warm),
            "evolve": few(labels + rows // 2, evolved),
        },
    )


def _measured(run: Run, laps: dict[str, Lap], rows: dict[str, int]) -> Measured:
    warmup, generate = laps["warmup"], laps["generate"]
    labelling = [laps[name].work_seconds for name in _LABELLING if name in laps]
    manifests = {m.stage: m for m in run.manifests}
    reasons = manifests["round-1/select"].statistics["reasons"]
    done = [manifests.get(f"round-1/{name}") for name in _LABELLING]
    spent = [manifest.statistics for manifest in done if manifest is not None]
    tokens = sum(s.get("tokens", 0) + s.get("prompt_tokens", 0) for s in spent)
    unlabelled = max(1, rows["unlabeled"])
    names = [name for name in run.directory.all_files("round-1") if "/evolve/" not in name]
    kept = sum(run.directory.column_bytes(name) for name in names if name.endswith(".parquet"))
    size = weights(resolve_engine(run.config().model))
    # A training tells of itself with its first step: what its stage took besides is its start.
    steps = manifests["warmup"].statistics["steps"]
    start = manifests["warmup"].seconds / run.config().warmups - steps * warmup.unit_seconds
    return Measured(
        labels=rows["labeled"],
        rows=unlabelled,
        voters=len(run.config().collaborators),
        training_start=max(0.0, start),
        step_seconds=laps["evolve"].unit_seconds or warmup.unit_seconds,
        replica_start=generate.start_seconds,
        row_seconds=sum(labelling) / unlabelled,
        selected_share=reasons.get("selected", 0) / unlabelled,
        row_tokens=tokens / unlabelled,
        row_cost=sum(s.get("spent_cost", 0.0) for s in spent) / unlabelled,
        row_bytes=kept / unlabelled,
        model_bytes=0 if size is None else size.bytes,
    )


def _remove(directory: RunDirectory) -> None:
    """Take a probe's folder away: it was made here, under a name that nobody else has."""
    if directory.exists(""):
        directory.filesystem.delete_dir(directory.path)
