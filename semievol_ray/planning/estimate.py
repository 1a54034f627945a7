"""From what a probe measured to what a run of another size takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from semievol_ray import pipeline
from semievol_ray.config import Config, TrainingConfig, given
from semievol_ray.planning.fleet import fleet_seconds
from semievol_ray.planning.probe import Measured
from semievol_ray.stages import tune

# The driver's own speed over shards, of which selection is the slowest part (benchmarks/).
_SELECTED_ROWS_A_SECOND = 100_000


@dataclass(frozen=True)
class Size:
    """How large the run is, and on what."""

    unlabeled: int
    test: int
    replicas: int
    gpus_per_replica: float
    training_gpus: float
    # While the last shards are answered, most replicas wait.
    shard_rows: int
    # How much faster than where the probe was a training step is.
    training_speed: float = 1.0
    # Of one replica, where it is known better than by a probe.
    rows_per_second: float | None = None


@dataclass(frozen=True)
class Line:
    """One stage's share of a plan."""

    stage: str
    seconds: float
    tokens: float = 0.0
    cost: float = 0.0
    gpu_hours: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What a run takes."""

    lines: list[Line]
    storage_bytes: float

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(line.seconds for line in self.lines)


def estimate(config: Config, measured: Measured, size: Size) -> Plan:
    """Seconds, tokens, money and GPU hours of each stage that the config has."""
    lines: list[Line] = []
    labels = measured.labels
    asked, trusted = _rounds(config, measured)
    for step in pipeline.steps(config):
        name = step.stage.name
        if name == "warmup" and config.continues is not None:
            continue  # its model is copied
        if name in ("warmup", "holdout"):
            share = 1 - config.calibration.share if name == "holdout" else 1.0
            training = config.training_for("warmup")
            passes = _epochs(config, training, 1.0) * share * config.warmups
            lines.append(_training(name, training, labels * passes, measured, size))
        elif name == "tune":
            lines.append(_tuning(config, measured, size))
        elif name == "generate":
            rows = round(asked[step.round_number - 1] * size.unlabeled)
            lines.append(_labelling(step.name, rows, measured, size))
        elif name == "calibrate":
            held = math.ceil(labels * config.calibration.share)
            lines.append(_labelling(step.name, held, measured, size))
        elif name == "select":
            lines.append(Line(step.name, size.unlabeled / _SELECTED_ROWS_A_SECOND))
        elif name == "evolve":
            pseudo = round(trusted[step.round_number - 1] * size.unlabeled)
            examples = pseudo + labels * config.evolve.include_labeled
            training = config.training_for("evolve")
            passes = _epochs(config, training, labels / max(1, examples))
            lines.append(_training(step.name, training, examples * passes, measured, size))
        elif name == "baselines":
            lines.append(_answers(name, 2, size.test, measured, size))
        elif name == "evaluate":
            models = config.iteration.rounds + len(config.evaluation.references)
            lines.append(_answers(step.name, models, size.test, measured, size))
        elif name == "guard":
            held = math.ceil(labels * config.calibration.share)
            lines.append(_answers(step.name, 2, held, measured, size))
    rounds = config.iteration.rounds
    held_out = sum(s.stage.name == "holdout" for s in pipeline.steps(config))
    models = rounds + config.warmups * (1 + held_out)
    kept = measured.model_bytes if config.training_for("evolve").method == "full" else 0
    storage = sum(asked) * measured.row_bytes * size.unlabeled + models * kept
    return Plan(lines, storage)


def _epochs(config: Config, training: TrainingConfig, labels: float) -> float:
    """Of a training; where the labels will say, as if the second number tried were the best.

    `labels` are the examples' share of them.
    """
    first = config.tuning.first_epochs
    likely = given(training.epochs, min(2 * first, config.tuning.most_epochs))
    return likely if training.epochs != "auto" else max(first, likely * labels)


def _tuning(config: Config, measured: Measured, size: Size) -> Line:
    """All tries, or as many epochs as they have at most."""
    training, tuning = config.training_for("warmup"), config.tuning
    rates, epochs = tune.rates_of(training, tuning), tune.epochs_of(training, tuning)
    folds = tune.folds_of(measured.labels, tuning)
    tries = [epochs[0]] * len(rates) + epochs[1:]
    examples = measured.labels * (1 - tuning.share)
    lines = [_training("", training, examples * n, measured, size) for n in tries]
    return Line(
        "tune",
        folds * sum(line.seconds for line in lines),
        gpu_hours=folds * sum(line.gpu_hours for line in lines),
    )


def _training(
    name: str, config: TrainingConfig, examples: float, measured: Measured, size: Size
) -> Line:
    """Of so many examples, each counted as often as it is trained on."""
    steps = math.ceil(examples / config.global_batch_size)
    seconds = measured.training_start + steps * measured.step_seconds / size.training_speed
    return Line(name, seconds, gpu_hours=seconds * size.training_gpus / 3600)


def _labelling(name: str, rows: int, measured: Measured, size: Size) -> Line:
    each = 1 / size.rows_per_second if size.rows_per_second else measured.row_seconds
    seconds = _fleet_seconds(rows, each, measured, size)
    gpu_hours = seconds * size.replicas * size.gpus_per_replica / 3600
    return Line(name, seconds, rows * measured.row_tokens, rows * measured.row_cost, gpu_hours)


def _answers(name: str, models: int, rows: int, measured: Measured, size: Size) -> Line:
    """A model's answer to a test row takes what a voter's does."""
    each = measured.row_seconds / measured.voters
    seconds = models * _fleet_seconds(rows, each, measured, size)
    return Line(name, seconds, gpu_hours=seconds * size.replicas * size.gpus_per_replica / 3600)


def _fleet_seconds(rows: int, each: float, measured: Measured, size: Size) -> float:
    return fleet_seconds(
        rows,
        each,
        shard_rows=size.shard_rows,
        replicas=size.replicas,
        start_seconds=measured.replica_start,
    )


def _rounds(config: Config, measured: Measured) -> tuple[list[float], list[float]]:
    """The shares of the corpus that each round asks about, and that it trains on.

    In the mode `mine` a round asks about the rows that none before it trusted, and trains on all
    that were trusted so far.
    """
    asked: list[float] = []
    trusted: list[float] = []
    for number in range(1, config.iteration.rounds + 1):
        mines = config.iteration.mode == "mine" and number > 1
        before = trusted[-1] if mines else 0.0
        asked.append(1.0 - before)
        trusted.append(before + asked[-1] * _selected(config, measured, number))
    return asked, trusted


def _selected(config: Config, measured: Measured, round_number: int) -> float:
    """The share of the rows that a round selects: as the probe's, or as its percentile differs."""
    first = config.selection.percentile_of(1)
    return min(1.0, measured.selected_share * config.selection.percentile_of(round_number) / first)
