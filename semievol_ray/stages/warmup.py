"""Warm-up (in-weight propagation): fine-tune the base model on the labels alone."""

from __future__ import annotations

from semievol_ray.stages.context import Context
from semievol_ray.stages.finetune import TRAINING_WRITES, finetune, shots_settings, write_labeled
from semievol_ray.stages.run_view import ModelRef
from semievol_ray.stages.stage import Outcome, Stage, trained_settings
from semievol_ray.store import layout


def run(context: Context, _: int) -> Outcome:
    """Leave M_warm = FT(M_base, D_labelled) in the stage's `model`."""
    folder = context.folder("warmup")
    shards = write_labeled(context, folder, shots=context.config.warmup.shots)
    return finetune(
        context, "warmup", folder, shards, start=ModelRef(context.base), seed=context.config.seed
    )


STAGE = Stage(
    "warmup",
    run,
    lambda config, number: (
        trained_settings(config, config.training_for("warmup")) | shots_settings(config)
    ),
    lambda config, number: ["ingest", *([layout.TUNE] if config.tunes else [])],
    writes=TRAINING_WRITES,
    in_round=False,
    works_with="training",
)
