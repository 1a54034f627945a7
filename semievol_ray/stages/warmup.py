"""Warm-up (in-weight propagation): fine-tune the base model on the labels alone.

A run that continues another takes the model that that one evolved in its place.
"""

from __future__ import annotations

from typing import Any

from semievol_ray.config import Config
from semievol_ray.stages.context import Context
from semievol_ray.stages.earlier import ALIKE, Earlier, settings_of
from semievol_ray.stages.finetune import (
    WARMUP_WRITES,
    finetune_warm,
    shots_settings,
    warmups_settings,
    write_labeled,
)
from semievol_ray.stages.stage import Outcome, Stage, trained_settings
from semievol_ray.store import layout


def run(context: Context, _: int) -> Outcome:
    """Leave M_warm = FT(M_base, D_labelled) in the stage's `model`, further ones in `warm-<n>`."""
    folder = context.folder("warmup")
    if context.config.continues is not None:
        earlier = Earlier.of(context.config)
        earlier.check_alike(context.config)
        return earlier.bring_model(context, folder)
    shards = write_labeled(context, folder, shots=context.config.warmup.shots)
    return finetune_warm(context, folder, shards)


def _settings(config: Config, _: int) -> dict[str, Any]:
    trained = trained_settings(config, config.training_for("warmup"))
    if config.continues is None:
        return trained | shots_settings(config) | warmups_settings(config)
    # Nothing is trained; but the base and the prompts have to be the earlier run's.
    return {name: trained[name] for name in ALIKE} | settings_of(config)


STAGE = Stage(
    "warmup",
    run,
    _settings,
    lambda config, number: ["ingest", *([layout.TUNE] if config.tunes else [])],
    writes=WARMUP_WRITES,
    in_round=False,
    works_with="training",
)
